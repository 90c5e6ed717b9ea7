r"""Boundary values by a Lagrange multiplier λ, the flux -σ·n through ∂Ω.

The multiplier is a function: λ = q·n with a polynomial field q, in whose space the
conditions hold, ∫ μ (u - g) ds = 0 for all such μ (or a space that is given). So the nodes
may change from step to step. After each step, or each few, λ moves by a multiple of the L²
projection of u - g onto its space (Uzawa's iteration).
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .boundary import AbstractBoundary, miss, where
from .quadrature import sobol


class Held(NamedTuple):
    """`c`: coefficients of λ, `(k, *u.shape)`. `middle`, `half`: of a box around ∂Ω, for
    the polynomials."""

    c: jax.Array
    middle: jax.Array
    half: jax.Array


class _Multiplier(AbstractBoundary):
    """What both treatments share. Subclasses are data: `augmented`, the weight of |u - g|²
    in the energy, and `pace`, by how much λ follows u - g."""

    active = True
    g: Any = 0.0
    on: Callable | None = None
    components: tuple[int, ...] | None = None
    space: int | Callable = 4
    every: int = 1

    augmented: Any = 0.0
    pace: Any = 1.0

    @property
    def moving(self):
        return True

    def _basis(self, held, x, n):
        """Functions on the boundary at one node, `(k,)`."""
        if callable(self.space):
            return jnp.atleast_1d(self.space(x))
        t = (x - held.middle) / held.half
        powers = [jnp.ones_like(t), t]
        for _ in range(self.space - 1):
            powers.append(2 * t * powers[-1] - powers[-2])  # Chebyshev's
        table = jnp.stack(powers[: self.space + 1])
        p = jnp.stack(
            [
                jnp.prod(table[jnp.array(degrees), jnp.arange(len(t))])
                for degrees in itertools.product(range(self.space + 1), repeat=len(t))
                if sum(degrees) <= self.space
            ]
        )
        return jnp.outer(p, n).ravel()

    def init(self, functional):
        domain, theta = functional.domain, functional.theta
        t = jnp.asarray(sobol(256, domain.boundary_cube_dim, 0), theta.dtype)
        with jax.ensure_compile_time_eval():
            around = domain.boundary(t)
            low, high = around.x.min(axis=0), around.x.max(axis=0)
            half = jnp.maximum((high - low) / 2, 1e-12)
        held = Held(jnp.zeros(0), (low + high) / 2, half)
        x, n = around.x[0], around.normal[0]
        k = jax.eval_shape(lambda: self._basis(held, x, n)).shape[0]
        m = jax.eval_shape(lambda: miss(self, x, functional.field(theta)(x))).shape
        return held._replace(c=jnp.zeros((k, *m), theta.dtype))

    def data(self, nodes, step, held):
        if not isinstance(held, Held):
            raise TypeError(
                f"`{type(self).__name__}` moves its multiplier from step to step, which "
                f"only `ritz.solve` does.\nGot {held!r} in its place.\n"
                "Take ritz.Exact, ritz.Nitsche or ritz.Penalty here."
            )
        basis = jax.vmap(lambda x, n: self._basis(held, x, n))(nodes.x, nodes.normal)
        on = where(self.on, nodes)
        return on, jnp.tensordot(basis, held.c, 1)

    def density(self, energy, x, n, u, grad_u, data):
        on, multiplier = data
        off = miss(self, x, u)
        return on * (jnp.sum(multiplier * off) + self.augmented * jnp.sum(off**2))

    def advance(self, held, problem, theta):
        nodes, field = problem.rule.boundary, problem.functional.field(theta)
        w = nodes.w * where(self.on, nodes)
        basis = jax.vmap(lambda x, n: self._basis(held, x, n))(nodes.x, nodes.normal)
        off = jax.vmap(lambda x: miss(self, x, field(x)))(nodes.x)
        mass = basis.T @ (w[:, None] * basis)
        load = basis.T @ (w.reshape(-1, *[1] * (off.ndim - 1)) * off).reshape(len(w), -1)
        # Functions that agree on the boundary make the mass singular.
        projected = jnp.linalg.pinv(mass, rtol=1e-9, hermitian=True) @ load
        moved = held.c + self.pace * projected.reshape(held.c.shape)
        due = (problem.step + 1) % self.every == 0
        return held._replace(c=jnp.where(due, moved, held.c))

    def multiplier(self, held):
        """λ as a function of a node x and its normal n."""
        return lambda x, n: jnp.tensordot(self._basis(held, x, n), held.c, 1)


class LagrangeMultiplier(_Multiplier):
    r"""Adds ∫ λ (u - g) ds with a multiplier λ that moves uphill by `rate` (u - g).

    A saddle point: steps must make the energy small between two that move λ, and energies
    that are not bounded below without boundary values (Poisson's: add a constant) go astray
    until λ is near. With a reaction or Robin term the natural gradient is safe for
    `rate` below twice the least energy of boundary data over ‖data‖²; otherwise take
    `AugmentedLagrangian`.

    `space`: the degree of the polynomial field q in λ = q·n, or a function x -> `(k,)`
    whose span λ is in. `every`: steps between two moves of λ. `on`, `components`: as for
    `Penalty`. The result's `multiplier` is λ, -σ·n at the solution.

    Source: Babuška, *The finite element method with Lagrangian multipliers* (1973),
    doi:10.1007/BF01436561; Arrow, Hurwicz, Uzawa (1958).
    """

    def __init__(self, g=0.0, rate=1.0, *, space=4, every=1, on=None, components=None):
        _check("LagrangeMultiplier", "rate", rate, space, every)
        self.g, self.on, self.components = g, on, components
        self.space, self.every = space, every
        self.augmented, self.pace = 0.0, rate


class AugmentedLagrangian(_Multiplier):
    r"""Adds ∫ λ (u - g) + weight |u - g|² ds; λ moves by 2 weight (u - g).

    The penalty's bias goes away without a large weight: each move of λ makes it smaller by
    a factor of the order 1 / (1 + 2 weight c), c the energy of boundary data over its
    square. Where a rule has fewer nodes on ∂Ω than the network has ways to bend there, u
    leaves g between them: give it a larger `n_boundary`, or more cells, and look at
    `violation`, that on the fine rule. `space`, `every`, `on`, `components`: as for
    `LagrangeMultiplier`.

    Source: Hestenes (1969), doi:10.1007/BF00927673; Powell (1969). For networks: Huang,
    Wang, Zhou, *An augmented Lagrangian deep learning method for variational problems with
    essential boundary conditions* (2021). arXiv:2106.06348.
    """

    def __init__(self, g=0.0, weight=50.0, *, space=4, every=1, on=None, components=None):
        _check("AugmentedLagrangian", "weight", weight, space, every)
        self.g, self.on, self.components = g, on, components
        self.space, self.every = space, every
        self.augmented, self.pace = weight, 2 * weight


def _check(name: str, what: str, number, space, every) -> None:
    if not number > 0:
        raise ValueError(
            f"`{name}({what}=...)` must be positive.\nGot {number!r}.\nTake e.g. 1.0."
        )
    if not callable(space) and not (isinstance(space, int) and space >= 0):
        raise ValueError(
            f"`{name}(space=...)` must be a degree >= 0, or a function x -> (k,).\n"
            f"Got {space!r}.\nTake e.g. 4."
        )
    if not isinstance(every, int | np.integer) or every < 1:
        raise ValueError(
            f"`{name}(every=...)` must be a positive whole number.\nGot {every!r}.\n"
            "It is the number of steps between two moves of the multiplier."
        )
