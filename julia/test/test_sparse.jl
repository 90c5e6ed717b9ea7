# Values, statuses and bad arguments of `sparse_solve`.

using ImplicitAdjoints
using ImplicitAdjoints: CONVERGED, INACCURATE, NONFINITE, NOT_POSITIVE_DEFINITE,
    NOT_SYMMETRIC, SINGULAR
using LinearAlgebra, Random, SparseArrays, Test

function error_of(f)
    try
        f()
    catch err
        return err
    end
    return nothing
end

@testset "values: $(p.name)" for p in PROBLEMS
    rng = MersenneTwister(1)
    T = eltype(p.values)
    A, pat = dense(p), pattern(p)
    for transposed in (false, true), b in (randn(rng, T, p.n), randn(rng, T, p.n, 3))
        x = @inferred sparse_solve(pat, p.values, b; transposed)
        @test typeof(x) == typeof(b) && size(x) == size(b)
        @test (transposed ? transpose(A) : A) * x ≈ b atol = 1e-12
    end
end

@testset "closed forms" begin
    function solve(name, b; kw...)
        p = the_problem(name)
        return sparse_solve(pattern(p), p.values, b; kw...)
    end
    @test solve("scalar", [1.5]) == [0.5]
    @test solve("permutation", [3.0, 4.0]) == [-4.0, 1.5]      # 2 x₂ = 3, -x₁ = 4
    @test solve("permutation", [3.0, 4.0]; transposed = true) == [2.0, -3.0]
    # sin(πki/5) sin(πlj/5) is an eigenvector, of 4 sin²(πk/10) + 4 sin²(πl/10)
    mode(k, l) = vec([sinpi(k * i / 5) * sinpi(l * j / 5) for i in 1:4, j in 1:4])
    eigenvalue(k, l) = 4 * sinpi(k / 10)^2 + 4 * sinpi(l / 10)^2
    for k in 1:4, l in 1:4
        @test solve("poisson", mode(k, l)) ≈ mode(k, l) / eigenvalue(k, l)
        shifted = eigenvalue(k, l) - (2.0 + 0.3im)
        @test solve("helmholtz", complex(mode(k, l))) ≈ mode(k, l) / shifted
    end
    # (1 + 5N)⁻¹ for the nilpotent part of the advection problem on one line
    p = problem("line", [1.0 5 0; 0 1 5; 0 0 1], "general")
    @test sparse_solve(pattern(p), p.values, [0.0, 0, 1]) ≈ [25.0, -5, 1]
end

@testset "element types" begin
    p = the_problem("poisson")
    A, pat = dense(p), pattern(p)
    b = randn(MersenneTwister(2), p.n)
    for (V, B) in ((Float32, Float32), (Float32, Float64), (Float64, Float32), (Int, Int))
        v, right = V.(p.values), B == Int ? collect(1:(p.n)) : B.(b)
        x = sparse_solve(pat, v, right)
        @test eltype(x) == float(promote_type(V, B))
        @test x ≈ A \ right rtol = sqrt(eps(real(eltype(x))))
    end
    # Computed in double precision, whatever comes in
    @test sparse_solve(pat, Float32.(p.values), Float32.(b)) ==
        Float32.(sparse_solve(pat, p.values, Float64.(Float32.(b))))
    # A complex right-hand side of a real matrix, complex values with a real one
    z = complex.(b, reverse(b))
    @test sparse_solve(pat, p.values, z) ≈ A \ z
    q = the_problem("helmholtz")
    @test sparse_solve(pattern(q), q.values, b) ≈ dense(q) \ b
    z = sparse_solve(pattern(q), ComplexF32.(q.values), ComplexF32.(b))
    @test z isa Vector{ComplexF32}
    @test dense(q) * z ≈ b rtol = 1e-5
    # Views, ranges and transposes are arrays too
    @test sparse_solve(pat, view(p.values, :), 1:(p.n)) ≈ A \ (1:(p.n))
    @test sparse_solve(pat, p.values, transpose(ones(2, p.n))) ≈ A \ ones(p.n, 2)
    @test sparse_solve(pat, p.values, zeros(p.n, 0)) == zeros(p.n, 0)
    @test sparse_solve(pat, p.values, zeros(p.n)) == zeros(p.n)
end

