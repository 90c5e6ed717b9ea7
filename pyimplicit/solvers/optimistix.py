"""Optimistix's solvers, which we take (but for one mend) as they are, with tolerances by
precision.

Each returns the optimistix object. Where `rtol` or `atol` is None, pyimplicit's entry
points fill it in (ε^0.6); in optimistix's own they must be given.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import optimistix as optx


def LBFGS(rtol: Any = None, atol: Any = None, memory: int = 10, **options) -> optx.LBFGS:
    """Limited-memory BFGS with `memory` pairs: the first choice for smooth functions.

    Source: Liu, Nocedal 1989, doi:10.1007/BF01589116.
    """
    return optx.LBFGS(rtol, atol, history_length=memory, **options)


def BFGS(rtol: Any = None, atol: Any = None, **options) -> optx.BFGS:
    """BFGS with a dense inverse Hessian: up to some hundred unknowns."""
    return optx.BFGS(rtol, atol, **options)


def DFP(rtol: Any = None, atol: Any = None, **options) -> optx.DFP:
    """Davidon, Fletcher and Powell's update; usually behind BFGS."""
    return optx.DFP(rtol, atol, **options)


def NonlinearCG(rtol: Any = None, atol: Any = None, **options) -> optx.NonlinearCG:
    """Nonlinear conjugate gradients (`method=optimistix.polak_ribiere`): least memory."""
    return optx.NonlinearCG(rtol, atol, **options)


def NelderMead(rtol: Any = None, atol: Any = None, **options) -> optx.NelderMead:
    """The simplex search of Nelder and Mead, doi:10.1093/comjnl/7.4.308: no derivatives, a
    few unknowns."""
    return optx.NelderMead(rtol, atol, **options)


def GoldenSearch(rtol: Any = None, atol: Any = None) -> optx.GoldenSearch:
    """Golden-section search for one unknown, between `options={"lower": …, "upper": …}`.

    Source: Kiefer 1953, doi:10.1090/S0002-9939-1953-0055639-3.
    """
    return _GoldenSearch(rtol, atol)


class _GoldenSearch(optx.GoldenSearch):
    """Optimistix's (0.1.0) takes the length from `lower` to the first inner point for the
    point itself, which is so for `lower` = 0 alone; otherwise it searches elsewhere."""

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        state = super().init(fn, y, args, options, f_struct, aux_struct, tags)
        inner = state.lower + (state.upper - state.lower) * (3 - math.sqrt(5)) / 2
        f_inner, _ = fn(inner, args)
        where = lambda state: (state.middle, state.f_middle)
        return eqx.tree_at(where, state, (inner, jnp.asarray(f_inner)))


def Optax(optimiser: Any, rtol: Any = None, atol: Any = None) -> optx.OptaxMinimiser:
    """An optax optimiser, for example `optax.adam(1e-2)`, as a minimiser."""
    return optx.OptaxMinimiser(optimiser, rtol=rtol, atol=atol)


def Dogleg(rtol: Any = None, atol: Any = None, **options) -> optx.Dogleg:
    """Powell's dogleg trust region, for equations and least squares."""
    return optx.Dogleg(rtol, atol, **options)


def Bisection(rtol: Any = None, atol: Any = None, **options) -> optx.Bisection:
    """Bisection for one equation in one unknown, within
    `options={"lower": …, "upper": …}` of the entry point; `expand_if_necessary=True`
    widens them."""
    return optx.Bisection(rtol, atol, **options)
