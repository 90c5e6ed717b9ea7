"""Sums over cells and facets: from a form at a point to the vectors and matrices of the
whole space.

A form is linear in v, so at a point it is c₀·v + c₁:∇v. The *flux* (c₀, c₁) is its
transpose in v, a function of (u, ∇u); the residual of a cell is Σ_q w (φᵀc₀ + ∇φᵀc₁), and
its exact tangent Σ_q w BᵀDB with the derivative D of the flux, by JAX, at each point and
the basis functions B. So the cost of differentiation does not grow with the element.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from .coefficients import Evaluated
from .domain import Domain, Place
from .forms import Context, Field
from .space import FunctionSpace, Space


def scatter(values: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """The sum `(size,)` of `values` at their `places`, arrays of one shape.

    *Derivative*: linear; transposed, each entry is read from its place.
    """
    return jax.ops.segment_sum(values.ravel(), places.ravel(), size)


class Term(NamedTuple):
    """∫ form(u, v, w) over a domain, with coefficients there."""

    form: Callable
    domain: Domain
    coefficients: dict[str, Evaluated]


class Basis(NamedTuple):
    """Basis functions of one field in a cell: `(nq, k)`, and `(nq or 1, k, dim)`."""

    values: jax.Array
    gradients: jax.Array


def residual(space: Space, terms: list[Term], u: jax.Array, points=None) -> jax.Array:
    """∫ form(u, v, w) for each basis function v, `(size,)`, for u `(size,)`."""
    total = jnp.zeros(space.size, jnp.result_type(u))
    for term in terms:
        element = map_items(space, term, _residual_of(space, term, u.dtype), u, points)
        places = space.array("cell_dofs", term.domain)
        total = total + scatter(element, places, space.size)
    return total


def tangent(space: Space, terms: list[Term], u: jax.Array, points=None) -> jax.Array:
    """∂residual/∂u on `space.pattern()`, `(nnz,)`."""
    return system(space, terms, u, points)[0]


def system(space: Space, terms: list[Term], u: jax.Array, points=None, dtype=None):
    """Tangent `(nnz,)` and residual `(size,)` at u, in one pass. `dtype`: of the result,
    if not that of u (complex coefficients, with a real u = 0)."""
    dtype = u.dtype if dtype is None else dtype
    values = jnp.zeros(len(space.sparsity.rows), dtype)
    total = jnp.zeros(space.size, dtype)
    for term, element, vector in _contributions(space, terms, u, points, dtype):
        places = space.array("slot", term.domain)
        values = values + scatter(element, places, len(space.sparsity.rows))
        total = total + scatter(vector, space.array("cell_dofs", term.domain), space.size)
    return values, total


def element_tangents(
    space: Space, terms: list[Term], u: jax.Array, points=None, dtype=None
):
    """∂residual/∂u cell by cell, `(n_cells, k, k)`, facets with their cells; and the
    residual `(size,)` at u, in one pass. `dtype`: see `system`."""
    dtype = u.dtype if dtype is None else dtype
    n, k = space.cell_dofs.shape
    elements = jnp.zeros((n, k, k), dtype)
    total = jnp.zeros(space.size, dtype)
    for term, element, vector in _contributions(space, terms, u, points, dtype):
        if term.domain.name is not None:
            cells = space.array("cells of", term.domain)
            element = jax.ops.segment_sum(element, cells, n)
        elements = elements + element
        total = total + scatter(vector, space.array("cell_dofs", term.domain), space.size)
    return elements, total


def _contributions(space, terms, u, points, dtype):
    """Each term with its element tangents and element residuals."""
    for term in terms:
        at_u = _residual_of(space, term, dtype)
        matrix = _tangent_of(space, term, dtype)
        both = lambda *a, matrix=matrix, at_u=at_u: (matrix(*a), at_u(*a))
        yield term, *map_items(space, term, both, u, points)


# --- at one point ---------------------------------------------------------------------


def as_fields(space: Space, u: tuple):
    """The argument of a form, from `(value (c,), gradient (c, dim))` of each field."""
    fields = tuple(
        Field(*u_p) if part.components > 1 else Field(u_p[0][0], u_p[1][0])
        for part, u_p in zip(space.parts, u, strict=True)
    )
    return fields[0] if isinstance(space, FunctionSpace) else fields


def flux(space: Space, form: Callable, u: tuple, w: dict, dtype) -> tuple:
    """(c₀ `(c,)`, c₁ `(c, dim)`) of each field."""
    struct = lambda a: jax.ShapeDtypeStruct(a.shape, dtype)
    test = jax.tree.map(struct, u)
    at = lambda v: form(as_fields(space, u), as_fields(space, v), Context(w))
    one = jnp.ones((), jax.eval_shape(at, test).dtype)
    (found,) = jax.linear_transpose(at, test)(one)
    return found


# --- in one cell ----------------------------------------------------------------------


def basis_at(space: Space, domain: Domain, place: Place, facet) -> list[Basis]:
    """The basis functions of each field in a cell."""
    found = []
    for part in space.parts:
        values, gradients = (domain.pick(t, facet) for t in domain.table(part.element))
        values, gradients = (a.astype(place.x.dtype) for a in (values, gradients))
        found.append(Basis(values, pull_back(gradients, place.inverse)))
    return found


def pull_back(gradients: jax.Array, inverse: jax.Array) -> jax.Array:
    """∇φ from ∇_ξφ `(nq or 1, k, dim)` and ∂ξ/∂x `(nq or 1, dim, dim)`."""
    n = max(len(gradients), len(inverse))
    if n > 1 and len(inverse) == 1:
        return gradients @ inverse[0]
    spread = lambda a: jnp.broadcast_to(a, (n, *a.shape[1:]))
    return jnp.einsum("qkr,qrd->qkd", spread(gradients), spread(inverse))


def fields_at(space: Space, bases: list[Basis], local: jax.Array, nq: int) -> tuple:
    """`(values (nq, c), gradients (nq, c, dim))` of each field, from its unknowns in the
    cell, `(k,)` in the order of `cell_dofs`."""
    found, start = [], 0
    for part, basis in zip(space.parts, bases, strict=True):
        k, c = basis.values.shape[1], part.components
        u = local[start : start + k * c].reshape(k, c)
        gradient = jnp.einsum("kc,qkd->qcd", u, basis.gradients)
        gradient = jnp.broadcast_to(gradient, (nq, *gradient.shape[1:]))
        found.append((basis.values @ u, gradient))
        start += k * c
    return tuple(found)


def context(domain: Domain, place: Place, facet, coefficients: dict[str, Evaluated]):
    """What `w` holds at the points of a cell, and which of it has an axis of points."""
    values: dict[str, Any] = {"x": place.x, "h": place.h}
    axes: dict[str, int | None] = {"x": 0, "h": None}
    if place.normal is not None:
        values["n"] = jnp.broadcast_to(place.normal, place.x.shape)
        axes["n"] = 0
    for name, c in coefficients.items():
        axes[name] = 0 if c.by_point else None
        values[name] = c.values
        if c.element is not None:
            table, slopes = (domain.pick(t, facet) for t in domain.table(c.element))
            value = jnp.einsum("qk,k...->q...", table.astype(c.values.dtype), c.values)
            if c.field:
                gradients = pull_back(slopes.astype(place.x.dtype), place.inverse)
                slope = jnp.einsum("kc,qkd->qcd", c.values, gradients)
                slope = jnp.broadcast_to(slope, (*value.shape, slope.shape[-1]))
                scalar = c.components == 1
                value = Field(value[:, 0], slope[:, 0]) if scalar else Field(value, slope)
            values[name] = value
    return values, axes


def _residual_of(space: Space, term: Term, dtype):
    def kernel(place, bases, w, axes, local):
        u = fields_at(space, bases, local, len(place.weights))
        at = lambda u, w: flux(space, term.form, u, w, dtype)
        parts = []
        for (c0, c1), basis in zip(jax.vmap(at, (0, axes))(u, w), bases, strict=True):
            c0, c1 = (c * _along(place.weights, c) for c in (c0, c1))
            vector = basis.values.T @ c0
            if len(basis.gradients) == 1:
                vector = vector + basis.gradients[0] @ c1.sum(axis=0).T
            else:
                vector = vector + jnp.einsum("qkd,qcd->kc", basis.gradients, c1)
            parts.append(vector.ravel())
        return jnp.concatenate(parts)

    return kernel


def _tangent_of(space: Space, term: Term, dtype):
    def kernel(place, bases, w, axes, local):
        u = fields_at(space, bases, local, len(place.weights))
        at = lambda u, w: flux(space, term.form, u, w, dtype)
        slopes = jax.vmap(jax.jacfwd(at), (0, axes))(u, w)
        first = lambda tree: jax.tree.map(lambda a: a[0], tree)
        one_w = {n: v if axes[n] is None else first(v) for n, v in w.items()}
        there = dependence(at, first(u), one_w)
        rows = []
        for p, test in enumerate(bases):
            row = []
            for r, trial in enumerate(bases):
                shape = *_size(space, p, test), *_size(space, r, trial)
                block = jnp.zeros(shape, dtype)
                for a in range(2):
                    for b in range(2):
                        if there[2 * p + a, 2 * r + b]:
                            D = slopes[p][a][r][b]
                            D = D * _along(place.weights, D)
                            block = block + _contract(D, test, trial, a, b)
                k, c, m, e = shape
                row.append(block.reshape(k * c, m * e))
            rows.append(jnp.concatenate(row, axis=1) if len(row) > 1 else row[0])
        return jnp.concatenate(rows) if len(rows) > 1 else rows[0]

    return kernel


def _contract(D, test: Basis, trial: Basis, a: int, b: int) -> jax.Array:
    """Σ_q (∂ᵃφ_k) D (∂ᵇφ_m): `(k, c, m, e)`, for D `(nq, c, [d,] e, [f])`; a and b say
    whether the function or its gradient is meant."""
    left = test.gradients if a else test.values
    right = trial.gradients if b else trial.values
    if (a == 0 or len(left) == 1) and (b == 0 or len(right) == 1) and a + b == 2:
        D = D.sum(axis=0, keepdims=True)  # both gradients are constant: so is the sum
    spread = lambda x: jnp.broadcast_to(x, (len(D), *x.shape[1:]))
    left, right = spread(left), spread(right)
    d, f = "d" * a, "f" * b
    half = jnp.einsum(f"qc{d}e{f},qm{f}->q{d}cme", D, right)
    return jnp.einsum(f"qk{d},q{d}cme->kcme", left, half)


def _size(space: Space, p: int, basis: Basis) -> tuple[int, int]:
    return basis.values.shape[1], space.parts[p].components


def _along(weights: jax.Array, a: jax.Array) -> jax.Array:
    return weights.reshape(-1, *(1 for _ in a.shape[1:])).astype(jnp.finfo(a.dtype).dtype)


def dependence(fn: Callable, u, w) -> np.ndarray:
    """Which leaves of `fn(u, w)` depend on which of u, by the operations in it: `(m, n)`
    booleans; true if in doubt. A block of the tangent that is zero costs nothing then."""
    closed = jax.make_jaxpr(fn)(u, w)
    jaxpr, n = closed.jaxpr, len(jax.tree.leaves(u))
    reach: dict = {v: {i} for i, v in enumerate(jaxpr.invars[:n])}
    of = lambda v: set() if isinstance(v, Literal) else reach.get(v, set())
    for equation in jaxpr.eqns:
        together = set().union(*map(of, equation.invars))
        reach |= {v: together for v in equation.outvars}
    found = np.zeros((len(jaxpr.outvars), n), bool)
    for i, v in enumerate(jaxpr.outvars):
        found[i, list(of(v))] = True
    return found


# --- over all cells -------------------------------------------------------------------

CHUNK = 2**17  # numbers of a chunk's element matrices and tables; it should fit the cache
SMALLEST = 64  # items of a chunk


def map_items(space: Space, term: Term, kernel: Callable, u=None, points=None):
    """`kernel(place, bases, w, axes, local)` of every cell or facet, stacked.

    Many items are done chunk by chunk, and again in reverse mode, so that memory grows
    only with the result.
    """
    domain = term.domain
    points = space.array("points") if points is None else points
    items: dict[str, Any] = {"nodes": space.array("nodes", domain)}
    if domain.facet is not None:
        items["facet"] = space.array("facet", domain)
    by_cell = {n: c for n, c in term.coefficients.items() if c.by_cell}
    items["coefficients"] = {n: c.values for n, c in by_cell.items()}
    if u is not None:
        items["dofs"] = space.array("cell_dofs", domain)
        points = points.astype(jnp.finfo(u.dtype).dtype)

    def one(item):
        facet = item.get("facet")
        place = domain.place(points[item["nodes"]], facet)
        bases = basis_at(space, domain, place, facet)
        coefficients = term.coefficients | {
            n: by_cell[n]._replace(values=v) for n, v in item["coefficients"].items()
        }
        w, axes = context(domain, place, facet, coefficients)
        local = None if u is None else u[item["dofs"]]
        return kernel(place, bases, w, axes, local)

    k = space.cell_dofs.shape[1]
    work = k * k + domain.n_quadrature * (k + 1) * (domain.mesh.dim + 1)
    return _map(one, items, domain.n, max(SMALLEST, CHUNK // work))


def _map(one: Callable, items, n: int, size: int):
    if n <= 2 * size:
        return jax.vmap(one)(items)
    chunks = -(-n // size)
    size = -(-n // chunks)

    def cut(a):
        a = jnp.concatenate([a, a[: chunks * size - n]]) if chunks * size > n else a
        return a.reshape(chunks, size, *a.shape[1:])

    # In a loop nothing can be shared with the first pass. The barriers that would forbid
    # it make CPU programs of jaxlib 0.10 crash where the cotangent is made from the result.
    again = jax.checkpoint(jax.vmap(one), prevent_cse=False)
    out = jax.lax.map(again, jax.tree.map(cut, items))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], out)
