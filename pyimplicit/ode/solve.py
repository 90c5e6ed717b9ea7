"""Initial value problems by diffrax, with this package's vocabulary."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jax.core import Tracer

from .._status import Solution, Status
from .._tree import arrays, ravel, stop_gradient
from ..adjoint import AbstractAdjoint, Unroll
from ..engine.failure import fail_unless_zero
from ..implicit import borrow
from ..iterate import all_finite
from .adjoints import of_diffrax


Field = Callable[[Any, Any, Any], Any]
UNROLL = Unroll()
NO_EVENT = (
    "pyimplicit.ode.odeint_event: the event did not occur: (a) raise `t_max`; (b) its "
    "function does not change sign along the path, or not in this `direction`"
)


def odeint(
    vector_field: Field,
    y0: Any,
    t: jax.Array,
    params: Any = None,
    *,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: AbstractAdjoint | diffrax.AbstractAdjoint = UNROLL,
    rtol: float | None = None,
    atol: float | None = None,
    dt0: Any = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> Solution:
    r"""Solves y' = f(t, y, θ), y(t[0]) = y0.

    **Arguments:**

    - `vector_field`: `vector_field(t, y, params)`, like y. Float arrays it closes over are
      differentiated like `params`.
    - `y0`: a pytree of floating arrays.
    - `t`: `(k,)`, k >= 2, monotone: where y is wanted; the first is the start.
    - `solver`: of diffrax; `Tsit5()` if not given. Stiff: `diffrax.Kvaerno5()`.
    - `adjoint`: `pi.Unroll(checkpoints=c)` (reverse mode; c states are kept, a few by
      default); `pi.Unroll(steps=k)`: k equal steps, both modes; `pi.ode.Direct()`,
      `Forward()`, `Backsolve()`; or one of diffrax's.
    - `rtol`, `atol`: local error allowed in a step, ε^0.45 if not given (about 1e-7, or
      7e-4 in single precision). `dt0`: the first step; chosen if not given.
    - `max_steps`: at most. `throw`: raise on failure; if False see `status`.

    **Returns:** a `Solution`; `value` is like y0 with a leading axis k. `stats`:
    "iterations" (steps taken), "rejected".

    **Derivative:** of the numerical solution in y0, `params`, t (`Backsolve`: of the
    continuous one), by the modes of the adjoint.

    **Errors:** `ValueError`, `TypeError` on bad input; at run time, if `throw`: the message
    of a `Status` (max_steps_reached, nonfinite, diverged: no step was small enough).
    """
    t = jnp.asarray(t, jnp.result_type(float, *map(jnp.result_type, _leaves(y0))))
    _check("odeint", t, max_steps)
    field, y0, args = _closed(vector_field, t[0], y0, params)
    controller: diffrax.AbstractStepSizeController = _controller(rtol, atol, y0)
    how = of_diffrax(adjoint, controller)
    if isinstance(adjoint, Unroll) and adjoint.steps is not None:
        max_steps, controller = adjoint.steps, diffrax.ConstantStepSize()
        # A hair more than the k-th part, lest round-off ask for one step more.
        dt0 = (t[-1] - t[0]) / max_steps * (1 + 4 * jnp.finfo(t.dtype).eps)
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Tsit5() if solver is None else solver,
        t[0], t[-1], dt0, y0, args, saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=controller, adjoint=how, max_steps=max_steps, throw=False,
    )  # fmt: skip
    messages = tuple(f"pyimplicit.ode.odeint: {s.message}" for s in Status)
    return _finish(found, found.ys, _status(found), messages, throw)


def odeint_event(
    vector_field: Field,
    y0: Any,
    t0: Any,
    params: Any = None,
    *,
    event: Callable[[Any, Any, Any], Any],
    t_max: Any,
    direction: bool | None = None,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: AbstractAdjoint | diffrax.AbstractAdjoint = UNROLL,
    rtol: float | None = None,
    atol: float | None = None,
    dt0: Any = None,
    max_steps: int = 4096,
    throw: bool = True,
) -> Solution:
    r"""Solves y' = f(t, y, θ) from t0 until g(t, y, θ) = 0.

    **Arguments:**

    - `event`: g, a real scalar that changes sign; looked for between the ends of steps.
    - `t_max`: where to give up. `direction`: True: only upward crossings count, False:
      only downward ones.
    - the others: see `odeint`.

    **Returns:** a `Solution` with value `(t, y)` at the event; status `infeasible` if it
    did not occur before `t_max`.

    **Derivative:** of t and y, by the implicit function theorem at the event: ṫ =
    -(∂g/∂y ẏ + ∂g/∂θ θ̇)/(∂g/∂t + ∂g/∂y f), where ẏ is at fixed time. By `adjoint`'s modes.

    **Errors:** as `odeint`; with `throw`, also where no event occurred.
    """
    t0 = jnp.asarray(t0, jnp.result_type(float, *map(jnp.result_type, _leaves(y0))))
    if not callable(event):
        raise TypeError(
            "`odeint_event(event=...)` must be a function g(t, y, params).\n"
            f"Got {event!r}.\nThe solve ends where it is zero."
        )
    _check("odeint_event", jnp.stack([t0, jnp.asarray(t_max, t0.dtype)]), max_steps)
    field, y0, args = _closed(vector_field, t0, y0, params)
    controller = _controller(rtol, atol, y0)
    args = (*args, eqx.filter_closure_convert(event, t0, y0, args[1]))
    tight = float(jnp.finfo(t0.dtype).eps) ** 0.75
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Tsit5() if solver is None else solver,
        t0, t_max, dt0, y0, args, stepsize_controller=controller,
        adjoint=of_diffrax(adjoint, controller), max_steps=max_steps, throw=False,
        event=diffrax.Event(_event, optx.Newton(tight, tight), direction),
    )  # fmt: skip
    status = _status(found)
    occurred = found.result == diffrax.RESULTS.event_occurred
    missed = (status == 0) & ~occurred
    status = jnp.where(missed, jnp.int32(Status.infeasible), status)
    message = lambda s: NO_EVENT if s is Status.infeasible else s.message
    messages = tuple(f"pyimplicit.ode.odeint_event: {message(s)}" for s in Status)
    end = jax.tree.map(lambda a: a[-1], (found.ts, found.ys))
    return _finish(found, end, status, messages, throw)


def _event(t, y, args, **kwargs):
    del kwargs
    _, params, g = args
    return g(t, y, params)


def _field(t, y, args):
    """Everything differentiable lies in `args`, also what the user's field closes over."""
    field, params, *_ = args
    return field(t, y, params)


