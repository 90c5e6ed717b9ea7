"""Fields to files, by meshio."""

import os
from pathlib import Path

import numpy as np

from .coefficients import Marked
from .space import FunctionSpace


SUFFIXES = (".vtu", ".vtk")


def write(path: str | os.PathLike, V: FunctionSpace, **fields) -> Path:
    """Writes the mesh of V and fields on it, for ParaView and the like.

    A field has one row per unknown of V or per cell: a number `(n,)`, or a few `(n, m)`;
    which one is told by n, or by `pi.fem.nodal(a)` and `pi.fem.cellwise(a)`. Cells are
    written with the nodes of the element, so P2 on straight triangles makes "triangle6";
    a field per node of the mesh needs P1 or Q1. The suffix,
    ".vtu" or ".vtk", chooses the format. The file appears whole or not at all.
    """
    import meshio

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"`write(path)` must end in {' or '.join(SUFFIXES)}.\nGot {str(path)!r}.\n"
            f"Use e.g. {path.stem}.vtu."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            "`write(path)` must name a file in a folder that exists.\n"
            f"Got {str(path)!r}.\nMake the folder {str(path.parent)!r} first."
        )
    mesh, point_data, cell_data = V.mesh, {}, {}
    for name, field in fields.items():
        values, by_node = _field(V, name, field)
        if by_node:
            point_data[name] = values
        else:
            cell_data[name] = [values]
    points = np.pad(V.dof_points, ((0, 0), (0, 3 - mesh.dim)))
    cells: list = [(V.element.cell.name, np.asarray(V.cells))]
    whole = meshio.Mesh(points, cells, point_data=point_data, cell_data=cell_data)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        whole.write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _field(V: FunctionSpace, name: str, field) -> tuple[np.ndarray, bool]:
    meaning = field.meaning if isinstance(field, Marked) else None
    values = np.asarray(field.values if isinstance(field, Marked) else field)
    if values.ndim not in (1, 2) or not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"`write({name}=...)` must hold numbers, of shape (n,) or (n, m).\n"
            f"Got {values.dtype} of shape {values.shape}.\n"
            "Write complex or larger arrays part by part."
        )
    if np.iscomplexobj(values):
        raise ValueError(
            f"`write({name}=...)` must be real.\nGot {values.dtype}.\n"
            f"Write {name}_real and {name}_imag."
        )
    sizes = {"node": V.n_dofs, "cell": V.mesh.n_cells}
    fits = [m for m, n in sizes.items() if n == len(values) and meaning in (None, m)]
    if len(fits) != 1:
        known = " and ".join(f"{n} {m}s" for m, n in sizes.items())
        marked = f" marked per {meaning}" if meaning else ""
        raise ValueError(
            f"`write({name}=...)` must have one row per node or per cell.\n"
            f"Got shape {values.shape}{marked}, and a mesh with {known}.\n"
            "Where both fit, mark it: pi.fem.nodal(a) or pi.fem.cellwise(a)."
        )
    if values.ndim == 2 and values.shape[1] == 2:
        values = np.pad(values, ((0, 0), (0, 1)))  # vectors have three components there
    return values, fits == ["node"]
