"""Rows of a canonical form that bound one variable: a x_j ≤ b with a constant a.

As bounds they cost a number each in every step of the solve; as rows of G, a dense row.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import Tracer


@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """`rest`: the other inequalities' rows; of the lower and upper bounds each: rows,
    columns (no two the same) and the coefficients a."""

    rest: np.ndarray
    lower: tuple[np.ndarray, np.ndarray, np.ndarray]
    upper: tuple[np.ndarray, np.ndarray, np.ndarray]

    def values(self, b, n: int):
        """`(lb, ub)` (n,); None where there are none."""
        found = []
        for (rows, cols, a), none in ((self.lower, -jnp.inf), (self.upper, jnp.inf)):
            put = jnp.full(n, none, b.dtype).at[cols].set(b[rows] / a.astype(b.dtype))
            found.append(put if len(rows) else None)
        return tuple(found)

    def multipliers(self, s, m: int):
        """Of all m rows, the equalities' first, from a `QPSolution`."""
        parts = (self.lower, s.z_lb), (self.upper, s.z_ub)
        z = (
            jnp.concatenate([s.y, jnp.zeros(m - s.y.size, s.y.dtype)])
            .at[self.rest]
            .set(s.z)
        )
        for (rows, cols, a), of in parts:
            z = z.at[rows].set(of[cols] / np.abs(a).astype(of.dtype)) if len(rows) else z
        return z


def bounds(rows, cols, maps: Any, constant: int, first: int, m: int) -> Bounds:
    """Those among the entries (rows, cols) of A, whose values are `maps` (θ, 1); `constant`
    is the column of the 1, and inequalities begin at row `first`."""
    M: Any = sp.csr_array(maps)
    at_one: Any = M[:, [constant]]
    fixed = np.ravel(abs(M).sum(1) == abs(at_one).sum(1))
    value = at_one.toarray()[:, 0]
    count = np.bincount(rows, minlength=m)
    alone = (rows >= first) & (count[rows] == 1) & fixed & (value != 0)
    taken, sides = np.zeros(m, bool), []
    for sign in (-1.0, 1.0):
        at = np.flatnonzero(alone & (sign * value > 0))
        _, once = np.unique(cols[at], return_index=True)
        at = at[once]
        taken[rows[at]] = True
        sides.append((rows[at], cols[at], value[at]))
    rest = first + np.flatnonzero(~taken[first:])
    return Bounds(rest, sides[0], sides[1])


def crossed(lb, ub) -> bool:
    """Whether it is seen that lb > ub somewhere."""
    known = not any(b is None or isinstance(b, Tracer) for b in (lb, ub))
    return known and bool((lb > ub).any())
