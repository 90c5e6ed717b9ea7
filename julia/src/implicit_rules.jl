# The derivative rules of `ImplicitRoot` and `ImplicitFixedPoint`.
#
# F(z(θ), θ) = 0 for all θ, with J = ∂F/∂z at z. Then J ż + ∂F/∂θ θ̇ = 0, so
#
#     ż = -J⁻¹ ∂F/∂θ θ̇                      forwards: one solve for each tangent
#     θ̄ = (∂F/∂θ)ᵀ λ  with  Jᵀ λ = -z̄       backwards: ⟨z̄, ż⟩ = ⟨λ, ∂F/∂θ θ̇⟩
#
# (Griewank & Walther 2008, Chapter 15). The forward solve is not differentiated, and z does
# not depend on the first guess.

function ChainRulesCore.frule((ṗ, _, θ̇...)::Tuple, p::Implicit, z0, θ...)
    refuse_own_tangent(p, ṗ)
    f = found(p, z0, θ)
    z = f.solution.value
    θ̇ = map(unthunk, θ̇)
    all(ṫ -> ṫ isa AbstractZero, θ̇) && return fresh(z), ZeroTangent()
    return fresh(z), unflatten(z, z_tangent(p, f, θ, θ̇))
end

function z_tangent(p, f, θ, θ̇)
    z = f.solution.value
    Fθ̇ = pushforward(residual(p), (z, θ...), (ZeroTangent(), θ̇...))
    return as_vector(z, vec(-solve_at(p, f, θ, Fθ̇)))
end

function ChainRulesCore.rrule(p::Implicit, z0, θ...)
    f = found(p, z0, θ)
    function implicit_pullback(z̄)
        z̄ = unthunk(z̄)
        p̄, z̄0 = own_cotangent(p), moves(z0) ? ZeroTangent() : NoTangent()
        z̄ isa AbstractZero && return p̄, z̄0, map(_ -> ZeroTangent(), θ)...
        return p̄, z̄0, θ_cotangents(p, f, θ, z̄)...
    end
    return fresh(f.solution.value), implicit_pullback
end

function θ_cotangents(p, f, θ, z̄)
    z = f.solution.value
    λ = as_vector(z, vec(-solve_at(p, f, θ, flatten(z̄), true)))
    θ̄ = Base.tail(pullback(residual(p), (z, θ...), λ))
    return map(like_argument, θ̄, θ)
end

# In the precision and the form of the argument.
like_argument(θ̄::AbstractZero, θ) = θ̄
like_argument(θ̄, θ) = moves(θ) ? ProjectTo(θ)(unthunk(θ̄)) : θ̄

# What F closes over is a constant. If there is something, say so where it is asked for.
own_cotangent(p) = Base.issingletontype(typeof(p.f)) ? NoTangent() : @not_implemented(
    "what F closes over is a constant: pass it as a parameter θ")
refuse_own_tangent(_, ::AbstractZero) = nothing
refuse_own_tangent(p, _) = throw(ArgumentError(
    "what `$(name(p.f))` closes over is a constant. Pass it as a parameter θ."))

##### `Pushforward` and `Pullback` of an implicit function
# Second derivatives. Forwards over forwards they are parts of z(θ + ε₁ θ̇ + ε₂ θ́ + ε₁ε₂ θ́̇).
# With a transposition they all come from the scalar ⟨w, z(θ)⟩, of which the pullback is the
# gradient: its second derivative in the direction t is
#
#     H(t, w) = ∇²⟨w, z⟩ t = ∂_θ ⟨w, ż(θ, t)⟩
#
# With λ as above for z̄ = w and ż that of θ̇ = t, differentiate θ̄ = (∂F/∂θ)ᵀ λ and Jᵀ λ = -w
# along (ż, t), where ∂_t is that derivative at fixed λ:
#
#     Jᵀ λ̇ = -∂_t (Jᵀ λ),    H = ∂_t ((∂F/∂θ)ᵀ λ) + (∂F/∂θ)ᵀ λ̇
#
# which are the ε parts of gradients of ⟨λ, F(z + ε ż, θ + ε t)⟩ and, with λ + ε λ̇, of the
# whole (second-order adjoint; Griewank & Walther 2008, Section 5.2).

