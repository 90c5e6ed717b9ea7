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
        items = [e for e in axes(owners, 2) if any(in(mine), @view owners[:, e])]
        Piece(mine, (before + 1):last[p], runs(items))
    end
end

# Increasing numbers as ranges.
function runs(items)
    ends = [i for i in eachindex(items) if get(items, i + 1, 0) != items[i] + 1]
    begins = [1; ends[1:(end - 1)] .+ 1]
    return UnitRange{Int32}[items[a]:items[b] for (a, b) in zip(begins, ends)]
end

# y = Σ of the numbers of all items; `f(e)` has those of item e, a tuple.
function scatter!(f::F, y, s::Scatter, ::Val{k}, ::Val{rows}) where {F,k,rows}
    foreach_threaded(length(s.pieces)) do piece
        add_piece!(f, y, s, s.pieces[piece], Val(k), Val(rows))
    end
    return y
end

function add_piece!(f::F, y, s, piece, ::Val{k}, ::Val{rows}) where {F,k,rows}
    corners, starts, offsets, mine = s.owners, vec(s.starts), s.offsets, piece.owners
    fill!(view(y, piece.places), zero(eltype(y)))
    @inbounds for run in piece.runs, e in run
        E = f(e)
        m = length(E) ÷ (k * rows)
        for i in 1:k
            owner = corners[i, e]
            owner in mine || continue
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

# The number of item e that group a of its corner i has at j.
@inline function gathered(v, s::Scatter, e, i, a, j, rows, m)
    start = @inbounds s.starts[a, s.owners[i, e]]
    offset = @inbounds s.offsets[m * (rows * (i - 1) + a - 1) + j, e]
    return @inbounds v[start + offset]
end
