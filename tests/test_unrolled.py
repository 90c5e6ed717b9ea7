"""Unrolled algorithms: tables of known results, one step for layers and fixed points,
gradients of the lasso in closed form, training."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pyimplicit as pi
from pyimplicit import unrolled

from .bench.lista import dictionary, sampler


RNG = np.random.default_rng(5)
M, N = 8, 12
A = jnp.array(RNG.normal(size=(M, N)))
A = A / jnp.linalg.norm(A, axis=0)
TRUTH = jnp.zeros(N).at[jnp.array([1, 6, 9])].set(jnp.array([3.0, -20.0, 7.0]))
B = A @ TRUTH + 0.01
PENALTY = 0.5
close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)

LASSO = {
    "ISTA": unrolled.ISTA,
    "FISTA": unrolled.FISTA,
    "ADMM": functools.partial(unrolled.ADMM, rho=0.8, relaxation=1.4),
    "DouglasRachford": functools.partial(unrolled.DouglasRachford, gamma=0.7),
    "LISTA": unrolled.LISTA,
    "LISTA_CP": unrolled.LISTA_CP,
}
ALL = {**LASSO, "AMP": lambda A, k, penalty: unrolled.AMP(A, k), "ALISTA": unrolled.ALISTA}


@functools.cache
def lasso():
    """The solution, its support and signs, by a long run of the formula in NumPy."""
    a, x = np.asarray(A), np.zeros(N)
    L = np.linalg.norm(a, 2) ** 2
    for _ in range(200_000):
        v = x - a.T @ (a @ x - np.asarray(B)) / L
        new = np.sign(v) * np.maximum(np.abs(v) - PENALTY / L, 0)
        if np.array_equal(new, x):
            break
        x = new
    return x, np.flatnonzero(x)


def test_the_lasso_is_not_degenerate():
    x, on = lasso()
    assert 0 < len(on) < M
    dual = np.abs(np.asarray(A.T @ (B - A @ x)))
    close(dual[on], PENALTY, rtol=1e-6)
    assert np.delete(dual, on).max() < 0.95 * PENALTY


@pytest.mark.parametrize("name", LASSO)
def test_the_fixed_point_is_the_lasso_with_its_gradients(name):
    """On the support S: dx/db = (A_SᵀA_S)⁻¹A_Sᵀ, dx/dλ = -(A_SᵀA_S)⁻¹ sign(x_S)."""
    x, on = lasso()

    def solve(b, penalty):
        model = LASSO[name](A, 3, penalty=penalty)
        tight: dict[str, Any] = dict(rtol=1e-12, atol=1e-12, max_steps=100_000)
        return model(b, adjoint=pi.Implicit(), **tight)

    def both(b, penalty):
        return 2 * (solve(b, penalty),)

    (J_b, J_penalty), value = jax.jit(jax.jacrev(both, (0, 1), has_aux=True))(B, PENALTY)
    close(value, x)
    S = np.asarray(A)[:, on]
    gram = np.linalg.inv(S.T @ S)
    want_b, want_penalty = np.zeros((N, M)), np.zeros(N)
    want_b[on], want_penalty[on] = gram @ S.T, -gram @ np.sign(x[on])
    close(J_b, want_b)
    close(J_penalty, want_penalty)


def test_unrolling_long_gives_the_gradient_of_the_fixed_point():
    """One word apart: Unroll(k), Implicit()."""
    model = unrolled.ISTA(A, 1, penalty=PENALTY)
    f = lambda adjoint: jax.jit(jax.jacrev(lambda b: model(b, adjoint=adjoint)))
    close(f(pi.Unroll(4000))(B), f(pi.Implicit())(B))


@pytest.mark.parametrize("name", ALL)
def test_layers_are_steps(name):
    """k layers are k calls of `step`, and past the last one it is repeated."""
    model = ALL[name](A, 3, penalty=PENALTY)
    bumped = jax.tree.map(
        lambda a: a * (1 + 0.1 * jnp.cos(jnp.arange(a.size).reshape(a.shape))) if
        eqx.is_inexact_array(a) else a, model)  # fmt: skip
    injected = bumped.inject(B)
    state, found = bumped.start(injected), []
    for k in (0, 1, 2, 2, 2):
        layer = {n: a[k] for n, a in bumped.weights().items()}
        state = bumped.step(state, injected, layer)
        found.append(bumped.readout(state))
    close(bumped.iterates(B), jnp.stack(found[:3]), rtol=1e-12)
    close(bumped(B), found[2], rtol=1e-12)
    long = bumped.solve(B, adjoint=pi.Unroll(5))
    close(long.value, found[4], rtol=1e-12)
    assert long.status == 0 and long.stats["iterations"] == 5
    # The weights of each layer have a gradient, and no other layer's.
    grad = eqx.filter_grad(lambda m: jnp.sum(m(B, adjoint=pi.Unroll(2)) ** 2))(bumped)
    leaves = [getattr(grad, n) for n in bumped.per_layer if getattr(grad, n) is not None]
    assert all((np.asarray(a[2]) == 0).all() for a in leaves)
    assert any((np.asarray(a[1]) != 0).any() for a in leaves)


def test_known_errors():
    """The workload of LISTA-CPSS: ISTA's and FISTA's errors, and those of the untrained
    nets, near a table made by a program of another hand (1,000 samples, λ = 0.1)."""
    D = jnp.asarray(dictionary())
    close(jnp.linalg.norm(D, 2) ** 2, 5.571, atol=5e-4)
    x, b = sampler(D, 300)(jax.random.key(3))
    table = {
        unrolled.ISTA: (-2.71, -3.74, -5.34),
        unrolled.FISTA: (-2.99, -5.00, -10.28),
        unrolled.AMP: (-11.18, -18.83, -30.19),
        unrolled.LISTA: (-2.71, -3.74, -5.34),
        unrolled.LISTA_CP: (-2.71, -3.74, -5.34),
    }
    found = {}
    for kind, row in table.items():
        run = jax.jit(lambda m, b: jax.vmap(lambda b: m.iterates(b))(b))
        xs = run(kind(D, 16), b)
        found[kind] = np.array([unrolled.nmse(xs[:, k], x) for k in (3, 7, 15)])
        np.testing.assert_allclose(
            found[kind], row, atol=0.15 if kind is not unrolled.AMP else 1.0
        )
    for net in (unrolled.LISTA, unrolled.LISTA_CP):  # ISTA itself
        np.testing.assert_allclose(found[net], found[unrolled.ISTA], atol=1e-6)


def test_support_selection():
    v = jnp.array([0.3, -5.0, 2.0, -0.6, 1.0])
    close(unrolled.select_support(v, 0.5, 0), unrolled.soft_threshold(v, 0.5))
    close(unrolled.select_support(v, 0.5, 2), [0.0, -5.0, 2.0, -0.1, 0.5])
    close(unrolled.select_support(v, 0.5, 5), [0.0, -5.0, 2.0, -0.6, 1.0])
    counts = unrolled.LISTA_CP(A, 3, support=(10.0, 25.0)).trusted
    assert counts.tolist() == [1, 2, 3]  # 10, 20 and at most 25 per cent of 12
    with pytest.raises(ValueError, match="percentages"):
        unrolled.ALISTA(A, 3, support=(10.0, 250.0))


def test_analytic_weights_are_optimal():
    W = unrolled.analytic_weights(A)
    close(jnp.sum(W * A, axis=0), jnp.ones(N))
    # Stationary along every direction that keeps the constraints.
    direction = jnp.array(RNG.normal(size=(M, N)))
    direction -= A * jnp.sum(A * direction, axis=0)
    cost = lambda t: jnp.sum(((W + t * direction).T @ A) ** 2)
    close(jax.grad(cost)(0.0), 0.0, atol=1e-9)
    assert cost(0.0) < jnp.sum((A.T @ A) ** 2)


@pytest.mark.parametrize("layerwise", [True, False])
def test_training(layerwise):
    sample = sampler(A, 32, 0.15)
    model = unrolled.LISTA_CP(A, 2)
    x, b = sample(jax.random.key(9))
    error = lambda m: float(unrolled.nmse(jax.vmap(m)(b), x))
    how: dict[str, Any] = dict(key=jax.random.key(1), steps=60, optimiser=optax.adam(1e-2))
    trained, losses = unrolled.train(model, sample, layerwise=layerwise, **how)
    assert losses.shape == ((6, 60) if layerwise else (1, 60))
    assert error(trained) < error(model) - 2.0, (error(trained), error(model))
    close(trained.A, A, rtol=0)  # data of the problem, not a weight
    assert (trained.trusted == model.trusted).all()


def test_one_layer_at_a_time():
    """The first stage moves the first layer alone, and what layers share."""
    sample = sampler(A, 16, 0.15)
    model = unrolled.LISTA(A, 2)
    how: dict[str, Any] = dict(key=jax.random.key(1), steps=1, optimiser=optax.sgd(1e-2))
    trained, losses = unrolled.train(model, sample, refine=(), **how)
    del losses
    assert (trained.threshold != model.threshold).all() and (trained.W1 != model.W1).any()
    grad = eqx.filter_grad(lambda m: jnp.sum(m(B, adjoint=pi.Unroll(1)) ** 2))(model)
    assert grad.threshold[1] == 0


def test_douglas_rachford_is_admm():
    """With ρ = 1/γ their iterates agree (Eckstein, Bertsekas 1992)."""
    admm = unrolled.ADMM(A, 5, penalty=PENALTY, rho=2.0)
    splitting = unrolled.DouglasRachford(A, 5, penalty=PENALTY, gamma=0.5)
    close(admm.iterates(B), splitting.iterates(B))
    tall = A.T @ A + A.T[:, :1] * 0 + jnp.eye(N)  # square and tall: the other factorisation
    tall = jnp.concatenate([tall, tall[:2]])
    b = tall @ TRUTH
    close(
        unrolled.ADMM(tall, 300, penalty=PENALTY)(b),
        unrolled.FISTA(tall, 3000, penalty=PENALTY)(b),
        atol=1e-5,
    )


def test_a_batch_is_its_samples():
    model = unrolled.ISTA(A, 4, penalty=PENALTY)
    batch = jnp.stack([B, 0 * B, 100 * B])
    solve = jax.jit(lambda b: model.solve(b, adjoint=pi.Implicit()))
    together = jax.jit(jax.vmap(solve))(batch)
    for i, b in enumerate(batch):
        close(together.value[i], solve(b).value, rtol=1e-12, atol=1e-13)
    assert len(set(together.stats["iterations"].tolist())) == 3
    assert (together.status == 0).all()


def test_failure_is_reported():
    model = unrolled.ISTA(A, 4, penalty=PENALTY)
    short: dict[str, Any] = dict(adjoint=pi.Implicit(), max_steps=3)
    with pytest.raises(Exception, match="largest number of steps"):
        model(B, **short)
    J = jax.jacrev(lambda b: model(b, **short, throw=False))(B)
    assert np.isnan(J).any()
    assert model.solve(jnp.nan * B).status == pi.Status.nonfinite


@pytest.mark.parametrize("make, match", [
    (lambda: unrolled.ISTA(A[0], 3), "real matrix"),
    (lambda: unrolled.FISTA(A, 0), "one layer or more"),
    (lambda: unrolled.LISTA(A.astype(int), 3), "real matrix"),
])  # fmt: skip
def test_bad_input_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_unrolled_steps_take_no_options():
    with pytest.raises(TypeError, match="no options"):
        unrolled.ISTA(A, 3)(B, rtol=1e-3)
