"""CVXPY problems as layers.

A DPP problem's canonical form depends on its parameters affinely. CVXPY works this out
once, as sparse matrices from the parameters to the entries of

    min ½ xᵀPx + qᵀx   subject to   A x + s = b,  s in cones

and each call of the layer is one sparse product, one programme, and one linear map back.
Agrawal et al., *Differentiable convex optimization layers* (2019). arXiv:1910.12430
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from ..linear.operator import SparseOperator
from ..linear.pattern import SparsePattern
from . import cones
from .cone import cone_program
from .qp import qp


DENSE = 500  # unknowns up to which programmes are dense


def cvxpy_layer(
    problem: Any,
    parameters: Sequence[Any],
    variables: Sequence[Any],
    *,
    gp: bool = False,
    solver: Any = None,
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
    - `throw`: raise on failure; False: NaN values and derivatives.

    **Returns:** `layer(*values) -> tuple`, one array for each variable, in CVXPY's shapes.
    It can be jitted, vmapped (one batch) and differentiated in both modes and any order.
    Problems with a quadratic objective and linear constraints run as `pi.qp` in JAX; others
    by Clarabel on the CPU.

    **Derivative:** of all outputs in all parameters; see `pi.qp` and `pi.cone_program`.

    **Errors:** `ValueError` before any solve if the problem is not DPP, or the lists do not
    match it; `ImportError` without CVXPY. At run time, if `throw`: the message of a
    `Status` (infeasible, unbounded, …).
    """
    _check(problem, parameters, variables, gp)
    form = _canonical(problem, tuple(parameters), tuple(variables), gp)
    shapes = [p.shape for p in parameters]

    def layer(*values):
        theta = _flat(values, shapes, form)
        x, z = _solve(form, theta, solver, throw)
        return tuple(read(x, z) for read in form.outputs)

    return layer


@dataclasses.dataclass(frozen=True, eq=False)
class _Form:
    """The canonical form: `P`, `q`, `A`, `b` are (places, map from (θ, 1))."""

    n: int
    m: int
    P: tuple
    q: Any
    A: tuple
    b: Any
    cones: tuple
    linear: int | None  # the number of equalities, if all other rows are inequalities
    order: np.ndarray  # where in the flattened arguments each entry of θ is
    logs: tuple[bool, ...]
    outputs: tuple


class _Map:
    """v -> M v for a constant sparse matrix."""

    def __init__(self, M):
        M = sp.coo_array(M)
        self.shape, self.values = M.shape, M.data
        self.rows, self.cols = (i.astype(np.int32) for i in M.coords)

    def __call__(self, v):
        out = jnp.zeros(self.shape[0], v.dtype)
        return out.at[self.rows].add(self.values.astype(v.dtype) * v[self.cols])


def _flat(values, shapes, form: _Form):
    """(θ, 1): the arguments, column by column."""
    if len(values) != len(shapes):
        raise TypeError(
            f"the layer takes {len(shapes)} values, one for each parameter.\nGot "
            f"{len(values)}.\nTheir order is that of `parameters`."
        )
    dtype = jnp.result_type(float, *values)
    parts = []
    for k, (value, shape, log) in enumerate(zip(values, shapes, form.logs, strict=True)):
        value = jnp.asarray(value, dtype)
        if value.shape != shape:
            raise ValueError(
                f"the layer's argument {k} must have shape {shape}, its parameter's.\n"
                f"Got {value.shape}.\nFor a batch use jax.vmap."
            )
        parts.append((jnp.log(value) if log else value).reshape(-1, order="F"))
    flat = jnp.concatenate([*parts, jnp.ones(1, dtype)])
    return flat[form.order]


