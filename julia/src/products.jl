# Products with the derivatives of a function of numbers and arrays, by its own rules where
# it has them, else by dual numbers. Unknowns, values and weights are real vectors here;
# a complex number is two real ones, so functions need not be holomorphic.

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

# Whether `x` can move: numbers and arrays that are not whole.
moves(x) = false
moves(::Union{AbstractFloat,Dual,Complex}) = true
moves(::AbstractArray{T}) where {T} = T <: Union{AbstractFloat,Dual,Complex}

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
    on_duals(F, x) -> Vector

`F(x...)` on dual numbers; a clear error if `F` refuses them.
"""
function on_duals(F, x::Tuple)
    try
        return flatten(F(x...))
    catch err
        err isa Union{DualRefused,StackOverflowError} ||
            err isa MethodError && any(isdual, err.args) || rethrow()
        throw(ArgumentError(
            "`$(name(F))` must take any `Real`, to be differentiated by dual numbers. " *
            "Got $(refusal(err)). Give arrays the type of its arguments (`similar(z)`, " *
            "`zeros(eltype(z), n)`), or define ChainRulesCore.frule and rrule for it."))
    end
end

refusal(err::DualRefused) = "a conversion to $(err.type)"
refusal(::StackOverflowError) = "a function that calls itself"
refusal(err::MethodError) = "no method of `$(name(err.f))` for them"

# --- products -------------------------------------------------------------------------

"""
    pushforward(F, x, ẋ) -> Vector

``∂F/∂x ẋ`` at the arguments `x`, a tuple, with tangents or zeros `ẋ`.
"""
function pushforward(F, x::Tuple, ẋ::Tuple)
    result = ChainRulesCore.frule((NoTangent(), ẋ...), F, x...)
    result === nothing && return map(tangent, on_duals(F, map(lift, x, ẋ)))
    y, ẏ = result
    return flatten(densify(unthunk(ẏ), y))
end

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
    return map(x, numbers(x)) do a, i
        moves(a) ? @thunk(unflatten(a, gradient(F, x, a, i, w))) : no_tangent(a)
    end
end

numbers(x::Tuple) = ntuple(identity, Val(length(x)))
as_vector(x, v) = convert(Vector{eltype(flatten(x))}, v)

no_tangent(::Union{Integer,AbstractArray{<:Integer}}) = NoTangent()
no_tangent(x) = Base.issingletontype(typeof(x)) ? NoTangent() : @not_implemented(
    "parameters that are differentiated must be numbers or arrays of floats, unless the " *
    "function has an `rrule` of its own")

# How many directions are followed at once.
const CHUNK = 8

# `visit(columns, y)` for the numbers of the argument `a`, which is `x[i]`, a few at a time;
# the k-th partial of `y` is the derivative in the k-th of these.
function sweep(visit, F, x::Tuple, a, i::Int)
    v = flatten(a)
    T = eltype(v)
    D = Dual{CHUNK,T}
    d = map(b -> constant(D, b), v)
    for first in 1:CHUNK:length(v)
        columns = first:min(first + CHUNK - 1, length(v))
        for (k, j) in enumerate(columns)
            d[j] = Dual(v[j], ntuple(m -> T(m == k), Val(CHUNK)))
        end
        y = on_duals(F, Base.setindex(x, unflatten(a, d), i))
        # Where `F` does not look at the argument, `y` lacks its directions.
        visit(columns, map(b -> convert(promote_type(D, typeof(b)), b), y))
        for j in columns
            d[j] = constant(D, v[j])
        end
    end
end

# The gradient of wᵀ F with respect to the argument `a`, which is `x[i]`.
function gradient(F, x::Tuple, a, i::Int, w::Vector)
    n = length(flatten(a))
    g = Vector{promote_type(eltype(w), eltype(flatten(a)))}(undef, n)
    sweep(F, x, a, i) do columns, y
        for (k, j) in enumerate(columns)
            g[j] = sum(w[m] * y[m].partials[k] for m in eachindex(w, y))
        end
    end
    return g
end
