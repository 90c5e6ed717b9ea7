"""Linear solves that know whether they succeeded, forwards and transposed.

A x = b is a `jax.lax.custom_linear_solve`: JAX differentiates the *product* A x, and asks
for one more solve for each tangent or one transposed solve for each cotangent. Each of
them is checked here by its residual, with the same consequence: an error, or NaN.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from ..engine.failure import fail_unless_zero


FAILED = (
    "a linear solve failed{what}: (a) the matrix (for a layer: the Jacobian at its "
    "solution) is singular or nearly so: the condition does not determine the answer; "
    "(b) the iterative solver did not reach its tolerance: raise its `max_steps` or "
    "`restart`, give it a preconditioner, or take a direct one, e.g. {remedy}; (c) the "
    "right-hand side, or a derivative of the function, holds NaN or infinity"
)


class LinearSolve(eqx.Module):
    """How a linear system is solved, and what is asked of the solution.

    `solver`: a lineax solver. `options`: its options. `accept`: the largest residual
    ‖A x - b‖/‖b‖ that is let through. `throw`: raise, or return NaN.
    """

    solver: lx.AbstractLinearSolver
    options: dict[str, Any]
    accept: Any
    throw: bool = eqx.field(static=True)
    message: str = eqx.field(static=True)


def accepted_residual(dtype) -> float:
    """ε^(1/3): above it, fewer than about five digits of x can be right (one and a half
    in single precision). Round-off alone leaves ε · cond(A)."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def checked_solve(
    matvec: Callable, operator: Callable, b, how: Callable[[Any], LinearSolve], valid=True
):
    """x with A x = b, `(n,)`, differentiable in `matvec` (what it closes over) and `b`.

    `matvec`: the product with A, `(n,)` to `(n,)`. `operator()`: A as a lineax operator,
    `how(A)`: a `LinearSolve`; both are called inside the solve, undifferentiated.
    `valid`: false where an answer would be meaningless (A belongs to a point that is no
    solution): x is NaN there, forwards and transposed.

    Where b is zero x is zero, valid or not: what a loss masks out does not poison it.
    """

    def solve(transpose: bool):
        def run(product, b):
            A = operator()
            plan = how(A)
            if _needs_definite(plan.solver):  # the user's claim; checked below
                A = lx.TaggedLinearOperator(A, lx.positive_semidefinite_tag)
            options = plan.options
            state = plan.solver.init(A, options)
            if transpose:
                state, options = plan.solver.transpose(state, options)
                options = {**options, **_guess(plan.options)}
            # Unit length: absolute tolerances mean something, tiny ones do not underflow.
            size = jnp.max(jnp.abs(b), initial=0.0)
            zero = size == 0
            size = jnp.where(zero, 1.0, size)
            unit = b / size
            options = {k: v / size if k == "y0" else v for k, v in options.items()}
            x, result, _ = plan.solver.compute(state, unit, options)
            error = jnp.linalg.norm(product(x) - unit) / jnp.linalg.norm(unit)
            ok = (result == lx.RESULTS.successful) & (error <= plan.accept)  # NaN: False
            if plan.throw:
                failed = ~(ok | zero) & valid
                x = fail_unless_zero(x, failed, ("", plan.message))
            x = jnp.where(ok & valid, x * size, jnp.nan)
            return jnp.where(zero, jnp.zeros_like(b), x)

        return run

    return jax.lax.custom_linear_solve(matvec, b, solve(False), solve(True))


def where_valid(x, valid):
    """`x`, or NaN where not `valid` (but zero stays zero), forwards and transposed."""
    guard = lambda _, b: jnp.where(valid | jnp.all(b == 0), b, jnp.nan)
    return jax.lax.custom_linear_solve(lambda x: x, x, guard, guard)


def _needs_definite(solver) -> bool:
    return isinstance(solver, lx.CG | lx.Cholesky)


def _guess(options):
    return {k: v for k, v in options.items() if k == "y0"}
