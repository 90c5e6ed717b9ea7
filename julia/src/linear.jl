# A solve is accepted at this normwise backward error |Ax - b| / (|A||x| + |b|)
# (Rigal & Gaches 1967, doi:10.1145/321406.321416), and refined once above REFINE.
const ACCEPT = 1e-10
const REFINE = 1e-13
# An x of this times |b| / |A| is null space, which a small residual does not show. (Pivots
# of a quasi-definite matrix are not judged; its regularisation allows some 1e10.)
const UNDETERMINED = 1e14

"""
    sparse_solve(pattern, values, b; transposed = false) -> x

Solve ``A x = b`` (or ``Aᵀ x = b``) where `A` has the entries `values` at the places of
`pattern`. CHOLMOD for "spd" and "quasidefinite", else UMFPACK; the symbolic analysis
is made once per pattern, and the factorisation of equal values is found again. It is solved
in double precision; `x` has the common element type of `values` and `b`.

# Arguments
- `pattern::SparsePattern`, `n × n`.
- `values::AbstractVector`: `nentries(pattern)` numbers, real or complex.
- `b::AbstractVecOrMat`: `n`, or `n × k` for `k` right-hand sides.

# Derivative
From ``A x = b``: ``A ẋ = ḃ - Ȧ x``, one solve with the same factor. With ``Aᴴ λ = x̄``,
``⟨x̄, ẋ⟩ = ⟨x̄, A⁻¹(ḃ - Ȧ x)⟩ = ⟨λ, ḃ⟩ - ⟨λ xᴴ, Ȧ⟩``, so ``b̄ = λ`` and
``Ā_{ij} = -λ_i x_j^*`` on the stored places, made symmetric where `A` is. That solve is
``Aᵀ λ^* = x̄^*``, with the same factor again.

# Throws
- [`SolveError`](@ref) for a singular, indefinite, non-finite or badly scaled matrix.
- `DimensionMismatch` if a length is wrong; `ArgumentError` for complex values of "spd"
  or "quasidefinite".
"""
function sparse_solve(
    pattern::SparsePattern, values::AbstractVector, b::AbstractVecOrMat; transposed = false)
    length(values) == nentries(pattern) || throw(DimensionMismatch(
        "`values` must have $(nentries(pattern)) entries. Got $(length(values))."))
    size(b, 1) == pattern.n || throw(DimensionMismatch(
        "`b` must have $(pattern.n) rows. Got $(size(b, 1))."))
    T = working_type(eltype(values))
    factor = find_factor(pattern, convert(Vector{T}, values))
    x = solve_array(factor, b, transposed)
    return convert(AbstractArray{float(promote_type(eltype(values), eltype(b)))}, x)
end

working_type(::Type{<:Real}) = Float64
working_type(::Type{<:Complex}) = ComplexF64

# A complex right-hand side of a real matrix is two real ones.
function solve_array(factor::Factor{T}, b::AbstractArray, transposed::Bool) where {T}
    if T <: Real && eltype(b) <: Complex
        return complex.(solve_array(factor, real(b), transposed),
            solve_array(factor, imag(b), transposed))
    end
    B = convert(Matrix{T}, reshape(b, factor.pattern.n, :))
    X = similar(B)
    status, _ = solve!(X, factor, B, transposed)
    bad = findfirst(!=(CONVERGED), status)
    bad === nothing || throw(SolveError(failure(factor.pattern, status[bad])))
    return reshape(X, size(b))
end

function failure(pattern::SparsePattern, status::Status, which = "")
    name = lowercase(string(pattern.structure))
    return "sparse_solve: $(message(status)). Matrix: $(pattern.n) x $(pattern.n), " *
           "$(nentries(pattern)) entries, '$name'$which."
end

