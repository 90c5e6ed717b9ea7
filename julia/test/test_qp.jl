# Dense quadratic programmes: conditions of optimality, sets, rays, and the call by XLA.

using ImplicitAdjoints: ImplicitAdjoints, QPWorkspace, Status, quadratic_programme_pointer
using ImplicitAdjoints: programme_derivative_pointer
using ImplicitAdjoints: CONVERGED, INFEASIBLE, NOT_POSITIVE_DEFINITE, UNBOUNDED
using LinearAlgebra, Random, Test

# min ½xᵀPx + qᵀx, A x = b, C x ≤ d with C = [G; -I; I] as far as there are bounds. Rows
# with an infinite d are none; bounds that are equal fix an unknown.
struct Programme
    P::Matrix{Float64}
    q::Vector{Float64}
    A::Matrix{Float64}
    b::Vector{Float64}
    G::Matrix{Float64}
    h::Vector{Float64}
    lb::Vector{Float64}  # empty if there are none
    ub::Vector{Float64}
end

function rows(p::Programme)
    eye = Matrix(1.0I, length(p.q), length(p.q))
    low, up = isempty(p.lb) ? eye[1:0, :] : -eye, isempty(p.ub) ? eye[1:0, :] : eye
    C, d = [p.G; low; up], [p.h; -p.lb; p.ub]
    live, fixed = d .< Inf, falses(length(d))
    if !isempty(p.lb) && !isempty(p.ub)
        m, n = length(p.h), length(p.q)
        pinned = p.lb .== p.ub
        fixed[(m + n + 1):end] .= pinned
        live[(m + 1):end] .&= .![pinned; pinned]
    end
    return C, d, live, fixed
end

function workspace(p::Programme, ::Type{T} = Float64) where {T}
    n, k, m = length(p.q), length(p.b), length(p.h)
    W = QPWorkspace{T}(n, k, m, !isempty(p.lb), !isempty(p.ub))
    _, d, live, fixed = rows(p)
    D = W.given
    for (to, from) in ((D.P, p.P), (D.q, p.q), (D.Aᵀ, p.A'), (D.b, p.b), (D.Gᵀ, p.G'),
        (D.d, d), (W.live, live), (W.fixed, fixed))
        copyto!(to, from)
    end
    return W
end

solved(p, T = Float64) = ImplicitAdjoints.solve!(workspace(p, T), eps(T)^T(0.55), 60)

