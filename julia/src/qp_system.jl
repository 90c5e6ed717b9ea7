# The linear systems of a quadratic programme, condensed (dense, and sparse where that takes
# less work) or as a whole:
#
#     [P + ρI  Aᵀ   Cᵀ  ] [dx]   [-r_x]
#     [A      -δI       ] [dy] = [-r_y]     w ≥ 0; rows with w = 0 do not count: dz = t
#     [C           -W⁻¹ ] [dz]   [-t/w]
#
# `base!` sets P, A, ρ and δ, `factor!` C and w, and `direction!` solves.

struct CondensedSystem{T}
    base::Matrix{T}  # P + ρI + AᵀA/δ
    L::Matrix{T}     # its Cholesky factor, with Cᵀ W C added
    B::Matrix{T}     # memory of the size of Gᵀ
    δ::Base.RefValue{T}
end
CondensedSystem(base::Matrix{T}, L, B) where {T} =
    CondensedSystem{T}(base, L, B, Ref(one(T)))

function base!(S::CondensedSystem, D, ρ, δ)
    S.δ[] = δ
    return condensed_base!(S.base, D, ρ, δ)
end

factor!(S::CondensedSystem, D, w) = condense!(S.L, S.B, D, S.base, w)

# In `out`: x, y, z; in `Cx`: C dx.
function direction!(out, S::CondensedSystem, D, r_x, r_y, t, w, Cx)
    inverse = 1 / S.δ[]
    copyto!(out.x, r_x)
    add_Cᵀ!(out.x, D, t)
    combine!(out.x, D.Aᵀ, r_y, 0, inverse)
    cholesky_solve!(out.x, S.L)
    out.x .*= -1
    copyto!(out.y, r_y)
    dots!(out.y, 0, D.Aᵀ, out.x, inverse, inverse)
    times_C!(Cx, D, out.x)
    @inbounds @simd for i in eachindex(out.z)
        out.z[i] = t[i] + w[i] * Cx[i]
    end
    return
end

# --- sparse --------------------------------------------------------------------------

# The condensed matrix of one system: its factor, its values, and those of P + ρI + AᵀA/δ.
struct CondensedSparse
    of::CondensedStructure
    F::CHOLMOD.Factor{Float64,Int}
    values::Vector{Float64}
    base::Vector{Float64}
end

CondensedSparse(of::CondensedStructure) =
    CondensedSparse(of, copy(of.symbolic), zeros(of.entries), zeros(of.entries))

# Factors and values belong to this system alone. Where the condensed matrix is not positive
# in floating point the whole one takes over (`condensed` false).
mutable struct SparseSystem
    const of::SparseStructure
    const F::CHOLMOD.Factor{Float64,Int}
    const small::Union{Nothing,CondensedSparse}
    condensed::Bool
    const values::Vector{Float64}   # of K
    const fixed::Vector{Float64}    # of K's diagonal: P + ρ, and -δ
    const rhs::Vector{Float64}
    const left::Vector{Float64}
    δ::Float64
end

function QPWorkspace(of::SparseStructure)
    data() = QPData(copy(of.P), copy(of.Aᵀ), copy(of.Gᵀ), of.lower, of.upper)
    v() = zeros(length(of.diagonal))
    small = of.small === nothing ? nothing : CondensedSparse(of.small)
    values = zeros(length(nonzeros(of.K)))
    return QPWorkspace(data(), data(),
        SparseSystem(of, copy(of.symbolic), small, false, values, v(), v(), v(), 1.0))
end

function base!(S::SparseSystem, D, ρ, δ)
    of, (n, p) = S.of, size(D.Aᵀ)
    S.condensed, S.δ = S.small !== nothing, δ
    fill!(S.values, 0)
    S.values[of.at[1]] .= view(nonzeros(D.P), of.lower_P)
    S.values[of.at[2]] .= nonzeros(D.Aᵀ)
    S.fixed .= view(S.values, of.diagonal)
    S.fixed[1:n] .+= ρ
    S.fixed[(n + 1):(n + p)] .= -δ
    S.small === nothing || condensed_base!(S.small, D, of.lower_P, ρ, δ)
    return
end

function condensed_base!(H::CondensedSparse, D, lower_P, ρ, δ)
    fill!(H.base, 0)
    H.base[H.of.at[1]] .= view(nonzeros(D.P), lower_P)
    H.base[H.of.diagonal] .+= ρ
    add_products!(H.base, H.of.at[2], D.Aᵀ, Returns(1 / δ))
    return
end

