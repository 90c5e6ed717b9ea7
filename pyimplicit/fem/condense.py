"""Elimination of given unknowns from a linear system."""

import jax
import jax.numpy as jnp
import numpy as np

from ..linear import SparsePattern
from ..linear.pattern import Structure
from .space import FunctionSpace, on_device, opaque


class Condensation:
    """Splits A u = b on the pattern of V into free unknowns f and given ones d:

        A_ff u_f = b_f - A_fd u_d

    which keeps the symmetry of A. `pattern` is that of A_ff, `None` if nothing is free.
    """

    def __init__(self, V: FunctionSpace, dofs: np.ndarray, structure: Structure):
        given = np.zeros(V.size, bool)
        given[dofs] = True
        self.n_free, self.n_given = V.size - len(dofs), len(dofs)
        self._split = self._order = None
        if not len(dofs):
            self.pattern: SparsePattern | None = V.pattern(structure)
            return
        rows, cols, _ = V.sparsity
        place = np.where(given, np.cumsum(given), np.cumsum(~given)) - 1
        inner = np.flatnonzero(~given[rows] & ~given[cols])
        mixed = np.flatnonzero(~given[rows] & given[cols])
        self.pattern = None
        if self.n_free:
            shape = (self.n_free, self.n_free)
            at = place[rows[inner]], place[cols[inner]]
            self.pattern = SparsePattern(*at, shape, structure)
        ends = place[rows[mixed]], place[cols[mixed]]
        index = np.flatnonzero(~given), inner, mixed, *ends
        self._split = tuple(on_device(a) for a in index)
        self._order = on_device(np.where(given, self.n_free + place, place))

    def reduce(self, values, rhs, given):
        """Entries of A_ff and b_f - A_fd u_d, from A `(nnz,)`, b `(size, ...)`, u_d."""
        if self._split is None:
            return values, rhs
        free, inner, mixed, rows, cols = map(opaque, self._split)
        terms = values[mixed] * given[cols]
        moved = jax.ops.segment_sum(terms, rows, self.n_free)
        return values[inner], rhs[free] - like(moved, rhs)

    def expand(self, x, given):
        """u from u_f, `(n_free, ...)`, and u_d."""
        if self._order is None:
            return x
        given = jnp.broadcast_to(like(given, x), (self.n_given, *x.shape[1:]))
        return jnp.concatenate([x, given])[opaque(self._order)]


def like(column, array):
    """The vector `column` with as many axes as `array`, for broadcasting."""
    return column.reshape(-1, *(1 for _ in array.shape[1:]))