function random_programme(rng, n, k, m; scale = 1.0, rank = n, boxed = true)
    L, A, G, x0 = randn(rng, n, rank), randn(rng, k, n), randn(rng, m, n), randn(rng, n)
    G .*= scale .^ rand(rng, m)
    b, h = A * x0, G * x0 + rand(rng, m)
    lb, ub = boxed ? (x0 - rand(rng, n), x0 + rand(rng, n)) : (zeros(0), zeros(0))
    if boxed
        lb[1], ub[2], lb[3], ub[3] = -Inf, Inf, x0[3], x0[3]
    end
    m > 1 && (h[2] = Inf)
    return Programme(scale * L * L', scale * randn(rng, n), A, b, G, h, lb, ub)
end

# The largest violation of the optimality conditions, written out anew.
function violation(p::Programme, W)
    C, d, live, fixed = rows(p)
    (; x, y, z) = W.best
    s = [l || f ? v : Inf for (v, l, f) in zip(d - C * x, live, fixed)]
    top(v) = maximum(abs, v; init = 0.0)
    products = [z[i] * (isfinite(s[i]) ? s[i] : 1.0) for i in eachindex(s)]
    force = top(p.P * x) + top(p.q) + top(C' * z)  # by which multipliers are measured
    reach = 1 + maximum(v -> isfinite(v) ? abs(v) : 0.0, d; init = 0.0)
    return max(top(p.P * x + p.q + p.A' * y + C' * z) / force,
        top(p.A * x - p.b), maximum(-s; init = 0.0) / reach, top(s[fixed]) / reach,
        maximum(-z[.!fixed]; init = 0.0) / force, top(products) / force / reach)
end

# Small ones are factorised by loops, larger ones by LAPACK.
@testset "optimality: n = $n, $k equalities, $m inequalities, boxed = $boxed" for
    (n, k, m, boxed) in (
    (1, 0, 1, false), (5, 0, 10, false), (6, 2, 5, true), (12, 3, 0, true),
    (20, 4, 12, true), (30, 0, 40, false), (4, 1, 0, false))

    rng = MersenneTwister(n)
    for scale in (1.0, 1e3, 1e-3), rank in (n, cld(n, 2))
        boxed || rank == n || continue
        p = random_programme(rng, n, k, m; scale, rank, boxed)
        W = solved(p)
        @test W.status == Int32(CONVERGED) && W.polished
        @test violation(p, W) < 1e-9
        _, d, live, _ = rows(p)
        @test W.active == (W.best.z .!= 0)
        @test !any(W.weak) && !any(W.active .& .!live .& .!rows(p)[4])
    end
end

@testset "a closed form, in both precisions: the projection on a box" for
    T in (Float32, Float64)

    t = [3.0, -2.0, 0.25, -0.5]
    none = zeros(0, 4)
    p = Programme(Matrix(1.0I, 4, 4), -t, none, [], none, [], fill(-1.0, 4), fill(1.0, 4))
    W = solved(p, T)
    @test W.best.x ≈ clamp.(t, -1, 1) atol = 10eps(T)
    @test W.best.z ≈ [max.(-1 .- t, 0); max.(t .- 1, 0)] atol = 10eps(T)
    @test W.active == [t .< -1; t .> 1] && W.error < eps(T)^0.65
end

@testset "weakly active rows, dependent rows, rows of zeros" begin
    # min ½‖x - t‖² with x₁ ≤ 0 (t₁ = 0), x₂ ≤ 1 twice, 0 ≤ 0.
    G = [1.0 0; 0 1; 0 1; 0 0]
    p = Programme([1.0 0; 0 1], [0.0, -3.0], zeros(0, 2), [], G, [0.0, 1, 1, 0], [], [])
    W = solved(p)
    @test W.status == Int32(CONVERGED)
    @test W.best.x ≈ [0, 1] atol = 1e-12
    @test W.weak == [true, false, false, false]
    @test W.active == [false, true, true, false]
    @test sum(W.best.z) ≈ 2 && all(≥(0), W.best.z)
end

@testset "no solution" begin
    none, eye = zeros(0, 2), [1.0 0; 0 1]
    rays = Programme(eye, ones(2), [1.0 1], [5.0], none, [], zeros(2), ones(2))
    W = solved(rays)
    C, d, _, _ = rows(rays)
    (; y, z) = W.best
    @test W.status == Int32(INFEASIBLE)
    @test rays.b'y + d'z < 0 && all(≥(0), z)
    @test maximum(abs, rays.A'y + C'z) < 1e-6 * -(rays.b'y + d'z)
    W = solved(Programme([1.0 0; 0 0], [1.0, -2], none, [], none, [], zeros(2), []))
    @test W.status == Int32(UNBOUNDED) && W.best.x[2] > 0
    W = solved(Programme([1.0 0; 0 -1], ones(2), none, [], none, [], zeros(2), ones(2)))
    @test W.status == Int32(NOT_POSITIVE_DEFINITE)
end

@testset "a workspace is all the memory a solve needs" begin
    for (n, k, m) in ((5, 1, 7), (20, 3, 9))
        W = workspace(random_programme(MersenneTwister(1), n, k, m))
        run!(W) = (ImplicitAdjoints.solve!(W, 1e-9, 60); nothing)
        run!(W)
        first = copy(W.best.x)
        @test @allocated(run!(W)) == 0
        @test W.best.x == first
        @test @inferred(ImplicitAdjoints.solve!(W, 1e-9, 60)) === W
    end
end

@testset "as XLA calls it, a batch, $T" for T in (Float32, Float64)
    rng = MersenneTwister(3)
    n, k, m, batch = 4, 1, 3, 70  # more than one block
    made = [random_programme(rng, n, k, m) for _ in 1:batch]
    C = map(rows, made)
    stack(f) = reduce(hcat, map(p -> T.(vec(f(p))), made))
    flags(i) = reduce(hcat, map(c -> Vector{Bool}(c[i]), C))
    r = m + 2n
    lead(a, dims...) = FakeArray(a, (batch, dims...))
    # JAX keeps rows together: A and G are seen transposed.
    ins = [lead(stack(p -> p.P), n, n), lead(stack(p -> p.q), n),
        lead(stack(p -> p.A'), k, n), lead(stack(p -> p.b), k),
        lead(stack(p -> p.G'), m, n), lead(reduce(hcat, [T.(c[2]) for c in C]), r),
        lead(flags(3), r), lead(flags(4), r), FakeArray([eps(T)^T(0.55)], (1,)),
        FakeArray(zeros(T, n), (1, n)), FakeArray(zeros(T, k), (1, k)),
        FakeArray(zeros(T, r), (1, r))]
    x, z, L, codes = zeros(T, n, batch), zeros(T, r, batch), zeros(T, n, n, batch),
    fill(Int32(-7), batch)
    more = (lead(zeros(T, k, batch), k), lead(zeros(Bool, r, batch), r),
        lead(zeros(Bool, r, batch), r), lead(zeros(Int32, batch)),
        lead(zeros(Bool, batch)), lead(zeros(T, batch)))
    outs = [lead(x, n), more[1], lead(z, r), more[2], more[3], lead(L, n, n), lead(codes),
        more[4], more[5], more[6]]
    target = quadratic_programme_pointer(ImplicitAdjoints.numpy_name(T))
    frame = fake_frame(outs, ins; lower = 1, upper = 1, max_steps = 60, warm = 0)
    @test call(target, frame) === nothing
    @test all(==(Int32(CONVERGED)), codes)
    for (i, p) in enumerate(made)
        W = solved(p, T)
        @test x[:, i] == W.best.x && z[:, i] == W.best.z
        @test LowerTriangular(L[:, :, i]) ≈ LowerTriangular(W.system.L)
    end
    @test BLAS.get_num_threads() == ImplicitAdjoints.BLAS_BEFORE[]
    frame = fake_frame(outs, ins; lower = 0, upper = 1, max_steps = 60, warm = 0)
    @test occursin("misfit arrays", call(target, frame))
end
@test_throws "quadratic_programme has no method for int32" quadratic_programme_pointer(
    "int32")

@testset "derivatives' solves by XLA, $T" for T in (Float64, Float32)
    # K v = r with the matrix written out; r in the order of (x, y, z).
    n, k, m, batch = 9, 2, 5, 3
    r = m + 2n
    made = [random_programme(Xoshiro(s), n, k, m; scale = 10.0) for s in 1:batch]
    solutions = map(p -> solved(p, T), made)
    each(f) = T.(cat(map(f, solutions)...; dims = 3))
    right = randn(Xoshiro(0), T, n + k + r, batch)
    active = reduce(hcat, [W.active for W in solutions])
    wrap(a, dims...) = FakeArray(a, (batch, reverse(dims)...))
    ins = Any[wrap(each(W -> W.given.P), n, n), wrap(each(W -> W.given.Aᵀ), n, k),
        wrap(each(W -> W.given.Gᵀ), n, m), wrap(active, r),
        wrap(each(W -> W.system.L), n, n), wrap(right, n + k + r)]
    v, left = zeros(T, n + k + r, batch), fill(T(7), batch)
    outs = Any[wrap(v, n + k + r), wrap(left)]
    target = programme_derivative_pointer(ImplicitAdjoints.numpy_name(T))
    @test call(target, fake_frame(outs, ins; lower = 1, upper = 1)) === nothing
    for (i, p) in enumerate(made)
        C, = rows(p)
        on = Diagonal(active[:, i])
        K = [p.P p.A' C'*on; p.A zeros(k, k+r); on*C zeros(r, k) I-on]
        @test norm(K * v[:, i] - right[:, i]) <= sqrt(eps(T)) * norm(right[:, i])
        @test left[i] <= sqrt(eps(T))
    end
    misfit = fake_frame(outs, ins; lower = 0, upper = 1)
    @test occursin("misfit arrays", call(target, misfit))
end
