"""Steady states: where a vector field is zero."""

from typing import Any

import jax
import jax.numpy as jnp

from .._status import Solution
from .._tree import arrays, stop_gradient
from ..root import root
from .solve import Field, odeint


def steady_state(
    vector_field: Field,
    y0: Any,
    params: Any = None,
    *,
    march: Any = None,
    t: Any = 0.0,
    **options: Any,
) -> Solution:
    r"""Finds y with f(t, y, θ) = 0.

    **Arguments:**

    - `vector_field`: `vector_field(t, y, params)`, as for `odeint`.
    - `y0`: first guess, a pytree.
    - `march`: if given, the ODE is integrated from y0 for so long before [time], so that
      the state found is the one that y0 runs into: Newton alone may end in an unstable one.
    - `t`: the time at which the field is frozen.
    - `options`: of `pi.root`: `solver`, `adjoint`, `rtol`, …

    **Returns:** a `Solution`, as of `pi.root`.

    **Derivative:** ẏ = -(∂f/∂y)⁻¹ ∂f/∂θ θ̇; it does not depend on y0 or `march`.

    **Errors:** as `pi.root`; those of `odeint` on the way.
    """
    frozen = lambda y, params: vector_field(t, y, params)
    if march is not None:
        still = stop_gradient((arrays(y0), arrays(params)))
        times = jnp.stack([jnp.asarray(t, float), jnp.asarray(t + march, float)])
        path = odeint(lambda _, y, p: frozen(y, p), still[0], times, still[1])
        y0 = jax.tree.map(lambda a: a[-1], path.value)
    return root(frozen, y0, params, **options)
