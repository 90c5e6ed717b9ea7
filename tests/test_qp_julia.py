"""Dense programmes in Julia: what JAX says, to solver tolerance, in every respect."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from .qp_problems import failing, kinds, padded, stacked, structured, violation


pytestmark = pytest.mark.julia
BACKENDS = "julia", "jax"
FAILED, FAILING = zip(*failing(), strict=True)


def solve(backend):
    solver = pi.InteriorPoint(backend=backend)
    return lambda *data: pi.qp(*data, solver=solver, throw=False)


def everything(data, step, backend):
    """A programme's solution, a gradient, and the tangents of both."""
    weights = jnp.cos(jnp.arange(31.0))

    def loss(data):
        s = solve(backend)(*data)
        numbers = jnp.concatenate([s.x, s.y, s.z, s.z_lb, s.z_ub, s.value[None]])
        return weights @ numbers, (numbers, s)

    slope: Any = jax.value_and_grad(loss, has_aux=True)
    ((_, (numbers, s)), gradient), (first, second) = jax.jvp(slope, (data,), (step,))
    got = {"value": numbers, "vjp": gradient, "jvp": first[1][0], "second": second}
    return got, s


def test_julia_and_jax_agree_to_second_order():
    eye, ones, rng = np.eye(7), np.ones(7), np.random.default_rng(4)
    corner = padded(eye, -np.arange(-3.0, 4.0), ub=0.0)  # weakly active at one bound
    vertex = padded(0 * eye, np.arange(-3.0, 4.0) + 0.5, ones[None], [9.0], lb=0.0, ub=2.0)
    made = kinds(rng, ["full", "lp", "rank"] * 2, dependent=False)
    made = [*made, *structured().values(), corner, vertex, *kinds(rng, ["full", "lp"])]
    data = stacked([*made, *FAILING])
    step = [rng.normal(size=a.shape) * np.isfinite(a) for a in data]
    run = lambda backend: jax.jit(jax.vmap(lambda *a: everything(*a, backend)))  # pyright: ignore[reportCallIssue]
    (ours, s), (theirs, t) = (run(backend)(data, step) for backend in BACKENDS)
    good = slice(len(made))
    np.testing.assert_array_equal(s.status, t.status)
    assert (s.status[good] == 0).all() and s.status[len(made) :].tolist() == [*FAILED]
    assert s.stats["polished"][good].all() and s.sets.weak[good].any()
    for a, b in ((s.sets.active, t.sets.active), (s.sets.weak, t.sets.weak)):
        np.testing.assert_array_equal(a[good], b[good])
    assert abs(s.stats["iterations"] - t.stats["iterations"])[good].max() <= 1
    for name, got in ours.items():
        for a, b in zip(*map(jax.tree.leaves, (got, theirs[name])), strict=True):
            scale = 1 + np.abs(b[good]).max()
            np.testing.assert_allclose(
                a[good] / scale, b[good] / scale, atol=1e-8, err_msg=name
            )
    for got in (ours, theirs):
        for a in (got["vjp"][1], got["second"][1], got["jvp"]):
            assert np.isnan(a[len(made) :]).all()
    rays = [np.concatenate([s.y[-4], s.z[-4], s.z_ub[-4], s.x[-3]]) for s in (s, t)]
    assert np.isfinite(rays).all()


def test_single_precision():
    data = [a.astype("float32") for a in stacked([*structured().values(), *FAILING])]
    s, t = (jax.jit(jax.vmap(solve(backend)))(*data) for backend in BACKENDS)
    assert s.x.dtype == jnp.float32
    np.testing.assert_array_equal(s.status, t.status)
    assert s.status[:-4].tolist() == [0] * 7 and s.status[-4:].tolist() == [*FAILED]
    np.testing.assert_allclose(s.x[:-4], t.x[:-4], rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(s.value, t.value, rtol=5e-4, atol=5e-4)


def test_a_batch_in_julia_does_not_change_its_samples():
    k = len(structured())
    data = stacked([*structured().values()] * 20)
    s = jax.jit(jax.vmap(solve("julia")))(*data)
    np.testing.assert_array_equal(s.x[k:], s.x[:-k])
    # Axes that are not shared, and none
    P, q, *rest = (a[:3] for a in data)
    inner = jax.vmap(lambda *a: solve("julia")(*a).x, (None, 0, *[None] * 6))
    x = jax.jit(jax.vmap(inner, (0, None, *[0] * 6)))(P, q, *rest)
    np.testing.assert_allclose(x[jnp.arange(3), jnp.arange(3)], s.x[:3], atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_neighbours_solution_saves_all_steps_and_changes_nothing(backend):
    made = [*structured().values()]
    data = stacked(made)
    solver = pi.InteriorPoint(backend=backend)

    def both(P, q, *rest):
        first = pi.qp(P, q, *rest, solver=solver)
        near = pi.qp(P, q + 1e-3, *rest, solver=solver, init=first)
        far = pi.qp(P, -2 * q, *rest, solver=solver, init=first)
        slope = lambda init: jax.jvp(
            lambda q: pi.qp(P, q, *rest, solver=solver, init=init).x, (q,), (q,)
        )[1]
        return near, far, slope(first), slope(None)

    near, far, slope, cold = jax.jit(jax.vmap(both))(*data)
    assert (near.stats["iterations"] == 0).all() and near.stats["polished"].all()
    assert (far.stats["iterations"] > 0).any() and far.stats["polished"].all()
    np.testing.assert_allclose(slope, cold, atol=1e-9)
    for s, move in ((near, lambda q: q + 1e-3), (far, lambda q: -2 * q)):
        for i, (P, q, *rest) in enumerate(made):
            assert violation((P, move(np.asarray(q)), *rest), s, i) < 1e-9
    with pytest.raises(ValueError, match="of the same shape"):
        pi.qp(jnp.eye(2), jnp.ones(2), init=jax.tree.map(lambda a: a[0], near))


def test_the_engine_chooses_the_backend():
    layer = lambda q: pi.qp(jnp.eye(2), q, lb=0.0).x
    text = lambda: jax.jit(layer).lower(jnp.ones(2)).as_text()
    with pi.engine.use("julia"):
        assert "quadratic_programme" in text()
    with pi.engine.use("host"):
        assert "quadratic_programme" not in text()
