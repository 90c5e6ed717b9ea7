"""Slow viscous flow."""

from ..forms import div, dot, grad, inner
from ..mixed import MixedSpace
from ..problem import Problem
from ..space import FunctionSpace


def stokes(
    V: FunctionSpace,
    Q: FunctionSpace,
    dirichlet: dict | None = None,
    *,
    force: str | None = None,
    enclosed: bool = False,
    **conditions,
) -> Problem:
    """-∇·(ν∇u - p I) = f, ∇·u = 0: velocity u in V, pressure p in Q, which must be a stable
    pair, e.g. P2 and P1 (Taylor, Hood 1973, doi:10.1016/0045-7930(73)90027-3). A solution
    is the tuple (u, p).

    Coefficients: the viscosity "nu", and the name that `force` gives to f. `dirichlet`: of
    the velocity. `enclosed`: the velocity is given on the whole boundary, so the pressure
    is determined up to a constant; its mean is made zero.
    """
    if (
        V.components != V.mesh.dim
        or Q.components != 1
        or Q.element.order >= V.element.order
    ):
        raise ValueError(
            "`stokes(V, Q)` must get a vector space and a scalar one of lower order.\n"
            f"Got {V} and {Q}.\nE.g. 'P2' with components=mesh.dim, and 'P1'."
        )

    def form(u, v, w):
        (u, p), (v, q) = u, v
        flow = w.nu * inner(grad(u), grad(v)) - p * div(v) - q * div(u)
        return flow if force is None else flow - dot(getattr(w, force), v)

    if enclosed:
        conditions.setdefault("nullspace", (None, "constants"))
    structure = conditions.pop("structure", "symmetric")
    return Problem(
        MixedSpace(V, Q), form, (dirichlet or {}, {}), structure=structure, **conditions
    )
