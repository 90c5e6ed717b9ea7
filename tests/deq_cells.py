"""Cells of the tests of equilibrium models, with closed forms."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


N, K = 5, 3
_RNG = np.random.default_rng(3)
_W = _RNG.normal(size=(N, N))
W1: Any = jnp.array(_W / np.abs(np.linalg.eigvals(_W)).max())  # ρ = 1, not symmetric
U = jnp.array(_RNG.normal(size=(N, K)))
X = jnp.array([0.3, -2.0, 5.0])
KEY = jax.random.key(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9)


class Linear(eqx.Module):
    """z ↦ W z + U x, with z* = (I - W)⁻¹ U x."""

    W: jax.Array

    def state(self, x):
        return jnp.zeros(N)

    def __call__(self, z, x):
        return self.W @ z + U @ x


def resolvent(W, x=X):
    return jnp.linalg.solve(jnp.eye(N) - W, U @ x)


def mlp(bound=None, **options):
    cell = pi.deq.MLPCell(N, K, hidden=7, bound=bound, key=KEY)
    return pi.deq.DEQ(cell, **options)
