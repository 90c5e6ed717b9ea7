"""Problems with closed forms in two unknowns, one function each: a solver is compiled once
for a whole list, and a batch is a list.

The unknowns are a dict of a scalar and an array, so every solver meets a pytree.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """`fn(z, θ)` on vectors of two, `theta` six numbers; `exact(θ)` is the solution near
    `z0`, None if there is none. `traits`: for whom it is, see the lists."""

    name: str
    fn: Callable[[Any, Any], Any]
    z0: tuple[float, float]
    theta: tuple[float, ...]
    exact: Callable[[Any], Any] | None
    traits: frozenset = frozenset()

    def solution(self):
        assert self.exact is not None
        return self.exact(np.array(self.theta))

    def __repr__(self):
        return self.name


def pack(v):
    return {"x": v[0], "y": v[1:]}


def unpack(z):
    return jnp.concatenate([z["x"][None], z["y"]])


class Family:
    """A list of problems as one function of (z, (number of the function, θ)), and its
    arguments."""

    def __init__(self, problems: tuple[Problem, ...], onto: Callable = lambda v: v):
        self.problems, self.onto = problems, onto
        self.kinds = list(dict.fromkeys(p.fn for p in problems))

    def fn(self, z, params):
        which, theta = params
        v = unpack(z)
        branches = [lambda v, p, f=f: f(v, p).astype(v.dtype) for f in self.kinds]
        return self.onto(jax.lax.switch(which, branches, v, theta))

    def args(self, k: int, dtype=float):
        problem = self.problems[k]
        theta = np.zeros(6)
        theta[: len(problem.theta)] = problem.theta
        kind = jnp.array(self.kinds.index(problem.fn))
        return pack(jnp.array(problem.z0, dtype)), (kind, jnp.array(theta, dtype))

    def batch(self):
        every = [self.args(k) for k in range(len(self.problems))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *every)


# Fixed points z = g(z, θ). Traits: "contracts" (Picard converges).
W = np.array([[0.5, 0.8], [-0.6, 0.7]])  # not symmetric, spectral radius 0.91
WIDE = np.array([[1.0, 4.0], [-3.0, 2.0]])  # 3.74
DECAY = np.array([[-2.0, 1.0], [-0.5, -3.0]])
DESIGN = np.array([[1.0, 2.0], [-0.3, 1.5], [2.0, 0.1]])
DATA = np.array([10.0, -2.0, 3.0])
PENALTY = np.array([2.0, 0.5])


def _affine(z, theta):
    return theta[2:].reshape(2, 2) @ z + theta[:2]


def affine(name, A, b, exact, **traits):
    return Problem(
        name, _affine, (0.0, 0.0), (*b, *A.reshape(-1)), lambda theta: exact, **traits
    )


def _resolvent(A, b):
    return np.linalg.solve(np.eye(2) - A, b)


def _midpoint(y0, h):
    """One step for y' = DECAY y: z = y0 + h DECAY (y0 + z)/2; and what comes out."""
    half, eye = h / 2 * DECAY, np.eye(2)
    after = (eye + half) @ y0
    return half, after, np.linalg.inv(eye - half) @ after


def _ridge_descent(step):
    """Gradient steps for a ridge regression; and its normal equations."""
    H, b = DESIGN.T @ DESIGN + np.diag(PENALTY), DESIGN.T @ DATA
    return np.eye(2) - step * H, step * b, np.linalg.solve(H, b)


def _lotka_volterra(z, theta):  # z = z + dz/dt; the rates of growth and death are θ
    prey, predator = z
    rates = prey * (theta[0] - 0.4 * predator), predator * (0.1 * prey - theta[1])
    return z + jnp.stack(rates)


def _cos(z, theta):
    return jnp.cos(z)


