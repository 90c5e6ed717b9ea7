"""A problem discretised in space only, M u' + F(u, t) = 0, and its implicit solves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._status import Solution
from . import assembly, newton
from .assembly import Term
from .boundary import with_laws
from .coefficients import Coefficient, evaluate, structs_at
from .forms import Context, inner
from .krylov import Krylov
from .linearity import check_form, names_of, structs
from .matrix_free import element_product
from .problem import Problem
from .space import FunctionSpace


class Moment(NamedTuple):
    """The problem at one time: its terms, the `found` coefficients of each piece, the
    values `given` on boundaries, and the load `(size,)` or `None`."""

    terms: list[Term]
    found: list[dict[str, Coefficient]]
    given: jax.Array
    load: jax.Array | None


class Semidiscrete:
    """`coefficients`, `load`, `dirichlet`: as in `Problem.solve`, or functions of t that
    return these. `start`: arrays whose precision counts too; `t`: a time.

    `linear`: F(u, t) = K u - b(t), or K(t) u - b(t) if the matrix `varies`.
    """

    def __init__(self, problem, coefficients, load, dirichlet, t, start, solver, throw):
        self.problem: Problem = problem
        self.V = problem.V
        self._inputs = coefficients or {}, load, dirichlet
        self._solver, self.throw = solver, throw
        self.krylov = solver if isinstance(solver, Krylov) else None
        self._free = self.krylov is not None and self.krylov.matrix_free
        found, self.dtype = self._interpret(t, *start)[1:]
        found = _cast(found, self.dtype)
        zero = jnp.zeros(self.V.size, jnp.finfo(self.dtype).dtype)
        changing = self._changing(t)
        mass, self._others = self._mass(found[0], changing)
        system = assembly.element_tangents if self._free else assembly.system
        self.mass_values = system(self.V, [mass], zero, None, self.dtype)[0]
        self._mass_term = mass
        terms, linear = problem._terms(found, self.dtype, None, self._others)
        self.linear = linear and not problem._bounded
        self.varies = self._matrix_varies(terms, found, changing)
        self.matrix_values = None  # K, if it does not change
        if self.linear and not self.varies:
            self.matrix_values = self._system(self.at(t))[0]

    def at(self, t) -> Moment:
        """The problem at time t."""
        parts, found, _ = self._interpret(t)
        found = _cast(found, self.dtype)
        terms, _ = self.problem._terms(found, self.dtype, None, self._others)
        load = self._load(t)
        load = None if load is None else load.astype(self.dtype)
        return Moment(terms, found, self.problem._values(parts, self.dtype), load)

    def load(self, moment: Moment) -> jax.Array:
        """b of a linear problem, `(size,)`."""
        return self._system(moment)[1]

    def mass(self, u) -> jax.Array:
        """M u."""
        return self._product(self.mass_values, u)

    def rate(self, u, t) -> jax.Array:
        """F(u, t), `(size,)`."""
        moment = self.at(t)
        if self.linear:
            matrix, b = self._system(moment)
            return self._product(matrix, u) - b
        f = assembly.residual(self.V, moment.terms, u)
        return f if moment.load is None else f - moment.load

    def solve(self, c, r, t, start) -> Solution:
        """u `(size,)` with M u + c F(u, t) = r, tested by what is free, and with the values
        that are given at time t. `start`: of Newton's method."""
        problem, moment = self.problem, self.at(t)
        if not self.linear:
            return self._newton(moment, c, r, start)
        matrix, b = self._system(moment)
        found = problem._solve(
            self.mass_values + c * matrix, r + c * b, moment.given, self.throw, self.krylov
        )
        status = jnp.int32(0) if found.status is None else found.status
        u = problem.expand(found.value, moment.given)
        return Solution(u, status, {"iterations": jnp.int32(1)})

    def _product(self, values, u):
        """A u, by the entries of A or its element matrices."""
        if self._free:
            return element_product(self.V, values, u)
        return self.V.pattern().matvec(values, u)

    def _newton(self, moment: Moment, c, r, start) -> Solution:
        V = self.V
        first = V.split(start)
        how = newton.Options(_alone(first), 1, self._solver, self.throw)
        scaled = [t._replace(form=_times(t.form, c)) for t in moment.terms]
        load = r if moment.load is None else r + c * moment.load
        terms = [self._mass_term, *scaled]
        found = newton.solve(self.problem, terms, moment.given, load, None, self.dtype, how)
        join = lambda u: V.join(u if len(V.parts) > 1 else (u,))
        steps = jnp.int32(0)
        if self.throw:
            return Solution(join(found), jnp.int32(0), {"iterations": steps})
        steps = found.stats.get("iterations", steps)
        return Solution(join(found.value), found.status, {"iterations": steps})

    def _system(self, moment: Moment):
        """K `(nnz,)`, or its element matrices, and b `(size,)` of a linear problem."""
        V, form = self.V, self.problem.form
        if self.problem._is_fast() and not self._free:
            own = {n: c for n, c in moment.found[0].items() if n not in self._others}
            values, at_zero = form.assemble(V, own)
            at_zero = jnp.zeros(V.size, self.dtype) if at_zero is None else at_zero
        else:
            zero = jnp.zeros(V.size, jnp.finfo(self.dtype).dtype)
            values = self.matrix_values
            if values is None:
                values, at_zero = self.problem.system(
                    moment.found, moment.terms, None, self.dtype, self._free
                )
            else:
                at_zero = assembly.residual(V, moment.terms, zero.astype(self.dtype))
        values = values if self.matrix_values is None else self.matrix_values
        return values, -at_zero if moment.load is None else moment.load - at_zero

    # --- what is given, and what of it changes ------------------------------------------

    def _interpret(self, t, *others):
        coefficients, load, dirichlet = (_at(given, t) for given in self._inputs)
        parts = self.problem._given(dirichlet, None)
        load = None if load is None else self.problem._check_load(load)
        found, dtype = self.problem._interpret(coefficients, parts, None, load, *others)
        return parts, found, dtype

    def _load(self, t):
        load = _at(self._inputs[1], t)
        if load is None:
            return None
        load = self.problem._check_load(load)
        if load.ndim > 1:
            raise ValueError(
                "`evolve(load=...)` must be one load.\n"
                f"Got {load.shape[1]} columns.\nUse jax.vmap for several."
            )
        return load

    def _changing(self, t) -> set[str]:
        """The coefficients that depend on time; laws, which may hide it, if there can be
        any."""
        if not callable(self._inputs[0]):
            return set()
        found = self._interpret(t)[1]
        laws = {n for group in found for n, c in group.items() if c.meaning == "law"}
        names = [(i, n) for i, group in enumerate(found) for n in group if n not in laws]

        def values(t, _):
            found = self._interpret(t)[1]
            return [found[i][n].values for i, n in names]

        depends = assembly.dependence(values, jnp.asarray(t), None)[:, 0]
        return laws | {n for (_, n), d in zip(names, depends, strict=True) if d}

    def _matrix_varies(self, terms: list[Term], found, changing: set[str]) -> bool:
        for term, coefficients in zip(terms, found, strict=True):
            if changing & {n for n, c in coefficients.items() if c.meaning == "law"}:
                return True
            w = structs_at(self.V, term.domain, coefficients, self.dtype)
            moving = {n: s for n, s in w.items() if n in changing & set(term.coefficients)}
            still = {n: s for n, s in w.items() if n not in moving}
            u = structs(self.V, jnp.finfo(self.dtype).dtype)

            def slope(moving, given, term=term):
                still, u = given
                at = lambda u: assembly.flux(
                    self.V, term.form, u, still | moving, self.dtype
                )
                return jax.jacfwd(at)(u)

            if assembly.dependence(slope, moving, (still, u)).any():
                return True
        return False

    def _mass(self, coefficients, changing: set[str]):
        """The term of the time derivative, and the coefficients that only it reads."""
        V, dtype, form = self.V, self.dtype, self.problem.mass
        if form is None:
            if not isinstance(V, FunctionSpace):
                raise ValueError(
                    "`evolve` in a mixed space needs the form of the time derivative.\n"
                    "Got none.\nPass it: Problem(V, form, mass=lambda u, v, w: ...)."
                )
            form = lambda u, v, w: inner(u, v)
        laws = {n: c.values for n, c in coefficients.items() if c.meaning == "law"}
        form = with_laws(form, laws)
        w = structs_at(V, V.domain(), coefficients, dtype)
        read = names_of(V, with_laws(self.problem.form, laws), w, dtype)
        names = names_of(V, form, w, dtype)
        w = {n: s for n, s in w.items() if n in names | {"x"}}
        if not check_form(V, form, w, dtype).linear or _at_zero(V, form, w, dtype) != 0:
            raise ValueError(
                "`Problem(mass=...)` must be linear in u.\nGot a form that is not.\n"
                "It multiplies the time derivative, e.g. w.rho * u * v."
            )
        if names & changing:
            raise ValueError(
                "The coefficients of `mass` must not change in time.\n"
                f"Got {sorted(names & changing)}, which do.\n"
                "Divide the equation by them, or write the term into the form."
            )
        evaluated = {
            n: evaluate(V, c)
            for n, c in coefficients.items()
            if n in names and c.meaning != "law"
        }
        return Term(form, V.domain(), evaluated), (names & coefficients.keys()) - read


def _at_zero(V, form, w, dtype) -> float:
    """The form at u = 0, with random numbers for the rest; 0 where that cannot be told."""
    rng = np.random.default_rng(1)
    draw = lambda s: jnp.asarray(rng.uniform(0.5, 1.5, s.shape), s.dtype)
    u = structs(V, jnp.finfo(dtype).dtype)
    with jax.ensure_compile_time_eval():
        v = assembly.as_fields(V, jax.tree.map(draw, u))
        zero = assembly.as_fields(V, jax.tree.map(lambda s: 0 * draw(s), u))
        value = form(zero, v, Context(jax.tree.map(draw, w)))
    return 0.0 if isinstance(value, Tracer) else abs(complex(value))


def _at(given, t) -> Any:
    return given(t) if callable(given) else given


def _cast(found, dtype) -> list[dict[str, Coefficient]]:
    return [{n: c.astype(dtype) for n, c in group.items()} for group in found]


def _times(form, c):
    return lambda u, v, w: c * form(u, v, w)


def _alone(fields: tuple):
    return fields[0] if len(fields) == 1 else fields
