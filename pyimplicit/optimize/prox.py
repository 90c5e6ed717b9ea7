"""Proximal operators: argmin_y ½‖y - x‖² + scaling · g(y), with jaxopt's signatures.

x is a pytree. Strengths are numbers, or pytrees like x where that is said; they are
differentiated, and so is `scaling`. At the kinks of an operator the zero side wins: where
an entry (or group) is exactly at its threshold, the answer is 0 and does not move.

Source of all: Parikh, Boyd, *Proximal algorithms* (2014), Chapter 6. doi:10.1561/2400000003
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .vectors import floats, norm, spread


def prox_none(x, hyperparams=None, scaling=1.0):
    """g(y) = 0: returns x."""
    del hyperparams, scaling
    return x


def prox_lasso(x, l1reg=None, scaling=1.0):
    """g(y) = l1reg · ‖y‖₁: soft thresholding. `l1reg`: a number (1) or a pytree like x."""
    x, strength = _with(x, l1reg)
    return jax.tree.map(lambda a, s: _soft(a, s * scaling), x, strength)


def prox_non_negative_lasso(x, l1reg=None, scaling=1.0):
    """g(y) = l1reg · ‖y‖₁ for y ≥ 0, infinite elsewhere: max(x - l1reg · scaling, 0)."""
    x, strength = _with(x, l1reg)
    return jax.tree.map(lambda a, s: _positive(a - s * scaling), x, strength)


def prox_elastic_net(x, hyperparams=None, scaling=1.0):
    """g(y) = λ (‖y‖₁ + γ ½‖y‖₂²). `hyperparams`: (λ, γ), numbers (1, 1) or like x."""
    lam, gamma = (1.0, 1.0) if hyperparams is None else hyperparams
    (x, lam), (_, gamma) = _with(x, lam), _with(x, gamma)
    shrink = lambda a, l, g: _soft(a, scaling * l) / (1 + scaling * l * g)
    return jax.tree.map(shrink, x, lam, gamma)


def prox_group_lasso(x, l2reg=1.0, scaling=1.0):
    """g(y) = l2reg · ‖y‖₂ of the whole pytree: block soft thresholding; 0 at x = 0.

    For many groups use `jax.vmap`.
    """
    x = floats(x)
    threshold = (1.0 if l2reg is None else l2reg) * scaling
    length = norm(x)
    kept = length > threshold
    factor = jnp.where(kept, 1 - threshold / jnp.where(kept, length, 1), 0)
    return jax.tree.map(lambda a: (factor * a).astype(a.dtype), x)


def prox_ridge(x, l2reg=1.0, scaling=1.0):
    """g(y) = l2reg · ½‖y‖₂²: x/(1 + scaling · l2reg). `l2reg`: a number or like x.

    (jaxopt's text has no ½; its formula, and this one, do.)
    """
    x, strength = _with(x, l2reg)
    return jax.tree.map(lambda a, s: a / (1 + scaling * s), x, strength)


def prox_non_negative_ridge(x, l2reg=1.0, scaling=1.0):
    """`prox_ridge` with y ≥ 0."""
    return jax.tree.map(_positive, prox_ridge(x, l2reg, scaling))


def make_prox_from_projection(projection: Callable) -> Callable:
    """prox(x, hyperparams, scaling) of a set's indicator: `projection(x, hyperparams)`."""
    if not callable(projection):
        raise TypeError(
            "`make_prox_from_projection(projection)` takes a function.\n"
            f"Got {projection!r}.\nFor example pi.projection.projection_box."
        )

    def prox(x, hyperparams=None, scaling=1.0):
        del scaling  # an indicator times a positive number is itself
        return projection(x, hyperparams)

    return prox


def _with(x, strength):
    x = floats(x)
    return x, spread(1.0 if strength is None else strength, x)


def _soft(x, threshold):
    moved = jnp.where(x > 0, x - threshold, x + threshold)
    return jnp.where(jnp.abs(x) <= threshold, 0, moved)  # NaN stays NaN


def _positive(x):
    return jnp.where(x <= 0, 0, x)
