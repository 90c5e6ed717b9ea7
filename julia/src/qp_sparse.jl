# A batch of sparse quadratic programmes of one structure, as XLA asks for it. The algorithm
# is that of the dense ones; see `qp_system.jl` for what differs.

const KNOWN_PROGRAMMES = Dict{Int64,SparseStructure}()

"""
    register_programme(key, n, p, m, P, A, G, lower, upper)

Make a sparse programme's structure (rows and columns from 0) known under its content key.
Returns whether the condensed matrix takes less work than the whole one.
"""
function register_programme(key::Integer, n, p, m, P, A, G, lower, upper)
    places(M) = Vector{Int}(M[1]) .+ 1, Vector{Int}(M[2]) .+ 1
    of = SparseStructure(Int(n), Int(p), Int(m), places(P), places(A), places(G),
        Bool(lower), Bool(upper))
    lock(() -> get!(KNOWN_PROGRAMMES, Int64(key), of), PATTERNS_LOCK)
    return of.small !== nothing
end

function known_programme(key::Int64)
    lock(PATTERNS_LOCK) do
        haskey(KNOWN_PROGRAMMES, key) || throw(ArgumentError(
            "the compiled function refers to a sparse programme of another process. " *
            "Call pi.qp here before calling it."))
        KNOWN_PROGRAMMES[key]
    end
end

"""
    SparseProgrammes()

`(x, y, z, active, weak, status, steps, polished, error)` of
`(P, q, A, b, G, d, live, fixed, rtol, x0, y0, z0)`: like [`QuadraticProgrammes`](@ref),
with the entries of P, A and G in the order of the structure `key`.
"""
struct SparseProgrammes end

function (::SparseProgrammes)(outs, ins, attrs)
    of = known_programme(attribute(attrs, :key))
    max_steps, warm = attribute(attrs, :max_steps), attribute(attrs, :warm) != 0
    all(ins[k].dims == (length(of.slots[i]),) for (i, k) in ((1, 1), (2, 3), (3, 5))) ||
        throw(DimensionMismatch("a sparse programme got misfit arrays."))
    samples = nsamples(first(outs))
    with_one_blas_thread() do
        foreach_threaded(min(samples, workers())) do part
            W = nothing
            for s in part:min(samples, workers()):samples
                W === nothing && (W = QPWorkspace(of))
                solve_sample!(W, outs, ins, max_steps, warm, s)
            end
        end
    end
    return
end

function solve_sample!(
    W::QPWorkspace{Float64,<:SparseMatrixCSC}, outs, ins, max_steps, warm, s)
    x, y, z, active, weak, status, steps, polished, error = outs
    P, q, A, b, G, d, live, fixed, rtol, x0, y0, z0 = ins
    D, of, best = W.given, W.system.of, W.best
    for (M, o, slots) in ((D.P, P, of.slots[1]), (D.Aᵀ, A, of.slots[2]),
        (D.Gᵀ, G, of.slots[3]))
        v, from = fill!(numbers(M), 0), sample(o, source(o, x, s))
        for k in eachindex(slots)  # an entry may be given in parts
            v[slots[k]] += from[k]
        end
    end
    for (a, o) in ((D.q, q), (D.b, b), (D.d, d), (W.live, live), (W.fixed, fixed),
        (best.x, x0), (best.y, y0), (best.z, z0))
        fetch!(a, o, x, s)
    end
    solve!(W, unsafe_load(rtol.data, source(rtol, x, s)), max_steps; warm)
    foreach((o, a) -> put!(o, a, s), (x, y, z, active, weak),
        (best.x, best.y, best.z, W.active, W.weak))
    store_report!((status, steps, polished, error), W, s)
    return
end

const SPARSE_QP_TYPES = let T = Float64, V = Vector{T}, B = Vector{Bool}
    (Tuple{V,V,V,V,V,V,B,B,Array{T,0},V,V,V},
        Tuple{V,V,V,B,B,Array{Int32,0},Array{Int32,0},Array{Bool,0},Array{T,0}})
end

"""
    sparse_programme_pointer(dtype) -> UInt

The C function by which XLA solves sparse quadratic programmes, in double precision.
"""
sparse_programme_pointer(dtype) =
    built_in_pointer(SparseProgrammes(), (SPARSE_QP_TYPES,), dtype, "sparse_programme")
