"""From an interior point's answer to the exact one: the active set and a linear solve.

With the right active set the optimality conditions are linear. The set is guessed by
z > s, the conditions are solved, and rows whose multiplier came out negative leave, rows
that are violated enter (primal-dual active set method: Hintermüller, Ito, Kunisch 2002,
doi:10.1137/S1052623401383558), a few times at most. An answer is taken only if it meets
all conditions to about 1e-10; else the interior point's stays.
"""

from typing import Any, NamedTuple

import equinox.internal as eqxi
import jax
import jax.numpy as jnp

from .matrices import largest, product, row_extent, tproduct
from .qp_data import QP
from .qp_kkt import KKT, Sets, condense, refined, residual
from .qp_strict import negligible, shares


ROUNDS = 6


class Polished(NamedTuple):
    x: jax.Array
    y: jax.Array
    z: jax.Array
    sets: Sets
    L: Any  # the condensed factor at the active set
    polished: jax.Array
    error: jax.Array  # the largest violation of a condition, relative to its terms


def polish(qp: QP, x, y, z, guess, valid, rounds: Any = ROUNDS) -> Polished:
    """`guess`: the rows thought active. `valid`: whether (x, y, z) is near a solution; if
    not nothing is tried. `rounds`: how many sets are tried at most."""
    live, fixed = qp.live, qp.fixed
    tol = float(jnp.finfo(x.dtype).eps) ** 0.65
    size = sizes(qp, x)
    live = live & (size.widest > 0)  # a row of zeros is never active
    guess = fixed | (live & guess)
    none = jnp.zeros_like(live)

    def attempt(active):
        K = KKT.of(qp, Sets(active, none))
        L: Any = condense(K)
        start = x, y, jnp.where(active, z, 0.0)
        r = jnp.concatenate(residual(start, (qp, Sets(active, none))))
        v, _ = refined(K, L, -r)
        return tuple(a + b for a, b in zip(start, K.split(v), strict=True)), L

    def judge(point, active):
        x, y, z = point
        at = measure(qp, x, y, z, size)
        wrong = jnp.where(live, jnp.where(active, -at.z, -at.s), 0.0)
        off = jnp.where(active, jnp.abs(at.s), wrong)
        error = jnp.maximum(at.error, jnp.max(jnp.maximum(off, wrong), initial=0.0))
        better = fixed | (live & jnp.where(active, at.z > 0, at.s < 0))
        return jnp.where(jnp.isfinite(error), error, jnp.inf), better

    def body(carry):
        _, active, _, _, k, _ = carry
        new, L = attempt(active)
        error, better = judge(new, active)
        done = error <= tol
        return new, jnp.where(done, active, better), L, error, k + 1, done

    infinite = jnp.full((), jnp.inf, x.dtype)
    # An array or a `SparseOperator`; only its shape is used, so nothing is computed.
    empty = jax.tree.map(jnp.zeros_like, condense(KKT.of(qp, Sets(guess, none))))
    start = (x, y, z), guess, empty, infinite, jnp.int32(0), ~valid
    going = lambda c: ~c[5] & (c[4] < rounds)
    point, active, L, error, _, done = jax.lax.while_loop(going, body, start)
    done = done & valid
    keep = lambda a, b: jnp.where(done, a, b)
    x, y, z = jax.tree.map(keep, point, (x, y, jnp.where(live | fixed, z, 0.0)))
    active = keep(active, guess)
    z = jnp.where(active, z, keep(jnp.zeros_like(z), z))
    at = measure(qp, x, y, z, size)
    # Slack and multiplier both nothing: to round-off where polished, else of one size.
    slack, force = shares(qp, x, y, z, size.reach)
    few = negligible(z.size, x.dtype)
    exact = (jnp.abs(slack) <= few) & (jnp.abs(force) <= few)
    small = float(jnp.finfo(x.dtype).eps) ** 0.25
    alike = (at.z <= 1e2 * at.s) & (at.s <= 1e2 * at.z) & (at.z + at.s <= small)
    weak = live & keep(exact, alike)
    sets = Sets(active & ~weak, weak)
    made = done & ~jnp.any(weak)
    pick = lambda a, b: jnp.where(made, a, b)
    anew = lambda: jax.tree.map(pick, L, condense(KKT.of(qp, sets)))
    L = jax.lax.cond(eqxi.unvmap_all(made), lambda: L, anew)
    return Polished(x, y, z, sets, L, done, keep(error, judge((x, y, z), active)[0]))


class Measures(NamedTuple):
    """Slacks, multipliers and the largest error of an equation, each relative to the
    terms it is the sum of."""

    s: jax.Array
    z: jax.Array
    error: jax.Array


class Sizes(NamedTuple):
    """What round-off is measured by. `reach`: a size of unknowns, not zero because the
    solution happens to be; of each row of C the largest entry, and reach times the sum of
    its entries (of A: the latter)."""

    reach: jax.Array
    widest: jax.Array
    total: jax.Array
    total_A: jax.Array


def sizes(qp: QP, x) -> Sizes:
    top = lambda v: jnp.max(jnp.abs(v), initial=0.0)
    P, (widest, total) = largest(qp.P), row_extent(qp.C.G)
    free = jnp.where(P > 0, top(qp.q) / jnp.where(P > 0, P, 1.0), 0.0)
    h = jnp.where(qp.live, qp.d, 0.0)[: qp.C.m]
    reach = top(x) + free + top(h / jnp.where(widest > 0, widest, 1.0))
    box = jnp.ones(qp.d.size - qp.C.m, x.dtype)
    widest, total = jnp.concatenate([widest, box]), jnp.concatenate([total, box])
    return Sizes(reach, widest, reach * total, reach * row_extent(qp.A)[1])


def measure(qp: QP, x, y, z, size: Sizes) -> Measures:
    top = lambda v: jnp.max(jnp.abs(v), initial=0.0)
    tiny = jnp.finfo(x.dtype).tiny ** 0.5
    bound = qp.live | qp.fixed
    d = jnp.where(bound, qp.d, 0.0)
    s = jnp.where(bound, d - qp.C.mul(x), jnp.inf)
    Px, Cz = product(qp.P, x), qp.C.tmul(z)
    Ay = tproduct(qp.A, y) if y.size else jnp.zeros_like(x)
    force = jnp.max(jnp.stack([top(Px), top(qp.q), top(Cz), top(Ay)])) + tiny
    error = top(Px + qp.q + Cz + Ay) / force
    if y.size:
        off = (product(qp.A, x) - qp.b) / (jnp.abs(qp.b) + size.total_A + tiny)
        error = jnp.maximum(error, top(off))
    return Measures(s / (jnp.abs(d) + size.total + tiny), z * size.widest / force, error)
