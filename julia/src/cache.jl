# Numeric factorisations and the cache that finds them again.
#
# A factor is kept together with the values it was made from and is used again when the
# values are equal, compared by memory. So a forward solve, its adjoint, its tangents and
# its second derivatives share one factorisation, though each is a pure function call.
#
# Locks: `CACHE_LOCK` guards the lists, sizes and ticks, and is held for look-ups only.
# A factor's lock guards the rest of it, and is held while it is factorised and solved
# with. Nobody waits for a factor's or a pattern's lock with `CACHE_LOCK` in hand.

const Numeric{T} = Union{CHOLMOD.Factor{Float64,Int},UMFPACK.UmfpackLU{T,Int}}

mutable struct Factor{T}
    const pattern::SparsePattern
    const values::Vector{T}
    const many::Bool           # solves are to come: their cost decides how it is stored
    const lock::ReentrantLock
    nzval::Vector{T}           # of the matrix, in the pattern's compressed columns
    numeric::Union{Nothing,Numeric{T}}
    norm::Float64              # largest row sum of |A|, and of its transpose
    normᵀ::Float64
    status::Union{Nothing,Status}  # nothing: not factorised yet, or no longer
    bytes::Int
    used::Int                  # the tick of its last use
end

function Factor(pattern::SparsePattern, values::Vector{T}, many::Bool = false) where {T}
    return Factor{T}(pattern, values, many, ReentrantLock(), T[], nothing, 0.0, 0.0,
        nothing, sizeof(values), 0)
end

const CACHE = (
    Dict{Int,Vector{Factor{Float64}}}(),  # by the pattern's id
    Dict{Int,Vector{Factor{ComplexF64}}}(),
)
kept(::Type{Float64}) = CACHE[1]
kept(::Type{ComplexF64}) = CACHE[2]
all_kept() = (factor for dict in CACHE for list in values(dict) for factor in list)

const CACHE_LOCK = ReentrantLock()
const CACHE_LIMIT = Ref(2^30)
const TICK = Ref(0)
const COUNTS = (
    analyses = Threads.Atomic{Int}(0),
    factorisations = Threads.Atomic{Int}(0),
    cache_hits = Threads.Atomic{Int}(0),
    solves = Threads.Atomic{Int}(0),
)

"""
    counters()

Work since [`clear!`](@ref), as a named tuple: `analyses` (symbolic), `factorisations`
(numeric), `cache_hits`, `solves` (right-hand sides), and what is kept: `bytes`, `factors`.
"""
function counters()
    work = map(getindex, COUNTS)
    return lock(CACHE_LOCK) do
        (; work..., bytes = sum(f -> f.bytes, all_kept(); init = 0),
            factors = count(_ -> true, all_kept()))
    end
end

"""
    clear!()

Drop all factors and solutions, and set the counters to zero.
"""
function clear!()
    foreach(c -> c[] = 0, COUNTS)
    clear_solutions!()
    lock(CACHE_LOCK) do
        foreach(free! ∘ release!, all_kept())
        foreach(empty!, CACHE)
    end
    return nothing
end

"""
    limit_cache!(bytes)

Bound the memory of kept factors; that of kept solutions to a quarter of it. What is in use
is always kept.
"""
function limit_cache!(bytes::Integer)
    lock(CACHE_LOCK) do
        CACHE_LIMIT[] = bytes
        foreach(free! ∘ release!, evict!(nothing))
    end
    trim_solutions!()
    return nothing
end

# The factor of these values: a kept one where they are the same, else an empty one.
function find_factor(
    pattern::SparsePattern, values::Vector{T}, many::Bool = false) where {T}
    T <: Complex && halved(pattern.structure) && throw(ArgumentError(
        "a pattern with structure \"spd\" or \"quasidefinite\" takes real values; " *
        "use \"symmetric\"."))
    lock(CACHE_LOCK)
    try
        list = get!(Vector{Factor{T}}, kept(T), pattern.id)
        TICK[] += 1
        for factor in list
            if same(factor.values, values)
                Threads.atomic_add!(COUNTS.cache_hits, 1)
                factor.used = TICK[]
                return factor
            end
        end
        factor = Factor(pattern, copy(values), many)
        factor.used = TICK[]
        push!(list, factor)
        return factor
    finally
        unlock(CACHE_LOCK)
    end
end

# Bitwise, so that NaN equals itself; comparing stops at the first difference.
same(a::Vector{T}, b::Vector{T}) where {T} =
    sizeof(a) == sizeof(b) && GC.@preserve a b begin
        0 == @ccall memcmp(
            pointer(a)::Ptr{Cvoid}, pointer(b)::Ptr{Cvoid}, sizeof(a)::Csize_t)::Cint
    end

# Say that `keep` takes `bytes`, and drop others until the bound holds. Returns the numeric
# factor of a dropped one of the same pattern, whose memory may be overwritten, or nothing.
function make_room!(keep::Factor, bytes::Int)
    lock(CACHE_LOCK)
    try
        keep.bytes = bytes
        spare = nothing
        for factor in evict!(keep)
            numeric = release!(factor)
            if spare === nothing && numeric isa CHOLMOD.Factor &&
               factor.pattern.id == keep.pattern.id
                spare = numeric
            else
                free!(numeric)
            end
        end
        return spare
    finally
        unlock(CACHE_LOCK)
    end
end

# Drop the longest unused factors until the bound holds; returns them. The caller holds
# `CACHE_LOCK`.
function evict!(keep::Union{Nothing,Factor})
    dropped = Factor[]
    total = sum(f -> f.bytes, all_kept(); init = 0)
    while total > CACHE_LIMIT[]
        oldest = nothing
        for factor in all_kept()
            factor === keep && continue
            (oldest === nothing || factor.used < oldest.used) && (oldest = factor)
        end
        oldest === nothing && break
        total -= oldest.bytes
        drop!(oldest)
        push!(dropped, oldest)
    end
    return dropped
end

function drop!(factor::Factor{T}) where {T}
    list = filter!(f -> f !== factor, kept(T)[factor.pattern.id])
    isempty(list) && delete!(kept(T), factor.pattern.id)
    return nothing
end

# Take its memory from a factor. One that is being worked with keeps it, until the garbage
# collector comes. Who has found a factor but not yet locked it will factorise it again.
function release!(factor::Factor)
    trylock(factor.lock) || return nothing
    numeric = factor.numeric
    factor.numeric = factor.status = nothing
    unlock(factor.lock)
    return numeric
end
