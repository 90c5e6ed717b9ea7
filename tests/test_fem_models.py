"""The models against closed forms, benchmarks of the field, and scikit-fem's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import (
    FunctionSpace,
    Mesh,
    MixedSpace,
    Problem,
    div,
    dot,
    grad,
    inner,
    models,
)
from pyimplicit.fem.models.solid import lame


FILES = Path(__file__).parents[2] / "shared" / "data" / "meshes"
measured = pytest.mark.skipif(not FILES.is_dir(), reason="no mesh files here")
close = lambda a, b, tol: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)
quads = lambda nx, ny, lengths=(1, 1): Mesh.rectangle(nx, ny, lengths, cells="quad")
# scikit-fem's unit square: all diagonals in one direction
SQUARE = Mesh.from_arrays(
    [[0.0, 0], [1, 0], [0, 1], [1, 1]], {"triangle": [[0, 1, 2], [1, 3, 2]]}
)


def at(V, point):
    """Number of the unknown at a point."""
    (found,) = np.flatnonzero(np.linalg.norm(V.dof_points - point, axis=1) < 1e-9)
    return found


def quarter(nr, nt, radii, element="Q2", components=2):
    """A quarter of an elliptic ring, `radii` ((a_in, b_in), (a_out, b_out)), curved; the
    boundaries: "left" inside, "right" outside, "bottom" y = 0, "top" x = 0."""
    (a, b), (c, d) = radii

    def move(x):
        angle = x[:, 1] * np.pi / 2
        sizes = np.stack([a + (c - a) * x[:, 0], b + (d - b) * x[:, 0]], axis=1)
        return sizes * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    return FunctionSpace(quads(nr, nt).second_order(move), element, components)


def stress(V, u, point, E, nu, plane):
    """σ of a displacement at a node, the mean over its cells."""
    dof, found = at(V, point), []
    for c in np.flatnonzero((V.cells == dof).any(axis=1)):
        reference = V.element.cell.points[V.cells[c] == dof]
        gradients = V.element.gradients(reference)[0]
        J = V.dof_points[V.cells[c]].T @ gradients
        slope = np.asarray(u)[V.cells[c]].T @ gradients @ np.linalg.inv(J)
        mu, lam = lame(E, nu, plane)
        found.append(mu * (slope + slope.T) + lam * np.trace(slope) * np.eye(2))
    return np.mean(found, axis=0)


def test_poisson_of_scikit_fem():
    """Examples 1 and 9: the largest values on their meshes."""

    def largest(V):
        problem = models.poisson(V, {"boundary": 0.0}, source="f")
        return jax.jit(lambda f: problem.solve({"kappa": 1.0, "f": f}).max())(1.0)

    close(largest(FunctionSpace(SQUARE.refine(6))), 0.073657185490792, 1e-9)
    close(largest(FunctionSpace(Mesh.box(15, 15, 15))), 0.05528520791811886, 1e-6)


def test_harmonic_function_of_scikit_fem():
    """Example 14: u = x² - y² is in P2, its energy 8/3."""
    V = FunctionSpace(SQUARE.refine(1), "P2")
    form = lambda u, v, w: dot(grad(u), grad(v))
    problem = Problem(V, form, {"boundary": lambda x: x[0] ** 2 - x[1] ** 2})
    square = lambda w: dot(grad(w.u), grad(w.u))
    energy = jax.jit(lambda: fem.integrate(V, square, u=problem.solve()))()
    close(energy, 8 / 3, 1e-12)


@measured
def test_advection_past_a_sphere_of_scikit_fem():
    """Example 50: heat in Stokes flow around a cold sphere, in cylinder coordinates (r, z)
    at Péclet number 30; the largest temperature."""
    mesh = Mesh.read(FILES / "cylinder_stokes.msh")
    V = FunctionSpace(mesh)

    def form(u, v, w):
        r, z = w.x
        q = r**2 + z**2
        wind = jnp.stack(
            [
                0.75 * r * z / q**0.5 * (1 / q**2 - 1 / q),
                1 + 0.75 / q**0.5 * ((2 + 3 * r**2) / (3 * q) - (r / q) ** 2 - 2),
            ]
        )
        # There the diffusion is weighted by |z|; kept, for the number's sake.
        return abs(z) * dot(grad(u), grad(v)) + 30 * r * dot(wind, grad(u)) * v

    problem = Problem(V, form, {"bottom": 1.0, "ball": 0.0})
    close(jax.jit(problem.solve)().max(), 1.00268, 1e-5)


def test_minimal_surface():
    """scikit-fem's example 10: the mean of the nodal values; and a catenoid."""
    V = FunctionSpace(SQUARE.refine(5))
    edge = {"boundary": lambda x: jnp.sin(jnp.pi * x[0])}
    u = jax.jit(lambda: models.minimal_surface(V, edge).solve())()
    close(u.mean(), 0.277931521728906, 1e-10)
    ring = quarter(4, 4, ((1.5, 1.5), (3, 3)), components=1)
    catenoid = lambda x: jnp.arccosh(jnp.sqrt(x @ x))
    sides = {name: catenoid for name in ("left", "right")}
    u = jax.jit(lambda: models.minimal_surface(ring, sides).solve())()
    close(u, jax.vmap(catenoid)(ring.dof_points), 2e-3)


