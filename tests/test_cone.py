"""Conic programmes: closed forms for each cone, every transform, failure."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi


TIGHT = pi.Clarabel(1e-11)
UNKNOWN: Any = ["quadratic"]

# Each layer: theta -> numbers, and the same numbers in closed form. Multipliers from
# 1e-3 to 1e3 by `theta`, data that are not symmetric under any exchange.


def ball(theta):  # min ½s‖x‖² - cᵀx with ‖x‖ ≤ r
    r, s = theta[0], theta[1]
    c = jnp.array([3.0, -1.0]) * theta[2]
    A = jnp.concatenate([jnp.zeros((1, 2)), -jnp.eye(2)])
    b = jnp.zeros(3).at[0].set(r)
    sol = pi.cone_program(s * jnp.eye(2), -c, A, b, [pi.cones.SecondOrder(3)], solver=TIGHT)
    return jnp.concatenate([sol.x, sol.z])


def ball_exact(theta):
    r, s = theta[0], theta[1]
    c = jnp.array([3.0, -1.0]) * theta[2]
    u = c / jnp.linalg.norm(c)
    force = jnp.linalg.norm(c) - s * r
    return jnp.concatenate(
        [r * u, force * jnp.array([1.0, 0.0, 0.0]) - force * jnp.pad(u, (1, 0))]
    )


def exponential(theta):  # min a x + t with t ≥ β exp(x/β): x = β log(-a)
    a, beta = theta[0], theta[1]
    A, b = (
        -jnp.zeros((3, 2)).at[0, 0].set(1.0).at[2, 1].set(1.0),
        jnp.array([0.0, 1.0, 0.0]),
    )
    q = jnp.stack([-a, jnp.ones(())])
    sol = pi.cone_program(None, q, A, b * beta, [pi.cones.Exponential()], solver=TIGHT)
    return sol.x


def exponential_exact(theta):
    a, beta = theta[0], theta[1]
    return jnp.stack([beta * jnp.log(a), beta * a])


def power(theta):  # max c with a + p b = w, a^α b^(1-α) ≥ c: a = α w, b = (1 - α) w/p
    w, p = theta[0], theta[1]
    A = jnp.concatenate([jnp.stack([jnp.ones(()), p, jnp.zeros(())])[None], -jnp.eye(3)])
    b = jnp.zeros(4).at[0].set(w)
    cones = [pi.cones.Zero(1), pi.cones.Power(0.3)]
    return pi.cone_program(None, jnp.array([0.0, 0.0, -1.0]), A, b, cones, solver=TIGHT).x


def power_exact(theta):
    w, p = theta[0], theta[1]
    a, b = 0.3 * w, 0.7 * w / p
    return jnp.stack([a, b, a**0.3 * b**0.7])


def smallest(theta):  # min ⟨C, X⟩ with tr X = w, X ⪰ 0: w times the smallest eigenvector's
    C = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]]) + jnp.diag(theta)
    A = jnp.concatenate([pi.cones.vectorise(jnp.eye(3))[None], -jnp.eye(6)])
    b = jnp.zeros(7).at[0].set(2.0)
    cones = [pi.cones.Zero(1), pi.cones.PSD(3)]
    sol = pi.cone_program(None, pi.cones.vectorise(C), A, b, cones, solver=TIGHT)
    return jnp.append(sol.x, sol.z[0])


def smallest_exact(theta):
    C = jnp.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 4.0]]) + jnp.diag(theta)
    values, V = jnp.linalg.eigh(C)
    X = 2.0 * jnp.outer(V[:, 0], V[:, 0])
    return jnp.append(pi.cones.vectorise(X), -values[0])


def orthant(theta):  # the transform table's quadratic programme
    b, t = theta
    Q = jnp.array([[2.0 + t**2, jnp.sin(t)], [jnp.sin(t), 3.0 + t]])
    sol = pi.cone_program(
        Q, jnp.array([-4.0, 3.0]), jnp.array([[1.0, 0.0]]), b[None],
        [pi.cones.Nonnegative(1)],
        solver=TIGHT,
    )  # fmt: skip
    return jnp.concatenate([sol.x, sol.z])


def orthant_exact(theta):
    b, t = theta
    x1 = (-3.0 - jnp.sin(t) * b) / (3.0 + t)
    return jnp.stack([b, x1, 4.0 - (2.0 + t**2) * b - jnp.sin(t) * x1])


LAYERS = {
    "orthant": (orthant, orthant_exact, [0.5, 0.7]),
    "ball": (ball, ball_exact, [0.8, 2.0, 1.3]),
    "ball, small": (ball, ball_exact, [0.8, 2.0, 0.5064]),  # multiplier 1e-3
    "ball, large": (ball, ball_exact, [0.8, 2.0, 400.0]),
    "exponential": (exponential, exponential_exact, [2.5, 0.7]),
    "power": (power, power_exact, [3.0, 0.6]),
    "semidefinite": (smallest, smallest_exact, [0.1, -0.3, 0.2]),
}
V = jnp.linspace(-1.0, 1.7, 7)
LOSS = lambda f: lambda t: V[: f(t).size] @ f(t) + jnp.sum(f(t) ** 2)


@pytest.mark.parametrize("name", LAYERS)
def test_each_cone_has_its_closed_form(name):
    ours, exact, theta = LAYERS[name]
    theta = jnp.array(theta)
    scale = 1 + jnp.abs(exact(theta)).max()
    near = lambda a, b, tol: np.testing.assert_allclose(a, b, rtol=tol, atol=tol * scale)
    both = jax.jit(lambda t: (ours(t), jax.jacrev(ours)(t), jax.jacfwd(ours)(t)))
    value, reverse, forward = both(theta)
    wanted = jax.jacfwd(exact)(theta)
    near(value, exact(theta), 1e-8)
    near(reverse, wanted, 1e-6)
    near(forward, wanted, 1e-6)


TRANSFORMS = {
    "jit(grad)": lambda f: jax.jit(jax.grad(LOSS(f))),
    "vmap(grad)": lambda f: lambda t: jax.vmap(jax.grad(LOSS(f)))(jnp.stack([t, 0.9 * t])),
    "fwd-rev": lambda f: jax.hessian(LOSS(f)),
    "rev-rev": lambda f: jax.jacrev(jax.grad(LOSS(f))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("layer", ["orthant", "ball"])
def test_every_transform_has_its_closed_form(name, layer):
    ours, exact, theta = LAYERS[layer]
    got, wanted = (jax.jit(TRANSFORMS[name](f))(jnp.array(theta)) for f in (ours, exact))
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_failures_are_statuses_with_rays():
    A, cones = jnp.array([[1.0], [-1.0]]), [pi.cones.Nonnegative(2)]
    solve = lambda q, b: pi.cone_program(None, q, A, b, cones, throw=False)
    one = jnp.ones(1)
    s = solve(one, jnp.array([-1.0, -1.0]))  # x ≤ -1 and x ≥ 1
    assert s.status == pi.Status.infeasible and s.value == jnp.inf
    assert abs(A.T @ s.z).max() < 1e-6 and jnp.array([-1.0, -1.0]) @ s.z < 0
    assert jnp.isnan(jax.grad(lambda q: solve(q, -jnp.ones(2)).x.sum())(one)).all()
    free = pi.cone_program(None, one, A[:1], one, [pi.cones.Nonnegative(1)], throw=False)
    assert free.status == pi.Status.unbounded and free.x[0] < 0 and free.value == -jnp.inf
    with pytest.raises(Exception, match="no point satisfies all constraints"):
        jax.block_until_ready(pi.cone_program(None, one, A, -jnp.ones(2), cones).x)


def test_misfits_are_named_before_any_solve():
    one, A = jnp.ones(1), jnp.ones((2, 1))
    with pytest.raises(TypeError, match=r"Known: pi\.cones\.Zero"):
        pi.cone_program(None, one, A, jnp.ones(2), UNKNOWN)
    with pytest.raises(ValueError, match="cones of m rows"):
        pi.cone_program(None, one, A, jnp.ones(2), [pi.cones.Nonnegative(3)])
    with pytest.raises(ValueError, match="vectors"):
        pi.cone_program(None, A, A, jnp.ones(2), [pi.cones.Nonnegative(2)])
    with pytest.raises(ValueError, match="between 0 and 1"):
        pi.cones.Power(1.5)
    with pytest.raises(ValueError, match="least_norm"):
        pi.cone_program(None, one, A, one, [pi.cones.Zero(2)], degenerate="one_sided")
