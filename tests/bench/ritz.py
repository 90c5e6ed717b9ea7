"""Deep Ritz beside the paper (E, Yu 2018), linear finite elements and Adam.

    python -m tests.bench.ritz [square slit harmonic neumann eigen oscillator hundred]
                               [--seeds 3] [--only LABEL] [--no-adam] [--log FILE]
    python -m tests.bench.ritz --from FILE

Double precision. Errors are relative; of functions in L². "Metric" is Levenberg-Marquardt
in function space, the median over the seeds, "spread" its least and largest, CPU the most
seconds that the process took for one run, compilation included. "Elements" are linear ones
with at most as many unknowns as the network has parameters; nothing where no grid has so
few. Adam: the same network, nodes that are drawn again in each step. With `--log` each run
is written as it ends, runs that the file has are not done again, and `--from` prints its
table.

What to know when reading: where the tip of the slit is known the network gets r^(1/2)
(cos, sin)(θ/2), of which the solution is one, and the elements are refined towards it. The
harmonic polynomial in ten dimensions is itself a multilinear element. The eigenvalue
problem's distance function alone, without a network, is 1.3 % off. The oscillator is
measured against the eigenvalue of the box, 1.00080 d; the paper against d. In 100
dimensions the best linear function is 2.2 % off.

Busy cores of a Xeon, 2026-11-29; medians of three seeds. CPU: of the metric steps with what
comes before them, in 100 dimensions of Adam.

                    unknowns  paper  elements     Adam   metric  spread             CPU s
  2-D Poisson             97            0.020   0.0029  4.5e-07  4.1e-07 - 5.6e-07      9
  slit, 3 blocks         591  .0079     0.012    0.030   0.0062  0.0056 - 0.0100      211
  slit, 4 blocks         811  .0072     0.010    0.017   0.0043  0.0033 - 0.0045      239
  slit, 5 blocks        1031  .0065    0.0091    0.027   0.0033  0.0028 - 0.0064      342
  slit, 6 blocks        1251  .0057    0.0086            0.0044  0.0034 - 0.0075      463
  slit, tip known        121           0.0099   0.0082  9.7e-04  3.3e-04 - 1.2e-03      9
  10-D harmonic          361   .004             0.0053  6.1e-04  5.9e-04 - 6.2e-04     63
  Neumann, d = 5         141   .013      0.15    0.015   0.0041  0.0038 - 0.0044       14
  Neumann, d = 10        241   .019              0.020    0.016  0.014 - 0.017         22
  well, d = 1             31  .0020   8.0e-04  5.4e-07  8.0e-10  3.7e-10 - 5.5e-09      6
  well, d = 5             71  .0011     0.094  4.4e-05  1.8e-05  1.5e-05 - 2.1e-05     27
  well, d = 10           121  .0643      0.22   0.0041   0.0015  0.0015 - 0.0016       32
  oscillator, d = 1       31  .0016    0.0022  1.4e-05  2.6e-06  1.3e-06 - 3.1e-06      4
  oscillator, d = 5       71   .016      0.46  1.1e-04  1.0e-04  9.3e-05 - 2.7e-04     35
  oscillator, d = 10     241   .126      0.23   0.0047   0.0043  0.0037 - 0.0046       73
  100-D                10201   .022             0.023                                  25

On the slit, what knows the tip wins: elements refined towards it have 2.1e-3 with 811
unknowns. The paper's network, which does not, does better than in the paper after 20,000
steps of Adam and at most 100 metric steps on 10,368 nodes inside and 1,008 on the boundary.
In most of these runs the last 16 to 36 were refused before: steps on so many nodes no
longer lower the energy on others, so that only more nodes would help. 100,000 steps of Adam
get to the same (0.0032 with four blocks, from which no metric step is accepted). With a
rate of 0.01, as the others have, one in three of five blocks was thrown out of its numbers,
the others ended at 0.0054 and 0.0057. Fewer nodes or fewer steps of Adam do not do: from
the start on 1,152 nodes metric steps stall at 0.36, too few for 811 parameters (and from
rougher starts the first long step makes peaks that no rule sees). After 4,000 steps of Adam
110 metric steps end at 0.0078 with four blocks, with three at 0.060 and 0.014. Damping by
the diagonal of the metric: 0.062 after ten steps, against 0.034. Sobol points that move:
0.018 after 45 steps, against 0.011.

Oscillators in many dimensions start with 10,000 steps of Adam, after which metric steps
gain little. 30 of these alone, on four times as many nodes, end between 1.4e-4 and 5.0e-3
with d = 5, at 2.9e-3 and 5.9e-2 with d = 10; 90 of them do for d = 5 (1.9e-4). In 100
dimensions 4,000 steps of Adam only find the best linear function.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from pyimplicit import ritz

from .ritz_cases import CASES, Case, Recipe


HEADS = ("", "parameters", "paper", "elements", "Adam", "metric", "spread", "CPU s")


class Log:
    """Runs as dictionaries, one a line of a file, or in memory only."""

    def __init__(self, path: str | None):
        self.path, self.runs = None if path is None else Path(path), []
        if self.path is not None and self.path.exists():
            lines = self.path.read_text().splitlines()
            self.runs: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **what) -> bool:
        return any(all(run.get(k) == v for k, v in what.items()) for run in self.runs)

    def add(self, **run) -> None:
        run["date"] = datetime.date.today().isoformat()
        self.runs.append(run)
        line = json.dumps(run)
        print(line, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(line + "\n")


def trained(case: Case, recipe: Recipe, key) -> ritz.RitzResult:
    """By the recipe, and what comes before it."""
    first = recipe.first
    model = recipe.model(key) if first is None else trained(case, first, key).model
    return ritz.solve(
        case.energy, case.domain, recipe.boundary, model,
        quadrature=recipe.quadrature, optimizer=recipe.optimizer, steps=recipe.steps,
        report_every=max(recipe.steps // 4, 1), key=key, fine=case.fine,
        progress=False, rtol=1e-16,
    )  # fmt: skip


def solved(case: Case, recipe: Recipe, seed: int) -> dict:
    """The error of one run and what it took, or why there is none."""
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        found = trained(case, recipe, jax.random.key(seed))
        outcome = {"error": case.error(found), "energy": found.energy, "end": found.message}
    except (RuntimeError, ValueError) as failure:
        outcome = {"failure": str(failure).splitlines()[0]}
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return outcome | {"cpu": round(cpu, 1), "wall": round(wall, 1)}


def measure(case: Case, seeds: int, with_adam: bool, log: Log) -> None:
    """The runs of one row that the log does not have."""
    recipes = {"metric": case.metric, "adam": case.adam}
    model = next(r.model for r in recipes.values() if r is not None)
    size = ritz.count(model(jax.random.key(0)))
    about = {"row": case.label, "parameters": size, "paper": case.paper}
    if not log.has(row=case.label, method="elements"):
        try:
            log.add(**about, method="elements", error=case.elements(size))
        except (RuntimeError, ValueError) as failure:
            log.add(**about, method="elements", failure=str(failure).splitlines()[0])
    for method, recipe in recipes.items():
        if recipe is None or (method == "adam" and not with_adam):
            continue
        for seed in range(seeds):
            which = about | {"method": method, "seed": seed, "steps": recipe.steps}
            if not log.has(row=case.label, method=method, seed=seed):
                log.add(**which, **solved(case, recipe, seed))


def table(runs: list[dict]) -> Table:
    """A row for each label, in their order."""
    made = Table(title="Deep Ritz: relative errors", caption=_dates(runs))
    for head in HEADS:
        made.add_column(head, justify="right")
    for label in dict.fromkeys(run["row"] for run in runs):
        made.add_row(*cells([run for run in runs if run["row"] == label]))
    return made


def cells(runs: list[dict]) -> list[str]:
    number = lambda a: "" if a is None else f"{a:.2g}"
    of = {m: [r for r in runs if r["method"] == m] for m in ("elements", "metric", "adam")}
    errors = {m: sorted(r["error"] for r in rs if r.get("error") is not None)
              for m, rs in of.items()}  # fmt: skip
    middle = lambda m: number(statistics.median(errors[m])) if errors[m] else _why(of[m])
    metric = errors["metric"]
    spread = f"{metric[0]:.2g} - {metric[-1]:.2g}" if metric else ""
    lost = len(of["metric"]) - len(metric)
    seconds = [r["cpu"] for r in of["metric"]]
    return [
        runs[0]["row"], str(runs[0]["parameters"]), number(runs[0]["paper"]),
        middle("elements"), middle("adam"), middle("metric"),
        spread + (f", {lost} failed" if lost else ""),
        f"{max(seconds):.0f}" if seconds else "",
    ]  # fmt: skip


def _why(runs: list[dict]) -> str:
    return next((r["failure"] for r in runs if "failure" in r), "")


def _dates(runs: list[dict]) -> str:
    days = sorted({run["date"] for run in runs})
    return " - ".join(days[:1] + days[1:][-1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose label contains this")
    parser.add_argument("--no-adam", action="store_true")
    parser.add_argument("--log", help="a file of runs, added to")
    parser.add_argument("--from", dest="given", help="print the table of such a file")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    log = Log(args.given or args.log)
    if not args.given:
        for name in args.cases or [name for name in CASES if name != "hundred"]:
            for case in CASES[name]():
                if args.only in case.label:
                    measure(case, args.seeds, not args.no_adam, log)
    Console(width=120).print(table(log.runs))


if __name__ == "__main__":
    main()
