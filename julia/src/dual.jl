# Dual numbers: exact derivatives of a residual that is plain Julia code.
#
# x + ε₁ p₁ + … + ε_N p_N with εᵢ εⱼ = 0 carries the derivatives of whatever is computed
# from it in N directions (Clifford 1873; Wengert 1964, doi:10.1145/355586.364791). The
# parts may be dual numbers themselves: second derivatives. Two numbers of different depth
# belong to different derivatives, and the deeper one sees the other as a constant; so
# nobody but this package may make them, and a residual that closes over one is refused.
#
# What has no rule here is a `MethodError`, never a dropped derivative.

struct Dual{N,T<:Real} <: Real
    value::T
    partials::NTuple{N,T}
end

Dual{N,T}(x::Dual{N,T}) where {N,T} = x
function Dual{N,T}(x::Dual{M,S}) where {N,T,M,S}
    M == N && depth(T) == depth(S) &&
        return Dual{N,T}(convert(T, x.value), map(p -> convert(T, p), x.partials))
    return constant(Dual{N,T}, x)
end
Dual{N,T}(x::Real) where {N,T} = constant(Dual{N,T}, x)
constant(::Type{Dual{N,T}}, x) where {N,T} =
    Dual{N,T}(convert(T, x), ntuple(_ -> zero(T), Val(N)))

depth(::Type{<:Real}) = 0
depth(::Type{Dual{N,T}}) where {N,T} = 1 + depth(T)

# The type of the number inside, and that number (or an array, or a complex of these).
primal(::Type{T}) where {T<:Real} = T
primal(::Type{Dual{N,T}}) where {N,T} = primal(T)
primal(x::Real) = x
primal(x::Dual) = primal(x.value)
primal(x::Complex) = complex(primal(real(x)), primal(imag(x)))
primal(x::AbstractArray) = isdual(x) ? map(primal, x) : x
primal(x) = x

# Whether duals are among the numbers of `x`.
isdual(x) = isdual(typeof(x))
isdual(::Type) = false
isdual(::Type{<:Dual}) = true
isdual(::Type{Complex{T}}) where {T} = isdual(T)
isdual(::Type{<:AbstractArray{T}}) where {T} = isdual(T)

# The derivative in the first direction.
tangent(x::Dual) = x.partials[1]
tangent(x::Real) = zero(x)

# Some code fixes its type of number: say so, instead of `no method matching Float64`.
struct DualRefused <: Exception
    type::Type
end
for T in (:Float16, :Float32, :Float64, :BigFloat)
    @eval Base.$T(::Dual) = throw(DualRefused($T))
end
Base.Int(x::Dual) = isinteger(x) ? Int(x.value) : throw(DualRefused(Int))
Base.AbstractFloat(::Dual) = throw(DualRefused(AbstractFloat))
Base.float(x::Dual{N,T}) where {N,T} = convert(Dual{N,float(T)}, x)

function Base.promote_rule(::Type{Dual{N,T}}, ::Type{Dual{M,S}}) where {N,T,M,S}
    depth(T) > depth(S) && return Dual{N,promote_type(T, Dual{M,S})}
    depth(T) < depth(S) && return Dual{M,promote_type(Dual{N,T}, S)}
    M == N || throw(ArgumentError("dual numbers of $N and $M directions were mixed."))
    return Dual{N,promote_type(T, S)}
end
Base.promote_rule(::Type{Dual{N,T}}, ::Type{S}) where {N,T,S<:Real} =
    Dual{N,promote_type(T, S)}
Base.promote_rule(::Type{BigFloat}, ::Type{Dual{N,T}}) where {N,T} =
    Dual{N,promote_type(BigFloat, T)}

# --- order: by the values -------------------------------------------------------------

for f in (:isless, :<, :<=)
    @eval Base.$f(a::D, b::D) where {D<:Dual} = $f(a.value, b.value)
end
# Equal numbers may differ in their derivatives: `x == 0 ? …` must not drop them.
Base.:(==)(a::D, b::D) where {D<:Dual} = a.value == b.value && a.partials == b.partials
for f in (:isnan, :isinf, :isfinite, :signbit)
    @eval Base.$f(x::Dual) = $f(x.value)
