# The rules against finite differences, and what they do with thunks, zeros and failures.

using ChainRulesCore, ChainRulesTestUtils, FiniteDifferences
using ImplicitAdjoints, LinearAlgebra, Random, Test

# Small steps: a symmetric pattern refuses values that differ much across the diagonal.
const FDM = central_fdm(5, 1; max_range = 1e-5)
const LOOSE = (; fdm = FDM, rtol = 1e-6, atol = 1e-7)

@testset "sparse_solve: $(p.name), transposed = $transposed" for p in PROBLEMS,
    transposed in (false, true)

    Random.seed!(4)
    T = eltype(p.values)
    pat = pattern(p)
    for b in (randn(T, p.n), randn(T, p.n, 2))
        test_frule(sparse_solve, pat ⊢ NoTangent(), p.values, b;
            fkwargs = (; transposed), LOOSE...)
        test_rrule(sparse_solve, pat ⊢ NoTangent(), p.values, b;
            fkwargs = (; transposed), LOOSE...)
    end
end

@testset "real and complex mixed" begin
    Random.seed!(5)
    p, q = the_problem("poisson"), the_problem("helmholtz")
    general = the_problem("advection")
    for (p, values, b) in (
        (p, p.values, randn(ComplexF64, p.n)),
        (general, general.values, randn(ComplexF64, general.n)),
        (q, q.values, randn(q.n)))

        test_frule(sparse_solve, pattern(p) ⊢ NoTangent(), values, b; LOOSE...)
        test_rrule(sparse_solve, pattern(p) ⊢ NoTangent(), values, b; LOOSE...)
    end
    # Cotangents have the types of what they belong to
    _, back = rrule(sparse_solve, pattern(p), Float32.(p.values), ones(Float32, p.n))
    _, _, v̄, b̄ = back(ones(Float32, p.n))
    @test unthunk(v̄) isa Vector{Float32} && b̄ isa Vector{Float32}
    _, back = rrule(sparse_solve, pattern(p), p.values, ones(ComplexF64, p.n))
    @test unthunk(back(ones(ComplexF64, p.n))[3]) isa Vector{Float64}
end

@testset "one stored entry of a symmetric matrix" begin
    # CHOLMOD reads one triangle; the derivative must not see that.
    p = problem("poisson", laplacian(3), "spd")
    pat, b = pattern(p), collect(1.0:9.0)
    loss(v) = sum(abs2, sparse_solve(pat, v, b))
    x, back = rrule(sparse_solve, pat, p.values, b)
    v̄ = unthunk(back(2x)[3])
    for (i, j) in ((1, 1), (2, 1), (1, 2))
        k = findfirst(==((i, j)), collect(zip(p.rows, p.cols)))
        change(h) = loss([v + h * (m == k) for (m, v) in enumerate(p.values)])
        @test v̄[k] ≈ FDM(change, 0.0) rtol = 1e-6
    end
end

@testset "thunks and zeros" begin
    p = the_problem("advection")
    pat, v, b = pattern(p), p.values, ones(p.n)
    v̇, ḃ = randn(MersenneTwister(6), length(v)), randn(MersenneTwister(7), p.n)
    tangent(v̇, ḃ) = frule((NoTangent(), NoTangent(), v̇, ḃ), sparse_solve, pat, v, b)[2]
    both = tangent(v̇, ḃ)
    @test tangent(@thunk(v̇), @thunk(ḃ)) == both
    @test tangent(v̇, ZeroTangent()) + tangent(ZeroTangent(), ḃ) ≈ both
    @test tangent(v̇, NoTangent()) == tangent(v̇, ZeroTangent()) ≈ tangent(v̇, zero(b))
    @test tangent(ZeroTangent(), NoTangent()) isa ZeroTangent
    @test tangent(@thunk(ZeroTangent()), ḃ) == tangent(ZeroTangent(), ḃ)

    x, back = rrule(sparse_solve, pat, v, b)
    plain = back(x)
    @test plain[1:2] == (NoTangent(), NoTangent())
    @test plain[3] isa AbstractThunk  # not computed for who wants the other alone
    thunked = back(@thunk x)
    @test unthunk(thunked[3]) == unthunk(plain[3]) && thunked[4] == plain[4]
    @test back(ZeroTangent()) == back(NoTangent()) == back(@thunk(ZeroTangent())) ==
        (NoTangent(), NoTangent(), ZeroTangent(), ZeroTangent())
    before = counters().solves
    back(ZeroTangent())
    @test counters().solves == before
end

@testset "failures in a rule are errors" begin
    p = problem("", laplacian(3; dirichlet = false), "spd")
    tangents = (NoTangent(), NoTangent(), p.values, ones(9))
    @test_throws SolveError rrule(sparse_solve, pattern(p), p.values, ones(9))
    @test_throws SolveError frule(tangents, sparse_solve, pattern(p), p.values, ones(9))
    p = the_problem("poisson")
    _, back = rrule(sparse_solve, pattern(p), p.values, ones(p.n))
    @test_throws "NaN or infinity" back(fill(NaN, p.n))
    @test_throws DimensionMismatch back(ones(3))
end

@testset "adjoint and tangent agree: $(p.name)" for p in PROBLEMS
    rng = MersenneTwister(8)
    T = eltype(p.values)
    pat, b, x̄ = pattern(p), randn(rng, T, p.n), randn(rng, T, p.n)
    v̇, ḃ = randn(rng, T, length(p.values)), randn(rng, T, p.n)
    _, ẋ = frule((NoTangent(), NoTangent(), v̇, ḃ), sparse_solve, pat, p.values, b)
    _, _, v̄, b̄ = rrule(sparse_solve, pat, p.values, b)[2](x̄)
    @test dot(x̄, ẋ) ≈ dot(unthunk(v̄), v̇) + dot(b̄, ḃ)
end
