# The sparse solve as XLA calls it, and what Python asks for.

using ImplicitAdjoints, LinearAlgebra, Random, Test
using ImplicitAdjoints: register_pattern, resolve, sparse_solve_pointer

key_of(p) = (key = hash(p.rows, hash(p.values)) % Int64;
    register_pattern(key, p.n, p.rows .- 1, p.cols .- 1, p.structure); key)

# Solve for a batch: `values` and `b` with leading batch axes, memory order given.
function solve_frame(p, values, vdims, b, bdims, batch; transpose = 0, throw = 1)
    T = eltype(b)
    n = prod(batch; init = 1)
    x, status, residual = fill(T(7), p.n * n), fill(Int32(-1), n), fill(real(T)(-1), n)
    outs = ((x, (batch..., p.n)), (status, batch), (residual, batch))
    frame = fake_frame(
        [FakeArray(data, dims) for (data, dims) in outs],
        [FakeArray(values, vdims), FakeArray(b, bdims)];
        pattern = key_of(p), throw, transpose)
    return x, status, residual, frame
end

pointer_of(T) = sparse_solve_pointer(ImplicitAdjoints.numpy_name(T))
const SOLVERS = Dict(T => pointer_of(T) for T in (Float32, Float64, ComplexF32, ComplexF64))

@testset "one system: $(p.name), $T, transpose = $t" for p in PROBLEMS,
    T in (Float32, Float64, ComplexF32, ComplexF64), t in (0, 1)

    eltype(p.values) <: Complex && T <: Real && continue
    p.structure == "spd" && T <: Complex && continue
    values, b = T.(p.values), randn(MersenneTwister(11), T, p.n)
    x, status, residual, frame =
        solve_frame(p, values, (length(values),), b, (p.n,), (); transpose = t)
    @test call(SOLVERS[T], frame) === nothing
    @test x == sparse_solve(pattern(p), values, b; transposed = t == 1)
    @test status == [0] && 0 <= only(residual) < 1e-13
end
@test_throws "sparse_solve has no method for int32" sparse_solve_pointer("int32")

@testset "batches: $T" for T in (Float32, Float64)
    p = the_problem("advection")
    n, nnz = p.n, length(p.values)
    rng = MersenneTwister(12)
    scales = T[1, 2, 0.5, 1]
    values = [T(v) * s for v in p.values, s in scales]
    B = randn(rng, T, n, 4)
    answers = [sparse_solve(pattern(p), values[:, s], B[:, c]) for s in 1:4, c in 1:4]
    alone(s, c) = answers[s, c]
    clear!()
    # One matrix, four right-hand sides: together
    x, status, _, frame = solve_frame(p, values[:, 1], (1, nnz), B, (4, n), (4,))
    @test call(SOLVERS[T], frame) === nothing
    @test reshape(x, n, 4) ≈ hcat([alone(1, c) for c in 1:4]...)
    @test all(==(0), status)
    @test counters().factorisations == 1
    # Four matrices, of which two are equal; one right-hand side, then four
    x, _, _, frame = solve_frame(p, values, (4, nnz), B[:, 1], (1, n), (4,))
    @test call(SOLVERS[T], frame) === nothing
    @test reshape(x, n, 4) == hcat([alone(s, 1) for s in 1:4]...)
    x, _, _, frame = solve_frame(p, values, (4, nnz), B, (4, n), (4,))
    @test call(SOLVERS[T], frame) === nothing
    @test reshape(x, n, 4) == hcat([alone(s, s) for s in 1:4]...)
    # Crossed, both ways: sample (i, j) has matrix i and right-hand side j, or j and i
    x, _, _, frame = solve_frame(p, values, (4, 1, nnz), B, (1, 4, n), (4, 4))
    @test call(SOLVERS[T], frame) === nothing
    @test all(reshape(x, n, 4, 4)[:, j, i] ≈ alone(i, j) for i in 1:4, j in 1:4)
    x, _, _, frame = solve_frame(p, values, (1, 4, nnz), B, (4, 1, n), (4, 4))
    @test call(SOLVERS[T], frame) === nothing
    @test all(reshape(x, n, 4, 4)[:, j, i] ≈ alone(j, i) for i in 1:4, j in 1:4)
    @test counters().factorisations == 3
    # Nothing
    x, _, _, frame = solve_frame(p, values[:, 1], (1, nnz), T[], (0, n), (0,))
    @test call(SOLVERS[T], frame) === nothing
end

