"""
    ImplicitAdjoints

Solves that are defined by a condition, with their derivatives as ChainRules rules: sparse
systems, assembly, and what other packages build on them. Any AD system that reads
ChainRules sees the rules. It is the Julia half of the Python package pyimplicit, whose
compiled JAX programs call it directly; nothing here needs Python.
"""
module ImplicitAdjoints

using ChainRulesCore:
    ChainRulesCore, AbstractZero, NoTangent, ProjectTo, Tangent, ZeroTangent, @thunk,
    unthunk
using Libdl: Libdl
using LinearAlgebra:
    LinearAlgebra, Symmetric, det, diag, issuccess, ldiv!, mul!, tril
using PrecompileTools: @compile_workload, @setup_workload
using SparseArrays:
    SparseArrays, SparseMatrixCSC, nonzeros, nzrange, rowvals, sparse
using SparseArrays: CHOLMOD, LibSuiteSparse, UMFPACK

include("status.jl")
include("threads.jl")
include("pattern.jl")
include("cache.jl")
include("factor.jl")
include("linear.jl")
include("assembly.jl")
include("callable.jl")
include("rules.jl")
include("xla.jl")
include("ops.jl")
include("precompile.jl")

export SparsePattern, sparse_solve, nentries, SolveError, Status, message
export DiffusionAssembly, Pushforward, Pullback
export counters, clear!, limit_cache!

end
