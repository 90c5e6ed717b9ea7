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
    # Each node several times, so that both are one program.
    again = lambda a, like: jnp.repeat(a, len(like) // len(a), 0) * len(a) / len(like)
    x = lambda a, like: jnp.repeat(a, len(like) // len(a), 0)
    few = [
        ritz.Nodes(x(a.x, b.x), again(a.w, b.w), None if i == 0 else x(a.normal, b.normal))
        for i, (a, b) in enumerate(zip(slit.gauss(2, 1), good.rule, strict=True))
    ]
    few = dataclasses.replace(good, rule=ritz.Rule(*few))

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


def test_a_derivative_is_judged_where_the_value_is_right():
    """At s = 0 a peak between the nodes changes nothing, but its derivative would; the
    rule has not a node on it. And what it sees well, it may differentiate."""
    x = INTERVAL.domain.gauss(4, 4).interior.x[:, 0]
    middle = float(x[5] + x[6]) / 2
    peak = lambda x: jnp.exp(-(((x[0] - middle) / 0.01) ** 2))

    def layer_of(load):
        of = lambda s: ritz.poisson(lambda x: 1.0 + s * load(x))
        return dataclasses.replace(energy_of_one, energy_of=of)

    energy_of_one = ritz.layer(
        lambda s: ritz.poisson(1.0 + s), jnp.array(0.0), INTERVAL.domain, ritz.Exact(),
        net(), quadrature=ritz.Gauss(4, 4), optimizer=LM, steps=30, report_every=30,
        accuracy=0.02,
    )[0]  # fmt: skip
    look = lambda layer: jax.jit(
        jax.value_and_grad(lambda s: layer(s, jnp.array([[0.3]]))[0])
    )(0.0)
    exact = 3.0 * 0.3 * (1 - 0.3**2) / 6
    seen = look(layer_of(lambda x: 3.0 * x[0]))
    np.testing.assert_allclose(seen, [0.3 * 0.7 / 2, exact], rtol=1e-4)
    with pytest.raises(Exception, match="other nodes"):
        jax.block_until_ready(look(layer_of(peak)))


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
    rank = made.basis.shape[1]

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


def test_a_family_in_one_network():
    """-κu'' = 1 for all κ in (1/2, 2) at once: u = x(1 - x) / 2κ."""
    family = ritz.Family(INTERVAL.domain, [0.5], [2.0])
    found = ritz.solve(
        ritz.poisson(1.0, kappa=lambda xp: xp[1]), family, ritz.Exact(), net(2),
        quadrature=ritz.Gauss(8, 2), optimizer=LM, steps=120, report_every=120,
        fine=ritz.Gauss(10, 2).rule(family),
    )  # fmt: skip
    x = X[:, 0]
    for kappa in (0.6, 1.0, 1.7):
        u = jax.vmap(ritz.at_parameters(found.field, kappa))(X)
        np.testing.assert_allclose(u, x * (1 - x) / (2 * kappa), rtol=5e-3)
    assert found.energy == pytest.approx(-np.log(4) / 1.5 / 24, rel=1e-4)


def test_the_points_of_a_family():
    family = ritz.Family(ritz.Ball(2), [1.0, -1.0], [2.0, 0.0])
    both = ritz.Gauss(2, 2), ritz.Sobol(256)

    @jax.jit
    def look(key):
        made = [quadrature.rule(family, key) for quadrature in both]
        return made, [
            (jax.vmap(family.contains)(inside.x).all(),
             jnp.abs(jax.vmap(family.distance)(around.x)).max(),
             inside.w @ inside.x[:, 2] / np.pi)
            for inside, around in made
        ]  # fmt: skip

    for (inside, around), (contained, off, mean) in zip(*look(KEY), strict=True):
        assert inside.x.shape[1] == around.x.shape[1] == 4
        assert around.normal.shape[1] == 2
        assert float(inside.w.sum()) == pytest.approx(np.pi)
        assert float(around.w.sum()) == pytest.approx(2 * np.pi)
        assert bool(contained) and float(off) < 1e-12
        assert float(mean) == pytest.approx(1.5, abs=0.01)


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
        (lambda: ritz.Family("interval", [0], [1]), "about a domain"),  # type: ignore[arg-type]
        (lambda: ritz.Family(INTERVAL.domain, [1], [0]), "lower < upper"),
        (lambda: ritz.layer(energy, START, INTERVAL.domain,
                            model=Given(lambda x: x[0]), optimizer=1), "optimizer"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        call()
    assert "Got" in str(caught.value)
