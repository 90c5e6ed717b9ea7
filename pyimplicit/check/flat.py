"""A layer as a function of one real vector, with its derivatives compiled."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from .._tree import arrays, flatten, ravel
from ..diagnostics import _arrays, _kind


DIRECTIONS = 3


class Flat:
    """`fn` as f: R^n to R^m, around x = the floating numbers of `args`.

    A complex number is two real ones. `V`, `W`: three random vectors for x, as large as
    the arguments, and for f(x), in units of the results. `in_sizes`, `out_sizes`: how the
    leaves lie in x and f(x). `names`: of those in x. `eps`: the coarsest round-off among
    them. `no_jit`, `no_forward`, `no_reverse`: what tracing these raises, or None.

    The vectors are NumPy's: arithmetic with JAX's would be compiled, each shape anew.
    """

    def __init__(self, fn: Callable, args: tuple, seed: int):
        args = _arrays(args)
        paths, _ = tree_flatten_with_path(floating(args))
        if not sum(leaf.size for _, leaf in paths):
            raise TypeError(
                "`check_layer(fn, *args)` needs floating-point arrays in `args`.\n"
                f"Got {jax.tree.map(_kind, args)}.\n"
                "Convert integers with jnp.asarray(x, float)."
            )
        out = fn(*args)
        results = jax.tree.leaves(floating(out))
        if not sum(leaf.size for leaf in results):
            raise TypeError(
                "`check_layer(fn, *args)` needs floating-point arrays in the result.\n"
                f"Got {jax.tree.map(_kind, out)}.\nReturn what has a derivative."
            )
        inputs = [leaf for _, leaf in paths]
        self.names = [f"args{keystr(path)}" for path, _ in paths]
        self.eps = max(float(jnp.finfo(a.dtype).eps) for a in inputs + results)
        self.in_sizes, self.out_sizes = ([*map(reals, q)] for q in (inputs, results))
        self.out_shapes = [a.shape for a in results]
        x, unflatten = flatten(args)
        self.x = np.asarray(x)
        self.f = lambda x: ravel(floating(fn(*unflatten(x))))
        self.no_jit = None
        self.no_jit = self.refuses(self.f, self.x)
        y = np.asarray(self.value(self.x))
        rng = np.random.default_rng(seed)
        draw = lambda like: rng.standard_normal((DIRECTIONS, like.size)).astype(like.dtype)
        size, unit = sizes(self.x, self.in_sizes), sizes(y, self.out_sizes)
        self.V = draw(self.x) * np.where(size > 0, size, 1).astype(x.dtype)
        # In units of each result a small one counts as much as a large one; but one that
        # is round-off beside the others does not.
        unit = np.maximum(unit, self.eps**0.5 * np.max(unit))
        self.W = draw(y) / np.where(unit > 0, unit, 1).astype(y.dtype)
        self.no_forward = self.refuses(push(self.f), self.x, self.V[0])
        self.no_reverse = self.refuses(pull(self.f), self.x, self.W[0])

    def refuses(self, fn: Callable, *args) -> Exception | None:
        """What tracing and lowering `fn` raise; without jit, what running it raises."""
        try:
            self.compile(fn)(*args) if self.no_jit else jax.jit(fn).lower(*args)
        except Exception as error:
            return error

    def compile(self, fn: Callable) -> Callable:
        if self.no_jit is None:
            return eqx.filter_jit(fn)
        return lambda *args: fn(*map(jnp.asarray, args))

    def both(self, f: Callable) -> Callable:
        """(x, w) -> (f(x), Jᵀw); the latter without numbers if there is no reverse mode."""
        if self.no_reverse is None:
            return pull(f)
        return lambda x, w: (f(x), jnp.zeros((*x.shape[:-1], 0)))

    @functools.cached_property
    def value(self) -> Callable:
        return self.compile(self.f)

    @functools.cached_property
    def tangent(self) -> Callable:
        """(x, v) -> J v."""
        return self.compile(lambda x, v: push(self.f)(x, v)[1])

    @functools.cached_property
    def adjoint(self) -> Callable:
        """(x, w) -> (f(x), Jᵀw)."""
        return self.compile(self.both(self.f))

    @functools.cached_property
    def hessians(self) -> tuple:
        """(x, v, w) -> H v, forward over reverse and reverse over reverse; instead of one
        that is not there, its error."""
        slope = lambda x, w: pull(self.f)(x, w)[1]
        forward = lambda x, v, w: push(lambda x: slope(x, w))(x, v)[1]
        reverse = lambda x, v, w: jax.grad(lambda x: jnp.vdot(slope(x, w), v))(x)
        at = self.x, self.V[0], self.W[0]
        either = lambda h: self.no_reverse or self.refuses(h, *at) or self.compile(h)
        return either(forward), either(reverse)


def push(f: Callable) -> Callable:
    """(x, v) -> (f(x), J v)."""
    return lambda x, v: jax.jvp(f, (x,), (v,))


def pull(f: Callable) -> Callable:
    """(x, w) -> (f(x), Jᵀw)."""

    def both(x, w):
        y, back = jax.vjp(f, x)
        return y, back(w)[0]

    return both


def floating(tree):
    """The floating leaves of `tree`, as arrays."""
    return eqx.filter(arrays(tree), eqx.is_inexact_array)


def reals(leaf) -> int:
    """How many real numbers an array holds."""
    return leaf.size * (2 if jnp.iscomplexobj(leaf) else 1)


def sizes(x, of_leaves: list[int]):
    """The root mean square of the leaf that each number of `x` belongs to."""
    leaves = np.split(x, np.cumsum(of_leaves)[:-1])
    rms = [np.sqrt(np.mean(np.square(a, dtype=float))) if a.size else 0.0 for a in leaves]
    return np.repeat(rms, of_leaves)


def apart(a, b, sizes: list[int] | None = None, least: float = 0.0) -> float:
    """The largest ‖a - b‖ of the leaves, each relative to its own size, or to `least`."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    places = np.cumsum(sizes)[:-1].tolist() if sizes else []
    leaves = zip(np.split(a, places), np.split(b, places), strict=True)
    return float(np.max([_relative(p - q, p, q, least) for p, q in leaves]))


def unequal(a, b, least: float = 0.0) -> float:
    """|Σa - Σb| relative to the length of the terms: where they cancel, a sum is small
    and round-off is all of it."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return _relative(np.sum(a) - np.sum(b), a, b, least)


def _relative(difference, a, b, least: float) -> float:
    size = max(np.linalg.norm(a), np.linalg.norm(b), least)
    return float(np.linalg.norm(difference) / (size if size else 1.0))
