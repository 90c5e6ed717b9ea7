# Operators on simplices with linear basis functions: what one cell or facet contributes.
#
# On a simplex of measure T the basis functions φ_i have constant gradients G_i, so each
# operator here is T times a polynomial in the G_i, linear in its coefficients θ: blocks
#
#     T B_ij(θ, G),  B_ij of size components × components,
#
# for the test function φ_i and the trial function φ_j. An operator is three functions: its
# `block`, and by hand the transposes of its block in θ and in the gradients, where Wᵢⱼ is
# the weight of the block: with s = Σ_ij W_ij : B_ij,
#
#     coefficient_pullback = ∂s/∂θ,   gradient_pullback(i) = ∂s/∂G_i.
#
# Vectors are tuples of numbers, matrices tuples of rows; all fit registers.

const Vec{d,T} = NTuple{d,T}

@inline inner(a::Tuple, b::Tuple) = reduce(+, map(*, a, b))
@inline scaled(s, a::Tuple) = map(x -> s * x, a)
@inline plus(a::Tuple, b::Tuple) = map(plus, a, b)
@inline plus(a::Real, b::Real) = a + b
@inline times(A::Tuple, x::Tuple) = map(row -> inner(row, x), A)
@inline transposed(A::Tuple) = ntuple(j -> map(row -> row[j], A), Val(length(A[1])))
@inline outer(a::Tuple, b::Tuple) = map(x -> scaled(x, b), a)
@inline trace(A::NTuple{d,NTuple{d,Any}}) where {d} =
    reduce(+, ntuple(i -> A[i][i], Val(d)))
@inline flat(A::Tuple) = flat(A, Val(length(A)), Val(length(A[1])))
@inline flat(A, ::Val{r}, ::Val{c}) where {r,c} =
    ntuple(n -> A[(n - 1) ÷ c + 1][(n - 1) % c + 1], Val(r * c))
as_rows(a::Tuple, ::Val{r}, ::Val{c}) where {r,c} =
    ntuple(i -> ntuple(j -> a[c * (i - 1) + j], Val(c)), Val(r))
@inline total(f::F, ::Val{n}) where {F,n} = reduce(plus, ntuple(f, Val(n)))

# --- geometry -------------------------------------------------------------------------

# Measure and gradients of the basis functions on a cell in its own space, whichever way it
# is turned: the gradients are the rows of the inverse edge matrix.
@inline function geometry((x, y)::NTuple{2,Vec{1}})
    h = y[1] - x[1]
    return abs(h), ((-inv(h),), (inv(h),))
end

@inline function geometry((x, y, z)::NTuple{3,Vec{2}})
    a, b = y .- x, z .- x
    det = a[1] * b[2] - a[2] * b[1]
    r = inv(det)
    g, h = (r * b[2], -r * b[1]), (-r * a[2], r * a[1])
    return abs(det) / 2, (.-(g .+ h), g, h)
end

@inline function geometry((w, x, y, z)::NTuple{4,Vec{3}})
    a, b, c = x .- w, y .- w, z .- w
    bc = cross3(b, c)
    det = inner(a, bc)
    r = inv(det)
    e, f, g = scaled(r, bc), scaled(r, cross3(c, a)), scaled(r, cross3(a, b))
    return abs(det) / 6, (.-(e .+ f .+ g), e, f, g)
end

@inline cross3(a, b) =
    (a[2] * b[3] - a[3] * b[2], a[3] * b[1] - a[1] * b[3], a[1] * b[2] - a[2] * b[1])

# On a facet: gradients along it, from the metric of its edges.
geometry(::NTuple{1,Vec{1,T}}) where {T} = one(T), ((zero(T),),)

@inline function geometry((x, y)::NTuple{2,Vec{2}})
    a = y .- x
    square = inner(a, a)
    g = a ./ square
    return sqrt(square), (.-g, g)
end

@inline function geometry((x, y, z)::NTuple{3,Vec{3}})
    a, b = y .- x, z .- x
    aa, ab, bb = inner(a, a), inner(a, b), inner(b, b)
    det = aa * bb - ab^2
    g, h = (bb .* a .- ab .* b) ./ det, (aa .* b .- ab .* a) ./ det
    return sqrt(det) / 2, (.-(g .+ h), g, h)
end

# --- operators ------------------------------------------------------------------------

"""
    Operator

A form that [`Assembly`](@ref) knows: `Diffusion()`, `TensorDiffusion()`, `Mass(c)`,
`Advection()`, `Elasticity()`, and `Load(c)`, which makes a vector.
"""
abstract type Operator end

# Whether it needs gradients, which facets have only along themselves.
needs_gradients(::Operator) = true
# How many trial functions each of `k` test functions meets.
ntrials(::Operator, k) = k
# Components of test and of trial functions in `d` dimensions.
components(::Operator, d) = (Val(1), Val(1))
# What does not depend on the gradients has no derivative there.
gradient_pullback(::Operator, θ, G, W, i) = map(zero, G[i])

"""
    Diffusion()

``∫ κ ∇u ⋅ ∇v`` with one number κ for each cell.
"""
struct Diffusion <: Operator end
ncoefficients(::Diffusion, d) = Val(1)
@inline block(::Diffusion, (κ,), G, i, j) = ((κ * inner(G[i], G[j]),),)
# On triangles by hand, by the rows that sum to zero: there the loop is mostly arithmetic.
@inline function blocks(::Diffusion, (κ,), (_, g, h)::NTuple{3,Any})
    gg, gh, hh = κ * inner(g, g), κ * inner(g, h), κ * inner(h, h)
    a, b = -(gg + gh), -(gh + hh)
    rows = (-(a + b), a, b), (a, gg, gh), (b, gh, hh)
    return map(row -> map(x -> ((x,),), row), rows)
