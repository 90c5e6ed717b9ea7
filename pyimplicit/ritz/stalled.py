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
    return (
        f"{said}No step that was tried lowers the energy. If the gradient is not zero but "
        "for rounding, start with more damping or with some thousand steps of ritz.Adam."
    )


@eqx.filter_jit
def _gradients(problem: Discrete, judge: Discrete, theta):
    """g·c/g·g and |g|."""
    g, c = jax.grad(problem.value)(theta), jax.grad(judge.value)(theta)
    square = g @ g
    return jnp.where(square > 0, g @ c / square, jnp.inf), jnp.sqrt(square)
