"""Function spaces: an element on every cell of a mesh, its numbering and geometry."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import engine
from ..linear import SparsePattern
from ..linear.pattern import Structure
from . import quadrature
from .elements import find_element
from .mesh import Mesh


class Sparsity(NamedTuple):
    """Which unknowns meet in a cell. `rows`, `cols`: `(nnz,)`, row by row. `slot`:
    `(n_cells, k, k)`, the place among them of each entry of each element matrix."""

    rows: np.ndarray
    cols: np.ndarray
    slot: np.ndarray


class FunctionSpace:
    """Continuous piecewise polynomials on a mesh. Static: compared by identity.

    - `element`: "P1", linear on intervals, triangles or tetrahedra.
    - `components`: of the function's values. With 1, the coefficients `u` of a function
      have shape `(n_dofs,)`, else `(n_dofs, components)`; those of P1 are the values at
      the nodes of the mesh, in its order.
    - `degree`: up to which polynomials the quadrature in each cell is exact.

    `shape` is the shape of `u`, `size` its number of entries.
    """

    def __init__(
        self, mesh: Mesh, element: str = "P1", components: int = 1, degree: int = 2
    ):
        if not isinstance(mesh, Mesh):
            raise TypeError(
                "`FunctionSpace(mesh, ...)` must get a Mesh.\n"
                f"Got {type(mesh).__name__}.\nMake one with pi.fem.Mesh.from_arrays."
            )
        if not isinstance(components, (int, np.integer)) or components < 1:
            raise ValueError(
                "`FunctionSpace(components=...)` must be a positive whole number.\n"
                f"Got {components!r}.\nUse 1 for a scalar."
            )
        self.mesh = mesh
        self.element = find_element(element, tuple(mesh.cells))
        self.components = int(components)
        self.degree = degree
        self.n_dofs = mesh.n_points
        self.shape = (self.n_dofs,) if components == 1 else (self.n_dofs, components)
        self.size = math.prod(self.shape)
        self.quadrature_points, self.quadrature_weights = quadrature.simplex(
            mesh.dim, degree
        )
        self.basis = self.element.values(self.quadrature_points)
        self.basis_gradients = self.element.gradients(self.quadrature_points)

    def __repr__(self) -> str:
        return (
            f"FunctionSpace({self.element.name!r}, shape {self.shape}, "
            f"{self.mesh.n_cells} cells)"
        )

    @property
    def n_quadrature(self) -> int:
        """Quadrature points in each cell."""
        return len(self.quadrature_weights)

    @property
    def cells(self) -> np.ndarray:
        """Scalar unknowns of each cell, `(n_cells, n_basis)`."""
        return next(iter(self.mesh.cells.values()))

    @functools.cached_property
    def cell_dofs(self) -> np.ndarray:
        """Places in `u.ravel()` of the unknowns of each cell, `(n_cells, k)`: the
        components of the first node, those of the second, …"""
        dofs = self.cells[:, :, None] * self.components + np.arange(self.components)
        return dofs.reshape(len(dofs), -1)

    @functools.cached_property
    def jacobians(self) -> np.ndarray:
        """∂x/∂ξ in each cell, `(n_cells, dim, dim)`."""
        corners = self.mesh.points[self.cells]
        return np.swapaxes(corners[:, 1:] - corners[:, :1], 1, 2)

    @functools.cached_property
    def inverse_jacobians(self) -> np.ndarray:
        """∂ξ/∂x in each cell, `(n_cells, dim, dim)`; ∇φ = ∂φ/∂ξ @ this."""
        return np.linalg.inv(self.jacobians)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """Quadrature weights times volume element, `(n_cells, n_quadrature)`."""
        volume = np.linalg.det(self.jacobians)
        return volume[:, None] * self.quadrature_weights

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Quadrature points in space, `(n_cells, n_quadrature, dim)`. [length]"""
        return np.einsum("qk,ckd->cqd", self.basis, self.mesh.points[self.cells])

    @functools.cached_property
    def stiffness(self) -> np.ndarray:
        """∫ ∇φᵢ·∇φⱼ in each cell, `(n_cells, n_basis, n_basis)`."""
        gradients = self.basis_gradients[0] @ self.inverse_jacobians
        volume = self.weights.sum(axis=1)[:, None, None]
        return gradients @ np.swapaxes(gradients, 1, 2) * volume

    @functools.cached_property
    def mass(self) -> np.ndarray:
        """∫ φᵢ φⱼ in each cell, `(n_cells, n_basis, n_basis)`."""
        points, weights = quadrature.simplex(self.mesh.dim, 2)
        basis = self.element.values(points)
        reference = np.einsum("q,qi,qj->ij", weights, basis, basis)
        volume = np.linalg.det(self.jacobians)
        return volume[:, None, None] * reference

    @functools.cached_property
    def sparsity(self) -> Sparsity:
        """The matrices of this space, all components coupled."""
        dofs = self.cell_dofs
        key = (dofs[:, :, None] * self.size + dofs[:, None, :]).ravel()
        places, slot = np.unique(key, return_inverse=True)
        rows, cols = np.divmod(places, self.size)
        k = dofs.shape[1]
        return Sparsity(rows, cols, slot.reshape(-1, k, k))

    def pattern(self, structure: Structure = "general") -> SparsePattern:
        """Where a matrix of this space has entries."""
        if structure not in self._patterns:
            s = self.sparsity
            self._patterns[structure] = SparsePattern(
                s.rows, s.cols, (self.size, self.size), structure
            )
        return self._patterns[structure]

    @functools.cached_property
    def julia_diffusion(self):
        """The assembly of ∫ κ ∇u·∇v in Julia: a JAX function of one κ per cell."""
        rows, _, slot = self.sparsity
        return engine.julia.diffusion_assembly(
            self.mesh.points, self.cells, slot, rows.size
        )

    @functools.cached_property
    def _patterns(self) -> dict[str, SparsePattern]:
        return {}

    @functools.cached_property
    def _arrays(self) -> dict:
        return {}

    def array(self, name: str) -> jax.Array:
        """One of the arrays above on the device, made once ("slot": of `sparsity`)."""
        key = name, jax.dtypes.canonicalize_dtype(np.float64)
        if key not in self._arrays:
            source = self.sparsity.slot if name == "slot" else getattr(self, name)
            self._arrays[key] = on_device(source)
        return opaque(self._arrays[key])


def opaque(array: jax.Array) -> jax.Array:
    """The same array; in a compiled function one whose entries XLA does not compute
    with when it compiles (which takes long for large ones)."""
    return jax.lax.optimization_barrier(array)


def on_device(array: np.ndarray) -> jax.Array:
    """A real device array, even inside a trace; integers in 32 bits."""
    if np.issubdtype(array.dtype, np.integer):
        array = array.astype(np.int32)
    else:
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    with jax.ensure_compile_time_eval():
        return jnp.asarray(array)
