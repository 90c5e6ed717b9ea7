"""Quadrature, elements, spaces, assembly and coefficients."""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh
from pyimplicit.fem.coefficients import average, evaluate, interpret
from pyimplicit.fem.quadrature import simplex

from .test_mesh import skewed


MESHES = {
    "interval": Mesh.interval(5, 2.0),
    "triangles": skewed(Mesh.rectangle(4, 3, (2, 1)), 0.05),
    "tetrahedra": skewed(Mesh.box(2, 2, 2, (1, 2, 1)), 0.1),
}
meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("degree", range(7))
def test_quadrature_is_exact(dim, degree):
    points, weights = simplex(dim, degree)
    assert (weights > 0).all() and (points > 0).all() and (points.sum(1) < 1).all()
    for powers in itertools.product(range(degree + 1), repeat=dim):
        if sum(powers) <= degree:
            exact = math.prod(map(math.factorial, powers))
            exact /= math.factorial(sum(powers) + dim)
            found = weights @ np.prod(points ** np.array(powers), axis=1)
            np.testing.assert_allclose(found, exact, rtol=1e-13)


def test_short_rules():
    sizes = {(d, p): len(simplex(d, p)[1]) for d in (1, 2, 3) for p in (1, 2, 4)}
    assert sizes[2, 1] == sizes[3, 1] == 1
    assert (sizes[1, 2], sizes[2, 2], sizes[3, 2], sizes[2, 4]) == (2, 3, 4, 6)


