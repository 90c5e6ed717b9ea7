# Dual numbers: derivatives carried forwards, in a few directions at once.
#
# x + ε₁ p₁ + … + ε_N p_N with εᵢ εⱼ = 0 carries the derivatives of whatever is computed
# from it in N directions (Clifford 1873; Wengert 1964, doi:10.1145/355586.364791). The
# parts may be dual numbers themselves: second derivatives. Two numbers of different depth
# belong to different derivatives, and the deeper one sees the other as a constant; so
# nobody but this package may make them, and a residual that closes over one is refused.

struct Dual{N,T<:Real} <: Active
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

# x + ε_k, or a constant if no direction has that number.
unit(::Type{Dual{N,T}}, x, k) where {N,T} =
    Dual{N,T}(convert(T, x), ntuple(m -> m == k ? one(T) : zero(T), Val(N)))

is_constant(x::Dual) = all(iszero, x.partials)
moves_like(a::Dual, b::Dual) = a.partials == b.partials

along(x::Dual, y, s) = Dual(y, map(p -> slope_times(s, p), x.partials))
along(a::D, b::D, y, sa, sb) where {D<:Dual} =
    Dual(y, map((p, q) -> slope_times(sa, p) + slope_times(sb, q), a.partials, b.partials))

# The derivative in the first direction.
tangent(x::Dual) = x.partials[1]
tangent(x::Real) = zero(x)

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