end
Base.isinteger(x::Dual) = all(iszero, x.partials) && isinteger(x.value)
for f in (:eps, :floatmin, :floatmax, :typemin, :typemax)
    @eval Base.$f(::Type{Dual{N,T}}) where {N,T} = constant(Dual{N,T}, $f(T))
end

# --- steps: constant between jumps ----------------------------------------------------

Base.sign(x::D) where {D<:Dual} = constant(D, sign(x.value))
Base.round(x::D, mode::RoundingMode) where {D<:Dual} = constant(D, round(x.value, mode))
Base.round(::Type{I}, x::Dual, mode::RoundingMode) where {I<:Integer} =
    round(I, x.value, mode)
for (f, mode) in ((:floor, :Down), (:ceil, :Up), (:trunc, :ToZero), (:round, :Nearest))
    mode = Symbol(:Round, mode)
    @eval Base.$f(x::Dual) = round(x, $mode)
    @eval Base.$f(::Type{I}, x::Dual) where {I<:Integer} = round(I, x.value, $mode)
end
Base.rem(a::D, b::D) where {D<:Dual} = a - trunc(a / b) * b
Base.mod(a::D, b::D) where {D<:Dual} = a - floor(a / b) * b

# --- arithmetic -----------------------------------------------------------------------

# A direction in which nothing moves stays at rest where the slope is infinite or NaN.
slope_times(s, p) = ifelse(iszero(p), zero(p), s * p)

# y = f(x) where f has slope s at x; y = f(a, b) with slopes sa and sb.
along(x::Dual, y, s) = Dual(y, map(p -> slope_times(s, p), x.partials))
along(a::D, b::D, y, sa, sb) where {D<:Dual} =
    Dual(y, map((p, q) -> slope_times(sa, p) + slope_times(sb, q), a.partials, b.partials))

Base.:+(a::D, b::D) where {D<:Dual} = Dual(a.value + b.value, a.partials .+ b.partials)
Base.:-(a::D, b::D) where {D<:Dual} = Dual(a.value - b.value, a.partials .- b.partials)
Base.:-(x::Dual) = Dual(-x.value, .-x.partials)
Base.:*(a::D, b::D) where {D<:Dual} =
    along(a, b, a.value * b.value, b.value, a.value)
function Base.:/(a::D, b::D) where {D<:Dual}
    y = a.value / b.value
    return along(a, b, y, inv(b.value), -y / b.value)
end
Base.fma(a::D, b::D, c::D) where {D<:Dual} = a * b + c

function Base.:^(x::Dual, n::Integer)
    n == 0 && return one(x)
    return along(x, x.value^n, n * x.value^(n - 1))
end
function Base.:^(a::D, b::D) where {D<:Dual}
    x, p = a.value, b.value
    y = x^p
    # Of a negative number no power near a whole one is real, so it has no slope in p.
    sb = x > 0 ? y * log(x) : x == 0 && p > 0 ? zero(y) : oftype(y, NaN)
    return along(a, b, y, iszero(p) ? zero(y) : p * x^(p - 1), sb)
end
function Base.atan(b::D, a::D) where {D<:Dual}
    r² = a.value^2 + b.value^2
    return along(b, a, atan(b.value, a.value), a.value / r², -b.value / r²)
end
function Base.hypot(a::D, b::D) where {D<:Dual}
    h = hypot(a.value, b.value)
    return along(a, b, h, a.value / h, b.value / h)
end
Base.hypot(a::Dual, b::Dual) = hypot(promote(a, b)...)
Base.hypot(a::Dual, b::Real) = hypot(promote(a, b)...)
Base.hypot(a::Real, b::Dual) = hypot(promote(a, b)...)
Base.sincos(x::Dual) = sin(x), cos(x)
Base.rem2pi(x::Dual, mode::RoundingMode) =
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

    @eval function Base.$f(d::Dual)
        x = d.value
        y = $f(x)
        return along(d, y, $slope)
    end
end

# Base's for complex numbers take them apart as floats.
for (f, slope) in (:sqrt => :(inv(2w)), :log => :(inv(z)), :exp => :w)
    @eval function Base.$f(d::Complex{<:Dual})
        a, b = reim(d)
        z = complex(a.value, b.value)
        w = $f(z)
        parts = map((p, q) -> $slope * complex(p, q), a.partials, b.partials)
        return complex(Dual(real(w), map(real, parts)), Dual(imag(w), map(imag, parts)))
    end
end
