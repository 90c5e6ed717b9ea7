"""
    ImplicitRoot(F; solver = Newton(), jacobian = nothing, throw = true)

The function ``(z₀, θ…) ↦ z`` with ``F(z, θ…) = 0``: a layer that is called like a function,
`root(z0, θ...)`, and has its derivatives by the implicit function theorem.

# Arguments
- `F`: `F(z, θ...)`, as many numbers as `z` has, pure. Plain Julia code for any `Real` needs
  no rules: it is differentiated exactly, by dual numbers forwards and by a tape backwards.
  An `frule` or `rrule` of its own is used instead. What `F` closes over is a constant.
- `solver`: a [`Newton`](@ref).
- `jacobian`: how ``∂F/∂z`` is stored. `nothing`: dense. A [`SparsePattern`](@ref): its
  places, on the raveled unknowns (a complex one counts as two real ones). A function
  `(z, θ...) -> matrix`, dense, sparse or banded.
- `throw`: `false`: `z` and its derivatives are NaN where the solve failed.

The call has the first guess `z0`, a number or an array, which is not differentiated, and
parameters `θ`: numbers and arrays of floats, and whatever else `F` takes. `z` is like `z0`,
in the widest precision of the arguments. [`find`](@ref) returns the status as well.

# Derivative
``∂F/∂z ż = -∂F/∂θ θ̇`` for a tangent and ``(∂F/∂z)ᵀ λ = z̄``, ``θ̄ = -(∂F/∂θ)ᵀ λ`` for a
cotangent: one checked solve, with one factorisation at `z`. Second derivatives follow
from [`Pushforward`](@ref) and [`Pullback`](@ref), if `F` is such code.

# Throws
- [`SolveError`](@ref) if the solve, or that of a derivative, failed.
- `DimensionMismatch` if `F` returns another number of numbers than `z` has.
- `ArgumentError` for a Jacobian that is not the one of `F`, or an `F` that cannot
  be differentiated.

# Reference
- Griewank, Walther, *Evaluating Derivatives* (2008), Chapter 15.
  https://doi.org/10.1137/1.9780898717761
"""
struct ImplicitRoot{F,S,J}
    f::F
    solver::S
    jacobian::J
    throw::Bool
end
function ImplicitRoot(F; solver = Newton(), jacobian = nothing, throw = true)
    solver isa Newton || wrong_solver("ImplicitRoot", "Newton()", solver)
    return ImplicitRoot(F, solver, maker(jacobian), throw)
end

"""
    ImplicitFixedPoint(f; solver = Anderson(), jacobian = nothing, throw = true)

The function ``(z₀, θ…) ↦ z`` with ``z = f(z, θ…)``; see [`ImplicitRoot`](@ref).

# Arguments
- `f`: `f(z, θ...)`, like `z`.
- `solver`: an [`Anderson`](@ref), or a [`Newton`](@ref) for ``f(z) - z = 0``.
- `jacobian`: of ``f(z) - z``; a pattern has the diagonal in it.

# Derivative
That of [`ImplicitRoot`](@ref) with ``∂F/∂z = ∂f/∂z - I``.
"""
struct ImplicitFixedPoint{F,S,J}
    f::F
    solver::S
    jacobian::J
    throw::Bool
end
function ImplicitFixedPoint(f; solver = Anderson(), jacobian = nothing, throw = true)
    solver isa Union{Newton,Anderson} ||
        wrong_solver("ImplicitFixedPoint", "Anderson() or Newton()", solver)
    return ImplicitFixedPoint(f, solver, maker(jacobian), throw)
end

wrong_solver(type, known, solver) = throw(ArgumentError(
    "`$type(solver)` must be $known. Got $(typeof(solver)). Pass an object, not a type."))

const Implicit = Union{ImplicitRoot,ImplicitFixedPoint}

name(p::ImplicitRoot) = "ImplicitRoot($(name(p.f)))"
name(p::ImplicitFixedPoint) = "ImplicitFixedPoint($(name(p.f)))"
Base.show(io::IO, p::Implicit) = print(io, name(p))

# F of a fixed point: f(z) - z.
struct Change{F}
    f::F
end
name(c::Change) = name(c.f)
(c::Change)(z, θ...) = minus(c.f(z, θ...), z)
minus(y, z) = y - z
minus(y::AbstractArray, z::AbstractArray) = size(y) == size(z) ? y - z :
    throw(DimensionMismatch("the map must return what is like `z`, of size $(size(z)). " *
        "Got size $(size(y))."))

residual(p::ImplicitRoot) = p.f
residual(p::ImplicitFixedPoint) = Change(p.f)

"""
    Solution

What [`find`](@ref) returns: `value` (the last iterate), `status`, `residual` (the Euclidean
norm of ``F(z)``, or ``f(z) - z``), and `iterations`.
"""
struct Solution{Z}
    value::Z
    status::Status
    residual::Float64
    iterations::Int
end

"""
    find(root, z0, θ...) -> Solution

The solution of an [`ImplicitRoot`](@ref) or [`ImplicitFixedPoint`](@ref) and what became of
the solve. A failure is a status, not an error; the value has no derivatives.
"""
function find(p::Implicit, z0, θ...)
    F = residual(p)
    like = first_guess(z0, θ)
    at(v) = (unflatten(like, v), θ...)
    equations(v) = checked_residual(F, at(v), v)
    jacobian(v) = factorise(p.jacobian, F, at(v))
    v = copy(flatten(like))
    if all(isfinite, v)
        v, status, iterations = p.solver isa Newton ?
            find_zero(p.solver, equations, jacobian, v) :
            find_fixed_point(p.solver, equations, v)
    else
        status, iterations = NONFINITE, 0
    end
    return Solution(unflatten(like, v), status, Float64(norm(equations(v))), iterations)
end

# The type of z: an `Array` or a number like z0, in the widest precision of what moves.
unknown_type(z0, θ) =
    unknown_type(z0, promote_type(float(real_type(z0)), map(moving_type, θ)...))
unknown_type(::Real, ::Type{R}) where {R} = R
unknown_type(::Complex, ::Type{R}) where {R} = Complex{R}
unknown_type(::AbstractArray{<:Real,N}, ::Type{R}) where {R,N} = Array{R,N}
unknown_type(::AbstractArray{<:Complex,N}, ::Type{R}) where {R,N} = Array{Complex{R},N}

function first_guess(z0, θ)
    isempty(z0) && throw(ArgumentError("`z0` must hold at least one number."))
    return unknown_type(z0, θ)(z0)
end

function checked_residual(F, x::Tuple, v::Vector{R}) where {R}
    r = flatten(F(x...))
    isactive(r) && throw(ArgumentError(
        "`$(name(F))` closes over a number that is being differentiated. Pass it as a " *
        "parameter θ."))
    length(r) == length(v) || throw(DimensionMismatch(
        "`$(name(F))` must return as many numbers as `z` has. " *
        "Got $(length(r)) for $(length(v))."))
    return convert(Vector{R}, r)
end
