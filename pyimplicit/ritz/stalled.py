"""When a solve no longer moves, and why.

A step that is refused raises the damping, and damped steps go along -g, g the gradient on
the nodes of the step. On the nodes that judge it, where the gradient is c, the energy then
falls if g·c > 0. If g and c oppose no damping helps: the network has more freedom than the
nodes see, and only more nodes, or fewer parameters, end that.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .functional import Discrete


# From any damping that `LevenbergMarquardt` has, so many failures lead to its largest one.
PATIENCE = 12
DENSE = 2000  # parameters, up to which the metric is looked at as a matrix
FALL = 1e6  # by how much an energy may fall before its lower bound is doubted


def refused(lengths, before: int) -> int:
    """How many steps up to the last of `lengths` `(n,)` were not taken; `before`: how many
    just before them."""
    moved = np.flatnonzero(np.asarray(lengths))
    return len(lengths) - 1 - int(moved[-1]) if moved.size else before + len(lengths)


def why(problem: Discrete, judge: Discrete, theta: jax.Array, count: int) -> str:
    """What to say of `count` refused steps from `theta`, and what to do. `judge`: the
    same problem on the other nodes."""
    agreement, size = map(float, _gradients(problem, judge, theta))
    said = f"stalled: the last {count} steps were refused, the gradient is {size:.2g}. "
    inside, around = (len(nodes.x) for nodes in problem.rule)
    if agreement <= 1e-3:
        return (
            f"{said}The energy on the {inside} + {around} nodes of a step and on those "
            f"that judge it fall in opposite directions (g·c/g·g = {agreement:.2g}): a "
            f"model of {theta.size} parameters can only change between them. Take more "
            "nodes, a smaller model, or some thousand steps of ritz.Adam first."
        )
    least = _least_curvature(problem, theta) if theta.size <= DENSE else 0.0
    if least < -1e-6:
        return (
            f"{said}The second variation is negative along some change of the model (by "
            f"{-least:.2g} of its largest eigenvalue): there is no minimum near. Look for "
            "a wrong sign in the energy or a weight of Nitsche's that is too small; near a "
            "saddle start elsewhere, or with some thousand steps of ritz.Adam."
        )
    return (
        f"{said}No step that was tried lowers the energy. If the gradient is not zero but "
        "for rounding, start with more damping or with some thousand steps of ritz.Adam."
    )


def fell(message: str, history) -> str:
    """The message, and what is to be said of an energy that may have no lower bound."""
    first, last = history[0].energy, history[-1].energy
    if not last < -FALL * abs(first) or first == 0:
        return message
    return (
        f"{message.rstrip('.')}. The energy fell from {first:.2g} to {last:.2g}: if it has "
        "no lower bound, look for a wrong sign, boundary values that nothing holds, a "
        "weight of Nitsche's that is too small, or too few nodes."
    )


@eqx.filter_jit
def _gradients(problem: Discrete, judge: Discrete, theta):
    """g·c/g·g and |g|."""
    g, c = jax.grad(problem.value)(theta), jax.grad(judge.value)(theta)
    square = g @ g
    return jnp.where(square > 0, g @ c / square, jnp.inf), jnp.sqrt(square)


@eqx.filter_jit
def _curvatures(problem: Discrete, theta):
    return jnp.linalg.eigvalsh(problem.gram(theta))


def _least_curvature(problem: Discrete, theta) -> float:
    """The least eigenvalue of the metric, as a part of the largest in size."""
    values = _curvatures(problem, theta)
    return float(values[0] / jnp.maximum(jnp.abs(values).max(), 1e-300))
