"""Parametric families: one network for all parameters of a box."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import ritz


KEY = jax.random.key(0)
INTERVAL = ritz.Box([0], [1])


def test_a_family_in_one_network():
    """-κu'' = 1 for all κ in (1/2, 2) at once: u = x(1 - x) / 2κ."""
    family = ritz.Family(INTERVAL, [0.5], [2.0])
    net = ritz.MLP(2, 8, 1, activation=jnp.sin, scale=3.0, centre=0.5, reach=0.5, key=KEY)
    found = ritz.solve(
        ritz.poisson(1.0, kappa=lambda xp: xp[1]), family, ritz.Exact(), net,
        quadrature=ritz.Gauss(8, 2), optimizer=ritz.LevenbergMarquardt(),
        steps=120, report_every=120, fine=ritz.Gauss(10, 2).rule(family),
    )  # fmt: skip
    x = jnp.linspace(0.1, 0.9, 5)
    for kappa in (0.6, 1.0, 1.7):
        u = jax.vmap(ritz.at_parameters(found.field, kappa))(x[:, None])
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


def test_families_of_many_parameters_have_rules():
    """Products of rules end at two; beyond Sobol's points fill the box, others for the
    rules that judge."""
    family = ritz.Family(INTERVAL, [1.0] * 4, [2.0] * 4)
    rules = [ritz.Gauss(n, 2).rule(family) for n in (2, 3)]
    for (x, w, _), around in rules:
        np.testing.assert_allclose(w @ x, [0.5, *[1.5] * 4], atol=0.01)
        assert float(w.sum()) == pytest.approx(1) == float(around.w.sum()) / 2
    first, other = (np.unique(rule.interior.x[:, 1]) for rule in rules)
    assert len(first) == len(other) == 64 and not np.isin(first, other).any()
    assert ritz.fine_rule(family).interior.x.shape[1] == 5


FAMILY: Any = ritz.Family


def test_bad_families_are_refused():
    with pytest.raises(TypeError, match="about a domain"):
        FAMILY("interval", [0], [1])
    with pytest.raises(ValueError, match="lower < upper"):
        ritz.Family(INTERVAL, [1], [0])
