"""Implicit layers: ratios against jaxopt and optimistix, in one run.

    pip install jaxopt; python -m tests.bench.implicit [lm unroll small sparse gradient ...]

Compile time (trace, lower, compile) and warm time apart. Warm calls of all peers are
interleaved and the least counts, so a busy machine disturbs all of them alike.
"""

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from rich.console import Console
from rich.table import Table

import pyimplicit as pi


with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jaxopt announces its end at import
    import jaxopt


def compare(title: str, fns: dict[str, Callable], arg, console, repeats: int = 10):
    """Compiles and times functions of one argument; the first is ours."""
    ready, answers = {}, {}
    table = Table(title=title)
    for head in ("", "compile [s]", "warm [ms]", "warm / ours", "differs by"):
        table.add_column(head, justify="right")
    seconds = {}
    for name, fn in fns.items():
        begin = time.perf_counter()
        ready[name] = jax.jit(fn).lower(arg).compile()
        seconds[name] = [time.perf_counter() - begin, np.inf]
        answers[name] = np.asarray(jax.block_until_ready(ready[name](arg)))
    for _ in range(repeats):
        for name, fn in ready.items():
            begin = time.perf_counter()
            jax.block_until_ready(fn(arg))
            seconds[name][1] = min(seconds[name][1], time.perf_counter() - begin)
    first, *_ = fns
    for name, (compiled, warm) in seconds.items():
        ratio = warm / seconds[first][1]
        apart = np.abs(answers[name] - answers[first]).max()
        row = f"{compiled:.2f}", f"{1e3 * warm:.3f}", f"{ratio:.2f}", f"{apart:.1e}"
        table.add_row(name, *row)
    console.print(table)


def lotka_volterra():
    """Residuals of a fit: 4 parameters, 3 initial conditions, 20 times."""

    def field(t, y, args):
        prey, predator = y
        a, b, c, d = args
        return jnp.stack(
            [a * prey - b * prey * predator, -c * predator + d * prey * predator]
        )

    times = jnp.linspace(0.5, 10.0, 20)
    starts = jnp.array([[10.0, 10.0], [5.0, 10.0], [20.0, 10.0]])

    def paths(parameters):
        def one(y0):
            return diffrax.diffeqsolve(
                diffrax.ODETerm(field), diffrax.Tsit5(), 0.0, 10.0, 0.01, y0, parameters,
                saveat=diffrax.SaveAt(ts=times), max_steps=4096,
                stepsize_controller=diffrax.PIDController(rtol=1e-3, atol=1e-6),
                adjoint=diffrax.ForwardMode(),
            ).ys  # fmt: skip

        return jax.vmap(one)(starts)

    truth = jnp.array([0.1, 0.02, 0.4, 0.02])
    data = paths(truth)
    return lambda p: (paths(p) - data).reshape(-1), 1.1 * truth


def lm(console):
    residual, start = lotka_volterra()
    fit = lambda z, _: residual(z)
    for title, steps, tol in (("one step of a", 2, 1e-8), ("a whole", 256, 1e-6)):
        how = {"rtol": tol, "atol": tol, "max_steps": steps, "throw": False}
        compare(
            f"{title} Levenberg-Marquardt fit, Lotka-Volterra",
            fits(fit, how),
            start,
            console,
        )


def fits(fit, how) -> dict[str, Callable]:
    """Ours and optimistix's first evaluate, then decide: two steps move once, as one of
    jaxopt's does."""
    ours = lambda p: pi.least_squares(fit, p, options={"jac": "fwd"}, **how).value

    def theirs(**options):
        solver = optx.LevenbergMarquardt(how["rtol"], how["atol"], **options)
        stop = {"max_steps": how["max_steps"], "throw": False}
        return lambda p: optx.least_squares(fit, solver, p, **stop).value

    fns = {
        "pyimplicit": ours,
        "optimistix QR": theirs(),
        "optimistix Cholesky": theirs(linear_solver=lx.Normal(lx.Cholesky())),
    }
    if "jaxopt" in globals():
        maxiter = 1 if how["max_steps"] == 2 else how["max_steps"]
        for method in ("cholesky", "qr"):
            solver = jaxopt.LevenbergMarquardt(
                lambda p: fit(p, None), maxiter=maxiter, solver=method, tol=how["rtol"],
                materialize_jac=True, jit=True, implicit_diff=False,
            )  # fmt: skip
            fns[f"jaxopt {method}"] = lambda p, solver=solver: solver.run(p).params
    return fns


