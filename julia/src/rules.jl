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

##### `Assembly` and `Transposed`
# Both are F(X, z), linear in z, whose transpose in z is the other; the derivative in the
# points X of s = ⟨w, F(X, z)⟩ is one function for both. Forwards the loops run on dual
# numbers. They are threaded and fill their results.

const Linear = Union{Assembly,Transposed}

flip(A::Assembly) = Transposed(A)
flip(A::Transposed) = A.f
points_pullback(A::Transposed, X, v, θ) = points_pullback(A.f, X, θ, v)

# ∂F/∂X Ẋ + F(X, ż); zeros may be left out.
pushed(F, X, z, ::AbstractZero, ż) = F(X, ż)
pushed(F, X, z, Ẋ, ż) = map(tangent, F(lift(X, Ẋ), lift(z, ż)))

function ChainRulesCore.frule((_, Ẋ, ż)::Tuple, F::Linear, X, z)
    Ẋ, ż = unthunk(Ẋ), unthunk(ż)
    Ẋ isa AbstractZero && ż isa AbstractZero && return F(X, z), ZeroTangent()
    return F(X, z), pushed(F, X, z, Ẋ, ż)
end

function ChainRulesCore.rrule(F::Linear, X, z)
    project_X, project_z = ProjectTo(X), ProjectTo(z)
    function assembly_pullback(w)
        w = unthunk(w)
        w isa AbstractZero && return NoTangent(), ZeroTangent(), ZeroTangent()
        X̄ = @thunk project_X(points_pullback(F, X, z, w))
        return NoTangent(), X̄, @thunk project_z(flip(F)(X, w))
    end
    return F(X, z), assembly_pullback
end

##### `Pushforward` and `Pullback` of these
# First the maps, without the primal that a rule computes.

const PushedAssembly{W} = Pushforward{<:Linear,W}
const PulledAssembly{W} = Pullback{<:Linear,W}

(p::PushedAssembly{W})(X, z, tangents...) where {W} =
    pushed(p.f, X, z, spread(Val(W), tangents, ZeroTangent())...)
(p::PulledAssembly{(true, true)})(X, z, w) =
    points_pullback(p.f, X, z, w), flip(p.f)(X, w)
(p::PulledAssembly{(true, false)})(X, z, w) = (points_pullback(p.f, X, z, w),)
(p::PulledAssembly{(false, true)})(X, z, w) = (flip(p.f)(X, w),)

function ChainRulesCore.frule(
    (_, ẋ...)::Tuple, p::Union{PushedAssembly,PulledAssembly}, x...)
    ẋ = map(unthunk, ẋ)
    y = p(x...)
    all(t -> t isa AbstractZero, ẋ) && return y, ZeroTangent()
    return y, tangents_of(p(map(lift, x, ẋ)...))
end

# The tangent of a tuple is a `Tangent`.
tangents_of(y) = map(tangent, y)
function tangents_of(y::Tuple)
    ẏ = map(tangents_of, y)
    return Tangent{typeof(ẏ)}(ẏ...)
end

# Both rules transpose t(X, z, Ẋ, ż, w) = ∂/∂ε ⟨w, F(X + εẊ, z + εż)⟩, whose derivatives in
# Ẋ and ż are those of s, and in X, z, w the tangents of those.
function second_pullback(F, X, z, Ẋ, ż, w)
    Ẋ isa AbstractZero && ż isa AbstractZero && return ntuple(_ -> ZeroTangent(), 3)
    Xd, zd = lift(X, Ẋ), lift(z, ż)
    X̄ = @thunk map(tangent, points_pullback(F, Xd, zd, w))
    z̄ = @thunk map(tangent, flip(F)(Xd, w))
    return X̄, Ẋ isa AbstractZero ? ZeroTangent() : z̄, @thunk(map(tangent, F(Xd, zd)))
end

function ChainRulesCore.rrule(p::PushedAssembly{W}, X, z, tangents...) where {W}
    function pushed_assembly_pullback(w)
        w = unthunk(w)
        w isa AbstractZero && return ntuple(_ -> ZeroTangent(), 3 + length(tangents))
        X̄, z̄, _ = second_pullback(
            p.f, X, z, spread(Val(W), tangents, ZeroTangent())..., w)
        firsts = keep(Val(W),
            (@thunk(points_pullback(p.f, X, z, w)), @thunk(flip(p.f)(X, w))))
        return NoTangent(), X̄, z̄, firsts...
    end
    return p(X, z, tangents...), pushed_assembly_pullback
end

function ChainRulesCore.rrule(p::PulledAssembly{W}, X, z, w) where {W}
    function pulled_assembly_pullback(t)
        t = unthunk(t)
        t isa AbstractZero && return ntuple(_ -> ZeroTangent(), 4)
        given = map(unthunk, Tuple(t))
        Ẋ, ż = spread(Val(W), given, ZeroTangent())
        return NoTangent(), second_pullback(p.f, X, z, Ẋ, ż, w)...
    end
    return p(X, z, w), pulled_assembly_pullback
end
