"""The embedded engine: sparse solves in process with SciPy's SuperLU, called by XLA.

Factors are kept per pattern *together with the values they were made from*, and one is
reused when the values are equal. So a forward solve, its transposed solves, tangents
and second derivatives share one factorisation, with no handle for anybody to lose.
"""

import dataclasses
import functools
import threading
from collections import Counter, OrderedDict

import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from threadpoolctl import ThreadpoolController

from .._config import config
from .._status import Status


# A solve is accepted at this normwise backward error |Ax - b| / (|A||x| + |b|)
# (Rigal & Gaches 1967, doi:10.1145/321406.321416), and refined once above `REFINE`.
ACCEPT, REFINE = 1e-10, 1e-13
# An x of this times |b| / |A| is null space, which a small residual does not show. (Pivots
# of a quasi-definite matrix are not judged; its regularisation allows some 1e10.)
UNDETERMINED = 1e14
# Values of a symmetric pattern may differ across the diagonal by this part of the
# largest entry: enough for finite differences, not for an advection term.
ASYMMETRY = 1e-3


@dataclasses.dataclass(eq=False)
class Pattern:
    """Compressed columns of a pattern, its ordering and its factors."""

    n: int
    indptr: np.ndarray
    indices: np.ndarray
    slot: np.ndarray  # entry k of the columns is `values[slot[k]]`
    partner: np.ndarray | None  # position of (j, i) for entry (i, j); None if general
    structure: str
    order: np.ndarray | None = None  # column ordering, found by the first factorisation
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """A factorisation of the (symmetrised) matrix `A`, and what became of it."""

    A: sp.csc_array
    status: Status
    lu: spla.SuperLU | None = None
    scale: np.ndarray | None = None  # rows were multiplied by it
    order: np.ndarray | None = None  # columns (and rows, if spd) were taken in it
    symmetric: bool = False
    nbytes: int = 0
    judged: bool = True  # its pivots were

    @functools.cached_property
    def norms(self) -> tuple[float, float]:
        """The largest row sum of |A|, and of its transpose."""
        size = abs(self.A)
        return size.sum(1).max(), size.sum(0).max()

    def solve(self, b: np.ndarray, transpose: bool) -> np.ndarray:
        """Solves with `b` of shape `(n, k)`."""
        if self.lu is None:
            raise RuntimeError("A failed factorisation cannot solve.")
        p = self.order
        if self.symmetric:
            x = np.empty_like(b)
            x[p] = self.lu.solve(b[p], "N")
            return x
        s = 1.0 if self.scale is None else self.scale[:, None]
        if transpose:
            return s * self.lu.solve(np.ascontiguousarray(b[p]), "T")
        x = np.empty_like(b)
        x[p] = self.lu.solve(s * b, "N")
        return x


class _OneBlasThread:
    """SuperLU's dense blocks are small: a threaded BLAS makes them ten times slower when
    the cores are busy. Nested and concurrent use is counted; the last one out restores."""

    def __init__(self):
        self._lock, self._users, self._limit = threading.Lock(), 0, None

    def __enter__(self):
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limit = self._controller.limit(limits=1, user_api="blas")

    def __exit__(self, *_):
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._limit is not None:
                self._limit.restore_original_limits()

    @functools.cached_property
    def _controller(self) -> ThreadpoolController:
        return ThreadpoolController()  # looks at every loaded library, once


one_blas_thread = _OneBlasThread()
_patterns: dict[int, Pattern] = {}
_factors: "OrderedDict[tuple, Factor]" = OrderedDict()
_lock = threading.Lock()
_counts: Counter = Counter()


def register_pattern(key: int, n: int, rows, cols, partner, structure: str) -> None:
    """Makes a pattern known under its content key; a second time does nothing."""
    if key in _patterns:
        return
    slot = np.lexsort((rows, cols))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(cols, minlength=n))])
    _patterns[key] = Pattern(n, indptr, np.asarray(rows)[slot], slot, partner, structure)


