"""Fits a model to measurements: priors, three descent methods, a record of each step."""

from .fit import fit as fit
from .gauss_newton import GaussNewton as GaussNewton
from .lbfgs import LBFGS as LBFGS
from .newton_cg import NewtonCG as NewtonCG
from .prior import AbstractPrior as AbstractPrior, GaussianPrior as GaussianPrior
from .prior_h1 import H1Prior as H1Prior
from .result import FitError as FitError, FitResult as FitResult, Step as Step
