"""The main job: field data in, a picture of the trunk out, and bad input refused."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import meshio
import numpy as np
import pytest
import scipy.special

import pyimplicit as pi


ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "ert"
sys.path.insert(0, str(ROOT / "examples"))

ohm = importlib.import_module("ohm")
tree = importlib.import_module("tree_tomography")


measured = pytest.mark.skipif(not DATA.is_dir(), reason="no measured data here")


# --- the format ------------------------------------------------------------------------

GOOD = """\
# a comment
4# Number of sensors
#x y
0 0
1 0
1 1
0 1

2# Number of data
#a b m n i u
1 2 3 4 0.5 -0.25
2 3 4 1 0.5 0.125  # a remark
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "survey.ohm"
    file.write_text(text)
    return file


def test_reads_columns_by_name_units_and_resistances(tmp_path):
    survey = ohm.read(written(tmp_path, GOOD))
    np.testing.assert_array_equal(survey.electrodes, [[0, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(survey.abmn, [[0, 1, 2, 3], [1, 2, 3, 0]])
    np.testing.assert_array_equal(survey.voltage, [-0.25, 0.125])
    np.testing.assert_array_equal(survey.current, 0.5)
    assert survey.axes == ("x", "y")
    mixed = (
        GOOD.replace("#a b m n i u", "# u/mV n m b a err i/mA")
        .replace("1 2 3 4 0.5 -0.25", "-250 4 3 2 1 0.03 500")
        .replace("2 3 4 1 0.5 0.125", "125 1 4 3 2 0.03 500")
    )
    again = ohm.read(written(tmp_path, mixed))
    np.testing.assert_array_equal(again.abmn, survey.abmn)
    np.testing.assert_allclose(again.voltage, survey.voltage)
    np.testing.assert_allclose(again.current, survey.current)
    resistances = (
        GOOD.replace(" i u", " R").replace("0.5 -0.25", "-0.5").replace("0.5 0.125", "1")
    )
    third = ohm.read(written(tmp_path, resistances + "0\n"))
    np.testing.assert_array_equal(third.voltage, [-0.5, 1])
    np.testing.assert_array_equal(third.current, 1)


@pytest.mark.parametrize(
    "old, new, line, message",
    [
        ("2 3 4 1 0.5 0.125  # a remark\n", "", 11, "ends early; got 1 of the 2 data"),
        (GOOD[GOOD.index("1 1\n") :], "", 5, "ends early; got 2 of the 4 sensors"),
        (GOOD[GOOD.index("2# Number") :], "", 8, "ends before the number of data"),
        (GOOD, "", 1, "ends before the number of sensors"),
        ("1 2 3 4 0.5", "1 2 3 5 0.5", 11, "electrode n must be a number from 1 to 4"),
        ("1 2 3 4 0.5", "0 2 3 4 0.5", 11, "electrode a must be a number from 1 to 4"),
        ("1 2 3 4 0.5", "1.5 2 3 4 0.5", 11, "got 1.5"),
        ("1 2 3 4 0.5", "nan 2 3 4 0.5", 11, "got nan"),
        ("1 2 3 4 0.5", "1 1 3 4 0.5", 11, "electrodes a and b must differ"),
        ("1 2 3 4 0.5", "1 2 3 3 0.5", 11, "electrodes m and n must differ"),
        ("1 2 3 4 0.5", "1 2 2 4 0.5", 11, "electrodes b and m must differ"),
        ("1 1\n", "1 0\n", 6, "got electrode 3 at the place of electrode 2 (line 5)"),
        ("1 1\n", "inf 1\n", 6, "must be finite"),
        ("4 1 0.5", "4 1 0", 12, "the current must not be zero"),
        ("4 1 0.5", "4 1 inf", 12, "the current must be finite"),
        ("-0.25", "nan", 11, "the voltage must be finite"),
        ("-0.25", "-0,25", 11, "column u must be a number; got '-0,25'"),
        ("0.5 -0.25", "0.5", 11, "got 5 of 6"),
        ("0.5 -0.25", "0.5 -0.25 7", 11, "got 7 of 6"),
        ("2# Number of data", "3# Number of data", 12, "got 2 of the 3 data"),
        ("2# Number of data", "1# Number of data", 12, "nothing may follow"),
        ("2# Number of data", "two # data", 9, "positive whole number; got 'two'"),
        ("4# Number", "0# Number", 2, "positive whole number; got '0'"),
        ("4# Number", "3# Number", 7, "positive whole number; got '0 1'"),
        ("#a b m n i u", "#a b m n i", 10, "missing: u"),
        ("#a b m n i u", "#a b m q i u", 10, "missing: n"),
        ("#a b m n i u", "#a b m n i/kA u", 10, "the unit of 'i/kA' is not known"),
        ("#a b m n i u\n", "", 10, "a header such as '#a b m n i u'"),
        ("0 1\n", "0 1 2\n", 7, "got 3 of 2"),
    ],
)
def test_a_fault_is_one_line_with_file_and_line(tmp_path, old, new, line, message):
    assert old in GOOD
    file = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ohm.OhmError) as caught:
        ohm.read(file)
    text = str(caught.value)
    assert text.startswith(f"{file}:{line}: ") and message in text
    assert "\n" not in text


def test_other_faults_of_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ohm.read(tmp_path / "nowhere.ohm")
    file = tmp_path / "binary.ohm"
    file.write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(ohm.OhmError, match="must be text"):
        ohm.read(file)
    flat = GOOD.replace("1 1\n", "2 0\n").replace("0 1\n", "3 0\n")
    with pytest.raises(ohm.OhmError, match="plane of two axes"):
        ohm.read(written(tmp_path, flat))


# --- the physics -----------------------------------------------------------------------


def ring(count: int, radius: float):
    """Electrodes on a circle and all dipole-dipole readings, unit currents."""
    angle = 2 * np.pi * np.arange(count) / count
    pairs = [(i, j) for i in range(count) for j in range(i + 2, count)]
    pairs = [(i, j) for i, j in pairs if (j + 1) % count != i]
    abmn = np.array([(i, i + 1, j, (j + 1) % count) for i, j in pairs])
    place = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return ohm.Survey(place, abmn, np.ones(len(abmn)), np.full(len(abmn), np.nan))


def cylinder(survey, radius: float, k, weight):
    """Readings on an endless cylinder of conductivity 1, by its Fourier-Bessel series:
    ũ = 1/(4π kR) Σₙ cos(nθ) Iₙ(kR)/Iₙ'(kR) over all n for half a unit current, of which
    the part kR/|n| of each term is summed in closed form."""
    count = len(survey.electrodes)
    theta = 2 * np.pi * np.arange(count) / count
    n = np.arange(1, 1000)
    cosines = np.cos(theta[:, None] * n)
    chord = 2 * np.abs(np.sin(theta / 2)) + (theta == 0)
    ring = np.zeros(count)
    for z, w in zip(np.asarray(k) * radius, np.asarray(weight), strict=True):
        I = scipy.special.ive
        ratio = 2 * I(n, z) / (I(n - 1, z) + I(n + 1, z) + 1e-300)
        ratio = np.where(I(n, z) > 1e-250, ratio, z / np.hypot(n, z))
        series = 2 * cosines @ (ratio - z / n) - 2 * z * np.log(chord)
        ring += w * (I(0, z) / I(1, z) + series) / (2 * np.pi * z)
    potential = ring[np.subtract.outer(np.arange(count), np.arange(count)) % count]
    a, b, m, n = survey.abmn.T
    return potential[m, a] - potential[m, b] - potential[n, a] + potential[n, b]


def test_readings_of_a_homogeneous_cylinder():
    survey = ring(24, 0.25)
    section = tree.Section(survey, 1500, plane=False)
    found = np.asarray(section.predict(jnp.ones(section.V.shape)))
    wanted = cylinder(survey, 0.25, *section.waves)
    error = np.abs(found / wanted - 1)
    assert error.max() < 0.015  # of the mesh, and of a polygon for a circle
    # More wavenumbers change nothing that a measurement would see.
    fine = tree.wavenumbers(survey.electrodes, 10, 8)
    assert np.abs(wanted / cylinder(survey, 0.25, *fine) - 1).max() < 0.005


def test_readings_scale_and_obey_reciprocity():
    survey = ring(8, 1.0)
    swapped = ohm.Survey(
        survey.electrodes, survey.abmn[:, [2, 3, 0, 1]], survey.current, survey.voltage
    )
    for plane in (False, True):
        one, two = (tree.Section(s, 300, plane) for s in (survey, swapped))
        sigma = jnp.exp(jnp.sin(3 * jnp.asarray(one.mesh.points[:, 0])))
        readings = one.predict(sigma)
        np.testing.assert_allclose(readings, two.predict(sigma), rtol=1e-6)
        np.testing.assert_allclose(readings, 2 * one.predict(2 * sigma), rtol=1e-6)


@pytest.mark.julia
def test_engines_agree_on_readings_and_their_gradient():
    section = tree.Section(ring(8, 0.2), 300, plane=False)
    sigma = jnp.linspace(0.5, 2.0, section.V.n_dofs)
    results = []  # the lambda is a new one each time, so it is traced again
    for engine in ("host", "julia"):
        with pi.engine.use(engine):
            squares = lambda s: jnp.sum(section.readings(s) ** 2)
            results.append(jax.jit(jax.value_and_grad(squares))(sigma))
    for host, julia in zip(*results, strict=True):
        np.testing.assert_allclose(host, julia, rtol=1e-8, atol=1e-10)


# --- the job ---------------------------------------------------------------------------


def check_outputs(out: Path, summary: dict) -> None:
    assert sorted(f.name for f in out.iterdir()) == [
        "conductivity.vtu",
        "section.png",
        "summary.json",
    ]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (out / "section.png").read_bytes()[:4] == b"\x89PNG"
    mesh = meshio.read(out / "conductivity.vtu")
    assert len(mesh.points) == summary["nodes"]
    sigma = mesh.point_data["conductivity"]
    np.testing.assert_allclose(
        [sigma.min(), sigma.max()], summary["conductivity_S_per_m"], rtol=1e-6
    )


def test_a_hollow_of_known_place_is_found(tmp_path, engine):
    out = tmp_path / "a" / "new" / "folder"
    summary = tree.main(out=out, cells=700, engine=engine)
    assert summary["engine"] == engine and summary["converged"]
    assert abs(summary["chi2"] - 1) < 0.01
    assert summary["truth"]["centre_error_m"] < 0.015
    assert 0.7 < summary["truth"]["area_ratio"] < 1.3
    assert summary["hollow"]["contrast"] > 3
    check_outputs(out, summary)


@measured
def test_the_lime_tree_is_hollow(tmp_path, engine):
    summary = tree.main(
        DATA / "hollow_limetree.ohm", tmp_path, cells=900, engine=engine, check=True
    )
    assert summary["converged"] and abs(summary["chi2"] - 1) < 0.01
    assert summary["rms_percent"] < 5
    assert summary["chi2_of_steps"] == sorted(summary["chi2_of_steps"], reverse=True)
    hollow = summary["hollow"]  # west of the centre, a fifth of the section
    assert np.hypot(hollow["x_m"] + 0.04, hollow["y_m"] + 0.02) < 0.03
    assert 0.1 < hollow["share_of_section"] < 0.3
    np.testing.assert_allclose(summary["taylor_rates"], [1, 2, 3], atol=0.1)
    check_outputs(tmp_path, summary)


@measured
def test_in_the_plane_of_the_section_the_lime_tree_fits_too():
    summary = tree.main(DATA / "hollow_limetree.ohm", cells=900, plane=True)
    assert abs(summary["chi2"] - 1) < 0.01 and "files" not in summary
    # One factorisation for each evaluation of the misfit, and one for the prior.
    assert summary["factorisations"] <= 2 * summary["steps"] + 2


def test_sound_wood_has_no_hollow():
    section = tree.Section(ring(12, 0.2), 400, plane=True)
    finding, nodes = tree.find_hollow(section.mesh, np.full(section.V.shape, 0.01))
    assert finding is None and nodes.size == 0


@pytest.mark.parametrize("old, new", [("0.5 -0.25", "0 -0.25"), ("#a b m n i u", "#")])
def test_bad_data_leaves_nothing_behind(tmp_path, old, new):
    file = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ValueError, match=r"survey.ohm:\d+: "):
        tree.main(file, tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == ["survey.ohm"]


def test_a_failure_on_the_way_out_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(tree.plot, "save", full)
    with pytest.raises(OSError, match="no space"):
        tree.main(out=tmp_path / "out", cells=150, plane=True)
    assert not list(tmp_path.iterdir())


def test_readings_of_the_wrong_sign_are_refused(tmp_path):
    survey = ring(6, 1.0)
    with pytest.raises(ValueError, match="Swap m and n"):
        section = tree.Section(survey, 200, plane=True)
        volts = -np.asarray(section.predict(jnp.ones(section.V.shape)))
        section.survey = ohm.Survey(survey.electrodes, survey.abmn, survey.current, volts)
        tree.homogeneous(section, "some.ohm")


@measured
def test_a_profile_is_no_section():
    with pytest.raises(ValueError, match=r"slagdump.ohm: .* profile"):
        tree.main(DATA / "slagdump.ohm")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cells": 3}, "--cells must lie between"),
        ({"relative_error": -0.1}, "--relative-error"),
        ({"relative_error": 0.0, "absolute_error": 0.0}, "must not both be 0"),
        ({"out": __file__}, "must be a folder"),
        ({"out": Path(__file__) / "below"}, "must be a folder"),
        ({"out": "/proc/nowhere"}, "must be a folder to write in"),
        ({"data": "nowhere.ohm"}, "nowhere.ohm"),
    ],
)
def test_bad_options_are_refused_before_the_work(options, message, monkeypatch):
    monkeypatch.setattr(tree, "homogeneous", None)  # nothing is solved
    with pytest.raises((ValueError, OSError), match=message) as caught:
        tree.main(**({"cells": 150} | options))
    assert "\n" not in str(caught.value)


