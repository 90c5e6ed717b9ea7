"""Conic programmes on the CPU: Clarabel, in process, called by XLA.

Goulart, Chen 2024, *Clarabel: an interior-point solver for conic programs with quadratic
objectives*, arXiv:2405.12762.
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import equinox as eqx
import jax
import numpy as np
import scipy.sparse as sp

from .._status import Status
from ..engine import abi
from ..engine.call import call
from .cones import Cone, Nonnegative, clarabel


TARGET = "pyimplicit.host.conic"
THREADS = 4  # Clarabel leaves the interpreter lock while it works


class Clarabel(eqx.Module):
    """Clarabel's interior point method for cones and for sparse quadratic programmes.

    `tol`: of the duality gap and of feasibility, relative and absolute. `max_steps`: at
    most.
    """

    tol: float = eqx.field(static=True, default=1e-10)
    max_steps: int = eqx.field(static=True, default=200)


class Structure:
    """A programme without its numbers: where P (upper triangle) and A have entries, given
    as rows and columns in the order of their values, and the cones. Compared by content."""

    def __init__(self, n: int, P, A, cones: tuple[Cone, ...], solver: Clarabel):
        self.n, self.m = n, sum(cone.dim for cone in cones)
        self.P, self.A = Columns(P, (n, n)), Columns(A, (self.m, n))
        self.cones, self.solver, self.unbounded = cones, solver, no_bounds(cones)
        digest = hashlib.sha256(repr((n, cones, solver)).encode())
        for matrix in (self.P, self.A):
            digest.update(matrix.indptr.tobytes() + matrix.indices.tobytes())
            digest.update(matrix.slot.tobytes())
        self.key = int.from_bytes(digest.digest()[:8], "little") >> 1
        _structures.setdefault(self.key, self)


def no_bounds(cones: tuple[Cone, ...]):
    """Which rows an infinite right-hand side takes out: inequalities, no others."""
    kinds = [np.full(c.dim, isinstance(c, Nonnegative)) for c in cones]
    return np.concatenate([np.zeros(0, bool), *kinds])


class Columns:
    """Compressed columns of a pattern; `slot`: which value each entry is."""

    def __init__(self, places, shape: tuple[int, int]):
        (rows, cols), self.shape = places, shape
        width = shape[1]
        self.slot = np.lexsort((rows, cols))
        self.indices = np.asarray(rows)[self.slot].astype(np.int64)
        counts = np.bincount(cols, minlength=width) if len(cols) else np.zeros(width, int)
        self.indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def matrix(self, values):
        entries = values[self.slot], self.indices, self.indptr
        return sp.csc_matrix(entries, shape=self.shape)


_structures: dict[int, Structure] = {}
_STATUS = {
    "Solved": Status.converged,
    "AlmostSolved": Status.converged,  # those who call look at the residual
    "PrimalInfeasible": Status.infeasible,
    "AlmostPrimalInfeasible": Status.infeasible,
    "DualInfeasible": Status.unbounded,
    "AlmostDualInfeasible": Status.unbounded,
    "MaxIterations": Status.max_steps_reached,
}


def solve_conic(structure: Structure, P, q, A, b):
    """`(x, z, s, status, steps)` of min ½xᵀPx + qᵀx, A x + s = b, s in the cones; no
    derivative. Infeasible: z is a ray; unbounded: x is."""
    _register()
    n, m, dtype = structure.n, structure.m, q.dtype
    vector = lambda size: jax.ShapeDtypeStruct((size,), dtype)
    number = jax.ShapeDtypeStruct((), "int32")
    out = [vector(n), vector(m), vector(m), number, number]
    return call(TARGET, P, q, A, b, out=out, structure=structure.key)


@functools.cache
def _register() -> None:
    abi.register_python(TARGET, _handler)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="clarabel")


def _handler(inputs, outputs, attributes):
    structure = _structures[attributes["structure"]]
    batch = outputs[3].shape
    given = [np.broadcast_to(a, batch + a.shape[-1:]) for a in inputs]

    def one(index):
        answer = _solve(structure, *(np.array(a[index], np.float64) for a in given))
        for out, value in zip(outputs, answer, strict=True):
            out[index] = value

    samples = list(np.ndindex(batch))
    if len(samples) == 1:
        one(samples[0])
    else:
        list(_pool().map(one, samples))


def _solve(structure: Structure, P, q, A, b):
    nan = np.full(structure.n, np.nan), np.full(structure.m, np.nan)
    b = np.where(structure.unbounded, np.minimum(b, 1e21), b)  # no constraint to Clarabel
    finite = all(np.isfinite(v).all() for v in (P, q, A, b))
    if not finite:
        return nan[0], nan[1], nan[1], Status.nonfinite, 0
    settings: Any = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_iter = structure.solver.max_steps
    settings.max_threads = 1
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, structure.solver.tol)
    for name in ("reduced_tol_gap_abs", "reduced_tol_gap_rel", "reduced_tol_feas"):
        setattr(settings, name, 1e-6)
    cones = [cone.clarabel() for cone in structure.cones]
    matrices = structure.P.matrix(P), structure.A.matrix(A)
    found: Any = clarabel.DefaultSolver(matrices[0], q, matrices[1], b, cones, settings)
    found = found.solve()
    status = _STATUS.get(str(found.status), Status.inaccurate)
    x, z, s = (np.asarray(v) for v in (found.x, found.z, found.s))
    return x, z, s, status, found.iterations