@pytest.mark.parametrize("p", [1.5, 4.0])
def test_p_laplacian(p):
    """f = 1 on the unit disk: u = (p-1)/p 2^(-1/(p-1)) (1 - r^(p/(p-1)))."""
    V = FunctionSpace(Mesh.disk(8))
    problem = models.p_laplacian(V, {"boundary": 0.0})
    r = np.linalg.norm(V.dof_points, axis=1)
    u = jax.jit(lambda p: problem.solve({"p": p, "f": 1.0}))(p)
    exact = (p - 1) / p * 0.5 ** (1 / (p - 1)) * (1 - r ** (p / (p - 1)))
    close(u, exact, 0.01)


def test_reaction_diffusion():
    """-u'' + u³ = f with u = sin πx, and the derivative in the reaction."""
    V = FunctionSpace(Mesh.interval(20), "P2")
    problem = models.reaction_diffusion(V, {"boundary": 0.0})
    s = lambda x: jnp.sin(jnp.pi * x[0])
    f = lambda x: jnp.pi**2 * s(x) + s(x) ** 3
    solve = lambda a: problem.solve(
        {"kappa": 1.0, "f": f, "reaction": fem.law(lambda u: a * u**3)}
    )
    u, slope, up, down = jax.jit(
        lambda a: (solve(a), jax.jacfwd(solve)(a), solve(a + 1e-5), solve(a - 1e-5))
    )(1.0)
    close(u, np.sin(np.pi * V.dof_points[:, 0]), 2e-5)
    close(slope, (up - down) / 2e-5, 1e-8)


def test_advection_diffusion():
    """The boundary layer of κ = 1/1000 on 20 cells: exact at the nodes in 1-D, where the
    plain method oscillates."""
    V = FunctionSpace(Mesh.interval(20))
    given = {"kappa": 1e-3, "b": fem.constant([1.0]), "f": 0.0}
    sides = {"left": 0.0, "right": 1.0}
    problems = [models.advection_diffusion(V, sides, stabilise=s) for s in (True, False)]
    u, wild = jax.jit(lambda: [p.solve(given) for p in problems])()
    x = V.dof_points[:, 0]
    close(u, np.exp((x - 1) / 1e-3), 1e-12)
    assert abs(wild).max() > 1 or wild.min() < -0.5


def test_helmholtz():
    """A plane wave that leaves, in 1-D and along a quad channel; its derivative in k."""
    for V in (FunctionSpace(Mesh.interval(40), "P2"), FunctionSpace(quads(24, 1), "Q2")):
        problem = models.helmholtz(V, {"left": 1.0}, absorbing=("right",))
        solve = lambda k, problem=problem: problem.solve({"k": k + 0j, "f": 0.0})
        u, slope = jax.jit(lambda k, s=solve: (s(k), jax.jacfwd(s)(k)))(8.0)
        x = V.dof_points[:, 0]
        close(u, np.exp(8j * x), 1e-4)
        close(slope, 1j * x * np.exp(8j * x), 2e-3)


