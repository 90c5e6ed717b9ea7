"""Meshes of polygons: what they cover, how good their triangles are, what is refused."""

import numpy as np
import pytest

from pyimplicit.fem import Mesh, planar

from .test_mesh import DATA, SQUARE, needs_data


def min_angle(mesh: Mesh) -> float:
    corners = mesh.points[mesh.cells["triangle"]]
    sides = np.roll(corners, -1, axis=1) - corners
    turned = -np.roll(sides, 1, axis=1)
    cos = (sides * turned).sum(2) / np.linalg.norm(sides, axis=2)
    return np.degrees(np.arccos((cos / np.linalg.norm(turned, axis=2)).max()))


def star(n, reverse=False):
    angle = 2 * np.pi * np.arange(n) / n
    corners = (1 + 0.3 * np.cos(7 * angle))[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], axis=1
    )
    return corners[::-1] if reverse else corners


NOTCH = [[0, 0], [1, 0], [1, 1], [0.51, 1], [0.5, 0.1], [0.49, 1], [0, 1]]
COMB = [[0, 0], [5, 0], [5, 1], [4, 1], [4, 0.2], [3, 0.2], [3, 1], [2, 1], [2, 0.2]]
COMB += [[1, 0.2], [1, 1], [0, 1]]


def slot(width):
    """A square with a slot: points on its two walls are as near as `width`."""
    right = 0.5 + width
    return [[0, 0], [1, 0], [1, 1], [right, 1], [right, 0.5], [0.5, 0.5], [0.5, 1], [0, 1]]


@pytest.mark.parametrize(
    "corners, options, angle",
    [
        (SQUARE, dict(size=0.1), 30),
        (SQUARE * 1e3, dict(size=50.0, points_per_edge=1), 30),
        (SQUARE - 7, dict(size=0.2, refine=[[-6.5, -6.5]], refine_size=0.01), 25),
        (NOTCH, dict(size=0.1), 20),
        (COMB, dict(size=0.2), 20),
        (star(100), dict(size=0.1, points_per_edge=1), 15),
        (star(100, True), dict(size=0.1, points_per_edge=1), 15),
        ([[0, 0], [0.3, 0], [0.31, 0], [1, 0], [1, 1], [0, 1]], dict(size=0.1), 15),
        ([[0, 0], [1, 0], [1, 0.01]], dict(size=0.1), 0.3),
        (slot(1e-3), dict(size=0.1), 15),
        ([[0, 0], [1, 0], [1, 1e-4], [0, 1e-4]], dict(size=0.1), 0.01),
    ],
    ids="square large refined notch comb star clockwise collinear needle slot thin".split(),
)
def test_polygon(corners, options, angle):
    corners = np.asarray(corners, float)
    mesh = Mesh.polygon(corners, **options)
    np.testing.assert_allclose(mesh.volumes.sum(), abs(planar.area(corners)), rtol=1e-12)
    np.testing.assert_array_equal(mesh.points[: len(corners)], corners)
    assert len(mesh.boundaries["boundary"]) == len(mesh.exterior)
    edge = mesh.points[mesh.exterior].mean(axis=1)
    assert planar.distance(edge, corners).max() < 1e-12 * np.ptp(corners)
    assert min_angle(mesh) > angle
    if "refine" in options:
        inside = np.asarray(options["refine"])
        at = slice(len(corners), len(corners) + len(inside))
        np.testing.assert_array_equal(mesh.points[at], inside)
        near = mesh.cells["triangle"] == len(corners)
        sizes = np.sqrt(mesh.volumes[near.any(axis=1)])
        assert sizes.max() < 0.02 < np.sqrt(mesh.volumes.max())


@needs_data
def test_polygon_of_a_trunk():
    corners = np.loadtxt(DATA / "ert" / "hollow_limetree.ohm", skiprows=2, max_rows=24)
    mesh = Mesh.polygon(corners, size=0.009)
    assert 4000 < mesh.n_cells < 6000
    assert min_angle(mesh) > 15
    np.testing.assert_allclose(mesh.volumes.sum(), -planar.area(corners), rtol=1e-12)
    np.testing.assert_array_equal(mesh.nearest_nodes(corners), np.arange(24))
    assert len(mesh.exterior) >= 24 * 8


BOW = [[0, 0], [1, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    "corners, options, message",
    [
        (SQUARE[:2], {}, "at least three"),
        (np.eye(3), {}, r"Got shape \(3, 3\)"),
        ([[0, 0], [1, np.inf], [0, 1]], {}, "as corner 1"),
        ([*SQUARE, [1, 0]], {}, "as corner 1 and as corner 4"),
        ([*SQUARE, [0, 0]], {}, "Do not repeat the first corner"),
        (BOW, {}, "edges 0 .*and 2 .*cross"),
        ([[0, 0], [2, 0], [1, 0], [-1, 1]], {}, "edges 0 .*and 1 .*lie on each"),
        ([[0, 0], [2, 0], [2, 1], [1, 0], [0, 1]], {}, "cross or touch"),
        (slot(1e-11), {}, "narrow beyond rounding"),
        (SQUARE, dict(size=0.0), "must be a positive number"),
        (SQUARE, dict(size=1e-9), "must fit the polygon"),
        (SQUARE, dict(points_per_edge=0), "whole number"),
        (SQUARE, dict(refine=[[0.5, 0.5], [3, 3]]), "as point 1"),
        (SQUARE, dict(refine=[[0.5, 0.0]]), "made a corner"),
    ],
)
def test_bad_polygons(corners, options, message):
    with pytest.raises(ValueError, match=message):
        Mesh.polygon(corners, **(dict(size=0.3) | options))