@testset "the arguments are left alone" begin
    for p in PROBLEMS
        v, b = copy(p.values), ones(eltype(p.values), p.n)
        sparse_solve(pattern(p), v, b)
        @test v == p.values && all(==(1), b)
    end
end

@testset "supernodal and simplicial" begin
    for m in (3, 40, 90)  # CHOLMOD chooses by size
        K = laplacian(m)
        p = problem("poisson", K, "spd")
        b = randn(MersenneTwister(m), p.n, 2)
        @test sparse_solve(pattern(p), p.values, b) ≈ cholesky(Symmetric(K)) \ b rtol = 1e-9
    end
end

status_of(A, structure, b = ones(eltype(A), size(A, 1))) = begin
    p = problem("", A, structure)
    err = error_of(() -> sparse_solve(pattern(p), p.values, b))
    err === nothing && return CONVERGED
    err isa SolveError || throw(err)
    only(s for s in instances(Status) if occursin(message(s), err.text))
end

@testset "statuses" begin
    @testset "Neumann, $m × $m, $structure" for m in (2, 5, 30, 100),
        structure in ("general", "symmetric", "spd")

        @test status_of(laplacian(m; dirichlet = false), structure) == SINGULAR
        @test status_of(1e9 * laplacian(m; dirichlet = false), structure) == SINGULAR
        @test status_of(laplacian(m), structure) == CONVERGED
        @test status_of(1e-9 * laplacian(m), structure) == CONVERGED
    end
    @test status_of(laplacian(6; dirichlet = false) .+ 0im, "symmetric") == SINGULAR
    @test status_of(laplacian(6; dirichlet = false) .+ 0im, "general") == SINGULAR
    # Scaling of rows does not make a matrix singular
    scales = Diagonal(10.0 .^ range(-12, 12, 25))
    @test status_of(scales * laplacian(5), "general") == CONVERGED
    @test status_of(scales * laplacian(5) * scales, "spd") == CONVERGED
    zero_row = laplacian(3)
    zero_row[5, :] .= 0  # stored zeros
    @test status_of(zero_row, "general") == SINGULAR
    @test status_of(sparse([1, 2, 3], [1, 2, 2], [1.0, 1, 1], 3, 3), "general") == SINGULAR
    @test status_of(spzeros(3, 3), "general") == SINGULAR
    @test status_of(Diagonal([1.0, 0.0]), "symmetric") == SINGULAR
    @test status_of(-laplacian(5), "spd") == NOT_POSITIVE_DEFINITE
    @test status_of(laplacian(5) - 2.5I, "spd") == NOT_POSITIVE_DEFINITE
    @test status_of(laplacian(40) - 2I, "spd") == NOT_POSITIVE_DEFINITE
    @test status_of(laplacian(5) - 2.5I, "symmetric") == CONVERGED
    @test status_of(spzeros(3, 3), "spd") in (SINGULAR, NOT_POSITIVE_DEFINITE)
    for structure in ("symmetric", "spd", "quasidefinite")
        @test status_of([2.0 1; 1e-9 2], structure) == NOT_SYMMETRIC
        @test status_of([2.0 1; 1.0001 2], structure) == CONVERGED
    end
    for structure in ("general", "symmetric", "spd", "quasidefinite"),
        bad in (NaN, Inf, -Inf)

        A = laplacian(3)
        A[1, 1] = bad
        @test status_of(A, structure) == NONFINITE
        A = laplacian(3)
        A[1, 2] = A[2, 1] = bad
        @test status_of(A, structure) == NONFINITE
        @test status_of(laplacian(3), structure, [bad; ones(8)]) == NONFINITE
    end
    @test status_of(laplacian(3) .+ 0im, "general", [NaN * im; ones(8)]) == NONFINITE
    # Large numbers are finite, though their sums are not
    for structure in ("general", "symmetric", "spd", "quasidefinite")
        big = floatmax() / 8
        @test status_of(Diagonal(fill(big, 20)), structure, fill(big, 20)) == CONVERGED
    end
    @test status_of(Diagonal(fill((1 + im) * floatmax() / 8, 20)), "general") == CONVERGED
    # An answer that overflows is not given out
    tiny = Diagonal([1e-200, 1e-200])
    @test status_of(tiny, "general", [1e200, 1.0]) == INACCURATE
    @test sparse_solve(pattern(problem("", tiny, "spd")), [1e-200, 1e-200], [1.0, 2.0]) ≈
        [1e200, 2e200]
