r"""Conic programmes as layers.

With s = b - A x, the optimality conditions of

    min ½ xᵀPx + qᵀx   subject to   A x + s = b,  s ∈ K

say P x + q + Aᵀz = 0, z ∈ K*, sᵀz = 0; the last three of s and z are one equation, z =
Π(z - s) with the projection Π onto K* (Moreau). So (x, z) is a root of

    F(x, z) = [ P x + q + Aᵀz           ]
              [ z - Π(z + A x - b)      ]

the residual map of Busseti, Moursi, Boyd 2019 (doi:10.1007/s10589-019-00122-9) after its
normalisation. Π has derivatives of every order off the borders of its regions, F then has,
and the layer is F's implicit function.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._status import Status
from .._tree import stop_gradient
from ..engine.failure import fail_unless_zero
from ..implicit import Linearisation, attach, borrow
from ..linear.jacobian import Dense, jacobian_operator
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from .cone_check import prepare
from .cone_host import Clarabel, Structure, solve_conic
from .cone_projection import dual_projection
from .cones import Cone
from .matrices import product, tproduct
from .messages import messages
from .pseudo_inverse import LeastNorm, SparseLU
from .qp_assemble import symmetric_part
from .qp_check import definite


class ConeSolution(eqx.Module):
    """The optimum of a conic programme.

    `x` (n,); `z` (m,) in the dual cones, the multipliers of A x + s = b; `s` (m,) in the
    cones; `value`; `status`; `stats`: "iterations", "residual" (the largest entry of the
    optimality conditions). Infeasible: z is a ray, Aᵀz = 0, bᵀz < 0; unbounded: x is one.
    """

    x: jax.Array
    z: jax.Array
    s: jax.Array
    value: jax.Array
    status: jax.Array
    stats: dict[str, Any]


def cone_program(
    P: Any,
    q: Any,
    A: Any,
    b: Any,
    cones: Sequence[Cone],
    *,
    solver: Clarabel = Clarabel(),
    degenerate: str = "least_norm",
    throw: bool = True,
) -> ConeSolution:
    """Solves  min ½ xᵀP x + qᵀx  subject to  A x + s = b,  s in the product of `cones`.

    **Arguments:**

    - `P`: `(n, n)`, positive semidefinite (of a non-symmetric P the symmetric part counts),
      an array or a `SparseOperator`, or None for zero.
    - `q`: `(n,)`. `A`: `(m, n)`, an array or a `SparseOperator`. `b`: `(m,)`; in a row of
      `Nonnegative` infinite: no constraint.
    - `cones`: `pi.cones.Zero(dim)`, `Nonnegative(dim)`, `SecondOrder(dim)`,
      `Exponential()`, `Power(alpha)`, `PSD(n)`, in the order of the rows of A, m rows in
      all.
    - `solver`: `pi.Clarabel(tol=...)`.
    - `degenerate`: "least_norm", the only one here; see `pi.qp`.
    - `throw`: raise on failure. False: `status` says what happened; derivatives are NaN.

    Runs on the CPU in double precision; a batch by `jax.vmap` is one call, over threads.

    **Returns:** a `ConeSolution`.

    **Derivative:** of x, z, s and the value, in P, q, A and b, both modes, any order: the
    implicit function theorem on the optimality conditions, z = Π(z - s). Where these do
    not determine it (no strict complementarity, multipliers not unique) dense programmes
    take the pseudo-inverse, sparse ones raise.

    **Errors:** `ValueError`/`TypeError` on misfit shapes, unknown cones, and values that
    are not traced (NaN, an indefinite P), before any solve. At run time, if `throw`: the
    message of a `Status` (infeasible, unbounded, not_positive_definite, nonfinite, …).

    ??? cite "Reference"
        Agrawal, Barratt, Boyd, Busseti, Moursi, *Differentiating through a cone program*
        (2019). arXiv:1904.09043
    """
    if degenerate != "least_norm":
        raise ValueError(
            "`cone_program(degenerate=...)` must be 'least_norm'.\n"
            f"Got {degenerate!r}.\nThe others are for pi.qp and pi.lp."
        )
    P, q, A, b, cones = prepare(P, q, A, b, cones)
    found = _optimum(stop_gradient((P, q, A, b)), cones, solver, throw)
    return _answer(P, q, A, b, found, cones, throw)


def residual(point, given, cones):
    """F, at (x, z)."""
    x, z = point
    P, q, A, b = given
    r_x = _times(P, x) + q + tproduct(A, z)
    return r_x, z - dual_projection(cones, z + product(A, x) - b)


def _times(P, x):
    """The symmetric part of P, times x."""
    if P is None:
        return jnp.zeros_like(x)
    return (product(P, x) + tproduct(P, x)) / 2


@eqx.filter_jit
def _optimum(given, cones, solver, throw):
    P, q, A, b = given
    structure, values = _structure(P, A, q.size, cones, solver)
    x, z, _, status, steps = solve_conic(structure, *values(P, A, q, b))
    if P is not None:
        sparse = isinstance(P, SparseOperator)
        convex = definite(symmetric_part(P) if sparse else (P + P.T) / 2)
        finite = status != Status.nonfinite
        indefinite = jnp.int32(Status.not_positive_definite)
        status = jnp.where(convex | ~finite, status, indefinite)
    point, error = _newton((x, z), given, cones, status == Status.converged)
    bad = (status == Status.converged) & ~(error <= 1e-4 * _size(point, given))
    status = jnp.where(bad, jnp.int32(Status.inaccurate), status)
    put = lambda v, on: jnp.where((status == Status.converged) | on, v, jnp.nan)
    point = (
        put(point[0], status == Status.unbounded),
        put(point[1], status == Status.infeasible),
    )
    if throw:
        point = fail_unless_zero(point, status, messages("cone_program"))
    return point, status, steps, error


@eqx.filter_jit
def _answer(P, q, A, b, found, cones, throw) -> ConeSolution:
    point, status, steps, error = found
    there: Any = status == Status.converged
    F = lambda point, given: residual(point, given, cones)
    storage, linear = _storage(P, A, cones)
    plan = Linearisation(linear, storage, accept=jnp.inf, throw=throw)
    x, z = attach(point, F, (P, q, A, b), plan, there)
    s = b - product(A, x)
    value = x @ _times(P, x) / 2 + q @ x
    known = jnp.where(there, stop_gradient(value), jnp.nan)
    known = jnp.where(status == Status.infeasible, jnp.inf, known)
    known = jnp.where(status == Status.unbounded, -jnp.inf, known)
    value = borrow(known, value, there)
    return ConeSolution(x, z, s, value, status, {"iterations": steps, "residual": error})


def _size(point, given):
    x, z = point
    _, q, _, b = given
    top = lambda v: jnp.max(jnp.where(jnp.isfinite(v), jnp.abs(v), 0.0), initial=0.0)
    return 1 + jnp.max(jnp.stack([top(x), top(z), top(q), top(b)]))


def _newton(point, given, cones, valid):
    """`(point, error)`: a few Newton steps for F = 0, as long as they gain."""
    P, _, A, _ = given
    storage, linear = _storage(P, A, cones)
    n = point[0].size
    F = lambda v: jnp.concatenate(residual((v[:n], v[n:]), given, cones))
    top = lambda r: jnp.max(jnp.abs(r))

    def body(carry):
        v, r, k, _ = carry
        _, matvec = jax.linearize(F, v)
        J = jacobian_operator(storage, matvec, v, None, None)
        dv, *_ = linear.compute(linear.init(J, {}), -r, {})
        r_new = F(v + dv)
        better = top(r_new) < 0.5 * top(r)  # false for NaN
        keep = lambda a, b: jnp.where(better, a, b)
        return keep(v + dv, v), keep(r_new, r), k + 1, better

    v = jnp.concatenate(point)
    start = v, F(v), jnp.int32(0), valid
    v, r, *_ = jax.lax.while_loop(lambda c: c[3] & (c[2] < 4), body, start)
    return (v[:n], v[n:]), top(r)


def _storage(P, A, cones):
    """How ∂F/∂(x, z) is stored, and who solves with it."""
    if not isinstance(A, SparseOperator):
        return Dense(), LeastNorm()
    return _jacobian_pattern(None if P is None else P.pattern, A.pattern, cones), SparseLU()


def _jacobian_pattern(P, A, cones) -> SparsePattern:
    import scipy.sparse as sp

    m, n = A.shape
    ones = lambda p: sp.csr_array((np.ones(p.nnz), (p.rows, p.cols)), shape=p.shape)
    blocks = [np.ones((c.dim, c.dim)) if _couples(c) else np.eye(c.dim) for c in cones]
    D = sp.csr_array(sp.block_diag(blocks, format="csr"))
    H = sp.eye_array(n) + (0 if P is None else ones(P) + ones(P).T)
    J: Any = sp.block_array([[H, ones(A).T], [D @ ones(A), D]]).tocoo()
    return SparsePattern(J.row, J.col, (n + m, n + m))


def _couples(cone) -> bool:
    return type(cone).__name__ not in ("Zero", "Nonnegative")


def _structure(P, A, n: int, cones, solver):
    """The static part for the host, and what makes its numbers of P, A, q and b."""
    m = sum(c.dim for c in cones)
    places = lambda M, shape: (
        (M.pattern.rows, M.pattern.cols)
        if isinstance(M, SparseOperator)
        else tuple(i.reshape(-1) for i in np.indices(shape))
    )
    numbers = lambda M: (
        M.pattern.symmetrise(M.values) if isinstance(M, SparseOperator) else M.reshape(-1)
    )
    # P's symmetric part, upper triangle: an entry and its mirror image meet at one place.
    if P is None:
        upper, slot, weight = (np.zeros(0, int),) * 2, np.zeros(0, int), np.zeros(0)
    else:
        i, j = places(P, (n, n))
        place = np.minimum(i, j) * n + np.maximum(i, j)
        unique, slot = np.unique(place, return_inverse=True)
        upper, weight = np.divmod(unique, n), np.where(i == j, 1.0, 0.5)

    def values(P, A, q, b):
        v = jnp.zeros(len(upper[0]), q.dtype)
        v = v if P is None else v.at[slot].add(numbers(P) * weight)
        return v, q, numbers(A), b

    return Structure(n, upper, places(A, (m, n)), cones, solver), values
