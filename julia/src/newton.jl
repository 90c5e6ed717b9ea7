# When an iteration is there: one measure for all solvers, that of the Python half.

# ε^0.6 of the precision: a digit or two above what round-off leaves of a good problem.
tolerance(given, ::Type{R}) where {R} = given === nothing ? eps(R)^R(0.6) : R(given)

# The root mean square of change / (atol + rtol |v|): below 1 it is within tolerance.
function scaled_size(solver, change::Vector{R}, v::Vector{R}) where {R}
    rtol, atol = tolerance(solver.rtol, R), tolerance(solver.atol, R)
    squares = sum(zip(change, v)) do (c, x)
        iszero(c) ? zero(R) : (c / (atol + rtol * abs(x)))^2
    end
    return sqrt(squares / length(v))
end

function check_options(name, rtol, atol, max_steps)
    for (option, value) in (("rtol", rtol), ("atol", atol))
        value === nothing || value >= 0 || throw(ArgumentError(
            "`$name($option)` must not be negative. Got $value. Leave it out for ε^0.6."))
    end
    max_steps >= 1 || throw(ArgumentError(
        "`$name(max_steps)` must be at least 1. Got $max_steps. The default is 256."))
end

"""
    Newton(; rtol, atol, max_steps = 256, line_search = false)

Newton's method, ``z ← z - J⁻¹ F(z)``, for [`ImplicitRoot`](@ref) and
[`ImplicitFixedPoint`](@ref).

The iteration ends when the correction ``Δ`` is within tolerance, or the part of it that the
observed contraction ``Θ`` leaves over, ``Θ/(1-Θ) ‖Δ‖``: a bound for the error of `z`,
whatever the units of `F`.

# Arguments
- `rtol`, `atol`: of `z`, ``ε^{0.6}`` of its precision if not given.
- `max_steps`: iterations at most.
- `line_search`: halve a correction until the next one, with the same Jacobian, would be
  smaller (the natural monotonicity test): for starts far from the root.

# Reference
- Hairer, Wanner, *Solving Ordinary Differential Equations II* (1996), IV.8, Eq. (8.10).
- Deuflhard, *Newton Methods for Nonlinear Problems* (2011), Section 3.1.1.
  https://doi.org/10.1007/978-3-642-23899-4
"""
struct Newton
    rtol::Union{Nothing,Float64}
    atol::Union{Nothing,Float64}
    max_steps::Int
    line_search::Bool
    function Newton(; rtol = nothing, atol = nothing, max_steps = 256, line_search = false)
        check_options("Newton", rtol, atol, max_steps)
        return new(rtol, atol, max_steps, line_search)
    end
end

# Returns (v, status, steps): where F is zero, if the status says so. `F(v)` is a vector;
# `jacobian(v)` is factorised.
function find_zero(solver::Newton, F, jacobian, v::Vector{R}) where {R}
    rtol, atol = tolerance(solver.rtol, R), tolerance(solver.atol, R)
    # Round-off moves v by ε cond(J): below √ε, a correction that no longer shrinks is
    # made of it.
    floor = sqrt(eps(R)) / max(rtol, atol)
    before = R(Inf)
    for step in 1:(solver.max_steps)
        r = F(v)
        all(isfinite, r) || return v, NONFINITE, step - 1
        all(iszero, r) && return v, CONVERGED, step - 1  # be the Jacobian singular or not
        J = jacobian(v)
        Δ, status = solve(J, r)
        status == CONVERGED || return v, status, step - 1
        correction = convert(Vector{R}, vec(Δ))
        solver.line_search && (correction .*= natural_part(F, J, v, correction))
        v = v - correction
        all(isfinite, v) || return v, NONFINITE, step
        size = scaled_size(solver, correction, v)
        Θ = isinf(before) ? before : size / before
        rest = Θ < 1 ? size * Θ / (1 - Θ) : R(Inf)
        stalled = size < floor && 1 <= Θ < Inf
        (size <= 1 || rest <= 1 || stalled) && return v, CONVERGED, step
        before = size
    end
    return v, MAX_STEPS_REACHED, solver.max_steps
end

# The largest part λ = 1, 1/2, … with ‖J⁻¹ F(v - λΔ)‖ ≤ (1 - λ/2) ‖Δ‖.
function natural_part(F, J, v::Vector{R}, Δ) where {R}
    λ = one(R)
    while λ > 1e-4
        after, status = solve(J, F(v - λ * Δ))
        status == CONVERGED && norm(after) <= (1 - λ / 2) * norm(Δ) && break
        λ /= 2
    end
    return λ
end
