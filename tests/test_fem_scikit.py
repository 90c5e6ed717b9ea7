"""Numbers of scikit-fem's examples with elements that are not ours.

Two of these elements are linear or quadratic in each cell and tied together at the middles
of facets. So their matrices are TᵀKT, with K of a mesh in pieces and a constant T, and the
numbers are the same to all digits. A mesh of triangles and quads is two meshes. The last
two problems are solved by other elements, as near as both are to the limit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla

from pyimplicit import fem
from pyimplicit.fem import (
    FunctionSpace,
    Mesh,
    MixedSpace,
    Problem,
    div,
    dot,
    grad,
    inner,
    models,
    sym_grad,
)
from pyimplicit.fem.quadrature import simplex

from .test_fem_models import FILES, close, measured, quads


laplace = lambda u, v, w: dot(grad(u), grad(v))


def matrix(V, form):
    problem = Problem(V, form, structure="symmetric")
    values, p = jax.jit(lambda: problem.matrix()[0])(), problem.pattern
    assert p is not None
    return sp.csr_array((np.asarray(values), (p.rows, p.cols)), p.shape)


def solve(A, b, given, values=0.0):
    """A u = b with u given at some places."""
    free = np.setdiff1d(np.arange(len(b)), given)
    u = np.zeros(len(b))
    u[given] = values
    right = (b - A @ u)[free]
    u[free] = np.asarray(spla.spsolve(A[free][:, free].tocsc(), right))
    return u


def in_pieces(mesh: Mesh):
    """Simplices that share no nodes; the facets `(m, dim)` of the mesh; and T from values
    in their middles to those at the nodes of the pieces: a linear function is Σ c there,
    less dim + 1 times the c of the facet opposite to the node."""
    ((kind, cells),) = mesh.cells.items()
    k = cells.shape[1]
    nodes = np.arange(cells.size).reshape(-1, k)
    pieces = Mesh.from_arrays(mesh.points[cells.ravel()], {kind: nodes}, connected=False)
    opposite = np.stack([np.delete(cells, i, axis=1) for i in range(k)], axis=1)
    rows = np.sort(opposite.reshape(-1, k - 1), axis=1)
    facets, number = np.unique(rows, axis=0, return_inverse=True)
    entries = np.tile(1 - (k - 1) * np.eye(k), (len(cells), 1, 1))
    rows, cols = np.broadcast_arrays(nodes[:, :, None], number.reshape(-1, 1, k))
    T = sp.csr_array((entries.ravel(), (rows.ravel(), cols.ravel())))
    return pieces, facets, T


def test_kirchhoff_plate():
    """Example 2: Morley's element. In the middle of an edge from a to b its functions
    slope by (u_b - u_a)/h along it and by an unknown across it; in a triangle the slope is
    linear. So the plate is a flat body that is displaced by the slope."""
    square = [[0.0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]]
    four = [[0, 1, 4], [1, 2, 4], [2, 3, 4], [0, 3, 4]]
    mesh = Mesh.from_arrays(square, {"triangle": four}).refine(3)
    pieces, edges, T = in_pieces(mesh)
    x, n, m = mesh.points, mesh.n_points, len(edges)
    edge = x[edges[:, 1]] - x[edges[:, 0]]
    h = np.linalg.norm(edge, axis=1)
    t = (edge / h[:, None]).T
    at = lambda cols, a: sp.csr_array((a, (np.arange(m), cols)), (m, n + m))
    along = lambda a: at(edges[:, 1], a / h) - at(edges[:, 0], a / h)
    across = lambda a: at(n + np.arange(m), a)
    slopes = along(t[0]) + across(t[1]), along(t[1]) - across(t[0])
    x_part, y_part = (
        sp.kron(T @ s, e[:, None], "csr") for s, e in zip(slopes, np.eye(2), strict=True)
    )
    S = x_part + y_part

    E, nu, d = 200e9, 0.3, 0.1

    def bending(u, v, w):
        moment = sym_grad(u) + nu / (1 - nu) * div(u) * jnp.eye(2)
        return d**3 / 12 * E / (1 + nu) * inner(moment, sym_grad(v))

    # Of a quadratic function ∫ u = |K| Σ_i (u_i / 3 - (x_i - x̄)·∇u(x_i) / 8)
    corners, size = pieces.points.reshape(-1, 3, 2), mesh.volumes[:, None]
    off = corners - corners.mean(axis=1, keepdims=True)
    load = np.bincount(mesh.cells["triangle"].ravel(), np.repeat(size / 3, 3), n + m)
    load -= S.T @ (size[..., None] * off / 8).ravel()
    fixed = (x[:, 0] == 0) | (x == 1).any(axis=1)
    clamped = (x[edges][:, :, 0] == 0).all(axis=1)
    K = S.T @ matrix(FunctionSpace(pieces, components=2), bending) @ S
    u = solve(K, 1e6 * load, np.flatnonzero(np.concatenate([fixed, clamped])))
    close(u[:n].max(), 0.00033840961095522285, 1e-10 * 3e-4)


def test_mixed_poisson():
    """Example 37: the flux in Raviart-Thomas' lowest element, u constant in each cell.
    Without a source these are the slopes of linear functions tied at the middles of facets
    and the values in the middles of cells (Marini 1985, doi:10.1137/0722029)."""
    mesh = Mesh.box(9, 9, 9)
    pieces, facets, T = in_pieces(mesh)
    K = T.T @ matrix(FunctionSpace(pieces), laplace) @ T
    corners = mesh.points[facets]
    flat = lambda x: ((corners == x).all(axis=1)).any(axis=1)
    outer = np.flatnonzero(flat(0) | flat(1))
    points, weights = simplex(2, 2)
    first, rest = corners[outer, :1], corners[outer, 1:]
    x, y, z = np.moveaxis(first + points @ (rest - first), -1, 0)
    g = (abs(x - 1) < 1e-9) * np.sin(np.pi * y) * np.sin(np.pi * z)
    u = solve(K, np.zeros(len(facets)), outer, g @ weights / weights.sum())
    close((T @ u).reshape(-1, 4).mean(axis=1).max(), 0.8619044895314989, 1e-12)


@measured
def test_triangles_and_quads():
    """Example 41: a mesh of both."""
    mesh = Mesh.read(FILES / "mixedtriquad.msh")
    A, b = 0.0, 0.0
    for kind, cells in mesh.cells.items():
        used, cells = np.unique(cells, return_inverse=True)
        cells = cells.reshape(mesh.cells[kind].shape)
        part = Mesh.from_arrays(mesh.points[used], {kind: cells}, connected=False)
        V = FunctionSpace(part, "Q1" if kind == "quad" else "P1", degree=4)
        T = sp.csr_array(sp.eye_array(mesh.n_points))[used]
        of_one = jax.grad(lambda v, V=V: fem.integrate(V, lambda w: w.u, u=v))
        A = A + T.T @ matrix(V, laplace) @ T
        b = b + T.T @ jax.jit(of_one)(jnp.zeros(V.size))
    u = solve(A, b, mesh.boundary_nodes("boundary"))
    close(u.max(), 0.025183404207706196, 1e-12)


def test_discontinuous_poisson():
    """Example 7: discontinuous quartic functions, 5e-7 above the limit; Q2 is as near."""
    V = FunctionSpace(quads(16, 16), "Q2")
    problem = models.poisson(V, {"boundary": 0.0}, source="f")
    u = jax.jit(lambda: problem.solve({"kappa": 1.0, "f": 1.0}).max())()
    np.testing.assert_allclose(u, 0.07367139175949584, rtol=2e-6)


def test_clamped_plate():
    """Example 48: Δ²u = 1 by moments of Hellan, Herrmann and Johnson; here by σ = -Δu
    (Ciarlet and Raviart), where ∂u/∂n = 0 is the natural condition."""
    Q = FunctionSpace(quads(16, 16), "Q2")

    def form(u, v, w):
        (u, s), (v, r) = u, v
        return dot(grad(s), grad(v)) - v + dot(grad(u), grad(r)) - s * r

    sides = {"boundary": 0.0}, {}
    plate = Problem(MixedSpace(Q, Q), form, sides, structure="symmetric")
    u, _ = jax.jit(lambda: plate.solve())()
    np.testing.assert_allclose(u.max(), 0.0012653264834919884, rtol=5e-5)
