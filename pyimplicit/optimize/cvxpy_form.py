"""The canonical form of a parametrised CVXPY problem, as CVXPY finds it."""

import dataclasses
import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp

from . import cones
from .cvxpy_bounds import Bounds, bounds
from .cvxpy_defined import Map, Substitution, defined


DENSE = 500  # unknowns up to which programmes are dense


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The canonical form: `P`, `q`, `A`, `b` are (places, map from (θ, 1)).

    `linear`: the number of equalities if all other rows are inequalities, else None; then
    `bounds` are those rows that bound one unknown. `put_in`: what was eliminated, of which
    the other fields know nothing; only `outputs`, functions of (x, z), take the multipliers
    of all rows.
    """

    n: int
    m: int
    P: tuple
    q: Any
    A: tuple
    b: Any
    cones: tuple
    linear: int | None
    bounds: Bounds
    put_in: Substitution | None
    order: np.ndarray  # where in the flattened arguments each entry of θ is
    logs: tuple[bool, ...]
    outputs: tuple


def canonical(problem, parameters, variables, gp: bool) -> Form:
    cp = cvxpy()

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
    all_b, m = b, b.shape[0]
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
    cut = lambda M: sp.csr_array(sp.csc_array(M)[:, keep])
    P, A = (*P[:2], cut(P[2])), (*A[:2], cut(A[2]))
    q, b = cut(q), cut(b)
    one = int(np.flatnonzero(order[keep] == total)[0])
    linear = dims.zero if not (dims.soc or dims.psd or dims.exp or dims.p3d) else None
    own, place, put_in = _own(problem, form), np.arange(n), None
    names = None
    if linear is not None and not gp:
        names = defined(P, A, own, one, dims.zero, m, DENSE)
    if names is not None:
        (P, q, A, b), put_in = names.split(P, q, A, b)
        n, m, linear = names.kept.size, names.rest.size, dims.zero - names.rows.size
        place[names.kept] = np.arange(n)
    outputs = []
    for v in given:
        if is_variable(v):
            outputs.append(_reader(v, form, chain, gp, place))
        else:
            outputs.append(_dual_reader(shifts[id(v)], form, all_b))
    single = bounds(*A, one, linear or 0, m)
    return Form(
        n, m, (*P[:2], Map(P[2])), Map(q), (*A[:2], Map(A[2])), Map(b), _cones(dims),
        linear, single, put_in, order[keep], to_log, tuple(outputs),
    )  # fmt: skip


def _own(problem, form):
    """Which unknowns of the canonical form are not the problem's variables."""
    own = np.ones(form.x.size, bool)
    for v in problem.variables():
        if v.id in form.var_id_to_col:
            start = form.var_id_to_col[v.id]
            own[start : start + v.size] = False
    return own


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
    values: Any = sp.csr_array(form.reduced_A.reduced_mat)
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
    cp = cvxpy()

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


def _reader(v, form, chain, gp: bool, place):
    name = _dgp(chain).var_id_map[v.id][0] if gp else v.id
    start = form.var_id_to_col[name]
    places = place[start : start + v.size].reshape(v.shape, order="F")
    return lambda x, z: jnp.exp(x[places]) if gp else x[places]


def _dual_reader(shift, form, b):
    col = form.param_id_to_col[shift.id]
    pull = Map(sp.csr_array(sp.csc_array(b)[:, np.arange(col, col + shift.size)].T))
    return lambda x, z: pull(z).reshape(shift.shape, order="F")


def cvxpy() -> Any:
    try:
        return importlib.import_module("cvxpy")
    except ImportError as err:
        raise ImportError(
            "`cvxpy_layer` needs CVXPY.\nGot none.\nInstall it: "
            "pip install pyimplicit[cvxpy]"
        ) from err
