"""Corners: the functions that a solution is like there, and how they open."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np


class Corner(eqx.Module):
    r"""A corner in the plane: z -> z^(π/ω) opens its angle ω to a half-plane.

    `tip`: `(2,)`. `opening`: ω, 2π for a slit. `start`: the direction of the first edge
    [radian]; the domain lies left of it, at angles from `start` to `start + opening`.

    Called at x, `(2,)`, it gives r^α (cos αθ, sin αθ), α = π/ω, `(2,)`. The second is
    harmonic and zero on both edges: the leading term of solutions with u = 0 there; the
    first is that for ∂u/∂n = 0. On the two faces of a slit the first has two values: the
    sign of zero, or of a small number, tells them apart.

    Source: Grisvard, *Elliptic problems in nonsmooth domains* (1985), Section 4.4.
    """

    tip: tuple[float, float] = eqx.field(static=True)
    opening: float = eqx.field(static=True)
    start: float = eqx.field(static=True, default=0.0)

    @property
    def power(self) -> float:
        """α = π/ω."""
        return np.pi / self.opening

    def polar(self, x):
        """r and θ, from 0 on the first edge to ω on the second; r = 0 at the tip."""
        y, middle = x[:2] - jnp.asarray(self.tip, x.dtype), self.start + self.opening / 2
        c, s = np.cos(middle), np.sin(middle)
        if self.opening == 2 * np.pi and self.start == 0:
            c, s = -1.0, 0.0  # so that points near the slit keep their side
        square = y @ y
        away = square > 0
        y = jnp.where(away, y, jnp.array([c, s], x.dtype))
        r = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1.0)), 0.0)
        angle = jnp.arctan2(c * y[1] - s * y[0], c * y[0] + s * y[1])
        return r, angle + self.opening / 2

    def __call__(self, x):
        r, theta = self.polar(x)
        a = self.power
        size = jnp.where(r > 0, jnp.where(r > 0, r, 1.0) ** a, 0.0)
        return size * jnp.stack([jnp.cos(a * theta), jnp.sin(a * theta)])
