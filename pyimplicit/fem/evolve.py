r"""Problems in time: M u' + F(u, t) = 0, step by step, with the exact discrete adjoint.

A second-order equation M u'' + F(u, t) = 0 is the system u' = v, M v' + F(u, t) = 0. A
stage of a scheme (see `schemes`) is then u = ū + c v, M v + c F(u, t) = r with ū and r
made of old values, and without v

    M u + c² F(u, t) = M ū + c r,      v = (u - ū)/c.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .._status import Solution
from .checkpoints import march
from .linear_march import fits, march_linear
from .problem import Problem
from .schemes import BackwardEuler, Scheme, Stage
from .semidiscrete import Semidiscrete
from .values import as_numbers


def evolve(
    problem: Problem,
    u0,
    t,
    coefficients=None,
    load=None,
    *,
    velocity=None,
    dirichlet=None,
    method: Scheme = BackwardEuler(),
    checkpoints: int | None = None,
    save: Literal["all", "last"] | Callable = "all",
    solver=None,
    throw: bool = True,
) -> Any:
    """u at the times `t`, with ∫ mass(u', v, w) + form(u, v, w) = ⟨load, v⟩ for all v.

    - `u0`: u at t[0], of shape `V.shape`, or a function of x; a tuple in a mixed space.
    - `t`: times, rising; each step goes from one to the next. [time]
    - `coefficients`, `load`, `dirichlet`: as in `Problem.solve`, or functions of t that
      return these: `lambda t: {"kappa": 1.0, "f": lambda x: t * x[0]}`.
    - `velocity`: u' at t[0], shaped like `u0`; then the equation is of second order, with
      u'' in place of u', and what is returned is the pair (u, u').
    - `method`: `BackwardEuler()`, `CrankNicolson()`, `BDF2()`, `SDIRK2()`, `SDIRK3()`.
    - `checkpoints`: in reverse mode keep only so many states at a time, and take steps
      again by the binomial schedule (`checkpoint_plan` tells the cost); all if `None`. Of
      use with `save="last"` or a function. Second derivatives are exact, but keep more.
    - `save`: "all", `(len(t), *V.shape)` with u0 first; "last"; or a function (t, u) (of
      t, (u, u') for second order) whose results are stacked, e.g. sensors.
    - `solver`: of the nonlinear problems, Newton's method if not given; or a `Krylov` for
      the linear systems of all, which goes step by step.
    - `throw=False` returns a `Solution` with one status for each step instead of raising;
      values are NaN from a failed step on.

    A linear problem whose matrix does not change is marched in one call of the engine,
    with one factorisation for each length of step, and backwards in another, with the same
    factors; loads and given values may depend on time. So it is if there are no
    `checkpoints` and all states take less than 1 GiB; other problems go step by step in a
    compiled loop. Call it in `jax.jit`.

    **Derivative** in everything given but the status, any order, both modes: that of the
    discrete scheme, exactly. Backwards, steps are taken in reverse with the transposes of
    the same factors.

    **Errors** at run time are those of `Problem.solve`.
    """
    _check(problem, method, save)
    t = as_numbers(t, "`evolve(t=...)`")
    _check_times(t)
    V = problem.V
    start = tuple(
        _initial(V, value, t, name)
        for name, value in (("u0", u0), ("velocity", velocity))
        if value is not None
    )
    system = Semidiscrete(
        problem, coefficients, load, dirichlet, t[0], start, solver, throw
    )
    start = tuple(a.astype(system.dtype) for a in start)
    t = t.astype(jnp.finfo(system.dtype).dtype)
    h = equal_steps(t)
    ratio = jnp.concatenate([jnp.zeros(1, h.dtype), h[1:] / h[:-1]])
    fields = lambda y: tuple(_shaped(V, a) for a in y) if len(y) > 1 else _shaped(V, y[0])
    keep = save if callable(save) else (lambda _, y: y)
    if checkpoints is None and fits(system, method, len(h), len(start)):
        states, status = march_linear(system, method, start, t, h, ratio)
        iterations = jnp.full(len(h), method.n_stages, "int32")
        value = fields(tuple(a[-1] for a in states))
        saved = None
        if save != "last":
            saved = jax.lax.map(lambda now: keep(now[0], fields(now[1])), (t[1:], states))
    else:

        def step(k, carry):
            times = t[k], t[k + 1]
            carry, *found = one_step(system, method, carry, times, h[k], ratio[k])
            saved = keep(times[1], fields(carry[0])) if save != "last" else None
            return carry, (saved, *found)

        carry = (start,) * method.memory
        carry, (saved, status, iterations) = march(step, carry, len(h), checkpoints)
        value = fields(carry[0])
    if save != "last":
        first = keep(t[0], fields(start))
        join = lambda a, b: jnp.concatenate([jnp.asarray(a)[None], b])
        value = jax.tree.map(join, first, saved)
    return value if throw else Solution(value, status, {"iterations": iterations})


class _Known:
    """A value of the past, its time, and the rate there, if it is asked for."""

    def __init__(self, system: Semidiscrete, y, t):
        self.system, self.y, self.t = system, y, t
        self._rate = None

    @property
    def rate(self):
        if self._rate is None:
            self._rate = self.system.rate(self.y[0], self.t)
        return self._rate


def one_step(system: Semidiscrete, method: Scheme, carry, times, h, ratio):
    """The values `carry` (newest first; each `(u,)` or `(u, v)`) a step of h later, the
    status of the step and its Newton iterations. `times`: before and after it."""
    known = [_Known(system, y, times[0]) for y in carry]
    status, iterations = jnp.int32(0), jnp.int32(0)
    for stage in method.stages(h, ratio):
        time = times[1] if stage.at == 1 else times[0] + stage.at * h
        y, found = _solve(system, stage, known, time)
        known.insert(0, _Known(system, y, time))
        status = jnp.where(status == 0, found.status, status)
        iterations = iterations + found.stats["iterations"]
    # Of a step only the last value stays, beside the last values of steps before.
    carry = (known[0].y, *carry[: method.memory - 1])
    return carry, status, iterations


def _solve(system: Semidiscrete, stage: Stage, known: list[_Known], time):
    mix = lambda pick, pairs: sum(w * pick(known[k - 1]) for k, w in pairs)
    u = mix(lambda z: z.y[0], stage.values)
    f = mix(lambda z: z.rate, stage.rates)
    guess, c = known[0].y[0], stage.c
    if len(known[0].y) == 1:
        found = system.solve(c, system.mass(u) - f, time, guess)
        return (found.value,), found
    v = mix(lambda z: z.y[1], stage.values)
    u = u + mix(lambda z: z.y[1], stage.rates)
    found = system.solve(c**2, system.mass(u + c * v) - c * f, time, guess)
    return (found.value, (found.value - u) / c), found


def equal_steps(t) -> jax.Array:
    """The lengths of the steps; those that differ by round-off of t are made equal, so
    that their matrices are."""
    h = jnp.diff(t)
    near = 8 * jnp.finfo(t.dtype).eps * jnp.max(jnp.abs(t))

    def same(last, h):
        h = jnp.where(jnp.abs(h - last) <= near, last, h)
        return h, h

    still = jax.lax.stop_gradient(h)
    _, snapped = jax.lax.scan(same, still[0], still)
    return h + (snapped - still)


def _shaped(V, u):
    found = V.split(u)
    return found[0] if len(found) == 1 else found


def _initial(V, value, t, name: str) -> jax.Array:
    """A value at t[0] as a vector of all unknowns."""
    given = value if isinstance(value, tuple) and len(V.parts) > 1 else (value,)
    fields = []
    for part, one in zip(V.parts, given, strict=len(given) == len(V.parts)):
        if callable(one):
            one = jax.vmap(one)(jnp.asarray(part.dof_points))
        one = as_numbers(one, f"`evolve({name}=...)`")
        fields.append(jnp.broadcast_to(one, part.shape) if one.ndim == 0 else one)
    shapes = tuple(part.shape for part in V.parts)
    if tuple(a.shape for a in fields) != shapes:
        raise ValueError(
            f"`evolve({name}=...)` must have shape {' and '.join(map(str, shapes))}.\n"
            f"Got {' and '.join(str(a.shape) for a in fields)}.\n"
            "One number for each unknown; use jax.vmap for several starts."
        )
    return V.join(tuple(fields))


def _check(problem, method, save) -> None:
    if not isinstance(problem, Problem):
        raise TypeError(
            "`evolve(problem, ...)` must get a Problem.\n"
            f"Got {type(problem).__name__}.\nMake one, e.g. pi.fem.models.heat(V)."
        )
    if not isinstance(method, Scheme):
        raise TypeError(
            "`evolve(method=...)` must be a time stepping scheme.\n"
            f"Got {method!r}.\n"
            "Known: BackwardEuler(), CrankNicolson(), BDF2(), SDIRK2(), SDIRK3()."
        )
    if not callable(save) and save not in ("all", "last"):
        raise ValueError(
            "`evolve(save=...)` must be 'all', 'last' or a function (t, u).\n"
            f"Got {save!r}.\nE.g. lambda t, u: sensors(u)."
        )
    if problem.nullspace is not None:
        raise ValueError(
            "`evolve` must get a problem without `nullspace`.\n"
            "Got one that has it.\nLeave it out: the mass matrix is regular."
        )


def _check_times(t) -> None:
    if t.ndim != 1 or len(t) < 2 or jnp.iscomplexobj(t):
        raise ValueError(
            "`evolve(t=...)` must be a vector of at least two times.\n"
            f"Got {t.dtype} of shape {t.shape}.\nE.g. jnp.linspace(0, 1, 101)."
        )
    if not isinstance(t, Tracer):
        steps = np.diff(np.asarray(t, np.float64))
        bad = np.flatnonzero(~(steps > 0))
        if bad.size:
            raise ValueError(
                "`evolve(t=...)` must rise.\n"
                f"Got {t[bad[0]]} and then {t[bad[0] + 1]}.\nSort the times."
            )
