"""Point values, integrals, files of fields, and what an import costs."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import meshio
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, dot, grad
from pyimplicit.fem.moved import dof_points

from .test_mesh import skewed


SPACES = {
    "interval": FunctionSpace(Mesh.interval(5, 2.0)),
    "triangles": FunctionSpace(skewed(Mesh.rectangle(6, 5), 0.05)),
    "tetrahedra": FunctionSpace(skewed(Mesh.box(3, 2, 2), 0.1)),
}
spaces = pytest.mark.parametrize("V", SPACES.values(), ids=SPACES.keys())
V2 = SPACES["triangles"]


@spaces
def test_point_evaluation(V):
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(0, 1, (30, V.mesh.dim)), V.mesh.points])
    E = fem.point_evaluation(V, points)
    linear = lambda x: 1 + x @ np.arange(1.0, V.mesh.dim + 1)
    u, v = linear(V.mesh.points), rng.normal(size=len(points))
    many = np.stack([u, -u], axis=1)
    values, columns, A, back, J = jax.jit(
        lambda: (E(u), E(many), E.as_matrix(), E.T(v[:, None]), jax.jacrev(E)(u))
    )()
    np.testing.assert_allclose(values, linear(points), rtol=1e-12)
    np.testing.assert_allclose(columns[:, 1], -linear(points), rtol=1e-12)
    np.testing.assert_allclose(A @ u, values, rtol=1e-12)
    np.testing.assert_allclose(A.T @ v, back[:, 0], rtol=1e-12)
    np.testing.assert_allclose(J, A, atol=1e-14)
    assert E.T.T.transposed is False
    assert jax.eval_shape(E.transpose, v).shape == u.shape
    assert jax.eval_shape(E, u.astype("f4")).dtype == np.float32


def test_points_far_from_the_centre_of_their_cell():
    """A cell so long that others' centres are nearer."""
    x = np.linspace(0, 1, 200)
    points = np.concatenate([[[0.0, 0], [1, 0]], np.stack([x, 0 * x + 1e-3], 1)])
    fan = [[0, 1, 201]] + [[0, k + 1, k] for k in range(2, 201)]
    mesh = Mesh.from_arrays(points, {"triangle": fan})
    E = fem.point_evaluation(FunctionSpace(mesh), [[0.01, 1e-6], [0.99, 1e-6]])
    np.testing.assert_allclose(E(mesh.points), [[0.01, 1e-6], [0.99, 1e-6]], atol=1e-12)


six = Mesh.from_arrays(
    np.array([[0, 0], [1, 0], [0, 1], [0.6, -0.1], [0.6, 0.5], [0.1, 0.5]]),
    {"triangle6": [[0, 1, 2, 3, 4, 5]]},
)
MOVED = {
    "P1": FunctionSpace(skewed(Mesh.rectangle(3, 3), 0.05)),
    "Q2": FunctionSpace(skewed(Mesh.rectangle(2, 2, cells="quad"), 0.05), "Q2"),
    "curved": FunctionSpace(six, "P2"),
}


