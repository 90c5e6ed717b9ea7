"""Pictures of fields on triangles and of fits. Needs matplotlib (`pyimplicit[plot]`).

No global state: figures are objects, drawn without a display and without pyplot.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np


def figure(width: float, height: float, columns: int = 1, **options):
    """A figure of `width` x `height` [inch] and its axes in one row, a list."""
    _need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made, list(np.ravel(made.subplots(1, columns, **options)))


def field(ax, mesh, values, *, label: str, log: bool = False, cmap: str = "viridis"):
    """Draws a field on a mesh of triangles, with a colour bar.

    `values`: per node `(n_points,)`, drawn as linear in each triangle, or per cell
    `(n_cells,)`. `label`: of the colour bar, with the unit. `log`: a logarithmic scale;
    values must be positive. Returns the drawn collection.
    """
    from matplotlib.colors import LogNorm

    values = np.asarray(values)
    if values.shape not in ((mesh.n_points,), (mesh.n_cells,)):
        raise ValueError(
            "`plot.field(values)` must have one number per node or per cell.\n"
            f"Got {values.shape} for {mesh.n_points} nodes and {mesh.n_cells} cells.\n"
            "Draw vectors component by component."
        )
    norm = LogNorm() if log else None
    options: dict[str, Any] = {"norm": norm, "cmap": cmap, "rasterized": True}
    if len(values) == mesh.n_points:
        drawn = ax.tripcolor(_triangulation(mesh), values, shading="gouraud", **options)
    else:
        drawn = ax.tripcolor(_triangulation(mesh), facecolors=values, **options)
    ax.set_aspect("equal")
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(label)
    return drawn


def outline(ax, mesh, values, level: float, **options):
    """Draws the line where a nodal field has the value `level`."""
    style: dict[str, Any] = {"colors": "white", "linewidths": 1.6} | options
    return ax.tricontour(_triangulation(mesh), np.asarray(values), [level], **style)


def numbered_points(ax, points, *, offset: float, start: int = 1):
    """Draws points `(n, 2)` with their numbers, moved by `offset` [length] away from
    the centre of them all."""
    points = np.asarray(points)
    ax.plot(*points.T, "o", color="black", markersize=4, clip_on=False)
    away = points - points.mean(axis=0)
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    ax.update_datalim(points + 1.8 * offset * away)
    ax.autoscale_view()
    for number, (x, y) in enumerate(points + offset * away, start):
        ax.text(x, y, str(number), ha="center", va="center", fontsize=8)


def convergence(ax, result, *, target: float | None = None):
    """Draws chi² (or the misfit) of a `FitResult` over its steps."""
    steps = [row.step for row in result.history]
    chi2 = np.array([row.chi2 for row in result.history])
    known = np.isfinite(chi2).all()
    shown = chi2 if known else np.array([row.misfit for row in result.history])
    ax.semilogy(steps, shown, "o-", color="tab:blue", markersize=5)
    if target is not None and known:
        ax.axhline(target, color="black", linestyle="--", linewidth=1)
        ax.annotate(
            f"target {target:g}",
            (0, target),
            xytext=(2, 4),
            textcoords="offset points",
            fontsize=9,
        )
    ax.set_xlabel("step")
    ax.set_ylabel("χ² = |residual/error|² / N" if known else "misfit")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True, which="major", alpha=0.3)


def save(made, path: str | os.PathLike, dpi: int = 160) -> Path:
    """Writes a figure; the file appears whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        made.savefig(part, dpi=dpi)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _triangulation(mesh):
    from matplotlib.tri import Triangulation

    if set(mesh.cells) != {"triangle"} or mesh.dim != 2:
        raise ValueError(
            "`pi.plot` draws meshes of triangles in the plane.\n"
            f"Got {mesh!r}.\nWrite other meshes with pi.fem.write and use ParaView."
        )
    x, y = mesh.points.T
    return Triangulation(x, y, np.asarray(mesh.cells["triangle"]))


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError(
            "`pyimplicit.plot` needs matplotlib.\nGot no such module.\n"
            "Install it: pip install 'pyimplicit[plot]'."
        ) from None
