"""Layers with closed forms: shared by the tests of derivatives, statuses and batches.

Non-symmetric Jacobians, multipliers and parameters far from 1, pytrees on both sides.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


@dataclasses.dataclass(frozen=True)
class Layer:
    """`solve(params, **options)` returns a Solution (or the value) whose value is
    `exact(params)`; `params` is a sample of what is differentiated."""

    name: str
    solve: Callable[..., Any]
    exact: Callable[[Any], Any]
    params: Any
    decorated: bool = False  # a decorator's function: no options, no Solution

    def value(self, params, **options):
        out = self.solve(params, **options)
        return out if self.decorated else out.value

    def __repr__(self):
        return self.name


def broken(solver):
    """The same solver; whoever differentiates its steps gets an error."""

    def step(self, *args):
        y, *rest = type(solver).step(self, *args)
        return eqxi.nondifferentiable(y, name="The forward solve"), *rest

    cls = type(f"Broken{type(solver).__name__}", (type(solver),), {"step": step})
    copy: Any = object.__new__(cls)
    for field in dataclasses.fields(solver):
        object.__setattr__(copy, field.name, getattr(solver, field.name))
    return copy


RNG = np.random.default_rng(7)
N = 5
W = RNG.normal(size=(N, N))
W /= np.abs(np.linalg.eigvals(W)).max()  # spectral radius 1, not symmetric
U = jnp.array(RNG.normal(size=(N, 3)))
X = jnp.array(RNG.normal(size=3))
M = jnp.array(RNG.normal(size=(N, N)) + 4 * np.eye(N))
DESIGN = jnp.array(RNG.normal(size=(8, 3)) * [1.0, 5.0, 0.2])
DATA = jnp.array(RNG.normal(size=8) * 10)


def _tanh(z, p):  # built so that the fixed point of parameter p is p
    W7 = jnp.array(0.7 * W)
    return jnp.tanh(W7 @ z) + p - jnp.tanh(W7 @ p)


def _lotka_volterra(z, p):
    prey, predator = z["prey"], z["predator"]
    growth, eaten, death, fed = p
    return {
        "prey": prey * (growth - eaten * predator),
        "predator": predator * (fed * prey - death),
    }


def _midpoint(z, p):  # one step of y' = A y from y0, step h
    y0, h = p
    return y0 + h * M @ ((y0 + z) / 2)


def _midpoint_exact(p):
    y0, h = p
    identity = jnp.eye(N)
    return jnp.linalg.solve(identity - h / 2 * M, y0 + h / 2 * M @ y0)


def _ridge(z, p):
    return 0.5 * jnp.sum((DESIGN @ z - p["y"]) ** 2) + 0.5 * p["penalty"] * jnp.sum(z**2)


def _ridge_exact(p):
    return jnp.linalg.solve(
        DESIGN.T @ DESIGN + p["penalty"] * jnp.eye(3), DESIGN.T @ p["y"]
    )


def _soft(v, threshold):
    return jnp.sign(v) * jnp.maximum(jnp.abs(v) - threshold, 0.0)


def _resolvent(p, scale):
    return jnp.linalg.solve(jnp.eye(N) - scale * p[0], U @ p[1])


def _captured(p, **options):
    A, b = M * p[0], jnp.sin(p[1])  # closed over, not passed
    return pi.root(lambda z, _: A @ z + z**3 - b - b**3, 0.1 * b, None, **options)


def _captured_exact(p):
    # Not a closed form in p: Newton's method written out, differentiated through.
    A, b = M * p[0], jnp.sin(p[1])
    F = lambda z: A @ z + z**3 - b - b**3
    z = 0.1 * b
    for _ in range(12):
        z = z - jnp.linalg.solve(A + jnp.diag(3 * z**2), F(z))
    return z


@pi.custom_root(lambda z, A, y: A @ z - y)
def _decorated_solver(init, A, y):
    return jnp.linalg.solve(jax.lax.stop_gradient(A), y) + 0 * init


@pi.custom_fixed_point(lambda z, a, scale=1.0: 0.5 * (z + scale * a / z))
def _decorated_sqrt(init, a, scale=1.0):
    return jnp.asarray(np.sqrt(np.asarray(scale * a)))  # NumPy: never traced


def layers() -> tuple[Layer, ...]:
    newton, picard, anderson = (
        broken(s) for s in (pi.Newton(), pi.Picard(), pi.Anderson(memory=N + 1))
    )
    shrinkage = broken(pi.ProximalGradient(prox=lambda v, p, s: _soft(v, s * p[1])))
    three = jnp.array([2.0, 30.0, 0.07])
    return (
        Layer(
            "root_sqrt",
            lambda p, **o: pi.root(lambda z, p: z * z - p, jnp.ones(3), p,
                                   **{"solver": newton, **o}),
            jnp.sqrt,
            three,
        ),
        Layer(
            "root_linear_matrix_free",
            lambda p, **o: pi.root(lambda z, p: p[0] @ z - p[1], jnp.zeros(N), p,
                                   **{"solver": newton, "jacobian": pi.MatrixFree(), **o}),
            lambda p: jnp.linalg.solve(p[0], p[1]),
            (M, jnp.arange(1.0, N + 1) * 100),
        ),
        Layer(
            "root_lotka_volterra",
            lambda p, **o: pi.root(_lotka_volterra, {"prey": 3.0, "predator": 3.0}, p,
                                   **{"solver": newton, **o}),
            lambda p: {"prey": p[2] / p[3], "predator": p[0] / p[1]},
            (jnp.array(1.1), jnp.array(0.4), jnp.array(0.4), jnp.array(0.1)),
        ),
        Layer(
            "root_complex",  # not holomorphic
            lambda p, **o: pi.root(
                lambda z, p: z * jnp.abs(z) - jax.lax.complex(p[0], p[1]),
                jnp.array(1.0 + 1.0j), p, **{"solver": newton, **o}),
            lambda p: jax.lax.complex(p[0], p[1]) / (p[0] ** 2 + p[1] ** 2) ** 0.25,
            (jnp.array(3.0), jnp.array(-4.0)),
        ),
        Layer("root_captured", _captured_layer(newton), _captured_exact,
              (jnp.array(0.8), jnp.arange(1.0, N + 1))),
        Layer(
            "fixed_point_linear",
            lambda p, **o: pi.fixed_point(lambda z, p: 0.6 * p[0] @ z + U @ p[1],
                                          jnp.zeros(N), p, **{"solver": picard, **o}),
            lambda p: _resolvent(p, 0.6),
            (jnp.array(W), X),
        ),
        Layer(
            "fixed_point_expansive",  # spectral radius 3: no contraction
            lambda p, **o: pi.fixed_point(lambda z, p: 3 * p[0] @ z + U @ p[1],
                                          jnp.zeros(N), p, **{"solver": anderson, **o}),
            lambda p: _resolvent(p, 3.0),
            (jnp.array(W), X),
        ),
        Layer(
            "fixed_point_tanh",
            lambda p, **o: pi.fixed_point(_tanh, jnp.zeros(N), p,
                                          **{"solver": picard, **o}),
            lambda p: p,
            jnp.linspace(-1.0, 2.0, N),
        ),
        Layer(
            "fixed_point_midpoint",
            lambda p, **o: pi.fixed_point(_midpoint, p[0], p, **{"solver": newton, **o}),
            _midpoint_exact,
            (jnp.arange(1.0, N + 1), jnp.array(0.3)),
        ),
        Layer(
            "minimize_ridge",
            lambda p, **o: pi.minimize(_ridge, jnp.zeros(3), p,
                                       **{"solver": broken(pi.BFGS()), **o}),
            _ridge_exact,
            {"y": DATA, "penalty": jnp.array(20.0)},
        ),
        Layer(
            "minimize_log",
            lambda p, **o: pi.minimize(lambda z, p: jnp.sum(jnp.exp(z) - p * z),
                                       jnp.zeros(3), p, **{"solver": newton, **o}),
            jnp.log,
            three,
        ),
        Layer(
            "minimize_lasso",
            lambda p, **o: pi.minimize(
                lambda z, p: 0.5 * jnp.sum((z - p[0]) ** 2), jnp.zeros(4), p,
                **{"solver": shrinkage, **o}),
            lambda p: _soft(p[0], p[1]),
            (jnp.array([3.0, -40.0, 0.5, 7.0]), jnp.array(2.0)),
        ),
        Layer(
            "least_squares_residual",  # not zero at the minimum
            lambda p, **o: pi.least_squares(
                lambda z, p: jnp.exp(z["log"]) - p, {"log": 0.5}, p,
                **{"solver": broken(pi.LevenbergMarquardt()), **o}),
            lambda p: {"log": jnp.log(jnp.mean(p))},
            jnp.array([1.0, 7.0, 2.5]),
        ),
        Layer("custom_root", lambda p: _decorated_solver(jnp.zeros(N), *p),
              lambda p: jnp.linalg.solve(p[0], p[1]), (M, jnp.arange(1.0, N + 1)), True),
        Layer("linear_solve", lambda p: pi.linear_solve(p[0], p[1]),
              lambda p: jnp.linalg.solve(p[0], p[1]), (M, jnp.ones((N, 2)) * 30), True),
    )  # fmt: skip


def _captured_layer(solver):
    return lambda p, **o: _captured(p, **{"solver": solver, **o})
