"""Equilibrium layers against their peers, in one run.

    pip install jaxopt torch torchdeq anchorax einops banax (banax from Python 3.12 on)
    python -m tests.bench.deq [cell toy ode]

`cell`: forward and backward of z = tanh(W z + x), 256 wide, batch 64, 1e-8, float64.
torchdeq with `ift=True`: its default gradient is one step, not exact. anchorax has inexact
gradients only, and is named so; it and banax solve a batch as one problem. `toy`: what
Jacobian regularisation does to a fit of 200 weights (Bai et al. 2021, Section 4.1). `ode`:
pi.ode beside bare diffrax.
"""

import argparse
import contextlib
import functools
import time
import warnings
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import pyimplicit as pi

from .implicit import compare


with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jaxopt
with contextlib.suppress(ImportError):
    import torch  # pyright: ignore[reportMissingImports]
    import torchdeq  # pyright: ignore[reportMissingImports]
with contextlib.suppress(ImportError):
    import anchorax.backprop  # pyright: ignore[reportMissingImports]
    import anchorax.solvers  # pyright: ignore[reportMissingImports]

with contextlib.suppress(ImportError):
    import banax.adjoint  # pyright: ignore[reportMissingImports]
    import banax.solver  # pyright: ignore[reportMissingImports]

WIDE, BATCH, TOL = 256, 64, 1e-8


class Tanh(eqx.Module):
    W: jax.Array

    def __call__(self, z, x):
        return jnp.tanh(self.W @ z + x)


class Rows(eqx.Module):  # anchorax solves a whole batch as one problem
    W: jax.Array

    def __call__(self, z, x, **kwargs):
        del kwargs
        return jnp.tanh(z @ self.W.T + x)


def data():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(WIDE, WIDE)) / np.sqrt(WIDE) * 0.8
    return W, rng.normal(size=(BATCH, WIDE))


def jax_losses(x) -> dict:
    """Name -> loss of W."""
    u: dict[str, Any] = dict(rtol=0.0, atol=TOL)

    def ours(**how):
        def loss(W):
            deq = pi.deq.DEQ(Tanh(W), **{**u, **how})
            return jnp.sum(jax.vmap(lambda x: deq(x).value)(x) ** 2)

        return loss

    how: dict[str, Any] = dict(jacobian=pi.MatrixFree(), rtol=TOL)
    long = pi.Implicit(**how)
    # A Krylov basis for each of 64 samples is most of the adjoint's memory traffic.
    exact = pi.Implicit(pi.GMRES(TOL, TOL, restart=12), **how)
    two_term = pi.Implicit(lx.BiCGStab(TOL, TOL), **how)
    k = 40  # as many steps as Picard needs
    losses = {
        "pyimplicit Anderson": ours(adjoint=exact),
        "pyimplicit Picard": ours(solver=pi.Picard(), adjoint=exact),
        "Picard, adjoint GMRES(30)": ours(solver=pi.Picard(), adjoint=long),
        "Picard, adjoint BiCGStab": ours(solver=pi.Picard(), adjoint=two_term),
        "pyimplicit Reversible": ours(adjoint=pi.Reversible(0.8)),
        "pyimplicit OneStep (inexact)": ours(adjoint=pi.OneStep()),
        f"weight-tied, {k} steps": ours(solver=pi.Picard(), adjoint=pi.Unroll(k)),
    }
    if "jaxopt" in globals():
        tanh = lambda z, W, x: Tanh(W)(z, x)
        solver = jaxopt.AndersonAcceleration(
            tanh, tol=TOL, maxiter=100, history_size=5, mixing_frequency=1, jit=True
        )
        run = lambda W, x: solver.run(jnp.zeros(WIDE), W, x).params
        losses["jaxopt Anderson"] = lambda W: jnp.sum(jax.vmap(run, (None, 0))(W, x) ** 2)
    if "anchorax" in globals():

        def loss(W):
            params, static = eqx.partition(Rows(W), eqx.is_array)
            z, *_ = anchorax.backprop.jfb(
                (params, x), static, solver=anchorax.solvers.picard, eps=TOL,
                max_depth=200, key=jax.random.key(0),
            )  # fmt: skip
            return jnp.sum(z**2)

        losses["anchorax JFB (inexact)"] = loss
    if "banax" in globals():
        same = dict(rtol=0.0, atol=TOL * (WIDE * BATCH) ** 0.5, max_steps=200)
        picard = banax.solver.Picard(**same)
        adjoints = {
            "banax Picard": banax.adjoint.Implicit(picard, picard),
            "banax Reversible": banax.adjoint.Reversible(banax.solver.Reversible(**same)),
        }
        rows = lambda z, W: jnp.tanh(z @ W.T + x)
        for name, way in adjoints.items():
            whole = lambda W, way=way: way((rows, (W,)), jnp.zeros_like(x)).value
            losses[name] = lambda W, whole=whole: jnp.sum(whole(W) ** 2)
    return losses


