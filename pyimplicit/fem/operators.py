"""Point values and integrals of functions in a space."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .assembly import field, map_cells
from .coefficients import evaluate, interpret
from .forms import Context, Field
from .space import FunctionSpace, on_device
from .values import as_numbers, common_dtype


class PointEvaluation(eqx.Module):
    """The linear map from u to its values at points; `E(u)`, and `E.T(values)`.

    `E` takes `V.shape` to `(m,)` or `(m, components)`, a further last axis is kept.
    `E.T` goes back: `E.T(strength)` is the load of point sources. `dofs`, `weights`:
    `(m, k)`, the unknowns and their barycentric weights for each point. Linear, so it
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


def point_evaluation(V: FunctionSpace, points, *, tol: float = 1e-8) -> PointEvaluation:
    """Evaluation at `points`, `(m, dim)`, static numbers. [length]

    A point may lie outside the mesh by `tol` times the size of the nearest cell.
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
    cells, reference = _locate(V, points, tol)
    return PointEvaluation(
        on_device(V.cells[cells]),
        on_device(V.element.values(reference)),
        V.n_dofs,
    )


def _locate(V: FunctionSpace, points, tol: float):
    """A cell that holds each point, and the point's place in the reference cell."""
    from scipy.spatial import KDTree

    corners = V.mesh.points[V.cells]
    origin, inverse = corners[:, 0], V.inverse_jacobians

    def place(cells, x):
        reference = np.einsum("...rd,...d->...r", inverse[cells], x - origin[cells])
        outside = np.maximum(-reference.min(-1), reference.sum(-1) - 1)
        return reference, outside

    k = min(4 * 2**V.mesh.dim, len(corners))
    tree = KDTree(corners.mean(axis=1))
    near = np.asarray(tree.query(points, np.arange(1, k + 1))[1])
    _, outside = place(near, points[:, None])
    best = outside.argmin(axis=1)
    cells = near[np.arange(len(points)), best]
    for i in np.flatnonzero(outside.min(axis=1) > tol):  # look at every cell
        cells[i] = place(np.arange(len(corners)), points[i])[1].argmin()
    reference, outside = place(cells, points)
    bad = np.flatnonzero(~(outside <= tol))
    if bad.size:
        raise ValueError(
            "`point_evaluation(V, points)` must get points in the mesh.\n"
            f"Got {points[bad[0]].tolist()} as point {bad[0]}, outside of every cell "
            f"({bad.size} such points).\nMove it inside, or raise `tol`."
        )
    return cells, reference


def integrate(
    V: FunctionSpace, integrand, *, u=None, region: str | None = None, **coefficients
) -> jax.Array:
    """∫ integrand(w) over the mesh, or over a named region: a number.

    In `integrand`, `w.x` is the point and `w.NAME` a coefficient, as in forms; `w.u` is
    the function with coefficients `u`, of shape `V.shape`, e.g. `dot(grad(w.u),
    grad(w.u))`. The quadrature is that of V: give it a higher `degree` where needed.
    Differentiable in everything given.
    """
    found = {n: interpret(V, n, c) for n, c in coefficients.items()}
    local = []
    if u is not None:
        u = as_numbers(u, "`integrate(u=...)`")
        if u.shape != V.shape:
            raise ValueError(
                f"`integrate(u=...)` must have shape {V.shape}.\nGot {u.shape}.\n"
                "Use jax.vmap for several functions."
            )
        local = [u.reshape(V.n_dofs, V.components)[V.array("cells")]]
    dtype = common_dtype([*local, *(c.values for c in found.values())])
    evaluated = {n: evaluate(V, c.astype(dtype)) for n, c in found.items()}

    def kernel(integral, *local):
        def at(basis, gradients, values):
            for u in local:
                values = values | {"u": field(V, basis, gradients, u.astype(dtype))}
            f = integrand(Context(values))
            f = f.value if isinstance(f, Field) else jnp.asarray(f)
            if f.shape != ():
                raise TypeError(
                    "`integrate(V, integrand)` must get a scalar integrand.\n"
                    f"Got shape {f.shape}.\nContract vectors, or take a component."
                )
            return f

        return integral(at)

    parts = map_cells(V, kernel, evaluated, dtype, *local)
    if region is not None:
        parts = parts[V.mesh.region_cells(region)]
    return jnp.sum(parts)
