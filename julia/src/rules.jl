# Every derivative rule of the package.

##### `sparse_solve`
# The primal calls C libraries. With x = A⁻¹ b:
#
#     A ẋ = ḃ - Ȧ x
#     ⟨x̄, ẋ⟩ = ⟨λ, ḃ - Ȧ x⟩ with Aᴴ λ = x̄,  so  b̄ = λ,  Ā = -λ xᴴ
#
# (Giles 2008, An extended collection of matrix derivative results, 2.3.1). The tangents are
# a `Tuple` below, lest Julia find the methods ambiguous with those that take a RuleConfig.

function ChainRulesCore.frule(
    (_, _, v̇, ḃ)::Tuple, ::typeof(sparse_solve), pattern::SparsePattern, values, b;
    transposed = false)
    x = sparse_solve(pattern, values, b; transposed)
    v̇, ḃ = unthunk(v̇), unthunk(ḃ)
    v̇ isa AbstractZero && ḃ isa AbstractZero && return x, ZeroTangent()
    rhs = v̇ isa AbstractZero ? ḃ :
        ḃ isa AbstractZero ? -product(pattern, v̇, x, transposed) :
        ḃ - product(pattern, v̇, x, transposed)
    return x, sparse_solve(pattern, values, rhs; transposed)
end

function ChainRulesCore.rrule(
    ::typeof(sparse_solve), pattern::SparsePattern, values, b; transposed = false)
    x = sparse_solve(pattern, values, b; transposed)
    project_values, project_b = ProjectTo(values), ProjectTo(b)
    function sparse_solve_pullback(x̄)
        x̄ = unthunk(x̄)
        x̄ isa AbstractZero &&
            return NoTangent(), NoTangent(), ZeroTangent(), ZeroTangent()
        # Aᴴ λ = x̄ is Aᵀ λ* = x̄*, which has the factor of the forward solve.
        λ = conj(sparse_solve(pattern, values, conj(x̄); transposed = !transposed))
        v̄ = @thunk project_values(values_cotangent(pattern, λ, conj(x), transposed))
        return NoTangent(), NoTangent(), v̄, project_b(λ)
    end
    return x, sparse_solve_pullback
end

##### `DiffusionAssembly`
# It is linear, and its kernel is threaded and fills its result. v = S κ, so v̇ = S κ̇ and
# κ̄ = Sᵀ v̄ (S is real).

function ChainRulesCore.frule((_, κ̇)::Tuple, assembly::DiffusionAssembly, κ)
    κ̇ = unthunk(κ̇)
    return assembly(κ), κ̇ isa AbstractZero ? ZeroTangent() : assembly(κ̇)
end

function ChainRulesCore.rrule(assembly::DiffusionAssembly, κ)
    project_κ = ProjectTo(κ)
    function assembly_pullback(v̄)
        v̄ = unthunk(v̄)
        v̄ isa AbstractZero && return NoTangent(), ZeroTangent()
        return NoTangent(), project_κ(gather(assembly.bycell, v̄))
    end
    return assembly(κ), assembly_pullback
end

##### `Pushforward` and `Pullback` of a `DiffusionAssembly`
# (κ, κ̇) ↦ S κ̇ and (κ, v̄) ↦ (Sᵀ v̄,): they do not depend on κ and are linear in the rest,
# so each is the other's adjoint. First the maps, without the primal that a rule computes.

const PushedAssembly = Pushforward{DiffusionAssembly}
const PulledAssembly = Pullback{DiffusionAssembly}

(p::PushedAssembly)(κ, κ̇) = p.f(κ̇)
(p::PulledAssembly)(κ, v̄) = (gather(p.f.bycell, v̄),)

function ChainRulesCore.frule(
    (_, _, ẏ)::Tuple, p::Union{PushedAssembly,PulledAssembly}, κ, y)
    ẏ = unthunk(ẏ)
    ẏ isa AbstractZero && return p(κ, y), ZeroTangent()
    return p(κ, y), as_tangent(p(κ, ẏ))
end

# The tangent of a tuple is a `Tangent`.
as_tangent(y) = y
as_tangent(y::Tuple) = Tangent{typeof(y)}(y...)

function ChainRulesCore.rrule(p::PushedAssembly, κ, κ̇)
    project_κ̇ = ProjectTo(κ̇)
    function pushed_assembly_pullback(v̄)
        v̄ = unthunk(v̄)
        v̄ isa AbstractZero && return NoTangent(), ZeroTangent(), ZeroTangent()
        return NoTangent(), ZeroTangent(), project_κ̇(gather(p.f.bycell, v̄))
    end
    return p(κ, κ̇), pushed_assembly_pullback
end

function ChainRulesCore.rrule(p::PulledAssembly, κ, v̄)
    project_v̄ = ProjectTo(v̄)
    function pulled_assembly_pullback(z̄)
        z̄ = unthunk(z̄)
        z̄ isa AbstractZero && return NoTangent(), ZeroTangent(), ZeroTangent()
        κ̄ = unthunk(only(Tuple(z̄)))  # of the one element of the result
        κ̄ isa AbstractZero && return NoTangent(), ZeroTangent(), ZeroTangent()
        return NoTangent(), ZeroTangent(), project_v̄(p.f(κ̄))
    end
    return p(κ, v̄), pulled_assembly_pullback
end
