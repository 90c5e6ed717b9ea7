"""How u = g is held on the boundary (or what is done instead).

| treatment | u - g on ∂Ω | energy below the minimum? |
|---|---|---|
| `Exact` | zero, by construction | never |
| `Penalty` | of the order 1/weight | by as much |
| `Nitsche` | small, no bias | possible |
| `LagrangeMultiplier` | zero in the mean, against its space | possible |
| `AugmentedLagrangian` | likewise, and small | possible |
| `Natural` | no condition on u | never |

A treatment may change the function (`field`) and add a density on the boundary, whose
weight may depend on the step and on what is held between steps (multipliers).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .domains import AbstractDomain, Nodes
from .energies import Energy, at
from .features import Enriched


class AbstractBoundary(eqx.Module):
    """`g`: the boundary values, a number or a function of x; `on`: a function of x that
    tells where on the boundary they hold, everywhere if None; `components`: which of those
    of u they are for, all if None (`g` then has as many)."""

    active: ClassVar[bool] = False  # it has a density on the boundary

    @property
    def moving(self) -> bool:
        """Whether the density changes from step to step."""
        return False

    def field(self, model: Callable, domain: AbstractDomain) -> Callable:
        """The function x -> u that the model stands for."""
        del domain
        return model

    def init(self, functional) -> Any:
        """What is held between steps: arrays."""
        del functional
        return ()

    def data(self, nodes: Nodes, step, held) -> Any:
        """What the density is told at each node: a pytree of `(n, ...)` arrays."""
        del nodes, step, held
        return ()

    def density(self, energy: Energy, x, n, u, grad_u, data) -> jax.Array:
        """The integrand on the boundary at one node, if `active`."""
        raise NotImplementedError

    def advance(self, held, problem, theta) -> Any:
        """What is held after a step of the optimiser on `problem` to `theta`."""
        del problem, theta
        return held

    def multiplier(self, held) -> Callable | None:
        """λ as a function of a node x and its normal, where there is one."""
        del held
        return None


class Natural(AbstractBoundary):
    """No condition: minimisers satisfy the natural one, σ·n = 0 or what the energy's
    boundary density says."""


class Exact(AbstractBoundary):
    """u = g + D(x) model(x), D zero on the boundary.

    `g`: must be defined in all of Ω. `distance`: D, that of the domain if None; give one
    that vanishes on a part only for conditions on that part.
    Then I(u) - min I = ½|u - u*|² in the energy norm for quadratic energies, and no
    energy lies below the minimum.
    """

    g: Any = 0.0
    distance: Callable | None = None
    components: tuple[int, ...] | None = eqx.field(static=True, default=None)

    def field(self, model, domain):
        D = domain.distance if self.distance is None else self.distance
        net, extra = model, lambda x: 0.0
        if isinstance(model, Enriched):  # its functions vanish there by themselves
            net, extra = model.net, model.extra

        def u(x):
            v, d = net(x), D(x[: domain.dim])
            if self.components is None:
                return at(self.g, x) + d * v + extra(x)
            held = jnp.asarray(self.components)
            return v.at[held].set(at(self.g, x) + d * v[held]) + extra(x)

        return u


class Penalty(AbstractBoundary):
    """Adds weight ∫ |u - g|² ds, as the paper does.

    `weight`: a number, or a function of the number of the step (an optax schedule). The
    minimiser of Poisson's energy has u - g = -∂u/∂n / (2 weight) on the boundary.
    """

    g: Any = 0.0
    weight: Any = 500.0
    on: Callable | None = None
    components: tuple[int, ...] | None = eqx.field(static=True, default=None)
    active = True

    def __check_init__(self):
        if not callable(self.weight) and not self.weight > 0:
            raise ValueError(
                f"`Penalty(weight=...)` must be positive.\nGot {self.weight!r}.\n"
                "Take 500.0, or an optax schedule that grows."
            )

    @property
    def moving(self):
        return callable(self.weight)

    def data(self, nodes, step, held):
        weight = self.weight(step) if callable(self.weight) else self.weight
        weight = jnp.asarray(weight, nodes.w.dtype)
        return jnp.broadcast_to(weight, nodes.w.shape) * where(self.on, nodes)

    def density(self, energy, x, n, u, grad_u, data):
        return data * jnp.sum(miss(self, x, u) ** 2)


def picked(held_by: Any, u: jax.Array) -> jax.Array:
    """The components of u that are held."""
    c = held_by.components
    return u if c is None else u[jnp.asarray(c)]


def miss(held_by: Any, x, u) -> jax.Array:
    """u - g, of the components that are held."""
    return picked(held_by, u) - at(held_by.g, x)


def where(on: Callable | None, nodes: Nodes) -> jax.Array:
    """1 where the condition holds, else 0, `(n,)`."""
    if on is None:
        return jnp.ones_like(nodes.w)
    return jax.vmap(on)(nodes.x).astype(nodes.w.dtype)


class Nitsche(AbstractBoundary):
    r"""Adds ∫ -σ·n (u - g) + weight |u - g|² ds with the energy's own flux σ = ∂e/∂∇u.

    The boundary condition then holds without the bias of the penalty. `weight` must be
    large enough for the energy to be bounded below (a constant over the width of what the
    model resolves); for Poisson the second variation is that of Nitsche's form.

    Source: Nitsche, *Über ein Variationsprinzip zur Lösung von Dirichlet-Problemen bei
    Verwendung von Teilräumen* (1971). doi:10.1007/BF02995904. For networks: Liao, Ming,
    *Deep Nitsche method* (2021). arXiv:1912.01309.
    """

    g: Any = 0.0
    weight: Any = 50.0
    on: Callable | None = None
    components: tuple[int, ...] | None = eqx.field(static=True, default=None)
    active = True

    def __check_init__(self):
        if not self.weight > 0:
            raise ValueError(
                f"`Nitsche(weight=...)` must be positive.\nGot {self.weight!r}.\n"
                "Take 50.0, and more for wider networks."
            )

    def data(self, nodes, step, held):
        return where(self.on, nodes)

    def density(self, energy, x, n, u, grad_u, data):
        off = miss(self, x, u)
        flux = jax.grad(lambda slope: energy.density(x, u, slope))(grad_u)
        traction = picked(self, flux @ n)
        return data * (-jnp.sum(traction * off) + self.weight * jnp.sum(off**2))
