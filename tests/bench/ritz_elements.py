"""Linear finite elements with about n unknowns on the problems of `tests.bench.ritz`.

In the plane by `pi.fem`. In more dimensions by products of one-dimensional elements: these
problems are sums over the coordinates, and so are their discrete solutions.
"""

import functools

import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


def matrices(a: float, b: float, cells: int, potential=None):
    """Stiffness, mass and potential of linear elements on (a, b), with the nodes."""
    h = (b - a) / cells
    x = np.linspace(a, b, cells + 1)
    K, M, Q = (np.zeros((cells + 1, cells + 1)) for _ in range(3))
    t, w = np.polynomial.legendre.leggauss(6)
    for i in range(cells):
        here = np.ix_([i, i + 1], [i, i + 1])
        K[here] += np.array([[1, -1], [-1, 1]]) / h
        M[here] += np.array([[2, 1], [1, 2]]) * h / 6
        if potential is not None:
            s = (t + 1) / 2
            shape = np.stack([1 - s, s])
            Q[here] += (shape * (w * potential(x[i] + h * s))) @ shape.T * h / 2
    return x, K, M, Q


def least_eigenvalue(a: float, b: float, cells: int, potential=None) -> float:
    """Of -u'' + V u on (a, b), zero at the ends."""
    _, K, M, Q = matrices(a, b, cells, potential)
    A, B = (K + Q)[1:-1, 1:-1], M[1:-1, 1:-1]
    return float(np.min(np.linalg.eigvals(np.linalg.solve(B, A)).real))


def per_axis(n: int, dim: int) -> int:
    """Unknowns on each axis of a grid of at most n."""
    return int(n ** (1 / dim) + 1e-9)


def eigenvalue(a, b, dim: int, n: int, exact: float, potential=None):
    """Relative error in (a, b)^dim, V a sum over the coordinates; None if no grid has
    so few unknowns."""
    m = per_axis(n, dim)
    if m < 1:
        return None
    return abs(dim * least_eigenvalue(a, b, m + 1, potential) - exact) / exact


def neumann(dim: int, n: int):
    """-Δu + π²u = 2π² Σ cos πx_k: relative error in L², of Σ v(x_k), each v from a line."""
    m = per_axis(n, dim)
    if m < 2:
        return None
    x, K, M, _ = matrices(0.0, 1.0, m - 1)
    t, w = np.polynomial.legendre.leggauss(400)
    t, w = (t + 1) / 2, w / 2
    hats = np.stack([np.interp(t, x, e) for e in np.eye(m)])
    wanted = np.cos(np.pi * t)
    v = np.linalg.solve(K + np.pi**2 * M, hats @ (w * 2 * np.pi**2 * wanted))
    # ∫ (Σ e(x_k))² = dim ∫e² + dim (dim - 1) (∫e)², and both means vanish.
    e = v @ hats - wanted
    mean, square = w @ e, w @ e**2
    return float(np.sqrt((square + (dim - 1) * mean**2) / 0.5))


@functools.cache
def square(n: int) -> float:
    """-Δu = 2π² sin sin on the unit square: relative error in L²."""
    cells = round(n**0.5) + 1
    u = lambda x: jnp.prod(jnp.sin(jnp.pi * x))
    mesh = pi.fem.Mesh.rectangle(cells, cells)
    values = {name: 0.0 for name in mesh.boundaries}
    return _planar(mesh, values, lambda x: 2 * jnp.pi**2 * u(x), u)


@functools.cache
def slit(n: int, refined: bool = False) -> float:
    """u = r^(1/2) sin(θ/2) on (-1, 1)² less the slit [0, 1) × {0}, linear elements on a
    uniform grid, or on one whose points are drawn to the tip, x -> |x| x: relative error
    in L²."""
    half = round((n**0.5 + 1) / 2)
    mesh = pi.fem.Mesh.rectangle(2 * half, 2 * half, (2.0, 2.0), origin=(-1.0, -1.0))
    x, cells = np.array(mesh.points), np.array(mesh.cells["triangle"])
    on = np.flatnonzero((np.abs(x[:, 1]) < 1e-12) & (x[:, 0] > 1e-12))
    below = x[cells].mean(axis=1)[:, 1] < 0
    copy = np.arange(len(x))
    copy[on] = len(x) + np.arange(len(on))
    cells = np.where(below[:, None], copy[cells], cells)
    x = np.concatenate([x, x[on]])
    facets = np.concatenate([cells[:, [0, 1]], cells[:, [1, 2]], cells[:, [2, 0]]])
    _, first, times = np.unique(
        np.sort(facets, axis=1), axis=0, return_index=True, return_counts=True
    )
    around = facets[first[times == 1]]
    flat = np.abs(x[around][..., 1]).max(axis=1) < 1e-12
    boundaries = {"slit": around[flat], "sides": around[~flat]}
    if refined:
        x = x * np.abs(x).max(axis=1, keepdims=True)
    mesh = pi.fem.Mesh.from_arrays(x, {"triangle": cells}, boundaries=boundaries)
    corner = pi.ritz.Slit().corner
    u = lambda x: corner(x)[1]
    return _planar(mesh, {"slit": 0.0, "sides": u}, 0.0, u)


def _planar(mesh, values, source, u) -> float:
    V = pi.fem.FunctionSpace(mesh, "P1")
    problem = pi.fem.models.poisson(V, values, source="f")
    found = problem.solve({"kappa": 1.0, "f": source})
    fine = pi.fem.FunctionSpace(mesh, "P1", degree=6)
    miss = pi.fem.integrate(fine, lambda w: (w.u - u(w.x)) ** 2, u=found)
    size = pi.fem.integrate(fine, lambda w: u(w.x) ** 2)
    return float(jnp.sqrt(miss / size))
