"""Solvers, one method family a file; all are optimistix solver classes."""

from .abstract import AbstractMapMinimiser as AbstractMapMinimiser
from .anderson import Anderson as Anderson
from .block import (
    BlockCoordinateDescent as BlockCoordinateDescent,
    LinearComposite as LinearComposite,
)
from .broyden import Broyden as Broyden
from .gauss_newton import GaussNewton as GaussNewton
from .gradient import GradientDescent as GradientDescent
from .levenberg_marquardt import LevenbergMarquardt as LevenbergMarquardt
from .mirror import (
    ExponentiatedGradient as ExponentiatedGradient,
    MirrorDescent as MirrorDescent,
)
from .newton import Chord as Chord, Newton as Newton
from .newton_krylov import NewtonKrylov as NewtonKrylov
from .optimistix import (
    BFGS as BFGS,
    DFP as DFP,
    LBFGS as LBFGS,
    Bisection as Bisection,
    Dogleg as Dogleg,
    GoldenSearch as GoldenSearch,
    NelderMead as NelderMead,
    NonlinearCG as NonlinearCG,
    Optax as Optax,
)
from .picard import Picard as Picard
from .proximal import (
    ProjectedGradient as ProjectedGradient,
    ProximalGradient as ProximalGradient,
)
