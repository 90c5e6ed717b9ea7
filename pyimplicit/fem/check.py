"""What a mesh must satisfy, each with an error that names the culprit."""

import numpy as np

from .cells import CELL_TYPES, row_keys


def _rule(argument: str, rule: str, got: str, remedy: str) -> ValueError:
    return ValueError(f"`Mesh.from_arrays({argument}=...)` {rule}.\nGot {got}.\n{remedy}")


def check_points(points) -> np.ndarray:
    """The points as float64, `(n_points, dim)`."""
    points = np.array(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (1, 2, 3) or not len(points):
        raise _rule(
            "points",
            "must have shape (n_points, dim), dim = 1, 2 or 3",
            f"shape {points.shape}",
            "In 1-D pass one column.",
        )
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise _rule(
            "points",
            "must be finite",
            f"{points[bad[0]].tolist()} as point {bad[0]} ({bad.size} such points)",
            "Look at what wrote the coordinates.",
        )
    return points


def check_cells(cells, points: np.ndarray) -> dict[str, np.ndarray]:
    """The cells by type, each turned to positive orientation."""
    if not cells or not any(len(block) for block in cells.values()):
        raise _rule(
            "cells",
            "must hold at least one cell",
            "none",
            'For example cells={"triangle": [[0, 1, 2]]}.',
        )
    checked = {name: _check_block(name, c, points) for name, c in cells.items()}
    sizes = {len(f) for name in cells for f in CELL_TYPES[name].facets}
    if len(sizes) > 1:
        raise _rule(
            "cells",
            "must be of types whose facets fit together",
            f"{' and '.join(cells)}",
            "Split the mesh into cells of one type.",
        )
    used = np.zeros(len(points), bool)
    for block in checked.values():
        used[block] = True
    if not used.all():
        unused = np.flatnonzero(~used)
        raise _rule(
            "points",
            "must each belong to a cell",
            f"{unused.size} unused points, the first is point {unused[0]}",
            "Drop them and renumber the cells (`Mesh.read` does so for files).",
        )
    return checked


def _check_block(name: str, cells, points: np.ndarray) -> np.ndarray:
    if name not in CELL_TYPES:
        raise _rule(
            "cells",
            f"must be of the types {', '.join(CELL_TYPES)}",
            f"{name!r}",
            "Boundary facets go to `boundaries`; split other cells into these.",
        )
    kind = CELL_TYPES[name]
    what = f"the {name!r} block of `cells`"
    cells = check_indices(np.atleast_2d(cells), len(points), what, "point")
    if cells.ndim != 2 or cells.shape[1] != kind.n_nodes:
        raise _rule(
            "cells",
            f"must have {kind.n_nodes} nodes for each {name}",
            f"an array of shape {cells.shape}",
            "Check the cell type.",
        )
    if kind.dim != points.shape[1]:
        raise _rule(
            "cells",
            f"of type {name!r} must lie in {kind.dim}-D",
            f"points with {points.shape[1]} coordinates",
            "Drop coordinates that are constant (`Mesh.read` does so for files); "
            "facets go to `boundaries`; curved surfaces are not supported.",
        )
    keys = row_keys(cells, len(points))
    order = np.argsort(keys, kind="stable")
    same = np.flatnonzero(np.diff(keys[order]) == 0)
    if same.size:
        a, b = order[same[0] : same[0] + 2]
        raise _rule(
            "cells",
            "must be distinct",
            f"{name} {a} = {cells[a].tolist()} again as {name} {b}",
            "Drop the copy.",
        )
    return _orient(kind, cells, points)


def _orient(kind, cells: np.ndarray, points: np.ndarray) -> np.ndarray:
    det = kind.determinants(points, cells)
    corners = points[cells[:, : kind.n_vertices]]
    tiny = 1e-14 * np.ptp(corners, axis=1).max(axis=1) ** kind.dim
    positive, negative = (s * det > tiny[:, None] for s in (1, -1))
    bad = np.flatnonzero(~(positive.all(axis=1) | negative.all(axis=1)))
    if bad.size:
        flat = np.abs(det[bad[0]]).min() <= tiny[bad[0]]
        raise _rule(
            "cells",
            "must have positive volume and, if not simplices, be convex",
            f"{kind.name} {bad[0]} = {cells[bad[0]].tolist()}, which is "
            f"{'degenerate' if flat else 'folded'} ({bad.size} such cells)",
            "Remove the cell, or move its nodes.",
        )
    flip = negative[:, 0]
    cells[flip] = cells[flip][:, kind.flip]
    return cells


def check_indices(numbers, bound: int, what: str, of: str) -> np.ndarray:
    """`numbers` as int64, all in [0, bound)."""
    given = np.asarray(numbers)
    if given.size and not np.issubdtype(given.dtype, np.integer):
        raise ValueError(
            f"The numbers in {what} must be integers.\nGot dtype {given.dtype}.\n"
            f"Pass {of} numbers, counted from 0."
        )
    numbers = given.astype(np.int64)
    bad = numbers[(numbers < 0) | (numbers >= bound)]
    if bad.size:
        raise ValueError(
            f"The numbers in {what} must lie in 0..{bound - 1}.\nGot {bad[0]}.\n"
            f"There are {bound} {of}s; they are counted from 0."
        )
    return numbers


def check_regions(regions, n_cells: int) -> dict[str, np.ndarray]:
    """Name -> sorted cell numbers; masks are taken too."""
    checked = {}
    for name, cells in dict(regions).items():
        what = f"region {name!r}"
        cells = np.asarray(cells)
        if cells.dtype == bool:
            if cells.shape != (n_cells,):
                raise _rule(
                    "regions",
                    f"as a mask must have shape ({n_cells},)",
                    f"{cells.shape} for {name!r}",
                    "Pass a mask over all cells, or cell numbers.",
                )
            cells = np.flatnonzero(cells)
        checked[name] = np.unique(check_indices(cells.ravel(), n_cells, what, "cell"))
    return checked


def all_facets(cells: dict[str, np.ndarray], part: str = "facets") -> np.ndarray:
    """The facets (or edges) of every cell, by their vertices, with repetitions."""
    return np.concatenate(
        [
            block[:, getattr(CELL_TYPES[name], part)].reshape(
                -1, len(getattr(CELL_TYPES[name], part)[0])
            )
            for name, block in cells.items()
        ]
    )


def check_boundaries(boundaries, cells, n_points: int) -> dict[str, np.ndarray]:
    """Name -> node tuples, each a node, a facet or (in 3-D) an edge of some cell."""
    kinds = [CELL_TYPES[name] for name in cells]
    known = row_sizes(kinds)
    checked = {}
    for name, facets in dict(boundaries).items():
        what = f"boundary {name!r}"
        facets = np.asarray(facets)
        facets = facets.reshape(-1, 1) if facets.ndim == 1 else facets
        if facets.ndim != 2:
            raise _rule(
                "boundaries",
                "must be node tuples, one row for each facet",
                f"an array of shape {facets.shape} for {name!r}",
                "For single nodes pass rows of length 1, e.g. [[17]].",
            )
        checked[name] = check_indices(facets, n_points, what, "point")
        size = facets.shape[1]
        if size not in known:
            raise _rule(
                "boundaries",
                f"must have rows of {', '.join(map(str, sorted(known)))} nodes",
                f"rows of {size} for {name!r}",
                "A row names the nodes of one facet, or one single node.",
            )
        n_vertices, part = known[size]
        if part:
            _check_facets(name, checked[name], n_vertices, part, cells, n_points)
    return checked


def row_sizes(kinds) -> dict[int, tuple[int, str | None]]:
    """Length of a boundary's row -> how many of its nodes are vertices, and whether the
    row is one of the "facets" or "edges" of the cells (`None`: single nodes)."""
    kind = kinds[0]
    n = len(kind.facets[0])
    sizes: dict[int, tuple[int, str | None]] = {1: (1, None)}
    if kind.edges:
        sizes[2] = 2, "edges"
    if kind.dim > 1:
        sizes[n] = n, "facets"
    if any(k.order == 2 for k in kinds):
        longer = {2: (3,), 3: (6,), 4: (8, 9)}
        for size, meaning in list(sizes.items())[1:]:
            for curved in longer[size]:
                sizes.setdefault(curved, meaning)
    return sizes


def _check_facets(name, facets, n_vertices, part, cells, n_points):
    vertices = facets[:, :n_vertices]
    near = np.zeros(n_points, bool)
    near[vertices] = True
    there = all_facets(cells, part)
    there = there[near[there].all(axis=1)]
    keys = row_keys(np.concatenate([there, vertices]), n_points)
    lost = np.flatnonzero(~np.isin(keys[len(there) :], keys[: len(there)]))
    if lost.size:
        raise _rule(
            "boundaries",
            "must consist of facets of the cells",
            f"{facets[lost[0]].tolist()} in {name!r} ({lost.size} such rows)",
            "Name the nodes of a facet; for single nodes pass rows of length 1.",
        )


def check_manifold(facets: np.ndarray, n_points: int) -> np.ndarray:
    """The facets of one cell only, in order; refuses those of more than two."""
    keys = row_keys(facets, n_points)
    _, first, count = np.unique(keys, return_index=True, return_counts=True)
    if (count > 2).any():
        bad = facets[first[count > 2][0]].tolist()
        raise _rule(
            "cells",
            "must meet two by two at a facet",
            f"facet {bad} in {count.max()} cells",
            "Remove overlapping cells.",
        )
    return facets[np.sort(first[count == 1])]


def check_connected(cells: dict[str, np.ndarray], n_points: int) -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = np.concatenate([np.repeat(c[:, 0], c.shape[1]) for c in cells.values()])
    cols = np.concatenate([c.ravel() for c in cells.values()])
    graph = coo_array((np.ones(len(rows), bool), (rows, cols)), (n_points, n_points))
    count, label = connected_components(graph, directed=False)
    if count > 1:
        small = np.bincount(label).argmin()
        node = np.flatnonzero(label == small)[0]
        raise _rule(
            "cells",
            "must form one connected mesh",
            f"{count} parts; point {node} belongs to the smallest, of "
            f"{(label == small).sum()} points",
            "Keep one part, merge coinciding points, or pass connected=False if each "
            "part gets its own Dirichlet condition.",
        )
