"""One JAX primitive through which every engine's operation is called by XLA.

An operation is a foreign function: a *target* known to XLA, with core shapes of its
results and number attributes. `vmap` does not loop: each level adds one leading axis
(of size 1 where an argument is not batched), and the handler walks the batch itself.
The primitive has no derivative: rules are put around it by `linear/solve.py` and
`engine/julia/function.py`, so a missing rule is an error, never a wrong number.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def call(
    target: str,
    *args,
    out: Sequence[jax.ShapeDtypeStruct],
    column_major: bool = False,
    **attributes: int,
) -> list[jax.Array]:
    """Calls `target` on arrays; `out` gives the results' shapes without batch axes.

    With `column_major`, XLA lays every array out with its *first* axis fastest (batch
    axes stay slowest), as Julia and Fortran have it; else the last axis is fastest.
    """
    return call_p.bind(
        *map(jnp.asarray, args),
        target=target,
        out=tuple((tuple(o.shape), np.dtype(o.dtype)) for o in out),
        column_major=column_major,
        attributes=tuple(sorted(attributes.items())),
        nbatch=0,
    )


call_p = Primitive("pyimplicit_call")
call_p.multiple_results = True


def batch_shape(avals, nbatch: int) -> tuple[int, ...]:
    """The common leading axes of arguments that have size 1 where not batched."""
    return np.broadcast_shapes(*(a.shape[:nbatch] for a in avals)) if avals else ()


@call_p.def_abstract_eval
def _abstract(*avals, out, nbatch, **_):
    batch = batch_shape(avals, nbatch)
    return [ShapedArray(batch + shape, dtype) for shape, dtype in out]


def add_batch_axis(args, dims):
    """Moves each argument's batch axis to the front; size 1 where it has none."""
    return [
        x[None] if d is None else jnp.moveaxis(x, d, 0)
        for x, d in zip(args, dims, strict=True)
    ]


def _batch(args, dims, *, nbatch, **params):
    results = call_p.bind(*add_batch_axis(args, dims), nbatch=nbatch + 1, **params)
    return results, [0] * len(results)


batching.primitive_batchers[call_p] = _batch


def _foreign(*args, target, out, column_major, attributes, nbatch):
    batch = batch_shape(args, nbatch)
    results = [jax.ShapeDtypeStruct(batch + shape, dtype) for shape, dtype in out]
    layout = functools.partial(_layout, nbatch=nbatch) if column_major else _default
    return jax.ffi.ffi_call(
        target,
        results,
        vmap_method="expand_dims",
        input_layouts=[layout(np.ndim(x)) for x in args],
        output_layouts=[layout(len(r.shape)) for r in results],
    )(*args, **{name: np.int64(value) for name, value in attributes})


def _layout(rank: int, nbatch: int) -> tuple[int, ...]:
    """Major to minor: batch axes first, then the core axes from last to first."""
    return (*range(nbatch), *reversed(range(nbatch, rank)))


def _default(rank: int) -> None:
    return None


mlir.register_lowering(
    call_p, mlir.lower_fun(_foreign, multiple_results=True), platform="cpu"
)


def _refuse(ctx, *args, target, **_):
    platforms = ", ".join(ctx.platforms or ctx.module_context.platforms)
    raise NotImplementedError(
        f"`{target}` runs on the CPU only.\nGot a computation for {platforms}.\n"
        "Put its arrays there with jax.device_put(x, jax.devices('cpu')[0]), or run "
        "under jax.default_device(jax.devices('cpu')[0])."
    )


mlir.register_lowering(call_p, _refuse)


@functools.lru_cache(maxsize=4096)
def _compiled(params):
    return jax.jit(functools.partial(call_p.bind, **dict(params)))


@call_p.def_impl
def _eager(*args, **params):
    return _compiled(tuple(sorted(params.items())))(*args)


def _no_derivative(*_, target, **__):
    raise NotImplementedError(
        f"`{target}` was differentiated, but has no derivative rule of its own.\n"
        "Call it through the function that wraps it (for example `sparse_solve`)."
    )


def _no_jvp(primals, tangents, *, target, **_):
    _no_derivative(target=target)


ad.primitive_jvps[call_p] = _no_jvp
ad.primitive_transposes[call_p] = _no_derivative
