"""Function spaces: an element on every cell of a mesh, its numbering and geometry."""

import abc
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..linear import SparsePattern
from ..linear.pattern import Structure
from .domain import Domain, check_volume
from .elements import find_element
from .mesh import Mesh
from .numbering import number


class Sparsity(NamedTuple):
    """Which unknowns meet in a cell. `rows`, `cols`: `(nnz,)`, row by row. `slot`:
    `(n_cells, k, k)`, the place among them of each entry of each element matrix."""

    rows: np.ndarray
    cols: np.ndarray
    slot: np.ndarray


class Space(abc.ABC):
    """What `FunctionSpace` and `MixedSpace` share. `parts`: the spaces of the fields;
    `starts`: where the unknowns of each begin among `size` in all."""

    mesh: Mesh
    parts: tuple["FunctionSpace", ...]
    degree: int
    size: int
    shape: tuple

    @property
    def n_quadrature(self) -> int:
        """Quadrature points in each cell."""
        return self.domain().n_quadrature

    @abc.abstractmethod
    def split(self, u) -> tuple:
        """The fields of a vector of all unknowns, `(size, ...)`, in their shapes."""

    @abc.abstractmethod
    def join(self, fields: tuple) -> jax.Array:
        """The vector of all unknowns, `(size, ...)`."""

    @functools.cached_property
    def starts(self) -> list[int]:
        return [0, *itertools.accumulate(part.size for part in self.parts)][:-1]

    @functools.cached_property
    def cell_dofs(self) -> np.ndarray:
        """Places of the unknowns of each cell, `(n_cells, k)`, field by field: the
        components of the first node, those of the second, …"""
        blocks = []
        for part, start in zip(self.parts, self.starts, strict=True):
            dofs = part.cells[:, :, None] * part.components + np.arange(part.components)
            blocks.append(start + dofs.reshape(len(dofs), -1))
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    @functools.cached_property
    def sparsity(self) -> Sparsity:
        """The matrices of this space, all components and fields coupled."""
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

    def domain(self, boundary: str | None = None) -> Domain:
        """The cells of the mesh, or the facets of a boundary, with the quadrature."""
        if boundary not in self._domains:
            self._domains[boundary] = Domain(self.mesh, self.degree, boundary)
        return self._domains[boundary]

    @functools.cached_property
    def _domains(self) -> dict:
        return {}

    @functools.cached_property
    def _patterns(self) -> dict[str, SparsePattern]:
        return {}

    @functools.cached_property
    def _arrays(self) -> dict:
        return {}

    @functools.cached_property
    def _loops(self) -> dict:
        return {}

    def array(self, name: str, domain: Domain | None = None) -> jax.Array:
        """One of the arrays above on the device, made once: "slot" of `sparsity`,
        "points" of the mesh; for the items of a domain "cell_dofs", "slot", "nodes",
        "facet"."""
        where = None if domain is None or domain.name is None else domain.name
        key = name, where, jax.dtypes.canonicalize_dtype(np.float64)
        if key not in self._arrays:
            self._arrays[key] = on_device(self._source(name, domain, where))
        return opaque(self._arrays[key])

    def _source(self, name: str, domain, where) -> np.ndarray:
        if name == "points":
            return self.mesh.points
        if name in ("nodes", "facet", "cells of"):
            return getattr(domain, "cells" if name == "cells of" else name)
        source = self.sparsity.slot if name == "slot" else getattr(self, name)
        return source if where is None else source[domain.cells]


