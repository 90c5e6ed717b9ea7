# The linear solves of the derivatives of dense quadratic programmes, over threads, by the
# factors that their solution left.

"""
    ProgrammeDerivatives()

`(v, error)` of `(P, A, G, active, L, r)`: `K v = r` for the matrix `K` of the reduced
optimality conditions (see `pyimplicit/optimize/qp_kkt.py`), which is symmetric; `error` is
what is left of `r`, relative to it. `A`, `G` arrive transposed, `L` as
[`QuadraticProgrammes`](@ref) left it.
"""
struct ProgrammeDerivatives end

function (::ProgrammeDerivatives)(outs, ins, attrs)
    P, A, G, active, L, r = ins
    T = eltype(P)
    n, p, m, rows = P.dims[1], A.dims[2], G.dims[2], active.dims[1]
    lower, upper = attribute(attrs, :lower) != 0, attribute(attrs, :upper) != 0
    rows == m + n * (lower + upper) && r.dims == (n + p + rows,) && L.dims == (n, n) ||
        throw(DimensionMismatch("a programme of $n unknowns got misfit arrays."))
    samples = nsamples(first(outs))
    block = 4 * block_size(n, rows)
    foreach_sample(samples, block, T, n, p, m, lower, upper) do W, s
        solve_derivative!(W, outs, ins, s)
    end
    return
end

function solve_derivative!(W::QPWorkspace{T}, outs, ins, s) where {T}
    (v, error), (P, A, G, active, L, r) = outs, ins
    D, S, from, to = W.given, W.system, W.at, W.step
    arrays = (D.P, D.Aᵀ, D.Gᵀ, W.active, S.L)
    foreach((a, o) -> fetch!(a, o, v, s), arrays, (P, A, G, active, L))
    _, δ = kkt_scales(D)
    S.δ[] = δ
    W.w .= ifelse.(W.active, 1 / δ, zero(T))
    read = sample(r, source(r, v, s))
    at = 0
    for a in (from.x, from.y, from.z)
        copyto!(a, 1, read, at + 1, length(a))
        at += length(a)
    end
    left = refined_solve!(
        W, to, from, W.active, (x = from.r_x, y = from.r_y, z = from.r_z))
    unsafe_store!(error.data, left, s)
    written, at = sample(v, s), 0
    for a in (to.x, to.y, to.z)
        copyto!(written, at + 1, a, 1, length(a))
        at += length(a)
    end
    return
end

const QP_DERIVATIVE_TYPES = [
    (Tuple{Matrix{T},Matrix{T},Matrix{T},Vector{Bool},Matrix{T},Vector{T}},
        Tuple{Vector{T},Array{T,0}}) for T in (Float32, Float64)]

"""
    programme_derivative_pointer(dtype) -> UInt

The C function by which XLA solves with the optimality conditions' matrix.
"""
programme_derivative_pointer(dtype) = built_in_pointer(
    ProgrammeDerivatives(), QP_DERIVATIVE_TYPES, dtype, "programme_derivative")
