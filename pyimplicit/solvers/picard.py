"""Fixed-point iteration."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .._tree import flatten, ravel
from .options import check_damping
from .tolerance import scaled_size


class PicardState(eqx.Module):
    size: jax.Array


class Picard(optx.AbstractFixedPointSolver):
    """z ← (1 - β) z + β f(z): an optimistix fixed-point solver.

    `damping`: β in (0, 1]. `rtol`, `atol`: the iteration ends when f(z) - z is within
    tolerance. Converges where the damped map contracts, and reports failure elsewhere.

    Source: Picard 1890; damping: Krasnosel'skii 1955, Mann 1953
    (doi:10.1090/S0002-9939-1953-0054846-3).
    """

    rtol: Any = None
    atol: Any = None
    damping: Any = 1.0
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_damping(self)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        return PicardState(jnp.asarray(jnp.inf, ravel(y).dtype))

    def step(self, fn, y, args, options, state, tags):
        f, aux = fn(y, args)
        v, unflatten = flatten(y)
        g = ravel(f).astype(v.dtype) - v
        state = PicardState(scaled_size(self, g, v))
        return unflatten(v + self.damping * g), state, aux

    def terminate(self, fn, y, args, options, state, tags):
        return state.size <= 1, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}
