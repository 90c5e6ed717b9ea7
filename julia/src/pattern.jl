@enum Structure GENERAL SYMMETRIC SPD QUASIDEFINITE

function structure(name::AbstractString)
    name == "general" && return GENERAL
    name == "symmetric" && return SYMMETRIC
    name == "spd" && return SPD
    name == "quasidefinite" && return QUASIDEFINITE
    throw(ArgumentError("`structure` must be \"general\", \"symmetric\", \"spd\" or " *
                        "\"quasidefinite\". Got \"$name\"."))
end

# Structures of which the compressed columns hold the lower triangle.
halved(structure::Structure) = structure == SPD || structure == QUASIDEFINITE

"""
    SparsePattern(rows, cols, n; structure = "general")

The places of the stored entries of a sparse `n × n` matrix, each once, in any order.

With `structure = "symmetric"`, `"spd"` or `"quasidefinite"` (a positive and a negative
definite diagonal block, in any order) both triangles are stored and the matrix of `values`
is *defined* as their symmetric part, so that each stored entry has a derivative that agrees
with finite differences in that entry alone.

The pattern owns its symbolic analyses; see [`sparse_solve`](@ref).

# Throws
- `ArgumentError`: places outside the matrix, named twice, or without their mirror image.
"""
struct SparsePattern
    n::Int
    structure::Structure
    rows::Vector{Int}          # of the stored entries, as the user ordered them
    cols::Vector{Int}
    colptr::Vector{Int}        # compressed columns; the lower triangle only where `halved`
    rowval::Vector{Int}
    slot::Vector{Int}          # entry k of the columns is values[slot[k]] …
    partner::Vector{Int}       # … and values[partner[k]] is its mirror image
    lock::ReentrantLock        # guards `analysis`
    analysis::Dict{DataType,Any}
    id::Int
end

const PATTERNS = Threads.Atomic{Int}(0)

function SparsePattern(rows, cols, n::Integer; structure::AbstractString = "general")
    kind = ImplicitAdjoints.structure(structure)
    rows, cols = Vector{Int}(rows), Vector{Int}(cols)
    length(rows) == length(cols) || throw(ArgumentError(
        "`rows` and `cols` must be equally long. Got $(length(rows)) and $(length(cols))."))
    n >= 1 || throw(ArgumentError("`n` must be at least 1. Got $n."))
    all(i -> 1 <= i <= n, rows) && all(j -> 1 <= j <= n, cols) ||
        throw(ArgumentError("places must lie in 1:$n."))
    # A matrix whose entries are their own numbers sorts them, and its transpose pairs them.
    A = sparse(rows, cols, eachindex(rows), n, n, (k, _) -> throw(ArgumentError(
        "each place must be named once. Got ($(rows[k]), $(cols[k])) again.")))
    partner = Int[]
    if kind != GENERAL
        Aᵀ = sparse(transpose(A))
        A.colptr == Aᵀ.colptr && rowvals(A) == rowvals(Aᵀ) || missing_mirror(rows, cols)
        halved(kind) && ((A, Aᵀ) = (tril(A), tril(Aᵀ)))
        partner = nonzeros(Aᵀ)
    end
    return SparsePattern(
        n, kind, rows, cols, A.colptr, rowvals(A), nonzeros(A), partner, ReentrantLock(),
        Dict{DataType,Any}(), Threads.atomic_add!(PATTERNS, 1))
end

function missing_mirror(rows, cols)
    places = Set(zip(rows, cols))
    alone = findfirst(((i, j),) -> (j, i) ∉ places, collect(zip(rows, cols)))
    throw(ArgumentError(
        "a symmetric pattern must store both triangles. " *
        "Got ($(rows[alone]), $(cols[alone])) alone."))
end

"""
    nentries(pattern::SparsePattern)

How many entries are stored: the length of `values`.
"""
nentries(pattern::SparsePattern) = length(pattern.rows)
Base.size(pattern::SparsePattern) = (pattern.n, pattern.n)
function Base.show(io::IO, p::SparsePattern)
    print(io, "SparsePattern(", p.n, " × ", p.n, ", ", nentries(p), " entries, ",
        lowercase(string(p.structure)), ")")
