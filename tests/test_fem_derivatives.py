"""Derivatives of solutions, and the transformations of JAX."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import Diffusion, FunctionSpace, Mesh, Problem, dot, grad, inner

from .test_mesh import skewed


V = FunctionSpace(skewed(Mesh.rectangle(4, 2), 0.1))
TETRA = FunctionSpace(skewed(Mesh.box(2, 2, 1), 0.1))
DIRICHLET = {"left": 1.0, "top": lambda x: x[0]}
rng = np.random.default_rng(0)
positive = lambda *shape: jnp.asarray(rng.uniform(1, 2, shape))
NET = eqx.nn.MLP(2, "scalar", 3, 1, activation=jnp.tanh, key=jax.random.key(0))


def generic(u, v, w):
    """Not symmetric, and no fast path."""
    advection = (w.x[0] * grad(u)[1] - 0.3 * grad(u)[0]) * v
    return w.kappa * dot(grad(u), grad(v)) + advection - w.f * v


fast = fem.models.poisson(V, DIRICHLET, source="f")
slow = Problem(V, generic, DIRICHLET)
solid = Problem(TETRA, Diffusion(source="f"), {"left": 0.0, "right": 1.0})
elastic = Problem(
    FunctionSpace(V.mesh, components=2),
    lambda u, v, w: w.mu * inner(fem.sym_grad(u), fem.sym_grad(v)) - v[1],
    {"left": (0.0, 0.0), "right": (None, 0.1)},
    structure="spd",
)
boundary = lambda name: len(V.mesh.boundary_nodes(name))
network = lambda p: lambda x: 1.5 + eqx.combine(p, eqx.filter(NET, callable))(x)
exp = lambda p: lambda x: jnp.exp(p[0] + p[1] * x[0])

# name: function of parameters that gives u, and where to differentiate
CASES = {
    "cell": (lambda k: fast.solve({"kappa": k, "f": 1.0}), positive(V.mesh.n_cells)),
    "node": (lambda k: fast.solve({"kappa": k, "f": 1.0}), positive(V.n_dofs)),
    "point": (
        lambda k: fast.solve({"kappa": k, "f": 1.0}),
        positive(V.mesh.n_cells, V.n_quadrature),
    ),
    "number": (lambda k: fast.solve({"kappa": k, "f": 1.0}), positive()),
    "function": (lambda p: fast.solve({"kappa": exp(p), "f": 1.0}), positive(2)),
    "network": (
        lambda p: fast.solve({"kappa": network(p), "f": 1.0}),
        eqx.filter(NET, eqx.is_inexact_array),
    ),
    "marked": (
        lambda k: fast.solve({"kappa": k, "f": 1.0}),
        fem.cellwise(positive(V.mesh.n_cells)),
    ),
    "source": (lambda f: fast.solve({"kappa": 2.0, "f": f}), positive(V.n_dofs)),
    "load": (lambda b: fast.solve({"kappa": 2.0, "f": 0.0}, b), positive(V.n_dofs, 2)),
    "dirichlet": (
        lambda g: fast.solve({"kappa": 2.0, "f": 0.0}, dirichlet={"left": g}),
        positive(boundary("left")),
    ),
    "all": (
        lambda a: slow.solve({"kappa": a[0], "f": a[1]}, a[2], dirichlet={"top": a[3]}),
        (positive(V.mesh.n_cells), positive(), positive(V.n_dofs), positive()),
    ),
    "closed over": (
        lambda k: Problem(
            V, lambda u, v, w: k * dot(grad(u), grad(v)) - v, DIRICHLET
        ).solve(),
        positive(),
    ),
    "solid": (
        lambda k: solid.solve({"kappa": k, "f": 1.0}),
        positive(TETRA.mesh.n_cells),
    ),
    "elastic": (lambda mu: elastic.solve({"mu": mu}), positive(V.mesh.n_cells)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@cases
def test_derivatives(case):
    """Tangents are limits of differences, and cotangents are dual to tangents."""
    u, theta = case
    random = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=jnp.shape(a)))
    t_theta = jax.tree.map(random, theta)

    @jax.jit
    def products(theta):
        value, t_u = jax.jvp(u, (theta,), (t_theta,))
        ct_u = random(value)
        (ct_theta,) = jax.vjp(u, theta)[1](ct_u)
        pairs = jax.tree.map(lambda a, b: jnp.sum(a * b), ct_theta, t_theta)
        return t_u, jnp.sum(ct_u * t_u), sum(jax.tree.leaves(pairs))

    t_u, *pairings = products(theta)
    np.testing.assert_allclose(*pairings, rtol=1e-10)
    h, compiled = 1e-5, jax.jit(u)
    move = lambda h: jax.tree.map(lambda a, t: a + h * t, theta, t_theta)
    differences = (compiled(move(h)) - compiled(move(-h))) / (2 * h)
    np.testing.assert_allclose(t_u, differences, rtol=1e-6, atol=1e-8)
    assert abs(t_u).max() > 1e-3


def misfit(kappa, problem=fast):
    return jnp.sum(problem.solve({"kappa": kappa, "f": 1.0}) ** 2)


@pytest.mark.parametrize("problem", [fast, slow], ids=["fast", "generic"])
def test_hessian(engine, problem):
    kappa = positive(V.mesh.n_cells)
    fn = lambda kappa: misfit(kappa, problem)
    H = jax.jit(jax.hessian(fn))(kappa)
    np.testing.assert_allclose(H, H.T, rtol=1e-9, atol=1e-12)
    gradient, h = jax.jit(jax.grad(fn)), 1e-5
    differences = [
        (gradient(kappa + h * e) - gradient(kappa - h * e)) / (2 * h)
        for e in np.eye(len(kappa))
    ]
    np.testing.assert_allclose(H, differences, rtol=1e-5, atol=1e-7)


def test_one_factorisation(engine):
    kappa = positive(V.mesh.n_cells)

    @jax.jit
    def everything(kappa, t):
        value, gradient = jax.value_and_grad(misfit)(kappa)
        return value, gradient, jax.jvp(jax.grad(misfit), (kappa,), (t,))

    jax.block_until_ready(everything(kappa, kappa))
    pi.engine.clear()
    jax.block_until_ready(everything(kappa + 1, kappa))
    assert pi.engine.counters()["factorisations"] == 1


def test_transformations(engine):
    kappas = positive(3, V.mesh.n_cells)
    value_and_grad = jax.jit(jax.value_and_grad(misfit))
    expected = [value_and_grad(k) for k in kappas]
    expected = jax.tree.map(lambda *a: jnp.stack(a), *expected)
    batch = jax.jit(jax.vmap(value_and_grad))(kappas)
    scan = jax.lax.scan(lambda c, k: (c, value_and_grad(k)), 0, kappas)[1]
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10)
    for found in (batch, scan):
        jax.tree.map(close, found, expected)
    u = lambda k: fast.solve({"kappa": k, "f": 1.0})
    J, K = jax.jit(lambda k: (jax.jacrev(u)(k), jax.jacfwd(u)(k)))(kappas[0])
    np.testing.assert_allclose(J, K, rtol=1e-9, atol=1e-12)


def test_a_batch_is_one_call(engine):
    """A batch of coefficients calls the engine as often as one of them, in no loop."""
    both = jax.value_and_grad(misfit)
    kappas = positive(3, V.mesh.n_cells)
    texts = [
        jax.jit(fn).lower(k).as_text()
        for fn, k in ((both, kappas[0]), (jax.vmap(both), kappas))
    ]
    one, many = (re.findall(r"custom_call @(pyimplicit[\w.]+)", t) for t in texts)
    assert one == many and sum("sparse_solve" in name for name in one) == 2
    assert "while" not in texts[1]


def test_a_batch_of_networks(engine):
    make = lambda key: eqx.nn.MLP(2, "scalar", 3, 1, key=key)
    nets = eqx.filter_vmap(make)(jax.random.split(jax.random.key(1), 2))
    solve = lambda net: slow.solve({"kappa": lambda x: 2 + net(x), "f": 1.0})
    u = eqx.filter_jit(eqx.filter_vmap(solve))(nets)
    last = jax.tree.map(lambda a: a[-1] if eqx.is_array(a) else a, nets)
    np.testing.assert_allclose(u[-1], eqx.filter_jit(solve)(last), rtol=1e-10)


def test_descent_finds_a_coefficient(engine):
    """The whole loop in one compiled scan."""
    points = [[0.2, 0.3], [0.7, 0.6], [0.5, 0.1]]
    E = fem.point_evaluation(V, points)
    truth = jnp.array([0.3, -0.5])
    observe = lambda p: E(fast.solve({"kappa": exp(p), "f": 5.0}))
    data = jax.jit(observe)(truth)

    @jax.jit
    def fit(p):
        def step(p, _):
            r, J = observe(p) - data, jax.jacfwd(observe)(p)
            return p - jnp.linalg.solve(J.T @ J, J.T @ r), None

        return jax.lax.scan(step, p, length=8)[0]

    np.testing.assert_allclose(fit(jnp.zeros(2)), truth, atol=1e-9)
