"""What a transport problem is given, checked: costs and marginals of one mass."""

import jax
import jax.numpy as jnp

from ...engine.failure import fail_unless_zero
from ..vectors import floats, matrix


def problem(name: str, cost, a, b, argument: str = "cost"):
    """`(cost, a, b)` as floating arrays; uniform marginals for None.

    b is brought to the mass of a, b Σa/Σb: no change of value, but every tangent of the
    marginals then leads to a problem that has a solution.
    """
    C = matrix(name, argument, cost)
    n, m = C.shape
    a = jnp.full(n, 1 / n) if a is None else floats(jnp.asarray(a))
    b = jnp.full(m, 1 / m) if b is None else floats(jnp.asarray(b))
    if a.shape != (n,) or b.shape != (m,):
        raise ValueError(
            f"`{name}`: the marginals must be ({n},) and ({m},), as {argument} is "
            f"({n}, {m}).\nGot {a.shape} and {b.shape}.\nFor a batch use jax.vmap."
        )
    a, b = a.astype(C.dtype), b.astype(C.dtype)
    mass_a, mass_b = jnp.sum(a), jnp.sum(b)
    tolerance = 100 * jnp.finfo(C.dtype).eps ** 0.75
    apart = ~(jnp.abs(mass_a - mass_b) <= tolerance * mass_a)
    negative = jnp.any(~(a >= 0)) | jnp.any(~(b >= 0))
    bad = jnp.any(jnp.isnan(C) | (C == -jnp.inf))
    code = jnp.where(bad, 3, jnp.where(negative, 2, jnp.where(apart, 1, 0)))
    messages = (
        "",
        f"pyimplicit: `{name}` needs marginals of one mass: Σa and Σb differ, or are 0. "
        "Divide each by its sum",
        f"pyimplicit: `{name}` needs marginals that are not negative; one is, or is NaN",
        f"pyimplicit: `{name}`: {argument} holds NaN (or -infinity)",
    )
    a = fail_unless_zero(a, jax.lax.stop_gradient(code), messages)
    return C, a, b * (mass_a / mass_b)
