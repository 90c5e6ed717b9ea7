"""Boundary conditions and constraints against exact solutions, and their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, MixedSpace, Problem, Tie, dot, grad, inner

from .test_mesh import skewed


close = lambda a, b, tol=1e-10: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)
laplace = lambda u, v, w: dot(grad(u), grad(v))
poisson = lambda u, v, w: dot(grad(u), grad(v)) - w.f * v
MESHES = {
    "P1 line": (Mesh.interval(3), "P1"),
    "P2 triangle": (skewed(Mesh.rectangle(3, 2), 0.08), "P2"),
    "Q1 quad": (skewed(Mesh.rectangle(3, 2, cells="quad"), 0.08), "Q1"),
    "P1 tetra": (skewed(Mesh.box(2, 2, 1), 0.08), "P1"),
    "Q1 hexahedron": (Mesh.box(2, 1, 2, cells="hexahedron"), "Q1"),
}


@pytest.mark.parametrize("name", ["P1 line", "P2 triangle", "Q1 hexahedron"])
def test_neumann_and_robin(name):
    """u = 1 + 2x: given left, its flux (or a law that it satisfies) right."""
    mesh, element = MESHES[name]
    V = FunctionSpace(mesh, element)
    exact = 1 + 2 * V.dof_points[:, 0]
    left = {"left": 1.0}
    problems = [
        (Problem(V, laplace, left, neumann={"right": 2.0}), {}),
        (Problem(V, laplace, left, neumann={"right": "q"}), {"q": 2.0}),
        (Problem(V, laplace, left, neumann={"right": lambda x: 2 * x[0] ** 3}), {}),
        # 2 = α (g - u), u = 3 there
        (Problem(V, laplace, left, robin={"right": (4.0, 3.5)}), {}),
        (Problem(V, laplace, left, robin={"right": ("a", "g")}), {"a": 4.0, "g": 3.5}),
        (Problem(V, laplace, robin={"right": (4.0, 3.5), "left": (2.0, 0.0)}), {}),
        (
            Problem(V, laplace, left, boundary={"right": lambda u, v, w: -2 * w.n[0] * v}),
            {},
        ),
        (
            Problem(V, laplace, left, boundary={"right": lambda u, v, w: -w.k * v}),
            {"k": fem.nodal(2 * mesh.points[:, 0])},
        ),
        (
            Problem(V, laplace, left, boundary={"right": lambda u, v, w: -w.k * v}),
            {"k": fem.cellwise(np.full(mesh.n_cells, 2.0))},
        ),
    ]
    for u in jax.jit(lambda: [p.solve(c) for p, c in problems])():
        close(u, exact)


def test_tractions():
    """Uniaxial stress: ε = (1/E, -ν/E); and pressure by the normal."""
    V = FunctionSpace(skewed(Mesh.rectangle(3, 2, cells="quad"), 0.08), "Q1", 2)
    supports = {"left": (0.0, None), "bottom": (None, 0.0)}
    pull = fem.models.elasticity(V, supports, plane="stress", neumann={"right": (3.0, 0.0)})
    press = lambda u, v, w: 3.0 * dot(w.n, v)
    squeeze = fem.models.elasticity(
        V, supports, plane="stress", boundary={"right": press, "top": press}
    )
    material = {"E": 2.0, "nu": 0.3}
    u, s = jax.jit(lambda: (pull.solve(material), squeeze.solve(material)))()
    close(u, V.dof_points * 3 / 2 * np.array([1, -0.3]))
    close(s, -V.dof_points * 3 / 2 * (1 - 0.3))


def test_periodic():
    """u = sin(2πx) cos(2πy) + ..., on a torus: both directions, corners included."""
    V = FunctionSpace(Mesh.rectangle(4, 4), "P2")
    problem = Problem(
        V,
        lambda u, v, w: dot(grad(u), grad(v)) + w.c * u * v - w.f * v,
        periodic={"right": "left", "top": "bottom"},
        structure="spd",
    )
    f = lambda x: jnp.exp(jnp.sin(2 * jnp.pi * x[0]) + jnp.cos(2 * jnp.pi * x[1]))
    load = np.random.default_rng(0).normal(size=(V.size, 2))
    solve = lambda c: problem.solve({"c": c, "f": f}, load)
    u, slope, *sides = jax.jit(
        lambda c: (solve(c), jax.jacfwd(solve)(c), solve(c + 1e-5), solve(c - 1e-5))
    )(2.0)
    for a, b in (("left", "right"), ("bottom", "top")):
        np.testing.assert_array_equal(u[V.boundary_dofs(a)], u[V.boundary_dofs(b)])
    assert u.shape == (V.size, 2) and problem.pattern.shape[0] == 64
    close(slope, (sides[0] - sides[1]) / 2e-5, 1e-6)
    # the same from the matrix with the unknowns identified by hand
    plain = Problem(V, problem.form, structure="spd")
    A = V.pattern("spd").todense(plain.matrix({"c": 2.0, "f": 0.0})[0])
    keys = np.round(V.dof_points % 1.0, 9)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    T = np.eye(group.max() + 1)[group]
    zero = jax.jit(lambda: problem.solve({"c": 2.0, "f": 0.0}, load))()
    close(zero, T @ np.linalg.solve(T.T @ A @ T, T.T @ load))


@pytest.mark.parametrize("structure", ["spd", "general"])
def test_pure_neumann(structure):
    """-u'' = f with ∫f ≠ 0: the mean of f is taken away, and of u."""
    V = FunctionSpace(Mesh.interval(30), "P2")
    f = lambda x: jnp.pi**2 * jnp.cos(jnp.pi * x[0]) + 5.0
    cubic = lambda u, v, w: dot(grad(u), grad(v)) * (1 + dot(grad(u), grad(u))) - w.f * v
    problems = [
        Problem(V, form, nullspace="constants", structure=structure)
        for form in (poisson, cubic)
    ]
    u, w = jax.jit(lambda: [p.solve({"f": f}) for p in problems])()
    close(u, np.cos(np.pi * V.dof_points[:, 0]), 1e-5)
    x = V.dof_points[:, 0]
    slope = np.gradient(np.asarray(w[np.argsort(x)]), np.sort(x))[2:-2]
    close(slope + slope**3, -np.pi * np.sin(np.pi * np.sort(x)[2:-2]), 2e-2)
    for solution in (u, w):
        close(fem.integrate(V, lambda w: w.u, u=solution), 0, 1e-13)


def test_rigid_motions():
    """A free body in self-equilibrium, against the same body held at three points."""
    V = FunctionSpace(skewed(Mesh.box(1, 1, 2, cells="hexahedron"), 0.0), "Q1", 3)
    material = {"E": 1.0, "nu": 0.25}
    free = fem.models.elasticity(
        V, nullspace="rigid", neumann={"left": (-1.0, 0.0, 0.0), "right": (1.0, 0.0, 0.0)}
    )
    u = jax.jit(lambda: free.solve(material))()
    x = V.dof_points - V.dof_points.mean(axis=0)
    close(u, x * np.array([1, -0.25, -0.25]))


def test_ties():
    """Two halves of a bar joined by a spring-free joint, chains, and a mean of two."""
    V = FunctionSpace(Mesh.interval(4), "P1")
    ties = [Tie([3], [[1, 4]], [[0.5, 0.5]]), Tie([2], [[3]], [[1.0]])]
    problem = Problem(V, poisson, {"left": 0.0, "right": 1.0}, constraints=ties)
    f = lambda f: problem.solve({"f": f})
    u, slope = jax.jit(lambda a: (f(a), jax.jacrev(f)(a)))(3.0)
    close(u[3], (u[1] + u[4]) / 2)
    close(u[2], u[3])
    # by hand: T for the unknown u₁, with u = T u₁ + g
    A = 4 * (np.diag([1, 2, 2, 2, 1]) - np.eye(5, k=1) - np.eye(5, k=-1))
    b = 3.0 * np.array([0.5, 1, 1, 1, 0.5]) / 4
    T, g = np.array([0, 1, 0.5, 0.5, 0]), np.array([0, 0, 0.5, 0.5, 1])
    first = (T @ (b - A @ g)) / (T @ A @ T)
    close(u, T * first + g)
    close(slope, T * (T @ b / 3) / (T @ A @ T))


def test_mixed_spaces():
    """Two fields that do not see each other are two problems."""
    mesh = skewed(Mesh.rectangle(2, 2), 0.08)
    V, Q = FunctionSpace(mesh, "P2", 2), FunctionSpace(mesh, "P1")
    W = MixedSpace(V, Q)

    def both(u, v, w):
        (u, p), (v, q) = u, v
        return inner(grad(u), grad(v)) + 3 * dot(grad(p), grad(q)) + p * q - w.f * q

    conditions = ({"left": (0.0, 1.0)}, {"right": lambda x: x[1]})
    flux = ({"right": (1.0, 2.0)}, {"left": "q"})
    rng = np.random.default_rng(0)
    load = rng.normal(size=V.shape), rng.normal(size=Q.shape)
    given = {"f": 2.0, "q": 0.5}
    mixed = Problem(W, both, conditions, neumann=flux)
    one = Problem(
        V, lambda u, v, w: inner(grad(u), grad(v)), conditions[0], neumann=flux[0]
    )
    other = Problem(
        Q,
        lambda p, q, w: 3 * dot(grad(p), grad(q)) + p * q - w.f * q,
        conditions[1],
        neumann=flux[1],
    )

    def everything():
        found = mixed.solve(given, load, throw=False)
        u, p = one.solve(load=load[0]), other.solve(given, load[1])
        total = fem.integrate(W, lambda w: w.u[1] + w.u[0][0], u=found.value)
        apart = fem.integrate(V, lambda w: w.u[0], u=u)
        return found, u, p, (total, apart + fem.integrate(Q, lambda w: w.u, u=p))

    found, u_alone, p_alone, totals = jax.jit(everything)()
    u, p = found.value
    assert found.status == 0
    close(u, u_alone)
    close(p, p_alone)
    close(*totals)


@pytest.mark.parametrize("element", ["P1", "P2"])
def test_shape_derivatives(element):
    """With respect to the points of the mesh, against differences; curved cells too."""
    mesh = skewed(Mesh.rectangle(2, 2), 0.05)
    mesh = mesh.second_order() if element == "P2" else mesh
    V = FunctionSpace(mesh, element)
    form = lambda u, v, w: w.k * dot(grad(u), grad(v)) - w.f * v
    problem = Problem(V, form, {"left": lambda x: x[1]}, neumann={"top": lambda x: x[0]})
    given = {"k": lambda x: 1 + x[0] ** 2, "f": fem.nodal(mesh.points[:, 1])}
    integral = lambda u, **o: fem.integrate(V, lambda w: w.u**2 * w.x[0], u=u, **o)
    loss = lambda points: integral(problem.solve(given, points=points), points=points)
    points, h = jnp.asarray(mesh.points), 1e-5
    t = np.random.default_rng(0).normal(size=points.shape)
    compiled = jax.jit(loss)
    slope = jnp.vdot(jax.jit(jax.grad(loss))(points), t)
    difference = (compiled(points + h * t) - compiled(points - h * t)) / (2 * h)
    close(slope, difference, 1e-7)
    assert abs(slope) > 1e-3
    close(jax.jit(lambda: integral(problem.solve(given)))(), compiled(points), 1e-12)


def test_point_loads_on_every_element():
    """Green's function of a string, and E.T as the load of a point force."""
    for mesh, element in MESHES.values():
        V = FunctionSpace(mesh, element)
        at = np.full((1, mesh.dim), 0.5)
        load = fem.point_evaluation(V, at).T(jnp.array([3.0]))
        close(load.sum(), 3.0)
        close(load @ V.dof_points, 3 * at[0])
    V = FunctionSpace(Mesh.interval(4), "P2")
    load = fem.point_evaluation(V, [[0.25]]).T(jnp.array([1.0]))
    u = jax.jit(lambda: Problem(V, laplace, {"boundary": 0.0}).solve(load=load))()
    x = V.dof_points[:, 0]
    close(u, np.where(x < 0.25, 0.75 * x, 0.25 * (1 - x)))


