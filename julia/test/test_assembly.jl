# Operators on simplices by closed forms, and their rules, also in the points.

using ChainRulesCore, ChainRulesTestUtils, ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: Pullback, Pushforward, make_assembly

# Each element entry in a place of its own, so that they can be seen.
function apart(op, points, cells; entries = size(cells, 1)^2, dim = size(points, 1))
    n = entries * size(cells, 2)
    return Assembly(op, cells, reshape(1:n, entries, :), n, size(points, 2); dim)
end
square(v) = reshape(v, isqrt(length(v)), :)'  # test functions down, trial functions across

const SEGMENT = [0.0 0.5 2.0]
const TRIANGLE = [0.0 1 0; 0 0 1]
const TETRAHEDRON = [0.0 1 0 0; 0 0 1 0; 0 0 0 1]

@testset "diffusion" begin
    line = apart(Diffusion(), SEGMENT, [1 2; 2 3])
    @test line(SEGMENT, [3.0 5.0]) ≈ [3 / 0.5 .* [1, -1, -1, 1]; 5 / 1.5 .* [1, -1, -1, 1]]
    @test square(apart(Diffusion(), TRIANGLE, [1; 2; 3;;])(TRIANGLE, [2.0;;])) ≈
        [2.0 -1 -1; -1 1 0; -1 0 1]
    # The order of the corners, so the sign of the volume, does not matter
    @test square(apart(Diffusion(), TRIANGLE, [1; 3; 2;;])(TRIANGLE, [2.0;;])) ≈
        [2.0 -1 -1; -1 1 0; -1 0 1]
    @test square(apart(Diffusion(), TETRAHEDRON, [1; 2; 3; 4;;])(TETRAHEDRON, [6.0;;])) ≈
        [3.0 -1 -1 -1; -1 1 0 0; -1 0 1 0; -1 0 0 1]
    # K = [1 2; 3 4], row by row: entry (2, 3) is e₁ᵀ K e₂ / 2
    K = square(apart(TensorDiffusion(), TRIANGLE, [1; 2; 3;;])(TRIANGLE, [1.0; 2; 3; 4;;]))
    @test K[2:3, 2:3] ≈ [1 2; 3 4] / 2 && sum(abs, sum(K; dims = 1)) < 1e-14
end

@testset "mass, advection, load" begin
    @test square(apart(Mass(), TRIANGLE, [1; 2; 3;;])(TRIANGLE, [24.0;;])) ≈
        [2.0 1 1; 1 2 1; 1 1 2]
    two = square(apart(Mass(2), TRIANGLE, [1; 2; 3;;]; entries = 36)(TRIANGLE, [24.0;;]))
    @test two ≈ kron([2.0 1 1; 1 2 1; 1 1 2], I(2))
    b = square(apart(Advection(), TRIANGLE, [1; 2; 3;;])(TRIANGLE, [6.0; 12;;]))
    @test b ≈ ones(3) * [-3 1 2]
    loads = apart(Load(2), TRIANGLE, [1; 2; 3;;]; entries = 6)(TRIANGLE, [6.0; 12;;])
    @test loads ≈ [1, 2, 1, 2, 1, 2]
    # On facets: a point, a side of length √2, a triangle of area √3/2
    @test apart(Load(), [0.0 1], [2;;]; entries = 1, dim = 1)([0.0 1], [3.0;;]) ≈ [3]
    @test apart(Mass(), TRIANGLE, [2; 3;;])(TRIANGLE, [6.0;;]) ≈ √2 .* [2, 1, 1, 2]
    @test apart(Load(), TETRAHEDRON, [2; 3; 4;;]; entries = 3)(TETRAHEDRON, [3.0;;]) ≈
        fill(√3 / 2, 3)
end

@testset "elasticity" begin
    stiffness = square(apart(Elasticity(), TETRAHEDRON, [1; 2; 3; 4;;]; entries = 144)(
        TETRAHEDRON, [6.0; 12;;]))
    @test stiffness ≈ stiffness'
    turn = vec([0 -1 0; 1 0 0; 0 0 0] * TETRAHEDRON)  # rigid motions carry no energy
    @test norm(stiffness * turn) < 1e-13
    @test norm(stiffness * repeat([1.0, 2, 3], 4)) < 1e-13
    grow = vec(TETRAHEDRON)  # ε = I: 2μ 3 + λ 9, times the volume
    @test grow' * stiffness * grow ≈ (2 * 6 * 3 + 12 * 9) / 6
