# The handler, called through its C function with frames made by hand.

using ImplicitAdjoints, Test
using ImplicitAdjoints: API_VERSION, DEBUG, Handler, METADATA, Operand, function_pointer,
    nsamples, pointer_for, source

double(x) = 2x
weigh(A::Matrix, k::Int32) = A[:, k]
both(x, s) = (x .+ s, sum(x))
const F64 = "float64"

@testset "one array" begin
    handler = function_pointer(double, [(F64, 1)], [(F64, 1)])
    y = zeros(3)
    @test call(handler, fake_frame([FakeArray(y)], [FakeArray([1.0, 2, 3])])) === nothing
    @test y == [2.0, 4, 6]
    empty = fake_frame([FakeArray(Float64[])], [FakeArray(Float64[])])
    @test call(handler, empty) === nothing
end

@testset "numbers: $T" for T in
    (Bool, Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float16, Float32,
     Float64, ComplexF32, ComplexF64)

    type = ImplicitAdjoints.numpy_name(T)
    @test ImplicitAdjoints.element_type(type) == T
    handler = function_pointer(identity, [(type, 0)], [(type, 0)])
    y, x = zeros(T, 1), ones(T, 1)
    @test call(handler, fake_frame([FakeArray(y, ())], [FakeArray(x, ())])) === nothing
    @test y == [one(T)]
end
@test_throws "bfloat16 have no Julia type" ImplicitAdjoints.element_type("bfloat16")

@testset "several arrays and results" begin
    handler = function_pointer(both, [(F64, 1), (F64, 0)], [(F64, 1), (F64, 0)])
    y, s = zeros(2), zeros(1)
    frame = fake_frame(
        [FakeArray(y), FakeArray(s, ())], [FakeArray([1.0, 2]), FakeArray([0.5], ())])
    @test call(handler, frame) === nothing
    @test y == [1.5, 2.5] && s == [3.0]
end

@testset "indices are those of JAX: first axis fastest" begin
    handler = function_pointer(weigh, [(F64, 2), ("int32", 0)], [(F64, 1)])
    A = [1.0 2 3; 4 5 6]  # Julia's memory is XLA's, when it lays the first axis fastest
    y = zeros(2)
    frame = fake_frame([FakeArray(y)], [FakeArray(A, (2, 3)), FakeArray(Int32[3], ())])
    @test call(handler, frame) === nothing
    @test y == [3.0, 6]
end

@testset "sizes of row-major and column-major operands" begin
    data = collect(1.0:24)
    buffer(dims) = ImplicitAdjoints.Buffer(0, C_NULL, 12, pointer(data), length(dims),
        pointer(dims))
    dims = Int64[2, 3, 4]
    GC.@preserve data dims begin
        rows = ImplicitAdjoints.operand(Array{Float64,3}, Val(false), buffer(dims))
        @test rows.dims == (4, 3, 2) && nsamples(rows) == 1
        columns = ImplicitAdjoints.operand(Array{Float64,3}, Val(true), buffer(dims))
        @test columns.dims == (2, 3, 4)
        # Leading axes are the batch, in both
        batched = ImplicitAdjoints.operand(Array{Float64,2}, Val(true), buffer(dims))
        @test batched.dims == (3, 4) && nsamples(batched) == 2
        @test ImplicitAdjoints.sample(batched, 2) == reshape(13.0:24, 3, 4)
        batched = ImplicitAdjoints.operand(Array{Float64,1}, Val(false), buffer(dims))
        @test batched.dims == (4,) && nsamples(batched) == 6
        @test ImplicitAdjoints.sample(batched, 6) == 21.0:24
        number = ImplicitAdjoints.operand(Array{Float64,0}, Val(false), buffer(dims))
        @test nsamples(number) == 24 && ImplicitAdjoints.sample(number, 24) == 24.0
    end
end

@testset "batch axes of size one are stretched" begin
    full, own = Int64[2, 3, 4], Int64[2, 1, 4]
    data = zeros(24)
    GC.@preserve full own data begin
        result = Operand{Float64,0}(pointer(data), (), 3, pointer(full))
        # Row-major numbers of the 24 samples, and where they read from
        expected = [4i + k for i in 0:1 for j in 0:2 for k in 1:4]
        partial = Operand{Float64,0}(pointer(data), (), 3, pointer(own))
        @test [source(partial, result, s) for s in 1:24] == expected
        @test [source(result, result, s) for s in 1:24] == 1:24
        ones3 = Int64[1, 1, 1]
        shared = Operand{Float64,0}(pointer(data), (), 3, pointer(ones3))
        @test GC.@preserve ones3 all(s -> source(shared, result, s) == 1, 1:24)
    end
    # Through a call: x is (2, 1, 2), s is (3, 1) in a batch of 2 by 3
    handler = function_pointer(both, [(F64, 1), (F64, 0)], [(F64, 1), (F64, 0)])
    y, t = zeros(12), zeros(6)
    frame = fake_frame([FakeArray(y, (2, 3, 2)), FakeArray(t, (2, 3))],
        [FakeArray([1.0, 2, 3, 4], (2, 1, 2)), FakeArray([10.0, 20, 30], (1, 3))])
    @test call(handler, frame) === nothing
    @test y == [11.0, 12, 21, 22, 31, 32, 13, 14, 23, 24, 33, 34]
    @test t == [3.0, 3, 3, 7, 7, 7]
    # No samples, no calls
    fails(x) = throw(ErrorException("called"))
    handler = function_pointer(fails, [(F64, 1)], [(F64, 1)])
    none = FakeArray(Float64[], (0, 3))
    @test call(handler, fake_frame([none], [none])) === nothing
