r"""How a layer is differentiated: one object, and nothing else changes.

| adjoint | gradient | backward cost | memory | modes |
|---|---|---|---|---|
| `Implicit()` | exact at the solution | one transposed solve | one f | all, any order |
| `Unroll()` | exact for the iterates | 2–3 forwards | a few iterates | all, any order |
| `Unroll(steps=k)` | exact for k steps | k steps | k iterates | all, any order |
| `Phantom(k, damping)` | truncated Neumann series | k products | k f | all, any order |
| `OneStep()` | its first term ("Jacobian-free") | one product | one f | all, any order |
| `Reversible(beta)` | exact for the iterates | 3 forwards | 2 states | both, once |

The value is the same for all but `Unroll(steps=k)` and `Reversible`, which are
iterations of their own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import lineax as lx

from ._status import Status
from ._tree import flatten, ravel, stop_gradient
from .engine.failure import fail_unless_zero
from .implicit import Linearisation, attach, borrow
from .iterate import all_finite, while_loop
from .linear.jacobian import Jacobian, check_jacobian


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What an entry point asks of an adjoint.

    `run(z0, params, loop)`: iterates; `(z, status, steps)`. `residual(z, params)`: zero at
    the solution. `map(z, params)`: the fixed-point map, or None. `step_name`: what to say
    instead of `map`. `jacobian`: of `residual`.
    """

    name: str
    run: Callable[..., Any]
    residual: Callable
    map: Callable | None
    jacobian: Jacobian
    tags: frozenset
    max_steps: int
    throw: bool
    solver: Any = None


class AbstractAdjoint(eqx.Module):
    """`solve(problem, z0, params)` returns `(z, status, steps)`, z differentiable."""

    def solve(self, problem: Problem, z0, params):
        raise NotImplementedError


def _forward(problem: Problem, z0, params):
    """The solution and its status, undifferentiated, and raised on failure."""
    run = lambda z0, params: problem.run(z0, params, while_loop)
    run = eqx.filter_closure_convert(run, z0, params)
    z, status, steps = stop_gradient(run)(stop_gradient(z0), stop_gradient(params))
    return *raise_failed(problem, z, status), steps


def raise_failed(problem: Problem, z, status):
    """Returns `z`, which has no derivatives, and `status`; raises if the problem says so.

    Both go through the guard: a gradient may depend on the status alone.
    """
    if not problem.throw:
        return z, status
    messages = tuple(f"pyimplicit.{problem.name}: {s.message}" for s in Status)
    return fail_unless_zero((z, status), status, messages)


class Implicit(AbstractAdjoint):
    """The implicit function theorem at the solution; exact there.

    **Arguments:**

    - `linear_solver`: for the tangent and adjoint systems: any lineax solver (`lx.LU()`,
      `pi.GMRES(...)`, `lx.BiCGStab(...)`, `lx.CG(...)`, `pi.SparseDirect()`); by default
      LU up to 500 unknowns, GMRES above (CG for minima), sparse LU for a `SparsePattern`.
    - `rtol`: of the default iterative solvers; ε^(2/3) if not given. A solution is let
      through if its relative residual is below max(ε^(1/3), 10 rtol).
    - `jacobian`: how ∂F/∂z is stored, if not as the problem says.
    - `preconditioner`: a lineax operator close to (∂F/∂z)⁻¹, on raveled vectors, or a
      function (z, params) -> operator. It is transposed for the adjoint.
    - `guess`: a first guess for iterative solvers, shaped like z: the adjoint of a similar
      problem. (The adjoint itself is the gradient in a zero subtracted from the residual.)

    **Errors:** a tangent or adjoint solve that fails raises, or is NaN with `throw=False`;
    the derivative at a z that is no solution is NaN.

    ??? cite "Reference"
        Griewank, Walther, *Evaluating Derivatives* (2008), Chapter 15.
        doi:10.1137/1.9780898717761
    """

    linear_solver: lx.AbstractLinearSolver | None = None
    rtol: float | None = None
    jacobian: Jacobian = None
    preconditioner: Any = None
    guess: Any = None

    def __check_init__(self):
        check_jacobian(self.jacobian, "Implicit")
        solver = self.linear_solver
        if solver is not None and not isinstance(solver, lx.AbstractLinearSolver):
            raise TypeError(
                "`Implicit(linear_solver=...)` must be a lineax solver.\n"
                f"Got {solver!r}.\nTake for example lx.LU() or pi.GMRES(1e-8, 1e-8)."
            )

    def solve(self, problem: Problem, z0, params):
        z, status, steps = _forward(problem, z0, params)
        z = attach(z, problem.residual, params, self.linearisation(problem), status == 0)
        return z, status, steps

    def linearisation(self, problem: Problem) -> Linearisation:
        return Linearisation(
            self.linear_solver,
            problem.jacobian if self.jacobian is None else self.jacobian,
            self.rtol,
            preconditioner=self.preconditioner,
            guess=self.guess,
            tags=problem.tags,
            throw=problem.throw,
        )


