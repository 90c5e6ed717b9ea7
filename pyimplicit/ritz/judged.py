r"""A minimum on some nodes, judged on others.

On any nodes an energy has no lower bound: a function that jumps between them pays nothing
for its slope. Let y minimise f, an energy on one rule, with Hessian H; g is the energy on
another. A Newton step for g from y would change y by H⁻¹∇g, and ẏ, the derivative along ṗ,
by H⁻¹ d/dε ∇g(y + εẏ, p + εṗ), both zero if the rules agree. Directions that are cheap on
the first rule only have a large ∇g over a small H: they cannot hide.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .domains import Nodes, Rule


ALONE = 8  # numbers among the parameters that are varied one by one
MIXED = 4  # directions of random signs, if there are more
LEAST = 0.1  # derivatives that are smaller than so much of u are judged as a part of it


def apart(value: Callable, rules: Rule, y, params, size) -> jax.Array:
    """By how much another rule's minimum differs from y, relative to `size`, the norm of
    what y stands for, and its derivatives from those of y; the largest of all.

    `value(y, params, rule)`: the energy; y minimises it on the first of the `rules`, which
    `side_by_side` made. Derivatives along `directions` of the parameters, each relative to
    its own norm, or to a tenth of `size` if that is more. NaN where the Hessian is not
    positive definite.
    """
    moving, still = eqx.partition(params, eqx.is_inexact_array)
    p, unravel = ravel_pytree(moving)

    def slopes(y, p):
        params = eqx.combine(unravel(p), still)
        return jax.vmap(lambda rule: jax.grad(value)(y, params, rule))(rules)

    # All directions in one pass: y's, which make the Hessians, then those of p.
    (_, off), push = jax.linearize(slopes, y, p)
    r, ways = y.size, directions(moving, p.dtype)
    t_y = jnp.eye(r + len(ways), r, dtype=y.dtype)
    t_p = jnp.concatenate([jnp.zeros((r, p.size), p.dtype), ways])
    mine, other = jnp.moveaxis(jax.vmap(push)(t_y, t_p), 1, 0)
    H = (mine[:r] + mine[:r].T) / 2
    factor = jax.scipy.linalg.cho_factor(H)
    solve = lambda b: jax.scipy.linalg.cho_solve(factor, b.T).T
    dual = lambda b: jnp.sqrt(jnp.maximum(jnp.sum(b * solve(b), axis=-1), 0.0))
    loads = mine[r:]
    misses = other[r:] - solve(loads) @ other[:r]
    relative = dual(misses) / jnp.maximum(dual(loads), LEAST * size)
    return jnp.max(relative, initial=dual(off) / size)


def directions(params, dtype) -> jax.Array:
    """Where derivatives are judged: `(k, n)` for n numbers in `params`, raveled, times the
    size of each array (one, if it is zero).

    Each number of the smaller arrays alone, `ALONE` in all; if these are not all, also
    `MIXED` times random signs for every one. An error of the derivative in one direction
    of many then is seen as a part of all that these move, 1/√n or so.
    """
    leaves = jax.tree.leaves(params)
    if not leaves:
        return jnp.zeros((0, 0), dtype)
    sizes = [a.size for a in leaves]
    order, alone, left = np.argsort(sizes, kind="stable"), [], ALONE
    for i in order:
        if sizes[i] <= left:
            alone += list(sum(sizes[:i]) + np.arange(sizes[i]))
            left -= sizes[i]
    rows = np.eye(sum(sizes))[sorted(alone)]
    if len(alone) < sum(sizes):
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (MIXED, sum(sizes)))
        rows = np.concatenate([rows, signs])
    rms = lambda a: jnp.sqrt(jnp.mean(jnp.abs(a) ** 2))
    scale = lambda a: jnp.full(a.size, jnp.where(rms(a) > 0, rms(a), 1.0))
    return jnp.asarray(rows * jnp.concatenate([scale(a) for a in leaves]), dtype)


def side_by_side(*rules: Rule) -> Rule:
    """Rules as one with a leading axis: the shorter are filled with nodes of no weight."""

    def joined(*nodes: Nodes) -> Nodes:
        most = max(len(n.w) for n in nodes)
        fill = lambda a: jnp.concatenate([a, jnp.repeat(a[:1], most - len(a), 0)])
        full = [jax.tree.map(fill, n) for n in nodes]
        full = [
            f._replace(w=jnp.where(jnp.arange(most) < len(n.w), f.w, 0))
            for f, n in zip(full, nodes, strict=True)
        ]
        return jax.tree.map(lambda *a: jnp.stack(a), *full)

    return Rule(*(joined(*nodes) for nodes in zip(*rules, strict=True)))
