"""Domains and rules of `pi.ritz`: measures, normals, distances, energies, rates."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem, ritz


KEY = jax.random.key(0)
STAR = [(1, 0), (0.3, 0.3), (0, 1), (-0.3, 0.3), (-1, 0), (-0.2, -0.3)]
# Domain, volume, area of the boundary (the slit has two faces).
DOMAINS = {
    "interval": (ritz.Box([0], [1]), 1.0, 2.0),
    "box": (ritz.Box([0, -1], [1, 1]), 2.0, 6.0),
    "disk": (ritz.Ball(2), math.pi, 2 * math.pi),
    "ball": (ritz.Ball(3), 4 / 3 * math.pi, 4 * math.pi),
    "slit": (ritz.Slit(), 4.0, 10.0),
    "L": (ritz.LShape(), 3.0, 8.0),
    "convex": (ritz.Polygon([(0, 0), (0.5, 1.5), (2, 1), (2, 0)]), 2.25, None),
    "L as polygon": (
        ritz.Polygon([(0, 0), (0, -1), (-1, -1), (-1, 1), (1, 1), (1, 0)]), 3.0, 8.0),
    "star": (ritz.Polygon(STAR), 0.9, None),
    "mesh of an interval": (ritz.MeshDomain(fem.Mesh.interval(3, 2.0)), 2.0, 2.0),
    "mesh of quads": (
        ritz.MeshDomain(fem.Mesh.rectangle(3, 2, (1.5, 1.0), cells="quad")), 1.5, 5.0),
    "mesh of an L": (ritz.MeshDomain(fem.Mesh.polygon(
        [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)], size=0.7, points_per_edge=2
        )), 3.0, 8.0),
    "mesh of a box": (ritz.MeshDomain(fem.Mesh.box(2, 1, 1)), 1.0, 6.0),
}  # fmt: skip
RULES = {
    "Gauss": (ritz.Gauss(6, 1), 1e-12),
    "random": (ritz.MonteCarlo(4096, 4096), 0.06),
    "Sobol": (ritz.Sobol(4096, 4096), 3e-3),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_rules_measure_domains(name):
    """Volume, area, ∫ x·n ds = dim volume, the centroid by ∫ x₁² n₁ ds / 2; all nodes
    inside, where the distance is positive; on the boundary it is zero."""
    domain, volume, area = DOMAINS[name]
    assert domain.volume == pytest.approx(volume, rel=1e-12)
    assert area is None or domain.area == pytest.approx(area, rel=1e-12)

    def measures(inside, around):
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

    @jax.jit
    def look(key):
        return [measures(*q.rule(domain, key)) for q, _ in RULES.values()]

    for found, (_, tol) in zip(look(KEY), RULES.values(), strict=True):
        sizes, moments, inside, off, finite = found
        np.testing.assert_allclose(sizes[:2], [volume, domain.area], rtol=1e-10)
        assert float(sizes[2]) == pytest.approx(volume, rel=tol, abs=tol)
        np.testing.assert_allclose(moments, 0, atol=max(2 * tol, 1e-10))
        assert bool(inside) and bool(finite) and float(off) < 1e-9


@pytest.mark.parametrize("name", ["slit", "L", "star", "mesh of quads", "mesh of a box"])
@pytest.mark.parametrize("points", [1, 2])
def test_each_piece_is_cut_into_cells(name, points):
    """p points in each of n intervals for each coordinate of each piece: errors of the
    order n^(-2p), inside and on the boundary."""
    domain, *_ = DOMAINS[name]

    def integrals(points, cells):
        rule = ritz.Gauss(points, cells).rule(domain)
        assert len(rule.interior.w) == domain.parts * (points * cells) ** domain.dim
        fns = lambda x, y: np.stack([np.exp(0.7 * x - y**2), np.cos(2 * x + y), x * y**4])
        return np.stack([fns(*np.asarray(x).T[:2]) @ np.asarray(w) for x, w, _ in rule])

    exact = integrals(8, 2)
    error = lambda n: np.linalg.norm(integrals(points, n) - exact, axis=1)
    two, three, six, twelve = map(error, (2, 3, 6, 12))
    np.testing.assert_allclose(np.log2(six / twelve), 2 * points, atol=0.3)
    assert (three < two).all()


def test_the_boundary_has_cells_of_its_own():
    """`Gauss(p, n, m)` has the nodes of `Gauss(p, n)` inside, of `Gauss(p, m)` around."""
    for name in ("slit", "interval", "mesh of a box"):
        domain, *_ = DOMAINS[name]
        inside, around = ritz.Gauss(2, 3, boundary=5).rule(domain)
        jax.tree.map(
            np.testing.assert_array_equal, inside, ritz.Gauss(2, 3).rule(domain)[0]
        )
        jax.tree.map(
            np.testing.assert_array_equal, around, ritz.Gauss(2, 5).rule(domain)[1]
        )
        assert (
            len(around.w) != len(ritz.Gauss(2, 3).rule(domain).boundary.w)
            or domain.dim == 1
        )


def test_rules_of_about_a_number_of_nodes():
    """The fine rule and the usual one have about as many on one piece as on many."""
    for domain, *_ in DOMAINS.values():
        if domain.dim == 2:
            for w in (
                ritz.fine_rule(domain, 4096).interior.w,
                ritz.quadrature.usual(domain).rule(domain, KEY).interior.w,
            ):
                assert 500 < len(w) < 12_000


@pytest.mark.parametrize("kind", [ritz.MonteCarlo, ritz.Sobol])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rule_is_not_judged_by_itself(kind, seed):
    quadrature = kind(64, fixed=True, seed=seed)
    mine, other = ritz.quadrature.pair(quadrature, ritz.Box([0], [1]))
    assert not np.isin(np.asarray(mine.interior.x), np.asarray(other.interior.x)).any()


def test_the_tip_of_the_slit_is_integrated_exactly():
    """u = r^(1/2) sin(θ/2): energy ln(1 + √2), ∫ u² = 2/3 (√2 + ln(1 + √2)); where
    triangles without grading are far from both."""
    domain, log = ritz.Slit(), math.log(1 + math.sqrt(2))
    u = lambda x: domain.corner(x)[1]

    @jax.jit
    def integrals(nodes):
        values, slopes = jax.vmap(jax.value_and_grad(u))(nodes.x)
        return 0.5 * jnp.sum(nodes.w[:, None] * slopes**2), jnp.sum(nodes.w * values**2)

    energy, mass = integrals(ritz.Gauss(8, 2).rule(domain).interior)
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


def circle(x):
    return x @ x - 1.0


def curved(n):
    """A disk of triangles whose sides on the boundary are arcs of parabolas."""
    straight = fem.Mesh.disk(n)
    rim = {tuple(p) for p in straight.points[straight.boundary_nodes("boundary")]}

    def move(p):
        size = np.linalg.norm(p, axis=1, keepdims=True)
        a = np.array(sorted(rim))
        middles = (a[:, None] + a[None]).reshape(-1, 2) / 2
        near = np.abs(p[:, None] - middles).max(axis=2).min(axis=1) < 1e-9
        outer = near & (size[:, 0] > math.cos(math.pi / (6 * n)) - 1e-6)
        return np.where(outer[:, None], p / np.where(size > 0, size, 1), p)

    return ritz.MeshDomain(straight.second_order(move), distance=lambda x: 1 - x @ x)


CURVED = {
    "level set": (lambda n: ritz.Implicit(circle, [-1.2] * 2, [1.3] * 2, 2 * n), 4, 2),
    "level set in space": (
        lambda n: ritz.Implicit(circle, [-1.2] * 3, [1.3] * 3, n), 5, 3),
    "curved mesh": (curved, 3, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CURVED)
def test_curved_boundaries_are_met_to_fourth_order(name):
    make, n, dim = CURVED[name]
    volume, area = (math.pi, 2 * math.pi) if dim == 2 else (4 / 3 * math.pi, 4 * math.pi)
    coarse, fine = make(n), make(2 * n)
    for get, exact in ((lambda d: d.volume, volume), (lambda d: d.area, area)):
        errors = [abs(get(d) / exact - 1) for d in (coarse, fine)]
        assert errors[0] < 2e-3 and math.log2(errors[0] / errors[1]) > 3.4
    inside, around = coarse.gauss(3, 1)
    distance = jax.vmap(coarse.distance)
    assert float(distance(inside.x).min()) > -1e-3
    np.testing.assert_allclose(distance(around.x), 0, atol=2e-2)
    # Normals: of the circle or the ball; fluxes are those of closed surfaces.
    np.testing.assert_allclose(around.normal, around.x, atol=0.1)
    flux = jnp.sum(around.w[:, None] * around.x * around.normal) / dim
    assert float(flux) == pytest.approx(coarse.volume, rel=1e-10)
    np.testing.assert_allclose(around.w @ around.normal, 0, atol=1e-12)


BAD = [
    (lambda: ritz.Polygon([(0, 0), (1, 0)]), "three points"),
    (lambda: ritz.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "simple polygon"),
    (lambda: ritz.Implicit(circle, [-1], [1]), "2 or 3 numbers"),
    (lambda: ritz.Implicit(circle, [1, 1], [-1, -1]), "lower < upper"),
    (lambda: ritz.Implicit(lambda x: 1 + x @ x, [-1, -1], [1, 1]), "negative somewhere"),
    (lambda: ritz.MeshDomain(fem.Mesh.box(1, 1, 1, cells="hexahedron")), "simplices"),
    (lambda: curved(2).contains(jnp.zeros(2)), "straight cells"),
    (lambda: ritz.MeshDomain(fem.Mesh.disk(2).second_order(lambda p: p * (1 + p**2)))
     .distance(jnp.zeros(2)), "Nitsche"),
]  # fmt: skip


@pytest.mark.parametrize("call, words", BAD)
def test_bad_domains_are_refused(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "Got" in str(caught.value)


def test_a_mesh_is_a_domain_and_nodes_adapt_while_it_is_solved():
    mesh = fem.Mesh.rectangle(2, 1, (1.0, 0.5))
    result = ritz.solve(
        ritz.poisson(1.0), mesh, ritz.Exact(), ritz.MLP(2, 3, 1, key=KEY),
        quadrature=ritz.Adaptive(n=64), optimizer=ritz.Adam(1e-2), steps=20,
        report_every=20, fine=ritz.Gauss(3, 1).rule(ritz.MeshDomain(mesh)),
    )  # fmt: skip
    assert result.history[-1].energy < result.history[0].energy
    assert abs(float(result.field(jnp.array([0.0, 0.3])))) < 1e-12