SHIFT = np.array([1.0, -20.0])
CONTRACTS = frozenset({"contracts"})
fixed_points = (
    Problem("babylonian", lambda z, p: 0.5 * (z + p[:2] / z), (1.0, 10.0), (2.0, 300.0),
            np.sqrt, CONTRACTS),
    Problem("cos", _cos, (0.0, 1.0), (),
            lambda p: np.full(2, 0.7390851332151607), CONTRACTS),
    affine("linear", W, SHIFT, _resolvent(W, SHIFT), traits=CONTRACTS),
    affine("expansive", WIDE, SHIFT, _resolvent(WIDE, SHIFT)),
    affine("midpoint", *_midpoint(np.array([1.0, 5.0]), 0.3), traits=CONTRACTS),
    affine("ridge", *_ridge_descent(0.1), traits=CONTRACTS),
    Problem("lotka_volterra", _lotka_volterra, (3.0, 3.0), (1.1, 0.4),
            lambda p: np.array([p[1] / 0.1, p[0] / 0.4])),
)  # fmt: skip
# What has no answer, for batches: F = z² + 1 from near its minimum, and a NaN.
hopeless = (
    Problem("no_root", lambda z, p: z + z * z + 1, (0.5, 2.0), (), None),
    Problem("nan", _cos, (np.nan, 0.0), (), None),
)


def _logistic(z, p):  # built so that the minimum is p: the labels are soft
    labels = jax.nn.sigmoid(jnp.asarray(DESIGN) @ p[:2])
    scores = DESIGN @ z
    return jnp.sum(jax.nn.softplus(scores) - labels * scores)


def _rosenbrock_residuals(z, p):
    return jnp.stack([10 * (z[1] / p[1] - z[0] ** 2), p[0] - z[0], 0 * z[0]])


def _himmelblau(z, p):
    return (z[0] ** 2 + z[1] - p[0]) ** 2 + (z[0] + z[1] ** 2 - p[1]) ** 2


# Minima of f(z, θ). Traits: "curved" (a valley that first-order methods crawl along).
minima = (
    Problem("ridge",
            lambda z, p: jnp.sum((DESIGN @ z - DATA) ** 2) / 2 + jnp.sum(p[:2] * z * z) / 2,
            (0.0, 0.0), tuple(PENALTY), lambda p: _ridge_descent(0.1)[2]),
    Problem("logistic", _logistic, (0.0, 0.0), (1.0, -0.7), np.asarray),
    Problem("himmelblau", _himmelblau, (2.0, 2.5), (11.0, 7.0),
            lambda p: np.array([3.0, 2.0])),
    Problem("rosenbrock", lambda z, p: jnp.sum(_rosenbrock_residuals(z, p) ** 2),
            (-1.2, 2.0), (1.0, 2.0), lambda p: np.array([1.0, 2.0]),
            frozenset({"curved"})),
)  # fmt: skip

# Residuals, three each. Traits: "large" (not small at the minimum).
residuals = (
    Problem("linear", lambda z, p: DESIGN @ z - DATA * p[0], (0.0, 0.0), (2.0, 0.0),
            lambda p: np.linalg.lstsq(DESIGN, DATA * p[0])[0], frozenset({"large"})),
    Problem("logarithm",  # two means, of which only logarithms are known
            lambda z, p: jnp.stack([jnp.exp(z[0]) - p[0], jnp.exp(z[0]) - 7.0,
                                    jnp.exp(z[1]) - p[1]]),
            (0.0, 0.0), (1.0, 30.0),
            lambda p: np.log([(p[0] + 7.0) / 2, p[1]]), frozenset({"large"})),
    Problem("rosenbrock", _rosenbrock_residuals, (-1.2, 2.0), (1.0, 2.0),
            lambda p: np.array([1.0, 2.0])),
)  # fmt: skip


class Circulant:
    """The map z ↦ W z + b with W z = Σ c_k z[i - k], in any dimension, and its fixed point
    by the Fourier transform. Not symmetric; its eigenvalues are known."""

    def __init__(self, n: int, weights: dict[int, float]):
        self.n, self.weights = n, weights
        kernel = np.zeros(n)
        for shift, c in weights.items():
            kernel[shift % n] += c
        self.eigenvalues = np.fft.fft(kernel)

    def __call__(self, z, b):
        return sum(c * jnp.roll(z, shift) for shift, c in self.weights.items()) + b

    def exact(self, b):
        return np.fft.ifft(np.fft.fft(b) / (1 - self.eigenvalues)).real
