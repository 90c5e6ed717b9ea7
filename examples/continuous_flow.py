"""A continuous normalising flow: a density carried along an ODE.

x' = f(x, t) takes samples of a normal distribution to those of the model, and log p
changes by d log p/dt = -∂f/∂x (Chen et al. 2018, arXiv:1806.07366, Eq. (8)). In one
dimension, fitted to a mixture of two normals by maximum likelihood. The density of such a
flow integrates to one whatever its weights are, which is checked.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pyimplicit as pi


BACK = jnp.array([1.0, 0.0])  # from data to noise


def log_density(net, x):
    """log p(x), a scalar, by going back to the normal distribution."""

    def field(t, state, net):
        f = lambda x: net(jnp.stack([x, t]))
        slope, divergence = jax.value_and_grad(f)(state[0])
        return jnp.stack([slope, divergence])  # of x, and of the lost log-density

    start = jnp.stack([x, jnp.zeros_like(x)])
    how: dict[str, Any] = dict(rtol=1e-5, atol=1e-5, adjoint=pi.Unroll(checkpoints=8))
    z, gained = pi.ode.odeint(field, start, BACK, net, **how).value[-1]
    return -0.5 * z * z - 0.5 * jnp.log(2 * jnp.pi) + gained


def samples(n: int, key):
    """Of ½ N(-2, 0.5²) + ½ N(2, 0.5²)."""
    side = jnp.where(jnp.arange(n) % 2 == 0, -2.0, 2.0)
    return side + 0.5 * jax.random.normal(key, (n,))


def main(steps: int = 200, batch: int = 64) -> dict:
    """Returns the losses, the fitted density on a grid, and its integral."""
    net = eqx.nn.MLP(2, "scalar", 16, 2, activation=jnp.tanh, key=jax.random.key(0))
    dynamic, static = eqx.partition(net, eqx.is_inexact_array)
    optimiser = optax.adam(2e-2)

    def loss(dynamic, x):
        density = lambda x: log_density(eqx.combine(dynamic, static), x)
        return -jnp.mean(jax.vmap(density)(x))

    def body(carry, key):
        dynamic, state = carry
        value, grads = jax.value_and_grad(loss)(dynamic, samples(batch, key))
        updates, state = optimiser.update(grads, state)
        return (optax.apply_updates(dynamic, updates), state), value

    start = dynamic, optimiser.init(dynamic)
    keys = jax.random.split(jax.random.key(1), steps)
    (dynamic, _), losses = jax.jit(lambda s, k: jax.lax.scan(body, s, k))(start, keys)
    grid = jnp.linspace(-8.0, 8.0, 161)
    density = jax.jit(jax.vmap(lambda x: log_density(eqx.combine(dynamic, static), x)))
    p = jnp.exp(density(grid))
    return {
        "losses": losses,
        "grid": grid,
        "density": p,
        "integral": jnp.trapezoid(p, grid),
        "entropy": 0.5 * jnp.log(2 * jnp.pi * jnp.e * 0.25) + jnp.log(2.0),
    }


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    print(f"negative log-likelihood {found['losses'][-20:].mean():.3f}", end=" ")
    print(f"(entropy of the truth: about {found['entropy']:.3f})")
    print(f"the density integrates to {found['integral']:.6f}")


if __name__ == "__main__":
    run([])
