# Many steps of M u' + K u = b(t) in one call, and the same backwards.
#
# Every one-step and multi-step method with a constant M and K is a linear system with a
# banded, block lower triangular matrix L: block row j is one implicit solve,
#
#     M (yⱼ - Σ_d p_dj y_{j-d}) + K (cⱼ yⱼ + Σ_d q_dj y_{j-d}) = fⱼ                      (1)
#
# with the matrix Aⱼ = M + cⱼ K. So L y = f is a march forwards; Lᵀ λ = ȳ, block upper
# triangular, is the march backwards that adjoints need, with the same factors.
#
# Of second order, M u'' + K u = b, the state is a pair (y, v) with v = u', and a row is
#
#     M (vⱼ - Σ p v_{j-d}) + K (cⱼ yⱼ + Σ q y_{j-d}) = fⱼ
#     yⱼ - cⱼ vⱼ - Σ p y_{j-d} - Σ q v_{j-d} = gⱼ                                        (2)
#
# Without vⱼ it is a solve with M + cⱼ² K.

"""
    march(pattern, M, K, c, p, q, f; transposed = false) -> y

Solve ``L y = f`` (or ``Lᵀ y = f``) where the rows of `L` are the implicit solves of a time
stepping scheme for ``M u' + K u = b(t)`` with constant matrices,

``M (y_j - Σ_d p_{dj} y_{j-d}) + K (c_j y_j + Σ_d q_{dj} y_{j-d}) = f_j,  j = 1 … m``;

for backward Euler `c` is the length of the step, `p` is 1 and `q` is 0. There is one
factorisation for each `c` in a row, found again by the next march and its transpose.

# Arguments
- `pattern::SparsePattern`, `n × n`; `M`, `K`: the entries, `nentries(pattern)` each.
- `c`: `m` numbers; `p`, `q`: `w × m`, the weights of `y_{j-1}` … `y_{j-w}`.
- `f`: `n × 1 × m`; or `n × 2 × m` for ``M u'' + K u = b``, where `y[:, 2, j]` is the
  velocity `v_j`, and the rows are ``M (v_j - Σ p v_{j-d}) + K (c_j y_j + Σ q y_{j-d})`` and
  ``y_j - c_j v_j - Σ p y_{j-d} - Σ q v_{j-d}``.

# Derivative
Exact, in all arrays. From ``L y = f``: ``L ẏ = ḟ - L̇ y``, and ``f̄ = λ`` with
``Lᴴ λ = ȳ``, the march backwards; then ``⟨ȳ, ẏ⟩ = ⟨λ, ḟ⟩ - ⟨λ, L̇ y⟩``.

# Throws
- [`SolveError`](@ref) for a solve that fails, as in [`sparse_solve`](@ref).
- `DimensionMismatch` if a size is wrong.
"""
function march(
    pattern::SparsePattern, M::AbstractVector, K::AbstractVector, c::AbstractVector,
    p::AbstractMatrix, q::AbstractMatrix, f::AbstractArray{<:Any,3}; transposed = false)
    check_march(pattern, M, K, c, p, q, f)
    T = promote_type(map(working_type ∘ eltype, (M, K, f))...)
    y = Array{T}(undef, pattern.n, 1, size(f, 2), size(f, 3))
    rows = March{T}(pattern, M, K, c, p, q)
    status, _ = march!(y, rows, reshape(f, size(y)), transposed)
    bad = findfirst(!=(CONVERGED), status)
    bad === nothing ||
        throw(SolveError(failure(pattern, status[bad], step_name(bad, c, transposed))))
    S = float(promote_type(map(eltype, (M, K, f))...))
    return convert(Array{S,3}, reshape(y, size(f)))
end

step_name(bad, c, transposed) =
    ", $(transposed ? "transposed " : "")solve $(bad[2]) of $(length(c))"

function check_march(pattern, M, K, c, p, q, f)
    for (name, values) in (("M", M), ("K", K))
        length(values) == nentries(pattern) || throw(DimensionMismatch(
            "`$name` must have $(nentries(pattern)) entries. Got $(length(values))."))
    end
    m = length(c)
    size(p) == size(q) && size(p, 2) == m || throw(DimensionMismatch(
        "`p` and `q` must have $m columns. Got $(size(p)) and $(size(q))."))
    size(f) == (pattern.n, size(f, 2), m) && size(f, 2) in (1, 2) ||
        throw(DimensionMismatch(
            "`f` must be $(pattern.n) × 1 × $m or $(pattern.n) × 2 × $m. Got $(size(f))."))
    return nothing
end

# The matrix L: M and K, as they were given and in the pattern's compressed columns.
struct March{T}
    pattern::SparsePattern
    values::NTuple{2,Vector{T}}
    nzval::NTuple{2,Vector{T}}
    c::Vector{Float64}
    p::Matrix{Float64}
    q::Matrix{Float64}

    function March{T}(pattern, M, K, c, p, q) where {T}
        values = convert(Vector{T}, M), convert(Vector{T}, K)
        nzval = map(values) do v
            entries = Vector{T}(undef, length(pattern.slot))
            compress!(entries, pattern, v)  # whether it will do, its factor says
            entries
        end
        return new{T}(pattern, values, nzval, c, p, q)
    end
