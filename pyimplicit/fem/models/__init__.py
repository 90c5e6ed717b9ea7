"""Ready-made problems: the forms of the textbooks, with their coefficients by name.

Each function returns a `Problem`; its further keywords (`neumann`, `robin`, `periodic`,
`nullspace`, ...) are those of `Problem`.
"""

from .fluid import stokes as stokes
from .scalar import (
    advection_diffusion as advection_diffusion,
    helmholtz as helmholtz,
    minimal_surface as minimal_surface,
    nonlinear_diffusion as nonlinear_diffusion,
    obstacle as obstacle,
    p_laplacian as p_laplacian,
    poisson as poisson,
    reaction_diffusion as reaction_diffusion,
)
from .solid import elasticity as elasticity, hyperelasticity as hyperelasticity
from .transient import burgers as burgers, heat as heat, wave as wave
