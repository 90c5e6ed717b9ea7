# Equations and fixed points with closed forms, with the names of tests/layers.py: Jacobians
# that are not symmetric, numbers far from 1, one to 5,000 unknowns.

using LinearAlgebra, Random, SparseArrays
using ImplicitAdjoints: Anderson, ImplicitFixedPoint, ImplicitRoot, Newton, SparsePattern

# `layer(z0, θ...)` is `exact(θ...)`.
struct ImplicitProblem
    name::String
    layer::Any
    z0::Any
    θ::Tuple
    exact::Any
end

const RNG = MersenneTwister(7)
const SIZE = 5
const SPREAD = let W = randn(RNG, SIZE, SIZE)
    W / maximum(abs, eigvals(W))  # spectral radius 1, not symmetric
end
const INPUT = randn(RNG, SIZE, 3)
const MATRIX = randn(RNG, SIZE, SIZE) + 4I
const DESIGN = randn(RNG, 8, 3) .* [1.0 5.0 0.2]

square_minus(z, p) = z .* z - p
cube_minus(z::Number, p::Number) = z^3 - p
affine(z, A, b) = A * z - b
function lotka_volterra(z, p)
    prey, predator = z
    growth, eaten, death, fed = p
    return [prey * (growth - eaten * predator), predator * (fed * prey - death)]
end
turned(z, c) = z * abs(z) - c  # complex, not holomorphic
exponential(z, p) = exp.(z) - p
ridge_gradient(z, y, penalty) = DESIGN' * (DESIGN * z - y) + penalty * z
logistic(t) = 1 / (1 + exp(-t))
logistic_gradient(z, p) =  # of the likelihood of labels that p predicts, and a prior
    DESIGN' * (logistic.(DESIGN * z) - logistic.(DESIGN * p)) + 0.1 * (z - p)
sylvester(Z, A, B) = A * Z + Z * A' .* 0.5 - B
contraction(z, W, x) = 0.6 * W * z + INPUT * x
expansion(z, W, x) = 3 * W * z + INPUT * x  # spectral radius 3: no contraction
towards(z, p) = tanh.(0.7 * SPREAD * z) + p - tanh.(0.7 * SPREAD * p)
midpoint(z, y0, h) = y0 + h * MATRIX * (y0 + z) / 2  # one step of y' = M y
soft(v, threshold) = sign(v) * max(abs(v) - threshold, 0)
proximal_step(z, a, penalty) = soft.(z - 0.5 * (z - a), 0.5 * penalty)

# A banded map G with G(z) = G(exp(p)): the root is exp(p).
function band(z)
    y = similar(z)
    for i in eachindex(z)
        y[i] = 4z[i] + z[i]^3
        i > 1 && (y[i] -= 2z[i - 1])
        i < length(z) && (y[i] += z[i] * z[i + 1])
    end
    return y
end
banded(z, p) = band(z) - band(exp.(p))
function banded_jacobian(z, p)
    n = length(z)
    right = [z[2:end]; 0.0]
    return Tridiagonal(fill(-2.0, n - 1), 4 .+ 3 .* z .^ 2 .+ right, z[1:(n - 1)])
end
function band_pattern(n)
    places = [(i, j) for i in 1:n for j in max(1, i - 1):min(n, i + 1)]
    return SparsePattern(first.(places), last.(places), n)
end

resolvent(W, x, s) = (I - s * W) \ (INPUT * x)
log_profile(n) = 0.5 .* sin.(1:n)

const ROOTS = (
    ImplicitProblem("sqrt", ImplicitRoot(square_minus), ones(3), ([2.0, 30.0, 0.07],),
        p -> sqrt.(p)),
    ImplicitProblem("scalar", ImplicitRoot(cube_minus), 1.0, (8.0,), cbrt),
    ImplicitProblem("linear", ImplicitRoot(affine), zeros(SIZE),
        (MATRIX, collect(100.0 .* (1:SIZE))), \),
    ImplicitProblem("lotka_volterra", ImplicitRoot(lotka_volterra), [3.0, 3.0],
        ([1.1, 0.4, 0.4, 0.1],), p -> [p[3] / p[4], p[1] / p[2]]),
    ImplicitProblem("complex", ImplicitRoot(turned), 1.0 + 1.0im, (3.0 - 4.0im,),
        c -> c / sqrt(abs(c))),
    ImplicitProblem("complex_array", ImplicitRoot((z, c) -> turned.(z, c)),
        [1.0 + 1.0im, 1.0], ([3.0 - 4.0im, 2.0im],), c -> c ./ sqrt.(abs.(c))),
    ImplicitProblem("log", ImplicitRoot(exponential), zeros(3), ([2.0, 30.0, 0.07],),
        p -> log.(p)),
    ImplicitProblem("ridge", ImplicitRoot(ridge_gradient), zeros(3),
        (10 * randn(RNG, 8), 20.0),
        (y, penalty) -> (DESIGN' * DESIGN + penalty * I) \ (DESIGN' * y)),
    ImplicitProblem("logistic", ImplicitRoot(logistic_gradient), zeros(3),
        ([0.5, -0.2, 2.0],), identity),
    ImplicitProblem("sylvester", ImplicitRoot(sylvester), zeros(SIZE, SIZE),
        (MATRIX, randn(RNG, SIZE, SIZE)),
        (A, B) -> reshape(
            (kron(I(SIZE), A) + kron(0.5 * A, I(SIZE))) \ vec(B), SIZE, SIZE)),
    ImplicitProblem("fifty", ImplicitRoot(banded), ones(50), (log_profile(50),),
        p -> exp.(p)),
    ImplicitProblem("fifty_sparse", ImplicitRoot(banded; jacobian = band_pattern(50)),
        ones(50), (log_profile(50),), p -> exp.(p)),
)
const FIXED_POINTS = (
    ImplicitProblem("contraction", ImplicitFixedPoint(contraction), zeros(SIZE),
        (SPREAD, [1.0, -2.0, 0.5]), (W, x) -> resolvent(W, x, 0.6)),
    ImplicitProblem("expansion",
        ImplicitFixedPoint(expansion; solver = Anderson(; memory = SIZE + 1)), zeros(SIZE),
        (SPREAD, [1.0, -2.0, 0.5]), (W, x) -> resolvent(W, x, 3.0)),
    ImplicitProblem("tanh", ImplicitFixedPoint(towards), zeros(SIZE),
        (collect(range(-1.0, 2.0, SIZE)),), identity),
    ImplicitProblem("midpoint", ImplicitFixedPoint(midpoint; solver = Newton()),
        collect(1.0:SIZE), (collect(1.0:SIZE), 0.3),
        (y0, h) -> (I - h / 2 * MATRIX) \ (y0 + h / 2 * MATRIX * y0)),
    ImplicitProblem("lasso", ImplicitFixedPoint(proximal_step), zeros(4),
        ([3.0, -40.0, 0.5, 7.0], 2.0), (a, penalty) -> soft.(a, penalty)),
    ImplicitProblem("heron", ImplicitFixedPoint((z::Number, p) -> 0.5 * (z + p / z)), 1.0,
        (30.0,), sqrt),
)
const LAYERS = (ROOTS..., FIXED_POINTS...)
the_layer(name) = only(p for p in LAYERS if p.name == name)
