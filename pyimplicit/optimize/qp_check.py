"""Quadratic programmes as they are given: shapes, precision, and what can be seen at once."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._tree import arrays


CHECKED = 1000  # unknowns up to which an untraced P is checked for being convex


def prepare(name: str, P, q, A, b, G, h, lb, ub):
    """The arguments as floating arrays of one precision and checked shapes; absent rows
    have shape (0, n), absent bounds stay None."""
    given = {"P": P, "q": q, "A": A, "b": b, "G": G, "h": h, "lb": lb, "ub": ub}
    given = {k: arrays(v) if v is not None else None for k, v in given.items()}
    if given["q"] is None or jnp.ndim(given["q"]) != 1:
        raise ValueError(
            f"`{name}(q=...)` must be a vector.\nGot {_shape(given['q'])}.\n"
            f"For a batch of programmes use jax.vmap over pi.{name}."
        )
    n = given["q"].shape[0]
    for rows, side in (("A", "b"), ("G", "h")):
        if (given[rows] is None) != (given[side] is None):
            raise ValueError(
                f"`{name}({rows}=..., {side}=...)` go together.\nGot {rows}: "
                f"{_shape(given[rows])}, {side}: {_shape(given[side])}.\nGive both or neither."
            )
        if given[rows] is None:
            given[rows], given[side] = jnp.zeros((0, n)), jnp.zeros(0)
    m, p = (jnp.size(given[side]) for side in ("h", "b"))
    wanted = {"P": (n, n), "A": (p, n), "b": (p,), "G": (m, n), "h": (m,)}
    for key in ("lb", "ub"):
        if given[key] is not None:
            given[key] = (
                jnp.broadcast_to(given[key], (n,)) if given[key].ndim == 0 else given[key]
            )
            wanted[key] = (n,)
    for key, shape in wanted.items():
        if given[key].shape != shape:
            raise ValueError(
                f"`{name}({key}=...)` must have shape {shape}: q has {n} entries"
                f"{'' if key in ('P', 'lb', 'ub') else ' and there are as many rows as right-hand sides'}"
                f".\nGot {given[key].shape}.\nFor a batch of programmes use jax.vmap."
            )
    dtype = jnp.result_type(
        *(v for v in given.values() if v is not None and v.size), jnp.float32
    )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"`{name}` takes real numbers.\nGot {dtype}.\nWrite complex unknowns as real and "
            "imaginary parts."
        )
    given = {k: None if v is None else v.astype(dtype) for k, v in given.items()}
    check_values(name, given)
    return tuple(given.values())


def check_values(name: str, given: dict) -> None:
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
                f"`{name}({key}=...)` must be finite (no bound: +inf in h and ub, -inf in lb)."
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
    if "P" in seen and 0 < seen["P"].shape[0] <= CHECKED:
        P = (seen["P"] + seen["P"].T) / 2
        (
            low,
            *_,
        ) = np.linalg.eigvalsh(P)
        if low < -indefinite_below(P.dtype) * max(abs(P).max(), 1e-300):
            raise ValueError(
                f"`{name}(P=...)` must be positive semidefinite (the symmetric part counts)."
                f"\nGot a smallest eigenvalue of {low:.3g}.\nFor a minimum that is not "
                "global use pi.minimize; for a maximum change signs."
            )


def indefinite_below(dtype) -> float:
    """Eigenvalues below minus this part of the largest entry are no round-off."""
    return float(jnp.finfo(dtype).eps) ** 0.5


def _shape(value) -> str:
    return "nothing" if value is None else f"shape {jnp.shape(value)}"