def cell(console):
    W, x = data()
    losses = jax_losses(jnp.asarray(x))
    forward = {k: lambda W, f=f: f(W) * jnp.ones_like(W) for k, f in losses.items()}
    compare("forward", forward, jnp.asarray(W), console, 5)
    gradients = {k: jax.grad(f) for k, f in losses.items()}
    compare("forward and backward", gradients, jnp.asarray(W), console, 5)
    if "torchdeq" in globals():
        torch_cell(console, W, x, losses["pyimplicit Picard"])


def torch_cell(console, W, x, loss):
    """torchdeq's solvers after ours; the least of twelve runs counts."""
    torch.set_num_threads(2)
    table = Table(title="torchdeq, ift=True, beside Picard with adjoint GMRES(12)")
    for head in ("", "forward [ms]", "and backward [ms]", "over ours", "differs by"):
        table.add_column(head, justify="right")
    rows, given = torch.tensor(x), jnp.asarray(W)
    forward, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    exact, _ = np.asarray(gradient(given)), forward(given)

    def ours():
        begin = time.perf_counter()
        forward(given).block_until_ready()
        middle = time.perf_counter()
        gradient(given).block_until_ready()
        return middle - begin, time.perf_counter() - middle, exact

    def theirs(solver):
        deq = torchdeq.get_deq(
            ift=True, f_solver=solver, b_solver=solver, f_tol=TOL, b_tol=TOL,
            f_max_iter=100, b_max_iter=100,
        )  # fmt: skip
        weight = torch.tensor(W, requires_grad=True)
        begin = time.perf_counter()
        z, _ = deq(lambda z: torch.tanh(z @ weight.T + rows), torch.zeros_like(rows))
        middle = time.perf_counter()
        (z[-1] ** 2).sum().backward()
        end = time.perf_counter()
        assert weight.grad is not None
        return middle - begin, end - begin, weight.grad.numpy()

    runs = {"pyimplicit": ours}
    for solver in ("fixed_point_iter", "anderson", "broyden"):
        runs[solver] = functools.partial(theirs, solver)
    best = {name: [np.inf, np.inf, 0.0] for name in runs}
    for (
        name,
        run,
    ) in runs.items():  # not in turn: the two pools of threads disturb each other
        for _ in range(12):
            *seconds, grad = run()
            apart = np.abs(grad - exact).max()
            best[name] = [*map(min, best[name], seconds), apart]
    for name, (first, both, apart) in best.items():
        ratio = f"{both / best['pyimplicit'][1]:.2f}"
        table.add_row(
            name, f"{1e3 * first:.1f}", f"{1e3 * both:.1f}", ratio, f"{apart:.1e}"
        )
    console.print(table)


