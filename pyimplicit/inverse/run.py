"""One run of a method: its limits, its history, and its progress on the screen."""

import math
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .. import engine
from .linesearch import round_off
from .objective import Evaluator, Objective
from .result import Step


NOT_FINITE = (
    "the gradient is not finite where the misfit is: look for sqrt, norm or a power of "
    "something that is zero there"
)
SETTLED = "no decrease is possible in working precision"


class Run:
    """What a method is given besides x. Use as a context manager: it shows progress.

    `eps`: of the model's precision. `beta`: weight of the prior. `target`: chi² to stop
    at, or None.
    `progress`: True, False, or None for "if standard error is a terminal".
    """

    def __init__(
        self,
        objective: Objective,
        name: str,
        *,
        eps: float,
        max_steps: int,
        rtol: float,
        beta: float,
        target: float | None,
        callback: Callable | None,
        progress: bool | None,
    ):
        self.objective, self.name = objective, name
        self.max_steps, self.rtol = max_steps, rtol
        self.beta, self.target, self.callback = beta, target, callback
        self.evaluate = Evaluator(objective)
        self.out_of_steps = f"`max_steps` = {max_steps} steps were not enough"
        self.history: list[Step] = []
        self.stopped = False
        self.slack = 0.0  # how much of the target chi² may lie above it
        self.eps = eps
        self._at_round_off = 0
        self._first_gradient = math.nan
        self._screen = _screen(name, progress)

    def __enter__(self):
        self._clock = time.perf_counter()
        self._work = _factorisations()
        self._screen.start()
        return self

    def __exit__(self, *_):
        self._screen.stop()

    def start(self, x) -> tuple[float, float]:
        """Misfit and prior at the start, finite; writes line 0."""
        misfit, prior = self.evaluate(x, trial=False)
        if not (math.isfinite(misfit) and math.isfinite(prior)):
            raise ValueError(
                "`fit(misfit, m0)` must be finite at `m0`.\n"
                f"Got a misfit of {misfit} and a prior of {prior}.\n"
                "Look for log, sqrt or division of a model value, or NaN in the data; "
                "jax.config.update('jax_debug_nans', True) names the place."
            )
        beta = self.beta if self.target is None else math.nan
        self.add(x, beta, misfit, prior)
        return misfit, prior

    def along(self, x, s, beta):
        """The objective at x + t s as `armijo` wants it; keeps x, misfit and prior."""

        def value(t: float):
            x_next = x + t * s
            misfit, prior = self.evaluate(x_next)
            return misfit + beta * prior, (x_next, misfit, prior)

        return value

    def add(self, x, beta, misfit, prior, *, gradient=math.nan, cg=0, length=math.nan):
        """Writes a line of the history, shows it, and asks the callback."""
        clock, work = time.perf_counter(), _factorisations()
        has_prior = self.objective.prior is not None
        step = Step(
            step=len(self.history),
            beta=float(beta) if has_prior else math.nan,
            chi2=self.objective.chi2(misfit),
            misfit=misfit,
            prior=float(beta) * prior if has_prior else math.nan,
            gradient=float(gradient),
            cg=int(cg),
            length=float(length),
            evaluations=self.evaluate.count,
            seconds=clock - self._clock,
            factorisations=work - self._work,
        )
        self._clock, self._work, self.evaluate.count = clock, work, 0
        self.history.append(step)
        if math.isnan(self._first_gradient):
            self._first_gradient = step.gradient
        self._screen.show(step, self._fraction(step))
        if self.callback is not None:
            self.stopped = bool(self.callback(step, self.objective.model(x)))

    def reached(self, misfit: float) -> bool:
        """Whether the target is met (never, if there is none)."""
        if self.target is None:
            return False
        return self.objective.chi2(misfit) <= (1 + self.slack) * self.target

    def outcome(self, misfit: float) -> tuple[bool, str] | None:
        """Converged and why, if the last line ends the run."""
        if self.reached(misfit):
            chi2 = self.objective.chi2(misfit)
            return True, f"chi2 = {chi2:.3f} meets the target {self.target:g}"
        if self.stopped:
            return False, "stopped by the callback"
        return None

    def settled(self, phi: float, slope: float) -> bool:
        """Whether steps promise no more than round-off, for the third time."""
        self._at_round_off += round_off(phi, slope, self.eps) > 0
        return self._at_round_off > 2

    def no_step(self, phi: float, slope: float) -> tuple[bool, str]:
        """Converged and why, if no length of a step would do."""
        if round_off(phi, slope, self.eps):
            return True, SETTLED
        if self.evaluate.failure:
            return False, f"no trial of the line search did: {self.evaluate.failure}"
        return False, (
            "the line search found no decrease: the derivative of the misfit is wrong "
            "(try pi.taylor_test), or the misfit is noisy"
        )

    def _fraction(self, step: Step) -> float:
        """How far the run is, on a logarithmic scale."""
        if self.target is not None:
            now, first, last = step.chi2, self.history[0].chi2, self.target
        else:
            now, first = step.gradient, self._first_gradient
            last = first * self.rtol
        if not (0 < last < first and now > 0):
            return 0.0
        return min(max(math.log(first / now) / math.log(first / last), 0.0), 1.0)


class _Silent:
    def start(self):
        pass

    def stop(self):
        pass

    def show(self, step: Step, fraction: float):
        pass


class _Lines(_Silent):
    def show(self, step: Step, fraction: float):
        print(f"  step {step.step}: {_text(step)}", file=sys.stderr, flush=True)


class _Bar(_Silent):
    def __init__(self, name: str, console: Console):
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self.task = self.bar.add_task(name, total=1.0, text="compiling")

    def start(self):
        self.bar.start()

    def stop(self):
        self.bar.stop()

    def show(self, step: Step, fraction: float):
        text = f"step {step.step}, {_text(step)}"
        self.bar.update(self.task, completed=fraction, text=text)


def _screen(name: str, progress: bool | None) -> _Silent:
    console = Console(stderr=True)
    if progress is False or (progress is None and not console.is_terminal):
        return _Silent()
    return _Bar(name, console) if console.is_terminal else _Lines()


def _text(step: Step) -> str:
    if math.isnan(step.chi2):
        return f"misfit {step.misfit:.4g}"
    return f"chi2 {step.chi2:.4g}, misfit {step.misfit:.4g}"


def _factorisations() -> int:
    # Asking Julia for its counters would start it for a fit that never solves there.
    if not engine.used():
        return 0
    return engine.counters()["factorisations"]
