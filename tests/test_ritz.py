"""Deep Ritz: energies in closed form, derivatives, and problems that are solved."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pyimplicit as pi
from pyimplicit import ritz
from pyimplicit.ritz import jets
from pyimplicit.ritz.functional import Discrete, Functional

from .ritz_problems import PROBLEMS, Given, relative


DISK, SQUARE, INTERVAL, BALL = PROBLEMS
KEY = jax.random.key(0)


def functional(energy, domain, boundary, model):
    return Functional(ritz.energies.as_energy(energy), domain, boundary, model)


# --- derivatives -----------------------------------------------------------------------

READY = {
    "Poisson": (ritz.poisson(lambda x: x[0], kappa=lambda x: 1 + x[1] ** 2, reaction=2.0,
                             flux=0.3, robin=1.0), None),
    "anisotropic": (ritz.poisson(1.0, kappa=np.array([[2.0, 0.3], [0.3, 1.0]])), None),
    "p-Laplacian": (ritz.p_laplacian(3.0, 1.0), None),
    "Allen-Cahn": (ritz.ginzburg_landau(0.2, 0.1), None),
    "Ginzburg-Landau": (ritz.ginzburg_landau(0.2), 2),
    "obstacle": (ritz.obstacle(lambda x: 0.3 - x @ x, weight=10.0), None),
    "elasticity": (ritz.linear_elasticity(1.0, 0.7, np.array([0.0, -1.0]),
                                          traction=np.array([0.1, 0.0])), 2),
    "neo-Hooke": (ritz.neo_hookean(1.0, 0.7, np.array([0.0, -0.1])), 2),
    "Rayleigh": (ritz.rayleigh(lambda x: x @ x), None),
    "deflated": (ritz.rayleigh(against=(lambda x: 1 + x[0], lambda x: x[1])), None),
}  # fmt: skip


@pytest.mark.parametrize("name", READY)
def test_gradients_and_metrics_of_energies(name):
    """The gradient against differences; G v by products against the matrix; and, where
    density and model make a quadratic energy, G against the Hessian."""
    energy, out = READY[name]
    model = ritz.MLP(2, 4, 1, out=out, scale=0.5, key=KEY)
    f = functional(energy, SQUARE.domain, ritz.Penalty(0.2, 3.0), model)
    problem = Discrete(f, ritz.Gauss(2, 2).rule(f.domain), 0)
    theta = 0.5 * f.theta
    v = jax.random.normal(jax.random.key(1), theta.shape)

    @jax.jit
    def all_of(theta, v):
        G = problem.gram(theta)
        both = jax.value_and_grad(problem.value)(theta)
        return *both, G, problem.product(theta)(v)

    _, g, G, Gv = all_of(theta, v)
    eps = 1e-5
    ahead, behind = (all_of(theta + s * eps * v, v)[0] for s in (1, -1))
    assert float(g @ v) == pytest.approx(float((ahead - behind) / (2 * eps)), rel=1e-6)
    np.testing.assert_allclose(G @ v, Gv, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(G, G.T, atol=1e-13)


def test_the_metric_of_a_linear_model_is_the_hessian():
    class Linear(eqx.Module):
        c: jax.Array

        def __call__(self, x):
            return self.c @ jnp.array([1.0, x[0], x[1] ** 2, jnp.sin(x[0] * x[1])])

    energy = ritz.poisson(1.0, kappa=2.0, reaction=0.5, robin=1.5)
    f = functional(energy, DISK.domain, ritz.Penalty(1.0, 7.0), Linear(jnp.ones(4)))
    problem = Discrete(f, ritz.Gauss(3, 1).rule(f.domain), 0)
    both = jax.jit(lambda theta: (problem.gram(theta), jax.hessian(problem.value)(theta)))
    np.testing.assert_allclose(*both(f.theta), rtol=1e-10, atol=1e-12)


def test_chunks_change_nothing():
    args = ritz.poisson(1.0), DISK.domain, ritz.Penalty(), ritz.MLP(2, 3, 1, key=KEY)
    rule = ritz.Gauss(3, 1).rule(DISK.domain)  # 21 nodes

    def look(chunk):
        problem = Discrete(Functional(*args, chunk), rule, 0)
        theta = problem.functional.theta
        all_of = lambda t: (*jax.value_and_grad(problem.value)(t), problem.gram(t))
        return jax.jit(all_of)(theta)

    for a, b in zip(look(4096), look(8), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dim", [2, 12])  # forwards and in reverse
def test_jets(dim):
    fn = lambda x: jnp.sum(jnp.sin(x) * x[::-1])
    x = jnp.linspace(0.1, 1.0, dim)
    u, g, laplacian = jets.with_laplacian(fn, x, dim)
    np.testing.assert_allclose(jets.first(fn, x, dim)[1], jax.grad(fn)(x))
    np.testing.assert_allclose(g, jax.grad(fn)(x), rtol=1e-12)
    np.testing.assert_allclose(laplacian, jnp.trace(jax.hessian(fn)(x)), rtol=1e-12)
    assert float(u) == pytest.approx(float(fn(x)))


# --- problems --------------------------------------------------------------------------


def test_an_interval_to_six_digits():
    model = ritz.MLP(
        1, 10, 1, activation=jnp.sin, scale=3.0, centre=0.5, reach=0.5, key=KEY
    )
    result = ritz.solve(
        INTERVAL.energy, INTERVAL.domain, ritz.Exact(), model,
        quadrature=ritz.Gauss(4, 6), steps=120, reference=INTERVAL.least,
        fine=ritz.Gauss(6, 40).rule(INTERVAL.domain),
    )  # fmt: skip
    assert relative(result.field, INTERVAL) < 1e-6
    # Exact boundary values and an accurate rule: the energy is never below the least.
    assert all(row.gap > -1e-12 for row in result.history)


@pytest.mark.parametrize("gram", [pi.Dense(), pi.MatrixFree()], ids=["dense", "products"])
def test_a_disk(gram):
    """The solution is one of the model's, so steps converge to it, if the rule has more
    nodes than the model parameters (136 and 17). And the sign: known repositories solved
    for -u; a positive source must push up."""
    result = ritz.solve(
        DISK.energy, DISK.domain, ritz.Exact(), ritz.MLP(2, 4, 1, key=KEY),
        quadrature=ritz.Gauss(4, 2), fine=ritz.Gauss(6, 3).rule(DISK.domain),
        optimizer=ritz.NaturalGradient(gram, (1e-3, 1e-8), 4, max_products=40),
        steps=16, report_every=4, reference=DISK.least,
    )  # fmt: skip
    assert relative(result.field, DISK) < 1e-5
    assert abs(result.history[-1].gap) < 1e-10
    assert float(result.field(jnp.zeros(2))) == pytest.approx(0.25, abs=1e-5)
    assert result.energy < 0  # the best model is not the one of least |energy|
    # The decrement tells how far the least energy of the model is, from the start on.
    assert result.history[1].decrement > 0 and result.converged


def test_nitsche_has_no_bias():
    """Where the penalty of the same weight is 0.05 off: the true solution is stationary,
    and a function with other boundary values is not."""
    model = Given(lambda x: DISK.u(x) + 0.0 * x[0])
    rule = ritz.Gauss(3, 2).rule(DISK.domain)

    def slope(boundary, shift):
        class Shifted(eqx.Module):
            c: jax.Array

            def __call__(self, x):
                return model(x) + self.c[0] + self.c[1] * x[0] + self.c[2] * x @ x

        f = functional(DISK.energy, DISK.domain, boundary, Shifted(jnp.array(shift)))
        return jax.jit(jax.grad(Discrete(f, rule, 0).value))(f.theta)

    still = [0.0, 0.0, 0.0]
    np.testing.assert_allclose(slope(ritz.Nitsche(0.0, 5.0), still), 0, atol=1e-12)
    assert float(jnp.abs(slope(ritz.Penalty(0.0, 5.0), still)).max()) > 1
    assert float(jnp.abs(slope(ritz.Nitsche(0.0, 5.0), [0.05, 0.0, 0.0])).max()) > 1


def test_adam_on_random_points_goes_down():
    model = ritz.ReLU3(2, 6, 1, key=KEY)
    result = ritz.solve(
        DISK.energy, DISK.domain, ritz.Exact(), model,
        quadrature=ritz.MonteCarlo(64), optimizer=ritz.Adam(optax.cosine_decay_schedule(
            1e-2, 200)), steps=200, report_every=50, reference=DISK.least,
        fine=ritz.Gauss(6, 1).rule(DISK.domain),
    )  # fmt: skip
    assert result.history[0].gap > 0.01
    assert 0 < result.history[-1].gap < 2e-3 and not result.converged
    assert all(row.gap > 0 for row in result.history)  # on the fine rule, not on its own


def test_a_run_that_stops_goes_on_from_its_file(tmp_path):
    def run(steps, **more):
        model = ritz.MLP(2, 4, 1, key=KEY)
        return ritz.solve(
            DISK.energy, DISK.domain, ritz.Exact(), model,
            quadrature=ritz.MonteCarlo(64), optimizer=ritz.Adam(1e-2), steps=steps,
            report_every=4, fine=ritz.Gauss(3, 1).rule(DISK.domain), **more,
        )  # fmt: skip

    file = tmp_path / "run.eqx"
    whole = run(8)
    run(4, checkpoint=file)
    rest = run(8, checkpoint=file, resume=True)
    np.testing.assert_array_equal(whole.theta, rest.theta)
    assert rest.history[0].step == 4 and rest.steps == 8
    stopped = run(8, callback=lambda report, field: report.step >= 4)
    assert stopped.steps == 4 and "callback" in stopped.message


def test_an_energy_without_a_minimum_is_reported():
    """A wrong sign makes the energy unbounded below: -∫ ½|∇u|² (the gradient grows until
    it overflows)."""
    wrong = lambda x, u, g: -0.5 * (g @ g) ** 4 - u
    model = ritz.MLP(2, 4, 1, key=KEY)
    how: dict[str, Any] = {
        "optimizer": ritz.Optax(optax.sgd(10.0)),
        "quadrature": ritz.Gauss(2, 2),
        "fine": ritz.Gauss(2, 2).rule(DISK.domain),
    }
    with pytest.raises(ritz.RitzError, match="not finite") as caught:
        ritz.solve(wrong, DISK.domain, ritz.Exact(), model, **how)
    assert bool(jnp.isfinite(caught.value.result.theta).all())
    result = ritz.solve(wrong, DISK.domain, ritz.Exact(), model, throw=False, **how)
    assert not result.converged and result.steps < 100


def test_points_lie_in_the_domain_that_was_given():
    """One repository sampled (-1, 1)^10 for a problem on (0, 1)^10, another weighted the
    sides of a boundary by their number and not by their length."""
    box = ritz.Box([0.0, -1.0], [1.0, 3.0])
    x = box.sample(KEY, 4000)
    np.testing.assert_allclose(x.min(0), [0, -1], atol=0.01)
    np.testing.assert_allclose(x.max(0), [1, 3], atol=0.01)
    np.testing.assert_allclose(x.mean(0), [0.5, 1.0], atol=0.05)
    around = box.sample_boundary(KEY, 20_000)
    share = float(jnp.mean(jnp.abs(around.normal[:, 0])))  # the long sides: 8 of 10
    assert share == pytest.approx(0.8, abs=0.02)


# --- refusals --------------------------------------------------------------------------

MODEL = ritz.MLP(2, 3, 1, key=KEY)
SOLVE: Any = ritz.solve


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: ritz.Box([0, 0], [1, 0]), "lower < upper"),
        (lambda: ritz.Box([0, 0], [1]), "same length"),
        (lambda: ritz.Ball(2, -1.0), "above zero"),
        (lambda: ritz.Gauss(0).rule(DISK.domain), "positive whole"),
        (lambda: ritz.Gauss(2, boundary=0).rule(DISK.domain), "positive whole"),
        (lambda: ritz.Gauss(2).rule(ritz.Box([0] * 10, [1] * 10)), "Sobol"),
        (lambda: ritz.MonteCarlo(0), "positive whole"),
        (lambda: ritz.Penalty(weight=-1.0), "must be positive"),
        (lambda: ritz.Nitsche(weight=-1.0), "must be positive"),
        (lambda: ritz.MLP(2, 0, key=KEY), "positive whole"),
        (lambda: ritz.ReLU3(20, 10, key=KEY), "lift=True"),
        (lambda: ritz.p_laplacian(1.0), "larger than 1"),
        (lambda: ritz.p_laplacian(1.5), "epsilon"),
        (lambda: ritz.NaturalGradient("dense"), "MatrixFree"),
        (lambda: ritz.NaturalGradient(damping=(-1.0,)), "damping"),
        (lambda: SOLVE(1.0, DISK.domain, model=MODEL), "must be an `Energy`"),
        (lambda: SOLVE(DISK.energy, "disk", model=MODEL), "must be a domain"),
        (lambda: SOLVE(DISK.energy, DISK.domain, 0.0, MODEL), "boundary"),
        (lambda: ritz.solve(DISK.energy, DISK.domain), "equinox module"),
        (lambda: ritz.solve(DISK.energy, DISK.domain, model=lambda x: x[0]), "parameters"),
        (lambda: ritz.solve(DISK.energy, DISK.domain, model=MODEL, steps=0), "steps"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)


def test_single_precision_is_for_first_order_methods():
    model = jax.tree.map(lambda a: a.astype(jnp.float32), MODEL)
    with pytest.raises(TypeError, match="double precision"):
        ritz.solve(DISK.energy, DISK.domain, ritz.Exact(), model)


@pytest.mark.parametrize("blocks, paper", [(3, 591), (4, 811), (5, 1031), (6, 1251)])
def test_the_networks_of_the_paper_have_its_sizes(blocks, paper):
    assert ritz.count(ritz.ReLU3(2, 10, blocks, key=KEY)) == paper


def test_steps_are_compiled_once():
    """However many reports there are."""
    counts = []
    for steps in (2, 5):
        seen = []

        def density(x, u, du, seen=seen):
            seen.append(1)
            return 0.5 * jnp.sum(du**2) - u

        model = ritz.MLP(1, 3, 1, key=jax.random.key(0))
        ritz.solve(density, ritz.Box([0.0], [1.0]), ritz.Exact(), model, steps=steps,
                   report_every=1, progress=False)  # fmt: skip
        counts.append(len(seen))
    assert counts[0] == counts[1] > 0
