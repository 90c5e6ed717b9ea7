"""The examples with finite elements: small, against what is known of them."""

import sys
from pathlib import Path

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
    assert 0.9 < smooth.chi2 <= 1 and smooth.steps <= 8
    assert smooth.beta > 1.5 and fit.chi2 < smooth.chi2  # it smooths too much, as said
    assert found["errors"][1] < found["errors"][0] < 0.4
    assert 0.9 < found["within_two_deviations"] < 0.99  # 0.954 of a normal distribution
    assert 40 < found["informed"] < 60
    check(found, tmp_path / "coefficient_field.png")
