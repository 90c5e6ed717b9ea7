"""Run by CI with an installed wheel, from outside the checkout."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit._config import companion


assert "site-packages" in pi.__file__, pi.__file__
julia = companion("julia")
assert julia.name == "pyimplicit_julia", julia
for name in ("juliapkg.json", "Project.toml", "src/ImplicitAdjoints.jl"):
    assert (julia / name).is_file(), name
assert not (julia / "test").exists()
# juliapkg must find the one requirement file that the wheel brings.
from juliapkg.deps import find_requirements  # noqa: E402


files = map(str, find_requirements() or [])
found = [Path(file).parent.name for file in files if "pyimplicit" in file]
assert found == ["pyimplicit_julia"], found

jax.config.update("jax_enable_x64", True)
with pi.engine.use("host"):
    pattern = pi.SparsePattern(np.arange(3), np.arange(3), (3, 3))
    gradient = jax.jit(jax.grad(lambda v: pi.sparse_solve(pattern, v, jnp.ones(3)).sum()))
    np.testing.assert_allclose(gradient(jnp.array([1.0, 2.0, 4.0])), [-1, -0.25, -1 / 16])
print("wheel: good")
