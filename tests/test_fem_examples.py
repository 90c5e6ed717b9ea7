"""The examples with finite elements: small, against what is known of them."""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from .test_examples import ROOT, example


sys.path.insert(0, str(ROOT / "examples"))  # examples import their neighbours


def check(found: dict, picture: Path) -> None:
    """What all have: a picture, and derivatives of the right order."""
    value, gradient, hessian = found["rates"]
    assert abs(value - 1) < 0.1 and abs(gradient - 2) < 0.1 and abs(hessian - 3) < 0.15
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_coefficient_field(tmp_path):
    found = example("coefficient_field").main(16, 9, rank=60, out=tmp_path)
    smooth, fit = found["smooth"], found["fit"]
    assert abs(smooth.chi2 - 1) < 0.01 and smooth.steps <= 8
    assert smooth.beta > 1.5 and fit.chi2 < smooth.chi2  # it smooths too much, as said
    assert found["errors"][1] < found["errors"][0] < 0.4
    assert 0.9 < found["within_two_deviations"] < 0.99  # 0.954 of a normal distribution
    assert 40 < found["informed"] < 60
    check(found, tmp_path / "coefficient_field.png")


def test_readings_over_flat_ground():
    """Wenner readings of a half-space: R = 1/(2π a σ)."""
    slag = example("slag_dump")
    survey = slag.hill(15, 4)
    level = np.stack([survey.electrodes[:, 0], np.full(15, 7.0)], axis=1)
    survey = dataclasses.replace(survey, electrodes=level)
    ground = slag.Ground(survey, cells_between=3)
    found = ground.predict(np.full(ground.V.shape, np.log(0.5)))
    spacing = 2.0 * (survey.abmn[:, 2] - survey.abmn[:, 0])
    np.testing.assert_allclose(found, 1 / (2 * np.pi * spacing * 0.5), rtol=0.03)


def test_slag_dump(tmp_path):
    """A conductive core under a hill is found where it is."""
    slag = example("slag_dump")
    found = slag.main(count=17, levels=5, cells_between=3, out=tmp_path)
    assert found["fit"].converged and abs(found["fit"].chi2 - 1) < 0.01
    points, sigma = found["mesh"].points, found["sigma"]
    truth = slag.Core()
    assert sigma.max() > 0.3 * truth.inside and sigma.min() > 0.5 * truth.outside
    best = points[sigma.argmax()]
    assert np.hypot(*(best - [16.0, truth.z])) < 1.25 * truth.radius
    check(found, tmp_path / "slag_dump.png")
