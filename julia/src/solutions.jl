# Solutions that are kept, and what their derivatives need.
#
# XLA asks for a solution in one call and for its derivatives in others. So that these need
# not solve again, a solution is kept together with its arguments and is used again where
# they are equal, and so is the factorised Jacobian once it was asked for. That is right for
# a pure F only: a solution is used again only where F returns what it returned before.

mutable struct Found{Z}
    const solution::Solution{Z}
    @atomic factor::Union{Nothing,DenseFactor,SparseFactor}
    bytes::Int   # what is counted for it; 0 when it is no longer kept
end

# What was asked, compared by content (so that NaN equals itself).
struct Call{P,A<:Tuple}
    problem::P
    args::A
end
Base.isequal(a::Call, b::Call) = false
Base.isequal(a::C, b::C) where {C<:Call} =
    a.problem === b.problem && isequal(a.args, b.args)
Base.hash(c::Call, h::UInt) = hash(c.args, hash(objectid(c.problem), h))

struct Solutions
    lock::ReentrantLock         # guards the rest; held for look-ups only
    kept::Dict{Call,Found}
    order::Vector{Call}         # oldest first
    bytes::Base.RefValue{Int}
end
const SOLUTIONS = Solutions(ReentrantLock(), Dict{Call,Found}(), Call[], Ref(0))

# The bound for solutions and their dense factors, beside that for sparse ones.
solutions_limit() = CACHE_LIMIT[] ÷ 4

function clear_solutions!()
    lock(SOLUTIONS.lock) do
        foreach(found -> found.bytes = 0, values(SOLUTIONS.kept))
        empty!(SOLUTIONS.kept)
        empty!(SOLUTIONS.order)
        SOLUTIONS.bytes[] = 0
    end
end

# Count `bytes` more for a solution, and drop the oldest until the bound holds. The caller
# holds the lock.
function count!(found::Found, bytes::Int)
    found.bytes += bytes
    SOLUTIONS.bytes[] += bytes
    drop_oldest!()
end
trim_solutions!() = lock(drop_oldest!, SOLUTIONS.lock)

function drop_oldest!()
    while SOLUTIONS.bytes[] > solutions_limit() && length(SOLUTIONS.order) > 1
        old = pop!(SOLUTIONS.kept, popfirst!(SOLUTIONS.order))
        SOLUTIONS.bytes[] -= old.bytes
        old.bytes = 0
    end
end

function keep!(call::Call, found::Found)
    lock(SOLUTIONS.lock) do
        old = get(SOLUTIONS.kept, call, nothing)
        if old === nothing
            push!(SOLUTIONS.order, call)
        else  # it no longer held, or another task was as fast
            SOLUTIONS.bytes[] -= old.bytes
            old.bytes = 0
        end
        SOLUTIONS.kept[call] = found
        arrays = (call.args..., found.solution.value)
        count!(found, 256 + sum(a -> a isa AbstractArray ? sizeof(a) : 8, arrays))
    end
    return found
end

# The solution for these arguments: a kept one where F still says so, else a new one.
function found(p::Implicit, z0, θ::Tuple)
    call = Call(p, (z0, θ...))
    Z = unknown_type(z0, θ)
    kept = lock(() -> get(SOLUTIONS.kept, call, nothing), SOLUTIONS.lock)
    kept === nothing || still_true(p, kept::Found{Z}, θ) && return kept::Found{Z}
    s = find(p, z0, θ...)
    if s.status == CONVERGED
        own = map(a -> a isa AbstractArray ? copy(a) : a, call.args)
        return keep!(Call(p, own), Found{Z}(s, nothing, 0))
    end
    p.throw && throw(SolveError(
        "$(name(p)): $(message(s.status)). Residual $(s.residual) after " *
        "$(s.iterations) steps."))
    nothing_found = unflatten(s.value, fill!(copy(flatten(s.value)), NaN))
    return Found{Z}(Solution(nothing_found, s.status, s.residual, s.iterations), nothing, 0)
end

function still_true(p::Implicit, f::Found, θ)
    v = flatten(f.solution.value)
    return norm(checked_residual(residual(p), (f.solution.value, θ...), v)) ===
           f.solution.residual
end