def test_cantilever():
    """Tip deflection PL³/3EI + 6PL/5GA of a slender clamped beam (ν = 0)."""
    length, height, E, load = 20.0, 1.0, 3e4, 2.0
    V = FunctionSpace(quads(20, 1, (length, height)), "Q2", 2)
    beam = models.elasticity(
        V, {"left": 0.0}, plane="stress", neumann={"right": (0.0, -load / height)}
    )
    u = jax.jit(lambda: beam.solve({"E": E, "nu": 0.0}))()
    exact = load * length**3 / (3 * E / 12) + 6 * load * length / (5 * E / 2)
    close(-u[at(V, [length, height / 2]), 1], exact, 1e-3)


def test_lame_cylinder():
    """A pressurised thick cylinder in plane strain, displacements and hoop stress."""
    a, b, p, E, nu = 1.0, 2.0, 3.0, 10.0, 0.3
    V = quarter(4, 4, ((a, a), (b, b)))
    cylinder = models.elasticity(
        V,
        {"bottom": (None, 0.0), "top": (0.0, None)},
        boundary={"left": lambda u, v, w: p * dot(w.n, v)},
    )
    u = jax.jit(lambda: cylinder.solve({"E": E, "nu": nu}))()
    r = np.linalg.norm(V.dof_points, axis=1)
    scale = p * a**2 / (b**2 - a**2) * (1 + nu) / E
    radial = scale * ((1 - 2 * nu) * r + b**2 / r)
    close(u, V.dof_points / r[:, None] * radial[:, None], 1e-3)
    hoop = stress(V, u, [a, 0], E, nu, "strain")[1, 1]
    close(hoop, p * (a**2 + b**2) / (b**2 - a**2), 0.02)


def test_cook():
    """Cook's membrane: E = 1, ν = 1/3, unit shear load; the tip's middle rises by 23.96."""
    corners = np.array([[0.0, 0], [48, 44], [48, 60], [0, 44]])

    def move(x):
        s, t = x.T
        weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=1)
        return weights @ corners

    V = FunctionSpace(quads(12, 12).second_order(move), "Q2", 2)
    cook = models.elasticity(
        V, {"left": 0.0}, plane="stress", neumann={"right": (0.0, 1 / 16)}
    )
    u = jax.jit(lambda: cook.solve({"E": 1.0, "nu": 1 / 3}))()
    close(u[at(V, [48, 52]), 1], 23.96, 1.5e-3)


def test_nafems_le1():
    """Elliptic membrane under outward pressure 10 MPa: σ_yy at D is 92.7 MPa."""
    V = quarter(16, 20, ((2.0, 1.0), (3.25, 2.75)))
    membrane = models.elasticity(
        V,
        {"bottom": (None, 0.0), "top": (0.0, None)},
        plane="stress",
        boundary={"right": lambda u, v, w: -10.0 * dot(w.n, v)},
    )
    E, nu = 210e3, 0.3
    u = jax.jit(lambda: membrane.solve({"E": E, "nu": nu}))()
    close(stress(V, u, [2, 0], E, nu, "stress")[1, 1], 92.7, 0.005)


def test_hyperelasticity():
    """Uniaxial stretch by 3 of a compressible bar, in steps: F = diag(3, b, b) with the
    b at which its sides are free."""
    V = FunctionSpace(Mesh.box(1, 1, 1), "P1", 3)
    supports = {
        "left": (0.0, None, None),
        "front": (None, 0.0, None),
        "bottom": (None, None, 0.0),
        "right": (2.0, None, None),
    }
    bar = models.hyperelasticity(V, supports)
    solve = lambda mu: bar.solve({"mu": mu, "lam": 2.0}, steps=4)
    u, slope, up, down = jax.jit(
        lambda mu: (solve(mu), jax.jacfwd(solve)(mu), solve(mu + 1e-5), solve(mu - 1e-5))
    )(1.5)
    sides = 1 + u[-1, 1]
    close(u, V.dof_points * np.array([2, sides - 1, sides - 1]), 1e-9)
    # P₂₂ = μ (b - 1/b) + λ ln(3 b²)/b = 0
    close(1.5 * (sides - 1 / sides) + 2 * np.log(3 * sides**2) / sides, 0, 1e-9)
    close(slope, (up - down) / 2e-5, 1e-7)


