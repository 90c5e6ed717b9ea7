"""Each example runs; one number of each is compared."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import cli


ROOT = Path(__file__).parents[1]


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.julia
def test_julia_solver():
    found = example("julia_solver").main()
    assert found["misfit_after"] < 1e-5 * found["misfit_before"]
    assert found["error"] < 0.01
    assert abs(found["rate_gradient"] - 2) < 0.05


@pytest.mark.julia
def test_julia_root():
    found = example("julia_root").main()
    assert found["error_of_rates"] < 1e-4
    assert abs(found["slope_there"]) < 1e-8
    assert abs(found["most_of_B"] - 1.266) < 1e-3
    assert abs(found["rate_gradient"] - 2) < 0.05 and abs(found["rate_hessian"] - 3) < 0.1


def test_heat_source(tmp_path):
    found = example("heat_source").main(cells=6, steps=40, out=tmp_path)
    assert abs(found["chi2"] - 1) < 0.01
    assert found["error"] < 0.06 and abs(found["energy_ratio"] - 1) < 0.03
    assert abs(found["taylor_rates"][1] - 2) < 0.1
    assert found["factorisations"] <= 1  # one matrix, for all that the fit does
    assert (tmp_path / "heat_source.png").stat().st_size > 10_000


def test_mbb_beam(tmp_path):
    """The compliance that Andreassen et al. 2011 print for this beam and filter."""
    found = example("mbb_beam").main(out=tmp_path)
    assert abs(found["compliance"] - 233.71) < 0.05 and found["at_first"] > 1000
    assert abs(found["volume"] - 0.5) < 1e-6 and found["steps"] < 300
    assert abs(found["taylor_rates"][1] - 2) < 0.1
    assert (tmp_path / "mbb_beam.png").stat().st_size > 10_000


def test_hyperelastic_fit(tmp_path):
    found = example("hyperelastic_fit").main(size=6.0, out=tmp_path)
    for name, truth, spread in zip(
        ("mu", "lam"), (0.4, 0.9), found["relative_spread"], strict=True
    ):
        assert spread < 0.02 and abs(found[name] / truth - 1) < 3 * spread
    assert 0.6 < found["chi2"] < 1.4 and found["steps"] < 12
    assert abs(found["taylor_rates"][1] - 2) < 0.1
    assert (tmp_path / "hyperelastic_fit.png").stat().st_size > 10_000


def test_neural_closure(tmp_path):
    module = example("neural_closure")
    found = module.main(cells=10, weights=(), out=tmp_path)
    solving = found["table"]["solving"]
    assert (
        solving["error"] < 0.02
        and abs(solving["chi2"] - 1) < 0.01
        and solving["steps"] <= 20
    )
    assert abs(found["taylor_rates"][1] - 2) < 0.1
    assert (tmp_path / "neural_closure.png").stat().st_size > 10_000

    # The other two hold for the true law and state, and only for these.
    rod = module.Rod(10, 0)
    values = module.state(rod.V.dof_points[rod.inside, 0])
    smooth = lambda x: jnp.pi * (jnp.sinc(x) + jnp.sinc(1 - x))  # sin πx / x(1 - x)
    residual = lambda way, u, kappa: way({"kappa": kappa, "u": u}, 1.0)[19:]
    equations = lambda *of: float(
        module.ERROR * jnp.linalg.norm(jax.jit(lambda: residual(*of))())
    )
    for way, u, small in ((rod.penalty, values, 0.05), (rod.points, smooth, 1e-8)):
        assert equations(way, u, module.law) < small
        assert equations(way, u, lambda u: 1.1 * module.law(u)) > 1

    # With a penalty the law is learnt less well.
    start = {"kappa": module.Closure(module.network(1)), "u": rod.start}
    kappa, fit = module.learn(lambda m: rod.penalty(m, 1e-2), start, 20)
    truth = module.law(module.U)
    error = np.linalg.norm(kappa - truth) / np.linalg.norm(truth)
    assert fit.converged and solving["error"] < error < 0.1


def test_readme_code_runs_as_it_stands(engine):
    text = (ROOT / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    scope = {}
    exec(code, scope)
    assert scope["result"].converged
    assert len([line for line in code.splitlines() if line.strip()]) <= 17
    assert text.count("\n") <= 200


def test_command_line_lists_and_refuses(capsys):
    assert cli.main(["examples"]) == 0
    assert "tree-tomography" in capsys.readouterr().out
    assert cli.main(["run", "nothing"]) == 1
    assert "There are: " in capsys.readouterr().err
    assert cli.main(["setup-julia", "--executable", "/nowhere"]) == 1
    assert "go together" in capsys.readouterr().err


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "round trip" in out and "XLA FFI" in out


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]])
def test_lint(command):
    done = subprocess.run(
        [sys.executable, "-m", *command, "."], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
