"""Point values and integrals of functions in a space."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .assembly import Term, map_items
from .coefficients import evaluate, function, interpret
from .forms import Context, Field
from .locate import basis_in_moved, locate
from .moved import moved
from .space import FunctionSpace, Space, on_device
from .values import as_numbers, common_dtype


class PointEvaluation(eqx.Module):
    """The linear map from u to its values at points; `E(u)`, and `E.T(values)`.

    `E` takes `V.shape` to `(m,)` or `(m, components)`, a further last axis is kept.
    `E.T` goes back: `E.T(strength)` is the load of point sources. `dofs`, `weights`:
    `(m, k)`, the unknowns and the basis functions' values for each point. Linear, so it
    is its own derivative.
    """

    dofs: jax.Array
    weights: jax.Array
    n_dofs: int = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)

    def __call__(self, values) -> jax.Array:
        values = jnp.asarray(values)
        n = len(self.dofs) if self.transposed else self.n_dofs
        if values.ndim < 1 or len(values) != n:
            raise ValueError(
                f"A point evaluation must get an array of {n} rows.\n"
                f"Got shape {values.shape}.\n"
                "E(u) takes unknowns, E.T(values) one row for each point."
            )
        dtype = values.dtype if eqx.is_inexact_array(values) else self.weights.dtype
        weights, values = self.weights.astype(dtype), values.astype(dtype)
        if not self.transposed:
            return jnp.einsum("mk,mk...->m...", weights, values[self.dofs])
        terms = jnp.einsum("mk,m...->mk...", weights, values)
        zero = jnp.zeros((self.n_dofs, *values.shape[1:]), dtype)
        return zero.at[self.dofs].add(terms)

    @property
    def T(self) -> "PointEvaluation":
        return PointEvaluation(self.dofs, self.weights, self.n_dofs, not self.transposed)

    def transpose(self, values) -> jax.Array:
        """`E.T(values)`."""
        return self.T(values)

    def as_matrix(self) -> jax.Array:
        """The map as a dense matrix, `(m, n_dofs)`, or its transpose."""
        columns = len(self.dofs) if self.transposed else self.n_dofs
        return self(jnp.eye(columns, dtype=self.weights.dtype))


def point_evaluation(
    V: FunctionSpace, points, *, tol: float = 1e-8, mesh_points=None
) -> PointEvaluation:
    """Evaluation at `points`, `(m, dim)`, static numbers. [length]

    A point may lie outside the mesh by `tol` times the size of the nearest cell.

    `mesh_points`: of the mesh, if they are moved. Then `points` stay where they are in
    space, and each must stay in the cell that held it, or an error says so when it runs
    (on an edge the values have a kink). If not given, points move with their cells.

    *Derivative*: in what is evaluated, and in `mesh_points` (shape derivatives), any order.
    The transpose is the load of point forces; it needs no loop over cells.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != V.mesh.dim:
        raise ValueError(
            f"`point_evaluation(V, points)` must get shape (m, {V.mesh.dim}).\n"
            f"Got {points.shape}.\nPass one row for each point."
        )
    if not np.isfinite(points).all():
        i = np.flatnonzero(~np.isfinite(points).all(axis=1))[0]
        raise ValueError(
            "`point_evaluation(V, points)` must get finite points.\n"
            f"Got {points[i].tolist()} as point {i}.\nLook at what wrote them."
        )
    cells, reference = locate(V, points, tol)
    if mesh_points is None:
        weights = on_device(V.element.values(reference))
    else:
        weights = basis_in_moved(
            V, cells, reference, points, moved(V, None, mesh_points), tol
        )
    return PointEvaluation(on_device(V.cells[cells]), weights, V.n_dofs)


def integrate(
    V: Space,
    integrand,
    *,
    u=None,
    region: str | None = None,
    boundary: str | None = None,
    points=None,
    **coefficients,
) -> jax.Array:
    """∫ integrand(w) over the mesh, a named region or a named boundary: a number.

    In `integrand`, `w.x` is the point (on a boundary `w.n` the outward normal) and
    `w.NAME` a coefficient, as in forms; `w.u` is the function with coefficients `u`, of
    shape `V.shape` (a tuple of functions in a mixed space), e.g. `dot(grad(w.u),
    grad(w.u))`. The quadrature is that of V: give it a higher `degree` where needed.
    `points`: of the mesh, if they are moved. Differentiable in everything given.
    """
    if region is not None and boundary is not None:
        raise ValueError(
            "`integrate` must get a region or a boundary.\n"
            f"Got {region!r} and {boundary!r}.\nLeave one out."
        )
    domain = V.domain(boundary)
    nodes = V.array("points") if points is None else points
    x = None
    if boundary is not None or points is not None:
        x = points_of(V, domain, nodes)
    inside = points_of(V, V.domain(), nodes) if points is not None else None
    found = {n: interpret(V, n, c, inside) for n, c in coefficients.items()}
    several = isinstance(u, tuple)
    fields = () if u is None else u if several else (u,)
    for i, (part, values) in enumerate(zip(V.parts, fields, strict=bool(fields))):
        values = as_numbers(values, "`integrate(u=...)`")
        if values.shape != part.shape:
            raise ValueError(
                f"`integrate(u=...)` must have shape {part.shape}.\nGot {values.shape}.\n"
                "Use jax.vmap for several functions."
            )
        found[f"u_{i}"] = interpret(V, f"u_{i}", function(part, values))
    dtype = common_dtype([c.values for c in found.values()])
    evaluated = {n: evaluate(V, c.astype(dtype), domain, x) for n, c in found.items()}

    def at(values):
        if several:
            values = values | {"u": tuple(values[f"u_{i}"] for i in range(len(fields)))}
        elif fields:
            values = values | {"u": values["u_0"]}
        f = integrand(Context(values))
        f = f.value if isinstance(f, Field) else jnp.asarray(f)
        if f.shape != ():
            raise TypeError(
                "`integrate(V, integrand)` must get a scalar integrand.\n"
                f"Got shape {f.shape}.\nContract vectors, or take a component."
            )
        return f

    def kernel(place, bases, w, axes, local):
        return jnp.sum(place.weights * jax.vmap(at, (axes,))(w))

    parts = map_items(V, Term(integrand, domain, evaluated), kernel, points=points)
    if region is not None:
        parts = parts[V.mesh.region_cells(region)]
    return jnp.sum(parts)


def points_of(V: Space, domain, points) -> jax.Array:
    """The quadrature points of a domain, `(n, nq, dim)`."""
    table = jnp.asarray(domain.table(domain.geometry)[0], points.dtype)
    local = points[V.array("nodes", domain)]
    if domain.facet is None:
        return jnp.einsum("qg,ngd->nqd", table[0], local)
    return jnp.einsum("nqg,ngd->nqd", table[V.array("facet", domain)], local)
