"""Optima as layers: programs, projections, proximal operators, losses, transport."""

from .certificate import Certificate as Certificate, certificate as certificate
from .lp import lp as lp
from .qp import InteriorPoint as InteriorPoint, QPSolution as QPSolution, qp as qp
from .qp_degenerate import Smoothed as Smoothed
