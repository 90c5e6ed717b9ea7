r"""Algorithms for the lasso, min ½‖A x - b‖² + λ‖x‖₁, whose steps may be trained.

All take A, `(m, n)`, and the number of layers. Untrained, they are the algorithms.
"""

import itertools
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .iteration import Iteration, check_problem, lipschitz, repeated
from .thresholds import soft_threshold


class ISTA(Iteration):
    """x ← η(x - s Aᵀ(A x - b), θ), with s = 1/‖A‖² and θ = s λ until trained.

    `A`: `(m, n)`. `layers`. `penalty`: λ > 0. The fixed point is the lasso's solution; its
    derivative in b is (A_SᵀA_S)⁻¹A_Sᵀ on the support S.

    ??? cite "Reference"
        Daubechies, Defrise, De Mol 2004. doi:10.1002/cpa.20042
    """

    per_layer: ClassVar = ("stepsize", "threshold")
    A: jax.Array
    stepsize: jax.Array
    threshold: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, penalty=0.1):
        self.A = A = check_problem("ISTA", A, layers)
        self.layers = layers
        step = 1 / lipschitz(A)
        self.stepsize = repeated(step, layers, A.dtype)
        self.threshold = repeated(step * penalty, layers, A.dtype)

    def start(self, injected):
        del injected
        return jnp.zeros(self.A.shape[1], self.A.dtype)

    def step(self, state, injected, layer):
        gradient = self.A.T @ (self.A @ state - injected)
        return soft_threshold(state - layer["stepsize"] * gradient, layer["threshold"])


class FISTA(Iteration):
    """ISTA from the extrapolated point x + μₖ (x - x₋), μₖ = (tₖ - 1)/tₖ₊₁, t₁ = 1,
    tₖ₊₁ = ½ + √(¼ + tₖ²). The state is the pair (x, x₋). μ is trained too.

    `A`, `layers`, `penalty`: as of `ISTA`, with the same fixed point.

    ??? cite "Reference"
        Beck, Teboulle 2009, Eq. (4.1)-(4.3). doi:10.1137/080716542
    """

    per_layer: ClassVar = ("stepsize", "threshold", "momentum")
    A: jax.Array
    stepsize: jax.Array
    threshold: jax.Array
    momentum: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, penalty=0.1):
        self.A = A = check_problem("FISTA", A, layers)
        self.layers = layers
        step = 1 / lipschitz(A)
        self.stepsize = repeated(step, layers, A.dtype)
        self.threshold = repeated(step * penalty, layers, A.dtype)
        t = [1.0]
        for _ in range(layers):
            t.append(0.5 + (0.25 + t[-1] ** 2) ** 0.5)
        # The k-th step leaves from a point extrapolated with tₖ₋₁ and tₖ; the first not.
        momentum = [0.0] + [(a - 1) / b for a, b in itertools.pairwise(t[:-1])]
        self.momentum = jnp.array(momentum, A.dtype)

    def start(self, injected):
        del injected
        zero = jnp.zeros(self.A.shape[1], self.A.dtype)
        return zero, zero

    def step(self, state, injected, layer):
        x, before = state
        y = x + layer["momentum"] * (x - before)
        gradient = self.A.T @ (self.A @ y - injected)
        return soft_threshold(y - layer["stepsize"] * gradient, layer["threshold"]), x

    def readout(self, state):
        return state[0]