def _solve(form: _Form, theta, solver, throw):
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
        p = form.linear
        how = {"solver": solver, "throw": throw}
        s = qp(P, q, A[:p], b[:p], A[p:], b[p:], **how)
        return s.x, jnp.concatenate([s.y, s.z])
    sparse = lambda part, shape: SparseOperator(
        SparsePattern(part[0], part[1], shape), part[2](theta)
    )
    empty = len(form.P[0]) == 0
    P = None if empty else sparse(form.P, (form.n, form.n))
    A = sparse(form.A, (form.m, form.n))
    if form.n + form.m <= DENSE:
        P, A = None if P is None else P.as_matrix(), A.as_matrix()
    how = {"throw": throw} | ({} if solver is None else {"solver": solver})
    s = cone_program(P, q, A, b, form.cones, **how)
    return s.x, s.z


def _canonical(problem, parameters, variables, gp: bool) -> _Form:
    import cvxpy as cp

    is_variable = lambda v: isinstance(v, cp.Variable)
    given = list(variables)
    shifts: dict[int, Any] = {}
    if not gp:
        problem, given, shifts = _rewritten(problem, given)
    data, chain, _ = problem.get_problem_data(cp.CLARABEL, gp=gp)
    form, dims = data["param_prob"], data["dims"]
    if data.get("lower_bounds") is not None or data.get("upper_bounds") is not None:
        raise ValueError(
            "`cvxpy_layer` takes bounds as constraints.\nGot a canonical form with bounds "
            "on its variables.\nWrite them in `constraints`."
        )
    ids, to_log = _ids(parameters, chain, gp)
    n = form.x.size
    P, q, A, b = _tensors(form, n)
    m = b.shape[0]
    total = sum(p.size for p in parameters)
    # Columns of the maps: those of the parameters, then shifts (zero), then the constant.
    order = np.full(form.total_param_size + 1, -1)
    order[form.param_id_to_col[-1]] = total
    at = 0
    for p, name in zip(parameters, ids, strict=True):
        if name in form.param_id_to_col:
            col = form.param_id_to_col[name]
            order[col : col + p.size] = np.arange(at, at + p.size)
        elif p.id in {q.id for q in problem.parameters()}:
            raise ValueError(
                "`cvxpy_layer(parameters=...)` must have no structural attributes.\n"
                f"Got {p.name()}, of which CVXPY keeps another representation.\nTake a "
                "plain Parameter (symmetric=True and PSD=True are promises about values)."
            )
        at += p.size
    keep = order >= 0
    outputs = []
    for v in given:
        if is_variable(v):
            outputs.append(_reader(v, form, chain, gp))
        else:
            outputs.append(_dual_reader(shifts[id(v)], form, b))
    cut = lambda M: _Map(sp.csc_array(M)[:, keep])
    return _Form(
        n, m, (*P[:2], cut(P[2])), cut(q), (*A[:2], cut(A[2])), cut(b), _cones(dims),
        dims.zero if not (dims.soc or dims.psd or dims.exp or dims.p3d) else None,
        order[keep], to_log, tuple(outputs),
    )  # fmt: skip


def _tensors(form, n: int):
    """P, q, A, b of A x + s = b, the matrices as (rows, cols, map)."""
    form.reduced_A.cache()
    width = form.total_param_size + 1
    nothing = np.zeros(0, int), np.zeros(0, int), sp.csc_array((0, width))
    places = lambda indices, indptr: (
        np.asarray(indices, int),
        np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)),
    )
    indices, indptr, shape = form.reduced_A.problem_data_index
    rows, cols = places(indices, indptr)
    values = sp.csr_array(form.reduced_A.reduced_mat)
    right = cols == n
    put = sp.csr_array(
        (np.ones(right.sum()), (rows[right], np.flatnonzero(right))),
        shape=(shape[0], values.shape[0]),
    )
    A = rows[~right], cols[~right], -values[np.flatnonzero(~right)]
    P = nothing
    if form.P is not None:
        form.reduced_P.cache()
        if form.reduced_P.problem_data_index is not None:
            indices, indptr, _ = form.reduced_P.problem_data_index
            P = *places(indices, indptr), sp.csr_array(form.reduced_P.reduced_mat)
    return P, sp.csr_array(form.q)[:n], A, put @ values


