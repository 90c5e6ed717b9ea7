"""Linear solves in three dimensions: ratios against SciPy, JAX and scikit-fem, in one run.

    pip install scikit-fem pyamg; python -m tests.bench.fem_solve [poisson libraries free]

`poisson`: -∇·(κ∇u) = 1 on the unit cube, n³ cells of six tetrahedra; ours by a
factorisation and by `fem.Krylov`, SciPy's SuperLU and `jax.experimental.sparse`'s spsolve
on the same matrix. `libraries`: the same with κ = 1 on meshes of size h, which scikit-fem
gets too (an idea of jNO's `compare_libs`); the answers must agree to 1e-6. JAX-FEM 0.0.11
and jNO are not among them: the first needs petsc4py, which has no wheels, and the second
is not on PyPI (the `jno` there is a tool for Arduino).

`free`: the same cubes without an assembled matrix, `Krylov(matrix_free=True)`, beside a
factorisation and CG with multigrid: CPU seconds, and how far the memory of the process
rises above what it holds before the call (Linux); each in a process of its own.

Compile time and warm time apart. New coefficients for each call, so that no factor is
found again. `--cells 30 40 50`: n.
"""

import argparse
import contextlib
import multiprocessing
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
import scipy.sparse.linalg as spla
from jax.experimental.sparse.linalg import spsolve
from rich.console import Console
from rich.table import Table

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Krylov, Mesh


with contextlib.suppress(ImportError):
    import skfem
    from skfem.models.poisson import laplace, unit_load


def cube(n: int):
    mesh = Mesh.box(n, n, n)
    V = FunctionSpace(mesh)
    return V, fem.models.poisson(V, dict.fromkeys(mesh.boundaries, 0.0), source="f")


def clock(run, repeats: int) -> float:
    """The least seconds of `run(i)`."""
    seconds = []
    for i in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run(i))
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def rows(forward, draws, repeats: int):
    """Seconds of compiling both, of `forward(κ)`, and of it with its gradient."""
    found, compiling = [], 0.0
    for fn in (forward, jax.value_and_grad(forward)):
        begin = time.perf_counter()
        ready = jax.jit(fn).lower(draws[0]).compile()
        compiling += time.perf_counter() - begin
        jax.block_until_ready(ready(next(draws)))
        found.append(clock(lambda _, ready=ready: ready(next(draws)), repeats))
    return compiling, *found


class Draws:
    """New coefficients for each call."""

    def __init__(self, n: int):
        self.n, self.rng = n, np.random.default_rng(0)

    def __next__(self):
        return jnp.asarray(self.rng.uniform(1, 2, self.n))

    def __getitem__(self, _):
        return next(self)


def poisson(console, sizes):
    for n in sizes:
        V, problem = cube(n)
        draws, repeats = Draws(V.mesh.n_cells), 3 if n <= 30 else 2
        matrix = jax.jit(
            lambda k, problem=problem: problem.matrix({"kappa": k, "f": 0.0})[0]
        )
        pattern = problem.pattern
        assert pattern is not None
        table = Table(title=f"Poisson, {n}³ cells, {pattern.shape[0]} free unknowns")
        for head in ("", "compile [s]", "forward [s]", "with gradient [s]", "ratio"):
            table.add_column(head, justify="right")

        def show(name, seconds, table=table):
            compiling, forward, both = seconds
            numbers = (compiling, forward, both, both / forward)
            table.add_row(name, *(f"{x:.2f}" for x in numbers))

        def loss(k, solver=None, problem=problem):
            return jnp.sum(problem.solve({"kappa": k, "f": 1.0}, solver=solver) ** 2)

        show("pyimplicit, direct", rows(loss, draws, repeats))
        for method in ("amg", "ilu") if Krylov().chosen == "amg" else ("ilu",):
            how = Krylov("cg", method)
            solve = lambda k, how=how, loss=loss: loss(k, how)
            show(f"pyimplicit, CG with {method}", rows(solve, draws, repeats))

        order = np.lexsort((pattern.cols, pattern.rows))
        csr = sp.csr_matrix((np.ones(order.size), (pattern.rows, pattern.cols)))
        b = np.full(pattern.shape[0], 1 / n**3)

        def superlu(k, adjoint, matrix=matrix, order=order, csr=csr, b=b):
            csr.data = np.asarray(matrix(k))[order]
            lu = spla.splu(
                sp.csc_matrix(csr), permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0, options={"SymmetricMode": True},
            )  # fmt: skip
            x = lu.solve(b)
            return lu.solve(2 * x, "T") if adjoint else x

        k = next(draws)
        both = [clock(lambda _, a=a, k=k: superlu(k, a), 1) for a in (False, True)]
        show("SciPy, SuperLU", (0.0, *both))
        if n == min(sizes):
            indices, indptr = jnp.asarray(csr.indices), jnp.asarray(csr.indptr)

            def theirs(k, matrix=matrix, order=order, b=b, at=(indices, indptr)):
                i, p = jax.lax.optimization_barrier(at)  # XLA folds constants for minutes
                return jnp.sum(spsolve(matrix(k)[order], i, p, jnp.asarray(b)) ** 2)

            show("JAX, spsolve", rows(theirs, draws, 1))
        console.print(table)