@meshes
def test_space(mesh):
    V = FunctionSpace(mesh, "P1")
    d = mesh.dim
    np.testing.assert_allclose(V.basis.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(V.basis_gradients.sum(axis=1), 0)
    vertices = np.concatenate([np.zeros((1, d)), np.eye(d)])
    np.testing.assert_array_equal(V.element.values(vertices), np.eye(d + 1))
    np.testing.assert_allclose(V.weights.sum(axis=1), mesh.volumes, rtol=1e-13)
    rows, cols, slot = V.sparsity
    assert (np.diff(rows * V.size + cols) > 0).all()
    for i, j in itertools.product(range(d + 1), repeat=2):
        np.testing.assert_array_equal(rows[slot[:, i, j]], V.cells[:, i])
        np.testing.assert_array_equal(cols[slot[:, i, j]], V.cells[:, j])
    assert V.pattern("spd") is V.pattern("spd")


@meshes
@pytest.mark.parametrize("components", [1, 3])
def test_matrices(mesh, components):
    V = FunctionSpace(mesh, "P1", components)
    assert V.shape == ((mesh.n_points,) if components == 1 else (mesh.n_points, 3))
    pattern, volume = V.pattern("spd"), mesh.volumes.sum()
    kappa = np.random.default_rng(0).uniform(1, 2, mesh.n_cells)

    def matrices(kappa):
        yield fem.mass_values(V)
        yield fem.mass_values(V, kappa)
        if components == 1:
            yield fem.diffusion_values(V, kappa)

    values = jax.jit(lambda kappa: list(matrices(kappa)))(kappa)
    M, weighted, *K = jax.jit(lambda v: list(map(pattern.todense, v)))(values)
    one = np.zeros(V.shape)
    one[..., 0] = 1  # the first component
    one = np.ones(V.shape) if components == 1 else one
    np.testing.assert_allclose(one.ravel() @ M @ one.ravel(), volume, rtol=1e-13)
    np.testing.assert_allclose(M.sum(), components * volume, rtol=1e-13)
    total = components * (kappa @ mesh.volumes)
    np.testing.assert_allclose(weighted.sum(), total, rtol=1e-13)
    for A in K:
        x = mesh.points[:, 0]
        np.testing.assert_allclose(A @ np.ones(V.size), 0, atol=1e-12)
        np.testing.assert_allclose(x @ A @ x, kappa @ mesh.volumes, rtol=1e-12)


@meshes
def test_coefficients_agree(mesh):
    """The same linear function in every form that it can have."""
    V = FunctionSpace(mesh)
    f = lambda x: 1 + 2 * x[0] - x[-1]
    at_points = jax.vmap(jax.vmap(f))(V.x)
    nodes = jax.vmap(f)(mesh.points)
    cells = mesh.points[V.cells].mean(axis=1)
    forms = [
        f,
        at_points,
        fem.quadrature(at_points),
        fem.nodal(nodes),
        eqx.Partial(lambda a, x: a + f(x), jnp.zeros(())),
    ]
    if mesh.n_cells != mesh.n_points:
        forms.append(nodes)
    values = np.arange(mesh.n_cells)
    by_cell = [fem.cellwise(values)]
    if mesh.n_points != mesh.n_cells:
        by_cell.append(values)
    numbers = [2, 2.0, np.float64(2), jnp.array(2.0), fem.constant(2.0)]

    def both(form):
        c = interpret(V, "c", form)
        return evaluate(V, c).full(V), average(V, "c", c)

    for given, full, mean in (
        (forms, at_points, jax.vmap(f)(cells)),
        (by_cell, np.repeat(values[:, None], V.n_quadrature, 1), values),
        (numbers, np.full(at_points.shape, 2.0), np.full(mesh.n_cells, 2.0)),
    ):
        for found in jax.jit(lambda given=given: list(map(both, given)))():
            np.testing.assert_allclose(found[0], full, rtol=1e-13)
            np.testing.assert_allclose(found[1], mean, rtol=1e-13)


def test_by_region():
    mesh = Mesh.rectangle(2, 1)
    mesh = Mesh.from_arrays(mesh.points, mesh.cells, {"a": [0, 1], "b": [1]})
    given = fem.by_region(mesh, {"a": 1.0, "b": jnp.array(2.0)}, default=5)
    assert given.values.tolist() == [1, 2, 5, 5]
    with pytest.raises(ValueError, match="Got none for cell 2"):
        fem.by_region(mesh, {"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="has 'a', 'b'"):
        fem.by_region(mesh, {"c": 1.0})


SAME = Mesh.interval(2)
EIGHT = Mesh.from_arrays(  # eight cells and eight nodes
    [[1.0, 1], [-1, 1], [-1, -1], [1, -1], [2, 2], [-2, 2], [-2, -2], [2, -2]],
    {"quad": [[0, 4, 5, 1], [1, 5, 6, 2], [2, 6, 7, 3], [3, 7, 4, 0]]},
)
ANNULUS = Mesh.from_arrays(
    EIGHT.points,
    {
        "triangle": np.concatenate(
            [EIGHT.cells["quad"][:, [0, 1, 2]], EIGHT.cells["quad"][:, [0, 2, 3]]]
        )
    },
)


@pytest.mark.parametrize(
    "mesh, value, error, message",
    [
        (ANNULUS, np.ones(8), ValueError, "per cell or per node"),
        (SAME, np.ones(7), ValueError, r"Got shape \(7,\)"),
        (SAME, np.ones((2, 5)), ValueError, "2 cells, 3 nodes and 2 quadrature"),
        (SAME, fem.cellwise(np.ones(3)), ValueError, r"shape \(2, '...'\)"),
        (SAME, "one", TypeError, "Got str"),
        (SAME, None, TypeError, "Got NoneType"),
        (SAME, True, TypeError, "Got booleans"),
        (SAME, np.ones(2, bool), TypeError, "coefficient 'c' must be a number"),
        (SAME, lambda x: "one", TypeError, "not a valid JAX type"),
        (SAME, lambda x: (x, x), TypeError, "must return a number"),
    ],
)
def test_bad_coefficients(mesh, value, error, message):
    with pytest.raises(error, match=message):
        interpret(FunctionSpace(mesh), "c", value)
    for marked in (fem.cellwise(np.ones(8)), fem.nodal(np.ones(8))):
        interpret(FunctionSpace(ANNULUS), "c", marked)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: FunctionSpace(SAME, "P7"), ValueError, "(?s)'P1'.*Got 'P7'"),
        (lambda: FunctionSpace(EIGHT), ValueError, "(?s)'triangle'.*Got 'quad'"),
        (lambda: FunctionSpace(SAME, components=0), ValueError, "positive whole"),
        (lambda: FunctionSpace(SAME, degree=-1), ValueError, "degree"),
        (lambda: FunctionSpace("mesh"), TypeError, "Got str"),  # pyright: ignore
    ],
)
def test_bad_spaces(make, error, message):
    with pytest.raises(error, match=message):
        make()