def unroll(console):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(100, 100))
    A = jnp.asarray(A @ A.T / 100 + np.eye(100))
    objective = lambda z, p: z @ (A @ z) - p @ z
    for max_steps in (1000, 10_000, 100_000):
        fns = unrolled(objective, max_steps)
        title = f"gradient through unrolled gradient descent, max_steps={max_steps:,}"
        compare(title, fns, jnp.ones((1, 100)), console, repeats=5)


def unrolled(objective, max_steps: int) -> dict[str, Callable]:
    zero = jnp.zeros(100)
    ours = lambda adjoint: lambda p: pi.minimize(
        objective, zero, p, solver=pi.GradientDescent(stepsize=0.1),
        rtol=1e-4, atol=1e-4, adjoint=adjoint, max_steps=max_steps,
    ).value.sum()  # fmt: skip
    theirs = lambda p: optx.minimise(
        objective, optx.GradientDescent(0.1, 1e-4, 1e-4), zero, p,
        max_steps=max_steps, adjoint=optx.RecursiveCheckpointAdjoint(),
    ).value.sum()  # fmt: skip
    losses = {  # the peers have reverse mode only; the second row has both
        "pyimplicit, checkpoints": ours(pi.Unroll(checkpoints=64)),
        "pyimplicit": ours(pi.Unroll()),
        "optimistix": theirs,
    }
    if "jaxopt" in globals() and max_steps <= 10_000:
        solver = jaxopt.GradientDescent(
            objective, maxiter=max_steps, stepsize=0.1, acceleration=False, tol=1e-4,
            implicit_diff=False, unroll=True, jit=True,
        )  # fmt: skip
        losses["jaxopt"] = lambda p: solver.run(zero, p).params.sum()
    return {name: jax.vmap(jax.grad(loss)) for name, loss in losses.items()}


def small(console):
    A = jnp.array([[2.0, -1.0, 0.0], [1.0, 3.0, 0.5], [0.0, -0.7, 1.5]])
    fn = lambda z, p: A @ z + z**3 - p
    batch = 10 * jnp.asarray(np.random.default_rng(0).normal(size=(1000, 3)))
    zero = jnp.zeros(3)
    ours = lambda p: pi.root(fn, zero, p, rtol=1e-8, atol=1e-8).value
    theirs = lambda p: optx.root_find(fn, optx.Newton(1e-8, 1e-8), zero, p).value
    solvers = {"pyimplicit Newton": ours, "optimistix Newton": theirs}
    if "jaxopt" in globals():
        broyden = jaxopt.Broyden(fn, tol=1e-8, maxiter=100)
        solvers["jaxopt Broyden"] = lambda p: broyden.run(zero, p).params
    compare("1,000 roots of 3 unknowns", {k: jax.vmap(f) for k, f in solvers.items()},
            batch, console)  # fmt: skip
    gradients = {
        k: jax.vmap(jax.grad(lambda p, f=f: jnp.sum(f(p)))) for k, f in solvers.items()
    }
    compare("their gradients", gradients, batch, console)


def advection(n: int):
    """-Δu + 20 ∂u/∂x + k u³ = 100 on n x n nodes, and its sparsity."""
    h = 1 / (n + 1)

    def fn(u, k):
        p = jnp.pad(u.reshape(n, n), 1)
        w, e, s, t = p[1:-1, :-2], p[1:-1, 2:], p[:-2, 1:-1], p[2:, 1:-1]
        u2 = p[1:-1, 1:-1]
        laplacian = (4 * u2 - w - e - s - t) / h**2
        return (laplacian + 20 * (u2 - w) / h + k * u2**3 - 100.0).reshape(-1)

    i = np.arange(n * n)
    row, col = np.divmod(i, n)
    rows, cols = [i], [i]
    for dr, dc in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        r, c = row + dr, col + dc
        inside = (r >= 0) & (r < n) & (c >= 0) & (c < n)
        rows.append(i[inside])
        cols.append((r * n + c)[inside])
    shape = (n * n, n * n)
    return fn, pi.SparsePattern(np.concatenate(rows), np.concatenate(cols), shape)


