"""Optimisation layers: ratios against qpax, jaxopt, PIQP, cvxpylayers, in one run.

    pip install qpax piqp jaxopt cvxpylayers moreau
    python -m tests.bench.qp [optnet tiny sparse large portfolio ...] [--scale 1.0]

Peers that are not installed are left out. PIQP and Clarabel solve a batch in a loop and
have no gradient. Compile time and warm time apart; answers are compared.

CPU time [ms] on two cores of a busy machine, forward / with gradient, least of 7;
`differs`: the largest difference of x from Julia's:

                        Julia      JAX        qpax       qpax, 1e-9
    optnet              129 / 147  266 / 316  449 / 675  1170 / 1283
        differs                    1e-13      5e-4       1e-13
    tiny                113 / 144  220 / 279  405 / 458
        differs                    5e-11      9e-3
                        pyimplicit (Julia)    cvxpylayers
    portfolio           6.0 / 7.8             59 / 187
"""

import argparse
import contextlib
import functools
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
    by = lambda how, rtol=None: (
        lambda P, q, G, h: (
            pi.qp(P, q, G=G, h=h, solver=pi.InteriorPoint(rtol=rtol, backend=how)).x
        )
    )
    found = {"pyimplicit, JAX": by("jax"), "pyimplicit, JAX, rtol 1e-3": by("jax", 1e-3)}
    if not pi.engine.available()["julia"]:
        found = {"pyimplicit, Julia": by("julia"), **found}
    if qpax := peer("qpax"):
        exact = {"solver_tol": 1e-9, "target_kappa": 1e-9}
        for name, options in (("qpax", {}), ("qpax, 1e-9", exact)):
            found[name] = lambda P, q, G, h, options=options: qpax.solve_qp_primal(
                P, q, *none, G, h, **options
            )
    if moreau := peer("moreau.jax"):
        found["Moreau"] = functools.partial(by_moreau, moreau)
    if jaxopt := peer("jaxopt"):
        osqp = jaxopt.OSQP(tol=1e-5, maxiter=4000)
        found["jaxopt OSQP"] = lambda P, q, G, h: (
            osqp.run(params_obj=(P, q), params_ineq=(G, h)).params.primal
        )
    return found


def by_moreau(moreau, P, q, G, h):
    """Its interior point; its other method has no gradient under `vmap`."""
    m, n = G.shape
    rows = lambda count: (n * np.arange(count + 1), np.tile(np.arange(n), count))
    key = n, m
    if key not in _moreau:
        _moreau[key] = moreau.Solver(
            n, m, *rows(n), *rows(m), moreau.Cones(num_nonneg_cones=m),
            settings=moreau.Settings(solver="ipm"),
        )  # fmt: skip
    return _moreau[key].solve(P.reshape(-1), G.reshape(-1), q, h).x


_moreau = {}  # its solvers, by shape


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


def operator(M):
    M = sp.coo_array(M)
    return pi.SparseOperator(pi.SparsePattern(M.row, M.col, M.shape), jnp.asarray(M.data))


