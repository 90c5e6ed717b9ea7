"""Iterative solves for large problems in three dimensions, where a factor does not fit.

Conjugate gradients, MINRES and GMRES are SciPy's, algebraic multigrid is pyamg's (an
optional dependency: `pip install pyimplicit[amg]`), incomplete factors are SuperLU's. They
run on the CPU, on either engine; with `matrix_free` all is JAX (see `matrix_free.py`). As
for `sparse_solve` the derivative is that of A x = b: one more solve for each tangent, one
transposed solve for each cotangent, each checked by its own residual; the preconditioner of
one matrix serves them all.
"""

import dataclasses
import functools
import importlib
import importlib.util
import threading
from collections import OrderedDict
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from .._status import Solution, Status
from ..engine import abi
from ..engine.call import call
from ..engine.host import ASYMMETRY
from ..linear import SparsePattern


Method = Literal["cg", "minres", "gmres"]
Preconditioner = Literal["amg", "ilu", "diagonal", "chebyshev"]


@dataclasses.dataclass(frozen=True)
class Krylov:
    """How `Problem.solve` and `evolve` (`solver=...`) solve linear systems, also those of
    Newton's method, without a factorisation.

    - `method`: "cg" for symmetric positive definite matrices, "minres" for symmetric, and
      "gmres" for any.
    - `preconditioner`: "amg", algebraic multigrid; "ilu", an incomplete factorisation; or
      "diagonal". If not given: the diagonal for "minres", else "amg" if pyamg is
      installed, and "ilu" if not.
    - `rtol`: of the residual ‖b - A x‖ / ‖b‖. A solve that misses ten times as much has
      failed. `max_steps`: of the method; `restart`: of GMRES.
    - `matrix_free`: keep the element matrices, assemble none, and do all in JAX, on the
      device and in the precision of what is given (in single precision `rtol` is 2.4e-5 at
      least); nothing calls back to the host, but to raise. Preconditioners are then
      "diagonal" (the default) and, for "cg", "chebyshev": four steps of Chebyshev's
      iteration, for fewer sums over all unknowns at as many products.

    When: -∇·(κ∇u) = 1 on cubes, by a factorisation and by "cg" with "amg", forward / with
    gradient [s] on two cores: 0.03 / 0.04 and 0.04 / 0.05 at 6,859 unknowns, 0.11 / 0.11
    and 0.07 / 0.10 at 13,824, 0.27 / 0.29 and 0.11 / 0.19 at 24,389, 1.6 / 1.7 and
    0.28 / 0.47 at 59,319, 5.2 / 5.3 and 0.96 / 1.3 at 117,649.
    Without a matrix, by the diagonal (137 steps), 27,000 cubes of six tetrahedra take
    0.75 / 1.43 CPU s and 89 MB; with "amg" 0.90 / 1.34 and 34 MB; by factors on the host
    2.5 / 2.4 and 395 MB. Of 64,000 cubes they take 1.5 / 3.7 CPU s and 209 MB (179 steps),
    and 2.8 / 3.5 and 99 MB. `python -m tests.bench.fem_solve poisson free` prints such
    tables.
    """

    method: Method = "cg"
    preconditioner: Preconditioner | None = None
    rtol: float = 1e-10
    max_steps: int = 1000
    restart: int = 50
    matrix_free: bool = False

    def __post_init__(self):
        for name, kind in (("method", Method), ("preconditioner", Preconditioner)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known and not (name == "preconditioner" and value is None):
                raise ValueError(
                    f"`Krylov({name}=...)` must be one of {', '.join(map(repr, known))}.\n"
                    f"Got {value!r}.\nIf in doubt, use 'gmres' and leave the other out."
                )
        if not 0 < self.rtol < 1 or self.max_steps < 1 or self.restart < 1:
            raise ValueError(
                "`Krylov` must have 0 < rtol < 1, max_steps >= 1 and restart >= 1.\n"
                f"Got {self}.\nLeave them out for the usual values."
            )
        if self.preconditioner == "amg" and not _has_pyamg():
            raise ImportError(
                "`Krylov(preconditioner='amg')` needs pyamg.\nGot no such package.\n"
                "Install pyimplicit[amg], or use preconditioner='ilu'."
            )
        if self.method == "minres" and self.preconditioner in ("amg", "ilu"):
            raise ValueError(
                "`Krylov(method='minres')` needs a positive definite preconditioner.\n"
                f"Got {self.preconditioner!r}, which an indefinite matrix makes "
                "indefinite.\nUse 'diagonal', or method='gmres'."
            )

        here = {"chebyshev"} if self.matrix_free else {"amg", "ilu"}
        other = {"amg", "ilu"} if self.matrix_free else {"chebyshev"}
        cg_only = self.preconditioner == "chebyshev" and self.method != "cg"
        if self.preconditioner in other or cg_only:
            raise ValueError(
                f"`Krylov(matrix_free={self.matrix_free})` with {self.method!r} has the "
                f"preconditioners 'diagonal'{'' if cg_only else f', {sorted(here)}'}.\n"
                f"Got {self.preconditioner!r}.\nLeave it out for the usual one."
            )

    @property
    def chosen(self) -> str:
        """The preconditioner that is used."""
        if self.preconditioner is not None:
            return self.preconditioner
        if self.matrix_free:
            return "diagonal"
        return "diagonal" if self.method == "minres" else "amg" if _has_pyamg() else "ilu"

    def tolerance(self, dtype) -> float:
        """`rtol` in the precision of the iteration."""
        return max(self.rtol, float(jnp.finfo(dtype).eps) ** (2 / 3))

    def check(self, structure: str, dtype) -> None:
        """Refuses systems that the method does not take."""
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                "`Krylov` must get real numbers.\nGot complex ones.\n"
                "Leave the solver out: direct solves take complex matrices."
            )
        if self.method != "gmres" and structure == "general":
            raise ValueError(
                f"`Krylov(method={self.method!r})` must get a symmetric matrix.\n"
                "Got structure='general'.\nPass structure='spd' to the Problem, or use "
                "method='gmres'."
            )