end

const MANY = 32  # solves, from which the time of one decides how a factor is stored

function factor_of(rows::March, γ)
    M, K = rows.values
    return find_factor(rows.pattern, M .+ γ .* K, length(rows.c) >= MANY)
end

# Y = Y + s A X, A = M (1) or K (2).
add_product!(Y, rows::March, which, X, s, transposed) =
    residual!(Y, rows.pattern, rows.nzval[which], X .* -s, Y, transposed)

# y, f: `n × samples × order × m`. The statuses and backward errors, `samples × m`. In a
# solve BLAS has small blocks, and its threads wait for each other: one does it.
march!(y, rows::March, f, transposed::Bool) =
    with_one_blas_thread(() -> one_thread_march!(y, rows, f, transposed))

function one_thread_march!(y, rows::March{T}, f, transposed::Bool) where {T}
    n, samples, order, m = size(f)
    status, error = fill(CONVERGED, samples, m), zeros(samples, m)
    X, R = Matrix{T}(undef, n, samples), Matrix{T}(undef, n, samples)
    γ, factor = NaN, nothing
    for j in (transposed ? reverse(1:m) : 1:m)
        if rows.c[j]^order !== γ
            γ = rows.c[j]^order
            factor = factor_of(rows, γ)
        end
        given = ntuple(o -> Matrix{T}(@view f[:, :, o, j]), order)
        old = ntuple(o -> past(rows.p, y, o, j, transposed), order)
        rate = ntuple(o -> past(rows.q, y, o, j, transposed), order)
        step = order == 1 ? first_order! : transposed ? second_order_back! : second_order!
        status[:, j], error[:, j] =
            step(view(y, :, :, :, j), X, R, rows, factor, j, given, old, rate, transposed)
    end
    return status, error
end

# Σ_d w_dj y_{j-d}, or Σ_d w_{d,j+d} y_{j+d} when the march goes back; nothing: zero.
function past(w, y, o, j, transposed)
    total = nothing
    for d in axes(w, 1)
        k, weight = transposed ? (j + d, j + d) : (j - d, j)
        (k in axes(y, 4) && !iszero(w[d, weight])) || continue
        total === nothing && (total = zeros(eltype(y), size(y, 1), size(y, 2)))
        total .+= w[d, weight] .* @view y[:, :, o, k]
    end
    return total
end

add!(R, s, ::Nothing) = R
add!(R, s, x) = (R .+= s .* x)
add_product!(Y, rows::March, which, ::Nothing, s, transposed) = Y

# (1) or its transpose: Aⱼᵀ λⱼ = ȳⱼ + Mᵀ Σ p λ_{j+d} - Kᵀ Σ q λ_{j+d}.
function first_order!(y, X, R, rows, factor, j, (f,), (old,), (rate,), transposed)
    copyto!(R, f)
    add_product!(R, rows, 1, old, 1, transposed)
    add_product!(R, rows, 2, rate, -1, transposed)
    found = solve!(X, factor, R, transposed)
    y[:, :, 1] = X
    return found
end

# With ū = g + Σ p y + Σ q v:  A yⱼ = M ū + c (f + M Σ p v - K Σ q y),  vⱼ = (yⱼ - ū)/c.
function second_order!(y, X, R, rows, factor, j, (f, ū), old, rate, _)
    c = rows.c[j]
    add!(ū, 1, old[1])
    add!(ū, 1, rate[2])
    add_product!(f, rows, 1, old[2], 1, false)
    add_product!(f, rows, 2, rate[1], -1, false)
    R .= c .* f
    add_product!(R, rows, 1, ū, 1, false)
    found = solve!(X, factor, R, false)
    y[:, :, 1] = X
    y[:, :, 2] .= (X .- ū) ./ c
    return found
end

# The transpose of (2), (λ, μ) for its rows:
#     c Kᵀλⱼ + μⱼ  = ȳ - Kᵀ Σ q λ_{j+d} + Σ p μ_{j+d}   =: r
#     Mᵀλⱼ - c μⱼ = v̄ + Mᵀ Σ p λ_{j+d} + Σ q μ_{j+d}   =: s,  so  Aᵀ λⱼ = s + c r.
function second_order_back!(y, X, R, rows, factor, j, (r, s), old, rate, _)
    c = rows.c[j]
    add_product!(r, rows, 2, rate[1], -1, true)
    add!(r, 1, old[2])
    add_product!(s, rows, 1, old[1], 1, true)
    add!(s, 1, rate[2])
    R .= s .+ c .* r
    found = solve!(X, factor, R, true)
    y[:, :, 1] = X
    add_product!(r, rows, 2, X, -c, true)
    y[:, :, 2] = r
    return found
end
