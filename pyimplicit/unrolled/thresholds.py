"""Soft thresholding, and with the largest entries exempt from it."""

import jax
import jax.numpy as jnp


def soft_threshold(v, threshold) -> jax.Array:
    """sign(v) max(|v| - threshold, 0): the proximal operator of threshold ‖·‖₁. Its
    derivative at |v| = threshold is taken as 0."""
    return jnp.sign(v) * jax.nn.relu(jnp.abs(v) - threshold)


def select_support(v, threshold, count) -> jax.Array:
    """Soft thresholding of `v`, `(n,)`, but for the `count` entries of largest modulus:
    those pass as they are if they exceed the threshold.

    Source: Chen, Liu, Wang, Yin 2018, *Theoretical linear convergence of unfolded ISTA*,
    Eq. (15). arXiv:1808.10038.
    """
    size = jnp.abs(jax.lax.stop_gradient(v))
    n = v.size
    least = jnp.sort(size)[jnp.clip(n - jnp.asarray(count, int), 0, n - 1)]
    trusted = (size >= least) & (size > threshold) & (jnp.asarray(count) > 0)
    return jnp.where(trusted, v, soft_threshold(v, threshold))
