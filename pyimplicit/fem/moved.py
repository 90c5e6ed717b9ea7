"""Points of a mesh that move: shape derivatives, and cells that must not fold over."""

import jax
import jax.numpy as jnp

from ..engine.failure import fail_unless_zero
from . import assembly
from .values import as_numbers


FOLDED = (
    "`solve(points=...)`: a cell of the moved mesh folds over (det ∂x/∂ξ <= 0): move the "
    "points less, smooth the motion inside, or mesh anew"
)


def moved(V, form, points, throw: bool = True) -> jax.Array:
    """The points, checked; an error, or NaN, at run time where a cell folds over."""
    points = as_numbers(points, "`solve(points=...)`")
    if points.shape != V.mesh.points.shape:
        raise ValueError(
            f"`solve(points=...)` must have shape {V.mesh.points.shape}.\n"
            f"Got {points.shape}.\nOne row for each point of the mesh."
        )
    smallest = lambda place, *_: jnp.min(place.weights)
    cells = assembly.Term(form, V.domain(), {})
    still = jax.lax.stop_gradient(points)
    volumes = assembly.map_items(V, cells, smallest, points=still)
    folded = ~jnp.all(volumes > 0)
    if throw:
        return fail_unless_zero(points, folded, ("", FOLDED))
    return jnp.where(folded, jnp.nan, points)


def dof_points(V, points) -> jax.Array:
    """Where the unknowns are in a moved mesh, `(n_dofs, dim)`."""
    table = V.domain().geometry.values(V.element.cell.points)
    local = points[V.array("nodes", V.domain())]
    at = jnp.einsum("ig,cgd->cid", jnp.asarray(table, points.dtype), local)
    return jnp.zeros((V.n_dofs, V.mesh.dim), points.dtype).at[V.array("cells")].set(at)
