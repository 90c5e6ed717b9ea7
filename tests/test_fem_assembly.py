"""Built-in operators equal their forms, in value and in every derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, div, dot, grad, inner, sym_grad
from pyimplicit.fem.assembly import Term, system
from pyimplicit.fem.coefficients import Evaluated

from .test_mesh import skewed


MESHES = {
    "interval": Mesh.interval(4, 2.0),
    "triangles": skewed(Mesh.rectangle(3, 2), 0.05),
    "tetrahedra": skewed(Mesh.box(2, 1, 1), 0.05),
}


def diffusion(u, v, w):
    return inner(w.c * grad(u), grad(v))


def tensor(u, v, w):
    return dot(w.c @ grad(u), grad(v))


def mass(u, v, w):
    return w.c * dot(u, v)


def advection(u, v, w):
    return dot(w.c, grad(u)) * v


def elasticity(u, v, w):
    return 2 * w.c[0] * inner(sym_grad(u), sym_grad(v)) + w.c[1] * div(u) * div(v)


def load(u, v, w):
    return dot(w.c, v)


def lame(V, c, **how):
    return fem.elasticity_values(V, c[:, 0], c[:, 1], **how)


# name: (shape of a row, of vectors?, on a boundary?, ours, the form)
OPERATORS = {
    "diffusion": ((), 0, 0, fem.diffusion_values, diffusion),
    "tensor": (("d", "d"), 0, 0, fem.diffusion_values, tensor),
    "mass": ((), 0, 0, fem.mass_values, mass),
    "advection": (("d",), 0, 0, fem.advection_values, advection),
    "load": ((), 0, 0, fem.load_vector, load),
    "masses": ((), 1, 0, fem.mass_values, mass),
    "elasticity": ((2,), 1, 0, lame, elasticity),
    "Robin": ((), 0, 1, fem.mass_values, mass),
    "Neumann": ((), 0, 1, fem.load_vector, load),
    "traction": (("d",), 1, 1, fem.load_vector, load),
}
# Each operator is compiled by Julia for each dimension: some of them stand for all there
# (its own tests have every rule).
IN_JULIA = {
    "interval": ("diffusion", "Robin"),
    "triangles": OPERATORS,
    "tetrahedra": ("diffusion", "elasticity", "Robin"),
}


def cases(mesh):
    """(ours, theirs), functions of coefficients and points, and coefficients."""
    d, rng = mesh.dim, np.random.default_rng(0)
    scalar = FunctionSpace(mesh)
    vector = FunctionSpace(mesh, components=d) if d > 1 else None
    for name, (row, vectors, on_boundary, ours, form) in OPERATORS.items():
        if vectors and d == 1:
            continue
        V, where = (vector if vectors else scalar), ("left" if on_boundary else None)
        domain = V.domain(where)
        row = tuple(d if n == "d" else n for n in row)
        kwargs = {"boundary": where} if on_boundary else {}
        which = 1 if ours is fem.load_vector else 0

        def theirs(c, points, V=V, domain=domain, form=form, which=which):
            term = Term(form, domain, {"c": Evaluated(c, True, False)})
            return system(V, [term], jnp.zeros(V.size), points)[which]

        def mine(c, points, V=V, ours=ours, kwargs=kwargs):
            return ours(V, c, points=points, **kwargs).ravel()

        yield name, mine, theirs, jnp.asarray(rng.uniform(1, 2, (domain.n, *row)))


def derivatives(functions, coefficients, points, second: bool = True):
    """Values, gradients, tangents, and second derivatives in one direction."""
    rng = np.random.default_rng(1)
    draw = lambda a: jnp.asarray(rng.normal(size=a.shape))
    at = (coefficients, points)
    direction = jax.tree.map(draw, at)

    def every(at):
        return [f(c, at[1]) for f, c in zip(functions, at[0], strict=True)]

    weights = [jnp.cos(jnp.arange(s.size)) for s in jax.eval_shape(every, at)]
    loss = lambda at: [w @ jnp.sin(v) for w, v in zip(weights, every(at), strict=True)]
    slopes = lambda at: [
        jax.grad(lambda at, i=i: loss(at)[i])(at) for i in range(len(at[0]))
    ]
    values, gradients = every(at), slopes(at)
    if not second:
        return values, gradients
    return values, gradients, jax.jvp(slopes, (at,), (direction,))[1]


@pytest.fixture(scope="module")
def expected():
    """What the forms give, on a mesh."""

    @functools.cache
    def find(name):
        mesh = MESHES[name]
        table = list(cases(mesh))
        theirs, c = [t[2] for t in table], [t[3] for t in table]
        run = jax.jit(lambda *a: derivatives(theirs, *a))
        return jax.tree.map(np.asarray, run(c, jnp.asarray(mesh.points)))

    return find


@pytest.mark.parametrize("name", MESHES)
def test_operators_equal_their_forms(engine, expected, name):
    mesh = MESHES[name]
    table = list(cases(mesh))
    theirs = zip(*expected(name), strict=True)
    if engine == "julia":
        chosen = [row[0] in IN_JULIA[name] for row in table]
    else:
        chosen = [True] * len(table)
    pairs = [(row, t) for row, t, c in zip(table, theirs, chosen, strict=True) if c]
    ours, c = [row[1] for row, _ in pairs], [row[3] for row, _ in pairs]
    second = engine == "host" or name == "interval"

    @jax.jit
    def program(c, points):
        still = [f(c, None) for f, c in zip(ours, c, strict=True)]
        return still, derivatives(ours, c, points, second)

    still, found = program(c, jnp.asarray(mesh.points))
    for (row, wanted), fixed, *got in zip(pairs, still, *found, strict=True):
        np.testing.assert_allclose(fixed, wanted[0], rtol=1e-12, atol=1e-13)
        for a, b in zip(got, wanted, strict=False):
            for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
                scale = float(np.max(np.abs(y), initial=1.0))
                np.testing.assert_allclose(
                    x, y, rtol=1e-12, atol=1e-12 * scale, err_msg=row[0]
                )