# Solutions for the columns of `B` into `X`, NaN where failed; statuses, backward errors.
function solve!(X::Matrix{T}, factor::Factor{T}, B::Matrix{T}, transposed::Bool) where {T}
    k = size(B, 2)
    k == 0 && return Status[], Float64[]
    Threads.atomic_add!(COUNTS.solves, k)
    lock(factor.lock)
    try
        status = factorise!(factor)
        F = factor.numeric
        F === nothing || return checked_solve!(X, F, factor, B, transposed)
        fill!(X, NaN)
        return fill(status, k), fill(NaN, k)
    finally
        unlock(factor.lock)
    end
end

function checked_solve!(X, F, factor, given, transposed::Bool)
    size_b = largest(given)
    B = all(isfinite, size_b) ? given : without_bad(given, size_b)
    backsolve!(X, F, B, transposed)
    R = similar(B)
    error = backward_error!(R, factor, X, B, transposed, size_b)
    if any(>(REFINE), error)
        D = similar(X)
        X .+= backsolve!(D, F, R, transposed)
        error = backward_error!(R, factor, X, B, transposed, size_b)
    end
    status = map(size_b, error) do b, e
        isfinite(b) ? (e <= ACCEPT ? CONVERGED : INACCURATE) : NONFINITE
    end
    if unjudged(factor)
        for (c, x) in enumerate(largest(X))
            status[c] == CONVERGED && x * (factor.norm / UNDETERMINED) > size_b[c] &&
                (status[c] = SINGULAR)
        end
    end
    for c in axes(X, 2)
        status[c] == CONVERGED || fill!(@view(X[:, c]), NaN)
    end
    return status, error
end

unjudged(factor) = false
unjudged(factor::Factor) = factor.pattern.structure == QUASIDEFINITE

# The largest magnitude in each column; not finite if an entry is not.
largest(X::Matrix) = [maximum(magnitude, @view X[:, c]) for c in axes(X, 2)]

# A copy with zeros for bad columns, which must not spoil the others.
function without_bad(B, size_b)
    B = copy(B)
    for c in axes(B, 2)
        isfinite(size_b[c]) || fill!(@view(B[:, c]), 0)
    end
    return B
end

residual!(R, factor::Factor, X, B, transposed::Bool) =
    residual!(R, factor.pattern, factor.nzval, X, B, transposed)

function backward_error!(R, factor, X, B, transposed, size_b)
    residual!(R, factor, X, B, transposed)
    norm = transposed ? factor.normᵀ : factor.norm
    return map(largest(R), largest(X), size_b) do r, x, b
        scale = norm * x + b
        # Where the scale overflows nothing is known.
        iszero(r) ? 0.0 : isfinite(scale) ? r / scale : NaN
    end
end

# Ā on the stored places for Ā = -λ xᵀ (or its transpose), summed over columns.
function values_cotangent(pattern::SparsePattern, λ, x, transposed::Bool)
    v̄ = zeros(promote_type(eltype(λ), eltype(x)), nentries(pattern))
    rows, cols = pattern.rows, pattern.cols
    transposed && ((rows, cols) = (cols, rows))
    for c in axes(x, 2), k in eachindex(v̄)
        v̄[k] -= λ[rows[k], c] * x[cols[k], c]
    end
    return symmetrise!(v̄, pattern)
end

# The values of the matrix: those given, or the symmetric part of them.
function symmetrise!(v, pattern::SparsePattern)
    pattern.structure == GENERAL && return v
    for (k, m) in zip(pattern.slot, pattern.partner)
        v[k] = v[m] = (v[k] + v[m]) / 2
    end
    return v
end

# Ȧ x on the stored places.
function product(pattern::SparsePattern, v̇, x, transposed::Bool)
    y = zeros(promote_type(eltype(v̇), eltype(x)), size(x))
    s = symmetrise!(collect(float(eltype(v̇)), v̇), pattern)
    rows, cols = pattern.rows, pattern.cols
    transposed && ((rows, cols) = (cols, rows))
    for c in axes(x, 2), k in eachindex(s)
        y[rows[k], c] += s[k] * x[cols[k], c]
    end
    return y
end