def _cones(dims) -> tuple:
    if getattr(dims, "pnd", None):
        raise ValueError(
            "`cvxpy_layer` takes power cones of three entries.\nGot cones of more.\nWrite "
            "the problem with cp.PowCone3D or several geo_mean's."
        )
    found: list = [cones.Zero(dims.zero)] if dims.zero else []
    found += [cones.Nonnegative(dims.nonneg)] if dims.nonneg else []
    found += [cones.SecondOrder(int(k)) for k in dims.soc]
    found += [cones.PSD(int(k)) for k in dims.psd]
    found += [cones.Exponential()] * dims.exp
    return tuple(found + [cones.Power(float(a)) for a in dims.p3d])


def _rewritten(problem, wanted):
    """The problem with a plain copy of each variable that CVXPY would represent otherwise,
    and a shift (a parameter that is zero) in each constraint whose dual is wanted: the
    dual variable is minus the derivative of the optimal value in it."""
    import cvxpy as cp

    shifts, replaced, extra, found = {}, {}, [], []
    for v in wanted:
        if isinstance(v, cp.Variable):
            special = any(v.attributes[k] for k in _SPECIAL if k in v.attributes)
            copy = cp.Variable(v.shape) if special else v
            extra += [copy == v] if special else []
            found.append(copy)
        else:
            by = cp.Parameter(v.args[0].shape)
            if isinstance(v, cp.constraints.PSD):
                new = v.args[0] + by >> 0
            elif isinstance(v, cp.constraints.Inequality):
                by = cp.Parameter(v.expr.shape)
                new = v.args[0] <= v.args[1] + by
            elif isinstance(v, cp.constraints.Equality):
                by = cp.Parameter(v.expr.shape)
                new = v.args[0] == v.args[1] + by
            else:
                raise ValueError(
                    "`cvxpy_layer` returns duals of equalities, inequalities and matrix "
                    f"inequalities.\nGot {type(v).__name__}.\nWrite it as one of these."
                )
            shifts[id(v)], replaced[v.id] = by, new
            found.append(v)
    constraints = [replaced.get(c.id, c) for c in problem.constraints] + extra
    return cp.Problem(problem.objective, constraints), found, shifts


_SPECIAL = ("symmetric", "PSD", "NSD", "diag", "hermitian", "sparsity")


def _ids(parameters, chain, gp: bool):
    """The canonical form's name of each parameter, and whether it is its logarithm."""
    if not gp:
        return [p.id for p in parameters], (False,) * len(parameters)
    names = _dgp(chain).param_id_map
    logs = tuple(p.id in names for p in parameters)
    return [names[p.id][0] if p.id in names else p.id for p in parameters], logs


def _dgp(chain):
    return next(r for r in chain.reductions if type(r).__name__ == "Dgp2Dcp")


def _reader(v, form, chain, gp: bool):
    name = _dgp(chain).var_id_map[v.id][0] if gp else v.id
    start = form.var_id_to_col[name]
    places = np.arange(start, start + v.size).reshape(v.shape, order="F")
    return lambda x, z: jnp.exp(x[places]) if gp else x[places]


def _dual_reader(shift, form, b):
    col = form.param_id_to_col[shift.id]
    pull = _Map(sp.csr_array(sp.csc_array(b)[:, np.arange(col, col + shift.size)].T))
    return lambda x, z: pull(z).reshape(shift.shape, order="F")


def _check(problem, parameters, variables, gp: bool) -> None:
    try:
        import cvxpy as cp
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
    rules, good = ("DGP", problem.is_dgp) if gp else ("DCP", problem.is_dcp)
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
                "`cvxpy_layer(variables=...)` must be variables or constraints of it."
                f"\nGot {v}.\nExpressions: make a variable equal to them."
            )
    if gp and any(not isinstance(v, cp.Variable) for v in variables):
        raise ValueError(
            "`cvxpy_layer(gp=True)` returns variables only.\nGot a constraint.\n"
            "Its multiplier is a derivative of the optimal value in a parameter."
        )
