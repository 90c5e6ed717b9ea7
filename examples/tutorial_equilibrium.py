"""Chapter 4 of the implicit-layers tutorial: deep equilibrium models.

The residual block of the tutorial (`pi.deq.ConvCell`, its `ResNetLayer`), its fixed point
by forward iteration and by Anderson acceleration, the gradient check on a block of 2
channels (at most 500 iterations), and a small classifier trained end to end: which way the
stripes of an image run (the tutorial's CIFAR-10 is no part of this package).

Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import pyimplicit as pi


def iterations(size: int = 8) -> dict[str, int]:
    """How many evaluations of a block with 8 channels each solver needs for 1e-6."""
    cell = pi.deq.ConvCell(8, 16, scale=0.3, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (8, size, size))
    solvers = {"forward iteration": pi.Picard(), "Anderson": pi.Anderson(memory=5)}
    found = {}
    for name, solver in solvers.items():
        deq = pi.deq.DEQ(cell, solver, rtol=1e-6, atol=1e-6, max_steps=500)
        found[name] = int(deq(x).stats["iterations"])
    return found


def gradient_check(size: int = 4) -> float:
    """The block with 2 channels and 2 groups: the gradient against differences."""
    cell = pi.deq.ConvCell(2, 2, groups=2, scale=0.3, key=jax.random.key(0))
    x, v = jax.random.normal(jax.random.key(1), (2, 2, size, size))
    deq = pi.deq.DEQ(cell, rtol=1e-11, atol=1e-11, max_steps=500)
    w = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    f = lambda t: jnp.sum(w * deq(x + t * v).value)
    slope, f, h = jax.jit(jax.grad(f))(0.0), jax.jit(f), 1e-5
    return float(abs(slope / ((f(h) - f(-h)) / (2 * h)) - 1))


class Classifier(eqx.Module):
    """Images `(1, n, n)` -> 8 channels -> equilibrium -> mean -> 2 classes."""

    lift: eqx.nn.Conv2d
    deq: pi.deq.DEQ
    last: eqx.nn.Linear

    def __init__(self, *, key):
        a, b, c = jax.random.split(key, 3)
        self.lift = eqx.nn.Conv2d(1, 8, 3, padding=1, key=a)
        cell = pi.deq.ConvCell(8, 8, groups=4, key=b)
        how: dict[str, Any] = dict(rtol=1e-4, atol=1e-4, max_steps=60, throw=False)
        self.deq = pi.deq.DEQ(cell, pi.Anderson(memory=3), **how)
        self.last = eqx.nn.Linear(8, 2, key=c)

    def __call__(self, image, key):
        """Scores, the solution, and the size of the cell's Jacobian there: without a
        little of that in the loss, training drives the cell to where it does not settle."""
        x = self.lift(image)
        found = self.deq(x)
        J2 = pi.deq.jacobian_frobenius(self.deq.cell, found.value, x, key=key)
        return self.last(found.value.mean((1, 2))), found, J2 / x.size


def stripes(count: int, key, size: int = 8):
    """Waves along one axis or the other, with noise: `(count, 1, size, size)`, labels."""
    keys = jax.random.split(key, 3)
    label = jnp.arange(count) % 2
    phase = jax.random.uniform(keys[0], (count, 1, 1, 1), maxval=2 * jnp.pi)
    long = jnp.arange(size) * jax.random.uniform(
        keys[1], (count, 1, 1, 1), minval=1, maxval=2
    )
    wave = jnp.sin(long + phase) * jnp.ones((1, 1, size, 1))
    wave = jnp.where(label[:, None, None, None] == 0, wave, jnp.swapaxes(wave, 2, 3))
    return wave + 0.3 * jax.random.normal(keys[2], wave.shape), label


def train(steps: int):
    model = Classifier(key=jax.random.key(0))
    optimiser = optax.adam(1e-2)
    dynamic, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(dynamic, images, label, key):
        model = eqx.combine(dynamic, static)
        logits, found, J2 = jax.vmap(model)(images, jax.random.split(key, len(images)))
        each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        ok = found.status == 0  # what did not converge is left out, and counted
        mean = jnp.sum(jnp.where(ok, each, 0.0)) / jnp.maximum(ok.sum(), 1)
        right = jnp.mean(jnp.argmax(logits, axis=1) == label)
        return mean + jnp.mean(jnp.where(ok, J2, 0.0)), (
            right,
            jnp.mean(ok),
            jnp.mean(found.stats["iterations"]),
        )

    def body(carry, key):
        dynamic, state = carry
        batch = stripes(32, key)
        gradient = jax.value_and_grad(loss, has_aux=True)
        (value, aux), grads = gradient(dynamic, *batch, key)
        updates, state = optimiser.update(grads, state)
        return (optax.apply_updates(dynamic, updates), state), (value, *aux)

    start = dynamic, optimiser.init(dynamic)
    keys = jax.random.split(jax.random.key(1), steps)
    return jax.jit(lambda start, keys: jax.lax.scan(body, start, keys))(start, keys)[1]


def main(steps: int = 60) -> dict:
    """Returns evaluations, the gradient check, and the histories of the training."""
    losses, accuracy, converged, evaluations = train(steps)
    return {
        "iterations": iterations(),
        "gradient": gradient_check(),
        "losses": losses,
        "accuracy": accuracy,
        "converged": converged,
        "evaluations": evaluations,
    }


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    print("evaluations:", found["iterations"])
    print(f"gradient off by {found['gradient']:.1e}")
    print(f"accuracy in the last ten batches: {found['accuracy'][-10:].mean():.3f}")
    print(f"evaluations a sample: {found['evaluations'][0]:.1f} -> ", end="")
    print(f"{found['evaluations'][-1]:.1f}; converged: {found['converged'].min():.3f}")


if __name__ == "__main__":
    run([])