end
@inline coefficient_pullback(::Diffusion, G, W, i, j) = (W[i][j][1][1] * inner(G[i], G[j]),)
@inline function gradient_pullback(::Diffusion, (κ,), G::NTuple{k,Any}, W, i) where {k}
    return scaled(κ, total(j -> scaled(W[i][j][1][1] + W[j][i][1][1], G[j]), Val(k)))
end

"""
    TensorDiffusion()

``∫ (K ∇u) ⋅ ∇v`` with a matrix K for each cell, row by row.
"""
struct TensorDiffusion <: Operator end
ncoefficients(::TensorDiffusion, ::Val{d}) where {d} = Val(d^2)
tensor(θ, ::NTuple{d,Any}) where {d} = as_rows(θ, Val(d), Val(d))
@inline block(::TensorDiffusion, θ, G, i, j) =
    ((inner(G[i], times(tensor(θ, G[j]), G[j])),),)
@inline coefficient_pullback(::TensorDiffusion, G, W, i, j) =
    flat(scaled.(W[i][j][1][1], outer(G[i], G[j])))
@inline function gradient_pullback(::TensorDiffusion, θ, G::NTuple{k,Any}, W, i) where {k}
    K = tensor(θ, G[i])
    as_test = total(j -> scaled(W[i][j][1][1], G[j]), Val(k))
    as_trial = total(j -> scaled(W[j][i][1][1], G[j]), Val(k))
    return plus(times(K, as_test), times(transposed(K), as_trial))
end

"""
    Mass(c = 1)

``∫ ρ u ⋅ v`` of functions with `c` components, with one number ρ for each cell or facet.
"""
struct Mass{c} <: Operator end
Mass(c = 1) = Mass{Int(c)}()
ncoefficients(::Mass, d) = Val(1)
needs_gradients(::Mass) = false
components(::Mass{c}, d) where {c} = (Val(c), Val(c))
# ∫ φ_i φ_j = T (1 + δ_ij) / k (k + 1)
overlap(::NTuple{k,Any}, i, j) where {k} = (1 + (i == j)) / (k * (k + 1))
@inline block(::Mass{c}, (ρ,), G, i, j) where {c} =
    ntuple(a -> ntuple(b -> (a == b) * overlap(G, i, j) * ρ, Val(c)), Val(c))
@inline coefficient_pullback(::Mass, G, W, i, j) = (overlap(G, i, j) * trace(W[i][j]),)

"""
    Advection()

``∫ (b ⋅ ∇u) v`` with a vector b for each cell.
"""
struct Advection <: Operator end
ncoefficients(::Advection, d) = d
@inline block(::Advection, b, G::NTuple{k,Any}, i, j) where {k} = ((inner(b, G[j]) / k,),)
@inline coefficient_pullback(::Advection, G::NTuple{k,Any}, W, i, j) where {k} =
    scaled(W[i][j][1][1] / k, G[j])
gradient_pullback(::Advection, b, G::NTuple{k,Any}, W, i) where {k} =
    scaled(total(j -> W[j][i][1][1], Val(k)) / k, b)

"""
    Elasticity()

``∫ 2μ ε(u) : ε(v) + λ (∇ ⋅ u)(∇ ⋅ v)`` with the numbers μ, λ for each cell.
"""
struct Elasticity <: Operator end
ncoefficients(::Elasticity, d) = Val(2)
components(::Elasticity, d) = (d, d)
# B_ab = λ G_ia G_jb + μ (G_ib G_ja + δ_ab G_i⋅G_j)
@inline function block(::Elasticity, (μ, λ), G, i, j)
    g, h = G[i], G[j]
    along = μ * inner(g, h)
    return with_diagonal(plus(outer(scaled(λ, g), h), outer(scaled(μ, h), g)), along)
end
@inline with_diagonal(A::NTuple{d,Any}, s) where {d} =
    ntuple(a -> ntuple(b -> a == b ? A[a][b] + s : A[a][b], Val(d)), Val(d))
@inline function coefficient_pullback(::Elasticity, G, W, i, j)
    g, h, w = G[i], G[j], W[i][j]
    return inner(h, times(w, g)) + trace(w) * inner(g, h), inner(g, times(w, h))
end
@inline function gradient_pullback(::Elasticity, (μ, λ), G::NTuple{k,Any}, W, i) where {k}
    return total(Val(k)) do j
        w, z, h = W[i][j], transposed(W[j][i]), G[j]  # as test, as trial function
        sums = plus(w, z)
        volume, shear = times(sums, h), times(transposed(sums), h)
        plus(scaled(λ, volume), scaled(μ, plus(shear, scaled(trace(sums), h))))
    end
end

"""
    Load(c = 1)

``∫ f ⋅ v`` of functions with `c` components, with a vector f for each cell or facet: the
entries are those of a vector.
"""
struct Load{c} <: Operator end
Load(c = 1) = Load{Int(c)}()
ncoefficients(::Load{c}, d) where {c} = Val(c)
needs_gradients(::Load) = false
ntrials(::Load, k) = Val(1)
components(::Load{c}, d) where {c} = (Val(c), Val(1))
@inline block(::Load, f, G::NTuple{k,Any}, i, j) where {k} = map(x -> (x / k,), f)
@inline coefficient_pullback(::Load, G::NTuple{k,Any}, W, i, j) where {k} =
    map(row -> row[1] / k, W[i][j])
