"""Problems in time: ratios against loops in SciPy, in one run.

    python -m tests.bench.evolve [--sides 100 200] [--steps 200] [--rounds 3] [--cpu]

Heat on n x n squares, backward Euler, a new conductivity each call, so that no factor is
found again. Three ways with one factorisation: the march in one call of the engine; the
compiled loop over steps; a Python loop over SciPy's `splu`, whose adjoint loop goes back
with the same factor. And what naive peers do: factorise in each step (a few are timed).
Compile time and warm time apart; warm calls of all are interleaved and the least counts.
"""

import argparse
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from rich.console import Console
from rich.table import Table

import pyimplicit as pi
from pyimplicit import fem


FEW = 5  # steps of the loop that factorises in each; its time is scaled up
END = 0.1


class Heat:
    """u' = ∇·(κ∇u) + 1 with u = 0 on the boundary; the loss is |u|²/2 at the end."""

    def __init__(self, n: int, steps: int):
        self.V = fem.FunctionSpace(fem.Mesh.rectangle(n, n))
        self.problem = fem.models.heat(self.V, {"boundary": 0.0}, source="f")
        self.steps, self.times = steps, jnp.linspace(0.0, END, steps + 1)
        self.given = self.matrices()

    def loss(self, kappa):
        given = {"kappa": kappa, "f": 1.0}
        u = fem.evolve(self.problem, 0.0, self.times, given, save="last")
        return 0.5 * jnp.sum(u**2)

    def compiled(self, largest: int):
        """Value, and value and gradient; `largest` chooses the way. The seconds, too."""
        kappa, found = jnp.ones(self.V.mesh.n_cells), []
        with mock.patch("pyimplicit.fem.linear_march.LARGEST", largest):
            for fn in (self.loss, jax.value_and_grad(self.loss)):
                begin = time.perf_counter()
                # A new function, since JAX keeps what it traced of an old one.
                ready = jax.jit(lambda k, fn=fn: fn(k)).lower(kappa).compile()
                found.append((ready, time.perf_counter() - begin))
        return found

    def matrices(self):
        """What a SciPy user has at hand: M, κ -> K and its pullback, and the load, of the
        free unknowns."""
        inertia = lambda u, v, w: u * v
        mass = fem.Problem(self.V, inertia, {"boundary": 0.0}, structure="spd")
        values, pattern = mass.matrix()
        csc = lambda v: sp.csc_array((v, (pattern.rows, pattern.cols)), pattern.shape)
        entries = lambda k: self.problem.matrix({"kappa": k, "f": 1.0})[0]
        assemble = jax.jit(entries)
        pull_back = jax.jit(lambda k, ct: jax.vjp(entries, k)[1](ct)[0])
        ones = jnp.ones(self.V.size)
        load = self.V.pattern().matvec(fem.mass_values(self.V), ones)
        load = np.asarray(load)[abs(self.V.dof_points - 0.5).max(axis=1) < 0.5 - 1e-9]
        M = csc(np.asarray(values))
        return M, lambda k: csc(np.asarray(assemble(k))), load, pull_back, pattern


def scipy_loop(heat: Heat, kappa, gradient: bool):
    """One `splu`, a loop of solves, and for the gradient a loop back."""
    M, stiffness, load, pull_back, pattern = heat.given
    h = END / heat.steps
    K = stiffness(kappa)
    lu = _factor(M + h * K)
    u = [np.zeros(len(load))]
    for _ in range(heat.steps):
        u.append(lu.solve(M @ u[-1] + h * load))
    value = 0.5 * u[-1] @ u[-1]
    if not gradient:
        return value
    ct_K, ct = np.zeros(pattern.nnz), u[-1]
    for k in reversed(range(heat.steps)):
        adjoint = lu.solve(ct, "T")
        ct_K -= h * adjoint[pattern.rows] * u[k + 1][pattern.cols]
        ct = M @ adjoint
    return value, pull_back(kappa, ct_K)


def naive_loop(heat: Heat, kappa, gradient: bool):
    """Factorises in each step, as peers without a factor cache do; scaled to all steps."""
    M, stiffness, load, *_ = heat.given
    h = END / heat.steps
    K, u = stiffness(kappa), np.zeros(len(load))
    for _ in range(FEW * (2 if gradient else 1)):
        u = _factor(M + h * K).solve(M @ u + h * load)
    return u


def _factor(A):
    how = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    return spla.splu(sp.csc_matrix(A), permc_spec="MMD_AT_PLUS_A", **how)


def race(heat: Heat, rounds: int, clock, console):
    """Least warm times, and how far the values and gradients are apart."""
    whole, loop = heat.compiled(2**40), heat.compiled(0)
    draws = np.random.default_rng(0)
    for i, what in enumerate(("forward", "forward + gradient")):
        runs = {
            "one call": lambda k, i=i: jax.block_until_ready(whole[i][0](k)),
            "compiled loop": lambda k, i=i: jax.block_until_ready(loop[i][0](k)),
            "SciPy, one splu": lambda k, i=i: scipy_loop(heat, k, i == 1),
            f"SciPy, splu in each step (from {FEW})": (
                lambda k, i=i: naive_loop(heat, k, i == 1)
            ),
        }
        least, answers = dict.fromkeys(runs, np.inf), {}
        for _ in range(rounds):
            kappa = jnp.asarray(draws.uniform(1, 2, heat.V.mesh.n_cells))
            for name, run in runs.items():
                scale = heat.steps / FEW if "each" in name else 1
                pi.engine.clear()
                begin = clock()
                answers[name] = run(kappa)
                least[name] = min(least[name], scale * (clock() - begin))
        table = Table(title=f"{what}, {len(heat.given[2])} unknowns, {heat.steps} steps")
        for head in ("", "compile [s]", "warm [s]", "/ one call", "differs by"):
            table.add_column(head, justify="right")
        first = answers["one call"]
        for name, seconds in least.items():
            made = {"one call": whole, "compiled loop": loop}.get(name)
            compile_ = f"{made[i][1]:.2f}" if made else ""
            apart = "" if "each" in name else f"{_apart(answers[name], first):.1e}"
            ratio = seconds / least["one call"]
            table.add_row(name, compile_, f"{seconds:.3f}", f"{ratio:.2f}", apart)
        console.print(table)


def _apart(a, b) -> float:
    """The largest relative difference of values (and gradients)."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="*", default=[101, 201])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    parser.add_argument("--cpu", action="store_true", help="CPU time, on a busy machine")
    arguments = parser.parse_args(argv)
    clock = time.process_time if arguments.cpu else time.perf_counter
    jax.config.update("jax_enable_x64", True)
    console = Console(width=100)
    with pi.engine.use(arguments.engine):
        if pi.engine.running() == "julia":
            pi.julia.warmup()  # its start is no part of a compilation
        console.print(f"engine: {pi.engine.running()}")
        for n in arguments.sides:
            race(Heat(n, arguments.steps), arguments.rounds, clock, console)


if __name__ == "__main__":
    main()
