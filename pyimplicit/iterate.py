"""The loop: any optimistix solver, step by step until it terminates.

A solver is four methods, `init`, `step`, `terminate`, `postprocess` (see
`optimistix.AbstractIterativeSolver`). Under `vmap` each sample keeps its state once it
has terminated, so its answer does not depend on its batch mates.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import optimistix as optx

from ._status import Status


# What optimistix and lineax call it, and what we do. Anything else is `diverged`.
_STATUS = (
    (optx.RESULTS.successful, Status.converged),
    (optx.RESULTS.nonlinear_max_steps_reached, Status.max_steps_reached),
    (optx.RESULTS.nonfinite, Status.nonfinite),
    (optx.RESULTS.nonfinite_input, Status.nonfinite),
    (optx.RESULTS.singular, Status.singular),
    (optx.RESULTS.breakdown, Status.inaccurate),
    (optx.RESULTS.stagnation, Status.inaccurate),
    (optx.RESULTS.max_steps_reached, Status.inaccurate),
    (optx.RESULTS.conlim, Status.singular),
)

While = Callable[..., Any]  # (cond, body, init, max_steps) -> carry


def while_loop(cond, body, init, max_steps):
    """The plain loop: forward-mode derivatives only."""
    return eqxi.while_loop(cond, body, init, max_steps=max_steps, kind="lax")


def status_of(result) -> jax.Array:
    """An optimistix result as an `int32` of `Status`."""
    status = jnp.asarray(Status.diverged, jnp.int32)
    for theirs, ours in _STATUS:
        status = jnp.where(result == theirs, jnp.int32(ours), status)
    return status


def iterate(
    solver: optx.AbstractIterativeSolver,
    fn: Callable,
    y0,
    params,
    *,
    max_steps: int,
    options: dict[str, Any] | None = None,
    tags: frozenset = frozenset(),
    accept: Callable | None = None,
    loop: While = while_loop,
):
    """Runs `solver` on `fn(y, params)`.

    `accept(f)`: a further condition on `aux` for stopping, where `fn` has an auxiliary
    output. Returns `(y, status, steps)`.
    """
    options = {} if options is None else options
    given = fn if accept else lambda y, params: (fn(y, params), None)
    f_struct, aux_struct = eqx.filter_eval_shape(given, y0, params)
    state = solver.init(given, y0, params, options, f_struct, aux_struct, tags)
    dynamic, static = eqx.partition(state, eqx.is_array)

    def verdict(y, state, done):
        terminate, result = solver.terminate(given, y, params, options, state, tags)
        result = optx.RESULTS.where(all_finite(y), result, optx.RESULTS.nonfinite)
        return (terminate & done) | (result != optx.RESULTS.successful), result

    def body(carry):
        y, steps, dynamic, *_ = carry
        state = eqx.combine(dynamic, static)
        y, state, aux = solver.step(given, y, params, options, state, tags)
        done = accept(aux) if accept else jnp.array(True)
        stop, result = verdict(y, state, done)
        return y, steps + 1, eqx.filter(state, eqx.is_array), stop, result

    stop, result = verdict(y0, state, jnp.array(accept is None))
    carry = y0, jnp.array(0, jnp.int32), dynamic, stop, result
    y, steps, dynamic, stop, result = loop(lambda c: ~c[3], body, carry, max_steps)
    ran_out = ~stop & (result == optx.RESULTS.successful)
    result = optx.RESULTS.where(ran_out, optx.RESULTS.nonlinear_max_steps_reached, result)
    state = eqx.combine(dynamic, static)
    y, *_ = solver.postprocess(given, y, None, params, options, state, tags, result)
    return y, status_of(result), steps


def all_finite(tree) -> jax.Array:
    finite = [jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(finite)) if finite else jnp.array(True)
