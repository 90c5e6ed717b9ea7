"""Boundary value problems: exact cases, convergence, conditions, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import Diffusion, FunctionSpace, Mesh, Problem, dot, grad, inner

from .test_mesh import skewed


MESHES = {
    "interval": Mesh.interval(5, 2.0),
    "triangles": skewed(Mesh.rectangle(5, 4), 0.06),
    "tetrahedra": skewed(Mesh.box(3, 2, 2), 0.08),
}
meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())
diffusion = lambda u, v, w: w.kappa * dot(grad(u), grad(v))
generic = lambda u, v, w: diffusion(u, v, w) - w.f * v
close = lambda a, b, tol=1e-12: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)
TRIANGLES = FunctionSpace(MESHES["triangles"])


def solve(problem, *arguments, **options):
    """Compiled as a whole, which takes less time than one operation after another."""
    return jax.jit(lambda: problem.solve(*arguments, **options))()


@meshes
@pytest.mark.parametrize("form", [Diffusion(), diffusion], ids=["fast", "generic"])
def test_patch(engine, mesh, form):
    """A linear solution is found exactly on any mesh."""
    linear = lambda x: 1 + 2 * x[0] - 3 * x[-1]
    problem = Problem(FunctionSpace(mesh), form, {"boundary": linear})
    u = solve(problem, {"kappa": 2.5})
    close(u, jax.vmap(linear)(mesh.points))


def test_patch_of_elasticity(engine):
    mesh = MESHES["triangles"]
    V = FunctionSpace(mesh, components=2)

    def form(u, v, w):
        strain = inner(fem.sym_grad(u), fem.sym_grad(v))
        return 2 * w.mu * strain + w.lam * fem.div(u) * fem.div(v)

    exact = lambda x: jnp.stack([0.1 * x[0] + 0.2 * x[1], 1 - 0.3 * x[0]])
    problem = Problem(V, form, {"boundary": exact}, structure="spd")
    u = solve(problem, {"mu": 1.0, "lam": 3.0})
    close(u, jax.vmap(exact)(mesh.points))


@pytest.mark.parametrize(
    "make, sizes",
    [
        (lambda n: skewed(Mesh.rectangle(n, n), 0.2 / n), (8, 16, 32)),
        (lambda n: Mesh.box(n, n, n), (4, 8, 12)),
    ],
    ids=["triangles", "tetrahedra"],
)
def test_convergence(make, sizes):
    """-∇·(κ∇u) = f with u = Π sin(π xᵢ) (and x₁ more) and κ = 1 + x₀."""
    exact = lambda x: jnp.prod(jnp.sin(jnp.pi * x)) + x[0]
    kappa = lambda x: 1 + x[0]
    flux = lambda x: kappa(x) * jax.grad(exact)(x)
    f = lambda x: -jnp.trace(jax.jacfwd(flux)(x))

    def errors(V):
        problem = fem.models.poisson(V, {"boundary": exact}, source="f")
        u = solve(problem, {"kappa": kappa, "f": f})
        difference = lambda w: grad(w.u) - jax.grad(exact)(w.x)
        l2 = fem.integrate(V, lambda w: (w.u - exact(w.x)) ** 2, u=u)
        h1 = fem.integrate(V, lambda w: jnp.sum(difference(w) ** 2), u=u)
        return jnp.sqrt(jnp.stack([l2, h1]))

    spaces = [FunctionSpace(make(n), degree=4) for n in sizes]
    found = np.log([jax.jit(lambda V=V: errors(V))() for V in spaces])
    rates = -np.polyfit(np.log(sizes), found, 1)[0]
    assert abs(rates[0] - 2) < 0.15 and abs(rates[1] - 1) < 0.1, rates


def coefficients(mesh, n_quadrature):
    rng = np.random.default_rng(1)
    shapes = [(), (mesh.n_cells,), (mesh.n_points,), (mesh.n_cells, n_quadrature)]
    yield from (rng.uniform(1, 2, shape) for shape in shapes)
    yield lambda x: 1 + x[0] ** 2


@pytest.mark.parametrize("mesh", list(MESHES.values())[1:], ids=list(MESHES)[1:])
def test_generic_form_equals_diffusion(mesh):
    V = FunctionSpace(mesh)
    fast = Problem(V, Diffusion("kappa", "f"), {"left": 1.0, "right": 2.0})
    slow = Problem(V, generic, {"left": 1.0, "right": 2.0}, structure="spd")
    called = Problem(V, lambda u, v, w: fast.form(u, v, w), {"left": 1.0, "right": 2.0})
    sources = (3.0, lambda x: jnp.sin(x[0]))
    given = [
        {"kappa": kappa, "f": sources[i % 2]}
        for i, kappa in enumerate(coefficients(mesh, V.n_quadrature))
    ]
    both = jax.jit(lambda: [(fast.solve(g), slow.solve(g)) for g in given])()
    for a, b in both:
        close(a, b)
    close(solve(called, given[-1]), both[-1][0])


def test_general_forms(engine):
    """Advection, diffusion by a matrix and reaction, against a dense solve."""
    V = TRIANGLES
    rng = np.random.default_rng(2)
    K = np.eye(2) + rng.uniform(0, 0.5, (V.mesh.n_cells, 2, 2))

    def form(u, v, w):
        flux = w.K @ grad(u) + w.beta * u
        return dot(flux, grad(v)) + 0.5 * (u - w.x[0]) * v

    problem = Problem(V, form)
    u = solve(problem, {"K": fem.cellwise(K), "beta": fem.constant([3.0, -1.0])})
    gradients = V.basis_gradients[0] @ V.inverse_jacobians
    A, b = np.zeros((V.size, V.size)), np.zeros(V.size)
    for c, nodes in enumerate(V.cells):
        g, phi, dx = gradients[c], V.basis, V.weights[c]
        local = g @ K[c] @ g.T * dx.sum() + 0.5 * (phi.T * dx) @ phi
        local += np.outer(g @ [3.0, -1.0], dx @ phi)
        A[np.ix_(nodes, nodes)] += local
        b[nodes] += 0.5 * phi.T @ (dx * V.x[c, :, 0])
    close(u, np.linalg.solve(A, b), 1e-11)


@pytest.mark.parametrize(
    "form",
    [
        lambda u, v, w: dot(grad(u), grad(v)) + jnp.where(w.x[0] > 0.5, u, 2 * u) * v,
        lambda u, v, w: grad(u)[0] * grad(v)[0] + (u - w.x[1]) / 3 * v,
        lambda u, v, w: jnp.einsum("i,ij,j", grad(u), jnp.eye(2), grad(v)) + u * v,
        lambda u, v, w: inner(jnp.stack([1.0 * u, -u]), jnp.stack([v, 0 * v])) - v,
        lambda u, v, w: jnp.exp(w.x[0]) * u * v - jnp.sin(w.x[1]) * v,
        lambda u, v, w: jax.jit(lambda u, v: u * v - dot(grad(u), grad(v)))(u, v) - v,
    ],
)
def test_linear_forms_are_taken(form):
    assert jax.eval_shape(Problem(TRIANGLES, form).solve).shape == TRIANGLES.shape


@pytest.mark.parametrize(
    "form, message",
    [
        (
            lambda u, v, w: jax.lax.stop_gradient(u.value) * u * v,
            "derivative in u that JAX finds",
        ),
        (lambda u, v, w: u * v * v, "linear in v"),
        (lambda u, v, w: u * jnp.linalg.norm(grad(v)), "linear in v"),
        (lambda u, v, w: dot(grad(u), grad(v)) - 1.0, "each of its terms must hold v"),
    ],
)
def test_other_forms_are_refused(form, message):
    problem = Problem(TRIANGLES, form, {"left": 0.0})
    with pytest.raises(ValueError, match=message):
        problem.solve()


def test_many_loads(engine):
    V = TRIANGLES
    rng = np.random.default_rng(3)
    loads = rng.normal(size=(V.size, 3))
    problem = fem.models.poisson(V, {"left": 1.0, "right": lambda x: x[1]}, source="f")
    given = {"kappa": rng.uniform(1, 2, V.mesh.n_cells), "f": 2.0}
    pi.engine.clear()
    one_by_one = lambda: [problem.solve(given, b) for b in loads.T]
    u, singles = jax.jit(lambda: (problem.solve(given, loads), one_by_one()))()
    jax.block_until_ready((u, singles))
    assert u.shape == (V.size, 3)
    assert pi.engine.counters()["factorisations"] == 1
    close(u.T, jnp.stack(singles))
    W = FunctionSpace(V.mesh, components=2)
    form = lambda u, v, w: inner(grad(u), grad(v))
    problem = Problem(W, form, {"left": (0.0, None), "right": (None, 1.0)})
    loads = rng.normal(size=(*W.shape, 3))
    many = lambda: (problem.solve(load=loads), problem.solve(load=loads[..., 1]))
    u, single = jax.jit(many)()
    assert u.shape == (*W.shape, 3)
    close(u[..., 1], single)
    left, right = (W.mesh.boundary_nodes(name) for name in ("left", "right"))
    assert (u[left, 0] == 0).all() and (u[right, 1] == 1).all()
    assert (u[left, 1] != 0).any()


def test_dirichlet_values():
    V, mesh = TRIANGLES, TRIANGLES.mesh
    f = lambda x: 1 + x[0] * x[1]
    nodes = mesh.boundary_nodes("left")
    everywhere = jax.vmap(f)(mesh.points)
    same = (f, everywhere, everywhere[nodes], np.asarray(everywhere))
    problems = [fem.models.poisson(V, {"left": value, "right": 2}) for value in same]
    solutions = jax.jit(lambda: [p.solve({"kappa": 1.0}) for p in problems])()
    for u in solutions:
        close(u, solutions[0])
        close(u[nodes], everywhere[nodes])
        assert (u[mesh.boundary_nodes("right")] == 2).all()
    # later values replace those of the problem; later names win at shared nodes
    problem = fem.models.poisson(V, {"left": 0.0, "right": 2, "bottom": -1.0})
    u = solve(problem, {"kappa": 1.0}, dirichlet={"left": f})
    assert (u[mesh.boundary_nodes("bottom")] == -1).all()
    kept = np.setdiff1d(nodes, mesh.boundary_nodes("bottom"))
    close(u[kept], everywhere[kept])
    W = FunctionSpace(mesh, components=2)
    form = lambda u, v, w: inner(grad(u), grad(v))
    both = lambda x: jnp.stack([f(x), 2.0])
    values = np.stack([everywhere[nodes], np.full(len(nodes), 2.0)], axis=1)
    given = [both, values, (f, 2.0), (everywhere, 2)]
    problems = [Problem(W, form, {"left": g, "top": 1.0}) for g in given]
    solutions = jax.jit(lambda: [p.solve() for p in problems])()
    for u in solutions:
        close(u, solutions[0])


def test_everything_given():
    V = FunctionSpace(Mesh.rectangle(1, 1))
    problem = fem.models.poisson(V, {"boundary": lambda x: x[0]})
    close(solve(problem, {"kappa": 1.0}), V.mesh.points[:, 0])
    solution = solve(problem, {"kappa": 1.0}, np.ones((4, 2)), throw=False)
    assert solution.value.shape == (4, 2) and (solution.status == 0).all()
    assert problem.pattern is None


def test_single_nodes():
    """Point sources, and one node that fixes the constant."""
    mesh = Mesh.from_arrays(
        MESHES["triangles"].points,
        MESHES["triangles"].cells,
        boundaries={"ground": [[17]]},
    )
    V = FunctionSpace(mesh)
    problem = fem.models.poisson(V, {"ground": 0.0})
    load = np.zeros(V.size)
    load[[0, 5]] = 1, -1
    u = solve(problem, {"kappa": 2.0}, load)
    K = V.pattern("spd").todense(fem.diffusion_values(V, jnp.full(mesh.n_cells, 2.0)))
    close(K @ u, load, 1e-11)  # also at the ground: the load is balanced
    assert u[17] == 0


def test_no_condition_raises(engine):
    V = TRIANGLES
    problem = fem.models.poisson(V)
    load = np.random.default_rng(0).normal(size=V.size)
    with pytest.raises(Exception, match="no Dirichlet condition"):
        jax.block_until_ready(solve(problem, {"kappa": 1.0}, load))
    solution = solve(problem, {"kappa": 1.0}, load, throw=False)
    assert solution.status != 0 and np.isnan(solution.value).all()
    fixed = fem.models.poisson(V, {"left": 0.0})
    assert solve(fixed, {"kappa": 1.0}, load, throw=False).status == 0
    with pytest.raises(Exception, match="negative coefficient"):
        jax.block_until_ready(solve(fixed, {"kappa": -1.0}, load))


def test_precision():
    V = TRIANGLES
    single = lambda *shape: np.random.default_rng(0).uniform(1, 2, shape).astype("f4")
    kappa = single(V.mesh.n_cells)
    fast = fem.models.poisson(V, {"left": 0.0, "right": 1.0}, source="f")
    slow = Problem(V, generic, {"left": 0.0, "right": 1.0})
    exact = solve(fast, {"kappa": kappa.astype("f8"), "f": 1})
    assert exact.dtype == np.float64
    for problem in (fast, slow):
        u = solve(problem, {"kappa": kappa, "f": 1}, single(V.size, 2) * 0)
        assert u.dtype == np.float32
        close(u[:, 1], exact, 1e-5)
        with jax.enable_x64(False):
            u = solve(problem, {"kappa": kappa, "f": lambda x: 1.0 + 0 * x[0]})
            assert u.dtype == np.float32
            close(u, exact, 1e-5)
    assert solve(fast, {"kappa": 1.0, "f": 0.0}).dtype == np.float64
    wave = lambda u, v, w: dot(grad(u), grad(v)) - w.k * u * v - v
    problem = Problem(V, wave, {"left": 0.0}, structure="symmetric")
    u = solve(problem, {"k": 2.0 + 1.0j})
    assert u.dtype == np.complex128
    assert abs(u.imag).max() > 0


GOOD = {"kappa": 1.0, "f": 1.0}
problem_of = lambda form: Problem(TRIANGLES, form, {"left": 0.0})


@pytest.mark.parametrize("form", [Diffusion("kappa", "f"), generic], ids=["fast", "slow"])
@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"kappa": 1.0}, (ValueError, AttributeError), "'f'"),
        ({"kapa": 1.0, "f": 1.0}, (ValueError, AttributeError), "'kapa'"),
        (GOOD | {"extra": 1.0}, ValueError, "'extra'"),
        (GOOD | {"kappa": "steel"}, TypeError, "coefficient 'kappa'"),
        (GOOD | {"f": np.ones(3)}, ValueError, r"coefficient 'f' .*\n.*\(3,\)"),
        (GOOD | {"kappa": lambda x: x}, (ValueError, TypeError), r"\(2,\)"),
    ],
)
def test_bad_coefficients(form, given, error, message):
    with pytest.raises(error, match=message):
        problem_of(form).solve(given)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Problem(1, generic), TypeError, "Got int"),  # pyright: ignore
        (lambda: Problem(TRIANGLES, "form"), TypeError, "Got FunctionSpace and str"),
        (
            lambda: problem_of(lambda u, v, w: grad(u)).solve(),
            TypeError,
            r"shape \(2,\)",
        ),
        (lambda: problem_of(lambda u, v, w: None).solve(), TypeError, "Got None"),
        (
            lambda: problem_of(lambda u, v, w: dot(grad(w.x[0]), grad(v))).solve(),
            TypeError,
            "coefficients have no gradient",
        ),
        (lambda: problem_of(lambda u, v, w: fem.div(u) * v).solve(), TypeError, "div"),
        (
            lambda: problem_of(lambda u, v, w: dot(grad(u), v)).solve(),
            TypeError,
            r"\(2,\) and \(\)",
        ),
        (lambda: Problem(TRIANGLES, generic, {"inlet": 0.0}), ValueError, "'left'"),
        (
            lambda: problem_of(generic).solve(GOOD, dirichlet={"right": 0.0}),
            ValueError,
            "fixes ..left..",
        ),
        (
            lambda: problem_of(generic).solve(GOOD, np.ones(3)),
            ValueError,
            r"Got \(3,\)",
        ),
        (lambda: problem_of(generic).solve(GOOD, "load"), TypeError, "Got str"),
        (
            lambda: Problem(TRIANGLES, generic, {"left": np.ones(3)}).solve(GOOD),
            ValueError,
            "each of its 5 nodes",
        ),
        (
            lambda: Problem(TRIANGLES, generic, {"left": "cold"}).solve(GOOD),
            TypeError,
            "Dirichlet value of 'left'",
        ),
        (
            lambda: Problem(FunctionSpace(TRIANGLES.mesh, components=2), Diffusion()).solve(
                {"kappa": 1.0}
            ),
            ValueError,
            "scalar unknown",
        ),
        (
            lambda: Problem(
                FunctionSpace(TRIANGLES.mesh, components=2),
                generic,
                {"left": np.ones(5)},
            ),
            ValueError,
            "must have 2 components",
        ),
    ],
)
def test_bad_problems(make, error, message):
    with pytest.raises(error, match=message):
        make()
