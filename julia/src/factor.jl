# Numeric factorisation by the two libraries that come with Julia.
#
# These names are not documented by SparseArrays. They are there, with the same meaning,
# in Julia 1.10 and 1.11; for another version, look at each use.
for (owner, names) in (
    CHOLMOD => (:symbolic, :solve, :get_perm, :getcommon, Symbol("@cholmod_param"),
        :CHOLMOD_A, :Dense, :Sparse),
    UMFPACK => (:UmfpackLU, :Symbolic, :umfpack_symbolic!, :get_umfpack_control,
        :JL_UMFPACK_IRSTEP, :umferror),
    LibSuiteSparse => (:cholmod_l_factorize_p, :cholmod_l_solve2, :cholmod_l_free_dense,
        :cholmod_dense_struct, :CHOLMOD_REAL, :CHOLMOD_DOUBLE, :umfpack_dl_get_numeric,
        :umfpack_zl_get_numeric, :UMFPACK_NUMERIC_SIZE, :UMFPACK_SIZE_OF_UNIT),
), name in names
    isdefined(owner, name) || throw(ErrorException(
        "ImplicitAdjoints uses `$owner.$name`, which SparseArrays of Julia $VERSION " *
        "lacks. Use Julia 1.10 or 1.11."))
end

# What elimination left of a pivot, relative to what stood in its place before, is
# invariant under scaling of rows and columns, and round-off for a singular matrix.
singular_below(n) = 10 * eps() * max(1, n)

# The caller holds the factor's lock.
function factorise!(factor::Factor{T}) where {T}
    status = factor.status
    status === nothing || return status
    Threads.atomic_add!(COUNTS.factorisations, 1)
    pattern = factor.pattern
    factor.nzval = Vector{T}(undef, length(pattern.slot))
    status = compress!(factor.nzval, pattern, factor.values)
    if status == CONVERGED
        factor.norm, factor.normᵀ = norms(pattern, factor.nzval)
        status = pattern.structure == SPD ? cholesky!(factor) :
                 pattern.structure == QUASIDEFINITE ? ldlt!(factor) : lu!(factor)
    end
    stored = sizeof(factor.values) + sizeof(factor.nzval) + stored_bytes(factor.numeric)
    free!(make_room!(factor, stored))
    factor.status = status
    return status
end

# What the symbolic analysis of a pattern left, once per type. `make` runs under the lock.
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

matrix(factor::Factor) = SparseMatrixCSC(factor.pattern.n, factor.pattern.n,
    factor.pattern.colptr, factor.pattern.rowval, factor.nzval)

stored_bytes(::Nothing) = 0
free!(::Nothing) = nothing

# --- CHOLMOD -------------------------------------------------------------------------

# The symbolic factor, and a matrix of which only the places are used.
struct CholeskyAnalysis
    symbolic::CHOLMOD.Factor{Float64,Int}
    places::CHOLMOD.Sparse{Float64,Int}
end

cholesky_analysis(factor) =
    analysis(factor.pattern, CholeskyAnalysis) do
        A = CHOLMOD.Sparse(Symmetric(matrix(factor), :L))
        CholeskyAnalysis(CHOLMOD.symbolic(A), A)
    end

# For many solves. A factor of sparse columns takes longer to make than one of supernodes,
# and solves are a third to a half faster where supernodes are small: up to so many
# operations for each entry of the factor (CHOLMOD changes at 40 if not told).
const SWITCH_FOR_MANY = 150.0
struct ManyAnalysis
    start::CholeskyAnalysis
end

many_analysis(factor) =
    analysis(factor.pattern, ManyAnalysis) do
        A = CHOLMOD.Sparse(Symmetric(matrix(factor), :L))
        symbolic = CHOLMOD.@cholmod_param supernodal_switch = SWITCH_FOR_MANY begin
            CHOLMOD.symbolic(A)
        end
        ManyAnalysis(CholeskyAnalysis(symbolic, A))
    end.start

