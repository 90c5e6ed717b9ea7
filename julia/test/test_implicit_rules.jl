# The rules of implicit functions against finite differences, and rules of these rules.

using ChainRulesCore, ChainRulesTestUtils, FiniteDifferences
using ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: SINGULAR, missing_rule

isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

const SMALL_STEPS = central_fdm(5, 1; max_range = 1e-3)
const TOLERANT = (; fdm = SMALL_STEPS, rtol = 1e-6, atol = 1e-7)

const LOOSE_SECOND = (; TOLERANT..., rtol = 1e-5, atol = 1e-6)

random_like(rng, x::Number) = randn(rng, typeof(x))
random_like(rng, x::AbstractArray) = randn(rng, eltype(x), size(x))
marks_of(θ) = (false, map(_ -> true, θ)...)

@testset "first order: $(p.name)" for p in LAYERS
    Random.seed!(21)
    layer, z0 = p.layer, p.z0
    test_frule(layer ⊢ NoTangent(), z0 ⊢ NoTangent(), p.θ...; TOLERANT...)
    test_rrule(layer ⊢ NoTangent(), z0 ⊢ ZeroTangent(), p.θ...; TOLERANT...)
    # The closed form, and the adjoint of the tangent
    rng = MersenneTwister(22)
    θ̇ = map(t -> random_like(rng, t), p.θ)
    z, ż = frule((NoTangent(), ZeroTangent(), θ̇...), layer, z0, p.θ...)
    along(t) = p.exact(map((a, ȧ) -> a + t * ȧ, p.θ, θ̇)...)
    @test ż ≈ SMALL_STEPS(along, 0.0) rtol = 1e-6
    z̄ = random_like(rng, z)
    _, _, θ̄... = rrule(layer, z0, p.θ...)[2](z̄)
    @test real(dot(z̄, ż)) ≈ sum(map((a, b) -> real(dot(unthunk(a), b)), θ̄, θ̇)) rtol = 1e-9
end

const TWICE = ("scalar", "lotka_volterra", "complex_array", "sylvester", "fifty_sparse",
    "tanh", "midpoint")

@testset "second order: $(p.name)" for p in map(the_layer, TWICE)
    Random.seed!(23)
    rng = MersenneTwister(24)
    z0, W = p.z0, marks_of(p.θ)
    pushed, pulled = Pushforward(p.layer, W), Pullback(p.layer, W)
    θ̇ = map(t -> random_like(rng, t), p.θ)
    z̄ = random_like(rng, p.layer(z0, p.θ...))
    for (test, none) in ((test_frule, NoTangent()), (test_rrule, ZeroTangent()))
        given = (z0 ⊢ none, p.θ...)
        test(pushed ⊢ NoTangent(), given..., θ̇...; LOOSE_SECOND...)
        test(pulled ⊢ NoTangent(), given..., z̄; LOOSE_SECOND...)
    end
end

@testset "second order of a piecewise linear function: in θ̇ and z̄ only" begin
    p = the_layer("lasso")
    pushed, pulled = Pushforward(p.layer, marks_of(p.θ)), Pullback(p.layer, marks_of(p.θ))
    a, z̄ = [1.0, 2.0, 3.0, 4.0], ones(4)
    still = map(_ -> ZeroTangent(), (0, 0, p.θ...))
    @test pushed(p.z0, p.θ..., a, 1.0) ≈ [0, 3, 0, 3]
    ż = frule((still..., 2a, 2.0), pushed, p.z0, p.θ..., a, 1.0)[2]
    @test ż ≈ [0, 6, 0, 6]
    @test pulled(p.z0, p.θ..., z̄)[1] ≈ [1, 1, 0, 1] && pulled(p.z0, p.θ..., z̄)[2] ≈ -1
    back = rrule(pulled, p.z0, p.θ..., z̄)[2](Tangent{Any}(a, 1.0))
    @test unthunk(back[3]) == zeros(4) && unthunk(back[5]) ≈ [0, 3, 0, 3]
end

@testset "5,000 unknowns" begin
    layer = ImplicitRoot(banded; jacobian = band_pattern(5000))
    p, rng = log_profile(5000), MersenneTwister(25)
    ṗ, z̄ = randn(rng, 5000), randn(rng, 5000)
    z, ż = frule((NoTangent(), NoTangent(), ṗ), layer, ones(5000), p)
    @test ż ≈ exp.(p) .* ṗ rtol = 1e-8
    @test unthunk(rrule(layer, ones(5000), p)[2](z̄)[3]) ≈ exp.(p) .* z̄ rtol = 1e-8
    pulled = Pullback(layer, (false, true))
    _, H = frule((NoTangent(), NoTangent(), ṗ, ZeroTangent()), pulled, ones(5000), p, z̄)
    @test only(Tuple(H)) ≈ exp.(p) .* ṗ .* z̄ rtol = 1e-7
