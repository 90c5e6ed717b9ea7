"""Unknowns of a canonical form that are only names for expressions of the others.

CVXPY writes ‖F x - f‖² as wᵀw with the rows F x - w = f. Unknowns of its own, w, that such
rows alone define are put in: with w = E x + e,

    ½ wᵀD w + rᵀw  =  ½ xᵀEᵀD E x + (EᵀD e + Eᵀr)ᵀx + a constant,

and the multiplier of a row is what the condition on w says, y = -(D w + r)/a, where a is
w's coefficient, a constant. E may contain parameters: the products are made when the layer
is called.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp


MOST = 10**6  # entries of E as an array


class Map:
    """v -> M v for a constant sparse matrix."""

    def __init__(self, matrix):
        M: Any = sp.coo_array(matrix)
        self.size, self.values = M.shape[0], M.data
        self.rows, self.cols = (i.astype(np.int32) for i in M.coords)

    def __call__(self, v):
        out = jnp.zeros(self.size, v.dtype)
        return out.at[self.rows].add(self.values.astype(v.dtype) * v[self.cols])


@dataclasses.dataclass(frozen=True, eq=False)
class Defined:
    """Unknowns `gone` that the equalities `rows` define, with the coefficients `a`; the
    others are `kept`, the other rows `rest`."""

    gone: np.ndarray
    rows: np.ndarray
    a: np.ndarray
    kept: np.ndarray
    rest: np.ndarray

    def split(self, P, q, A, b):
        """The parts without `gone`, `(P, q, A, b)`, and the `Substitution`."""
        unknown, equation = _places(self.kept, self.gone), _places(self.rest, self.rows)

        def part(of, on):
            rows, cols, values = (v[on] for v in of)
            return rows, cols, values

        by = np.isin(A[0], self.rows)
        E = part(A, by & ~np.isin(A[1], self.gone))
        i, j = equation[E[0]], unknown[E[1]]
        D = part(P, np.isin(P[0], self.gone))
        of_E = sp.diags_array(-1 / self.a[i]) @ E[2]
        once = sp.csr_array(
            (np.ones(len(D[0])), (unknown[D[0]], np.arange(len(D[0])))),
            shape=(self.gone.size, len(D[0])),
        )
        e = sp.diags_array(1 / self.a) @ b[self.rows]
        put_in = Substitution(
            self, (i, j, Map(of_E)), *map(Map, (e, once @ D[2], q[self.gone]))
        )
        P, A = part(P, ~np.isin(P[0], self.gone)), part(A, ~by)
        P = unknown[P[0]], unknown[P[1]], P[2]
        return (
            P,
            q[self.kept],
            (equation[A[0]], unknown[A[1]], A[2]),
            b[self.rest],
        ), put_in


def _places(*parts):
    """Where each number stands within its part."""
    out = np.zeros(sum(map(len, parts)), int)
    for part in parts:
        out[part] = np.arange(len(part))
    return out


def defined(P, A, own, constant: int, equalities: int, m: int, dense: int):
    """A `Defined`, or None if there is nothing to put in or more than `dense` unknowns
    would be left. `P`, `A`: (rows, cols, maps of (θ, 1)), the equalities first; `own`:
    which unknowns are CVXPY's; `constant`: the column of the 1."""
    n = own.size
    rows, cols, M = A
    value = M[:, [constant]].toarray()[:, 0]
    fixed = (np.ravel(abs(M).sum(1)) == abs(value)) & (value != 0)
    once = own & (np.bincount(cols, minlength=n) == 1)
    off = P[0] != P[1]
    once[np.concatenate([P[0][off], P[1][off]])] = False
    entry = np.flatnonzero(once[cols] & (rows < equalities) & fixed)
    _, first = np.unique(rows[entry], return_index=True)  # a row defines one unknown
    entry = entry[first]
    gone, kept = cols[entry], np.setdiff1d(np.arange(n), cols[entry])
    if not gone.size or kept.size > dense or kept.size * gone.size > MOST:
        return None
    rest = np.setdiff1d(np.arange(m), rows[entry])
    return Defined(gone, rows[entry], value[entry], kept, rest)


@dataclasses.dataclass(frozen=True, eq=False)
class Substitution:
    """w = E x + e and its part of the objective: `E` is (rows, cols, map of (θ, 1)), `e`,
    `D`, `r` are maps."""

    of: Defined
    E: tuple
    e: Map
    D: Map
    r: Map

    def __call__(self, P, q, theta):
        """The objective in x alone, and `(x, z) -> z`, the multipliers of all rows."""
        of, (rows, cols, values) = self.of, self.E
        zero = jnp.zeros((of.gone.size, of.kept.size), theta.dtype)
        E = zero.at[rows, cols].add(values(theta))
        e, D, r = self.e(theta), self.D(theta), self.r(theta)

        def multipliers(x, z):
            y = -(D * (E @ x + e) + r) / of.a.astype(theta.dtype)
            out = jnp.zeros(of.rest.size + of.rows.size, z.dtype)
            return out.at[of.rest].set(z).at[of.rows].set(y)

        return P + E.T @ (D[:, None] * E), q + E.T @ (D * e + r), multipliers
