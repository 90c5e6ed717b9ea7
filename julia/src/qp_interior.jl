# Mehrotra's predictor-corrector method from an infeasible start, of one scaled programme.
# See `pyimplicit/optimize/qp_interior.py` for the derivation: with slacks s = d - C x > 0
# and W = diag(z/s) a step is one Cholesky factorisation of P + ρI + AᵀA/δ + CᵀWC; of sparse
# matrices, where that is less work, an LDLᵀ factorisation before condensing, see
# `qp_system.jl`.
#
# Mehrotra 1992, doi:10.1137/0802028; Friedlander, Orban 2012, doi:10.1007/s12532-012-0035-2
# (ρ = δ = √ε); Vandenberghe 2010, *The CVXOPT linear and quadratic cone program solvers*.

const RUNNING = Int32(-1)
const RAY = 1.5e-7  # how well a ray must prove what it says
const CAREFUL = 15  # after so many steps shorter ones without correction

# A point and its residuals.
struct QPPoint{T}
    x::Vector{T}
    y::Vector{T}
    z::Vector{T}
    s::Vector{T}
    r_x::Vector{T}
    r_y::Vector{T}
    r_z::Vector{T}
end
function QPPoint{T}(n, p, rows) where {T}
    v(k) = zeros(T, k)
    return QPPoint{T}(v(n), v(p), v(rows), v(rows), v(n), v(p), v(rows))
end

"""
    QPWorkspace{T}(n, p, m, lower, upper)
    QPWorkspace(structure::SparseStructure)

The memory in which programmes of one shape are solved, one after the other.
"""
mutable struct QPWorkspace{T,M<:AbstractMatrix{T},S}
    const given::QPData{T,M}
    const hat::QPData{T,M}
    const system::S
    const scale::QPScale{T}
    const live::Vector{Bool}
    const fixed::Vector{Bool}
    const active::Vector{Bool}
    const weak::Vector{Bool}
    const now::Vector{Bool}
    const at::QPPoint{T}
    const next::QPPoint{T}
    const step::QPPoint{T}   # r_x: the right-hand side; r_z: t
    const best::QPPoint{T}
    const kept::QPPoint{T}   # the iterate, while the exact step uses its memory
    const w::Vector{T}
    const r_c::Vector{T}
    const Cx::Vector{T}
    const Px::Vector{T}
    const dual::Vector{T}
    const size::QPPoint{T}   # of the polishing: see there
    status::Int32
    steps::Int32
    polished::Bool
    error::T
end

function QPWorkspace{T}(n, p, m, lower::Bool, upper::Bool) where {T}
    z(k, l) = zeros(T, k, l)
    data() = QPData(z(n, n), z(n, p), z(n, m), lower, upper)
    return QPWorkspace(data(), data(), CondensedSystem(z(n, n), z(n, n), z(n, m)))
end

function QPWorkspace(given::QPData{T,M}, hat, system::S) where {T,M<:AbstractMatrix{T},S}
    n, p, rows = length(given.q), length(given.b), nrows(given)
    point() = QPPoint{T}(n, p, rows)
    v(k) = zeros(T, k)
    flags() = zeros(Bool, rows)
    return QPWorkspace{T,M,S}(given, hat, system, QPScale{T}(v(n), v(p), v(rows)),
        flags(), flags(), flags(), flags(), flags(),
        point(), point(), point(), point(), point(),
        v(rows), v(rows), v(rows), v(n), v(n), point(), 0, 0, false, 0)
end

regularisation(::Type{T}) where {T} = sqrt(eps(T))

function interior_point!(W::QPWorkspace{T}, rtol, max_steps) where {T}
    base!(W.system, W.hat, regularisation(T), regularisation(T))
    start!(W, rtol)
    return advance!(W, rtol, max_steps)
end

# From an iterate that met a larger tolerance.
function resume!(W::QPWorkspace{T}, rtol, max_steps) where {T}
    base!(W.system, W.hat, regularisation(T), regularisation(T))
    W.status = RUNNING
    return advance!(W, rtol, max_steps)
