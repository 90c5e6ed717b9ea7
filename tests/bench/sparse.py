"""Sparse solves and calls: ratios against bare CHOLMOD, jax's spsolve, pure_callback.

    python -m tests.bench.sparse [--sides 100 300 500] [--repeats 5] [--skip-spsolve]

value_and_grad of sum(x**2), x = A(v)^-1 1, for the 5-point Laplacian on side x side nodes;
every timed call has new values, so every one factorises; the factor cache is full, as in a
loop of many iterates. Medians, warm; compile time apart.
"""

import argparse
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse.linalg import spsolve
from rich.console import Console
from rich.table import Table

import pyimplicit as pi

from ..problems import laplacian


def median_time(fn, inputs) -> float:
    """Seconds of `fn`, the median over the inputs."""
    times = []
    for x in inputs:
        begin = time.perf_counter()
        jax.block_until_ready(fn(x))
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def compile_and_time(loss, values, repeats):
    """(seconds to trace and compile, seconds of a warm call) of value_and_grad."""
    begin = time.perf_counter()
    fn = jax.jit(jax.value_and_grad(loss)).lower(values).compile()
    compiled = time.perf_counter() - begin
    fill_cache(fn, values)
    fresh = [values * (1 + 1e-3 * k) for k in range(1, repeats + 1)]
    return compiled, median_time(fn, fresh)


def fill_cache(fn, values) -> None:
    """Calls until the factor cache is full, as it is in a loop of many iterates; before
    that each factor is written to memory that the system has to map first."""
    kept = -1
    for k in range(200):
        jax.block_until_ready(fn(values * (1 + 1e-5 * k)))
        before, kept = kept, pi.engine.counters()["bytes"]
        if kept <= before or kept == 0:
            return


def losses(A):
    """The loss by this package, and by jax's spsolve; `A` in coordinate form."""
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "spd")
    b = jnp.ones(A.shape[0])
    order = np.lexsort((A.col, A.row))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(A.row))])
    indices, indptr = jnp.asarray(A.col[order]), jnp.asarray(indptr, jnp.int32)
    ours = lambda v: jnp.sum(pi.sparse_solve(pattern, v, b) ** 2)
    theirs = lambda v: jnp.sum(spsolve(v[order], indices, indptr, b, tol=0) ** 2)
    return ours, theirs


def solves(sides, repeats, with_spsolve, console):
    table = Table(title="value_and_grad of a sparse Poisson solve, seconds (warm)")
    for head in (
        "unknowns",
        "bare CHOLMOD",
        "julia",
        "ratio",
        "host",
        "spsolve",
        "spsolve/julia",
        "compile julia",
    ):
        table.add_column(head, justify="right")
    has_julia = pi.engine.available()["julia"] is None
    for side in sides:
        A = laplacian(side)
        values = jnp.asarray(A.data)
        ours, theirs = losses(A)
        bare = julia = compiled = float("nan")
        if has_julia:
            with pi.engine.use("julia"):
                pi.engine.clear()
                compiled, julia = compile_and_time(ours, values, repeats)
                pi.engine.clear()
            bare = bare_cholmod(A, repeats)
        with pi.engine.use("host"):
            _, host = compile_and_time(ours, values, max(repeats // 2, 1))
            pi.engine.clear()
        other = float("nan")
        if with_spsolve and side <= 300:
            _, other = compile_and_time(theirs, values, 1)
        table.add_row(
            f"{A.shape[0]:,}",
            f"{bare:.4f}",
            f"{julia:.4f}",
            f"{julia / bare:.2f}",
            f"{host:.4f}",
            f"{other:.3f}",
            f"{other / julia:.1f}",
            f"{compiled:.2f}",
        )
    console.print(table)


def bare_cholmod(A, repeats) -> float:
    from juliacall import Main  # pyright: ignore[reportAttributeAccessIssue]

    pi.julia.include(Path(__file__).with_name("bare_cholmod.jl"))
    seconds = Main.BareCholmod.seconds
    return float(seconds(A.row, A.col, A.data, A.shape[0], repeats))


def calls(console):
    """The cost of crossing over, for a vector of 10 numbers."""
    pi.julia.include(Path(__file__).parents[1] / "julia_functions.jl")
    like = lambda x: x
    thrice = lambda x: 3 * x
    native = jax.jit(thrice)
    julia = jax.jit(pi.julia.function("BridgeTests.thrice", like))
    callback = jax.jit(lambda x: jax.pure_callback(lambda x: 3 * np.asarray(x), x, x))
    table = Table(title="one jitted call, microseconds (median of 2000)")
    for head in ("size", "native", "julia", "overhead", "pure_callback"):
        table.add_column(head, justify="right")
    for size in (10, 1000, 100_000):
        x = jnp.arange(float(size))
        row = []
        for fn in (native, julia, callback):
            fn(x).block_until_ready()
            row.append(1e6 * median_time(fn, [x] * 2000))
        table.add_row(
            f"{size:,}",
            f"{row[0]:.1f}",
            f"{row[1]:.1f}",
            f"{row[1] - row[0]:.1f}",
            f"{row[2]:.1f}",
        )
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="*", default=[100, 300, 500])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-spsolve", action="store_true")
    parser.add_argument("--cache", type=int, default=256, help="bound on factors [MiB]")
    args = parser.parse_args()
    os.environ["PYIMPLICIT_CACHE_BYTES"] = str(args.cache * 2**20)
    jax.config.update("jax_enable_x64", True)
    console = Console(width=120)
    if pi.engine.available()["julia"] is None:
        pi.julia.warmup()
        calls(console)
    solves(args.sides, args.repeats, not args.skip_spsolve, console)


if __name__ == "__main__":
    main()
