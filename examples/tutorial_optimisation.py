"""Chapter 5 of the implicit-layers tutorial: optimisation problems as layers.

relu, sigmoid and softmax are solutions of optimisation problems; a quadratic program is a
layer through its KKT conditions. The tutorial's `OptLayer` takes a problem in CVXPY's
words and differentiates the KKT system by hand, sample by sample. `pi.qp` is that layer
for arrays, a batch at once; `pi.cvxpy_layer` takes the words, here those of a max-margin
classifier.

Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org
"""

from typing import Any

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

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


def qp(P, q, A, b, G, h):
    """argmin ½ yᵀP y + qᵀy subject to A y = b, G y <= h."""
    return pi.qp(P, q, A, b, G, h).x


def learn_constraints(steps: int = 60):
    """The bounds h of a polygon, learnt from projections onto it (OptNet's experiment,
    Amos, Kolter 2017, arXiv:1703.00443, in two dimensions)."""
    angles = 2 * jnp.pi * jnp.arange(5) / 5
    G = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    truth, h = jnp.array([1.0, 0.7, 1.2, 0.8, 1.1]), jnp.ones(5)
    points = 2.0 * G @ jnp.array([[0.8, -0.6], [0.6, 0.8]])
    project = jax.vmap(lambda h, p: qp(jnp.eye(2), -p, None, None, G, h), (None, 0))

    def loss(h, targets):
        y = project(h, points)
        return jnp.sum((y - targets) ** 2), y

    slope = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, targets), _ = slope(truth, points)
    losses = []
    for _ in range(steps):
        (value, _), grad = slope(h, targets)
        h = h - 0.15 * grad
        losses.append(float(value))
    return h, truth, losses


def gradient_check() -> float:
    """A program with one equality and an active inequality: largest error of dy/d(q, b, h)
    against central differences."""
    P = jnp.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
    q, A, b = jnp.array([1.0, -20.0, 3.0]), jnp.array([[1.0, 1.0, 1.0]]), jnp.array([4.0])
    G, h = jnp.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), jnp.array([2.0, 50.0])
    f = lambda *data: 2 * (qp(P, data[0], A, data[1], G, data[2]),)
    both = jax.jit(jax.jacrev(f, (0, 1, 2), has_aux=True))
    exact, worst, step = both(q, b, h)[0], 0.0, 1e-4
    for i, arg in enumerate((q, b, h)):
        for k in range(arg.size):
            moved = lambda s, i=i, k=k: [
                a.at[k].add(s) if i == j else a for j, a in enumerate((q, b, h))
            ]
            column = (both(*moved(step))[1] - both(*moved(-step))[1]) / (2 * step)
            worst = max(worst, float(jnp.abs(exact[i][:, k] - column).max()))
    return worst


def max_margin():
    """The plane between two clouds, min ½‖w‖² + c Σ ξ with y (x w + b) >= 1 - ξ, ξ >= 0,
    and the derivative of w₀ in the points, by CVXPY's words; and the same by `pi.qp`."""
    rng = np.random.default_rng(0)
    label = np.where(np.arange(12) % 2 == 0, 1.0, -1.0)
    cloud = rng.normal(size=(12, 2)) + label[:, None] * np.array([1.5, 1.0])
    w, b, slack = cp.Variable(2), cp.Variable(), cp.Variable(12, nonneg=True)
    x = cp.Parameter((12, 2))
    margin = cp.multiply(label, x @ w + b) >= 1 - slack
    size = cp.Problem(cp.Minimize(cp.sum_squares(w) / 2 + 3 * cp.sum(slack)), [margin])
    worded = pi.cvxpy_layer(size, [x], [w])

    def by_hand(x):
        rows = jnp.concatenate([label[:, None] * x, label[:, None], jnp.eye(12)], axis=1)
        P = np.diag(np.repeat([1.0, 0.0], [2, 13]))
        q = np.repeat([0.0, 3.0], [3, 12])
        low = np.repeat([-np.inf, 0.0], [3, 12])
        return pi.qp(P, q, G=-rows, h=-jnp.ones(12), lb=low).x[:2]

    found = []
    for f in (lambda x: worded(x)[0], by_hand):
        both = jax.jit(jax.jacrev(lambda x, f=f: 2 * (f(x),), has_aux=True))
        slope, plane = both(jnp.asarray(cloud))
        found.append((plane, slope[0]))
    return found


def main(steps: int = 60) -> dict:
    """Returns activations and their derivatives, the gradient check, what was learnt."""
    x = jnp.array([-1.3, 0.4, 2.0])
    found: dict = {}
    for layer in (relu, sigmoid, softmax):
        found[layer.__name__] = layer(x), jax.jacrev(layer)(x)
    h, truth, losses = learn_constraints(steps)
    return {
        **found, "gradient": gradient_check(), "margin": max_margin(),
        "h": h, "truth": truth, "losses": losses,
    }  # fmt: skip


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name in ("relu", "sigmoid", "softmax"):
        print(f"{name:8} {np.round(found[name][0], 6)}")
    print(f"gradient of the program off by {found['gradient']:.1e}")
    print(f"max-margin plane {np.round(found['margin'][0][0], 4)}")
    print(f"bounds learnt {np.round(found['h'], 4)}, true {found['truth']}")


if __name__ == "__main__":
    run([])
