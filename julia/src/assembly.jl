"""
    Assembly(operator, cells, slot, nentries, npoints; dim)

The map from the points of a mesh and coefficients to the entries of a sparse matrix (or of
a vector): sums over cells or facets with linear basis functions, called as a function
`assembly(points, θ)` with `points` of size `dim × npoints` [m] and θ of size `m × ncells`;
the [`Operator`](@ref) says what the `m` numbers of a cell are.

# Arguments
- `cells`: point numbers from 1, `(dim + 1) × ncells`; of facets `dim × ncells`.
- `slot`: the place of each element entry, from 1, one column for each cell. Entries run
  over trial functions first, components before nodes: `(j, i)` for a scalar matrix.
- `nentries`: number of places.

# Derivative
In θ it is linear. In the points, with the velocity gradient L = Σ Ẋ_i ⊗ G_i of a cell, its
measure and gradients change by Ṫ = T tr L and Ġ_i = -Lᵀ G_i. Each place sums its cells in
their order, whatever the number of threads.

# Throws
- `DimensionMismatch` if sizes do not fit; `ArgumentError` for a flat cell, or a number
  that is out of range.
"""
struct Assembly{O<:Operator,d,k,I}
    operator::O
    entries::Scatter{I}
    nodes::Scatter{UInt8}  # the numbers of a point's coordinates
end

function Assembly(operator::Operator, cells, slot, nentries::Integer, npoints::Integer;
    dim = size(cells, 1) - 1)
    k = size(cells, 1)
    dim in 1:3 && k in (dim, dim + 1) || throw(DimensionMismatch(
        "cells in $dim dimensions must have $(dim + 1) corners, facets $dim. Got $k."))
    k > dim || !needs_gradients(operator) || throw(ArgumentError(
        "$(name(operator)) must be assembled over cells, whose gradients it needs. " *
        "Got facets, with $k corners."))
    all(in(1:npoints), cells) || throw(ArgumentError(
        "`cells` must lie in 1:$npoints. Got $(extrema(cells))."))
    all(in(1:nentries), slot) || throw(ArgumentError(
        "`slot` must lie in 1:$nentries. Got $(extrema(slot))."))
    (test, trial), n = map(unval, components(operator, Val(dim))), size(cells, 2)
    entries = k * test * unval(ntrials(operator, Val(k))) * trial
    length(slot) == entries * n || throw(DimensionMismatch(
        "`slot` must have $entries rows for each of $n cells. Got size $(size(slot))."))
    cells = Matrix{Int32}(cells)
    slot = reshape(Array{Int32}(slot), entries, n)
    coordinates = reshape([Int32(dim * (p - 1) + a) for a in 1:dim, p in cells], dim * k, n)
    rows = Scatter(cells, slot, nentries; rows = test)
    nodes = Scatter(cells, coordinates, dim * npoints)
    return Assembly{typeof(operator),dim,k,eltype(rows.offsets)}(
        operator, rows, nodes)
end

unval(::Val{n}) where {n} = n

"""
    Transposed(assembly)

The transpose of an [`Assembly`](@ref) in its coefficients: `(points, v̄) -> θ̄`.
"""
struct Transposed{A<:Assembly}
    f::A
end
Transposed(f, _) = Transposed(f)

# --- the three loops ------------------------------------------------------------------
#
# All are derivatives of s(X, θ, v) = ⟨v, A(X, θ)⟩: ∂s/∂v = A(X, θ), ∂s/∂θ = Aᵀ(X, v), and
# ∂s/∂X, which is `points_pullback`. Arguments may be dual numbers.

(A::Assembly)(X::AbstractMatrix, θ::AbstractMatrix) =
    assemble!(Vector{number_type(X, θ)}(undef, A.entries.size), A, X, θ)

function assemble!(y, A::Assembly{O,d,k}, X, θ) where {O,d,k}
    check(A, X, θ)
    test, trial = components(A.operator, Val(d))
    return scatter!(y, A.entries, Val(k), test) do e, nodes
        T, G = cell_geometry(A, X, e, nodes)
        B = blocks(A.operator, scaled(T, coefficients(A, θ, e)), G)
        entries_of(B, ntrials(A.operator, Val(k)), test, trial)
    end
end

(A::Transposed)(X::AbstractMatrix, v::AbstractVector) =
    assemble!(Matrix{number_type(X, v)}(undef, result_size(A)), A, X, v)

function assemble!(θ̄, A::Transposed{<:Assembly{O,d,k}}, X, v) where {O,d,k}
    A = A.f
    check(A, X, v)
    foreach_chunk(ncells(A)) do e
        T, G = cell_geometry(A, X, e)
        store_column!(θ̄, e, scaled(T, pull_coefficients(A.operator, G, weights(A, v, e))))
    end
    return θ̄
