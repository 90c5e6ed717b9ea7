"""CVXPY problems as layers.

A DPP problem's canonical form depends on its parameters affinely. CVXPY works this out
once, as sparse matrices from the parameters to the entries of

    min ½ xᵀPx + qᵀx   subject to   A x + s = b,  s in cones

and each call of the layer is one sparse product, one programme, and one linear map back.
In dense quadratic programmes unknowns that only name an expression are put in before.
Agrawal et al., *Differentiable convex optimization layers* (2019). arXiv:1910.12430
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from .cone import cone_program
from .cvxpy_bounds import crossed
from .cvxpy_form import DENSE, Form, canonical, cvxpy
from .cvxpy_values import checked, precision
from .qp import qp
from .qp_degenerate import Degenerate


def cvxpy_layer(
    problem: Any,
    parameters: Sequence[Any],
    variables: Sequence[Any],
    *,
    gp: bool = False,
    solver: Any = None,
    degenerate: Degenerate = "least_norm",
    throw: bool = True,
) -> Callable[..., tuple]:
    """A function from the values of `parameters` to those of `variables` at the optimum.

    **Arguments:**

    - `problem`: a `cvxpy.Problem`, DCP and DPP (with `gp`: DGP and DPP).
    - `parameters`: all of its `cvxpy.Parameter`s, in the order of the layer's arguments.
      They need no values.
    - `variables`: `cvxpy.Variable`s of it, and constraints of it, whose dual variables are
      then returned (with CVXPY's signs; not with `gp`).
    - `gp`: a geometric programme.
    - `solver`: `pi.InteriorPoint(...)` for quadratic problems, `pi.Clarabel(...)` for
      others.
    - `degenerate`: see `pi.qp`; cones know "least_norm" only.
    - `throw`: raise on failure; False: NaN values and derivatives.

    **Returns:** `layer(*values) -> tuple`, one array for each variable, in CVXPY's shapes.
    It can be jitted, vmapped (one batch) and differentiated in both modes and any order.
    Problems with a quadratic objective and linear constraints run as `pi.qp` in JAX; others
    by Clarabel on the CPU.

    **Derivative:** of all outputs in all parameters; see `pi.qp` and `pi.cone_program`.

    **Errors:** `ValueError` before any solve if the problem is not DPP, or the lists do not
    match it; of the layer, if a value is NaN or breaks the sign its parameter has declared
    (traced: the status is `nonfinite`); `ImportError` without CVXPY. At run time, if
    `throw`: the message of a `Status` (infeasible, unbounded, …).
    """
    _check(problem, parameters, variables, gp)
    parameters = tuple(parameters)
    form = canonical(problem, parameters, tuple(variables), gp)

    def layer(*values):
        theta = _flat(values, parameters, form)
        how = {"throw": throw, "degenerate": degenerate}
        x, z = _solve(form, theta, how if solver is None else how | {"solver": solver})
        return tuple(read(x, z) for read in form.outputs)

    return layer


def _flat(values, parameters, form: Form):
    """(θ, 1): the arguments, column by column."""
    if len(values) != len(parameters):
        raise TypeError(
            f"the layer takes {len(parameters)} values, one for each parameter.\nGot "
            f"{len(values)}.\nTheir order is that of `parameters`."
        )
    dtype = precision(values)
    parts = []
    for k, (value, p, log) in enumerate(zip(values, parameters, form.logs, strict=True)):
        value = checked(k, value, p, dtype)
        parts.append((jnp.log(value) if log else value).reshape(-1, order="F"))
    flat = jnp.concatenate([*parts, jnp.ones(1, dtype)])
    return flat[form.order]


def _solve(form: Form, theta, how: dict[str, Any]):
    """`(x, z)` of the canonical programme."""
    q, b = form.q(theta), form.b(theta)
    if form.linear is not None and form.n <= DENSE:
        P, A = (
            jnp.zeros(shape, theta.dtype).at[rows, cols].add(values(theta))
            for (rows, cols, values), shape in (
                (form.P, (form.n, form.n)),
                (form.A, (form.m, form.n)),
            )
        )
        p, all_rows = form.linear, lambda x, z: z
        if form.put_in is not None:
            P, q, all_rows = form.put_in(P, q, theta)
        lb, ub = form.bounds.values(b, form.n)
        if crossed(lb, ub):  # not an error here, but a programme without a point
            s = qp(P, q, A[:p], b[:p], A[p:], b[p:], **how)
            return s.x, all_rows(s.x, jnp.concatenate([s.y, s.z]))
        rest = form.bounds.rest
        s = qp(P, q, A[:p], b[:p], A[rest], b[rest], lb, ub, **how)
        return s.x, all_rows(s.x, form.bounds.multipliers(s, form.m))
    sparse = lambda part, shape: SparseOperator(
        SparsePattern(part[0], part[1], shape), part[2](theta)
    )
    empty = len(form.P[0]) == 0
    P = None if empty else sparse(form.P, (form.n, form.n))
    A = sparse(form.A, (form.m, form.n))
    if form.n + form.m <= DENSE:
        P, A = None if P is None else P.as_matrix(), A.as_matrix()
    s = cone_program(P, q, A, b, form.cones, **how)
    return s.x, s.z


def _check(problem, parameters, variables, gp: bool) -> None:
    try:
        cp = cvxpy()
    except ImportError as err:
        raise ImportError(
            "`cvxpy_layer` needs CVXPY.\nGot none.\n"
            "Install it: pip install pyimplicit[cvxpy]"
        ) from err
    if not isinstance(problem, cp.Problem):
        raise TypeError(
            "`cvxpy_layer(problem, ...)` must be a cvxpy.Problem.\n"
            f"Got {type(problem).__name__}.\n"
            "Build one with cvxpy.Problem(objective, constraints)."
        )
    good: Any = problem.is_dgp if gp else problem.is_dcp
    rules = "DGP" if gp else "DCP"
    if not good(dpp=True):
        plain = (
            f"It is {rules}, so a product of parameters is the reason."
            if good()
            else f"It is not {rules} either."
        )
        raise ValueError(
            "`cvxpy_layer` needs a problem that is DPP, disciplined in its parameters.\n"
            f"Got one that is not. {plain}\nMake each product of parameters a parameter of "
            "its own, or a variable equal to it; see CVXPY's tutorial on DPP."
        )
    if problem.is_mixed_integer():
        raise ValueError(
            "`cvxpy_layer` needs continuous variables.\nGot a mixed-integer problem.\n"
            "Relax it, or use pi.perturbed."
        )
    have = {p.id: p.name() for p in problem.parameters()}
    given = [getattr(p, "id", None) for p in parameters]
    if set(given) != set(have) or len(set(given)) != len(given):
        raise ValueError(
            "`cvxpy_layer(parameters=...)` must be the problem's parameters, each once.\n"
            f"Got {[str(p) for p in parameters]} for {sorted(have.values())}.\n"
            "Constants need no parameter."
        )
    known = {v.id for v in problem.variables()} | {c.id for c in problem.constraints}
    for v in variables:
        if getattr(v, "id", None) not in known:
            raise ValueError(
                "`cvxpy_layer(variables=...)` must be variables or constraints of the "
                f"problem.\nGot {v}.\nExpressions: make a variable equal to them."
            )
    if gp and any(not isinstance(v, cp.Variable) for v in variables):
        raise ValueError(
            "`cvxpy_layer(gp=True)` returns variables only.\nGot a constraint.\n"
            "Its multiplier is a derivative of the optimal value in a parameter."
        )
