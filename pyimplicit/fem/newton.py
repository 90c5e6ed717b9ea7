"""Nonlinear problems: Newton's method on the free unknowns, with the exact tangent, sparse
or by its element matrices.

Load stepping is Newton's homotopy: with R₀ the residual at the start, step k of n solves
R(u) = (1 - k/n) R₀. Where the start is free of stress, R = f_int(u) - f_ext and
R₀ = -f_ext, so this is f_int(u) = (k/n) f_ext.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .._status import Solution
from .._tree import stop_gradient
from ..adjoint import Implicit
from ..linear import SparseOperator, SparsePattern
from ..root import root
from ..solvers import Newton
from . import assembly
from .assembly import Term
from .forms import Context, Field
from .krylov import Krylov
from .krylov_solver import KrylovSolver
from .linearity import structs
from .matrix_free import ElementOperator
from .values import as_numbers


class Options(NamedTuple):
    """`start`: shaped like u; `steps` of the load; `solver`; `throw`."""

    start: Any
    steps: int
    solver: Any
    throw: bool


def solve(problem, terms: list[Term], given, load, points, dtype, how: Options):
    """The answer of `Problem.solve` for a nonlinear problem or one with bounds."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            "A nonlinear problem must be real.\nGot complex numbers.\n"
            "Write the real and the imaginary part as two components."
        )
    V = problem.V
    load = jnp.zeros(V.size, dtype) if load is None else load.astype(dtype)
    one = lambda load: _solve(problem, terms, given, load, points, dtype, how)
    return one(load) if load.ndim == 1 else jax.vmap(one, in_axes=1, out_axes=-1)(load)


def _solve(problem, terms, given, load, points, dtype, how: Options):
    V, condensed = problem.V, problem._condensed
    if not condensed.n_free:
        empty = jnp.zeros(0, dtype)
        return problem.finish(Solution(empty, jnp.int32(0), {}), given, how.throw)
    params = {
        "forms": [_converted(V, term, dtype) for term in terms],
        "values": [{n: c.values for n, c in t.coefficients.items()} for t in terms],
        "given": given,
        "load": load,
        "points": points,
    }

    def rebuilt(params) -> list[Term]:
        filled = []
        for t, form, values in zip(terms, params["forms"], params["values"], strict=True):
            coefficients = {
                n: c._replace(values=values[n]) for n, c in t.coefficients.items()
            }
            filled.append(Term(form, t.domain, coefficients))
        return filled

    def residual(x, params):
        u = condensed.expand(x, params["given"])
        r = assembly.residual(V, rebuilt(params), u, params["points"]) - params["load"]
        if problem.nullspace is not None:
            r = problem.nullspace.balance(r)
        return condensed.vector(r)

    def tangent(x, params):
        u = condensed.expand(x, params["given"])
        return condensed.matrix(assembly.tangent(V, rebuilt(params), u, params["points"]))

    def by_elements(x, params):
        u = condensed.expand(x, params["given"])
        found = assembly.element_tangents(V, rebuilt(params), u, params["points"])
        return ElementOperator(found[0], V, condensed)

    start = _start(V, how.start, dtype)
    x = condensed.pick(start)
    krylov = _krylov(problem, how.solver, dtype)
    linear = None if krylov is None else KrylovSolver(krylov)
    solver = how.solver
    if krylov is not None or how.solver is None:
        solver = Newton(linear_solver=linear, line_search=not problem._bounded)
    if krylov is not None and krylov.matrix_free:
        jacobian = by_elements
    else:
        pattern = condensed.pattern
        if problem._bounded:
            x, residual, tangent, pattern = _bounded(problem, residual, tangent, x, params)
        jacobian = lambda x, params: SparseOperator(pattern, tangent(x, params))
    x = stop_gradient(x)
    if how.steps > 1:
        moving = lambda s: params["given"] * s + start[condensed.given] * (1 - s)
        x = _steps(residual, jacobian, x, params, moving, solver, how.steps)
    solution = root(
        residual, x, params, solver=solver, adjoint=Implicit(linear_solver=linear),
        jacobian=jacobian, throw=how.throw, max_steps=50,
    )  # fmt: skip
    if not how.throw:
        failed = solution.status != 0
        # Times NaN, not replaced by it: its derivatives are NaN too, not zero
        value = solution.value * jnp.where(failed, jnp.nan, 1.0).astype(dtype)
        solution = solution._replace(value=value)
    return problem.finish(solution, given, how.throw)


def _krylov(problem, solver, dtype) -> Krylov | None:
    """The `Krylov` that `solver` may be, checked."""
    if not isinstance(solver, Krylov):
        return None
    if problem._bounded:
        raise TypeError(
            "`solve(solver=Krylov(...))` must have a problem without bounds.\n"
            "Got `lower` or `upper`.\nLeave the solver out."
        )
    solver.check(problem.structure, dtype)
    return solver