end

# A mesh whose cells share corners, in compressed entries.
function small(op, dim; k = dim + 1, test = 1, trial = test)
    points = [0.0 0.7 2.0 0.3 1.1; 0.1 0 0.4 1.5 1.6; 0.0 0.2 -0.1 1.2 1.3][1:dim, :]
    cells = [1 2; 2 3; 3 4; 4 5][1:k, :]
    n = op isa Load ? 1 : k
    place = Dict{Tuple{Int,Int},Int}()
    slot = map(Iterators.product(1:(trial * n), 1:(test * k), 1:2)) do (j, i, e)
        row = test * (cells[cld(i, test), e] - 1) + mod1(i, test)
        column = op isa Load ? 1 : trial * (cells[cld(j, trial), e] - 1) + mod1(j, trial)
        get!(place, (row, column), length(place) + 1)
    end
    return Assembly(op, cells, slot, length(place), 5; dim), points
end

const CASES = [
    (Diffusion(), 3, (;), 1), (TensorDiffusion(), 2, (;), 4), (Advection(), 1, (;), 1),
    (Elasticity(), 2, (; test = 2), 2), (Mass(2), 2, (; k = 2, test = 2), 1),
    (Load(3), 3, (; k = 3, test = 3, trial = 1), 3)]

@testset "rules: $(ImplicitAdjoints.name(op)) in $dim-D $how" for (op, dim, how, m) in CASES
    Random.seed!(10)
    A, X = small(op, dim; how...)
    θ, Ẋ, θ̇ = 1 .+ rand(m, 2), randn(size(X)), randn(m, 2)
    v = randn(length(A(X, θ)))
    n = (; check_inferred = false, rtol = 1e-7, atol = 1e-7)  # of the differences
    test_frule(A ⊢ NoTangent(), X, θ; n...)
    test_rrule(A ⊢ NoTangent(), X, θ; n...)
    test_frule(Transposed(A) ⊢ NoTangent(), X, v; n...)
    test_rrule(Transposed(A) ⊢ NoTangent(), X, v; n...)
    for F in (op isa Elasticity && dim == 2 ? (A, Transposed(A)) : (A,))
        z, ż, w = F === A ? (θ, θ̇, v) : (v, randn(length(v)), θ)
        pushed, pulled = Pushforward(F, (true, true)), Pullback(F, (true, true))
        test_frule(pushed ⊢ NoTangent(), X, z, Ẋ, ż; n...)
        test_rrule(pushed ⊢ NoTangent(), X, z, Ẋ, ż; n...)
        test_frule(pulled ⊢ NoTangent(), X, z, w; n...)
        test_rrule(pulled ⊢ NoTangent(), X, z, w; n...)
        X̄, z̄ = map(unthunk, rrule(F, X, z)[2](w)[2:3])
        for (W, some) in (((true, false), (X̄,)), ((false, true), (z̄,)))
            @test Pullback(F, W)(X, z, w) == some
            op isa Advection || continue
            test_rrule(Pullback(F, W) ⊢ NoTangent(), X, z, w; n...)
            test_rrule(Pushforward(F, W) ⊢ NoTangent(), X, z, W[1] ? Ẋ : ż; n...)
        end
    end
end

