using ImplicitAdjoints
using Test

const HERE = @__DIR__
const REPOSITORY = dirname(dirname(HERE))  # has the Python half in a checkout

@testset "ImplicitAdjoints" begin
    include("problems.jl")
    include("fake_xla.jl")
    include("implicit_problems.jl")
    @testset "$name" for name in (
        "formalities", "status", "sparse", "rules", "march", "cache", "assembly",
        "callable", "xla", "ops", "threads", "active", "jacobian", "newton", "anderson",
        "implicit_rules", "solutions", "qp", "qp_sparse")
        include("test_$name.jl")
    end
    # Threads are chosen when Julia starts.
    Threads.nthreads() > 1 || @testset "threads, with three of them" begin
        command = `$(Base.julia_cmd()) --threads=3 --project=$(Base.active_project())
            $(joinpath(HERE, "test_threads.jl"))`
        @test success(pipeline(command; stdout, stderr))
    end
end
