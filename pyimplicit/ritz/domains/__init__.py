"""Where energies live: domains with their rules and distances."""

from .abstract import AbstractDomain as AbstractDomain, Nodes as Nodes, Rule as Rule
from .ball import Ball as Ball
from .box import Box as Box
from .corner import Corner as Corner
from .implicit import Implicit as Implicit
from .mesh import MeshDomain as MeshDomain
from .pieces import Pieces as Pieces, PiecewiseDomain as PiecewiseDomain
from .polygon import LShape as LShape, Polygon as Polygon, Slit as Slit
