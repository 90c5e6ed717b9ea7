# Quadratic programmes: their data, scaling, and the small kernels they are solved by.
#
# The same algorithm as `pyimplicit/optimize/qp_*.py`, so that both give the same numbers:
# min ½xᵀPx + qᵀx subject to A x = b, C x ≤ d with C = [G; -I; I] (the bounds' rows may be
# absent). Matrices of constraints are stored transposed, constraints as columns; all three
# matrices are dense, or all are sparse.

struct QPData{T,M<:AbstractMatrix{T}}
    P::M   # n × n, symmetric
    q::Vector{T}
    Aᵀ::M  # n × p
    b::Vector{T}
    Gᵀ::M  # n × m
    d::Vector{T}   # of all rows of C
    lower::Bool
    upper::Bool
end

function QPData(P::M, Aᵀ::M, Gᵀ::M, lower::Bool, upper::Bool) where {T,M<:AbstractMatrix{T}}
    v(k) = Vector{T}(undef, k)
    (n, m), p = size(Gᵀ), size(Aᵀ, 2)
    rows = m + n * (lower + upper)
    return QPData{T,M}(P, v(n), Aᵀ, v(p), Gᵀ, v(rows), lower, upper)
end

nrows(D::QPData) = length(D.d)

# --- kernels -------------------------------------------------------------------------
# Products with vectors are written out: BLAS gains nothing on them at these sizes, and its
# calls cost more than a programme of five unknowns.

# The numbers of a matrix, of its columns, and the rows these belong to.
numbers(M::Matrix) = M
numbers(M::SparseMatrixCSC) = nonzeros(M)
column(M::Matrix, j) = view(M, :, j)
column(M::SparseMatrixCSC, j) = view(nonzeros(M), nzrange(M, j))
column_rows(M::Matrix, _) = axes(M, 1)
column_rows(M::SparseMatrixCSC, j) = view(rowvals(M), nzrange(M, j))

# y[at + j] = α Σᵢ M[i, j] x[i] + β y[at + j]
function dots!(y, at, M, x, α, β)
    for j in axes(M, 2)
        total, v, rows = zero(eltype(y)), column(M, j), column_rows(M, j)
        @inbounds @simd for k in eachindex(v)
            total += v[k] * x[rows[k]]
        end
        @inbounds y[at + j] = iszero(β) ? α * total : α * total + β * y[at + j]
    end
    return y
end

# y += α M v, the entries of v from `at + 1` on
function combine!(y, M, v, at, α)
    for j in axes(M, 2)
        @inbounds c = α * v[at + j]
        iszero(c) && continue
        u, rows = column(M, j), column_rows(M, j)
        @inbounds @simd for k in eachindex(u)  # a row is in a column once
            y[rows[k]] += u[k] * c
        end
    end
    return y
end

# y = C x
function times_C!(y, D::QPData, x)
    n, m = size(D.Gᵀ)
    dots!(y, 0, D.Gᵀ, x, 1, 0)
    at = m
    D.lower && (@inbounds @simd for i in 1:n
        y[at + i] = -x[i]
    end; at += n)
    D.upper && (@inbounds @simd for i in 1:n
        y[at + i] = x[i]
    end)
    return y
end

# y += Cᵀ v
function add_Cᵀ!(y, D::QPData, v)
    n, m = size(D.Gᵀ)
    combine!(y, D.Gᵀ, v, 0, 1)
    at = m
    D.lower && (@inbounds @simd for i in 1:n
        y[i] -= v[at + i]
    end; at += n)
    D.upper && (@inbounds @simd for i in 1:n
        y[i] += v[at + i]
    end)
    return y
end

# The largest entry in absolute value; NaN if one is NaN.
function top(v)
    largest, bad = zero(eltype(v)), false
    @inbounds @simd for i in eachindex(v)
        a = abs(v[i])
        largest = ifelse(a > largest, a, largest)
        bad |= isnan(a)
    end
    return bad ? oftype(largest, NaN) : largest
end
top(M::SparseMatrixCSC) = top(nonzeros(M))

const SMALL = 12  # unknowns up to which factors are made by loops

"""
    condense!(L, B, D, base, w) -> Bool

`L Lᵀ = base + Cᵀ diag(w) C`, the lower triangle; false if that is not positive definite.
`B` is memory of the size of `Gᵀ`. Zero weights cost nothing.
"""
function condense!(L::Matrix{T}, B, D::QPData{T,Matrix{T}}, base, w) where {T}
    n, m = size(D.Gᵀ)
    copyto!(L, base)
    k = 0
    for j in 1:m
        @inbounds w[j] > 0 || (isnan(w[j]) && return false; continue)
        k += 1
        @inbounds r = sqrt(w[j])
        @inbounds @simd for i in 1:n
            B[i, k] = r * D.Gᵀ[i, j]
        end
    end
    if n > SMALL
        k > 0 && BLAS.syrk!('L', 'N', one(T), view(B, :, 1:k), one(T), L)
    else
        for l in 1:k, j in 1:n
            @inbounds c = B[j, l]
            @inbounds @simd for i in j:n
                L[i, j] += c * B[i, l]
            end
        end
    end
    at = m
    for _ in 1:(D.lower + D.upper)
        @inbounds for i in 1:n
            L[i, i] += w[at + i]
        end
        at += n
    end
    return cholesky_lower!(L)
