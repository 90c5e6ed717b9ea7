# One factorisation for all that is asked of one matrix; bounded memory; right answers.

using ChainRulesCore, ImplicitAdjoints, LinearAlgebra, Random, SparseArrays, Test

@testset "forward, adjoint, tangent, transpose: one factorisation ($name)" for name in
    map(p -> p.name, PROBLEMS)

    p = the_problem(name)
    clear!()
    pat, b = pattern(p), ones(eltype(p.values), p.n)
    x, back = rrule(sparse_solve, pat, p.values, b)
    unthunk(back(x)[3])
    frule((NoTangent(), NoTangent(), p.values, b), sparse_solve, pat, p.values, b)
    sparse_solve(pat, copy(p.values), [b b]; transposed = true)
    found = counters()
    @test found.analyses == 1 && found.factorisations == 1 && found.factors == 1
    @test found.cache_hits == 4 && found.solves == 6
    @test found.bytes > sizeof(p.values)
end

# Factors for many solves have sparse columns where others have supernodes.
@testset "for many solves: $what" for (what, A, status) in (
    ("regular", laplacian(120), ImplicitAdjoints.CONVERGED),
    ("singular", laplacian(120; dirichlet = false), ImplicitAdjoints.SINGULAR),
    ("indefinite", laplacian(120) - 2I, ImplicitAdjoints.NOT_POSITIVE_DEFINITE))

    p = problem(what, A, "spd", MersenneTwister(2))
    pat, B = pattern(p), randn(MersenneTwister(1), p.n, 2)
    solved(many) = (clear!(); X = similar(B);
        F = ImplicitAdjoints.find_factor(pat, copy(p.values), many);
        (ImplicitAdjoints.solve!(X, F, B, false)[1], X, is_super(F.numeric)))
    is_super(F) = isnothing(F) ? nothing : unsafe_load(pointer(F)).is_super
    (of_many, X, columns), (of_few, Y, supernodes) = solved(true), solved(false)
    @test of_many == of_few == [status, status]
    isnothing(columns) && continue
    @test A * X ≈ B && X ≈ Y
    @test columns == 0 && supernodes == 1
end

@testset "by content" begin
    clear!()
    p = the_problem("advection")
    pat, v, b = pattern(p), copy(p.values), ones(p.n)
    x = sparse_solve(pat, v, b)
    v .*= 2  # the cache has a copy
    @test sparse_solve(pat, v, b) ≈ x / 2
    @test sparse_solve(pat, v ./ 2, b) == x
    @test counters().factorisations == 2
    # Another pattern of the same places is another matrix
    sparse_solve(pattern(p), p.values, b)
    @test counters().factorisations == 3 && counters().analyses == 2
    # A real and a complex matrix are two; -0.0 differs from 0.0, NaN from nothing
    sparse_solve(pat, complex(p.values), b)
    @test counters().factorisations == 4 && counters().factors == 4
    bad = fill(NaN, length(v))
    for _ in 1:3
        @test_throws SolveError sparse_solve(pat, bad, b)
    end
    @test counters().factorisations == 5
    clear!()
    @test all(iszero, counters())
    @test sparse_solve(pat, p.values, b) == x
    @test counters().analyses == 0  # these belong to the pattern
end

@testset "what is refused is refused again without work: $structure" for structure in
    ("spd", "general")

    clear!()
    p = problem("", laplacian(5; dirichlet = false), structure)
    pat = pattern(p)
    for _ in 1:3
        @test_throws SolveError sparse_solve(pat, p.values, ones(p.n))
    end
    @test counters().factorisations == 1
    @test counters().bytes <= 2 * sizeof(p.values)  # no factor is kept
end

@testset "bytes: $structure, $m" for structure in ("spd", "general"), m in (10, 90)
    clear!()
    p = problem("", laplacian(m), structure)
    pat = pattern(p)
    sparse_solve(pat, p.values, ones(p.n))
    F = ImplicitAdjoints.find_factor(pat, p.values).numeric
    entries = structure == "spd" ? nnz(sparse(F.L)) : nnz(F.L) + nnz(F.U)
    # A number and up to an index for each entry of the factors; vectors and the matrix
    rest = 8 * (20 * p.n + 4 * length(p.values))
    @test 8 * entries < counters().bytes < 1.2 * 16 * entries + rest
end

@testset "eviction: $structure" for structure in ("spd", "symmetric", "general")
    clear!()
    p = problem("", laplacian(20), structure)
    pat, b = pattern(p), ones(p.n)
    x = sparse_solve(pat, p.values, b)
    one = counters().bytes
    try
        limit_cache!(3 * one + one ÷ 2)
        for i in 1:10
            @test sparse_solve(pat, i .* p.values, b) ≈ x / i
            @test counters().bytes <= 3 * one + one ÷ 2
        end
        @test counters().factors == 3
        # The three youngest are there; one that is used becomes young
        clear_counts = counters().factorisations
        sparse_solve(pat, 8 .* p.values, b)
        @test counters().factorisations == clear_counts
        sparse_solve(pat, 11 .* p.values, b)  # drops 9
        @test sparse_solve(pat, 8 .* p.values, b) ≈ x / 8
        @test counters().factorisations == clear_counts + 1
        @test sparse_solve(pat, 9 .* p.values, b) ≈ x / 9
        @test counters().factorisations == clear_counts + 2
        # With no room at all each is made, used and replaced
        limit_cache!(0)
        @test counters().factors == 0
        for i in 1:3
            @test sparse_solve(pat, i .* p.values, b) ≈ x / i
            @test sparse_solve(pat, i .* p.values, b; transposed = true) ≈ x / i
        end
        @test counters().factors == 1
        # A failure in the memory of a good factor, then a good one
        @test_throws SolveError sparse_solve(pat, 0 .* p.values, b)
        @test sparse_solve(pat, 4 .* p.values, b) ≈ x / 4
        # Other patterns and types do not get its memory
        q = the_problem("helmholtz")
        z = sparse_solve(pattern(q), q.values, ones(q.n))
        @test dense(q) * z ≈ ones(q.n)
        @test sparse_solve(pat, 5 .* p.values, b) ≈ x / 5
    finally
        limit_cache!(2^30)
        clear!()
    end
end

@testset "a factor that is taken from its finder is made again" begin
    clear!()
    p = the_problem("poisson")
    pat, B = pattern(p), ones(p.n, 1)
    factor = ImplicitAdjoints.find_factor(pat, p.values)
    limit_cache!(0)   # dropped before it was made
    limit_cache!(2^30)
    X = similar(B)
    @test ImplicitAdjoints.solve!(X, factor, B, false)[1] == [ImplicitAdjoints.CONVERGED]
    @test X ≈ dense(p) \ B
    @test ImplicitAdjoints.release!(factor) !== nothing  # and after
    fill!(X, 0)
    @test ImplicitAdjoints.solve!(X, factor, B, false)[1] == [ImplicitAdjoints.CONVERGED]
    @test X ≈ dense(p) \ B
    @test counters().factorisations == 2
    # One that is being used keeps its memory
    locked, leave = Channel(1), Channel(1)
    task = Threads.@spawn lock(factor.lock) do
        put!(locked, true)
        take!(leave)
    end
    take!(locked)
    @test ImplicitAdjoints.release!(factor) === nothing
    @test factor.numeric !== nothing
    put!(leave, true)
    wait(task)
    clear!()
end
