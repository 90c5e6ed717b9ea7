# How strictly an inequality is active: its slack and its multiplier, in its own terms. See
# `pyimplicit/optimize/qp_strict.py` for why.

const LEAST_SHARE = 1e-3
const MANY_ROWS = 1000

# In `M`, of the point `P`: slacks `s` and multipliers `z`, relative to what acts on the
# row's own unknowns. `reach`: a size of unknowns.
function shares!(W::QPWorkspace{T}, M, P, reach) where {T}
    D, tiny = W.given, sqrt(floatmin(T))
    n, m = size(D.Gᵀ)
    force, far = W.Px, W.dual
    dots!(force, 0, D.P, P.x, 1, 0)
    fill!(far, 0)
    combine!(far, D.Aᵀ, P.y, 0, 1)
    force .= abs.(force) .+ abs.(D.q) .+ abs.(far)
    force .= max.(force, T(LEAST_SHARE) * top(force))
    far .= max.(abs.(P.x), T(LEAST_SHARE) * reach)
    times_C!(W.Cx, D, P.x)
    for i in eachindex(M.s)
        widest = total = one(T)
        if i > m
            j = mod1(i - m, n)
            push, span = force[j], far[j]
        else
            v, at = column(D.Gᵀ, i), column_rows(D.Gᵀ, i)
            widest = total = push = span = zero(T)
            @inbounds for k in eachindex(v)
                a = abs(v[k])
                widest, total = max(widest, a), total + a
                push += a * force[at[k]]
                span += a * far[at[k]]
            end
        end
        d = W.live[i] || W.fixed[i] ? D.d[i] : typemax(T)
        M.s[i] = isfinite(d) ? (d - W.Cx[i]) / (abs(d) + span + tiny) : d
        M.z[i] = P.z[i] * widest * total / (push + tiny)
    end
    return
end

# Shares below it are zero to round-off.
negligible(::Type{T}, rows) where {T} = 100 * eps(T)^T(0.65) / max(1, T(rows) / MANY_ROWS)
