"""Problems made of built-in operators are assembled by loops, and equal their forms."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import (
    FunctionSpace,
    Mesh,
    Problem,
    boundary,
    dot,
    grad,
    inner,
    loops,
    recognise,
    sym_grad,
)
from pyimplicit.fem.models import solid
from pyimplicit.fem.operations import Kind, kinds

from .test_mesh import skewed


MESH = skewed(Mesh.rectangle(3, 3), 0.05)
SCALAR, VECTOR = FunctionSpace(MESH), FunctionSpace(MESH, components=2)
RNG = np.random.default_rng(0)
CELLS = RNG.uniform(1, 2, MESH.n_cells)
NODES = RNG.uniform(1, 2, MESH.n_points)
BOUNDARY = {"q": CELLS, "a": 1.5, "g": -2.0}
CONDITIONS = {"neumann": {"top": "q"}, "robin": {"right": ("a", "g")}}
FIXED = {"left": 0.0}


def poisson():
    return fem.models.poisson(SCALAR, FIXED, source="f", **CONDITIONS)


def plate(**how):
    return fem.models.elasticity(VECTOR, FIXED, force="f", **how, **CONDITIONS)


def written(form, V=SCALAR):
    """A problem of a form that somebody wrote."""
    return Problem(V, form, FIXED, **CONDITIONS)


def as_forms(problem):
    """The same problem of plain functions."""
    plain = lambda form: lambda u, v, w: form(u, v, w)
    inside, *outside = problem.pieces
    boundary = {p.boundary: plain(p.form) for p in outside}
    how = problem.structure
    return Problem(problem.V, plain(inside.form), FIXED, boundary=boundary, structure=how)


@contextlib.contextmanager
def no_loops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognise, "matrix_and_residual", lambda *_: None)
        yield


def everything(u, v, w):
    flux = w.k * w.x[0] * grad(u) + w.K @ grad(u)
    return dot(flux, grad(v)) + (dot(w.b, grad(u)) + w.m * w.h * u - w.x[1]) * v


# name: (problem, coefficients)
CASES = {
    "diffusion": (
        poisson(),
        {"kappa": NODES, "f": 2.0} | BOUNDARY,
    ),
    "elasticity": (
        plate(plane="stress"),
        {
            "E": CELLS,
            "nu": fem.nodal(NODES / 8),
            "f": fem.constant([0.5, -2.0]),
            "q": fem.constant([1.0, 3.0]),
            "a": CELLS,
            "g": 0.5,
        },
    ),
    "partly": (  # what varies on a facet is integrated there; the rest is not
        plate(),
        {"E": 2.0, "nu": 0.3, "f": 0.0, "q": lambda x: x, "a": NODES, "g": 1.0}
        | {"f": fem.cellwise(np.stack([CELLS, -CELLS], axis=1))},
    ),
    "written": (
        written(everything),
        {
            "k": NODES,
            "K": fem.cellwise(np.eye(2) + CELLS[:, None, None] * [[0, 0.5], [-0.25, 1]]),
            "b": fem.cellwise(np.stack([CELLS, -CELLS], axis=1)),
            "m": 3.0,
        }
        | BOUNDARY,
    ),
    "plain": (
        written(lambda u, v, w: dot(w.k * grad(u), grad(v)) / 2 + (u - w.f) * v),
        {"k": NODES, "f": CELLS} | BOUNDARY,
    ),
    "vectors": (
        written(
            lambda u, v, w: (
                w.x[0] * w.k * inner(grad(u), grad(v)) / 2 + w.m * dot(u, v) - dot(w.f, v)
            ),
            VECTOR,
        ),
        {"k": NODES, "m": CELLS, "f": fem.constant([0.5, -2.0]), "a": CELLS}
        | {"q": fem.constant([1.0, 3.0]), "g": 0.5},
    ),
    "advection": (  # the upwind term has a matrix for each cell
        fem.models.advection_diffusion(SCALAR, FIXED, **CONDITIONS),
        {"kappa": 0.1, "b": fem.constant([2.0, 1.0]), "f": CELLS} | BOUNDARY,
    ),
}


def system(problem, coefficients, points):
    """Matrix and residual at u = 0 of all unknowns, before anything is solved."""
    found, dtype = problem._interpret(coefficients, [], points)
    terms, _ = problem._terms(found, dtype, points)
    return problem.system(found, terms, points, dtype)


@pytest.mark.parametrize("name", CASES)
def test_problems_equal_their_forms(engine, name):
    """In value, and in the first derivatives in all that is given, the points too: matrices
    and vectors to 1e-12; solutions to ten times that, for their condition."""
    problem, coefficients = CASES[name]
    other = as_forms(problem)
    # Their own coefficients have the names above in both
    leaves, tree = jax.tree.flatten(coefficients)
    moving = {i: jnp.asarray(a, float) for i, a in enumerate(leaves) if not callable(a)}
    draw = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape))
    at = (moving, jnp.asarray(MESH.points))
    direction = jax.tree.map(draw, at)
    given = lambda moving: jax.tree.unflatten(
        tree, [moving.get(i, a) for i, a in enumerate(leaves)]
    )

    def of(problem):
        parts = lambda moving, points: system(problem, given(moving), points)
        found, tangents = jax.jvp(parts, at, direction)
        slopes = jax.vjp(parts, *at)[1](jax.tree.map(draw, found))
        u = problem.solve(given(moving), points=at[1])
        return (found, tangents, slopes), u

    def both():
        found = of(problem)
        with no_loops():
            return found, of(other)

    (found, u), (expected, other_u) = jax.jit(both)()
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for tol, a, b in (*((1e-12, *pair) for pair in pairs), (1e-11, u, other_u)):
        scale = float(np.max(np.abs(b), initial=1e-3))
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * scale)
        assert np.abs(b).max() > 0


def test_the_loops_are_used(monkeypatch):
    used = []
    whole = loops.assemble

    def assemble(V, operator, theta, **where):
        used.append((operator, where.get("boundary")))
        return whole(V, operator, theta, **where)

    for module in (boundary, solid, loops):
        monkeypatch.setattr(module, "assemble", assemble)
    robin = [("Load", "top"), ("Mass", "right"), ("Load", "right")]
    wanted = {
        "diffusion": [("Diffusion", None), *robin],
        "elasticity": [("Elasticity", None), *robin],
        "partly": [("Elasticity", None)],
        "written": [(name, None) for name in ("Advection", "Mass", "TensorDiffusion")]
        + robin,
        "plain": [(n, None) for n in ("Diffusion", "Load", "Mass")] + robin,
        "vectors": [(n, None) for n in ("Diffusion", "Diffusion", "Load", "Mass")] + robin,
        "advection": [("Advection", None), ("TensorDiffusion", None), *robin],
    }
    for name, (problem, coefficients) in CASES.items():
        used.clear()
        jax.eval_shape(lambda c=coefficients, p=problem: p.matrix(c)[0])
        assert used == wanted[name], name


def other_forms():
    """Forms with what the loops do not have, though they are linear."""
    wind = fem.cellwise(np.stack([CELLS, -CELLS], axis=1))
    plain = lambda u, v: dot(grad(u), grad(v))
    yield lambda u, v, w: plain(u, v) + w.x[0] * u * v, {}
    yield lambda u, v, w: plain(u, v) + w.m * u * v, {"m": NODES}
    yield lambda u, v, w: plain(u, v) + dot(w.b, grad(u)) * v, {"b": lambda x: x}
    yield lambda u, v, w: plain(u, v) + dot(w.b, grad(v)) * u, {"b": wind}


def test_other_forms_are_left_alone():
    for form, coefficients in other_forms():
        assert not built_in(Problem(SCALAR, form), coefficients)
    form = lambda u, v, w: u * v
    assert built_in(Problem(SCALAR, form), {})
    once = FunctionSpace(MESH, degree=1)  # whose quadrature is not exact for it
    assert not built_in(Problem(once, form), {})
    plain = lambda u, v: inner(grad(u), grad(v))
    assert built_in(Problem(VECTOR, lambda u, v, w: plain(u, v) - dot(u, v) / 3), {})
    weights = jnp.array([1.0, 2.0])
    for form in (
        lambda u, v, w: inner(sym_grad(u), sym_grad(v)),
        lambda u, v, w: inner(grad(u).T, grad(v)),
        lambda u, v, w: jnp.einsum("ij,ji", grad(u), grad(v)),
        lambda u, v, w: inner(grad(u) * weights, grad(v)),
        lambda u, v, w: inner(grad(u).reshape(4)[::-1].reshape(2, 2), grad(v)),
        lambda u, v, w: plain(u, v) + u[1] * v[0] - u[0] * v[1],
        lambda u, v, w: plain(u, v) + dot(weights * u, v),
        lambda u, v, w: plain(u, v) + dot(grad(u) @ weights, v),
        lambda u, v, w: plain(u, v) + w.x[0] * dot(u, v),
    ):
        assert not built_in(Problem(VECTOR, form), {}), form


def built_in(problem, coefficients):
    used = []
    with pytest.MonkeyPatch.context() as patch:
        assemble = lambda *a, **k: used.append(a[1]) or 0.0
        patch.setattr(recognise.loops, "assemble", assemble)
        jax.eval_shape(lambda: problem.matrix(coefficients)[0])
    return used


def test_what_operations_say():
    p, K, s = jnp.ones((1, 2)), jnp.ones((2, 2)), jnp.float64(2.0)
    expected = {
        Kind.ZERO: [lambda p: jnp.zeros(2)],
        Kind.UNIFORM: [lambda p: s * jnp.ones(2)],
        Kind.FREE: [lambda p: K[0] - 1],
        Kind.MULTIPLE: [
            lambda p: s * p,
            lambda p: (p[0] / s + jax.jit(lambda p: -s * p)(p[0]))[:, None],
            lambda p: p + 0.0,
        ],
        Kind.VANISHES: [
            lambda p: K @ p[0],
            lambda p: jnp.full((2, 2), s) @ p[0],
            lambda p: K[0] * p,
            lambda p: jnp.sum(p),
        ],
        Kind.ANY: [
            lambda p: p + 1,
            lambda p: p * p,
            lambda p: s / p,
            lambda p: jnp.where(p > 0, p, 2 * p),
        ],
    }
    for kind, functions in expected.items():
        for i, f in enumerate(functions):
            assert kinds(lambda p, f=f: f(*p), (p,), (Kind.MULTIPLE,)) == [kind], (kind, i)
