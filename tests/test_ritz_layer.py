"""Ritz as a layer: -κu'' + cu = f on (0, 1), u = 0 at the ends, in closed form."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import ritz
from pyimplicit.ritz.functional import Discrete, Functional
from pyimplicit.ritz.judged import side_by_side
from pyimplicit.ritz.tangents import tangents

from .layers import broken
from .ritz_problems import PROBLEMS, Given


_, _, INTERVAL, _ = PROBLEMS
KEY = jax.random.key(0)
X = jnp.linspace(0.1, 0.9, 5)[:, None]
START = {"kappa": jnp.array(1.0), "c": jnp.array(2.0)}
LM = ritz.LevenbergMarquardt()


def energy(p):
    return ritz.poisson(1.0, kappa=p["kappa"], reaction=p["c"])


def exact(p, x=X):
    s = jnp.sqrt(p["c"] / p["kappa"])
    return (1 - jnp.cosh(s * (x[:, 0] - 0.5)) / jnp.cosh(s / 2)) / p["c"]


def net(dim=1, width=8, **more):
    return ritz.MLP(dim, width, 1, activation=jnp.sin, scale=3.0, centre=0.5, reach=0.5,
                    key=KEY, **more)  # fmt: skip


@pytest.fixture(scope="module")
def made():
    return ritz.layer(
        energy, START, INTERVAL.domain, ritz.Exact(), net(), quadrature=ritz.Gauss(4, 4),
        optimizer=LM, steps=60, report_every=60, solver=broken(pi.BFGS()),
    )[0]  # fmt: skip


def test_values_and_derivatives(made):
    """At parameters it was not trained at: value, both modes, the second derivative along
    a direction and the dot-product identity, against the closed form; against differences
    of solves, which are far closer; and of the least energy, whose derivative is the
    partial one (Danskin)."""
    p = {"kappa": jnp.array(1.2), "c": jnp.array(3.0)}
    t = {"kappa": jnp.array(0.3), "c": jnp.array(-1.0)}
    w = jnp.array([1.0, -2.0, 0.5, 3.0, 1.0, 0.0])

    def u_and_energy(p):
        f, theta = made.functional(p), made.solve(p).value
        return jnp.append(jax.vmap(f.field(theta))(X), f.pure(theta, made.rule))

    def all_of(fn, p):
        along = lambda q: jax.jvp(fn, (q,), (t,))
        _, pull = jax.vjp(fn, p)
        (value, t_u), (_, second) = jax.jvp(along, (p,), (t,))
        return value, t_u, pull(w)[0], second

    def partial(p):
        f, theta = made.functional, jax.lax.stop_gradient(made.solve(p).value)
        along = lambda p: f(p).pure(theta, made.rule)
        return jax.jvp(along, (p,), (t,))[1]

    both = jax.jit(lambda p: (all_of(u_and_energy, p), partial(p)))
    (value, t_u, ct_p, second), slope = both(p)
    wanted = all_of(lambda p: jnp.append(exact(p), 0.0), p)
    np.testing.assert_allclose(value[:-1], wanted[0][:-1], rtol=5e-5)
    np.testing.assert_allclose(t_u[:-1], wanted[1][:-1], rtol=1e-3)
    for name in p:
        assert float(ct_p[name]) == pytest.approx(float(wanted[2][name]), rel=1e-3)
    np.testing.assert_allclose(second[:-1], wanted[3][:-1], rtol=2e-2)
    assert float(w @ t_u) == pytest.approx(
        float(sum(ct_p[name] * t[name] for name in p)), rel=1e-8
    )
    eps = 1e-4
    ahead, behind = (
        both(jax.tree.map(lambda a, b, s=s: a + s * eps * b, p, t))[0][0] for s in (1, -1)
    )
    np.testing.assert_allclose(t_u, (ahead - behind) / (2 * eps), rtol=1e-6)
    assert float(t_u[-1]) == pytest.approx(float(slope), rel=1e-9)


def test_methods_are_functions_that_jax_takes(made):
    """As they are, without a lambda around them."""
    y = jax.jit(made.coordinates)(START).value
    np.testing.assert_allclose(jax.jit(made.value)(y, START), jax.jit(made.energy)(START))
    alike = jax.tree.map(lambda a: a, made)  # one hash for what is equal: itself alone
    assert made == made and made != alike and hash(made) != hash(alike)


def test_batches_and_failures(made):
    """Each sample as if alone; one without a minimum is told from the others."""
    lax = dataclasses.replace(made, throw=False)
    of = lambda c: {"kappa": 1.0, "c": c}
    solve = jax.jit(jax.vmap(lambda c: lax.solve(of(c))))
    cs = jnp.array([1.0, jnp.nan, 3.0])
    found = solve(cs)
    assert [int(s) == 0 for s in found.status] == [True, False, True]
    assert bool(jnp.isnan(found.value[1]).all())
    alone = solve(jnp.array([3.0, 3.0, 3.0]))
    np.testing.assert_allclose(found.value[2], alone.value[0], rtol=1e-8, atol=1e-9)
    assert float(found.stats["residual"][0]) < 1e-9
    energies = jax.jit(jax.vmap(lambda c: lax.energy(of(c))))(cs)
    assert float(energies[0]) < float(energies[2]) < 0 and bool(jnp.isnan(energies[1]))
    with pytest.raises(Exception, match=r"pyimplicit\.minimize"):
        made.coordinates(of(jnp.nan))


def test_nodes_that_are_too_few_are_seen():
    """On the slit, with nodes enough and with a quarter of them: there u jumps between
    the nodes, the energy is far too low, and all but other nodes says that this is the
    minimum. Values and both derivatives are NaN."""
    slit = ritz.Slit()
    net = ritz.Features((None, slit.corner), ritz.MLP(4, 4, 1, key=KEY))
    good, found = ritz.layer(
        lambda p: ritz.poisson(1.0, kappa=p, reaction=1.0), jnp.array(1.0), slit,
        ritz.Exact(), net, quadrature=ritz.Gauss(4, 1), cutoff=1e-3, optimizer=LM,
        steps=15, report_every=15, fine=slit.gauss(6, 1), throw=False,
    )  # fmt: skip
    rules = side_by_side(slit.gauss(2, 1), slit.gauss(5, 1))  # of one size with the good
    few = dataclasses.replace(good, rules=rules)

    @eqx.filter_jit
    def look(layer, p):
        def u(p):
            theta, status, stats = layer.solve(p)
            here = layer.functional(p).field(theta)(jnp.array([-0.5, 0.1]))
            return here, (status, stats["apart"])

        value, push, why = jax.linearize(u, p, has_aux=True)
        (ct_p,) = jax.linear_transpose(push, p)(1.0)
        return jnp.stack([value, push(1.0), ct_p]), *why

    numbers, status, apart = look(good, jnp.array(1.1))
    assert int(status) == 0 and float(apart) < 0.02
    assert bool(jnp.isfinite(numbers).all())
    numbers, status, apart = look(few, jnp.array(1.1))
    assert pi.Status(int(status)) == pi.Status.inaccurate and float(apart) > 0.5
    assert bool(jnp.isnan(numbers).all())
    assert found.energy < -0.14


@pytest.fixture(scope="module")
def loaded():
    """-u'' = 1 + s, trained at s = 0; a peak that no node of the layer is on."""
    layer, _ = ritz.layer(
        lambda s: ritz.poisson(1.0 + s), jnp.array(0.0), INTERVAL.domain, ritz.Exact(),
        net(), quadrature=ritz.Gauss(4, 4), optimizer=LM, steps=30, report_every=30,
        accuracy=0.02,
    )  # fmt: skip
    x = INTERVAL.domain.gauss(4, 4).interior.x[:, 0]
    middle = float(x[5] + x[6]) / 2
    peak = lambda x: jnp.exp(-(((x[0] - middle) / 0.01) ** 2))
    return layer, peak


def with_source(layer, source, **more):
    return dataclasses.replace(layer, energy_of=lambda s: ritz.poisson(source(s)), **more)


def test_a_derivative_is_judged_where_the_value_is_right(loaded):
    """At s = 0 a peak between the nodes changes nothing, but its derivative would. And
    what the rule sees well, it may differentiate."""
    layer, peak = loaded

    def look(load):
        of_s = with_source(layer, lambda s: lambda x: 1.0 + s * load(x))
        return jax.jit(jax.value_and_grad(lambda s: of_s(s, jnp.array([[0.3]]))[0]))(0.0)

    exact = 3.0 * 0.3 * (1 - 0.3**2) / 6
    np.testing.assert_allclose(
        look(lambda x: 3.0 * x[0]), [0.3 * 0.7 / 2, exact], rtol=1e-4
    )
    with pytest.raises(Exception, match="other nodes"):
        jax.block_until_ready(look(peak))


@pytest.mark.parametrize("n", [2, 20])
def test_a_derivative_that_is_wrong_in_one_direction_only_is_seen(loaded, n):
    """Of n parameters each makes the load larger, and one direction across this, (1, -1,
    …), also a peak between the nodes: for a few parameters and for many."""
    layer, peak = loaded
    signs = (-1.0) ** jnp.arange(n)

    @jax.jit
    def look(peaks):
        source = lambda s: lambda x: 1.0 + s.sum() * x[0] + peaks * (signs @ s) * peak(x)
        of_s = with_source(layer, source, throw=False)
        u = lambda s: of_s(s, jnp.array([[0.3]]))[0]
        (_, fine), (_, wrong) = (
            jax.jvp(u, (jnp.zeros(n),), (t,)) for t in (1 + 0 * signs, signs)
        )
        return fine, wrong, of_s.coordinates(jnp.zeros(n)).status

    fine, wrong, status = look(0.0)
    assert int(status) == 0 and abs(float(wrong)) < 1e-10
    assert float(fine) == pytest.approx(n * 0.3 * (1 - 0.3**2) / 6, rel=1e-4)
    fine, wrong, status = look(10.0)
    assert pi.Status(int(status)) == pi.Status.inaccurate
    assert np.isnan(fine) and np.isnan(wrong)


def test_the_first_eigenpair_as_a_layer():
    """-κu'' + v x u = λu at v = 0: λ = κπ², ∂λ/∂κ = π², ∂λ/∂v = ∫ x u² = 1/2; u = √2 sin πx
    of norm one, and ∂u/∂v by the other eigenfunctions (Kato's formula); the factor of u
    that the quotient does not tell makes no trouble."""
    start = {"kappa": jnp.array(1.0), "v": jnp.array(0.0)}
    layer, _ = ritz.layer(
        lambda p: ritz.rayleigh(lambda x: p["v"] * x[0], kappa=p["kappa"]), start,
        INTERVAL.domain, ritz.Exact(), net(), quadrature=ritz.Gauss(4, 4), optimizer=LM,
        steps=40, report_every=40, solver=pi.BFGS(),
    )  # fmt: skip

    @jax.jit
    def look(p):
        u = lambda v: layer({**p, "v": v}, X)
        return jax.value_and_grad(layer.energy)(p), jax.jvp(u, (0.0,), (1.0,))

    (value, slope), (u, t_u) = look({"kappa": jnp.array(1.3), "v": jnp.array(0.0)})
    sine = lambda k: np.sqrt(2) * np.sin(k * np.pi * np.asarray(X[:, 0]))
    sign = np.sign(u[0])
    assert float(value) == pytest.approx(1.3 * np.pi**2, rel=1e-6)
    assert float(slope["kappa"]) == pytest.approx(np.pi**2, rel=1e-5)
    assert float(slope["v"]) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(sign * u, sine(1), rtol=1e-4)
    wanted = sum(8 * k / (k**2 - 1) ** 3 * sine(k) for k in range(2, 20, 2))
    wanted = wanted / (np.pi**4 * 1.3)
    np.testing.assert_allclose(sign * t_u, wanted, atol=1e-3 * np.abs(wanted).max())


def test_the_report_of_degeneracy(made):
    """More parameters than directions that u feels; the Hessian of what is kept is near
    to the identity where the metric was taken, and elsewhere still positive."""
    lax = dataclasses.replace(made, throw=False)
    here = lax.degeneracy(START)
    assert here.parameters == 25 and 5 < here.rank < 25
    assert here.dropped <= 1e-8 < here.kept
    low, high = here.curvature
    assert 0.9 < low <= high < 1.1
    assert here.missed < 1e-6 and here.apart < 1e-4
    # At zero diffusion's other sign there is no minimum, and the report says so.
    wrong = {"kappa": jnp.array(-1.0), "c": jnp.array(0.0)}  # as START: one program
    assert not lax.degeneracy(wrong).curvature[0] > 0  # or NaN


def test_directions_that_two_rules_disagree_on_are_left_out():
    """Three nodes have little to say of 25 directions: what is kept has the same length on
    five, to a factor of two; if all are of another length there is no layer."""
    f = Functional(energy(START), INTERVAL.domain, ritz.Exact(), net())
    few, more = (INTERVAL.domain.gauss(n, 1) for n in (3, 5))
    held = tangents(f, side_by_side(few, more), f.theta, 1e-8)
    gram = jax.jit(
        lambda rule: held.basis.T @ Discrete(f, rule, 0).gram(f.theta) @ held.basis
    )
    rank = held.basis.shape[1]
    assert held.disputed > 0 and rank == held.above - held.disputed > 0
    np.testing.assert_allclose(gram(few), np.eye(rank), atol=1e-6)
    squares = jnp.linalg.eigvalsh(gram(more))
    assert 0.25 < squares[0] and squares[-1] < 4
    tripled = few._replace(interior=few.interior._replace(w=9 * few.interior.w))
    with pytest.raises(ValueError, match="at least one direction"):
        tangents(f, side_by_side(few, tripled), f.theta, 1e-8)


def test_parameters_from_data(made):
    """κ and c from five values of u that another formula gave."""
    truth = {"kappa": jnp.array(0.8), "c": jnp.array(4.0)}
    data = exact(truth)
    miss = lambda q, _: 100 * (made(jax.tree.map(jnp.exp, q), X) - data)
    found = pi.least_squares(miss, jax.tree.map(jnp.log, START), rtol=1e-7, atol=1e-7)
    for name, q in found.value.items():
        assert float(jnp.exp(q)) == pytest.approx(float(truth[name]), rel=5e-3)


def test_a_family_as_an_equilibrium(made):
    """The same family as a DEQ, y = y - s ∂I/∂y by Anderson's iteration: the layer's
    coordinates, and the closed form's values and slopes."""
    cell = lambda y, p: y - 0.7 * jax.grad(made.value)(y, p)
    rank = made.tangents.basis.shape[1]

    @jax.jit
    def look(c):
        def both(c):
            p = {"kappa": 1.1, "c": c}
            found = pi.fixed_point(cell, jnp.zeros(rank), p, solver=pi.Anderson(memory=5))
            u = jax.vmap(made.functional(p).field(made._theta(found.value)))(X)
            return u, (found.value, found.status)

        u, t_u, (y, status) = jax.jvp(both, (c,), (1.0,), has_aux=True)
        return u, t_u, y, status, made.coordinates({"kappa": 1.1, "c": c}).value

    u, t_u, y, status, wanted = look(3.0)
    assert int(status) == 0
    np.testing.assert_allclose(y, wanted, atol=1e-7 * float(jnp.abs(wanted).max()))
    of_c = lambda c: exact({"kappa": 1.1, "c": c})
    np.testing.assert_allclose(u, of_c(3.0), rtol=5e-5)
    np.testing.assert_allclose(t_u, jax.jvp(of_c, (3.0,), (1.0,))[1], rtol=1e-3)


CALL: Any = ritz.layer


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: CALL(energy(START), START, INTERVAL.domain, model=net()), "function of"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain, model=net(), cutoff=2.0),
         "cutoff"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain, model=net(),
                            quadrature=ritz.Sobol(64)), "fixed rule"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain, model=net(), accuracy=0.0),
         "accuracy"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain, ritz.AugmentedLagrangian(),
                            model=net()), "one energy"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain,
                            ritz.Penalty(weight=lambda i: 1.0 + i), model=net()),
         "one energy"),
        (lambda: ritz.layer(lambda p: ritz.rayleigh(against=(lambda x: x[0],)), START,
                            INTERVAL.domain, model=net()), "up to a factor"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain,
                            model=Given(lambda x: x[0]), optimizer=1), "optimizer"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)
