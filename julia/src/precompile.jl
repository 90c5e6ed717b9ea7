# What every user's first call would otherwise compile.
@setup_workload begin
    @compile_workload begin
        for structure in ("spd", "general")
            rows, cols, entries = [1, 2, 2, 1], [1, 1, 2, 2], [4.0, -1.0, 4.0, -1.0]
            pattern = SparsePattern(rows, cols, 2; structure)
            x, back = ChainRulesCore.rrule(sparse_solve, pattern, entries, ones(2))
            back(x)
            march(pattern, entries, entries, [1.0], [1.0;;], [0.0;;], ones(2, 1, 1))
        end
        corners = [0.0 1.0 0.0 1.0; 0.0 0.0 1.0 1.0]
        assembly = Assembly(
            Diffusion(), [1 2; 2 4; 3 3], reshape(collect(1:18), 3, 3, 2), 18, 4)
        v, back = ChainRulesCore.rrule(assembly, corners, ones(1, 2))
        map(unthunk, back(v))
        for layer in (ImplicitRoot((z, p) -> z .* z .- p),
            ImplicitFixedPoint((z, p) -> (z .+ p ./ z) ./ 2))
            layer([1.0, 1.0], [2.0, 3.0])
            Pullback(layer, (false, true))([1.0, 1.0], [2.0, 3.0], [1.0, 1.0])
        end
        W = QPWorkspace{Float64}(1, 1, 1, true, true)
        (; P, q, Aᵀ, b, Gᵀ, d) = W.given
        foreach(a -> fill!(a, 1), (P, q, Aᵀ, b, Gᵀ, d, W.live))
        solve!(W, 1e-9, 60)
        register_programme(
            0, 2, 1, 1, ([0, 1], [0, 1]), ([0], [1]), ([0, 0], [0, 1]), true, true)
        solve!(QPWorkspace(known_programme(0)), 1e-9, 60)
        delete!(KNOWN_PROGRAMMES, 0)
        counters()
        clear!()
    end
    for (ins, outs) in SPARSE_SOLVE_TYPES
        precompile(Handler{SparseSolve,ins,outs,false}(SparseSolve()), (Ptr{CallFrame},))
    end
    precompile(Handler{MarchOp,MARCH_TYPES[2]...,false}(MarchOp()), (Ptr{CallFrame},))
    let (ins, outs) = SPARSE_QP_TYPES, op = SparseProgrammes()
        precompile(Handler{typeof(op),ins,outs,false}(op), (Ptr{CallFrame},))
    end
    for (op, types) in ((QuadraticProgrammes(), QP_TYPES),
        (ProgrammeDerivatives(), QP_DERIVATIVE_TYPES)), (ins, outs) in types
        precompile(Handler{typeof(op),ins,outs,false}(op), (Ptr{CallFrame},))
    end
end
