"""Inverse problems of the literature whose steps and errors are published."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem, inverse


def mother(n: int, alpha: float = 1e-6):
    """The heat source, one number for each cell, whose temperature is nearest to
    d = sin πx sin πy / 2π²; it is 2π² d / (1 + 4 α π⁴)."""
    V = fem.FunctionSpace(fem.Mesh.rectangle(n, n), "P1", degree=4)
    problem = fem.models.poisson(V, {"boundary": 0.0}, source="f")
    wave = lambda x: jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])
    square = lambda w: 0.5 * (w.u - wave(w.x) / (2 * jnp.pi**2)) ** 2

    def misfit(f):
        return fem.integrate(V, square, u=problem.solve({"kappa": 1.0, "f": f}))

    def error(f):
        exact = lambda x: wave(x) / (1 + 4 * alpha * jnp.pi**4)
        off = fem.integrate(V, lambda w: (w.f - exact(w.x)) ** 2, f=fem.cellwise(f))
        return float(jnp.sqrt(off))

    def state_error(f):
        exact = lambda x: wave(x) / (2 * jnp.pi**2 * (1 + 4 * alpha * jnp.pi**4))
        u = problem.solve({"kappa": 1.0, "f": f})
        return float(fem.integrate(V, lambda w: (w.u - exact(w.x)) ** 2, u=u)) ** 0.5

    # 1/2 ∫ α f²: also the inner product of L2, without which steps grow with the mesh.
    prior = inverse.GaussianPrior(alpha * V.mesh.volumes)
    start = V.mesh.points[V.mesh.cells["triangle"]].mean(axis=1).sum(axis=1)
    return misfit, jnp.asarray(start), prior, (error, state_error)


def test_the_mother_problem():
    """dolfin-adjoint's table: the control's errors, and steps that do not grow with the
    mesh: 3 of Newton-CG with 54 to 59 inner ones; 50 to 57 of L-BFGS with ten pairs. The
    control is found to first order in the size of cells, the state to second."""
    table = {16: 3.83e-2, 32: 1.69e-2, 64: 8.05e-3, 128: 3.97e-3}
    steps, inner, errors = [], [], []
    for n, published in table.items():
        misfit, start, prior, (error, state_error) = mother(n)
        method = inverse.NewtonCG(forcing=1e-3)  # nearly exact inner solves, as there
        newton = inverse.fit(misfit, start, method=method, prior=prior, rtol=1e-6)
        assert 0.8 < error(newton.m) / published < 1.05
        inner.append(sum(row.cg for row in newton.history))
        errors.append([error(newton.m), state_error(newton.m)])
        assert newton.steps <= 3
        if n < 64:
            lbfgs = inverse.fit(misfit, start, method="lbfgs", prior=prior, rtol=1e-6)
            assert error(lbfgs.m) == pytest.approx(error(newton.m), rel=0.05)
            steps.append(lbfgs.steps)
    rates = -np.polyfit(np.log(list(table)), np.log(errors), 1)[0]
    assert rates[0] > 0.9 and rates[1] > 1.9
    assert max(steps) < 50
    assert max(inner) <= 70 and inner[-1] <= inner[0] + 10


def test_a_log_coefficient_from_noisy_data_in_twelve_newton_steps():
    """hippylib's second tutorial: -∇·(e^m ∇u) = 1 on 64², u in P2, m in P1, 5 % noise."""
    n, gamma = 64, 1e-8
    mesh = fem.Mesh.rectangle(n, n)
    V, W = fem.FunctionSpace(mesh, "P2"), fem.FunctionSpace(mesh, "P1")
    form = lambda u, v, w: jnp.exp(w.m) * fem.dot(fem.grad(u), fem.grad(v)) - v
    problem = fem.Problem(V, form, {"boundary": 0.0}, structure="spd")
    r = np.hypot(*(mesh.points - 0.5).T)
    truth = np.log(2 + 7 * (r > 0.2))
    solve = jax.jit(lambda m: problem.solve({"m": fem.nodal(m)}))
    clean = solve(truth)
    noise = np.random.default_rng(0).standard_normal(V.size)
    data = clean + 0.05 * abs(clean).max() * noise
    mass, pattern = fem.mass_values(V), V.pattern("spd")

    def misfit(m):
        off = solve(m) - data
        return 0.5 * jnp.vdot(off, pattern.matvec(mass, off))

    result = inverse.fit(
        misfit,
        jnp.full(W.shape, np.log(2.0)),
        method="newton-cg",
        prior=inverse.H1Prior(W, gamma, 1e-4 * gamma, np.log(2.0)),
        inner_product=inverse.H1Prior(W, gamma, gamma),
        rtol=1e-8,
        max_steps=15,
        throw=False,
    )
    assert result.converged and result.steps <= 12
    off = np.asarray(result.m) - truth
    assert np.sqrt(np.mean(off**2)) < 0.35 < np.sqrt(np.mean((truth - np.log(2)) ** 2))
    # The state is found better than it was measured.
    found = np.linalg.norm(solve(result.m) - clean) / np.linalg.norm(clean)
    assert found < 0.5 * np.linalg.norm(data - clean) / np.linalg.norm(clean)