end

# Values may differ across the diagonal by this part of the largest: enough for finite
# differences in one entry, not for an advection term.
const ASYMMETRY = 1e-3

# The entries of the compressed columns, and whether they can be factorised. One pass.
function compress!(nzval::Vector{T}, pattern::SparsePattern, values::Vector{T}) where {T}
    slot, partner = pattern.slot, pattern.partner
    infinite = zero(real(T))
    symmetric = true
    if pattern.structure == GENERAL
        @inbounds @simd for k in eachindex(nzval)
            nzval[k] = values[slot[k]]
            infinite += unless_finite(nzval[k])
        end
    else
        largest = difference = zero(real(T))
        @inbounds for k in eachindex(nzval)
            a, b = values[slot[k]], values[partner[k]]
            nzval[k] = a == b ? a : a / 2 + b / 2  # `a + b` may overflow
            infinite += unless_finite(nzval[k])
            largest = ifelse(magnitude(a) > largest, magnitude(a), largest)
            d = magnitude(a - b)
            difference = ifelse(d > difference, d, difference)
        end
        symmetric = !(difference > ASYMMETRY * largest)
    end
    return iszero(infinite) ? (symmetric ? CONVERGED : NOT_SYMMETRIC) : NONFINITE
end

# Zero, or NaN for NaN and infinity: their sum cannot overflow, unlike that of the values.
unless_finite(x::Real) = zero(x) * x
unless_finite(z::Complex) = unless_finite(real(z)) + unless_finite(imag(z))

# A norm of one number that cannot overflow and costs no square root.
magnitude(x::Real) = abs(x)
magnitude(z::Complex) = max(abs(real(z)), abs(imag(z)))

# R = B - A X (or B - Aᵀ X), A in compressed columns.
function residual!(R, pattern::SparsePattern, nzval, X, B, transposed::Bool)
    copyto!(R, B)
    rows, colptr = pattern.rowval, pattern.colptr
    @inbounds for c in axes(X, 2), j in 1:(pattern.n)
        x = X[j, c]
        if halved(pattern.structure)  # the lower triangle stands for both
            s = zero(eltype(R))
            for k in colptr[j]:(colptr[j + 1] - 1)
                i = rows[k]
                if i == j
                    s += nzval[k] * x
                else
                    R[i, c] -= nzval[k] * x
                    s += nzval[k] * X[i, c]
                end
            end
            R[j, c] -= s
        elseif transposed
            s = zero(eltype(R))
            for k in colptr[j]:(colptr[j + 1] - 1)
                s += nzval[k] * X[rows[k], c]
            end
            R[j, c] -= s
        else
            for k in colptr[j]:(colptr[j + 1] - 1)
                R[rows[k], c] -= nzval[k] * x
            end
        end
    end
    return R
end

# The largest row sum of |A|, and of its transpose.
function norms(pattern::SparsePattern, nzval::Vector)
    byrow = zeros(pattern.n)
    bycol = pattern.structure == GENERAL ? zeros(pattern.n) : byrow
    @inbounds for j in 1:(pattern.n), k in pattern.colptr[j]:(pattern.colptr[j + 1] - 1)
        i, a = pattern.rowval[k], magnitude(nzval[k])
        byrow[i] += a
        if pattern.structure == GENERAL || (halved(pattern.structure) && i != j)
            bycol[j] += a
        end
    end
    return maximum(byrow), maximum(bycol)
end

# The places of the diagonal in the compressed columns; 0 where it is not stored.
diagonal_places(p::SparsePattern) = map(1:(p.n)) do j
    places = p.colptr[j]:(p.colptr[j + 1] - 1)
    k = searchsortedfirst(@view(p.rowval[places]), j)
    k <= length(places) && p.rowval[places[k]] == j ? places[k] : 0
end
