"""Elimination of given and dependent unknowns from a linear system."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from ..linear import SparsePattern
from ..linear.pattern import Structure
from .permutation import Permutation
from .space import Space, on_device, opaque


class Condensation:
    """u = T x + D g with free unknowns x and given values g; then A u = b becomes

        TᵀAT x = Tᵀ(b - A D g)

    which keeps the symmetry of A. Without constraints T and D only pick. `pattern` is that
    of TᵀAT, `None` if nothing is free. `combine`: S of `constraints.combination`.
    """

    def __init__(
        self,
        V: Space,
        dofs: np.ndarray,
        structure: Structure,
        combine: sp.csr_array | None = None,
    ):
        self.structure: Structure = structure
        given = np.zeros(V.size, bool)
        given[dofs] = True
        free = ~given
        if combine is not None:
            free[np.diff(sp.csc_array(combine).indptr) == 0] = False
        self.size, self.n_given = V.size, len(dofs)
        self.n_free = int(free.sum())
        self.free, self.given = np.flatnonzero(free), np.flatnonzero(given)
        self.picks = combine is None
        self._all = self.picks and not len(dofs)
        self.pattern: SparsePattern | None = None
        if self._all:
            self.pattern = V.pattern(structure)
            return
        place = np.where(given, np.cumsum(given), np.cumsum(free)) - 1
        rows, cols, _ = V.sparsity
        if self.picks:
            stays = free[rows] & free[cols]
            inner = np.flatnonzero(stays)
            mixed = np.flatnonzero(free[rows] & given[cols])
            at = place[rows[inner]], place[cols[inner]]
            ends = place[rows[mixed]], place[cols[mixed]]
            self._entries = Permutation(np.concatenate([inner, np.flatnonzero(~stays)]))
            self._unknowns = Permutation(np.concatenate([self.free, self.given]))
            self._n_inner = len(inner)
            self._mixed = tuple(map(on_device, (mixed, *ends)))
        else:
            T, D = combine[:, self.free], combine[:, dofs]  # pyright: ignore[reportOptionalSubscript]
            at = self._combine(sp.csr_array(T), sp.csr_array(D), rows, cols)
        if self.n_free:
            shape = (self.n_free, self.n_free)
            self.pattern = SparsePattern(*at, shape, structure)

    def _combine(self, T: sp.csr_array, D: sp.csr_array, rows, cols):
        """Which entries of A go where in TᵀAT and TᵀAD, and with what factor."""
        which, left, weight = _expand(T, rows)
        entry, right, factor = _expand(T, cols[which])
        key = left[entry] * self.n_free + right
        places, slot = np.unique(key, return_inverse=True)
        self._n_inner = len(places)
        self._inner = tuple(map(on_device, (which[entry], weight[entry] * factor, slot)))
        entry, right, factor = _expand(D, cols[which])
        self._mixed = tuple(
            map(on_device, (which[entry], weight[entry] * factor, left[entry], right))
        )
        pieces = sp.csr_array(sp.hstack([T, D]))
        dof, column, weight = _expand(pieces, np.arange(self.size))
        self._pieces = tuple(map(on_device, (dof, column, weight)))
        return np.divmod(places, self.n_free)

    def matrix(self, values):
        """The entries of TᵀAT from those of A, `(nnz,)`."""
        if self._all:
            return values
        if self.picks:
            return self._entries(values)[: self._n_inner]
        entry, factor, slot = map(opaque, self._inner)
        return jax.ops.segment_sum(values[entry] * factor, slot, self._n_inner)

    def vector(self, b):
        """Tᵀb, from b `(size, ...)`."""
        if self._all:
            return b
        if self.picks:
            return self._unknowns(b)[: self.n_free]
        dof, column, weight = map(opaque, self._pieces)
        terms = b[dof] * like(weight.astype(jnp.finfo(b.dtype).dtype), b)
        n = self.n_free + self.n_given
        return jax.ops.segment_sum(terms, column, n)[: self.n_free]

    def diagonal(self, d):
        """That of Tᵀ diag(d) T, `(n_free,)`."""
        if self._all or self.picks:
            return self.vector(d)
        dof, column, weight = map(opaque, self._pieces)
        terms = d[dof] * weight.astype(d.dtype) ** 2
        n = self.n_free + self.n_given
        return jax.ops.segment_sum(terms, column, n)[: self.n_free]

    def reduce(self, values, rhs, given):
        """Entries of TᵀAT and Tᵀ(b - A D g), from A `(nnz,)`, b `(size, ...)`, g."""
        b = self.vector(rhs)
        if self._all:
            return values, b
        return self.matrix(values), b - like(self.moved(values, given), b)

    def moved(self, values, given):
        """TᵀA D g, `(n_free,)`."""
        if self.picks:
            mixed, rows, cols = map(opaque, self._mixed)
            terms = values[mixed] * given[cols]
        else:
            entry, factor, rows, cols = map(opaque, self._mixed)
            terms = values[entry] * factor * given[cols]
        return jax.ops.segment_sum(terms, rows, self.n_free)

    def expand(self, x, given):
        """u from x, `(n_free, ...)`, and g."""
        if self._all:
            return x
        given = jnp.broadcast_to(like(given, x), (self.n_given, *x.shape[1:]))
        both = jnp.concatenate([x, given])
        if self.picks:
            return self._unknowns.back(both)
        dof, column, weight = map(opaque, self._pieces)
        terms = both[column] * like(weight.astype(jnp.finfo(x.dtype).dtype), x)
        return jax.ops.segment_sum(terms, dof, self.size)

    def pick(self, u):
        """The free unknowns of u, `(size, ...)`."""
        if self._all or self.picks:
            return self.vector(u)
        return u[on_device(self.free)]


def _expand(matrix: sp.csr_array, rows: np.ndarray):
    """Each of `rows` once for each entry of that row: its number among `rows`, the column
    and the value of the entry."""
    counts = np.diff(matrix.indptr)[rows]
    which = np.repeat(np.arange(len(rows)), counts)
    ends = np.cumsum(counts)
    inside = np.arange(len(which)) - np.repeat(ends - counts, counts)
    entry = matrix.indptr[rows][which] + inside
    return which, matrix.indices[entry].astype(np.int64), matrix.data[entry]


def like(column, array):
    """The vector `column` with as many axes as `array`, for broadcasting."""
    return column.reshape(-1, *(1 for _ in array.shape[1:]))
