"""Linear systems: sparse matrices, their solves, and how Jacobians are stored."""

from .gmres import GMRES as GMRES
from .jacobian import Dense as Dense, MatrixFree as MatrixFree
from .linear_solve import linear_solve as linear_solve
from .operator import SparseDirect as SparseDirect, SparseOperator as SparseOperator
from .pattern import SparsePattern as SparsePattern
from .solve import sparse_solve as sparse_solve
