# The march as XLA calls it; see `linear/march.py`.

# One march or many. Samples with the same matrices and scheme go together, others on
# different threads.
struct MarchOp end

function (::MarchOp)(outs, ins, attrs)
    y, status, _ = outs
    M, K, c, p, q, f = ins
    pattern = known_pattern(attribute(attrs, :pattern))
    (n, order, m) = f.dims
    y.dims == f.dims && n == pattern.n && order in (1, 2) &&
        M.dims == K.dims == (nentries(pattern),) && c.dims == (m,) &&
        p.dims == q.dims && p.dims[2] == m || throw(DimensionMismatch(
        "$pattern got $(M.dims[1]) and $(K.dims[1]) values, loads of $(f.dims)."))
    transposed = attribute(attrs, :transpose) != 0
    samples = nsamples(y)
    which(s) = map(o -> source(o, y, s), (M, K, c, p, q))
    groups = Dict{NTuple{5,Int},Vector{Int}}()
    foreach(s -> push!(get!(Vector{Int}, groups, which(s)), s), 1:samples)
    each = collect(groups)
    foreach_threaded(length(each)) do g
        march_samples!(outs, ins, pattern, transposed, each[g]...)
    end
    attribute(attrs, :throw) == 0 && return
    for s in 1:samples, j in (transposed ? reverse(1:m) : 1:m)
        code = unsafe_load(status.data, (s - 1) * m + j)
        code == 0 && continue
        place = samples > 1 ? ", sample $(s - 1) of $samples" : ""
        place *= step_name((s, j), 1:m, transposed)
        throw(SolveError(failure(pattern, Status(code), place)))
    end
end

function march_samples!((y, status, residual), ins, pattern, transposed, which, mine)
    T = working_type(eltype(y))
    f = last(ins)
    rows = March{T}(pattern, map(sample, Base.front(ins), which)...)
    n, order, m = f.dims
    from = map(s -> source(f, y, s), mine)
    F = @something together(T, f, from) gathered(T, f, from)
    there = together(T, y, mine)
    Y = @something there Array{T}(undef, n, length(mine), order, m)
    codes, errors = march!(Y, rows, F, transposed)
    for (i, s) in enumerate(mine)
        there === nothing && copyto!(sample(y, s), @view Y[:, i, :, :])
        copyto!(sample(status, s), Int32.(@view codes[i, :]))
        copyto!(sample(residual, s), @view errors[i, :])
    end
end

# One sample where it lies, if it is of type T.
function together(::Type{T}, o::Operand{S,3}, which) where {T,S}
    S === T && length(which) == 1 || return nothing
    n, order, m = o.dims
    return unsafe_wrap(Array, Ptr{T}(address(o, only(which))), (n, 1, order, m))
end

function gathered(::Type{T}, o::Operand, which) where {T}
    n, order, m = o.dims
    F = Array{T}(undef, n, length(which), order, m)
    foreach(i -> copyto!(@view(F[:, i, :, :]), sample(o, which[i])), eachindex(which))
    return F
end

const MARCH_TYPES = map((Float32, Float64, ComplexF32, ComplexF64)) do T
    R = real(T)
    ins = Tuple{Vector{T},Vector{T},Vector{R},Matrix{R},Matrix{R},Array{T,3}}
    ins, Tuple{Array{T,3},Vector{Int32},Vector{R}}
end

"""
    march_pointer(dtype) -> UInt

The C function by which XLA marches with this element type.
"""
function march_pointer(dtype)
    T = element_type(dtype)
    for (ins, outs) in MARCH_TYPES
        fieldtype(ins, 1) == Vector{T} &&
            return pointer_for(Handler{MarchOp,ins,outs,false}(MarchOp()))
    end
    throw(ArgumentError("march has no method for $dtype."))
end
