"""Assembly in Julia: threaded gathers with rules by hand (`julia/src/assembly.jl`)."""

from collections.abc import Callable

import jax

from .function import function
from .start import julia


def diffusion_assembly(points, cells, slot, nnz: int) -> Callable:
    """The map from one coefficient per cell to the entries of the P1 stiffness matrix.

    `points` `(n_points, dim)`, `cells` `(n_cells, dim + 1)`, `slot` `(n_cells, dim + 1,
    dim + 1)`: the place, below `nnz`, of each entry of each element matrix.

    **Returns** a JAX function from `(n_cells,)` to `(nnz,)`.

    **Derivative**: linear; see `DiffusionAssembly` in Julia.
    """
    assembly = julia().diffusion_assembly(points, cells, slot, nnz)
    return function(assembly, lambda kappa: jax.ShapeDtypeStruct((nnz,), kappa.dtype))
