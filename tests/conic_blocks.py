"""Conic programmes with closed forms, one for each cone.

Each is (P, q, A, b, cones) of a few parameters, and what x and all multipliers z are.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag

import pyimplicit as pi


class Block(NamedTuple):
    programme: Callable
    exact: Callable  # theta -> (x, z)
    theta: list[float]


def orthant(theta):  # the anchors' programme: min ½ xᵀQ(t)x - cᵀx with x₀ ≤ b
    b, t = theta
    Q = jnp.array([[2.0 + t**2, jnp.sin(t)], [jnp.sin(t), 3.0 + t]])
    A = jnp.array([[1.0, 0.0]])
    return Q, jnp.array([-4.0, 3.0]), A, b[None], [pi.cones.Nonnegative(1)]


def orthant_exact(theta):
    b, t = theta
    x1 = (-3.0 - jnp.sin(t) * b) / (3.0 + t)
    return jnp.stack([b, x1]), (4.0 - (2.0 + t**2) * b - jnp.sin(t) * x1)[None]


def ball(theta):  # min ½s‖x‖² - cᵀx with ‖x‖ ≤ r
    r, s, c = theta[0], theta[1], theta[2:]
    A = jnp.concatenate([jnp.zeros((1, 2)), -jnp.eye(2)])
    return s * jnp.eye(2), -c, A, jnp.zeros(3).at[0].set(r), [pi.cones.SecondOrder(3)]


def ball_exact(theta):
    r, s, c = theta[0], theta[1], theta[2:]
    size = jnp.linalg.norm(c)
    u, force = c / size, size - s * r
    return r * u, force * jnp.concatenate([jnp.ones(1), -u])


def exponential(theta):  # min t - a x with t ≥ β exp(x/β)
    a, beta = theta
    A, b = -jnp.eye(3)[:, jnp.array([0, 2])], beta * jnp.array([0.0, 1.0, 0.0])
    q = jnp.stack([-a, jnp.ones(())])
    return jnp.zeros((2, 2)), q, A, b, [pi.cones.Exponential()]


def exponential_exact(theta):
    a, beta = theta
    z = jnp.stack([-a, a * jnp.log(a) - a, jnp.ones(())])
    return jnp.stack([beta * jnp.log(a), beta * a]), z


def power(theta):  # max c with a + p b = w, a^0.3 b^0.7 ≥ c
    w, p = theta
    row = jnp.stack([jnp.ones(()), p, jnp.zeros(())])
    A, b = jnp.concatenate([row[None], -jnp.eye(3)]), jnp.zeros(4).at[0].set(w)
    cones = [pi.cones.Zero(1), pi.cones.Power(0.3)]
    return jnp.zeros((3, 3)), jnp.array([0.0, 0.0, -1.0]), A, b, cones


def power_exact(theta):
    w, p = theta
    a, b = 0.3 * w, 0.7 * w / p
    c = a**0.3 * b**0.7
    y = c / w
    return jnp.stack([a, b, c]), jnp.stack([y, y, p * y, -jnp.ones(())])


def cost(theta):
    C = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]])
    return C + jnp.diag(theta)


def semidefinite(theta):  # min ⟨C, X⟩ with tr X = 2, X ⪰ 0
    A = jnp.concatenate([pi.cones.vectorise(jnp.eye(3))[None], -jnp.eye(6)])
    b = jnp.zeros(7).at[0].set(2.0)
    q = pi.cones.vectorise(cost(theta))
    return jnp.zeros((6, 6)), q, A, b, [pi.cones.Zero(1), pi.cones.PSD(3)]


def semidefinite_exact(theta):
    C = cost(theta)
    values, V = jnp.linalg.eigh(C)
    X, S = 2.0 * jnp.outer(V[:, 0], V[:, 0]), C - values[0] * jnp.eye(3)
    return pi.cones.vectorise(X), jnp.append(-values[:1], pi.cones.vectorise(S))


BLOCKS = {
    "orthant": Block(orthant, orthant_exact, [0.5, 0.7]),
    "second order": Block(ball, ball_exact, [0.8, 2.0, 3.9, -1.3]),
    "exponential": Block(exponential, exponential_exact, [2.5, 0.7]),
    "power": Block(power, power_exact, [3.0, 0.6]),
    "semidefinite": Block(semidefinite, semidefinite_exact, [0.1, -0.3, 0.2]),
}


def _split(theta):
    ends = np.cumsum([len(b.theta) for b in BLOCKS.values()])
    return theta[0], jnp.split(theta[1:], ends[:-1])


def parameters(size: float):
    """theta of `joined`: the size of the objective, then of each block its own."""
    return jnp.array([size, *(v for b in BLOCKS.values() for v in b.theta)])


@functools.cache
def places(name: str):
    """Where a block's numbers are: among the outputs of `joined`, and in theta."""
    out, at = 0, 1
    for key, block in BLOCKS.items():
        _, _, A, _, _ = block.programme(jnp.array(block.theta))
        rows, cols = np.arange(out, out + sum(A.shape)), np.arange(len(block.theta))
        if key == name:
            return rows, np.append(0, at + cols)
        out, at = out + rows.size, at + cols.size
    raise KeyError(name)


def joined(theta):
    """All blocks as one programme, its objective times a size: of each block x, and z,
    which is proportional to the size."""
    size, parts = _split(theta)
    made = [b.programme(t) for b, t in zip(BLOCKS.values(), parts, strict=True)]
    Ps, qs, As, bs, kinds = zip(*made, strict=True)
    cones = [cone for some in kinds for cone in some]
    P, q = size * block_diag(*Ps), size * jnp.concatenate(qs)
    A, b = block_diag(*As), jnp.concatenate(bs)
    s = pi.cone_program(P, q, A, b, cones, solver=pi.Clarabel(1e-11))
    out, n, m = [], 0, 0
    for A in As:
        out += [s.x[n : n + A.shape[1]], s.z[m : m + A.shape[0]]]
        n, m = n + A.shape[1], m + A.shape[0]
    return jnp.concatenate(out)


def joined_exact(theta):
    size, parts = _split(theta)
    out = []
    for block, t in zip(BLOCKS.values(), parts, strict=True):
        x, z = block.exact(t)
        out += [x, size * z]
    return jnp.concatenate(out)
