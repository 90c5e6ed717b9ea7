"""Which cell holds a point, and where in the reference cell it lies."""

import numpy as np

from .space import FunctionSpace


def locate(V: FunctionSpace, points: np.ndarray, tol: float):
    """Cells `(m,)` and reference coordinates `(m, dim)` of `points`, `(m, dim)`.

    Cells whose middles are near are tried first, then all. In cells that are not straight
    simplices the map is inverted by Newton's method.
    """
    from scipy.spatial import KDTree

    corners = V.mesh.points[V.domain().nodes]
    k = min(4 * 2**V.mesh.dim, len(corners))
    tree = KDTree(corners.mean(axis=1))
    near = np.asarray(tree.query(points, np.arange(1, k + 1))[1])
    outside = _outside(V, _invert(V, corners[near], points[:, None]))
    best = outside.argmin(axis=1)
    cells = near[np.arange(len(points)), best]
    for i in np.flatnonzero(outside.min(axis=1) > tol):  # look at every cell
        cells[i] = _outside(V, _invert(V, corners, points[i])).argmin()
    reference = _invert(V, corners[cells], points)
    outside = _outside(V, reference)
    bad = np.flatnonzero(~(outside <= tol))
    if bad.size:
        raise ValueError(
            "`point_evaluation(V, points)` must get points in the mesh.\n"
            f"Got {points[bad[0]].tolist()} as point {bad[0]}, outside of every cell "
            f"({bad.size} such points).\nMove it inside, or raise `tol`."
        )
    return cells, reference


def _outside(V: FunctionSpace, reference: np.ndarray) -> np.ndarray:
    """How far reference points `(..., dim)` are outside of the reference cell."""
    low = -reference.min(-1)
    simplex = V.element.cell.simplex
    high = (reference.sum(-1) if simplex else reference.max(-1)) - 1
    outside = np.maximum(low, high)
    return np.where(np.isfinite(outside), outside, np.inf)


def _invert(V: FunctionSpace, nodes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ξ with Σ φ_g(ξ) x_g = x, for nodes `(..., n, dim)` and points `(..., dim)`."""
    domain = V.domain()
    element, dim = domain.geometry, V.mesh.dim
    shape = np.broadcast_shapes(nodes.shape[:-2], x.shape[:-1])
    nodes = np.broadcast_to(nodes, (*shape, *nodes.shape[-2:])).reshape(
        -1, *nodes.shape[-2:]
    )
    x = np.broadcast_to(x, (*shape, dim)).reshape(-1, dim)
    middle = np.array(element.cell.vertices, float).mean(axis=0)
    reference = np.broadcast_to(middle, x.shape).copy()
    active = np.arange(len(x))
    for _ in range(1 if domain.affine else 30):
        ref, n = reference[active], nodes[active]
        J = np.einsum("kgr,kgd->kdr", element.gradients(ref), n)
        miss = x[active] - np.einsum("kg,kgd->kd", element.values(ref), n)
        with np.errstate(all="ignore"):
            J = np.where(np.isfinite(J), J, 0) + 1e-300 * np.eye(dim)
            step = np.linalg.solve(J, miss[:, :, None])[:, :, 0]
        reference[active] = np.clip(ref + step, -3, 4) if not domain.affine else ref + step
        active = active[np.abs(step).max(axis=1) > 1e-13]
        if not active.size:
            break
    return reference.reshape(*shape, dim)