end

function advance!(W::QPWorkspace, rtol, max_steps)
    while W.status == RUNNING && W.steps < max_steps
        step!(W, rtol)
    end
    W.status == RUNNING && (W.status = Int32(MAX_STEPS_REACHED))
    return W.status
end

# min ½xᵀPx + qᵀx + ½‖C x - d‖² and z = -s = C x - d, both moved inside.
function start!(W::QPWorkspace{T}, rtol) where {T}
    D, P, Δ, ε = W.hat, W.at, W.step, regularisation(T)
    W.steps = 0
    for i in eachindex(W.w)
        W.w[i] = W.live[i] ? one(T) : W.fixed[i] ? 1 / ε : zero(T)
        Δ.r_z[i] = W.live[i] || W.fixed[i] ? -W.w[i] * D.d[i] : zero(T)
    end
    P.r_x .= D.q
    P.r_y .= .-D.b
    if !factor!(W.system, D, W.w)
        W.status = Int32(NONFINITE)
        foreach(v -> fill!(v, NaN), (P.x, P.y, P.z, P.s))
        return
    end
    direction!(W)
    P.x .= Δ.x
    P.y .= Δ.y
    lift_z, lift_s = inside(Δ.z, 1, W.live), inside(Δ.z, -1, W.live)
    for i in eachindex(P.z)
        live = W.live[i]
        P.s[i] = live ? lift_s - Δ.z[i] : one(T)
        P.z[i] = live ? Δ.z[i] + lift_z : W.fixed[i] ? Δ.z[i] : zero(T)
    end
    W.status = judge!(W, P, one(T), rtol)
    return
end

# What must be added to sign · v so that it is positive.
function inside(v::Vector{T}, sign, live) where {T}
    low = typemin(T)
    for i in eachindex(v)
        live[i] && (low = max(low, -sign * v[i]))
    end
    return low < -1e-8 ? zero(T) : 1 + low
end

# (dx, dy, dz) from r_x, r_y of the point and t (in `step.r_z`); also C dx.
direction!(W::QPWorkspace) =
    direction!(W.step, W.system, W.hat, W.at.r_x, W.at.r_y, W.step.r_z, W.w, W.Cx)

# z ds + s dz = -r_c,  C dx + ds - δ dz = -r_z
function towards!(W::QPWorkspace{T}) where {T}
    P, Δ, ε = W.at, W.step, regularisation(T)
    @inbounds for i in eachindex(Δ.r_z)
        Δ.r_z[i] =
            W.live[i] ? (P.z[i] * P.r_z[i] - W.r_c[i]) / (P.s[i] + ε * P.z[i]) :
            W.fixed[i] ? P.r_z[i] / ε : zero(T)
    end
    direction!(W)
    @inbounds for i in eachindex(Δ.s)
        Δ.s[i] = W.live[i] ? ε * Δ.z[i] - P.r_z[i] - W.Cx[i] : zero(T)
    end
end

function step!(W::QPWorkspace{T}, rtol) where {T}
    P, Δ, N, ε = W.at, W.step, W.next, regularisation(T)
    total, some = zero(T), 0
    @inbounds for i in eachindex(W.w)
        W.w[i] = W.live[i] ? P.z[i] / (P.s[i] + ε * P.z[i]) : W.fixed[i] ? 1 / ε : zero(T)
        W.r_c[i] = P.s[i] * P.z[i]
        W.live[i] && (total += W.r_c[i]; some += 1)
    end
    some = max(some, 1)
    μ = total / some
    factor!(W.system, W.hat, W.w) || return (W.status = Int32(NONFINITE))
    towards!(W)
    α = min(one(T), to_boundary(W))
    after = zero(T)
    @inbounds for i in eachindex(W.w)
        W.live[i] && (after += (P.s[i] + α * Δ.s[i]) * (P.z[i] + α * Δ.z[i]))
    end
    σ = (after / some / (μ > 0 ? μ : one(T)))^3
    careful = W.steps >= CAREFUL
    careful && (σ = max(σ, T(0.1)))
    order = careful ? zero(T) : min(one(T), 3α)
    @inbounds for i in eachindex(W.r_c)
        W.r_c[i] = P.s[i] * P.z[i] + order * Δ.s[i] * Δ.z[i] - σ * μ
    end
    towards!(W)
    near = careful ? T(0.9) : clamp(1 - μ, T(0.99), T(0.999))
    α = min(one(T), near * to_boundary(W))
    for k in (:x, :y, :z, :s)
        u, v, dv = getfield(N, k), getfield(P, k), getfield(Δ, k)
        @inbounds @simd for i in eachindex(u)
            u[i] = v[i] + α * dv[i]
        end
    end
    W.status = judge!(W, N, α, rtol)
    W.status == Int32(NONFINITE) && return W.status  # a step that broke down is not taken
    W.steps += 1
    keep!(P, N)
    return W.status