end

struct Unshowable <: Exception end
Base.showerror(::IO, ::Unshowable) = throw(ErrorException("cannot be shown"))

@testset "errors" begin
    handler = function_pointer(double, [(F64, 1)], [(F64, 1)])
    y, x = FakeArray(zeros(3)), FakeArray(ones(3))
    wrong(outs, ins; kw...) = call(handler, fake_frame(outs, ins; kw...))
    @test wrong([y], [FakeArray(ones(Float32, 3))]) ==
        "Julia: ArgumentError: XLA passed elements of type 11, expected 12 (Float64)."
    @test wrong([y], [FakeArray(ones(1), ())]) ==
        "Julia: ArgumentError: XLA passed an array of rank 0 < 1."
    @test wrong([y], [x, x]) == "Julia: ArgumentError: XLA passed 2 arrays, expected 1."
    @test wrong([], [x]) == "Julia: ArgumentError: XLA passed 0 arrays, expected 1."
    @test occursin("this jaxlib was never tried", wrong([y], [x]; struct_size = 8))
    @test occursin("must return an array of size (4,), as `out` says. Got size (3,)",
        wrong([FakeArray(zeros(4))], [x]))
    @test wrong([y], [x]) === nothing  # after an error, a good call

    message(f, outs = [(F64, 1)], out = [y]) =
        call(function_pointer(f, [(F64, 1)], outs), fake_frame(out, [x]))
    @test message(_ -> throw(DomainError(-1, "too small"))) ==
        "Julia: DomainError with -1:\ntoo small"
    @test message(_ -> throw(SolveError("no: $('ü')"))) == "no: ü"
    @test occursin("Got Nothing", message(_ -> nothing))
    @test occursin("must return 1 arrays, as `out` says. Got Tuple", message(x -> (x, x)))
    @test occursin("must return 2 arrays, as `out` says. Got Vector",
        message(double, [(F64, 1), (F64, 1)], [y, y]))
    @test occursin("InexactError", message(x -> x .+ 1im))
    @test message(x -> (x,)) === nothing
    # An error whose text cannot be made
    @test message(_ -> throw(Unshowable())) == "Julia: $Unshowable"
    DEBUG[] = true
    try
        @test occursin("Stacktrace", message(_ -> throw(DomainError(-1, "too small"))))
    finally
        DEBUG[] = false
    end
end

@testset "the metadata question is answered, and nothing is called" begin
    before = API_VERSION[]
    API_VERSION[] = (3, 14)
    try
        answer = zeros(UInt8, 48)
        question = [(Extension(sizeof(Extension), METADATA, C_NULL), pointer(answer))]
        fails(_) = throw(ErrorException("called"))
        handler = function_pointer(fails, [(F64, 1)], [(F64, 1)])
        GC.@preserve answer question begin
            frame = fake_frame([], []; extension = Ptr{Extension}(pointer(question)))
            @test call(handler, frame) === nothing
        end
        @test reinterpret(Cint, answer[25:32]) == [3, 14]
        @test reinterpret(UInt32, answer[33:36]) == [0]
    finally
        API_VERSION[] = before
    end
end

@testset "attributes" begin
    got = Ref{Any}(nothing)
    reader(key) = (_, _, attrs) -> (got[] = ImplicitAdjoints.attribute(attrs, key))
    handler(key) = (f = reader(key); Handler{typeof(f),Tuple{},Tuple{},false}(f))
    ask(key; attrs...) = call(pointer_for(handler(key)), fake_frame([], []; attrs...))
    @test ask(:throw; thro = 1, throws = 2, throw = -3, Throw = 4) === nothing
    @test got[] === Int64(-3)
    @test occursin("XLA passed no attribute `absent`", ask(:absent; present = 1))
    @test occursin("attribute `n` must be an Int64", ask(:n; n = Int32(1)))
end

two_buffers(x) = buffers!(Any[], [x, FakeArray([1.0], ())])

@testset "no work but the function's on a small call" begin
    # 1.10 spends 64 to 80 bytes on the header of each array it wraps, 1.11 some more; the
    # result of `double` is one array more. Numbers need nothing.
    x, y = FakeArray([1.0, 2, 3]), FakeArray(zeros(3))
    allocated(handler, frame) = (call(handler, frame); call(handler, frame);
        @allocated ccall(Ptr{Cvoid}(handler), Ptr{Cvoid}, (Ptr{CallFrame},), frame.frame))
    vector = function_pointer(double, [(F64, 1)], [(F64, 1)])
    @test allocated(vector, fake_frame([y], [x])) <= 2 * 112
    number = fake_frame([FakeArray([0.0], ())], [FakeArray([1.0], ())])
    @test allocated(function_pointer(double, [(F64, 0)], [(F64, 0)]), number) == 0
    Types = Tuple{Array{Float64,1},Array{Float64,0}}
    @test @inferred(ImplicitAdjoints.operands(Types, Val(true), two_buffers(x))) isa Tuple
end
