"""Meshes: generators, files, and what is refused."""

from pathlib import Path

import meshio
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import Mesh


DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")

SQUARE = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
TWO = np.array([[0, 1, 2], [0, 2, 3]])


def skewed(mesh: Mesh, amount: float, seed: int = 0) -> Mesh:
    """The mesh with its inner nodes moved: nothing is symmetric."""
    points = mesh.points.copy()
    inner = np.setdiff1d(np.arange(mesh.n_points), mesh.boundary_nodes("boundary"))
    rng = np.random.default_rng(seed)
    points[inner] += rng.uniform(-amount, amount, (len(inner), mesh.dim))
    return Mesh.from_arrays(points, mesh.cells, mesh.regions, mesh.boundaries)


# name, mesh, volume, facets of each boundary
GENERATED = [
    ("interval", Mesh.interval(4, 2.0, origin=-1.0), 2.0, {"left": 1, "right": 1}),
    (
        "rectangle",
        Mesh.rectangle(3, 2, (2, 3), origin=(1, 1)),
        6.0,
        {"left": 2, "right": 2, "bottom": 3, "top": 3},
    ),
    (
        "box",
        Mesh.box(2, 3, 1, (1, 2, 3)),
        6.0,
        {"left": 6, "right": 6, "front": 4, "back": 4, "bottom": 12, "top": 12},
    ),
    ("disk", Mesh.disk(1), 1.5 * 3**0.5, {"boundary": 6}),
    ("disk 4", Mesh.disk(4, 2.0), 48 * np.sin(np.pi / 12), {"boundary": 24}),
]


@pytest.mark.parametrize("name, mesh, volume, sides", GENERATED, ids=lambda x: str(x)[:9])
def test_generated(name, mesh, volume, sides):
    assert mesh.volumes.min() > 0
    np.testing.assert_allclose(mesh.volumes.sum(), volume, rtol=1e-14)
    assert {name: len(facets) for name, facets in mesh.boundaries.items()} == sides
    assert len(mesh.exterior) == sum(sides.values())
    nodes = np.unique(np.concatenate([mesh.boundary_nodes(name) for name in sides]))
    np.testing.assert_array_equal(nodes, mesh.boundary_nodes("boundary"))
    assert not mesh.points.flags.writeable


def test_sides_lie_where_they_say():
    mesh = Mesh.box(2, 2, 2, (1, 2, 3), origin=(-1, 0, 0))
    for axis, (low, high) in enumerate(
        [("left", "right"), ("front", "back"), ("bottom", "top")]
    ):
        x = mesh.points[:, axis]
        np.testing.assert_array_equal(x[mesh.boundary_nodes(low)], x.min())
        np.testing.assert_array_equal(x[mesh.boundary_nodes(high)], x.max())


