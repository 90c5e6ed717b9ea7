# Julia residuals and maps of the tests, with no rules of their own.
module RootTests

using ImplicitAdjoints: Anderson, ImplicitFixedPoint, ImplicitRoot, Newton, SparsePattern

const roots = ImplicitRoot((z, p) -> z .^ 2 .- p)
const quiet = ImplicitRoot((z, p) -> z .^ 2 .- p; throw = false)
const cube = ImplicitRoot((z, p) -> z^3 - p)
const linear = ImplicitRoot((z, A, b) -> A * z - b)
const turned = ImplicitRoot((z, c) -> z .* abs.(z) .- c)
const endless = ImplicitRoot((z, p) -> z .^ 2 .+ p .^ 2; solver = Newton(; max_steps = 30))

function lotka_volterra(z, p)
    prey, predator = z
    growth, eaten, death, fed = p
    return [prey * (growth - eaten * predator), predator * (fed * prey - death)]
end
const steady = ImplicitRoot(lotka_volterra)

# z = s W z + x: no contraction where the spectral radius of s W exceeds 1.
affine(z, W, x) = W * z + x
const mixed = ImplicitFixedPoint(affine; solver = Anderson(; memory = 6))
const plain = ImplicitFixedPoint(affine; solver = Anderson(; memory = 0))

# One step of y' = M y by the implicit midpoint rule.
const midpoint =
    ImplicitFixedPoint((z, y, h, M) -> y + h * M * (y + z) / 2; solver = Newton())

# A chain that radiates: its Jacobian has three diagonals, and is given by its places.
function chain(z, p)
    r = similar(z)
    n = length(z)
    for i in 1:n
        left = i > 1 ? z[i - 1] : zero(z[i])
        right = i < n ? z[i + 1] : zero(z[i])
        r[i] = 3z[i] - 2left - right / 2 + z[i]^3 - p[i]
    end
    return r
end
pattern(n) = (places = [(i, j) for i in 1:n for j in max(1, i - 1):min(n, i + 1)];
    SparsePattern(first.(places), last.(places), n))
const small_chain = ImplicitRoot(chain)
const chain5000 = ImplicitRoot(chain; jacobian = pattern(5000))

end
