# A batch of dense quadratic programmes, one after the other in each thread's workspace.

"""
    solve!(W::QPWorkspace, rtol, max_steps; warm = false)

Solve the programme that `W.given`, `W.live` and `W.fixed` hold: the interior point method
on the scaled one, then the exact step on the active set. Leaves in `W` the point `best`
(of a programme without a solution: the last iterate, a ray), `active`, `weak`, the factor
of the reduced optimality conditions, `status`, `steps`, `polished`, `error`. With `warm`
the exact step is first tried from `W.best`, which then holds a neighbour's solution.
"""
function solve!(W::QPWorkspace{T}, rtol, max_steps; warm = false) where {T}
    D = W.given
    definite = definite!(W.system, D)
    warm && definite && warm_start!(W) && return W
    cost, first = scale!(W.hat, W.scale, D), early(W.system, rtol)
    interior_point!(W, first, max_steps)
    keep!(W.kept, W.at)
    exact!(W, cost, first > rtol ? 2 : ROUNDS)
    if first > rtol && W.status == Int32(CONVERGED) && !W.polished
        keep!(W.at, W.kept)
        resume!(W, rtol, max_steps)
        exact!(W, cost, ROUNDS)
    end
    definite || (W.status = Int32(NOT_POSITIVE_DEFINITE))
    return W
end

# The accuracy at which the exact step is first tried. (Of sparse programmes it seldom
# succeeds so early: they have many rows near active.)
early(::CondensedSystem{T}, rtol) where {T} = max(T(rtol), eps(T)^T(0.32))
early(::SparseSystem, rtol) = rtol

# From the interior point's iterate to the point and the sets.
function exact!(W::QPWorkspace, cost, rounds)
    S = W.scale
    W.best.x .= S.col .* W.at.x
    W.best.y .= S.row_y .* W.at.y ./ cost
    W.best.z .= S.row_z .* W.at.z ./ cost
    W.active .= W.at.z .> W.at.s
    polish!(W, W.status == Int32(CONVERGED), rounds)
    return
end

# Whether the rows with a multiplier in `W.best` lead, by active set steps, to a solution.
function warm_start!(W::QPWorkspace)
    W.active .= W.best.z .> 0
    polish!(W, all(isfinite, W.best.x) && all(isfinite, W.best.z))
    W.status, W.steps = Int32(CONVERGED), 0
    return W.polished
end

# Whether P is positive after a shift by what could be round-off. (Of sparse programmes
# Python asks this itself.)
function definite!(system::CondensedSystem{T}, D) where {T}
    L = copyto!(system.L, D.P)
    shift = sqrt(eps(T)) * top(D.P) + sqrt(floatmin(T))
    for i in axes(L, 1)
        L[i, i] += shift
    end
    return cholesky_lower!(L)
end
definite!(::SparseSystem, _) = true

# --- workspaces that wait for the next call ------------------------------------------

const IDLE = Dict{Tuple,Vector{Any}}()
const IDLE_LOCK = ReentrantLock()
const IDLE_SHAPES = 8  # shapes kept; the memory of others is left to the collector

function borrow_workspace(::Type{T}, key...) where {T}
    lock(IDLE_LOCK)
    try
        idle = get(IDLE, (T, key...), nothing)
        idle === nothing || isempty(idle) || return pop!(idle)::QPWorkspace{T}
    finally
        unlock(IDLE_LOCK)
    end
    return QPWorkspace{T}(key...)
end

function give_back(W::QPWorkspace{T}) where {T}
    D = W.given
    key = (T, length(D.q), length(D.b), size(D.Gᵀ, 2), D.lower, D.upper)
    lock(IDLE_LOCK)
    try
        length(IDLE) < IDLE_SHAPES || haskey(IDLE, key) || empty!(IDLE)
        push!(get!(Vector{Any}, IDLE, key), W)
    finally
        unlock(IDLE_LOCK)
    end
    return nothing
end

# Many small factorisations: one BLAS thread each, as the batch has the others. Calls may
# overlap; the last one out restores.
const BLAS_USERS = Ref(0)
const BLAS_BEFORE = Ref(1)
function with_one_blas_thread(f)
    lock(IDLE_LOCK) do
        BLAS_USERS[] += 1
        if BLAS_USERS[] == 1
            BLAS_BEFORE[] = BLAS.get_num_threads()
            BLAS_BEFORE[] == 1 || BLAS.set_num_threads(1)
        end
    end
    try
        return f()
    finally
        lock(IDLE_LOCK) do
            BLAS_USERS[] -= 1
            BLAS_USERS[] == 0 && BLAS_BEFORE[] != 1 &&
                BLAS.set_num_threads(BLAS_BEFORE[])
        end
    end
