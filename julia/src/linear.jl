# A solve is accepted at this normwise backward error |Ax - b| / (|A||x| + |b|)
# (Rigal & Gaches 1967, doi:10.1145/321406.321416), and refined once above REFINE.
const ACCEPT = 1e-10
const REFINE = 1e-13

"""
    sparse_solve(pattern, values, b; transposed = false) -> x

Solve ``A x = b`` (or ``Aᵀ x = b``) where `A` has the entries `values` at the places of
`pattern`. CHOLMOD for `structure = "spd"`, else UMFPACK; the symbolic analysis is made
once per pattern, and the factorisation of equal values is found again.

# Arguments
- `pattern::SparsePattern`, `n × n`.
- `values::AbstractVector`: `nentries(pattern)` numbers, real or complex.
- `b::AbstractVecOrMat`: `n`, or `n × k` for `k` right-hand sides.

# Derivative
From ``A ẋ = ḃ - Ȧ x``: one solve with the same factor. Transposed: ``Aᵀ λ = x̄``, then
``b̄ = λ`` and ``Ā_{ij} = -λ_i x_j`` on the stored places, made symmetric where `A` is.

# Throws
- [`SolveError`](@ref) for a singular, indefinite, non-finite or badly scaled matrix.
- `DimensionMismatch` if a length is wrong.
"""
function sparse_solve(
    pattern::SparsePattern, values::AbstractVector, b::AbstractVecOrMat; transposed = false)
    length(values) == nentries(pattern) || throw(DimensionMismatch(
        "`values` must have $(nentries(pattern)) entries. Got $(length(values))."))
    size(b, 1) == pattern.n || throw(DimensionMismatch(
        "`b` must have $(pattern.n) rows. Got $(size(b, 1))."))
    T = promote_type(Float64, eltype(values), eltype(b))
    factor = find_factor(pattern, Vector{T}(values))
    B = Matrix{T}(reshape(b, pattern.n, :))
    X, status, _ = solve(factor, B, transposed)
    bad = findfirst(!=(CONVERGED), status)
    bad === nothing || throw(SolveError(failure(pattern, status[bad])))
    return reshape(X, size(b))
end

function failure(pattern::SparsePattern, status::Status, which = "")
    name = lowercase(string(pattern.structure))
    return "sparse_solve: $(message(status)). Matrix: $(pattern.n) x $(pattern.n), " *
           "$(nentries(pattern)) entries, '$name'$which."
end

# Solutions, statuses and backward errors of the columns of `B`; NaN where failed.
function solve(factor::Factor{T}, B::Matrix{T}, transposed::Bool) where {T}
    k = size(B, 2)
    Threads.atomic_add!(COUNTS.solves, k)
    lock(factor.lock)
    try
        status = factorise!(factor).status::Status
        F = factor.numeric
        F === nothing && return fill!(B, NaN), fill(status, k), fill(NaN, k)
        return checked_solve(F, factor, B, transposed)
    finally
        unlock(factor.lock)
    end
end

function checked_solve(F, factor::Factor{T}, B::Matrix{T}, transposed::Bool) where {T}
    k = size(B, 2)
    finite = [isfinite(sum(abs, @view B[:, c])) for c in 1:k]
    all(finite) || foreach(c -> finite[c] || fill!(@view(B[:, c]), 0), 1:k)
    norm = transposed ? factor.normᵀ : factor.norm
    X = backsolve(F, B, transposed)
    R = similar(B)
    error = backward_error!(R, factor, X, B, transposed, norm)
    if any(>(REFINE), error)
        X .+= backsolve(F, R, transposed)
        error = backward_error!(R, factor, X, B, transposed, norm)
    end
    status = map(finite, error) do isfine, e
        isfine ? (e <= ACCEPT ? CONVERGED : INACCURATE) : NONFINITE
    end
    for c in 1:k
        status[c] == CONVERGED || fill!(@view(X[:, c]), NaN)
    end
    return X, status, error
end

function backward_error!(R, factor, X, B, transposed, norm)
    residual!(R, factor.pattern, factor.A, X, B, transposed)
    return map(axes(X, 2)) do c
        scale = norm * maximum(abs, @view X[:, c]) + maximum(abs, @view B[:, c])
        scale == 0 ? 0.0 : maximum(abs, @view R[:, c]) / scale
    end
end

# Ā on the stored places for Ā = -λ xᵀ (or its transpose), summed over columns.
function values_cotangent(pattern::SparsePattern, λ, x, transposed::Bool)
    v̄ = [-sum(λ[i, c] * x[j, c] for c in axes(x, 2); init = zero(eltype(x)))
         for (i, j) in (transposed ? zip(pattern.cols, pattern.rows) :
                        zip(pattern.rows, pattern.cols))]
    return symmetrise(pattern, v̄)
end

# The values of the matrix: those given, or the symmetric part of them.
function symmetrise(pattern::SparsePattern, v)
    pattern.structure == GENERAL && return v
    s = copy(v)
    for (k, m) in zip(pattern.slot, pattern.partner)
        s[k] = s[m] = (v[k] + v[m]) / 2
    end
    return s
end

# Ȧ x on the stored places.
function product(pattern::SparsePattern, v, x, transposed::Bool)
    y = zeros(promote_type(eltype(v), eltype(x)), size(x))
    s = symmetrise(pattern, v)
    for c in axes(x, 2), k in eachindex(s)
        i, j = pattern.rows[k], pattern.cols[k]
        transposed && ((i, j) = (j, i))
        y[i, c] += s[k] * x[j, c]
    end
    return y
end
