"""
    DiffusionAssembly(points, cells, slot, nentries)

The map from cell coefficients to the entries of the P1 stiffness matrix,
``κ ↦ v``, ``v_s = Σ_e κ_e ∫_e ∇φ_i ⋅ ∇φ_j`` over the element entries ``(e, i, j)`` that
land in place ``s``. It is linear, and is called like a function: `assembly(κ)`.

# Arguments
- `points`: `dim × npoints`. [m]
- `cells`: `(dim + 1) × ncells`, point numbers from 1; intervals, triangles, tetrahedra.
- `slot`: `(dim + 1) × (dim + 1) × ncells`, the place of each element entry, from 1.
- `nentries`: number of places.

# Derivative
``v̇ = S κ̇`` and ``κ̄ = Sᵀ v̄`` with the same map ``S``, gathered on both sides, so that
threads never write to the same place and the sums have a fixed order.

# Throws
- `DimensionMismatch` if sizes do not fit; `ArgumentError` for a flat cell, or a number
  that is out of range.
"""
struct DiffusionAssembly
    byentry::SparseMatrixCSC{Float64,Int}  # ncells × nentries: column s makes v_s
    bycell::SparseMatrixCSC{Float64,Int}   # nentries × ncells: column e makes κ̄_e
end

function DiffusionAssembly(points, cells, slot, nentries::Integer)
    dim, k = size(points, 1), size(cells, 1)
    k == dim + 1 || throw(DimensionMismatch(
        "cells in $dim dimensions must have $(dim + 1) corners. Got $k."))
    size(slot) == (k, k, size(cells, 2)) || throw(DimensionMismatch(
        "`slot` must have size $((k, k, size(cells, 2))). Got $(size(slot))."))
    all(in(1:size(points, 2)), cells) || throw(ArgumentError(
        "`cells` must lie in 1:$(size(points, 2)). Got $(extrema(cells))."))
    all(in(1:nentries), slot) || throw(ArgumentError(
        "`slot` must lie in 1:$nentries. Got $(extrema(slot))."))
    ncells = size(cells, 2)
    weight = Array{Float64}(undef, k, k, ncells)
    foreach_threaded(cld(ncells, 4096)) do chunk
        for e in (4096 * (chunk - 1) + 1):min(4096 * chunk, ncells)
            stiffness!(@view(weight[:, :, e]), points, @view(cells[:, e]), e)
        end
    end
    cell = repeat(1:ncells; inner = k * k)
    bycell = sparse(vec(slot), cell, vec(weight), nentries, ncells)
    return DiffusionAssembly(sparse(transpose(bycell)), bycell)
end

# ∫_e ∇φ_i ⋅ ∇φ_j on one simplex: gradients are the rows of the inverse edge matrix.
function stiffness!(K, points, cell, e)
    dim = size(points, 1)
    J = [points[d, cell[i + 1]] - points[d, cell[1]] for d in 1:dim, i in 1:dim]
    volume = abs(det(J)) / factorial(dim)
    volume > 0 || throw(ArgumentError("cell $e has no volume."))
    G = inv(J)
    ∇φ = vcat(-sum(G; dims = 1), G)
    mul!(K, ∇φ, transpose(∇φ), volume, 0)
    return K
end

(assembly::DiffusionAssembly)(κ::AbstractVector) = gather(assembly.byentry, κ)

# y = Mᵀ x, threaded over the columns of M.
function gather(M::SparseMatrixCSC, x::AbstractVector)
    length(x) == M.m ||
        throw(DimensionMismatch("expected $(M.m) numbers, got $(length(x))."))
    y = Vector{promote_type(Float64, eltype(x))}(undef, M.n)
    chunk = 16384
    foreach_threaded(cld(M.n, chunk)) do c
        @inbounds for s in (chunk * (c - 1) + 1):min(chunk * c, M.n)
            sum = zero(eltype(y))
            for k in nzrange(M, s)
                sum += nonzeros(M)[k] * x[rowvals(M)[k]]
            end
            y[s] = sum
        end
    end
    return y
end
