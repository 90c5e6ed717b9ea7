"""Domains and rules of `pi.ritz`: measures, normals, distances, energies, rates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import ritz


KEY = jax.random.key(0)
STAR = [(1, 0), (0.3, 0.3), (0, 1), (-0.3, 0.3), (-1, 0), (-0.2, -0.3)]
# Domain, volume, area of the boundary (the slit has two faces).
DOMAINS = {
    "slit": (ritz.Slit(), 4.0, 10.0),
    "L": (ritz.LShape(), 3.0, 8.0),
    "convex": (ritz.Polygon([(0, 0), (0.5, 1.5), (2, 1), (2, 0)]), 2.25, None),
    "L as polygon": (
        ritz.Polygon([(0, 0), (0, -1), (-1, -1), (-1, 1), (1, 1), (1, 0)]), 3.0, 8.0),
    "star": (ritz.Polygon(STAR), 0.9, None),
}  # fmt: skip
RULES = {
    "Gauss": (ritz.Gauss(6, 2), 1e-12),
    "random": (ritz.MonteCarlo(4000, 4000), 0.06),
    "Sobol": (ritz.Sobol(4096, 4096), 3e-3),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_rules_measure_domains(name):
    """Volume, area, ∫ x·n ds = dim volume, the centroid by ∫ x₁² n₁ ds / 2; all nodes
    inside, where the distance is positive; on the boundary it is zero."""
    domain, volume, area = DOMAINS[name]
    assert domain.volume == pytest.approx(volume, rel=1e-12)
    assert area is None or domain.area == pytest.approx(area, rel=1e-12)

    @jax.jit
    def look(rule):
        inside, around = rule
        D, boundary = jax.vmap(domain.distance), around
        flux = jnp.sum(boundary.w[:, None] * boundary.x * boundary.normal)
        moments = boundary.w[:, None] * boundary.x**2 * boundary.normal / 2
        return (
            jnp.array([inside.w.sum(), around.w.sum(), flux / domain.dim]),
            jnp.sum(inside.w[:, None] * inside.x, axis=0) - moments.sum(axis=0),
            jnp.stack([jax.vmap(domain.contains)(inside.x), D(inside.x) > 0]).all(),
            jnp.abs(D(around.x)).max(),
            jnp.isfinite(jax.vmap(jax.grad(domain.distance))(around.x)).all(),
        )

    for quadrature, tol in RULES.values():
        sizes, moments, inside, off, finite = look(quadrature.rule(domain, KEY))
        np.testing.assert_allclose(sizes[:2], [volume, domain.area], rtol=1e-10)
        assert float(sizes[2]) == pytest.approx(volume, rel=tol, abs=tol)
        np.testing.assert_allclose(moments, 0, atol=max(2 * tol, 1e-10))
        assert bool(inside) and bool(finite) and float(off) < 1e-9


def test_the_tip_of_the_slit_is_integrated_exactly():
    """u = r^(1/2) sin(θ/2): energy ln(1 + √2), ∫ u² = 2/3 (√2 + ln(1 + √2)); where
    triangles without grading are far from both."""
    domain, log = ritz.Slit(), math.log(1 + math.sqrt(2))
    u = lambda x: domain.corner(x)[1]

    @jax.jit
    def integrals(nodes):
        values, slopes = jax.vmap(jax.value_and_grad(u))(nodes.x)
        return 0.5 * jnp.sum(nodes.w[:, None] * slopes**2), jnp.sum(nodes.w * values**2)

    energy, mass = integrals(ritz.Gauss(8, 3).rule(domain).interior)
    assert float(energy) == pytest.approx(log, rel=1e-12)
    assert float(mass) == pytest.approx(2 / 3 * (math.sqrt(2) + log), rel=1e-12)
    sobol, mass = integrals(ritz.Sobol(2**14).rule(domain, KEY).interior)
    assert float(sobol) == pytest.approx(log, rel=5e-3)
    assert float(mass) == pytest.approx(2 / 3 * (math.sqrt(2) + log), rel=1e-4)


def test_corners_tell_the_faces_apart():
    """r^(1/2) cos(θ/2) has both signs on the slit; the functions of the L are harmonic and
    vanish on its edges."""
    slit, L = ritz.Slit().corner, ritz.LShape().corner
    faces = ritz.Slit().gauss(2, 1).boundary
    upper = faces.normal[:, 1] * (jnp.abs(faces.x[:, 1]) < 1e-6)
    values = jax.vmap(slit)(faces.x)[:, 0]
    np.testing.assert_array_equal(jnp.sign(values[upper != 0]), -upper[upper != 0])

    @jax.jit
    def at(x):
        return L(x), jnp.trace(jax.jacfwd(jax.jacfwd(lambda x: L(x)))(x), axis1=1, axis2=2)

    value, laplacian = at(jnp.array([-0.3, 0.4]))
    np.testing.assert_allclose(laplacian, 0, atol=1e-12)
    wanted = (-0.3 + 0.4j) ** (2 / 3)
    np.testing.assert_allclose(value, [wanted.real, wanted.imag], rtol=1e-12)
    for edge in ([0.3, 0.0], [0.0, -0.7]):
        assert abs(float(at(jnp.array(edge))[0][1])) < 1e-14
    assert bool(jnp.isfinite(jax.jacfwd(slit)(jnp.zeros(2))).all())
