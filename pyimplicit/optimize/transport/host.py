"""Linear transport problems on the host: the assignment problem, and HiGHS' simplex.

XLA calls these as it calls the host engine's solves (see `engine/abi.py`): pure functions
of their arrays, without derivatives of their own, one batch a call.
"""

import functools

import jax
import numpy as np
import scipy.sparse as sp
import scipy.sparse.csgraph as csgraph

from ..._status import Status
from ...engine import abi
from ...engine.call import call


def transport_vertex(C, a, b):
    """`(basis, paths, status)`: the n + m - 1 cells of an optimal basis, as `i m + j`,
    sorted, and the inverse of their incidence matrix, see `_paths`."""
    n, m = C.shape
    size = n + m - 1
    cells = jax.ShapeDtypeStruct((size,), np.int32)
    paths = jax.ShapeDtypeStruct((size, size), C.dtype)
    code = jax.ShapeDtypeStruct((), np.int32)
    return call(_target("transport", _transport), C, a, b, out=[cells, paths, code])


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
    (C, a, b), (basis, paths, status) = inputs, outputs
    for at in np.ndindex(status.shape):
        basis[at], status[at] = _simplex(*(_sample(x, at) for x in (C, a, b)))
        found = status[at] == Status.converged
        paths[at] = _paths(basis[at], a.shape[-1], b.shape[-1]) if found else 0


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
    if n == m and not np.ptp(a) and not np.ptp(b) and np.isfinite(C).all():
        if (cells := _matching(C)) is not None:
            return cells, Status.converged
    sums = np.concatenate([a, b])[:-1]  # the last one follows from the others
    tight = {f"{side}_feasibility_tolerance": 1e-10 for side in ("primal", "dual")}
    cells = _candidates(C, a, b)
    while True:  # only cells that may carry mass, and those that prices then ask for
        i, j = np.divmod(cells, m)
        ones, at = np.ones(2 * cells.size), np.arange(cells.size)
        A = sp.csc_array((ones, (np.append(i, n + j), np.append(at, at))), (n + m, at.size))
        result = so.linprog(
            C[i, j], A_eq=A[:-1], b_eq=sums, method="highs-ds", options=tight
        )
        if result.status != 0:
            code = Status.singular if result.status == 2 else Status.max_steps_reached
            return nothing, code
        dual = np.append(result.eqlin.marginals, 0)
        reduced = (C - dual[:n, None] - dual[n:]).ravel()
        wanted = np.flatnonzero(reduced < -1e-10 * np.abs(C[i, j]).max())
        wanted = np.setdiff1d(wanted, cells)
        if not wanted.size:
            break
        worst = wanted[np.argsort(reduced[wanted])[: MORE * (n + m)]]
        cells = np.union1d(cells, worst)
    # A basis is a spanning tree of cells. Those with mass come first, then those whose
    # reduced cost is nearest to zero: at a degenerate vertex too it is dual feasible.
    flow, reduced = np.zeros(n * m), np.abs(reduced)
    flow[cells] = result.x
    order = np.lexsort((reduced, -np.where(flow > 1e-12 * a.sum(), flow, 0)))
    return _spanning_tree(order, n, m), Status.converged


def _matching(C):
    """A basis where all masses are equal: the cells of an optimal assignment σ, and those
    of shortest paths that price it; None where round-off leaves no tree.

    Prices f, g with f_i + g_σ(i) = C_iσ(i) are feasible where f_k - f_i ≤ C_kσ(i) -
    C_iσ(i): distances from the first row, where the right-hand side is the length of the
    step from i to k. No cycle is negative, for σ is optimal (Bellman, Ford).
    """
    import scipy.optimize as so

    n = len(C)
    rows, columns = so.linear_sum_assignment(C)
    lengths = np.ascontiguousarray(C[:, columns].T)
    lengths -= C[rows, columns][:, None]
    small = 1e-14 * np.abs(lengths).max(initial=0.0)
    f, parent, changed = lengths[0].copy(), np.zeros(n, int), rows[1:]
    for _ in range(n):
        through = f[changed, None] + lengths[changed]
        best = through.argmin(0)
        shorter = through[best, rows] < f - small
        shorter[0] = False
        if not shorter.any():
            break
        f[shorter] = through[best, rows][shorter]
        parent[shorter] = changed[best][shorter]
        changed = np.flatnonzero(shorter)
    ancestor = parent
    for _ in range(n.bit_length()):
        ancestor = ancestor[ancestor]
    if ancestor.any():
        return None
    paths = rows[1:] * n + columns[parent[1:]]
    return np.sort(np.concatenate([rows * n + columns, paths])).astype(np.int32)


def _paths(cells, n: int, m: int):
    """R, with f, g = R C_B and the flow Rᵀ (a, b); of sums and prices the last column's is
    left out. The basis is a tree: f_i = C_ij - g_j down its edges, from g_m = 0."""
    ends, root = (cells // m, n + cells % m), n + m - 1
    weights = np.arange(1, cells.size + 1)
    tree = sp.coo_array((weights, ends), (n + m, n + m)).tocsr()
    order, parent = csgraph.breadth_first_order(tree, root, directed=False)
    edge = np.zeros(n + m, int)
    for node, other in (ends, ends[::-1]):
        down = parent[node] == other
        edge[node[down]] = np.flatnonzero(down)
    R = np.zeros((n + m, cells.size))
    for v in order[1:]:
        np.negative(R[parent[v]], out=R[v])
        R[v, edge[v]] += 1
    return R[:-1]


WHOLE = 5000  # pairs up to which all of them are taken from the start
NEAR = 6  # cheap pairs of each row and column to start with
LEVELS, SWEEPS = 11, 4  # of ε, and at each
MORE = 2  # pairs added at a time, for each row and column


def _candidates(C, a, b):
    """Cells, as `i m + j`, among which there is a plan; never a forbidden one."""
    n, m = C.shape
    allowed = np.isfinite(C)
    if n * m <= WHOLE or not allowed.all():
        return np.flatnonzero(allowed)
    reduced = _prices(C, a, b)
    by_row = np.argpartition(reduced, NEAR, axis=1)[:, :NEAR]
    by_col = np.argpartition(reduced, NEAR, axis=0)[:NEAR]
    cells = [
        (np.arange(n)[:, None] * m + by_row).ravel(),
        (by_col * m + np.arange(m)).ravel(),
    ]
    # The staircase from corner to corner has a plan.
    ends = np.cumsum(a)[:-1], np.cumsum(b)[:-1]
    right = np.argsort(np.concatenate(ends), kind="stable") >= n - 1
    i, j = (np.append(0, np.cumsum(step)) for step in (~right, right))
    return np.unique(np.concatenate([*cells, i * m + j]))


def _prices(C, a, b):
    """Costs reduced by potentials that are nearly optimal: Sinkhorn sweeps, ε falling."""
    spread, f, g = np.ptp(C), np.zeros(a.size), np.zeros(b.size)

    def soft_min(X, weights, axis):
        low = X.min(axis, keepdims=True)
        total = np.exp(low - X) @ weights if axis else weights @ np.exp(low - X)
        return low.squeeze(axis) - np.log(np.maximum(total, np.finfo(float).tiny))

    for eps in spread * 0.5 ** np.arange(2, LEVELS):
        for _ in range(SWEEPS):
            f = eps * soft_min((C - g) / eps, b, 1)
            g = eps * soft_min((C - f[:, None]) / eps, a, 0)
    return C - f[:, None] - g


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
