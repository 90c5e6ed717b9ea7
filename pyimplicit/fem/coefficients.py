"""Coefficients of a form: how users may give them, and their values where needed.

A coefficient is
- a number;
- an array of numbers, one per cell `(n_cells,)`, per node `(n_points,)` (interpolated
  linearly), or per quadrature point `(n_cells, n_quadrature)`;
- a function of `x`, `(dim,) -> value`, for example a network; it is called at the
  quadrature points;
- one of these arrays marked by `cellwise`, `nodal` or `quadrature`, or any array marked
  by `constant`. Marked arrays may have further axes, for vectors and matrices, and are
  needed where two meanings fit;
- `function(V, u)`, a function in a space, of which forms may take `grad`;
- `law(f)`: any function, e.g. a network of u or of grad(u), handed to the form as it is:
  `w.kappa(u)`.

All are differentiated, also the parameters of a function. On a boundary, values per cell
are those of the cell at the facet.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .domain import Domain
from .forms import Field
from .space import FunctionSpace, Space
from .values import as_numbers


class Marked(eqx.Module):
    """A coefficient with its meaning. A pytree: it passes through `jit`, `grad`, …"""

    values: Any
    meaning: str = eqx.field(static=True)
    space: FunctionSpace | None = eqx.field(static=True, default=None)


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


def function(V: FunctionSpace, u) -> Marked:
    """The function in V with coefficients `u`, of shape `V.shape`, on the same mesh."""
    return Marked(u, "function", V)


def law(f) -> Marked:
    """`f` itself: in the form, `w.NAME` is this function."""
    return Marked(f, "law")


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
    """Inexact `values`, with the leading axes that their `meaning` says. `of`: the function
    of x that gave them, or the space of a function."""

    meaning: str
    values: Any
    of: Any = None

    def astype(self, dtype) -> "Coefficient":
        if self.meaning == "law":
            return self
        return self._replace(values=self.values.astype(dtype))

    def struct(self, dim: int):
        """What a form gets of it at one point."""
        struct = lambda shape: jax.ShapeDtypeStruct(shape, self.values.dtype)
        if self.meaning == "function":
            shape = self.of.shape[1:]
            return Field(struct(shape), struct((*shape, dim)))
        return struct(self.values.shape[_AXES[self.meaning] :])


class Evaluated(NamedTuple):
    """Values with the axes `(n, nq, ...)` of a domain, less those on which they do not
    depend: `by_cell` and `by_point` say which are there. With an `element`, not values but
    the coefficients `(n, k, ...)` of a function, which is a `field` (with a gradient) or
    only a value."""

    values: jax.Array
    by_cell: bool
    by_point: bool
    element: Any = None
    field: bool = False
    components: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a value at a point."""
        if self.field:
            return () if self.components == 1 else (self.components,)
        return self.values.shape[self.by_cell + self.by_point :]

    def full(self, V: FunctionSpace) -> jax.Array:
        """The values in all cells with both axes, `(n_cells, nq, ...)`."""
        values, *there = self[:3]
        if self.element is not None:
            basis = V.domain().table(self.element)[0][0].astype(values.dtype)
            values, there = jnp.einsum("qk,ck...->cq...", basis, values), (True, True)
        for axis, is_there in enumerate(there):
            values = values if is_there else jnp.expand_dims(values, axis)
        shape = (V.mesh.n_cells, V.n_quadrature, *values.shape[2:])
        return jnp.broadcast_to(values, shape)


def evaluate(V: Space, c: Coefficient, domain: Domain | None = None, x=None) -> Evaluated:
    """The coefficient's values on a domain (by default all cells), whose quadrature points
    are `x`, `(n, nq, dim)`."""
    domain = V.domain() if domain is None else domain
    meaning, values, of = c
    if meaning == "constant":
        return Evaluated(values, False, False)
    if meaning == "cell":
        values = values if domain.name is None else values[V.array("cells of", domain)]
        return Evaluated(values, True, False)
    if meaning == "node":
        local = values[V.array("nodes", domain)]
        return Evaluated(local, True, True, domain.geometry)
    if meaning == "function":
        local = values.reshape(of.n_dofs, of.components)[of.array("cells")]
        if domain.name is not None:
            local = local[V.array("cells of", domain)]
        return Evaluated(local, True, True, of.element, True, of.components)
    if domain.name is not None:
        if of is None:
            raise ValueError(
                "A coefficient on a boundary must be a number, one per cell or node, or a "
                "function.\nGot one per quadrature point of the cells.\n"
                "Pass a function of x."
            )
        values = jax.vmap(jax.vmap(of))(x).astype(values.dtype)
    return Evaluated(values, True, True)


def average(V: FunctionSpace, name: str, c: Coefficient) -> jax.Array:
    """The mean of a scalar coefficient in each cell, `(n_cells,)`."""
    meaning, values, _ = c
    if meaning == "function":
        full = evaluate(V, c).full(V)
        meaning, values = "quadrature point", full[..., 0] if c.of.components == 1 else full
    n = _AXES.get(meaning, -1)
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
        values = evaluate(V, c).full(V)
    if V.domain().affine:
        weights = V.quadrature_weights / V.quadrature_weights.sum()
        return values @ jnp.asarray(weights, values.dtype)
    weights = V.array("weights").astype(values.dtype)
    return jnp.sum(values * weights, axis=1) / jnp.sum(weights, axis=1)