# values[at] += w(j) · the products of two entries of column j
function add_products!(values, at, M::SparseMatrixCSC, w)
    v, next = nonzeros(M), 0
    for j in axes(M, 2)
        range, weight = nzrange(M, j), w(j)
        iszero(weight) && (next += length(range) * (length(range) + 1) ÷ 2; continue)
        @inbounds for k in range, l in first(range):k
            values[at[next += 1]] += weight * v[k] * v[l]
        end
    end
    return values
end

function factor!(S::SparseSystem, D, w)
    of, (n, p), m = S.of, size(D.Aᵀ), size(D.Gᵀ, 2)
    values = S.values
    any(isnan, w) && return false
    for j in 1:m, k in nzrange(D.Gᵀ, j)
        @inbounds values[of.at[3][k]] = w[j] > 0 ? nonzeros(D.Gᵀ)[k] : 0.0
    end
    copyto!(S.left, S.fixed)
    at = m
    for _ in 1:(D.lower + D.upper), i in 1:n
        S.left[i] += w[at += 1]
    end
    for j in 1:m
        S.left[n + p + j] = w[j] > 0 ? -1 / w[j] : -1.0
    end
    values[of.diagonal] .= S.left
    if S.condensed
        H = S.small
        copyto!(H.values, H.base)
        add_products!(H.values, H.of.at[3], D.Gᵀ, j -> w[j])
        for i in 1:n  # of the bounds
            H.values[H.of.diagonal[i]] += S.left[i] - S.fixed[i]
        end
        numeric_cholesky!(H.F, H.of.places, H.values, 0.0)
        issuccess(H.F) && return true
        S.condensed = false
    end
    numeric_ldlt!(S.F, of.places, values)
    return issuccess(S.F)
end

function direction!(out, S::SparseSystem, D, r_x, r_y, t, w, Cx)
    (n, p), m = size(D.Aᵀ), size(D.Gᵀ, 2)
    rhs, left = S.rhs, S.left
    copyto!(out.x, r_x)
    fill!(out.z, 0)
    copyto!(out.z, m + 1, t, m + 1, length(t) - m)  # of the bounds, which are eliminated
    add_Cᵀ!(out.x, D, out.z)
    rhs[1:n] .= .-out.x
    rhs[(n + 1):(n + p)] .= .-r_y
    for j in 1:m
        rhs[n + p + j] = w[j] > 0 ? -t[j] / w[j] : 0.0
    end
    v = approximate(S, D, w, rhs)
    # Refinement: no pivoting in an LDLᵀ of a static order, large numbers in the condensed.
    for _ in 1:2
        copyto!(left, rhs)
        subtract_product!(left, S, v)
        top(left) <= 1e-13 * top(rhs) && break
        v .+= approximate(S, D, w, left)
    end
    copyto!(out.x, 1, v, 1, n)
    copyto!(out.y, 1, v, n + 1, p)
    times_C!(Cx, D, out.x)
    for i in eachindex(out.z)
        out.z[i] = i <= m && w[i] > 0 ? v[n + p + i] : t[i] + w[i] * Cx[i]
    end
    return
end

# K v = r by the factor at hand.
function approximate(S::SparseSystem, D, w, r)
    solve(F, b) = vec(Matrix(CHOLMOD.solve(CHOLMOD.CHOLMOD_A, F, CHOLMOD.Dense(b))))
    S.condensed || return solve(S.F, r)
    (n, p), m = size(D.Aᵀ), size(D.Gᵀ, 2)
    v, x = copy(r), r[1:n]
    combine!(x, D.Aᵀ, r, n, 1 / S.δ)
    for j in 1:m
        v[n + p + j] = w[j] > 0 ? w[j] * r[n + p + j] : 0.0
    end
    combine!(x, D.Gᵀ, v, n + p, 1)
    x = solve(S.small.F, x)
    copyto!(v, x)
    dots!(v, n, D.Aᵀ, x, 1 / S.δ, 0)
    dots!(v, n + p, D.Gᵀ, x, 1, 0)
    for j in 1:p
        v[n + j] -= r[n + j] / S.δ
    end
    for j in 1:m
        i = n + p + j
        v[i] = w[j] > 0 ? w[j] * (v[i] - r[i]) : -r[i]
    end
    return v
end

# r -= K v, K symmetric, of which the lower triangle is stored.
function subtract_product!(r, S::SparseSystem, v)
    rows, values = rowvals(S.of.K), S.values
    for j in axes(S.of.K, 2)
        total = 0.0
        for k in nzrange(S.of.K, j)
            @inbounds i = rows[k]
            @inbounds r[i] -= values[k] * v[j]
            @inbounds i == j || (total += values[k] * v[i])
        end
        r[j] -= total
    end
    return r
end
