"""Checks of derivatives against what they claim to be derivatives of."""

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table


# A remainder counts if it is this many times the noise of the function's values; if
# there are not two such, the second number decides (single precision).
CLEAR_OF_NOISE = (100.0, 10.0)
# Sizes of the step, largest first, in units of `step`.
HALVINGS = 2.0 ** -np.arange(-3, 14)
# A rate is taken from this many of the smallest remainders that count.
SMALLEST = 4

ORDERS = ("value", "gradient", "Hessian")


@dataclasses.dataclass(frozen=True)
class TaylorReport:
    """Remainders of a function's Taylor expansions along a direction, and their rates.

    `rates`: numbers that should be 1 (value), 2 (gradient), 3 (Hessian, if asked): the
    slopes of the remainders over the step, in logarithms. Infinite: the expansion is
    exact (a quadratic function has a Hessian rate of infinity): every remainder is below
    round-off, or, at the largest step, below the square root of the precision times the
    last term of the expansion. `steps`: `(k,)`. `remainders`: `(3, k)`, or `(2, k)`.
    `noise`: `(k,)`, what round-off contributes to a remainder.
    """

    rates: tuple[float, ...]
    steps: np.ndarray
    remainders: np.ndarray
    noise: np.ndarray

    @property
    def passed(self) -> bool:
        """Whether no rate is more than 0.1 below what it should be."""
        return all(rate > k + 0.9 for k, rate in enumerate(self.rates))

    def __rich__(self) -> Table:
        orders = ORDERS[: len(self.rates)]
        table = Table(title=f"Taylor test: {'passed' if self.passed else 'FAILED'}")
        for name in ("step", *(f"|R{k}|, {o}" for k, o in enumerate(orders)), "noise"):
            table.add_column(name, justify="right")
        for i, step in enumerate(self.steps):
            numbers = (step, *self.remainders[:, i], self.noise[i])
            table.add_row(*(f"{number:.3e}" for number in numbers))
        table.add_section()
        shown = (f"{r:.2f}" if math.isfinite(r) else "exact" for r in self.rates)
        table.add_row("rate", *shown, "")
        return table

    def __str__(self) -> str:
        file = io.StringIO()
        Console(file=file, width=88).print(self.__rich__())
        return file.getvalue().rstrip()


def taylor_test(
    fn: Callable[[Any], Any],
    x: Any,
    direction: Any = None,
    *,
    order: Literal[1, 2] = 2,
    step: float = 0.01,
    seed: int = 0,
    with_gradient: bool = False,
) -> TaylorReport:
    r"""Tests the gradient and the Hessian of `fn` at `x` along a direction h.

    The remainders R₀ = |f(x + εh) - f(x)|, R₁ = |… - ε∇f·h| and
    R₂ = |… - ε²/2 hᵀHh| must fall as ε, ε² and ε³ where the derivatives are right.

    **Arguments:**

    - `fn`: a scalar JAX function of a pytree.
    - `x`: where; a pytree with floating-point arrays, which are varied (other leaves
      are not).
    - `direction`: h, shaped like `x`; drawn at random, as large as each array, if not
      given.
    - `order`: 1 leaves out the Hessian, for functions without second derivatives.
    - `step`: ε runs through `step` · 8, 4, …, 2⁻¹³.
    - `seed`: of the random direction.
    - `with_gradient`: `fn` returns the value and its gradient, shaped like `x`, and is
      called as it is: what a fit has compiled can be tested without compiling anything.
      With `order=1`.

    **Returns:** a `TaylorReport`; print it to see the table. Remainders near the noise
    of `fn` (estimated from its values a few round-offs apart) are left out of the fit.

    **Derivative:** uses `jax.grad(fn)` and its tangent along h.

    **Errors:** `ValueError` if `fn` is not scalar, or not finite at `x`; `TypeError` if
    `x` has no floating-point array.

    ??? cite "Reference"
        Farrell, Ham, Funke, Rognes, *Automated derivation of the adjoint of high-level
        transient finite element programs*, SIAM J. Sci. Comput. 35 (2013), Section 6.
        doi:10.1137/120873558 (the test). Moré, Wild, *Estimating computational noise*,
        SIAM J. Sci. Comput. 33 (2011). doi:10.1137/100786125 (the noise)
    """
    varied, fixed = eqx.partition(_arrays(x), eqx.is_inexact_array)
    x0, unravel = ravel_pytree(varied)
    if not jnp.issubdtype(x0.dtype, jnp.floating) or x0.size == 0:
        raise TypeError(
            "`taylor_test(fn, x)` needs floating-point arrays in `x`.\n"
            f"Got {jax.tree.map(_kind, x)}.\n"
            "Convert integers with jnp.asarray(x, float); split complex numbers."
        )
    whole = lambda v: fn(eqx.combine(unravel(v), fixed))
    flat = (lambda v: whole(v)[0]) if with_gradient else whole
    if with_gradient and order != 1:
        raise ValueError(
            "`taylor_test(with_gradient=True)` has no Hessian to test.\n"
            f"Got order = {order!r}.\nPass order=1."
        )
    out = jax.eval_shape(flat, x0)
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            "`taylor_test(fn, x)` needs a function with a real scalar value.\n"
            f"Got {out}.\nTake a sum or a norm of what it returns."
        )
    h = _direction(varied, seed) if direction is None else _same(direction, varied)
    line = lambda t: flat(x0 + t * h)
    line = line if with_gradient else jax.jit(line)
    slope_of = jax.grad(lambda t: flat(x0 + t * h))
    zero = jnp.zeros((), x0.dtype)
    if order == 2:
        bend = jax.jit(lambda t: jax.jvp(slope_of, (t,), (jnp.ones_like(t),)))
        slope, curvature = bend(zero)
    elif with_gradient:
        slope, curvature = jnp.vdot(ravel_pytree(whole(x0)[1])[0], h), 0.0
    else:
        slope, curvature = jax.jit(slope_of)(zero), 0.0
    steps = step * HALVINGS
    number = lambda t: float(line(jnp.asarray(t, x0.dtype)))
    f0 = number(0.0)
    if not math.isfinite(f0):
        raise ValueError(
            f"`taylor_test(fn, x)` needs a finite value at `x`.\nGot {f0}.\n"
            "Choose another `x`, or look for the NaN with jax_debug_nans."
        )
    r0 = np.array([number(t) for t in steps]) - f0
    r1 = r0 - steps * float(slope)
    r2 = r1 - steps**2 / 2 * float(curvature)
    remainders = np.abs([r0, r1, r2])[: order + 1]
    eps = float(jnp.finfo(x0.dtype).eps)
    size = abs(f0) + steps * abs(float(slope)) + steps**2 * abs(float(curvature))
    noise = _noise(number, eps) + eps * size
    terms = 0.0, steps * float(slope), steps**2 / 2 * float(curvature)
    exact = [_exact(r, t, eps) for r, t in zip(remainders, terms, strict=False)]
    for r in remainders[exact]:  # noise, then, and seen at work
        noise = np.maximum(noise, r[np.isfinite(r)].max())
    rates = tuple(
        math.inf if e else _rate(steps, r, noise)
        for r, e in zip(remainders, exact, strict=True)
    )
    return TaylorReport(rates, steps, remainders, noise)


