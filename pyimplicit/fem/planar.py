"""Plane geometry for the polygon mesher."""

import numpy as np


def chunks(n: int, width: int, entries: int = 2**20):
    """Slices of range(n) such that a slice times `width` stays below `entries`."""
    step = max(1, entries // max(width, 1))
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


def cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def area(corners) -> float:
    """Signed area (shoelace formula, about the first corner)."""
    d = corners - corners[0]
    return cross(d, np.roll(d, -1, axis=0)).sum() / 2


def inside(x, corners) -> np.ndarray:
    """Whether a ray from each point crosses the polygon an odd number of times."""
    a, b = corners, np.roll(corners, -1, axis=0)
    out = np.zeros(len(x), bool)
    for part in chunks(len(x), len(a)):
        p = x[part, None]
        spans = (a[:, 1] > p[..., 1]) != (b[:, 1] > p[..., 1])
        left = (cross(b - a, p - a) > 0) == (b[:, 1] > a[:, 1])
        out[part] = (spans & left).sum(axis=1) % 2 == 1
    return out


def distance(x, corners) -> np.ndarray:
    """From each point to the nearest edge."""
    a, d = corners, np.roll(corners, -1, axis=0) - corners
    out = np.zeros(len(x))
    for part in chunks(len(x), len(a)):
        p = x[part, None] - a
        t = np.clip((p * d).sum(axis=2) / (d * d).sum(axis=1), 0, 1)
        out[part] = np.linalg.norm(p - t[..., None] * d, axis=2).min(axis=1)
    return out


def lattice(corners, wanted, size: float) -> np.ndarray:
    """Corners of equilateral triangles that are split until as small as wanted."""
    low, high = corners.min(axis=0), corners.max(axis=0)
    rise = size * np.sqrt(3) / 2
    nx, ny = (np.ceil((high - low) / (size, rise)) + 2).astype(int)
    # Integer coordinates (i, j) of the point i (1, 0) + j (1/2, √3/2), in units that
    # halve with each level, so that common corners are recognised.
    i, j = np.meshgrid(np.arange(-ny // 2 - 1, nx + 1), np.arange(-1, ny), indexing="ij")
    ij = np.stack([i.ravel(), j.ravel()], axis=1)
    e1, e2 = np.array([1, 0]), np.array([0, 1])
    triangles = np.concatenate(
        [
            np.stack([ij, ij + e1, ij + e2], 1),
            np.stack([ij + e1, ij + e1 + e2, ij + e2], 1),
        ]
    )
    place = lambda ij, h: low + h * (ij @ np.array([[1, 0], [0.5, np.sqrt(3) / 2]]))
    found, h = [], size
    while len(triangles):
        centre = place(triangles.mean(axis=1), h)
        reach = (centre > low - 2 * h).all(axis=1) & (centre < high + 2 * h).all(axis=1)
        triangles, centre = triangles[reach], centre[reach]
        split = wanted(centre) < 0.75 * h
        leaves = np.unique(triangles[~split].reshape(-1, 2), axis=0)
        found.append(place(leaves, h))
        a, b, c = np.moveaxis(2 * triangles[split], 1, 0)
        ab, bc, ca = (a + b) // 2, (b + c) // 2, (c + a) // 2
        parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
        triangles = np.concatenate([np.stack(part, axis=1) for part in parts])
        h /= 2
    points = np.concatenate(found)
    grid = np.round((points - low) / h * 8).astype(np.int64)  # h: below the finest
    _, once = np.unique(grid, axis=0, return_index=True)
    return points[np.sort(once)]


def check_polygon(corners) -> np.ndarray:
    """The corners as float64; refuses what is no simple polygon."""
    corners = np.array(corners, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(
            "The `corners` of a polygon must be at least three points in the plane.\n"
            f"Got shape {corners.shape}.\nPass an array of shape (n, 2)."
        )
    if not np.isfinite(corners).all():
        i = np.flatnonzero(~np.isfinite(corners).all(axis=1))[0]
        raise ValueError(
            "The `corners` of a polygon must be finite.\n"
            f"Got {corners[i].tolist()} as corner {i}.\nLook at what wrote it."
        )
    n, extent = len(corners), np.ptp(corners, axis=0).max()
    _, first, group = np.unique(
        np.round(corners / (1e-12 * max(extent, 1e-300))),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    again = np.flatnonzero(first[group.ravel()] != np.arange(n))
    if again.size:
        i, j = first[group.ravel()[again[0]]], again[0]
        closing = " Do not repeat the first corner at the end." if i == 0 else ""
        raise ValueError(
            "The `corners` of a polygon must be distinct.\n"
            f"Got {corners[j].tolist()} as corner {i} and as corner {j}.\n"
            f"Remove one of them.{closing}"
        )
    _check_crossings(corners, extent)
    return corners


def _check_crossings(corners, extent: float) -> None:
    """Refuses edges that cross, touch, or turn back on the edge before."""
    a, b = corners, np.roll(corners, -1, axis=0)
    n, tol = len(a), 1e-12 * extent**2
    sign = lambda v: np.where(np.abs(v) <= tol, 0, np.sign(v))
    for part in chunks(n, n, 2**18):
        i = np.arange(part.start, part.stop)[:, None]
        p, q = a[part, None], b[part, None]
        s, t = sign(cross(q - p, a - p)), sign(cross(q - p, b - p))
        u, v = sign(cross(b - a, p - a)), sign(cross(b - a, q - a))
        boxes = (np.minimum(p, q) <= np.maximum(a, b)).all(axis=2)
        boxes &= (np.minimum(a, b) <= np.maximum(p, q)).all(axis=2)
        hit = (s * t <= 0) & (u * v <= 0) & boxes
        j = np.arange(n)[None]
        apart = (j - i) % n
        hit[(apart <= 1) | (apart == n - 1)] = False
        back = (apart == 1) & (t == 0) & (((q - p) * (b - a)).sum(axis=2) < 0)
        for found, how in ((back, "lie on each other"), (hit, "cross or touch")):
            if found.any():
                k, m = np.argwhere(found)[0]
                k += part.start
                raise ValueError(
                    "The `corners` of a polygon must be a simple polygon.\n"
                    f"Got edges {k} (corners {k}, {(k + 1) % n}) and {m} (corners {m}, "
                    f"{(m + 1) % n}), which {how}.\nPut the corners in order."
                )
