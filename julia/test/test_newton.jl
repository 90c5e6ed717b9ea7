# Newton's method: values, statuses, bad arguments.

using ImplicitAdjoints, LinearAlgebra, Test
using ImplicitAdjoints: CONVERGED, MAX_STEPS_REACHED, NONFINITE, SINGULAR, Dual

isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

@testset "value and status: $(p.name)" for p in ROOTS
    z = p.layer(p.z0, p.θ...)
    @test z ≈ p.exact(p.θ...) rtol = 1e-10
    @test typeof(z) == typeof(p.z0)
    s = find(p.layer, p.z0, p.θ...)
    @test s.value == z && s.status == CONVERGED
    @test 0 < s.iterations < 40 && s.residual < 1e-8 * (1 + norm(z))
    @test @inferred(find(p.layer, p.z0, p.θ...)) isa Solution{typeof(z)}
    @test @inferred(p.layer(p.z0, p.θ...)) == z
end

@testset "5,000 unknowns, $how" for (how, jacobian) in (
    "pattern" => band_pattern(5000), "banded" => banded_jacobian,
    "sparse" => sparse ∘ banded_jacobian)

    layer = ImplicitRoot(banded; jacobian)
    p = log_profile(5000)
    s = find(layer, ones(5000), p)
    @test s.status == CONVERGED
    @test s.value ≈ exp.(p) rtol = 1e-10
end

@testset "a fixed point by Newton's method" begin
    p = the_layer("expansion")
    layer = ImplicitFixedPoint(expansion; solver = Newton())
    @test layer(p.z0, p.θ...) ≈ p.exact(p.θ...)
    @test find(layer, p.z0, p.θ...).iterations == 2  # it is linear: one, and one to see it
end

@testset "precision follows the arguments" begin
    layer = the_layer("sqrt").layer
    z = layer(ones(Float32, 3), Float32[4, 9, 16])
    @test z isa Vector{Float32} && z ≈ [2, 3, 4]
    @test layer(ones(Float32, 3), [4.0, 9.0, 16.0]) isa Vector{Float64}
    @test layer([1, 1], [4, 9]) == [2.0, 3.0]
    @test layer(1, 4) isa Float64 && layer(1, 4) ≈ 2
    @test layer(view(ones(4), 1:2), [4.0, 9.0]) isa Vector{Float64}
    @test layer(big"1.0", big"2.0") ≈ sqrt(big"2.0") rtol = 1e-40
end

# arctan throws Newton's method off from |z₀| > 1.39.
flat(z, p) = atan.(z .- p)

@testset "line search" begin
    far, p = [3.0, -20.0], [0.5, 1.0]
    @test find(ImplicitRoot(flat), far, p).status != CONVERGED
    s = find(ImplicitRoot(flat; solver = Newton(; line_search = true)), far, p)
    @test s.status == CONVERGED && s.value ≈ p
end

@testset "a first guess that is a root" begin
    s = find(the_layer("sqrt").layer, [2.0, 0.0, 3.0], [4.0, 0.0, 9.0])
    @test s.status == CONVERGED && s.value == [2, 0, 3] && s.iterations == 0
end

@testset "failures" begin
    status(F, z0, θ...; kw...) =
        find(ImplicitRoot(F; solver = Newton(; kw...)), z0, θ...).status
    @test status(square_minus, [NaN, 1.0], [1.0, 1.0]) == NONFINITE
    @test status(square_minus, [1.0, 1.0], [1.0, NaN]) == NONFINITE
    @test status(square_minus, [1.0, 1.0], [1.0, Inf]) == NONFINITE
    @test status(square_minus, [0.0, 1.0], [1.0, 1.0]) == SINGULAR
    @test status(affine, zeros(2), [1.0 2; 2 4], ones(2)) == SINGULAR
    @test status(affine, zeros(2), [1.0 2; 0 0], ones(2)) == SINGULAR
    @test status((z, p) -> z .^ 2 .+ p, [0.7], [1.0]) == MAX_STEPS_REACHED  # no root
    @test status(square_minus, ones(1), [2.0]; max_steps = 2) == MAX_STEPS_REACHED
    no_log(z) = z < 0 ? 0 * z / 0 : log(z)
    @test status((z, p) -> no_log.(z) .+ p, [1.0], [800.0]) == NONFINITE
    s = find(ImplicitRoot(square_minus), [NaN], [1.0])
    @test s.iterations == 0 && isnan(s.residual) && isnan(s.value[1])
    # As an error it says which, why and how far
    short = ImplicitRoot(square_minus; solver = Newton(; max_steps = 2))
    err = @test_throws SolveError short([1.0], [2.0])
    @test startswith(err.value.text, "ImplicitRoot(square_minus): " *
        message(MAX_STEPS_REACHED) * ". Residual 0.00694")
    @test endswith(err.value.text, " after 2 steps.")
    # Or the value is NaN
    quiet = ImplicitRoot(square_minus; throw = false)
    @test all(isnan, quiet([0.0, 1.0], [1.0, 1.0])) && isnan(quiet(NaN, 1.0))
end

@testset "scales of equations and unknowns do not matter" begin
    scales, units = [1e-8, 1.0, 1e9], [1e6, 1e-7, 1.0]
    F(z, p) = scales .* (MATRIX[1:3, 1:3] * (z ./ units) + (z ./ units) .^ 3 - p)
    p = [1.0, 2.0, 3.0]
    plain = ImplicitRoot((z, p) -> MATRIX[1:3, 1:3] * z + z .^ 3 - p)(zeros(3), p)
    solver = Newton(; atol = 0)
    @test ImplicitRoot(F; solver)(1e-3 * units, p) ≈ units .* plain rtol = 1e-9
end

@testset "bad arguments" begin
    @test_throws "`Newton(rtol)` must not be negative. Got -1" Newton(; rtol = -1)
    @test_throws "`Newton(max_steps)` must be at least 1. Got 0" Newton(; max_steps = 0)
    @test_throws "`ImplicitRoot(solver)` must be Newton()" ImplicitRoot(
        square_minus; solver = Anderson())
    @test_throws "must be Anderson() or Newton()" ImplicitFixedPoint(towards; solver = 3)
    layer = ImplicitRoot((z, p) -> [z; p])
    @test_throws "must return as many numbers as `z` has. Got 3 for 2" layer(ones(2), 1.0)
    @test_throws "`z0` must hold at least one number" layer(Float64[], 1.0)
    @test_throws "like `z`, of size (2,). Got size (3,)" ImplicitFixedPoint(
        (z, p) -> [z; p])(ones(2), 1.0)
    moving = Dual(2.0, (1.0,))
    @test_throws "closes over a number that is being differentiated" ImplicitRoot(
        (z, _) -> z^2 - moving)(1.0, 0.0)
    @test string(ImplicitRoot(square_minus)) == "ImplicitRoot(square_minus)"
    @test string(ImplicitFixedPoint(towards)) == "ImplicitFixedPoint(towards)"
end
