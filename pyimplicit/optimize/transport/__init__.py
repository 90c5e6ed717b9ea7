"""Optimal transport and assignment as layers."""

from .assignment import (
    Entropic as Entropic,
    Perturbed as Perturbed,
    assignment as assignment,
)
from .exact import exact as exact
from .sinkhorn import Transport as Transport, sinkhorn as sinkhorn
