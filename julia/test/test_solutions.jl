# Solutions are kept for the derivatives that follow, within bounds, while they hold.

using ChainRulesCore, ImplicitAdjoints, LinearAlgebra, Test
using ImplicitAdjoints: SOLUTIONS, clear_solutions!

isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

counted(F) = (calls = Ref(0); ((z, θ...) -> (calls[] += 1; F(z, θ...)), calls))

@testset "a derivative solves nothing again, and factorises once" begin
    clear!()
    F, calls = counted(banded)
    layer = ImplicitRoot(F; jacobian = band_pattern(30))
    z0, p, z̄ = ones(30), log_profile(30), ones(30)
    z = layer(z0, p)
    solved, factorised = calls[], counters().factorisations
    pulled = Pullback(layer, (false, true))
    first_time = only(pulled(z0, p, z̄))
    # The check of the solution, the Jacobian and its check, the gradient in 4 sweeps
    @test calls[] - solved <= 1 + 1 + 1 + 4
    @test counters().factorisations == factorised + 1
    for _ in 1:3
        @test only(pulled(z0, p, z̄)) == first_time
        Pushforward(layer, (false, true))(z0, p, z̄)
        Pushforward(pulled, (false, true, false))(z0, p, z̄, z̄)
    end
    @test counters().factorisations == factorised + 1
    @test layer(z0, p) == z
    # It is compared by content, and the answer is the caller's
    again = layer(copy(z0), copy(p))
    again .= 0
    @test layer(z0, p) == z
    p .*= 2
    @test layer(z0, p) ≈ exp.(p)
    clear!()
    @test isempty(SOLUTIONS.kept) && SOLUTIONS.bytes[] == 0
end

@testset "one that no longer holds is not used" begin
    data = [4.0]
    layer = ImplicitRoot((z, p) -> z .^ 2 .- p .* data)
    @test layer([1.0], 1.0) ≈ [2.0]
    data[1] = 9.0
    @test layer([1.0], 1.0) ≈ [3.0]
    @test only(Pullback(layer, (false, true))([1.0], 1.0, [1.0])) ≈ 9 / 6
end

@testset "NaN, types and problems are told apart" begin
    clear!()
    layer, other = the_layer("sqrt").layer, the_layer("log").layer
    p = [4.0, 9.0, 16.0]
    @test layer(ones(3), p) ≈ [2, 3, 4] && other(ones(3), p) ≈ log.(p)
    @test layer(ones(3), Float32.(p)) ≈ [2, 3, 4]
    @test layer(complex(ones(3)), p) ≈ [2, 3, 4]
    for _ in 1:2  # a failure is not kept
        @test_throws SolveError layer(ones(3), [NaN, 1, 1])
    end
    @test length(SOLUTIONS.kept) == 4
end

@testset "bounded" begin
    layer = the_layer("sqrt").layer
    try
        limit_cache!(4 * 5000)
        for i in 1:100
            @test layer(ones(3), [i, 4.0, 9.0]) ≈ [sqrt(i), 2, 3]
            rrule(layer, ones(3), [i, 4.0, 9.0])[2](ones(3))
            @test SOLUTIONS.bytes[] <= 5000
        end
        @test 3 < length(SOLUTIONS.kept) == length(SOLUTIONS.order) < 20
        limit_cache!(0)
        @test layer(ones(3), [1.0, 2.0, 3.0]) ≈ sqrt.(1:3)
        @test length(SOLUTIONS.kept) == 1
    finally
        limit_cache!(2^30)
        clear!()
    end
end
