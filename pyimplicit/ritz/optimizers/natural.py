r"""Energy natural gradients: Newton's method in function space, seen by the parameters.

The step s solves (G + δ I) s = -∇I, with G the second variation of the energy pulled back
to parameters (`functional`). For a quadratic energy u_θ + ∂u/∂θ s is the best
approximation of the minimiser in the tangent space of the model, in the energy norm.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from ...linear import Dense, MatrixFree
from .abstract import AbstractOptimizer, info


class NaturalGradient(AbstractOptimizer):
    r"""Energy natural gradient descent, with a line search on a logarithmic grid.

    **Arguments:**

    - `gram`: `pi.Dense()`, G as a matrix, for up to some 2,000 parameters; or
      `pi.MatrixFree()`, products only, with conjugate gradients.
    - `damping`: values of δ, as parts of the mean diagonal of G. All are tried and the
      best step is taken; with `MatrixFree` each costs a run of conjugate gradients.
    - `lengths`: step lengths that are tried: 1, 1/2, …, 2^(1 - lengths). The one of
      least energy is taken, none if all increase it.
    - `max_products`, `rtol`: of the conjugate gradients.

    G is singular wherever parameters are redundant: damping makes the step unique, not
    the function. For energies that are not convex D²e may be indefinite: where no damping
    makes G positive, its eigenvalues are replaced by their moduli, so that steps lead away
    from saddles (with `MatrixFree` they are refused there).

    *Needs* double precision: G squares the condition of the Jacobian.

    ??? cite "Reference"
        Müller, Zeinhofer, *Achieving high accuracy with PINNs via energy natural gradient
        descent*, ICML 2023. arXiv:2302.13163. The moduli: Dauphin et al., *Identifying and
        attacking the saddle point problem* (2014), arXiv:1406.2572
    """

    gram: Any = eqx.field(static=True, default=Dense())
    damping: tuple[float, ...] = eqx.field(static=True, default=(1e-3, 1e-6, 1e-9, 1e-12))
    lengths: int = eqx.field(static=True, default=16)
    max_products: int = eqx.field(static=True, default=200)
    rtol: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check_gram(self.gram, "NaturalGradient")
        if not self.damping or not all(d >= 0 for d in self.damping):
            raise ValueError(
                "`NaturalGradient(damping=...)` must be a tuple of numbers >= 0.\n"
                f"Got {self.damping!r}.\nTake e.g. (1e-4, 1e-8)."
            )

    def init(self, theta):
        in_double(theta, "NaturalGradient")
        return ()

    def step(self, problem, theta, state):
        energy, g = jax.value_and_grad(problem.value)(theta)
        dampings = jnp.asarray(self.damping, theta.dtype)
        if isinstance(self.gram, MatrixFree):
            product = problem.product(theta)
            how = self.max_products, self.rtol
            solve = lambda delta: damped_by_products(product, g, delta, *how)
            scale = mean_diagonal(product, theta)
        else:
            G = problem.gram(theta)
            solve = lambda delta: damped(G, g, delta)
            scale = jnp.mean(jnp.abs(jnp.diagonal(G)))
        steps = jax.lax.map(solve, dampings * scale)
        if not isinstance(self.gram, MatrixFree):
            some = jnp.isfinite(steps).all(axis=1).any()
            downhill = lambda: by_modulus(G, g, dampings * scale)
            steps = jax.lax.cond(some, lambda: steps, downhill)
        decrements = -0.5 * steps @ g
        new, length, k = search(problem.rise(theta), energy, theta, steps, self.lengths)
        return new, state, info(energy, g, decrements[k], length)


def search(rise, energy, theta, steps, lengths: int):
    """θ after the best of `steps`, `(k, p)`, times 1, 1/2, …; the length; which step.

    `rise`: new θ -> by how much the energy is higher. Zero length if it is higher for all
    of them, but for what rounding may hide.
    """
    grid = 0.5 ** jnp.arange(lengths, dtype=theta.dtype)

    def along(step):
        return jax.lax.map(lambda t: rise(theta + t * step), grid)

    values = jax.vmap(along)(steps).ravel()
    values = jnp.where(jnp.isfinite(values), values, jnp.inf)
    best = jnp.argmin(values)
    k, i = best // lengths, best % lengths
    slack = 10 * jnp.finfo(theta.dtype).eps * jnp.abs(energy)
    length = jnp.where(values[best] <= slack, grid[i], 0.0)
    step = jnp.where(length > 0, steps[k], 0.0)  # a step that is NaN must not spread
    return theta + length * step, length, k


def damped(G, g, delta):
    """(G + δ I)⁻¹ (-g); NaN where G + δ I is not positive."""
    factor = jax.scipy.linalg.cho_factor(G + delta * jnp.eye(len(g), dtype=G.dtype))
    return jax.scipy.linalg.cho_solve(factor, -g)


def by_modulus(G, g, deltas):
    """(|G| + δ I)⁻¹ (-g) for each δ, `(k, p)`: downhill whatever the signs of G are."""
    values, vectors = jnp.linalg.eigh(G)
    along = vectors.T @ g
    return -(along / (jnp.abs(values) + deltas[:, None])) @ vectors.T


def damped_by_products(product, g, delta, max_products: int, rtol: float):
    """The same by conjugate gradients, as far as they come."""
    A = lx.FunctionLinearOperator(
        lambda v: product(v) + delta * v,
        jax.ShapeDtypeStruct(g.shape, g.dtype),
        lx.positive_semidefinite_tag,
    )
    solver = lx.CG(rtol, 0.0, max_steps=max_products)
    return lx.linear_solve(A, -g, solver, throw=False).value


def mean_diagonal(product, theta):
    """tr G / p, by Hutchinson's estimate with a few fixed vectors."""
    signs = jax.random.rademacher(jax.random.key(0), (8, theta.size), theta.dtype)
    return jnp.mean(jax.vmap(lambda v: v @ product(v))(signs)) / theta.size


def check_gram(gram, name: str) -> None:
    """Raises unless `gram` says how G is stored."""
    if not isinstance(gram, Dense | MatrixFree):
        raise TypeError(
            f"`{name}(gram=...)` must be pi.Dense() or pi.MatrixFree().\n"
            f"Got {gram!r}.\nTake pi.MatrixFree() for more than 2,000 parameters."
        )


def in_double(theta, name: str) -> None:
    """Raises unless the parameters are in double precision."""
    if theta.dtype != jnp.float64:
        raise TypeError(
            f"`{name}` needs parameters in double precision.\n"
            f"Got {theta.dtype}.\nCall jax.config.update('jax_enable_x64', True) "
            "before the model is made."
        )
