# Anderson acceleration: values, the number of evaluations, safeguard, statuses.

using ImplicitAdjoints, LinearAlgebra, Test
using ImplicitAdjoints: CONVERGED, MAX_STEPS_REACHED, NONFINITE

isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

@testset "value and status: $(p.name)" for p in FIXED_POINTS
    z = @inferred p.layer(p.z0, p.θ...)
    @test z ≈ p.exact(p.θ...) rtol = 1e-8
    @test typeof(z) == typeof(p.z0)
    s = @inferred find(p.layer, p.z0, p.θ...)
    @test s.value == z && s.status == CONVERGED
    @test 0 < s.iterations < 60 && s.residual < 1e-7 * (1 + norm(z))
end

counting(f) = (calls = Ref(0); ((z, θ...) -> (calls[] += 1; f(z, θ...)), calls))

# n + 1 evaluations
@testset "on linear maps it is GMRES: $spread" for spread in (0.6, 3.0, 30.0)
    f, calls = counting((z, x) -> spread * SPREAD * z + INPUT * x)
    x = [1.0, -2.0, 0.5]
    s = find(ImplicitFixedPoint(f; solver = Anderson(; memory = SIZE)), zeros(SIZE), x)
    # The last one finds nothing left; round-off may cost one more.
    @test s.status == CONVERGED && s.iterations <= SIZE + 3
    @test calls[] == s.iterations + 1  # and one for the residual at the end
    @test s.value ≈ resolvent(SPREAD, x, spread)
end

@testset "5,000 unknowns" begin
    # The fixed point is exp(p).
    n = 5000
    T = spdiagm(-1 => fill(0.7, n - 1), 1 => fill(0.3, n - 1))
    f(z, p) = tanh.(0.95 * (T * z)) + exp.(p) - tanh.(0.95 * (T * exp.(p)))
    p = log_profile(n) .- 2
    s = find(ImplicitFixedPoint(f), ones(n), p)
    @test s.status == CONVERGED
    @test s.value ≈ exp.(p) rtol = 1e-7
    plain = find(ImplicitFixedPoint(f; solver = Anderson(; memory = 0)), ones(n), p)
    @test plain.status == CONVERGED && plain.iterations > 2 * s.iterations
end

@testset "options" begin
    p = the_layer("contraction")
    steps(; kw...) = find(ImplicitFixedPoint(contraction; solver = Anderson(; kw...)), p.z0,
        p.θ...).iterations
    # Without mixing the error shrinks by 0.6 a step: 1e-8 takes some forty
    @test 30 < steps(; memory = 0) < 60
    @test steps(; memory = 0, damping = 0.5) > 1.2 * steps(; memory = 0)
    @test steps(; memory = 2) < steps(; memory = 0)
    @test steps(; memory = 5, start = 10) > steps(; memory = 5)
    @test steps(; rtol = 1e-3, atol = 1e-3, memory = 0) < 25
    for damping in (0.3, 1.0), regularization in (nothing, 1e-10)
        solver = Anderson(; memory = 6, damping, regularization)
        z = ImplicitFixedPoint(expansion; solver)(zeros(SIZE), SPREAD, p.θ[2])
        @test z ≈ resolvent(SPREAD, p.θ[2], 3.0) rtol = 1e-7
    end
    z = ImplicitFixedPoint(contraction)(zeros(Float32, SIZE), Float32.(SPREAD),
        Float32[1, -2, 0.5])
    @test z isa Vector{Float32}
    @test z ≈ p.exact(p.θ...) rtol = 1e-4
end

@testset "failures" begin
    status(f, z0, θ...; kw...) =
        find(ImplicitFixedPoint(f; solver = Anderson(; kw...)), z0, θ...).status
    x = [1.0, -2.0, 0.5]
    # The plain iteration on a map that is no contraction has to say so
    @test status(expansion, zeros(SIZE), SPREAD, x; memory = 0) == MAX_STEPS_REACHED
    @test status((z, p) -> 3z + p, [0.5], [1.0]; memory = 0) == MAX_STEPS_REACHED
    @test status((z, p) -> z .+ p, [0.5], [1.0]) == MAX_STEPS_REACHED  # none
    @test status(contraction, zeros(SIZE), SPREAD, x; max_steps = 3) == MAX_STEPS_REACHED
    @test status(contraction, zeros(SIZE), SPREAD, [NaN, 1, 1]) == NONFINITE
    @test status(contraction, fill(Inf, SIZE), SPREAD, x) == NONFINITE
    plain = ImplicitFixedPoint(expansion; solver = Anderson(; memory = 0))
    @test_throws "ImplicitFixedPoint(expansion): the largest number of steps" plain(
        zeros(SIZE), SPREAD, x)
end

@testset "it comes back from where the map has no value" begin
    # √ of a negative number is NaN here; the mixed step from 40 goes there
    root(z) = z < 0 ? NaN : sqrt(z)
    f(z, p) = [root(z[1]) + p[1] - sqrt(z[1] + 0.1) * (z[1] > 0.5)]
    s = find(ImplicitFixedPoint((z, p) -> p .* root.(z)), [40.0], [0.01])
    @test s.status == CONVERGED
    @test s.value ≈ [1e-4] rtol = 1e-3
end

@testset "bad arguments" begin
    @test_throws "`Anderson(memory)` must not be negative. Got -1" Anderson(; memory = -1)
    @test_throws "`Anderson(damping)` must lie in (0, 1]. Got 0" Anderson(; damping = 0)
    @test_throws "must lie in (0, 1]. Got NaN" Anderson(; damping = NaN)
    @test_throws "`Anderson(safeguard)` must be above 1. Got 1" Anderson(; safeguard = 1)
    @test_throws "`Anderson(atol)` must not be negative" Anderson(; atol = -1.0)
    @test_throws "`Anderson(max_steps)` must be at least 1" Anderson(; max_steps = 0)
end
