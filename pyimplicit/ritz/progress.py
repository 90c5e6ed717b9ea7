"""A line on the screen while a solve runs."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .result import Report


class Screen:
    """Shows reports; a bar on terminals, lines elsewhere, nothing if `progress` is False
    (or None and standard error is no terminal). A context manager."""

    def __init__(self, steps: int, progress: bool | None):
        console = Console(stderr=True)
        self.bar, self.lines = None, False
        if progress is False or (progress is None and not console.is_terminal):
            return
        if not console.is_terminal:
            self.lines = True
            return
        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self.bar = Progress(*columns, TimeElapsedColumn(), console=console)
        self.task = self.bar.add_task("ritz", total=steps, text="compiling")

    def __enter__(self):
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.stop()

    def show(self, report: Report) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=report.step, text=_text(report))
        elif self.lines:
            print(f"  {_text(report)}", file=sys.stderr, flush=True)


def _text(report: Report) -> str:
    text = f"step {report.step}, energy {report.energy:.8g}"
    for name in ("bound", "gap", "decrement", "violation"):
        value = getattr(report, name)
        if value == value:
            text += f", {name} {value:.2g}"
    return text + f", {report.seconds:.1f} s"
