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
marks; a tuple where these are several. See [`Pushforward`](@ref).
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
        err.kind, " for it, or load the package that does (for Base functions: ChainRules).")
end

marks(::Pushforward{F,W}) where {F,W} = W
marks(::Pullback{F,W}) where {F,W} = W

name(f) = string(f)
name(p::Pushforward) = "Pushforward(" * name(p.f) * ")"
name(p::Pullback) = "Pullback(" * name(p.f) * ")"
name(a::DiffusionAssembly) = "DiffusionAssembly"

function (p::Pushforward{F,W})(args...) where {F,W}
    n = length(W)
    x, tangents = args[1:n], args[(n + 1):end]
    ẋ = spread(W, tangents, NoTangent())
    result = ChainRulesCore.frule((NoTangent(), ẋ...), p.f, x...)
    result === nothing && throw(MissingRule(name(p.f), :frule, map(typeof, x)))
    y, ẏ = result
    return densify(unthunk(ẏ), y)
end

function (p::Pullback{F,W})(args...) where {F,W}
    n = length(W)
    x, ȳ = args[1:n], args[(n + 1):end]
    result = ChainRulesCore.rrule(p.f, x...)
    result === nothing && throw(MissingRule(name(p.f), :rrule, map(typeof, x)))
    y, pullback = result
    ȳ = y isa Tuple ? Tangent{typeof(y)}(ȳ...) : only(ȳ)
    x̄ = Base.tail(pullback(ȳ))
    marked = keep(W, x̄)
    return map((t, v) -> densify(unthunk(t), v), marked, keep(W, x))
end

# The elements of `given` at the places marked in `which`, `rest` elsewhere.
spread(::Tuple{}, ::Tuple{}, rest) = ()
spread(which::Tuple, given::Tuple, rest) =
    first(which) ? (first(given), spread(Base.tail(which), Base.tail(given), rest)...) :
    (rest, spread(Base.tail(which), given, rest)...)

# The elements of `all` at the places marked in `which`.
keep(::Tuple{}, ::Tuple{}) = ()
keep(which::Tuple, all::Tuple) =
    first(which) ? (first(all), keep(Base.tail(which), Base.tail(all))...) :
    keep(Base.tail(which), Base.tail(all))

densify(t, v) = t
densify(::AbstractZero, v) = zero(v)
densify(t::Tangent{<:Tuple}, v::Tuple) = map(densify ∘ unthunk, Tuple(t), v)
densify(t::Tuple, v::Tuple) = map((a, b) -> densify(unthunk(a), b), t, v)
densify(::AbstractZero, v::Tuple) = map(zero, v)

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
