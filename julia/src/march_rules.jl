# Rules of `march`.
#
# L is linear in (M, K) and affine in (c, p, q), so with L y = f
#
#     L ẏ = ḟ - L̇ y,     ⟨ȳ, ẏ⟩ = ⟨λ, ḟ⟩ - ⟨λ, L̇ y⟩  with Lᴴ λ = ȳ.
#
# If Lᵀ y = f instead, ⟨λ, L̇ᵀ y⟩ = ⟨y*, L̇ λ*⟩: the same sums with the two exchanged. With
# the combinations of (1) and (2) that M and K multiply,
#
#     aⱼ = vⱼ - Σ p v_{j-d}  (v = y for the first order),     dⱼ = cⱼ yⱼ + Σ q y_{j-d},
#
# ⟨λ, L̇ y⟩ has Ṁ aⱼ and K̇ dⱼ, and for the numbers M v_{j-d}, K y_{j-d} and what stands in
# the second row of (2).

function ChainRulesCore.frule(
    (_, _, Ṁ, K̇, ċ, ṗ, q̇, ḟ)::Tuple, ::typeof(march), pattern::SparsePattern, M, K, c, p, q,
    f; transposed = false)
    y = march(pattern, M, K, c, p, q, f; transposed)
    zero_if(ẋ, x) = (ẋ = unthunk(ẋ); ẋ isa AbstractZero ? zero(x) : ẋ)
    Ṁ, K̇, ċ, ṗ, q̇, ḟ = map(zero_if, (Ṁ, K̇, ċ, ṗ, q̇, ḟ), (M, K, c, p, q, f))
    rows = March{working_type(eltype(y))}
    moved = rows_times(rows(pattern, Ṁ, K̇, c, p, q), y, 1, 0, transposed)
    moved += rows_times(rows(pattern, M, K, ċ, ṗ, q̇), y, 0, 1, transposed)
    return y, march(pattern, M, K, c, p, q, ḟ .- moved; transposed)
end

# L y or Lᵀ y, where the numbers 1 in (1) and (2) are `one`, and row (2) has the factor
# `second`.
function rows_times(rows::March{T}, y, one, second, transposed) where {T}
    n, order, m = size(y)
    z = zeros(T, n, order, m)
    row(j, o) = reshape(view(z, :, o, j), n, 1)
    at(j, o) = reshape(convert(Vector{T}, @view y[:, o, j]), n, 1)
    # z_r += s A y_s at each place (r, s) of L, or of its transpose.
    function add(which, r, s, weight)
        (i, o), (k, l) = transposed ? (s, r) : (r, s)
        iszero(weight) && return
        which == 0 && return (row(i, o) .+= weight .* at(k, l); nothing)
        Z = copy(row(i, o))
        row(i, o) .= add_product!(Z, rows, which, at(k, l), weight, transposed)
        return
    end
    for j in 1:m
        add(1, (j, 1), (j, order), one)
        add(2, (j, 1), (j, 1), rows.c[j])
        order == 2 && add(0, (j, 2), (j, 1), second * one)
        order == 2 && add(0, (j, 2), (j, 2), -second * rows.c[j])
        for d in 1:min(size(rows.p, 1), j - 1)
            add(1, (j, 1), (j - d, order), -rows.p[d, j])
            add(2, (j, 1), (j - d, 1), rows.q[d, j])
            order == 2 && add(0, (j, 2), (j - d, 1), -second * rows.p[d, j])
            order == 2 && add(0, (j, 2), (j - d, 2), -second * rows.q[d, j])
        end
    end
    return z
end

function ChainRulesCore.rrule(
    ::typeof(march), pattern::SparsePattern, M, K, c, p, q, f; transposed = false)
    y = march(pattern, M, K, c, p, q, f; transposed)
    project = map(ProjectTo, (M, K, c, p, q, f))
    function march_pullback(ȳ)
        ȳ = unthunk(ȳ)
        ȳ isa AbstractZero &&
            return NoTangent(), NoTangent(), map(_ -> ZeroTangent(), project)...
        λ = conj(march(pattern, M, K, c, p, q, conj(ȳ); transposed = !transposed))
        left, right = transposed ? (conj(y), conj(λ)) : (λ, y)
        T = working_type(eltype(y))
        rows = March{T}(pattern, M, K, c, p, q)
        numbers = cotangents(rows, convert(Array{T,3}, left), convert(Array{T,3}, right))
        return NoTangent(), NoTangent(),
        map((project, x̄) -> project(x̄), project, (numbers..., λ))...
    end
    return y, march_pullback
end

# Of M, K, c, p, q for the number -⟨λ, L y⟩.
function cotangents(rows::March{T}, λ::Array{T,3}, y::Array{T,3}) where {T}
    pattern, (n, order, m) = rows.pattern, size(y)
    v = y[:, order, :]
    a, d = copy(v), y[:, 1, :] .* transpose(rows.c)
    times(which, x) = add_product!(zeros(T, n, m), rows, which, x, 1, false)
    Mv, Ky = times(1, v), times(2, y[:, 1, :])
    product(x, z) = real(LinearAlgebra.dot(x, z))
    c̄, p̄, q̄ = zero(rows.c), zero(rows.p), zero(rows.q)
    for j in 1:m
        c̄[j] = -product(λ[:, 1, j], Ky[:, j])
        order == 2 && (c̄[j] += product(λ[:, 2, j], v[:, j]))
        for k in 1:min(size(rows.p, 1), j - 1)
            a[:, j] .-= rows.p[k, j] .* v[:, j - k]
            d[:, j] .+= rows.q[k, j] .* y[:, 1, j - k]
            p̄[k, j] = product(λ[:, 1, j], Mv[:, j - k])
            q̄[k, j] = -product(λ[:, 1, j], Ky[:, j - k])
            order == 2 && (p̄[k, j] += product(λ[:, 2, j], y[:, 1, j - k]))
            order == 2 && (q̄[k, j] += product(λ[:, 2, j], v[:, j - k]))
        end
    end
    first_rows = λ[:, 1, :]
    places(x) = values_cotangent(pattern, first_rows, conj(x), false)
    return places(a), places(d), c̄, p̄, q̄
end
