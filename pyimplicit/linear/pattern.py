"""Where the entries of a sparse matrix stand."""

import functools
import hashlib
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .. import engine


Structure = Literal["general", "symmetric", "spd", "quasidefinite"]


class SparsePattern:
    """The places of the stored entries of a sparse matrix: static, compared by content.

    `rows`, `cols`: integers of shape `(nnz,)`, in any order, each place once.
    `shape`: `(n, m)`; only square patterns can be solved with.
    `structure`: "general"; "symmetric" (both triangles are stored; A equals its
    transpose, also if complex); "spd" (symmetric and positive definite, real);
    "quasidefinite" (symmetric and real, a positive and a negative definite diagonal block
    in any order: it is factorised without pivoting, and the residual judges).

    With a symmetric structure the matrix of `values` is *defined* as the symmetric part
    of what is stored, (A + Aᵀ)/2. Then every stored entry has a derivative, and it
    agrees with finite differences in that entry alone; a solver that reads one triangle
    would not.
    """

    def __init__(self, rows, cols, shape, structure: Structure = "general"):
        self.shape = _check_shape(shape)
        self.structure: Structure = _check_structure(structure)
        self.rows = _check_indices(rows, "rows", self.shape[0])
        self.cols = _check_indices(cols, "cols", self.shape[1])
        if self.rows.size != self.cols.size:
            raise ValueError(
                "`SparsePattern(rows, cols)` must have as many rows as columns.\n"
                f"Got {self.rows.size} and {self.cols.size}.\n"
                "Pass one row and one column number for each stored entry."
            )
        place = self.rows * self.shape[1] + self.cols
        order = np.argsort(place, kind="stable")
        same = np.flatnonzero(np.diff(place[order]) == 0)
        if same.size:
            a, b = sorted(order[same[0] : same[0] + 2])
            raise ValueError(
                "`SparsePattern(rows, cols)` must name each place once.\n"
                f"Got ({self.rows[a]}, {self.cols[a]}) as entries {a} and {b}.\n"
                "Sum duplicates first, e.g. by jax.ops.segment_sum."
            )
        self.partner = self._partners(place, order) if structure != "general" else None
        self.rows.flags.writeable = self.cols.flags.writeable = False
        digest = hashlib.sha256(repr((self.shape, structure)).encode())
        digest.update(self.rows.tobytes())
        digest.update(self.cols.tobytes())
        self.key = int.from_bytes(digest.digest()[:8], "little") >> 1

    def _partners(self, place, order) -> np.ndarray:
        n, m = self.shape
        if n != m:
            raise ValueError(
                f"`SparsePattern(structure={self.structure!r})` must be square.\n"
                f"Got shape {self.shape}.\nUse structure='general'."
            )
        wanted = self.cols * m + self.rows
        at = np.searchsorted(place[order], wanted).clip(max=max(place.size - 1, 0))
        partner = order[at] if place.size else order
        missing = np.flatnonzero(place[partner] != wanted)
        if missing.size:
            i, j = self.rows[missing[0]], self.cols[missing[0]]
            raise ValueError(
                f"`SparsePattern(structure={self.structure!r})` must store both "
                f"triangles.\nGot ({i}, {j}) without ({j}, {i}).\n"
                "Add the missing places (their values may be 0), or use "
                "structure='general'."
            )
        return partner

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.rows.size

    def __repr__(self) -> str:
        n, m = self.shape
        return f"SparsePattern({n} x {m}, {self.nnz} entries, {self.structure!r})"

    def __eq__(self, other) -> bool:
        return isinstance(other, SparsePattern) and (
            self is other or (self.key == other.key and self._same(other))
        )

    def _same(self, other: "SparsePattern") -> bool:
        return (
            (self.shape, self.structure) == (other.shape, other.structure)
            and np.array_equal(self.rows, other.rows)
            and np.array_equal(self.cols, other.cols)
        )

    def __hash__(self) -> int:
        return self.key

    @functools.cached_property
    def _device_indices(self):
        with jax.ensure_compile_time_eval():  # real arrays, even inside a trace
            return tuple(
                None if i is None else jnp.asarray(i.astype(np.int32))
                for i in (self.rows, self.cols, self.partner)
            )

    def symmetrise(self, values):
        """The values of the matrix: those given, or the symmetric part of them."""
        partner = self._device_indices[2]
        return values if partner is None else (values + values[partner]) / 2

    def matvec(self, values, x, transpose: bool = False):
        """`A @ x`, or `A.T @ x`, for `values` of shape `(nnz,)` and a vector `x`."""
        rows, cols, _ = self._device_indices
        n, m = self.shape
        if transpose:
            rows, cols, n, m = cols, rows, m, n
        # The places were checked: where they are read in the transpose, nobody need.
        add = lambda y, at, terms: y.at[at].add(terms, mode="promise_in_bounds")
        y = add(jnp.zeros(n, jnp.result_type(values, x)), rows, values * x[cols])
        # The symmetric part written out: transposed in `values` it is two gathers, where
        # `symmetrise` would become a scatter, which is slow.
        return y if self.partner is None else add(y, cols, values * x[rows]) / 2

    def todense(self, values):
        """The matrix as an array of `shape`."""
        rows, cols, _ = self._device_indices
        values = self.symmetrise(jnp.asarray(values))
        return jnp.zeros(self.shape, values.dtype).at[rows, cols].set(values)

    def register(self) -> None:
        """Makes the pattern known to the current engine; a second time is free."""
        engine.register_pattern(
            self.key, self.shape[0], self.rows, self.cols, self.partner, self.structure
        )


def _check_shape(shape) -> tuple[int, int]:
    shape = tuple(int(n) for n in shape)
    if len(shape) != 2 or min(shape) < 1 or max(shape) >= 2**31:
        raise ValueError(
            "`SparsePattern(shape=...)` must be two positive numbers below 2**31.\n"
            f"Got {shape}.\nPass (rows, columns) of the matrix."
        )
    return shape


def _check_structure(structure) -> Structure:
    if structure not in get_args(Structure):
        raise ValueError(
            "`SparsePattern(structure=...)` must be one of "
            f"{', '.join(map(repr, get_args(Structure)))}.\nGot {structure!r}.\n"
            "If in doubt, use 'general'."
        )
    return structure


def _check_indices(given, name: str, bound: int) -> np.ndarray:
    if isinstance(given, Tracer):
        raise TypeError(
            f"`SparsePattern({name}=...)` must be known before a function is traced.\n"
            "Got a traced array.\nBuild the pattern outside jit, grad and vmap."
        )
    index = np.asarray(given)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"`SparsePattern({name}=...)` must be a vector of integers.\n"
            f"Got {index.dtype} of shape {index.shape}.\n"
            "Pass one number for each stored entry."
        )
    outside = np.flatnonzero((index < 0) | (index >= bound))
    if outside.size:
        raise ValueError(
            f"`SparsePattern({name}=...)` must lie in 0..{bound - 1}.\n"
            f"Got {index[outside[0]]} as entry {outside[0]}.\n"
            "Numbers count from zero; look at `shape`."
        )
    return index.astype(np.int64)
