"""Dirichlet conditions: which unknowns are given, and their values."""

import jax
import jax.numpy as jnp
import numpy as np

from .space import FunctionSpace, on_device
from .values import as_numbers


class Dirichlet:
    """Conditions by boundary name; where boundaries share nodes, the later name wins.

    A value is a number; an array per unknown, `(n_dofs,)` or one entry for each of
    `V.boundary_dofs(name)`; or a function of x `(dim,)`. With several components it
    is one of these for all of them (arrays with a last axis `components`), or a tuple
    of one for each, where `None` leaves that component free.

    `dofs`: the given unknowns, sorted, as places in `u.ravel()`.
    """

    def __init__(self, V: FunctionSpace, conditions: dict):
        self.V = V
        self.conditions = dict(conditions)
        self.nodes = {n: V.boundary_dofs(n) for n in self.conditions}
        owner = np.full(V.size, -1)  # where in the list of all values
        start = 0
        for name, value in self.conditions.items():
            nodes = self.nodes[name]
            for i, part in enumerate(self._parts(name, value)):
                if part is not None:
                    owner[nodes * V.components + i] = start + np.arange(len(nodes))
                    start += len(nodes)
        self.dofs = np.flatnonzero(owner >= 0)
        self._pick = on_device(owner[self.dofs])

    def parts(self, changed: dict | None = None, points=None) -> list[jax.Array]:
        """The values at the unknowns of each condition; `changed` replaces some. `points`:
        where the unknowns are, `(n_dofs, dim)`, if the mesh is moved."""
        for name, value in (changed or {}).items():
            if name not in self.conditions:
                raise ValueError(
                    "`solve(dirichlet=...)` must name boundaries that the problem "
                    f"fixes.\nGot {name!r}.\nIt fixes {list(self.conditions)}."
                )
            free = [
                [part is None for part in self._parts(name, v)]
                for v in (value, self.conditions[name])
            ]
            if free[0] != free[1]:
                raise ValueError(
                    "`solve(dirichlet=...)` must leave the components free that the "
                    f"problem does.\nGot another choice for {name!r}.\n"
                    "Make another Problem."
                )
        conditions = self.conditions | (changed or {})
        return [
            self._at_nodes(name, part, points)
            for name, value in conditions.items()
            for part in self._parts(name, value)
            if part is not None
        ]

    def values(self, parts: list[jax.Array], dtype) -> jax.Array:
        """The values of `dofs`, from those of `parts`."""
        whole = [part.astype(dtype) for part in parts]
        return jnp.concatenate(whole)[self._pick] if whole else jnp.zeros(0, dtype)

    def _parts(self, name: str, value) -> list:
        """One value for each component."""
        c = self.V.components
        if isinstance(value, (tuple, list)) and c > 1 and len(value) == c:
            return list(value)
        if c == 1:
            return [value]
        if callable(value):
            return [lambda x, i=i: jnp.broadcast_to(value(x), (c,))[i] for i in range(c)]
        if np.ndim(value) == 0:
            return [value] * c
        if np.shape(value)[-1] != c:
            raise ValueError(
                f"The Dirichlet value of {name!r} must have {c} components.\n"
                f"Got shape {np.shape(value)}.\nUse None for a free component."
            )
        return [jnp.asarray(value)[..., i] for i in range(c)]

    def _at_nodes(self, name: str, value, points) -> jax.Array:
        nodes = self.nodes[name]
        if callable(value):
            moved = on_device(self.V.dof_points[nodes]) if points is None else points[nodes]
            value = jax.vmap(value)(moved)
        value = as_numbers(value, f"The Dirichlet value of {name!r}")
        if value.shape == (self.V.n_dofs,):
            return value[nodes]
        if value.shape in ((), (len(nodes),)):
            return jnp.broadcast_to(value, (len(nodes),))
        raise ValueError(
            f"The Dirichlet value of {name!r} must be a number, or one for each of its "
            f"{len(nodes)} nodes, or for all {self.V.n_dofs}.\n"
            f"Got shape {value.shape}.\nThe order is that of V.boundary_dofs(name)."
        )
