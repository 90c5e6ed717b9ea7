# The linear systems of a quadratic programme, condensed (dense) or as a whole (sparse):
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

"""
    SparseStructure(n, p, m, P, A, G, lower, upper)

Where a sparse programme has entries: pairs (rows, columns), in the order of their values;
P the whole of a symmetric matrix. The system above, its lower triangle with the bounds'
rows eliminated, is analysed once.
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
end

function SparseStructure(n, p, m, P, A, G, lower::Bool, upper::Bool)
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
    return SparseStructure(made..., slots, K, below, at, positions(K, d, d), places,
        symbolic, lower, upper)
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

# `F` and `K`'s values belong to this system alone.
struct SparseSystem
    of::SparseStructure
    F::CHOLMOD.Factor{Float64,Int}
    values::Vector{Float64}   # of K
    fixed::Vector{Float64}    # of K's diagonal: P + ρ, and -δ
    rhs::Vector{Float64}
    left::Vector{Float64}
end

function QPWorkspace(of::SparseStructure)
    data() = QPData(copy(of.P), copy(of.Aᵀ), copy(of.Gᵀ), of.lower, of.upper)
    v() = zeros(length(of.diagonal))
    values = zeros(length(nonzeros(of.K)))
    return QPWorkspace(
        data(), data(), SparseSystem(of, copy(of.symbolic), values, v(), v(), v()))
end

function base!(S::SparseSystem, D, ρ, δ)
    of, (n, p) = S.of, size(D.Aᵀ)
    fill!(S.values, 0)
    S.values[of.at[1]] .= view(nonzeros(D.P), of.lower_P)
    S.values[of.at[2]] .= nonzeros(D.Aᵀ)
    S.fixed .= view(S.values, of.diagonal)
    S.fixed[1:n] .+= ρ
    S.fixed[(n + 1):(n + p)] .= -δ
    return
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
    A = unsafe_load(pointer(of.places))  # a copy of the C struct, not of its arrays
    A.x = pointer(values)
    GC.@preserve S A CHOLMOD.@cholmod_param final_ll = false begin
        CHOLMOD.@cholmod_param supernodal = 0 begin
            LibSuiteSparse.cholmod_l_factorize_p(
                pointer_from_objref(A), [0.0, 0.0], C_NULL, 0, S.F, CHOLMOD.getcommon(Int))
        end
    end
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
    v = vec(Matrix(CHOLMOD.solve(CHOLMOD.CHOLMOD_A, S.F, CHOLMOD.Dense(rhs))))
    # One step of refinement: no pivoting in an LDLᵀ of a static order.
    copyto!(left, rhs)
    subtract_product!(left, S, v)
    v .+= vec(Matrix(CHOLMOD.solve(CHOLMOD.CHOLMOD_A, S.F, CHOLMOD.Dense(left))))
    copyto!(out.x, 1, v, 1, n)
    copyto!(out.y, 1, v, n + 1, p)
    times_C!(Cx, D, out.x)
    for i in eachindex(out.z)
        out.z[i] = i <= m && w[i] > 0 ? v[n + p + i] : t[i] + w[i] * Cx[i]
    end
    return
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
