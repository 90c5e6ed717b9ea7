# XLA calls Julia: the call frame of XLA's foreign function interface and the one handler
# that reads it. The structs mirror jaxlib's `xla/ffi/api/c_api.h`; `engine/abi.py` has
# the same table for Python.
#
# Inside a handler there is no Python and no GIL. It runs on threads of XLA's, several at
# once. Buffers are wrapped where they lie and never kept. Every exception is caught and
# handed back as an XLA error.

struct Extension
    struct_size::Csize_t
    type::Cint
    next::Ptr{Cvoid}
end

struct Buffer
    struct_size::Csize_t
    extension_start::Ptr{Cvoid}
    dtype::Cint
    data::Ptr{Cvoid}
    rank::Int64
    dims::Ptr{Int64}
end

struct Buffers
    struct_size::Csize_t
    extension_start::Ptr{Cvoid}
    size::Int64
    types::Ptr{Cint}
    items::Ptr{Ptr{Buffer}}
end

struct ByteSpan
    ptr::Ptr{UInt8}
    len::Csize_t
end

struct Scalar
    dtype::Cint
    value::Ptr{Cvoid}
end

struct Attributes
    struct_size::Csize_t
    extension_start::Ptr{Cvoid}
    size::Int64
    types::Ptr{Cint}
    names::Ptr{Ptr{ByteSpan}}
    items::Ptr{Ptr{Scalar}}
end

struct CallFrame
    struct_size::Csize_t
    extension_start::Ptr{Extension}
    api::Ptr{Cvoid}
    ctx::Ptr{Cvoid}
    stage::Cint
    args::Buffers
    rets::Buffers
    attrs::Attributes
end

struct ErrorCreate
    struct_size::Csize_t
    extension_start::Ptr{Cvoid}
    message::Ptr{UInt8}
    code::Cint
end

const METADATA = 1                   # an extension's type
const SCALAR = 3                     # an attribute's type
const INTERNAL = 13
const ERROR_CREATE_OFFSET = 48       # of `error_create` in the struct XLA_FFI_Api
const API_VERSION = Ref((0, 1))      # what we answer: set from jaxlib's header by Python
const DEBUG = Ref(false)             # add Julia's backtrace to errors

const DTYPES = (
    (1, Bool), (2, Int8), (3, Int16), (4, Int32), (5, Int64), (6, UInt8), (7, UInt16),
    (8, UInt32), (9, UInt64), (10, Float16), (11, Float32), (12, Float64),
    (15, ComplexF32), (18, ComplexF64))
for (code, T) in DTYPES
    @eval dtype(::Type{$T}) = Cint($code)
end

# --- operands ------------------------------------------------------------------------

"""
    Operand{T,N}

An argument or result of a call, where it lies: a batch of arrays of size `dims`. `batch`
holds the sizes of the batch axes, slowest first; an axis of size 1 is stretched.
"""
struct Operand{T,N}
    data::Ptr{T}
    dims::NTuple{N,Int}
    nbatch::Int
    batch::Ptr{Int64}
end

Base.eltype(::Operand{T}) where {T} = T
nsamples(o::Operand) = prod(i -> Int(unsafe_load(o.batch, i)), 1:(o.nbatch); init = 1)

# Where array number `s` (from 1) of an operand starts, and that array, without a copy.
address(o::Operand{T}, s) where {T} = o.data + (s - 1) * prod(o.dims) * sizeof(T)
sample(o::Operand, s) = unsafe_wrap(Array, address(o, s), o.dims)
sample(o::Operand{T,0}, s) where {T} = unsafe_load(o.data, s)

# Which array of `o` belongs to sample `s` of the batch of `result`.
function source(o::Operand, result::Operand, s)
    index, stride, rest = 0, 1, s - 1
    for i in (o.nbatch):-1:1
        full = unsafe_load(result.batch, i)
        own = unsafe_load(o.batch, i)
        rest, here = divrem(rest, full)
        own == 1 || (index += here * stride)
        stride *= own
    end
    return index + 1
end

# `Columns` false: the last axis of the JAX array is fastest, so sizes arrive reversed.
# `Columns` true: XLA laid the first axis fastest, so they are as in JAX.
function operand(::Type{Array{T,N}}, ::Val{Columns}, buffer::Buffer) where {T,N,Columns}
    buffer.dtype == dtype(T) || throw(ArgumentError(
        "XLA passed elements of type $(buffer.dtype), expected $(dtype(T)) ($T)."))
    nbatch = buffer.rank - N
    nbatch >= 0 || throw(ArgumentError("XLA passed an array of rank $(buffer.rank) < $N."))
    dims = ntuple(Val(N)) do i
        Int(unsafe_load(buffer.dims, Columns ? nbatch + i : buffer.rank - i + 1))
    end
    return Operand{T,N}(Ptr{T}(buffer.data), dims, nbatch, buffer.dims)
end

