"""Numbers on which the solvers of Mosaic's benchmarks agree: a heated slab and a
cantilever of Q1 hexahedra, with a stiffness of the cube of a density in each cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Mesh, models


def hexahedra(nx, ny, nz, lengths, components=1):
    mesh = Mesh.box(nx, ny, nz, lengths, cells="hexahedron")
    return FunctionSpace(mesh, "Q1", components)


def stiffness(density, largest=1.0):
    return largest * (1e-3 + (1 - 1e-3) * density**3)


def slab(n):
    """∮ q T of a slab that is cold at the left, heated by 1 at the right, a function of the
    densities, x fastest."""
    thick = 2 / n
    V = hexahedra(n, n // 2, 1, (2.0, 1.0, thick))
    problem = models.poisson(V, {"left": 0.0}, neumann={"right": 1 / thick})

    def compliance(density):
        ours = density.reshape(n // 2, n).T.ravel()
        T = problem.solve({"kappa": fem.cellwise(stiffness(ours))})
        return fem.integrate(V, lambda w: w.u / thick, u=T, boundary="right")

    return compliance


def test_a_slab_of_one_density():
    known = {0.05: 14223.803, 0.4: 246.39644, 0.95: 18.65851}
    of = jax.jit(jax.vmap(lambda d: slab(16)(jnp.full(128, d))))
    found = of(jnp.array(list(known)))
    np.testing.assert_allclose(found, list(known.values()), rtol=2e-7)


@pytest.mark.parametrize("n, known", [(8, 99.867744), (16, 122.75734)])
def test_a_slab_of_random_densities(n, known):
    """And of the derivative: C is of degree -1 in the conductivities."""
    noise = np.random.default_rng(0).standard_normal(n * n // 2).astype("f4")
    density = jnp.asarray(np.clip(np.float32(0.5) + np.float32(0.3) * noise, 0.05, 0.95))
    density = density.astype(float)
    both = jax.jit(jax.value_and_grad(slab(n)))
    value, slope = both(density)
    np.testing.assert_allclose(value, known, rtol=2e-7)
    by_kappa = slope / jax.vmap(jax.grad(stiffness))(density)
    np.testing.assert_allclose(by_kappa @ stiffness(density), -value, rtol=1e-9)


def test_a_cantilever():
    """Its compliance under a unit load, of densities and of meshes."""
    load = {"right": (0.0, 0.0, -1.0)}

    def compliance(n, density):
        V = hexahedra(n, 2, 4, (2.0, 1.0, 1.0), 3)
        beam = models.elasticity(V, {"left": 0.0}, neumann=load)
        u = beam.solve({"E": stiffness(density, 70e3), "nu": 0.3})
        return -fem.integrate(V, lambda w: w.u[2], u=u, boundary="right")

    known = {0.2: 0.0556488, 0.4: 0.00770596, 0.9: 0.00068616}
    of = jax.jit(jax.vmap(lambda d: compliance(8, d)))
    found = of(jnp.array(list(known)))
    np.testing.assert_allclose(found, list(known.values()), rtol=1e-5)
    finer = jax.jit(lambda: compliance(12, 0.5))()
    np.testing.assert_allclose(finer, 0.00404401, rtol=2e-6)
