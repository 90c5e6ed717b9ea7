"""Linear transport problems on the host: HiGHS' simplex, and the assignment problem.

XLA calls these as it calls the host engine's solves (see `engine/abi.py`): pure functions
of their arrays, without derivatives of their own, one batch a call.
"""

import functools

import jax
import numpy as np
import scipy.sparse as sp

from ..._status import Status
from ...engine import abi
from ...engine.call import call


def transport_vertex(C, a, b):
    """`(basis, status)`: the n + m - 1 cells of an optimal basis, as `i m + j`, sorted."""
    n, m = C.shape
    cells = jax.ShapeDtypeStruct((n + m - 1,), np.int32)
    code = jax.ShapeDtypeStruct((), np.int32)
    return call(_target("transport", _transport), C, a, b, out=[cells, code])


def assignment_columns(C):
    """`(columns, status)`: the column of each row of C, `(n, m)`, n ≤ m."""
    columns = jax.ShapeDtypeStruct(C.shape[:1], np.int32)
    code = jax.ShapeDtypeStruct((), np.int32)
    return call(_target("assignment", _assignment), C, out=[columns, code])


@functools.cache
def _target(name: str, handler) -> str:
    target = f"pyimplicit.host.{name}"
    abi.register_python(target, handler)
    return target


def _transport(inputs, outputs, attributes) -> None:
    del attributes
    (C, a, b), (basis, status) = inputs, outputs
    for at in np.ndindex(status.shape):
        cells, status[at] = _simplex(*(_sample(x, at) for x in (C, a, b)))
        basis[at] = cells


def _assignment(inputs, outputs, attributes) -> None:
    import scipy.optimize as so  # dear to import, and few need it

    del attributes
    (C,), (columns, status) = inputs, outputs
    for at in np.ndindex(status.shape):
        cost = _sample(C, at)
        columns[at], status[at] = 0, Status.nonfinite
        if not (np.isnan(cost) | (cost == -np.inf)).any():
            try:
                columns[at] = so.linear_sum_assignment(cost)[1]
                status[at] = Status.converged
            except ValueError:  # every assignment costs infinity
                status[at] = Status.singular


def _sample(x, at):
    """The sample of a batch; an axis of size 1 is one for all."""
    own = tuple(0 if size == 1 else i for i, size in zip(at, x.shape, strict=False))
    return np.asarray(x[own], float)


def _simplex(C, a, b):
    import scipy.optimize as so

    n, m = C.shape
    nothing = np.zeros(n + m - 1, np.int32)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return nothing, Status.nonfinite
    rows = sp.kron(sp.eye_array(n), np.ones((1, m)))
    cols = sp.kron(np.ones((1, n)), sp.eye_array(m))
    A = sp.csc_array(sp.vstack([rows, cols]))[:-1]  # the last one follows from the others
    allowed = np.isfinite(C).ravel()
    costs = np.where(allowed, C.ravel(), 0)
    bounds = np.stack([np.zeros(n * m), np.where(allowed, np.inf, 0)], 1)
    result = so.linprog(
        costs, A_eq=A, b_eq=np.concatenate([a, b])[:-1], bounds=bounds, method="highs-ds",
        options={f"{side}_feasibility_tolerance": 1e-10 for side in ("primal", "dual")},
    )  # fmt: skip
    if result.status != 0:
        code = Status.singular if result.status == 2 else Status.max_steps_reached
        return nothing, code
    # A basis is a spanning tree of cells. Those with mass come first, then those whose
    # reduced cost is nearest to zero: at a degenerate vertex too it is dual feasible.
    flow = result.x
    dual = np.append(result.eqlin.marginals, 0)
    reduced = np.abs(C - dual[:n, None] - dual[n:]).ravel()
    order = np.lexsort((reduced, -np.where(flow > 1e-12 * a.sum(), flow, 0)))
    return _spanning_tree(order, n, m), Status.converged


def _spanning_tree(order, n: int, m: int):
    """The first n + m - 1 cells in this order that close no cycle (Kruskal)."""
    root = np.arange(n + m)

    def find(i):
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    tree = []
    for cell in order:
        i, j = find(cell // m), find(n + cell % m)
        if i != j:
            root[i] = j
            tree.append(cell)
            if len(tree) == n + m - 1:
                break
    return np.sort(np.array(tree, np.int32))
