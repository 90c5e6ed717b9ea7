"""Training of unrolled iterations, layer by layer or end to end."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ..adjoint import Unroll
from .iteration import Iteration


def nmse(x, truth) -> jax.Array:
    """10 log₁₀(‖x - truth‖²/‖truth‖²) over all samples. [dB]"""
    return 10 * jnp.log10(jnp.sum((x - truth) ** 2) / jnp.sum(truth**2))


def train(
    model: Iteration,
    sample: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    *,
    key: jax.Array,
    steps: int = 300,
    optimiser: optax.GradientTransformation | None = None,
    layerwise: bool = True,
    refine: float = 0.2,
) -> tuple[Any, jax.Array]:
    """Minimises the mean square error of the last layer over fresh samples.

    **Arguments:**

    - `model`: an `Iteration`; its `per_layer` and `shared` weights are trained.
    - `sample`: `sample(key)` returns a batch `(x, b)`, `(batch, n)` and `(batch, m)`.
    - `steps`: of the optimiser, in each stage.
    - `optimiser`: of optax; `optax.adam(1e-3)` if not given.
    - `layerwise`: for k = 1 … layers, with the error after k layers as the loss, two
      stages: only the k-th layer (and what layers share); then all layers up to k, with
      updates `refine` times as large. False: one stage, all layers, the last one's error.

    **Returns:** `(model, losses)`: the trained model and the losses, `(stages, steps)`,
    each relative to the mean square of the batch.

    ??? cite "Reference"
        The schedule is that of Chen, Liu, Wang, Yin 2018, Appendix D. arXiv:1808.10038
    """
    optimiser = optax.adam(1e-3) if optimiser is None else optimiser
    # Later layers start as copies of what the problem gives them, not of trained ones.
    weights, data = eqx.partition(model, _trained(model))
    stages = [(model.layers, jnp.ones(model.layers), 1.0)]
    if layerwise:
        number = jnp.arange(model.layers)
        stages = []
        for k in range(1, model.layers + 1):
            stages.append((k, (number == k - 1).astype(float), 1.0))
            stages.append((k, (number < k).astype(float), refine))

    def loss(weights, data, k, batch):
        x, b = batch
        model = eqx.combine(weights, data)
        found = jax.vmap(lambda b: model(b, adjoint=Unroll(k)))(b)
        return jnp.sum((found - x) ** 2) / jnp.sum(x**2)

    @eqx.filter_jit
    def stage(weights, data, active, scale, key, k: int):
        def body(carry, key):
            weights, state = carry
            value, grads = eqx.filter_value_and_grad(loss)(weights, data, k, sample(key))
            updates, state = optimiser.update(_only(grads, active), state, weights)
            updates = jax.tree.map(lambda u: scale * u, _only(updates, active))
            return (eqx.apply_updates(weights, updates), state), value

        start = weights, optimiser.init(weights)
        (weights, _), values = jax.lax.scan(body, start, jax.random.split(key, steps))
        return weights, values

    losses = []
    for k, active, scale in stages:
        key, now = jax.random.split(key)
        weights, values = stage(weights, data, active, scale, now, k)
        losses.append(values)
    return eqx.combine(weights, data), jnp.stack(losses)


def _trained(model: Iteration):
    """A pytree of booleans: which arrays of the model are weights."""
    names = [*model.per_layer, *model.shared]
    none = jax.tree.map(lambda _: False, model)
    mine = lambda m: [getattr(m, name) for name in names]
    floating = [eqx.is_inexact_array(a) for a in mine(model)]
    return eqx.tree_at(mine, none, floating)


def _only(weights, active):
    """Zero in the layers that are not active."""

    def masked(a):
        return a * active.astype(a.dtype).reshape(-1, *[1] * (a.ndim - 1))

    names = [n for n in weights.per_layer if getattr(weights, n) is not None]
    mine = lambda m: [getattr(m, name) for name in names]
    return eqx.tree_at(mine, weights, [masked(a) for a in mine(weights)])
