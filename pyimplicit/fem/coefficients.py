"""Coefficients of a form: how users may give them, and their values where needed.

A coefficient is
- a number;
- an array of numbers, one per cell `(n_cells,)`, per node `(n_points,)` (interpolated
  linearly), or per quadrature point `(n_cells, n_quadrature)`;
- a function of `x`, `(dim,) -> value`, for example a network; it is called at the
  quadrature points;
- one of these arrays marked by `cellwise`, `nodal` or `quadrature`, or any array marked
  by `constant`. Marked arrays may have further axes, for vectors and matrices, and are
  needed where two meanings fit.

All are differentiated, also the parameters of a function.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .space import FunctionSpace
from .values import as_numbers


class Marked(eqx.Module):
    """An array with its meaning. A pytree: it passes through `jit`, `grad`, …"""

    values: Any
    meaning: str = eqx.field(static=True)


def cellwise(values) -> Marked:
    """`values[c]` holds in cell c: `(n_cells, ...)`."""
    return Marked(values, "cell")


def nodal(values) -> Marked:
    """`values[p]` holds at node p, linear in between: `(n_points, ...)`."""
    return Marked(values, "node")


def quadrature(values) -> Marked:
    """`values[c, q]` holds at quadrature point q of cell c: `(n_cells, nq, ...)`."""
    return Marked(values, "quadrature point")


def constant(values) -> Marked:
    """`values`, of any shape, holds everywhere."""
    return Marked(values, "constant")


def by_region(mesh, values: dict[str, Any], default=None) -> Marked:
    """A cellwise coefficient from one number for each region, `{name: value}`.

    Later names win where regions overlap. `default` holds in the other cells; without
    it each cell must be in a named region.
    """
    place = np.full(mesh.n_cells, len(values))
    for i, name in enumerate(values):
        place[mesh.region_cells(name)] = i
    if default is None and (place == len(values)).any():
        cell = np.flatnonzero(place == len(values))[0]
        raise ValueError(
            "`by_region(mesh, values)` must name a region of every cell.\n"
            f"Got none for cell {cell}.\nPass `default`, or name more regions."
        )
    table = [*values.values(), 0.0 if default is None else default]
    return cellwise(jnp.stack([jnp.asarray(v, float) for v in table])[place])


class Coefficient(NamedTuple):
    """Inexact `values`, with the leading axes that their `meaning` says."""

    meaning: str
    values: jax.Array

    def astype(self, dtype) -> "Coefficient":
        return self._replace(values=self.values.astype(dtype))


class Evaluated(NamedTuple):
    """Values with the axes `(n_cells, nq, ...)`, less those on which they do not
    depend: `by_cell` and `by_point` say which are there."""

    values: jax.Array
    by_cell: bool
    by_point: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value at a point."""
        return self.values.shape[self.by_cell + self.by_point :]

    def full(self, V: FunctionSpace) -> jax.Array:
        """The values with both axes, `(n_cells, nq, ...)`."""
        values, *there = self
        for axis, is_there in enumerate(there):
            values = values if is_there else jnp.expand_dims(values, axis)
        shape = (V.mesh.n_cells, V.n_quadrature, *values.shape[2:])
        return jnp.broadcast_to(values, shape)


def evaluate(V: FunctionSpace, c: Coefficient) -> Evaluated:
    """The coefficient's values at the quadrature points of V."""
    if c.meaning == "node":
        basis = V.array("basis").astype(c.values.dtype)
        local = c.values[V.array("cells")]  # (n_cells, k, ...)
        return Evaluated(jnp.einsum("qk,ck...->cq...", basis, local), True, True)
    by_point = c.meaning == "quadrature point"
    return Evaluated(c.values, by_point or c.meaning == "cell", by_point)


def average(V: FunctionSpace, name: str, c: Coefficient) -> jax.Array:
    """The mean of a scalar coefficient in each cell, `(n_cells,)`."""
    meaning, values = c
    n = _AXES[meaning]
    if values.ndim != n:
        raise ValueError(
            f"The coefficient {name!r} must be a scalar here.\n"
            f"Got values of shape {values.shape[n:]}.\n"
            "Write a form for vectors and matrices, e.g. dot(w.K @ grad(u), grad(v)); "
            "let a network return a scalar."
        )
    if meaning == "constant":
        return jnp.broadcast_to(values, (V.mesh.n_cells,))
    if meaning == "cell":
        return values
    if meaning == "node":
        return values[V.array("cells")].mean(axis=1)
    weights = V.quadrature_weights / V.quadrature_weights.sum()
    return values @ jnp.asarray(weights, values.dtype)


_AXES = {"constant": 0, "cell": 1, "node": 1, "quadrature point": 2}


def interpret(V: FunctionSpace, name: str, value) -> Coefficient:
    """What a coefficient depends on, and its values as an inexact array."""
    if isinstance(value, Marked):
        values = as_numbers(value.values, _called(name))
        if not _fits(V, value.meaning, values.shape):
            raise ValueError(
                f"The coefficient {name!r} must have a value per {value.meaning}: "
                f"shape {(*_shape(V, value.meaning), '...')}.\n"
                f"Got {values.shape}.\n{_sizes(V)}"
            )
        return Coefficient(value.meaning, values)
    if callable(value):
        return Coefficient("quadrature point", _call(V, name, value))
    values = as_numbers(value, _called(name))
    meanings = [
        meaning
        for meaning, axes in _AXES.items()
        if values.ndim == axes and _fits(V, meaning, values.shape)
    ]
    if len(meanings) == 1:
        return Coefficient(meanings[0], values)
    if meanings:
        raise ValueError(
            f"The coefficient {name!r} must say whether it is per "
            f"{' or per '.join(meanings)}.\n"
            f"Got shape {values.shape}, which fits both.\n"
            "Mark it: pi.fem.cellwise(a) or pi.fem.nodal(a)."
        )
    raise ValueError(
        f"The coefficient {name!r} must be a number, or an array of one number per "
        f"cell, node or quadrature point.\nGot shape {values.shape}.\n{_sizes(V)} Mark "
        "vectors and matrices, e.g. pi.fem.constant(a) or pi.fem.cellwise(a)."
    )


def _called(name: str) -> str:
    return f"The coefficient {name!r}"


def _shape(V: FunctionSpace, meaning: str) -> tuple[int, ...]:
    n_cells = V.mesh.n_cells
    return {
        "constant": (),
        "cell": (n_cells,),
        "node": (V.mesh.n_points,),
        "quadrature point": (n_cells, V.n_quadrature),
    }[meaning]


def _fits(V: FunctionSpace, meaning: str, shape) -> bool:
    wanted = _shape(V, meaning)
    return tuple(shape[: len(wanted)]) == wanted


def _sizes(V: FunctionSpace) -> str:
    return (
        f"There are {V.mesh.n_cells} cells, {V.mesh.n_points} nodes and "
        f"{V.n_quadrature} quadrature points in each cell."
    )


def _call(V: FunctionSpace, name: str, function) -> jax.Array:
    point = jax.ShapeDtypeStruct((V.mesh.dim,), V.array("x").dtype)
    out = jax.eval_shape(function, point)
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(
            f"The coefficient {name!r} must return a number for a point x.\n"
            f"Got {out}.\nIt is called with x of shape ({V.mesh.dim},)."
        )
    return as_numbers(jax.vmap(jax.vmap(function))(V.array("x")), _called(name))
