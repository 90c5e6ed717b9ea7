"""Nonlinear problems: values, derivatives, batches, obstacles, failures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, Problem, dot, grad


close = lambda a, b, tol=1e-10: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)
V = FunctionSpace(Mesh.interval(4), "P2")
X = V.dof_points[:, 0]
NET = eqx.nn.MLP("scalar", "scalar", 3, 1, activation=jnp.tanh, key=jax.random.key(0))
law = fem.law


def everything(theta):
    """A network of u and ∇u, coefficients of every kind, and a load."""
    weights, f, g, load, closed, h = theta
    net = eqx.combine(weights, eqx.filter(NET, callable))

    def form(u, v, w):
        kappa = 1.5 + w.net(u.value) ** 2 + closed * grad(u)[0] ** 2
        return kappa * dot(grad(u), grad(v)) + (w.net(grad(u)[0]) + u**3 - w.f) * v

    problem = Problem(V, form, {"left": g}, neumann={"right": "h"})
    return problem.solve({"net": law(net), "f": f, "h": h}, load)


rng = np.random.default_rng(0)
THETA = (
    eqx.filter(NET, eqx.is_inexact_array),
    jnp.asarray(rng.uniform(1, 2, V.mesh.n_points)),
    jnp.array(0.7),
    jnp.asarray(rng.normal(size=V.size)),
    jnp.array(0.3),
    jnp.array(-0.5),
)


def test_derivatives():
    """Tangents are limits of differences, and cotangents are dual to tangents."""
    random = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=jnp.shape(a)))
    t_theta = jax.tree.map(random, THETA)

    @jax.jit
    def products(theta):
        value, t_u = jax.jvp(everything, (theta,), (t_theta,))
        ct_u = random(value)
        (ct_theta,) = jax.vjp(everything, theta)[1](ct_u)
        pairs = jax.tree.map(lambda a, b: jnp.sum(a * b), ct_theta, t_theta)
        return value, t_u, jnp.sum(ct_u * t_u), sum(jax.tree.leaves(pairs))

    _, t_u, *pairings = products(THETA)
    np.testing.assert_allclose(*pairings, rtol=1e-10)
    moved = lambda h: jax.tree.map(lambda a, t: a + h * t, THETA, t_theta)
    h, value = 1e-5, lambda h: products(moved(h))[0]
    differences = (value(h) - value(-h)) / (2 * h)
    np.testing.assert_allclose(t_u, differences, rtol=1e-6, atol=1e-8)
    assert abs(t_u).min() > 1e-4


# (κ(u) u')' = 0 with κ = 1 + a u²: u + a u³/3 is linear (Kirchhoff).
kirchhoff = fem.models.nonlinear_diffusion(V, {"left": 0.0, "right": 1.0})


def solve(a, **options):
    return kirchhoff.solve({"kappa": law(lambda u: 1 + a * u**2), "f": 0.0}, **options)


def test_value_and_second_derivative():
    V = FunctionSpace(Mesh.interval(32), "P2")
    fine = fem.models.nonlinear_diffusion(V, {"left": 0.0, "right": 1.0})
    kappa = law(lambda u: 1 + 2 * u**2)
    u = jax.jit(lambda: fine.solve({"kappa": kappa, "f": 0.0}, throw=False))()
    close(u.value + 2 * u.value**3 / 3, V.dof_points[:, 0] * 5 / 3, 1e-6)
    assert u.status == 0 and u.stats["iterations"] <= 8 and u.stats["residual"] < 1e-9
    loss = lambda a: jnp.sum(solve(a) ** 2)
    both = jax.jit(jax.value_and_grad(jax.grad(loss)))
    (_, second), h = both(2.0), 1e-4
    close(second, (both(2 + h)[0] - both(2 - h)[0]) / (2 * h), 1e-6)
    assert abs(second) > 1e-3


def test_batches_scans_loads_and_starts():
    """In a scan, one at a time; in a batch; from another start: the same."""
    a = jnp.array([0.5, 2.0, 9.0])
    loads = jnp.asarray(rng.normal(size=(V.size, 3)))

    @jax.jit
    def many(a):
        scan = jax.lax.scan(lambda c, a: (c, solve(a)), 0, a)[1]
        starts = jax.vmap(lambda a: solve(a, start=1 + jnp.asarray(X), steps=2))(a)
        by_columns = solve(2.0, load=loads)
        return jax.vmap(solve)(a), scan, starts, by_columns

    batch, scan, starts, by_columns = many(a)
    close(scan, batch)
    close(starts, batch, 1e-9)
    alone = jax.jit(lambda a, load: solve(a, load=load))
    for i, u in enumerate(batch):
        close(alone(a[i], 0 * loads[:, 0]), u)
        close(alone(2.0, loads[:, i]), by_columns[:, i])


def test_two_forwards_before_one_backward():
    @jax.jit
    def loops(a, b, ct):
        (_, back_a), (_, back_b) = jax.vjp(solve, a), jax.vjp(solve, b)
        return back_b(ct)[0], back_a(ct)[0]

    alone = jax.jit(lambda a, ct: jax.vjp(solve, a)[1](ct)[0])
    ct = jnp.asarray(rng.normal(size=V.size))
    mixed, apart = loops(1.0, 3.0, ct), (alone(3.0, ct), alone(1.0, ct))
    np.testing.assert_allclose(mixed, apart, rtol=1e-12)
    assert abs(mixed[0] - mixed[1]) > 1e-6


def test_single_precision_says_so():
    f = np.float32(3.0)
    single = jax.jit(lambda f: kirchhoff.solve({"kappa": law(lambda u: 1 + u**2), "f": f}))
    double = single(np.float64(3.0))
    assert double.dtype == np.float64 and single(f).dtype == np.float32
    np.testing.assert_allclose(single(f), double, rtol=1e-4)
    u = jax.jit(
        lambda f, g: kirchhoff.solve(
            {"kappa": law(lambda u: 1 + u**2), "f": f}, dirichlet={"left": g}
        )
    )(f, np.float64(0.0))
    assert u.dtype == np.float64
    close(u, double)


def test_large_problems_are_done_in_chunks(monkeypatch):
    """The same numbers in less memory. (A million triangles, as the chunks are: 380 MiB
    beside the arguments, for the value and the gradient.)"""
    from pyimplicit.fem import assembly

    W = FunctionSpace(Mesh.rectangle(40, 30), "P1")
    kappa = jnp.asarray(rng.uniform(1, 2, W.mesh.n_cells))
    form = lambda u, v, w: (w.k + u**2) * dot(grad(u), grad(v)) - v
    problem = Problem(W, form, {"left": 0.0}, neumann={"right": lambda x: x[1]})

    def compiled():
        loss = lambda k: jnp.sum(problem.solve({"k": k}) ** 2)
        return jax.jit(jax.value_and_grad(loss)).lower(kappa).compile()

    whole = compiled()
    monkeypatch.setattr(assembly, "CHUNK", 1)
    parts = compiled()
    jax.tree.map(close, parts(kappa), whole(kappa))
    size = lambda program: program.memory_analysis().temp_size_in_bytes
    assert size(parts) < size(whole) / 2


def test_a_gradient_made_of_the_matrix_itself():
    """In chunks, with a cotangent that needs their result: jaxlib crashed here."""
    W = FunctionSpace(Mesh.rectangle(60, 60), "P1")
    kappa = jnp.asarray(rng.uniform(1, 2, W.mesh.n_cells))
    problem = Problem(W, lambda u, v, w: w.k * dot(grad(u), grad(v)))
    any_form = lambda k: jnp.sum(problem.matrix({"k": k})[0] ** 2)
    built_in = lambda k: jnp.sum(fem.diffusion_values(W, k) ** 2)
    close(jax.jit(jax.grad(any_form))(kappa), jax.jit(jax.grad(built_in))(kappa))


def test_obstacle():
    """A string pressed on a floor by c: it leaves it at a = √(2d/c) from its ends."""
    mesh = Mesh.interval(40)
    W = FunctionSpace(mesh)
    d, x = 0.1, np.minimum(mesh.points[:, 0], 1 - mesh.points[:, 0])
    low = fem.models.obstacle(W, {"boundary": 0.0}, lower=-d)
    high = fem.models.obstacle(W, {"boundary": 0.0}, upper=np.full(W.size, d), lower=-9.0)
    free = fem.models.obstacle(W, {"boundary": 0.0}, lower=-9.0)
    given = lambda c: {"kappa": 1.0, "f": c}
    loss = lambda c: jnp.sum(low.solve(given(-c)) ** 2)

    @jax.jit
    def values(c):
        found = low.solve(given(-c), throw=False)
        return found, high.solve(given(c)), free.solve(given(-c))

    found, above, loose = values(5.0)
    a = np.sqrt(2 * d / 5)
    close(found.value, np.where(x < a, -d + 5 / 2 * (x - a) ** 2, -d))
    assert found.status == 0 and found.stats["iterations"] < 20
    close(above, -found.value)
    close(loose, -5 / 2 * x * (1 - x))
    both, h = jax.jit(jax.value_and_grad(loss)), 1e-6
    (up, _), (_, slope), (down, _) = (both(5.2 + d) for d in (h, 0.0, -h))
    close(slope, (up - down) / (2 * h), 1e-6)


def test_transposed_residual_at_peclet_1000():
    """The adjoint of a strongly advected problem, and the solve itself, to round-off."""
    W = FunctionSpace(Mesh.rectangle(12, 12))
    problem = fem.models.advection_diffusion(W, {"left": 0.0, "bottom": 1.0})
    given = {"kappa": 1e-3, "b": fem.constant([0.8, 0.6]), "f": lambda x: x[0]}
    ct = jnp.asarray(rng.normal(size=W.size))

    @jax.jit
    def adjoint(load):
        u, back = jax.vjp(lambda load: problem.solve(given, load), load)
        values, pattern = problem.matrix(given)
        return u, back(ct)[0], pattern.todense(values)

    u, ct_load, A = adjoint(jnp.zeros(W.size))
    free = np.setdiff1d(np.arange(W.size), problem.dirichlet[0].dofs)
    assert abs(A - A.T).max() > 0.01 * abs(A).max()
    residual = A.T @ ct_load[free] - ct[free]
    assert np.linalg.norm(residual) < 1e-10 * np.linalg.norm(ct[free])
    assert np.isfinite(u).all()


NOTHING = Problem(V, lambda u, v, w: u**3 * v, structure="general")
NO_ROOT = Problem(V, lambda u, v, w: dot(grad(u), grad(v)) - w.a * jnp.exp(u.value) * v,
                  {"boundary": 0.0})  # fmt: skip
UNIT = FunctionSpace(Mesh.rectangle(2, 2))
MOVED = Problem(UNIT, lambda u, v, w: dot(grad(u), grad(v)) - v, {"left": 0.0})
FOLDED = UNIT.mesh.points * np.array([1.0, -1.0])


@pytest.mark.parametrize(
    "run, message",
    [
        (lambda **o: NOTHING.solve(**o), "singular"),
        (lambda **o: NO_ROOT.solve({"a": 50.0}, **o), "pyimplicit.root"),
        (lambda **o: MOVED.solve(points=FOLDED, **o), "folds over"),
    ],
    ids=["singular tangent", "no solution", "folded mesh"],
)
def test_failures_raise_or_are_nan(run, message):
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(jax.jit(run)())
    found = jax.jit(lambda: run(throw=False))()
    assert found.status != 0 and np.isnan(found.value).any()


def test_gradients_at_no_solution_are_nan():
    loss = lambda a: jnp.sum(NO_ROOT.solve({"a": a}, throw=False).value)
    assert np.isnan(jax.jit(jax.grad(loss))(50.0))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: Problem(V, lambda u, v, w: u * u * v + w.k * v).solve({"k": 1.0 + 1j}),
            TypeError,
            "two components",
        ),
        (
            lambda: Problem(V, lambda u, v, w: jax.lax.stop_gradient(u**2) * u * v).solve(),
            ValueError,
            "derivative in u that JAX finds",
        ),
        (lambda: solve(1.0, start=np.zeros(3)), ValueError, "Shaped like the solution"),
        (
            lambda: kirchhoff.solve({"kappa": law(3.0), "f": 0.0}),
            TypeError,
            "must be a function",
        ),
        (
            lambda: kirchhoff.matrix({"kappa": law(jnp.exp), "f": 0.0}),
            ValueError,
            "Linearise",
        ),
        (
            lambda: fem.models.advection_diffusion(V),
            ValueError,
            "must get P1 or Q1",
        ),
        (
            lambda: Problem(V, kirchhoff.form, lower=np.zeros(2)).solve(
                {"kappa": law(jnp.exp), "f": 0.0}
            ),
            ValueError,
            "One bound for each unknown",
        ),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
