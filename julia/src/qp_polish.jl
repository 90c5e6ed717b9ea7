# From an interior point's answer to the exact one: the active set and a linear solve. See
# `pyimplicit/optimize/qp_polish.py` and `qp_kkt.py` for the derivation.
#
# With the active rows known the optimality conditions are linear, with the matrix
# [P Aᵀ Cᵀ; A 0 0; C 0 0] on them and ones for the other rows. Adding ρI and -δI condenses
# it to one n × n Cholesky factor; refinement takes ρ and δ out again.
#
# Hintermüller, Ito, Kunisch 2002, doi:10.1137/S1052623401383558 (the active set method).

const ROUNDS = 6
const REFINEMENTS = 30

# The scalars ρ and δ: small against P and against the constraints.
function kkt_scales(D::QPData{T}) where {T}
    reg = eps(T)^T(0.55)
    p, g = top(D.P), max(top(D.Aᵀ), top(D.Gᵀ))
    (D.lower || D.upper) && (g = max(g, one(T)))
    g > 0 || (g = one(T))
    p > 0 || (p = g)
    return reg * p, reg * g^2 / p
end

# The factor at the active set.
function factor_active!(W::QPWorkspace{T}, active, δ) where {T}
    W.w .= ifelse.(active, 1 / δ, zero(T))
    return factor!(W.system, W.given, W.w)
end

# out = K v for the matrix above; `v`, `out`: points of which x, y, z count.
function times_KKT!(out, D::QPData, active, v, masked)
    dots!(out.x, 0, D.P, v.x, 1, 0)
    masked .= ifelse.(active, v.z, false)
    add_Cᵀ!(out.x, D, masked)
    combine!(out.x, D.Aᵀ, v.y, 0, 1)
    dots!(out.y, 0, D.Aᵀ, v.x, 1, 0)
    times_C!(out.z, D, v.x)
    out.z .= ifelse.(active, out.z, v.z)
    return out
end

squares(v) = sum(abs2, v.x) + sum(abs2, v.y) + sum(abs2, v.z)

"""
    refined_solve!(W, v, r, active, t) -> error

`K v = r` by the factor at the active set and refinement; `r` is what is left, `error` its
size relative to what it was. `t` is memory.
"""
function refined_solve!(W::QPWorkspace{T}, v, r, active, t) where {T}
    D, new, w, masked = W.given, W.next, W.w, W.r_c
    foreach(a -> fill!(a, 0), (v.x, v.y, v.z))
    size = sqrt(squares(r))
    size > 0 || return isnan(size) ? size : zero(T)
    error = one(T)
    for _ in 1:REFINEMENTS
        # (x, y, z) from the residual, with ρ and δ in the matrix: minus the direction.
        masked .= ifelse.(active, w .* r.z, zero(T))
        direction!(new, W.system, D, r.x, r.y, masked, w, W.Cx)
        new.x .*= -1
        new.y .*= -1
        new.z .= ifelse.(active, .-new.z, r.z)
        times_KKT!(t, D, active, new, masked)
        t.x .= r.x .- t.x
        t.y .= r.y .- t.y
        t.z .= r.z .- t.z
        after = sqrt(squares(t)) / size
        after < error || break  # false for NaN
        before, error = error, after
        for (a, b) in ((v.x, new.x), (v.y, new.y), (v.z, new.z))
            a .+= b
        end
        copyto!(r.x, t.x)
        copyto!(r.y, t.y)
        copyto!(r.z, t.z)
        after < T(0.7) * before && after > 4 * eps(T) || break
    end
    return error
end

# What round-off is measured by; `z`: the largest entry of each row of C, `s`: a size of
# unknowns, which is returned, times the sum of its entries, `y`: the same for A.
function sizes!(W::QPWorkspace{T}) where {T}
    D, S, m = W.given, W.size, size(W.given.Gᵀ, 2)
    largest = top(D.P)
    reach = top(W.best.x) + (largest > 0 ? top(D.q) / largest : zero(T))
    far = zero(T)
    for j in 1:m
        row = column(D.Gᵀ, j)
        S.z[j], S.s[j] = top(row), sum(abs, row; init = zero(T))
        h = W.live[j] ? D.d[j] : zero(T)
        far = max(far, abs(h / (S.z[j] > 0 ? S.z[j] : one(T))))
    end
    reach += far
    for j in (m + 1):nrows(D)
        S.z[j] = S.s[j] = one(T)
    end
    S.s .*= reach
    for j in axes(D.Aᵀ, 2)
        S.y[j] = reach * sum(abs, column(D.Aᵀ, j); init = zero(T))
    end
    return reach
end

