"""Smoothness priors of a field on a mesh."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .. import fem
from ..linear import sparse_solve
from .prior import AbstractPrior


class SmoothField(AbstractPrior):
    """R = γ K + δ M on P1 nodes, with one γ for each cell; without checks.

    `gamma`: `(n_cells,)`, `delta`: `()`, `reference`: `(n,)`; `values`: R on the pattern.
    """

    V: Any = eqx.field(static=True)
    gamma: jax.Array
    delta: jax.Array
    reference: jax.Array
    values: jax.Array

    def __init__(self, V, gamma, delta, reference: Any = 0.0):
        K, M = fem.diffusion_values(V, gamma), fem.mass_values(V)
        self.V, self.gamma, self.delta = V, gamma, jnp.asarray(delta, M.dtype)
        self.values = K + delta * M
        self.reference = jnp.broadcast_to(jnp.asarray(reference, M.dtype), V.shape)

    def value(self, m):
        d = m - self.reference
        return 0.5 * jnp.vdot(d, self.apply(d))

    def gradient(self, m):
        return self.apply(m - self.reference)

    def apply(self, v):
        return self.V.pattern("spd").matvec(self.values, v)

    def solve(self, v):
        return sparse_solve(self.V.pattern("spd"), self.values, v)

    def sample(self, key, like):
        # With element matrices L Lᵀ the load Σ_c L_c ξ_c has the covariance R.
        del like
        stiffness, mass = self.V.array("stiffness"), self.V.array("mass")
        element = self.gamma[:, None, None] * stiffness + self.delta * mass
        return self.solve(_noise(self.V, jnp.linalg.cholesky(element), key))


class H1Prior(SmoothField):
    r"""Smooth fields: R = γ K + δ M on P1 nodes.

    The penalty is 1/2 ∫ γ |∇(m - m̂)|² + δ (m - m̂)² dx, whatever the mesh: K and M are
    the stiffness and mass matrices. sqrt(γ/δ) is the length over which the field keeps
    its value. [length of the mesh]

    **Arguments:**

    - `V`: a P1 `FunctionSpace` with `n` nodes.
    - `gamma`: weight of the gradient, ≥ 0. [length²⁻ᵈ / m²]
    - `delta`: weight of the difference from the reference, > 0. [length⁻ᵈ / m²]
    - `reference`: m̂, a number or an array `(n,)`.

    **Derivative:** `value` in `m` is quadratic, exact to any order.

    ??? cite "Reference"
        Lindgren, Rue, Lindström, *An explicit link between Gaussian fields and
        Gaussian Markov random fields*, J. R. Stat. Soc. B 73 (2011).
        doi:10.1111/j.1467-9868.2011.00777.x
    """

    def __init__(self, V, gamma: float = 1.0, delta: float = 1.0, reference: Any = 0.0):
        _check("H1Prior", V, gamma, delta)
        super().__init__(V, jnp.full(V.mesh.n_cells, float(gamma)), delta, reference)


class BiLaplacianPrior(AbstractPrior):
    r"""Smooth random fields whose variance does not depend on the mesh: R = A D⁻¹ A with
    A = γ K + δ D on P1 nodes, and the diagonal D of the nodes' shares of the volume.

    In two and three dimensions a normal field with the covariance of an `H1Prior` is no
    function: its pointwise variance grows as the mesh is refined. This one has, far from
    the boundary in 2-D, the standard deviation 1/sqrt(4π γ δ) and the correlation length
    sqrt(8 γ/δ). Take it for `laplace_posterior`.

    Arguments are those of `H1Prior`; [γ] = length^(2 - d/2) / m, [δ] = length^(-d/2) / m.

    ??? cite "Reference"
        Bui-Thanh, Ghattas, Martin, Stadler, *A computational framework for
        infinite-dimensional Bayesian inverse problems*, SIAM J. Sci. Comput. 35 (2013).
        doi:10.1137/12089586X; Lindgren et al. (2011) as in `H1Prior`
    """

    V: Any = eqx.field(static=True)
    root: jax.Array  # A on the pattern of V
    shares: jax.Array  # D, (n,)
    reference: jax.Array

    def __init__(self, V, gamma: float = 1.0, delta: float = 1.0, reference: Any = 0.0):
        _check("BiLaplacianPrior", V, gamma, delta)
        K = fem.diffusion_values(V, jnp.full(V.mesh.n_cells, float(gamma)))
        pattern = V.pattern("spd")
        rows, cols = np.asarray(pattern.rows), np.asarray(pattern.cols)
        self.V, self.shares = V, jnp.asarray(node_shares(V), K.dtype)
        self.root = K + delta * jnp.where(rows == cols, self.shares[rows], 0.0)
        self.reference = jnp.broadcast_to(jnp.asarray(reference, K.dtype), V.shape)

    def value(self, m):
        Ad = self._times(m - self.reference)
        return 0.5 * jnp.vdot(Ad, Ad / self.shares)

    def gradient(self, m):
        return self.apply(m - self.reference)

    def apply(self, v):
        return self._times(self._times(v) / self.shares)

    def solve(self, v):
        return self._divide(self.shares * self._divide(v))

    def sample(self, key, like):
        # R⁻¹ = A⁻¹ D A⁻¹
        del like
        xi = jax.random.normal(key, self.shares.shape, self.shares.dtype)
        return self._divide(jnp.sqrt(self.shares) * xi)

    def _times(self, v):
        return self.V.pattern("spd").matvec(self.root, v)

    def _divide(self, v):
        return sparse_solve(self.V.pattern("spd"), self.root, v)


def node_shares(V) -> np.ndarray:
    """The part of the mesh's volume that belongs to each P1 or Q1 node, `(n,)`, > 0.

    In triangles, what is nearer to a corner than to the others (half of an obtuse
    triangle to its obtuse corner). A third to each corner, as the rows of the mass matrix
    sum to, gives nodes with eight triangles twice what those with four get, and the
    deviations of a random field on `Mesh.rectangle` a chequerboard. Other cells are
    shared in that way.

    Source: Meyer, Desbrun, Schröder, Barr 2003, doi:10.1007/978-3-662-05105-4_2.
    """
    cells, mesh = V.cells, V.mesh
    if cells.shape[1] != 3:
        ones = jnp.ones(V.shape)
        return np.asarray(V.pattern("spd").matvec(fem.mass_values(V), ones))
    corners, area = mesh.points[cells], mesh.volumes[:, None]
    after, before = np.roll(corners, -1, axis=1), np.roll(corners, 1, axis=1)
    dots = np.sum((after - corners) * (before - corners), axis=2)
    # An edge of length l and the circumcentre make a triangle of area l² cot(α)/8 to
    # each of its ends, α the opposite angle; cot α = dots/2 area.
    pieces = np.sum((before - after) ** 2, axis=2) * dots / (16 * area)
    shares = pieces.sum(axis=1, keepdims=True) - pieces
    obtuse = dots < 0
    halves = area * np.where(obtuse, 0.5, 0.25)
    shares = np.where(obtuse.any(axis=1, keepdims=True), halves, shares)
    return np.bincount(cells.ravel(), shares.ravel(), minlength=V.size)


def _noise(V, roots, key):
    xi = jax.random.normal(key, roots.shape[:2], roots.dtype)
    terms = jnp.einsum("cij,cj->ci", roots, xi)
    return jnp.zeros(V.shape, roots.dtype).at[V.array("cell_dofs")].add(terms)


def _check(name: str, V, gamma, delta) -> None:
    if not (0 <= gamma < np.inf and 0 < delta < np.inf):
        raise ValueError(
            f"`{name}(gamma, delta)` must have gamma >= 0 and delta > 0, finite.\n"
            f"Got gamma = {gamma}, delta = {delta}.\n"
            "Without delta the prior says nothing of the mean; for pure smoothing "
            "take delta = gamma / L**2 with L larger than the mesh."
        )
    if V.components != 1:
        raise ValueError(
            f"`{name}(V)` must get a space of scalar functions.\n"
            f"Got {V.components} components.\nUse one prior for each component."
        )
