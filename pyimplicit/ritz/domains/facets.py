"""From numbered simplices to pieces: their outer facets, and curved edges."""

import itertools

import numpy as np

from ...fem.cells import row_keys
from .pieces import Pieces, normals


def pieces(points: np.ndarray, cells: np.ndarray, bend=None) -> tuple[Pieces, Pieces]:
    """The inside and the boundary of simplices `cells`, `(m, dim + 1)`, with corners in
    `points`. Facets that belong to one cell only make the boundary. `bend`: of the edges
    of each cell, in the order of combinations, `(m, n_edges, dim)`."""
    n = cells.shape[1]
    edges = list(itertools.combinations(range(n), 2))
    rows, bends, apart = [], [], []
    for i in range(n):
        left = [j for j in range(n) if j != i]
        rows.append(cells[:, left])
        apart.append(cells[:, i])
        if bend is not None:
            pairs = itertools.combinations(left, 2)
            bends.append(bend[:, [edges.index(pair) for pair in pairs]])
    rows, apart = np.concatenate(rows), np.concatenate(apart)
    keys = row_keys(rows, len(points))
    _, first, count = np.unique(keys, return_index=True, return_counts=True)
    once = np.sort(first[count == 1])
    facets = points[rows[once]]
    edges_of_facets = np.swapaxes(facets[:, 1:] - facets[:, :1], 1, 2)
    outwards = facets.mean(axis=1) - points[apart[once]]
    across = normals(np.swapaxes(edges_of_facets, 1, 2), np)
    around = Pieces(facets, side=np.sign((across * outwards).sum(axis=1)))
    if bend is not None:
        around = around._replace(bend=np.concatenate(bends)[once])
    return Pieces(points[cells], bend), around
