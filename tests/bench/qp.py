"""Optimisation layers: ratios against qpax, jaxopt, PIQP, cvxpylayers, in one run.

    pip install qpax piqp jaxopt cvxpylayers
    python -m tests.bench.qp [optnet tiny sparse portfolio ...] [--scale 1.0]

Peers that are not installed are left out. PIQP and Clarabel solve a batch in a loop and
have no gradient. Compile time and warm time apart; answers are compared.
"""

import argparse
import contextlib
import importlib
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from rich.console import Console
from rich.table import Table

import pyimplicit as pi

from .implicit import compare


def peer(name):
    """A module, or None."""
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)
    return None


def optnet_data(batch, n, m, seed=0):
    """Amos, Kolter 2017, Section 4.1."""
    rng = np.random.default_rng(seed)
    L = rng.uniform(size=(batch, n, n))
    P = L @ L.transpose(0, 2, 1) + 1e-3 * np.eye(n)
    G, z0 = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, n))
    h = np.einsum("bij,bj->bi", G, z0) + rng.uniform(size=(batch, m))
    return tuple(map(jnp.asarray, (P, rng.normal(size=(batch, n)), G, h)))


def solvers(n):
    """x of one programme, by each of those who run inside JAX."""
    none = jnp.zeros((0, n)), jnp.zeros(0)
    by = lambda how: (
        lambda P, q, G, h: pi.qp(P, q, G=G, h=h, solver=pi.InteriorPoint(backend=how)).x
    )
    found = {"pyimplicit, JAX": by("jax")}
    if not pi.engine.available()["julia"]:
        found = {"pyimplicit, Julia": by("julia"), **found}
    if qpax := peer("qpax"):
        found["qpax"] = lambda P, q, G, h: qpax.solve_qp_primal(P, q, *none, G, h)
    if jaxopt := peer("jaxopt"):
        osqp = jaxopt.OSQP(tol=1e-5, maxiter=4000)
        found["jaxopt OSQP"] = lambda P, q, G, h: (
            osqp.run(params_obj=(P, q), params_ineq=(G, h)).params.primal
        )
    return found


def _batched(console, title, batch, n, m, repeats, skip=()):
    data = optnet_data(batch, n, m)
    found = {k: f for k, f in solvers(n).items() if k not in skip}
    on = lambda f: lambda data: jax.vmap(f)(*data)
    compare(title, {k: on(f) for k, f in found.items()}, data, console, repeats)
    loss = lambda f: lambda data: jnp.sum(jax.vmap(f)(*data))
    gradient = lambda f: (
        lambda data: jnp.concatenate([a.reshape(-1) for a in jax.grad(loss(f))(data)])
    )
    compare(
        f"{title}: gradient in all data", {k: gradient(f) for k, f in found.items()}, data,
        console, repeats,
    )  # fmt: skip
    _loops(console, data)


def _loops(console, data):
    """Solvers outside JAX, one programme after the other."""
    P, q, G, h = map(np.asarray, data)
    table = Table(title="the same, in a loop in Python")
    for head in ("", "[ms]", "differs by"):
        table.add_column(head, justify="right")
    ours = np.asarray(jax.vmap(lambda *a: pi.qp(a[0], a[1], G=a[2], h=a[3]).x)(*data))
    if piqp := peer("piqp"):
        begin, apart = time.perf_counter(), 0.0
        for k in range(len(P)):
            solver = piqp.DenseSolver()
            solver.setup(P[k], q[k], None, None, G[k], None, h[k])
            solver.solve()
            apart = max(apart, abs(solver.result.x - ours[k]).max())
        table.add_row("PIQP", f"{1e3 * (time.perf_counter() - begin):.1f}", f"{apart:.1e}")
        console.print(table)


def optnet(console, scale):
    _batched(
        console, "OptNet: n=100, 100 inequalities, batch 128", int(128 * scale), 100, 100, 5
    )


def tiny(console, scale):
    batch = int(10_000 * scale)
    _batched(console, f"{batch:,} programmes, n=5, m=10", batch, 5, 10, 5, ("jaxopt OSQP",))


