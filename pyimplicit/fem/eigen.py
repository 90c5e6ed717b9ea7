r"""Eigenpairs K u = λ M u of symmetric forms, differentiable where they are simple.

The smallest ones by subspace iteration with (K - σM)⁻¹M and Rayleigh-Ritz (Bathe, Wilson
1973). Derivative: implicit, of the system

    F(u, λ) = ( K u - λ M u,  (1 - uᵀM u)/2 ) = 0,

whose Jacobian [[K - λM, -M u], [-(M u)ᵀ, 0]] is regular if and only if λ is simple. With
b = -M u its systems A x + b y = f, bᵀx = g are solved after Nelson (1976, doi:10.2514/
3.7211): y = uᵀf / uᵀb since uᵀA = 0, then A x = f - b y with one unknown held at zero, then
the multiple of u that is missing.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from ..engine.failure import fail_unless_zero
from ..implicit import Linearisation, attach
from ..linear import SparsePattern, sparse_solve
from ..linear.lineax_parts import FullRankSolver, declare
from ..linear.solve import raw_solve
from .problem import Problem


class Eigenpairs(NamedTuple):
    """`values`: `(k,)`, ascending. `vectors`: `(k, *V.shape)`, with uᵀM u = 1."""

    values: jax.Array
    vectors: Any


FAILED = (
    "",
    "eigenpairs: the subspace iteration did not converge: (a) more steps are needed: raise "
    "`max_steps`; (b) the eigenvalues near the last one are close: ask for a few more",
    "eigenpairs: an eigenvalue is not simple, so the eigenvectors have no derivative: "
    "break the symmetry of the problem, differentiate the sum of equal eigenvalues by "
    "`multiple=True`, or ask for fewer",
)


def eigenpairs(
    stiffness: Problem,
    mass: Problem,
    k: int,
    coefficients: dict | None = None,
    mass_coefficients: dict | None = None,
    *,
    shift: float = 0.0,
    rtol: float = 1e-10,
    max_steps: int = 200,
    multiple: bool = False,
) -> Eigenpairs:
    """The `k` eigenpairs K u = λ M u whose λ are nearest to `shift`, which must be below
    them all (or between two).

    `stiffness`, `mass`: problems on one space with the same Dirichlet boundaries, linear,
    with symmetric forms; their values are taken as zero. `coefficients`,
    `mass_coefficients`: as in `Problem.solve`. The sign of u makes its largest entry
    positive.

    **Derivative** in the coefficients, any order, both modes, of simple eigenvalues and
    their vectors. `multiple=True`: eigenvalues may be multiple; only `values` have
    derivatives then (of first order, and right for sums over equal ones).

    **Errors** at run time where the iteration does not converge, or (without `multiple`)
    where an eigenvalue is not simple.
    """
    K, pattern = stiffness.matrix(coefficients)
    M, other = mass.matrix(mass_coefficients)
    if other != pattern:
        raise ValueError(
            "`eigenpairs(stiffness, mass, ...)` must get problems on one space with the "
            f"same conditions and structure.\nGot {pattern} and {other}.\n"
            "Give both the same `dirichlet` and `structure`."
        )
    n = pattern.shape[0]
    if not 1 <= k < n:
        raise ValueError(
            f"`eigenpairs(k=...)` must lie in 1..{n - 1}.\nGot {k}.\n"
            "There are as many eigenpairs as free unknowns."
        )
    dtype = jnp.result_type(K, M)
    K, M = K.astype(dtype), M.astype(dtype)
    still = jax.lax.stop_gradient((K, M))
    values, vectors, code = _subspace(pattern, *still, k, shift, rtol, max_steps)
    if not multiple:
        gaps = jnp.diff(values) / jnp.abs(values[1:])
        code = jnp.where((code == 0) & (gaps.min(initial=1.0) < 1e-7), 2, code)
    values, vectors = fail_unless_zero((values, vectors), code, FAILED)
    if multiple:
        with_derivative = jax.vmap(
            lambda value, u: (
                (u @ pattern.matvec(K, u) - value * (u @ pattern.matvec(M, u)))
                + jax.lax.stop_gradient(value)
            )
        )
        values = with_derivative(values, vectors)
    else:
        pair = lambda value, u: _pair(pattern, K, M, value, u)
        values, vectors = jax.vmap(pair)(values, vectors)
    zero = jnp.zeros(stiffness.n_given, dtype)
    expand = lambda u: stiffness.V.split(stiffness.expand(u, zero))
    fields = jax.vmap(expand)(vectors)
    return Eigenpairs(values, fields[0] if len(fields) == 1 else fields)


def _subspace(pattern: SparsePattern, K, M, k: int, shift, rtol, max_steps: int):
    n, p = pattern.shape[0], min(pattern.shape[0], max(2 * k, k + 8))
    times = lambda values, X: jax.vmap(
        lambda x: pattern.matvec(values, x), in_axes=1, out_axes=1
    )(X)
    general = SparsePattern(pattern.rows, pattern.cols, pattern.shape, "symmetric")
    shifted = K - shift * M
    start = np.random.default_rng(0).normal(size=(n, p))

    def ritz(X):
        # (K - σM) x = θ M x in the subspace; 1/θ is large where λ is near the shift.
        A, B = X.T @ times(shifted, X), X.T @ times(M, X)
        L = jnp.linalg.cholesky(B)
        half = lambda C: jax.scipy.linalg.solve_triangular(L, C, lower=True)
        theta, Y = jnp.linalg.eigh(half(half(A).T))
        order = jnp.argsort(jnp.abs(theta))
        Y = jax.scipy.linalg.solve_triangular(L.T, Y[:, order], lower=False)
        return theta[order], X @ Y

    def step(carry):
        X, old, steps, _ = carry
        Z = sparse_solve(general, shifted, times(M, X))
        Z = jnp.linalg.qr(Z)[0]
        theta, X = ritz(Z)
        error = times(shifted, X[:, :k]) - times(M, X[:, :k]) * theta[:k]
        size = jnp.linalg.norm(times(K, X[:, :k]), axis=0)
        change = jnp.abs(theta[:k] - old) / jnp.abs(theta[:k])
        done = jnp.all(jnp.linalg.norm(error, axis=0) <= 10 * rtol * size) | (
            jnp.all(change <= 1e-3 * rtol) & (steps > 5)
        )
        return X, theta[:k], steps + 1, done

    going = lambda c: ~c[3] & (c[2] < max_steps)
    first = jnp.asarray(start, K.dtype), jnp.zeros(k, K.dtype), 0, jnp.array(False)
    X, theta, _, done = jax.lax.while_loop(going, step, first)
    order = jnp.argsort(theta)
    values, vectors = theta[order] + shift, X[:, :k].T[order]
    largest = jnp.take_along_axis(
        vectors, jnp.abs(vectors).argmax(axis=1, keepdims=True), axis=1
    )
    return values, vectors * jnp.sign(largest), jnp.where(done, 0, 1)


def _pair(pattern: SparsePattern, K, M, value, u):
    def residual(z, params):
        u, value = z
        K, M = params
        Mu = pattern.matvec(M, u)
        return pattern.matvec(K, u) - value * Mu, (1 - u @ Mu) / 2

    def jacobian(z, params):
        u, value = z
        K, M = params
        return Bordered(pattern, K - value * M, u, -pattern.matvec(M, u))

    how = Linearisation(solver=Nelson(), jacobian=jacobian)
    u, value = attach((u, value), residual, (K, M), how)
    return value, u


class Bordered(lx.AbstractLinearOperator):
    """[[A, b], [bᵀ, 0]] for a symmetric A with A u = 0, as a lineax operator."""

    pattern: SparsePattern = eqx.field(static=True)
    values: jax.Array
    null: jax.Array
    border: jax.Array

    def mv(self, vector):
        x, y = vector[:-1], vector[-1]
        top = self.pattern.matvec(self.values, x) + self.border * y
        return jnp.append(top, self.border @ x)

    def as_matrix(self):
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(jnp.eye(len(self.null) + 1))

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct((len(self.null) + 1,), self.values.dtype)

    out_structure = in_structure


declare(Bordered, symmetric=lambda operator: True, definite=lambda operator: False)


class Nelson(FullRankSolver):
    """Solves with a `Bordered` operator by one sparse factorisation."""

    def init(self, operator, options):
        return operator

    def compute(self, state: Bordered, vector, options):
        pattern, u, b = state.pattern, state.null, state.border
        f, g = vector[:-1], vector[-1]
        y = (u @ f) / (u @ b)
        held = jnp.arange(len(u)) == jnp.argmax(jnp.abs(u))
        rows, cols = held[pattern.rows], held[pattern.cols]
        diagonal = jnp.asarray(pattern.rows == pattern.cols)
        scale = jnp.abs(state.values).max()
        values = jnp.where(rows | cols, jnp.where(diagonal, scale, 0.0), state.values)
        general = SparsePattern(pattern.rows, pattern.cols, pattern.shape, "symmetric")
        rest = jnp.where(held, 0.0, f - b * y)
        x, status, _ = raw_solve(general, values, rest, False, False)
        x = x + u * (g - b @ x) / (b @ u)
        result = lx.RESULTS.where(status == 0, lx.RESULTS.successful, lx.RESULTS.singular)
        return jnp.append(x, y), result, {}

    def transpose(self, state, options):
        return state, options

    def conj(self, state, options):
        return state, options
