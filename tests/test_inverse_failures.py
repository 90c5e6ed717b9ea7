"""Fits that fail, say why, and what they record on the way."""

import io
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import pyimplicit as pi
from pyimplicit import fem, inverse

from .test_inverse import METHODS, Linear


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_that_is_not_finite_shortens_the_step(method):
    # A full Gauss-Newton step from 5 leads to -13, where the logarithm is NaN.
    result = inverse.fit(
        lambda m: jnp.log(m) + 2.0, jnp.array([5.0]), method=method, rtol=1e-10
    )
    np.testing.assert_allclose(result.m, np.exp(-2), rtol=1e-5)


def test_a_trial_whose_solve_fails_shortens_the_step(engine):
    pattern = pi.SparsePattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2), "spd")
    matrix = lambda k: jnp.array([k, 0.0, 0.0, 1.0])  # not positive definite for k <= 0
    residual = lambda k: pi.sparse_solve(pattern, matrix(k[0]), jnp.ones(2))[:1] - 10.0
    result = inverse.fit(residual, jnp.array([1.0]))
    np.testing.assert_allclose(result.m, 0.1, rtol=1e-6)
    assert max(row.evaluations for row in result.history) > 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 1e-3])
def test_a_wrong_derivative_is_an_error_with_the_result(method, target):
    @jax.custom_jvp
    def wrong(m):
        return m - 3.0

    wrong.defjvp(lambda m, t: (wrong(*m), -t[0]))
    prior = inverse.GaussianPrior(1e-6)
    with pytest.raises(inverse.FitError, match="derivative") as err:
        inverse.fit(wrong, jnp.ones(2), method=method, prior=prior, target=target)
    np.testing.assert_allclose(err.value.result.m, 1, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [None, 0.1])
def test_a_gradient_that_is_not_finite_is_reported(method, target):
    result = inverse.fit(
        lambda m: jnp.sqrt(m) + 1.0,
        jnp.zeros(2),
        method=method,
        prior=inverse.GaussianPrior(),
        target=target,
        throw=False,
    )
    assert not result.converged and "not finite" in result.message


def test_running_out_of_steps():
    options = {"method": "lbfgs", "prior": Linear.prior(), "max_steps": 2}
    with pytest.raises(inverse.FitError, match="`max_steps` = 2") as err:
        inverse.fit(Linear.residual, np.zeros(20), **options)
    result = inverse.fit(Linear.residual, np.zeros(20), throw=False, **options)
    assert not result.converged and result.steps == 2
    np.testing.assert_array_equal(result.m, err.value.result.m)


def broken(m):
    return m / 0.0 * 0.0


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"misfit": broken}, ValueError, "finite at `m0`"),
        ({"m0": np.array([1.0, np.nan, 0.0])}, ValueError, "nan as flat entry 1"),
        ({"m0": np.array([1, 2, 3])}, TypeError, "floating-point"),
        ({"m0": {}}, TypeError, "no array"),
        ({"misfit": jnp.sum}, ValueError, "vector of residuals"),
        (
            {"misfit": jnp.sum, "method": "lbfgs", "target": 1.0},
            ValueError,
            "has no chi2",
        ),
        ({"misfit": lambda m: m > 0}, ValueError, "real scalar"),
        ({"misfit": lambda m: m * 1j}, ValueError, "stack the parts"),
        ({"method": "sgd"}, ValueError, "'gauss-newton', 'lbfgs', 'newton-cg'"),
        ({"prior": 3.0}, TypeError, "value, gradient, apply, solve"),
        ({"inner_product": np.eye(3)}, TypeError, "solve"),
        ({"bounds": (0.0, 0.5)}, ValueError, "as entry 0 of the flat model"),
        ({"bounds": 3.0}, ValueError, "pair"),
        ({"bounds": (None, np.ones(2))}, ValueError, "upper bound"),
        ({"target": -1.0}, ValueError, "target=...)` must be a positive"),
        ({"beta": 0.0}, ValueError, "beta=...)` must be a positive"),
        ({"rtol": math.nan}, ValueError, "rtol=...)` must be a positive"),
        ({"max_steps": 0}, ValueError, "at least 1"),
    ],
)
def test_refusals(change, error, message):
    arguments = {"misfit": lambda m: m - 1.0, "m0": np.full(3, 2.0)} | change
    with pytest.raises(error) as caught:
        inverse.fit(arguments.pop("misfit"), arguments.pop("m0"), **arguments)
    assert message in str(caught.value)
    assert "Got " in str(caught.value) and str(caught.value).count("\n") == 2


def test_other_refusals():
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda m: inverse.fit(lambda x: x, m).m)(jnp.ones(2))
    for precision in (-1.0, np.array([1.0, 0.0]), np.array([[1.0, 2.0], [2.0, 1.0]])):
        with pytest.raises(ValueError, match="positive"):
            inverse.GaussianPrior(precision)
    mesh = fem.Mesh.rectangle(2, 2)
    with pytest.raises(ValueError, match="delta > 0"):
        inverse.H1Prior(fem.FunctionSpace(mesh), 1.0, 0.0)
    with pytest.raises(ValueError, match="scalar functions"):
        inverse.H1Prior(fem.FunctionSpace(mesh, components=2))


# --- record ----------------------------------------------------------------------------


def test_history_callback_and_table():
    seen = []
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        prior=Linear.prior(),
        callback=lambda step, m: seen.append((step, m.shape)),
    )
    assert [row for row, _ in seen] == list(result.history)
    assert {shape for _, shape in seen} == {(20,)}
    totals = [row.misfit + row.prior for row in result.history]
    assert all(b <= a for a, b in itertools.pairwise(totals))
    assert [row.step for row in result.history] == list(range(result.steps + 1))
    assert result.message in " ".join(str(result).split())


def test_the_callback_can_stop():
    result = inverse.fit(
        Linear.residual,
        np.zeros(20),
        prior=Linear.prior(),
        callback=lambda step, m: step.step == 1,
        throw=False,
    )
    assert result.steps == 1 and result.message == "stopped by the callback"


def test_progress_is_a_line_for_each_step_without_a_terminal(capsys):
    for progress, lines in ((None, 0), (False, 0), (True, 2)):
        inverse.fit(lambda m: m - 1.0, jnp.zeros(2), progress=progress)
        out, err = capsys.readouterr()
        assert out == "" and (err.count("\n") >= lines if lines else err == "")
        assert not lines or "step 1: chi2" in err


def test_progress_is_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("pyimplicit.inverse.run.Console", lambda stderr: console)
    result = inverse.fit(Linear.residual, np.zeros(20), prior=Linear.prior())
    last = screen.getvalue().split("\r")[-1]
    assert "gauss-newton" in last and f"step {result.steps}, chi2" in last