def toy(console, steps: int = 2000):
    """y = 1.5 x³ + x² - 5 x + 2 sin x - 3 + N(0, 0.05) on [-2, 2], 5,096 pairs."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 5096)
    y = 1.5 * x**3 + x**2 - 5 * x + 2 * np.sin(x) - 3 + rng.normal(0, 0.05, x.size)
    x, y = jnp.asarray(x), jnp.asarray(y)
    keys = jax.random.split(jax.random.key(0), 3)
    start = {
        "W1": jax.random.normal(keys[0], (50,)) * 0.3,
        "U": jax.random.normal(keys[1], (50,)),
        "b": jnp.zeros(50),
        "W2": jax.random.normal(keys[2], (50,)) / 7,
    }

    def step(z, data):
        w, x = data
        return w["W2"] @ jax.nn.relu(w["W1"] * z + w["U"] * x + w["b"])

    deq = pi.deq.DEQ(
        step, pi.Anderson(memory=2), init=lambda d: 0.0 * d[1], rtol=0.0, atol=1e-6,
        max_steps=60, throw=False,
    )  # fmt: skip

    def solve(w, x, y, key):
        found = deq((w, x))
        J2 = pi.deq.jacobian_frobenius(step, found.value, (w, x), key=key)
        ok = found.status == 0
        return jnp.where(ok, (found.value - y) ** 2, 0.0), jnp.where(ok, J2, 0.0), found

    batch = jax.vmap(solve, (None, 0, 0, None))

    def loss(w, x, y, gamma, key):
        error, J2, _ = batch(w, x, y, key)
        return jnp.mean(error) + gamma * jnp.mean(J2)

    optimiser = optax.adam(3e-3)

    @jax.jit
    def train(gamma):
        def body(carry, key):
            w, state = carry
            at = jax.random.randint(key, (256,), 0, x.size)
            grads = jax.grad(loss)(w, x[at], y[at], gamma, key)
            updates, state = optimiser.update(grads, state)
            return (optax.apply_updates(w, updates), state), None

        keys = jax.random.split(jax.random.key(1), steps)
        (w, _), _ = jax.lax.scan(body, (start, optimiser.init(start)), keys)
        return w, batch(w, x, y, keys[0])

    table = Table(title=f"Jacobian regularisation, {steps} steps of Adam")
    for head in ("gamma", "loss", "J²", "evaluations, mean", "most", "not converged"):
        table.add_column(head, justify="right")
    for gamma in (0.0, 2.0, 4.0):
        _, (error, J2, found) = train(gamma)
        n, bad = found.stats["iterations"], found.status != 0
        mean = jnp.sum(error) / jnp.sum(~bad)
        row = f"{mean:.4f}", f"{jnp.mean(J2):.4f}", f"{jnp.mean(n):.1f}", f"{jnp.max(n)}"
        table.add_row(f"{gamma:g}", *row, f"{100 * jnp.mean(bad):.1f} %")
    console.print(table)


def ode(console):
    """Lotka-Volterra to t = 10, value and gradient."""

    def field(t, y, p):
        prey, predator = y
        return jnp.stack([p[0] * prey + p[1] * prey * predator,
                          p[2] * predator + p[3] * prey * predator])  # fmt: skip

    y0, t = jnp.ones(2), jnp.linspace(0.0, 10.0, 20)
    tol: dict[str, Any] = dict(rtol=1e-6, atol=1e-6)
    ours = lambda p: jnp.sum(pi.ode.odeint(field, y0, t, p, **tol).value ** 2)
    bare: Any = diffrax.diffeqsolve
    theirs = lambda p: jnp.sum(
        bare(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t[0],
            t[-1],
            None,
            y0,
            p,
            saveat=diffrax.SaveAt(ts=t),
            stepsize_controller=diffrax.PIDController(**tol),
        ).ys
        ** 2
    )
    fns = {"pyimplicit": jax.grad(ours), "diffrax": jax.grad(theirs)}
    compare("gradient through an ODE", fns, jnp.array([1.5, -1.0, -3.0, 1.0]), console)


RUNS = {"cell": cell, "toy": toy, "ode": ode}


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