@pytest.mark.parametrize(
    "kind, points",
    [
        ("line", [[0.0], [1]]),
        ("triangle", SQUARE[[0, 1, 3]]),
        ("quad", SQUARE),
        ("tetra", [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        ("hexahedron", [[*p, z] for z in (0.0, 1.0) for p in SQUARE]),
    ],
)
def test_inverted_cells_are_turned(kind, points):
    points = np.array(points)
    volume = Mesh.from_arrays(points, {kind: [range(len(points))]}).volumes
    points[:, 0] *= -1
    turned = Mesh.from_arrays(points, {kind: [range(len(points))]})
    np.testing.assert_allclose(turned.volumes, volume)


def test_names():
    mesh = Mesh.from_arrays(
        SQUARE,
        {"triangle": TWO},
        regions={"lower": [0], "upper": [False, True]},
        boundaries={
            "ground": [[2]],
            "also": [3, 1],
            "south": [[1, 0]],
            "cut": [[0, 2]],
        },
    )
    assert mesh.boundary_nodes("ground").tolist() == [2]
    assert mesh.boundary_nodes("also").tolist() == [1, 3]
    assert mesh.boundary_nodes("cut").tolist() == [0, 2]
    assert mesh.boundary_nodes("boundary").tolist() == [0, 1, 2, 3]
    assert mesh.region_cells("upper").tolist() == [1]
    assert mesh.nearest_nodes([[0.9, 0.1], [-5, 9]]).tolist() == [1, 3]
    assert "south" in repr(mesh)


FAR = np.concatenate([SQUARE, SQUARE + 5])
BAD = [
    ("empty", dict(cells={}), "at least one cell"),
    ("points 1-d", dict(points=[1.0, 2.0]), r"Got shape \(2,\)"),
    ("nan", dict(points=SQUARE * [1, np.nan]), "as point 0"),
    ("type", dict(cells={"wedge": TWO}), "(?s)triangle, quad.*'wedge'"),
    ("width", dict(cells={"triangle": [[0, 1, 2, 3]]}), "3 nodes for each triangle"),
    ("range", dict(cells={"triangle": [[0, 1, 4]]}), r"0\.\.3.*\nGot 4"),
    ("negative", dict(cells={"triangle": [[0, 1, -1]]}), "Got -1"),
    ("float", dict(cells={"triangle": [[0.0, 1, 2]]}), "must be integers"),
    ("unused", dict(cells={"triangle": TWO[:1]}), "the first is point 3"),
    ("flat", dict(points=SQUARE * [1, 0]), "degenerate"),
    ("folded", dict(cells={"quad": [[0, 2, 1, 3]]}), "folded"),
    ("repeated node", dict(cells={"triangle": [[0, 1, 1], *TWO]}), "degenerate"),
    ("copy", dict(cells={"triangle": [*TWO, [2, 0, 1]]}), "triangle 0 .* triangle 2"),
    ("dimension", dict(cells={"line": [[0, 1], [2, 3]]}), "must lie in 1-D"),
    (
        "three at a facet",
        dict(
            cells={"triangle": [[0, 1, 2], [0, 1, 3], [0, 1, 4]]},
            points=[[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 1]],
        ),
        "two by two",
    ),
    (
        "parts",
        dict(points=FAR, cells={"triangle": [*TWO, *(TWO + 4)]}),
        "2 parts; point",
    ),
    ("region", dict(regions={"r": [2]}), "region 'r'.*\nGot 2"),
    ("mask", dict(regions={"r": [True]}), r"shape \(2,\)"),
    ("facet", dict(boundaries={"b": [[1, 3]]}), r"\[1, 3\] in 'b'"),
    ("facet width", dict(boundaries={"b": [[0, 1, 2]]}), "rows of 1, 2 nodes"),
    ("facet range", dict(boundaries={"b": [[0, 9]]}), "boundary 'b'"),
]


@pytest.mark.parametrize(
    "change, message",
    [pytest.param(*case[1:], id=case[0]) for case in BAD],
)
def test_bad_arrays(change, message):
    arrays = dict(points=SQUARE, cells={"triangle": TWO}) | change
    with pytest.raises(ValueError, match=message) as err:
        Mesh.from_arrays(**arrays)
    assert str(err.value).count("\n") == 2


def test_parts_are_taken_on_request():
    cells = {"triangle": np.concatenate([TWO, TWO + 4])}
    assert Mesh.from_arrays(FAR, cells, connected=False).n_cells == 4


def test_unknown_names():
    mesh = Mesh.rectangle(1, 1)
    with pytest.raises(ValueError, match="'left', 'right', 'bottom', 'top', 'boundary'"):
        mesh.boundary_nodes("inlet")
    with pytest.raises(ValueError, match="has none"):
        mesh.region_cells("core")
    with pytest.raises(ValueError, match=r"shape \(m, 2\)"):
        mesh.nearest_nodes([0.0, 1.0])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Mesh.rectangle(0, 1), "whole numbers"),
        (lambda: Mesh.rectangle(2.5, 1), "whole numbers"),  # pyright: ignore
        (lambda: Mesh.rectangle(1, 1, (1, -1)), "positive lengths"),
        (lambda: Mesh.box(1, 1, 1, (1, 1)), "3 positive lengths"),
        (lambda: Mesh.box(1, 1, 1, origin=(0, 0)), "origin of 3"),
        (lambda: Mesh.disk(2, np.nan), "positive lengths"),
    ],
)
def test_bad_domains(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# name: points, cells by type, sizes of regions, facets of boundaries, volume
FILES = {
    "annulus.msh": (60, {"triangle": 98}, {"all": 98}, {"inter": 7, "exter": 15}, None),
    "beams.msh": (289, {"tetra": 851}, {"all": 851}, {"fixed": 8}, 0.12),
    "box.msh": (
        358,
        {"tetra": 1105},
        {"all": 1105},
        {"front": 104, "back": 104, "top": 104},
        1.0,
    ),
    "cylinder_stokes.msh": (
        171,
        {"triangle": 293},
        {},
        {"left": 14, "bottom": 5, "right": 10, "top": 7, "ball": 11},
        None,
    ),
    "interface.msh": (102, {"triangle": 170}, {"both": 170}, {"interfacee": 8}, 1.0),
    "mixedtriquad.msh": (
        56,
        {"triangle": 16, "quad": 36},
        {"domain": 52},
        {"boundary": 22},
        None,
    ),
    "quadratic_tri.msh": (262, {"triangle6": 119}, {}, {}, None),
}


@needs_data
def test_the_table_is_complete():
    assert {p.name for p in (DATA / "meshes").iterdir()} == FILES.keys()


@needs_data
@pytest.mark.parametrize("name", FILES)
def test_shared_files(name):
    n_points, cells, regions, boundaries, volume = FILES[name]
    mesh = Mesh.read(DATA / "meshes" / name)
    assert mesh.n_points == n_points
    assert {kind: len(c) for kind, c in mesh.cells.items()} == cells
    assert {k: len(v) for k, v in mesh.regions.items()} == regions
    assert {k: len(v) for k, v in mesh.boundaries.items()} == boundaries
    if volume is not None:
        np.testing.assert_allclose(mesh.volumes.sum(), volume, rtol=1e-12)
    if len(mesh.cells) > 1:
        with pytest.raises(ValueError, match="Split"):
            fem.FunctionSpace(mesh)
    else:
        element = "P2" if "triangle6" in mesh.cells else "P1"
        assert fem.FunctionSpace(mesh, element).n_dofs == n_points


@needs_data
def test_shared_boundaries_lie_where_they_say():
    read = lambda name: Mesh.read(DATA / "meshes" / name)
    mesh = read("cylinder_stokes.msh")
    on = lambda name: mesh.points[mesh.boundary_nodes(name)]
    for name, axis, value in (
        ("left", 0, 0),
        ("right", 0, 5),
        ("bottom", 1, -5),
        ("top", 1, 5),
    ):
        np.testing.assert_allclose(on(name)[:, axis], value, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(on("ball"), axis=1), 1, rtol=1e-7)
    assert sum(map(len, mesh.boundaries.values())) == len(mesh.exterior)
    mesh = read("annulus.msh")
    for name, radius in (("inter", 0.1), ("exter", 0.5)):
        x = mesh.points[mesh.boundary_nodes(name)]
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), radius, rtol=1e-9)
    mesh = read("interface.msh")  # a boundary inside
    assert np.ptp(mesh.points[mesh.boundary_nodes("interfacee")][:, 1]) < 1e-12
    mesh = read("box.msh")
    for name in ("front", "back", "top"):
        x = mesh.points[mesh.boundary_nodes(name)]
        assert (np.ptp(x, axis=0) < 1e-12).sum() == 1