end

@testset "some parameters only, and others that do not move" begin
    power(z, a, k, s, table) = z .^ k .- s .* a .* table[k]
    layer = ImplicitRoot(power)
    args = (ones(2), [2.0, 3.0], 2, 5.0, (1, 2))
    z = layer(args...)
    @test z ≈ sqrt.(10 * [2.0, 3.0])
    @test @inferred(Pushforward(layer, (false, false, false, true, false))(args..., 1.0)) ≈
        z / 10
    ā, s̄ = @inferred Pullback(layer, (false, true, false, true, false))(args..., [1.0, 1.0])
    @test ā ≈ z ./ (2 * [2.0, 3.0]) && s̄ ≈ sum(z) / 10
    # A first guess that is differentiated has a zero derivative
    guess, both = (true, false, false, false, false), (true, false, false, true, false)
    @test Pushforward(layer, guess)(args..., ones(2)) == zeros(2)
    @test Pullback(layer, both)(args..., ones(2))[1] == zeros(2)
    z̄0, = Pullback(Pushforward(layer, (true, true, false, false, false)),
        (true, false, false, false, false, true, false))(
        args..., ones(2), ones(2), ones(2))
    @test z̄0 == zeros(2)
    back = rrule(layer, args...)[2](ones(2))
    @test back[2] isa ZeroTangent && back[4] isa NoTangent
    @test back[6] isa ChainRulesCore.NotImplemented  # a tuple: not for dual numbers
end

@testset "thunks and zeros" begin
    p = the_layer("linear")
    A, b = p.θ
    Ȧ, ḃ = randn(MersenneTwister(26), size(A)), ones(SIZE)
    tangent_of(Ȧ, ḃ) = frule((NoTangent(), NoTangent(), Ȧ, ḃ), p.layer, p.z0, A, b)[2]
    both = tangent_of(Ȧ, ḃ)
    @test tangent_of(@thunk(Ȧ), @thunk(ḃ)) == both
    @test tangent_of(Ȧ, ZeroTangent()) + tangent_of(NoTangent(), ḃ) ≈ both
    @test tangent_of(ZeroTangent(), NoTangent()) isa ZeroTangent
    _, back = rrule(p.layer, p.z0, A, b)
    @test unthunk(back(@thunk(ones(SIZE)))[4]) == unthunk(back(ones(SIZE))[4])
    for none in (ZeroTangent(), NoTangent(), @thunk(ZeroTangent()))
        @test back(none) == (NoTangent(), ZeroTangent(), ZeroTangent(), ZeroTangent())
    end
    # Cotangents have the types of what they belong to
    sqrt32 = the_layer("sqrt").layer
    θ̄ = rrule(sqrt32, ones(3), Float32[4, 9, 16])[2](ones(3))[3]
    @test unthunk(θ̄) isa Vector{Float32}
end

# With rules of its own, and no way for dual numbers.
ruled(z::Vector{Float64}, p::Vector{Float64}) = MATRIX * z .^ 3 - p
ChainRulesCore.frule((_, ż, ṗ), ::typeof(ruled), z, p) =
    ruled(z, p), MATRIX * (3 .* z .^ 2 .* ż) - ṗ  # it gets no structural zeros
