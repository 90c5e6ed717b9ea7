"""How an ODE solve is differentiated: the known adjoints, and three more."""

from typing import Any

import diffrax
import equinox as eqx

from ..adjoint import AbstractAdjoint, Unroll


class _OfODEs(AbstractAdjoint):
    """An adjoint for `pi.ode` alone."""

    def solve(self, problem, z0, params):
        raise TypeError(
            f"`{type(self).__name__}` differentiates differential equations only.\n"
            f"Got it as adjoint of `pi.{problem.name}`.\nUse pi.Implicit() there."
        )


class Direct(_OfODEs):
    """Through the solver's steps, both modes, any order; all steps are kept."""


class Forward(_OfODEs):
    """Through the solver's steps, forward mode only; no memory: for few parameters."""


class Backsolve(_OfODEs):
    """Integrates the adjoint equation λ' = -(∂f/∂y)ᵀλ backwards, with y beside it.

    Constant memory, but y is not retraced exactly: the gradient is that of the continuous
    problem, with an error of its own, which grows where going back is unstable (stiff and
    dissipative systems). Reverse mode, first order. `rtol`, `atol`: of the way back.

    Source: Pontryagin et al. 1962; Chen et al. 2018, *Neural ordinary differential
    equations*, arXiv:1806.07366.
    """

    rtol: Any = None
    atol: Any = None


def of_diffrax(adjoint, controller) -> diffrax.AbstractAdjoint:
    """The diffrax adjoint that is meant."""
    if isinstance(adjoint, diffrax.AbstractAdjoint):
        return adjoint
    if isinstance(adjoint, Unroll):
        if adjoint.steps is not None:
            return diffrax.DirectAdjoint()
        return diffrax.RecursiveCheckpointAdjoint(adjoint.checkpoints)
    if isinstance(adjoint, Direct):
        return diffrax.DirectAdjoint()
    if isinstance(adjoint, Forward):
        return diffrax.ForwardMode()
    if isinstance(adjoint, Backsolve):
        for name in ("rtol", "atol"):
            if (value := getattr(adjoint, name)) is not None:
                where = lambda c, name=name: getattr(c, name)
                controller = eqx.tree_at(where, controller, value)
        return diffrax.BacksolveAdjoint(stepsize_controller=controller)
    raise TypeError(
        "`odeint(adjoint=...)` must be an adjoint for differential equations.\n"
        f"Got {adjoint!r}.\nKnown: pi.Unroll(), pi.Unroll(steps=k), pi.ode.Direct(), "
        "Forward(), Backsolve(), and diffrax's own."
    )