def counters() -> dict[str, int]:
    """Work done since the last `clear`: factorisations, cache_hits, solves, …"""
    with _lock:
        kept = sum(f.nbytes for f in _factors.values())
        return {
            name: _counts[name]
            for name in ("analyses", "factorisations", "cache_hits", "solves")
        } | {"bytes": kept, "factors": len(_factors)}


def clear() -> None:
    """Drops all factors and sets the counters to zero."""
    with _lock:
        _factors.clear()
        _counts.clear()


def sparse_solve(inputs, outputs, attributes) -> None:
    """The operation that XLA calls: one or many matrices of one pattern, one or many
    right-hand sides each. See `linear/solve.py` for its contract."""
    values, b = inputs
    x, status, residual = outputs
    pattern = known_pattern(attributes["pattern"])
    transpose = bool(attributes["transpose"])
    batch = x.shape[:-1]
    which = np.broadcast_to(
        np.arange(values[..., 0].size).reshape(values.shape[:-1]), batch
    ).ravel()
    b = np.broadcast_to(b, x.shape).reshape(-1, pattern.n)
    x_flat = x.reshape(-1, pattern.n)
    with one_blas_thread:
        for m, v in enumerate(values.reshape(-1, values.shape[-1])):
            samples = np.flatnonzero(which == m)
            factor = factorise(attributes["pattern"], pattern, v)
            solved, code, eta = solve(factor, b[samples].T, transpose)
            x_flat[samples] = solved.T
            status.reshape(-1)[samples] = code
            residual.reshape(-1)[samples] = eta
    if attributes["throw"] and status.any():
        first = int(np.flatnonzero(status.reshape(-1))[0])
        raise ValueError(failure(pattern, status.reshape(-1)[first], first, status.size))


def known_pattern(key: int) -> Pattern:
    """The pattern with this content key."""
    if key not in _patterns:
        raise RuntimeError(
            "The compiled function refers to a sparse pattern of another process. "
            "Build its SparsePattern here before calling it."
        )
    return _patterns[key]


def matrix(pattern: Pattern, values: np.ndarray) -> sp.csc_array:
    """The matrix that `values` stand for: their symmetric part, if the pattern says so."""
    if pattern.partner is not None:
        values = (values + values[pattern.partner]) / 2
    entries = values[pattern.slot], pattern.indices, pattern.indptr
    return sp.csc_array(entries, shape=(pattern.n, pattern.n))


def failure(pattern, code: int, sample: int, nsamples: int) -> str:
    """The message of a failed solve; Julia's says the same."""
    which = f", sample {sample} of {nsamples}" if nsamples > 1 else ""
    return (
        f"sparse_solve: {Status(code).message}. Matrix: {pattern.n} x {pattern.n}, "
        f"{pattern.slot.size} entries, '{pattern.structure}'{which}."
    )


def solve(factor: Factor, b: np.ndarray, transpose: bool):
    """Solutions, status and backward error of the columns of `b`, NaN where failed."""
    dtype = factor.A.dtype
    k = b.shape[1]
    with _lock:
        _counts["solves"] += k
    if factor.status != Status.converged:
        nan = np.full(b.shape, np.nan, dtype)
        return nan, np.full(k, factor.status), np.full(k, np.nan)
    b = np.ascontiguousarray(b, dtype)
    finite = np.isfinite(b).all(0)
    b = np.where(finite, b, 0)
    A = factor.A.T if transpose else factor.A
    norm = factor.norms[transpose]
    x = factor.solve(b, transpose)
    for attempt in range(2):
        r = b - A @ x
        size = norm * abs(x).max(0) + abs(b).max(0)
        eta = abs(r).max(0) / np.where(size == 0, 1.0, size)
        if attempt or not (eta > REFINE).any():
            break
        x = x + factor.solve(r, transpose)
    code = np.where(eta <= ACCEPT, Status.converged, Status.inaccurate)
    if not factor.judged:
        null = abs(x).max(0) * (norm / UNDETERMINED) > abs(b).max(0)
        code = np.where(null, Status.singular, code)
    code = np.where(finite, code, Status.nonfinite)
    return np.where(code == Status.converged, x, np.nan), code, eta


