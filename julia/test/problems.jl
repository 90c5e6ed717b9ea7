# Sparse systems with the names of tests/problems.py: closed forms and non-symmetric ones
# first. All are small, and their entries are stored in no particular order.

using LinearAlgebra, Random, SparseArrays
using ImplicitAdjoints: SparsePattern

struct SparseProblem
    name::String
    rows::Vector{Int}
    cols::Vector{Int}
    values::Vector
    n::Int
    structure::String
end

pattern(p::SparseProblem) = SparsePattern(p.rows, p.cols, p.n; p.structure)

# The matrix that other values of the pattern stand for.
function dense(p::SparseProblem, values = p.values)
    A = zeros(eltype(values), p.n, p.n)
    for (i, j, v) in zip(p.rows, p.cols, values)
        A[i, j] = v
    end
    return p.structure == "general" ? A : (A + transpose(A)) / 2
end

# The 5-point Laplacian on m × m nodes; singular without a Dirichlet condition.
function laplacian(m; dirichlet = true)
    ends = dirichlet ? 2.0 : 1.0
    d = [i in (1, m) ? ends : 2.0 for i in 1:m]
    D = spdiagm(-1 => -ones(m - 1), 0 => d, 1 => -ones(m - 1))
    return kron(D, I(m)) + kron(I(m), D)
end

function problem(name, A, structure, rng = nothing)
    rows, cols, values = findnz(sparse(A))
    order = rng === nothing ? collect(eachindex(rows)) : randperm(rng, length(rows))
    return SparseProblem(
        name, rows[order], cols[order], values[order], size(A, 1), structure)
end

function sparse_problems()
    rng = MersenneTwister(0)
    n = 12
    random = sprandn(rng, n, n, 0.3) + 3I
    advection = laplacian(4) + 5 * kron(I(4), spdiagm(1 => ones(3)))
    symmetric = sprandn(rng, n, n, 0.3) - 2I
    wave = laplacian(4) - (2.0 + 0.3im) * I
    return (
        problem("scalar", [3.0;;], "general"),
        problem("permutation", [0.0 2.0; -1.0 0.0], "general"),
        problem("random", random, "general", rng),
        problem("advection", advection, "general", rng),
        problem("poisson", laplacian(4), "spd", rng),
        problem("indefinite", symmetric + symmetric', "symmetric", rng),
        problem("helmholtz", wave, "symmetric", rng),
    )
end

const PROBLEMS = sparse_problems()
the_problem(name) = only(p for p in PROBLEMS if p.name == name)
