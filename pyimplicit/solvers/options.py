"""Checks of the options of solvers, when these are made."""

from typing import Any

import lineax as lx
import optimistix as optx


def check_count(solver: Any, name: str) -> None:
    """Raises unless the field `name` is a positive integer."""
    given = getattr(solver, name)
    if isinstance(given, bool) or not isinstance(given, int) or given < 1:
        raise ValueError(
            f"`{type(solver).__name__}({name}=...)` must be a positive integer.\n"
            f"Got {given!r}.\nLeave it out for the default."
        )


def check_damping(solver: Any) -> None:
    """Raises on a number `damping` outside (0, 1]."""
    given = solver.damping
    if isinstance(given, int | float) and not 0 < given <= 1:
        raise ValueError(
            f"`{type(solver).__name__}(damping=...)` must lie in (0, 1].\n"
            f"Got {given}.\nUse 1 for the plain iteration."
        )


def check_safeguard(solver: Any) -> None:
    """Raises on a number `safeguard` below 1."""
    given = solver.safeguard
    if isinstance(given, int | float) and not given >= 1:
        raise ValueError(
            f"`{type(solver).__name__}(safeguard=...)` must be at least 1.\n"
            f"Got {given}.\nUse infinity for none."
        )


def check_linear_solver(solver: Any) -> None:
    """Raises unless the field `linear_solver` is empty or a lineax solver."""
    given = solver.linear_solver
    if given is not None and not isinstance(given, lx.AbstractLinearSolver):
        raise TypeError(
            f"`{type(solver).__name__}(linear_solver=...)` must be a lineax solver.\n"
            f"Got {given!r}.\nTake for example lineax's QR()."
        )


def check_ends(name: str, solver: Any, options: dict[str, Any] | None) -> None:
    """Raises unless a search between two ends is told both."""
    if not isinstance(solver, optx.Bisection | optx.GoldenSearch):
        return
    given = sorted(options or {})
    if not {"lower", "upper"} <= set(given):
        kind = type(solver).__name__
        raise ValueError(
            f'`{name}(solver={kind}(...))` must get options={{"lower": …, "upper": …}}.\n'
            f"Got options with {', '.join(map(repr, given)) or 'nothing'}.\n"
            "Pass the two ends that it searches between; z0 does not matter then."
        )
    if type(solver) is optx.GoldenSearch:
        raise ValueError(
            f"`{name}(solver=...)` must not be optimistix's own GoldenSearch.\n"
            "Got one, which leaves the search interval where lower is not 0.\n"
            "Take pi.GoldenSearch(...)."
        )
