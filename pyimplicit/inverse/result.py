"""What a fit returns: the model, whether to trust it, and how it was found."""

import dataclasses
import io
import math
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Step(NamedTuple):
    """One line of a fit's history; line 0 is the start. NaN: does not apply.

    `chi2`: |r|²/len(r). `misfit`: |r|²/2, or what the scalar misfit was. `prior`:
    beta times the prior. `gradient`: dual norm of the objective's gradient *where the
    step began* (line 0: NaN). `cg`: inner iterations. `length`: part of the step taken.
    `evaluations`: of the objective. `factorisations`: numeric ones of the engine.
    """

    step: int
    beta: float
    chi2: float
    misfit: float
    prior: float
    gradient: float = math.nan
    cg: int = 0
    length: float = math.nan
    evaluations: int = 1
    seconds: float = 0.0
    factorisations: int = 0


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The outcome of `fit`; print it to see the table of steps.

    `m`: the model, with the structure of `m0`. `converged`: the stopping rule was met.
    `message`: one sentence on why it stopped. `history`: a `Step` for each iterate.
    """

    m: Any
    converged: bool
    message: str
    history: tuple[Step, ...]
    method: str

    @property
    def chi2(self) -> float:
        """|r|²/len(r) at `m`; 1 where the data are fitted to their errors."""
        return self.history[-1].chi2

    @property
    def beta(self) -> float:
        """The weight of the prior in the last step."""
        return self.history[-1].beta

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self.history[-1].step

    def __rich__(self) -> Table:
        table = Table(title=f"{self.method}: {self.steps} steps", caption=self.message)
        for name in Step._fields:
            table.add_column(name, justify="right")
        for row in self.history:
            table.add_row(*map(_cell, row))
        return table

    def __str__(self) -> str:
        file = io.StringIO()
        Console(file=file, width=120).print(self.__rich__())
        return file.getvalue().rstrip()


class FitError(RuntimeError):
    """A fit that stopped without meeting its rule; `.result` is how far it came."""

    def __init__(self, message: str, result: FitResult):
        super().__init__(message)
        self.result = result


def _cell(value) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else f"{value:.4g}"
