# The operations that XLA may call, and how Python asks for them. Names here carry no `!`.

# --- sparse_solve --------------------------------------------------------------------

const KNOWN_PATTERNS = Dict{Int64,SparsePattern}()
const PATTERNS_LOCK = ReentrantLock()

"""
    register_pattern(key, n, rows, cols, structure)

Make a pattern (places from 0) known under its content key; a second time does nothing.
"""
function register_pattern(key::Integer, n::Integer, rows, cols, structure)
    lock(PATTERNS_LOCK) do
        get!(KNOWN_PATTERNS, Int64(key)) do
            SparsePattern(
                Vector{Int}(rows) .+ 1, Vector{Int}(cols) .+ 1, n;
                structure = String(structure))
        end
    end
    return nothing
end

function known_pattern(key::Int64)
    lock(PATTERNS_LOCK)
    try
        pattern = get(KNOWN_PATTERNS, key, nothing)
        pattern === nothing && throw(ArgumentError(
            "the compiled function refers to a sparse pattern of another process. " *
            "Build its SparsePattern here before calling it."))
        return pattern
    finally
        unlock(PATTERNS_LOCK)
    end
end

# One or many matrices of one pattern, one or many right-hand sides each. Samples with
# the same matrix are solved together, different matrices on different threads.
struct SparseSolve end

function (::SparseSolve)(outs, ins, attrs)
    x, status, _ = outs
    values, b = ins
    pattern = known_pattern(attribute(attrs, :pattern))
    values.dims == (nentries(pattern),) && b.dims == x.dims == (pattern.n,) ||
        throw(DimensionMismatch(
            "$pattern got $(values.dims[1]) values, $(b.dims[1]) rows."))
    transposed = attribute(attrs, :transpose) != 0
    n = nsamples(x)
    if n == 1
        solve_samples!(outs, ins, pattern, transposed, 1, 1:1)
    else
        groups = [Int[] for _ in 1:nsamples(values)]
        foreach(s -> push!(groups[source(values, x, s)], s), 1:n)
        foreach_threaded(length(groups)) do m
            isempty(groups[m]) ||
                solve_samples!(outs, ins, pattern, transposed, m, groups[m])
        end
    end
    attribute(attrs, :throw) == 0 && return
    for s in 1:n
        code = unsafe_load(status.data, s)
        code == 0 && continue
        which = n > 1 ? ", sample $(s - 1) of $n" : ""
        throw(SolveError(failure(pattern, Status(code), which)))
    end
end

# Matrix number `m` with the right-hand sides of the samples `mine`.
function solve_samples!(
    (x, status, residual), (values, b), pattern::SparsePattern, transposed, m, mine)
    T = working_type(eltype(x))
    factor = find_factor(pattern, convert(Vector{T}, sample(values, m)))
    from = map(s -> source(b, x, s), mine)
    B = @something neighbours(T, b, from) copied(T, b, from)
    there = neighbours(T, x, mine)
    X = @something there similar(B)
    codes, errors = solve!(X, factor, B, transposed)
    for (c, s) in enumerate(mine)
        there === nothing && copyto!(sample(x, s), @view X[:, c])
        unsafe_store!(status.data, Int32(codes[c]), s)
        unsafe_store!(residual.data, errors[c], s)
    end
end

# These vectors of `o` as columns where they lie, if they are of type T and side by side.
function neighbours(::Type{T}, o::Operand{S,1}, which) where {T,S}
    S === T || return nothing
    all(c -> which[c] == first(which) + c - 1, eachindex(which)) || return nothing
    return unsafe_wrap(Array, Ptr{T}(address(o, first(which))), (o.dims[1], length(which)))
end

function copied(::Type{T}, o::Operand, which) where {T}
    B = Matrix{T}(undef, o.dims[1], length(which))
    foreach(c -> copyto!(@view(B[:, c]), sample(o, which[c])), eachindex(which))
    return B
end

# --- any Julia function of arrays ----------------------------------------------------

# Calls `f` once for each sample of the batch. Arguments of rank 0 arrive as numbers.
struct Apply{F}
    f::F
end

function (a::Apply)(outs, ins, _)
    for s in 1:nsamples(first(outs))
        args = map(o -> sample(o, source(o, first(outs), s)), ins)
        evaluate!(outs, a.f, args, s)
    end
end

evaluate!(outs::Tuple, f, args, s) = store!(outs, f(args...), f, s)
# An assembly fills its result where it lies: fresh memory and a copy cost a third of it.
function evaluate!(outs::Tuple{Operand}, f::Union{Assembly,Transposed}, args, s)
    o = outs[1]
    fits = o.dims == result_size(f) && eltype(o) == number_type(args...)
    fits ? assemble!(sample(o, s), f, args...) : store!(outs, f(args...), f, s)
    return nothing
end

store!(outs::Tuple{Operand}, y, f, s) = store_one!(outs[1], y, f, s)
function store!(outs::Tuple, y::Tuple, f, s)
    length(y) == length(outs) || wrong_count(f, outs, y)
    foreach((o, v) -> store_one!(o, v, f, s), outs, y)
end
store!(outs::Tuple, y, f, s) = wrong_count(f, outs, y)
store!(outs::Tuple{Operand}, y::Tuple, f, s) =
    length(y) == 1 ? store_one!(outs[1], y[1], f, s) : wrong_count(f, outs, y)

function store_one!(o::Operand, v, f, s)
    has_size(v, o.dims) || wrong_size(f, o.dims, v)
    copyto!(sample(o, s), v)
    return nothing
