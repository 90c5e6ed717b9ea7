# Sums over cells or facets of numbers that belong to their corners: the `owners`.
#
# An item has, for each of its corners, `rows` groups of numbers, and those of group a of an
# owner lie in the places from `starts[a, owner]` on, `offsets` further: as in a row of a
# sparse matrix. The offsets are small, so they take a quarter of the memory of whole
# places, and memory is what these loops wait for.
#
# Each piece of the work has owners of its own, whose places it alone writes, and looks at
# the items that have one of them, in their order: `runs` of their numbers. Where two pieces
# meet, both look.

struct Piece
    owners::UnitRange{Int32}
    places::UnitRange{Int}
    runs::Vector{UnitRange{Int32}}
    whole::Vector{Bool}  # whether all owners of a run's items belong to the piece
end

struct Scatter{I<:Integer}
    owners::Matrix{Int32}
    starts::Matrix{Int32}
    offsets::Matrix{I}
    size::Int
    pieces::Vector{Piece}
end

function Scatter(owners::Matrix{Int32}, places::Matrix{Int32}, size::Integer; rows = 1)
    k = Base.size(owners, 1)
    m = Base.size(places, 1) ÷ (k * rows)
    starts = fill(typemax(Int32), rows, maximum(owners; init = Int32(0)))
    ends = zeros(Int32, Base.size(starts))
    group(q, e) = ((i, a) = divrem((q - 1) ÷ m, rows); (a + 1, owners[i + 1, e]))
    for e in axes(places, 2), q in axes(places, 1)
        at = group(q, e)
        starts[at...] = min(starts[at...], places[q, e])
        ends[at...] = max(ends[at...], places[q, e])
    end
    offsets = similar(places)
    for e in axes(places, 2), q in axes(places, 1)
        offsets[q, e] = places[q, e] - starts[group(q, e)...]
    end
    small = maximum(offsets; init = Int32(0)) <= typemax(UInt8)
    return Scatter(owners, starts, small ? UInt8.(offsets) : offsets, Int(size),
        pieces(owners, starts, ends, Int(size)))
end

# As many pieces as threads, with as much work each; a single one where a place has owners
# in two of them.
function pieces(owners, starts, ends, size)
    n = max(1, min(workers(), cld(Base.size(owners, 2), 4096)))
    load = zeros(Int, Base.size(starts, 2))
    foreach(o -> load[o] += 1, owners)
    cumsum!(load, load)
    cuts = [searchsortedfirst(load, round(Int, p * load[end] / n)) for p in 1:(n - 1)]
    bounds = [0; unique(filter(<(length(load)), cuts)); length(load)]
    ranges = [(bounds[p] + 1):bounds[p + 1] for p in 1:(length(bounds) - 1)]
    last = [maximum(@view(ends[:, r]); init = Int32(0)) for r in ranges]
    first = [minimum(@view(starts[:, r]); init = typemax(Int32)) for r in ranges]
    if !all(p -> last[p] < first[p + 1], 1:(length(ranges) - 1))
        ranges, last = [1:length(load)], [size]
    end
    last[end] = size
    return map(eachindex(ranges)) do p
        mine, before = UnitRange{Int32}(ranges[p]), p == 1 ? 0 : last[p - 1]
        Piece(mine, (before + 1):last[p], runs(owners, mine)...)
    end
end

# The items that have an owner in `mine`, as ranges, and of which all owners are there.
function runs(owners, mine)
    ranges, whole = UnitRange{Int32}[], Bool[]
    for e in Int32.(axes(owners, 2))
        there = count(in(mine), @view owners[:, e])
        there == 0 && continue
        all_there = there == Base.size(owners, 1)
        if !isempty(ranges) && last(ranges[end]) == e - 1 && whole[end] == all_there
            ranges[end] = first(ranges[end]):e
        else
            push!(ranges, e:e)
            push!(whole, all_there)
        end
    end
    return ranges, whole
end

# y = Σ of the numbers of all items; `f(e, owners)` has those of item e, a tuple.
function scatter!(f::F, y, s::Scatter, ::Val{k}, ::Val{rows}) where {F,k,rows}
    foreach_threaded(length(s.pieces)) do piece
        add_piece!(f, y, s, s.pieces[piece], Val(k), Val(rows))
    end
    return y
end

function add_piece!(f, y, s, piece, corners, rows)
    fill!(view(y, piece.places), zero(eltype(y)))
    for (run, whole) in zip(piece.runs, piece.whole)
        add_run!(f, y, s, run, whole ? nothing : piece.owners, corners, rows)
    end
end

function add_run!(f::F, y, s, run, mine, ::Val{k}, ::Val{rows}) where {F,k,rows}
    starts, offsets = vec(s.starts), s.offsets
    @inbounds for e in run
        corners = owners(s, e, Val(k))
        E = @inline f(e, corners)
        m = length(E) ÷ (k * rows)
        for i in 1:k
            owner = corners[i]
            mine === nothing || owner in mine || continue
            for a in 1:rows
                start = starts[rows * (owner - 1) + a]
                before = m * (rows * (i - 1) + a - 1)
                for j in 1:m
                    y[start + offsets[before + j, e]] += E[before + j]
                end
            end
        end
    end
end

@inline owners(s::Scatter, e, ::Val{k}) where {k} =
    ntuple(i -> (@inbounds s.owners[i, e]), Val(k))

# The number of item e that group a of its corner i has at j.
@inline function gathered(v, s::Scatter, e, i, a, j, rows, m)
    start = @inbounds s.starts[a, s.owners[i, e]]
    offset = @inbounds s.offsets[m * (rows * (i - 1) + a - 1) + j, e]
    return @inbounds v[start + offset]
end
