"""Conditions that enter the weak form: Neumann, Robin, and any form on a boundary.

    neumann={"right": g}             ∂u/∂n = g:              - ∫ g·v ds
    robin={"right": (alpha, g)}      ∂u/∂n = α (g - u):        ∫ α (u - g)·v ds
    boundary={"right": form}         any:                      ∫ form(u, v, w) ds

where ∂u/∂n stands for the flux that the form has, e.g. κ ∇u·n, or the traction σn. `g` and
`alpha` are coefficients: a number, an array per cell or node, a function of x (or for a
vector a tuple of numbers), or the *name* of a coefficient of the solve. In forms on a
boundary `w.n` is the outward unit normal.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp

from .coefficients import constant, per_facet
from .forms import inner
from .loops import assemble, fits
from .pieces import Piece
from .space import Space


@dataclasses.dataclass(frozen=True)
class Flux:
    """- ∫ g·v, `g` the name of a coefficient. `field`: which one of a mixed space."""

    g: str
    field: int | None = None

    def __call__(self, u, v, w):
        return -_product(getattr(w, self.g), _at(v, self.field))

    def loops(self, V, coefficients, points, boundary):
        """See `linear_system`."""
        if not fits(V) or self.field is not None:
            return None
        g = per_facet(V, coefficients[self.g], boundary, V.shape[1:])
        return None if g is None else (None, _load(V, -g, points, boundary))


@dataclasses.dataclass(frozen=True)
class Robin:
    """∫ α (u - g)·v, with the names of two coefficients."""

    alpha: str
    g: str
    field: int | None = None

    def __call__(self, u, v, w):
        difference = jnp.asarray(_at(u, self.field)) - jnp.asarray(getattr(w, self.g))
        return _product(getattr(w, self.alpha) * difference, _at(v, self.field))

    def loops(self, V, coefficients, points, boundary):
        """See `linear_system`."""
        if not fits(V) or self.field is not None:
            return None
        alpha = per_facet(V, coefficients[self.alpha], boundary, ())
        g = per_facet(V, coefficients[self.g], boundary, V.shape[1:])
        if alpha is None or g is None:
            return None
        at = {"boundary": boundary, "points": points}
        matrix = assemble(V, "Mass", alpha[:, None], **at)
        weighted = alpha.reshape(-1, *(1 for _ in V.shape[1:])) * g
        return matrix, _load(V, -weighted, points, boundary)


def _load(V, f, points, boundary):
    f = f.reshape(len(f), -1)
    return assemble(V, "Load", f, boundary=boundary, points=points)


def pieces(space: Space, neumann, robin, boundary) -> list[Piece]:
    """The boundary terms of a problem."""
    found = []
    for field, conditions in _by_field(space, neumann, "neumann"):
        for name, g in conditions.items():
            own, names = _named(name, "neumann", g)
            found.append(Piece(Flux(*names, field=field), name, own))
    for field, conditions in _by_field(space, robin, "robin"):
        for name, pair in conditions.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise ValueError(
                    "`robin={name: (alpha, g)}` must hold two coefficients.\n"
                    f"Got {pair!r} for {name!r}.\nE.g. (2.0, 0.0) for ∂u/∂n = -2 u."
                )
            own, names = _named(name, "robin", *pair)
            found.append(Piece(Robin(*names, field=field), name, own))
    for name, form in (boundary or {}).items():
        if not callable(form):
            raise TypeError(
                "`boundary={name: form}` must hold functions form(u, v, w).\n"
                f"Got {type(form).__name__} for {name!r}.\n"
                "For a given flux use `neumann`."
            )
        found.append(Piece(form, name))
    for piece in found:
        space.mesh.boundary_nodes(piece.boundary)  # refuses unknown names
    return found


def _by_field(space: Space, conditions, what: str):
    if not conditions:
        return []
    if len(space.parts) == 1:
        return [(None, conditions)]
    if not isinstance(conditions, tuple) or len(conditions) != len(space.parts):
        raise ValueError(
            f"`{what}` of a mixed space must be a tuple of {len(space.parts)} dicts, one "
            f"for each field.\nGot {conditions!r}.\nUse an empty dict for a field without."
        )
    return list(enumerate(c or {} for c in conditions))


def _named(boundary: str, what: str, *values):
    """Coefficients of the term's own, and the name of each of the values."""
    own, names = {}, []
    for i, value in enumerate(values):
        name = value if isinstance(value, str) else f"{what}_{boundary}_{i}"
        if not isinstance(value, str):
            own[name] = constant(jnp.stack(value)) if isinstance(value, tuple) else value
        names.append(name)
    return own, names


def _product(a, v):
    a = jnp.asarray(a)
    shape = v.shape
    return inner(jnp.broadcast_to(a, shape) if a.ndim == 0 else a, v)


def _at(u, field):
    return u if field is None else u[field]


def with_laws(form: Callable, laws: dict[str, Callable]) -> Callable:
    """The form with `laws` among the values of its third argument."""
    return lambda u, v, w: form(u, v, w.also(laws)) if laws else form(u, v, w)