def _write(path, cells, points=SQUARE, **data):
    points = np.pad(points, ((0, 0), (0, 3 - points.shape[1])))
    file_format = "gmsh22" if path.suffix == ".msh" else None
    meshio.Mesh(points, cells, **data).write(path, file_format)
    return path


def test_groups_of_gmsh(tmp_path):
    points = np.concatenate([[[9.0, 9]], SQUARE])  # an unused point
    cells = [("line", [[1, 2]]), ("triangle", TWO[:1] + 1), ("triangle", TWO[1:] + 1)]
    tags = [np.array([t]) for t in (3, 7, 8)]
    path = _write(
        tmp_path / "m.msh",
        cells,
        points,
        cell_data={"gmsh:physical": tags, "gmsh:geometrical": tags},
        field_data={"wall": np.array([3, 1]), "soft": np.array([8, 2])},
    )
    mesh = Mesh.read(path)
    np.testing.assert_array_equal(mesh.points, SQUARE)
    assert mesh.boundaries["wall"].tolist() == [[0, 1]]
    assert mesh.regions["soft"].tolist() == [1]
    assert mesh.regions["7"].tolist() == [0]  # a group without a name


@pytest.mark.parametrize(
    "suffix, data, names",
    [
        ("mesh", "medit:ref", ("1", "2", "3")),
        ("bdf", "nastran:ref", ("1", "2", "3")),
        ("vol", "netgen:index", ("cd1_1", "cd1_2", "cd2_3")),  # meshio's own
        ("avs", "avsucd:material", ("1", "2", "3")),
    ],
)
def test_numbers_of_other_formats(tmp_path, suffix, data, names):
    cells = [("line", [[0, 1]]), ("triangle", TWO)]
    tags = {data: [np.array([3]), np.array([2, 1])]}
    mesh = Mesh.read(_write(tmp_path / f"m.{suffix}", cells, cell_data=tags))
    assert {n: c.tolist() for n, c in mesh.regions.items()} == {
        names[0]: [1],
        names[1]: [0],
    }
    assert {n: f.tolist() for n, f in mesh.boundaries.items()} == {names[2]: [[0, 1]]}


