r"""Perturbed optimisers: any argmax made differentiable by averaging over noise.

F(x) = E f(x + σZ) is smooth whatever f is. For Z with density exp(-ν),

    ∂F/∂x = E f(x + σZ) ∇ν(Z)ᵀ/σ        (integration by parts)

is estimated with the samples of the value. Instead of a rule, the samples carry their
likelihood: with y = x + σz held still, the mean of f(y) w(x), w = p((y - x)/σ)/p(z), has
the value of the mean of f (w is 1), that estimate as its derivative, and the likewise
unbiased one as its second derivative; JAX finds them all, in both modes.

Berthet, Blondel, Teboul, Cuturi, Vert, Bach, *Learning with differentiable perturbed
optimizers* (2020), Prop. 3.1. arXiv:2002.08676. The weights: *DiCE*, Foerster et al. 2018.
arXiv:1802.05098
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .vectors import floats


class Normal:
    """Standard normal noise."""

    def sample(self, seed, sample_shape):
        return jax.random.normal(seed, sample_shape)

    def log_prob(self, inputs):
        return -0.5 * inputs**2

    def __repr__(self):
        return "Normal()"


class Gumbel:
    """Standard Gumbel noise: with a one-hot argmax of x the perturbed argmax is exactly
    softmax(x/σ), the perturbed max σ (logsumexp(x/σ) + 0.5772…)."""

    def sample(self, seed, sample_shape):
        return jax.random.gumbel(seed, sample_shape)

    def log_prob(self, inputs):
        return -inputs - jnp.exp(-inputs)

    def __repr__(self):
        return "Gumbel()"


GUMBEL = Gumbel()


def make_perturbed_argmax(
    argmax_fun: Callable,
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = GUMBEL,
    control_variate: bool = False,
) -> Callable:
    """E argmax_fun(x + σZ), a differentiable function `(x, rng)`.

    **Arguments:**

    - `argmax_fun`: x to an array like x, any code that JAX can call (also a host solver);
      it is not differentiated, and called on a batch by `jax.vmap`.
    - `num_samples`: of the noise. - `sigma`: its scale, positive.
    - `noise`: `Gumbel()`, `Normal()`, or an object with their two methods, `log_prob` for
      each number.
    - `control_variate`: take argmax_fun(x) off the samples in the derivatives: the same
      expectation, and a much smaller variance where samples mostly agree.

    **Returns:** a function of x, an array, and a random key; the mean over samples.

    **Derivative:** in x, an unbiased estimate of that of the expectation, both modes; also
    the second derivatives (jaxopt's are zero).

    **Errors:** `ValueError`/`TypeError` on a result unlike x, or bad options.
    """
    name = "make_perturbed_argmax"
    _check(name, argmax_fun, num_samples, sigma, noise)

    def perturbed_argmax(inputs, rng):
        x = floats(jnp.asarray(inputs))
        _check_shape(name, argmax_fun, x)
        return _mean(argmax_fun, x, rng, num_samples, sigma, noise, control_variate)

    return perturbed_argmax


def make_perturbed_fun(
    fun: Callable,
    num_samples: int = 1000,
    sigma: float = 0.1,
    noise: Any = GUMBEL,
    control_variate: bool = False,
) -> Callable:
    """E fun(x + σZ), a differentiable function `(x, rng)`; `fun` returns an array of any
    shape. See `make_perturbed_argmax`."""
    _check("make_perturbed_fun", fun, num_samples, sigma, noise)

    def perturbed_fun(inputs, rng):
        x = floats(jnp.asarray(inputs))
        return _mean(fun, x, rng, num_samples, sigma, noise, control_variate)

    return perturbed_fun


def make_perturbed_max(
    argmax_fun: Callable, num_samples: int = 1000, sigma: float = 0.1, noise: Any = GUMBEL
) -> Callable:
    """E ⟨x + σZ, argmax_fun(x + σZ)⟩, a differentiable scalar function `(x, rng)`.

    **Arguments:** see `make_perturbed_argmax`.

    **Derivative:** the perturbed argmax with the same samples (Danskin's theorem); the
    Hessian is the symmetric part of its estimated Jacobian. (No further order.)
    """
    name = "make_perturbed_max"
    _check(name, argmax_fun, num_samples, sigma, noise)

    def perturbed_max(inputs, rng):
        x = floats(jnp.asarray(inputs))
        _check_shape(name, argmax_fun, x)
        z, y, weights = _samples(x, rng, num_samples, sigma, noise)
        best = jax.lax.stop_gradient(jax.vmap(argmax_fun)(y))
        value = _inner(x + sigma * z, best)
        # What moves has value 0, so its derivative is the argmax, and the second one
        # (argmax ∇wᵀ + ∇w argmaxᵀ) times that of √w, ½.
        moving = (value - jax.lax.stop_gradient(value)) * jnp.sqrt(weights)
        return jnp.mean(jax.lax.stop_gradient(value) + moving)

    return perturbed_max


def _mean(fun, x, rng, num_samples, sigma, noise, control_variate):
    still = lambda a: jax.lax.stop_gradient(floats(fun(a)))
    _, y, weights = _samples(x, rng, num_samples, sigma, noise)
    values = jax.vmap(still)(y)
    centre = still(jax.lax.stop_gradient(x)) if control_variate else 0
    weights = weights.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    return jnp.mean((values - centre) * weights, 0) + centre


def _samples(x, rng, num_samples, sigma, noise):
    """The noise, x + σ noise held still, and its likelihood ratios, which are 1."""
    z = noise.sample(seed=rng, sample_shape=(num_samples, *x.shape)).astype(x.dtype)
    y = jax.lax.stop_gradient(x + sigma * z)
    # The noise that x would need to get to y: z itself, moving against x.
    needed = z - (x - jax.lax.stop_gradient(x)) / sigma
    axes = tuple(range(1, z.ndim))
    logs = jnp.sum(jax.vmap(noise.log_prob)(needed.reshape(-1)).reshape(z.shape), axes)
    return z, y, jnp.exp(logs - jax.lax.stop_gradient(logs))


def _inner(x, y):
    return jnp.sum(x * y, tuple(range(1, x.ndim)))


def _check(name: str, fun, num_samples, sigma, noise) -> None:
    if not callable(fun):
        raise TypeError(
            f"`{name}` takes a function.\nGot {fun!r}.\n"
            "For example lambda x: jax.nn.one_hot(jnp.argmax(x), x.size)."
        )
    if not isinstance(num_samples, int) or num_samples < 1:
        raise ValueError(
            f"`{name}(num_samples=...)` must be a positive integer.\nGot {num_samples!r}.\n"
            "The default is 1000."
        )
    if isinstance(sigma, int | float) and not sigma > 0:
        raise ValueError(
            f"`{name}(sigma=...)` must be positive.\nGot {sigma}.\n"
            "Without noise there is nothing to differentiate."
        )
    if not (hasattr(noise, "sample") and hasattr(noise, "log_prob")):
        raise TypeError(
            f"`{name}(noise=...)` must have `sample` and `log_prob`.\nGot {noise!r}.\n"
            "Known: pi.perturbed.Gumbel(), pi.perturbed.Normal()."
        )


def _check_shape(name: str, argmax_fun, x) -> None:
    out = jax.eval_shape(argmax_fun, x)
    if getattr(out, "shape", None) != x.shape:
        raise ValueError(
            f"`{name}`: argmax_fun(x) must have the shape of x.\nGot "
            f"{jax.tree.map(jnp.shape, out)} for {x.shape}.\n"
            "For other functions use make_perturbed_fun."
        )
