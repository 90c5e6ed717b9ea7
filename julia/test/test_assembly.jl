# P1 stiffness entries by closed forms, and the rules of a linear map.

using ChainRulesCore, ChainRulesTestUtils, ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: Pullback, Pushforward, diffusion_assembly

# Each element entry in a place of its own, so that they can be seen.
apart(k, n) = reshape(collect(1:(k * k * n)), k, k, n)

@testset "an interval" begin
    assembly = DiffusionAssembly([0.0 0.5 2.0], [1 2; 2 3], apart(2, 2), 8)
    @test assembly([3.0, 5.0]) ≈ [3 / 0.5 .* [1, -1, -1, 1]; 5 / 1.5 .* [1, -1, -1, 1]]
end

@testset "the right triangle and the unit tetrahedron" begin
    triangle = DiffusionAssembly([0.0 1 0; 0 0 1], [1; 2; 3;;], apart(3, 1), 9)
    @test reshape(triangle([2.0]), 3, 3) ≈ [2.0 -1 -1; -1 1 0; -1 0 1]
    tetrahedron = DiffusionAssembly(
        [0.0 1 0 0; 0 0 1 0; 0 0 0 1], [1; 2; 3; 4;;], apart(4, 1), 16)
    @test reshape(tetrahedron([6.0]), 4, 4) ≈ [3.0 -1 -1 -1; -1 1 0 0; -1 0 1 0; -1 0 0 1]
    # The order of the corners, so the sign of the volume, does not matter
    turned = DiffusionAssembly([0.0 1 0; 0 0 1], [1; 3; 2;;], apart(3, 1), 9)
    @test reshape(turned([2.0]), 3, 3) ≈ [2.0 -1 -1; -1 1 0; -1 0 1]
end

# Two triangles that share an edge, in a matrix of compressed entries.
function square_assembly()
    points, cells = [0.0 1 0 1; 0 0 1 1.5], [1 2; 2 4; 3 3]
    place = Dict{Tuple{Int,Int},Int}()
    slot = [get!(place, (cells[i, e], cells[j, e]), length(place) + 1)
            for i in 1:3, j in 1:3, e in 1:2]
    return DiffusionAssembly(points, cells, slot, length(place))
end

@testset "sums over cells, threaded or not" begin
    assembly = square_assembly()
    @test assembly([1.0, 0.0]) + 2 * assembly([0.0, 1.0]) ≈ assembly([1.0, 2.0])
    @test eltype(assembly(Float32[1, 2])) == Float64
    # Many cells: more than one piece of work
    n = 50_000
    line = DiffusionAssembly(
        reshape(collect(range(0.0, 1, n + 1)), 1, :), [(1:n)'; (2:(n + 1))'],
        repeat(reshape([1, 2, 2, 1], 2, 2, 1), 1, 1, n), 2)
    κ = rand(MersenneTwister(9), n)
    @test line(κ) ≈ 2n * sum(κ) .* [1, -1]
    v̄ = [1.0, 2.0]
    @test rrule(line, κ)[2](v̄)[2] ≈ fill(2n * (1 - 2), n)
end

@testset "rules" begin
    Random.seed!(10)
    assembly = square_assembly()
    κ, κ̇ = [1.5, 2.5], [0.3, -0.4]
    v̄ = randn(length(assembly(κ)))
    test_frule(assembly ⊢ NoTangent(), κ)
    test_rrule(assembly ⊢ NoTangent(), κ)
    pushed, pulled = Pushforward(assembly, (true,)), Pullback(assembly, (true,))
    @test @inferred(pushed(κ, κ̇)) ≈ assembly(κ̇)
    @test @inferred(pulled(κ, v̄)) == (unthunk(rrule(assembly, κ)[2](v̄)[2]),)
    test_frule(pushed ⊢ NoTangent(), κ, κ̇)
    test_rrule(pushed ⊢ NoTangent(), κ, κ̇)
    test_frule(pulled ⊢ NoTangent(), κ, v̄)
    test_rrule(pulled ⊢ NoTangent(), κ, v̄)
    # Thunks and zeros
    @test frule((NoTangent(), @thunk(κ̇)), assembly, κ)[2] == assembly(κ̇)
    for none in (ZeroTangent(), NoTangent(), @thunk(ZeroTangent()))
        @test frule((NoTangent(), none), assembly, κ)[2] isa ZeroTangent
        @test rrule(assembly, κ)[2](none) == (NoTangent(), ZeroTangent())
        for (p, y) in ((pushed, κ̇), (pulled, v̄))
            @test frule((NoTangent(), NoTangent(), none), p, κ, y)[2] isa ZeroTangent
            @test rrule(p, κ, y)[2](none) ==
                (NoTangent(), ZeroTangent(), ZeroTangent())
        end
    end
    @test rrule(assembly, Float32.(κ))[2](v̄)[2] isa Vector{Float32}
end

@testset "bad arguments" begin
    points, cells = [0.0 1 0; 0 0 1], [1; 2; 3;;]
    @test_throws "must have 3 corners. Got 4" DiffusionAssembly(
        points, [1; 2; 3; 1;;], apart(4, 1), 16)
    @test_throws "`slot` must have size (3, 3, 1). Got (3, 3, 2)" DiffusionAssembly(
        points, cells, apart(3, 2), 18)
    @test_throws "`slot` must lie in 1:8" DiffusionAssembly(points, cells, apart(3, 1), 8)
    @test_throws "`cells` must lie in 1:3" DiffusionAssembly(
        points, [1; 2; 4;;], apart(3, 1), 9)
    @test_throws "cell 1 has no volume" DiffusionAssembly(
        [0.0 1 2; 0 1 2], cells, apart(3, 1), 9)
    @test_throws "expected 1 numbers, got 2" DiffusionAssembly(
        points, cells, apart(3, 1), 9)([1.0, 2.0])
end

@testset "as Python has it: cell first, from zero" begin
    assembly = diffusion_assembly(
        [0.0 0; 1 0; 0 1], [0 1 2], reshape(0:8, 1, 3, 3), 9)
    @test reshape(assembly([2.0]), 3, 3) ≈ [2.0 -1 -1; -1 1 0; -1 0 1]
end
