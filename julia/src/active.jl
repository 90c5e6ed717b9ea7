# Numbers that carry derivatives: exact ones for a residual that is plain Julia code.
#
# `Dual` carries them forwards, `Traced` writes down how to carry them backwards. Both need
# the value and the slope of a function, which stand here once for both. What has no rule
# here is a `MethodError`, never a dropped derivative.

"""
    Active <: Real

A number `x` with a `value(x)` and derivatives. A type `A` of them has `constant(A, y)`;
`is_constant(x)`; `moves_like(a, b)`, whether two numbers have the same derivatives; and
`along(x, y, s)` and `along(a, b, y, sa, sb)`, the number ``y = f(x)`` where ``f`` has slope
`s`, or ``y = f(a, b)`` where it has slopes `sa` and `sb`.
"""
abstract type Active <: Real end

value(x::Active) = x.value
value(x::Real) = x

# Whether active numbers are among those of `x`.
isactive(x) = isactive(typeof(x))
isactive(::Type) = false
isactive(::Type{<:Active}) = true
isactive(::Type{Complex{T}}) where {T} = isactive(T)
isactive(::Type{<:AbstractArray{T}}) where {T} = isactive(T)

# The type of the number inside, and that number (or an array, or a complex of these).
primal(::Type{T}) where {T<:Real} = T
primal(::Type{A}) where {A<:Active} = primal(fieldtype(A, :value))
primal(x::Real) = x
primal(x::Active) = primal(x.value)
primal(x::Complex) = complex(primal(real(x)), primal(imag(x)))
primal(x::AbstractArray) = isactive(x) ? map(primal, x) : x
primal(x) = x

# How many derivatives deep.
depth(::Type{<:Real}) = 0
depth(::Type{A}) where {A<:Active} = 1 + depth(fieldtype(A, :value))

# Some code fixes its type of number: say so, instead of `no method matching Float64`.
struct ActiveRefused <: Exception
    type::Type
end
for T in (:Float16, :Float32, :Float64, :BigFloat)
    @eval Base.$T(::Active) = throw(ActiveRefused($T))
end
Base.Int(x::Active) = isinteger(x) ? Int(x.value) : throw(ActiveRefused(Int))
Base.AbstractFloat(::Active) = throw(ActiveRefused(AbstractFloat))

# --- order: by the values -------------------------------------------------------------

for f in (:isless, :<, :<=)
    @eval Base.$f(a::A, b::A) where {A<:Active} = $f(a.value, b.value)
end
# Equal numbers may differ in their derivatives: `x == 0 ? …` must not drop them.
Base.:(==)(a::A, b::A) where {A<:Active} = a.value == b.value && moves_like(a, b)
for f in (:isnan, :isinf, :isfinite, :signbit)
    @eval Base.$f(x::Active) = $f(x.value)
end
Base.isinteger(x::Active) = is_constant(x) && isinteger(x.value)
for f in (:eps, :floatmin, :floatmax, :typemin, :typemax)
    @eval Base.$f(::Type{A}) where {A<:Active} =
        constant(A, $f(fieldtype(A, :value)))
end

# --- steps: constant between jumps ----------------------------------------------------

Base.sign(x::A) where {A<:Active} = constant(A, sign(x.value))
Base.round(x::A, mode::RoundingMode) where {A<:Active} = constant(A, round(x.value, mode))
Base.round(::Type{I}, x::Active, mode::RoundingMode) where {I<:Integer} =
    round(I, x.value, mode)
for (f, mode) in ((:floor, :Down), (:ceil, :Up), (:trunc, :ToZero), (:round, :Nearest))
    mode = Symbol(:Round, mode)
    @eval Base.$f(x::Active) = round(x, $mode)
    @eval Base.$f(::Type{I}, x::Active) where {I<:Integer} = round(I, x.value, $mode)
end
Base.rem(a::A, b::A) where {A<:Active} = a - trunc(a / b) * b
Base.mod(a::A, b::A) where {A<:Active} = a - floor(a / b) * b

# --- arithmetic -----------------------------------------------------------------------

