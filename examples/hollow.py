"""The hollow of a trunk: one that the computer makes, and one that is found."""

import dataclasses

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclasses.dataclass(frozen=True)
class Circle:
    """The hollow of the trunk that the computer measures. [m], [S/m]"""

    x: float = 0.05
    y: float = 0.04
    radius: float = 0.08
    inside: float = 1e-4
    outside: float = 6e-3


def find_hollow(mesh, sigma) -> tuple[dict | None, np.ndarray]:
    """The largest connected part of low conductivity: centre [m], area [m²], equivalent
    diameter [m], and the contrast of the sound wood to it; and its nodes. None without.

    Low is what lies below the half-way line, in log σ, between the sound wood (the 75th
    percentile by area) and the least conducting part (the 2nd).
    """
    triangles = np.asarray(mesh.cells["triangle"])
    logs, area = np.log(sigma)[triangles].mean(axis=1), mesh.volumes
    order = np.argsort(logs)
    share = np.cumsum(area[order]) / area.sum()
    least, sound = np.interp([0.02, 0.75], share, logs[order])
    level = (least + sound) / 2
    low = np.flatnonzero(logs < level)
    if sound - least < np.log(3) or not low.size:
        return None, np.zeros(0, int)
    corners = triangles[low]
    rows, ones = np.repeat(np.arange(len(low)), 3), np.ones(corners.size)
    touch = coo_array((ones, (rows, corners.ravel())), (len(low), mesh.n_points)).tocsr()
    _, part = connected_components(touch @ touch.T, directed=False)
    inside = low[part == np.bincount(part, weights=area[low]).argmax()]
    total = area[inside].sum()
    x, y = area[inside] @ mesh.points[triangles[inside]].mean(axis=1) / total
    contrast = np.exp(sound - np.average(logs[inside], weights=area[inside]))
    finding = {
        "x_m": float(x),
        "y_m": float(y),
        "area_m2": float(total),
        "diameter_m": float(np.sqrt(4 * total / np.pi)),
        "share_of_section": float(total / area.sum()),
        "contrast": float(contrast),
        "threshold_S_per_m": float(np.exp(level)),
    }
    return finding, np.unique(triangles[inside])


def compare(hollow: dict | None, truth: Circle) -> dict:
    """How well the known hollow was found."""
    known = dataclasses.asdict(truth) | {"area_m2": np.pi * truth.radius**2}
    if hollow is None:
        return known
    off = float(np.hypot(hollow["x_m"] - truth.x, hollow["y_m"] - truth.y))
    ratio = hollow["area_m2"] / known["area_m2"]
    return known | {"centre_error_m": off, "area_ratio": ratio}
