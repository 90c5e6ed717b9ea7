# Products with the derivatives of a function of numbers and arrays, by its own rules where
# it has them, else by active numbers. Unknowns, values and weights are real vectors here; a
# complex number is two real ones, so functions need not be holomorphic.

# --- numbers and arrays as real vectors -----------------------------------------------

flatten(x::Real) = [x]
flatten(z::Complex) = [real(z), imag(z)]
flatten(x::AbstractArray{<:Real}) = vec(x)
flatten(z::AbstractArray{<:Complex}) = [f(c) for c in z for f in (real, imag)]

# What has the form of `x` and the numbers `v`. A real array shares the memory of `v`.
unflatten(::Real, v) = v[1]
unflatten(::Complex, v) = complex(v[1], v[2])
unflatten(x::AbstractArray{<:Real}, v) = reshape(v, size(x))
unflatten(x::AbstractArray{<:Complex}, v) =
    [complex(v[2i - 1], v[2i]) for i in reshape(1:length(x), size(x))]

# In the precision of `x`.
as_vector(x, v) = convert(Vector{eltype(flatten(x))}, v)

# Whether `x` can move: numbers and arrays that are not whole.
moves(x) = false
moves(::Union{AbstractFloat,Active,Complex}) = true
moves(::AbstractArray{T}) where {T} = T <: Union{AbstractFloat,Active,Complex}

# `x` with the direction `ẋ`, as dual numbers. What moves is lifted where `ẋ` is zero too.
lift(x, ẋ::AbstractZero) = moves(x) ? lift(x, zero(x)) : x
function lift(x, ẋ)
    moves(x) && ẋ isa Union{Number,AbstractArray} || throw(ArgumentError(
        "parameters that are differentiated must be numbers or arrays of floats. " *
        "Got $(typeof(x)) with a tangent $(typeof(ẋ))."))
    v, v̇ = flatten(x), flatten(ẋ)
    length(v) == length(v̇) || throw(DimensionMismatch(
        "a tangent must be like its argument. Got $(size(ẋ)) for $(size(x))."))
    return unflatten(x, map((a, ȧ) -> Dual(a, (convert(typeof(a), ȧ),)), v, v̇))
end

"""
    on_active(F, x) -> Vector

`F(x...)` on active numbers; a clear error if `F` refuses them.
"""
function on_active(F, x::Tuple)
    try
        return flatten(F(x...))
    catch err
        err isa Union{ActiveRefused,StackOverflowError} ||
            err isa MethodError && any(isactive, err.args) || rethrow()
        throw(ArgumentError(
            "`$(name(F))` must take any `Real`, so that it can be differentiated. " *
            "Got $(refusal(err)). Give arrays the type of its arguments (`similar(z)`, " *
            "`zeros(eltype(z), n)`), or define ChainRulesCore.frule and rrule for it."))
    end
end

refusal(err::ActiveRefused) = "a conversion to $(err.type)"
refusal(::StackOverflowError) = "a function that calls itself"
refusal(err::MethodError) = "no method of `$(name(err.f))` for them"

# --- products -------------------------------------------------------------------------

"""
    pushforward(F, x, ẋ) -> Vector

``∂F/∂x ẋ`` at the arguments `x`, a tuple, with tangents or zeros `ẋ`.
"""
function pushforward(F, x::Tuple, ẋ::Tuple)
    result = ChainRulesCore.frule((NoTangent(), map(dense_tangent, x, ẋ)...), F, x...)
    result === nothing && return map(tangent, on_active(F, map(lift, x, ẋ)))
    y, ẏ = result
    return flatten(densify(unthunk(ẏ), y))
end

# Zeros that a user's rule need not know of.
dense_tangent(x, ẋ) = ẋ
dense_tangent(x, ẋ::AbstractZero) = moves(x) ? zero(x) : ẋ

"""
    pullback(F, x, w) -> Tuple

``(∂F/∂x_i)ᵀ w`` for each of the arguments, as ChainRules has it: thunks, zeros.
"""
function pullback(F, x::Tuple, w::Vector)
    result = ChainRulesCore.rrule(F, x...)
    if result !== nothing
        y, back = result
        return Base.tail(back(unflatten(y, w)))
    end
    return gradients(F, x, w)
end

no_tangent(::Union{Integer,AbstractArray{<:Integer}}) = NoTangent()
no_tangent(x) = Base.issingletontype(typeof(x)) ? NoTangent() : @not_implemented(
    "parameters that are differentiated must be numbers or arrays of floats, unless the " *
    "function has an `rrule` of its own")

# The gradients of wᵀ F with respect to the arguments, by one sweep forwards and one back.
function gradients(F, x::Tuple, w::Vector)
    T = promote_type(eltype(w), map(moving_type, x)...)
    tape = Tape{T}()
    traced = map(a -> moves(a) ? unflatten(a, trace(tape, flatten(a))) : a, x)
    x̄ = sweep_back(tape, on_active(F, traced), w)
    return map(x, traced) do a, t
        moves(a) ? unflatten(a, [x̄[n.number] for n in flatten(t)]) : no_tangent(a)
    end
end

real_type(::Union{T,AbstractArray{T}}) where {T<:Number} = real(T)
moving_type(x) = moves(x) ? real_type(x) : Union{}

# How many directions are followed at once.
const CHUNK = 8

# `visit(columns, y)` for the numbers of `a`, a few at a time: `y` is the vector F(a) on
# dual numbers, whose k-th partial is the derivative in the k-th of these.
function sweep(visit, F, a)
    v = flatten(a)
    d = constant.(Dual{CHUNK,eltype(v)}, v)
    for first in 1:CHUNK:length(v)
        columns = first:min(first + CHUNK - 1, length(v))
        for (k, j) in enumerate(columns)
            d[j] = unit(eltype(d), v[j], k)
        end
        # Where `F` does not look at its argument, `y` lacks the directions.
        visit(columns, raise.(eltype(d), F(unflatten(a, d))))
        for j in columns
            d[j] = constant(eltype(d), v[j])
        end
    end
end

raise(::Type{D}, y) where {D} = convert(promote_type(D, typeof(y)), y)
