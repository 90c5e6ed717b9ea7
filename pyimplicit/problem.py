"""What all entry points do before and after the solve."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from ._status import Solution
from ._tree import arrays, flatten, is_natural, ravel, stop_gradient
from .adjoint import AbstractAdjoint, Problem


def check_options(name: str, adjoint, max_steps, rtol, atol) -> None:
    """Raises on options that no solve could use."""
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(
            f"`{name}(adjoint=...)` must be an adjoint.\nGot {adjoint!r}.\n"
            "Known: pi.Implicit(), Unroll(), Phantom(steps), OneStep(), Reversible(beta)."
        )
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(
            f"`{name}(max_steps=...)` must be a positive integer.\nGot {max_steps!r}.\n"
            "The default is 256."
        )
    for option, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(
                f"`{name}({option}=...)` must not be negative.\nGot {value}.\n"
                "Leave it out for the solver's own tolerance."
            )


def prepare(name: str, fn: Callable, z0, params, square: bool = True):
    """`(fn, z0, params, restore)` with what `fn` closes over in `fn`'s pytree, and the
    unknowns as real floating arrays: `z0` itself if it is made of them, else one real
    vector. `restore` makes the result look like the `z0` that was given."""
    z0, params = arrays(z0), arrays(params)
    if not any(eqx.is_inexact_array(a) for a in jax.tree.leaves(z0)):
        z0 = jax.tree.map(_floating, z0)
    z0 = _settled(name, fn, z0, params) if square else z0
    restore = lambda z: z
    if not is_natural(z0):
        y, restore = flatten(z0)
        given = fn
        fn = lambda y, params: given(restore(y), params)
        z0 = y
    if ravel(z0).size == 0:
        raise ValueError(
            f"`{name}(z0=...)` must hold at least one number.\nGot {_shapes(z0)}.\n"
            "Pass a first guess."
        )
    return eqx.filter_closure_convert(fn, z0, params), z0, params, restore


def _settled(name: str, fn, z0, params):
    """z0 in the precision that `fn` answers in, checked to have the size of its answer."""
    out = eqx.filter_eval_shape(fn, z0, params)
    wide = [jnp.finfo(a.dtype).dtype for a in jax.tree.leaves(out) if _is_inexact(a)]
    if wide:
        raise_to = lambda a: a.astype(jnp.result_type(a, *wide)) if _is_inexact(a) else a
        z0 = jax.tree.map(raise_to, z0)
        out = eqx.filter_eval_shape(fn, z0, params)
    sizes = [_reals(tree) for tree in (z0, out)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"`{name}(fn, z0)` must have as many equations as unknowns.\n"
            f"Got {_shapes(out)} from fn and {_shapes(z0)} as z0: {sizes[1]} and "
            f"{sizes[0]} real numbers.\nFor other shapes use pi.least_squares."
        )
    return z0


def check_same(name: str, fn, z0, params) -> None:
    """Raises unless `fn(z0, params)` looks like `z0`."""
    z0, params = arrays(z0), arrays(params)
    out = eqx.filter_eval_shape(fn, z0, params)
    shape = lambda tree: jax.tree.map(lambda a: a.shape, tree)
    same = jax.tree.structure(out) == jax.tree.structure(z0)
    if not same or shape(out) != shape(z0):
        raise ValueError(
            f"`{name}(fn, z0)` needs a map: fn(z0, params) must look like z0.\n"
            f"Got {_shapes(out)} for {_shapes(z0)}.\nFor an equation use pi.root."
        )


def with_tolerances(solver, rtol, atol, z0):
    """The solver with the tolerances of the call, its own, or those of the precision."""
    default = float(jnp.finfo(ravel(z0).dtype).eps) ** 0.6
    for name, given in (("rtol", rtol), ("atol", atol)):
        own = getattr(solver, name)
        value = (
            default if given is None and own is None else own if given is None else given
        )
        if value is not own:
            where = lambda s, name=name: getattr(s, name)
            solver = eqx.tree_at(where, solver, value, is_leaf=lambda x: x is None)
    return solver


def finish(problem: Problem, restore, z, params, status, steps, **stats) -> Solution:
    """The `Solution`, with the residual at its value."""
    residual = jnp.linalg.norm(ravel(problem.residual(*stop_gradient((z, params)))))
    stats = {"iterations": steps, "residual": stop_gradient(residual), **stats}
    return Solution(restore(z), status, stats)


def _floating(a):
    return a.astype(jnp.result_type(float)) if eqx.is_array(a) else a


def _is_inexact(a) -> bool:
    return jnp.issubdtype(a.dtype, jnp.inexact)


def _reals(tree) -> int:
    return jax.eval_shape(ravel, eqx.filter(tree, _is_inexact)).size


def _shapes(tree) -> str:
    show = lambda a: f"{a.dtype}{list(a.shape)}" if hasattr(a, "dtype") else repr(a)
    return str(jax.tree.map(show, tree)).replace("'", "")
