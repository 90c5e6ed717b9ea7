@enum Structure GENERAL SYMMETRIC SPD

function structure(name::AbstractString)
    name == "general" && return GENERAL
    name == "symmetric" && return SYMMETRIC
    name == "spd" && return SPD
    throw(ArgumentError(
        "`structure` must be \"general\", \"symmetric\" or \"spd\". Got \"$name\"."))
end

"""
    SparsePattern(rows, cols, n; structure = "general")

The places of the stored entries of a sparse `n × n` matrix, each once, in any order.

With `structure = "symmetric"` or `"spd"` both triangles are stored and the matrix of
`values` is *defined* as their symmetric part, so that each stored entry has a derivative
that agrees with finite differences in that entry alone.

The pattern owns its symbolic analyses; see [`sparse_solve`](@ref).

# Throws
- `ArgumentError`: places outside the matrix, named twice, or without their mirror image.
"""
struct SparsePattern
    n::Int
    structure::Structure
    rows::Vector{Int}          # of the stored entries, as the user ordered them
    cols::Vector{Int}
    colptr::Vector{Int}        # compressed columns; the lower triangle only for SPD
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
    all(i -> 1 <= i <= n, rows) && all(j -> 1 <= j <= n, cols) ||
        throw(ArgumentError("places must lie in 1:$n."))
    place = @. (cols - 1) * n + rows
    order = sortperm(place)
    sorted = place[order]
    allunique(place) || throw(ArgumentError("each place must be named once."))
    partner = Int[]
    slot = order
    if kind != GENERAL
        mirror = [searchsortedfirst(sorted, (rows[k] - 1) * n + cols[k]) for k in order]
        for (k, m) in zip(order, mirror)
            m <= length(sorted) && sorted[m] == (rows[k] - 1) * n + cols[k] ||
                throw(ArgumentError(
                    "a symmetric pattern must store both triangles. " *
                    "Got ($(rows[k]), $(cols[k])) alone."))
        end
        partner = order[mirror]
    end
    if kind == SPD
        keep = [rows[k] >= cols[k] for k in slot]
        slot, partner = slot[keep], partner[keep]
    end
    colptr = ones(Int, n + 1)
    for k in slot
        colptr[cols[k] + 1] += 1
    end
    colptr[2:end] .= 1 .+ cumsum(@view(colptr[2:end]) .- 1)
    return SparsePattern(
        n, kind, rows, cols, colptr, rows[slot], slot, partner, ReentrantLock(),
        Dict{DataType,Any}(), Threads.atomic_add!(PATTERNS, 1))
end

nentries(pattern::SparsePattern) = length(pattern.rows)
Base.size(pattern::SparsePattern) = (pattern.n, pattern.n)
function Base.show(io::IO, p::SparsePattern)
    print(io, "SparsePattern(", p.n, " × ", p.n, ", ", nentries(p), " entries, ",
        lowercase(string(p.structure)), ")")
end

# Values may differ across the diagonal by this part of the largest: enough for finite
# differences in one entry, not for an advection term.
const ASYMMETRY = 1e-3

# The compressed columns of `values`, and whether they can be factorised. One pass.
function compress(pattern::SparsePattern, values::AbstractVector{T}) where {T}
    nzval = Vector{T}(undef, length(pattern.slot))
    status = CONVERGED
    if pattern.structure == GENERAL
        @inbounds for k in eachindex(nzval)
            nzval[k] = values[pattern.slot[k]]
        end
    else
        largest = difference = zero(real(T))
        @inbounds for k in eachindex(nzval)
            a, b = values[pattern.slot[k]], values[pattern.partner[k]]
            nzval[k] = (a + b) / 2
            largest = max(largest, abs(a))
            difference = max(difference, abs(a - b))
        end
        difference > ASYMMETRY * largest && (status = NOT_SYMMETRIC)
    end
    isfinite(sum(abs, nzval)) || (status = NONFINITE)
    return SparseMatrixCSC(pattern.n, pattern.n, pattern.colptr, pattern.rowval, nzval),
    status
end

# R = B - A X (or B - Aᵀ X) for a matrix made by `compress`.
function residual!(R, pattern::SparsePattern, A::SparseMatrixCSC, X, B, transposed::Bool)
    copyto!(R, B)
    rows, nz = rowvals(A), nonzeros(A)
    @inbounds for c in axes(X, 2), j in 1:(A.n)
        x = X[j, c]
        if pattern.structure == SPD  # the lower triangle stands for both
            s = zero(eltype(R))
            for k in nzrange(A, j)
                i = rows[k]
                if i == j
                    s += nz[k] * x
                else
                    R[i, c] -= nz[k] * x
                    s += nz[k] * X[i, c]
                end
            end
            R[j, c] -= s
        elseif transposed
            s = zero(eltype(R))
            for k in nzrange(A, j)
                s += nz[k] * X[rows[k], c]
            end
            R[j, c] -= s
        else
            for k in nzrange(A, j)
                R[rows[k], c] -= nz[k] * x
            end
        end
    end
    return R
end

# The largest absolute row sum of A, and of its transpose.
function norms(pattern::SparsePattern, A::SparseMatrixCSC)
    byrow, bycol = zeros(A.n), zeros(A.n)
    for j in 1:(A.n), k in nzrange(A, j)
        i, a = rowvals(A)[k], abs(nonzeros(A)[k])
        byrow[i] += a
        bycol[j] += a
        if pattern.structure == SPD && i != j
            byrow[j] += a
            bycol[i] += a
        end
    end
    return maximum(byrow), maximum(bycol)
end
