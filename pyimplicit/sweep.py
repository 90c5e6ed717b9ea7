r"""The derivative of a reversible iteration: a linear map, by a sweep along its steps.

The pairs (y, z) of `reversible.py` depend on the parameters θ of f. Forwards, the tangents
of (y, z) are carried along with them, from the start; backwards, the pairs are made again
from the last one, and the cotangents are pulled back through

    y' = (1 - β) y + β f(z)
    z' = (1 - β) z + β f(y')

with θ̄ = Σ (∂f/∂θ)ᵀ (cotangent of f's value), two terms a step.

Both are one primitive, linear in θ̇ and transposable. It knows of batches: each `vmap`
adds a leading axis to every argument, of size 1 where it is not batched, so that θ̄ of
weights that a batch shares is summed over the batch in each step. (As the rule of a
`jax.custom_vjp` it would be a θ̄ for each sample, and the sum at the very end: five times
as slow for 64 samples and 256² weights.)
"""

import dataclasses
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .engine.call import add_batch_axis, batch_shape
from .engine.failure import fail_unless_zero
from .implicit import moving_parts
from .linear.checked import accepted_residual
from .solvers.tolerance import where


DRIFTED = (
    "pyimplicit.fixed_point: `Reversible` lost the iterates to round-off on its way back, "
    "so its gradient would be wrong: (a) raise `anchors`; (b) stop earlier: raise "
    "`rtol` and `atol`; (c) use double precision, or the adjoint pi.Implicit()"
)
SECOND = (
    "`Reversible` has first derivatives only.\nGot a second one.\nUse pi.Implicit() for "
    "Hessians."
)


class Trace(eqx.Module):
    """What is kept of the iteration: its start and end, their distance in steps, and
    `anchors[i]`, the pair after i · `stride` steps."""

    y0: jax.Array
    pair: tuple[jax.Array, jax.Array]
    steps: jax.Array
    anchors: jax.Array  # (slots, 2, n)
    beta: jax.Array
    stride: jax.Array


def forth(f, pair, beta):
    y, z = pair
    y = (1 - beta) * y + beta * f(z)
    return y, (1 - beta) * z + beta * f(y)


@eqx.filter_custom_jvp
def traced(trace: Trace, theta, throw: bool):
    """The last z of `trace`, differentiable in `theta`: a pair, f and its parameters."""
    del theta, throw
    return trace.pair[1]


@traced.def_jvp
def _traced_jvp(primals, tangents):
    trace, theta, throw = primals
    moving, fixed, t_moving = moving_parts(theta, tangents[1])
    held, still = eqx.partition(fixed, eqx.is_array)
    moving, held, kept = (jax.tree.flatten(a) for a in (moving, held, trace))
    form = _Form(moving[1], held[1], kept[1], still, bool(throw))
    known = *moving[0], *held[0], *kept[0]
    t_z = sweep_p.bind(*known, *jax.tree.leaves(t_moving), form=form, nbatch=0)
    return trace.pair[1], t_z


@dataclasses.dataclass(frozen=True, eq=False)
class _Form:
    """How the primitive's arguments are to be read."""

    moving: Any
    held: Any
    trace: Any
    still: Any
    throw: bool

    def read(self, args, nbatch: int):
        """`(f, θ, trace, θ̇)`: f(θ, y) on arrays with `nbatch` leading axes, θ a list of
        arrays; the trace has all of the batch."""
        counts = [tree.num_leaves for tree in (self.moving, self.held, self.trace)]
        ends = [sum(counts[: i + 1]) for i in range(3)]
        theta, held, kept = (
            args[: ends[0]],
            args[ends[0] : ends[1]],
            args[ends[1] : ends[2]],
        )
        batch = batch_shape([a for a in args if not ad.is_undefined_primal(a)], nbatch)
        full = lambda a: jnp.broadcast_to(a, batch + a.shape[nbatch:])
        trace = jax.tree.unflatten(self.trace, map(full, kept))

        def one(theta, held, y):
            fixed = eqx.combine(jax.tree.unflatten(self.held, held), self.still)
            fn, params = eqx.combine(jax.tree.unflatten(self.moving, theta), fixed)
            return fn(y, params)

        for _ in range(nbatch):
            one = _over_batch(one)
        return lambda theta, y: one(theta, held, y), list(theta), trace, args[ends[2] :]


def _over_batch(fn):
    def run(theta, held, y):
        axes = lambda a: 0 if a.shape[0] == y.shape[0] else None
        core = lambda a: a if axes(a) == 0 else a[0]
        of = lambda leaf: ([leaf(a) for a in theta], [leaf(a) for a in held])
        return jax.vmap(fn, (*of(axes), 0))(*of(core), y)

    return run


def _tangent(*args, form: _Form, nbatch: int):
    f, theta, trace, t_theta = form.read(args, nbatch)
    beta, steps = trace.beta[..., None], trace.steps[..., None]
    start = 2 * (trace.y0,)

    def body(carry):
        count, pair, t_pair = carry
        step = lambda theta, pair: forth(lambda y: f(theta, y), pair, beta)
        after = jax.jvp(step, (theta, pair), (list(t_theta), t_pair))
        return count + 1, *where(count < steps, after, (pair, t_pair))

    nothing = jax.tree.map(jnp.zeros_like, start)
    going = lambda carry: carry[0] < jnp.max(steps)
    *_, t_pair = jax.lax.while_loop(
        going, body, (jnp.array(0, steps.dtype), start, nothing)
    )
    return t_pair[1]


