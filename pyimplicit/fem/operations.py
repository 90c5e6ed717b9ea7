"""What the operations of a function say about its results, whatever the numbers are."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal


class Kind(enum.IntEnum):
    """How a value depends on an argument p."""

    ZERO = 0  # it is zero
    UNIFORM = 1  # not at all, and its entries are equal
    FREE = 2  # not at all
    MULTIPLE = 3  # it is s p, with a number s
    VANISHES = 4  # it is zero where p is
    ANY = 5  # in another way, or in one that is not known


# Operations that move the entries of one array, add arrays, and call functions
_MOVES = {"broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "neg"}
_MOVES |= {"optimization_barrier", "reshape", "squeeze", "transpose"}
_SUMS = {"add", "add_any", "sub"}
_CALLS = {"closed_call", "custom_jvp_call", "jit", "pjit"}


def kinds(fn, p: tuple, given: tuple[Kind, ...], *others) -> list[Kind]:
    """The kind of each leaf of `fn(p, *others)`, for leaves of p that are of the kinds
    `given`."""
    closed = jax.make_jaxpr(fn)(p, *others)
    rest = closed.jaxpr.invars[len(given) :]
    return _through(closed.jaxpr, [*given, *map(_free, rest)])


def _free(value) -> Kind:
    return _free_of(value.aval)


def _free_of(aval) -> Kind:
    return Kind.UNIFORM if aval.size == 1 else Kind.FREE


def _through(jaxpr, ins: list[Kind]) -> list[Kind]:
    known = dict(zip(jaxpr.invars, ins, strict=True))
    known |= {v: _free(v) for v in jaxpr.constvars}

    def of(v):
        if isinstance(v, Literal):
            return _free(v) if np.any(v.val) else Kind.ZERO
        return known[v]

    for equation in jaxpr.eqns:
        kinds = list(map(of, equation.invars))
        if equation.primitive.name in _CALLS:
            inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
            found = _through(inner.jaxpr, kinds)
        else:
            found = [_one(equation, kinds, out.aval) for out in equation.outvars]
        known |= dict(zip(equation.outvars, found, strict=True))
    return list(map(of, jaxpr.outvars))


def _one(equation, kinds: list[Kind], out) -> Kind:
    """The kind of the result of one operation."""
    name = equation.primitive.name
    if not kinds:  # e.g. iota
        return _free_of(out)
    product, zero = name in ("mul", "dot_general"), Kind.ZERO in kinds
    if zero and (product or (max(kinds) == Kind.ZERO and name in _MOVES | _SUMS)):
        return Kind.ZERO
    if max(kinds) <= Kind.FREE:
        even = name in _MOVES | _SUMS | {"mul", "div"} and Kind.FREE not in kinds
        return Kind.UNIFORM if even or out.size == 1 else Kind.FREE
    if name in _SUMS:
        terms = {k for k in kinds if k > Kind.ZERO}
        return max(terms) if min(terms) >= Kind.MULTIPLE else Kind.ANY
    moved = [i for i, k in enumerate(kinds) if k > Kind.FREE]
    linear = product or name in _MOVES or (name == "div" and moved == [0])
    if name == "reduce_sum" or not linear or len(moved) > 1:
        return max(kinds[0], Kind.VANISHES) if name == "reduce_sum" else Kind.ANY
    if not jnp.issubdtype(out.dtype, jnp.inexact):
        return Kind.ANY
    before = equation.invars[moved[0]].aval
    whole = out.size == before.size
    if name == "dot_general":
        whole &= not any(equation.params["dimension_numbers"][0])
    if sum(n > 1 for n in before.shape) > 1:  # its entries must keep their order
        whole &= out.shape == before.shape and name not in ("dot_general", "transpose")
    even = whole and Kind.FREE not in kinds
    return kinds[moved[0]] if even else max(kinds[moved[0]], Kind.VANISHES)
