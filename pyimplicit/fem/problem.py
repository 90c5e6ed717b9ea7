"""Boundary value problems, solved by a sparse factorisation."""

from typing import Literal, overload

import jax
import jax.numpy as jnp

from .._status import Solution
from ..linear import SparsePattern, sparse_solve
from ..linear.pattern import Structure
from . import assembly
from .coefficients import evaluate, interpret
from .condense import Condensation, like
from .dirichlet import Dirichlet
from .linearity import check_form
from .space import FunctionSpace
from .values import as_numbers, common_dtype


class Problem:
    """Find u in V with ∫ form(u, v, w) = ⟨load, v⟩ for all v, and u given on
    boundaries.

    - `form(u, v, w)`: the integrand; see `pyimplicit.fem.forms`. Affine in u, linear in
      v.
    - `dirichlet`: boundary name -> value; see `Dirichlet`. Elsewhere the boundary
      condition is the natural one of the form.
    - `structure` of the matrix: "general"; "symmetric" or "spd" where the form has it,
      which is faster. Forms of this package know theirs.
    """

    def __init__(
        self,
        V: FunctionSpace,
        form,
        dirichlet: dict | None = None,
        *,
        structure: Structure | None = None,
    ):
        if not isinstance(V, FunctionSpace) or not callable(form):
            raise TypeError(
                "`Problem(V, form)` must get a FunctionSpace and a function.\n"
                f"Got {type(V).__name__} and {type(form).__name__}.\n"
                "The form is called as form(u, v, w)."
            )
        self.V, self.form = V, form
        self.dirichlet = Dirichlet(V, dirichlet or {})
        self.structure: Structure = structure or getattr(form, "structure", "general")
        self._condensed = Condensation(V, self.dirichlet.dofs, self.structure)
        self._checked: set = set()

    @property
    def pattern(self) -> SparsePattern | None:
        """That of the matrix of the free unknowns; `None` if none is free."""
        return self._condensed.pattern

    @overload
    def solve(
        self,
        coefficients=None,
        load=None,
        *,
        dirichlet=None,
        throw: Literal[True] = True,
    ) -> jax.Array: ...

    @overload
    def solve(
        self, coefficients=None, load=None, *, dirichlet=None, throw: Literal[False]
    ) -> Solution: ...

    def solve(
        self,
        coefficients: dict | None = None,
        load=None,
        *,
        dirichlet: dict | None = None,
        throw: bool = True,
    ) -> jax.Array | Solution:
        """The coefficients of u, of shape `V.shape`; for P1 its values at the nodes.

        - `coefficients`: name -> number, array or function of x; see
          `pyimplicit.fem.coefficients`.
        - `load`: ⟨load, v⟩ for each basis function v, of shape `V.shape`, e.g. point
          sources from `point_evaluation(V, points).T`; or with a last axis k, for k
          loads at once. Then u has that axis too, and there is one factorisation.
        - `dirichlet`: values in place of those of the problem, by boundary name.
        - `throw=False` returns a `Solution` with the status instead of raising.

        The result has the common precision of the arrays given.

        **Derivative** in all three, any order, both modes: with the residual R(u, θ) =
        A(θ) u - b(θ) it is u̇ = -A⁻¹ ∂_θR θ̇, one solve per tangent or cotangent with
        the same factorisation.

        **Errors** at run time are those of `pi.sparse_solve`.
        """
        parts = self.dirichlet.parts(dirichlet)
        load = None if load is None else self._check_load(load)
        values, residual, dtype = self._assemble(coefficients or {}, parts, load)
        rhs = jnp.zeros(self.V.size, dtype) if load is None else load.astype(dtype)
        if residual is not None:
            rhs = rhs - like(residual, rhs)
        given = self.dirichlet.values(parts, dtype)
        values, rhs = self._condensed.reduce(values, rhs, given)
        solution = self._solve(values, rhs, throw)
        u = self._condensed.expand(solution.value, given)
        u = u.reshape(*self.V.shape, *rhs.shape[1:])
        return u if throw else solution._replace(value=u)

    def _solve(self, values, rhs, throw: bool) -> Solution:
        pattern, k = self._condensed.pattern, rhs.shape[1:]
        if pattern is None:  # every unknown is given
            return Solution(rhs, jnp.zeros(k, "int32"), {"residual": jnp.zeros(k)})
        if throw:
            return Solution(sparse_solve(pattern, values, rhs), None, {})
        return sparse_solve(pattern, values, rhs, throw=False)

    def _assemble(self, coefficients: dict, parts: list, load):
        """Matrix entries, residual at u = 0, and the precision of both."""
        V = self.V
        found = {name: interpret(V, name, c) for name, c in coefficients.items()}
        given = [c.values for c in found.values()] + parts
        dtype = common_dtype(given if load is None else [*given, load])
        found = {name: c.astype(dtype) for name, c in found.items()}
        if hasattr(self.form, "assemble"):
            return *self.form.assemble(V, found), dtype
        evaluated = {name: evaluate(V, c) for name, c in found.items()}
        signature = tuple((n, e.shape) for n, e in evaluated.items()), dtype
        if signature not in self._checked:
            if check_form(V, self.form, evaluated, dtype):
                self._checked.add(signature)
        return *assembly.form_system(V, self.form, evaluated, dtype), dtype

    def _check_load(self, load) -> jax.Array:
        load, shape = as_numbers(load, "`solve(load=...)`"), self.V.shape
        if load.shape[: len(shape)] != shape or load.ndim > len(shape) + 1:
            raise ValueError(
                f"`solve(load=...)` must have shape {shape} or {(*shape, 'k')}.\n"
                f"Got {load.shape}.\nOne entry for each unknown; loads are columns."
            )
        return load.reshape(self.V.size, *load.shape[len(shape) :])