def test_the_command_line(tmp_path):
    run = [sys.executable, str(ROOT / "examples" / "tree_tomography.py")]
    options = ["--cells", "150", "--engine", "host", "--plane", "--quiet"]
    done = subprocess.run(
        [*run, "--out", str(tmp_path / "o"), *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "hollow" in done.stdout and "Traceback" not in done.stderr
    file = written(tmp_path, GOOD.replace("0.5 -0.25", "0.5 x"))
    done = subprocess.run(
        [*run, "--data", str(file), "--out", str(tmp_path / "p")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"{file}:11: column u must be a number" in done.stderr
    assert not (tmp_path / "p").exists()


def test_without_matplotlib_the_rest_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    summary = tree.main(out=tmp_path, cells=150, plane=True)
    assert list(summary["files"]) == ["conductivity.vtu", "summary.json"]
    assert len(list(tmp_path.iterdir())) == 2


def test_pictures_of_cells_and_their_refusals(tmp_path):
    mesh = pi.fem.Mesh.rectangle(2, 2)
    made, axes = tree.plot.figure(4, 3, 2)
    tree.plot.field(axes[0], mesh, np.arange(mesh.n_cells), label="number")
    assert tree.plot.save(made, tmp_path / "cells.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="one number per node or per cell"):
        tree.plot.field(axes[1], mesh, np.zeros(3), label="")
    with pytest.raises(ValueError, match="triangles in the plane"):
        box = pi.fem.Mesh.box(1, 1, 1)
        tree.plot.field(axes[1], box, np.zeros(box.n_points), label="")
    assert [f.name for f in tmp_path.iterdir()] == ["cells.png"]
