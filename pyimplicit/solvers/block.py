"""Block coordinate descent with proximal steps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx

from .abstract import AbstractMapMinimiser
from .gradient import MOST_GROWTH, next_stepsize, still_growing
from .proximal import check_operator, gradient_step
from .tolerance import scaled_size


class LinearComposite(eqx.Module):
    """f(z, θ) = loss(A(θ) z, θ): a function of linear predictions.

    `matrix`: matrix(params), A as an array `(m, n)`. `loss`: loss(predictions, params), a
    scalar. z is one array `(n,)` or `(n, k)`; the predictions are `(m,)` or `(m, k)`.
    """

    matrix: Callable
    loss: Callable

    def __call__(self, z, params):
        return self.loss(self.matrix(params) @ z, params)


class BlockState(eqx.Module):
    stepsize: jax.Array  # (blocks,)
    growth: jax.Array
    size: jax.Array
    going: jax.Array


class BlockCoordinateDescent(AbstractMapMinimiser):
    """Minimises f(z, θ) + Σ ψ(z[i], θ), one block after the other.

    Block i is `z[i]`: the i-th slice along the first axis, which all arrays of z share.

    `prox`: prox(v, params, scaling) for one block, argmin_u scaling · ψ(u, params) +
    ½‖u - v‖², on pytrees like `z[i]` (the order of jaxopt's). `objective`: f once more, as
    a `LinearComposite`, if it is one. `rtol`, `atol`: it ends when what a sweep
    changes is within tolerance.

    A step is a sweep over all n blocks, each with a step size of its own that follows the
    curvature of f along the block; a block whose step is refused waits for the next
    sweep. **Cost of a sweep: n gradients of f; with `objective`, about two in all.**

    ??? cite "Reference"
        Tseng, *Convergence of a block coordinate descent method for nondifferentiable
        minimization* (2001). doi:10.1023/A:1017501703105
    """

    prox: Callable
    objective: LinearComposite | None = None
    rtol: Any = None
    atol: Any = None
    norm: Callable = optx.rms_norm

    def __check_init__(self):
        check_operator(self, "prox", "prox(v, params, scaling), for one block")
        if not (self.objective is None or isinstance(self.objective, LinearComposite)):
            raise TypeError(
                "`BlockCoordinateDescent(objective=...)` must be a LinearComposite.\n"
                f"Got {self.objective!r}.\nLeave it out for other functions."
            )

    def map(self, fn, z, params):
        blocks = gradient_step(fn, z, params)
        return jax.vmap(lambda v: self.prox(v, params, 1.0))(blocks)

    def init(self, fn, y, args, options, f_struct, aux_struct, tags):
        Z, *_ = _blocks(y)
        start = jnp.full(Z.shape[0], 1.0, Z.dtype)
        size = jnp.asarray(jnp.inf, Z.dtype)
        return BlockState(start, MOST_GROWTH * start, size, jnp.array(True))

    def step(self, fn, y, args, options, state, tags):
        Z, block_of, tree_of = _blocks(y)
        if self.objective is None:
            seen, gradient_of, moved = _general(fn, Z, tree_of, args)
        else:
            seen, gradient_of, moved = _linear(self.objective, fn, y, Z, args)

        def update(carry, i):
            Z, seen = carry
            s, z, g = state.stepsize[i], Z[i], gradient_of(seen, i)
            target = self.prox(block_of(z - s * g), args, s)
            d = _row(target).astype(Z.dtype) - z
            seen_next = moved(seen, Z, i, d)
            rise = gradient_of(seen_next, i) - g
            square = jax.lax.stop_gradient(jnp.sum(d * d))
            curvature = jnp.sum(d * rise) / jnp.where(square == 0, 1, square)
            ok, s, growth = next_stepsize(s, state.growth[i], curvature)
            ok = ok | ~jnp.all(jnp.isfinite(g))  # no use in waiting
            keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
            Z, seen = keep((Z.at[i].add(d), seen_next), (Z, seen))
            return (Z, seen), (d, ok, s, growth)

        (Z, seen), (d, ok, s, growth) = jax.lax.scan(
            update, (Z, seen), jnp.arange(Z.shape[0])
        )
        size = scaled_size(self, d.reshape(-1), Z.reshape(-1))
        fastest = jnp.max(state.growth)
        going = ~jnp.all(ok) | still_growing(fastest, size, state.size)
        y = tree_of(Z)
        return y, BlockState(s, growth, size, going), fn(y, args)[1]

    def terminate(self, fn, y, args, options, state, tags):
        return (state.size <= 1) & ~state.going, optx.RESULTS.successful

    def postprocess(self, fn, y, aux, args, options, state, tags, result):
        return y, aux, {}


def _general(fn, Z, tree_of, args):
    """What is known at Z: the whole gradient; and how it is used and renewed."""
    slope = jax.grad(lambda Z: fn(tree_of(Z), args)[0])
    return slope(Z), lambda G, i: G[i], lambda G, Z, i, d: slope(Z.at[i].add(d))


def _linear(objective, fn, y, Z, args):
    """What is known at Z: the predictions and the gradient of the loss in them."""
    A = objective.matrix(args)
    if jax.tree.structure(y) != jax.tree.structure(0) or A.shape[1:] != Z.shape[:1]:
        raise ValueError(
            "`LinearComposite` needs one array z with as many rows as A has columns.\n"
            f"Got A of shape {A.shape} and z = {jax.eval_shape(lambda: y)}.\n"
            "Leave `objective` out for other unknowns."
        )
    columns = A.T
    narrow = lambda P: P[:, 0] if y.ndim == 1 else P.reshape(P.shape[0], *y.shape[1:])
    slope = jax.grad(lambda P: objective.loss(narrow(P), args))
    P = A @ Z

    def gradient_of(seen, i):
        return columns[i] @ seen[1]

    def moved(seen, Z, i, d):
        P = seen[0] + columns[i][:, None] * d
        return P, slope(P)

    return (P, slope(P)), gradient_of, moved


def _blocks(y):
    """The blocks of y as rows of a matrix, a row as a block, and the matrix as y."""
    leaves, structure = jax.tree.flatten(y)
    counts = {a.shape[0] if a.ndim else None for a in leaves}
    if len(counts) != 1 or None in counts:
        raise ValueError(
            "`BlockCoordinateDescent` needs arrays with one first axis in common: the "
            f"blocks.\nGot shapes {[a.shape for a in leaves]}.\nStack the blocks."
        )
    (n,) = counts
    shapes = [a.shape[1:] for a in leaves]
    widths = [a[0].size for a in leaves]
    dtype = jnp.result_type(*leaves)
    Z = jnp.concatenate(
        [a.reshape(n, w).astype(dtype) for a, w in zip(leaves, widths, strict=True)], axis=1
    )

    def split(Z, front):
        ends = [sum(widths[: k + 1]) for k in range(len(widths) - 1)]
        parts = jnp.split(Z, ends, axis=-1)
        shaped = [
            p.reshape(*front, *shape).astype(a.dtype)
            for p, shape, a in zip(parts, shapes, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, shaped)

    return Z, lambda row: split(row, ()), lambda Z: split(Z, (n,))


def _row(block):
    return jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(block)])
