"""Matrices from element matrices that do not change, and the vector of a source.

The functions above the line take plain arrays only; an engine may replace them.
"""

import jax
import jax.numpy as jnp

from .. import engine
from .assembly import scatter
from .coefficients import Evaluated
from .space import FunctionSpace


def scatter_scaled(stiffness, slot, nnz: int, kappa):
    """Σ_c κ_c K_c as values `(nnz,)`, for element matrices K `(n_cells, k, k)` and one
    factor per cell κ `(n_cells,)`; entry (i, j) of cell c goes to place `slot[c, i, j]`.

    *Derivative*: linear in κ; κ̄_c = Σᵢⱼ K_c[i, j] ā[slot[c, i, j]].
    """
    return scatter(stiffness * kappa[:, None, None], slot, nnz)


# --------------------------------------------------------------------------------


def diffusion_values(V: FunctionSpace, kappa) -> jax.Array:
    """Entries `(nnz,)`, on `V.pattern("spd")`, of the matrix of ∫ κ ∇u·∇v for scalar u.

    `kappa`: one value per cell, `(n_cells,)`. For P1, whose gradients are constant in a
    cell, it is the mean of the coefficient, and nothing else of it matters.
    """
    if engine.running() == "julia" and V.element.name == "P1" and V.domain().affine:
        return V.julia_diffusion(kappa)
    stiffness = V.array("stiffness").astype(kappa.dtype)
    return scatter_scaled(stiffness, V.array("slot"), len(V.sparsity.rows), kappa)


def mass_values(V: FunctionSpace, density=None) -> jax.Array:
    """Entries `(nnz,)`, on `V.pattern("spd")`, of the matrix of ∫ ρ u v.

    `density`: ρ, one value per cell `(n_cells,)`; 1 if not given. All components of u
    have the same matrix and are not coupled.
    """
    mass = V.array("mass")
    if density is not None:
        mass = mass.astype(density.dtype) * density[:, None, None]
    if V.components > 1:
        mass = jnp.kron(mass, jnp.eye(V.components, dtype=mass.dtype))
    return scatter(mass, V.array("slot"), len(V.sparsity.rows))


def load_vector(V: FunctionSpace, source: Evaluated) -> jax.Array:
    """∫ f v for each basis function v of a scalar space, `(n_dofs,)`."""
    values = source.full(V)
    values = values[..., 0] if source.field else values
    weights = V.array("weights").astype(values.dtype)
    basis = V.array("basis").astype(values.dtype)
    element = jnp.einsum("cq,qk->ck", values * weights, basis)
    return scatter(element, V.array("cell_dofs"), V.size)