def failure(how: Krylov, transpose: bool) -> tuple[str, ...]:
    """What to say for each `Status`."""
    kind = ", transposed solve" if transpose else ""
    free = ", matrix-free" if how.matrix_free else ""
    start = f"Problem.solve with {how.method} and preconditioner {how.chosen!r}{free}{kind}"
    return tuple(f"{start}: {s.message}. {how.rtol:.2g} was asked for." for s in Status)


def krylov_solve(
    pattern: SparsePattern, values, b, how: Krylov, throw: bool = True
) -> Solution:
    """A x = b, for `values` `(nnz,)` and `b` `(n,)` or `(n, k)`; see `Krylov`."""
    dtype = jnp.result_type(values, b)
    how.check("general" if pattern.partner is None else pattern.structure, dtype)
    values, b = values.astype(dtype), b.astype(dtype)
    one = functools.partial(_solve, pattern, values, how=how, throw=throw)
    x, (status, error) = jax.vmap(one, 1, (1, 0))(b) if b.ndim == 2 else one(b)
    return Solution(x, status, {"residual": error})


def _solve(pattern, values, b, *, how: Krylov, throw: bool):
    def solver(transpose: bool):
        def solve(_, rhs):
            x, *stats = raw_krylov(pattern, values, rhs, how, transpose, throw)
            return x, tuple(stats)

        return solve

    product = lambda x: pattern.matvec(values, x)
    return jax.lax.custom_linear_solve(
        product, b, solver(False), solver(True), has_aux=True
    )


def raw_krylov(pattern, values, b, how: Krylov, transpose: bool, throw: bool):
    """The operation without a derivative: `(x, status, residual)`."""
    _known[pattern.key] = pattern
    scalar = lambda kind: jax.ShapeDtypeStruct((), kind)
    out = [jax.ShapeDtypeStruct(b.shape, b.dtype), scalar("int32"), scalar(b.dtype)]
    return call(
        _target(how), values, b, out=out,
        pattern=pattern.key, transpose=int(transpose), throw=int(throw),
    )  # fmt: skip


# --- what XLA calls -------------------------------------------------------------------

KEPT = 4  # matrices with their preconditioners
_known: dict[int, SparsePattern] = {}
_kept: "OrderedDict[tuple, tuple]" = OrderedDict()
_lock = threading.Lock()


