"""Pytrees as real vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def arrays(tree):
    """Numbers and NumPy arrays of `tree` as JAX arrays; other leaves as they are."""
    is_number = lambda a: isinstance(
        a, bool | int | float | complex | np.ndarray | np.generic
    )
    return jax.tree.map(lambda a: jnp.asarray(a) if is_number(a) else a, tree)


def ravel(tree) -> jax.Array:
    """The floating leaves of `tree`, one after the other, as one real vector; a complex
    leaf is its real parts followed by its imaginary parts."""
    floating = lambda a: jnp.issubdtype(jnp.result_type(a), jnp.inexact)
    leaves = [_reals(a) for a in jax.tree.leaves(tree) if floating(a)]
    if len(leaves) == 1:
        return leaves[0]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def flatten(tree):
    """`(y, unflatten)`: the unknowns of `tree` as a real vector, and the way back.

    Floating leaves are unknowns; all others are carried by `unflatten`, unchanged.
    """
    varied, fixed = eqx.partition(tree, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(varied)
    y = ravel(varied)
    if len(leaves) == 1 and leaves[0] is y:
        return y, lambda v: eqx.combine(jax.tree.unflatten(structure, [v]), fixed)
    kinds = [(a.shape, a.dtype) for a in leaves]
    sizes = [_size(*kind) for kind in kinds]
    places = np.cumsum(sizes)[:-1].tolist() if sizes else []

    def unflatten(v):
        pieces = [
            _leaf(p, *kind) for p, kind in zip(jnp.split(v, places), kinds, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(structure, pieces), fixed)

    return y, unflatten


def stop_gradient(tree):
    """`tree` with nothing to differentiate in it."""
    stop = lambda a: jax.lax.stop_gradient(a) if eqx.is_inexact_array(a) else a
    return jax.tree.map(stop, tree)


def is_natural(tree) -> bool:
    """Whether every leaf is a real floating array: solvers may work on it as it is."""
    floating = lambda a: eqx.is_array(a) and jnp.issubdtype(a.dtype, jnp.floating)
    return all(floating(a) for a in jax.tree.leaves(tree))


def _reals(a):
    a = jnp.asarray(a)
    if jnp.iscomplexobj(a):
        return jnp.concatenate([jnp.ravel(a.real), jnp.ravel(a.imag)])
    return a if a.ndim == 1 else jnp.ravel(a)


def _size(shape, dtype) -> int:
    return int(np.prod(shape)) * (2 if jnp.issubdtype(dtype, jnp.complexfloating) else 1)


def _leaf(v, shape, dtype):
    if jnp.issubdtype(dtype, jnp.complexfloating):
        re, im = jnp.split(v.astype(jnp.finfo(dtype).dtype), 2)
        return jax.lax.complex(re, im).reshape(shape)
    return v.reshape(shape).astype(dtype)
