"""Operators that need no form: with linear functions on simplices, a cell adds

    T B(θ, G),   T its measure, G the gradients of its basis functions,

linear in its coefficients θ. In Julia a threaded loop does all of it (see
`julia/src/operators.jl`, which has the derivatives by hand); on the host a few array
operations do, on precomputed geometry where the points stay, or a product with a constant
sparse matrix.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from .. import engine
from ..engine import host_product
from .assembly import scatter
from .domain import invert
from .moved import moved
from .space import FunctionSpace, on_device


def fits(V) -> bool:
    """Whether there are loops for a space: gradients must be constant in each cell."""
    return isinstance(V, FunctionSpace) and V.element.name == "P1" and V.domain().affine


def assemble(
    V: FunctionSpace, operator: str, theta, *, boundary: str | None = None, points=None
) -> jax.Array:
    """Entries of an operator: `(nnz,)` on `V.pattern()`, or for "Load" `(size,)`.

    `theta`: `(n, m)`, the coefficients of each cell or facet. `points`: of the mesh, if
    they are moved. Of a vector each component has the same Diffusion, and no other has.
    """
    if operator == "Diffusion" and V.components > 1:
        one = assemble(V.scalar, operator, theta, boundary=boundary, points=points)
        return jnp.zeros(len(V.sparsity.rows), one.dtype).at[_alike(V)].set(one)
    key = operator, boundary
    if key not in V._loops:
        V._loops[key] = _Loop(V, operator, boundary)
    loop = V._loops[key]
    if theta.shape[0] != len(loop.nodes):
        what = "cell" if boundary is None else "facet"
        raise ValueError(
            f"The coefficients here must have a row for each {what}: "
            f"{len(loop.nodes)}.\nGot shape {theta.shape}.\nRepeat a constant, e.g. "
            f"jnp.full({len(loop.nodes)}, 1.0)."
        )
    if points is not None:
        theta = theta.astype(jnp.result_type(theta, points))
        points = points.astype(theta.real.dtype)
    if engine.running() == "julia":
        at = V.array("points") if points is None else points
        return loop.julia(at, theta)
    if points is None and theta.shape[1] == 1:
        return loop.product(theta[:, 0])
    if points is not None:
        return loop.formula(points, theta)
    return loop.sum(*(a.astype(theta.real.dtype) for a in loop.geometry()), theta)


def _alike(V: FunctionSpace) -> jax.Array:
    """Where entries of `V.scalar.pattern()` stand in that of `V`: `(components, nnz)`."""
    if "alike" not in V._loops:
        rows, cols, _ = V.scalar.sparsity
        each, n = np.arange(V.components)[:, None], V.components
        key = (rows * n + each) * V.size + cols * n + each
        places = np.searchsorted(V.sparsity.rows * V.size + V.sparsity.cols, key)
        V._loops["alike"] = on_device(places)
    return jax.lax.optimization_barrier(V._loops["alike"])


class _Loop:
    """One operator over one domain: which nodes, and which places their entries have."""

    def __init__(self, V: FunctionSpace, operator: str, boundary: str | None):
        if not fits(V):
            raise ValueError(
                f"`{operator}` must be assembled in a space of P1 on straight simplices.\n"
                f"Got {V}.\nWrite a form, and take Problem(V, form).matrix()."
            )
        domain, c = V.domain(boundary), V.components
        self.V, self.operator = V, operator
        self.nodes = nodes = domain.nodes
        if boundary is not None:
            facets = np.array(domain.cell_type.facets)[domain.facet]
            self.nodes = nodes = np.take_along_axis(nodes, facets, axis=1)
        dofs = (nodes[:, :, None] * c + np.arange(c)).reshape(len(nodes), -1)
        self.size = V.size
        self.places = dofs
        if operator != "Load":
            rows, cols, slot = V.sparsity
            self.size, self.places = rows.size, slot
            if boundary is not None:
                key = dofs[:, :, None] * V.size + dofs[:, None, :]
                self.places = np.searchsorted(rows * V.size + cols, key)
        self._cache: dict = {}

    def formula(self, points, theta):
        """The entries in JAX, from the points of the mesh and the coefficients."""
        return self.sum(*simplices(points[on_device(self.nodes)]), theta)

    def sum(self, measure, gradients, theta):
        element = _ELEMENTS[self.operator](measure, gradients, theta, self.V.components)
        (places,) = self._kept("places", lambda: [self.places])
        return scatter(element, places, self.size)

    @property
    def julia(self):
        if "julia" not in self._cache:
            V = self.V
            d, c = V.mesh.dim, V.components
            several = {"TensorDiffusion": d * d, "Advection": d, "Elasticity": 2, "Load": c}
            self._cache["julia"] = engine.julia.assembly(
                self.operator,
                c,
                self.nodes,
                self.places,
                self.size,
                V.mesh.points.shape,
                several.get(self.operator, 1),
                self.formula,
            )
        return self._cache["julia"]

    def geometry(self):
        """Measures and gradients on the mesh as it is."""

        def compute():
            with jax.ensure_compile_time_eval():
                return map(np.asarray, simplices(jnp.asarray(self.corners)))

        return self._kept("geometry", compute)

    def product(self, theta):
        """Where each cell has one coefficient and points stay: with element matrices E of
        coefficients 1, entry p is Σ_c Σ E_c θ_c over what cells add to p, a product with
        a constant matrix, of which SciPy makes less work than XLA of a sum by places."""
        if jnp.iscomplexobj(theta):
            return jax.lax.complex(self.product(theta.real), self.product(theta.imag))
        S = self._kept("rows", self._rows)
        S = host_product.Rows(S[0], S[1], S[2].astype(theta.dtype))
        target = engine.target("product", theta.dtype)
        return host_product.product(target, S, theta, (self.size, len(self.nodes)))

    def _rows(self):
        with jax.ensure_compile_time_eval():
            measure, gradients = self.geometry()
            one = jnp.ones((len(self.nodes), 1), measure.dtype)
            element = _ELEMENTS[self.operator](measure, gradients, one, self.V.components)
        places = self.places.reshape(len(self.nodes), -1)
        cells = np.repeat(np.arange(len(places)), places.shape[1])
        entries = np.asarray(element).ravel(), (places.ravel(), cells)
        S = sp.csr_array(entries, shape=(self.size, len(places)))
        return S.indptr, S.indices, S.data

    @property
    def corners(self):
        return self.V.mesh.points[self.nodes]

    def _kept(self, name, make):
        key = name, jax.dtypes.canonicalize_dtype(np.float64)
        if key not in self._cache:
            self._cache[key] = tuple(map(on_device, make()))
        return tuple(map(jax.lax.optimization_barrier, self._cache[key]))


def simplices(corners):
    """Measures `(n,)` and gradients `(n, k, dim)` of the basis functions of simplices with
    `corners` `(n, k, dim)`; of facets (k = dim) the gradients along them."""
    k, dim = corners.shape[1:]
    edges = corners[:, 1:] - corners[:, :1]
    if k == dim + 1:
        det, inverse = invert(jnp.swapaxes(edges, 1, 2))
        measure, inner = jnp.abs(det), inverse
    elif k == 1:
        return jnp.ones_like(corners[:, 0, 0]), jnp.zeros_like(corners)
    else:
        metric = jnp.einsum("cid,cjd->cij", edges, edges)
        square, inverse = invert(metric)
        measure, inner = jnp.sqrt(square), jnp.einsum("cij,cjd->cid", inverse, edges)
    first = -jnp.sum(inner, axis=1, keepdims=True)
    return measure / math.factorial(k - 1), jnp.concatenate([first, inner], axis=1)


def _diffusion(T, G, theta, c):
    return jnp.einsum("c,cid,cjd->cij", T * theta[:, 0], G, G)


def _tensor(T, G, theta, c):
    d = G.shape[-1]
    K = theta.reshape(-1, d, d)
    return jnp.einsum("c,cid,cde,cje->cij", T, G, K, G)


def _mass(T, G, theta, c):
    k = G.shape[1]
    overlap = np.kron((np.eye(k) + 1) / (k * (k + 1)), np.eye(c))
    return (T * theta[:, 0])[:, None, None] * overlap.astype(T.dtype)


def _advection(T, G, theta, c):
    k = G.shape[1]
    row = jnp.einsum("c,cd,cjd->cj", T / k, theta, G)
    return jnp.broadcast_to(row[:, None, :], (len(T), k, k))


def _elasticity(T, G, theta, c):
    mu, lam = theta[:, 0] * T, theta[:, 1] * T
    bulk = jnp.einsum("c,cia,cjb->ciajb", lam, G, G)
    shear = jnp.einsum("c,cib,cja->ciajb", mu, G, G)
    along = jnp.einsum("c,cid,cjd->cij", mu, G, G)
    n = G.shape[1] * c
    straight = jnp.einsum("cij,ab->ciajb", along, jnp.eye(c, dtype=T.dtype))
    return (bulk + shear + straight).reshape(-1, n, n)


def _load(T, G, theta, c):
    k = G.shape[1]
    one = (T / k)[:, None, None] * theta[:, None, :]
    return jnp.broadcast_to(one, (len(T), k, c)).reshape(len(T), k * c)


_ELEMENTS = {
    "Diffusion": _diffusion,
    "TensorDiffusion": _tensor,
    "Mass": _mass,
    "Advection": _advection,
    "Elasticity": _elasticity,
    "Load": _load,
}


def checked_points(V: FunctionSpace, points):
    """Moved points, refused at run time where a cell folds over."""
    return None if points is None else moved(V, None, points)
