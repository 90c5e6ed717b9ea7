# Traced numbers: derivatives carried backwards, so that the gradient of a scalar costs a
# few evaluations however many parameters there are (Speelpenning 1980; Griewank & Walther
# 2008, Chapter 3).
#
# Each operation writes its slopes on a tape; the chain rule then runs from the end to the
# beginning. The values may be dual numbers: second derivatives.

struct Tape{T}
    parents::Vector{NTuple{2,Int}}  # which numbers each was made from; 0 for none
    slopes::Vector{NTuple{2,T}}
end
Tape{T}() where {T} = Tape{T}(NTuple{2,Int}[], NTuple{2,T}[])

struct Traced{T<:Real} <: Active
    value::T
    number::Int                    # on the tape; 0 for a constant
    tape::Union{Nothing,Tape{T}}
end

Traced{T}(x::Traced{T}) where {T} = x
Traced{T}(x::Real) where {T} = constant(Traced{T}, x)
constant(::Type{Traced{T}}, x) where {T} = Traced{T}(convert(T, x), 0, nothing)
is_constant(x::Traced) = x.number == 0
moves_like(a::Traced, b::Traced) = a.number == b.number

function record(tape::Tape{T}, y, parents, slopes) where {T}
    push!(tape.parents, parents)
    push!(tape.slopes, slopes)
    return Traced{T}(y, length(tape.parents), tape)
end

along(x::Traced{T}, y, s) where {T} = is_constant(x) ? constant(Traced{T}, y) :
    record(x.tape::Tape{T}, y, (x.number, 0), (s, zero(T)))
function along(a::Traced{T}, b::Traced{T}, y, sa, sb) where {T}
    tape = a.tape === nothing ? b.tape : a.tape
    tape === nothing && return constant(Traced{T}, y)
    return record(tape, y, (a.number, b.number), (sa, sb))
end

Base.float(x::Traced) = x
# A tape has one type of number: others are converted to it, as an array's elements are.
Base.promote_rule(::Type{Traced{T}}, ::Type{<:Real}) where {T} = Traced{T}
Base.promote_rule(::Type{BigFloat}, ::Type{Traced{T}}) where {T} = Traced{T}
Base.promote_rule(::Type{<:Dual}, ::Type{Traced{T}}) where {T} = Traced{T}

# Numbers to differentiate with respect to.
trace(tape::Tape{T}, v::Vector) where {T} =
    [record(tape, convert(T, x), (0, 0), (zero(T), zero(T))) for x in v]

# The derivatives of Σ w y with respect to all numbers of a tape.
function sweep_back(tape::Tape{T}, y::Vector, w::Vector) where {T}
    x̄ = zeros(T, length(tape.parents))
    for (a, b) in zip(y, w)
        a isa Traced && !is_constant(a) && (x̄[a.number] += b)
    end
    for k in reverse(eachindex(x̄))
        iszero(x̄[k]) && continue
        for (parent, slope) in zip(tape.parents[k], tape.slopes[k])
            parent == 0 || (x̄[parent] += slope_times(slope, x̄[k]))
        end
    end
    return x̄
end
