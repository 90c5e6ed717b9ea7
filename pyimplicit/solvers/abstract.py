"""Minimisers whose solutions are fixed points of a map other than a gradient step."""

import abc
from collections.abc import Callable
from typing import Any

import optimistix as optx


class AbstractMapMinimiser(optx.AbstractMinimiser):
    """A minimiser with constraints or non-smooth terms.

    Its solutions are the fixed points of `map`, and the derivative of the layer comes
    from z - map(z, θ) = 0 (Blondel et al. 2022, arXiv:2105.15183, Table 1).
    """

    @abc.abstractmethod
    def map(self, fn: Callable[[Any, Any], Any], z: Any, params: Any) -> Any:
        """One step of unit length from `z` for the objective `fn(z, params)`, like `z`;
        differentiable in `z`, `params` and in all that `fn` and the solver close over."""