def _converted(V, term: Term, dtype):
    """The form with all that it closes over in its pytree."""
    u = structs(V, dtype)
    dim = V.mesh.dim
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    w: dict[str, Any] = {"x": struct(dim), "h": struct()}
    if term.domain.facet is not None:
        w["n"] = struct(dim)
    for name, c in term.coefficients.items():
        value = struct(*c.shape)
        w[name] = value
        if c.field:
            w[name] = Field(value, struct(*c.shape, dim))

    def at(u, v, w):
        fields = (assembly.as_fields(V, a) for a in (u, v))
        return term.form(*fields, Context(w))

    return _Form(eqx.filter_closure_convert(at, u, u, w), len(V.parts))


class _Form(eqx.Module):
    """A converted form, called as forms are."""

    at: Any
    n: int = eqx.field(static=True)

    def __call__(self, u, v, w: Context):
        leaves = lambda f: tuple(
            (jnp.atleast_1d(a.value), jnp.atleast_2d(a.gradient))
            for a in ((f,) if self.n == 1 else f)
        )
        return self.at(leaves(u), leaves(v), w._values)


def _start(V, start, dtype):
    if start is None:
        return jnp.zeros(V.size, dtype)
    fields = start if isinstance(start, tuple) else (start,)
    fields = tuple(as_numbers(a, "`solve(start=...)`").astype(dtype) for a in fields)
    if tuple(a.shape for a in fields) != tuple(part.shape for part in V.parts):
        raise ValueError(
            f"`solve(start=...)` must have shape {V.shape}.\n"
            f"Got {', '.join(str(a.shape) for a in fields)}.\nShaped like the solution."
        )
    return V.join(fields)


def _steps(residual, jacobian, x, params, moving, solver, steps: int):
    """The start of the last load step: given values go there together with the loads, for
    what has moved to its end at once may have turned the cells beside it inside out.
    A step that fails leaves that to the last one."""
    at = lambda s: stop_gradient({**params, "given": moving(s)})
    first = residual(x, at(0.0))

    def step(x, s):
        rest = lambda x, p: residual(x, p[0]) - (1 - p[1]) * p[2]
        tangent = lambda x, p: jacobian(x, p[0])
        found = root(
            rest, x, (at(s), s, first), solver=solver, jacobian=tangent, throw=False,
            max_steps=50,
        )  # fmt: skip
        return stop_gradient(found.value), None

    parts = jnp.arange(1, steps, dtype=x.dtype) / steps
    return jax.lax.scan(step, x, parts)[0]


def _bounded(problem, residual, tangent, x, params):
    """The semismooth system of lower <= x <= upper: with r = R / diag A,

        F = x - lower where x - lower < r,  x - upper where x - upper > r,  else r,

    whose generalised derivative replaces the rows of active bounds by those of the
    identity (Hintermüller, Ito, Kunisch 2002, doi:10.1137/S1052623401383558).
    """
    V, condensed = problem.V, problem._condensed
    lower, upper = (
        _bound(V, condensed, end if b is None else b, x.dtype)
        for b, end in zip(problem.bounds, (-jnp.inf, jnp.inf), strict=True)
    )
    x = jnp.clip(x, lower, upper)
    old = condensed.pattern
    pattern = SparsePattern(old.rows, old.cols, old.shape)
    rows, cols = old.rows, old.cols  # NumPy: the Jacobian may close over no tracer
    (on,) = (rows == cols).nonzero()
    still = stop_gradient((x, params))
    scale = jnp.abs(tangent(*still))[on[rows[on].argsort()]]
    params["scale"] = jnp.where(scale > 0, scale, 1.0)
    params["lower"], params["upper"] = lower, upper

    def sides(x, params):
        r = residual(x, params) / params["scale"]
        below, above = x - params["lower"], x - params["upper"]
        return r, below, above, below < r, above > r

    def system(x, params):
        r, below, above, low, high = sides(x, params)
        return jnp.where(low, below, jnp.where(high, above, r))

    def matrix(x, params):
        *_, low, high = sides(x, params)
        values = tangent(x, params) / params["scale"][rows]
        identity = jnp.asarray(rows == cols, values.dtype)
        return jnp.where((low | high)[rows], identity, values)

    return x, system, matrix, pattern


def _bound(V, condensed, bound, dtype):
    bound = as_numbers(bound, "`Problem(lower=..., upper=...)`").astype(dtype)
    if bound.shape not in ((), V.shape):
        raise ValueError(
            f"`Problem(lower=..., upper=...)` must be numbers or have shape {V.shape}.\n"
            f"Got {bound.shape}.\nOne bound for each unknown."
        )
    return condensed.pick(jnp.broadcast_to(bound, V.shape).reshape(-1))
