"""Elements, meshes and numberings: exactness, rates of convergence, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import factorial

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, MixedSpace, Problem, dot, grad
from pyimplicit.fem.cells import CELL_TYPES
from pyimplicit.fem.elements import geometry
from pyimplicit.fem.quadrature import cube, simplex

from .test_mesh import skewed


quads = lambda n: Mesh.rectangle(n, n, cells="quad")
hexes = lambda n: Mesh.box(n, n, n, cells="hexahedron")
tets = lambda n: Mesh.box(n, n, n)
bent = lambda x: x + 0.05 * np.sin(np.pi * x[:, ::-1])
SPACES = {
    "P1 line": lambda: FunctionSpace(Mesh.interval(5), "P1"),
    "P2 line": lambda: FunctionSpace(Mesh.interval(5), "P2"),
    "P1 triangle": lambda: FunctionSpace(skewed(Mesh.rectangle(3, 2), 0.1), "P1"),
    "P2 triangle": lambda: FunctionSpace(skewed(Mesh.rectangle(3, 2), 0.1), "P2"),
    "P2 curved": lambda: FunctionSpace(Mesh.rectangle(3, 2).second_order(bent), "P2"),
    "P1 tetra": lambda: FunctionSpace(skewed(tets(2), 0.1), "P1"),
    "P2 tetra": lambda: FunctionSpace(skewed(tets(2), 0.1), "P2"),
    "Q1 quad": lambda: FunctionSpace(skewed(quads(3), 0.1), "Q1"),
    "Q2 quad": lambda: FunctionSpace(skewed(quads(3), 0.1), "Q2"),
    "Q1 hexahedron": lambda: FunctionSpace(skewed(hexes(2), 0.1), "Q1"),
    "Q2 hexahedron": lambda: FunctionSpace(skewed(hexes(2), 0.1), "Q2"),
}
spaces = pytest.mark.parametrize("name", SPACES)


@pytest.mark.parametrize("cell", CELL_TYPES.values(), ids=lambda cell: cell.name)
def test_shape_functions(cell):
    element = geometry(cell)
    np.testing.assert_array_equal(element.values(cell.points), np.eye(cell.n_nodes))
    x = np.random.default_rng(0).uniform(size=(5, cell.dim))
    np.testing.assert_allclose(element.values(x).sum(axis=1), 1, rtol=1e-13)
    h = 1e-6
    for axis, e in enumerate(np.eye(cell.dim)):
        slope = (element.values(x + h * e) - element.values(x - h * e)) / (2 * h)
        np.testing.assert_allclose(element.gradients(x)[..., axis], slope, atol=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_quadrature_to_degree_8(dim):
    powers = np.stack(np.meshgrid(*[np.arange(9)] * dim, indexing="ij"), -1)
    powers = powers.reshape(-1, dim)
    # ∫ x^p over the simplex is Π pᵢ! / (dim + Σ pᵢ)!
    of_simplex = lambda p: np.prod(factorial(p)) / factorial(dim + p.sum())
    of_cube = lambda p: np.prod(1 / (p + 1))
    total = powers.sum(axis=1)
    for rule, exact, which in (
        (simplex, of_simplex, powers[total <= 8]),
        (cube, of_cube, powers),
    ):
        points, weights = rule(dim, 8)
        found = [weights @ np.prod(points**p, axis=1) for p in which]
        np.testing.assert_allclose(found, [exact(p) for p in which], rtol=1e-12)


@spaces
def test_unknowns_are_shared_and_stand_where_they_say(name):
    V = SPACES[name]()
    points = V.dof_points
    assert len(np.unique(points.round(9), axis=0)) == V.n_dofs == V.cells.max() + 1
    on = np.unique(np.concatenate([V.boundary_dofs(n) for n in V.mesh.boundaries]))
    np.testing.assert_array_equal(on, V.boundary_dofs("boundary"))
    if "curved" not in name:
        outside = (np.abs(points - points.min(axis=0)) < 1e-12) | (
            np.abs(points - points.max(axis=0)) < 1e-12
        )
        np.testing.assert_array_equal(on, np.flatnonzero(outside.any(axis=1)))
        vertices = V.mesh.n_points
        np.testing.assert_array_equal(points[:vertices], V.mesh.points)


@spaces
def test_polynomials_are_exact(name):
    """Values, gradients, volumes, Gauss' theorem and a patch test, in one program."""
    V = SPACES[name]()
    order, dim = V.element.order, V.mesh.dim
    affine = V.domain().affine or "curved" in name
    power = order if V.domain().affine else 1
    f = lambda x: 1 + x[0] ** power - 2 * x[-1] + x[0] * x[-1] * (power - 1)
    u = jax.vmap(f)(V.dof_points)
    inside = V.mesh.points.min(axis=0) + np.random.default_rng(1).uniform(
        0.1, 0.9, (7, dim)
    ) * np.ptp(V.mesh.points, axis=0)
    E = fem.point_evaluation(V, inside)
    problem = Problem(V, lambda u, v, w: dot(grad(u), grad(v)) + w.f * v, {"boundary": f})

    def everything(u):
        laplacian = lambda x: jnp.trace(jax.hessian(f)(x))
        slope = lambda w: jnp.sum((grad(w.u) - jax.grad(f)(w.x)) ** 2)
        return (
            E(u),
            fem.integrate(V, slope, u=u),
            fem.integrate(V, lambda w: 1.0),
            fem.integrate(V, lambda w: dot(grad(w.u), jnp.ones(dim)), u=u),
            fem.integrate(V, lambda w: w.u * w.n.sum(), u=u, boundary="boundary"),
            problem.solve({"f": laplacian}),
        )

    values, slope, volume, gauss, flux, solved = jax.jit(everything)(u)
    np.testing.assert_allclose(values, jax.vmap(f)(inside), rtol=1e-10)
    np.testing.assert_allclose(slope, 0, atol=1e-20)
    assert affine or abs(volume - 1) < 1e-12
    np.testing.assert_allclose(flux, gauss, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(solved, u, rtol=1e-9, atol=1e-10)


RATES = {  # element, meshes, rates in L2 and H1
    "P1 line": ("P1", Mesh.interval, (8, 16), (2, 1)),
    "P2 line": ("P2", Mesh.interval, (8, 16), (3, 2)),
    "P1 triangle": ("P1", lambda n: Mesh.rectangle(n, n), (16, 32), (2, 1)),
    "P2 triangle": ("P2", lambda n: Mesh.rectangle(n, n), (8, 16), (3, 2)),
    "P1 tetra": ("P1", tets, (8, 14), (2, 1)),
    "P2 tetra": ("P2", tets, (4, 8), (3, 2)),
    "Q1 quad": ("Q1", quads, (16, 32), (2, 1)),
    "Q2 quad": ("Q2", quads, (8, 16), (3, 2)),
    "Q1 hexahedron": ("Q1", hexes, (6, 12), (2, 1)),
    "Q2 hexahedron": ("Q2", hexes, (4, 8), (3, 2)),
}


def rates(make, sizes, exact, problem):
    """Slopes of the L2 and H1 errors over two meshes."""

    def errors(V):
        u = problem(V)
        difference = lambda w: grad(w.u) - jax.grad(exact)(w.x)
        l2 = fem.integrate(V, lambda w: (w.u - exact(w.x)) ** 2, u=u)
        h1 = fem.integrate(V, lambda w: jnp.sum(difference(w) ** 2), u=u)
        return jnp.sqrt(jnp.stack([l2, h1]))

    found = np.log([jax.jit(lambda V=make(n): errors(V))() for n in sizes])
    return -np.polyfit(np.log(sizes), found, 1)[0]


@pytest.mark.parametrize("name", RATES)
def test_rates(name):
    """-Δu + u = f with u = Π sin(π xᵢ) + x₀."""
    element, mesh, sizes, expected = RATES[name]
    exact = lambda x: jnp.prod(jnp.sin(jnp.pi * x)) + x[0]

    def solve(V):
        f = lambda x: V.mesh.dim * jnp.pi**2 * (exact(x) - x[0]) + exact(x)
        form = lambda u, v, w: dot(grad(u), grad(v)) + (u - w.f) * v
        return Problem(V, form, {"boundary": exact}, structure="spd").solve({"f": f})

    make = lambda n: FunctionSpace(mesh(n), element, degree=5)
    np.testing.assert_allclose(rates(make, sizes, exact, solve), expected, atol=0.1)


def test_rates_of_taylor_and_hood():
    """-Δu + ∇p = f, ∇·u = 0 with u the curl of a(x) a(y), a = 8 x²(1 - x)², and
    p = 30 cos(πx) (y - 1/2)."""
    of_a = lambda k, x: jnp.polyval(np.polyder(8 * np.array([1, -2, 1, 0, 0]), k), x)
    curl = lambda i, j, x: of_a(i, x[0]) * of_a(j, x[1])
    flow = lambda x: jnp.stack([curl(0, 1, x), -curl(1, 0, x)])
    laplacian = lambda x: jnp.stack(
        [curl(2, 1, x) + curl(0, 3, x), -curl(3, 0, x) - curl(1, 2, x)]
    )
    pressure = lambda x: 30 * jnp.cos(jnp.pi * x[0]) * (x[1] - 0.5)
    force = lambda x: jax.grad(pressure)(x) - laplacian(x)

    halves = {"triangle": [[0, 1, 2], [1, 3, 2]]}
    square = Mesh.from_arrays([[0.0, 0], [1, 0], [0, 1], [1, 1]], halves)

    def errors(mesh):
        V, Q = (FunctionSpace(mesh, e, c, degree=6) for e, c in (("P2", 2), ("P1", 1)))
        problem = fem.models.stokes(V, Q, {"boundary": 0.0}, force="f", enclosed=True)

        @jax.jit
        def squares():
            u, p = problem.solve({"nu": 1.0, "f": force})
            off = lambda w: jnp.sum((w.u - flow(w.x)) ** 2)
            slope = lambda w: jnp.sum((grad(w.u) - jax.jacfwd(flow)(w.x)) ** 2)
            of_p = lambda w: (w.p - pressure(w.x)) ** 2
            return jnp.stack([
                fem.integrate(V, off, u=u),
                fem.integrate(V, slope, u=u),
                fem.integrate(Q, of_p, p=fem.function(Q, p)),
            ])  # fmt: skip

        return np.log(squares()) / 2

    found = (errors(square.refine(3)) - errors(square.refine(4))) / np.log(2)
    np.testing.assert_allclose(found, (3, 2, 2), atol=0.1)


@pytest.mark.parametrize("curved, expected", [(True, (3, 2)), (False, (2, 1.5))])
def test_curved_boundaries_keep_the_rate(curved, expected):
    """-Δu = f on the disk, u = (1 - r²)(2 + x): with straight sides, u = 0 is imposed in
    the wrong place."""
    exact = lambda x: (1 - x @ x) * (2 + x[0])
    f = lambda x: -jnp.trace(jax.hessian(exact)(x))

    def make(n):
        mesh = Mesh.disk(n)
        mesh = mesh.second_order(lambda x: to_rim(x, mesh)) if curved else mesh
        return FunctionSpace(mesh, "P2", degree=6)

    def solve(V):
        return fem.models.poisson(V, {"boundary": 0.0}, source="f").solve(
            {"kappa": 1.0, "f": f}
        )

    found = rates(make, (6, 12), exact, solve)
    np.testing.assert_allclose(found, expected, atol=0.1)


def to_rim(points, mesh):
    """The middles of the outer edges, moved onto the circle."""
    middles = {tuple(m) for m in mesh.points[mesh.exterior].mean(axis=1)}
    radius = np.linalg.norm(points, axis=1, keepdims=True)
    outer = np.array([tuple(p) in middles for p in points])[:, None]
    return np.where(outer, points / np.where(outer, radius, 1), points)


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh.interval(3),
        Mesh.rectangle(3, 2),
        quads(2),
        Mesh.box(2, 1, 1),
        hexes(1),
    ],
    ids=repr,
)
def test_refine_and_second_order(mesh):
    mesh = Mesh.from_arrays(
        mesh.points,
        mesh.cells,
        regions={"first": [0]},
        boundaries={**mesh.boundaries, "corner": [[0]]},
    )
    fine, curved = mesh.refine(2), mesh.second_order()
    assert fine.n_cells == mesh.n_cells * 4**mesh.dim
    assert len(fine.regions["first"]) == 4**mesh.dim
    volume = lambda m, name: m.volumes[m.regions[name]].sum()
    for other in (fine, curved):
        np.testing.assert_allclose(other.volumes.sum(), mesh.volumes.sum(), rtol=1e-12)
        np.testing.assert_allclose(volume(other, "first"), volume(mesh, "first"))
        x = other.points[other.boundary_nodes("corner")]
        np.testing.assert_array_equal(x, mesh.points[:1])
        for name in ("left", "right"):
            assert len(np.unique(other.points[other.boundary_nodes(name), 0])) == 1
    n = {name: len(rows) for name, rows in mesh.boundaries.items() if name != "corner"}
    for name, rows in n.items():
        assert len(fine.boundaries[name]) == rows * 4 ** (mesh.dim - 1)
        assert len(curved.boundaries[name]) == rows


