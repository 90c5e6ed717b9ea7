"""Meshes with named regions and boundaries."""

import dataclasses
import functools
import os
import types
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from . import check
from .cells import CELL_TYPES


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Mesh:
    """Points, cells, and names for some cells and facets. Immutable; all are checked.

    - `points`: `(n_points, dim)`, dim = 1, 2 or 3. [length, the caller's unit]
    - `cells`: type -> node numbers `(n, nodes per cell)`, e.g. "triangle", "tetra" (the
      names and node orders of meshio). Cells are numbered through the types in turn.
      Cells of negative orientation are stored with two nodes swapped.
    - `regions`: name -> cell numbers.
    - `boundaries`: name -> node tuples `(n_facets, k)`: facets on the boundary or
      inside; k = 1 names single nodes, e.g. `{"ground": [[17]]}`.
    - `connected`: whether a mesh in several parts is refused.
    """

    points: np.ndarray
    cells: Mapping[str, np.ndarray]
    regions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    boundaries: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    connected: bool = True

    def __post_init__(self):
        points = check.check_points(self.points)
        cells = check.check_cells(self.cells, points)
        exterior = check.check_manifold(check.all_facets(cells), len(points))
        n_cells = sum(map(len, cells.values()))
        fields: dict[str, Any] = {
            "points": points,
            "cells": cells,
            "regions": check.check_regions(self.regions, n_cells),
            "boundaries": check.check_boundaries(self.boundaries, cells, len(points)),
            "exterior": exterior,
        }
        if self.connected:
            check.check_connected(cells, len(points))
        for name, value in fields.items():
            object.__setattr__(self, name, _freeze(value))

    exterior: np.ndarray = dataclasses.field(init=False)
    """Facets that belong to one cell only, by their vertices, `(n_facets, k)`."""

    @classmethod
    def from_arrays(
        cls, points, cells, regions=None, boundaries=None, *, connected: bool = True
    ) -> "Mesh":
        """A mesh of given arrays; see the class for their meaning."""
        return cls(points, cells, regions or {}, boundaries or {}, connected)

    @classmethod
    def read(cls, path: str | os.PathLike, *, connected: bool = True) -> "Mesh":
        """A mesh file of any format that meshio reads; see `pyimplicit.fem.read`."""
        from .read import read

        return read(path, connected=connected)

    @classmethod
    def interval(cls, n: int, length: float = 1.0, *, origin: float = 0.0) -> "Mesh":
        """`n` equal cells; boundaries "left" and "right"."""
        from .generate import interval

        return interval(n, length, origin)

    @classmethod
    def rectangle(
        cls,
        nx: int,
        ny: int,
        lengths=(1.0, 1.0),
        *,
        origin=(0.0, 0.0),
        cells: Literal["triangle", "quad"] = "triangle",
    ) -> "Mesh":
        """`2 nx ny` triangles, or `nx ny` quads; boundaries "left", "right", "bottom",
        "top"."""
        from .generate import rectangle

        return rectangle((nx, ny), lengths, origin, cells)

    @classmethod
    def box(
        cls,
        nx: int,
        ny: int,
        nz: int,
        lengths=(1.0, 1.0, 1.0),
        *,
        origin=(0.0, 0.0, 0.0),
        cells: Literal["tetra", "hexahedron"] = "tetra",
    ) -> "Mesh":
        """`6 nx ny nz` tetrahedra, or `nx ny nz` hexahedra; boundaries "left", "right"
        (x), "front", "back" (y), "bottom", "top" (z)."""
        from .generate import box

        return box((nx, ny, nz), lengths, origin, cells)

    @classmethod
    def disk(cls, n: int, radius: float = 1.0, *, centre=(0.0, 0.0)) -> "Mesh":
        """`6 n²` triangles in `n` rings; boundary "boundary"; node 0 is the centre. Its
        sides are straight: on it the errors of P2 are of orders 2 in L² and 1.5 in H¹, not
        3 and 2, which they are with the middles of sides moved to the rim (`second_order`).
        """
        from .generate import disk

        return disk(n, radius, centre)

    @classmethod
    def polygon(
        cls,
        corners,
        *,
        size: float,
        points_per_edge: int = 8,
        refine=(),
        refine_size: float | None = None,
        growth: float = 0.35,
    ) -> "Mesh":
        """Triangles that fill a simple polygon; see `pyimplicit.fem.polygon`."""
        from .polygon import polygon

        return polygon(corners, size, points_per_edge, refine, refine_size, growth)

    def refine(self, times: int = 1) -> "Mesh":
        """Each straight cell cut into 2^dim, `times` over; names are kept. The new points
        are middles, also on curved boundaries. See `pyimplicit.fem.refine`."""
        from .refine import refine

        return refine(self, times)

    def second_order(self, move=None) -> "Mesh":
        """The mesh with nodes in the middles of its edges, faces and cells, so that cells
        can be curved. `move(points)`, `(n, dim)` to `(n, dim)`, then moves all points,
        e.g. onto the true boundary."""
        from .refine import second_order

        return second_order(self, move)

    @property
    def dim(self) -> int:
        return self.points.shape[1]

    @property
    def n_points(self) -> int:
        return len(self.points)

    @property
    def n_cells(self) -> int:
        return sum(map(len, self.cells.values()))

    @functools.cached_property
    def volumes(self) -> np.ndarray:
        """Length, area or volume of each cell, `(n_cells,)`; of a cell that is no
        straight simplex, the value of its corner rule."""
        det = [CELL_TYPES[n].determinants(self.points, c) for n, c in self.cells.items()]
        scale = [_SCALE[n.rstrip("0123456789")] for n in self.cells]
        return np.concatenate([s * d.mean(axis=1) for s, d in zip(scale, det, strict=True)])

    def boundary_nodes(self, name: str) -> np.ndarray:
        """Sorted numbers of the nodes of a named boundary.

        "boundary" means the whole exterior boundary where no group has that name (of
        curved cells, its vertices; `FunctionSpace.boundary_dofs` has all unknowns).
        """
        if name in self.boundaries:
            return np.unique(self.boundaries[name])
        if name == "boundary":
            return np.unique(self.exterior)
        known = ", ".join(map(repr, (*self.boundaries, "boundary")))
        raise ValueError(
            f"A boundary name must be one of the mesh's.\nGot {name!r}.\n"
            f"The mesh has {known}."
        )

    def boundary_rows(self, name: str) -> np.ndarray:
        """The facets of a named boundary by their vertices, `(n_facets, k)`; its single
        nodes if k = 1."""
        if name not in self.boundaries:
            self.boundary_nodes(name)  # which refuses unknown names
            return self.exterior
        rows = self.boundaries[name]
        sizes = check.row_sizes([CELL_TYPES[kind] for kind in self.cells])
        return rows[:, : sizes[rows.shape[1]][0]]

    def region_cells(self, name: str) -> np.ndarray:
        """Sorted numbers of the cells of a named region."""
        if name in self.regions:
            return self.regions[name]
        known = ", ".join(map(repr, self.regions)) or "none"
        raise ValueError(
            f"A region name must be one of the mesh's.\nGot {name!r}.\n"
            f"The mesh has {known}."
        )

    def nearest_nodes(self, points) -> np.ndarray:
        """Number of the node nearest to each of `points`, `(m, dim)` -> `(m,)`."""
        from scipy.spatial import KDTree

        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != self.dim:
            raise ValueError(
                f"`mesh.nearest_nodes(points)` must have shape (m, {self.dim}).\n"
                f"Got {points.shape}.\nPass one row for each point."
            )
        return np.asarray(KDTree(self.points).query(points)[1])

    def __repr__(self) -> str:
        cells = ", ".join(f"{len(c)} {name}" for name, c in self.cells.items())
        names = [*self.regions, *self.boundaries]
        return f"Mesh({self.n_points} points in {self.dim}-D, {cells}, names {names})"


# Volume of the reference cell: the mean corner determinant times this.
_SCALE = {"line": 1.0, "triangle": 0.5, "quad": 1.0, "tetra": 1 / 6, "hexahedron": 1.0}


def _freeze(value):
    if isinstance(value, dict):
        return types.MappingProxyType({k: _freeze(v) for k, v in value.items()})
    value.flags.writeable = False
    return value
