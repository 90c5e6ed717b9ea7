r"""The directions of a network's parameters that its function feels, each of length one."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from .domains import Rule
from .functional import Discrete, Functional


ALIKE = 2.0  # by what factor two rules may differ on the length of a direction


class Degeneracy(NamedTuple):
    """How well the layer is determined at some p.

    `parameters`: of the network. `rank`: directions that are kept. `kept`, `dropped`: the
    least eigenvalue of G above the cutoff and the largest below, as parts of the largest
    of all. `curvature`: the least and the largest eigenvalue of the Hessian in y; near 1
    if the family is nearly flat, and not positive, or NaN, if the point is no minimum: then
    do not use its derivatives. `missed`: ½ Σ gᵢ²/λᵢ over what is below the cutoff, the
    energy that these directions might have gained (λᵢ taken at least 1e-15 of the largest).
    `apart`: by how much other nodes differ, see `accuracy` of `layer`. `disputed`:
    directions that are left out, as these nodes find them of twice or half the length.
    """

    parameters: int
    rank: int
    kept: float
    dropped: float
    curvature: tuple[float, float]
    missed: float
    apart: float
    disputed: int


class Tangents(eqx.Module):
    """`basis`: U, `(p, r)`, UᵀGU = I with the metric G on the first of two rules.
    `spectrum`: of G, `(p,)`, ascending. `above`: how many eigenvalues are above the cutoff;
    `disputed`: of these, directions that are left out as the second rule finds them more
    than `ALIKE` times as long or as short: such functions lie between nodes."""

    basis: jax.Array
    spectrum: jax.Array
    above: int = eqx.field(static=True)
    disputed: int = eqx.field(static=True)


def tangents(f: Functional, rules: Rule, theta: jax.Array, cutoff: float) -> Tangents:
    """Those at θ, on the two `rules` that `side_by_side` made. Eigenvalues of G below
    `cutoff` times the largest are dropped; of energies with a `mass` also the direction of
    u itself, along which nothing changes but its length."""
    on = lambda rule: Discrete(f, rule, 0)
    metrics = jax.jit(
        lambda theta: jax.lax.map(
            lambda rule: (on(rule).gram(theta), jax.grad(on(rule).square)(theta) / 2), rules
        )
    )
    (G, other), (along_u, _) = metrics(theta)
    values, vectors = jnp.linalg.eigh(G)
    kept = values > cutoff * values[-1]
    basis = vectors[:, kept] / jnp.sqrt(values[kept])
    squares, axes = jnp.linalg.eigh(basis.T @ other @ basis)
    alike = (squares > 1 / ALIKE**2) & (squares < ALIKE**2)
    basis, disputed = basis @ axes[:, alike], int((~alike).sum())
    if f.energy.mass is not None and basis.shape[1]:
        axes, _ = jnp.linalg.qr((along_u @ basis)[:, None], mode="complete")
        basis = basis @ axes[:, 1:]
    if not basis.shape[1]:
        raise ValueError(
            "`ritz.layer` must keep at least one direction of the parameters.\n"
            f"Got none of {len(values)}: {int(kept.sum())} are above the `cutoff`, and "
            f"other nodes find {disputed} of these of another length.\nTake more nodes, a "
            "smaller `cutoff` or a wider network."
        )
    return Tangents(basis, values, int(kept.sum()), disputed)