function ChainRulesCore.rrule(::typeof(ruled), z, p)
    ruled_pullback(r̄) = (NoTangent(), @thunk(3 .* z .^ 2 .* (MATRIX' * r̄)), -r̄)
    return ruled(z, p), ruled_pullback
end

@testset "the rules of F" begin
    Random.seed!(27)
    p = MATRIX * collect(1.0:SIZE) .^ 3
    exact_jacobian(z, p) = MATRIX * Diagonal(3 .* z .^ 2)
    layer = ImplicitRoot(ruled; jacobian = exact_jacobian)
    @test layer(fill(2.0, SIZE), p) ≈ 1:SIZE
    test_frule(layer ⊢ NoTangent(), fill(2.0, SIZE) ⊢ NoTangent(), p; TOLERANT...)
    test_rrule(layer ⊢ NoTangent(), fill(2.0, SIZE) ⊢ ZeroTangent(), p; TOLERANT...)
    wrong = ImplicitRoot(ruled; jacobian = (z, p) -> exact_jacobian(z, p) .* 1.001)
    @test_throws "must be ∂F/∂z" rrule(wrong, fill(2.0, SIZE), p)[2](ones(SIZE))
    # Without a Jacobian, and for second derivatives, it would have to take dual numbers
    @test_throws "`ruled` must take any `Real`" ImplicitRoot(ruled)(fill(2.0, SIZE), p)
    @test_throws "`ruled` must take any `Real`" frule(
        (NoTangent(), NoTangent(), p, NoTangent()), Pullback(layer, (false, true)),
        fill(2.0, SIZE), p, ones(SIZE))
end

@testset "failures in a rule are errors, or NaN" begin
    double(z, p) = z .^ 2 .- p   # at p = 0 the root is double
    layer, quiet = ImplicitRoot(double), ImplicitRoot(double; throw = false)
    @test layer([1.0], [0.0]) ≈ [0.0] atol = 1e-4
    for call in (
        l -> rrule(l, [0.0], [0.0])[2]([1.0]),
        l -> frule((NoTangent(), NoTangent(), [1.0]), l, [0.0], [0.0]))

        @test_throws SolveError call(layer)
    end
    identity_start = ImplicitFixedPoint((z, p) -> z .* (1 .- p); solver = Anderson())
    text = "ImplicitFixedPoint($(identity_start.f)): the derivative: $(message(SINGULAR))."
    err = @test_throws SolveError rrule(identity_start, [0.0], [0.0])[2]([1.0])
    @test err.value.text == text
    @test_throws SolveError frule(
        (NoTangent(), NoTangent(), [1.0]), identity_start, [0.0], [0.0])
    @test_throws "NaN or infinity" rrule(the_layer("sqrt").layer, ones(3), ones(3))[2](
        fill(NaN, 3))
    # NaN where nothing is thrown, the other way round of a solve that failed too
    quiet_fixed = ImplicitFixedPoint((z, p) -> z .* (1 .- p); throw = false)
    @test isnan(unthunk(rrule(quiet_fixed, [0.0], [0.0])[2]([1.0])[3])[1])
    z, back = rrule(quiet, [0.0], [4.0])
    @test isnan(z[1]) && isnan(unthunk(back([1.0])[3])[1])
    @test isnan(frule((NoTangent(), NoTangent(), [1.0]), quiet, [0.0], [4.0])[2][1])
    @test unthunk(rrule(quiet, [1.0], [4.0])[2]([1.0])[3]) ≈ [0.25]
end

@testset "what F closes over is a constant, and is not passed over in silence" begin
    data = [2.0, 3.0]
    layer = ImplicitRoot((z, p) -> z .^ 2 .- p .* data)
    @test rrule(layer, ones(2), 1.0)[2](ones(2))[1] isa ChainRulesCore.NotImplemented
    @test_throws "Pass it as a parameter" frule(
        (Tangent{typeof(layer)}(; f = data), NoTangent(), 1.0), layer, ones(2), 1.0)
end

@testset "an implicit function in an implicit function" begin
    inner = ImplicitRoot((z, p) -> z^2 - p)          # √p
    outer = ImplicitRoot((z, p) -> z^2 - inner(1.0, p))
    @test outer(1.0, 16.0) ≈ 2
    pushed, pulled = Pushforward(outer, (false, true)), Pullback(outer, (false, true))
    @test pushed(1.0, 16.0, 1.0) ≈ 1 / 32 && only(pulled(1.0, 16.0, 1.0)) ≈ 1 / 32
    second = Pushforward(pulled, (false, true, false))(1.0, 16.0, 1.0, 1.0)
    @test only(second) ≈ -3 / 16 * 16^-1.75
    # z where √z = p, that is p²
    nested = ImplicitRoot((z, p) -> inner(1.0, z) - p)
    @test nested(3.0, 2.0) ≈ 4
    @test only(Pullback(nested, (false, true))(3.0, 2.0, 1.0)) ≈ 4
    @test Pushforward(Pushforward(nested, (false, true)), (false, true, false))(
        3.0, 2.0, 1.0, 1.0) ≈ 2
end

@testset "no rule beyond the second derivative, by name" begin
    scalar = [("float64", 0)]
    pulled = Pullback(the_layer("scalar").layer, (false, true))
    second = Pushforward(pulled, (false, true, false))
    @test missing_rule(second, repeat(scalar, 4)) == ""
    third = Pushforward(second, (false, true, false, false))
    @test occursin("`frule` for `Pushforward(Pullback(ImplicitRoot(cube_minus)))`",
        missing_rule(third, repeat(scalar, 5)))
end
