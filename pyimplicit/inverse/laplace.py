r"""The posterior near its mode: a normal distribution, low-rank, matrix-free.

With the Hessian H of the misfit at the MAP estimate m and the prior's precision R, the
Laplace approximation is N(m, (H + R)⁻¹). Data inform few directions: with the largest
eigenpairs H v = λ R v, VᵀRV = I,

    (H + R)⁻¹ = R⁻¹ - V Λ/(1 + Λ) Vᵀ + O(Σ over the rest of λ/(1 + λ)).

The eigenpairs come from a randomised double pass: with Q an R-orthonormal basis of the
range of R⁻¹HΩ for a random Ω, they are those of QᵀHQ. It costs two products with H and
two solves with R for each direction, and never forms a matrix.

??? cite "Reference"
    Villa, Petra, Ghattas, *hIPPYlib*, ACM Trans. Math. Softw. 47 (2021).
    doi:10.1145/3428447. Saibaba, Lee, Kitanidis, *Randomized algorithms for generalized
    Hermitian eigenvalue problems*, Numer. Linear Algebra Appl. 23 (2016), Algorithm 6.
    doi:10.1002/nla.2026
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .objective import check_misfit, near


# Columns that are pushed through the model together.
BATCH = 32
# First number of directions if `rank` is not given; it doubles.
FIRST, OVERSAMPLE = 24, 10


class LaplacePosterior(eqx.Module):
    """N(m, Γ) with Γ⁻¹ = H + beta R. A pytree.

    `mean`: m. `eigenvalues`: λ `(r,)`, decreasing; a direction with λ = 1 is known by the
    data as well as by the prior. `vectors`: V `(n, r)`, of the flattened model.
    """

    mean: Any
    eigenvalues: jax.Array
    vectors: jax.Array
    prior: Any  # quadratic
    beta: float

    def precision(self, v):
        """Γ⁻¹ v for v like the model."""
        Rv, unravel = self._R(v)
        V, l = self.vectors, self.eigenvalues
        return unravel(Rv + self._R(unravel(V @ (l * (V.T @ Rv))))[0])

    def covariance(self, v):
        """Γ v for v like the model."""
        flat, unravel = ravel_pytree(v)
        solved = ravel_pytree(self.prior.solve(v))[0] / self.beta
        V, l = self.vectors, self.eigenvalues
        return unravel(solved - V @ (l / (1 + l) * (V.T @ flat)))

    def sample(self, key, n: int | None = None):
        """A draw from N(m, Γ), or n draws, stacked."""
        if n is not None:
            return jax.vmap(self.sample)(jax.random.split(key, n))
        draw = self.prior.sample(key, self.mean)
        s, unravel = ravel_pytree(draw)
        s = s / jnp.sqrt(self.beta)
        V = self.vectors
        # (I - V P VᵀR) s with (1 - P)² = 1/(1 + Λ) has the covariance R⁻¹ - V Λ/(1+Λ) Vᵀ
        P = 1 - 1 / jnp.sqrt(1 + self.eigenvalues)
        s = s - V @ (P * (V.T @ self._R(unravel(s))[0]))
        return unravel(ravel_pytree(self.mean)[0] + s)

    def variance(self, observe: Callable | None = None):
        """The pointwise variance, like the model; or that of each entry of the vector
        `observe(m)`, for a linear function `observe`, e.g. a point evaluation.

        It is exact for Γ, with one solve of R's for each entry (one factorisation).
        """
        flat, unravel = ravel_pytree(self.mean)
        model = flat if observe is None else observe(self.mean)

        def one(unit):
            if observe is None:
                v = unravel(unit)
            else:
                (v,) = jax.linear_transpose(observe, self.mean)(unit)
            return jnp.vdot(ravel_pytree(v)[0], ravel_pytree(self.covariance(v))[0])

        if model.ndim != 1:
            raise ValueError(
                "`variance(observe)` must get a function whose result is a vector.\n"
                f"Got shape {model.shape}.\nFlatten it."
            )
        at = lambda i: one(jnp.zeros_like(model).at[i].set(1))
        found = jax.jit(lambda: jax.lax.map(at, jnp.arange(model.size), batch_size=256))()
        return found if observe is not None else unravel(found)

    def information_gain(self) -> jax.Array:
        """The Kullback-Leibler divergence of the posterior from the prior. [nat]"""
        l = self.eigenvalues
        slope = self.prior.gradient(self.mean)  # R (m - m̂)
        back = ravel_pytree(self.prior.solve(slope))[0]
        distance = self.beta * jnp.vdot(ravel_pytree(slope)[0], back)
        return 0.5 * (jnp.sum(jnp.log1p(l) - l / (1 + l)) + distance)

    def _R(self, v):
        flat, unravel = ravel_pytree(v)
        return self.beta * ravel_pytree(self.prior.apply(v))[0].astype(flat.dtype), unravel


def laplace_posterior(
    misfit: Callable,
    m: Any,
    prior: Any,
    *,
    beta: float = 1.0,
    rank: int | None = None,
    exact: bool = False,
    smallest: float = 1e-2,
    key=None,
) -> LaplacePosterior:
    """The normal distribution that the posterior is near its mode m.

    **Arguments:**

    - `misfit`, `prior`, `beta`: as given to `fit`, with its result's `beta`; a density
      exp(-misfit(m) - beta prior(m)) is meant.
    - `m`: the MAP estimate, `fit(...).m` (without a target; without bounds: for a positive
      field fit its logarithm).
    - `rank`: how many eigenpairs; by default as many as have λ ≥ `smallest`.
    - `exact`: take the true Hessian of the misfit, not JᵀJ of Gauss-Newton. A scalar
      misfit is always taken so.
    - `key`: of JAX, for the random directions.

    **Errors:** `ValueError` on misfit arguments, and where an eigenvalue is at most -1:
    then m is no minimum.
    """
    num_data = check_misfit(misfit, m)
    for name in ("apply", "solve"):
        if not hasattr(prior, name):
            raise TypeError(
                "`laplace_posterior(prior=...)` must have the methods apply and solve.\n"
                f"Got {type(prior).__name__} without {name}.\n"
                "Pass the prior that the fit had."
            )
    if not 0 < beta < np.inf or (rank is not None and rank < 1):
        raise ValueError(
            "`laplace_posterior(beta, rank)` must be positive and finite.\n"
            f"Got beta = {beta}, rank = {rank}.\nTake the beta of the fit's result."
        )
    m = jax.tree.map(jnp.asarray, m)
    quadratic = near(prior, m)
    flat, unravel = ravel_pytree(m)
    key = jax.random.key(0) if key is None else key
    kind = "scalar" if num_data is None else "exact" if exact else "gauss-newton"
    pencil = _Pencil(misfit, unravel, quadratic, float(beta), kind)
    n = flat.size
    size = min(n, (FIRST if rank is None else rank) + OVERSAMPLE)
    while True:
        values, vectors = jax.jit(pencil.eigenpairs, static_argnums=2)(flat, key, size)
        enough = size == n or float(values[size - OVERSAMPLE]) < smallest
        if rank is not None or enough:
            break
        size = min(n, 2 * size)
    values = np.asarray(values)
    if not np.isfinite(values).all() or values.min(initial=0) <= -1:
        raise ValueError(
            "`laplace_posterior(misfit, m)` must be taken where the misfit and the prior "
            "together have a minimum.\n"
            f"Got an eigenvalue {values.min():.3g} of the Hessian against the prior.\n"
            "Fit with a smaller `rtol`, or take exact=False."
        )
    keep = int(np.sum(values >= smallest)) if rank is None else min(rank, n)
    return LaplacePosterior(
        m, jnp.asarray(values[:keep]), vectors[:, :keep], quadratic, float(beta)
    )


class _Pencil:
    """H and beta R at one m, of flat vectors."""

    def __init__(self, misfit, unravel, prior, beta: float, kind: str):
        self.misfit, self.unravel, self.prior = misfit, unravel, prior
        self.beta, self.kind = beta, kind

    def hessian(self, x) -> Callable:
        """v -> H v, linearised once."""
        flat = lambda x: ravel_pytree(self.misfit(self.unravel(x)))[0].astype(x.dtype)
        if self.kind == "gauss-newton":
            _, push = jax.linearize(flat, x)
            pull = jax.linear_transpose(push, x)
            return lambda v: pull(push(v))[0]

        def value(x):
            r = flat(x)
            return r[0] if self.kind == "scalar" else 0.5 * jnp.vdot(r, r)

        return jax.linearize(jax.grad(value), x)[1]

    def eigenpairs(self, x, key, size: int):
        """The `size` largest eigenvalues and their vectors `(n, size)`, R-orthonormal."""
        onto = lambda f: lambda v: ravel_pytree(f(self.unravel(v)))[0].astype(x.dtype)
        batch = lambda f: lambda W: jax.lax.map(f, W.T, batch_size=BATCH).T
        H = batch(self.hessian(x))
        R = batch(lambda v: self.beta * onto(self.prior.apply)(v))
        solve = batch(lambda v: onto(self.prior.solve)(v) / self.beta)
        if size == x.size:
            Q = jnp.eye(size, dtype=x.dtype)
        else:
            Q = solve(H(jax.random.normal(key, (x.size, size), x.dtype)))
        Q = _orthonormal(R, Q)
        T = Q.T @ H(Q)
        values, S = jnp.linalg.eigh((T + T.T) / 2)
        order = functools.partial(jnp.flip, axis=-1)
        return order(values), order(Q @ S)


def _orthonormal(R: Callable, Y):
    """An R-orthonormal basis of the range of Y, by QR, then Cholesky twice."""
    Y, _ = jnp.linalg.qr(Y)
    for _ in range(2):
        L = jnp.linalg.cholesky(Y.T @ R(Y))
        Y = jax.scipy.linalg.solve_triangular(L, Y.T, lower=True).T
    return Y
