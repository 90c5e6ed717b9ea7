# Numeric factorisations and the cache that finds them again.
#
# A factor is kept together with the values it was made from and is used again when the
# values are equal, compared by memory. So a forward solve, its adjoint, its tangents and
# its second derivatives share one factorisation, though each is a pure function call.

# What elimination left of a pivot, relative to what stood in its place before, is
# invariant under scaling of rows and columns, and round-off for a singular matrix.
singular_below(n) = 10 * eps() * max(1, n)

mutable struct Factor{T}
    const pattern::SparsePattern
    const values::Vector{T}
    const lock::ReentrantLock  # one thread factorises and solves, the others wait
    A::SparseMatrixCSC{T,Int}
    numeric::Union{Nothing,CHOLMOD.Factor{Float64},UMFPACK.UmfpackLU{T,Int}}
    norm::Float64              # largest row sum of |A|, and of its transpose
    normᵀ::Float64
    status::Union{Nothing,Status}  # nothing: not factorised yet
    bytes::Int
    used::Int                  # the tick of its last use
end

function Factor(pattern::SparsePattern, values::Vector{T}) where {T}
    none = SparseMatrixCSC(0, 0, [1], Int[], T[])
    bytes = 3 * sizeof(values)
    return Factor{T}(
        pattern, values, ReentrantLock(), none, nothing, 0.0, 0.0, nothing, bytes, 0)
end

# --- cache ---------------------------------------------------------------------------

const CACHE = Dict{Tuple{Int,DataType},Vector{Factor}}()
const CACHE_LOCK = ReentrantLock()  # held for look-ups only, never while solving
const CACHE_LIMIT = Ref(2^30)
const TICK = Ref(0)
const COUNTS = (
    analyses = Threads.Atomic{Int}(0),
    factorisations = Threads.Atomic{Int}(0),
    cache_hits = Threads.Atomic{Int}(0),
    solves = Threads.Atomic{Int}(0),
)

"""
    counters()

Work since [`clear!`](@ref), as a named tuple: `analyses` (symbolic), `factorisations`
(numeric), `cache_hits`, `solves` (right-hand sides), and what is kept: `bytes`, `factors`.
"""
function counters()
    work = map(getindex, COUNTS)
    return lock(CACHE_LOCK) do
        kept = Iterators.flatten(values(CACHE))
        (; work..., bytes = sum(f -> f.bytes, kept; init = 0),
            factors = sum(length, values(CACHE); init = 0))
    end
end

"""
    clear!()

Drop all factors and set the counters to zero.
"""
function clear!()
    foreach(c -> c[] = 0, COUNTS)
    lock(() -> empty!(CACHE), CACHE_LOCK)
    return nothing
end

"""
    limit_cache!(bytes)

Bound the memory of kept factors. The factor in use is always kept.
"""
limit_cache!(bytes::Integer) = (CACHE_LIMIT[] = bytes; nothing)

# The factor of these values: a kept one where they are the same, else an empty one.
function find_factor(pattern::SparsePattern, values::AbstractVector{T}) where {T}
    lock(CACHE_LOCK)
    try
        kept = get!(() -> Factor[], CACHE, (pattern.id, T))
        TICK[] += 1
        for factor in kept
            if same(factor::Factor{T}, values)
                Threads.atomic_add!(COUNTS.cache_hits, 1)
                factor.used = TICK[]
                return factor::Factor{T}
            end
        end
        factor = Factor(pattern, Vector{T}(values))
        factor.used = TICK[]
        push!(kept, factor)
        return factor
    finally
        unlock(CACHE_LOCK)
    end
end

# Bitwise, so that NaN equals itself and comparing stops at the first difference.
same(factor::Factor{T}, values::AbstractVector{T}) where {T} =
    length(values) == length(factor.values) && GC.@preserve factor values begin
        0 == @ccall memcmp(
            pointer(factor.values)::Ptr{Cvoid}, pointer(values)::Ptr{Cvoid},
            sizeof(factor.values)::Csize_t)::Cint
    end

# Drop the longest unused factors until the bound holds; those in use stay alive.
function evict!(keep::Factor)
    lock(CACHE_LOCK)
    try
        total = sum(f -> f.bytes, Iterators.flatten(values(CACHE)); init = 0)
        while total > CACHE_LIMIT[]
            oldest = nothing
            for kept in values(CACHE), factor in kept
                factor === keep && continue
                (oldest === nothing || factor.used < oldest.used) && (oldest = factor)
            end
            oldest === nothing && break
            total -= oldest.bytes
            filter!(f -> f !== oldest, CACHE[(oldest.pattern.id, eltype(oldest.values))])
        end
    finally
        unlock(CACHE_LOCK)
    end
    return nothing
end

# --- factorisation -------------------------------------------------------------------

# The caller holds the factor's lock.
function factorise!(factor::Factor)
    factor.status === nothing || return factor
    Threads.atomic_add!(COUNTS.factorisations, 1)
    pattern = factor.pattern
    factor.A, status = compress(pattern, factor.values)
    if status == CONVERGED
        factor.norm, factor.normᵀ = norms(pattern, factor.A)
        status = pattern.structure == SPD ? cholesky!(factor) : lu!(factor)
    end
    factor.status = status
    evict!(factor)
    return factor
