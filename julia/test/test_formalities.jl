# Exports, docstrings, ambiguities, piracy, and independence of Python.

using ImplicitAdjoints
using Test

const IA = ImplicitAdjoints
documented(name) = haskey(Base.Docs.meta(IA), Base.Docs.Binding(IA, name))

exported = filter(!=(:ImplicitAdjoints), names(IA))
@testset "exported: $name" for name in exported
    @test isdefined(IA, name)
    @test documented(name)
end
@test documented(:ImplicitAdjoints)
@test :sparse_solve in exported && :SparsePattern in exported

@testset "docstrings of differentiable functions say what the derivative is" begin
    for name in (:sparse_solve, :march, :Assembly, :ImplicitRoot, :ImplicitFixedPoint)
        @test occursin("# Derivative", string(Base.Docs.doc(Base.Docs.Binding(IA, name))))
    end
end

# `using ImplicitAdjoints` must not pull in what its Project.toml does not name.
@testset "without Python" begin
    loaded = [id.name for id in keys(Base.loaded_modules)]
    @test !("PythonCall" in loaded)
    @test !("ChainRules" in loaded)
end

@test isempty(Test.detect_ambiguities(IA; recursive = true))
@test isempty(Test.detect_unbound_args(IA; recursive = true))

# A method is piracy if neither its function nor a type in its signature is ours.
@testset "no piracy" begin
    ours(x::Module) = x === IA
    ours(x::DataType) =
        parentmodule(x) === IA || any(ours, x.parameters) ||
        (x <: Function && ours(parentmodule(x.name.module === Core ? x : x)))
    ours(x::UnionAll) = ours(Base.unwrap_unionall(x))
    ours(x::Union) = ours(x.a) && ours(x.b)
    ours(x::TypeVar) = ours(x.ub)
    ours(x::Core.TypeofVararg) = isdefined(x, :T) && ours(x.T)
    ours(_) = false
    foreign = Method[]
    for owner in (Base, IA.LinearAlgebra, IA.SparseArrays, IA.ChainRulesCore),
        name in names(owner; all = true, imported = true)

        isdefined(owner, name) || continue
        f = getfield(owner, name)
        f isa Union{Function,Type} || continue
        for method in methods(f)
            method.module === IA && push!(foreign, method)
        end
    end
    unique!(foreign)
    @test !isempty(foreign)  # `size`, `show`, `rrule`, … of our own types
    @test isempty([m for m in foreign if !ours(Base.unwrap_unionall(m.sig))])
end

# Every file of the package is short and within 92 columns.
@testset "form: $(basename(file))" for file in
    [joinpath(d, f) for d in (pkgdir(IA, "src"), pkgdir(IA, "test")) for f in readdir(d)]

    lines = readlines(file)
    @test length(lines) < 300
    @test maximum(textwidth, lines) <= 92
    @test !any(endswith(' '), lines)
end
