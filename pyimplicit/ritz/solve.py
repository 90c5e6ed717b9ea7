"""The entry point of `pi.ritz`."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from .boundary import AbstractBoundary, Exact
from .checks import as_domain, check_file, check_functional, check_numbers, check_objects
from .domains import AbstractDomain, Rule
from .energies import Energy, as_energy
from .functional import Discrete, Functional
from .optimizers import AbstractOptimizer, NaturalGradient
from .progress import Screen
from .quadrature import AbstractQuadrature, fine_rule, other, usual
from .result import Report, RitzError, RitzResult
from .stalled import PATIENCE, fell, refused, why


def solve(
    energy: Energy | Callable,
    domain: AbstractDomain,
    boundary: AbstractBoundary = Exact(),
    model: Any = None,
    *,
    quadrature: AbstractQuadrature | None = None,
    optimizer: AbstractOptimizer = NaturalGradient(),
    steps: int = 100,
    report_every: int | None = None,
    rtol: float = 1e-12,
    reference: float | None = None,
    lower: float | None = None,
    fine: Rule | None = None,
    key: jax.Array | None = None,
    chunk: int = 2048,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    callback: Callable | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> RitzResult:
    r"""Minimises an energy over a network: the deep Ritz method.

    **Arguments:**

    - `energy`: an `Energy`, e.g. `ritz.poisson(source=1.0)`, or a plain density
      e(x, u, grad_u) of one point.
    - `domain`: a `Box` or `Ball` of any dimension, a `Polygon`, `LShape`, `Slit` or
      `Implicit` one, or a `fem.Mesh`.
    - `boundary`: `Exact(g)`, `Penalty(g, weight)`, `Nitsche(g, weight)`,
      `AugmentedLagrangian(g, weight)`, `LagrangeMultiplier(g, rate)`, `Natural()`.
    - `model`: an equinox module, `(dim,)` to a scalar or `(m,)`; see `ritz.MLP`.
    - `quadrature`: where the energy is integrated to train; by default Gauss
      nodes, some 32 for each coordinate, up to two dimensions, else `Sobol(4096)`.
    - `optimizer`: `NaturalGradient()` (the default), `Adam(rate)`, `Optax(...)`.
    - `steps`, `report_every`: steps in all, and between two reports (compiled as one
      scan; by default a tenth of them, at most 50).
    - `rtol`: stop when the decrement is below `rtol` times the energy.
    - `reference`: the least energy, if known: reports then have a `gap`.
    - `lower`: a lower bound of it, e.g. `ritz.flux_bound(...).lower`: reports, and the
      progress bar, then have a `bound` of the error.
    - `fine`: the rule of reports; `ritz.fine_rule(domain)` if not given.
    - `key`: of random nodes; `jax.random.key(0)` if not given.
    - `chunk`: nodes that are worked on at once.
    - `checkpoint`, `resume`: a file that is written at each report; start from it if it
      exists.
    - `callback`: `callback(report, field)`; returning true stops.
    - `progress`: True, False, or None for "if standard error is a terminal".
    - `throw`: raise a `RitzError` (with `.result`) where NaN or infinity comes up.

    A solve that stalls, i.e. whose last dozen of steps were all refused by its optimiser,
    ends at the next report; `message` then tells why, and what to do.

    **Returns:** a `RitzResult`. The function drives compiled steps from Python: it cannot
    itself be jitted or differentiated.

    ??? cite "Reference"
        E, Yu, *The deep Ritz method* (2018). doi:10.1007/s40304-018-0127-z
    """
    domain = as_domain(domain)
    quadrature = usual(domain) if quadrature is None else quadrature
    check_objects(boundary, model, quadrature, optimizer, fine)
    check_numbers(steps, 1 if report_every is None else report_every, chunk)
    check_file(checkpoint, resume)
    functional = Functional(as_energy(energy), domain, boundary, model, chunk)
    fine = fine_rule(domain) if fine is None else fine
    check_functional(functional, fine)
    every = min(max(steps // 10, 1), 50) if report_every is None else report_every
    key = jax.random.key(0) if key is None else key
    look = jax.jit(lambda theta: (functional.pure(theta, fine),
                                  functional.violation(theta, fine)))  # fmt: skip
    theta = functional.theta
    state = optimizer.init(theta), boundary.init(functional)
    state = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), state)  # not weak
    done, history, message, converged = 0, [], f"{steps} steps were taken", False
    run, still = _compiled(functional, optimizer), 0
    # Where the treatment of the boundary moves, the next step is another problem.
    waits = boundary.moving or bool(jax.tree.leaves(state[1]))

    def result() -> RitzResult:
        field, trained = functional.field(theta), functional.model(theta)
        multiplier = boundary.multiplier(state[1])
        return RitzResult(
            trained, field, theta, converged, message, tuple(history), multiplier
        )

    if resume and checkpoint is not None and Path(checkpoint).exists():
        held, state, done = _load(checkpoint, (functional.unravel(theta), state))
        theta, message = ravel_pytree(held)[0], f"{max(steps, done)} steps were taken"
    with Screen(steps, progress) as screen:
        clock = time.perf_counter()
        energy_now, violation = _numbers(look, theta)
        against = reference, lower
        history.append(_report(done, energy_now, *against, violation=violation))
        while done < steps:
            n = min(every, steps - done)
            so_far = jnp.asarray(done)  # traced: a number would be compiled for
            new, new_state, infos = run(theta, state, quadrature, key, so_far, n)
            energy_now, violation = _numbers(look, new)
            if not (math.isfinite(energy_now) and bool(jnp.isfinite(new).all())):
                message = f"the energy is {energy_now} after {done + n} steps"
                break
            theta, state, done = new, new_state, done + n
            still = refused(infos.length, still)
            last = jax.tree.map(lambda a: float(a[-1]), infos)
            report = _report(
                done,
                energy_now,
                *against,
                trained=last.energy,
                violation=violation,
                gradient=last.gradient,
                decrement=last.decrement,
                length=last.length,
                seconds=time.perf_counter() - clock,
            )
            history.append(report)
            screen.show(report)
            if checkpoint is not None:
                _save(checkpoint, (functional.unravel(theta), state), done)
            if callback is not None and callback(report, functional.field(theta)):
                message = "stopped by the callback"
                return result()
            if abs(last.decrement) <= rtol * abs(energy_now):
                message, converged = f"the decrement fell to {last.decrement:.3g}", True
                return result()
            if still >= PATIENCE and not waits:
                rules = _nodes(functional, quadrature, theta, key, done - 1)
                on, judge = (Discrete(functional, r, done - 1, state[1]) for r in rules)
                message = fell(why(on, judge, theta, still), history)
                return result()
    message = fell(message, history)
    if done < steps and throw:
        raise RitzError(
            f"`ritz.solve` came upon a number that is not finite: {message}.\n"
            f"Got energy {history[-1].energy:.6g} at the report before, step {done}.\n"
            "Take a smaller learning rate or more nodes; see that the density is finite "
            "and bounded below. The error's `.result` is that state.",
            result(),
        )
    return result()


def _numbers(look, theta) -> tuple[float, ...]:
    try:
        return tuple(map(float, look(theta)))
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            "`ritz.solve` drives compiled steps from Python and cannot itself be traced.\n"
            "Got an energy that jit, grad or vmap has put a tracer into.\nTake ritz.layer, "
            "which is differentiable in the parameters of its energy."
        ) from error


def _compiled(functional: Functional, optimizer: AbstractOptimizer):
    """`run(theta, state, quadrature, key, done, n)`: n steps as one scan."""

    @eqx.filter_jit
    def run(theta, state, quadrature, key, done, n):
        def step(carry, i):
            theta, (own, held) = carry
            rule, check = _nodes(functional, quadrature, theta, key, i)
            problem = Discrete(functional, rule, i, held, check)
            theta, own, info = optimizer.step(problem, theta, own)
            held = functional.boundary.advance(held, problem, theta)
            return (theta, (own, held)), info

        carry, infos = jax.lax.scan(step, (theta, state), done + jnp.arange(n))
        return *carry, infos

    return run


def _nodes(functional, quadrature, theta, key, i) -> tuple[Rule, Rule]:
    """Of step i: its own, and those that judge it."""
    mine, others = jax.random.split(jax.random.fold_in(key, i))
    rule = quadrature.at(functional, theta, mine)
    return rule, other(quadrature).at(functional, theta, others)


def _report(step, energy, reference, lower, **more) -> Report:
    gap, bound = (math.nan if a is None else energy - a for a in (reference, lower))
    return Report(step, energy, gap=gap, bound=bound, **more)


def _save(path, tree, done: int) -> None:
    """Written beside and moved, so that a stopped run leaves a whole file."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    eqx.tree_serialise_leaves(part, (tree, jnp.asarray(done)))
    os.replace(part, path)


def _load(path, like):
    try:
        tree, done = eqx.tree_deserialise_leaves(path, (like, jnp.asarray(0)))
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise ValueError(
            "`solve(checkpoint=..., resume=True)` must have a file of the same model, "
            f"optimizer and boundary.\nGot {str(path)!r}, which these do not fit: "
            f"{str(error).splitlines()[0]}\nMake them as they were, or take another file."
        ) from error
    return *tree, int(done)