@generated function operands(
    ::Type{Types}, columns::Val, buffers::Buffers) where {Types<:Tuple}
    n = fieldcount(Types)
    each = [:(operand($(fieldtype(Types, i)), columns,
        unsafe_load(unsafe_load(buffers.items, $i)))) for i in 1:n]
    return quote
        buffers.size == $n || throw(ArgumentError(
            "XLA passed $(buffers.size) arrays, expected $($n)."))
        tuple($(each...))
    end
end

# The whole-number attribute `key` of a call.
function attribute(attrs::Attributes, key::Symbol)
    for i in 1:(attrs.size)
        span = unsafe_load(unsafe_load(attrs.names, i))
        span.len == @ccall(strlen(key::Ptr{UInt8})::Csize_t) || continue
        differ = @ccall memcmp(
            span.ptr::Ptr{UInt8}, key::Ptr{UInt8}, span.len::Csize_t)::Cint
        differ == 0 || continue
        unsafe_load(attrs.types, i) == SCALAR &&
            unsafe_load(unsafe_load(attrs.items, i)).dtype == dtype(Int64) ||
            throw(ArgumentError("XLA's attribute `$key` must be an Int64."))
        return unsafe_load(Ptr{Int64}(unsafe_load(unsafe_load(attrs.items, i)).value))
    end
    throw(ArgumentError("XLA passed no attribute `$key`."))
end

# --- the handler ---------------------------------------------------------------------

"""
    Handler{F,Ins,Outs,Columns}(f)

What XLA calls: `f(outs, ins, attributes)` on tuples of [`Operand`](@ref)s of the types in
the tuple types `Ins` and `Outs`. A type of its own for each signature, so that the whole
call is compiled for it.
"""
struct Handler{F,Ins<:Tuple,Outs<:Tuple,Columns}
    f::F
end

function (h::Handler{F,Ins,Outs,Columns})(ptr::Ptr{CallFrame}) where {F,Ins,Outs,Columns}
    frame = unsafe_load(ptr)
    Threads.atomic_add!(IN_FLIGHT, 1)
    try
        if frame.extension_start != C_NULL && answer_metadata(frame.extension_start)
            return C_NULL
        end
        frame.struct_size >= sizeof(CallFrame) || throw(ArgumentError(
            "XLA's call frame has $(frame.struct_size) bytes, at least " *
            "$(sizeof(CallFrame)) expected: this jaxlib was never tried."))
        ins = operands(Ins, Val(Columns), frame.args)
        outs = operands(Outs, Val(Columns), frame.rets)
        h.f(outs, ins, frame.attrs)
        return C_NULL
    catch err
        return xla_error(frame.api, describe(err))
    finally
        Threads.atomic_sub!(IN_FLIGHT, 1)
    end
end

# How many handlers run now: Python waits for none before it lets Julia go.
const IN_FLIGHT = Threads.Atomic{Int}(0)
in_flight() = IN_FLIGHT[]

# XLA asks each handler once which version of the interface it was written for.
function answer_metadata(extension::Ptr{Extension})
    unsafe_load(extension).type == METADATA || return false
    metadata = unsafe_load(Ptr{Ptr{UInt8}}(Ptr{UInt8}(extension) + sizeof(Extension)))
    major, minor = API_VERSION[]
    unsafe_store!(Ptr{Cint}(metadata + 24), major)  # struct_size, then api_version's
    unsafe_store!(Ptr{Cint}(metadata + 28), minor)  # struct_size and extension_start
    unsafe_store!(Ptr{UInt32}(metadata + 32), 0)    # traits
    return true
end

@noinline function describe(err)
    trace = DEBUG[] ? (catch_backtrace(),) : ()
    text = try
        sprint(showerror, err, trace...)
    catch  # a user's own `showerror` may fail
        string(typeof(err))
    end
    return err isa SolveError || err isa MissingRule ? text : "Julia: " * text
end

@noinline function xla_error(api::Ptr{Cvoid}, text::String)
    create = unsafe_load(Ptr{Ptr{Cvoid}}(api + ERROR_CREATE_OFFSET))
    return GC.@preserve text begin
        args = Ref(ErrorCreate(sizeof(ErrorCreate), C_NULL, pointer(text), INTERNAL))
        ccall(create, Ptr{Cvoid}, (Ptr{ErrorCreate},), args)
    end
end

# A C function for a handler. C functions are made for *named* functions, so each handler
# gets one in a module of its own; the handler is part of its code, so the call is static.
const HANDLERS = Ref{Module}()

function pointer_for(handler::Handler)
    isassigned(HANDLERS) || (HANDLERS[] = Module(:PyImplicitHandlers))
    scope, name = HANDLERS[], gensym(:handler)
    Core.eval(scope, :($name(frame::Ptr{$CallFrame}) = $handler(frame)))
    Core.eval(scope, :(precompile($name, (Ptr{$CallFrame},))))
    return UInt(Core.eval(scope, :(@cfunction($name, Ptr{Cvoid}, (Ptr{$CallFrame},)))))
end
