r"""The optimality conditions of a quadratic programme, reduced to its active set.

With the active rows 𝒜 of C x ≤ d known, the solution (x, y, z) is a root of

    F = [ P x + q + Aᵀy + Cᵀz_on ]         ∂F/∂(x, y, z) = [ P    Aᵀ  Cᵀ·col ]
        [ A x - b                ]                         [ A    0   0      ]
        [ C x - d  on 𝒜, else z  ]                         [ row·C  0  diag  ]

z_on is z on 𝒜 and zero elsewhere (where z is zero): so the matrix is symmetric, and the
tangent and the adjoint solve are one and the same. It is never assembled: adding ρI and
-δI (scalars, relative to P and C) makes it quasi-definite, which condenses to one n x n
Cholesky factor, that of the last step of the solve; refinement against F's own matrix
then takes ρ and δ out again. Should it not converge, or rows be weakly active (see
`Sets`), the pseudo-inverse answers, by an SVD that only those who need it pay for; of a
large sparse matrix without one, see `qp_weak`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx

from ..linear.operator import SparseDirect, SparseOperator
from .matrices import cholesky, cholesky_solve, largest, product, tproduct
from .pseudo_inverse import close, pseudo_inverse
from .qp_assemble import assembled
from .qp_data import QP, Rows
from .qp_weak import least_norm


PSEUDO = 2000  # unknowns up to which a sparse programme takes an SVD for it


class Sets(eqx.Module):
    """Which rows of C x ≤ d hold with equality, as booleans.

    `active`: with a positive multiplier; `weak`: with a zero one.
    """

    active: jax.Array
    weak: jax.Array


def residual(point, given: tuple[QP, Sets], weak_rows: bool = False):
    """F. Rows of weakly active constraints are 0 = 0, or, with `weak_rows`, C x - d."""
    x, y, z = point
    qp, sets = given
    rows = sets.active | sets.weak if weak_rows else sets.active
    z_on = jnp.where(sets.active | sets.weak, z, 0.0)
    r_x = product(qp.P, x) + qp.q + qp.C.tmul(z_on)
    r_x = r_x + tproduct(qp.A, y) if y.size else r_x
    r_y = product(qp.A, x) - qp.b if y.size else y
    rest = jnp.where(sets.weak, 0.0, z)
    return r_x, r_y, jnp.where(rows, qp.C.mul(x) - qp.d, rest)


class KKT(lx.AbstractLinearOperator):
    """The matrix above, on vectors (x, y, z)."""

    P: Any
    A: Any
    C: Rows
    row: jax.Array
    col: jax.Array
    weak: jax.Array
    diag: jax.Array

    @classmethod
    def of(cls, qp: QP, sets: Sets, weak_rows: bool = False):
        on = sets.active | sets.weak
        row = on if weak_rows else sets.active
        diag = jnp.where(on, 0.0, jnp.ones_like(qp.d))
        return cls(qp.P, qp.A, qp.C, row, on, sets.weak, diag)

    @property
    def sizes(self) -> tuple[int, int]:
        p = (
            self.A.pattern.shape[0]
            if isinstance(self.A, SparseOperator)
            else self.A.shape[0]
        )
        return self.C.shape[1], p

    def split(self, v):
        n, p = self.sizes
        return v[:n], v[n : n + p], v[n + p :]

    def mv(self, vector):
        x, y, z = self.split(vector)
        out = product(self.P, x) + self.C.tmul(jnp.where(self.col, z, 0.0))
        out = out + tproduct(self.A, y) if y.size else out
        below = jnp.where(self.row, self.C.mul(x), 0.0) + self.diag * z
        return jnp.concatenate([out, product(self.A, x) if y.size else y, below])

    def as_matrix(self):
        eye = jnp.eye(self.in_size(), dtype=self.diag.dtype)
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(eye)

    def transpose(self):
        return KKT(self.P, self.A, self.C, self.col, self.row, self.weak, self.diag)

    def in_structure(self):
        size = sum(self.sizes) + self.C.size
        return jax.ShapeDtypeStruct((size,), self.diag.dtype)

    def out_structure(self):
        return self.in_structure()


for _predicate in (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
):
    _predicate.register(KKT, lambda operator: False)


def scales(K: KKT):
    """ρ and δ: small against P and against the constraints."""
    reg = float(jnp.finfo(K.diag.dtype).eps) ** 0.55
    p, g = largest(K.P), jnp.maximum(largest(K.A), largest(K.C.G))
    g = jnp.maximum(g, 1.0) if K.C.lower or K.C.upper else g
    g = jnp.where(g > 0, g, 1.0)
    p = jnp.where(p > 0, p, g)
    return reg * p, reg * g**2 / p


def condense(K: KKT):
    """The Cholesky factor of P + ρI + AᵀA/δ + Cᵀ diag(w) C; of sparse matrices a matrix,
    this or a larger one, that the engine factorises: see `assembled`."""
    rho, delta = scales(K)
    if isinstance(K.P, SparseOperator):
        return assembled(K, rho, delta, _weights(K, delta))
    H = K.P + rho * jnp.eye(K.P.shape[0], dtype=K.P.dtype)
    H = H + K.A.T @ K.A / delta if K.A.shape[0] else H
    return cholesky(K.C.gram(_weights(K, delta), H))


def _weights(K: KKT, delta):
    return jnp.where(K.row, 1 / (delta - K.diag), 0.0)


def refined(K: KKT, L, b):
    """`(v, error)`: K v = b by the condensed factor and refinement; ‖K v - b‖/‖b‖.

    Where K is singular and b in its range, v is the solution of least norm: the null
    space of K is that of x times that of (y, z), on which ρ and δ act as scalars, so no
    step leaves its complement.
    """
    _, delta = scales(K)
    w = _weights(K, delta)

    (n, p), m = K.sizes, K.C.m
    solve = lambda r: (
        SparseDirect().compute(L, r, {})[0]
        if isinstance(L, SparseOperator)
        else cholesky_solve(L, r)
    )
    whole = isinstance(L, SparseOperator) and L.pattern.shape[0] > n

    def approximate(b):
        b_x, b_y, b_z = K.split(b)
        if whole:
            on = w[:m] > 0
            r = b_x + K.C.tmul((w * b_z).at[:m].set(0.0))
            v = solve(jnp.concatenate([r, b_y, jnp.where(on, b_z[:m], 0.0)]))
            x, y, z_G = v[:n], v[n : n + p], v[n + p :]
        else:
            r = b_x + K.C.tmul(w * b_z)
            r = r + tproduct(K.A, b_y) / delta if b_y.size else r
            x = solve(r)
            y = (product(K.A, x) - b_y) / delta if b_y.size else b_y
            z_G, on = b_z[:0], w[:0] > 0
        rest = jnp.where(K.diag == 0, 0.0, b_z / jnp.where(K.diag == 0, 1.0, K.diag))
        z = jnp.where(K.row, w * (K.C.mul(x) - b_z), rest)
        z = z.at[: on.size].set(jnp.where(on, z_G, z[: on.size]))
        return jnp.concatenate([x, y, z])

    norm = jnp.linalg.norm
    size = jnp.where(norm(b) > 0, norm(b), 1.0)

    eps = float(jnp.finfo(b.dtype).eps)

    def body(carry):
        v, r, error, last, k, _ = carry
        step = approximate(r)
        new, length = v + step, norm(step)
        r_new = b - K.mv(new)
        after = norm(r_new) / size
        better = after < error  # false for NaN
        keep = lambda a, b: jnp.where(better, a, b)
        # Steps shrink geometrically: the next one's length is known. (The residual alone
        # says little of directions in which K is small.)
        coming = length * jnp.where(last > 0, length / jnp.where(last > 0, last, 1.0), 1.0)
        going = better & (after < 0.7 * error) & (after > 4 * eps)
        going = going & (coming > eps**0.7 * norm(new))
        return keep(new, v), keep(r_new, r), keep(after, error), length, k + 1, going

    zero = jnp.zeros_like(b)
    start = zero, b, norm(b) / size, norm(zero), jnp.int32(0), norm(b) > 0
    v, _, error, *_ = jax.lax.while_loop(lambda c: c[5] & (c[4] < 30), body, start)
    return v, error


class KKTSolver(lx.AbstractLinearSolver):
    """Solves with a `KKT`: by its condensed factor `L` (made anew if None) and `refine`;
    where that fails or rows are weakly active by the pseudo-inverse."""

    L: object = None
    refine: Callable = eqx.field(static=True, default=refined)

    def init(self, operator: Any, options):
        del options
        return operator, condense(operator) if self.L is None else self.L

    def compute(self, state, vector, options):
        del options
        K, L = state
        v, error = self.refine(K, L, vector)
        bad = ~(error <= close(vector.dtype)) | jnp.any(K.row != K.col)
        if vector.size > PSEUDO and isinstance(L, SparseOperator):
            pseudo = lambda: self._weakly(K, L, vector)
        else:
            pseudo = lambda: pseudo_inverse(K.as_matrix(), vector)
        w, ok = jax.lax.cond(eqxi.unvmap_any(bad), pseudo, lambda: (v, ~bad))
        v = jnp.where(bad, w, v)
        result = lx.RESULTS.where(~bad | ok, lx.RESULTS.successful, lx.RESULTS.singular)
        return v, result, {}

    def _weakly(self, K: KKT, L, vector):
        strict, none = K.row & K.col, jnp.zeros_like(K.weak)
        diag = jnp.where(K.row != K.col, 1.0, K.diag)
        regular = KKT(K.P, K.A, K.C, strict, strict, none, diag)
        solve = lambda b: refined(regular, L, b)
        return least_norm(K, solve, vector, close(vector.dtype))

    def transpose(self, state, options):
        K, L = state
        return (K.transpose(), L), options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return False