def sparse(console):
    """What optimistix can do at this size: matrix-free GMRES, or dense at 2,500."""
    for n, peers in ((50, ("dense", "GMRES")), (316, ("GMRES",))):
        fn, pattern = advection(n)
        solvers = {
            p: lx.LU() if p == "dense" else lx.GMRES(1e-6, 1e-6, restart=50) for p in peers
        }
        fns = sparse_roots(fn, pattern, jnp.zeros(n * n), solvers)
        title = f"value and gradient of a sparse root, {n * n:,} unknowns"
        compare(title, fns, jnp.array(50.0), console, repeats=1)


def sparse_roots(fn, pattern, zero, solvers) -> dict[str, Callable]:
    def theirs(linear):
        newton = optx.Newton(1e-8, 1e-8, linear_solver=linear)
        adjoint = optx.ImplicitAdjoint(linear)
        return lambda k: optx.root_find(
            fn, newton, zero, k, adjoint=adjoint, throw=False
        ).value.mean()

    losses = {"pyimplicit": lambda k: pi.root(fn, zero, k, jacobian=pattern).value.mean()}
    losses |= {f"optimistix {name}": theirs(linear) for name, linear in solvers.items()}
    both = lambda loss: lambda k: jnp.stack(jax.value_and_grad(loss)(k))
    return {name: both(loss) for name, loss in losses.items()}


def gradient(console):
    """What a gradient costs over its forward solve."""
    rng = np.random.default_rng(0)
    n, batch = 256, 64
    W = jnp.asarray(rng.normal(size=(n, n)) / np.sqrt(n) * 0.8)
    X = jnp.asarray(rng.normal(size=(batch, n)))
    tanh = lambda z, p: jnp.tanh(p[0] @ z + p[1])
    adjoints = {
        "Implicit (GMRES)": pi.Implicit(jacobian=pi.MatrixFree()),
        "Implicit (LU)": pi.Implicit(jacobian=pi.Dense()),
        "Unroll": pi.Unroll(),
        "Phantom(5)": pi.Phantom(5),
        "OneStep": pi.OneStep(),
    }

    def loss(adjoint):
        solve = lambda x, W: (
            pi.fixed_point(
                tanh, jnp.zeros(n), (W, x), rtol=1e-8, atol=1e-8, adjoint=adjoint
            ).value
        )
        return lambda W: jnp.sum(jax.vmap(solve, (0, None))(X, W) ** 2)

    fns = {"forward only": lambda W: loss(pi.Implicit())(W) * jnp.ones_like(W)}
    fns |= {name: jax.grad(loss(a)) for name, a in adjoints.items()}
    if "jaxopt" in globals():
        solver = jaxopt.AndersonAcceleration(
            tanh, tol=1e-8, maxiter=100, history_size=5, mixing_frequency=1, jit=True
        )
        run = lambda x, W: solver.run(jnp.zeros(n), (W, x)).params
        theirs = lambda W: jnp.sum(jax.vmap(run, (0, None))(X, W) ** 2)
        fns["jaxopt forward"] = lambda W: theirs(W) * jnp.ones_like(W)
        fns["jaxopt"] = jax.grad(theirs)
    compare(f"tanh equilibrium, {n} wide, batch {batch}: gradient in W", fns, W, console, 5)


RUNS = {"lm": lm, "unroll": unroll, "small": small, "sparse": sparse, "gradient": gradient}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", default=list(RUNS), help=", ".join(RUNS))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console(width=100)
    for name in args.runs:
        RUNS[name](console)


if __name__ == "__main__":
    main()
