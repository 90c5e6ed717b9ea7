"""The deep Ritz method: energies minimised over networks."""

from . import jets as jets
from .boundary import (
    AbstractBoundary as AbstractBoundary,
    Exact as Exact,
    Natural as Natural,
    Nitsche as Nitsche,
    Penalty as Penalty,
)
from .centred import Centred as Centred
from .domains import (
    AbstractDomain as AbstractDomain,
    Ball as Ball,
    Box as Box,
    Corner as Corner,
    Implicit as Implicit,
    LShape as LShape,
    MeshDomain as MeshDomain,
    Nodes as Nodes,
    Polygon as Polygon,
    Rule as Rule,
    Slit as Slit,
)
from .eigenpairs import (
    Eigenpairs as Eigenpairs,
    eigenpairs as eigenpairs,
    ground_state as ground_state,
    ritz_values as ritz_values,
)
from .energies import (
    Energy as Energy,
    ginzburg_landau as ginzburg_landau,
    linear_elasticity as linear_elasticity,
    neo_hookean as neo_hookean,
    obstacle as obstacle,
    p_laplacian as p_laplacian,
    poisson as poisson,
    rayleigh as rayleigh,
)
from .error import (
    Equilibrated as Equilibrated,
    Error as Error,
    FluxBound as FluxBound,
    error as error,
    fem_error as fem_error,
    flux_bound as flux_bound,
)
from .family import Family as Family, at_parameters as at_parameters
from .features import (
    Enriched as Enriched,
    Features as Features,
    Fourier as Fourier,
    Periodic as Periodic,
    Singular as Singular,
)
from .layer import Layer as Layer, layer as layer
from .models import MLP as MLP, ReLU3 as ReLU3, count as count
from .multipliers import (
    AugmentedLagrangian as AugmentedLagrangian,
    LagrangeMultiplier as LagrangeMultiplier,
)
from .optimizers import (
    LBFGS as LBFGS,
    AbstractOptimizer as AbstractOptimizer,
    Adam as Adam,
    LevenbergMarquardt as LevenbergMarquardt,
    NaturalGradient as NaturalGradient,
    Optax as Optax,
)
from .quadrature import (
    AbstractQuadrature as AbstractQuadrature,
    Gauss as Gauss,
    MonteCarlo as MonteCarlo,
    Sobol as Sobol,
    fine_rule as fine_rule,
)
from .resampled import Adaptive as Adaptive, Importance as Importance
from .residuals import fosls as fosls, pinn as pinn
from .result import Report as Report, RitzError as RitzError, RitzResult as RitzResult
from .solve import solve as solve
from .tangents import Degeneracy as Degeneracy
