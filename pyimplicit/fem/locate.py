"""Which cell holds a point, and where in the reference cell it lies."""

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.failure import fail_unless_zero
from .domain import invert
from .elements import Lagrange
from .space import FunctionSpace, on_device


NEWTON = 8  # steps, from a point of the cell before it moved
LEFT = (
    "`point_evaluation(mesh_points=...)`: a point is no longer in the cell that held it: "
    "move the mesh less, or make a FunctionSpace of the moved mesh"
)


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


def basis_in_moved(V: FunctionSpace, cells, reference, x, mesh_points, tol: float):
    """The basis at `x` `(m, dim)`, which rest while the mesh moves: `(m, k)`. `reference`:
    where they were in their `cells`.

    ξ solves Σ φ_g(ξ) x_g = x: one step of Newton's method where cells are affine. In
    others its steps converge together with their derivatives, which are differentiated.
    """
    domain = V.domain()
    nodes = mesh_points[on_device(domain.nodes[cells])]
    at = lambda ref, nodes: _basis(domain.geometry, ref) @ nodes

    def step(ref, nodes, x):
        J = jax.jacfwd(at)(ref, nodes)
        return ref + invert(J)[1] @ (x - at(ref, nodes))

    ref, x = jnp.asarray(reference, nodes.dtype), jnp.asarray(x, nodes.dtype)
    every = lambda ref, _: (jax.vmap(step)(ref, nodes, x), None)
    ref, _ = jax.lax.scan(every, ref, None, 1 if domain.affine else NEWTON)
    high = jnp.sum(ref, -1) if V.element.cell.simplex else jnp.max(ref, -1)
    out = jnp.maximum(-jnp.min(ref, -1), high - 1)
    left = ~jnp.all(out <= max(tol, float(jnp.finfo(ref.dtype).eps) ** 0.75))
    return fail_unless_zero(jax.vmap(lambda r: _basis(V.element, r))(ref), left, ("", LEFT))


def _basis(element: Lagrange, ref):
    """That of one reference point `(dim,)` in JAX: `(k,)`."""
    monomials = jnp.prod(ref**element.powers, axis=1)
    return monomials @ jnp.asarray(element.coefficients, ref.dtype)


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
