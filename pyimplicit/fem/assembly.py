"""Sums over cells: from element matrices and vectors to those of the whole space.

The functions above the line take plain arrays only; an engine may replace them.
"""

import jax
import jax.numpy as jnp

from .. import engine
from .coefficients import Evaluated
from .forms import Context, Field
from .space import FunctionSpace


def scatter_matrices(element, slot, nnz: int):
    """Values `(nnz,)` of the sum of element matrices `(n_cells, k, k)`; entry (i, j) of
    cell c goes to place `slot[c, i, j]`.

    *Derivative*: linear; transposed, each element entry is read from its place.
    """
    return jax.ops.segment_sum(element.ravel(), slot.ravel(), nnz)


def scatter_scaled(stiffness, slot, nnz: int, kappa):
    """Σ_c κ_c K_c as values `(nnz,)`, for element matrices K `(n_cells, k, k)` and one
    factor per cell κ `(n_cells,)`.

    *Derivative*: linear in κ; κ̄_c = Σᵢⱼ K_c[i, j] ā[slot[c, i, j]].
    """
    return scatter_matrices(stiffness * kappa[:, None, None], slot, nnz)


def scatter_vectors(element, dofs, size: int):
    """The sum `(size,)` of element vectors `(n_cells, k)` at the unknowns `dofs`."""
    return jax.ops.segment_sum(element.ravel(), dofs.ravel(), size)


# --------------------------------------------------------------------------------


def diffusion_values(V: FunctionSpace, kappa) -> jax.Array:
    """Entries `(nnz,)`, on `V.pattern("spd")`, of the matrix of ∫ κ ∇u·∇v.

    `kappa`: the mean of the coefficient in each cell, `(n_cells,)`. For P1, whose
    gradients are constant in a cell, nothing else of the coefficient matters.
    """
    if engine.running() == "julia":
        return V.julia_diffusion(kappa)
    stiffness = V.array("stiffness").astype(kappa.dtype)
    return scatter_scaled(stiffness, V.array("slot"), _nnz(V), kappa)


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
    return scatter_matrices(mass, V.array("slot"), _nnz(V))


def load_vector(V: FunctionSpace, source: Evaluated) -> jax.Array:
    """∫ f v for each basis function v of a scalar space, `(n_dofs,)`."""
    values = source.full(V)
    weights = V.array("weights").astype(values.dtype)
    basis = V.array("basis").astype(values.dtype)
    element = jnp.einsum("cq,qk->ck", values * weights, basis)
    return scatter_vectors(element, V.array("cell_dofs"), V.size)


def map_cells(
    V: FunctionSpace, kernel, coefficients: dict[str, Evaluated], dtype, *per_cell
):
    """`kernel(integral, ...)` of every cell, stacked; `per_cell` are its further
    arguments, arrays with a first axis of cells.

    `integral(f)` is ∫ f over the cell, for `f(basis, gradients, values)` at a
    quadrature point: `(n_basis,)`, `(n_basis, dim)`, and a dict of the coefficients and
    "x" there.
    """
    array = lambda name: V.array(name).astype(jnp.finfo(dtype).dtype)
    basis, reference_gradients = array("basis"), array("basis_gradients")
    values = {n: c.values for n, c in coefficients.items()} | {"x": array("x")}
    in_cell = {n: 0 if c.by_cell else None for n, c in coefficients.items()} | {"x": 0}
    in_point = {n: 0 if c.by_point else None for n, c in coefficients.items()}
    in_point["x"] = 0

    def cell(inverse, weights, values, *arguments):
        gradients = jnp.einsum("qkr,rd->qkd", reference_gradients, inverse)

        def integral(function):
            at = jax.vmap(function, (0, 0, in_point))(basis, gradients, values)
            return jnp.sum(weights * at)

        return kernel(integral, *arguments)

    axes = (0, 0, in_cell, *(0 for _ in per_cell))
    geometry = array("inverse_jacobians"), array("weights")
    return jax.vmap(cell, axes)(*geometry, values, *per_cell)


def form_system(
    V: FunctionSpace, form, coefficients: dict[str, Evaluated], dtype
) -> tuple[jax.Array, jax.Array]:
    """Matrix entries `(nnz,)` and residual `(size,)` of a form that is affine in u,
    both at u = 0: the residual of u is A u + r.

    The element residual is the derivative of the integrand in v, the element matrix its
    derivative in u, both by JAX.
    """
    zero = jnp.zeros((V.element.n_basis, V.components), jnp.finfo(dtype).dtype)

    def kernel(integral):
        def weak(v, u):
            def at(basis, gradients, values):
                fields = (field(V, basis, gradients, local) for local in (u, v))
                return form(*fields, Context(values))

            return integral(at)

        residual = lambda u: jax.jacfwd(weak)(zero, u)
        return jax.jacfwd(residual)(zero), residual(zero)

    matrices, residuals = map_cells(V, kernel, coefficients, dtype)
    n, m = len(residuals), zero.size
    return (
        scatter_matrices(matrices.reshape(n, m, m), V.array("slot"), _nnz(V)),
        scatter_vectors(residuals.reshape(n, m), V.array("cell_dofs"), V.size),
    )


def field(V: FunctionSpace, basis, gradients, local) -> Field:
    """The function with coefficients `local`, `(n_basis, components)`, at a point."""
    value, gradient = basis @ local, local.T @ gradients
    if V.components == 1:
        return Field(value[0], gradient[0])
    return Field(value, gradient)


def _nnz(V: FunctionSpace) -> int:
    return len(V.sparsity.rows)
