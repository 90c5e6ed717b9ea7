"""The models against closed forms, benchmarks of the field, and scikit-fem's numbers.

Of scikit-fem's examples with known values these are tested here and in
test_fem_solids.py: 1, 3, 9, 10, 14, 18, 21, 36, 50. 19 and 39 (a mode of the heat equation
decays) are `test_rates` of test_evolve.py; 2, 7, 37, 41 and 48, with elements that are not
ours, are in test_fem_scikit.py.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import (
    FunctionSpace,
    Mesh,
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
    run = jax.jit(lambda a: jax.jvp(solve, (a,), (1.0,)))
    (u, slope), (up, _), (down, _) = run(1.0), run(1.0 + 1e-5), run(1.0 - 1e-5)
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
        u, slope = jax.jit(lambda k, s=solve: jax.jvp(s, (k,), (1.0,)))(8.0)
        x = V.dof_points[:, 0]
        close(u, np.exp(8j * x), 1e-4)
        close(slope, 1j * x * np.exp(8j * x), 2e-3)


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


def test_derivatives_of_models():
    """Six models in one program, each with a parameter of its own, against differences:
    viscosity, p, a rim, a wind (through the upwinding too), a wave number, ν."""
    line, square = Mesh.interval(4), Mesh.rectangle(2, 2)
    V, W = FunctionSpace(square), FunctionSpace(square, "P2", 2)
    end = {"boundary": 0.0}
    stokes = models.stokes(W, V, end, force="f", enclosed=True)
    laplace = models.p_laplacian(FunctionSpace(line, "P2"), {"left": 0.0})
    film = models.minimal_surface(V, end)
    wind = models.advection_diffusion(V, {"left": 0.0})
    wave = models.helmholtz(FunctionSpace(line, "P2"), {"left": 1.0}, absorbing=("right",))
    solid = models.elasticity(FunctionSpace(square, "P1", 2), {"left": 0.0}, force="f")

    def loss(a):
        force = lambda x: jnp.stack([x[1] ** 2, x[0]])
        u, p = stokes.solve({"nu": lambda x: 1 + a[0] * x[0], "f": force})
        fields = [
            100 * u[:, 0],
            laplace.solve({"p": 2 + a[1], "f": 1.0}),
            film.solve(dirichlet={"boundary": lambda x: a[2] * x[0] ** 2}),
            wind.solve({"kappa": 0.01, "b": lambda x: jnp.stack([a[3], x[0]]), "f": 1.0}),
            wave.solve({"k": a[4] + 0j, "f": 1.0}),
            10 * solid.solve({"E": 1.0, "nu": 0.3 * a[5], "f": force}),
            p,
        ]
        # Weights, for nothing to cancel by symmetry.
        return sum(jnp.arange(len(u)) @ jnp.sum(abs(u.reshape(len(u), -1)) ** 2, 1)
                   for u in fields)  # fmt: skip

    a, h = jnp.array([0.5, 0.7, 0.8, 1.0, 2.0, 0.9]), 1e-5
    both = jax.jit(jax.value_and_grad(loss))
    value, slopes = lambda a: both(a)[0], both(a)[1]
    differences = [(value(a + h * e) - value(a - h * e)) / (2 * h) for e in np.eye(6)]
    np.testing.assert_allclose(slopes, differences, rtol=2e-6)
    assert abs(slopes).min() > 1e-2


def eigen(V, form, dirichlet):
    K = Problem(V, form, dirichlet, structure="spd")
    M = Problem(V, lambda u, v, w: inner(u, v), dirichlet, structure="spd")
    return lambda k, c, **o: fem.eigenpairs(K, M, k, c, **o)


def test_eigenvalues():
    """Of a square membrane (double ones too), and of scikit-fem's clamped beam (3)."""
    V = FunctionSpace(quads(8, 8), "Q2")
    drum = eigen(V, lambda u, v, w: dot(grad(u), grad(v)) * w.c, {"boundary": 0.0})
    found = lambda c: drum(4, {"c": c}, multiple=True).values
    values, slopes = jax.jit(lambda c: jax.jvp(found, (c,), (1.0,)))(2.0)
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

    both = jax.value_and_grad(loss)
    run, h = jax.jit(lambda a: jax.jvp(both, (a,), (1.0,))), 1e-5
    (_, slope), (tangent, second) = run(1.0)
    differences = [
        (up - down) / (2 * h) for up, down in zip(run(1 + h)[0], run(1 - h)[0], strict=True)
    ]
    close([slope, tangent], differences[0], 1e-7)
    close(second, differences[1], 1e-6)
    assert abs(slope) > 1 and abs(second) > 1e-2


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
