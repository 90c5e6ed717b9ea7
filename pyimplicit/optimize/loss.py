"""Losses of one sample, with jaxopt's signatures, and Fenchel–Young losses.

Labels are integers: 0 or 1, or the number of the class. For a batch use `jax.vmap`. All
are differentiable in the scores, any order; at the kinks of hinges and perceptrons
JAX's subgradient of `max` holds.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from .projection.simplex import projection_simplex
from .vectors import check_positive, vector


def huber_loss(target, pred, delta=1.0):
    """½ r² for |r| ≤ δ, else δ (|r| - ½ δ), r = target - pred. Source: Huber 1964,
    doi:10.1214/aoms/1177703732."""
    check_positive("huber_loss", "delta", delta)
    r = jnp.asarray(target) - pred
    near = jnp.abs(r) <= delta
    return jnp.where(
        near, 0.5 * jnp.where(near, r, 0) ** 2, delta * (jnp.abs(r) - 0.5 * delta)
    )


def binary_logistic_loss(label, logit):
    """log(1 + exp(∓logit)), - for label 1."""
    return jax.nn.softplus(_against(label, logit))


def binary_sparsemax_loss(label, logit):
    """sparse_plus(∓logit), - for label 1. Source: Blondel, Martins, Niculae 2020, Sec. 4.4,
    arXiv:1901.02324."""
    return sparse_plus(_against(label, logit))


def sparse_plus(x):
    """0 below -1, ¼ (x + 1)² between, x above 1: the sparse twin of softplus."""
    x = jnp.asarray(x)
    return jnp.where(x <= -1, 0, jnp.where(x >= 1, x, (jnp.clip(x, -1, 1) + 1) ** 2 / 4))


def sparse_sigmoid(x):
    """0 below -1, ½ (x + 1) between, 1 above 1: the derivative of `sparse_plus`."""
    x = jnp.asarray(x)
    return jnp.where(x <= -1, 0.0, jnp.where(x >= 1, 1.0, (x + 1) / 2))


def binary_hinge_loss(label, score):
    """max(0, 1 ∓ score), - for label 1."""
    return jnp.maximum(0, 1 - score * (2.0 * label - 1))


def binary_perceptron_loss(label, score):
    """max(0, ∓score), - for label 1."""
    return jnp.maximum(0, -score * (2.0 * label - 1))


def multiclass_logistic_loss(label, logits):
    """logsumexp(logits) - logits[label]. `logits`: `(classes,)`."""
    logits = vector("multiclass_logistic_loss", logits)
    # The difference first: exact where it is small. Its own entry is 0, also for ±∞.
    return logsumexp((logits - logits[label]).at[label].set(0))


def multiclass_sparsemax_loss(label, scores):
    """⟨p, s - s[label]⟩ + ½ (1 - ‖p‖²), p the projection of s = scores onto the simplex.

    *Derivative*: p - e_label. Source: Martins, Astudillo 2016, arXiv:1602.02068.
    """
    scores = vector("multiclass_sparsemax_loss", scores)
    p = projection_simplex(scores)
    apart = (scores - scores[label]).at[label].set(0)
    apart = jnp.where(p > 0, apart, 0)  # 0 · ∞ is 0 here
    return jnp.sum(p * apart) + 0.5 * (1 - jnp.sum(p * p))


def multiclass_hinge_loss(label, scores):
    """max over classes of scores + [class ≠ label], minus scores[label]."""
    scores = vector("multiclass_hinge_loss", scores)
    return jnp.max((scores + 1).at[label].add(-1)) - scores[label]


def multiclass_perceptron_loss(label, scores):
    """max(scores) - scores[label]. Source: Collins 2002, doi:10.3115/1118693.1118694."""
    scores = vector("multiclass_perceptron_loss", scores)
    return jnp.max(scores) - scores[label]


def make_fenchel_young_loss(max_fun: Callable) -> Callable:
    """The Fenchel–Young loss of a (smoothed) max F:

        loss(y_true, scores, ...) = F(scores, ...) - ⟨scores, y_true⟩.

    `max_fun`: F(scores, *args, **kwargs), a scalar; its gradient is the (smoothed) argmax.

    *Derivative* in the scores: argmax - y_true. For F from `perturbed.make_perturbed_max`
    it is unbiased and has a Hessian. The loss is ≥ 0 up to the constant F*(y_true).

    ??? cite "Reference"
        Blondel, Martins, Niculae, *Learning with Fenchel–Young losses* (2020), Def. 2.
        arXiv:1901.02324. Perturbed: Berthet et al. 2020, arXiv:2002.08676
    """
    if not callable(max_fun):
        raise TypeError(
            f"`make_fenchel_young_loss(max_fun)` takes a function.\nGot {max_fun!r}.\n"
            "For example jax.scipy.special.logsumexp."
        )

    def fenchel_young_loss(y_true, scores, *args, **kwargs):
        return max_fun(scores, *args, **kwargs) - jnp.vdot(y_true, scores)

    return fenchel_young_loss


def _against(label, score):
    return jnp.where(label, -jnp.asarray(score), score)
