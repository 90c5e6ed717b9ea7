# A Julia solver of one's own, with its derivative: the steady temperature u of a rod that
# radiates, -(k u')' + u⁴ = q on (0, 1), u = 0 at both ends; n cells of conductivity k,
# n - 1 inner nodes, finite volumes, Newton's method. Only ChainRulesCore is needed.
module Rod

using ChainRulesCore: ChainRulesCore, NoTangent, unthunk
using LinearAlgebra: Tridiagonal, norm

function residual(u, k, q)
    n = length(k)
    full = [zero(eltype(u)); u; zero(eltype(u))]
    flux = k .* diff(full) .* n
    return -diff(flux) .* n .+ u .^ 4 .- q
end

function jacobian(u, k)
    n = length(k)
    off = -k[2:(end - 1)] .* n^2
    return Tridiagonal(off, (k[1:(end - 1)] .+ k[2:end]) .* n^2 .+ 4 .* u .^ 3, off)
end

"""
    temperature(k, q) -> u

`k`: conductivity of the n cells, positive; `q`: heating, a number. `u`: n - 1 nodes.
"""
function temperature(k::AbstractVector, q::Real)
    all(>(0), k) || throw(DomainError(minimum(k), "`k` must be positive everywhere."))
    u = zeros(eltype(k), length(k) - 1)
    for _ in 1:50
        r = residual(u, k, q)
        norm(r) <= 1e-12 * norm(fill(q, length(u))) && return u
        u .-= jacobian(u, k) \ r
    end
    throw(ErrorException("Newton's method did not converge in 50 steps; is `q` too large?"))
end

# The implicit function theorem: J u̇ = -(∂r/∂k k̇ + ∂r/∂q q̇). The Jacobian is symmetric
# here, the transpose is written all the same. With λ = -J⁻ᵀ ū: q̄ = -Σ λ, because
# ∂r/∂q = -1, and k̄_c = n² (u_c - u_{c-1}) (λ_c - λ_{c-1}), the transposed difference.
function ChainRulesCore.rrule(::typeof(temperature), k, q)
    u = temperature(k, q)
    function temperature_pullback(ū)
        λ = -(transpose(jacobian(u, k)) \ unthunk(ū))
        k̄ = diff([0; u; 0]) .* diff([0; λ; 0]) .* length(k)^2
        return NoTangent(), k̄, -sum(λ)
    end
    return u, temperature_pullback
end

function ChainRulesCore.frule((_, k̇, q̇), ::typeof(temperature), k, q)
    u = temperature(k, q)
    zero_or(t, v) = t isa ChainRulesCore.AbstractZero ? zero(v) : t
    ∂r = -diff(zero_or(k̇, k) .* diff([0; u; 0])) .* length(k)^2 .- zero_or(q̇, q)
    return u, -(jacobian(u, k) \ ∂r)
end

end
