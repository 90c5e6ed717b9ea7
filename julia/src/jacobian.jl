# How the Jacobian J = ∂F/∂z is stored and made, and the checked systems with it.
#
# It is dense, or sparse with the places of a `SparsePattern`; in both cases it is made by
# dual numbers, exactly, unless the user has a function for it.

# --- dense factors --------------------------------------------------------------------

# Rows are scaled to the same size, so that pivoting and the test for singularity see the
# equations and not their units.
struct DenseFactor
    matrix::Matrix{Float64}
    size::Vector{Float64}     # the largest magnitude in each row
    lu::LU{Float64,Matrix{Float64},Vector{Int}}
    norm::Float64             # largest row sum of |A|, and of its transpose
    normᵀ::Float64
    status::Status
end

function DenseFactor(A::Matrix{Float64})
    size = vec(maximum(magnitude, A; dims = 2))
    status = !all(isfinite, size) ? NONFINITE : any(iszero, size) ? SINGULAR : CONVERGED
    scaled = status == CONVERGED ? A ./ size : one(A)
    F = LinearAlgebra.lu(scaled; check = false)
    if !(issuccess(F) && left_of_pivots(F, scaled) > singular_below(length(size)))
        status = SINGULAR
    end
    return DenseFactor(A, size, F, opnorm(A, Inf), opnorm(A, 1), status)
end

# min |U_kk| / max_i |A_ik|.
left_of_pivots(F::LU, A) =
    minimum(k -> abs(F.factors[k, k]) / maximum(magnitude, @view A[:, k]), axes(A, 2))

stored_bytes(F::DenseFactor) = 2 * sizeof(F.matrix)

# X = A \ B or transpose(A) \ B, where A = Diagonal(size) L U.
backsolve!(X, F::DenseFactor, B, transposed::Bool) =
    transposed ? ldiv!(transpose(F.lu), copyto!(X, B)) ./= F.size :
    ldiv!(F.lu, X .= B ./ F.size)

function residual!(R, factor::DenseFactor, X, B, transposed::Bool)
    A = transposed ? transpose(factor.matrix) : factor.matrix
    return mul!(copyto!(R, B), A, X, -1, 1)
end

function solve!(X, factor::DenseFactor, B, transposed::Bool)
    factor.status == CONVERGED && return checked_solve!(X, factor, factor, B, transposed)
    fill!(X, NaN)
    return fill(factor.status, size(B, 2)), fill(NaN, size(B, 2))
end

# --- sparse factors: found again by their values in the cache of `sparse_solve` ---------

struct SparseFactor
    pattern::SparsePattern
    values::Vector{Float64}
end
stored_bytes(F::SparseFactor) = sizeof(F.values)
solve!(X, F::SparseFactor, B, transposed::Bool) =
    solve!(X, find_factor(F.pattern, F.values), B, transposed)

"""
    solve(factor, B, transposed = false) -> (X, status)

The columns of ``A⁻¹ B`` (or ``A⁻ᵀ B``), and the first status that is not success. A
residual that stays above [`sparse_solve`](@ref)'s bound is a failure; `X` is NaN then.
"""
function solve(factor, B::VecOrMat, transposed::Bool = false)
    B = convert(Matrix{Float64}, reshape(B, size(B, 1), :))
    X = similar(B)
    status, _ = solve!(X, factor, B, transposed)
    bad = findfirst(!=(CONVERGED), status)
    return X, bad === nothing ? CONVERGED : status[bad]
end

# --- how it is made -------------------------------------------------------------------

# Columns of one colour share no row, so one direction in dual numbers finds them all
# (Curtis, Powell, Reid 1974, doi:10.1093/imamat/13.1.117): columns in their order, each
# with the first colour that is free.
struct Coloured
    pattern::SparsePattern
    colour::Vector{Int}  # of each column
    ncolours::Int
end

function Coloured(pattern::SparsePattern)
    in_row = [Int[] for _ in 1:(pattern.n)]
    of_column = [Int[] for _ in 1:(pattern.n)]
    for (i, j) in zip(pattern.rows, pattern.cols)
        push!(in_row[i], j)
        push!(of_column[j], i)
    end
    colour = zeros(Int, pattern.n)
    taken = zeros(Int, pattern.n + 1)  # by a neighbour of column number …
    for j in 1:(pattern.n)
        for i in of_column[j], neighbour in in_row[i]
            colour[neighbour] > 0 && (taken[colour[neighbour]] = j)
        end
        colour[j] = findfirst(!=(j), taken)
    end
    return Coloured(pattern, colour, maximum(colour))
end

# A user's function, and the places of the sparse matrix it returned last.
mutable struct Given{J}
    const jacobian::J
    @atomic places::Union{Nothing,SparsePattern}
end

maker(::Nothing) = nothing
maker(pattern::SparsePattern) = Coloured(pattern)
maker(jacobian) = Given{typeof(jacobian)}(jacobian, nothing)

# The Jacobian of F at x = (z, θ...), factorised.
function factorise(::Nothing, F, x::Tuple)
    n = length(flatten(x[1]))
    A = Matrix{Float64}(undef, n, n)
    sweep(z -> on_active(F, (z, Base.tail(x)...)), x[1]) do columns, y
        for (k, j) in enumerate(columns), i in 1:n
            A[i, j] = y[i].partials[k]
        end
    end
    return DenseFactor(A)
end

function factorise(how::Coloured, F, x::Tuple)
    pattern, colour = how.pattern, how.colour
    v = flatten(x[1])
    length(v) == pattern.n || wrong_jacobian(size(pattern), length(v))
    D = Dual{CHUNK,eltype(v)}
    values = Vector{Float64}(undef, nentries(pattern))
    for first in 1:CHUNK:(how.ncolours)
        d = unit.(D, v, colour .- (first - 1))
        y = on_active(F, (unflatten(x[1], d), Base.tail(x)...))
        for (e, (i, j)) in enumerate(zip(pattern.rows, pattern.cols))
            k = colour[j] - first + 1
            k in 1:CHUNK && (values[e] = partial(y[i], k))
        end
    end
    return SparseFactor(pattern, values)
end

partial(y::Dual, k) = y.partials[k]
partial(y::Real, k) = zero(y)

function factorise(how::Given, F, x::Tuple)
    A, n = how.jacobian(x...), length(flatten(x[1]))
    A isa AbstractMatrix{<:Real} || throw(ArgumentError(
        "`jacobian(z, θ...)` must return a matrix of real numbers. Got $(typeof(A))."))
    size(A) == (n, n) || wrong_jacobian(size(A), n)
    return factor_of(A, how)
end

factor_of(A::AbstractMatrix, _) = DenseFactor(Matrix{Float64}(A))
factor_of(A::Union{Diagonal,Bidiagonal,SymTridiagonal,Tridiagonal}, how) =
    factor_of(sparse(A), how)
function factor_of(A::SparseMatrixCSC, how)
    places = @atomic how.places
    if places === nothing || places.n != size(A, 1) ||
       places.colptr != SparseArrays.getcolptr(A) || places.rowval != rowvals(A)
        rows, cols, _ = findnz(A)
        places = SparsePattern(rows, cols, size(A, 1))
        @atomic how.places = places
    end
    return SparseFactor(places, Vector{Float64}(nonzeros(A)))
end

wrong_jacobian(size, n) = throw(DimensionMismatch(
    "`jacobian` must be $n x $n, as many as there are unknowns. Got $(join(size, " x "))."))
