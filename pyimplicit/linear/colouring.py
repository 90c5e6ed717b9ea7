"""Columns of a sparse matrix that can share one product with it.

Columns without a common row are *structurally orthogonal*: the product of the matrix with
the sum of their unit vectors holds all their entries, each in a place of its own. A
colouring sorts all columns into few such groups (Curtis, Powell, Reid 1974,
doi:10.1093/imamat/13.1.117; Coleman, Moré 1983, doi:10.1137/0720013).
"""

import functools
from typing import Any

import numpy as np
import scipy.sparse as sp

from .pattern import SparsePattern


@functools.lru_cache(maxsize=64)
def column_colours(pattern: SparsePattern) -> np.ndarray:
    """The colour, 0, 1, …, of each column: greedy, columns with many neighbours first."""
    return _greedy(pattern.rows, pattern.cols, pattern.shape)


@functools.lru_cache(maxsize=64)
def row_colours(pattern: SparsePattern) -> np.ndarray:
    """The same for rows, for products with the transposed matrix."""
    return _greedy(pattern.cols, pattern.rows, pattern.shape[::-1])


def _greedy(rows, cols, shape) -> np.ndarray:
    ones = np.ones(rows.size, np.int32)
    A = sp.csr_array((ones, (rows, cols)), shape=shape)
    widest = int(np.bincount(rows, minlength=1).max())
    if widest * widest * shape[0] > 50_000_000:  # a nearly full row: all columns meet
        return np.arange(shape[1])
    meet: Any = sp.csr_array(A.T @ A)
    starts, near = meet.indptr.tolist(), meet.indices.tolist()
    colours = [-1] * shape[1]
    for j in np.argsort(-np.diff(meet.indptr), kind="stable").tolist():
        taken = {colours[k] for k in near[starts[j] : starts[j + 1]]}
        colour = 0
        while colour in taken:
            colour += 1
        colours[j] = colour
    return np.array(colours)
