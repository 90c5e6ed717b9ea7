"""The terms of a weak form, and the linear system that they make together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from . import recognise
from .assembly import Term, system
from .coefficients import Coefficient
from .space import Space


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A form, where it is integrated (`None`: in all cells), and its own coefficients."""

    form: Callable
    boundary: str | None = None
    own: dict[str, Any] = dataclasses.field(default_factory=dict)


def linear_system(
    V: Space,
    pieces: list[Piece],
    found: list[dict[str, Coefficient]],
    terms: list[Term],
    points,
    dtype,
) -> tuple[jax.Array, jax.Array]:
    """The matrix on `V.pattern()`, `(nnz,)`, and the residual at u = 0, `(size,)`.

    A form that is made of the operators of `pyimplicit.fem.loops` has a method

        form.loops(V, coefficients, points, boundary) -> (matrix, residual)

    with `None` for a part that is zero, or `None` for both where the loops do not fit:
    another element, or a coefficient that they do not take. In others `recognise` looks for
    such operators, and what is left is assembled as forms.
    """
    zero = jnp.zeros(V.size, jnp.finfo(dtype).dtype)
    total = [jnp.zeros(len(V.sparsity.rows), dtype), zero.astype(dtype)]
    rest = []
    for piece, coefficients, term in zip(pieces, found, terms, strict=True):
        loops = getattr(piece.form, "loops", None)
        parts = loops and loops(V, coefficients, points, piece.boundary)
        if parts is None:
            parts = recognise.matrix_and_residual(V, term, points, dtype)
        if parts is None:
            rest.append(term)
            continue
        total = [t if p is None else t + p for t, p in zip(total, parts, strict=True)]
    if rest:
        parts = system(V, rest, zero, points, dtype)
        total = [t + p for t, p in zip(total, parts, strict=True)]
    return total[0], total[1]
