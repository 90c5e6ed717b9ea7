# Dual and traced numbers against finite differences; what they do not know they refuse.

using ImplicitAdjoints, FiniteDifferences, LinearAlgebra, Test
using ImplicitAdjoints: ActiveRefused, Dual, Tape, Traced, depth, gradients, lift,
    on_active, primal, tangent, trace

# One type for all functions, so that the differences are compiled once.
struct Any1
    f::Any
end
(a::Any1)(x) = a.f(x)::Float64
finite_difference(f, x) = central_fdm(5, 1; max_range = 1e-2)(Any1(f), x)
slope(f, x) = tangent(f(Dual(x, (1.0,))))
twice(x) = Dual(Dual(x, (1.0,)), (Dual(1.0, (0.0,)),))  # x + ε₁ + ε₂
second(f, x) = tangent(tangent(f(twice(x))))
backwards(f, x) = gradients(f, (x,), [1.0])[1]
mixed(f, x) = tangent(backwards(f, Dual(x, (1.0,))))  # forwards over backwards

const SMOOTH = (
    exp, exp2, exp10, expm1, log, log2, log10, log1p, sqrt, cbrt, inv, sin, cos, tan, sinpi,
    cospi, asin, acos, atan, sinh, cosh, tanh, asinh, atanh, abs, abs2, -, deg2rad, sec,
    csc, cot, sech, csch, coth, sind, cosd, sinc, hypot, float, x -> x^3, x -> x^-2,
    x -> x^2.5, x -> 2.5^x, x -> x^x, x -> x^(2 // 3), x -> atan(x, 2.0),
    x -> atan(2.0, x), x -> hypot(x, 2.0), x -> max(x, 0.1), x -> min(x, 0.1),
    x -> clamp(x, 0.1, 0.3), x -> muladd(x, x, x), x -> fma(x, x, x), x -> mod(3x, 0.7),
    x -> rem(0.7, x), x -> mod2pi(7x), x -> 1 / x, x -> π * x, x -> x / 2 + 3,
    x -> sum(sincos(x)), x -> log(3, x), x -> evalpoly(x, (1, 2, 3)), x -> 3x - true,
    x -> copysign(x, -1.0), x -> round(x) + x, x -> x + floor(Int, x), x -> x * sign(x),
    x -> norm([x, 2.0, x]), x -> det([x 2.0; 3.0 x^2]), x -> ([x 2.0; 3.0 5.0] \ [1, x])[1],
    x -> sum([1.0 2; 3 4] * [x, 1]), x -> real(exp(im * x)), x -> abs(complex(x, 2x)),
    x -> real(sqrt(complex(x, 1.0))), x -> real(complex(x, 1.0)^3),
    x -> imag(log(complex(1.0, x))), x -> ifelse(x > 0.2, x^2, x))

@testset "slope of $f (number $k)" for (k, f) in enumerate(SMOOTH), x in (0.37, 0.81)
    @test slope(f, x) ≈ finite_difference(f, x) rtol = 1e-8 atol = 1e-9
    @test second(f, x) ≈ finite_difference(x -> slope(f, x), x) rtol = 1e-8 atol = 1e-8
    @test primal(f(Dual(x, (1.0,)))) ≈ f(x)
    @test backwards(f, x) ≈ slope(f, x) rtol = 1e-12
    @test mixed(f, x) ≈ second(f, x) rtol = 1e-10 atol = 1e-13
end
@test slope(acosh, 1.7) ≈ finite_difference(acosh, 1.7)
@test slope(x -> x^3, -0.7) ≈ 3 * 0.7^2 && slope(x -> x^2.0, -0.7) ≈ -1.4

@testset "several directions, precision" begin
    x, y = Dual(2.0, (1.0, 0.0)), Dual(5.0, (0.0, 1.0))
    @test (x * y^2).partials == (25.0, 20.0)
    @test (x / y).partials == (0.2, -2 / 25)
    f(x) = exp(sin(x) / 3 + x^2 - sqrt(x)) * log10(x)^2
    @test @inferred(f(Dual(2.0f0, (1.0f0,)))) isa Dual{1,Float32}
    @test @inferred(f(x)) isa Dual{2,Float64}
    @test @inferred(f(twice(0.4))) isa Dual{1,Dual{1,Float64}}
    @test Dual(1.0f0, (1.0f0,)) * 2.0 isa Dual{1,Float64}
    @test Dual(1.0, (1.0,)) * big"2.0" isa Dual{1,BigFloat}
end

@testset "one sweep back for any number of parameters" begin
    f(x, A, s) = [sum(sin.(A * x)) * s, s^2, 3.0, x[2]]
    x, A, s, w = [0.3, -0.7], [1.0 2; 3 4; 5 6], 1.5, [2.0, 3.0, 100.0, -1.0]
    x̄, Ā, s̄ = @inferred gradients(f, (x, A, s), w)
    c = 2s * cos.(A * x)
    @test x̄ ≈ A' * c + [0, -1] && Ā ≈ c * x' && s̄ ≈ 2sum(sin.(A * x)) + 6s
    # The cost does not grow with them
    calls = Ref(0)
    counted(x) = (calls[] += 1; [sum(abs2, x)])
    @test gradients(counted, (ones(1000),), [1.0])[1] == fill(2.0, 1000) && calls[] == 1
    # Fan-out, a result that is an argument, constants among results, no results that move
    @test gradients(x -> [x * x * x + x, x], (2.0,), [1.0, 10.0])[1] == 23.0
    @test gradients((x, y) -> [1.0, 2.0], (2.0, [1.0]), [1.0, 10.0]) == (0.0, [0.0])
    @test gradients((x, k) -> [x^k], (2.0f0, 3), [1.0])[1] === 12.0
    @test gradients(z -> [abs2(z)], (3.0 + 4.0im,), [1.0])[1] == 6.0 + 8.0im
    @test Traced{Float64}(1) + true === Traced{Float64}(2.0, 0, nothing)
    @test gradients(x -> [x * big"2.0" * π * 2.0f0], (1.0,), [1.0])[1] ≈ 4π
end

@testset "corners" begin
    # A direction in which nothing moves has no infinite slope
    @test sqrt(Dual(0.0, (0.0, 1.0))).partials == (0.0, Inf)
    @test slope(x -> x^0, 0.0) == 0 && slope(x -> x^1, 0.0) == 1
    @test slope(x -> 0.0^x, 2.0) == 0 && slope(x -> (-2.0)^x, 2.0) === NaN
    @test gradients((x, y) -> [sqrt(x) * 0 + y], (0.0, 1.0), [1.0]) == (0.0, 1.0)
    @test gradients((x, y) -> [x == y ? x * y : x + y], (2.0, 2.0), [1.0]) == (1.0, 1.0)
    # Zero is not zero if it moves, so that a branch cannot drop a derivative
    moving = Dual(0.0, (1.0,))
    @test !iszero(moving) && moving != 0 && iszero(zero(moving))
    @test slope(x -> iszero(x) ? 0.0 * x : 3x, 0.0) == 3
    @test [1.0 0; 0 1] * [moving, moving] == [moving, moving]
    # Order is by value
    @test Dual(1.0, (5.0,)) < Dual(2.0, (0.0,)) && !(moving < 0) && moving <= 0
    @test maximum([Dual(1.0, (5.0,)), Dual(2.0, (7.0,))]).partials == (7.0,)
    @test isnan(Dual(NaN, (1.0,))) && isfinite(moving) && signbit(Dual(-1.0, (1.0,)))
end

@testset "depths are not mixed up" begin
    inner, outer = Dual(2.0, (1.0,)), Dual(Dual(3.0, (0.0,)), (Dual(1.0, (0.0,)),))
    @test depth(typeof(inner)) == 1 && depth(typeof(outer)) == 2
    y = inner * outer  # the inner number is a constant for the outer derivative
    @test primal(y) == 6 && primal(tangent(y)) == 2 && tangent(y.value) == 3
    @test tangent(tangent(y)) == 1
    @test_throws "dual numbers of 1 and 2 directions were mixed" inner *
        Dual(1.0, (1.0, 0.0))
    @test primal([outer 1.0]) == [3.0 1.0] && primal(complex(outer, inner)) == 3 + 2im
end

only_floats(z::Vector{Float64}) = z

@testset "refusals say what to do" begin
    refused(f) = on_active(f, (lift([1.0, 2.0], [1.0, 0.0]),))
    @test_throws "a conversion to Float64" refused(z -> (y = zeros(2); y[1] = z[1]; y))
    @test_throws "no method of `only_floats`" refused(only_floats)
    @test_throws "no method of `nextfloat`" refused(z -> nextfloat.(z))
    @test_throws "`similar(z)`" refused(only_floats)
    @test_throws DomainError refused(z -> throw(DomainError(z)))  # others pass
    @test_throws BoundsError refused(z -> z[3])
    @test_throws "a conversion to Float64" gradients(
        z -> (y = zeros(2); y .= z; y), (ones(2),), ones(2))
    @test_throws "no method of `only_floats`" gradients(only_floats, (ones(2),), ones(2))
    @test_throws ActiveRefused Float64(Dual(1.0, (1.0,)))
    @test_throws "must be numbers or arrays of floats" lift([1.0], "a")
    @test_throws "must be numbers or arrays of floats" lift((a = 1.0,), 1.0)
    @test_throws DimensionMismatch lift([1.0], [1.0, 2.0])
end
@testset "no function of Base runs for ever: $name" for name in (
    names(Base.Math)..., :+, :-, :*, :/, :^, :abs, :abs2, :sign, :round, :floor, :ceil,
    :trunc, :div, :fld, :cld, :rem, :mod, :divrem, :gcd, :sqrt, :cis, :angle, :float, :real,
    :inv, :nextfloat, :exponent, :significand, :frexp, :rationalize, :isinteger, :isone,
    :string)

    isdefined(Base, name) || continue
    f, t = getfield(Base, name), only(trace(Tape{Float64}(), [0.3]))
    for x in (Dual(0.3, (1.0,)), t),
        args in ((x,), (complex(x, x),), (x, 2), (2, x), (x, x))

        known = try
            f isa Function && applicable(f, args...) && f(args...)
            true
        catch err
            !(err isa StackOverflowError)
        end
        @test known
    end
end
