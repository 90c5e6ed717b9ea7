# Julia functions of the tests: each with other rules, or none.
module BridgeTests

using ChainRulesCore: ChainRulesCore, NoTangent, ZeroTangent, unthunk
using ImplicitAdjoints: Pullback, Pushforward

# A non-symmetric map with all rules, second order too: y = A(x .* x), A[i,j] = i + 2j.
const A = [i + 2.0j for i in 1:2, j in 1:3]
square(x) = A * (x .* x)
ChainRulesCore.frule((_, ẋ), ::typeof(square), x) = square(x), A * (2 .* x .* ẋ)
function ChainRulesCore.rrule(::typeof(square), x)
    square_pullback(ȳ) = (NoTangent(), 2 .* x .* (A' * unthunk(ȳ)))
    return square(x), square_pullback
end
const Push = Pushforward{typeof(square)}
const Pull = Pullback{typeof(square)}
ChainRulesCore.frule((_, t, _), p::Push, x, ẋ) = p(x, ẋ), A * (2 .* t .* ẋ)
ChainRulesCore.frule((_, t, _), p::Pull, x, ȳ) = p(x, ȳ), 2 .* t .* (A' * ȳ)
ChainRulesCore.rrule(p::Push, x, ẋ) =
    p(x, ẋ), z̄ -> (NoTangent(), 2 .* ẋ .* (A' * unthunk(z̄)), p.f === square ?
        2 .* x .* (A' * unthunk(z̄)) : ZeroTangent())
function ChainRulesCore.rrule(p::Pull, x, ȳ)
    second(t) = (NoTangent(), 2 .* unthunk(only(t)) .* (A' * ȳ), A * (2 .* x .* unthunk(only(t))))
    return p(x, ȳ), second
end

# Several arguments and results, a number, a matrix, and one that is not differentiated.
mixed(M::Matrix, s::Real, k::Integer) = (s * M[:, k], sum(abs2, M) + s)
ChainRulesCore.frule((_, Ṁ, ṡ, _), ::typeof(mixed), M, s, k) =
    mixed(M, s, k), (zero_or(Ṁ, M)[:, k] .* s .+ M[:, k] .* zero_or(ṡ, s),
        2 * sum(M .* zero_or(Ṁ, M)) + zero_or(ṡ, s))
function ChainRulesCore.rrule(::typeof(mixed), M, s, k)
    function mixed_pullback((v̄, t̄))
        M̄ = 2t̄ .* M
        M̄[:, k] .+= s .* v̄
        return NoTangent(), M̄, sum(v̄ .* M[:, k]) + t̄, NoTangent()
    end
    return mixed(M, s, k), mixed_pullback
end
zero_or(t::Union{NoTangent,ZeroTangent}, v) = zero(v)
zero_or(t, v) = t

reverse_only(x) = x .^ 3
ChainRulesCore.rrule(::typeof(reverse_only), x) =
    reverse_only(x), ȳ -> (NoTangent(), 3 .* x .^ 2 .* unthunk(ȳ))

forward_only(x) = x .^ 3
ChainRulesCore.frule((_, ẋ), ::typeof(forward_only), x) =
    forward_only(x), 3 .* x .^ 2 .* ẋ

holomorphic(z) = z .^ 2
ChainRulesCore.frule((_, ż), ::typeof(holomorphic), z) = holomorphic(z), 2 .* z .* ż
ChainRulesCore.rrule(::typeof(holomorphic), z) =
    holomorphic(z), ȳ -> (NoTangent(), conj.(2 .* z) .* unthunk(ȳ))

no_rule(x) = exp.(x)
wrong_size(x) = [x; x]
function fails(x)
    x[1] > 0 || throw(DomainError(x[1], "the first number must be positive"))
    return x
end
const CALLS = Threads.Atomic{Int}(0)
function collects(x)  # a young collection in every call, a full one in every fiftieth
    GC.gc(Threads.atomic_add!(CALLS, 1) % 50 == 0)
    return 2 .* x
end
ChainRulesCore.rrule(::typeof(collects), x) =
    collects(x), ȳ -> (NoTangent(), collects(unthunk(ȳ)))
spawns(x) = fetch(Threads.@spawn 3 .* x)
thrice(x) = 3 .* x

end
