"""Matrices and vectors of built-in operators, with no form to write.

Their coefficients are arrays with one row for each cell of the mesh (or each facet of a
boundary, in the order of `V.mesh.boundary_rows(name)`); entries are those of `V.pattern()`.
`points`: of the mesh, if they are moved, `(n_points, dim)`. On P1 they are assembled by the
loops of `pyimplicit.fem.loops`.

*Derivative* of all of them: in the coefficients and in the points (shape derivatives), of
any order.
"""

import math

import jax
import jax.numpy as jnp

from .assembly import scatter
from .coefficients import Evaluated
from .loops import assemble, checked_points, fits, simplices
from .space import FunctionSpace
from .values import as_numbers


def diffusion_values(V: FunctionSpace, kappa, *, points=None) -> jax.Array:
    """Entries `(nnz,)` of the matrix of ∫ κ ∇u·∇v for scalar u.

    `kappa`: `(n_cells,)`, or matrices `(n_cells, dim, dim)`, with (κ∇u)·∇v. For P1, whose
    gradients are constant in a cell, the mean of a coefficient is all that matters.
    """
    kappa = as_numbers(kappa, "`diffusion_values(V, kappa)`")
    dim = V.mesh.dim
    _check(V, kappa, "diffusion_values(V, kappa)", (), (dim, dim))
    if fits(V):
        at, flat = checked_points(V, points), kappa.reshape(len(kappa), -1)
        name = "Diffusion" if kappa.ndim == 1 else "TensorDiffusion"
        return assemble(V, name, flat, points=at)
    _still(V, points)
    if kappa.ndim > 1:
        raise _needs_p1(V)
    stiffness = V.array("stiffness").astype(kappa.dtype)
    element = stiffness * kappa[:, None, None]
    return scatter(element, V.array("slot"), len(V.sparsity.rows))


def mass_values(
    V: FunctionSpace, density=None, *, boundary: str | None = None, points=None
) -> jax.Array:
    """Entries `(nnz,)` of the matrix of ∫ ρ u·v over the cells, or over a boundary, as a
    Robin condition has it.

    `density`: ρ, `(n_cells,)` or `(n_facets,)`; 1 if not given. The components of u have
    the same matrix and are not coupled.
    """
    if density is None:
        density = jnp.ones(V.domain(boundary).n)
    density = as_numbers(density, "`mass_values(V, density)`")
    _check(V, density, "mass_values(V, density)", (), boundary=boundary)
    if fits(V):
        at = checked_points(V, points)
        return assemble(V, "Mass", density[:, None], boundary=boundary, points=at)
    _still(V, points)
    if boundary is not None:
        raise _needs_p1(V)
    mass = V.array("mass").astype(density.dtype) * density[:, None, None]
    if V.components > 1:
        mass = jnp.kron(mass, jnp.eye(V.components, dtype=mass.dtype))
    return scatter(mass, V.array("slot"), len(V.sparsity.rows))


def advection_values(V: FunctionSpace, b, *, points=None) -> jax.Array:
    """Entries `(nnz,)` of the matrix of ∫ (b·∇u) v for scalar u, with `b` `(n_cells, dim)`.
    The matrix is not symmetric."""
    b = as_numbers(b, "`advection_values(V, b)`")
    _check(V, b, "advection_values(V, b)", (V.mesh.dim,))
    return assemble(V, "Advection", b, points=checked_points(V, points))


def elasticity_values(V: FunctionSpace, mu, lam, *, points=None) -> jax.Array:
    """Entries `(nnz,)` of the matrix of ∫ 2μ ε(u):ε(v) + λ (∇·u)(∇·v), with Lamé's
    constants `mu`, `lam` `(n_cells,)` [stress]."""
    mu, lam = (as_numbers(a, "`elasticity_values(V, mu, lam)`") for a in (mu, lam))
    _check(V, mu, "elasticity_values(V, mu, lam)", (), components=V.mesh.dim)
    _check(V, lam, "elasticity_values(V, mu, lam)", (), components=V.mesh.dim)
    theta = jnp.stack([mu, lam], axis=1)
    return assemble(V, "Elasticity", theta, points=checked_points(V, points))


def load_vector(
    V: FunctionSpace, f, *, boundary: str | None = None, points=None
) -> jax.Array:
    """∫ f·v for each basis function v, of shape `V.shape`, over the cells, or over a
    boundary, as a Neumann condition has it: a load for `Problem.solve`.

    `f`: `(n_cells,)` or `(n_facets,)`, with a last axis for several components. Loads at
    points are `point_evaluation(V, points).T(strength)`.
    """
    f = as_numbers(f, "`load_vector(V, f)`")
    rest = () if V.components == 1 else (V.components,)
    _check(V, f, "load_vector(V, f)", rest, boundary=boundary, components=V.components)
    theta, at = f.reshape(len(f), -1), checked_points(V, points)
    return assemble(V, "Load", theta, boundary=boundary, points=at).reshape(V.shape)


def source_vector(V: FunctionSpace, source: Evaluated, points=None) -> jax.Array:
    """∫ f·v for each basis function v, `(size,)`, where f may vary in a cell."""
    constant = not (source.by_point or source.element)
    if constant and fits(V) and source.shape in ((), V.shape[1:]) and V.degree >= 1:
        f = source.values.reshape(-1, max(1, math.prod(source.shape)))
        f = jnp.broadcast_to(f, (V.mesh.n_cells, V.components))
        return assemble(V, "Load", f, points=points)
    values = source.full(V)
    values = values[..., 0] if source.field and V.components == 1 else values
    basis = V.array("basis").astype(values.dtype)
    if points is None:
        weights = V.array("weights").astype(values.dtype)
    else:
        measure = simplices(points[V.array("nodes", V.domain())])[0]
        share = V.quadrature_weights / V.quadrature_weights.sum()
        weights = measure[:, None] * jnp.asarray(share, measure.dtype)
    element = jnp.einsum("cq...,cq,qk->ck...", values, weights, basis)
    return scatter(element, V.array("cell_dofs"), V.size)


def _check(V, a, call: str, *shapes, boundary=None, components: int | None = None):
    n = V.domain(boundary).n
    if a.shape not in [(n, *s) for s in shapes]:
        wanted = " or ".join(str((n, *s)) for s in shapes)
        raise ValueError(
            f"`{call}` must get shape {wanted}.\nGot {a.shape}.\n"
            f"One row for each {'cell' if boundary is None else 'facet'}."
        )
    scalar = 1 if call.startswith(("diffusion", "advection")) else V.components
    if V.components != (components or scalar):
        raise ValueError(
            f"`{call}` must get a space with {components or scalar} component(s).\n"
            f"Got {V}.\nMake it with FunctionSpace(mesh, components=...)."
        )


def _still(V, points) -> None:
    if points is not None:
        raise _needs_p1(V)


def _needs_p1(V) -> ValueError:
    return ValueError(
        "This operator must be assembled in a space of P1 on straight simplices.\n"
        f"Got {V}.\nWrite a form, and take Problem(V, form).matrix()."
    )