def averages(V: FunctionSpace, function, *given: Coefficient):
    """The means `(n_cells,)` of what `function` makes of scalar coefficients, where cells
    are simplices with straight sides; `None` if one of these is no scalar."""
    if any(c.meaning == "law" or _rest(c) != () for c in given):
        return None
    if all(c.meaning in ("constant", "cell") for c in given):
        rows = (jnp.broadcast_to(c.values, (V.mesh.n_cells,)) for c in given)
        return function(*rows)
    weights = V.quadrature_weights / V.quadrature_weights.sum()
    full = (evaluate(V, c).full(V).reshape(V.mesh.n_cells, -1) for c in given)
    return jax.tree.map(lambda a: a @ jnp.asarray(weights, a.dtype), function(*full))


def per_facet(V: FunctionSpace, c: Coefficient, boundary: str, shape: tuple[int, ...]):
    """A coefficient that is constant on each facet, as an array `(n_facets, *shape)`, a
    number standing for all of them; `None` if it varies, or has another shape."""
    if c.meaning not in ("constant", "cell") or _rest(c) not in ((), shape):
        return None
    domain = V.domain(boundary)
    rows = jnp.broadcast_to(evaluate(V, c, domain).values, (domain.n, *_rest(c)))
    rows = rows.reshape(domain.n, *(_rest(c) or (1,) * len(shape)))
    return jnp.broadcast_to(rows, (domain.n, *shape))


def _rest(c: Coefficient) -> tuple[int, ...]:
    if c.meaning == "function":
        return tuple(c.of.shape[1:])
    return tuple(c.values.shape[_AXES[c.meaning] :])


_AXES = {"constant": 0, "cell": 1, "node": 1, "quadrature point": 2}


def interpret(V: Space, name: str, value, x=None) -> Coefficient:
    """What a coefficient depends on, and its values as an inexact array. `x`: the
    quadrature points in the cells, if not those of V."""
    if isinstance(value, Marked) and value.meaning == "law":
        return _check_law(name, value)
    if isinstance(value, Marked) and value.meaning == "function":
        return _check_function(V, name, value)
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
        x = V.array("x") if x is None else x
        return Coefficient("quadrature point", _call(name, value, x), value)
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


def _check_law(name: str, value: Marked) -> Coefficient:
    if not callable(value.values):
        raise TypeError(
            f"The coefficient {name!r}, a `law`, must be a function.\n"
            f"Got {type(value.values).__name__}.\nPass numbers and arrays without `law`."
        )
    return Coefficient("law", value.values)


def _check_function(V: Space, name: str, value: Marked) -> Coefficient:
    values, space = as_numbers(value.values, _called(name)), value.space
    if not isinstance(space, FunctionSpace) or space.mesh is not V.mesh:
        raise ValueError(
            f"The coefficient {name!r} must be a function on the mesh of the problem.\n"
            f"Got {space!r}.\nInterpolate it: point_evaluation(W, V.dof_points)(u)."
        )
    if values.shape != space.shape:
        raise ValueError(
            f"The coefficient {name!r} must have shape {space.shape}.\n"
            f"Got {values.shape}.\nPass the coefficients of a function in its space."
        )
    return Coefficient("function", values, space)


def _called(name: str) -> str:
    return f"The coefficient {name!r}"


def _shape(V: Space, meaning: str) -> tuple[int, ...]:
    n_cells = V.mesh.n_cells
    return {
        "constant": (),
        "cell": (n_cells,),
        "node": (V.mesh.n_points,),
        "quadrature point": (n_cells, V.n_quadrature),
    }[meaning]


def _fits(V: Space, meaning: str, shape) -> bool:
    wanted = _shape(V, meaning)
    return tuple(shape[: len(wanted)]) == wanted


def _sizes(V: Space) -> str:
    return (
        f"There are {V.mesh.n_cells} cells, {V.mesh.n_points} nodes and "
        f"{V.n_quadrature} quadrature points in each cell."
    )


def _call(name: str, function, x) -> jax.Array:
    point = jax.ShapeDtypeStruct(x.shape[2:], x.dtype)
    out = jax.eval_shape(function, point)
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(
            f"The coefficient {name!r} must return a number for a point x.\n"
            f"Got {out}.\nIt is called with x of shape {x.shape[2:]}."
        )
    return as_numbers(jax.vmap(jax.vmap(function))(x), _called(name))


def structs_at(V: Space, domain, coefficients: dict[str, Coefficient], dtype) -> dict:
    """What `w` holds at a point, as structs."""
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.finfo(dtype).dtype)
    dim = V.mesh.dim
    w = {"x": struct(dim), "h": struct()}
    if domain.facet is not None:
        w["n"] = struct(dim)
    others = {n: c for n, c in coefficients.items() if c.meaning != "law"}
    return w | {n: c.struct(dim) for n, c in others.items()}