def factorise(key: int, pattern: Pattern, values: np.ndarray) -> Factor:
    """The factor of these values: a kept one if they are the same, else a new one."""
    wide = np.complex128 if np.iscomplexobj(values) else np.float64
    values = np.array(values, wide)  # a copy: XLA's buffer is not ours to keep
    name = (key, wide, values.tobytes())
    with pattern.lock:  # one thread makes the factor, the others wait and find it
        with _lock:
            if factor := _factors.get(name):
                _factors.move_to_end(name)
                _counts["cache_hits"] += 1
                return factor
            _counts["factorisations"] += 1
        factor = _new_factor(pattern, values)
        with _lock:
            _factors[name] = factor
            kept = sum(f.nbytes for f in _factors.values())
            while kept > config().cache_bytes and len(_factors) > 1:
                kept -= _factors.popitem(last=False)[1].nbytes
        return factor


def _new_factor(pattern: Pattern, values: np.ndarray) -> Factor:
    n = pattern.n
    nothing = sp.csc_array((n, n), dtype=values.dtype)
    if not np.isfinite(values).all():
        return Factor(nothing, Status.nonfinite, nbytes=2 * values.nbytes)
    if pattern.partner is not None:
        other = values[pattern.partner]
        if abs(values - other).max(initial=0) > ASYMMETRY * abs(values).max(initial=0):
            return Factor(nothing, Status.not_symmetric, nbytes=2 * values.nbytes)
    A = matrix(pattern, values)
    # SuperLU orders anew for every matrix. The ordering depends on the pattern alone,
    # so it is found once and the columns are handed over in that order afterwards.
    first = pattern.order is None
    order = np.arange(n) if first else pattern.order
    assert order is not None
    spd, quasi = pattern.structure == "spd", pattern.structure == "quasidefinite"
    if spd or quasi:
        scale, M = None, A if first else A[order][:, order]
        how = {
            "permc_spec": "MMD_AT_PLUS_A",
            "diag_pivot_thresh": 0.0,
            "options": {"SymmetricMode": True, "Equil": False},
        }
        reference = abs(A.diagonal())
    else:
        rowmax = abs(A).max(1).toarray().ravel()
        if not rowmax.all():
            return Factor(A, Status.singular, nbytes=2 * values.nbytes)
        scale = 1 / rowmax
        S = sp.csc_array(sp.diags_array(scale) @ A)
        M = S if first else S[:, order]
        how = {"permc_spec": "COLAMD", "options": {"Equil": False}}
        reference = abs(S).max(0).toarray().ravel()
    if not first:
        how["permc_spec"] = "NATURAL"
    try:
        lu = spla.splu(sp.csc_matrix(M), **how)
    except RuntimeError:  # "Factor is exactly singular"
        return Factor(A, Status.singular, nbytes=2 * values.nbytes)
    # What elimination left of a pivot, relative to what stood there before: invariant
    # under scaling of rows and columns, round-off for a singular matrix.
    pivots = lu.U.diagonal()
    inner = np.argsort(lu.perm_c)
    left = pivots if spd else abs(pivots)
    before = reference[order][inner]
    ratio = left / np.where(before == 0, 1.0, before)
    status = Status.converged
    # The smallest pivots of a quasi-definite matrix are its regularisation's, which the
    # caller refines away: the residual judges alone.
    if not (quasi or ratio.min(initial=1.0) > singular_below(n)):
        negative = spd and ratio.min() < -singular_below(n)
        status = Status.not_positive_definite if negative else Status.singular
    if first:
        with _lock:
            _counts["analyses"] += 1
        pattern.order = inner
    nbytes = int(lu.nnz) * (values.itemsize + 4) + 3 * values.nbytes
    return Factor(A, status, lu, scale, order, spd or quasi, nbytes, not quasi)


def singular_below(n: int) -> float:
    """Relative pivots below this are round-off. Seen on Neumann problems of up to 90,000
    unknowns: up to 3e-11; on Dirichlet problems of contrast 1e12: above 1e-7."""
    return 10 * np.finfo(float).eps * max(1, n)
