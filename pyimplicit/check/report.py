"""The table that `check_layer` returns, and how one of its rows is made."""

import dataclasses
import io
import math
import re
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Check:
    """One row: `measured` should be at most `tolerance`. `passed`: None if the check does
    not apply; `note` says why, or where the worst was found."""

    name: str
    measured: float
    tolerance: float
    passed: bool | None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What `check_layer` found. `report["adjoint residual"]` is one of its `checks`; an
    unknown name is a `KeyError` that lists the known ones."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed (one that does not apply has not)."""
        return all(check.passed is not False for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        known = {check.name: check for check in self.checks}
        if name not in known:
            raise KeyError(f"no check {name!r}; there are {', '.join(map(repr, known))}")
        return known[name]

    def __rich__(self) -> Table:
        table = Table(title=f"Layer: {'passed' if self.passed else 'FAILED'}")
        table.add_column("check", no_wrap=True)
        table.add_column("measured", justify="right", no_wrap=True)
        table.add_column("allowed", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("note")
        words = {True: "passed", False: "[bold red]FAILED[/]", None: "[dim]n/a[/]"}
        for c in self.checks:
            shown = "-" if math.isnan(c.measured) else f"{c.measured:.1e}"
            allowed = f"{c.tolerance:.1e}"
            table.add_row(c.name, shown, allowed, words[c.passed], escape(c.note))
        return table

    def __str__(self) -> str:
        file = io.StringIO()
        Console(file=file, width=110).print(self.__rich__())
        return file.getvalue().rstrip()


class Skip(Exception):
    """Raised by a check that does not apply."""


def row(name: str, tolerance: float, check: Callable, layer) -> Check:
    """Runs `check(layer) -> (measured, note)`; what it raises becomes the row."""
    try:
        measured, note = check(layer)
    except Skip as reason:
        return Check(name, math.nan, tolerance, None, str(reason))
    except Exception as error:
        return Check(name, math.nan, tolerance, False, words(error))
    return Check(name, measured, tolerance, measured <= tolerance, note)  # NaN: False


def words(error: BaseException) -> str:
    """The line that says what happened: the first one, but errors of host callbacks come
    wrapped into a traceback."""
    lines = str(error).strip().splitlines() or [""]
    inner = [line for line in lines if re.match(r"[\w.]*(Error|Exception): ", line)]
    return inner[-1] if inner else f"{type(error).__name__}: {lines[0]}"
