"""Chapter 3 of the implicit-layers tutorial: from residual networks to ODEs.

A residual network of depth 3 with layers [1, 20, 1], and an ODE whose field is a network
[2, 20, 1] of (y, t), both fitted to y = x³ + 0.1 x at ten points in [-2, 2] by gradient
descent with step 0.01, 1,000 iterations, as in the tutorial (Duvenaud 2020,
http://implicit-layers-tutorial.org). A path of an ODE cannot cross another one, so its
answer is monotone in x; that of the residual network need not be.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp

import pyimplicit as pi


X = jnp.linspace(-2.0, 2.0, 10)
Y = X**3 + 0.1 * X
TIMES = jnp.array([0.0, 1.0])


def network(sizes: list[int], key, scale: float):
    """Weights and biases of a tanh network."""
    keys = jax.random.split(key, 2 * len(sizes))
    return [
        (
            scale * jax.random.normal(keys[2 * i], (m, n)),
            scale * jax.random.normal(keys[2 * i + 1], (n,)),
        )
        for i, (m, n) in enumerate(itertools.pairwise(sizes))
    ]


def mlp(params, x):
    """`(m,)` to `(n,)`."""
    *hidden, (W, b) = params
    for V, c in hidden:
        x = jnp.tanh(x @ V + c)
    return x @ W + b


def resnet(params, x, depth: int = 3):
    y = x[None]
    for _ in range(depth):
        y = y + mlp(params, y)
    return y[0]


def ode_net(params, x, adjoint=None):
    field = lambda t, y, p: mlp(p, jnp.stack([y, t]))[0]
    how: dict[str, Any] = {} if adjoint is None else {"adjoint": adjoint}
    return pi.ode.odeint(field, x, TIMES, params, rtol=1e-5, atol=1e-5, **how).value[-1]


def fit(model, params, steps: int, rate: float = 0.01):
    """Gradient descent; the weights and the losses."""
    loss = lambda p: jnp.mean((jax.vmap(model, (None, 0))(p, X) - Y) ** 2)

    def body(params, _):
        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), value

    return jax.jit(lambda p: jax.lax.scan(body, p, length=steps))(params)


def main(steps: int = 1000) -> dict:
    """Returns losses, predictions on a fine grid, and gradients by two adjoints."""
    grid = jnp.linspace(-2.0, 2.0, 41)
    found = {}
    for name, model, sizes in (
        ("resnet", resnet, [1, 20, 1]),
        ("ode", ode_net, [2, 20, 1]),
    ):
        params, losses = fit(model, network(sizes, jax.random.key(0), 0.3), steps)
        predict = jax.jit(jax.vmap(model, (None, 0)))
        found[name] = {"losses": losses, "prediction": predict(params, grid)}
    ways = {"unrolled": pi.Unroll(), "backsolve": pi.ode.Backsolve()}
    slope = lambda adjoint: jax.grad(lambda p: ode_net(p, 0.5, adjoint))(params)
    found["gradients"] = {k: jax.jit(lambda a=a: slope(a))() for k, a in ways.items()}
    return found


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name in ("resnet", "ode"):
        rising = bool(jnp.all(jnp.diff(found[name]["prediction"]) > 0))
        print(f"{name:8} loss {found[name]['losses'][-1]:.5f}, monotone: {rising}")
    a, b = (jax.tree.leaves(g) for g in found["gradients"].values())
    apart = max(float(jnp.abs(x - y).max()) for x, y in zip(a, b, strict=True))
    print(f"the adjoints differ by {apart:.1e}")


if __name__ == "__main__":
    run([])