end

@testset "quasi-definite: no pivoting, pivots of any size" begin
    B = sprand(MersenneTwister(2), 9, 25, 0.3)
    for (ρ, δ) in ((0.0, 1.0), (1e-8, 1e-8)), sign in (1, -1)
        K = sign * [laplacian(5)+ρ*I B'; B -δ*I]
        p, b = problem("", K, "quasidefinite"), sin.(1:34)
        @test norm(K * sparse_solve(pattern(p), p.values, b) - b) < 1e-10 * norm(b)
    end
    p = problem("", laplacian(5), "quasidefinite")  # without a negative block
    @test sparse_solve(pattern(p), p.values, ones(25)) ≈ Matrix(laplacian(5)) \ ones(25)
    @test status_of([0.0 1; 1 0], "quasidefinite") == SINGULAR
    # Singular, of which round-off leaves pivots and a small residual.
    w = 1 .+ 2 .* rand(MersenneTwister(5), 39)
    A = SymTridiagonal([w; 0.0] + [0.0; w], -w)
    K = [Matrix(A) zeros(40); zeros(1, 40) -1]
    for M in (Matrix(A), K)
        @test status_of(M, "quasidefinite", sin.(axes(M, 1))) == SINGULAR
    end
end

@testset "the message says which matrix and what to do" begin
    p = problem("", laplacian(3; dirichlet = false), "spd")
    err = error_of(() -> sparse_solve(pattern(p), p.values, ones(9)))
    @test err.text ==
        "sparse_solve: $(message(SINGULAR)). Matrix: 9 x 9, 33 entries, 'spd'."
end

@testset "one bad right-hand side does not spoil the others" begin
    p = the_problem("advection")
    B = randn(MersenneTwister(3), p.n, 3)
    good = sparse_solve(pattern(p), p.values, B)
    B[4, 2] = NaN
    factor = ImplicitAdjoints.find_factor(pattern(p), p.values)
    X = similar(B)
    status, error = ImplicitAdjoints.solve!(X, factor, B, false)
    @test status == [CONVERGED, NONFINITE, CONVERGED]
    @test X[:, [1, 3]] == good[:, [1, 3]] && all(isnan, X[:, 2])
    @test isnan(B[4, 2])
end

@testset "patterns" begin
    rows, cols = [1, 2, 2, 1], [1, 1, 2, 2]
    p = SparsePattern(rows, cols, 2; structure = "spd")
    @test size(p) == (2, 2) && nentries(p) == 4
    @test sprint(show, p) == "SparsePattern(2 × 2, 4 entries, spd)"
    @test_throws "\"spd\" or \"quasidefinite\". Got \"SPD\"" SparsePattern(
        rows, cols, 2; structure = "SPD")
    @test_throws "equally long. Got 4 and 3" SparsePattern(rows, cols[1:3], 2)
    @test_throws "`n` must be at least 1. Got 0" SparsePattern([], [], 0)
    @test_throws "places must lie in 1:1" SparsePattern(rows, cols, 1)
    @test_throws "places must lie in 1:2" SparsePattern([0, 1], [1, 1], 2)
    @test_throws "named once. Got (2, 1) again" SparsePattern([1, 2, 2], [1, 1, 1], 2)
    for structure in ("symmetric", "spd")
        @test_throws "both triangles. Got (2, 1) alone" SparsePattern(
            [1, 2, 2], [1, 1, 2], 2; structure)
        @test_throws "both triangles. Got (1, 3) alone" SparsePattern(
            [1, 1, 2], [2, 3, 1], 3; structure)
    end
    @test_throws ArgumentError SparsePattern(rows, cols, 1)
end

@testset "bad arguments" begin
    p = the_problem("poisson")
    pat = pattern(p)
    @test_throws DimensionMismatch sparse_solve(pat, p.values[1:3], ones(p.n))
    @test_throws "`values` must have 64 entries. Got 3" sparse_solve(
        pat, p.values[1:3], ones(p.n))
    @test_throws "`b` must have 16 rows. Got 15" sparse_solve(pat, p.values, ones(15, 2))
    before = counters().factors
    @test_throws "takes real values" sparse_solve(pat, complex(p.values), ones(p.n))
    @test counters().factors == before
end
