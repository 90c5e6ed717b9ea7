"""Layers defined by a condition, with exact derivatives, for JAX.

    import pyimplicit as pi

Importing starts nothing: Julia, where it is set up, starts at the first solve.
"""

from . import engine as engine, fem as fem, inverse as inverse
from ._status import Solution as Solution, Status as Status
from .diagnostics import TaylorReport as TaylorReport, taylor_test as taylor_test
from .engine import julia as julia
from .linear import (
    SparseDirect as SparseDirect,
    SparseOperator as SparseOperator,
    SparsePattern as SparsePattern,
    sparse_solve as sparse_solve,
)


__version__ = "0.1.0"
