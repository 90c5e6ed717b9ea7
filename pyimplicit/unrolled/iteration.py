r"""An iteration as a network of layers, and as a fixed point: one step function for both.

    model(b)                              `layers` steps, each with its own weights
    model(b, adjoint=pi.Unroll(k))        k steps
    model(b, adjoint=pi.Implicit())       the fixed point, and its exact derivative

Past the last layer its step is repeated, and the fixed point is the one of that step:
where no weights were trained, the solution of the problem that the algorithm solves.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .._status import Solution, Status
from .._tree import ravel, stop_gradient
from ..adjoint import AbstractAdjoint, Unroll
from ..fixed_point import fixed_point
from ..iterate import all_finite
from ..solvers import Picard


class Iteration(eqx.Module):
    """`layers` steps of an algorithm for data b; a trainable pytree.

    A subclass says how to `start`, `step` and `readout`, and which of its arrays are
    weights: `per_layer` (with a leading axis `layers`) and `shared`. The others are data
    of the problem; `train` leaves them alone.

    **Call:** `model(b, *, adjoint=None, **options)` returns x, for one sample b; batches by
    `jax.vmap(model)`. `solve` returns the `Solution`. `iterates(b)`: x after each layer.

    **Derivative:** of the steps taken, both modes, any order; with another adjoint that of
    the fixed point, in b and all arrays of the model.
    """

    per_layer: ClassVar[tuple[str, ...]]
    shared: ClassVar[tuple[str, ...]] = ()
    layers: eqx.AbstractVar[int]

    def inject(self, b) -> Any:
        """What all steps need of b, computed once."""
        return b

    @abc.abstractmethod
    def start(self, injected) -> Any:
        """The first state, a pytree of floating arrays."""

    @abc.abstractmethod
    def step(self, state, injected, layer: dict[str, jax.Array]) -> Any:
        """The next state. `layer`: the weights named in `per_layer`, of one layer."""

    def readout(self, state) -> jax.Array:
        """x, from the state."""
        return state

    def __call__(
        self, b, *, adjoint: AbstractAdjoint | None = None, **options
    ) -> jax.Array:
        return self.solve(b, adjoint=adjoint, **options).value

    def solve(self, b, *, adjoint: AbstractAdjoint | None = None, **options) -> Solution:
        """x as a `Solution`.

        - `adjoint`: `pi.Unroll(k)` takes k steps (by default as many as layers) and asks
          for no convergence; the others solve for the fixed point of the last layer.
        - `options`: of `pi.fixed_point` for the latter: `solver` (`pi.Picard()`, which is
          the algorithm itself), `rtol`, `atol`, `max_steps` (10,000), `throw`.
        """
        adjoint = Unroll(self.layers) if adjoint is None else adjoint
        injected = self.inject(b)
        start = self.start(injected)
        if isinstance(adjoint, Unroll) and adjoint.steps is not None:
            if options:
                raise TypeError(
                    "`Unroll(k)` takes k steps and has no options.\n"
                    f"Got {', '.join(options)}.\nFor the fixed point use pi.Implicit()."
                )
            state, _ = self._scan(start, injected, adjoint.steps)
            status = jnp.where(all_finite(state), 0, jnp.int32(Status.nonfinite))
            after = _advance(*stop_gradient((state, (self, injected))))
            residual = jnp.linalg.norm(ravel(after) - ravel(stop_gradient(state)))
            stats = {"iterations": jnp.int32(adjoint.steps), "residual": residual}
            return Solution(self.readout(state), status, stats)
        options = {"solver": Picard(), "max_steps": 10_000, **options}
        found = fixed_point(_advance, start, (self, injected), adjoint=adjoint, **options)
        return found._replace(value=self.readout(found.value))

    def iterates(self, b) -> jax.Array:
        """x after 1, 2, …, `layers` layers, `(layers, n)`."""
        injected = self.inject(b)
        return self._scan(self.start(injected), injected, self.layers)[1]

    def weights(self) -> dict[str, jax.Array]:
        """Those of all layers, by name."""
        return {name: getattr(self, name) for name in self.per_layer}

    def _scan(self, state, injected, steps: int):
        number = jnp.minimum(jnp.arange(steps), self.layers - 1)
        layers = self.weights()
        if steps != self.layers:
            layers = jax.tree.map(lambda a: a[number], layers)

        def body(state, layer):
            state = self.step(state, injected, layer)
            return state, self.readout(state)

        return jax.lax.scan(body, state, layers)


def _advance(state, params):
    """The step of the last layer: what is repeated, and whose fixed point is taken."""
    model, injected = params
    last = jax.tree.map(lambda a: a[-1], model.weights())
    return model.step(state, injected, last)


def check_problem(name: str, A, layers) -> jax.Array:
    """A as an array, `(m, n)`, or a clear error."""
    A = jnp.asarray(A)
    if A.ndim != 2 or not jnp.issubdtype(A.dtype, jnp.floating):
        raise ValueError(
            f"`{name}(A, layers)` must get a real matrix.\nGot {A.dtype}{list(A.shape)}.\n"
            "Rows are measurements, columns unknowns."
        )
    if not isinstance(layers, int) or layers < 1:
        raise ValueError(
            f"`{name}(A, layers)` must have one layer or more.\nGot {layers!r}.\n"
            "Sixteen is usual."
        )
    return A


def repeated(value, layers: int, dtype) -> jax.Array:
    """One number for each layer, `(layers,)`, from one number or from `layers` of them."""
    return jnp.broadcast_to(jnp.asarray(value, dtype), (layers,))


def lipschitz(A) -> jax.Array:
    """‖A‖₂², the Lipschitz constant of x ↦ Aᵀ(A x - b)."""
    return jnp.linalg.norm(A, 2) ** 2