class Unroll(AbstractAdjoint):
    """Differentiates the iteration itself, step by step.

    `steps`: exactly so many steps, without a test for convergence; this is then the
    layer, and only a non-finite result is a failure. None: until convergence, as often as
    the forward solve iterates. `checkpoints`: keep so many iterates, and recompute the
    others (binomial, online; reverse mode only); by default nested scans of 16 with
    recomputation, both modes.

    ??? cite "Reference"
        Gilbert, *Automatic differentiation and iterative processes* (1992).
        doi:10.1080/10556789208805503. Stumm, Walther, *New algorithms for optimal online
        checkpointing* (2010). doi:10.1137/080742439
    """

    steps: int | None = eqx.field(static=True, default=None)
    checkpoints: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _check_count(self.steps, "Unroll(steps=...)")
        _check_count(self.checkpoints, "Unroll(checkpoints=...)")

    def solve(self, problem: Problem, z0, params):
        if self.steps is not None:
            loop = self._fixed
        elif self.checkpoints is not None:
            loop = self._checkpointed
        else:
            loop = _bounded
        z, status, steps = problem.run(z0, params, loop)
        if self.steps is None:
            bad = status
        else:
            bad = jnp.where(all_finite(z), 0, jnp.int32(Status.nonfinite))
        kept, _ = raise_failed(problem, stop_gradient(z), bad)
        return borrow(kept, z), status, steps

    def _fixed(self, cond, body, init, max_steps):
        del cond, max_steps
        return jax.lax.scan(lambda c, _: (body(c), None), init, length=self.steps)[0]

    def _checkpointed(self, cond, body, init, max_steps):
        return eqxi.while_loop(
            cond, body, init, max_steps=max_steps, kind="checkpointed",
            checkpoints=self.checkpoints,
        )  # fmt: skip


def _bounded(cond, body, init, max_steps):
    return eqxi.while_loop(cond, body, init, max_steps=max_steps, kind="bounded")


class Phantom(AbstractAdjoint):
    """Differentiates `steps` damped steps z ← (1 - τ) z + τ f(z) taken at the solution.

    The adjoint (I - Wᵀ)⁻¹ z̄ becomes τ Σ_{i<k} ((1 - τ) I + τ Wᵀ)ⁱ z̄ with W = ∂f/∂z: cheap,
    inexact, and a descent direction where f contracts. `damping`: τ in (0, 1].

    ??? cite "Reference"
        Geng, Zhang, Bai, Wang, Lin, *On training implicit models*, NeurIPS 2021, Eq. (7).
        arXiv:2111.05177
    """

    steps: int = eqx.field(static=True, default=5)
    damping: Any = 1.0

    def __check_init__(self):
        _check_count(self.steps, "Phantom(steps=...)")
        if isinstance(self.damping, int | float) and not 0 < self.damping <= 1:
            raise ValueError(
                "`Phantom(damping=...)` must lie in (0, 1].\n"
                f"Got {self.damping}.\nUse 1 for undamped steps."
            )

    def solve(self, problem: Problem, z0, params):
        z, status, steps = _forward(problem, z0, params)
        y, unflatten = flatten(stop_gradient(z))
        fn = map_of(problem, type(self).__name__)
        tau = self.damping
        step = lambda w: (1 - tau) * w + tau * ravel(fn(unflatten(w), params))
        w, _ = jax.lax.scan(lambda w, _: (step(w), None), y, length=self.steps)
        return borrow(stop_gradient(z), unflatten(w), status == 0), status, steps


class OneStep(AbstractAdjoint):
    """Differentiates one evaluation of the fixed-point map at the solution.

    z̄ is used in place of the adjoint (I - Wᵀ)⁻¹ z̄ ("Jacobian-free backpropagation").

    ??? cite "Reference"
        Fung, Heaton, Li, McKenzie, Osher, Yin, *JFB: Jacobian-free backpropagation for
        implicit networks*, AAAI 2022. doi:10.1609/aaai.v36i6.20619. Bolte, Pauwels, Vaiter,
        *One-step differentiation of iterative algorithms*, NeurIPS 2023. arXiv:2305.13768
    """

    def solve(self, problem: Problem, z0, params):
        return Phantom(1, 1.0).solve(problem, z0, params)


def map_of(problem: Problem, adjoint: str) -> Callable:
    """The fixed-point map, or a clear error."""
    if problem.map is None:
        raise ValueError(
            f"`{adjoint}` needs a fixed-point map.\nGot `pi.{problem.name}` with "
            f"{type(problem.solver).__name__}, which has none.\nUse pi.Implicit(), or "
            "write the problem as pi.fixed_point."
        )
    return problem.map


def _check_count(count, name: str) -> None:
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(
            f"`{name}` must be a positive integer.\nGot {count!r}.\n"
            "Leave it out for the default."
        )
