"""Fits a model to measurements: priors, three descent methods, a record of each step, and
how sure the result is."""

from .fit import fit as fit
from .gauss_newton import GaussNewton as GaussNewton
from .laplace import (
    LaplacePosterior as LaplacePosterior,
    laplace_posterior as laplace_posterior,
)
from .lbfgs import LBFGS as LBFGS
from .newton_cg import NewtonCG as NewtonCG
from .prior import AbstractPrior as AbstractPrior, GaussianPrior as GaussianPrior
from .prior_h1 import BiLaplacianPrior as BiLaplacianPrior, H1Prior as H1Prior
from .prior_tv import TVPrior as TVPrior
from .result import FitError as FitError, FitResult as FitResult, Step as Step
