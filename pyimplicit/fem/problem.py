"""Boundary value problems, solved by sparse factorisations."""

from collections.abc import Set
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx

from .._status import Solution
from ..linear import SparsePattern, sparse_solve
from ..linear.pattern import Structure
from . import newton
from .assembly import Term, element_tangents
from .boundary import pieces, with_laws
from .coefficients import Coefficient, evaluate, interpret, structs_at
from .condense import Condensation, like
from .constraints import Nullspace, Tie, combination, modes_of, periodic as periodic_tie
from .dirichlet import Dirichlet
from .krylov import Krylov, krylov_solve
from .linearity import Nature, check_form, names_of
from .matrix_free import ElementOperator, element_solve
from .moved import dof_points, moved
from .operators import points_of
from .pieces import Piece, linear_system
from .space import Space
from .values import as_numbers, common_dtype


class Problem:
    """Find u in V with ∫ form(u, v, w) = ⟨load, v⟩ for all v, and u given on
    boundaries.

    - `form(u, v, w)`: the integrand; see `pyimplicit.fem.forms`. Linear in v; affine in u,
      or nonlinear, which is found out.
    - `dirichlet`: boundary name -> value; see `Dirichlet`. Elsewhere the boundary
      condition is the natural one of the form, or one of
    - `neumann`, `robin`, `boundary`: boundary name -> value, pair or form; see
      `pyimplicit.fem.boundary`.
    - `periodic`: boundary name -> name of the one it equals, a translation of it.
    - `constraints`: a list of `Tie`.
    - `nullspace`: "constants", "rigid" or functions `(*V.shape, m)` that the forms do not
      see. The part of the load that has no solution is taken away, and u is the solution
      orthogonal to them (with mean zero).
    - `lower`, `upper`: u is kept above and below these values, numbers or of shape
      `V.shape`; where it touches one, the equation is an inequality (an obstacle problem).
    - `structure` of the matrix: "general"; "symmetric" or "spd" where the form has it,
      which is faster. Forms of this package know theirs.
    - `mass(u, v, w)`: the form of the time derivative, for `pyimplicit.fem.evolve`; linear
      in u and v, u·v if not given.

    In a `MixedSpace` conditions are tuples of dicts, one for each field, and so is the
    nullspace.
    """

    def __init__(
        self,
        V: Space,
        form,
        dirichlet=None,
        *,
        neumann=None,
        robin=None,
        boundary: dict | None = None,
        periodic=None,
        constraints: list[Tie] | None = None,
        nullspace=None,
        lower=None,
        upper=None,
        structure: Structure | None = None,
        mass=None,
    ):
        if not isinstance(V, Space) or not callable(form):
            raise TypeError(
                "`Problem(V, form)` must get a FunctionSpace and a function.\n"
                f"Got {type(V).__name__} and {type(form).__name__}.\n"
                "The form is called as form(u, v, w)."
            )
        self.V, self.form, self.mass = V, form, mass
        self.pieces = [Piece(form), *pieces(V, neumann, robin, boundary)]
        self.dirichlet = [
            Dirichlet(part, conditions)
            for part, conditions in zip(V.parts, _by_part(V, dirichlet), strict=True)
        ]
        dofs = np.concatenate(
            [start + d.dofs for start, d in zip(V.starts, self.dirichlet, strict=True)]
        )
        ties = list(constraints or [])
        for part, start, pairs in zip(
            V.parts, V.starts, _by_part(V, periodic), strict=True
        ):
            for slave, master in pairs.items():
                ties.append(periodic_tie(part, slave, master, start).without(ties))
        combine = combination(V, ties, dofs)
        self.nullspace = None
        if nullspace is not None:
            slaves = np.concatenate([tie.slaves for tie in ties]) if ties else dofs[:0]
            self.nullspace = Nullspace(V, modes_of(V, nullspace), dofs, slaves)
            dofs = np.sort(np.concatenate([dofs, self.nullspace.grounded]))
        self.bounds = lower, upper
        self._bounded = lower is not None or upper is not None
        self.structure: Structure = structure or getattr(form, "structure", "general")
        self._condensed = Condensation(V, dofs, self.structure, combine)
        self._checked: dict = {}

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
        points=None,
        start=None,
        steps: int = 1,
        solver=None,
        throw: Literal[True] = True,
    ) -> Any: ...

    @overload
    def solve(
        self,
        coefficients=None,
        load=None,
        *,
        dirichlet=None,
        points=None,
        start=None,
        steps: int = 1,
        solver=None,
        throw: Literal[False],
    ) -> Solution: ...

    def solve(
        self,
        coefficients: dict | None = None,
        load=None,
        *,
        dirichlet=None,
        points=None,
        start=None,
        steps: int = 1,
        solver: optx.AbstractRootFinder | Krylov | None = None,
        throw: bool = True,
    ) -> Any:
        """The coefficients of u, of shape `V.shape`; for P1 its values at the nodes. In a
        mixed space a tuple of these.

        - `coefficients`: name -> number, array or function of x; see
          `pyimplicit.fem.coefficients`.
        - `load`: ⟨load, v⟩ for each basis function v, of shape `V.shape`, e.g. point
          sources from `point_evaluation(V, points).T`; or with a last axis k, for k
          loads at once. Then u has that axis too, and there is one factorisation.
        - `dirichlet`: values in place of those of the problem, by boundary name.
        - `points`: of the mesh, if they are moved, `(n_points, dim)`: shape derivatives.
        - `start`, `steps`, `solver`: of a nonlinear problem. Newton's method (with a line
          search, if no `solver` is given) starts at `start`, else at zero; with
          `steps` > 1 the residual of the start is taken away in so many equal parts, and
          given values move from those of the start, which is load stepping.
        - `solver` may also be a `Krylov`, for large problems in 3-D; it solves the systems
          of Newton's method, too. If not given they are solved by sparse factorisations.
        - `throw=False` returns a `Solution` with the status instead of raising.

        The result has the common precision of the arrays given. Call it in `jax.jit`.

        **Derivative** in everything given but `start`, any order, both modes: with the
        residual R(u, θ) it is u̇ = -(∂R/∂u)⁻¹ ∂_θR θ̇, one solve per tangent or
        cotangent; a linear problem needs no other factorisation for it, a nonlinear one
        that of the tangent at the solution.

        **Errors** at run time are those of `pi.sparse_solve` and `pi.root`.
        """
        V = self.V
        load = None if load is None else self._check_load(load)
        at = None if points is None else moved(self.V, self.form, points, throw)
        parts = self._given(dirichlet, at)
        found, dtype = self._interpret(coefficients or {}, parts, at, load)
        given = self._values(parts, dtype)
        if hasattr(self.form, "check") and len(self.pieces) == 1:
            self.form.check(V, coefficients or {})
        free = isinstance(solver, Krylov) and solver.matrix_free
        if self._is_fast() and not free:
            values, residual = self.form.assemble(V, found[0], at)
            system = values, 0.0 if residual is None else residual
        else:
            terms, linear = self._terms(found, dtype, at)
            if not linear or self._bounded:
                how = newton.Options(start, steps, solver, throw)
                return newton.solve(self, terms, given, load, at, dtype, how)
            system = self.system(found, terms, at, dtype, free)
        values, residual = system
        rhs = jnp.zeros(V.size, dtype) if load is None else load.astype(dtype)
        rhs = rhs - like(jnp.asarray(residual, dtype), rhs)
        if self.nullspace is not None:
            rhs = self.nullspace.balance(rhs)
        solution = self._solve(values, rhs, given, throw, solver)
        return self.finish(solution, given, throw)

    def matrix(
        self, coefficients: dict | None = None, *, points=None
    ) -> tuple[jax.Array, SparsePattern]:
        """The matrix of the free unknowns of a linear problem: its entries `(nnz,)`, which
        are differentiable in what is given, and their pattern."""
        V = self.V
        at = None if points is None else moved(self.V, self.form, points)
        found, dtype = self._interpret(coefficients or {}, [], at)
        pattern = self._condensed.pattern
        if pattern is None:
            raise ValueError(
                "`Problem.matrix` must have free unknowns.\nGot none.\n"
                "Drop Dirichlet conditions."
            )
        if self._is_fast():
            return self._condensed.matrix(self.form.assemble(V, found[0], at)[0]), pattern
        terms, linear = self._terms(found, dtype, at)
        if not linear:
            raise ValueError(
                "`Problem.matrix` must have a form that is linear in u.\n"
                "Got a nonlinear one.\nLinearise it."
            )
        return self._condensed.matrix(self.system(found, terms, at, dtype)[0]), pattern

    @property
    def n_given(self) -> int:
        """How many unknowns have given values."""
        return self._condensed.n_given

    def expand(self, x, given) -> jax.Array:
        """All unknowns `(size, ...)` from the free and the given ones."""
        return self._condensed.expand(x, given)

    def finish(self, solution: Solution, given, throw: bool):
        """The answer of `solve` from that for the free unknowns."""
        u = self._condensed.expand(solution.value, given)
        if self.nullspace is not None:
            u = self.nullspace.centre(u)
        fields = self.V.split(u)
        u = fields[0] if len(fields) == 1 else fields
        return u if throw else solution._replace(value=u)

    def _solve(self, values, rhs, given, throw: bool, solver=None) -> Solution:
        """The free unknowns. `values`: of `system`; `rhs` `(size, ...)`."""
        condensed, k = self._condensed, rhs.shape[1:]
        if not condensed.n_free:
            empty = jnp.zeros((0, *k), rhs.dtype)
            return Solution(empty, jnp.zeros(k, "int32"), {"residual": jnp.zeros(k)})
        if isinstance(solver, Krylov) and solver.matrix_free:
            solver.check(self.structure, rhs.dtype)
            A = ElementOperator(values, self.V, condensed)
            b = condensed.vector(rhs)
            b = b - like(A.given(given), b) if condensed.n_given else b
            return element_solve(A, b, solver, throw)
        values, b = condensed.reduce(values, rhs, given)
        pattern = condensed.pattern
        assert pattern is not None  # something is free
        if isinstance(solver, Krylov):
            return krylov_solve(pattern, values, b, solver, throw)
        if throw:
            return Solution(sparse_solve(pattern, values, b), None, {})
        return sparse_solve(pattern, values, b, throw=False)

    def system(self, found, terms: list[Term], points, dtype, matrix_free: bool = False):
        """Matrix and residual at u = 0 of a linear problem; see `linear_system`, or
        `element_tangents` if `matrix_free`."""
        if matrix_free:
            zero = jnp.zeros(self.V.size, jnp.finfo(dtype).dtype)
            return element_tangents(self.V, terms, zero, points, dtype)
        return linear_system(self.V, self.pieces, found, terms, points, dtype)

    def _is_fast(self) -> bool:
        form = self.form
        fits = hasattr(form, "assemble") and form.fits(self.V)
        plain = len(self.pieces) == 1 and not self._bounded
        return fits and plain

    def _interpret(self, coefficients: dict, parts: list, points, *others):
        """The coefficients of each piece, and the common precision of all that is given,
        `others` too."""
        V = self.V
        x = None if points is None else points_of(V, V.domain(), points)
        common = {name: interpret(V, name, c, x) for name, c in coefficients.items()}
        own = [{n: interpret(V, n, c, x) for n, c in p.own.items()} for p in self.pieces]
        everything = [c for group in (common, *own) for c in group.values()]
        given = [c.values for c in everything if c.meaning != "law"]
        given += [value for group in parts for value in group]
        given += [a for a in (points, *others) if a is not None]
        dtype = common_dtype(given)
        cast = lambda group: {n: c.astype(dtype) for n, c in group.items()}
        return [cast(common | mine) for mine in own], dtype

    def _terms(
        self,
        found: list[dict[str, Coefficient]],
        dtype,
        points,
        others: Set[str] = frozenset(),
    ):
        """The terms with their coefficients evaluated, and whether all are linear in u.
        `others`: names that the forms need not read."""
        V, used, linear, terms = self.V, set(), True, []
        for piece, coefficients in zip(self.pieces, found, strict=True):
            laws = {n: c.values for n, c in coefficients.items() if c.meaning == "law"}
            form = with_laws(piece.form, laws)
            domain = V.domain(piece.boundary)
            w = structs_at(V, domain, coefficients, dtype)
            names = names_of(V, form, w, dtype)
            used |= names
            w = {n: s for n, s in w.items() if n in names | {"x"}}
            nature = self._nature(piece, form, w, dtype)
            linear &= nature.linear
            x = None
            if domain.name is not None or points is not None:
                x = points_of(V, domain, V.array("points") if points is None else points)
            evaluated = {
                n: evaluate(V, c, domain, x)
                for n, c in coefficients.items()
                if n in names and n not in laws
            }
            terms.append(Term(form, domain, evaluated))
        unknown = sorted(found[0].keys() - used - others)
        if unknown:
            raise ValueError(
                "The coefficients of a solve must be those that its form reads.\n"
                f"Got {unknown[0]!r}, which the form does not read.\n"
                f"It reads {sorted(used - {'x', 'h', 'n'})}."
            )
        return terms, linear

    def _nature(self, piece: Piece, form, w: dict, dtype) -> Nature:
        key = id(piece), jax.tree.structure(w), tuple(map(str, jax.tree.leaves(w))), dtype
        if key not in self._checked:
            nature = check_form(self.V, form, w, dtype)
            if not nature.certain:
                return nature
            self._checked[key] = nature
        return self._checked[key]

    def _given(self, changed, points) -> list[list[jax.Array]]:
        changed = _by_part(self.V, changed)
        parts = []
        for d, new in zip(self.dirichlet, changed, strict=True):
            where = None if points is None else dof_points(d.V, points)
            parts.append(d.parts(new, where))
        return parts

    def _values(self, parts: list[list[jax.Array]], dtype) -> jax.Array:
        """The given values, in the order of the given unknowns; grounded ones are zero."""
        found = [d.values(p, dtype) for d, p in zip(self.dirichlet, parts, strict=True)]
        given = jnp.concatenate(found)
        if self.nullspace is None:
            return given
        starts = zip(self.V.starts, self.dirichlet, strict=True)
        dofs = np.concatenate([start + d.dofs for start, d in starts])
        grounded = self.nullspace.grounded
        order = np.argsort(np.concatenate([dofs, grounded]))
        return jnp.concatenate([given, jnp.zeros(len(grounded), dtype)])[order]

    def _check_load(self, load) -> jax.Array:
        V = self.V
        loads = load if isinstance(load, tuple) else (load,)
        shapes = [part.shape for part in V.parts]
        loads = tuple(as_numbers(b, "`solve(load=...)`") for b in loads)
        fits = len(loads) == len(shapes) and all(
            b.shape[: len(s)] == s and b.ndim <= len(s) + 1
            for b, s in zip(loads, shapes, strict=True)
        )
        if not fits:
            got = ", ".join(str(b.shape) for b in loads)
            want = " or ".join(f"{s} or {(*s, 'k')}" for s in shapes)
            raise ValueError(
                f"`solve(load=...)` must have shape {want}.\n"
                f"Got {got}.\nOne entry for each unknown; loads are columns."
            )
        return V.join(loads)


def _by_part(V: Space, conditions) -> tuple:
    """Conditions as one dict for each field."""
    if not conditions:
        return tuple({} for _ in V.parts)
    if len(V.parts) == 1:
        return (conditions,)
    if not isinstance(conditions, tuple) or len(conditions) != len(V.parts):
        raise ValueError(
            f"Conditions in a mixed space must be a tuple of {len(V.parts)} dicts, one for "
            f"each field.\nGot {conditions!r}.\nUse an empty dict for a field without."
        )
    return tuple(c or {} for c in conditions)
