"""Finite elements on meshes, with coefficients that can be learnt."""

from . import models as models
from .checkpoints import (
    CheckpointPlan as CheckpointPlan,
    checkpoint_plan as checkpoint_plan,
)
from .coefficients import (
    by_region as by_region,
    cellwise as cellwise,
    constant as constant,
    function as function,
    law as law,
    nodal as nodal,
    quadrature as quadrature,
)
from .constraints import Tie as Tie
from .diffusion import Diffusion as Diffusion
from .eigen import Eigenpairs as Eigenpairs, eigenpairs as eigenpairs
from .evolve import evolve as evolve
from .forms import (
    Field as Field,
    div as div,
    dot as dot,
    energy as energy,
    grad as grad,
    inner as inner,
    sym_grad as sym_grad,
    trace as trace,
)
from .io import write as write
from .krylov import Krylov as Krylov
from .matrices import (
    advection_values as advection_values,
    diffusion_values as diffusion_values,
    elasticity_values as elasticity_values,
    load_vector as load_vector,
    mass_values as mass_values,
)
from .mesh import Mesh as Mesh
from .mixed import MixedSpace as MixedSpace
from .operators import integrate as integrate, point_evaluation as point_evaluation
from .problem import Problem as Problem
from .schemes import (
    BDF2 as BDF2,
    SDIRK2 as SDIRK2,
    SDIRK3 as SDIRK3,
    BackwardEuler as BackwardEuler,
    CrankNicolson as CrankNicolson,
)
from .space import FunctionSpace as FunctionSpace
