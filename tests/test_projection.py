"""Projections: the inequality that defines them, exact Jacobians, second order, batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from .projection_cases import CASES, FAILURE, LAYERS, RNG, norm, reals


@functools.cache
def programs(case):
    """The parameters as one vector; how many of them are x; and, over a batch of vectors,
    the value and its Jacobians in both modes; second order along a direction."""
    flat, unravel = ravel_pytree((case.x, case.theta))
    onto = lambda v: ravel_pytree(case.project(*unravel(v)))[0]
    weights = np.cos(1.0 + np.arange(jax.eval_shape(onto, flat).size))
    slope = jax.grad(lambda v: weights @ jnp.sin(onto(v)))
    first = jax.jit(jax.vmap(lambda v: (onto(v), jax.jacfwd(onto)(v), jax.jacrev(onto)(v))))
    along = np.sin(2.0 + np.arange(flat.size))

    def twice(v):  # a gradient, its tangent along a direction, and that by reverse mode
        value, tangent = jax.jvp(slope, (v,), (along,))
        return value, tangent, jax.grad(lambda v: along @ slope(v))(v)

    second = jax.jit(jax.vmap(twice)), along
    return np.asarray(flat), reals(case.x).size, first, second


def differences(program, flat, step):
    """Central differences of the first output, and all outputs at `flat`, in one batch."""
    n = flat.size
    steps = np.concatenate([np.zeros((2, n)), step * np.eye(n), -step * np.eye(n)])
    value, *jacobians = (np.asarray(out) for out in program(flat + steps))
    quotient = (value[2 : n + 2] - value[n + 2 :]).T / (2 * step)
    return quotient, value[0], *(J[0] for J in jacobians)


every = pytest.mark.parametrize("case", CASES + LAYERS, ids=repr)


@every
def test_is_the_projection(case):
    flat, k, first, _ = programs(case)
    scales = np.resize([0.0, 0.1, 1.0, 10.0], 2 * flat.size + 2)[:, None]
    noise = scales * RNG.normal(size=(scales.size, k))
    x = flat + np.pad(noise, [(0, 0), (0, flat.size - k)])
    p = np.asarray(first(x)[0])
    theta, some = jax.tree.map(np.asarray, case.theta), case.points
    like = jax.eval_shape(case.project, case.x, case.theta)
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([a.size for a in leaves])[:-1]
    for v, q in zip(x[:, :k], p, strict=True):
        pieces = [
            c.reshape(a.shape) for c, a in zip(np.split(q, ends), leaves, strict=True)
        ]
        assert case.outside(jax.tree.unflatten(structure, pieces), theta) < 1e-9 * (
            1 + norm(v)
        )
        if case.convex:  # ⟨x - p, y - p⟩ ≤ 0 for all y of the set
            for y in (*np.asarray(some(theta)).reshape(-1, q.size), *p):
                assert (v - q) @ (y - q) < 1e-9 * (1 + norm(v) ** 2)
        elif callable(some):
            assert norm(v - q) <= min(norm(v - y) for y in p) + 1e-9


@every
def test_jacobians(case):
    flat, _, first, _ = programs(case)
    quotient, value, forward, reverse = differences(first, flat, 1e-6)
    np.testing.assert_allclose(forward, reverse, atol=1e-9)
    np.testing.assert_allclose(reverse, quotient, atol=3e-7)
    assert np.abs(reverse).max() > 1e-2
    assert not np.isnan(value).any()


# One of each kind: formulas, `attach` with each of its linear solvers. (The others are
# piecewise affine in x; their formulas in theta are JAX's to differentiate.)
CURVED = (
    "l2_sphere", "hyperplane", "affine_set", "box_section", "birkhoff", "psd_cone",
    "second_order_cone", "exponential_cone", "isotonic_regression", "entmax",
)  # fmt: skip


@pytest.mark.parametrize("case", [c for c in CASES + LAYERS if c.name in CURVED], ids=repr)
def test_second_order(case):
    flat, _, _, (second, along) = programs(case)
    steps = np.array([0.0, 0.0, 1e-5, -1e-5])[:, None] * along
    value, tangent, back = map(np.asarray, second(flat + steps))
    np.testing.assert_allclose(tangent[0], back[0], atol=1e-7)
    np.testing.assert_allclose(tangent[0], (value[2] - value[3]) / 2e-5, atol=1e-5)
    assert np.abs(tangent[0]).max() > 1e-3


@every
def test_batch_is_independent(case):
    flat, k, first, _ = programs(case)
    mates = np.resize(flat, (2 * flat.size + 2, flat.size))
    mates[1:, :k] *= RNG.normal(size=(len(mates) - 1, 1)) * 10
    for one, other in zip(
        first(mates), first(mates[:1].repeat(len(mates), 0)), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])


@every
def test_nan_is_not_hidden(case):
    flat, k, first, _ = programs(case)
    x = np.resize(flat, (2 * flat.size + 2, flat.size))
    x[:, k // 2] = np.nan
    try:
        value = np.asarray(first(x)[0])
    except FAILURE:
        return
    assert np.isnan(value).any()
