"""The diffusion form, with a fast path."""

import dataclasses

import jax

from . import loops, matrices
from .coefficients import Coefficient, average, averages, evaluate
from .forms import dot, grad
from .space import FunctionSpace


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """∫ κ ∇u·∇v - f v, the weak form of -∇·(κ∇u) = f for scalar u.

    `coefficient`: the name of κ > 0. [flux / gradient, e.g. W m⁻¹ K⁻¹] `source`: the
    name of f, if there is one. [flux / length] It is a form like any other, and for P1 is
    also assembled by `pyimplicit.fem.loops`: the same numbers sooner.

    *Derivative* in κ: κ̄_c = -∫_c ∇u·∇λ per cell, with A λ = ū.
    """

    coefficient: str = "kappa"
    source: str | None = None

    structure = "spd"

    def __call__(self, u, v, w):
        flux = getattr(w, self.coefficient) * dot(grad(u), grad(v))
        return flux if self.source is None else flux - getattr(w, self.source) * v

    def fits(self, V) -> bool:
        """Whether there is a fast path: gradients must be constant in each cell."""
        return loops.fits(V)

    def assemble(
        self, V: FunctionSpace, coefficients: dict[str, Coefficient], points=None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Matrix entries on `V.pattern()`, and the residual at u = 0 (`None`: zero).
        `points`: of the mesh, if they are moved."""
        self.check(V, coefficients)
        kappa = average(V, self.coefficient, coefficients[self.coefficient])
        values = loops.assemble(V, "Diffusion", kappa[:, None], points=points)
        return values, self._residual(V, coefficients, points)

    def loops(self, V, coefficients, points, boundary):
        """See `linear_system`: `assemble` where there are conditions on boundaries too."""
        del boundary
        if not loops.fits(V):
            return None
        kappa = averages(V, lambda a: a, coefficients[self.coefficient])
        if kappa is None:
            return None
        values = loops.assemble(V, "Diffusion", kappa[:, None], points=points)
        return values, self._residual(V, coefficients, points)

    def _residual(self, V, coefficients, points):
        if self.source is None:
            return None
        source = evaluate(V, coefficients[self.source])
        return -matrices.source_vector(V, source, points)

    def check(self, V, coefficients) -> None:
        """Refuses other coefficients than its own, and vectors."""
        known = [n for n in (self.coefficient, self.source) if n is not None]
        for name in (*known, *coefficients):
            if name not in coefficients or name not in known:
                raise ValueError(
                    f"The coefficients of this diffusion problem must be {known}.\n"
                    f"Got {list(coefficients)}.\n"
                    f"{'Remove' if name in coefficients else 'Pass'} {name!r}."
                )
        if len(V.parts) > 1 or V.parts[0].components != 1:
            raise ValueError(
                "`Diffusion` must have a scalar unknown.\n"
                f"Got {V}.\n"
                "Write a form, e.g. w.kappa * inner(grad(u), grad(v))."
            )