class FunctionSpace(Space):
    """Continuous piecewise polynomials on a mesh. Static: compared by identity.

    - `element`: "P1", "P2" on intervals, triangles or tetrahedra, "Q1", "Q2" on quads or
      hexahedra: linear or quadratic on the reference cell. Cells of second order are
      curved as their nodes say.
    - `components`: of the function's values. With 1, the coefficients `u` of a function
      have shape `(n_dofs,)`, else `(n_dofs, components)`: the values at `dof_points`.
      Those of P1 and Q1 on straight cells, and of P2 and Q2 on cells with as many nodes,
      are at the nodes of the mesh, in its order; else vertices come first, then edges,
      faces and cells.
    - `degree`: up to which polynomials the quadrature in each reference cell is exact;
      2 for linear elements, 4 for quadratic ones if not given.

    `shape` is the shape of `u`, `size` its number of entries.
    """

    def __init__(
        self,
        mesh: Mesh,
        element: str = "P1",
        components: int = 1,
        degree: int | None = None,
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
        self.parts = (self,)
        self.components = int(components)
        self.degree = 2 * self.element.order if degree is None else degree
        domain = self.domain()
        self.quadrature_points = domain.quadrature_points[0]
        self.quadrature_weights = domain.quadrature_weights
        self.basis = self.element.values(self.quadrature_points)
        self.basis_gradients = self.element.gradients(self.quadrature_points)
        self.numbering = number(mesh, self.element)
        self.n_dofs = self.numbering.n_dofs
        self.shape = (self.n_dofs,) if components == 1 else (self.n_dofs, components)
        self.size = math.prod(self.shape)
        if not domain.affine:
            check_volume(np.linalg.det(self.jacobians))

    def __repr__(self) -> str:
        return (
            f"FunctionSpace({self.element.name!r}, shape {self.shape}, "
            f"{self.mesh.n_cells} cells)"
        )

    @property
    def cells(self) -> np.ndarray:
        """Scalar unknowns of each cell, `(n_cells, n_basis)`."""
        return self.numbering.cell_dofs

    @functools.cached_property
    def scalar(self) -> "FunctionSpace":
        """The same space of functions with one component."""
        if self.components == 1:
            return self
        return FunctionSpace(self.mesh, self.element.name, 1, self.degree)

    @functools.cached_property
    def dof_points(self) -> np.ndarray:
        """Where the unknowns are, `(n_dofs, dim)`. [length]"""
        points = np.empty((self.n_dofs, self.mesh.dim))
        table = self.domain().geometry.values(self.element.cell.points)
        points[self.cells] = np.einsum("ig,cgd->cid", table, self._corners)
        return points

    def boundary_dofs(self, name: str) -> np.ndarray:
        """Sorted numbers of the (scalar) unknowns on a named boundary."""
        rows = self.mesh.boundary_rows(name)
        if rows.shape[1] > 1:
            return self.numbering.on(rows)
        dofs = self.numbering.at_points[rows[:, 0]]
        if self.n_dofs == self.mesh.n_points:  # nodes of curved cells too
            dofs = np.where(dofs < 0, rows[:, 0], dofs)
        return np.unique(dofs[dofs >= 0])

    @property
    def _corners(self) -> np.ndarray:
        return self.mesh.points[self.domain().nodes]

    @functools.cached_property
    def jacobians(self) -> np.ndarray:
        """∂x/∂ξ in each cell, `(n_cells, dim, dim)` where it is constant, else at the
        quadrature points, `(n_cells, n_quadrature, dim, dim)`."""
        domain = self.domain()
        gradients = domain.table(domain.geometry)[1][0]
        jacobians = np.einsum("qgr,cgd->cqdr", gradients, self._corners, optimize=True)
        return jacobians[:, 0] if domain.affine else jacobians

    @functools.cached_property
    def inverse_jacobians(self) -> np.ndarray:
        """∂ξ/∂x, shaped like `jacobians`; ∇φ = ∂φ/∂ξ @ this."""
        return np.linalg.inv(self.jacobians)

    @functools.cached_property
    def weights(self) -> np.ndarray:
        """Quadrature weights times volume element, `(n_cells, n_quadrature)`."""
        volume = np.linalg.det(self.jacobians)
        volume = volume[:, None] if volume.ndim == 1 else volume
        return volume * self.quadrature_weights

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Quadrature points in space, `(n_cells, n_quadrature, dim)`. [length]"""
        domain = self.domain()
        table = domain.table(domain.geometry)[0][0]
        return np.einsum("qg,cgd->cqd", table, self._corners, optimize=True)

    @functools.cached_property
    def stiffness(self) -> np.ndarray:
        """∫ ∇φᵢ·∇φⱼ in each cell, `(n_cells, n_basis, n_basis)`."""
        inverse = self.inverse_jacobians
        if self.domain().affine and self.element.order == 1:
            gradients = self.basis_gradients[0] @ inverse
            volume = self.weights.sum(axis=1)[:, None, None]
            return gradients @ np.swapaxes(gradients, 1, 2) * volume
        inverse = inverse[:, None] if inverse.ndim == 3 else inverse
        gradients = self.basis_gradients @ inverse
        return np.einsum(
            "cq,cqid,cqjd->cij", self.weights, gradients, gradients, optimize=True
        )

    @functools.cached_property
    def mass(self) -> np.ndarray:
        """∫ φᵢ φⱼ in each cell, `(n_cells, n_basis, n_basis)`."""
        exact = FunctionSpace(self.mesh, self.element.name, 1, 2 * self.element.order)
        V = self if self.degree >= exact.degree else exact
        return np.einsum("cq,qi,qj->cij", V.weights, V.basis, V.basis, optimize=True)

    def split(self, u) -> tuple:
        """The fields of a vector of all unknowns, `(size, ...)`, in their shapes."""
        return (u.reshape(*self.shape, *u.shape[1:]),)

    def join(self, fields: tuple) -> jax.Array:
        """The vector of all unknowns, `(size, ...)`."""
        (u,) = fields
        return u.reshape(self.size, *u.shape[len(self.shape) :])


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
