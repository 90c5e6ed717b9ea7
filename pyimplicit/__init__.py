"""Layers defined by a condition, with exact derivatives, for JAX.

    import pyimplicit as pi

Importing starts nothing: Julia, where it is set up, starts at the first solve.
"""

from . import (
    deq as deq,
    engine as engine,
    fem as fem,
    inverse as inverse,
    ode as ode,
    ritz as ritz,
    unrolled as unrolled,
)
from ._status import Solution as Solution, Status as Status
from .adjoint import (
    Implicit as Implicit,
    OneStep as OneStep,
    Phantom as Phantom,
    Unroll as Unroll,
)
from .check import LayerReport as LayerReport, check_layer as check_layer
from .custom import custom_fixed_point as custom_fixed_point, custom_root as custom_root
from .diagnostics import TaylorReport as TaylorReport, taylor_test as taylor_test
from .engine import julia as julia
from .fixed_point import fixed_point as fixed_point
from .implicit import Linearisation as Linearisation, attach as attach
from .linear import (
    GMRES as GMRES,
    Dense as Dense,
    MatrixFree as MatrixFree,
    SparseDirect as SparseDirect,
    SparseOperator as SparseOperator,
    SparsePattern as SparsePattern,
    linear_solve as linear_solve,
    sparse_solve as sparse_solve,
)
from .minimize import least_squares as least_squares, minimize as minimize
from .optimize import (
    Certificate as Certificate,
    Clarabel as Clarabel,
    ConeSolution as ConeSolution,
    InteriorPoint as InteriorPoint,
    QPSolution as QPSolution,
    Smoothed as Smoothed,
    certificate as certificate,
    cone_program as cone_program,
    cones as cones,
    cvxpy_layer as cvxpy_layer,
    loss as loss,
    lp as lp,
    objective as objective,
    perturbed as perturbed,
    projection as projection,
    prox as prox,
    qp as qp,
    transport as transport,
)
from .optimize.activation import entmax as entmax, sparsemax as sparsemax
from .optimize.isotonic import isotonic_regression as isotonic_regression
from .reversible import Reversible as Reversible
from .root import root as root
from .solvers import (
    BFGS as BFGS,
    DFP as DFP,
    LBFGS as LBFGS,
    Anderson as Anderson,
    Bisection as Bisection,
    BlockCoordinateDescent as BlockCoordinateDescent,
    Broyden as Broyden,
    Chord as Chord,
    Dogleg as Dogleg,
    ExponentiatedGradient as ExponentiatedGradient,
    GaussNewton as GaussNewton,
    GoldenSearch as GoldenSearch,
    GradientDescent as GradientDescent,
    LevenbergMarquardt as LevenbergMarquardt,
    LinearComposite as LinearComposite,
    MirrorDescent as MirrorDescent,
    NelderMead as NelderMead,
    Newton as Newton,
    NewtonKrylov as NewtonKrylov,
    NonlinearCG as NonlinearCG,
    Optax as Optax,
    Picard as Picard,
    ProjectedGradient as ProjectedGradient,
    ProximalGradient as ProximalGradient,
)


__version__ = "0.1.0"
