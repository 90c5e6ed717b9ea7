"""A layer inside a layer: minima whose objective holds a minimum, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


def test_the_upper_level_sees_the_lower_one():
    """y(x) minimises y⁴/4 + y²/2 - 2xy, so y³ + y = 2x and y' = 2/(3y² + 1). The upper
    level, x²/2 - b y(x), has its minimum where x = b y': at x = y = 1 for b = 2."""

    def lower(x):
        value = lambda y, x: y**4 / 4 + y**2 / 2 - 2 * x * y
        return pi.minimize(value, jnp.array(0.5), x, solver=pi.Newton()).value

    def best(b):
        value = lambda x, b: x**2 / 2 - b * lower(x)
        return pi.minimize(value, jnp.array(0.7), b, solver=pi.Newton()).value

    found, slope = jax.jit(jax.value_and_grad(best))(2.0)
    # x = b y'(x) for all b: ẋ = ḃ y' + b y'' ẋ with y' = 1/2, y'' = -6 y y'²/(3y² + 1).
    np.testing.assert_allclose([found, slope], [1.0, 0.5 / (1 + 2 * 3 / 8)], rtol=1e-8)


def test_a_leader_and_a_follower():
    """Stackelberg's duopoly: price a - q₁ - q₂, cost c for each piece. The follower takes
    q₂ = (a - c - q₁)/2, so the leader q₁ = (a - c)/2, and q₂ = (a - c)/4."""

    def follower(q1, market):
        a, c = market
        loss = lambda q2, p: -(p[1] - q2 - p[0]) * q2
        p = q1, a - c
        return pi.minimize(loss, jnp.array(0.1), p, solver=pi.Newton()).value

    def leader(market):
        def loss(q1, market):
            a, c = market
            return -(a - c - q1 - follower(q1, market)) * q1

        q1 = pi.minimize(loss, jnp.array(0.1), market, solver=pi.Newton()).value
        return jnp.stack([q1, follower(q1, market)])

    market = jnp.array(10.0), jnp.array(2.0)
    found, slopes = jax.jit(lambda m: (leader(m), jax.jacrev(leader)(m)))(market)
    np.testing.assert_allclose(found, [4.0, 2.0], rtol=1e-9)
    np.testing.assert_allclose(slopes, [[0.5, 0.25], [-0.5, -0.25]], rtol=1e-8)
