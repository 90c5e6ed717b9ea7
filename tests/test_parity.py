"""Both engines, one contract: the same numbers, and the same words for failure."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.fem.matrices import diffusion_values


pytestmark = pytest.mark.julia
MESHES = {
    "interval": lambda: pi.fem.Mesh.interval(7),
    "rectangle": lambda: pi.fem.Mesh.rectangle(5, 4),
    "box": lambda: pi.fem.Mesh.box(3, 2, 2),
}


def on_both(compute):
    """What `compute()` gives on the host and in Julia."""
    results = []
    for name in ("host", "julia"):
        with pi.engine.use(name):
            results.append(jax.tree.map(np.asarray, compute()))
    return results


@pytest.mark.parametrize("name", MESHES)
def test_assembly_and_its_derivatives(name):
    V = pi.fem.FunctionSpace(MESHES[name](), "P1")
    rng = np.random.default_rng(0)
    kappa = jnp.asarray(rng.uniform(0.5, 3.0, V.mesh.n_cells))
    tangent = jnp.asarray(rng.normal(size=V.mesh.n_cells))
    weights = jnp.asarray(rng.normal(size=V.pattern("spd").nnz))
    values = lambda k: diffusion_values(V, k)
    loss = lambda k: jnp.sum(weights * jnp.sin(values(k)))

    @jax.jit
    def program(kappa):
        return (
            values(kappa),
            jax.jvp(values, (kappa,), (tangent,))[1],
            jax.grad(loss)(kappa),
            jax.hessian(loss)(kappa),
            jax.jacrev(jax.grad(loss))(kappa),
            jax.vmap(values)(jnp.stack([kappa, 2 * kappa])),
            values(kappa.astype(jnp.float32)).astype(float),
        )

    (*host, host_single), (*julia, julia_single) = on_both(lambda: program(kappa))
    for a, b in zip(host, julia, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(host_single, julia_single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MESHES)
def test_a_fem_solve_and_its_gradient(name):
    mesh = MESHES[name]()
    V = pi.fem.FunctionSpace(mesh, "P1")
    problem = pi.fem.models.poisson(V, dirichlet={"left": 1.0}, source="f")
    x = jnp.asarray(mesh.points)
    loss = lambda m: jnp.sum(problem.solve({"kappa": jnp.exp(m), "f": 2.0}) ** 2)

    def compute():
        m = jnp.sin(3 * x[:, 0])
        return jax.jit(lambda m: (*jax.value_and_grad(loss)(m), jax.hessian(loss)(m)))(m)

    host, julia = map(jax.tree.leaves, on_both(compute))
    for a, b in zip(host, julia, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_status_is_the_same_in_both_languages():
    text = (Path(__file__).parents[1] / "julia/src/status.jl").read_text()
    members = re.findall(r"^    ([A-Z_]+) = (\d+)$", text, re.M)
    assert {n.lower(): int(k) for n, k in members} == {s.name: int(s) for s in pi.Status}
    said = re.sub(r'" \*\s*"', "", text)
    for status in pi.Status:
        assert f'"{status.message}"' in said, status


def test_switching_the_engine_switches_compiled_functions():
    pattern = pi.SparsePattern([0, 1], [0, 1], (2, 2))
    solve = jax.jit(lambda v: pi.sparse_solve(pattern, v, jnp.ones(2)))
    for name in ("host", "julia", "host"):
        with pi.engine.use(name):
            pi.engine.clear()
            solve(jnp.array([1.0, 2.0])).block_until_ready()
            assert pi.engine.counters()["factorisations"] == 1, name
