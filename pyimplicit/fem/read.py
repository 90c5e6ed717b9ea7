"""Mesh files, by meshio; the names of groups are kept.

- Gmsh: physical groups, by their names (by their number as text if they have none).
- Medit, Nastran, Netgen, SU2, AVS-UCD, TetGen, UGRID: numbers of cells, as text; 0 is none.
- Cell and point sets of other formats (Abaqus, …).
- scikit-fem: cell data "skfem:s:NAME" marks the cells of a region; bit i of
  "skfem:b:NAME" marks local facet i, counted as in `cells.CELL_TYPES`.

Groups of full dimension become `regions`, the others `boundaries`. Points that belong
to no cell, and coordinates that are constant beyond the dimension of the cells, are
dropped.
"""

import contextlib
import io
import os
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

from .cells import CELL_TYPES
from .mesh import Mesh


# Cell data that are numbers of groups
_NUMBERS = ("gmsh:physical", "medit:ref", "nastran:ref", "netgen:index", "su2:tag")
_NUMBERS += ("avsucd:material", "tetgen:ref", "ugrid:ref")


def read(path: str | os.PathLike, *, connected: bool = True) -> Mesh:
    """Reads a mesh. Every error is one line that names the file and the reason."""
    path = Path(path)
    mesh = _meshio(path)
    try:
        return _convert(mesh, connected)
    except ValueError as err:
        raise ValueError(f"{path}: " + " ".join(str(err).splitlines())) from err


def _meshio(path: Path):
    import meshio

    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        raise FileNotFoundError(f"{path}: no mesh could be read, the file is {what}.")
    said = io.StringIO()  # meshio prints what is wrong, and may even exit
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            mesh = meshio.read(path)
    except (Exception, SystemExit) as err:
        text = "" if isinstance(err, SystemExit) else f"{type(err).__name__}: {err}"
        reason = " ".join(f"{said.getvalue()} {text}".split())
        raise ValueError(
            f"{path}: not a mesh that meshio can read ({reason.rstrip('.')})."
        ) from err
    if text := " ".join(said.getvalue().split()):
        warnings.warn(f"{path}: meshio says: {text}", stacklevel=4)
    return mesh


def _convert(mesh, connected: bool) -> Mesh:
    dim = max((block.dim for block in mesh.cells if len(block.data)), default=0)
    if not dim:
        raise ValueError("The file must hold cells. Got none. Mesh the geometry first.")
    blocks = [(i, b) for i, b in enumerate(mesh.cells) if b.dim == dim]
    cells: dict[str, list] = defaultdict(list)
    for _, block in blocks:
        cells[_known(block.type)].append(np.asarray(block.data, np.int64))
    first, start = {}, 0  # block -> number of its first cell; blocks of a type in a row
    for kind in cells:
        for i, block in blocks:
            if block.type == kind:
                first[i], start = start, start + len(block.data)
    regions, boundaries = _groups(mesh, dim, first)
    whole = {kind: np.concatenate(parts) for kind, parts in cells.items()}
    points, number = _used(_flat(mesh.points, dim), whole)
    return Mesh.from_arrays(
        points,
        {kind: number[c] for kind, c in whole.items()},
        {name: np.concatenate(parts) for name, parts in regions.items()},
        {name: _join(name, parts, number) for name, parts in boundaries.items()},
        connected=connected,
    )


def _known(cell_type: str) -> str:
    if cell_type not in CELL_TYPES:
        raise ValueError(
            f"The cells must be of the types {', '.join(CELL_TYPES)}. "
            f"Got {cell_type!r}. Split or convert them, e.g. with gmsh."
        )
    return cell_type


def _groups(mesh, dim: int, first: dict[int, int]):
    """Named groups: regions as cell numbers, boundaries as node tuples of the file."""
    regions, boundaries = defaultdict(list), defaultdict(list)

    def add(name: str, i: int, chosen) -> None:
        block = mesh.cells[i]
        if not len(chosen):
            return
        if i in first:
            regions[name].append(first[i] + np.asarray(chosen, np.int64))
        else:
            boundaries[name].append(np.asarray(block.data, np.int64)[chosen])

    names = {(int(d), int(tag)): n for n, (tag, d) in mesh.field_data.items()}
    tags = next((mesh.cell_data[n] for n in _NUMBERS if n in mesh.cell_data), [])
    for i, block in enumerate(mesh.cells[: len(tags)]):
        for tag in np.unique(tags[i]):
            if tag:
                name = names.get((block.dim, int(tag)), str(int(tag)))
                add(name, i, np.flatnonzero(tags[i] == tag))
    for name, sets in mesh.cell_sets.items():
        if name in names.values() or name.startswith("gmsh:"):
            continue
        for i, chosen in enumerate(sets):
            add(name, i, [] if chosen is None else np.asarray(chosen, np.int64))
    for name, nodes in mesh.point_sets.items():
        boundaries[name].append(np.asarray(nodes, np.int64).reshape(-1, 1))
    for key, data in mesh.cell_data.items():
        if key.startswith("skfem:s:"):
            for i in first:
                add(key[8:], i, np.flatnonzero(data[i]))
        if key.startswith("skfem:b:"):
            for i in first:
                boundaries[key[8:]].extend(_decode(mesh.cells[i], data[i]))
    return regions, boundaries


def _decode(block, bits):
    """The facets whose bit is set, each once."""
    kind = CELL_TYPES[block.type]
    if kind.name.startswith("hexahedron"):
        raise ValueError(
            "Boundaries in scikit-fem's cell data must be on lines, triangles, quads "
            "or tetrahedra. Got hexahedra. Write the mesh with physical groups."
        )
    bits = np.asarray(bits).astype(np.int64)
    facets = np.concatenate(
        [block.data[bits >> i & 1 == 1][:, f] for i, f in enumerate(kind.facets)]
    )
    _, once = np.unique(np.sort(facets, axis=1), axis=0, return_index=True)
    return [facets[np.sort(once)]]


def _flat(points, dim: int) -> np.ndarray:
    """Drops the coordinates that are constant, if the cells have fewer dimensions."""
    points = np.asarray(points, np.float64)
    extent = np.ptp(points, axis=0) if len(points) else np.zeros(points.shape[1])
    constant = [
        axis for axis in range(dim, points.shape[1]) if extent[axis] <= 1e-12 * extent.max()
    ]
    return np.delete(points, constant, axis=1)


def _used(points, cells):
    """The points that cells use, and the new number of each (-1: dropped)."""
    used = np.zeros(len(points), bool)
    for block in cells.values():
        used[block] = True
    number = np.where(used, np.cumsum(used) - 1, -1)
    return points[used], number


def _join(name: str, parts, number) -> np.ndarray:
    sizes = {part.shape[1] for part in parts}
    if len(sizes) > 1:
        raise ValueError(
            "The facets of a boundary must be of one type. Got facets of "
            f"{sizes} nodes in {name!r}. Give each type a group of its own."
        )
    facets = number[np.concatenate(parts)]
    if (facets < 0).any():
        raise ValueError(
            f"A boundary must lie on the cells. Got nodes in {name!r} that belong to "
            "no cell. Remove the group, or mesh its surroundings."
        )
    return facets
