"""The rows about batches, NaN and jit."""

import math

import jax.numpy as jnp
import numpy as np

from .batch import Batch
from .flat import Flat, apart
from .report import Skip, words


LOOKED_AT = 3  # samples


def independence(layer: Flat, batch: Batch):
    Y, G = map(np.asarray, batch.together(batch.rows))
    samples = range(min(LOOKED_AT, len(Y)))
    alone = _worst(_differ(layer, batch, i, (Y[i], G[i]), batch.alone(i)) for i in samples)
    try:
        far = [*map(np.asarray, batch.together(batch.far()))]
    except Exception as error:
        return alone, f"far mates were not tried: {words(error)}"
    other = _differ(layer, batch, 0, (Y[0], G[0]), (far[0][0], far[1][0]))
    return _worst([alone, other]), f"to alone {alone:.0e}, to other mates {other:.0e}"


def nan_in_batch(layer: Flat, batch: Batch):
    Y, G = map(np.asarray, batch.together(batch.rows))
    nan = np.full_like(batch.rows[:1], np.nan)
    try:
        out = batch.together(np.concatenate([nan, batch.rows[1:]]))
        Y_nan, G_nan = map(np.asarray, out)
    except Exception as error:
        raise Skip(f"raises: {words(error)}") from None
    mates = range(1, len(Y))
    differ = lambda i: _differ(layer, batch, i, (Y[i], G[i]), (Y_nan[i], G_nan[i]))
    return _worst(map(differ, mates)), "how far its mates move"


def finite(layer: Flat):
    y, g = layer.adjoint(layer.x, layer.W[0])
    values, slopes = (int(np.sum(~np.isfinite(a))) for a in (y, g))
    return float(values + slopes), f"{values} in the value, {slopes} in the gradient"


def nan_out(layer: Flat):
    """One NaN for each argument, where the gradient is largest."""
    w = layer.W[0]
    y, g = map(np.asarray, layer.adjoint(layer.x, w))
    steep = np.abs(g) if g.size else np.zeros(layer.x.shape)
    swallowed, raised, start = [], 0, 0
    for name, size in zip(layer.names, layer.in_sizes, strict=True):
        here, start = slice(start, start + size), start + size
        if not size:
            continue
        k = here.start + int(np.argmax(steep[here]))
        x = layer.x.copy()
        x[k] = np.nan
        try:
            out = [*map(np.asarray, layer.adjoint(x, w))]
        except Exception:
            raised += 1
            continue
        unused = np.array_equal(out[0], y) and steep[k] == 0
        if all(np.isfinite(a).all() for a in out) and not unused:
            swallowed.append(name)
    if swallowed:
        return float(len(swallowed)), "swallowed in " + ", ".join(swallowed)
    return 0.0, f"of {len(layer.names)} arguments, {raised} raise"


def jit(layer: Flat):
    if layer.no_jit:
        raise layer.no_jit
    x, w = layer.x, layer.W[0]
    at = jnp.asarray(x), jnp.asarray(w)
    y, (_, g) = layer.f(at[0]), layer.both(layer.f)(*at)
    y_jit, g_jit = layer.adjoint(x, w)
    least = _least(layer, x, w, np.asarray(y))
    values = apart(y, y_jit, layer.out_sizes, least[0])
    slopes = apart(g, g_jit, layer.in_sizes, least[1])
    return _worst([values, slopes]), f"value {values:.0e}, gradient {slopes:.0e}"


def _differ(layer: Flat, batch: Batch, i: int, one: tuple, other: tuple) -> float:
    """How far values and gradients of sample i are apart."""
    least = _least(layer, batch.rows[i], batch.W[i], one[0])
    sizes = batch.out_sizes, batch.in_sizes
    return _worst(map(apart, one, other, sizes, least))


def _least(layer: Flat, x, w, y) -> tuple[float, float]:
    """Values and gradients smaller than these are all round-off (at an optimum, say)."""
    small = 100 * layer.eps**0.5
    norm = lambda a: float(np.linalg.norm(a))
    return small * norm(y), small * norm(w * y) / (norm(x) or 1.0)


def _worst(numbers) -> float:
    """The largest; infinite if one is NaN."""
    worst = float(np.max(list(numbers)))
    return math.inf if math.isnan(worst) else worst
