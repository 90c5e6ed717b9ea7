"""
    ImplicitAdjoints

Solves that are defined by a condition, with their derivatives as ChainRules rules: sparse
systems, equations, fixed points, assembly, and what other packages build on them. Any AD
system that reads ChainRules sees the rules. It is the Julia half of the Python package
pyimplicit, whose compiled JAX programs call it directly; nothing here needs Python.
"""
module ImplicitAdjoints

using ChainRulesCore:
    ChainRulesCore, AbstractZero, NoTangent, ProjectTo, Tangent, ZeroTangent,
    @not_implemented, @thunk, unthunk
using Libdl: Libdl
using LinearAlgebra:
    LinearAlgebra, BLAS, Bidiagonal, Diagonal, I, LAPACK, LU, SymTridiagonal, Symmetric,
    Tridiagonal, det, diag, dot, issuccess, ldiv!, mul!, norm, opnorm, tril
using PrecompileTools: @compile_workload, @setup_workload
using SparseArrays:
    SparseArrays, SparseMatrixCSC, findnz, nonzeros, nzrange, rowvals, sparse
using SparseArrays: CHOLMOD, LibSuiteSparse, UMFPACK

include("status.jl")
include("threads.jl")
include("pattern.jl")
include("cache.jl")
include("factor.jl")
include("linear.jl")
include("march.jl")
include("operators.jl")
include("scatter.jl")
include("assembly.jl")
include("callable.jl")
include("rules.jl")
include("march_rules.jl")
include("active.jl")
include("dual.jl")
include("traced.jl")
include("products.jl")
include("jacobian.jl")
include("newton.jl")
include("anderson.jl")
include("implicit.jl")
include("solutions.jl")
include("implicit_rules.jl")
include("xla.jl")
include("ops.jl")
include("march_ops.jl")
include("qp_data.jl")
include("qp_interior.jl")
include("qp_structure.jl")
include("qp_system.jl")
include("qp_strict.jl")
include("qp_polish.jl")
include("qp.jl")
include("qp_derivative.jl")
include("qp_sparse.jl")
include("precompile.jl")

export SparsePattern, sparse_solve, march, nentries, SolveError, Status, message
export ImplicitRoot, ImplicitFixedPoint, Newton, Anderson, find, Solution
export Assembly, Transposed, Pushforward, Pullback
export Diffusion, TensorDiffusion, Mass, Advection, Elasticity, Load
export counters, clear!, limit_cache!

end
