"""First-order methods: any optax transformation."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .abstract import AbstractOptimizer, info


class Optax(AbstractOptimizer):
    """Steps of an optax gradient transformation, e.g. `Optax(optax.lion(1e-3))`."""

    transform: optax.GradientTransformation = eqx.field(static=True)

    def init(self, theta):
        return self.transform.init(theta)

    def step(self, problem, theta, state):
        energy, g = jax.value_and_grad(problem.value)(theta)
        updates, state = self.transform.update(g, state, theta)
        new = jnp.asarray(optax.apply_updates(theta, updates))
        return new, state, info(energy, g)


class Adam(AbstractOptimizer):
    """Adam, with a fixed rate, or one that an optax schedule gives; gradients longer than
    `clip` are shortened to it.

    Source: Kingma, Ba, *Adam* (2015). arXiv:1412.6980.
    """

    learning_rate: Any = eqx.field(static=True, default=1e-3)
    clip: float | None = eqx.field(static=True, default=None)

    @property
    def optax(self) -> Optax:
        adam = optax.adam(self.learning_rate)
        if self.clip is None:
            return Optax(adam)
        return Optax(optax.chain(optax.clip_by_global_norm(self.clip), adam))

    def init(self, theta):
        return self.optax.init(theta)

    def step(self, problem, theta, state):
        return self.optax.step(problem, theta, state)