def test_nearly_incompressible_rubber():
    """Displacement and pressure, λ/μ = 1000, stretched by ℓ = 2: F is near diag(ℓ, ℓ^-½,
    ℓ^-½) and p near -μ/ℓ."""
    mesh = Mesh.box(1, 1, 1)
    V, Q = FunctionSpace(mesh, "P2", 3), FunctionSpace(mesh, "P1")
    mu, lam = 1.0, 1e3

    @fem.energy
    def form(u, w):
        u, p = u
        F = jnp.eye(3) + grad(u)
        J = models.solid.determinant(F)
        return p.value * (J - 1 - p.value / (2 * lam)) + mu / 2 * (inner(F, F) - 3)

    supports = {
        "left": (0.0, None, None),
        "front": (None, 0.0, None),
        "bottom": (None, None, 0.0),
        "right": (1.0, None, None),
    }
    problem = Problem(MixedSpace(V, Q), form, (supports, {}))
    u, p = jax.jit(lambda: problem.solve(steps=3))()
    close(u, V.dof_points * np.array([1, 2**-0.5 - 1, 2**-0.5 - 1]), 2e-3)
    close(p, -mu / 2, 1e-2)
    b = 1 + u[at(V, [1, 1, 1]), 1]  # exactly: μ b + p J/b = 0, p = λ (J - 1), J = 2 b²
    close(mu * b + 2 * lam * (2 * b**2 - 1) * b, 0, 1e-7)


def test_stokes():
    """Poiseuille flow is in the space; and a stirred disk, whose stream function is 1/64
    in the middle (scikit-fem's example 18)."""
    mesh = Mesh.rectangle(2, 3)
    V, Q = FunctionSpace(mesh, "P2", 2), FunctionSpace(mesh, "P1")
    profile = lambda x: jnp.stack([4 * x[1] * (1 - x[1]), 0.0])
    channel = models.stokes(
        V,
        Q,
        {"left": profile, "top": (0.0, 0.0), "bottom": (0.0, 0.0), "right": (None, 0.0)},
    )
    u, p = jax.jit(lambda nu: channel.solve({"nu": nu}))(0.5)
    close(u, jax.vmap(profile)(V.dof_points), 1e-11)
    close(p, 8 * 0.5 * (1 - Q.dof_points[:, 0]), 1e-10)

    disk = Mesh.disk(6)
    onto = lambda x: np.where(
        np.isclose(np.linalg.norm(x, axis=1), 1, atol=0.009)[:, None],
        x / np.maximum(np.linalg.norm(x, axis=1), 0.1)[:, None],
        x,
    )
    disk = disk.second_order(onto)
    V, Q, S = (FunctionSpace(disk, e, c) for e, c in (("P2", 2), ("P1", 1), ("P2", 1)))
    flow = models.stokes(V, Q, {"boundary": 0.0}, force="f", enclosed=True)
    curl = lambda u, v: u[0] * grad(v)[1] - u[1] * grad(v)[0]
    stream = Problem(
        S, lambda s, v, w: dot(grad(s), grad(v)) - curl(w.u, v), {"boundary": 0.0}
    )

    @jax.jit
    def stirred():
        u, p = flow.solve({"nu": 1.0, "f": lambda x: jnp.stack([0.0, x[0]])})
        return stream.solve({"u": fem.function(V, u)}), p

    psi, p = stirred()
    close(psi[at(S, [0, 0])], 1 / 64, 1e-5)
    close(p, Q.dof_points.prod(axis=1) / 2, 5e-3)


