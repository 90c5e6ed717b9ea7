# Derivatives as functions of arrays, so that they can be called from a compiled program,
# and can have derivatives in turn.

"""
    Pushforward(f, which)

The function ``(x…, ẋ…) ↦ J_f(x) ẋ`` by `f`'s `frule`. `which` is a tuple of `Bool`s, one
per argument: the tangents given are those of the arguments marked `true`.

It is a function like any other. To let a *second* derivative pass, define a rule for it:

    ChainRulesCore.frule((_, ẋ, ẍ), p::Pushforward{typeof(f)}, x, ẋ₀) = …
"""
struct Pushforward{F,W}
    f::F
end
Pushforward(f, which) = Pushforward{typeof(f),NTuple{length(which),Bool}(which)}(f)

"""
    Pullback(f, which)

The function ``(x…, ȳ…) ↦ J_f(x)ᵀ ȳ`` by `f`'s `rrule`, for the arguments that `which`
marks, as a tuple. It is the transpose of [`Pushforward`](@ref), as JAX has it: where
ChainRules' pullback ``P`` of a complex function is the adjoint, this is
``ȳ ↦ (P(ȳ^*))^*``. For the pairing ``Re Σ ȳ ẏ`` that is the transpose also where `f` is
not holomorphic, since ``Re Σ ȳ ẏ = ⟨ȳ^*, ẏ⟩ = ⟨P(ȳ^*), ẋ⟩``.
"""
struct Pullback{F,W}
    f::F
end
Pullback(f, which) = Pullback{typeof(f),NTuple{length(which),Bool}(which)}(f)

"""
    MissingRule(name, kind, types)

A derivative was asked for that ChainRules does not know.
"""
struct MissingRule <: Exception
    name::String
    kind::Symbol
    types::Any
end
function Base.showerror(io::IO, err::MissingRule)
    mode = err.kind === :frule ? "forward" : "reverse"
    print(io, "no ChainRules `", err.kind, "` for `", err.name, "` with arguments ",
        err.types, ", so it has no ", mode, "-mode derivative. Define ChainRulesCore.",
        err.kind, " for it, or load the package that does (for Base functions: ",
        "ChainRules).")
end

marks(::Pushforward{F,W}) where {F,W} = W
marks(::Pullback{F,W}) where {F,W} = W

name(f) = string(f)
name(p::Pushforward) = "Pushforward(" * name(p.f) * ")"
name(p::Pullback) = "Pullback(" * name(p.f) * ")"
name(A::Assembly) = "Assembly(" * name(A.operator) * ")"
name(A::Transposed) = "Transposed(" * name(A.f) * ")"
name(op::Operator) = string(nameof(typeof(op)))

function (p::Pushforward{F,W})(args::Vararg{Any,N}) where {F,W,N}
    x, tangents = divide(args, Val(length(W)))
    ẋ = spread(Val(W), tangents, NoTangent())
    result = ChainRulesCore.frule((NoTangent(), ẋ...), p.f, x...)
    result === nothing && throw(MissingRule(name(p.f), :frule, map(typeof, x)))
    y, ẏ = result
    return densify(unthunk(ẏ), y)
end

function (p::Pullback{F,W})(args::Vararg{Any,N}) where {F,W,N}
    x, ȳ = divide(args, Val(length(W)))
    result = ChainRulesCore.rrule(p.f, x...)
    result === nothing && throw(MissingRule(name(p.f), :rrule, map(typeof, x)))
    y, pullback = result
    ȳ = map(conjugate, ȳ)
    x̄ = Base.tail(pullback(y isa Tuple ? Tangent{typeof(y)}(ȳ...) : only(ȳ)))
    return map(keep(Val(W), x̄), keep(Val(W), x)) do t, v
        conjugate(densify(unthunk(t), v))
    end
end

conjugate(t) = conj(t)
conjugate(t::Tuple) = map(conjugate, t)

# These three go by the lengths and marks in types, so that they are inferred.

divide(all::NTuple{N,Any}, ::Val{n}) where {N,n} =
    ntuple(i -> all[i], Val(n)), ntuple(i -> all[n + i], Val(N - n))

# The elements of `given` at the places marked in `W`, `rest` elsewhere.
@generated function spread(::Val{W}, given::Tuple, rest) where {W}
    places = cumsum(collect(Bool, W))
    return :(tuple($((w ? :(given[$k]) : :rest for (w, k) in zip(W, places))...)))
end

# The elements of `all` at the places marked in `W`.
@generated keep(::Val{W}, all::Tuple) where {W} =
    :(tuple($((:(all[$i]) for i in eachindex(W) if W[i])...)))

# A tangent of `v` (an array, a number or a tuple of these) as a thing of that kind.
densify(t, v) = t
densify(::AbstractZero, v) = zero(v)
densify(::AbstractZero, v::Tuple) = map(zero, v)
densify(t::Tangent{<:Tuple}, v::Tuple) = map(densify_one, ChainRulesCore.backing(t), v)
densify(t::Tuple, v::Tuple) = map(densify_one, t, v)
densify_one(t, v) = densify(unthunk(t), v)

"""
    has_rule(f, types) -> Bool

Whether calling the derivative `f` (a [`Pushforward`](@ref) or [`Pullback`](@ref)) on
arguments of these types finds a rule. Other functions need none.
"""
has_rule(f, types) = true
has_rule(p::Pushforward{F,W}, types) where {F,W} =
    has_rule(p.f, types[1:length(W)]) &&
    knows(ChainRulesCore.frule, (Tuple{Any,Vararg{Any}}, F, types[1:length(W)]...))
has_rule(p::Pullback{F,W}, types) where {F,W} =
    has_rule(p.f, types[1:length(W)]) &&
    knows(ChainRulesCore.rrule, (F, types[1:length(W)]...))

# ChainRulesCore's fall-backs, which return `nothing`, have no argument but `Any`s.
function knows(rule, types)
    method = which(rule, Tuple{types...})
    f = rule === ChainRulesCore.frule ? 3 : 2  # where the function's type stands
    signature = Base.unwrap_unionall(method.sig).parameters
    return length(signature) >= f && signature[f] !== Any
end
