"""The example of the deep Ritz method runs; its numbers against elements and the truth."""

from .test_examples import example


def test_deep_ritz(tmp_path):
    module = example("deep_ritz")
    found = module.main(cells=24, out=tmp_path)
    low, high = found["least_energy"]
    coarse, fine = found["elements"].values()
    # Elements that conform lie above the least energy, and near to it where they are fine.
    assert coarse > 20 * fine > 0
    assert 0 < found["error_bound"] < 5e-4 * abs(high)
    assert found["parameters"] < 100 and high < low + fine
    for name, truth in module.TRUTH.items():
        assert abs(found[name] / truth - 1) < 0.1
    assert found["chi2"] < 3
    assert abs(found["taylor_rates"][1] - 2) < 0.1
    assert (tmp_path / "deep_ritz.png").stat().st_size > 10_000
