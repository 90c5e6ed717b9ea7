"""Checks of a form before it is assembled: its names, its shape, its linearity."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .assembly import as_fields
from .forms import Context
from .space import Space


class Nature(NamedTuple):
    """Whether a form is affine in u, and whether that was checked with numbers too, or
    only by its structure, since it closes over traced values."""

    linear: bool
    certain: bool


def structs(space: Space, dtype) -> tuple:
    """`(value (c,), gradient (c, dim))` of each field, as structs."""
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    dim = space.mesh.dim
    return tuple((struct(p.components), struct(p.components, dim)) for p in space.parts)


def names_of(space: Space, form: Callable, w: dict, dtype) -> set[str]:
    """The names that a form reads from its third argument. `w`: structs at a point."""
    used: set[str] = set()
    u = structs(space, jnp.finfo(dtype).dtype)
    at = lambda u, v, w: form(as_fields(space, u), as_fields(space, v), Context(w, used))
    out = jax.eval_shape(at, u, u, w)
    if getattr(out, "shape", None) != ():
        raise TypeError(
            "A form must return a number, the integrand at a point.\n"
            f"Got {f'shape {out.shape}' if hasattr(out, 'shape') else out}.\n"
            "Contract vectors, e.g. dot(grad(u), grad(v))."
        )
    return used


def check_form(space: Space, form: Callable, w: dict, dtype) -> Nature:
    """Refuses a form that is not linear in v, or that JAX differentiates wrongly in u.

    Linearity is decided twice. By structure: JAX must be able to transpose the
    integrand as a function of u and of v, which it can for linear operations only. And
    by numbers: with random coefficients in place of the given ones (which may be
    traced), at one point. The first alone would take a term without v for one that is
    linear in v.
    """
    u = structs(space, jnp.finfo(dtype).dtype)

    def integrand(u, v, w):
        return form(as_fields(space, u), as_fields(space, v), Context(w))

    out = jax.eval_shape(integrand, u, u, w)
    if not _transposable(lambda u, w: lambda v: integrand(u, v, w), u, w, out):
        raise _nonlinear_in_v()
    linear = _transposable(lambda v, w: lambda u: integrand(u, v, w), u, w, out)
    return Nature(linear, _by_numbers(integrand, space, u, w, linear))


def _transposable(function, u, w, out) -> bool:
    def transpose(other, w, cotangent):
        return jax.linear_transpose(function(other, w), u)(cotangent)

    try:
        jax.eval_shape(transpose, u, w, out)
    except Exception:  # whatever the operation has for no transpose rule
        return False
    return True


def _by_numbers(integrand, space: Space, u, w, linear: bool) -> bool:
    rng = np.random.default_rng(0)
    draw = lambda struct: jnp.asarray(rng.uniform(0.5, 1.5, struct.shape), struct.dtype)
    step = float(jnp.finfo(w["x"].dtype).eps) ** (1 / 3)

    @jax.jit
    def values(states, tests, w):
        of_u = [integrand(u, tests[0], w) for u in states]
        of_v = [integrand(states[0], v, w) for v in tests]
        at = lambda u: integrand(u, tests[0], w)
        a, b, *_ = states
        beside = lambda h: jax.tree.map(lambda a, b: a + h * b, a, b)
        _, slope = jax.jvp(at, (a,), (b,))
        return of_u, of_v, (slope, (at(beside(step)) - at(beside(-step))) / (2 * step))

    with jax.ensure_compile_time_eval():
        w = jax.tree.map(draw, w) | {"x": jnp.asarray(space.mesh.points[0], w["x"].dtype)}
        a, b = (jax.tree.map(draw, u) for _ in range(2))
        inputs = [a, b, jax.tree.map(jnp.add, a, b), jax.tree.map(jnp.zeros_like, a)]
        in_u, in_v, slopes = values(inputs, inputs, w)
    if isinstance(in_u[0], Tracer):
        return False  # the form closes over traced values: the structure has to do
    tol = 1e3 * jnp.finfo(w["x"].dtype).eps
    of_a, of_b, of_sum, of_zero = map(complex, in_v)
    scale = abs(of_a) + abs(of_b) + abs(of_sum) + abs(of_zero)
    if abs(of_sum + of_zero - of_a - of_b) > tol * scale:
        raise _nonlinear_in_v()
    if abs(of_zero) > tol * scale:
        raise ValueError(
            "A form must be linear in v: each of its terms must hold v.\n"
            "Got a form that is not 0 for v = 0.\nMultiply the term by v."
        )
    of_a, of_b, of_sum, of_zero = map(complex, in_u)
    scale = abs(of_a) + abs(of_b) + abs(of_sum) + abs(of_zero)
    affine = abs(of_sum + of_zero - of_a - of_b) <= tol * scale
    slope, difference = map(complex, slopes)
    wrong = abs(slope - difference) > 10 * step * (abs(slope) + abs(difference) + scale)
    if (linear and not affine) or wrong:
        raise ValueError(
            "A form must have the derivative in u that JAX finds.\n"
            f"Got one whose derivative at a point is {difference.real:.6g} by differences "
            f"and {slope.real:.6g} by JAX.\n"
            "Take `stop_gradient` out of it, and mend its custom rules."
        )
    return True


def _nonlinear_in_v() -> ValueError:
    return ValueError(
        "A form must be linear in v.\n"
        "Got one that JAX does not know to be so: a product of v with itself, or a "
        "function of v that is not linear.\n"
        "The test function enters once, as v or grad(v)."
    )