end

function cholesky_lower!(L::Matrix{T}) where {T}
    n = size(L, 1)
    n > SMALL && return LAPACK.potrf!('L', L)[2] == 0
    for j in 1:n
        @inbounds pivot = L[j, j]
        pivot > 0 || return false
        @inbounds L[j, j] = sqrt(pivot)
        @inbounds r = 1 / L[j, j]
        @inbounds @simd for i in (j + 1):n
            L[i, j] *= r
        end
        for k in (j + 1):n
            @inbounds c = L[k, j]
            @inbounds @simd for i in k:n
                L[i, k] -= c * L[i, j]
            end
        end
    end
    return true
end

# x ← (L Lᵀ)⁻¹ x
function cholesky_solve!(x, L::Matrix)
    n = size(L, 1)
    if n > SMALL
        BLAS.trsv!('L', 'N', 'N', L, x)
        BLAS.trsv!('L', 'T', 'N', L, x)
        return x
    end
    for j in 1:n
        @inbounds x[j] /= L[j, j]
        @inbounds c = x[j]
        @inbounds @simd for i in (j + 1):n
            x[i] -= c * L[i, j]
        end
    end
    for j in n:-1:1
        @inbounds total = x[j]
        @inbounds for i in (j + 1):n
            total -= L[i, j] * x[i]
        end
        @inbounds x[j] = total / L[j, j]
    end
    return x
end

# base = P + shift I + A Aᵀ-part/δ
function condensed_base!(base::Matrix{T}, D::QPData{T,Matrix{T}}, shift, δ) where {T}
    copyto!(base, D.P)
    n, p = size(D.Aᵀ)
    @inbounds for i in 1:n
        base[i, i] += shift
    end
    p > 0 && BLAS.syrk!('L', 'N', inv(T(δ)), D.Aᵀ, one(T), base)
    return base
end

# --- scaling -------------------------------------------------------------------------

# x = col · x̂, y = row_y · ŷ / cost, z = row_z · ẑ / cost.
struct QPScale{T}
    col::Vector{T}
    row_y::Vector{T}
    row_z::Vector{T}
end

within(size::T) where {T} = size > 0 ? clamp(size, T(1e-8), T(1e8)) : one(T)

# Divides columns by their largest entry (which is kept in `row`, multiplied on).
function scale_columns!(M, row, at)
    for j in axes(M, 2)
        v = column(M, j)
        @inbounds r = 1 / within(top(v))
        @inbounds row[at + j] *= r
        @inbounds @simd for k in eachindex(v)
            v[k] *= r
        end
    end
end

function scale_rows!(M, col)
    for j in axes(M, 2)
        v, rows = column(M, j), column_rows(M, j)
        @inbounds @simd for k in eachindex(v)
            v[k] *= col[rows[k]]
        end
    end
end

"""
    scale!(hat, scale, D) -> cost

Rows of A and G near 1, then columns, then the objective (Ruiz 2001, two sweeps).
"""
function scale!(hat::QPData{T}, S::QPScale{T}, D::QPData{T}) where {T}
    n, m = size(D.Gᵀ)
    for (a, b) in ((hat.P, D.P), (hat.Aᵀ, D.Aᵀ), (hat.Gᵀ, D.Gᵀ))
        copyto!(numbers(a), numbers(b))
    end
    fill!(S.row_y, 1)
    fill!(S.row_z, 1)
    col = S.col
    scale_columns!(hat.Aᵀ, S.row_y, 0)
    scale_columns!(hat.Gᵀ, S.row_z, 0)
    fill!(col, 0)
    for M in (hat.Aᵀ, hat.Gᵀ), j in axes(M, 2)
        v, rows = column(M, j), column_rows(M, j)
        @inbounds for k in eachindex(v)
            i = rows[k]
            col[i] = max(col[i], abs(v[k]))
        end
    end
    cost = 1 / within(max(top(D.P), top(D.q)))
    for j in 1:n
        @inbounds col[j] = 1 / sqrt(within(max(col[j], cost * top(column(D.P, j)))))
    end
    foreach(M -> scale_rows!(M, col), (hat.Aᵀ, hat.Gᵀ, hat.P))
    for j in 1:n
        column(hat.P, j) .*= col[j]
    end
    scale_columns!(hat.Aᵀ, S.row_y, 0)
    scale_columns!(hat.Gᵀ, S.row_z, 0)
    hat.q .= D.q .* col
    cost = 1 / within(max(top(hat.P), top(hat.q)))
    numbers(hat.P) .*= cost
    hat.q .*= cost
    hat.b .= S.row_y .* D.b
    for k in (m + 1):nrows(D)
        @inbounds S.row_z[k] = 1 / col[mod1(k - m, n)]
    end
    hat.d .= S.row_z .* D.d
    return cost
end
