"""Projections onto a box cut by a hyperplane."""

import jax
import jax.numpy as jnp

from ...engine.failure import fail_unless_zero
from ..vectors import check_positive, floats, vector


MAX_STEPS = 200
INFEASIBLE = (
    "pyimplicit.projection_box_section: no p with alpha ≤ p ≤ beta has ⟨w, p⟩ = c: "
    "(a) ⟨w, alpha⟩ exceeds c; (b) ⟨w, beta⟩ falls short of c; (c) a w is not positive"
)


def projection_box_section(x, hyperparams, check_feasible=False):
    """argmin_p ‖p - x‖ with α ≤ p ≤ β, ⟨w, p⟩ = c.

    **Arguments:**

    - `x`: `(n,)`.
    - `hyperparams`: `(alpha, beta, w, c)`: bounds (numbers or `(n,)`, may be infinite),
      positive weights (a number or `(n,)`), a number. All differentiated.
    - `check_feasible`: raise if there is no such p (also under jit). False: NaN.

    **Derivative:** p = clip(x + w τ, α, β). Which entries are clipped is found without
    derivatives; the others share τ = (c - Σ_clipped w p - Σ_free w x)/Σ_free w². At a
    kink, one of the one-sided ones; where every entry is clipped, p stands still.

    **Cost:** some ten passes over x (Newton's method for τ, safeguarded by bisection).

    ??? cite "Reference"
        Pardalos, Kovoor, *An algorithm for a singly constrained class of quadratic programs
        subject to upper and lower bounds* (1990). doi:10.1007/BF01585748
    """
    x = vector("projection_box_section", x)
    alpha, beta, w, c = floats(hyperparams)
    for name, a in (("alpha", alpha), ("beta", beta), ("w", w), ("c", c)):
        allowed = ((),) if name == "c" else ((), x.shape)
        if a.shape not in allowed:
            raise ValueError(
                f"`projection_box_section`: the shape of {name} must be one of {allowed}.\n"
                f"Got {a.shape} for an x of shape {x.shape}.\nFor a batch use jax.vmap."
            )
    alpha, beta, w = (
        jnp.broadcast_to(a, x.shape).astype(x.dtype) for a in (alpha, beta, w)
    )
    p, bad = _project(x, alpha, beta, w, c.astype(x.dtype))
    if check_feasible:
        p = fail_unless_zero(p, bad, ("", INFEASIBLE))
    return p


@jax.jit
def _project(x, alpha, beta, w, c):
    low, high = _clipped(*jax.lax.stop_gradient((x, alpha, beta, w, c)))
    free = ~(low | high)
    square = jnp.sum(jnp.where(free, w**2, 0))
    fixed = jnp.where(low, alpha, jnp.where(high, beta, x))
    tau = (c - jnp.sum(w * fixed)) / jnp.where(square > 0, square, 1)
    p = jnp.where(free, x + w * tau, fixed)
    # Free entries lie between their bounds; this only takes back what round-off added.
    p = p + jax.lax.stop_gradient(jnp.clip(p, alpha, beta) - p)
    size = jnp.abs(c) + jnp.sum(jnp.abs(w * p))
    off = jnp.abs(jnp.sum(w * p) - c) > 1e3 * jnp.finfo(x.dtype).eps * size
    bad = off | jnp.any(alpha > beta) | jnp.any(~(w > 0))
    return jnp.where(bad, jnp.nan, p), bad


def _clipped(x, alpha, beta, w, c):
    """Which entries lie on their lower and their upper bound.

    ⟨w, p(τ)⟩ rises with τ, linearly between kinks. Newton's method is exact in the right
    piece; it is kept in a bracket, which is halved every third step.
    """
    to_low, to_high = (alpha - x) / w, (beta - x) / w
    finite = lambda t, other: jnp.where(jnp.isfinite(t), t, other)
    least = jnp.min(jnp.minimum(finite(to_low, jnp.inf), finite(to_high, jnp.inf)))
    most = jnp.max(jnp.maximum(finite(to_low, -jnp.inf), finite(to_high, -jnp.inf)))

    def step(carry):
        tau, low, high, _, steps = carry
        p = jnp.clip(x + w * tau, alpha, beta)
        lack = c - jnp.sum(w * p)
        done = jnp.abs(lack) <= 4 * jnp.finfo(x.dtype).eps * (
            jnp.sum(w * jnp.abs(p)) + jnp.abs(c)
        )
        slope = jnp.sum(jnp.where((to_low < tau) & (tau < to_high), w**2, 0))
        low, high = jnp.where(lack > 0, tau, low), jnp.where(lack < 0, tau, high)
        newton = tau + lack / slope  # infinite or NaN where nothing moves
        ends = (
            jnp.maximum(low, jnp.minimum(least, high)),
            jnp.minimum(high, jnp.maximum(most, low)),
        )
        middle = (ends[0] + ends[1]) / 2
        halve = ~((low < newton) & (newton < high))
        halve |= (steps % 3 == 2) & jnp.isfinite(low) & jnp.isfinite(high)
        return (
            jnp.where(done, tau, jnp.where(halve, middle, newton)),
            low,
            high,
            done,
            steps + 1,
        )

    inf = jnp.array(jnp.inf, x.dtype)
    start = jnp.zeros((), x.dtype), -inf, inf, jnp.array(False), jnp.array(0)
    tau, *_ = jax.lax.while_loop(lambda s: ~s[3] & (s[4] < MAX_STEPS), step, start)
    high = to_high <= tau
    return (to_low >= tau) & ~high, high


def projection_capped_simplex(x, value=1.0, cap=1.0):
    """argmin_p ‖p - x‖ with 0 ≤ p ≤ cap, Σ p = value: a soft choice of value/cap out of n.

    `x`: `(n,)`. `cap`: a number or `(n,)`. NaN if value > n · cap. See
    `projection_box_section`.

    Source: Wang, Lu 2015, arXiv:1503.01002.
    """
    x = vector("projection_capped_simplex", x)
    check_positive("projection_capped_simplex", "value", value)
    check_positive("projection_capped_simplex", "cap", cap)
    return projection_box_section(x, (0.0, cap, 1.0, value))
