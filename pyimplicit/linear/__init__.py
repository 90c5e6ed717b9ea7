"""Sparse matrices and their solves."""

from .operator import SparseDirect as SparseDirect, SparseOperator as SparseOperator
from .pattern import SparsePattern as SparsePattern
from .solve import sparse_solve as sparse_solve
