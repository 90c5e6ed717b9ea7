"""Projections onto sets given by linear equations and inequalities."""

import jax
import jax.numpy as jnp
import lineax as lx

from ..._tree import arrays
from ...engine.failure import fail_unless_zero
from ..vectors import check_like, dot, floats, vector


def projection_hyperplane(x, hyperparams):
    """argmin_p ‖p - x‖ with ⟨a, p⟩ = b: x - a (⟨a, x⟩ - b)/⟨a, a⟩.

    **Arguments:** `x`: a pytree. `hyperparams`: `(a, b)`: a like x, b a number.

    **Derivative:** of the formula, in x, a and b. a = 0 gives NaN.
    """
    x, a, b = floats(x), *floats(hyperparams)
    check_like("projection_hyperplane", "a", a, x)
    return _moved(x, a, dot(a, x) - b)


def projection_halfspace(x, hyperparams):
    """argmin_p ‖p - x‖ with ⟨a, p⟩ ≤ b.

    See `projection_hyperplane`; inside and on the boundary p = x, and so is the
    derivative.
    """
    x, a, b = floats(x), *floats(hyperparams)
    check_like("projection_halfspace", "a", a, x)
    excess = dot(a, x) - b
    return _moved(x, a, jnp.where(excess > 0, excess, 0))


def _moved(x, a, excess):
    """x - a excess/⟨a, a⟩."""
    t = excess / dot(a, a)
    return jax.tree.map(lambda x, a: (x - t * a).astype(x.dtype), x, a)


def projection_affine_set(x, hyperparams):
    """argmin_p ‖p - x‖ with A p = b: x - A⁺ (A x - b).

    **Arguments:**

    - `x`: `(n,)`.
    - `hyperparams`: `(A, b)`, `(m, n)` and `(m,)`. Redundant rows are allowed.

    **Derivative:** of the formula; in x it is I - A⁺A. Where rows are redundant, in A and
    b it holds for changes that keep them so.

    **Errors:** at run time, if no p has A p = b.
    """
    x = vector("projection_affine_set", x)
    A, b = _system("projection_affine_set", "A", "b", hyperparams, x)
    return _affine(x, A, b)


@jax.jit
def _affine(x, A, b):
    p = x - _least_norm(A, A @ x - b)
    size = jnp.sum(jnp.abs(A)) * jnp.max(jnp.abs(p)) + jnp.sum(jnp.abs(b))
    off = ~(jnp.sum(jnp.abs(A @ p - b)) <= 1e4 * jnp.finfo(x.dtype).eps * size)
    message = (
        "pyimplicit.projection_affine_set: no p has A p = b: (a) two rows of A contradict "
        "each other; (b) A, b or x holds NaN or infinity"
    )
    return fail_unless_zero(p, jax.lax.stop_gradient(off), ("", message))


def _least_norm(A, r):
    """A⁺ r."""
    return lx.linear_solve(lx.MatrixLinearOperator(A), r, lx.SVD(), throw=False).value


def _system(name: str, matrix: str, rhs: str, pair, x):
    A, b = floats(arrays(pair))
    if A.ndim != 2 or A.shape[1:] != x.shape or b.shape != A.shape[:1]:
        raise ValueError(
            f"`{name}`: {matrix} must be (m, {x.size}) and {rhs} (m,).\n"
            f"Got {A.shape} and {b.shape}.\nOne row for each equation or inequality."
        )
    return A.astype(x.dtype), b.astype(x.dtype)