function curvature(p::Implicit, f::Found, θ, t, w)
    z = f.solution.value
    λ = as_vector(z, vec(-solve_at(p, f, θ, flatten(w), true)))
    F = residual(p)
    on_line = map(lift, (z, θ...), (unflatten(z, z_tangent(p, f, θ, t)), t...))
    Jᵀλ̇ = map(tangent, flatten(gradients(F, on_line, λ)[1]))
    λ̇ = as_vector(z, vec(-solve_at(p, f, θ, Jᵀλ̇, true)))
    weights = map((a, ȧ) -> Dual(a, (ȧ,)), λ, λ̇)
    return map(θ, Base.tail(gradients(F, on_line, weights))) do x, x̄
        moves(x) ? ProjectTo(x)(unflatten(x, map(tangent, flatten(x̄)))) : x̄
    end
end

# The parameters θ of a derivative, and what was given for those that `W` marks.
function marked(W, args, nparameters::Val)
    x, given = divide(args, nparameters)
    return Base.tail(x), Base.tail(spread(W, given, NoTangent()))
end
marked(::Pushforward{F,W}, args) where {F,W} = marked(Val(W), args, Val(length(W)))

function ChainRulesCore.frule((_, ẋ...)::Tuple, q::Pushforward{<:Implicit}, args...)
    θ, t = marked(q, args)
    θ́, t́ = marked(q, map(unthunk, ẋ))
    z = q.f(args[1], map(twice_lifted, θ, t, θ́, t́)...)
    v = flatten(z)
    ż, ż₂ = map(a -> tangent(value(a)), v), map(a -> tangent(tangent(a)), v)
    return unflatten(z, ż), unflatten(z, ż₂)
end

# a + ε₁ t + ε₂ (á + ε₁ t́).
twice_lifted(a, t, á, t́) = moves(a) ? lift(lift(a, t), lift(like(a, á), t́)) : a
like(a, ::AbstractZero) = zero(a)
like(a, t) = unflatten(a, as_vector(a, flatten(t)))

function ChainRulesCore.rrule(q::Pushforward{<:Implicit,W}, args...) where {W}
    θ, t = marked(q, args)
    p, z0 = q.f, args[1]
    f = found(p, z0, θ)
    function pushed_implicit_pullback(w)
        w = unthunk(w)
        q̄, z̄0 = own_cotangent(p), moves(z0) ? ZeroTangent() : NoTangent()
        w isa AbstractZero && return q̄, map(_ -> ZeroTangent(), args)...
        t̄ = keep(Val(W), (ZeroTangent(), θ_cotangents(p, f, θ, w)...))
        return q̄, z̄0, curvature(p, f, θ, t, w)..., t̄...
    end
    return unflatten(f.solution.value, z_tangent(p, f, θ, t)), pushed_implicit_pullback
end

# `Pullback` is the transpose, not the adjoint: with w = ȳ^*, it is the conjugate of θ̄.

function ChainRulesCore.frule(
    (_, ẋ...)::Tuple, q::Pullback{<:Implicit,W}, args...) where {W}
    (z0, θ...), ȳ = Base.front(args), last(args)
    (_, θ́...), ȳ́ = map(unthunk, Base.front(ẋ)), unthunk(last(ẋ))
    f = found(q.f, z0, θ)
    none = map(_ -> ZeroTangent(), θ)
    H = all(t -> t isa AbstractZero, θ́) ? none : curvature(q.f, f, θ, θ́, conj(ȳ))
    P = ȳ́ isa AbstractZero ? none : θ_cotangents(q.f, f, θ, conj(ȳ́))
    x̄ = q(args...)
    total = map((h, p) -> conj(unthunk(h) + unthunk(p)), H, P)
    return x̄, Tangent{typeof(x̄)}(keep(Val(W), (ZeroTangent(), total...))...)
end

elements(τ::Tuple) = τ
elements(τ::Tangent) = ChainRulesCore.backing(τ)

function ChainRulesCore.rrule(q::Pullback{<:Implicit,W}, args...) where {W}
    (z0, θ...), ȳ = Base.front(args), last(args)
    p = q.f
    f = found(p, z0, θ)
    function pulled_implicit_pullback(τ)
        τ = unthunk(τ)
        q̄, z̄0 = own_cotangent(p), moves(z0) ? ZeroTangent() : NoTangent()
        τ isa AbstractZero && return q̄, map(_ -> ZeroTangent(), args)...
        given = map(t -> conj(unthunk(t)), elements(τ))
        t = Base.tail(spread(Val(W), given, NoTangent()))
        y̿ = @thunk conj(unflatten(f.solution.value, z_tangent(p, f, θ, t)))
        return q̄, z̄0, curvature(p, f, θ, t, conj(ȳ))..., y̿
    end
    return q(args...), pulled_implicit_pullback
end