def sparse(console, scale):
    """cvxpylayers' sparse workload: n = m = 1024, p = 256, 1 % nonzeros, batch 32."""
    rng, n, batch = np.random.default_rng(0), 1024, max(1, int(32 * scale))
    some = lambda m: sp.csc_array(sp.random_array((m, n), density=0.01, rng=rng))
    A, G, x0 = some(n // 4), some(n) + sp.eye_array(n), rng.normal(size=n)
    b, h = A @ x0, G @ x0 + rng.uniform(size=n)
    Q = jnp.asarray(rng.normal(size=(batch, n)))
    P = sp.eye_array(n, format="csc")
    operators = map(operator, (P, A, G))
    solve = lambda P, A, G: lambda q: pi.qp(P, q, A, b, G, h).x
    arrays = (jnp.asarray(M.toarray()) for M in (P, A, G))
    batched = lambda f: lambda Q: jax.lax.map(f, Q)
    fns = {
        "pyimplicit, sparse": jax.vmap(solve(*operators)),
        "pyimplicit, dense": batched(solve(*arrays)),
    }
    title = f"sparse, n=1024, batch {batch}"
    compare(title, fns, Q, console, 2)
    loss = lambda f: lambda Q: jax.grad(lambda Q: jnp.sum(f(Q) ** 2))(Q)
    compare("its gradient", {k: loss(f) for k, f in fns.items()}, Q, console, 2)
    _sparse_loops(console, title, P, Q, A, b, G, h, next(iter(fns.values()))(Q))
    _sparse_layer(console, P, Q, A, b, G, h)


def large(console, scale):
    """min ½‖x - t‖² with |x_{i+1} - x_i| ≤ w: n = 100,000, 200,000 inequalities."""
    rng, n = np.random.default_rng(0), int(100_000 * scale)
    D = sp.eye_array(n - 1, n, k=1) - sp.eye_array(n - 1, n)
    G, P = sp.csc_array(sp.vstack([D, -D])), sp.eye_array(n, format="csc")
    t, h = np.cumsum(rng.normal(size=n)), np.full(2 * n - 2, 0.5)
    p, g = operator(P), operator(G)
    solve = lambda t, init=None: pi.qp(p, -t, G=g, h=h, init=init)
    before = jax.jit(solve)(jnp.asarray(t))
    fns = {
        "forward": lambda t: solve(t).x,
        "and its gradient": jax.value_and_grad(lambda t: jnp.sum(solve(t).x ** 2)),
        "from a neighbour": lambda t: solve(t, before).x,
    }
    fns["and its gradient"] = lambda t, f=fns["and its gradient"]: f(t)[1]
    compare(f"sparse, n={n:,}", fns, jnp.asarray(t + 1e-4), console, 3)
    none = sp.csc_array((0, n)), np.zeros(0)
    ours = before.x[None]
    _sparse_loops(console, f"sparse, n={n:,}", P, -t[None], *none, G, h, ours)


def _sparse_loops(console, title, P, Q, A, b, G, h, ours):
    """Solvers outside JAX, one programme after the other."""
    table = Table(title=f"{title}, in a loop in Python")
    for head in ("", "[ms]", "differs by"):
        table.add_column(head, justify="right")
    Q, csc = np.asarray(Q), sp.csc_matrix
    solves = {}
    if piqp := peer("piqp"):
        solver = piqp.SparseSolver()

        def by_piqp(k):
            if k:
                solver.update(c=Q[k])
            else:
                solver.setup(csc(P), Q[k], csc(A), b, csc(G), None, h)
            solver.solve()
            return np.array(solver.result.x)

        solves["PIQP"] = by_piqp
    if clarabel := peer("clarabel"):
        settings = clarabel.DefaultSettings()
        settings.verbose = False
        kinds = clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(h))
        cones = [c for c, size in zip(kinds, (len(b), len(h)), strict=True) if size]
        rows, right = csc(sp.vstack([A, G])), np.concatenate([b, h])
        solves["Clarabel"] = lambda k: np.array(
            clarabel.DefaultSolver(csc(P), Q[k], rows, right, cones, settings).solve().x
        )
    for name, solve in solves.items():
        begin = time.perf_counter()
        apart = max(np.abs(solve(k) - ours[k]).max() for k in range(len(Q)))
        table.add_row(name, f"{1e3 * (time.perf_counter() - begin):.0f}", f"{apart:.1e}")
    console.print(table)


def _sparse_layer(console, P, Q, A, b, G, h):
    """The same by cvxpylayers; the linear term is the parameter."""
    if not ((cp := peer("cvxpy")) and (layers := peer("cvxpylayers.jax"))):
        return
    x, q = cp.Variable(P.shape[0]), cp.Parameter(P.shape[0])
    rows = [sp.csc_matrix(A) @ x == b, sp.csc_matrix(G) @ x <= h]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + q @ x), rows)
    layer = layers.CvxpyLayer(problem, parameters=[q], variables=[x])
    for name, f in (
        ("forward", lambda Q: layer(Q)[0]),
        ("with gradient", jax.grad(lambda Q: jnp.sum(layer(Q)[0] ** 2))),
    ):
        begin = time.perf_counter()
        jax.block_until_ready(f(Q))
        console.print(f"cvxpylayers, {name}: {1e3 * (time.perf_counter() - begin):.0f} ms")


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


RUNS = {
    "optnet": optnet,
    "tiny": tiny,
    "sparse": sparse,
    "large": large,
    "portfolio": portfolio,
}


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