function cholesky!(factor::Factor{Float64})
    pattern, nzval = factor.pattern, factor.nzval
    start = factor.many ? many_analysis(factor) : cholesky_analysis(factor)
    # Fresh memory has to be mapped page by page: a tenth of the factorisation.
    spare = make_room!(factor, 2 * sizeof(factor.values) + stored_bytes(start.symbolic))
    F = spare === nothing ? copy(start.symbolic) : spare::CHOLMOD.Factor{Float64,Int}
    numeric_cholesky!(F, start.places, nzval, 0.0)
    below = singular_below(pattern.n)
    if issuccess(F) && left_of_pivots(F, pattern, nzval) > below
        factor.numeric = F
        return CONVERGED
    end
    # Was it a zero pivot spoilt by round-off, or an indefinite matrix? A shift of the size
    # of round-off mends the first.
    shift = 100 * below * maximum(abs, nzval; init = 0.0)
    issuccess(F) || numeric_cholesky!(F, start.places, nzval, shift)
    status = issuccess(F) ? SINGULAR : NOT_POSITIVE_DEFINITE
    free!(F)
    return status
end

# CHOLMOD.cholesky!, but it reads `nzval` where they lie: to build a CHOLMOD.Sparse costs
# a twentieth of the factorisation.
numeric_cholesky!(F, places, nzval, shift) =
    CHOLMOD.@cholmod_param final_ll = true begin
        numeric_factor!(F, places, nzval, shift)
    end

numeric_ldlt!(F, places, nzval) =
    CHOLMOD.@cholmod_param final_ll = false begin
        CHOLMOD.@cholmod_param supernodal = 0 begin
            numeric_factor!(F, places, nzval, 0.0)
        end
    end

function numeric_factor!(F, places, nzval, shift)
    A = unsafe_load(pointer(places))  # a copy of the C struct, not of its arrays
    A.x = pointer(nzval)
    GC.@preserve places nzval A begin
        LibSuiteSparse.cholmod_l_factorize_p(
            pointer_from_objref(A), [shift, 0.0], C_NULL, 0, F, CHOLMOD.getcommon(Int))
    end
    return F
end

# A quasi-definite matrix has an LDLᵀ with any order of its pivots (Vanderbei 1995,
# doi:10.1137/0805005), so an order that saves fill. With a positive diagonal it is positive
# definite, and a supernodal LLᵀ is faster. Pivots are not judged: the smallest belong to
# the regularisation, which the caller refines away; the residual is.
struct LDLAnalysis
    start::CholeskyAnalysis
end

function ldlt!(factor::Factor{Float64})
    pattern, nzval = factor.pattern, factor.nzval
    definite = all(k -> k > 0 && nzval[k] > 0, diagonal_places(pattern))
    start = definite ? cholesky_analysis(factor) : ldl_analysis(factor)
    F = copy(start.symbolic)
    if definite
        numeric_cholesky!(F, start.places, nzval, 0.0)
    else
        numeric_ldlt!(F, start.places, nzval)
    end
    issuccess(F) && (factor.numeric = F; return CONVERGED)
    free!(F)
    return SINGULAR
end

ldl_analysis(factor) =
    analysis(factor.pattern, LDLAnalysis) do
        A = CHOLMOD.Sparse(Symmetric(matrix(factor), :L))
        symbolic = CHOLMOD.@cholmod_param supernodal = 0 begin
            CHOLMOD.symbolic(A)
        end
        LDLAnalysis(CholeskyAnalysis(symbolic, A))
    end.start

# min l² / a over the pivots. In the lower triangle of a definite matrix the diagonal
# leads each column.
function left_of_pivots(F::CHOLMOD.Factor, pattern, nzval)
    l, p = diag(F), CHOLMOD.get_perm(F)
    return minimum(k -> l[k]^2 / nzval[pattern.colptr[p[k]]], eachindex(l))
end

# `nnz(F)` would convert the whole factor to count it: a third of the factorisation.
function stored_bytes(F::CHOLMOD.Factor)
    f = unsafe_load(pointer(F))
    return Int(8 * (f.is_super != 0 ? f.xsize + f.ssize + 3 * f.nsuper + 2 * f.n :
                    2 * f.nzmax + 6 * f.n))
