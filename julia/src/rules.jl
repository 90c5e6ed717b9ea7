# Every derivative rule of the package. The rules of `sparse_solve` exist because the
# primal calls C libraries; those of `DiffusionAssembly` because it is linear.

##### `sparse_solve`: A x = b.  A ẋ = ḃ - Ȧ x;  Aᵀ λ = x̄, b̄ = λ, Ā = -λ xᵀ.

function ChainRulesCore.frule(
    (_, _, v̇, ḃ), ::typeof(sparse_solve), pattern::SparsePattern, values, b;
    transposed = false)
    x = sparse_solve(pattern, values, b; transposed)
    rhs = zero(x)
    v̇, ḃ = unthunk(v̇), unthunk(ḃ)
    ḃ isa AbstractZero || (rhs = rhs + ḃ)
    v̇ isa AbstractZero || (rhs = rhs - product(pattern, v̇, x, transposed))
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
        # ChainRules' cotangents are conjugate: b̄ = A⁻ᴴ x̄.
        λ = sparse_solve(pattern, conj(values), x̄; transposed = !transposed)
        v̄ = @thunk project_values(values_cotangent(pattern, λ, conj(x), transposed))
        return NoTangent(), NoTangent(), v̄, project_b(λ)
    end
    return x, sparse_solve_pullback
end

##### `DiffusionAssembly`: v = S κ.  v̇ = S κ̇, κ̄ = Sᵀ v̄.

ChainRulesCore.frule((_, κ̇), assembly::DiffusionAssembly, κ) =
    assembly(κ), κ̇ isa AbstractZero ? ZeroTangent() : assembly(unthunk(κ̇))

function ChainRulesCore.rrule(assembly::DiffusionAssembly, κ)
    project_κ = ProjectTo(κ)
    function assembly_pullback(v̄)
        v̄ = unthunk(v̄)
        v̄ isa AbstractZero && return NoTangent(), ZeroTangent()
        return NoTangent(), project_κ(gather(assembly.bycell, v̄))
    end
    return assembly(κ), assembly_pullback
end

# A linear map's derivative does not depend on where it is taken.
const LinearDerivative = Union{Pushforward{DiffusionAssembly},Pullback{DiffusionAssembly}}
function ChainRulesCore.frule((_, _, ẏ), p::LinearDerivative, κ, y)
    tangent = ẏ isa AbstractZero ? ZeroTangent() : p(κ, unthunk(ẏ))
    return p(κ, y), tangent
end

function ChainRulesCore.rrule(p::Pushforward{DiffusionAssembly}, κ, κ̇)
    pushforward_pullback(v̄) =
        (NoTangent(), ZeroTangent(), gather(p.f.bycell, unthunk(v̄)))
    return p(κ, κ̇), pushforward_pullback
end

function ChainRulesCore.rrule(p::Pullback{DiffusionAssembly}, κ, v̄)
    # A pullback returns a tuple; this one has one element.
    pullback_pullback(t) = (NoTangent(), ZeroTangent(), p.f(unthunk(only(Tuple(unthunk(t))))))
    return p(κ, v̄), pullback_pullback
end

# Without the primal, which a rule would compute too.
(p::Pushforward{DiffusionAssembly})(κ, κ̇) = p.f(κ̇)
(p::Pullback{DiffusionAssembly})(κ, v̄) = (gather(p.f.bycell, v̄),)
