"""Matrices that are not assembled: their products are sums over cells, in JAX.

With G picking the unknowns of each cell and K_c the element matrices, A = Tᵀ Σ_c Gᵀ K_c G T
(see `condense` for T). A product is a gather, a small product in each cell and a sum by
places; no step leaves the device, so solves run wherever XLA does, inside `jit`, `vmap`,
`scan` and their derivatives.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from .._status import Solution, Status
from ..engine.failure import fail_unless_zero
from ..engine.host import ASYMMETRY
from ..linear.gmres import GMRES
from ..linear.lineax_parts import declare
from ..linear.symmetric import conjugate_gradients, minres
from .assembly import scatter
from .condense import Condensation
from .krylov import Krylov, failure
from .preconditioners import prepare
from .space import Space


def element_product(space: Space, elements, u, transposed: bool = False):
    """Σ_c Gᵀ K_c G u, or with K_cᵀ: `(size,)`."""
    dofs = space.array("cell_dofs")
    entries = "cji" if transposed else "cij"
    local = jnp.einsum(f"{entries},cj->ci", elements, u[dofs])
    return scatter(local, dofs, space.size)


class ElementOperator(lx.AbstractLinearOperator):
    """TᵀAT as a lineax operator. `elements`: K_c, `(n_cells, k, k)`; differentiable."""

    elements: jax.Array
    space: Space = eqx.field(static=True)
    condensed: Condensation = eqx.field(static=True)
    transposed: bool = eqx.field(static=True, default=False)

    def mv(self, vector):
        return self._product(vector, jnp.zeros(self.condensed.n_given, vector.dtype))

    def given(self, g):
        """TᵀA D g: what given values contribute."""
        return self._product(jnp.zeros(self.condensed.n_free, g.dtype), g)

    def _product(self, x, g):
        u = self.condensed.expand(x, g)
        y = element_product(self.space, self.elements, u, self.transposed)
        return self.condensed.vector(y)

    def diagonal(self):
        """Where unknowns are tied within a cell, without what that adds."""
        d = jnp.diagonal(self.elements, axis1=1, axis2=2)
        return self.condensed.diagonal(
            scatter(d, self.space.array("cell_dofs"), self.space.size)
        )

    @property
    def symmetric(self) -> bool:
        """Whether the problem says so."""
        return self.condensed.structure != "general"

    def as_matrix(self):
        identity = jnp.eye(self.condensed.n_free, dtype=self.elements.dtype)
        return jax.vmap(self.mv, in_axes=1, out_axes=1)(identity)

    def transpose(self):
        if self.symmetric:
            return self
        other = not self.transposed
        return ElementOperator(self.elements, self.space, self.condensed, other)

    def in_structure(self):
        return jax.ShapeDtypeStruct((self.condensed.n_free,), self.elements.dtype)

    def out_structure(self):
        return self.in_structure()


declare(
    ElementOperator,
    symmetric=lambda operator: operator.symmetric,
    definite=lambda operator: operator.condensed.structure == "spd",
)
lx.conj.register(ElementOperator, lambda operator: operator)  # real


def element_solve(A: ElementOperator, b, how: Krylov, throw: bool = True) -> Solution:
    """A x = b for `b` `(n,)` or `(n, k)`; see `Krylov`. Differentiable in A and b: one more
    solve for each tangent, one transposed solve for each cotangent, each checked."""
    still = jax.lax.stop_gradient(A)
    M = prepare(how, still)
    one = lambda b: _differentiable(A, M, b, how, throw)
    x, (status, error, steps) = jax.vmap(one, 1, (1, 0))(b) if b.ndim == 2 else one(b)
    return Solution(x, status, {"residual": error, "iterations": steps})


def _differentiable(A: ElementOperator, M, b, how: Krylov, throw: bool):
    def solver(transpose: bool):
        def solve(product, b):
            operator = A.transpose() if transpose else A
            x, *stats = run(operator, M, b, how, product)
            if throw:
                x = fail_unless_zero(x, stats[0], failure(how, transpose))
            return x, tuple(stats)

        return solve

    return jax.lax.custom_linear_solve(A.mv, b, solver(False), solver(True), has_aux=True)


def run(A: ElementOperator, M, b, how: Krylov, product=None):
    """x, NaN where it failed; its status, residual and iterations. `M`: of `prepare`.
    `product`: with what the residual is computed, if not with A."""
    product = A.mv if product is None else product
    rtol = how.tolerance(b.dtype)
    size = jnp.max(jnp.abs(b), initial=0.0)
    zero = size == 0
    unit = b / jnp.where(zero, 1.0, size)  # tiny numbers do not underflow
    length = jnp.linalg.norm(unit)
    if how.method == "gmres":
        gmres = GMRES(rtol, 0.0, how.restart, how.max_steps)
        options: dict[str, Any] = {"preconditioner": lx.DiagonalLinearOperator(M.inverse)}
        x, _, stats = gmres.compute(A, unit, options)
        steps, definite = jnp.asarray(stats["num_steps"], jnp.int32), jnp.array(True)
    else:
        method = conjugate_gradients if how.method == "cg" else minres
        x, steps, definite = method(A.mv, M, unit, rtol * length, how.max_steps)
    error = jnp.linalg.norm(unit - product(x)) / jnp.where(zero, 1.0, length)
    finite = jnp.isfinite(size) & jnp.isfinite(jnp.sum(A.elements))
    status = jnp.int32(Status.inaccurate)
    for bad, code in (
        (~definite, Status.not_positive_definite),
        (error <= 10 * rtol, Status.converged),  # the method's own word is not asked
        (_asymmetric(A) if A.symmetric else False, Status.not_symmetric),
        (~finite, Status.nonfinite),
        (zero & finite, Status.converged),
    ):
        status = jnp.where(bad, jnp.int32(code), status)
    x = jnp.where(status == 0, x * size, jnp.nan)
    return x, status, error, steps


def _asymmetric(A: ElementOperator):
    K = A.elements
    apart = jnp.max(jnp.abs(K - jnp.swapaxes(K, 1, 2)), initial=0.0)
    return apart > ASYMMETRY * jnp.max(jnp.abs(K), initial=0.0)
