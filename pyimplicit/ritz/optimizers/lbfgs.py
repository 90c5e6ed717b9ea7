"""Limited-memory BFGS, by optax: curvature from the last gradients, no metric."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from .abstract import AbstractOptimizer, info


class LBFGS(AbstractOptimizer):
    """L-BFGS with a zoom line search, `optax.lbfgs`.

    `memory`: pairs of gradients that are kept. `max_search`: energies that a line search
    may evaluate. *Needs* a fixed rule (`Gauss`, or `fixed=True`): on nodes that change,
    differences of gradients are not those of one function.

    Source: Liu, Nocedal, *On the limited memory BFGS method for large scale optimization*
    (1989). doi:10.1007/BF01589116
    """

    memory: int = eqx.field(static=True, default=20)
    max_search: int = eqx.field(static=True, default=20)

    def __check_init__(self):
        for name, n in (("memory", self.memory), ("max_search", self.max_search)):
            if not isinstance(n, int) or n < 1:
                raise ValueError(
                    f"`LBFGS({name}=...)` must be a positive whole number.\nGot {n!r}.\n"
                    "Take e.g. memory=20, max_search=20."
                )

    @property
    def transform(self) -> Any:
        search = optax.scale_by_zoom_linesearch(
            self.max_search, initial_guess_strategy="one"
        )
        return optax.lbfgs(memory_size=self.memory, linesearch=search)

    def init(self, theta):
        return self.transform.init(theta)

    def step(self, problem, theta, state):
        energy, g = jax.value_and_grad(problem.value)(theta)
        move, new_state = self.transform.update(
            g, state, theta, value=energy, grad=g, value_fn=problem.value
        )
        new = jnp.asarray(optax.apply_updates(theta, move))
        # A search that failed stays where it is; its pairs are forgotten.
        good = jnp.all(jnp.isfinite(new))
        new = jnp.where(good, new, theta)
        fresh = self.transform.init(theta)
        pick = lambda a, b: jnp.where(good, a, b)
        state = jax.tree.map(pick, new_state, fresh)
        length = jnp.where(good, optax.tree.get(state, "learning_rate"), 0.0)
        return new, state, info(energy, g, length=length)
