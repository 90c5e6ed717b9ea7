"""Problems made of built-in operators are assembled by loops, and equal their forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, Problem, boundary, loops
from pyimplicit.fem.models import solid

from .test_mesh import skewed


MESH = skewed(Mesh.rectangle(3, 3), 0.05)
SCALAR, VECTOR = FunctionSpace(MESH), FunctionSpace(MESH, components=2)
RNG = np.random.default_rng(0)
CELLS = RNG.uniform(1, 2, MESH.n_cells)
NODES = RNG.uniform(1, 2, MESH.n_points)
CONDITIONS = {"neumann": {"top": "q"}, "robin": {"right": ("a", "g")}}
FIXED = {"left": 0.0}


def poisson():
    return fem.models.poisson(SCALAR, FIXED, source="f", **CONDITIONS)


def plate(**how):
    return fem.models.elasticity(VECTOR, FIXED, force="f", **how, **CONDITIONS)


def as_forms(problem):
    """The same problem of plain functions, for which there are no loops."""
    plain = lambda form: lambda u, v, w: form(u, v, w)
    inside, *outside = problem.pieces
    boundary = {p.boundary: plain(p.form) for p in outside}
    return Problem(problem.V, plain(inside.form), FIXED, boundary=boundary, structure="spd")


# name: (problem, coefficients)
CASES = {
    "diffusion": (
        poisson(),
        {"kappa": NODES, "f": 2.0, "q": CELLS, "a": 1.5, "g": -2.0},
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
}


@pytest.mark.parametrize("name", CASES)
def test_problems_equal_their_forms(engine, name):
    """In value, and in the first derivatives in all that is given, the points too."""
    problem, coefficients = CASES[name]
    other = as_forms(problem)
    # Their own coefficients have the names above in both
    leaves, tree = jax.tree.flatten(coefficients)
    moving = {i: jnp.asarray(a, float) for i, a in enumerate(leaves) if not callable(a)}
    draw = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape))
    at = (moving, jnp.asarray(MESH.points))
    direction = jax.tree.map(draw, at)

    def of(problem):
        def solve(moving, points):
            given = [moving.get(i, a) for i, a in enumerate(leaves)]
            return problem.solve(jax.tree.unflatten(tree, given), points=points)

        if name == "partly":
            return solve(*at)
        u, du = jax.jvp(solve, at, direction)
        slopes = jax.vjp(solve, *at)[1](jnp.cos(jnp.arange(u.size)).reshape(u.shape))
        return u, du, slopes

    found, expected = jax.jit(lambda: (of(problem), of(other)))()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = float(np.max(np.abs(b), initial=1e-3))
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11 * scale)
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
    }
    for name, (problem, coefficients) in CASES.items():
        used.clear()
        jax.eval_shape(lambda c=coefficients, p=problem: p.matrix(c)[0])
        assert used == wanted[name], name
