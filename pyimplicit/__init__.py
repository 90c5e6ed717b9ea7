"""Layers defined by a condition, with exact derivatives. See README.md."""

from . import engine as engine
from ._status import Solution as Solution, Status as Status
from .linear import (
    SparseDirect as SparseDirect,
    SparseOperator as SparseOperator,
    SparsePattern as SparsePattern,
    sparse_solve as sparse_solve,
)