def libraries(console, sizes):
    table = Table(title="-Δu = 1 on the unit cube")
    for head in ("h", "unknowns", "ours: compile [s]", "warm [s]", "scikit-fem [s]"):
        table.add_column(head, justify="right")
    table.add_column("largest difference / largest u", justify="right")
    for h in (0.08, 0.06, 0.05):
        V, problem = cube(round(1 / h))
        solve = jax.jit(lambda k, problem=problem: problem.solve({"kappa": k, "f": 1.0}))
        begin = time.perf_counter()
        ready = solve.lower(1.0).compile()
        compiling = time.perf_counter() - begin
        ready(2.0)
        near = iter(1 + 1e-12 * np.arange(1, 9))
        warm = clock(lambda _, ready=ready, near=near: ready(next(near)), 3)
        row = [f"{h}", f"{V.size}", f"{compiling:.2f}", f"{warm:.3f}"]
        if "skfem" not in globals():
            table.add_row(*row, "not installed")
            continue
        u = np.asarray(ready(1.0))
        mesh = V.mesh
        cells = next(iter(mesh.cells.values()))
        peer = skfem.MeshTet(mesh.points.T.copy(), cells.T.copy())

        def theirs(_, peer=peer):
            basis = skfem.Basis(peer, skfem.ElementTetP1())
            a, b = laplace.assemble(basis), unit_load.assemble(basis)
            return skfem.solve(*skfem.condense(a, b, D=basis.get_dofs().flatten()))

        seconds, v = clock(theirs, 2), theirs(0)
        difference = np.abs(u - v).max() / np.abs(v).max()
        table.add_row(*row, f"{seconds:.3f}", f"{difference:.1e}")
        if difference > 1e-6:
            raise SystemExit(f"The libraries differ by {difference:.1e} at h = {h}.")
    console.print(table)


METHODS = {
    "direct": lambda: None,
    "CG with amg": lambda: Krylov("cg", "amg"),
    "matrix-free, diagonal": lambda: Krylov(matrix_free=True),
    "matrix-free, chebyshev": lambda: Krylov("cg", "chebyshev", matrix_free=True),
}


def free(console, sizes):
    for n in sizes:
        table = Table(title=f"Poisson, {n}³ cells: CPU time and memory")
        for head in ("", "forward [s]", "with gradient [s]", "steps", "memory [MB]"):
            table.add_column(head, justify="right")
        for name in METHODS:
            if name == "CG with amg" and Krylov().chosen != "amg":
                continue
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                forward, both, steps, memory = alone.apply(_alone, (name, n))
            row = f"{forward:.2f}", f"{both:.2f}", f"{steps}", f"{memory:.0f}"
            table.add_row(name, *row)
        console.print(table)


def _alone(name: str, n: int):
    """Least CPU seconds of a solve and of one with its gradient, the iterations, and the
    rise of the memory of the latter [MB]."""
    jax.config.update("jax_enable_x64", True)
    V, problem = cube(n)
    how, draws = METHODS[name](), Draws(V.mesh.n_cells)
    solve = lambda k, **options: problem.solve(
        {"kappa": k, "f": 1.0}, solver=how, **options
    )
    loss = lambda k: jnp.sum(solve(k) ** 2)
    stats = jax.jit(lambda k: solve(k, throw=False).stats)(next(draws))
    seconds = []
    memory = 0.0
    for fn in (loss, jax.value_and_grad(loss)):
        ready = jax.jit(fn).lower(next(draws)).compile()
        pi.engine.clear()
        least = np.inf
        for _ in range(3):
            k = jax.block_until_ready(next(draws))
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before, begin = _memory("VmRSS"), time.process_time()
            jax.block_until_ready(ready(k))
            least = min(least, time.process_time() - begin)
            memory = max(memory, _memory("VmHWM") - before)
        seconds.append(least)
    return *seconds, int(np.max(stats.get("iterations", 0))), memory


def _memory(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=["poisson", "libraries"])
    parser.add_argument("--cells", type=int, nargs="*", default=[30, 40, 50])
    arguments = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    console = Console()
    console.print(f"engine: {pi.engine.running()}")
    for part in arguments.parts:
        {"poisson": poisson, "libraries": libraries, "free": free}[part](
            console, arguments.cells
        )


if __name__ == "__main__":
    main()
