"""Optima as layers: programs, projections, proximal operators, losses, transport."""

from . import cones as cones
from .certificate import Certificate as Certificate, certificate as certificate
from .cone import ConeSolution as ConeSolution, cone_program as cone_program
from .cone_host import Clarabel as Clarabel
from .cvxpy_layer import cvxpy_layer as cvxpy_layer
from .lp import lp as lp
from .qp import InteriorPoint as InteriorPoint, QPSolution as QPSolution, qp as qp
from .qp_degenerate import Smoothed as Smoothed
