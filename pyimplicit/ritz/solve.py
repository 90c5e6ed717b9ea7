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

from ..fem.mesh import Mesh
from .boundary import AbstractBoundary, Exact
from .domains import AbstractDomain, MeshDomain, Rule
from .energies import Energy, as_energy
from .functional import Discrete, Functional
from .optimizers import AbstractOptimizer, NaturalGradient
from .progress import Screen
from .quadrature import AbstractQuadrature, fine_rule, other, usual
from .result import Report, RitzError, RitzResult
from .stalled import PATIENCE, refused, why


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
    domain = _as_domain(domain)
    quadrature = _check(energy, domain, boundary, model, quadrature, optimizer, steps)
    functional = Functional(as_energy(energy), domain, boundary, model, chunk)
    fine = fine_rule(domain) if fine is None else fine
    _check_model(functional, fine.interior.x.shape[1])
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
        theta, state, done = _load(checkpoint, (theta, state))
    with Screen(steps, progress) as screen:
        clock = time.perf_counter()
        energy_now, violation = map(float, look(theta))
        against = reference, lower
        history.append(_report(done, energy_now, *against, violation=violation))
        while done < steps:
            n = min(every, steps - done)
            so_far = jnp.asarray(done)  # traced: a number would be compiled for
            new, new_state, infos = run(theta, state, quadrature, key, so_far, n)
            energy_now, violation = map(float, look(new))
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
                _save(checkpoint, (theta, state), done)
            if callback is not None and callback(report, functional.field(theta)):
                message = "stopped by the callback"
                return result()
            if abs(last.decrement) <= rtol * abs(energy_now):
                message, converged = f"the decrement fell to {last.decrement:.3g}", True
                return result()
            if still >= PATIENCE and not waits:
                rules = _nodes(functional, quadrature, theta, key, done - 1)
                on, judge = (Discrete(functional, r, done - 1, state[1]) for r in rules)
                message = why(on, judge, theta, still)
                return result()
    if done < steps and throw:
        raise RitzError(
            f"`ritz.solve` came upon a number that is not finite: {message}.\n"
            f"Got energy {history[-1].energy:.6g} at the report before, step {done}.\n"
            "Take a smaller learning rate or more nodes; see that the density is finite "
            "and bounded below. The error's `.result` is that state.",
            result(),
        )
    return result()


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
    tree, done = eqx.tree_deserialise_leaves(path, (like, jnp.asarray(0)))
    return *tree, int(done)


def _as_domain(domain) -> AbstractDomain:
    if isinstance(domain, AbstractDomain):
        return domain
    if isinstance(domain, Mesh):
        return MeshDomain(domain)
    raise TypeError(
        f"`solve(domain=...)` must be a domain.\nGot {domain!r}.\n"
        "Known: ritz.Box, Ball, Polygon, LShape, Slit, Implicit, and any fem.Mesh."
    )


def _check(energy, domain, boundary, model, quadrature, optimizer, steps):
    """Refuses what no solve could use; returns the quadrature."""
    if quadrature is None:
        quadrature = usual(domain)
    kinds = (
        ("boundary", boundary, AbstractBoundary, "ritz.Exact(0.0)"),
        ("quadrature", quadrature, AbstractQuadrature, "ritz.Gauss(4, 8)"),
        ("optimizer", optimizer, AbstractOptimizer, "ritz.NaturalGradient()"),
    )
    for name, given, kind, example in kinds:
        if not isinstance(given, kind):
            raise TypeError(
                f"`solve({name}=...)` must be a ritz {name}.\nGot {given!r}.\n"
                f"Take for example {example}."
            )
    if not callable(model):
        raise TypeError(
            f"`solve(model=...)` must be an equinox module x -> u.\nGot {model!r}.\n"
            "Take for example ritz.MLP(2, key=jax.random.key(0))."
        )
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(
            f"`solve(steps=...)` must be a positive whole number.\nGot {steps!r}.\n"
            "Some 100 natural gradient steps, some 10,000 of Adam."
        )
    return quadrature


def _check_model(functional: Functional, size: int) -> None:
    if not functional.theta.size:
        raise ValueError(
            "`solve(model=...)` must have parameters.\nGot a model without floating "
            "arrays.\nMake them arrays of the module, not closures."
        )
    x = jax.ShapeDtypeStruct((size,), functional.theta.dtype)
    u = jax.eval_shape(functional.field(functional.theta), x)
    if not eqx.is_array_like(u) and not hasattr(u, "shape"):
        raise TypeError(f"The model must return an array.\nGot {u!r}.\nReturn u(x).")
    if u.ndim > 1:
        raise ValueError(
            "`solve(model=...)` must return a scalar or a vector at one point.\n"
            f"Got shape {u.shape}.\nReturn () or (m,)."
        )
