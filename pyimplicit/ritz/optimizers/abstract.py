"""What an optimiser is."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from ..functional import Discrete


class Info(NamedTuple):
    """Of one step. `energy`: on its nodes, before it. `gradient`: its Euclidean norm.
    `decrement`: ½ gᵀG⁻¹g, what a full Newton step promises to gain (NaN: not known);
    near the minimum an estimate of the distance to it, in energy. `length`: of the step."""

    energy: jax.Array
    gradient: jax.Array
    decrement: jax.Array
    length: jax.Array


class AbstractOptimizer(eqx.Module):
    """`init(theta)`, then `step(problem, theta, state)` as often as wanted. Traced once,
    in a scan."""

    def init(self, theta: jax.Array) -> Any:
        """The state at the start."""
        del theta
        return ()

    @abc.abstractmethod
    def step(self, problem: Discrete, theta, state) -> tuple[jax.Array, Any, Info]:
        """θ, state and information after one step on the nodes of `problem`."""


def info(energy, g, decrement: Any = jnp.nan, length: Any = 1.0) -> Info:
    """`Info` in one precision."""
    number = lambda a: jnp.asarray(a, energy.dtype)
    return Info(energy, jnp.linalg.norm(g), number(decrement), number(length))
