"""The linear solves inside a JAX program, and what they leave of their equations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun


# Operations that are their jaxpr, under the parameter that holds it (the names of JAX
# 0.7 to 0.10). What is not here is bound as it is; solves in it are only counted.
INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}
# JAX's, lineax's, and lineax's in a batch.
SOLVES = ("custom_linear_solve", "linear_solve", "vprim")


class Residuals(NamedTuple):
    """`residuals`: `(k,)`, ‖A x - b‖/‖b‖ of each solve found, in the order of the program.
    `hidden`: how many more there are that were not looked at: in loops and branches, and
    least squares.
    """

    residuals: jax.Array
    hidden: int


def solve_residuals(fn: Callable, *args: Any) -> Residuals:
    """Runs `fn(*args)` and measures every linear solve in it by its own equation.

    `fn`: a JAX function of arrays, jitted or not; `args`: arrays. Looked at are
    `jax.lax.custom_linear_solve` (hence `jnp.linalg.solve`, `jax.scipy.sparse.linalg`,
    every layer of this package) and square systems of `lineax.linear_solve`, also inside
    jit, custom derivative rules and checkpoints; not inside scan, while and cond. A is
    applied by the equation's own product, so a wrong *matrix* is not seen, only a wrong
    solution. A system with b = 0 has residual 0 if x = 0, and ‖A x‖ otherwise.

    **Errors:** whatever `fn` raises.
    """
    program = jax.make_jaxpr(fn)(*args)
    hidden = []

    def measured(*args):
        found: list[jax.Array] = []
        hidden.append(_run(program.jaxpr, program.consts, args, found)[1])
        return jnp.stack(found) if found else jnp.zeros(0)

    residuals = eqx.filter_jit(measured)(*jax.tree.leaves(args))
    return Residuals(residuals, hidden[-1])


def _run(jaxpr, consts, args, found: list):
    """The outputs of a jaxpr; each solve's residual goes to `found`. Also counts those
    that it does not look into."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: v.val if hasattr(v, "val") else values[v]
    hidden = 0
    for eqn in jaxpr.eqns:
        inputs = [read(v) for v in eqn.invars]
        name = eqn.primitive.name
        inner = eqn.params.get(INLINED.get(name))
        if inner is not None:
            opened = getattr(inner, "jaxpr", inner)
            outs, more = _run(opened, getattr(inner, "consts", ()), inputs, found)
            hidden += more
        else:
            outs = _bind(eqn, inputs)
            residual = _measured(eqn, inputs, outs)
            if residual is not None:
                found.append(residual)
            else:
                hidden += _count(eqn)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars], hidden


def _bind(eqn, inputs) -> list:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # older JAX
    with eqn.ctx.manager:
        outs = eqn.primitive.bind(*functions, *inputs, **params)
    return outs if eqn.primitive.multiple_results else [outs]


def _measured(eqn, inputs, outs):
    try:
        return _MEASURES[eqn.primitive.name](inputs, outs, **eqn.params)
    except (KeyError, TypeError, ValueError):  # no solve, or parameters of another version
        return None


def _jax_residual(inputs, outs, *, const_lengths, jaxprs):
    n = const_lengths.matvec
    b = inputs[sum(const_lengths) :]
    x = outs[: len(b)]
    return _relative(jaxpr_as_fun(jaxprs.matvec)(*inputs[:n], *x), b)


def _lineax_residual(inputs, outs, *, treedef, static, **_):
    """An `equinox.internal.filter_primitive`: plain objects stand for its inputs."""
    left = iter(inputs)
    leaves = [next(left) if type(leaf) is object else leaf for leaf in static]
    operator, _, b, *_ = jax.tree.unflatten(treedef, leaves)
    if operator.in_size() != operator.out_size():
        return None  # least squares: no residual to speak of
    like, structure = jax.tree.flatten(operator.in_structure())
    x = jax.tree.unflatten(structure, outs[: len(like)])
    return _relative(jax.tree.leaves(operator.mv(x)), jax.tree.leaves(b))


def _batched_residual(inputs, outs, *, prim, params, **axes):
    """An operation of Equinox under vmap: the largest over the samples."""
    if prim.name not in SOLVES:
        return None
    inner = lambda inputs, outs: _MEASURES[prim.name](inputs, outs, **dict(params))
    residuals = jax.vmap(inner, (list(axes["__batch_axes"]), 0))(inputs, outs)
    return residuals if residuals is None else jnp.max(residuals)


_MEASURES = dict(
    zip(SOLVES, (_jax_residual, _lineax_residual, _batched_residual), strict=True)
)


def _relative(Ax, b):
    norm = lambda leaves: jnp.sqrt(sum(jnp.sum(jnp.abs(a) ** 2) for a in leaves))
    size = norm(b)
    error = norm([p - q for p, q in zip(Ax, b, strict=True)])
    return (error / jnp.where(size > 0, size, 1.0)).astype(float)


def _count(eqn) -> int:
    """1 for a solve, else how many there are in the jaxprs among the parameters."""
    if eqn.primitive.name in SOLVES:
        return int(getattr(eqn.params.get("prim", eqn.primitive), "name", "") in SOLVES)
    return sum(map(_count_in, eqn.params.values()))


def _count_in(value) -> int:
    if isinstance(value, tuple | list):
        return sum(map(_count_in, value))
    return sum(map(_count, getattr(getattr(value, "jaxpr", value), "eqns", ())))