def _arrays(x):
    """Python's floats and NumPy's arrays as JAX arrays; other leaves as they are."""
    floating = eqx.is_inexact_array_like
    return jax.tree.map(lambda a: jnp.asarray(a) if floating(a) else a, x)


def _kind(leaf) -> str:
    return f"{leaf.dtype}{leaf.shape}" if hasattr(leaf, "shape") else type(leaf).__name__


def _direction(varied, seed: int):
    """Normal numbers, scaled to the root mean square of each array (1 if it is 0)."""
    leaves, structure = jax.tree.flatten(varied)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    size = lambda a: jnp.sqrt(jnp.mean(jnp.square(a)))
    scale = lambda a: jnp.where(size(a) > 0, size(a), jnp.ones((), a.dtype))
    drawn = [
        scale(a) * jax.random.normal(k, a.shape, a.dtype) if a.size else a
        for k, a in zip(keys, leaves, strict=True)
    ]
    return ravel_pytree(jax.tree.unflatten(structure, drawn))[0]


def _same(direction, varied):
    given = eqx.filter(_arrays(direction), eqx.is_inexact_array)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (given, varied)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`taylor_test(x, direction)` must have the same structure and shapes.\n"
            f"Got {shapes[0]} for {shapes[1]}.\nLeave it out for a random direction."
        )
    return ravel_pytree(given)[0].astype(ravel_pytree(varied)[0].dtype)


def _noise(number: Callable[[float], float], eps: float) -> float:
    """The deviation of the function's values from a smooth curve: their fourth
    differences over points so close that only round-off can make any."""
    values = np.array([number(64 * eps * k) for k in range(-4, 5)])
    return float(np.sqrt(np.mean(np.diff(values, 4) ** 2) / 70))


def _exact(remainders, term, eps: float) -> bool:
    """Whether, at the largest step, the remainder is nothing beside the expansion's last
    term. Solves on the way to a value may make more round-off than `_noise` sees, and a
    rate fitted to that would mean nothing."""
    known = np.isfinite(remainders) & (np.abs(term) > 0)
    return bool(known.any() and (remainders <= math.sqrt(eps) * np.abs(term))[known][0])


def _rate(steps, remainders, noise) -> float:
    """The slope of log remainder over log step, of the smallest clear of the noise. The
    least slope counts: where a small error of the derivative takes over, the remainder
    changes sign, and a fit across that place would see any slope at all."""
    if not np.isfinite(remainders).any():
        return math.nan
    for factor in CLEAR_OF_NOISE:
        use = np.isfinite(remainders) & (remainders > factor * noise)
        if use.sum() > 1:
            x, y = np.log2(steps[use]), np.log2(remainders[use])
            return float(np.min((np.diff(y) / np.diff(x))[1 - SMALLEST :]))
    return math.inf  # nothing to fit: exact to round-off