end
# The common case, without wrapping the result's memory.
function store_one!(o::Operand{T,N}, v::Array{T,N}, f, s) where {T,N}
    has_size(v, o.dims) || wrong_size(f, o.dims, v)
    GC.@preserve v unsafe_copyto!(address(o, s), pointer(v), length(v))
    return nothing
end
function store_one!(o::Operand{T,0}, v, f, s) where {T}
    has_size(v, ()) || wrong_size(f, (), v)
    unsafe_store!(o.data, convert(T, v[]), s)
    return nothing
end
store_one!(o::Operand{T,0}, v::Array{T,0}, f, s) where {T} = store_one!(o, v[], f, s)

has_size(v, dims) = v isa Union{Number,AbstractArray} && size(v) == dims

@noinline wrong_count(f, outs, y) = throw(DimensionMismatch(
    "`$(name(f))` must return $(length(outs)) arrays, as `out` says. Got $(typeof(y))."))
@noinline wrong_size(f, wanted, v) = throw(DimensionMismatch(
    "`$(name(f))` must return an array of size $wanted, as `out` says. " *
    "Got $(v isa Union{Number,AbstractArray} ? "size $(size(v))" : typeof(v))."))

"""
    function_pointer(f, ins, outs) -> UInt

The C function by which XLA calls `f`. `ins` and `outs`: pairs (element type, rank).
"""
function function_pointer(f, ins, outs)
    types(specs) = Tuple{(Array{element_type(T),Int(N)} for (T, N) in specs)...}
    call = Apply(f)
    return pointer_for(Handler{typeof(call),types(ins),types(outs),true}(call))
end

function element_type(name)
    for (_, T) in DTYPES
        numpy_name(T) == name && return T
    end
    throw(ArgumentError("arrays of $name have no Julia type here."))
end
numpy_name(::Type{ComplexF32}) = "complex64"
numpy_name(::Type{ComplexF64}) = "complex128"
numpy_name(T::Type) = lowercase(string(T))

# What `f` gets for arguments of these (element type, rank): numbers and arrays.
argument_types(specs) = Tuple(
    Int(N) == 0 ? element_type(T) : Array{element_type(T),Int(N)} for (T, N) in specs)

"""
    missing_rule(f, ins) -> String

Why the derivative `f` cannot be called on arguments of these types; empty if it can.
"""
function missing_rule(f, ins)
    types = argument_types(ins)
    has_rule(f, types) && return ""
    kind = f isa Pushforward ? :frule : :rrule
    inner = f.f
    n = length(marks(f))
    has_rule(inner, types[1:n]) || return missing_rule(inner, ins[1:n])
    return sprint(showerror, MissingRule(name(inner), kind, types[1:n]))
end

"""
    resolve(path)

The function of the name `path` ("Module.function"), loading the module if need be.
"""
function resolve(path::AbstractString)
    names = Symbol.(split(path, '.'))
    here = Main
    for (i, part) in enumerate(names)
        if !isdefined(here, part) && i == 1 && length(names) > 1
            package = Base.identify_package(string(part))
            package === nothing && throw(ArgumentError(
                "`$path` must name a function: `$part` is neither defined in Main nor a " *
                "package of this project. Load it with pi.julia.include(path)."))
            here = Base.require(package)
            continue
        end
        isdefined(here, part) || throw(ArgumentError(
            "`$path` must name a function: `$here` has no `$part`."))
        here = getfield(here, part)
    end
    return here
end

# Called by Python once after Julia's start.
function configure(major, minor, cache_bytes, debug)
    API_VERSION[] = (Int(major), Int(minor))
    DEBUG[] = debug
    limit_cache!(Int(cache_bytes))
    return nothing
end

const SPARSE_SOLVE_TYPES = [
    (Tuple{Array{T,1},Array{T,1}}, Tuple{Array{T,1},Array{Int32,0},Array{real(T),0}})
    for T in (Float32, Float64, ComplexF32, ComplexF64)]

"""
    sparse_solve_pointer(dtype) -> UInt

The C function by which XLA solves sparse systems of this element type.
"""
function sparse_solve_pointer(dtype)
    T = element_type(dtype)
    for (ins, outs) in SPARSE_SOLVE_TYPES
        fieldtype(ins, 1) == Vector{T} &&
            return pointer_for(Handler{SparseSolve,ins,outs,false}(SparseSolve()))
    end
    throw(ArgumentError("sparse_solve has no method for $dtype."))
end

# Where libjulia-internal lies: Python parks its main thread through it.
runtime_library() = Libdl.dlpath("libjulia-internal")

clear() = clear!()

# For `pyimplicit doctor`: versions of Julia and PythonCall, threads of Julia and BLAS.
function versions()
    loaded = [m for (id, m) in Base.loaded_modules if id.name == "PythonCall"]
    pythoncall = isempty(loaded) ? "none" : string(pkgversion(only(loaded)))
    return string(VERSION), Threads.nthreads(), LinearAlgebra.BLAS.get_num_threads(),
    pythoncall
end

include_in_main(path) = (Base.include(Main, path); nothing)

# An assembly as Python has it: arrays with the cell first, numbers from zero.
function make_assembly(operator, components, cells, slot, nentries, npoints, dim)
    makes = getfield(@__MODULE__, Symbol(operator))
    op = makes in (Mass, Load) ? makes(components) : makes()
    slot = PermutedDimsArray(slot, ndims(slot):-1:1)
    return Assembly(op, permutedims(cells) .+ Int32(1), slot .+ Int32(1),
        nentries, npoints; dim)
end
