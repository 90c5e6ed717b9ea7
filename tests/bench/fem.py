"""Finite elements: ratios against scikit-fem, in one run.

    pip install scikit-fem; python -m tests.bench.fem [assembly gradient newton memory]

Compile time and warm time apart. Peers take turns of three calls each, and the least of
all counts: the first call of a turn finds the caches as another peer has left them.
`--scale 0.1` takes a tenth of the cells. `memory`: of programs of a nonlinear problem on a
million triangles, as XLA plans it; nothing is run.
"""

import argparse
import contextlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, Problem, dot, grad


with contextlib.suppress(ImportError):
    import skfem
    from skfem.models.poisson import laplace


def race(title: str, runs: dict, console, repeats: int = 5):
    """Least warm times of functions without arguments; the first is ours."""
    least = dict.fromkeys(runs, np.inf)
    for _ in range(repeats):
        for name, run in runs.items():
            for _ in range(3):
                begin = time.perf_counter()
                run()
                least[name] = min(least[name], time.perf_counter() - begin)
    table = Table(title=title)
    for head in ("", "warm [ms]", "/ ours"):
        table.add_column(head, justify="right")
    first = least[next(iter(least))]
    for name, seconds in least.items():
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{seconds / first:.2f}")
    console.print(table)


def compiled(fn, *args):
    """A call of the compiled function, and the seconds that compiling took."""
    begin = time.perf_counter()
    ready = jax.jit(fn).lower(*args).compile()
    seconds = time.perf_counter() - begin
    run = lambda: jax.block_until_ready(ready(*args))
    run()
    return run, seconds


def assembly(console, scale: float):
    """Stiffness matrices of 500,000 triangles and 300,000 tetrahedra."""
    n, m = round(500 * scale**0.5), round(37 * scale ** (1 / 3))
    for mesh in (Mesh.rectangle(n, n), Mesh.box(m, m, m)):
        _matrices(mesh, console)


def _matrices(mesh: Mesh, console):
    V = FunctionSpace(mesh)
    kind, cells = next(iter(mesh.cells.items()))
    kappa = jnp.asarray(np.random.default_rng(0).uniform(1, 2, mesh.n_cells))
    form = lambda u, v, w: w.k * dot(grad(u), grad(v))
    problem = Problem(V, form)
    cached, a = compiled(lambda k: fem.diffusion_values(V, k), kappa)
    entries = jnp.asarray(np.random.default_rng(1).normal(size=cached().shape))
    transposed = lambda k, ct: jax.vjp(lambda k: fem.diffusion_values(V, k), k)[1](ct)[0]
    back, b = compiled(transposed, kappa, entries)
    total = lambda k: jnp.sum(fem.diffusion_values(V, k) ** 2)
    gradient, _ = compiled(jax.value_and_grad(total), kappa)
    generic, c = compiled(lambda k: problem.matrix({"k": k})[0], kappa)
    runs = {"pyimplicit, cached": cached, "its VJP": back}
    runs["value and gradient of its sum of squares"] = gradient
    runs["pyimplicit, any form"] = generic
    if "skfem" in globals():
        theirs = skfem.MeshTri if kind == "triangle" else skfem.MeshTet
        element = skfem.ElementTriP1 if kind == "triangle" else skfem.ElementTetP1
        peer = theirs(mesh.points.T.copy(), cells.T.copy())
        runs["scikit-fem"] = lambda: laplace.assemble(skfem.Basis(peer, element()))
        basis = skfem.Basis(peer, element())
        runs["scikit-fem, basis kept"] = lambda: laplace.assemble(basis)
    race(f"stiffness matrix, {mesh.n_cells} {kind} cells", runs, console)
    console.print(f"compile: cached {a:.2f} s, VJP {b:.2f} s, any form {c:.2f} s")


def gradient(console, scale: float):
    """(forward + gradient) / forward of linear problems."""
    n = round(500 * scale**0.5)
    V = FunctionSpace(Mesh.rectangle(n, n))
    problem = fem.models.poisson(V, {"boundary": 0.0}, source="f")
    loss = lambda k: jnp.sum(problem.solve({"kappa": k, "f": 1.0}) ** 2)
    draws = iter(np.random.default_rng(0).uniform(1, 2, (100, V.mesh.n_cells)))
    _ratio(f"linear, {V.size} unknowns", loss, draws, console)


def newton(console, scale: float):
    """The same for a nonlinear problem of n Newton steps: at best 1 + 1/n."""
    n = round(150 * scale**0.5)
    V = FunctionSpace(Mesh.rectangle(n, n))
    form = lambda u, v, w: (w.k + u**2) * dot(grad(u), grad(v)) - 10 * v
    problem = Problem(V, form, {"boundary": 0.0}, structure="general")
    solve = lambda k: problem.solve({"k": k}, throw=False, solver=pi.Newton())
    draws = iter(np.random.default_rng(0).uniform(1, 2, (100, V.mesh.n_cells)))
    steps = jax.jit(lambda k: solve(k).stats["iterations"])(next(draws))
    loss = lambda k: jnp.sum(solve(k).value ** 2)
    _ratio(f"{steps} Newton steps, {V.size} unknowns", loss, draws, console)


def memory(console, scale: float):
    """What a residual, and a solve with its gradient, hold beside what is given."""
    n = round(707 * scale**0.5)
    V = FunctionSpace(Mesh.rectangle(n, n))
    form = lambda u, v, w: (w.k + u**2) * dot(grad(u), grad(v)) - 10 * v
    problem = Problem(V, form, {"boundary": 0.0}, structure="general")
    loss = lambda k: jnp.sum(problem.solve({"k": k}) ** 2)
    kappa = jax.ShapeDtypeStruct((V.mesh.n_cells,), jnp.float64)
    table = Table(title=f"memory, {V.mesh.n_cells} triangles, {V.size} unknowns")
    for head in ("", "given [MB]", "beside it [MB]"):
        table.add_column(head, justify="right")
    for name, fn in (("solve", loss), ("with gradient", jax.value_and_grad(loss))):
        plan = jax.jit(fn).lower(kappa).compile().memory_analysis()
        assert plan is not None
        sizes = plan.argument_size_in_bytes, plan.temp_size_in_bytes
        table.add_row(name, *(f"{size / 1e6:.0f}" for size in sizes))
    console.print(table)


def _ratio(title, loss, draws, console):
    """New coefficients each time, so that no factor is found again between calls."""
    first = jnp.asarray(next(draws))
    forward, both = jax.jit(loss), jax.jit(jax.value_and_grad(loss))
    for fn in (forward, both):
        jax.block_until_ready(fn(first))
    run = lambda fn: jax.block_until_ready(fn(jnp.asarray(next(draws))))
    runs = {"forward": lambda: run(forward), "forward + gradient": lambda: run(both)}
    race(title, runs, console)


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", default=["assembly", "gradient", "newton"])
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    console = Console()
    console.print(f"engine: {pi.engine.running()}")
    for part in arguments.parts:
        {"assembly": assembly, "gradient": gradient, "newton": newton, "memory": memory}[
            part
        ](console, arguments.scale)


if __name__ == "__main__":
    main()
