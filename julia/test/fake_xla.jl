# A stand-in for XLA: call frames in Julia's memory, and the error factory of its API.

using ImplicitAdjoints: Attributes, Buffer, Buffers, ByteSpan, CallFrame, ErrorCreate,
    Extension, Scalar, dtype

# What `error_create` was told last. A C function cannot be a closure on every machine.
const FAKE_ERROR = Ref("")
function fake_error_create(args::Ptr{ErrorCreate})
    FAKE_ERROR[] = unsafe_string(unsafe_load(args).message)
    return Ptr{Cvoid}(1)
end

# A row-major or column-major array of JAX: `core` axes after `batch` axes.
struct FakeArray
    dtype::Cint
    data::Ptr{Cvoid}
    dims::Vector{Int64}
    root::Any
end
# `data` holds the elements in memory order; `dims` are as JAX names them.
FakeArray(data::Array{T}, dims) where {T} =
    FakeArray(dtype(T), pointer(data), collect(Int64, dims), data)
FakeArray(data::Vector) = FakeArray(data, size(data))

struct FakeFrame
    frame::Base.RefValue{CallFrame}
    roots::Vector{Any}
end

function keep!(roots, x::Vector)
    push!(roots, x)
    return pointer(x)
end
keep!(roots, x) = keep!(roots, [x])  # in memory of its own

function buffers!(roots, arrays)
    items = map(arrays) do a
        push!(roots, a)
        keep!(roots, Buffer(sizeof(Buffer), C_NULL, a.dtype, a.data, length(a.dims),
            keep!(roots, a.dims)))
    end
    types = ones(Cint, length(arrays))
    return Buffers(sizeof(Buffers), C_NULL, length(arrays), keep!(roots, types),
        keep!(roots, collect(Ptr{Buffer}, items)))
end

function attributes!(roots, attrs)
    names = map(collect(pairs(attrs))) do (name, _)
        text = Vector{UInt8}(string(name))
        keep!(roots, ByteSpan(keep!(roots, text), length(text)))
    end
    items = map(collect(pairs(attrs))) do (_, value)
        keep!(roots, Scalar(dtype(typeof(value)), keep!(roots, value)))
    end
    types = fill(Cint(3), length(names))
    return Attributes(sizeof(Attributes), C_NULL, length(names), keep!(roots, types),
        keep!(roots, collect(Ptr{ByteSpan}, names)),
        keep!(roots, collect(Ptr{Scalar}, items)))
end

# XLA_FFI_Api, of which only the seventh field is used.
function api!(roots)
    table = fill(C_NULL, 16)
    create = @cfunction(fake_error_create, Ptr{Cvoid}, (Ptr{ErrorCreate},))
    table[ImplicitAdjoints.ERROR_CREATE_OFFSET ÷ sizeof(Ptr{Cvoid}) + 1] = create
    return keep!(roots, table)
end

function fake_frame(
    outs, ins; struct_size = sizeof(CallFrame), extension = C_NULL, attrs...)
    roots = Any[]
    frame = CallFrame(struct_size, extension, api!(roots), C_NULL, 3, buffers!(roots, ins),
        buffers!(roots, outs), attributes!(roots, attrs))
    return FakeFrame(Ref(frame), roots)
end

# Call a C function as XLA does; the message of the error it made, or nothing.
function call(pointer, fake::FakeFrame)
    GC.@preserve fake begin
        failed = ccall(Ptr{Cvoid}(pointer), Ptr{Cvoid}, (Ptr{CallFrame},), fake.frame)
    end
    return failed == C_NULL ? nothing : FAKE_ERROR[]
end
