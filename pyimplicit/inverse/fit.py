"""The entry point of `pi.inverse`."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from .bounds import transform
from .gauss_newton import GaussNewton
from .lbfgs import LBFGS
from .newton_cg import NewtonCG
from .objective import Objective, check_misfit
from .result import FitError, FitResult
from .run import Run


METHODS = {"gauss-newton": GaussNewton, "lbfgs": LBFGS, "newton-cg": NewtonCG}
Name = Literal["gauss-newton", "lbfgs", "newton-cg"]
Method = GaussNewton | LBFGS | NewtonCG


def fit(
    misfit: Callable,
    m0: Any,
    *,
    method: Name | Method = "gauss-newton",
    prior: Any = None,
    inner_product: Any = None,
    bounds: tuple[Any, Any] | None = None,
    target: float | None = None,
    beta: float = 1.0,
    max_steps: int = 100,
    rtol: float = 1e-6,
    callback: Callable | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> FitResult:
    r"""Finds the model m that minimises misfit(m) + beta prior(m).

    **Arguments:**

    - `misfit`: a JAX function of the model. It returns the weighted residual r, `(k,)`,
      (prediction - data)/error; then the misfit is 1/2 |r|² and chi² = |r|²/k. For
      "lbfgs" and "newton-cg" it may return a scalar instead.
    - `m0`: where to start, any pytree of floating-point arrays.
    - `method`: "gauss-newton", "lbfgs", "newton-cg", or one of `GaussNewton(...)`,
      `LBFGS(...)`, `NewtonCG(...)` with options.
    - `prior`: an `AbstractPrior`, e.g. `H1Prior`.
    - `inner_product`: whose `solve` turns derivatives into gradients, by default the
      prior; plain coordinates if there is neither.
    - `bounds`: `(lower, upper)`, numbers or models; held strictly, by a change of
      variables. None or infinite: no bound.
    - `target`: chi² to stop at, usually 1. "gauss-newton" with a prior finds the `beta`
      that meets it to 1 % (discrepancy principle); else the fit stops early when chi² is
      no more.
      Without a target: to the minimiser for the given `beta`, the MAP estimate.
    - `beta`: the prior's weight; not used by "gauss-newton" with a target.
    - `max_steps`, `rtol`: limits; `rtol` on the dual norm of the gradient.
    - `callback`: `callback(step, m)` after each `Step`; returning true stops.
    - `progress`: a bar with the misfit (a line for each step if standard error is not a
      terminal); by default only on a terminal.
    - `throw`: raise a `FitError` (with `.result`) if the fit did not converge.

    **Returns:** a `FitResult`. The function drives compiled steps from Python, so it
    cannot itself be jitted or differentiated.

    **Derivative:** of `misfit` and `prior` by JAX: one tangent and one cotangent for
    each inner iteration of "gauss-newton" and "newton-cg", one gradient for each trial
    of "lbfgs". A wrong derivative shows as a failed line search.

    **Errors:** `ValueError`/`TypeError` on misfit arguments and on a misfit that is not
    finite at `m0`. A trial that is not finite, or whose solve fails, shortens the step.
    """
    chosen = _method(method)
    name = chosen.name
    m0 = _check_model(m0)
    num_data = check_misfit(misfit, m0)
    _check_numbers(name, num_data, target, beta, max_steps, rtol)
    for what, given in (("prior", prior), ("inner_product", inner_product)):
        _check_prior(what, given)
    change = transform(bounds, m0)
    flat, unravel = ravel_pytree(m0)
    metric = prior if inner_product is None else inner_product
    objective = Objective(misfit, unravel, change, prior, metric, num_data)
    run = Run(
        objective,
        name,
        eps=float(jnp.finfo(flat.dtype).eps),
        max_steps=max_steps,
        rtol=rtol,
        beta=beta,
        target=target,
        callback=callback,
        progress=progress,
    )
    with run:
        x, converged, message = chosen(run, change.inverse(flat))
    result = FitResult(objective.model(x), converged, message, tuple(run.history), name)
    if throw and not converged:
        raise FitError(
            f"`fit(method={name!r})` did not converge: {message}.\n"
            f"Got chi2 = {result.chi2:.4g} after {result.steps} steps.\n"
            "The error's `.result` is how far it came; `throw=False` returns it.",
            result,
        )
    return result


def _method(method) -> Method:
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    if isinstance(method, GaussNewton | LBFGS | NewtonCG):
        return method
    raise ValueError(
        f"`fit(method=...)` must be one of {', '.join(map(repr, METHODS))}, or an "
        f"instance of their classes.\nGot {method!r}.\n"
        "Take 'gauss-newton' for residuals, 'lbfgs' for a scalar misfit."
    )


def _check_model(m0):
    leaves = jax.tree.leaves(m0)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        raise TypeError(
            "`fit` drives compiled steps from Python and cannot be traced.\n"
            "Got a traced `m0`.\nCall it outside jit, grad and vmap."
        )
    m0 = jax.tree.map(jnp.asarray, m0)
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(m0)}
    real = all(jnp.issubdtype(kind, jnp.floating) for kind in kinds)
    if not kinds or not real:
        raise TypeError(
            "`fit(m0=...)` must be made of real floating-point arrays.\n"
            f"Got {', '.join(sorted(kinds)) or 'no array'}.\n"
            "Convert integers with jnp.asarray(m0, float); partition a network into "
            "arrays and the rest (equinox.partition)."
        )
    for path, leaf in jax.tree.leaves_with_path(m0):
        bad = np.flatnonzero(~np.isfinite(np.asarray(leaf)))
        if bad.size:
            raise ValueError(
                "`fit(m0=...)` must be finite.\n"
                f"Got {np.asarray(leaf).ravel()[bad[0]]} as flat entry {bad[0]} of "
                f"m0{jax.tree_util.keystr(path)}.\nStart from a finite model."
            )
    return m0


def _check_numbers(name, num_data, target, beta, max_steps, rtol):
    if num_data is None and name == "gauss-newton":
        raise ValueError(
            "`fit(misfit, method='gauss-newton')` needs a vector of residuals.\n"
            "Got a scalar misfit.\n"
            "Return (prediction - data) / error, or take method='lbfgs'."
        )
    if num_data is None and target is not None:
        raise ValueError(
            "`fit(target=...)` needs a misfit that returns a vector of residuals.\n"
            "Got a scalar misfit, which has no chi2.\n"
            "Return (prediction - data) / error, or leave `target` out."
        )
    for what, number in (("target", target), ("beta", beta), ("rtol", rtol)):
        if number is not None and not 0 < number < np.inf:
            raise ValueError(
                f"`fit({what}=...)` must be a positive number.\nGot {number!r}.\n"
                "Leave it out to take the default."
            )
    if max_steps < 1:
        raise ValueError(
            f"`fit(max_steps=...)` must be at least 1.\nGot {max_steps!r}.\n"
            "To look at the start alone, evaluate the misfit."
        )


def _check_prior(what, given):
    needed = ("value", "gradient", "apply", "solve") if what == "prior" else ("solve",)
    missing = [n for n in needed if given is not None and not hasattr(given, n)]
    if missing:
        raise TypeError(
            f"`fit({what}=...)` must have the method(s) {', '.join(needed)}.\n"
            f"Got {type(given).__name__} without {', '.join(missing)}.\n"
            "Pass e.g. pi.inverse.H1Prior(V), or subclass pi.inverse.AbstractPrior."
        )