def sparse(console, scale):
    """cvxpylayers' sparse workload: n = m = p = 1024, 1 % nonzeros, batch 32."""
    rng, n, batch = np.random.default_rng(0), 1024, int(32 * scale)
    matrix = lambda: sp.coo_array(sp.random_array((n, n), density=0.01, rng=rng))
    A, G = matrix(), matrix() + sp.eye_array(n)
    A, G = sp.coo_array(A)[: n // 4], sp.coo_array(G)
    A = sp.coo_array(A)
    place = lambda M: pi.SparsePattern(M.coords[0], M.coords[1], M.shape)
    eye = pi.SparsePattern(np.arange(n), np.arange(n), (n, n))
    operators = [pi.SparseOperator(place(M), jnp.asarray(M.data)) for M in (A, G)]
    P, x0 = pi.SparseOperator(eye, jnp.ones(n)), rng.normal(size=n)
    b, h = jnp.asarray(A @ x0), jnp.asarray(G @ x0 + rng.uniform(size=n))
    Q = jnp.asarray(rng.normal(size=(batch, n)))
    solve = lambda q: pi.qp(P, q, operators[0], b, operators[1], h).x
    dense = [M.as_matrix() for M in operators]
    same = lambda q: pi.qp(jnp.eye(n), q, dense[0], b, dense[1], h).x
    fns = {"pyimplicit, sparse": solve, "pyimplicit, dense": same}
    batched = lambda f: lambda Q: jax.lax.map(f, Q)
    fns = {"pyimplicit, sparse": jax.vmap(solve), "pyimplicit, dense": batched(same)}
    compare(f"sparse, n=1024, batch {batch}", fns, Q, console, 1)
    loss = lambda f: lambda Q: jax.grad(lambda Q: jnp.sum(f(Q) ** 2))(Q)
    compare("its gradient", {k: loss(f) for k, f in fns.items()}, Q, console, 1)


def portfolio(console, scale):
    """A long-only factor portfolio, n=50, 10 factors, as a CVXPY problem."""
    if not (cp := peer("cvxpy")):
        return
    n, k, batch = 50, 10, int(32 * scale)
    x, F, mu = cp.Variable(n), cp.Parameter((k, n)), cp.Parameter(n)
    risk = cp.sum_squares(F @ x) + 0.1 * cp.sum_squares(x)
    problem = cp.Problem(cp.Minimize(risk - mu @ x), [cp.sum(x) == 1, x >= 0])
    layer = pi.cvxpy_layer(problem, [F, mu], [x])
    rng = np.random.default_rng(0)
    loadings = jnp.asarray(rng.normal(size=(k, n)))
    returns = jnp.asarray(rng.normal(size=(batch, n)))
    ours = lambda mu: jax.vmap(lambda mu: layer(loadings, mu)[0])(mu)
    gradient = jax.grad(lambda mu: jnp.sum(ours(mu) ** 2))
    compare(f"portfolio, n={n}, batch {batch}", {"pyimplicit": ours}, returns, console, 5)
    compare("its gradient", {"pyimplicit": gradient}, returns, console, 5)
    if not (layers := peer("cvxpylayers.jax")):
        return
    theirs = layers.CvxpyLayer(problem, parameters=[F, mu], variables=[x])
    stacked = jnp.broadcast_to(loadings, (batch, k, n))
    run = lambda mu: theirs(stacked, mu)[0]
    for name, f in (("", run), (", gradient", jax.grad(lambda mu: jnp.sum(run(mu) ** 2)))):
        jax.block_until_ready(f(returns))
        begin = time.perf_counter()
        jax.block_until_ready(f(returns))
        console.print(f"cvxpylayers{name}: {1e3 * (time.perf_counter() - begin):.1f} ms")


RUNS = {"optnet": optnet, "tiny": tiny, "sparse": sparse, "portfolio": portfolio}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", default=list(RUNS), help=", ".join(RUNS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the batch sizes")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console(width=100)
    for name in args.runs:
        RUNS[name](console, args.scale)


if __name__ == "__main__":
    main()