end

# Symbolic analysis, once per pattern and element type. `make` runs under the lock.
function analysis(make, pattern::SparsePattern, ::Type{S}) where {S}
    lock(pattern.lock)
    try
        return get!(pattern.analysis, S) do
            Threads.atomic_add!(COUNTS.analyses, 1)
            make()
        end::S
    finally
        unlock(pattern.lock)
    end
end

function cholesky!(factor::Factor{Float64})
    S = CHOLMOD.Factor{Float64,Int}
    A = Symmetric(factor.A, :L)
    symbolic = analysis(factor.pattern, S) do
        CHOLMOD.symbolic(CHOLMOD.Sparse(A))
    end
    F = LinearAlgebra.cholesky!(copy(symbolic), A; check = false)
    n = size(factor.A, 1)
    if !issuccess(F)
        # Was it a zero pivot spoilt by round-off, or an indefinite matrix? A shift of the
        # size of round-off mends the first.
        shift = 100 * singular_below(n) * maximum(abs, diag(factor.A); init = 0.0)
        F = LinearAlgebra.cholesky!(copy(symbolic), A; shift, check = false)
        return issuccess(F) ? SINGULAR : NOT_POSITIVE_DEFINITE
    end
    before = diag(factor.A)[CHOLMOD.get_perm(F)]
    left = minimum(((l, a),) -> l^2 / a, zip(diag(F), before); init = 1.0)
    left > singular_below(n) || return SINGULAR
    factor.numeric = F
    factor.bytes += stored_bytes(F)
    return CONVERGED
end

# `nnz(F)` would convert the whole factor to count it: a third of the factorisation.
function stored_bytes(F::CHOLMOD.Factor)
    f = unsafe_load(pointer(F))
    return Int(f.is_super != 0 ? 8 * f.xsize + 8 * f.ssize : 16 * f.nzmax)
end

cholesky!(::Factor{ComplexF64}) = throw(ArgumentError(
    "a pattern with structure \"spd\" takes real values; use \"symmetric\"."))

function lu!(factor::Factor{T}) where {T}
    S = UMFPACK.UmfpackLU{T,Int}
    control = UMFPACK.get_umfpack_control(T, Int)
    control[UMFPACK.JL_UMFPACK_IRSTEP] = 0  # we refine, and only where it is needed
    F = UMFPACK.UmfpackLU(factor.A; control)
    first = analysis(factor.pattern, S) do
        UMFPACK.umfpack_symbolic!(F, nothing)
        F
    end
    F.symbolic = first.symbolic
    LinearAlgebra.lu!(F; check = false)
    issuccess(F) || return SINGULAR
    left_of_pivots(F, factor.A) > singular_below(size(factor.A, 1)) || return SINGULAR
    factor.numeric = F
    factor.bytes += 12 * Int(F.info[UMFPACK_LU_ENTRIES]) + 2 * sizeof(factor.values)
    return CONVERGED
end

const UMFPACK_LU_ENTRIES = 44 + 1  # UMFPACK_LNZ of umfpack.h, counted from one

# min |U_kk| / max_i |R A|_ik over the columns, with UMFPACK's row scaling R.
function left_of_pivots(F::UMFPACK.UmfpackLU{T,Int}, A) where {T}
    n = size(A, 1)
    D, Q, R = Vector{T}(undef, n), Vector{Int}(undef, n), Vector{Float64}(undef, n)
    divide = pivots!(D, Q, R, F)
    largest = zeros(n)
    for j in 1:n, k in nzrange(A, j)
        r = R[rowvals(A)[k]]
        largest[j] = max(largest[j], abs(nonzeros(A)[k]) * (divide ? 1 / r : r))
    end
    return minimum(k -> abs(D[k]) / largest[Q[k] + 1], 1:n; init = 1.0)
end

function pivots!(D::Vector{Float64}, Q, R, F)
    recip = Ref{Int}(0)
    UMFPACK.umferror(LibSuiteSparse.umfpack_dl_get_numeric(
        C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, Q, D, recip, R,
        F.numeric))
    return recip[] == 0
end

function pivots!(D::Vector{ComplexF64}, Q, R, F)
    recip, re, im = Ref{Int}(0), similar(D, Float64), similar(D, Float64)
    UMFPACK.umferror(LibSuiteSparse.umfpack_zl_get_numeric(
        C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, C_NULL, Q, re, im,
        recip, R, F.numeric))
    D .= complex.(re, im)
    return recip[] == 0
end

# X = A \ B or transpose(A) \ B.
function backsolve(F::CHOLMOD.Factor, B::Matrix{Float64}, ::Bool)
    return Matrix(CHOLMOD.solve(CHOLMOD.CHOLMOD_A, F, CHOLMOD.Dense(B)))
end
function backsolve(F::UMFPACK.UmfpackLU{T}, B::Matrix{T}, transposed::Bool) where {T}
    return ldiv!(similar(B), transposed ? transpose(F) : F, B)
end
