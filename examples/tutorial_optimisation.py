"""Chapter 5 of the implicit-layers tutorial: optimisation problems as layers.

relu, sigmoid and softmax are solutions of optimisation problems; a quadratic program is a
layer through its KKT conditions. The tutorial's `OptLayer` solves by CVXPY and
differentiates the KKT system by hand, sample by sample. Here the conditions are stated
once (`pi.custom_root`) for a solver that knows nothing of derivatives (Clarabel).

Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org
"""

from typing import Any

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import pyimplicit as pi


TIGHT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10, max_steps=20_000)


def relu(x):
    """argmin ½‖y - x‖² over y >= 0."""
    nonnegative = pi.ProjectedGradient(projection=lambda y, params: jnp.maximum(y, 0.0))
    objective = lambda y, x: 0.5 * jnp.sum((y - x) ** 2)
    return pi.minimize(objective, jnp.ones_like(x), x, solver=nonnegative, **TIGHT).value


def softmax(x):
    """argmin -xᵀy + Σ y log y over the simplex."""
    objective = lambda y, x: -x @ y + jnp.sum(y * jnp.log(y))
    start = jnp.full_like(x, 1 / x.size)
    return pi.minimize(
        objective, start, x, solver=pi.ExponentiatedGradient(), **TIGHT
    ).value


def sigmoid(x):
    """argmin -x y + y log y + (1 - y) log(1 - y): softmax of (x, 0)."""
    return jax.vmap(lambda x: softmax(jnp.stack([x, 0.0 * x]))[0])(x)


def kkt(z, P, q, A, b, G, h):
    """Stationarity, feasibility and complementarity of
    min ½ yᵀP y + qᵀy subject to A y = b, G y <= h; multipliers ν and λ."""
    y, nu, lam = z
    return P @ y + q + A.T @ nu + G.T @ lam, A @ y - b, lam * (G @ y - h)


@pi.custom_root(kkt)
def solve_qp(init, P, q, A, b, G, h):
    """(y, ν, λ), by Clarabel: outside `jit` it gets numbers."""
    del init
    solver: Any = clarabel
    P, q, A, b, G, h = (np.asarray(a, float) for a in (P, q, A, b, G, h))
    cones = [solver.ZeroConeT(len(b)), solver.NonnegativeConeT(len(h))]
    settings = solver.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    sparse = scipy.sparse.csc_matrix
    rows, ends = sparse(np.vstack([A, G])), np.concatenate([b, h])
    upper = sparse(np.triu(P))
    found = solver.DefaultSolver(upper, q, rows, ends, cones, settings).solve()
    dual = np.asarray(found.z)
    return jnp.asarray(found.x), jnp.asarray(dual[: len(b)]), jnp.asarray(dual[len(b) :])


def qp(P, q, A, b, G, h):
    """y alone."""
    init = jnp.zeros(len(q)), jnp.zeros(len(b)), jnp.zeros(len(h))
    return solve_qp(init, P, q, A, b, G, h)[0]


def learn_constraints(steps: int = 60):
    """The bounds h of a polygon, learnt from projections onto it (OptNet's experiment,
    Amos, Kolter 2017, arXiv:1703.00443, in two dimensions)."""
    angles = 2 * jnp.pi * jnp.arange(5) / 5
    G = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    truth, h = jnp.array([1.0, 0.7, 1.2, 0.8, 1.1]), jnp.ones(5)
    points = 2.0 * G @ jnp.array([[0.8, -0.6], [0.6, 0.8]])
    none = jnp.zeros((0, 2)), jnp.zeros(0)
    project = lambda h, p: qp(jnp.eye(2), -p, *none, G, h)
    targets = jnp.stack([project(truth, p) for p in points])

    def loss(h):
        return sum(
            jnp.sum((project(h, p) - t) ** 2) for p, t in zip(points, targets, strict=True)
        )

    losses = []
    for _ in range(steps):
        value, grad = jax.value_and_grad(loss)(h)
        h = h - 0.15 * grad
        losses.append(float(value))
    return h, truth, losses


def gradient_check() -> float:
    """A program with one equality and an active inequality: largest error of dy/d(q, b, h)
    against central differences."""
    P = jnp.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
    q, A, b = jnp.array([1.0, -20.0, 3.0]), jnp.array([[1.0, 1.0, 1.0]]), jnp.array([4.0])
    G, h = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), jnp.array([2.0, 50.0])
    f = lambda q, b, h: qp(P, q, A, b, G, h)
    exact, worst, step = jax.jacrev(f, (0, 1, 2))(q, b, h), 0.0, 1e-4
    for i, arg in enumerate((q, b, h)):
        for k in range(arg.size):
            moved = lambda s, i=i, k=k: [
                a.at[k].add(s) if i == j else a for j, a in enumerate((q, b, h))
            ]
            column = (f(*moved(step)) - f(*moved(-step))) / (2 * step)
            worst = max(worst, float(jnp.abs(exact[i][:, k] - column).max()))
    return worst


def main(steps: int = 60) -> dict:
    """Returns activations and their derivatives, the gradient check, what was learnt."""
    x = jnp.array([-1.3, 0.4, 2.0])
    found: dict = {}
    for layer in (relu, sigmoid, softmax):
        found[layer.__name__] = layer(x), jax.jacrev(layer)(x)
    h, truth, losses = learn_constraints(steps)
    return {**found, "gradient": gradient_check(), "h": h, "truth": truth, "losses": losses}


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name in ("relu", "sigmoid", "softmax"):
        print(f"{name:8} {np.round(found[name][0], 6)}")
    print(f"gradient of the program off by {found['gradient']:.1e}")
    print(f"bounds learnt {np.round(found['h'], 4)}, true {found['truth']}")


if __name__ == "__main__":
    run([])
