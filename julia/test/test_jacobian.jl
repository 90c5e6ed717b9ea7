# How Jacobians are made, factorised and checked.

using ChainRulesCore, ImplicitAdjoints, LinearAlgebra, Random, SparseArrays, Test
using ImplicitAdjoints: CONVERGED, INACCURATE, NONFINITE, SINGULAR, Coloured, DenseFactor,
    check_jacobian, factorise, maker, pullback, pushforward, solve, times

isdefined(@__MODULE__, :LAYERS) || include("implicit_problems.jl")

@testset "dense systems: $n" for n in (1, 2, 5, 40)
    rng = MersenneTwister(n)
    A, B = randn(rng, n, n), randn(rng, n, 3)
    F = DenseFactor(A)
    for transposed in (false, true)
        X, status = @inferred solve(F, B, transposed)
        @test status == CONVERGED
        @test (transposed ? A' : A) * X ≈ B rtol = 1e-11
    end
    # Units of equations and unknowns do not matter
    r, c = exp10.(rand(rng, -9:9, n)), exp10.(rand(rng, -9:9, n))
    X, status = solve(DenseFactor(r .* A .* c'), r .* B)
    @test status == CONVERGED
    @test c .* X ≈ A \ B rtol = 1e-7
    # A dependent equation is seen in any units
    if n > 1
        A[n, :] = sum(A[1:(n - 1), :]; dims = 1)
        for S in (A, r .* A .* c', A')
            X, status = solve(DenseFactor(Matrix(S)), B)
            @test status == SINGULAR && all(isnan, X)
        end
    end
    A[1, 1] = NaN
    @test solve(DenseFactor(A), B)[2] == NONFINITE
end
@test solve(DenseFactor([1.0 2; 0 0]), ones(2))[2] == SINGULAR
@test solve(DenseFactor([0.0 2; 1 0]), [3.0, 4.0])[1] == [4.0; 1.5;;]
@test solve(DenseFactor([1.0 0; 0 1]), [NaN, 1.0])[2] == NONFINITE
let hilbert = [1 / (i + j - 1) for i in 1:14, j in 1:14]
    @test solve(DenseFactor(hilbert), ones(14))[2] in (SINGULAR, INACCURATE)
end

@testset "colours" begin
    tridiagonal = Coloured(band_pattern(9))
    @test tridiagonal.ncolours == 3
    @test tridiagonal.colour == repeat(1:3, 3)
    for structure in ("general", "symmetric"), m in (1, 2, 7)
        p = problem("", laplacian(m), structure)
        c = Coloured(pattern(p))
        for i in 1:(p.n)  # no two columns of a colour meet in a row
            @test allunique(c.colour[p.cols[p.rows .== i]])
        end
        @test c.ncolours <= 13 && all(>(0), c.colour)
    end
    full = SparsePattern(repeat(1:12, 12), repeat(1:12; inner = 12), 12)
    @test Coloured(full).colour == 1:12  # more colours than directions at once
end

# F with a Jacobian of the pattern of `A`, and exactly A + 2 diag(z) there.
const STENCIL = laplacian(6) + 3 * kron(I(6), spdiagm(1 => ones(5)))
stencil(z, p) = STENCIL * z + z .* z - p

@testset "compressed, given and dense are the same matrix" begin
    z, p = randn(MersenneTwister(1), 36), ones(36)
    dense(J) = hcat([times(J, Float64.(1:36 .== j), false) for j in 1:36]...)
    exact = STENCIL + 2 * Diagonal(z)
    rows, cols, _ = findnz(STENCIL)
    order = randperm(MersenneTwister(2), length(rows))
    scattered = SparsePattern(rows[order], cols[order], 36)
    full = SparsePattern(repeat(1:36, 36), repeat(1:36; inner = 36), 36)
    for how in (nothing, scattered, full, (z, p) -> exact, (z, p) -> Matrix(exact))
        J = factorise(maker(how), stencil, (z, p))
        @test dense(J) ≈ exact
        B = randn(MersenneTwister(3), 36, 2)
        @test exact * solve(J, B)[1] ≈ B && exact' * solve(J, B, true)[1] ≈ B
        @test check_jacobian(J, stencil, (z, p)) === nothing
    end
    # Symmetric where it is
    A, ones16 = laplacian(4), ones(16)
    for structure in ("symmetric", "spd")
        p = problem("", A, structure)
        J = factorise(maker(pattern(p)), (z, b) -> A * z - b, (ones16, ones16))
        @test A * solve(J, ones16)[1] ≈ ones16
    end
end

@testset "a sparse matrix is analysed once" begin
    clear!()
    layer = ImplicitRoot(banded; jacobian = (z, p) -> sparse(banded_jacobian(z, p)))
    p = log_profile(30)
    @test layer(ones(30), p) ≈ exp.(p)
    @test layer(ones(30), 2p) ≈ exp.(2p)
    rrule(layer, ones(30), p)[2](ones(30))
    found = counters()
    @test found.analyses == 1 && found.factorisations > 5
end

@testset "a Jacobian that is not that of F is refused in a derivative" begin
    p = log_profile(12)
    wrong(z, p) = (J = Matrix(banded_jacobian(z, p)); J[3, 4] += 1e-4; J)
    full = band_pattern(12)
    there = [(i, j) != (7, 6) for (i, j) in zip(full.rows, full.cols)]
    missing_one = SparsePattern(full.rows[there], full.cols[there], 12)
    for jacobian in (wrong, sparse ∘ wrong, missing_one)
        layer = ImplicitRoot(banded; jacobian)
        @test layer(ones(12), p) ≈ exp.(p)  # the iteration forgives
        @test_throws "`jacobian` must be ∂F/∂z of `banded` exactly" rrule(
            layer, ones(12), p)[2](ones(12))
        @test_throws "must be ∂F/∂z" frule(
            (NoTangent(), NoTangent(), p), layer, ones(12), p)
    end
    # A derivative that is not finite is the solve's to report, on either side
    cusp(z, p) = sqrt.(abs.(z)) - p
    infinite = ImplicitRoot(cusp; jacobian = (z, p) -> [Inf;;], throw = false)
    finite = ImplicitRoot(cusp; jacobian = (z, p) -> [1.0;;])
    @test isnan(only(unthunk(rrule(infinite, [0.0], [0.0])[2]([1.0])[3])))
    @test_throws "must be ∂F/∂z" rrule(finite, [0.0], [0.0])[2]([1.0])
    @test_throws "must be 2 x 2, as many as there are unknowns. Got 5 x 5" ImplicitRoot(
        square_minus; jacobian = band_pattern(5))(ones(2), 2ones(2))
    @test_throws "Got 3 x 3" ImplicitRoot(
        square_minus; jacobian = (z, p) -> ones(3, 3))(ones(2), 2ones(2))
    @test_throws "must return a matrix of real numbers. Got Float64" ImplicitRoot(
        square_minus; jacobian = (z, p) -> 1.0)(ones(2), 2ones(2))
end

@testset "products by rules and by dual numbers" begin
    x = (MATRIX, [1.0, 2.0, 3.0, 4.0, 5.0], 2, 3.0)
    f(A, b, k, s) = A * b .^ k .* s
    ẋ = (randn(MersenneTwister(4), 5, 5), ones(5), NoTangent(), ZeroTangent())
    ẏ = pushforward(f, x, ẋ)
    @test ẏ ≈ 3 * (ẋ[1] * x[2] .^ 2 + 2 * x[1] * x[2])
    w = [1.0, -1, 2, 0, 3]
    Ā, b̄, k̄, s̄ = map(unthunk, pullback(f, x, w))
    @test Ā ≈ 3 * w * (x[2] .^ 2)' && b̄ ≈ 6 * x[2] .* (MATRIX' * w)
    @test k̄ isa NoTangent && s̄ ≈ dot(w, MATRIX * x[2] .^ 2)
    # F may take the type of its results from z, whatever is differentiated
    filled(z, p) = (y = similar(z); y .= z .* p; y)
    @test unthunk(pullback(filled, ([1.0, 2.0], [3.0, 4.0]), [1.0, 1.0])[2]) == [1.0, 2.0]
    @test pushforward(filled, ([1.0, 2.0], [3.0, 4.0]), (ZeroTangent(), [1.0, 1.0])) ==
        [1.0, 2.0]
    # Where F does not depend on an argument
    @test unthunk(pullback((a, b) -> 2a, (1.0, [2.0]), [1.0])[2]) == [0.0]
    @test pushforward((a, b) -> 2a, (1.0, [2.0]), (ZeroTangent(), [1.0])) == [0.0]
    # What cannot move says so only when asked
    @test pullback((a, b) -> a, (1.0, "text"), [1.0])[2] isa ChainRulesCore.NotImplemented
    @test pullback((a, b) -> a, (1.0, sin), [1.0])[2] isa NoTangent
end
