# Sparse quadratic programmes: systems whole and condensed, what is weakly active, blocks,
# neighbours. Programmes and their conditions: test_qp.jl.

# The same programme with sparse matrices; entries in an order of their own.
function sparse_workspace(p::Programme; rng = MersenneTwister(5), limit = nothing)
    n, k, m = length(p.q), length(p.b), length(p.h)
    mixed(M) = shuffle(rng, vec(CartesianIndices(M)[M .!= 0]))
    places = map(mixed, (p.P, p.A, p.G))
    pairs = map(I -> (getindex.(I, 1), getindex.(I, 2)), places)
    of = ImplicitAdjoints.SparseStructure(
        n, k, m, pairs..., !isempty(p.lb), !isempty(p.ub); limit)
    W, dense = QPWorkspace(of), workspace(p)
    for (M, A, I, slots) in zip((W.given.P, W.given.Aᵀ, W.given.Gᵀ), (p.P, p.A, p.G),
        places, of.slots)
        ImplicitAdjoints.numbers(M)[slots] .= A[I]
    end
    foreach(f -> copyto!(getfield(W.given, f), getfield(dense.given, f)), (:q, :b, :d))
    copyto!(W.live, dense.live)
    copyto!(W.fixed, dense.fixed)
    return W
end

@testset "sparse is dense: $form" for (form, limit) in (("whole", 0.0), ("condensed", Inf))
    rng = MersenneTwister(8)
    for (n, k, m, boxed) in ((6, 2, 5, true), (20, 4, 12, true), (8, 0, 9, false),
        (12, 3, 0, true))
        p = random_programme(rng, n, k, m; boxed)
        holes = rand(rng, m, n) .< 0.5
        p.G[holes] .= 0
        W, V = ImplicitAdjoints.solve!(sparse_workspace(p; limit), 1e-9, 60), solved(p)
        @test (W.system.small === nothing) == (form == "whole")
        @test W.status == V.status
        W.status == Int32(CONVERGED) || continue
        @test W.polished && violation(p, W) < 1e-9
        @test W.best.x ≈ V.best.x && W.active == V.active && W.steps <= V.steps + 1
    end
    eye, none = [1.0 0; 0 1], zeros(0, 2)
    bad = Programme(eye, ones(2), [1.0 1], [5.0], none, [], zeros(2), ones(2))
    @test ImplicitAdjoints.solve!(sparse_workspace(bad; limit), 1e-9, 60).status ==
        Int32(INFEASIBLE)
end

@testset "the whole matrix takes over where the condensed one breaks down" begin
    # All rows nearly alike, and P = 0: AᵀA/δ + GᵀWG + ρI is not positive in floating point.
    rng, n, k, m = MersenneTwister(20), 20, 8, 4
    A, G, x0 = 1 .+ 0.3randn(rng, k, n), 1 .+ 0.3randn(rng, m, n), randn(rng, n)
    q, h = A' * randn(rng, k) - G' * rand(rng, m), G * x0 + [0; rand(rng, m - 1)]
    p = Programme(zeros(n, n), q, A, A * x0, G, h, [], [])
    W = ImplicitAdjoints.solve!(sparse_workspace(p; limit = Inf), 1e-9, 60)
    @test W.system.small !== nothing && !W.system.condensed
    @test W.status == Int32(CONVERGED) && W.polished && violation(p, W) < 1e-9
    V = ImplicitAdjoints.solve!(sparse_workspace(p; limit = 0.0), 1e-9, 60)
    @test W.best.x ≈ V.best.x && W.active == V.active
    # One system: three unknowns, two rows with weights far from the rest.
    p = Programme(zeros(3, 3), zeros(3), zeros(0, 3), [], [1.0 1 1; 1 2 3], ones(2), [], [])
    W = sparse_workspace(p; limit = Inf)
    S, D, Δ, Cx, w, ρ =
        W.system, W.given, W.step, zeros(2), [1e14, 1e14 / 3], 1e-8
    ImplicitAdjoints.base!(S, D, ρ, ρ)
    @test S.condensed && ImplicitAdjoints.factor!(S, D, w) && !S.condensed
    r, t = [1.0, -2, 0.5], [3.0, -1]
    ImplicitAdjoints.direction!(Δ, S, D, r, zeros(0), t, w, Cx)
    @test ρ * Δ.x + p.G' * Δ.z ≈ -r rtol = 1e-10
    @test p.G * Δ.x - Δ.z ./ w ≈ -t ./ w atol = 1e-9 * maximum(abs, Δ.x)
    @test !ImplicitAdjoints.factor!(S, D, [NaN, 1.0])
    ImplicitAdjoints.base!(S, D, ρ, ρ)  # the next programme begins anew
    @test S.condensed && ImplicitAdjoints.factor!(S, D, [1.0, 1.0]) && S.condensed
end

@testset "multipliers and slacks of all sizes: what is small is not weakly active" begin
    # The projection of t on x ≤ 0, with one t zero: multipliers and slacks are |t|.
    t = exp10.(range(-4.5, 4.5, 40)) .* [isodd(i) ? 1.0 : -1.0 for i in 1:40]
    t[20] = 0
    none = zeros(0, 40)
    for (G, h, ub) in ((none, [], zeros(40)), (Matrix(1.0I, 40, 40), zeros(40), []))
        p = Programme(Matrix(1.0I, 40, 40), -t, none, [], G, h, [], ub)
        for W in (workspace(p), sparse_workspace(p))
            ImplicitAdjoints.solve!(W, 1e-9, 60)
            @test W.polished && findall(W.weak) == [20] && W.active == (t .> 0)
        end
    end
end

@testset "a dense row is not condensed, and blocks of columns are" begin
    structure(A, G) = sparse_workspace(Programme(Matrix(1.0I, 60, 60), ones(60),
        A, ones(size(A, 1)), G, ones(size(G, 1)), [], [])).system.of
    none, rng = zeros(0, 60), MersenneTwister(3)
    @test structure(ones(1, 60), none).small === nothing
    tridiagonal = Matrix(Tridiagonal(ones(59), -ones(60), zeros(59)))
    @test structure(none, tridiagonal).small !== nothing
    @test structure(none, rand(rng, 60, 60) .* (rand(rng, 60, 60) .< 0.1)).small !== nothing
end

@testset "a neighbour's solution saves all interior point steps" begin
    p = random_programme(MersenneTwister(9), 15, 2, 9)
    for make in (workspace, sparse_workspace)
        W = ImplicitAdjoints.solve!(make(p), 1e-9, 60)
        @test W.steps > 3
        W.given.q .+= 0.05 .* sin.(1:15)
        moved = Programme(p.P, copy(W.given.q), p.A, p.b, p.G, p.h, p.lb, p.ub)
        ImplicitAdjoints.solve!(W, 1e-9, 60; warm = true)
        @test W.steps == 0 && W.polished && violation(moved, W) < 1e-9
        fill!(W.best.z, 1)  # a useless guess costs nothing but time
        @test violation(moved, ImplicitAdjoints.solve!(W, 1e-9, 60; warm = true)) < 1e-9
    end
end