def _closed(vector_field, t, y0, params):
    if not callable(vector_field):
        raise TypeError(
            "`odeint(vector_field, ...)` must get a function of (t, y, params).\n"
            f"Got {vector_field!r}.\nIt returns y'."
        )
    y0, params = arrays(y0), arrays(params)
    dtype = jnp.result_type(float, *_leaves(y0))
    floating = lambda a: a if eqx.is_inexact_array(a) else a.astype(dtype)
    y0 = jax.tree.map(floating, y0)
    out = eqx.filter_eval_shape(vector_field, t, y0, params)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    same = jax.tree.structure(out) == jax.tree.structure(y0)
    if not same or shapes(out) != shapes(y0):
        raise ValueError(
            "`vector_field(t, y, params)` must look like y.\n"
            f"Got {shapes(out)} for y of {shapes(y0)}.\nReturn y', entry by entry."
        )
    like = lambda new, old: jnp.asarray(new).astype(old.dtype)
    cast = lambda t, y, params: jax.tree.map(like, vector_field(t, y, params), y)
    return _field, y0, (eqx.filter_closure_convert(cast, t, y0, params), params)


def _controller(rtol, atol, y0) -> diffrax.PIDController:
    default = float(jnp.finfo(ravel(y0).dtype).eps) ** 0.45
    rtol = default if rtol is None else rtol
    return diffrax.PIDController(rtol=rtol, atol=default if atol is None else atol)


def _status(found) -> jax.Array:
    names = (
        (diffrax.RESULTS.successful, Status.converged),
        (diffrax.RESULTS.event_occurred, Status.converged),
        (diffrax.RESULTS.max_steps_reached, Status.max_steps_reached),
        (diffrax.RESULTS.nonlinear_max_steps_reached, Status.max_steps_reached),
        (diffrax.RESULTS.nonfinite, Status.nonfinite),
        (diffrax.RESULTS.singular, Status.singular),
    )
    status = jnp.asarray(Status.diverged, jnp.int32)
    for theirs, ours in names:
        status = jnp.where(found.result == theirs, jnp.int32(ours), status)
    finite = all_finite(found.ys)
    return jnp.where((status == 0) & ~finite, jnp.int32(Status.nonfinite), status)


def _finish(found, value, status, messages, throw: bool) -> Solution:
    kept = stop_gradient(value)
    if throw:
        kept = fail_unless_zero(kept, status, messages)
    value = borrow(kept, value, status == 0)
    taken, rejected = found.stats["num_steps"], found.stats["num_rejected_steps"]
    return Solution(value, status, {"iterations": taken, "rejected": rejected})


def _leaves(tree):
    return jax.tree.leaves(arrays(tree))


def _check(name: str, t, max_steps) -> None:
    if t.ndim != 1 or t.size < 2:
        raise ValueError(
            f"`{name}(t=...)` must hold two times or more, the start first.\n"
            f"Got shape {t.shape}.\nFor example jnp.array([0.0, 1.0])."
        )
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(
            f"`{name}(max_steps=...)` must be a positive integer.\nGot {max_steps!r}.\n"
            "The default is 4096."
        )
    if isinstance(t, Tracer):
        return
    signs = np.sign(np.diff(np.asarray(t, np.float64))).tolist()
    if set(signs) not in ({1.0}, {-1.0}):
        raise ValueError(
            f"`{name}` must get times that all increase, or all decrease.\n"
            f"Got {np.asarray(t).tolist()[:8]}.\nSort them."
        )