class ADMM(Iteration):
    """Splits x from its copy z, with the scaled multiplier u:

        x = (AᵀA + ρ I)⁻¹(Aᵀb + ρ (z - u)),   x̂ = α x + (1 - α) z
        z ← η(x̂ + u, λ/ρ),                    u ← u + x̂ - z

    `A`, `layers`, `penalty`: as of `ISTA`. `rho`: ρ > 0, and `relaxation`: α in (0, 2),
    until trained. The factor of AᵀA + ρ I (or A Aᵀ + ρ I if that is smaller) is made once
    for all steps and samples. State (z, u); z is the result.

    ??? cite "Reference"
        Boyd et al. 2011, Section 6.4; relaxation 3.4.3. doi:10.1561/2200000016
    """

    per_layer: ClassVar = ("threshold", "relaxation")
    shared: ClassVar = ("rho",)
    A: jax.Array
    threshold: jax.Array
    relaxation: jax.Array
    rho: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, penalty=0.1, rho=1.0, relaxation=1.0):
        self.A = A = check_problem("ADMM", A, layers)
        self.layers = layers
        self.rho = jnp.asarray(rho, A.dtype)
        self.threshold = repeated(penalty / self.rho, layers, A.dtype)
        self.relaxation = repeated(relaxation, layers, A.dtype)

    def inject(self, b):
        return self.A.T @ b, _ridge_factor(self.A, self.rho)

    def start(self, injected):
        return jnp.zeros_like(injected[0]), jnp.zeros_like(injected[0])

    def step(self, state, injected, layer):
        z, u = state
        Atb, factor = injected
        x = _ridge_solve(self.A, self.rho, factor, Atb + self.rho * (z - u))
        x = layer["relaxation"] * x + (1 - layer["relaxation"]) * z
        z = soft_threshold(x + u, layer["threshold"])
        return z, u + x - z

    def readout(self, state):
        return state[0]


class DouglasRachford(Iteration):
    """v ← v + μ (y - x), x = η(v, γ λ), y = prox_{γ f}(2 x - v), f(x) = ½‖A x - b‖².

    `A`, `layers`, `penalty`: as of `ISTA`. `gamma`: γ > 0, and `relaxation`: μ in (0, 2),
    until trained. The threshold stays γ λ in all layers (x is a function of v, at every
    step the same one); μ is trained layer by layer, γ and λ for all.

    ??? cite "Reference"
        Lions, Mercier 1979. doi:10.1137/0716071. Combettes, Pesquet 2011, Algorithm 10.15.
        doi:10.1007/978-1-4419-9569-8_10
    """

    per_layer: ClassVar = ("relaxation",)
    shared: ClassVar = ("gamma", "penalty")
    A: jax.Array
    relaxation: jax.Array
    gamma: jax.Array
    penalty: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, penalty=0.1, gamma=1.0, relaxation=1.0):
        self.A = A = check_problem("DouglasRachford", A, layers)
        self.layers = layers
        self.gamma, self.penalty = (
            jnp.asarray(gamma, A.dtype),
            jnp.asarray(penalty, A.dtype),
        )
        self.relaxation = repeated(relaxation, layers, A.dtype)

    def inject(self, b):
        return self.A.T @ b, _ridge_factor(self.A, 1 / self.gamma)

    def start(self, injected):
        return jnp.zeros_like(injected[0])

    def step(self, state, injected, layer):
        Atb, factor = injected
        x = self.readout(state)
        c = 1 / self.gamma  # prox_{γ f}(w) = (AᵀA + I/γ)⁻¹(Aᵀb + w/γ)
        y = _ridge_solve(self.A, c, factor, Atb + c * (2 * x - state))
        return state + layer["relaxation"] * (y - x)

    def readout(self, state):
        return soft_threshold(state, self.gamma * self.penalty)


def _ridge_factor(A, c):
    """The Cholesky factor of the smaller of A Aᵀ + c I and AᵀA + c I."""
    m, n = A.shape
    gram = A @ A.T if m < n else A.T @ A
    return jnp.linalg.cholesky(gram + c * jnp.eye(min(m, n), dtype=A.dtype))


def _ridge_solve(A, c, factor, w):
    """(AᵀA + c I)⁻¹ w; by (AᵀA + c I)⁻¹ = (I - Aᵀ(A Aᵀ + c I)⁻¹A)/c if A is wide."""
    solve = lambda v: jax.scipy.linalg.cho_solve((factor, True), v)
    m, n = A.shape
    return (w - A.T @ solve(A @ w)) / c if m < n else solve(w)