def test_a_file_of_second_order(tmp_path):
    """Curved quads and hexahedra through meshio and back: the order of the nodes."""
    for mesh, element in (
        (quads(2).second_order(bent), "Q2"),
        (hexes(2).second_order(bent), "Q2"),
        (tets(1).second_order(bent), "P2"),
    ):
        V = FunctionSpace(mesh, element)
        x = fem.nodal(V.dof_points[:, 0])
        again = Mesh.read(fem.write(tmp_path / "mesh.vtu", V, x=x))
        np.testing.assert_allclose(again.points, mesh.points)
        np.testing.assert_array_equal(again.cells[next(iter(mesh.cells))], V.cells)
        np.testing.assert_allclose(FunctionSpace(again, element).weights, V.weights)


def test_fields_of_second_order_on_straight_cells_are_written_curved(tmp_path):
    import meshio

    V = FunctionSpace(Mesh.rectangle(2, 2), "P2")
    u = V.dof_points[:, 0] ** 2
    read = meshio.read(fem.write(tmp_path / "u.vtu", V, u=fem.nodal(u)))
    assert read.cells[0].type == "triangle6"
    np.testing.assert_allclose(read.point_data["u"], read.points[:, 0] ** 2)


FOLDED = np.array([[0.0, 0], [1, 0], [0, 1], [0.5, 0.9], [0.5, 0.5], [0, 0.5]])


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: FunctionSpace(
                Mesh.from_arrays(FOLDED, {"triangle6": [range(6)]}), "P2"
            ),
            ValueError,
            "(?s)fold over.*cell 0",
        ),
        (lambda: FunctionSpace(quads(1), "P2"), ValueError, "Use 'Q2' there"),
        (lambda: FunctionSpace(tets(1), "Q1"), ValueError, "Use 'P1' there"),
        (lambda: Mesh.rectangle(1, 1, cells="hex"), ValueError, "'triangle', 'quad'"),  # pyright: ignore[reportArgumentType]
        (lambda: Mesh.rectangle(1, 1).refine(-1), ValueError, "Got -1"),
        (lambda: quads(1).second_order().refine(), ValueError, "before the mesh is curved"),
        (lambda: quads(1).second_order(lambda x: x[0]), ValueError, "one row for each"),
        (lambda: MixedSpace(FunctionSpace(quads(1), "Q1")), TypeError, "two or more"),
        (
            lambda: MixedSpace(
                FunctionSpace(quads(1), "Q1"), FunctionSpace(quads(1), "Q1")
            ),
            ValueError,
            "on one mesh",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
