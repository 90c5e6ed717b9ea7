"""Optima as layers: programs, projections, proximal operators, losses, transport."""