end

free!(F::CHOLMOD.Factor) = finalize(F)

# X = A \ B, where they lie: CHOLMOD.solve copies both.
function backsolve!(X::Matrix{Float64}, F::CHOLMOD.Factor, B::Matrix{Float64}, ::Bool)
    b, x, common = dense(B), dense(X), CHOLMOD.getcommon(Int)
    no_array = Ptr{LibSuiteSparse.cholmod_dense_struct}(C_NULL)
    work = Ref(no_array), Ref(no_array)
    ok = GC.@preserve X B x b begin
        result = Ref{typeof(no_array)}(pointer_from_objref(x))
        LibSuiteSparse.cholmod_l_solve2(CHOLMOD.CHOLMOD_A, F, pointer_from_objref(b),
            C_NULL, result, C_NULL, work..., common)
    end
    foreach(w -> LibSuiteSparse.cholmod_l_free_dense(w, common), work)
    ok == 1 || throw(OutOfMemoryError())
    return X
end

# CHOLMOD's name for a matrix that stays Julia's.
function dense(M::Matrix{Float64})
    d = LibSuiteSparse.cholmod_dense_struct()
    d.nrow, d.ncol = size(M)
    d.nzmax, d.d = length(M), size(M, 1)
    d.x, d.z = pointer(M), C_NULL
    d.xtype, d.dtype = LibSuiteSparse.CHOLMOD_REAL, LibSuiteSparse.CHOLMOD_DOUBLE
    return d
end

# --- UMFPACK -------------------------------------------------------------------------

function lu!(factor::Factor{T}) where {T}
    control = UMFPACK.get_umfpack_control(T, Int)
    control[UMFPACK.JL_UMFPACK_IRSTEP] = 0  # we refine, and only where it is needed
    F = UMFPACK.UmfpackLU(matrix(factor); control)
    factor.nzval = F.nzval  # equal; one of the two is enough
    # Threads may share the symbolic object: UMFPACK only reads it from now on.
    F.symbolic = analysis(factor.pattern, UMFPACK.Symbolic{T,Int}) do
        UMFPACK.umfpack_symbolic!(F, nothing)
        F.symbolic
    end
    LinearAlgebra.lu!(F; check = false)
    if issuccess(F) && left_of_pivots(F, factor) > singular_below(factor.pattern.n)
        factor.numeric = F
        return CONVERGED
    end
    free!(F)
    return SINGULAR
end

# min |U_kk| / max_i |R A|_ik over the columns, with UMFPACK's row scaling R.
function left_of_pivots(F::UMFPACK.UmfpackLU{T,Int}, factor::Factor{T}) where {T}
    pattern, nzval = factor.pattern, factor.nzval
    n = pattern.n
    D, Q, R = Vector{T}(undef, n), Vector{Int}(undef, n), Vector{Float64}(undef, n)
    divide = pivots!(D, Q, R, F)
    largest = zeros(n)
    for j in 1:n, k in pattern.colptr[j]:(pattern.colptr[j + 1] - 1)
        r = R[pattern.rowval[k]]
        largest[j] = max(largest[j], abs(nzval[k]) * (divide ? 1 / r : r))
    end
    return minimum(k -> abs(D[k]) / largest[Q[k] + 1], 1:n)
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

# `nzval` is the factor's own and counted there.
function stored_bytes(F::UMFPACK.UmfpackLU)
    units = F.info[LibSuiteSparse.UMFPACK_NUMERIC_SIZE + 1]
    return Int(units * F.info[LibSuiteSparse.UMFPACK_SIZE_OF_UNIT + 1]) +
           sizeof(F.colptr) + sizeof(F.rowval) + sizeof(F.workspace.Wi) +
           sizeof(F.workspace.W)
end

free!(F::UMFPACK.UmfpackLU) = finalize(F.numeric)

# X = A \ B or transpose(A) \ B.
backsolve!(X, F::UMFPACK.UmfpackLU{T}, B::Matrix{T}, transposed::Bool) where {T} =
    ldiv!(X, transposed ? transpose(F) : F, B)
