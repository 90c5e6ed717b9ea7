"""Equations written and solved in Julia, called by XLA: the layers of test_implicit.py.

One call solves; its derivatives come from Julia too. Closed forms throughout.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from .layers import N, W


pytestmark = pytest.mark.julia
P = jnp.array([2.0, 30.0, 0.07])
X = jnp.linspace(-1.0, 2.0, N)


@pytest.fixture(scope="module", autouse=True)
def functions():
    pi.julia.include(Path(__file__).with_name("julia_roots.jl"))


def layer(name):
    """`(z0, *params) -> z`, like z0."""
    return pi.julia.function(f"RootTests.{name}", out=lambda z0, *params: z0)


def at(name, z0):
    return lambda *params: layer(name)(z0, *params)


def resolvent(W, x):
    return jnp.linalg.solve(jnp.eye(N) - W, x)


MATRIX = 4 * np.eye(N) + W
LAYERS = {
    "roots": (jnp.ones(3), (P,), jnp.sqrt),
    "cube": (1.0, (jnp.array(8.0),), jnp.cbrt),
    "linear": (jnp.zeros(N), (jnp.array(MATRIX), 100 * X), jnp.linalg.solve),
    "steady": (
        jnp.array([3.0, 3.0]),
        (jnp.array([1.1, 0.4, 0.4, 0.1]),),
        lambda p: jnp.stack([p[2] / p[3], p[0] / p[1]]),
    ),
    "mixed": (jnp.zeros(N), (jnp.array(3 * W), X), resolvent),
    "midpoint": (
        X,
        (X, jnp.array(0.3), jnp.array(MATRIX)),
        lambda y, h, M: jnp.linalg.solve(jnp.eye(N) - h / 2 * M, y + h / 2 * M @ y),
    ),
}


@pytest.fixture(params=LAYERS)
def case(request):
    z0, params, exact = LAYERS[request.param]
    return at(request.param, z0), params, exact


def close(a, b, rtol=2e-6):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


def test_first_order(case):
    ours, params, exact = case
    every = tuple(range(len(params)))
    close(jax.jit(ours)(*params), exact(*params), 1e-8)
    J = jax.jacfwd(exact, every)(*params)
    for mode in (jax.jacfwd, jax.jacrev):
        for mine, want in zip(jax.jit(mode(ours, every))(*params), J, strict=True):
            close(mine, want)
    tangents = tuple(jnp.cos(p + 1) for p in params)
    value, t_value = jax.jvp(ours, params, tangents)
    w = jnp.sin(value + 2)
    cotangents = jax.vjp(ours, *params)[1](w)
    pairs = zip(cotangents, tangents, strict=True)
    close(jnp.vdot(w, t_value), sum(jnp.vdot(c, t) for c, t in pairs), 1e-10)
    moved = lambda h: ours(*(p + h * t for p, t in zip(params, tangents, strict=True)))
    close((moved(1e-5) - moved(-1e-5)) / 2e-5, t_value, 1e-5)


@pytest.mark.parametrize(
    "hessian",
    [
        jax.hessian,
        lambda f: jax.jacrev(jax.grad(f)),
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ],
    ids=["fwd_rev", "rev_rev", "fwd_fwd", "rev_fwd"],
)
@pytest.mark.parametrize("name", ["roots", "steady", "mixed"])
def test_second_order(name, hessian):
    z0, params, exact = LAYERS[name]
    p, *rest = reversed(params)
    scalar = lambda f: lambda p: jnp.sum(jnp.sin(f(*rest, p) / 3))
    close(jax.jit(hessian(scalar(at(name, z0))))(p), hessian(scalar(exact))(p), 1e-7)


def test_transforms():
    ours = at("steady", jnp.array([3.0, 3.0]))
    p, exact = LAYERS["steady"][1][0], LAYERS["steady"][2]
    batch = p * jnp.linspace(0.8, 1.2, 4)[:, None] ** jnp.arange(4)
    close(jax.jit(jax.vmap(ours))(batch), jax.vmap(exact)(batch), 1e-8)
    loss = lambda f: lambda p: jnp.sum(jnp.log(f(p)) ** 2)
    gradient = jax.jit(jax.vmap(jax.grad(loss(ours))))(batch)
    close(gradient, jax.vmap(jax.grad(loss(exact)))(batch))
    alone = jnp.stack([jax.grad(loss(ours))(p) for p in batch])
    close(gradient, alone, 1e-12)

    def descend(loss):
        step = lambda p, _: (p - 0.01 * jax.grad(loss)(p), loss(p))
        return jax.jit(lambda p: jax.lax.scan(step, p, length=3))

    for mine, want in zip(descend(loss(ours))(p), descend(loss(exact))(p), strict=True):
        close(mine, want)


def test_five_thousand_unknowns():
    n = 5000
    z = jnp.exp(jnp.sin(jnp.arange(n)))
    stencil = lambda z: (
        3 * z - 2 * jnp.pad(z[:-1], (1, 0)) - 0.5 * jnp.pad(z[1:], (0, 1)) + z**3
    )
    solve = at("chain5000", jnp.ones(n))
    p = stencil(z)
    close(solve(p), z, 1e-9)
    direction = jnp.cos(jnp.arange(n) * 3.0)
    _, moved = jax.jvp(stencil, (z,), (direction,))
    _, t_z = jax.jvp(solve, (p,), (moved,))
    close(t_z, direction, 1e-9)
    _, pull = jax.vjp(stencil, z)
    close(jax.vjp(solve, p)[1](pull(direction)[0])[0], direction, 1e-9)


def test_one_solve_for_value_and_gradient():
    """The adjoint finds the solution and the factors that the value left."""
    n = 5000
    before = pi.engine.counters()["factorisations"]
    solve = at("chain5000", jnp.ones(n))
    p = 1.0 + jnp.cos(jnp.arange(n) * 1.7) / 3  # of no other test: solutions are kept
    solve(p).block_until_ready()
    forward = pi.engine.counters()["factorisations"] - before
    loss = lambda p: jnp.sum(solve(p) ** 2)
    jax.jit(jax.hessian(lambda s: loss(s * p)))(1.0).block_until_ready()
    again = pi.engine.counters()["factorisations"] - before - forward
    assert forward > 3
    assert again == 1


def test_complex_unknowns_follow_jax():
    c = jnp.array([3.0 - 4.0j, 2.0j])
    exact = lambda c: c / jnp.sqrt(jnp.abs(c))
    ours = at("turned", jnp.array([1.0 + 1.0j, 1.0]))
    close(ours(c), exact(c), 1e-9)
    loss = lambda f: lambda c: jnp.sum(jnp.abs(f(c) - 1.0j) ** 2 * jnp.arange(1, 3))
    close(jax.grad(loss(ours))(c), jax.grad(loss(exact))(c))
    _, t = jax.jvp(ours, (c,), (c**2,))
    close(t, jax.jvp(exact, (c,), (c**2,))[1])
    # Second order: the gradient's own derivative
    gradient = lambda f: lambda s: jnp.abs(jax.grad(loss(f))(s * c)) ** 2
    close(jax.jacfwd(gradient(ours))(1.3), jax.jacfwd(gradient(exact))(1.3))
    close(jax.jacrev(gradient(ours))(1.3), jax.jacrev(gradient(exact))(1.3))


def test_precision_and_a_guess_that_depends_on_parameters():
    z = layer("roots")(jnp.ones(3, jnp.float32), P.astype(jnp.float32))
    assert z.dtype == jnp.float32
    np.testing.assert_allclose(z, np.sqrt(P), rtol=1e-6)
    warm = lambda p: layer("roots")(p / 2 + 0.5, p)  # the guess adds no derivative
    close(jax.jacrev(warm)(P), jnp.diag(0.5 / jnp.sqrt(P)))
    close(jax.jacfwd(warm)(P), jnp.diag(0.5 / jnp.sqrt(P)))


@pytest.mark.parametrize(
    ("name", "z0", "params", "text"),
    [
        ("endless", [0.7], ([1.0],), "largest number of steps was reached.*after 30 steps"),
        (
            "plain",
            np.zeros(N),
            (3 * W, X),
            "ImplicitFixedPoint.affine.: the largest number",
        ),
        ("roots", [np.nan], ([1.0],), "NaN or infinity came up"),
        ("roots", [0.0], ([1.0],), "singular to working precision"),
        ("linear", [0.0, 0.0], ([[1.0, 2.0], [2.0, 4.0]], [1.0, 1.0]), "singular"),
    ],
    ids=["no_root", "no_contraction", "nan", "singular", "dependent"],
)
def test_failure_raises(name, z0, params, text):
    params = tuple(jnp.asarray(p) for p in params)
    solve = jax.jit(at(name, jnp.asarray(z0)))
    with pytest.raises(jax.errors.JaxRuntimeError, match=text):
        solve(*params).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match=text):
        jax.jit(jax.grad(lambda p: solve(*params[:-1], p).sum()))(
            params[-1]
        ).block_until_ready()
    good = at("roots", jnp.ones(3))  # after an error, a good call
    close(good(P), jnp.sqrt(P))


def test_a_singular_adjoint_raises_or_is_nan():
    """At p = 0 the root of z² = p is double: the value is there, the derivative is not."""
    for mode in (jax.jacrev, jax.jacfwd):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match="the derivative: the matrix is"
        ):
            mode(at("roots", jnp.zeros(1)))(jnp.zeros(1)).block_until_ready()
        assert np.isnan(mode(at("quiet", jnp.zeros(1)))(jnp.zeros(1))).all()


def test_one_failed_sample_does_not_spoil_the_others():
    solve = at("quiet", jnp.ones(1))
    batch = jnp.array([[4.0], [-1.0], [9.0]])
    np.testing.assert_allclose(jax.vmap(solve)(batch).ravel(), [2.0, np.nan, 3.0])
    gradient = jax.jit(jax.vmap(jax.grad(lambda p: solve(p).sum())))(batch).ravel()
    np.testing.assert_allclose(gradient, [1 / 4, np.nan, 1 / 6])


def test_made_from_python():
    """A residual without an object of its own: `ImplicitRoot` called from Python."""
    from juliacall import Main  # pyright: ignore[reportAttributeAccessIssue]

    root = Main.seval("import ImplicitAdjoints; ImplicitAdjoints.ImplicitRoot")
    solve = pi.julia.function(root(Main.RootTests.chain), out=lambda z0, p: z0)
    p = jnp.array([3.0 - 0.5 + 1, 3.0 - 2 + 1])
    close(solve(jnp.zeros(2), p), jnp.ones(2), 1e-9)
    J = jnp.array([[6.0, -0.5], [-2.0, 6.0]])
    close(jax.jacrev(lambda p: solve(jnp.zeros(2), p))(p), jnp.linalg.inv(J))


def test_a_third_derivative_is_refused_by_name():
    f = at("cube", 1.0)
    with pytest.raises(NotImplementedError, match=r"rule` for `Push.*Pull.*ImplicitRoot"):
        jax.jit(jax.jacfwd(jax.hessian(f)))(8.0)