end

# Samples that one thread takes at a time: about a quarter of a millisecond of work.
block_size(n, rows) = clamp(500_000 ÷ (100 + n^2 * (n + rows)), 1, 64)

# `f(W, s)` for all samples, over threads, each with a workspace for programmes of `sizes`.
function foreach_sample(
    f::F, samples, block, ::Type{T}, sizes::Vararg{Any,N}) where {F,T,N}
    with_one_blas_thread() do
        foreach_threaded(cld(samples, block)) do k
            W = borrow_workspace(T, sizes...)
            for s in ((k - 1) * block + 1):min(k * block, samples)
                f(W, s)
            end
            give_back(W)
        end
    end
end

# --- what XLA calls ------------------------------------------------------------------

"""
    QuadraticProgrammes()

`(x, y, z, active, weak, L, status, steps, polished, error)` of
`(P, q, A, b, G, d, live, fixed, rtol, x0, y0, z0)`, as `pyimplicit/optimize/qp_julia.py`
says. XLA keeps rows of matrices together: `A`, `G` arrive transposed, and so does `L` in
XLA; its other triangle has no meaning.
"""
struct QuadraticProgrammes end

function (::QuadraticProgrammes)(outs, ins, attrs)
    P, q, A, b, G, d, = ins
    T = eltype(q)
    n, p, m = q.dims[1], b.dims[1], G.dims[2]
    lower, upper = attribute(attrs, :lower) != 0, attribute(attrs, :upper) != 0
    max_steps, warm = attribute(attrs, :max_steps), attribute(attrs, :warm) != 0
    rows = m + n * (lower + upper)
    P.dims == (n, n) && A.dims == (n, p) && G.dims[1] == n && d.dims == (rows,) ||
        throw(DimensionMismatch("a programme of $n unknowns got misfit arrays."))
    samples = nsamples(first(outs))
    block = block_size(n, rows)
    foreach_sample(samples, block, T, n, p, m, lower, upper) do W, s
        solve_sample!(W, outs, ins, max_steps, warm, s)
    end
    return
end

fetch!(a::Array{T}, o::Operand{T}, result, s) where {T} =
    GC.@preserve a unsafe_copyto!(pointer(a), address(o, source(o, result, s)), length(a))
put!(o::Operand{T}, a::Array{T}, s) where {T} =
    GC.@preserve a unsafe_copyto!(address(o, s), pointer(a), length(a))

function solve_sample!(W::QPWorkspace, outs, ins, max_steps, warm, s)
    x, y, z, active, weak, L, status, steps, polished, error = outs
    D = W.given
    best = W.best
    arrays = (D.P, D.q, D.Aᵀ, D.b, D.Gᵀ, D.d, W.live, W.fixed)
    foreach((a, o) -> fetch!(a, o, x, s), arrays, ins[1:8])
    foreach((a, o) -> fetch!(a, o, x, s), (best.x, best.y, best.z), ins[10:12])
    rtol = ins[9]
    solve!(W, unsafe_load(rtol.data, source(rtol, x, s)), max_steps; warm)
    foreach((o, a) -> put!(o, a, s), (x, y, z, active, weak),
        (best.x, best.y, best.z, W.active, W.weak))
    put!(L, W.system.L, s)
    store_report!((status, steps, polished, error), W, s)
    return
end

store_report!(outs, W, s) = foreach(
    (o, v) -> unsafe_store!(o.data, v, s), outs, (W.status, W.steps, W.polished, W.error))

const QP_TYPES = [
    (Tuple{Matrix{T},Vector{T},Matrix{T},Vector{T},Matrix{T},Vector{T},Vector{Bool},
            Vector{Bool},Array{T,0},Vector{T},Vector{T},Vector{T}},
        Tuple{Vector{T},Vector{T},Vector{T},Vector{Bool},Vector{Bool},Matrix{T},
            Array{Int32,0},Array{Int32,0},Array{Bool,0},Array{T,0}})
    for T in (Float32, Float64)]

"""
    quadratic_programme_pointer(dtype) -> UInt

The C function by which XLA solves quadratic programmes of this element type.
"""
quadratic_programme_pointer(dtype) =
    built_in_pointer(QuadraticProgrammes(), QP_TYPES, dtype, "quadratic_programme")

function built_in_pointer(op, signatures, dtype, name)
    T = element_type(dtype)
    for (ins, outs) in signatures
        eltype(fieldtype(ins, 1)) == T &&
            return pointer_for(Handler{typeof(op),ins,outs,false}(op))
    end
    throw(ArgumentError("$name has no method for $dtype."))
end
