"""The equilibrium layer: z = cell(z, x)."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .._status import Solution
from .._tree import arrays
from ..adjoint import AbstractAdjoint, Implicit
from ..fixed_point import fixed_point
from ..linear.gmres import GMRES
from ..linear.jacobian import MatrixFree


def default_adjoint(z0) -> AbstractAdjoint:
    """LU up to 64 unknowns, which is the cheapest to compile, and as fast as any. Above,
    GMRES with a short memory: cells contract, more or less, and then 12 vectors take as
    many products as 30, and a third of the memory traffic, which in a batch outweighs the
    products. (256 wide, batch 64, gradient: LU 306 ms, GMRES(12) 27 ms of processor time.)
    """
    size = sum(jnp.size(a) for a in jax.tree.leaves(z0))
    return Implicit() if size <= 64 else Implicit(GMRES(restart=12), jacobian=MatrixFree())


class DEQ(eqx.Module):
    r"""A layer whose output is the fixed point of a cell: z = cell(z, x).

    **Arguments:**

    - `cell`: `cell(z, x, *args)`, like z in structure and shapes; a function or a module.
      Its arrays are the parameters of the layer. Written for one sample.
    - `solver`: as of `pi.fixed_point`; `pi.Anderson()` if not given.
    - `adjoint`: `pi.Implicit()`, `Unroll`, `Phantom`, `OneStep`, `Reversible`. By default
      `Implicit`, by LU up to 64 unknowns, above by GMRES(12) without a matrix. Where a
      cell does not contract, and that fails (it is checked), take
      `pi.Implicit(jacobian=pi.Dense())`, or a longer `pi.Implicit(pi.GMRES(restart=60))`.
    - `init`: where the solver starts if no `z0` is given: a function (or network) of x.
      By default `cell.state(x)` if the cell has such a method, else zeros like x.
    - `rtol`, `atol`, `max_steps`, `throw`: as of `pi.fixed_point`.

    **Call:** `deq(x, *args, z0=None)` returns a `Solution`: `value` z, `status`, and
    `stats` "iterations" and "residual". `args` go to the cell: what changes from call to
    call, a dropout mask for example (see `dropout_mask`), is an argument, so that all
    evaluations of one solve and its adjoint see the same map. `z0`: a warm start.

    For a batch use `jax.vmap(deq)`: each sample stops by itself, its answer does not
    depend on its mates, and status and stats are per sample.

    A cell with a state (`eqx.nn.SpectralNorm`) gets it as an argument and leaves it as it
    is (`inference=True`); it is brought up to date between solves.

    **Derivative:** that of the adjoint, in x, `args` and the cell. `z0` and `init` have
    none: train an `init` network by `start_loss`.

    ??? cite "Reference"
        Bai, Kolter, Koltun, *Deep equilibrium models*, NeurIPS 2019. arXiv:1909.01377
    """

    cell: Callable
    solver: Any = None
    adjoint: AbstractAdjoint | None = None
    init: Callable | None = None
    rtol: Any = None
    atol: Any = None
    max_steps: int = eqx.field(static=True, default=256)
    throw: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if not callable(self.cell):
            raise TypeError(
                "`DEQ(cell)` must get a function cell(z, x).\n"
                f"Got {type(self.cell).__name__}.\nPass a function or an equinox module."
            )

    def __call__(self, x, *args, z0=None) -> Solution:
        z0 = self.start(x, *args) if z0 is None else z0
        step, params = as_map(self.cell, arrays(x), *args)
        return fixed_point(step, z0, params, **self.options(z0))

    def start(self, x, *args):
        """The state the solver starts from, checked against the cell."""
        if self.init is not None:
            return self.init(x)
        if (state := getattr(self.cell, "state", None)) is not None:
            return state(x)
        z0 = jax.tree.map(jnp.zeros_like, arrays(x))
        shapes = lambda tree: jax.tree.map(jnp.shape, tree)
        try:
            out = eqx.filter_eval_shape(self.cell, z0, x, *args)
            fits = shapes(out) == shapes(z0)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "`DEQ` must know the shape of its state; zeros like x do not fit.\n"
                f"Got x of shape {shapes(x)}.\n"
                "Pass z0=..., or DEQ(cell, init=lambda x: jnp.zeros(...))."
            )
        return z0

    def start_loss(self, x, z):
        """‖init(x) - z‖² per entry, for training `init` towards the solution z (held
        fixed): the loss of "skip" models (Pal et al. 2022, arXiv:2201.12240)."""
        guess = self.start(x)
        square = lambda a, b: jnp.sum((a - jax.lax.stop_gradient(b)) ** 2)
        total = sum(jax.tree.leaves(jax.tree.map(square, guess, z)))
        return total / sum(jnp.size(a) for a in jax.tree.leaves(guess))

    def options(self, z0) -> dict[str, Any]:
        adjoint = default_adjoint(z0) if self.adjoint is None else self.adjoint
        return dict(
            solver=self.solver, adjoint=adjoint, rtol=self.rtol, atol=self.atol,
            max_steps=self.max_steps, throw=self.throw,
        )  # fmt: skip


class Map(eqx.Module):
    """`map(z, params)`: the cell with the arrays `params` in it. What else it is made of
    (functions, flags) compares by value, so that compiled solves are found again."""

    static: Any

    def __call__(self, z, params):
        cell, x, args = eqx.combine(params, self.static)
        return cell(z, x, *args)


def as_map(cell, x, *args) -> tuple[Map, Any]:
    """The fixed-point map of the cell, and its parameters."""
    params, static = eqx.partition((cell, x, args), eqx.is_array)
    return Map(static), params


def dropout_mask(key: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Zeros with probability `rate`, else 1/(1 - rate): to be multiplied with.

    One mask for a whole solve ("variational" dropout, Gal, Ghahramani 2016,
    arXiv:1512.05287): with fresh noise in each step there would be no fixed point.
    """
    if not 0 <= rate < 1:
        raise ValueError(
            f"`dropout_mask(rate=...)` must lie in [0, 1).\nGot {rate}.\n"
            "It is the part that is set to zero."
        )
    kept = jax.random.bernoulli(key, 1 - rate, shape)
    return kept / (1 - rate)
