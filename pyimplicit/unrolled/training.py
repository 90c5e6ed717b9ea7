"""Training of unrolled iterations, layer by layer and end to end."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .._tree import stop_gradient
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
    refine: Sequence[float] = (0.2, 0.02),
) -> tuple[Any, jax.Array]:
    """Minimises the mean square error of the last layer over fresh samples.

    **Arguments:**

    - `model`: an `Iteration`; its `per_layer` and `shared` weights are trained.
    - `sample`: `sample(key)` returns a batch `(x, b)`, `(batch, n)` and `(batch, m)`.
    - `steps`: of the optimiser, in each stage.
    - `optimiser`: of optax, started anew in each stage; `optax.adam(1e-3)` if not given.
    - `layerwise`: for k = 1 … layers, with the error after k layers as the loss: a stage
      for the k-th layer alone (and what layers share, by its part in that layer), which
      starts as a copy of the one before; then stages for all layers up to k. False: one
      stage, all layers, the last one's error.
    - `refine`: how large the updates of the stages for all layers up to k are, relative to
      the optimiser's: a stage for each number.

    **Returns:** `(model, losses)`: the trained model and the losses, `(stages, steps)`,
    each relative to the mean square of the batch.

    ??? cite "Reference"
        The schedule is that of Chen, Liu, Wang, Yin 2018, Appendix D (arXiv:1808.10038),
        but for the start of a layer, which is there the untrained one.
    """
    optimiser = optax.adam(1e-3) if optimiser is None else optimiser
    n = model.layers
    stages = [(0, n, 1.0)]  # the first layer, how many, the size of the updates
    if layerwise:
        each = [(1.0, *refine) for _ in range(n)]
        stages = [
            (k if i == 0 else 0, 1 if i == 0 else k + 1, scale)
            for k, scales in enumerate(each)
            for i, scale in enumerate(scales)
        ]
    losses = []
    for first, count, scale in stages:
        key, now = jax.random.split(key)
        if layerwise and count == 1 and first > 0:
            model = _copied(model, first)
        where = jnp.array(first), jnp.array(scale)
        model, values = _stage(model, sample, optimiser, *where, now, count, steps)
        losses.append(values)
    return model, jnp.stack(losses)


@eqx.filter_jit
def _stage(model, sample, optimiser, first, scale, key, count: int, steps: int):
    """Trains `count` layers from number `first` on; those before only run."""

    def loss(weights, batch):
        x, b = batch
        ours = _with(model, first, weights)
        layers = _slices(ours, ours.per_layer, first, count)

        def run(b):
            injected = ours.inject(b)
            still, given = stop_gradient((model, injected))
            layer = lambda k: jax.tree.map(lambda a: a[k], still.weights())
            before = lambda k, state: still.step(state, given, layer(k))
            state = jax.lax.fori_loop(0, first, before, stop_gradient(ours.start(injected)))
            step = lambda state, layer: (ours.step(state, injected, layer), None)
            return ours.readout(jax.lax.scan(step, state, layers)[0])

        return jnp.sum((jax.vmap(run)(b) - x) ** 2) / jnp.sum(x**2)

    def body(carry, key):
        weights, state = carry
        value, grads = jax.value_and_grad(loss)(weights, sample(key))
        updates, state = optimiser.update(grads, state, weights)
        updates = jax.tree.map(lambda u: scale * u, updates)
        return (optax.apply_updates(weights, updates), state), value

    names = [n for n in model.per_layer if eqx.is_inexact_array(getattr(model, n))]
    weights = (
        _slices(model, names, first, count),
        {n: getattr(model, n) for n in model.shared},
    )
    start = weights, optimiser.init(weights)
    (weights, _), values = jax.lax.scan(body, start, jax.random.split(key, steps))
    return _with(model, first, weights), values


def _slices(model, names, first, count: int) -> dict[str, jax.Array]:
    cut = lambda a: jax.lax.dynamic_slice_in_dim(a, first, count)
    return {name: cut(getattr(model, name)) for name in names}


def _with(model, first, weights):
    """The model with `weights`: those of layers from number `first` on, and the shared."""
    layers, shared = weights
    put = lambda a, new: jax.lax.dynamic_update_slice_in_dim(a, new, first, 0)
    values = [put(getattr(model, name), new) for name, new in layers.items()]
    names = [*layers, *shared]
    where = lambda m: [getattr(m, name) for name in names]
    return eqx.tree_at(where, model, [*values, *shared.values()])


def _copied(model, k: int):
    """The model with the weights of layer k - 1 also in layer k."""
    names = [n for n in model.per_layer if eqx.is_inexact_array(getattr(model, n))]
    layers = {n: getattr(model, n)[k - 1 : k] for n in names}
    return _with(model, k, (layers, {}))
