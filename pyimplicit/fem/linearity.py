"""Checks of a form before it is assembled: its names, its shape, its linearity."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .coefficients import Evaluated
from .forms import Context, Field
from .space import FunctionSpace


def check_form(V: FunctionSpace, form, coefficients: dict[str, Evaluated], dtype) -> bool:
    """Refuses a form that reads other coefficients than those given, whose integrand is
    no number, or that is not affine in u or not linear in v.

    Linearity is decided twice. By structure: JAX must be able to transpose the
    integrand as a function of u and of v, which it can for linear operations only. And
    by numbers: with random coefficients in place of the given ones (which may be
    traced), at one point. The first alone would take a term without v for one that is
    linear in v.
    """
    real = jnp.finfo(dtype).dtype
    struct = lambda shape, dtype=real: jax.ShapeDtypeStruct(shape, dtype)
    dim, c = V.mesh.dim, V.components
    shapes = ((), (dim,)) if c == 1 else ((c,), (c, dim))
    u = tuple(struct(shape) for shape in shapes)
    w = {
        name: struct(e.shape, dtype=e.values.dtype) for name, e in coefficients.items()
    } | {"x": struct((dim,))}
    used: set[str] = set()

    def integrand(u, v, w):
        return form(Field(*u), Field(*v), Context(w, used))

    out = jax.eval_shape(integrand, u, u, w)
    if getattr(out, "shape", None) != ():
        raise TypeError(
            "A form must return a number, the integrand at a point.\n"
            f"Got {f'shape {out.shape}' if hasattr(out, 'shape') else out}.\n"
            "Contract vectors, e.g. dot(grad(u), grad(v))."
        )
    unknown = sorted(coefficients.keys() - used)
    if unknown:
        raise ValueError(
            "The coefficients of a solve must be those that its form reads.\n"
            f"Got {unknown[0]!r}, which the form does not read.\n"
            f"It reads {sorted(used - {'x'})}."
        )
    _by_structure(integrand, u, w, out)
    return _by_numbers(integrand, V, u, w)


def _by_structure(integrand, u, w, out) -> None:
    of_u = lambda v, w: lambda u: integrand(u, v, w)
    of_v = lambda u, w: lambda v: integrand(u, v, w)
    for name, function in (("u", of_u), ("v", of_v)):

        def transpose(other, w, cotangent, function=function):
            return jax.linear_transpose(function(other, w), u)(cotangent)

        try:
            jax.eval_shape(transpose, u, w, out)
        except Exception as err:  # whatever the operation has for no transpose rule
            raise _nonlinear(name) from err


def _by_numbers(integrand, V: FunctionSpace, u, w) -> bool:
    rng = np.random.default_rng(0)
    draw = lambda struct: jnp.asarray(rng.uniform(0.5, 1.5, struct.shape), struct.dtype)

    @jax.jit
    def values(states, tests, w):
        of_u = [integrand(u, tests[0], w) for u in states]
        return of_u, [integrand(states[0], v, w) for v in tests]

    with jax.ensure_compile_time_eval():
        w = jax.tree.map(draw, w) | {"x": jnp.asarray(V.x[0, 0], w["x"].dtype)}
        a, b = (jax.tree.map(draw, u) for _ in range(2))
        inputs = [a, b, jax.tree.map(jnp.add, a, b), jax.tree.map(jnp.zeros_like, a)]
        in_u, in_v = values(inputs, inputs, w)
    if isinstance(in_u[0], Tracer):
        return False  # the form closes over traced values: the structure has to do
    tol = 1e3 * jnp.finfo(w["x"].dtype).eps
    for name, numbers in (("u", in_u), ("v", in_v)):
        of_a, of_b, of_sum, of_zero = map(complex, numbers)
        scale = abs(of_a) + abs(of_b) + abs(of_sum) + abs(of_zero)
        if abs(of_sum + of_zero - of_a - of_b) > tol * scale:
            raise _nonlinear(name)
        if name == "v" and abs(of_zero) > tol * scale:
            raise ValueError(
                "A form must be linear in v: each of its terms must hold v.\n"
                "Got a form that is not 0 for v = 0.\nMultiply the term by v."
            )
    return True


def _nonlinear(name: str) -> ValueError:
    remedy = (
        "Problem solves linear equations; linearise it, or solve it by pi.root."
        if name == "u"
        else "The test function enters once, as v or grad(v)."
    )
    return ValueError(
        f"A form must be linear in {name}.\n"
        f"Got one that JAX does not know to be so: a product of {name} with itself, or "
        f"a function of {name} that is not linear.\n{remedy}"
    )