def _pulled_back(ct_z, f, theta, trace: Trace, throw: bool):
    """θ̄, by the sweep back. Samples join in at their last step. At an anchor the sweep is
    set right again; by how far it was off is its drift, in units of what counts for the
    cotangents that are left."""
    beta, steps, y0 = trace.beta[..., None], trace.steps[..., None], trace.y0
    stride = jnp.max(trace.stride)
    length = lambda a: jnp.linalg.norm(a, axis=-1, keepdims=True)
    size = lambda pair: length(pair[0]) + length(pair[1])
    scale, whole = length(y0) + size(trace.pair), length(ct_z)
    scale = jnp.where(scale == 0, 1.0, scale)  # all pairs are zero, f(0) = 0

    def body(carry):
        count, pair, cts, ct_theta, lost = carry
        live = (count <= steps) & (whole != 0)
        slot, rest = (count - 1) // stride, (count - 1) % stride
        anchor = jax.lax.dynamic_index_in_dim(trace.anchors, slot, -3, keepdims=False)
        keep = lambda i, a: jnp.where(rest == 0, anchor[..., i, :], a)
        at = lambda y: jax.vjp(f, theta, jnp.where(live, y, y0))
        (y, z), (ct_y, ct_z) = pair, cts
        f_y, pull_y = at(y)
        z_found = (z - beta * f_y) / (1 - beta)
        z = keep(1, z_found)
        f_z, pull_z = at(z)
        y_found = (y - beta * f_z) / (1 - beta)
        y = keep(0, y_found)
        drift = size((y_found - y, z_found - z)) / scale
        drift = drift * jnp.minimum(size(cts) / whole, 1.0)
        lost = jnp.where(live, jnp.maximum(lost, jnp.nan_to_num(drift, nan=jnp.inf)), lost)
        by_y, more_y = pull_y(jnp.where(live, beta * ct_z, 0.0))
        ct_y = ct_y + more_y
        by_z, more_z = pull_z(jnp.where(live, beta * ct_y, 0.0))
        cts_new = (1 - beta) * ct_y, (1 - beta) * ct_z + more_z
        ct_theta = jax.tree.map(lambda *a: sum(a), ct_theta, by_y, by_z)
        return count - 1, *where(live, ((y, z), cts_new), (pair, cts)), ct_theta, lost

    zeros = jax.tree.map(jnp.zeros_like, (ct_z, theta, whole))
    start: Any = jnp.max(steps), trace.pair, (zeros[0], ct_z), *zeros[1:]
    *_, ct_theta, lost = jax.lax.while_loop(lambda c: c[0] > 0, body, start)
    bad = ~(lost <= accepted_residual(y0.dtype))
    if throw:
        return fail_unless_zero(ct_theta, bad[..., 0], ("", DRIFTED))
    # NaN where it belongs: pulled back itself.
    poison = jnp.where(bad, jnp.nan, jnp.zeros_like(y0))
    more, _ = jax.vjp(f, theta, y0)[1](poison)
    return jax.tree.map(jnp.add, ct_theta, more)


sweep_p = Primitive("pyimplicit_sweep")
sweep_p.def_impl(_tangent)
mlir.register_lowering(sweep_p, mlir.lower_fun(_tangent, multiple_results=False))


@sweep_p.def_abstract_eval
def _abstract(*avals, form, nbatch):
    place = form.moving.num_leaves + form.held.num_leaves
    y0 = avals[place]
    return ShapedArray(batch_shape(avals, nbatch) + y0.shape[nbatch:], y0.dtype)


def _transpose(ct, *args, form, nbatch):
    wanted = [ad.is_undefined_primal(a) for a in args]
    f, theta, trace, _ = form.read(args, nbatch)
    if type(ct) is ad.Zero:
        return [None] * len(args)
    theta = eqxi.nondifferentiable(theta, msg=SECOND)  # the trace has no derivatives
    ct_theta = _pulled_back(ct, f, theta, trace, form.throw)
    ct_args = [None] * (len(args) - len(theta)) + ct_theta
    return [c if w else None for c, w in zip(ct_args, wanted, strict=True)]


def _jvp(primals, tangents, *, form, nbatch):
    n = form.moving.num_leaves
    if any(type(t) is not ad.Zero for t in tangents[:-n]):
        raise NotImplementedError(SECOND)
    t_theta = map(ad.instantiate_zeros, tangents[-n:])
    bind = lambda theta: sweep_p.bind(*primals[:-n], *theta, form=form, nbatch=nbatch)
    return bind(primals[-n:]), bind(t_theta)


def _batch(args, dims, *, form, nbatch):
    n = form.moving.num_leaves
    args = add_batch_axis(args, dims)
    theta, t_theta = args[:n], args[-n:]
    both = [jnp.broadcast_arrays(*pair) for pair in zip(theta, t_theta, strict=True)]
    args = [a for a, _ in both] + args[n:-n] + [t for _, t in both]
    return sweep_p.bind(*args, form=form, nbatch=nbatch + 1), 0


ad.primitive_jvps[sweep_p] = _jvp
ad.primitive_transposes[sweep_p] = _transpose
batching.primitive_batchers[sweep_p] = _batch
