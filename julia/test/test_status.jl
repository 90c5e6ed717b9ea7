# The words and numbers for failure are shared with Python.

using ImplicitAdjoints
using Test

python = joinpath(REPOSITORY, "pyimplicit", "_status.py")
if isfile(python)
    text = read(python, String)
    @testset "numbers" begin
        members = eachmatch(r"^    ([a-z_]+) = (\d+)$"m, text)
        theirs = Dict(uppercase(m[1]) => parse(Int, m[2]) for m in members)
        @test theirs == Dict(string(s) => Int(s) for s in instances(Status))
    end
    @testset "messages" begin
        entries = eachmatch(r"Status\.([a-z_]+): \(?((?:\s*\"[^\"]*\")+)"s, text)
        theirs = Dict(
            uppercase(m[1]) => join(part[1] for part in eachmatch(r"\"([^\"]*)\"", m[2]))
            for m in entries)
        @test theirs == Dict(string(s) => message(s) for s in instances(Status))
    end
end
@test sprint(showerror, SolveError("it failed")) == "it failed"