V = FunctionSpace(Mesh.rectangle(2, 2), "P1")
W = MixedSpace(FunctionSpace(V.mesh, "P2", 2), V)
LINE = FunctionSpace(Mesh.interval(3))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Problem(V, laplace, neumann={"inlet": 1.0}), ValueError, "'inlet'"),
        (lambda: Problem(V, laplace, robin={"left": 1.0}), ValueError, "two coefficients"),
        (lambda: Problem(V, laplace, boundary={"left": 1.0}), TypeError, "Got float"),
        (
            lambda: Problem(V, laplace, {"left": 0.0}, neumann={"right": "q"}).solve(),
            AttributeError,
            "'q'",
        ),
        (
            lambda: Problem(
                V, laplace, {"left": 0.0}, boundary={"right": lambda u, v, w: w.k * v}
            ).solve({"k": fem.quadrature(np.ones((8, 3)))}),
            ValueError,
            "one per quadrature point",
        ),
        (
            lambda: Problem(V, laplace, periodic={"left": "bottom"}),
            ValueError,
            "translation",
        ),
        (
            lambda: Problem(V, laplace, {"left": 0.0}, nullspace="constants"),
            ValueError,
            "must vanish where",
        ),
        (lambda: Problem(V, laplace, nullspace="rigid"), ValueError, "as many components"),
        (lambda: Problem(V, laplace, nullspace="all"), ValueError, "Got 'all'"),
        (lambda: Problem(W, laplace, {"left": 0.0}), ValueError, "tuple of 2 dicts"),
        (lambda: Problem(W, laplace, neumann={"left": 0.0}), ValueError, "tuple of 2"),
        (lambda: Tie([0], [[1]], [[1.0, 2.0]]), ValueError, "must have shapes"),
        (lambda: Tie([0, 0], [[1], [2]], [[1.0], [1.0]]), ValueError, "each slave once"),
        (
            lambda: Problem(LINE, laplace, constraints=[Tie([0], [[9]], [[1.0]])]),
            ValueError,
            r"0\.\.3",
        ),
        (
            lambda: Problem(
                LINE, laplace, constraints=[Tie([0, 1], [[1], [0]], [[1.0], [1.0]])]
            ),
            ValueError,
            "circles",
        ),
        (
            lambda: Problem(V, laplace, {"left": 0.0}).solve(points=np.zeros((3, 2))),
            ValueError,
            "one row for each point".capitalize(),
        ),
    ],
)  # fmt: skip
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
