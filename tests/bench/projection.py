"""Projections and transport: ratios against jaxopt, ott-jax and POT, in one run.

    pip install jaxopt ott-jax POT
    python -m tests.bench.projection [simplex section birkhoff sinkhorn exact ...]

Compile time and warm time apart, forward and gradient; see `tests/bench/implicit.py`.
Peers that are not installed are left out.
"""

import argparse
import contextlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import pyimplicit as pi

from .implicit import compare
from .qp import peer


with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jaxopt announces its end at import
    import jaxopt
    import jaxopt.projection


def pair(name: str, *args):
    """Ours and theirs, forward and the gradient of a weighted sum."""
    modules = {"pyimplicit": pi.projection}
    if "jaxopt" in globals():
        modules["jaxopt"] = jaxopt.projection
    forward, gradient = {}, {}
    for who, module in modules.items():
        fn = getattr(module, name)
        forward[who] = lambda x, fn=fn: fn(x, *args)
        loss = lambda x, fn=fn: jnp.sum(jnp.sin(fn(x, *args)))
        gradient[who] = jax.grad(loss)
    return forward, gradient


def both(title, name, x, console, *args, repeats=10):
    forward, gradient = pair(name, *args)
    compare(f"{title}, forward", forward, x, console, repeats)
    compare(f"{title}, gradient", gradient, x, console, repeats)


def simplex(console):
    rng = np.random.default_rng(0)
    for n in (100, 1000, 10_000, 100_000):
        both(
            f"simplex, n={n:,}",
            "projection_simplex",
            jnp.asarray(rng.normal(size=n)),
            console,
        )
    x = jnp.asarray(rng.normal(size=(1000, 100)))
    forward, gradient = pair("projection_simplex")
    for what, fns in (("forward", forward), ("gradient", gradient)):
        batched = {who: jax.vmap(fn) for who, fn in fns.items()}
        compare(f"1,000 simplices of 100, {what}", batched, x, console)


def section(console):
    rng = np.random.default_rng(0)
    n = 10_000
    w = jnp.asarray(rng.uniform(0.5, 2, size=n))
    args = (-jnp.ones(n), jnp.ones(n), w, jnp.asarray(100.0))
    x = jnp.asarray(rng.normal(size=n))
    both("box section, n=10,000", "projection_box_section", x, console, args)


def birkhoff(console):
    """jaxopt stops at 1e-3 of the gradient; its second row at the accuracy of ours."""
    rng = np.random.default_rng(0)
    n = 50
    x, v = (jnp.asarray(rng.normal(size=(n, n))) for _ in range(2))
    for name in ("projection_birkhoff", "kl_projection_birkhoff"):
        forward, _ = pair(name)
        if "jaxopt" in globals():
            how = dict(tol=1e-10, maxiter=2000, linesearch="zoom")
            solver = lambda fun, how=how: jaxopt.LBFGS(fun=fun, **how)
            theirs = getattr(jaxopt.projection, name)
            tight = lambda x, theirs=theirs, solver=solver: theirs(x, solver)
            forward["jaxopt, tol 1e-10"] = tight
        losses = {k: lambda x, f=f: jnp.sum(jnp.sin(f(x)) * v) for k, f in forward.items()}
        gradient = {k: jax.grad(loss) for k, loss in losses.items()}
        compare(f"{name}, n={n}, forward", forward, x, console, 20)
        compare(f"{name}, n={n}, gradient", gradient, x, console, 20)
        loss = jax.jit(losses["pyimplicit"])
        quotient = float(loss(x + 1e-6 * v) - loss(x - 1e-6 * v)) / 2e-6
        slopes = {k: float(jnp.sum(jax.jit(g)(x) * v)) for k, g in gradient.items()}
        told = ", ".join(f"{k} {slope:.6f}" for k, slope in slopes.items())
        console.print(f"one directional derivative: {told}; by differences {quotient:.6f}")


def clouds(n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 3)) + np.eye(3)[0]
    return jnp.asarray(((x[:, None] - y) ** 2).sum(-1))


def by_ott(eps):
    """ott-jax's plan, or None."""
    if not (solvers := peer("ott.solvers.linear.sinkhorn")):
        return None
    geometry: Any = peer("ott.geometry.geometry")
    problem: Any = peer("ott.problems.linear.linear_problem")
    solver = solvers.Sinkhorn(threshold=1e-9, max_iterations=100_000)
    pose = lambda C: problem.LinearProblem(geometry.Geometry(C, epsilon=eps))
    return lambda C: solver(pose(C)).matrix


def by_pot(C, eps=None):
    """POT's plan as a function without arguments, or None; without `eps` the exact one."""
    if not (ot := peer("ot")):
        return None
    cost, w = np.asarray(C), np.full(len(C), 1 / len(C))
    how = dict(method="sinkhorn_log", numItermax=100_000, stopThr=1e-9)
    if eps is None:
        return lambda: ot.emd(w, w, cost, numItermax=10_000_000)
    return lambda: ot.sinkhorn(w, w, cost, eps, **how)


def sinkhorn(console):
    """Point clouds in three dimensions; all to an error of 1e-9 in the marginals."""
    for n, eps in ((200, 1.0), (200, 0.1), (1000, 0.5)):
        C, title = clouds(n), f"Sinkhorn, n={n:,}, ε={eps:g}"
        ours = lambda C, eps=eps: pi.transport.sinkhorn(C, epsilon=eps, rtol=1e-9).plan
        fns: dict[str, Callable] = {"pyimplicit": ours}
        if theirs := by_ott(eps):
            fns["ott-jax"] = theirs
        compare(f"{title}, forward", fns, C, console, 3)
        _elsewhere(console, "POT, sinkhorn_log", by_pot(C, eps), ours(C))
        gradient = {
            k: jax.grad(lambda C, f=f: jnp.sum(jnp.sin(C) * f(C))) for k, f in fns.items()
        }
        compare(f"{title}, gradient", gradient, C, console, 3)


def exact(console):
    for n in (100, 400):
        C, ours = clouds(n), lambda C: pi.transport.exact(C).plan
        compare(f"exact transport, n={n:,}", {"pyimplicit": ours}, C, console, 3)
        _elsewhere(console, "POT, emd", by_pot(C), ours(C))


def _elsewhere(console, name, run, ours):
    """A solver outside JAX."""
    if run is None:
        return
    begin = time.perf_counter()
    apart = np.abs(run() - np.asarray(ours)).max()
    took = time.perf_counter() - begin
    console.print(f"{name}: {1e3 * took:.1f} ms, differs by {apart:.1e}")


RUNS = {
    "simplex": simplex,
    "section": section,
    "birkhoff": birkhoff,
    "sinkhorn": sinkhorn,
    "exact": exact,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", default=list(RUNS), help=", ".join(RUNS))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console(width=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jaxopt's
        for name in args.runs:
            RUNS[name](console)


if __name__ == "__main__":
    main()
