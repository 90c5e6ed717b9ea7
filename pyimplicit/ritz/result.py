"""What a solve returns: the function, how good it is, and how it was found."""

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table


class Report(NamedTuple):
    """One line of the history; line 0 is the start. NaN: does not apply.

    `energy`: on the fixed fine rule, without what the boundary treatment adds. `trained`:
    on the nodes of the last step, with it. `violation`: ‖u - g‖ in L²(∂Ω), fine rule.
    `gradient`: Euclidean norm. `decrement`: ½ gᵀG⁻¹g, an estimate of how far the energy is
    above the least one of the model. `length`: of the last step. `gap`: energy less the
    `reference`. `bound`: energy less the `lower` bound, at least ½|u - u*|² in the energy
    norm if boundary values are exact.
    """

    step: int
    energy: float
    trained: float = math.nan
    violation: float = math.nan
    gradient: float = math.nan
    decrement: float = math.nan
    length: float = math.nan
    gap: float = math.nan
    bound: float = math.nan
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class RitzResult:
    """The outcome of `solve`; print it to see the history.

    `model`: the trained module. `field`: x -> u at one point `(dim,)`, with the boundary
    treatment; `u(x)` for many points. `theta`: the parameters as one vector.
    `converged`: the decrement fell below `rtol`; always False for optimisers
    that know none. `message`: why it stopped; "stalled: …" and what to do where no step
    was taken any more. `multiplier`: λ(x, n) on the boundary, of the treatments that have
    one.
    """

    model: Any
    field: Callable
    theta: jax.Array
    converged: bool
    message: str
    history: tuple[Report, ...]
    multiplier: Callable | None = None

    @property
    def energy(self) -> float:
        """On the fixed fine rule; for `rayleigh` the eigenvalue."""
        return self.history[-1].energy

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self.history[-1].step

    def u(self, x: jax.Array) -> jax.Array:
        """Values at points `(n, dim)`."""
        if jnp.ndim(x) != 2:
            raise ValueError(
                "`RitzResult.u(x)` must have points `(n, dim)`.\n"
                f"Got shape {jnp.shape(x)}.\nTake `field(x)` for one point; on an interval "
                "u(x[:, None])."
            )
        return jax.vmap(self.field)(x)

    def __rich__(self) -> Table:
        table = Table(title=f"ritz.solve: {self.steps} steps", caption=self.message)
        for name in Report._fields:
            table.add_column(name, justify="right")
        for row in self.history:
            cells = (str(v) if isinstance(v, int) else _number(v) for v in row)
            table.add_row(*cells)
        return table

    def __str__(self) -> str:
        file = io.StringIO()
        Console(file=file, width=120).print(self.__rich__())
        return file.getvalue().rstrip()


class RitzError(RuntimeError):
    """A solve that came upon NaN or infinity; `.result` is the last finite state."""

    def __init__(self, message: str, result: RitzResult):
        super().__init__(message)
        self.result = result


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
