"""The table of transforms: every optimisation layer under every transform of JAX.

Rows: quadratic programmes, one conic programme for each cone, a CVXPY problem with its
dual; columns: `COLUMNS` and "eager". Each cell is compared with the transform of the
closed form, for multipliers near 1e-3, 1 and 1e3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from . import conic_blocks as conic
from .transforms import COLUMNS, cells


SIZES = 1e-3, 1.0, 1e3  # of the objective, so of all multipliers


def quadratic(theta):
    """min ½ xᵀQ(t)x - cᵀx with x₀ ≤ b, strictly active; the objective times `size`."""
    size, b, t = theta
    Q, c = quadratic_data(t)
    s = pi.qp(size * Q, -size * c, G=jnp.array([[1.0, 0.0]]), h=b[None])
    return jnp.concatenate([s.x, s.z])


def quadratic_data(t):
    L = jnp.array([[1.5, t], [0.3, 1.0 + t**2]])
    return L.T @ L, jnp.array([40.0, -3.0])


def quadratic_exact(theta):
    size, b, t = theta
    Q, c = quadratic_data(t)
    x1 = (c[1] - Q[1, 0] * b) / Q[1, 1]
    return jnp.stack([b, x1, size * (c[0] - Q[0, 0] * b - Q[0, 1] * x1)])


@functools.cache
def cvxpy_problem():
    """The same programme, as a sum of squares; returns x and the row's dual variable."""
    cp = pytest.importorskip("cvxpy")
    x, L, c, b = cp.Variable(2), cp.Parameter((2, 2)), cp.Parameter(2), cp.Parameter()
    row = x[0] <= b
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(L @ x) - c @ x), [row])
    return pi.cvxpy_layer(problem, [L, c, b], [x, row])


def cvxpy(theta):
    size, b, t = theta
    L = jnp.array([[1.5, t], [0.3, 1.0 + t**2]])
    x, z = cvxpy_problem()(jnp.sqrt(size) * L, size * quadratic_data(t)[1], b)
    return jnp.append(x, z)


parameters = lambda size: jnp.array([size, 0.5, 0.7])
LAYERS = {
    "qp": (quadratic, quadratic_exact, parameters, 1e-9),
    "cvxpy": (cvxpy, quadratic_exact, parameters, 1e-7),
    "cones": (conic.joined, conic.joined_exact, conic.parameters, 1e-6),
}
ROWS = {"qp": "qp", "cvxpy": "cvxpy", **{f"cone, {name}": "cones" for name in conic.BLOCKS}}


@pytest.fixture(autouse=True, scope="module")
def _in_jax():
    with pi.engine.use("host"):
        yield


@functools.cache
def computed(layer):
    """`[(cells, closed forms)]` for each of `SIZES`."""
    ours, exact, theta, _ = LAYERS[layer]
    got, wanted = cells(ours), cells(exact)
    return [(got(theta(size)), wanted(theta(size))) for size in SIZES]


def compare(got, wanted, layer, row, transform):
    if layer == "cones":  # what belongs to this cone: its outputs, or its parameters
        of_outputs = transform in ("eager", "jit", "vmap", "jvp(vmap)", "jacfwd", "jacrev")
        axis = 0 if transform in ("jacfwd", "jacrev", "hessian") else -1
        keep = conic.places(row.removeprefix("cone, "))[0 if of_outputs else 1]
        got, wanted = (np.take(np.asarray(v), keep, axis) for v in (got, wanted))
    tol = LAYERS[layer][3]
    near = dict(rtol=tol, atol=tol * np.abs(wanted).max())
    np.testing.assert_allclose(got, wanted, **near)


@pytest.mark.parametrize("transform", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_every_cell_has_its_closed_form(row, transform):
    for got, wanted in computed(ROWS[row]):
        compare(got[transform], wanted[transform], ROWS[row], row, transform)


@functools.cache
def eager(layer):
    ours, exact, theta, _ = LAYERS[layer]
    return ours(theta(1.0)), exact(theta(1.0))


@pytest.mark.parametrize("row", ROWS)
def test_the_eager_cell(row):
    compare(*eager(ROWS[row]), ROWS[row], row, "eager")
    if row == "qp":  # derivatives too
        ours, exact, theta, _ = LAYERS["qp"]
        slope = lambda f: jax.grad(lambda t: f(t).sum())(theta(1.0))
        np.testing.assert_allclose(slope(ours), slope(exact), rtol=1e-9)