@testset "types, zeros, precision, threads" begin
    A, X = small(Elasticity(), 2; test = 2)
    θ = [1.0 2; 3 4]
    v = @inferred A(X, θ)
    @inferred Transposed(A)(X, v)
    @inferred ImplicitAdjoints.points_pullback(A, X, θ, v)
    @inferred Pushforward(A, (true, false))(X, θ, X)
    for none in (ZeroTangent(), NoTangent(), @thunk(ZeroTangent()))
        @test frule((NoTangent(), none, none), A, X, θ)[2] isa ZeroTangent
        @test all(t -> t isa AbstractZero, rrule(A, X, θ)[2](none))
    end
    @test eltype(A(Float32.(X), Float32.(θ))) == Float64
    @test unthunk(rrule(A, X, Float32.(θ))[2](v)[3]) isa Matrix{Float32}
    # Many cells: more than one piece of work, and the same sums as in one
    n = 20_000
    points, cells = reshape(collect(range(0.0, 1, n + 1)), 1, :), [(1:n)'; (2:(n + 1))']
    slot = [3(e + i - 1) - 1 + j - i for j in 1:2, i in 1:2, e in 1:n]
    line = Assembly(Diffusion(), cells, slot, 3n + 3, n + 1)
    κ = rand(MersenneTwister(9), 1, n)
    a = line(points, κ)
    @test a[3:3:(3n)] == a[4:3:(3n + 1)] ≈ -n .* vec(κ)
    @test a[5:3:(3n - 1)] ≈ n .* (κ[1:(n - 1)] .+ κ[2:n])
    @test a[1] == a[end] == 0
    pieces = length(line.entries.pieces)
    @test pieces == min(ImplicitAdjoints.workers(), 5)
    whole(s) = ImplicitAdjoints.Scatter(s.owners, s.starts, s.offsets, s.size,
        [ImplicitAdjoints.Piece(1:(n + 1), 1:(s.size), [1:n], [true])])
    alone = typeof(line)(line.operator, whole(line.entries), whole(line.nodes))
    @test alone(points, κ) == a
    @test ImplicitAdjoints.points_pullback(alone, points, κ, a) ==
        ImplicitAdjoints.points_pullback(line, points, κ, a)
    # Cells in any order, and places that owners share: one piece does it
    order = shuffle(MersenneTwister(1), 1:n)
    mixed = Assembly(Diffusion(), cells[:, order], slot[:, :, order], 3n + 3, n + 1)
    @test length(mixed.entries.pieces) == pieces
    @test mixed(points, κ[:, order]) ≈ a
    shared = Assembly(Diffusion(), cells, ones(Int, 2, 2, n), 1, n + 1)
    @test length(shared.entries.pieces) == 1 && abs(only(shared(points, κ))) < 1e-6
    far = Assembly(Diffusion(), cells, 1000 .* (slot .- 1) .+ 1, 3000n + 3000, n + 1)
    @test eltype(far.entries.offsets) == Int32 && far(points, κ)[1:1000:end] ≈ a
    # What was there before does not matter, also where nothing is added
    for (A, θ) in ((line, κ), (mixed, κ[:, order]), (shared, κ), (far, κ))
        y = fill(NaN, A.entries.size)
        @test ImplicitAdjoints.assemble!(y, A, points, θ) == A(points, θ)
        @test all(isfinite, y)
    end
end

@testset "bad arguments" begin
    cells = [1; 2; 3;;]
    make(; cells = cells, slot = 1:9, n = 9, op = Diffusion(), how...) =
        Assembly(op, cells, slot, n, 3; how...)
    @test_throws "must have 4 corners, facets 3. Got 2" make(; cells = [1; 2;;], dim = 3)
    @test_throws "Diffusion must be assembled over cells" make(; cells = [1; 2;;], dim = 2)
    @test_throws "9 rows for each of 1 cells. Got size (8,)" make(; slot = 1:8)
    @test_throws "`slot` must lie in 1:8" make(; n = 8)
    @test_throws "`cells` must lie in 1:3" make(; cells = [1; 2; 4;;])
    @test_throws "cell 1 has no volume" make()([0.0 1 2; 0 1 2], [1.0;;])
    @test_throws "coefficients of size (1, 1). Got (1, 2)" make()(TRIANGLE, [1.0 2.0])
    @test_throws "points of size (2, 3). Got (2, 4)" make()(rand(2, 4), [1.0;;])
    @test_throws "entries of size (9,). Got (8,)" Transposed(make())(TRIANGLE, ones(8))
end

@testset "as Python has it: cell first, from zero" begin
    A = make_assembly("Mass", 2, Int32[0 1 2], reshape(Int32.(0:35), 1, 6, 6), 36, 3, 2)
    @test A(TRIANGLE, [24.0;;])[1:6] ≈ [2, 0, 1, 0, 1, 0]
    B = make_assembly("Advection", 1, Int32[0 1 2], reshape(Int32.(0:8), 1, 3, 3), 9, 3, 2)
    @test B(TRIANGLE, [6.0; 12;;])[1:3:9] ≈ [-3, 1, 2]
end

@testset "blocks of diffusion" begin
    rng = MersenneTwister(7)
    for k in 2:4
        others = ntuple(_ -> Tuple(randn(rng, k - 1)), k - 1)
        G = (map(-, reduce(ImplicitAdjoints.plus, others)), others...)
        B = ImplicitAdjoints.blocks(Diffusion(), (1.7,), G)
        for i in 1:k, j in 1:k
            @test B[i][j][1][1] ≈ 1.7 * dot(collect(G[i]), collect(G[j])) atol = 1e-13
        end
    end
end
