"""All steps of a linear problem at once: M u' + K u = b(t) with constant M and K.

The solves of all stages of all steps are the rows of one banded system (see
`linear/march.py`), so a march is one call of the engine, forwards and backwards. With
u = T x + D g (`condense`) the rows are those for the free unknowns x, and what the given
values g and the start contribute goes to the right-hand side.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun

from ..linear.march import Bands, march, past
from . import assembly
from .schemes import Scheme
from .semidiscrete import Semidiscrete


LARGEST = 2**30  # bytes of all states; above it a march is taken step by step


def fits(system: Semidiscrete, method: Scheme, n_steps: int, order: int) -> bool:
    """Whether the problem can be marched so: linear, with a matrix that does not change and
    is to be factorised, and states that fit in memory."""
    condensed = system.problem._condensed
    size = n_steps * method.n_stages * order * condensed.n_free
    return (
        system.linear
        and not system.varies
        and system.krylov is None
        and condensed.n_free > 0
        and (order == 1 or condensed.picks)
        and size * np.dtype(system.dtype).itemsize <= LARGEST
    )


def march_linear(system: Semidiscrete, method: Scheme, start: tuple, t, h, ratio):
    """The values at the ends of the steps, `(n_steps, size)`, for second order a pair; and
    the status of each step. `start`: `(u,)` or `(u, v)`."""
    order, n = len(start), len(h)
    condensed = system.problem._condensed
    bands, uses = _bands(method, h, ratio)
    c, p, q = bands
    times = _times(method, t, h)
    load, given = _over_time(lambda t: _data(system, t), times)
    # What rows of the first steps have of the start: Σ p and Σ q over d > j.
    p0, q0 = (_before(w, len(c)) for w in (p, q))
    k = p0.shape[0]
    f = c[:, None] * load[1:]
    for d in uses:
        index = np.maximum(np.arange(len(c)) + 1 - d, 0)
        f = f + q[:, d - 1, None] * load[index]
    M, K = system.mass_values, system.matrix_values
    pattern = system.V.pattern()
    begin = jnp.outer(p0, pattern.matvec(M, start[-1]))
    f = f.at[:k].add(begin - jnp.outer(q0, pattern.matvec(K, start[0])))
    g = given[1:]
    rate, rows = g, jax.vmap(condensed.vector)(f)[:, None]
    if order == 2:
        begin = jnp.outer(p0, start[0]) + jnp.outer(q0, start[1])
        second = jnp.zeros_like(f).at[:k].set(begin)
        rate = _rates(bands, g, second[:, condensed.given])
        rows = jnp.stack([rows[:, 0], jax.vmap(condensed.vector)(second)], axis=1)
    if condensed.n_given:
        a, d = rate - past(p, rate), c[:, None] * g + past(q, g)
        move = lambda a, d: condensed.moved(M, a) + condensed.moved(K, d)
        rows = rows.at[:, 0].add(-jax.vmap(move)(a, d))
    assert condensed.pattern is not None  # `fits` said so
    values = condensed.matrix(M), condensed.matrix(K)
    y, status, _ = march(condensed.pattern, *values, bands, rows, throw=system.throw)
    last = lambda a: a.reshape(n, method.n_stages, *a.shape[1:])[:, -1]
    y, g, rate = last(y), last(g), last(rate)
    expand = jax.vmap(condensed.expand)
    state = (expand(y[:, 0], g),)
    if order == 2:
        state = (*state, expand(y[:, 1], rate))
    return state, _first_failure(status.reshape(n, -1))


def _bands(method: Scheme, h, ratio) -> tuple[Bands, list[int]]:
    """The rows of all stages of all steps; and at which distances there are rates."""
    stages, S = method.stages(h, ratio), method.n_stages
    # The k-th known value of stage s is so many solves back.
    back = lambda s, k: k if k <= s + 1 else s + 1 + (k - s - 1) * S
    width = max(
        back(s, k) for s, stage in enumerate(stages) for k, _ in stage.values + stage.rates
    )
    spread = lambda a: jnp.broadcast_to(jnp.asarray(a, h.dtype), h.shape)
    p, q = (jnp.zeros((len(h), S, width), h.dtype) for _ in range(2))
    uses = set()
    for s, stage in enumerate(stages):
        for k, weight in stage.values:
            p = p.at[:, s, back(s, k) - 1].set(spread(weight))
        for k, weight in stage.rates:
            q = q.at[:, s, back(s, k) - 1].set(spread(weight))
            uses.add(back(s, k))
    c = jnp.stack([spread(stage.c) for stage in stages], axis=1)
    rows = lambda a: a.reshape(len(h) * S, *a.shape[2:])
    return Bands(rows(c), rows(p), rows(q)), sorted(uses)


def _times(method: Scheme, t, h) -> jax.Array:
    """t[0], and that of each stage of each step."""
    at = [stage.at for stage in method.stages(1.0, 1.0)]
    ends = [t[1:] if a == 1 else t[:-1] + a * h for a in at]
    return jnp.concatenate([t[:1], jnp.stack(ends, axis=1).ravel()])


def _data(system: Semidiscrete, t) -> tuple[jax.Array, jax.Array]:
    moment = system.at(t)
    return system.load(moment), moment.given


def _over_time(fn: Callable, times) -> list[Any]:
    """`fn(t)`, some arrays, at all times, stacked; what does not depend on t, once."""
    fn = jaxpr_as_fun(jax.make_jaxpr(fn)(times[0]))  # traced once, used up to three times
    moves = assembly.dependence(lambda t, _: fn(t), times[0], None)[:, 0]
    some = lambda t: [a for a, move in zip(fn(t), moves, strict=True) if move]
    found = iter(
        jax.lax.map(jax.checkpoint(some, prevent_cse=False), times) if moves.any() else []
    )
    once = moves if moves.all() else fn(times[0])
    spread = lambda a: jnp.broadcast_to(a, (len(times), *a.shape))
    return [next(found) if m else spread(a) for a, m in zip(once, moves, strict=True)]


def _before(weights, m: int) -> jax.Array:
    """For the first rows, the sums of the weights of what lies before the first."""
    rows = min(weights.shape[1], m)
    return jnp.stack([weights[j, j:].sum() for j in range(rows)])


def _rates(bands: Bands, g, second) -> jax.Array:
    """The rates v of given values g, from g - c v - Σ p g - Σ q v = second, `(m, k)`."""
    c, p, q = bands
    r = g - past(p, g) - second

    def row(olds, now):
        c, q, r = now
        v = (r - q @ olds) / c
        return jnp.concatenate([v[None], olds[:-1]]), v

    olds = jnp.zeros((q.shape[1], g.shape[1]), r.dtype)
    return jax.lax.scan(row, olds, (c, q, r))[1]


def _first_failure(status) -> jax.Array:
    first = jnp.argmax(status != 0, axis=1)
    return jnp.take_along_axis(status, first[:, None], axis=1)[:, 0]
