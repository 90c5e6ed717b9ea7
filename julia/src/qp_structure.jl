# The structure of a batch of sparse quadratic programmes: where entries are in the matrices
# of `qp_system.jl`, whole and condensed, and their symbolic analyses.

# P + ρI + AᵀA/δ + CᵀWC, its lower triangle: where the entries of P, the products of
# `row_pairs` and the diagonal are in it.
struct CondensedStructure
    at::NTuple{3,Vector{Int}}
    diagonal::Vector{Int}
    places::CHOLMOD.Sparse{Float64,Int}
    symbolic::CHOLMOD.Factor{Float64,Int}
    entries::Int
end

"""
    SparseStructure(n, p, m, P, A, G, lower, upper; limit)

Where a sparse programme has entries: pairs (rows, columns), in the order of their values;
P the whole of a symmetric matrix. The system above, its lower triangle with the bounds'
rows eliminated, is analysed once; also the condensed one, `small`, unless its analysis
predicts more than `limit` seconds for a factorisation: by default, what the whole takes.
"""
struct SparseStructure
    P::SparseMatrixCSC{Float64,Int}
    Aᵀ::SparseMatrixCSC{Float64,Int}
    Gᵀ::SparseMatrixCSC{Float64,Int}
    slots::NTuple{3,Vector{Int}}      # of the values of P, A, G in those
    K::SparseMatrixCSC{Float64,Int}   # the lower triangle of the system
    lower_P::Vector{Int}              # entries of P in that triangle
    at::NTuple{3,Vector{Int}}         # where those, and the entries of Aᵀ, Gᵀ, are in K
    diagonal::Vector{Int}             # where K's diagonal is
    places::CHOLMOD.Sparse{Float64,Int}
    symbolic::CHOLMOD.Factor{Float64,Int}
    lower::Bool
    upper::Bool
    small::Union{Nothing,CondensedStructure}
end

function SparseStructure(
    n, p, m, P, A, G, lower::Bool, upper::Bool; limit::Union{Nothing,Float64} = nothing)
    place(rows, cols, k, l) = sparse(rows, cols, zeros(length(rows)), k, l)
    made = place(P..., n, n), place(A[2], A[1], n, p), place(G[2], G[1], n, m)
    slots = positions(made[1], P...), positions(made[2], A[2], A[1]),
    positions(made[3], G[2], G[1])
    (i, j, _), (a, e, _), (g, c, _) = map(stored, made)
    below = findall(i .>= j)
    d = 1:(n + p + m)
    rows = [i[below]; n .+ e; n + p .+ c; d]
    cols = [j[below]; a; g; d]
    K = place(rows, cols, n + p + m, n + p + m)
    at = positions(K, i[below], j[below]), positions(K, n .+ e, a),
    positions(K, n + p .+ c, g)
    places = CHOLMOD.Sparse(Symmetric(K, :L))
    symbolic = CHOLMOD.@cholmod_param supernodal = 0 begin
        CHOLMOD.symbolic(places)
    end
    small = condensed_structure(made..., something(limit, work(symbolic)))
    return SparseStructure(made..., slots, K, below, at, positions(K, d, d), places,
        symbolic, lower, upper, small)
end

# About the seconds a numeric factorisation takes, from what the analysis counted: columns
# one after the other, or blocks of them by BLAS.
function work(F::CHOLMOD.Factor)
    f = unsafe_load(pointer(F))
    counts = unsafe_wrap(Array, Ptr{Int}(f.ColCount), Int(f.n))
    rate = f.is_super != 0 ? 8e9 : 1e9
    return sum(c -> Float64(c)^2, counts; init = 0.0) / rate + 5e-9 * sum(counts; init = 0)
end

# The condensed matrix, or nothing if it takes more than `limit` seconds.
function condensed_structure(P, Aᵀ, Gᵀ, limit)
    n = size(P, 1)
    products = sum(M -> sum(j -> length(nzrange(M, j))^2, axes(M, 2); init = 0), (Aᵀ, Gᵀ))
    1e-9 * products < limit || return nothing
    (i, j, _), d = stored(P), 1:n
    below = findall(i .>= j)
    pairs = map(row_pairs, (Aᵀ, Gᵀ))
    rows = [i[below]; d; pairs[1][1]; pairs[2][1]]
    cols = [j[below]; d; pairs[1][2]; pairs[2][2]]
    H = sparse(rows, cols, zeros(length(rows)), n, n)
    at = positions(H, i[below], j[below]), positions(H, pairs[1]...),
    positions(H, pairs[2]...)
    places = CHOLMOD.Sparse(Symmetric(H, :L))
    symbolic = CHOLMOD.symbolic(places)
    1e-9 * products + work(symbolic) < limit || return nothing
    return CondensedStructure(at, positions(H, d, d), places, symbolic,
        length(nonzeros(H)))
end

# The places, in the lower triangle, of the products of two entries of one column.
function row_pairs(M::SparseMatrixCSC)
    rows, cols = Int[], Int[]
    for j in axes(M, 2), k in nzrange(M, j), l in first(nzrange(M, j)):k
        push!(rows, rowvals(M)[k])
        push!(cols, rowvals(M)[l])
    end
    return rows, cols
end

# Rows, columns and values of all stored entries, zeros included.
function stored(M::SparseMatrixCSC)
    cols = [j for j in axes(M, 2) for _ in nzrange(M, j)]
    return copy(rowvals(M)), cols, nonzeros(M)
end

function positions(M::SparseMatrixCSC, rows, cols)
    return map(rows, cols) do i, j
        range = nzrange(M, j)
        first(range) - 1 + searchsortedfirst(view(rowvals(M), range), i)
    end
end