@pytest.mark.parametrize("V", MOVED.values(), ids=MOVED.keys())
def test_points_rest_while_the_mesh_moves(V):
    """Values and loads against an evaluation on the moved mesh; derivatives of both orders
    against closed forms: u of the moved nodes is u(x), whatever the motion."""
    X, mesh = V.mesh.points, V.mesh
    a = np.arange(1.0, mesh.dim + 1)
    rng = np.random.default_rng(0)
    middles = X[V.domain().nodes].mean(axis=1)[::3]
    at = middles + 0.01 * rng.normal(size=middles.shape)
    motion = 0.02 * rng.normal(size=X.shape)
    E = lambda t: fem.point_evaluation(V, at, mesh_points=X + t * motion)
    other = FunctionSpace(Mesh.from_arrays(X + motion, mesh.cells), V.element.name)
    u, load = rng.normal(size=V.n_dofs), rng.normal(size=len(at))
    linear = lambda t: E(t)(dof_points(V, X + t * motion) @ a)
    given = lambda t: E(t)(u)
    two = lambda f: jnp.stack([jax.jacfwd(f)(1.0), jax.jacrev(jax.jacfwd(f))(1.0)])
    run = jax.jit(lambda: (E(1.0)(u), E(1.0).T(load), two(linear), two(given)))
    values, loads, zero, slopes = run()
    exact = fem.point_evaluation(other, at)
    np.testing.assert_allclose(values, exact(u), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(loads, exact.T(load), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(zero, 0, atol=1e-11)
    f, h = jax.jit(given), 1e-4
    plus, minus = f(1 + h), f(1 - h)
    np.testing.assert_allclose(slopes[0], (plus - minus) / (2 * h), rtol=1e-5, atol=1e-7)
    second = (plus - 2 * values + minus) / h**2
    np.testing.assert_allclose(slopes[1], second, rtol=1e-3, atol=1e-5)


def test_a_point_that_leaves_its_cell():
    X = V2.mesh.points
    E = lambda s: fem.point_evaluation(V2, [[0.4, 0.4]], mesh_points=X + s)(X)
    close = jax.jit(E)(jnp.array([1e-3, 0.0]))
    np.testing.assert_allclose(close, [[0.399, 0.4]], rtol=1e-12)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no longer in the cell"):
        jax.block_until_ready(jax.jit(E)(jnp.array([0.3, 0.0])))


def test_points_on_the_rim():
    V = FunctionSpace(Mesh.disk(4))
    corners = V.mesh.points[V.mesh.boundary_nodes("boundary")]
    fem.point_evaluation(V, corners * (1 + 1e-11))
    with pytest.raises(ValueError, match=r"(?s)as point 1.*1 such"):
        fem.point_evaluation(V, [[0, 0], [1.01, 0]])
    fem.point_evaluation(V, [[0, 0], [1.01, 0]], tol=0.1)
    with pytest.raises(ValueError, match=r"shape \(m, 2\)"):
        fem.point_evaluation(V, [0.0, 1.0])
    with pytest.raises(ValueError, match="as point 0"):
        fem.point_evaluation(V, [[np.nan, 0.0]])
    with pytest.raises(ValueError, match="61 rows"):
        fem.point_evaluation(V, [[0.0, 0]])(np.ones(3))


@pytest.mark.parametrize("V", list(SPACES.values())[1:], ids=list(SPACES)[1:])
def test_integrate(V):
    volume = V.mesh.volumes.sum()
    x = jnp.asarray(V.mesh.points[:, 0])
    end = V.mesh.points[:, 0].max()
    cells = jnp.arange(1.0, V.mesh.n_cells + 1)

    def integrals(x):
        yield fem.integrate(V, lambda w: 1.0), volume
        yield fem.integrate(V, lambda w: w.u, u=x), volume * end / 2
        yield fem.integrate(V, lambda w: w.u * w.k, u=x, k=3.0), 3 * volume * end / 2
        c = fem.cellwise(cells)
        yield fem.integrate(V, lambda w: w.c, c=c), cells @ V.mesh.volumes

    for found, expected in jax.jit(lambda x: list(integrals(x)))(x):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    energy = lambda x: fem.integrate(V, lambda w: dot(grad(w.u), grad(w.u)), u=x)
    found, gradient = jax.jit(jax.value_and_grad(energy))(x)
    np.testing.assert_allclose(found, volume, rtol=1e-12)
    K = V.pattern("spd").matvec(fem.diffusion_values(V, jnp.ones(V.mesh.n_cells)), x)
    np.testing.assert_allclose(gradient, 2 * K, atol=1e-12)


def test_integrate_over_a_region():
    mesh = Mesh.rectangle(2, 1)
    mesh = Mesh.from_arrays(mesh.points, mesh.cells, regions={"one": [0, 1]})
    V = FunctionSpace(mesh, components=2)
    u = jnp.asarray(mesh.points)
    found = fem.integrate(V, lambda w: fem.div(w.u), u=u, region="one")
    np.testing.assert_allclose(found, 1.0)
    for wrong, message in (
        (lambda: fem.integrate(V, lambda w: w.u, u=u), "scalar integrand"),
        (lambda: fem.integrate(V, lambda w: 1.0, u=u[:, 0]), "must have shape"),
        (lambda: fem.integrate(V, lambda w: 1.0, region="two"), "'one'"),
        (lambda: fem.integrate(V, lambda w: w.k, c=1.0), "'c'"),
    ):
        with pytest.raises((ValueError, TypeError, AttributeError), match=message):
            wrong()


@pytest.mark.parametrize("suffix", fem.io.SUFFIXES)
@spaces
def test_round_trip(tmp_path, V, suffix):
    rng = np.random.default_rng(0)
    mesh = V.mesh
    fields = {
        "u": fem.nodal(jnp.asarray(rng.normal(size=mesh.n_points))),
        "flow": fem.nodal(rng.normal(size=(mesh.n_points, 2))),
        "kappa": fem.cellwise(rng.normal(size=mesh.n_cells)),
    }
    path = fem.write(tmp_path / f"out{suffix}", V, **fields)
    assert [p.name for p in tmp_path.iterdir()] == [f"out{suffix}"]
    read = meshio.read(path)
    np.testing.assert_array_equal(read.points[:, : mesh.dim], mesh.points)
    np.testing.assert_array_equal(read.cells[0].data, V.cells)
    np.testing.assert_array_equal(read.point_data["u"], fields["u"].values)
    np.testing.assert_array_equal(
        read.point_data["flow"], np.pad(fields["flow"].values, ((0, 0), (0, 1)))
    )
    np.testing.assert_array_equal(read.cell_data["kappa"][0], fields["kappa"].values)
    again = Mesh.read(path)
    assert (again.n_points, again.n_cells, again.dim) == (
        mesh.n_points,
        mesh.n_cells,
        mesh.dim,
    )


def test_bad_fields_leave_the_old_file(tmp_path):
    path = fem.write(tmp_path / "u.vtu", V2, u=np.ones(V2.n_dofs))
    before = path.read_bytes()
    for name, field, message in (
        ("short", np.ones(3), "short=.*one row per node or per cell"),
        ("deep", np.ones((V2.n_dofs, 2, 2)), "deep=.*must hold numbers"),
        ("text", ["a"] * V2.n_dofs, "text=.*must hold numbers"),
        ("wave", np.ones(V2.n_dofs) * 1j, "wave=.*must be real"),
        ("marked", fem.cellwise(np.ones(V2.n_dofs)), "marked per cell"),
    ):
        with pytest.raises(ValueError, match=message):
            fem.write(path, V2, **{name: field})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match=r"\.vtu or \.vtk"):
        fem.write(tmp_path / "u.png", V2)
    with pytest.raises(FileNotFoundError, match="Make the folder"):
        fem.write(tmp_path / "no" / "u.vtu", V2)


def test_a_failing_writer_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, path):
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(meshio.Mesh, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        fem.write(tmp_path / "u.vtu", V2)
    assert not list(tmp_path.iterdir())


def test_import_stays_light():
    heavy = "{'meshio', 'matplotlib', 'scipy.spatial', 'juliacall'}"
    code = f"import sys, pyimplicit.fem; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
