r"""Equilibrium layers with one fixed point, by construction.

z = σ(W z + U x + b) with σ a proximal operator (relu) is 0 ∈ (I - W) z - U x - b + ∂h(z),
and has exactly one solution if I - W is strongly monotone: I - W ⪰ m I for some m > 0.

    W = (1 - m) I - AᵀA + B - Bᵀ          so that  sym(I - W) = m I + AᵀA ⪰ m I

for all A, B: no projection, any optimiser. Two splittings find the solution:

    forward-backward    z ← σ(z - α ((I - W) z - U x - b))       0 < α < 2 m / ‖I - W‖²
    Peaceman-Rachford   u ← 2 V(2 σ(u) - u + α (U x + b)) - (2 σ(u) - u),  z = σ(u),
                        V = (I + α (I - W))⁻¹, any α > 0

Winston, Kolter, *Monotone operator equilibrium networks*, NeurIPS 2020, Theorem 1 and
Section 3.2. arXiv:2006.08591. The norm in the bound for α is the Lipschitz constant of
the affine part; Ryu, Boyd 2016, *A primer on monotone operator methods*, Section 5.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._status import Solution
from ..adjoint import AbstractAdjoint
from ..fixed_point import fixed_point
from ..solvers import Picard
from .model import default_adjoint


class Monotone(eqx.Module):
    """The cell σ(W z + U x + b), σ = relu, with sym(I - W) ⪰ m I whatever its weights are.

    `state_size`: n. `input_size`: of x. `margin`: m > 0, not trained. As any cell it can
    go into `DEQ(cell)`; `MonotoneDEQ(cell)` solves it by a splitting that converges for
    all weights.
    """

    A: jax.Array
    B: jax.Array
    U: jax.Array
    b: jax.Array
    m: float = eqx.field(static=True)

    def __init__(self, state_size: int, input_size: int, *, margin: float = 0.1, key):
        if not margin > 0:
            raise ValueError(
                f"`Monotone(margin=...)` must be positive.\nGot {margin}.\n"
                "Without a margin there may be no solution, or many."
            )
        keys = jax.random.split(key, 3)
        n, normal = state_size, jax.random.normal
        self.A = normal(keys[0], (n, n)) / (2 * jnp.sqrt(n))
        self.B = normal(keys[1], (n, n)) / (2 * jnp.sqrt(n))
        self.U = normal(keys[2], (n, input_size)) / jnp.sqrt(input_size)
        self.b = jnp.zeros(n)
        self.m = margin

    @property
    def W(self) -> jax.Array:
        """(n, n)."""
        identity = jnp.eye(self.b.size, dtype=self.A.dtype)
        return (1 - self.m) * identity - self.A.T @ self.A + self.B - self.B.T

    def state(self, x) -> jax.Array:
        del x
        return jnp.zeros_like(self.b)

    def injection(self, x) -> jax.Array:
        return self.U @ x + self.b

    def __call__(self, z, x) -> jax.Array:
        return jax.nn.relu(self.W @ z + self.injection(x))


class Certificate(eqx.Module):
    """Why there is one fixed point. `margin`: the least eigenvalue of sym(I - W); there is
    one fixed point if it is positive. `lipschitz`: L = ‖I - W‖. `alpha`: margin/L², the
    best step of forward-backward, and `rate`: √(1 - (margin/L)²), its contraction."""

    margin: jax.Array
    lipschitz: jax.Array
    alpha: jax.Array
    rate: jax.Array

    @property
    def unique(self) -> jax.Array:
        return self.margin > 0


def certificate(W: jax.Array) -> Certificate:
    """Of z = σ(W z + …), for any W, (n, n), and σ the proximal operator of a convex
    function; from the eigenvalues and singular values of a dense matrix."""
    M = jnp.eye(len(W), dtype=W.dtype) - W
    margin = jnp.linalg.eigvalsh((M + M.T) / 2)[0]
    L = jnp.linalg.norm(M, 2)
    rate = jnp.sqrt(jnp.maximum(1 - (margin / L) ** 2, 0.0))
    return Certificate(margin, L, margin / L**2, rate)


class ForwardBackward(eqx.Module):
    """One product with W a step. `alpha`: the step; the certificate's if not given, for
    which the iteration contracts."""

    alpha: Any = None

    def prepare(self, cell: Monotone, x):
        W = cell.W
        alpha = certificate(W).alpha if self.alpha is None else self.alpha
        return W, jax.lax.stop_gradient(alpha), cell.injection(x)

    def step(self, z, prepared):
        W, alpha, injected = prepared
        return jax.nn.relu((1 - alpha) * z + alpha * (W @ z + injected))

    def readout(self, z):
        return z


class PeacemanRachford(eqx.Module):
    """One solve with I + α (I - W) a step, factored once; fewer steps. `alpha` > 0."""

    alpha: Any = 1.0

    def prepare(self, cell: Monotone, x):
        n = cell.b.size
        M = jnp.eye(n, dtype=cell.b.dtype) - cell.W
        V = jnp.linalg.inv(jnp.eye(n, dtype=M.dtype) + self.alpha * M)
        return V, self.alpha * cell.injection(x)

    def step(self, u, prepared):
        V, injected = prepared
        reflected = 2 * jax.nn.relu(u) - u
        return 2 * V @ (reflected + injected) - reflected

    def readout(self, u):
        return jax.nn.relu(u)


class MonotoneDEQ(eqx.Module):
    """The equilibrium of a `Monotone` cell, by a splitting that always converges.

    **Arguments:** `cell`; `splitting`: `PeacemanRachford(alpha)` (the default) or
    `ForwardBackward(alpha)`; `solver`: of the splitting's fixed point, `pi.Picard()` if
    not given (`pi.Anderson()` is faster and has no proof); the others as for `DEQ`.

    **Call:** `deq(x, z0=None)`, a `Solution` like that of `DEQ`. `z0` starts the solver.

    **Derivative:** that of the adjoint for the fixed point of the splitting. Where an
    entry of W z + U x + b is zero, relu has a kink and the layer none: what relu's own
    derivative there gives is one element of the generalised Jacobian.

    **Errors:** as `pi.fixed_point`.
    """

    cell: Monotone
    splitting: ForwardBackward | PeacemanRachford = PeacemanRachford()
    solver: Any = None
    adjoint: AbstractAdjoint | None = None
    rtol: Any = None
    atol: Any = None
    max_steps: int = eqx.field(static=True, default=1000)
    throw: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if not isinstance(self.cell, Monotone):
            raise TypeError(
                "`MonotoneDEQ(cell)` must get a pi.deq.Monotone cell.\n"
                f"Got {type(self.cell).__name__}.\nFor other cells use pi.deq.DEQ."
            )

    def __call__(self, x, *, z0=None) -> Solution:
        start = self.cell.state(x) if z0 is None else z0
        prepared = self.splitting.prepare(self.cell, x)
        solution = fixed_point(
            _apply, start, (self.splitting, prepared),
            solver=Picard() if self.solver is None else self.solver,
            adjoint=default_adjoint(start) if self.adjoint is None else self.adjoint,
            rtol=self.rtol, atol=self.atol,
            max_steps=self.max_steps, throw=self.throw,
        )  # fmt: skip
        return solution._replace(value=self.splitting.readout(solution.value))

    def certificate(self) -> Certificate:
        return certificate(self.cell.W)


def _apply(z, params):
    splitting, prepared = params
    return splitting.step(z, prepared)