@testset "failures" begin
    p = problem("", laplacian(3; dirichlet = false), "spd")
    good = laplacian(3)
    values = [p.values [good[i, j] for (i, j) in zip(p.rows, p.cols)]]
    b = ones(9)
    arguments = (p, values, (2, length(p.values)), b, (1, 9), (2,))
    x, status, residual, frame = solve_frame(arguments...; throw = 0)
    @test call(SOLVERS[Float64], frame) === nothing
    @test status == [Int(ImplicitAdjoints.SINGULAR), 0]
    @test all(isnan, x[1:9]) && x[10:18] ≈ good \ b
    @test isnan(residual[1]) && residual[2] < 1e-14
    _, _, _, frame = solve_frame(arguments...)
    text = call(SOLVERS[Float64], frame)
    @test text == "sparse_solve: $(message(ImplicitAdjoints.SINGULAR)). " *
        "Matrix: 9 x 9, 33 entries, 'spd', sample 0 of 2."
    _, _, _, frame = solve_frame(p, p.values, (33,), b, (9,), ())
    @test endswith(call(SOLVERS[Float64], frame), "'spd'.")
    # Sizes that do not belong to the pattern are not read
    _, _, _, frame = solve_frame(p, p.values[1:5], (5,), b, (9,), ())
    @test occursin("got 5 values, 9 rows", call(SOLVERS[Float64], frame))
    frame = fake_frame([FakeArray(zeros(9)), FakeArray(Int32[0], ()), FakeArray([0.0], ())],
        [FakeArray(p.values), FakeArray(b)]; pattern = 1, transpose = 0, throw = 1)
    @test occursin("sparse pattern of another process", call(SOLVERS[Float64], frame))
    @test_throws "must be \"general\"" register_pattern(2, 1, [0], [0], "diagonal")
end

@testset "on threads that are not Julia's, as XLA has them" begin
    problems = (the_problem("advection"), problem("", laplacian(20), "spd"))
    for round in 1:5
        round % 2 == 1 && clear!()
        jobs = map(1:6) do k
            p = problems[mod1(k, 2)]
            values, b = cld(k, 2) .* p.values, ones(p.n)
            (p, values, b, solve_frame(p, values, (length(values),), b, (p.n,), ())...)
        end
        for (_, _, _, _, _, _, fake) in jobs
            started = ccall(
                :uv_thread_create, Cint, (Ptr{UInt}, Ptr{Cvoid}, Ptr{CallFrame}),
                Ref{UInt}(0), Ptr{Cvoid}(SOLVERS[Float64]), fake.frame)
            @test started == 0
        end
        GC.gc()
        residuals = [job[6] for job in jobs]  # written last
        waited = GC.@preserve jobs timedwait(60; pollint = 0.001) do
            all(r -> r[1] >= 0, residuals)
        end
        @test waited == :ok
        @test all(x ≈ dense(p, values) \ b for (p, values, b, x) in jobs)
    end
end

@testset "a small solve that is in the cache does little besides" begin
    # Four array headers; the library's solve with its wrappers; residual, errors, statuses.
    for (name, bound) in (("poisson", 2500), ("advection", 2500))
        p = the_problem(name)
        nnz = length(p.values)
        _, _, _, frame = solve_frame(p, p.values, (nnz,), ones(p.n), (p.n,), ())
        solver = Ptr{Cvoid}(SOLVERS[Float64])
        run() = ccall(solver, Ptr{Cvoid}, (Ptr{CallFrame},), frame.frame)
        run()
        used = GC.@preserve frame @allocated run()
        @test used <= bound
    end
    p = the_problem("poisson")
    factor = @inferred ImplicitAdjoints.find_factor(pattern(p), p.values)
    B = ones(p.n, 1)
    @test @inferred(ImplicitAdjoints.solve!(similar(B), factor, B, false)) isa Tuple
end

@testset "names" begin
    @test resolve("Base.sum") === sum
    @test resolve("LinearAlgebra.norm") === norm
    @test resolve("sum") === sum
    @test_throws "neither defined in Main nor a package of this project" resolve("Nobody.f")
    @test_throws "`Base` has no `nothing_here`" resolve("Base.nothing_here")
    @test_throws "has no `nothing_here`" resolve("nothing_here")
end

@testset "what doctor and start ask" begin
    version, threads, blas, pythoncall = ImplicitAdjoints.versions()
    @test version == string(VERSION) && threads == Threads.nthreads()
    @test blas == BLAS.get_num_threads() && pythoncall == "none"
    @test isfile(ImplicitAdjoints.runtime_library())
    before = (ImplicitAdjoints.API_VERSION[], ImplicitAdjoints.DEBUG[])
    ImplicitAdjoints.configure(0, 3, 12345, true)
    @test ImplicitAdjoints.API_VERSION[] == (0, 3) && ImplicitAdjoints.DEBUG[]
    @test ImplicitAdjoints.CACHE_LIMIT[] == 12345
    ImplicitAdjoints.configure(before[1]..., 2^30, before[2])
    file = tempname()
    write(file, "from_a_file(x) = 3x\n")
    @test ImplicitAdjoints.include_in_main(file) === nothing
    @test Base.invokelatest(resolve("from_a_file"), 2) == 6
end