# A direction in which nothing moves stays at rest where the slope is infinite or NaN.
slope_times(s, p) = ifelse(iszero(p), zero(p), s * p)

Base.:+(a::A, b::A) where {A<:Active} =
    along(a, b, a.value + b.value, one(a.value), one(b.value))
Base.:-(a::A, b::A) where {A<:Active} =
    along(a, b, a.value - b.value, one(a.value), -one(b.value))
Base.:-(x::Active) = along(x, -x.value, -one(x.value))
Base.:*(a::A, b::A) where {A<:Active} =
    along(a, b, a.value * b.value, b.value, a.value)
function Base.:/(a::A, b::A) where {A<:Active}
    y = a.value / b.value
    return along(a, b, y, inv(b.value), -y / b.value)
end
Base.fma(a::A, b::A, c::A) where {A<:Active} = a * b + c

function Base.:^(x::Active, n::Integer)
    n == 0 && return one(x)
    return along(x, x.value^n, n * x.value^(n - 1))
end
function Base.:^(a::A, b::A) where {A<:Active}
    x, p = a.value, b.value
    y = x^p
    # Of a negative number no power near a whole one is real, so it has no slope in p.
    sb = x > 0 ? y * log(x) : x == 0 && p > 0 ? zero(y) : oftype(y, NaN)
    return along(a, b, y, iszero(p) ? zero(y) : p * x^(p - 1), sb)
end
function Base.atan(b::A, a::A) where {A<:Active}
    r² = a.value^2 + b.value^2
    return along(b, a, atan(b.value, a.value), a.value / r², -b.value / r²)
end
function Base.hypot(a::A, b::A) where {A<:Active}
    h = hypot(a.value, b.value)
    return along(a, b, h, a.value / h, b.value / h)
end
Base.hypot(a::Active, b::Active) = hypot(promote(a, b)...)
Base.hypot(a::Active, b::Real) = hypot(promote(a, b)...)
Base.hypot(a::Real, b::Active) = hypot(promote(a, b)...)
Base.sincos(x::Active) = sin(x), cos(x)
Base.rem2pi(x::Active, mode::RoundingMode) =
    along(x, rem2pi(x.value, mode), one(x.value))

# --- functions of one number: the slope at x, where y is the value --------------------

for (f, slope) in (
    :exp => :y, :exp2 => :(y * log(oftype(y, 2))), :exp10 => :(y * log(oftype(y, 10))),
    :expm1 => :(y + 1), :log => :(inv(x)), :log2 => :(inv(x * log(oftype(x, 2)))),
    :log10 => :(inv(x * log(oftype(x, 10)))), :log1p => :(inv(1 + x)),
    :sqrt => :(inv(2y)), :cbrt => :(inv(3y^2)), :inv => :(-y^2),
    :sin => :(cos(x)), :cos => :(-sin(x)), :tan => :(1 + y^2),
    :sinpi => :(π * cospi(x)), :cospi => :(-π * sinpi(x)),
    :asin => :(inv(sqrt(1 - x^2))), :acos => :(-inv(sqrt(1 - x^2))),
    :atan => :(inv(1 + x^2)), :deg2rad => :(deg2rad(one(x))),
    :rad2deg => :(rad2deg(one(x))),
    :sinh => :(cosh(x)), :cosh => :(sinh(x)), :tanh => :(1 - y^2),
    :asinh => :(inv(sqrt(1 + x^2))), :acosh => :(inv(sqrt(x^2 - 1))),
    :atanh => :(inv(1 - x^2)))

    @eval function Base.$f(d::Active)
        x = d.value
        y = $f(x)
        return along(d, y, $slope)
    end
end

# Base's for complex numbers take them apart as floats.
for (f, slope) in (:sqrt => :(inv(2w)), :log => :(inv(z)), :exp => :w)
    @eval function Base.$f(d::Complex{<:Active})
        a, b = reim(d)
        z = complex(a.value, b.value)
        w = $f(z)
        s, t = reim($slope)  # dw = (s + it)(da + i db)
        return complex(along(a, b, real(w), s, -t), along(a, b, imag(w), t, s))
    end
end