end

result_size(A::Assembly) = (A.entries.size,)
result_size(A::Transposed{<:Assembly{O,d}}) where {O,d} =
    (unval(ncoefficients(A.f.operator, Val(d))), ncells(A.f))

# With s = T Σ W:B, linear in θ: ∂s/∂T T = θ⋅θ̄, and by Ṫ = T tr L, Ġ_i = -Lᵀ G_i,
#
#     L̄ = (θ⋅θ̄) I - Σ G_i ⊗ Ḡ_i,   X̄_i = L̄ G_i.
function points_pullback(A::Assembly{O,d,k}, X, θ, v) where {O,d,k}
    check(A, X, θ)
    check(A, X, v)
    X̄ = Matrix{number_type(X, θ, v)}(undef, d, A.nodes.size ÷ d)
    return scatter!(X̄, A.nodes, Val(k), Val(1)) do e, nodes
        T, G = cell_geometry(A, X, e, nodes)
        W, θe = weights(A, v, e), coefficients(A, θ, e)
        s = T * inner(θe, pull_coefficients(A.operator, G, W))
        Ḡ = ntuple(i -> gradient_pullback(A.operator, θe, G, W, i), Val(k))
        L̄ = with_diagonal(
            total(i -> scaled.(-T, outer(G[i], Ḡ[i])), Val(k)), s)
        flat(map(g -> times(L̄, g), G))
    end
end

number_type(arrays...) = promote_type(Float64, map(eltype, arrays)...)
ncells(A::Assembly) = size(A.entries.owners, 2)

@inline function blocks(op::Operator, θ, G::NTuple{k,Any}) where {k}
    n = ntrials(op, Val(k))
    return ntuple(i -> ntuple(j -> block(op, θ, G, i, j), n), Val(k))
end

# The entries of blocks B[i][j][a][b], in the order of `slot`.
@inline function entries_of(B::NTuple{k,Any}, ::Val{n}, ::Val{c}, ::Val{t}) where {k,n,c,t}
    return ntuple(Val(k * c * n * t)) do m
        Base.@_inline_meta
        row, column = divrem(m - 1, n * t)
        i, a = divrem(row, c)
        j, b = divrem(column, t)
        B[i + 1][j + 1][a + 1][b + 1]
    end
end

# The numbers of `v` at the places of a cell, as blocks.
@inline function weights(A::Assembly{O,d,k}, v, e) where {O,d,k}
    test, trial = map(unval, components(A.operator, Val(d)))
    n = unval(ntrials(A.operator, Val(k)))
    at(i, a, j, b) = gathered(v, A.entries, e, i, a, (j - 1) * trial + b, test, n * trial)
    return ntuple(Val(k)) do i
        ntuple(Val(n)) do j
            ntuple(Val(test)) do a
                ntuple(b -> at(i, a, j, b), Val(trial))
            end
        end
    end
end

@inline function pull_coefficients(op::Operator, G::NTuple{k,Any}, W) where {k}
    n = ntrials(op, Val(k))
    return total(i -> total(j -> coefficient_pullback(op, G, W, i, j), n), Val(k))
end

@inline coefficients(A::Assembly{O,d}, θ, e) where {O,d} =
    ntuple(m -> (@inbounds θ[m, e]), ncoefficients(A.operator, Val(d)))

@inline function cell_geometry(
    A::Assembly{O,d,k}, X, e, nodes = owners(A.entries, e, Val(k))) where {O,d,k}
    T, G = geometry(map(n -> ntuple(a -> (@inbounds X[a, n]), Val(d)), nodes))
    T <= 0 && flat_cell(e)  # points may be NaN where they were refused
    return T, G
end

@noinline flat_cell(e) = throw(ArgumentError("cell $e has no volume."))

function check(A::Assembly{O,d}, X, a) where {O,d}
    fits(x, dims, what) = size(x) == dims || throw(DimensionMismatch(
        "$(name(A)) must get $what of size $dims. Got $(size(x))."))
    fits(X, (d, A.nodes.size ÷ d), "points")
    a isa AbstractVector ? fits(a, (A.entries.size,), "entries") :
    fits(a, (unval(ncoefficients(A.operator, Val(d))), ncells(A)), "coefficients")
    return nothing
end

function foreach_chunk(f::F, n, chunk = 8192) where {F}
    foreach_threaded(cld(n, chunk)) do c
        for e in (chunk * (c - 1) + 1):min(chunk * c, n)
            @inline f(e)
        end
    end
end

@inline function store_column!(M, e, column::NTuple{m,Any}) where {m}
    for i in 1:m
        @inbounds M[i, e] = column[i]
    end
end
