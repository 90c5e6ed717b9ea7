"""Chapter 1 of the implicit-layers tutorial: z = tanh(W z + x), three ways.

The tutorial (Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org) writes
three modules: fixed-point iteration that is differentiated through, Newton's method that
is differentiated through, and Newton's method with the implicit function theorem. Here
they differ by the words `solver` and `adjoint`. Their gradients are compared (its "gradient
check" with n = 5, tolerance 1e-10), and a classifier with such a layer is trained, on two
spirals instead of MNIST.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pyimplicit as pi


LAYERS = {
    "fixed point, unrolled": dict(solver=pi.Picard(), adjoint=pi.Unroll()),
    "Newton, unrolled": dict(solver=pi.Newton(), adjoint=pi.Unroll(steps=6)),
    "Newton, implicit": dict(solver=pi.Newton(), adjoint=pi.Implicit()),
}


class TanhLayer(eqx.Module):
    """z = tanh(W z + x), `(n,)`; W is scaled down to norm `bound` where it is larger, so
    that training keeps the fixed point unique."""

    W: jax.Array
    options: dict = eqx.field(static=True)
    bound: float | None = eqx.field(static=True, default=None)

    def __call__(self, x):
        W = self.W
        if self.bound is not None:
            W = W * jnp.minimum(1.0, self.bound / jnp.linalg.norm(W, 2))
        fn = lambda z, p: jnp.tanh(p[0] @ z + p[1])
        return pi.fixed_point(fn, jnp.tanh(x), (W, x), **self.options).value


class Classifier(eqx.Module):
    """2 -> linear -> implicit layer -> linear -> 2 classes."""

    first: eqx.nn.Linear
    layer: TanhLayer
    last: eqx.nn.Linear

    def __init__(self, n: int, *, key):
        a, b, c = jax.random.split(key, 3)
        self.first = eqx.nn.Linear(2, n, key=a)
        W = 0.5 * jax.random.normal(b, (n, n)) / jnp.sqrt(n)
        options: dict[str, Any] = dict(rtol=1e-4, atol=1e-4, max_steps=50)
        options = {**LAYERS["Newton, implicit"], **options}
        self.layer = TanhLayer(W, options, bound=0.9)
        self.last = eqx.nn.Linear(n, 2, key=c)

    def __call__(self, x):
        return self.last(self.layer(self.first(x)))


def spirals(n: int, key):
    """`n` points of two spiral arms, `(n, 2)`, and which arm."""
    a, b = jax.random.split(key)
    label = jnp.arange(n) % 2
    angle = jax.random.uniform(a, (n,), minval=0.5, maxval=4.0)
    turn = angle + jnp.pi * label
    x = angle[:, None] / 4 * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)
    return x + 0.02 * jax.random.normal(b, (n, 2)), label


def gradient_check(n: int = 5, key=0) -> dict[str, float]:
    """How far each layer's gradient in W is from central differences, relatively."""
    a, b = jax.random.split(jax.random.key(key))
    W, x = jax.random.normal(a, (n, n)) / jnp.sqrt(n) / 2, jax.random.normal(b, (n,))
    V = jnp.cos(jnp.arange(n * n).reshape(n, n) + 1.0)
    tight: dict[str, Any] = dict(rtol=1e-12, atol=1e-12)
    found = {}
    for name, options in LAYERS.items():
        f = lambda t, o=options: jnp.sum(TanhLayer(W + t * V, {**o, **tight})(x) ** 2)
        slope, f = jax.jit(jax.grad(f))(0.0), jax.jit(f)
        h = 1e-3
        differences = (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)
        found[name] = float(abs(slope / differences - 1))
    return found


def train(steps: int = 300) -> tuple[jax.Array, float]:
    """Losses, and the accuracy on fresh points."""
    model = Classifier(16, key=jax.random.key(0))
    x, label = spirals(256, jax.random.key(1))
    optimiser = optax.adam(1e-2)

    def loss(model, x, label):
        logits = jax.vmap(model)(x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    @eqx.filter_jit
    def fit(model):
        dynamic, static = eqx.partition(model, eqx.is_inexact_array)

        def body(carry, _):
            dynamic, state = carry
            f = lambda d: loss(eqx.combine(d, static), x, label)
            value, grads = jax.value_and_grad(f)(dynamic)
            updates, state = optimiser.update(grads, state)
            return (optax.apply_updates(dynamic, updates), state), value

        start = dynamic, optimiser.init(dynamic)
        (dynamic, _), losses = jax.lax.scan(body, start, length=steps)
        return eqx.combine(dynamic, static), losses

    model, losses = fit(model)
    x, label = spirals(500, jax.random.key(2))
    predict = jax.jit(jax.vmap(lambda x: model(x)))  # type: ignore[operator]
    right = jnp.argmax(predict(x), axis=1) == label
    return losses, float(jnp.mean(right))


def main(steps: int = 300) -> dict:
    """Returns the gradient checks, the losses and the accuracy."""
    losses, accuracy = train(steps)
    return {"gradients": gradient_check(), "losses": losses, "accuracy": accuracy}


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name, error in found["gradients"].items():
        print(f"{name:24} gradient off by {error:.1e}")
    print(f"two spirals: loss {found['losses'][-1]:.4f}, accuracy {found['accuracy']:.3f}")


if __name__ == "__main__":
    run([])
