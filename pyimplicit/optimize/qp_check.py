"""Quadratic programmes as they are given: shapes, precision, what can be seen at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._tree import arrays
from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from ..linear.solve import raw_solve
from .matrices import cholesky


CHECKED = 1000  # unknowns up to which an untraced P is checked for being convex


def prepare(name: str, P, q, A, b, G, h, lb, ub):
    """The arguments as floating arrays of one precision and checked shapes; absent rows
    have shape (0, n), absent bounds stay None, an absent P is zero (sparse: stays None)."""
    given = {"P": P, "q": q, "A": A, "b": b, "G": G, "h": h, "lb": lb, "ub": ub}
    sparse = any(isinstance(v, SparseOperator) for v in given.values())
    keep = lambda v: v is None or isinstance(v, SparseOperator)
    given = {k: v if keep(v) else arrays(v) for k, v in given.items()}
    if given["q"] is None or jnp.ndim(given["q"]) != 1:
        raise ValueError(
            f"`{name}(q=...)` must be a vector.\nGot {_said(given['q'])}.\n"
            f"For a batch of programmes use jax.vmap over pi.{name}."
        )
    n = given["q"].shape[0]
    for rows, side in (("A", "b"), ("G", "h")):
        if (given[rows] is None) != (given[side] is None):
            raise ValueError(
                f"`{name}({rows}=..., {side}=...)` go together.\nGot {rows}: "
                f"{_said(given[rows])}, {side}: {_said(given[side])}.\n"
                "Give both or neither."
            )
        if given[rows] is None:
            given[rows], given[side] = jnp.zeros((0, n)), jnp.zeros(0)
    if given["P"] is None and not sparse:
        given["P"] = jnp.zeros((n, n))
    m, p = (jnp.size(given[side]) for side in ("h", "b"))
    wanted = {"P": (n, n), "A": (p, n), "b": (p,), "G": (m, n), "h": (m,)}
    for key in ("lb", "ub"):
        value, wanted[key] = given[key], (n,)
        if value is not None and value.ndim == 0:
            given[key] = jnp.broadcast_to(value, (n,))
    for key, shape in wanted.items():
        if given[key] is not None and _shape(given[key]) != shape:
            raise ValueError(
                f"`{name}({key}=...)` must have shape {shape}: {n} unknowns (the length of "
                f"q), {p} equalities (of b), {m} inequalities (of h).\n"
                f"Got {_said(given[key])}.\nFor a batch of programmes use jax.vmap."
            )
    numbers = {k: _numbers(v) for k, v in given.items() if v is not None}
    dtype = jnp.result_type(*(v for v in numbers.values() if v.size), jnp.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` takes real numbers.\nGot {dtype}.\nWrite complex unknowns as real "
            "and imaginary parts."
        )
    check_values(name, numbers)
    return tuple(_cast(v, dtype) for v in given.values())


def _shape(value):
    if not isinstance(value, SparseOperator):
        return jnp.shape(value)
    return value.pattern.shape[::-1] if value.transposed else value.pattern.shape


def _numbers(value):
    return value.values if isinstance(value, SparseOperator) else value


def _cast(value, dtype):
    if isinstance(value, SparseOperator):
        return SparseOperator(value.pattern, value.values.astype(dtype), value.transposed)
    return None if value is None else value.astype(dtype)


NO_BOUND = "inf in h, ub, -inf in lb"


def check_values(name: str, given: dict, no_bound: str = NO_BOUND) -> None:
    """What can be said before any solve of values that are not traced."""
    seen = {
        k: np.asarray(v)
        for k, v in given.items()
        if v is not None and not isinstance(v, Tracer) and isinstance(v, jax.Array)
    }
    for key, value in seen.items():
        allowed = np.isfinite(value)
        if key in ("h", "ub"):
            allowed |= value == np.inf
        elif key == "lb":
            allowed |= value == -np.inf
        if not allowed.all():
            where = tuple(int(i) for i in np.argwhere(~allowed)[0])
            raise ValueError(
                f"`{name}({key}=...)` must be finite (no bound: {no_bound})."
                f"\nGot {value[where]} at {where}.\nLook where it comes from, e.g. with "
                "jax.config.update('jax_debug_nans', True)."
            )
    if (
        "lb" in seen
        and "ub" in seen
        and (bad := np.flatnonzero(seen["lb"] > seen["ub"])).size
    ):
        j = int(bad[0])
        raise ValueError(
            f"`{name}` needs lb <= ub.\nGot lb = {seen['lb'][j]}, ub = {seen['ub'][j]} for "
            f"unknown {j}.\nSwap them; equal bounds fix an unknown."
        )
    if "P" in seen and seen["P"].ndim == 2 and 0 < len(seen["P"]) <= CHECKED:
        P = (seen["P"] + seen["P"].T) / 2
        low = np.linalg.eigvalsh(P)[0]
        if low < -indefinite_below(P.dtype) * max(abs(P).max(), 1e-300):
            raise ValueError(
                f"`{name}(P=...)` must be positive semidefinite: its symmetric part."
                f"\nGot a smallest eigenvalue of {low:.3g}.\nFor a minimum that is not "
                "global use pi.minimize; for a maximum change signs."
            )


def indefinite_below(dtype) -> float:
    """Eigenvalues below minus this part of the largest entry are no round-off."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def definite(P):
    """Whether the symmetric P, an array or a `SparseOperator`, has no eigenvalue that is
    negative beyond round-off."""
    values = _numbers(P)
    shift = indefinite_below(values.dtype) * jnp.max(jnp.abs(values), initial=0.0)
    shift = shift + jnp.finfo(values.dtype).tiny ** 0.5
    if not isinstance(P, SparseOperator):
        L = cholesky(P + shift * jnp.eye(len(P), dtype=P.dtype))
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(L)]))
    pattern = SparsePattern(P.pattern.rows, P.pattern.cols, P.pattern.shape, "spd")
    values = values + jnp.where(pattern.rows == pattern.cols, shift, 0.0)
    zero = jnp.zeros(pattern.shape[0], values.dtype)
    _, status, _ = raw_solve(pattern, values, zero, False, throw=False)
    return status == 0


def _said(value) -> str:
    return "nothing" if value is None else f"shape {_shape(value)}"