end

function keep!(to::QPPoint, from::QPPoint)
    for k in (:x, :y, :z, :s, :r_x, :r_y, :r_z)
        copyto!(getfield(to, k), getfield(from, k))
    end
    return to
end

# The largest α with z + α dz ≥ 0 and s + α ds ≥ 0.
function to_boundary(W::QPWorkspace{T}) where {T}
    P, Δ, α = W.at, W.step, typemax(T)
    @inbounds for i in eachindex(W.live)
        W.live[i] || continue
        Δ.z[i] < 0 && (α = min(α, -P.z[i] / Δ.z[i]))
        Δ.s[i] < 0 && (α = min(α, -P.s[i] / Δ.s[i]))
    end
    return α
end

# The residuals of a point, and what is to be said of it.
function judge!(W::QPWorkspace{T}, P::QPPoint{T}, α, rtol) where {T}
    D = W.hat
    Px, dual, Cx = W.Px, W.dual, W.Cx
    dots!(Px, 0, D.P, P.x, 1, 0)
    times_C!(Cx, D, P.x)
    fill!(dual, 0)
    add_Cᵀ!(dual, D, P.z)
    combine!(dual, D.Aᵀ, P.y, 0, 1)
    P.r_x .= Px .+ D.q .+ dual
    dots!(P.r_y, 0, D.Aᵀ, P.x, 1, 0)
    Ax = top(P.r_y)
    P.r_y .-= D.b
    gap = d_top = d_z = outward = zero(T)
    @inbounds for i in eachindex(Cx)
        live, fixed = W.live[i], W.fixed[i]
        d = live || fixed ? D.d[i] : zero(T)
        P.r_z[i] = live ? Cx[i] + P.s[i] - d : fixed ? Cx[i] - d : zero(T)
        live && (gap += abs(P.s[i] * P.z[i]); outward = max(outward, Cx[i]))
        fixed && (outward = max(outward, abs(Cx[i])))
        d_top = max(d_top, abs(d))
        d_z += d * P.z[i]
    end
    linear = dot(D.q, P.x)
    objective = abs(linear + dot(Px, P.x) / 2)
    met(r, sizes...) = top(r) <= rtol * (1 + max(sizes...))
    there = met(P.r_x, top(Px), top(D.q), top(dual)) && met(P.r_y, top(D.b), Ax) &&
            met(P.r_z, d_top, top(Cx)) && gap <= rtol * (1 + objective)
    # A feasible x would give 0 ≤ Σ z (d - C x) + y·(b - A x) = -ray - dual·x.
    ray = -(dot(D.b, P.y) + d_z)
    isfinite(gap) && isfinite(top(P.r_x)) && isfinite(objective) || return Int32(NONFINITE)
    there && return Int32(CONVERGED)
    ray > 0 && top(dual) <= RAY * ray && return Int32(INFEASIBLE)
    linear < 0 && max(outward, Ax, top(Px)) <= -RAY * linear && return Int32(UNBOUNDED)
    return α < 1e-10 ? Int32(MAX_STEPS_REACHED) : RUNNING
end
