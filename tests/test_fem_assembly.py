"""Built-in operators equal their forms, in value and in every derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, Problem, div, dot, grad, inner, sym_grad
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


def derivatives(f, c, points, second: bool):
    """Value and gradient of f(c, points), and their derivatives in one direction."""

    def loss(at):
        value = f(*at)
        return jnp.cos(jnp.arange(value.size)) @ jnp.sin(value), value

    slopes, at = jax.grad(loss, has_aux=True), (c, points)
    if not second:
        return slopes(at)
    rng = np.random.default_rng(1)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), at)
    return jax.jvp(slopes, (at,), (direction,))


@pytest.mark.parametrize("name", MESHES)
def test_operators_equal_their_forms(engine, name):
    mesh = MESHES[name]
    table = [row for row in cases(mesh) if engine == "host" or row[0] in IN_JULIA[name]]
    c = {operator: c for operator, _, _, c in table}
    second = name == "interval" or (engine, name) == ("host", "triangles")

    @jax.jit
    def program(c, points):
        def row(ours, theirs, c):
            both = [derivatives(f, c, points, second) for f in (ours, theirs)]
            return ours(c, None), theirs(c, None), *both

        return {name: row(f, g, c[name]) for name, f, g, _ in table}

    for operator, row in program(c, jnp.asarray(mesh.points)).items():
        still, expected, *both = row
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, err_msg=operator)
        close(still, expected, atol=1e-13)
        for a, b in zip(*map(jax.tree.leaves, both), strict=True):
            close(a, b, atol=1e-12 * float(np.max(np.abs(b), initial=1.0)))


def test_third_derivatives_in_the_points(engine):
    """Of κ/h, the entry of one interval; Julia's own rules end at the second."""
    V = FunctionSpace(Mesh.interval(1, 2.0))

    def entry(h, kappa):
        points = jnp.stack([0.0 * h, h])[:, None]
        return fem.diffusion_values(V, kappa[None], points=points)[0]

    forward = jax.jacfwd(jax.jacfwd(jax.jacfwd(entry)))
    back = jax.grad(jax.grad(jax.grad(entry)))
    batch = jax.vmap(jax.grad(forward, 1), (None, 0))
    h, kappa = jnp.float64(2.0), jnp.float64(3.0)
    run = jax.jit(lambda: (forward(h, kappa), back(h, kappa), batch(h, jnp.ones(2))))
    *third, slopes = run()
    np.testing.assert_allclose(third, [-6 * kappa / h**4] * 2, rtol=1e-12)
    np.testing.assert_allclose(slopes, [-6 / h**4] * 2, rtol=1e-12)


def test_a_coefficient_that_the_form_closes_over():
    """In a linear problem; and two forwards before one backward."""
    V = FunctionSpace(MESHES["triangles"])
    named = Problem(V, lambda u, v, w: w.k * dot(grad(u), grad(v)) - v, {"left": 0.0})

    def closed(k):
        form = lambda u, v, w: k * dot(grad(u), grad(v)) - v
        return Problem(V, form, {"left": 0.0}).solve()

    @jax.jit
    def program(a, b):
        slopes = [jax.grad(lambda k, f=f: jnp.sum(f(k) ** 2))(a) for f in (closed, given)]
        (_, back_a), (_, back_b) = jax.vjp(given, a), jax.vjp(given, b)
        one = jnp.ones(V.size)
        return slopes, back_a(one)[0], back_b(one)[0], jax.grad(lambda a: given(a).sum())(a)

    given = lambda k: named.solve({"k": k})
    (of_closed, of_named), at_a, at_b, alone = program(1.5, 3.0)
    np.testing.assert_allclose(of_closed, of_named, rtol=1e-10)
    np.testing.assert_allclose(at_a, alone, rtol=1e-12)
    np.testing.assert_allclose(at_a / at_b, 4.0, rtol=1e-10)  # u = u₁ / k


@pytest.mark.parametrize("throw", [True, False])
def test_points_that_fold_a_cell(throw):
    V = FunctionSpace(MESHES["triangles"])
    points = jnp.asarray(MESHES["triangles"].points).at[5].add(10.0)
    problem = fem.models.poisson(V, {"left": 1.0}, source="f")
    solve = jax.jit(
        lambda x: problem.solve({"kappa": 1.0, "f": 1.0}, points=x, throw=throw)
    )
    if throw:
        with pytest.raises(Exception, match="folds over"):
            jax.block_until_ready(solve(points))
        return
    assert np.isnan(solve(points).value).any()
