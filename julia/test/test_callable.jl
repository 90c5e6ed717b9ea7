# Derivatives as functions: `Pushforward` and `Pullback`.

using ChainRulesCore, ImplicitAdjoints, LinearAlgebra, Test
using ImplicitAdjoints: MissingRule, has_rule, missing_rule

const M = [1.0 2 3; 4 5 6]

square(x) = M * (x .* x)
ChainRulesCore.frule((_, ẋ), ::typeof(square), x) = square(x), M * (2 .* x .* ẋ)
function ChainRulesCore.rrule(::typeof(square), x)
    square_pullback(ȳ) = (NoTangent(), @thunk(conj(2 .* x) .* (M' * unthunk(ȳ))))
    return square(x), square_pullback
end

# Several arguments and results; one argument without, one with a zero derivative.
several(A, s, k, z) = (s * A[:, k], sum(abs2, A) + s)
function ChainRulesCore.frule((_, Ȧ, ṡ, _, _), ::typeof(several), A, s, k, z)
    Ȧ = Ȧ isa AbstractZero ? zero(A) : Ȧ
    ṡ = ṡ isa AbstractZero ? zero(s) : ṡ
    y = several(A, s, k, z)
    return y, Tangent{typeof(y)}(ṡ * A[:, k] + s * Ȧ[:, k], 2dot(A, Ȧ) + ṡ)
end
function ChainRulesCore.rrule(::typeof(several), A, s, k, z)
    function several_pullback(ȳ)
        v̄, t̄ = ȳ
        Ā = 2t̄ * A
        Ā[:, k] .+= s * v̄
        return NoTangent(), Ā, dot(A[:, k], v̄) + t̄, NoTangent(), ZeroTangent()
    end
    return several(A, s, k, z), several_pullback
end

size2(z) = abs2.(z)  # real, of complex numbers: not holomorphic
ChainRulesCore.rrule(::typeof(size2), z) =
    size2(z), ȳ -> (NoTangent(), 2 .* z .* unthunk(ȳ))

no_rule(x) = x

@testset "one argument" begin
    x, ẋ, ȳ = [0.5, -1.0, 2.0], [1.0, 2.0, 3.0], [1.0, -1.0]
    J = M * Diagonal(2x)
    @test @inferred(Pushforward(square, (true,))(x, ẋ)) == J * ẋ
    @test @inferred(Pullback(square, (true,))(x, ȳ)) == (J' * ȳ,)
end

@testset "marked arguments only" begin
    A, s, k, z = [1.0 2; 3 4], 3.0, 2, [7.0]
    Ȧ, ṡ, v̄, t̄ = [1.0 0; 0 1], 2.0, [1.0, -2.0], 0.5
    push_both = Pushforward(several, (true, true, false, false))
    @test @inferred(push_both(A, s, k, z, Ȧ, ṡ)) == ([4.0, 11.0], 12.0)
    push_s = Pushforward(several, (false, true, false, false))
    @test @inferred(push_s(A, s, k, z, ṡ)) == ([4.0, 8.0], 2.0)
    Ā, s̄ = @inferred Pullback(several, (true, true, false, false))(A, s, k, z, v̄, t̄)
    @test Ā == [1.0 5; 3 -2] && s̄ == -5.5
    @test @inferred(Pullback(several, (false, true, false, false))(A, s, k, z, v̄, t̄)) ==
        (-5.5,)
    # What has no derivative has a zero one
    @test Pullback(several, (false, false, false, true))(A, s, k, z, v̄, t̄) == ([0.0],)
end

@testset "complex: the transpose, not the adjoint" begin
    z, ż, ȳ = [1 + 2im, 0.5im, 3 - 1im], [1im, 2.0, 1 + 1im], [1 - 1im, 2im]
    J = M * Diagonal(2z)
    @test Pushforward(square, (true,))(z, ż) == J * ż
    @test only(Pullback(square, (true,))(z, ȳ)) ≈ transpose(J) * ȳ
    # d|z|² = 2 Re(z* ż), so Re Σ ȳ ẏ = Re Σ (2 ȳ z*) ż
    @test only(Pullback(size2, (true,))(z, [1.0, 2, 3])) ≈ 2 .* [1.0, 2, 3] .* conj(z)
end

@testset "missing rules" begin
    x = [1.0]
    err = @test_throws MissingRule Pushforward(no_rule, (true,))(x, x)
    @test sprint(showerror, err.value) == "no ChainRules `frule` for `no_rule` with " *
        "arguments (Vector{Float64},), so it has no forward-mode derivative. Define " *
        "ChainRulesCore.frule for it, or load the package that does (for Base " *
        "functions: ChainRules)."
    @test_throws "`rrule` for `no_rule`" Pullback(no_rule, (true,))(x, x)
    types = (Vector{Float64},)
    @test has_rule(Pushforward(square, (true,)), types)
    @test has_rule(Pullback(square, (true,)), types)
    @test !has_rule(Pushforward(no_rule, (true,)), types)
    @test !has_rule(Pullback(no_rule, (true,)), types)
    @test has_rule(no_rule, types)
    spec = [("float64", 1)]
    @test missing_rule(Pullback(square, (true,)), spec) == ""
    @test occursin("`rrule` for `no_rule`", missing_rule(Pullback(no_rule, (true,)), spec))
    # A derivative of a derivative: the first that is missing is named
    second = Pushforward(Pullback(square, (true,)), (true, false))
    three = [spec; spec; spec]
    @test occursin("`frule` for `Pullback(square)`", missing_rule(second, three))
    second = Pushforward(Pullback(no_rule, (true,)), (true, false))
    @test occursin("`rrule` for `no_rule`", missing_rule(second, three))
    # Those of an assembly are there twice
    line = Assembly(Diffusion(), [1; 2;;], 1:4, 4, 2)
    twice = Pullback(Pushforward(line, (false, true)), (false, true, true))
    arrays = [("float64", n) for n in (2, 2, 2, 1)]
    @test missing_rule(twice, arrays) == ""
    @test twice([0.0 1.0], [1.0;;], [2.0;;], ones(4)) == ([0.0;;], [0.0;;])
end
