"""Objectives over a data set, with jaxopt's signatures.

`data` is `(X, y)`: X `(samples, features)`; y `(samples,)`, or what is said. Those that are
functions of linear predictions X W are `pi.LinearComposite`s: called as `f(W, data)`, or
handed to `pi.BlockCoordinateDescent(objective=...)`, which then need not form gradients of
the whole for each coordinate.
"""

import jax
import jax.numpy as jnp

from ..solvers.block import LinearComposite
from .loss import binary_logistic_loss, multiclass_logistic_loss


def _features(data):
    return jnp.asarray(data[0])


def _half_mean_square(predictions, data):
    return 0.5 * jnp.mean((predictions - data[1]) ** 2)


def _mean_binary_logistic(predictions, data):
    return jnp.mean(jax.vmap(binary_logistic_loss)(jnp.asarray(data[1]), predictions))


def _mean_logistic(predictions, data):
    return jnp.mean(jax.vmap(multiclass_logistic_loss)(jnp.asarray(data[1]), predictions))


# (1/2n) ‖X W - y‖²; W (features,), or (features, k) with y (samples, k).
least_squares = LinearComposite(_features, _half_mean_square)
# The mean of `binary_logistic_loss`; w (features,), y of 0 and 1.
binary_logreg = LinearComposite(_features, _mean_binary_logistic)
# The mean of `multiclass_logistic_loss`; W (features, classes), y class numbers.
multiclass_logreg = LinearComposite(_features, _mean_logistic)


def ridge_regression(params, l2reg, data):
    """(1/2n) ‖X W - y‖² + ½ l2reg ‖W‖², W = params."""
    return least_squares(params, data) + 0.5 * l2reg * jnp.sum(params**2)


def multiclass_logreg_with_intercept(params, data):
    """`multiclass_logreg` of the predictions X W + b, params = (W, b)."""
    W, b = params
    return _mean_logistic(_features(data) @ W + b, data)


def l2_multiclass_logreg(W, l2reg, data):
    """`multiclass_logreg` + ½ l2reg ‖W‖²."""
    return multiclass_logreg(W, data) + 0.5 * l2reg * jnp.sum(W**2)


def l2_multiclass_logreg_with_intercept(params, l2reg, data):
    """`multiclass_logreg_with_intercept` + ½ l2reg ‖W‖²; b is not penalised."""
    penalty = 0.5 * l2reg * jnp.sum(params[0] ** 2)
    return multiclass_logreg_with_intercept(params, data) + penalty


def multiclass_linear_svm_dual(beta, l2reg, data):
    """‖Xᵀ(Y - β)‖²/(2 l2reg) - ⟨β, 1 - Y⟩, to be minimised over rows of β on the simplex.

    `beta`, Y: `(samples, classes)`, Y one-hot; data = (X, Y). The primal weights are
    Xᵀ(Y - β)/l2reg.

    Source: Crammer, Singer, *On the algorithmic implementation of multiclass kernel-based
    vector machines* (2001).
    """
    X, Y = jnp.asarray(data[0]), jnp.asarray(data[1])
    V = X.T @ (Y - beta)
    return 0.5 / l2reg * jnp.sum(V * V) + jnp.sum(beta * (Y - 1))
