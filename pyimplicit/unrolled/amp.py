"""Approximate message passing."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from .iteration import Iteration, check_problem, repeated
from .thresholds import soft_threshold


class AMP(Iteration):
    r"""x ← η(x + Aᵀr, α‖r‖/√m),  r ← b - A x + (‖x‖₀/m) r.

    The last term (Onsager's) makes the error of x + Aᵀr look like white noise, whose size
    is ‖r‖/√m. For matrices with independent entries of variance 1/m. `A`: `(m, n)`.
    `layers`. `alpha`: the threshold in units of that size, until trained. State (x, r).

    ‖x‖₀ jumps, so its derivative is taken as 0, which it is almost everywhere.

    ??? cite "Reference"
        Donoho, Maleki, Montanari 2009, Eq. (1)-(2). doi:10.1073/pnas.0909892106
    """

    per_layer: ClassVar = ("alpha",)
    A: jax.Array
    alpha: jax.Array
    layers: int = eqx.field(static=True)

    def __init__(self, A, layers: int, *, alpha=1.14):
        self.A = A = check_problem("AMP", A, layers)
        self.layers = layers
        self.alpha = repeated(alpha, layers, A.dtype)

    def start(self, injected):
        return jnp.zeros(self.A.shape[1], self.A.dtype), injected.astype(self.A.dtype)

    def step(self, state, injected, layer):
        x, r = state
        m = self.A.shape[0]
        noise = jnp.sqrt(jnp.sum(r * r) / m + jnp.finfo(r.dtype).tiny)
        x = soft_threshold(x + self.A.T @ r, layer["alpha"] * noise)
        onsager = jnp.sum(x != 0) / m
        return x, injected - self.A @ x + onsager.astype(r.dtype) * r

    def readout(self, state):
        return state[0]
