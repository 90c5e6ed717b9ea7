"""
    Anderson(; memory = 5, damping = 1, regularization, safeguard = 1e3, start = 1,
        rtol, atol, max_steps = 256)

Anderson acceleration (type II) of ``z ← f(z)``, for [`ImplicitFixedPoint`](@ref).

With ``g = f(z) - z`` and the last `memory` changes ``ΔG``, ``ΔZ``, one evaluation a step:
``γ = argmin ‖g - ΔG γ‖``, ``z ← z + β (g - ΔG γ) - ΔZ γ``. On a linear map with
`memory` ``≥ n`` these are the iterates of GMRES: ``n + 1`` evaluations, also where
``z ← f(z)`` diverges. `memory = 0` is that plain iteration, Picard's.

# Arguments
- `memory`: how many changes are kept.
- `damping`: ``β`` in (0, 1].
- `regularization`: of the least-squares problem, relative to its columns; 50 ε if not
  given. Directions of ``ΔG`` below the root of that are left out.
- `safeguard`: when ``‖g‖`` exceeds this many times its lowest value, or is not finite, `z`
  goes back to where it was lowest, the history is cleared, and a step ``β g`` follows, half
  as long each time until the lowest value falls.
- `start`: steps without mixing at the start.
- `rtol`, `atol`: the iteration ends when ``f(z) - z`` is within tolerance; ``ε^{0.6}`` if
  not given. The value is the step taken from there, which costs no evaluation.
- `max_steps`: evaluations at most.

# Reference
- Anderson, *Iterative procedures for nonlinear integral equations* (1965).
  https://doi.org/10.1145/321296.321305
- Walker, Ni, *Anderson acceleration for fixed-point iterations* (2011), Theorem 2.2.
  https://doi.org/10.1137/10078356X
- The safeguard is like that of Zhang, O'Donoghue, Boyd (2020), but measured from the best
  iterate. https://doi.org/10.1137/18M1232772
"""
struct Anderson
    memory::Int
    damping::Float64
    regularization::Union{Nothing,Float64}
    safeguard::Float64
    start::Int
    rtol::Union{Nothing,Float64}
    atol::Union{Nothing,Float64}
    max_steps::Int
    function Anderson(;
        memory = 5, damping = 1, regularization = nothing, safeguard = 1e3, start = 1,
        rtol = nothing, atol = nothing, max_steps = 256)

        check_options("Anderson", rtol, atol, max_steps)
        memory >= 0 || throw(ArgumentError(
            "`Anderson(memory)` must not be negative. Got $memory. Use 0 for no mixing."))
        0 < damping <= 1 || throw(ArgumentError(
            "`Anderson(damping)` must lie in (0, 1]. Got $damping. Use 1 for none."))
        safeguard > 1 || throw(ArgumentError(
            "`Anderson(safeguard)` must be above 1. Got $safeguard. Use Inf for none."))
        return new(
            memory, damping, regularization, safeguard, start, rtol, atol, max_steps)
    end
end

# Returns (v, status, steps): where f(v) = v, if the status says so. `g(v)` is f(v) - v.
function find_fixed_point(solver::Anderson, g, v::Vector{R}) where {R}
    m = min(solver.memory, length(v))
    # Changes of g, of unit length, and the changes of v + β g that go with them.
    ΔG, ΔS = zeros(R, length(v), m), zeros(R, length(v), m)
    β, part = R(solver.damping), one(R)
    previous = best = (v, v)  # where, and g there
    lowest = R(Inf)           # ‖g‖ at the best
    kept = 0  # changes since the history was cleared
    for step in 1:(solver.max_steps)
        gv = convert(Vector{R}, g(v))
        distance = norm(gv)
        if !(isfinite(distance) && distance <= solver.safeguard * lowest)
            isinf(lowest) && return v, NONFINITE, step
            previous = best
            kept, part = 0, part / 2
            v = best[1] + β * part * best[2]
            continue
        end
        if distance < lowest
            best, lowest, part = (v, gv), distance, one(R)
        end
        Δv, Δg = v - previous[1], gv - previous[2]
        change = norm(Δg)
        if step > 1 && m > 0 && change > 0
            slot = mod1(kept += 1, m)
            ΔG[:, slot] = Δg / change
            ΔS[:, slot] = (Δv + β * Δg) / change
        end
        previous = (v, gv)
        next = v + β * gv
        if kept > 0 && step > solver.start
            used = 1:min(kept, m)
            next -= ΔS[:, used] * mixing(ΔG[:, used], gv, solver)
        end
        scaled_size(solver, gv, v) <= 1 && return next, finite_or(next), step
        v = next
    end
    return v, MAX_STEPS_REACHED, solver.max_steps
end

finite_or(v) = all(isfinite, v) ? CONVERGED : NONFINITE

# argmin ‖g - ΔG γ‖² + μ ‖γ‖².
function mixing(ΔG::Matrix{R}, g::Vector{R}, solver) where {R}
    μ = something(solver.regularization, 50 * eps(R))
    k = size(ΔG, 2)
    return [ΔG; Matrix{R}(sqrt(μ) * I, k, k)] \ [g; zeros(R, k)]
end
