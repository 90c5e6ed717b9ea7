"""How parameters are moved: first-order, quasi-Newton, and in function space."""

from .abstract import AbstractOptimizer as AbstractOptimizer
from .first_order import Adam as Adam, Optax as Optax
from .lbfgs import LBFGS as LBFGS
from .marquardt import LevenbergMarquardt as LevenbergMarquardt
from .natural import NaturalGradient as NaturalGradient
