"""Problems in time that the literature and the peers have: answers that are known."""

import jax
import jax.numpy as jnp
import numpy as np

from pyimplicit import inverse
from pyimplicit.fem import CrankNicolson, FunctionSpace, Mesh, evolve, models


def test_the_initial_state_of_the_heat_equation():
    """dolfin-adjoint's example: found again from the temperatures after it."""
    V = FunctionSpace(Mesh.rectangle(8, 8))
    heat = models.heat(V, {"boundary": 0.0})
    x, y = V.dof_points.T
    sine = lambda k, x: np.sin(k * np.pi * x)
    truth = sine(1, x) * sine(2, y) + sine(2, x) * sine(1, y) / 2
    inside = (abs(V.dof_points - 0.5) < 0.5 - 1e-9).all(axis=1)
    t = jnp.linspace(0.0, 0.02, 11)

    def later(u0):
        start = inside * u0  # the values on the boundary are known
        return evolve(heat, start, t, {"kappa": 1.0}, method=CrankNicolson())[1:]

    data = jax.jit(later)(truth)
    result = inverse.fit(
        lambda u0: 0.5 * jnp.sum((later(u0) - data) ** 2),
        jnp.zeros(V.shape),
        method="newton-cg",
        inner_product=inverse.H1Prior(V, 1.0, 1.0),
        rtol=1e-8,
        progress=False,
    )
    assert result.steps <= 6
    np.testing.assert_allclose(inside * result.m, truth, atol=1e-5)