def test_sets_of_abaqus(tmp_path):
    text = "*NODE\n1, 0, 0, 0\n2, 1, 0, 0\n3, 1, 1, 0\n4, 0, 1, 0\n"
    text += "*ELEMENT, TYPE=CPS3\n1, 1, 2, 3\n2, 1, 3, 4\n"
    text += "*ELSET, ELSET=core\n2\n*NSET, NSET=ground\n4\n"
    path = tmp_path / "m.inp"
    path.write_text(text)
    mesh = Mesh.read(path)
    assert mesh.regions["core"].tolist() == [1]
    assert mesh.boundaries["ground"].tolist() == [[3]]


def _file(text):
    return lambda path: path.write_text(text)


def _wavy(path):
    _write(path, [("triangle", TWO)], np.array([[*p, p[0]] for p in SQUARE]))


@pytest.mark.parametrize(
    "name, make, message",
    [
        ("absent.msh", lambda path: None, "the file is not there"),
        ("folder.msh", lambda path: path.mkdir(), "the file is a folder"),
        ("m.msh", _file("garbage"), "Couldn't read file"),
        (
            "m.msh",
            _file("$MeshFormat\n4.1 0 8\n$EndMeshFormat\n$Nodes\n"),
            "ValueError",
        ),
        ("m.vtu", _file("<xml"), "not a mesh that meshio can read"),
        ("m.what", _file("1 2"), "deduce file format"),
        ("m.vtk", lambda p: _write(p, [("vertex", [[0], [1]])]), "Got none"),
        (
            "m.vtk",
            lambda p: _write(p, [("wedge", [range(6)])], np.eye(6, 3)),
            "'wedge'",
        ),
        ("m.vtk", _wavy, "must lie in 2-D"),
    ],
)
def test_bad_files(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as err:
        Mesh.read(path)
    assert str(err.value).startswith(str(path))
    assert "\n" not in str(err.value)
