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
# juliapkg must find the one requirement file that the wheel brings, and what it asks for.
from juliapkg.deps import deps_files, find_requirements  # noqa: E402


found = [Path(file).parent.name for file in deps_files() if "pyimplicit" in str(file)]
assert found == ["pyimplicit_julia"], found
compat, packages = find_requirements()
wanted = {package.name: package for package in packages}
assert Path(wanted["ImplicitAdjoints"].path) == julia, wanted
assert "1.10" in str(compat), compat

jax.config.update("jax_enable_x64", True)
with pi.engine.use("host"):
    pattern = pi.SparsePattern(np.arange(3), np.arange(3), (3, 3))
    gradient = jax.jit(jax.grad(lambda v: pi.sparse_solve(pattern, v, jnp.ones(3)).sum()))
    np.testing.assert_allclose(gradient(jnp.array([1.0, 2.0, 4.0])), [-1, -0.25, -1 / 16])
print("wheel: good")
