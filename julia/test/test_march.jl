# The march: against the dense block matrix, its rules, and as XLA calls it.

using ChainRulesCore, ChainRulesTestUtils, FiniteDifferences
using ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: march_pointer, register_pattern

# A scheme with a memory of two steps, whose steps change.
function marching(name, order; m = 4, seed = 1)
    p = the_problem(name)
    rng = MersenneTwister(seed)
    T = eltype(p.values)
    M = [Float64(i == j) * 2 + 0.1 for (i, j) in zip(p.rows, p.cols)] .* one(T)
    return (; p, M, K = p.values, c = [0.3, 0.3, 0.2, 0.5][1:m], w = rand(rng, 2, m),
        q = rand(rng, 2, m) / 4, f = randn(rng, T, p.n, order, m))
end
arguments(s) = pattern(s.p), s.M, s.K, s.c, s.w, s.q, s.f

# L as a dense matrix: rows (1) and (2), states one after the other.
function block_matrix(s)
    n, order, m = size(s.f)
    M, K = dense(s.p, s.M), dense(s.p, s.K)
    L = zeros(eltype(K), n, order, m, n, order, m)
    for j in 1:m
        L[:, 1, j, :, order, j] += M
        L[:, 1, j, :, 1, j] += s.c[j] * K
        if order == 2
            L[:, 2, j, :, 1, j] += I(n)
            L[:, 2, j, :, 2, j] -= s.c[j] * I(n)
        end
        for d in 1:min(2, j - 1)
            L[:, 1, j, :, order, j - d] -= s.w[d, j] * M
            L[:, 1, j, :, 1, j - d] += s.q[d, j] * K
            if order == 2
                L[:, 2, j, :, 1, j - d] -= s.w[d, j] * I(n)
                L[:, 2, j, :, 2, j - d] -= s.q[d, j] * I(n)
            end
        end
    end
    return reshape(L, n * order * m, :)
end

const MARCHES = [(n, o) for n in ("poisson", "advection", "helmholtz") for o in (1, 2)]

@testset "march: $name, order $order" for (name, order) in MARCHES
    s = marching(name, order)
    L = block_matrix(s)
    given = arguments(s)
    clear!()
    for transposed in (false, true)
        y = @inferred march(given...; transposed)
        @test (transposed ? transpose(L) : L) * vec(y) ≈ vec(s.f)
    end
    @test counters().factorisations == 3  # one for each length of step
    @test counters().solves == 8
end

@testset "rules of the march: $name, order $order" for (name, order) in MARCHES
    s = marching(name, order; m = 3)
    loose = (; fdm = central_fdm(5, 1; max_range = 1e-5), rtol = 1e-6, atol = 1e-6)
    for transposed in (false, true)
        pat, rest... = arguments(s)
        test_frule(march, pat ⊢ NoTangent(), rest...; fkwargs = (; transposed), loose...)
        test_rrule(march, pat ⊢ NoTangent(), rest...; fkwargs = (; transposed), loose...)
    end
    _, back = rrule(march, arguments(s)...)
    @test all(==(ZeroTangent()), back(ZeroTangent())[3:end])
end

@testset "marches that fail" begin
    s = marching("poisson", 1)
    @test_throws "positive definite" march(
        pattern(s.p), s.M, -20 .* s.K, s.c, s.w, s.q, s.f)
    bad = copy(s.f)
    bad[2, 1, 3] = NaN
    @test_throws "solve 3 of 4" march(pattern(s.p), s.M, s.K, s.c, s.w, s.q, bad)
    @test_throws "`M` must have 64 entries. Got 3" march(
        pattern(s.p), s.M[1:3], s.K, s.c, s.w, s.q, s.f)
    @test_throws "must have 4 columns" march(
        pattern(s.p), s.M, s.K, s.c, s.w[:, 1:2], s.q, s.f)
    @test_throws "`f` must be" march(
        pattern(s.p), s.M, s.K, s.c, s.w, s.q, s.f[:, :, 1:3])
end

# --- as XLA calls it --------------------------------------------------------------------

function march_frame(s, f, batch, mbatch; transpose = 0, throw = 1)
    n, order, m = size(s.f)
    key = hash(s.p.rows, hash(s.p.structure)) % Int64
    register_pattern(key, n, s.p.rows .- 1, s.p.cols .- 1, s.p.structure)
    T, k = eltype(f), prod(batch; init = 1)
    y, status = fill(T(7), n * order * m * k), fill(Int32(-1), m * k)
    residual = fill(real(T)(-1), m * k)
    single = map(_ -> 1, batch)
    outs = (y, (batch..., m, order, n)), (status, (batch..., m)), (residual, (batch..., m))
    nnz, R = length(s.M), real(T)
    ins = (T.(repeat(s.M, prod(mbatch; init = 1))), (mbatch..., nnz)),
    (T.(s.K), (single..., nnz)), (R.(s.c), (single..., m)),
    (vec(R.(s.w)), (single..., m, 2)), (vec(R.(s.q)), (single..., m, 2)),
    (vec(f), (batch..., m, order, n))
    frame = fake_frame([FakeArray(a, d) for (a, d) in outs],
        [FakeArray(a, d) for (a, d) in ins]; pattern = key, transpose, throw)
    return y, status, residual, frame
end

@testset "marches that XLA calls: $T, order $order" for T in (Float32, Float64, ComplexF64),
    order in (1, 2)

    s = marching(T <: Real ? "advection" : "helmholtz", order)
    tol = T == Float32 ? 1e-5 : 1e-13
    pointer = march_pointer(ImplicitAdjoints.numpy_name(T))
    for transpose in (0, 1)
        y, status, residual, frame = march_frame(s, T.(s.f), (), (); transpose)
        @test call(pointer, frame) === nothing
        @test y ≈ vec(march(arguments(s)...; transposed = transpose == 1)) rtol = tol
        @test all(==(0), status) && all(r -> 0 <= r < 1e-12, residual)
    end
    # Three loads with one matrix: together; with three: each on its own
    f = T.(cat(s.f, 2 .* s.f, -s.f; dims = 4))
    alone = vec(march(arguments(s)...))
    for mbatch in ((1,), (3,))
        clear!()
        y, _, _, frame = march_frame(s, f, (3,), mbatch)
        @test call(pointer, frame) === nothing
        @test y ≈ [alone; 2 .* alone; -alone] rtol = tol
    end
end

@testset "marches that XLA calls and that fail" begin
    s = marching("poisson", 1)
    f = copy(s.f)
    f[1, 1, 2] = Inf
    _, _, _, frame = march_frame(s, f, (), ())
    @test occursin("NaN or infinity", call(march_pointer("float64"), frame))
    y, status, _, frame = march_frame(s, f, (), (); throw = 0)
    @test call(march_pointer("float64"), frame) === nothing
    @test status[1] == 0 && all(!=(0), status[2:end])
    y = reshape(y, size(s.f))
    @test all(isfinite, y[:, :, 1]) && all(isnan, y[:, :, 2:end])
    @test_throws "march has no method for int32" march_pointer("int32")
end