# The factorised Jacobian at a solution.
function factor_at(p::Implicit, f::Found, θ::Tuple)
    kept = @atomic f.factor
    kept === nothing || return kept
    F, x = residual(p), (f.solution.value, θ...)
    J = factorise(p.jacobian, F, x)
    p.jacobian === nothing || f.solution.status != CONVERGED || check_jacobian(J, F, x)
    @atomic f.factor = J
    lock(() -> f.bytes > 0 && count!(f, stored_bytes(J)), SOLUTIONS.lock)
    return J
end

# One product with a Jacobian that was given, or whose places were, against F's own: an
# iteration may do with less, a derivative may not.
function check_jacobian(J, F, x::Tuple)
    v = flatten(x[1])
    u = [1 + mod(0.618034 * j, 1) for j in eachindex(v)]
    transposed = ChainRulesCore.rrule(F, x...) !== nothing
    exact = transposed ? flatten(unthunk(pullback(F, x, u)[1])) :
        pushforward(F, x, (unflatten(x[1], u), map(_ -> NoTangent(), Base.tail(x))...))
    ours = times(J, u, transposed)
    all(isfinite, ours) || return nothing  # the solve says so
    worst = maximum(
        abs.(ours - exact) - sqrt(eps(eltype(v))) * times(J, u, transposed; by = abs))
    worst <= 0 || throw(ArgumentError(
        "`jacobian` must be ∂F/∂z of `$(name(F))` exactly, as its derivatives are to be. " *
        "Got products that differ by $worst. Look for a wrong or missing entry, or leave " *
        "it out."))
    return nothing
end

function times(J::DenseFactor, u, transposed; by = identity)
    A = by.(J.matrix)
    return transposed ? transpose(A) * u : A * u
end
times(J::SparseFactor, u, transposed; by = identity) =
    product(J.pattern, by.(J.values), u, transposed)

# Solutions of systems with that Jacobian. A failure is an error, or NaN.
function solve_at(p::Implicit, f::Found, θ, B, transposed::Bool = false)
    X, status = solve(factor_at(p, f, θ), B, transposed)
    status == CONVERGED || !p.throw || throw(SolveError(
        "$(name(p)): the derivative: $(message(status))."))
    return X
end

# --- the call ---------------------------------------------------------------------------

function (p::Implicit)(z0, θ...)
    any(istraced, θ) && return on_traced_parameters(p, primal(z0), θ)
    any(isactive, θ) && return on_dual_parameters(p, primal(z0), θ)
    return fresh(found(p, primal(z0), θ).solution.value)
end

fresh(z::AbstractArray) = copy(z)
fresh(z::Number) = z

# Newton's method in dual numbers, with the Jacobian at the solution: each step makes the
# derivatives of one order more exact, and the value stays. So a residual may hold other
# implicit functions, and second derivatives are a call.
function on_dual_parameters(p::Implicit, z0, θ::Tuple)
    primal_θ = map(primal, θ)
    f = found(p, z0, primal_θ)
    z = f.solution.value
    F = residual(p)
    T = promote_type(real_type(z), map(moving_type, θ)...)
    v = convert(Vector{T}, flatten(z))
    for _ in 1:depth(T)
        r = convert(Vector{T}, on_active(F, (unflatten(z, v), θ...)))
        v = correct(v, r, R -> solve_at(p, f, primal_θ, R))
    end
    return unflatten(z, v)
end

# v - J⁻¹ r in all parts but the values. A dual number is a few of these in a row.
function correct(v::Vector{T}, r::Vector{T}, solve) where {T}
    S = primal(T)
    parts(a) = reinterpret(reshape, S, a)
    v = copy(v)
    B = permutedims(@view parts(r)[2:end, :])
    parts(v)[2:end, :] .-= transpose(solve(B))
    return v
end

istraced(x) = moves(x) && real_type(x) <: Traced

# All derivatives in advance, by dual numbers.
function on_traced_parameters(p::Implicit, z0, θ::Tuple)
    inside = map(t -> istraced(t) ? unflatten(t, map(value, flatten(t))) : t, θ)
    z = p(z0, inside...)
    v = convert(Vector{promote_type(map(moving_type, θ)...)}, flatten(z))
    for (i, t) in enumerate(θ)
        istraced(t) || continue
        numbers = flatten(t)
        call(a) = flatten(p(z0, Base.setindex(inside, a, i)...))
        sweep(call, inside[i]) do columns, y
            for (k, j) in enumerate(columns), m in eachindex(v)
                v[m] = along(v[m], numbers[j], value(v[m]), 1, y[m].partials[k])
            end
        end
    end
    return unflatten(z, v)
end
