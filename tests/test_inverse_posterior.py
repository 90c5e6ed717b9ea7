"""Priors that are not one matrix, and the posterior near the mode."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pyimplicit import fem, inverse
from pyimplicit.inverse.prior_h1 import node_shares

from .test_inverse import Linear


close = lambda a, b, atol=1e-10: np.testing.assert_allclose(a, b, rtol=0, atol=atol)


# --- total variation -------------------------------------------------------------------


def test_total_variation_is_the_integral_and_lags_its_diffusivity():
    V = fem.FunctionSpace(fem.Mesh.rectangle(4, 3, (2.0, 1.0)), "P1")
    prior = inverse.TVPrior(V, gamma=3.0, epsilon=0.5, delta=2.0, reference=1.0)
    x, y = V.mesh.points.T
    m = 1 + 2 * x + y  # slope √5 on the area 2; ∫ (2x + y)² = 46/3
    wanted = 3 * 2 * (math.sqrt(5 + 0.25) - 0.5) + 0.5 * 2 * 46 / 3
    m = jnp.asarray(m + 0.0)
    rough = m + jnp.sin(9 * x * y)

    @jax.jit
    def parts(m, rough):
        R = prior.at(rough)
        backs = R.solve(R.apply(rough)), prior.solve(prior.apply(m))
        values = prior.value(m), prior.value(jnp.ones(V.size))
        return values, prior.gradient(rough), jax.grad(prior.value)(rough), backs

    (value, flat), gradient, by_jax, (back, of_m) = parts(m, rough)
    close(value, wanted, 1e-12)
    close(gradient, by_jax, 1e-12)
    close(back, rough, 1e-11)
    close(flat, 0)
    close(of_m, m)


@pytest.mark.parametrize("method", ["gauss-newton", "newton-cg"])
def test_total_variation_takes_noise_from_a_step(method):
    """min 1/2 ∫ (m - d)² + γ TV(m) for a step d of height h over lengths a and b: its
    sides move together by γ/a and γ/b, and the edge stays where it is."""
    n, a, gamma = 50, 0.4, 0.05
    V = fem.FunctionSpace(fem.Mesh.interval(n), "P1")
    at = fem.point_evaluation(V, (np.arange(n)[:, None] + 0.5) / n)
    middle = (np.arange(n) + 0.5) / n
    step = np.where(middle < a, 0.0, 1.0)
    result = inverse.fit(
        lambda m: (at(m) - step) / math.sqrt(n),
        jnp.full(V.shape, 0.5),
        method=method,
        prior=inverse.TVPrior(V, gamma, epsilon=1e-2),
        rtol=1e-5,
    )
    assert result.steps < 100
    found = np.asarray(at(result.m))
    wanted = np.where(middle < a, gamma / a, 1 - gamma / (1 - a))
    away = abs(middle - a) > 2.5 / n  # the edge is smooth by ε
    np.testing.assert_allclose(found[away], wanted[away], atol=0.01)


# --- random fields ---------------------------------------------------------------------


def test_samples_of_priors_have_their_covariance():
    V = fem.FunctionSpace(fem.Mesh.rectangle(2, 3), "P1")
    m, keys = jnp.zeros(V.shape), jax.random.split(jax.random.key(0), 20000)
    root = np.random.default_rng(0).normal(size=(V.size, V.size))
    dense = root @ root.T / V.size + np.eye(V.size)
    for prior in (
        inverse.H1Prior(V, 0.3, 2.0),
        inverse.BiLaplacianPrior(V, 0.3, 2.0),
        inverse.TVPrior(V, 0.3, 1.0, 2.0).at(m),
        inverse.GaussianPrior(dense),
        inverse.GaussianPrior(np.arange(1.0, V.size + 1)),
    ):

        @jax.jit
        def both(p=prior):
            draws = jax.vmap(lambda key: p.sample(key, m))(keys)
            return jnp.cov(draws.T), jax.vmap(p.solve)(jnp.eye(V.size))

        found, wanted = both()
        assert abs(found - wanted).max() < 0.04 * abs(wanted).max()
    with pytest.raises(NotImplementedError, match="without it"):
        inverse.TVPrior(V).sample(keys[0], m)


def test_bilaplacian_prior():
    V = fem.FunctionSpace(fem.Mesh.rectangle(48, 48, (12.0, 12.0)), "P1")
    gamma, delta = 2.5, 0.7
    prior = inverse.BiLaplacianPrior(V, gamma, delta, reference=1.0)
    v = jnp.sin(V.mesh.points[:, 0])
    at = fem.point_evaluation(V, [[6.0, 6.0]])

    @jax.jit
    def parts():
        load = at.T(jnp.ones(1))
        slopes = prior.gradient(v), jax.grad(prior.value)(v)
        value = prior.value(jnp.full(V.shape, 3.0))
        return value, slopes, prior.solve(prior.apply(v)), load @ prior.solve(load)

    value, slopes, back, variance = parts()
    close(value, 0.5 * delta**2 * 2**2 * 144, 1e-9)
    close(*slopes)
    close(back, v, 1e-9)
    assert variance == pytest.approx(1 / (4 * math.pi * gamma * delta), rel=0.05)


def test_deviations_of_a_field_have_no_chequerboard():
    """Far from the boundary they are alike at nodes of four and of eight triangles."""
    n = 16
    V = fem.FunctionSpace(fem.Mesh.rectangle(n, n), "P1")
    prior = inverse.BiLaplacianPrior(V, 0.02, 2.0)  # correlation length 0.28, 4.5 cells
    middle = V.mesh.nearest_nodes([[0.5, 0.5], [0.5 + 1 / n, 0.5], [0.5 + 2 / n, 0.5]])
    loads = jnp.zeros((3, V.size)).at[jnp.arange(3), middle].set(1.0)
    variances = jnp.sum(loads * jax.jit(jax.vmap(prior.solve))(loads), axis=1)
    np.testing.assert_allclose(variances, variances[0], rtol=0.01)


def test_shares_of_nodes():
    """Of right and obtuse triangles, and of tetrahedra: positive, and in all the volume."""
    even = fem.FunctionSpace(fem.Mesh.rectangle(4, 4))
    inside = abs(even.mesh.points - 0.5).max(axis=1) < 0.49
    close(node_shares(even)[inside], 1 / 16)
    shorn = even.mesh.points @ np.array([[1.0, 0], [0.7, 1]])
    for mesh in (fem.Mesh.from_arrays(shorn, even.mesh.cells), fem.Mesh.box(2, 2, 2)):
        shares = node_shares(fem.FunctionSpace(mesh))
        assert shares.min() > 0
        close(shares.sum(), mesh.volumes.sum())


# --- the posterior ---------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 12])
def test_posterior_of_a_linear_gaussian_problem(rank):
    beta = 3.0
    m = jnp.asarray(Linear.minimiser(beta))
    prior = Linear.prior()
    posterior = inverse.laplace_posterior(
        Linear.residual, m, prior, beta=beta, rank=rank, smallest=1e-9
    )
    H, R = Linear.A.T @ Linear.A / Linear.error**2, beta * Linear.R
    cov, prior_cov = np.linalg.inv(H + R), np.linalg.inv(R)
    columns = jax.jit(jax.vmap(posterior.covariance))(np.eye(20))
    close(columns, cov)
    close(jax.vmap(posterior.precision)(cov), np.eye(20), 1e-7)
    close(posterior.variance(), np.diag(cov))
    picks = lambda m: jnp.stack([m[0] - m[1], 2 * m[3]])
    G = jax.jacobian(picks)(m)
    close(posterior.variance(picks), np.diag(G @ cov @ G.T))
    l = np.linalg.eigvals(prior_cov @ H).real
    close(posterior.eigenvalues, np.sort(l)[::-1][:12], 1e-7)
    V = posterior.vectors
    close(V.T @ R @ V, np.eye(12), 1e-8)
    d = np.asarray(m) - Linear.mean
    kl = 0.5 * (np.trace(R @ cov) - 20 + d @ R @ d - np.linalg.slogdet(R @ cov)[1])
    close(posterior.information_gain(), kl, 1e-8)
    draws = jax.jit(lambda key: posterior.sample(key, 20000))(jax.random.key(1))
    assert abs(np.cov(draws.T) - cov).max() < 0.04 * abs(cov).max()
    close(draws.mean(axis=0), m, 0.05 * math.sqrt(abs(cov).max()))


def test_posterior_of_a_field():
    """A log-conductivity from few data, against the dense Hessian; and of a pytree."""
    V = fem.FunctionSpace(fem.Mesh.rectangle(6, 6), "P1")
    problem = fem.models.poisson(V, {"left": 0.0}, source="f")
    at = fem.point_evaluation(V, [[0.3, 0.4], [0.7, 0.2], [0.9, 0.8], [0.5, 0.9]])
    solve = lambda m: problem.solve({"kappa": jnp.exp(m["k"]), "f": m["f"][0]})
    residual = lambda m: (at(solve(m)) - data) / 0.01
    truth = {"k": jnp.sin(3 * V.mesh.points[:, 0]), "f": jnp.ones(1)}
    data = at(solve(truth))
    scalar = lambda m: 0.5 * jnp.sum(residual(m) ** 2)
    field = inverse.H1Prior(V, 0.3, 1.0)

    class Both(inverse.AbstractPrior):
        value = lambda self, m: field.value(m["k"]) + 0.5 * jnp.sum(m["f"] ** 2)
        apply = lambda self, v: {"k": field.apply(v["k"]), "f": v["f"]}
        solve = lambda self, v: {"k": field.solve(v["k"]), "f": v["f"]}

    m0 = {"k": jnp.zeros(V.shape), "f": jnp.ones(1)}
    m = inverse.fit(residual, m0, prior=Both(), rtol=1e-8).m
    flat, unravel = ravel_pytree(m)
    of = lambda f: lambda x: f(unravel(x))
    J = jax.jit(jax.jacobian(of(residual)))(flat)
    R = jax.jit(jax.hessian(of(Both().value)))(flat)
    posterior = inverse.laplace_posterior(residual, m, Both(), rank=4)
    close(ravel_pytree(posterior.variance())[0],
          np.diag(np.linalg.inv(J.T @ J + R)), 1e-9)  # fmt: skip
    H = jax.jit(jax.hessian(of(scalar)))(flat)
    known = np.linalg.eigvals(np.linalg.solve(R, H)).real
    for misfit, exact in ((scalar, False), (residual, True)):
        found = inverse.laplace_posterior(misfit, m, Both(), rank=3, exact=exact)
        wanted = np.sort(known)[::-1][:3]
        np.testing.assert_allclose(found.eigenvalues, wanted, rtol=1e-3)


def test_posterior_refusals():
    prior = inverse.GaussianPrior()
    take = inverse.laplace_posterior
    saddle = lambda m: jnp.sum(m**4 - 8 * m**2)
    with pytest.raises(ValueError, match="have a minimum"):
        take(saddle, jnp.zeros(3), prior)
    with pytest.raises(TypeError, match="apply and solve"):
        take(lambda m: m, jnp.zeros(3), 1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        take(lambda m: m, jnp.zeros(3), prior, beta=0.0)
    with pytest.raises(ValueError, match="positive and finite"):
        take(lambda m: m, jnp.zeros(3), prior, rank=0)
    posterior = take(lambda m: m, jnp.zeros(3), prior)
    with pytest.raises(ValueError, match="is a vector"):
        posterior.variance(jnp.sum)
    with pytest.raises(ValueError, match="TVPrior"):
        inverse.TVPrior(fem.FunctionSpace(fem.Mesh.rectangle(2, 2)), epsilon=0.0)