def eigen(V, form, dirichlet):
    K = Problem(V, form, dirichlet, structure="spd")
    M = Problem(V, lambda u, v, w: inner(u, v), dirichlet, structure="spd")
    return lambda k, c, **o: fem.eigenpairs(K, M, k, c, **o)


def test_eigenvalues():
    """Of a square membrane (double ones too), and of scikit-fem's clamped beam (3)."""
    V = FunctionSpace(quads(8, 8), "Q2")
    drum = eigen(V, lambda u, v, w: dot(grad(u), grad(v)) * w.c, {"boundary": 0.0})
    found = lambda c: drum(4, {"c": c}, multiple=True).values
    values, slopes = jax.jit(lambda c: (found(c), jax.jacfwd(found)(c)))(2.0)
    close(values / np.pi**2, 2 * np.array([2, 5, 5, 8]), 2e-3)
    close(slopes, values / 2, 1e-9)
    with pytest.raises(Exception, match="not simple"):
        jax.block_until_ready(jax.jit(lambda: drum(3, {"c": 1.0}))())
    V = FunctionSpace(quads(49, 9, (5, 1)), "Q1", 2)
    strain = lambda u, v, w: (
        2 * inner(fem.sym_grad(u), fem.sym_grad(v)) + div(u) * div(v)
    )  # fmt: skip
    beam = eigen(V, strain, {"left": 0.0})
    first = jax.jit(lambda: beam(1, {}).values[0])()
    np.testing.assert_allclose(first, 0.00418289, atol=5e-9)


@measured
def test_vibrating_beam_of_scikit_fem():
    """Example 21: the square of the lowest frequency of a steel part of P2 tetrahedra.
    There the middles of clamped edges are free, which makes it softer by 1e-5."""
    V = FunctionSpace(Mesh.read(FILES / "beams.msh"), "P2", 3)
    mu, lam = lame(200e9 / 8050, 0.3)
    strain = lambda u, v, w: (
        2 * mu * inner(fem.sym_grad(u), fem.sym_grad(v)) + lam * div(u) * div(v)
    )  # fmt: skip
    part = eigen(V, strain, {"fixed": 0.0})
    close(jax.jit(lambda: part(1, {}).values[0])(), 50194.51, 2e-5)


def test_derivatives_of_eigenpairs():
    """Of a non-uniform drum without symmetry: first and second, against differences."""
    V = FunctionSpace(Mesh.rectangle(4, 3, (1.3, 1)))
    form = lambda u, v, w: (1 + w.a * w.x[0] ** 2) * dot(grad(u), grad(v))
    drum = eigen(V, form, {"left": 0.0})

    def loss(a):
        values, vectors = drum(2, {"a": a})
        return values[1] + jnp.sum(vectors[0] ** 3) + vectors[1, 7]

    slope = jax.jit(jax.grad(loss))
    value, h = jax.jit(loss), 1e-5
    close(slope(1.0), (value(1 + h) - value(1 - h)) / (2 * h), 1e-7)
    second = jax.jit(jax.hessian(loss))(1.0)
    close(second, (slope(1 + h) - slope(1 - h)) / (2 * h), 1e-6)
    assert abs(slope(1.0)) > 1 and abs(second) > 1e-2


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda V: models.elasticity(V), ValueError, "as many components"),
        (lambda V: models.hyperelasticity(V), ValueError, "as many components"),
        (lambda V: models.stokes(V, V), ValueError, "vector space and a scalar"),
        (
            lambda V: models.elasticity(FunctionSpace(V.mesh, "P1", 2), plane="flat"),
            ValueError,
            "Got 'flat'",
        ),
        (
            lambda V: eigen(V, lambda u, v, w: dot(grad(u), grad(v)), {"left": 0})(99, {}),
            ValueError,
            "1..5",
        ),
        (
            lambda V: fem.eigenpairs(
                Problem(V, lambda u, v, w: u * v),
                Problem(V, lambda u, v, w: u * v, {"left": 0}),
                1,
            ),
            ValueError,
            "same `dirichlet`",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(FunctionSpace(Mesh.rectangle(2, 2)))
