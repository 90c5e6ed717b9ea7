r"""Learned ISTA and its relatives: the step of ISTA with weights in place of A and 1/L.

Untrained, each is ISTA for A (ALISTA but for its own W): training starts there.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .iteration import Iteration, check_problem, lipschitz, repeated
from .thresholds import select_support, soft_threshold


class LISTA(Iteration):
    """x ← η(W₁ b + W₂ x, θₖ), with W₁ = Aᵀ/L and W₂ = I - AᵀA/L until trained.

    `A`: `(m, n)`. `layers`. `penalty`: λ of the ISTA to start from. `tied`: one W₁ and W₂
    for all layers (as first published), or a pair for each.

    ??? cite "Reference"
        Gregor, LeCun 2010, *Learning fast approximations of sparse coding*, Section 3.
    """

    per_layer: ClassVar = ("threshold",)
    shared: ClassVar = ("W1", "W2")
    W1: jax.Array
    W2: jax.Array
    threshold: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, penalty=0.1):
        A = check_problem("LISTA", A, layers)
        L = lipschitz(A)
        self.W1, self.W2 = A.T / L, jnp.eye(A.shape[1], dtype=A.dtype) - A.T @ A / L
        self.threshold = repeated(penalty / L, layers, A.dtype)
        self.layers = layers

    def inject(self, b):
        return self.W1 @ b

    def start(self, injected):
        return jnp.zeros_like(injected)

    def step(self, state, injected, layer):
        return soft_threshold(injected + self.W2 @ state, layer["threshold"])


class LISTA_CP(Iteration):
    """x ← η(x + Wₖᵀ(b - A x), θₖ): LISTA with W₂ = I - W₁A, a coupling that every LISTA
    which converges has in the limit.

    `A`, `layers`, `penalty`: as of `LISTA`. `W`: what all Wₖ are until trained, `(m, n)`;
    A/L if not given (`analytic_weights(A)` trains faster). `support`: `(p, p_max)`, in per
    cent: in layer k = 1, 2, … the min(k p, p_max) per cent of largest entries escape the
    threshold ("support selection"); None: none do.

    ??? cite "Reference"
        Chen, Liu, Wang, Yin 2018, Theorems 1-3. arXiv:1808.10038
    """

    per_layer: ClassVar = ("W", "threshold", "trusted")
    A: jax.Array
    W: jax.Array
    threshold: jax.Array
    trusted: jax.Array  # how many entries escape; integers, so not trained
    layers: int = eqx.field(static=True)

    def __init__(
        self,
        A,
        layers: int,
        *,
        penalty=0.1,
        W=None,
        support: tuple[float, float] | None = None,
    ):
        self.A = A = check_problem("LISTA_CP", A, layers)
        L = lipschitz(A)
        W = A / L if W is None else jnp.asarray(W, A.dtype)
        self.W = jnp.broadcast_to(W, (layers, *A.shape))
        self.threshold = repeated(penalty / L, layers, A.dtype)
        self.trusted = trusted_counts("LISTA_CP", support, layers, A.shape[1])
        self.layers = layers

    def start(self, injected):
        del injected
        return jnp.zeros(self.A.shape[1], self.A.dtype)

    def step(self, state, injected, layer):
        v = state + layer["W"].T @ (injected - self.A @ state)
        return select_support(v, layer["threshold"], layer["trusted"])


class ALISTA(Iteration):
    """x ← η(x + γₖ Wᵀ(b - A x), θₖ) with a W that is computed, not trained: the one of
    least ‖WᵀA‖_F with wᵢᵀaᵢ = 1 for all columns. Two numbers a layer are left to train.

    `A`, `layers`, `penalty`, `support`: as of `LISTA_CP`. γₖ = 1, θₖ = λ/L until trained.

    ??? cite "Reference"
        Liu, Chen, Wang, Yin 2019, *ALISTA: Analytic weights are as good as learned weights
        in LISTA*, Eq. (9) and (16), ICLR.
    """

    per_layer: ClassVar = ("stepsize", "threshold", "trusted")
    A: jax.Array
    W: jax.Array
    stepsize: jax.Array
    threshold: jax.Array
    trusted: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(
        self, A, layers: int, *, penalty=0.1, support: tuple[float, float] | None = None
    ):
        self.A = A = check_problem("ALISTA", A, layers)
        self.W = analytic_weights(A)
        self.stepsize = repeated(1.0, layers, A.dtype)
        self.threshold = repeated(penalty / lipschitz(A), layers, A.dtype)
        self.trusted = trusted_counts("ALISTA", support, layers, A.shape[1])
        self.layers = layers

    def start(self, injected):
        del injected
        return jnp.zeros(self.A.shape[1], self.A.dtype)

    def step(self, state, injected, layer):
        v = state + layer["stepsize"] * (self.W.T @ (injected - self.A @ state))
        return select_support(v, layer["threshold"], layer["trusted"])


def analytic_weights(A) -> jax.Array:
    """argmin ‖WᵀA‖_F with wᵢᵀaᵢ = 1, `(m, n)` like A, for A of full row rank.

    Column by column: the Lagrangian ½‖Aᵀw‖² - μ (wᵀa - 1) gives w = μ (A Aᵀ)⁻¹a, and the
    constraint μ = 1/(aᵀ(A Aᵀ)⁻¹a).
    """
    solved = jnp.linalg.solve(A @ A.T, A)
    return solved / jnp.sum(A * solved, axis=0)


def trusted_counts(name: str, support, layers: int, n: int) -> jax.Array:
    """How many entries escape the threshold in each layer, `(layers,)`."""
    if support is None:
        return jnp.zeros(layers, int)
    per_layer, most = support
    if not (0 <= per_layer <= 100 and 0 <= most <= 100):
        raise ValueError(
            f"`{name}(support=(p, p_max))` must be percentages.\nGot {support}.\n"
            "For example (1.2, 12.0)."
        )
    percent = jnp.minimum(per_layer * jnp.arange(1, layers + 1), most)
    return (percent / 100 * n).astype(int)
