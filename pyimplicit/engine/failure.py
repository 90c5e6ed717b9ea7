"""Raising at run time, from inside compiled code, with the message and nothing else.

XLA calls a handler that raises. It stands in the branch of a `cond` that is taken only
on failure, so a solve that succeeds pays for one comparison.
"""

import functools

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np

from . import abi
from .call import call


_TARGET = "pyimplicit_fail"
_tables: dict[tuple[str, ...], int] = {}  # messages, and the number XLA knows them by


def fail_unless_zero(x, code, messages: tuple[str, ...]):
    """Returns the pytree of arrays `x`; raises `messages[code]` where `code` is not 0.

    Under `vmap` one failed sample is enough, and the message says which it was.
    Its derivative is the identity in `x`.
    """
    number = _tables.setdefault(tuple(messages), len(_tables))
    _register()
    leaves, structure = jax.tree.flatten(x)
    leaves = _guarded(leaves, jnp.asarray(code, jnp.int32), number, tuple(messages))
    return jax.tree.unflatten(structure, leaves)


@eqx.filter_custom_jvp
def _guarded(leaves, code, number, messages):
    ways = {
        "cpu": functools.partial(_fail, number),
        "default": functools.partial(_elsewhere, messages),
    }
    failed = eqxi.unvmap_any(code != 0)
    return jax.lax.cond(
        failed,
        lambda code, leaves: jax.lax.platform_dependent(code, leaves, **ways),
        lambda _, leaves: leaves,
        code,
        leaves,
    )


@_guarded.def_jvp
def _guarded_jvp(primals, tangents):
    return _guarded(*primals), tangents[0]


def _fail(number: int, code, leaves):
    struct = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in leaves]
    return call(_TARGET, code, out=struct, table=number)


def _elsewhere(messages, code, leaves):
    return eqx.branched_error_if(leaves, code != 0, code, list(messages))


@functools.cache
def _register() -> None:
    abi.register_python(_TARGET, _handler)


def _handler(inputs, outputs, attributes):
    del outputs
    (codes,) = inputs
    messages = next(m for m, k in _tables.items() if k == attributes["table"])
    (failed,) = np.nonzero(np.ravel(codes))
    where = np.unravel_index(failed[0], codes.shape) if codes.ndim else ()
    place = ", ".join(str(int(i)) for i in where)
    number = f" (sample {place} of the batch; {failed.size} failed)" if place else ""
    raise RuntimeError(messages[int(np.ravel(codes)[failed[0]])] + number)