# Slacks (in `M.s`), multipliers (in `M.z`) and the largest error of an equation, each
# relative to the terms it is the sum of.
function measure!(W::QPWorkspace{T}, M, P) where {T}
    D, S, tiny = W.given, W.size, sqrt(floatmin(T))
    dots!(W.Px, 0, D.P, P.x, 1, 0)
    times_C!(W.Cx, D, P.x)
    fill!(W.dual, 0)
    add_Cᵀ!(W.dual, D, P.z)
    forces = max(top(W.Px), top(D.q), top(W.dual))
    M.r_x .= W.Px .+ D.q .+ W.dual
    fill!(W.dual, 0)
    combine!(W.dual, D.Aᵀ, P.y, 0, 1)
    force = max(forces, top(W.dual)) + tiny
    M.r_x .+= W.dual
    error = top(M.r_x) / force
    dots!(M.y, 0, D.Aᵀ, P.x, 1, 0)
    @inbounds for j in eachindex(M.y)
        error = max(error, abs(M.y[j] - D.b[j]) / (abs(D.b[j]) + S.y[j] + tiny))
    end
    @inbounds for i in eachindex(M.s)
        bound = W.live[i] || W.fixed[i]
        d = bound ? D.d[i] : zero(T)
        M.s[i] = bound ? (d - W.Cx[i]) / (abs(d) + S.s[i] + tiny) : typemax(T)
        M.z[i] = P.z[i] * S.z[i] / force
    end
    return error
end

# The error of a point with these rows active; in `better` the rows that should be.
function judge_active!(better, W::QPWorkspace{T}, P, active) where {T}
    M = W.next
    error = measure!(W, M, P)
    @inbounds for i in eachindex(active)
        live = W.live[i] && W.size.z[i] > 0  # a row of zeros is never active
        wrong = live ? (active[i] ? -M.z[i] : -M.s[i]) : zero(T)
        error = max(error, active[i] ? abs(M.s[i]) : wrong, wrong)
        better[i] = W.fixed[i] || (live && (active[i] ? M.z[i] > 0 : M.s[i] < 0))
    end
    return isfinite(error) ? error : typemax(T)
end

"""
    polish!(W, valid, rounds = ROUNDS)

Replaces the point `W.best` by the exact one, if it meets all conditions to about 1e-10; and
the sets of active and weakly active rows, with the condensed factor there. `W.active`: the
rows thought active. `valid`: whether the point is near a solution. `rounds`: how many sets
are tried at most.
"""
function polish!(W::QPWorkspace{T}, valid::Bool, rounds = ROUNDS) where {T}
    D, best, now, guess = W.given, W.best, W.now, W.active
    tol = eps(T)^T(0.65)
    reach = sizes!(W)
    guess .= W.fixed .| (W.live .& guess .& (W.size.z .> 0))  # no rows of zeros
    copyto!(now, guess)
    ρ, δ = kkt_scales(D)
    base!(W.system, D, ρ, δ)
    W.polished = factored = false
    r, v = W.at, W.step
    left = (x = r.r_x, y = r.r_y, z = r.r_z)
    for _ in 1:(valid ? rounds : 0)
        factored = factor_active!(W, now, δ)
        from = (x = best.x, y = best.y, z = W.size.r_z)
        from.z .= ifelse.(now, best.z, zero(T))
        times_KKT!(r, D, now, from, W.r_c)
        r.x .= .-(r.x .+ D.q)
        r.y .= D.b .- r.y
        r.z .= ifelse.(now, D.d .- r.z, zero(T))
        refined_solve!(W, v, r, now, left)
        v.x .+= best.x
        v.y .+= best.y
        v.z .+= from.z
        W.error = judge_active!(W.weak, W, v, now)
        if W.error <= tol
            W.polished = true
            foreach(copyto!, (best.x, best.y, best.z), (v.x, v.y, v.z))
            break
        end
        copyto!(now, W.weak)
    end
    W.polished || (copyto!(now, guess); factored = false)
    weakly_active!(W, reach) && (factored = false)
    factored || factor_active!(W, W.active, δ)
    return
end

# The sets at the final point, in `W.active` and `W.weak`; whether a row is weakly active.
function weakly_active!(W::QPWorkspace{T}, reach) where {T}
    best, M, small = W.best, W.next, eps(T)^T(0.25)
    few = negligible(T, length(best.z))
    for i in eachindex(best.z)
        counts = W.now[i] || (!W.polished && (W.fixed[i] || W.live[i]))
        counts || (best.z[i] = zero(T))
    end
    if W.polished
        shares!(W, M, best, reach)
    else
        W.error = judge_active!(W.weak, W, best, W.now)
    end
    for i in eachindex(best.z)
        s, z = M.s[i], M.z[i]
        none = W.polished ? abs(s) <= few && abs(z) <= few :
               z <= 100s && s <= 100z && z + s <= small
        W.weak[i] = W.live[i] && W.size.z[i] > 0 && none
        W.active[i] = W.now[i] && !W.weak[i]
    end
    return any(W.weak)
end
