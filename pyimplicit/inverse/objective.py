"""A fit as functions of one flat, free vector x."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .bounds import Transform


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """misfit(m) + beta prior(m) with m = T(x). `num_data`: length of the residual, or
    None for a scalar misfit. `metric`: whose `solve` is the Riesz map, or None."""

    misfit: Callable
    unravel: Callable
    transform: Transform
    prior: Any
    metric: Any
    num_data: int | None

    def model(self, x):
        """The model, a pytree."""
        return self.unravel(self.transform.forward(x))

    def residual(self, x):
        """The weighted residual, flat, in the precision of x."""
        return ravel_pytree(self.misfit(self.model(x)))[0].astype(x.dtype)

    def parts(self, x):
        """The misfit and the prior (without beta), two scalars."""
        r = self.residual(x)
        misfit = r[0] if self.num_data is None else 0.5 * jnp.vdot(r, r)
        if self.prior is None:
            return misfit, jnp.zeros_like(misfit)
        return misfit, jnp.asarray(self.prior.value(self.model(x)), x.dtype)

    def total(self, x, beta):
        """What is minimised, a scalar."""
        misfit, prior = self.parts(x)
        return misfit + beta * prior

    def prior_gradient(self, x):
        """In x, by the chain rule."""
        if self.prior is None:
            return jnp.zeros_like(x)
        gradient = ravel_pytree(self.prior.gradient(self.model(x)))[0]
        return self.transform.slope(x) * gradient.astype(x.dtype)

    def precision(self, x, v):
        """D R D v with D = dm/dx: the prior's Gauss-Newton term."""
        if self.prior is None:
            return jnp.zeros_like(v)
        D = self.transform.slope(x)
        Rv = ravel_pytree(near(self.prior, self.model(x)).apply(self.unravel(D * v)))[0]
        return D * Rv.astype(v.dtype)

    def covariance(self, x, v):
        """The inverse of `precision`."""
        return self._solve(self.prior, x, v)

    def riesz(self, x, v):
        """M⁻¹ v, the gradient of a derivative v in the inner product M of the fit."""
        return self._solve(self.metric, x, v)

    def _solve(self, metric, x, v):
        if metric is None:
            return v
        D = jnp.maximum(self.transform.slope(x), 1e-6)
        solved = ravel_pytree(near(metric, self.model(x)).solve(self.unravel(v / D)))[0]
        return solved.astype(v.dtype) / D

    def chi2(self, misfit: float) -> float:
        """|r|²/len(r) of a misfit; NaN if the misfit is a scalar function."""
        return 2 * misfit / self.num_data if self.num_data else math.nan


def near(prior, m):
    """The quadratic prior that stands for `prior` at the model m; see `AbstractPrior`."""
    return prior.at(m) if hasattr(prior, "at") else prior


class Evaluator:
    """Calls the compiled objective, counts the calls, and turns a trial whose solve
    fails (a JAX run-time error) into infinity, so that a line search can retreat."""

    def __init__(self, objective: Objective):
        self.count = 0
        self.failure = ""  # why the last trial failed
        self._parts = jax.jit(objective.parts)

    def __call__(self, x, *, trial: bool = True) -> tuple[float, float]:
        """Misfit and prior at x; (inf, inf) where they are not finite, if a trial."""
        return self.run(lambda: self._parts(x), (math.inf, math.inf), trial)

    def run(self, compiled: Callable, failed: Any, trial: bool = True) -> Any:
        """The result of `compiled()`, whose first two members become floats."""
        self.count += 1
        try:
            first, second, *rest = compiled()
            first, second = float(first), float(second)
        except (jax.errors.JaxRuntimeError, ValueError) as err:  # XLA raises both
            if not trial:
                raise
            self.failure = str(err).strip().split("\n")[0]
            return failed
        if trial and not (math.isfinite(first) and math.isfinite(second)):
            self.failure = "it is not finite"
            return failed
        self.failure = ""
        return (first, second, *rest)


def check_misfit(misfit: Callable, m0) -> int | None:
    """The length of the residual that `misfit(m0)` returns, None for a scalar."""
    out = jax.eval_shape(misfit, m0)
    leaves = jax.tree.leaves(out)
    if not leaves or not all(jnp.issubdtype(a.dtype, jnp.floating) for a in leaves):
        raise ValueError(
            "`fit(misfit)` must return a real scalar or a vector of weighted residuals.\n"
            f"Got {jax.tree.map(lambda a: (a.shape, str(a.dtype)), out)}.\n"
            "Return (prediction - data) / error; for complex data stack the parts."
        )
    sizes = [functools.reduce(int.__mul__, a.shape, 1) for a in leaves]
    return None if len(leaves) == 1 and leaves[0].shape == () else sum(sizes)