@functools.cache
def _target(how: Krylov) -> str:
    name = f"pyimplicit.krylov.{_target.cache_info().currsize}"
    abi.register_python(name, functools.partial(_handler, how))
    return name


def _handler(how: Krylov, inputs, outputs, attributes) -> None:
    values, b = inputs
    x, status, error = outputs
    batch = x.shape[:-1]
    values = np.broadcast_to(values, (*batch, values.shape[-1]))
    b = np.broadcast_to(b, x.shape)
    for i in np.ndindex(batch):
        found = _one(how, attributes, values[i], b[i])
        x[i], status[i], error[i] = found
    if attributes["throw"] and status.any():
        said = failure(how, bool(attributes["transpose"]))
        text = said[int(status[status != 0].flat[0])]
        known = error[~np.isnan(error)]
        largest = f" The largest residual is {known.max():.2g}." if known.size else ""
        raise ValueError(text + largest)


def _one(how: Krylov, attributes, values, b):
    """x, status and residual."""
    failed = lambda code, error=np.nan: (np.nan, code, error)
    if not np.isfinite(values).all() or not np.isfinite(b).all():
        return failed(Status.nonfinite)
    size = np.linalg.norm(b.astype(float))
    if size == 0:
        return 0.0, Status.converged, 0.0
    pattern = _known[attributes["pattern"]]
    try:
        A, M = _prepared(how, pattern, values.astype(float), bool(attributes["transpose"]))
    except (RuntimeError, ZeroDivisionError, np.linalg.LinAlgError):
        return failed(Status.singular)
    if A is None:
        return failed(Status.not_symmetric)
    unit = b / size
    options: dict[str, Any] = {"M": M, "rtol": how.rtol, "maxiter": how.max_steps}
    if how.method == "cg":
        y, _ = spla.cg(A, unit, atol=0.0, **options)
    elif how.method == "minres":
        y, _ = spla.minres(A, unit, M=M, rtol=how.rtol / 10, maxiter=how.max_steps)
    else:
        cycles = -(-how.max_steps // how.restart)
        options |= {"restart": how.restart, "maxiter": cycles}
        y, _ = spla.gmres(A, unit, atol=0.0, **options)
    error = float(np.linalg.norm(unit - A @ y))  # the method's own word is not asked
    if not error <= 10 * how.rtol:
        return failed(Status.inaccurate, error)
    return y * size, Status.converged, error


def _prepared(how: Krylov, pattern: SparsePattern, values, transpose: bool):
    """The matrix, and its preconditioner as a linear operator; kept for a while."""
    if pattern.partner is not None:
        other, transpose = values[pattern.partner], False
        if abs(values - other).max(initial=0) > ASYMMETRY * abs(values).max(initial=0):
            return None, None
        values = (values + other) / 2
    key = how, pattern.key, transpose, values.tobytes()
    with _lock:
        if key not in _kept:
            A = sp.csr_array((values, (pattern.rows, pattern.cols)), shape=pattern.shape)
            A = sp.csr_matrix(A.T if transpose else A)
            _kept[key] = A, _preconditioner(how, A)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]


def _preconditioner(how: Krylov, A):
    if how.chosen == "diagonal":
        d = abs(A.diagonal())
        return sp.diags_array(1 / np.where(d == 0, 1.0, d))
    if how.chosen == "amg":
        pyamg = importlib.import_module("pyamg")  # an optional dependency
        symmetry = "nonsymmetric" if how.method == "gmres" else "symmetric"
        return pyamg.smoothed_aggregation_solver(A, symmetry=symmetry).aspreconditioner()
    lu = spla.spilu(sp.csc_matrix(A), drop_tol=1e-3, fill_factor=10)
    if how.method == "gmres":
        return _operator(A, lu.solve)
    # What is dropped is not symmetric: the mean with the transpose is.
    both = lambda b: (lu.solve(b) + lu.solve(b, "T")) / 2
    return _operator(A, both)


def _operator(A, product):
    # Known to SciPy's stubs by an overload that pyright does not find.
    return spla.LinearOperator(A.shape, matvec=product, dtype=A.dtype)  # type: ignore[reportCallIssue]


def _has_pyamg() -> bool:
    return importlib.util.find_spec("pyamg") is not None
