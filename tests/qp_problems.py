"""Quadratic programmes of one shape, and what others say of them.

One shape, so that all of them go through one compiled program: rows that a programme does
not need are zero, with a right-hand side of zero (equalities) or infinity (inequalities).
"""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

import pyimplicit as pi


SIZES = N, P, M = 7, 3, 6
NAMES = "P", "q", "A", "b", "G", "h", "lb", "ub"


def random_programme(rng, kind, dependent=True):
    """A feasible programme; with duplicated rows and a row of zeros if `dependent`."""
    L = rng.normal(size=(N, 3 if kind == "rank" else N))
    cost = 0 * np.eye(N) if kind == "lp" else L @ L.T
    q, x0 = rng.normal(size=(2, N))
    A, G = rng.normal(size=(P, N)), rng.normal(size=(M, N))
    if kind == "scaled":
        G, cost, q = G * 10 ** rng.uniform(-3, 3, (M, 1)), 1e3 * cost, 1e3 * q
    if dependent:
        A[-1], G[-1], G[-2] = 2 * A[0], G[0], 0.0
    b, h = A @ x0, G @ x0 + rng.uniform(0, 1, M)
    h[-1], h[1] = (h[0] if dependent else h[-1]), np.inf
    lb, ub = x0 - rng.uniform(0, 1, N), x0 + rng.uniform(0, 1, N)
    lb[0], ub[1], lb[2], ub[2] = -np.inf, np.inf, x0[2], x0[2]
    if kind == "lp":
        lb[0], ub[1] = x0[0] - 1, x0[1] + 1
    return cost, q, A, b, G, h, lb, ub


def padded(cost, q, A=None, b=(), G=None, h=(), lb: Any = -np.inf, ub: Any = np.inf):
    """A programme of N unknowns with fewer rows, in the common shape."""
    rows = lambda M, k: (
        np.zeros((k, N)) if M is None else np.pad(M, [(0, k - len(M)), (0, 0)])
    )
    fill = lambda v, k, by: np.concatenate([v, np.full(k - len(v), by)])
    bounds = [np.broadcast_to(v, N).astype(float) for v in (lb, ub)]
    return cost, q, rows(A, P), fill(b, P, 0.0), rows(G, M), fill(h, M, np.inf), *bounds


def structured():
    """Programmes as applications have them, by name."""
    rng = np.random.default_rng(8)
    eye, ones, D = np.eye(N), np.ones(N), np.diff(np.eye(N), axis=0)
    y, F = np.cumsum(rng.normal(size=N)), rng.normal(size=(3, N))
    X, label = rng.normal(size=(N, 2)), np.sign(rng.normal(size=N))
    X = X * label[:, None]
    T = np.tril(np.ones((N, N)))  # positions after accelerations, twice summed
    return {
        "portfolio": padded(F.T @ F + 0.1 * eye, rng.normal(size=N), ones[None], [1.0],
                            lb=0.0, ub=0.4),
        "isotonic regression": padded(eye, -y, G=-D, h=np.zeros(N - 1)),
        "nearly constant signal": padded(eye, -y, G=D, h=np.full(N - 1, 0.3), lb=y - 2),
        "support vectors": padded(X @ X.T + 1e-2 * eye, -ones, label[None], [0.0],
                                  lb=0.0, ub=5.0),
        "control": padded(T.T @ T @ T.T @ T + 0.1 * eye, T.T @ T.T @ ones,
                          T[-1:], [0.5], lb=-0.4, ub=0.3),
        "projection on the simplex": padded(eye, -3 * y, ones[None], [2.0], lb=0.0),
        "least squares in a box": padded(F.T @ F + 1e-2 * eye, F.T @ [3.0, -2.0, 1.0],
                                         lb=-0.2, ub=0.2),
    }  # fmt: skip


def failing():
    """`(status, programme)`, one of each kind that has no optimum."""
    eye, ones, S = np.eye(N), np.ones(N), pi.Status
    yield S.infeasible, padded(eye, ones, G=0 * eye[:1], h=[-1.0])
    yield S.unbounded, padded(0 * eye, ones, ub=3.0)
    yield S.not_positive_definite, padded(-eye, ones, lb=-1.0, ub=1.0)
    yield S.nonfinite, padded(eye, ones * np.nan)


def stacked(programmes):
    return [jnp.asarray(np.stack(a)) for a in zip(*programmes, strict=True)]


def kinds(rng, names, dependent=True):
    return [random_programme(rng, kind, dependent) for kind in names]


def violation(programme, s, i):
    """The largest violation of the optimality conditions by sample i, written out anew."""
    P, q, A, b, G, h, lb, ub = programme
    x, y, z, z_lb, z_ub = (np.asarray(v)[i] for v in (s.x, s.y, s.z, s.z_lb, s.z_ub))
    times = lambda z, slack: z * np.where(np.isfinite(slack), slack, 1.0)
    return max(
        abs(P @ x + q + A.T @ y + G.T @ z - z_lb + z_ub).max() / (1 + abs(q).max()),
        abs(A @ x - b).max(),
        (G @ x - h).max(),
        (lb - x).max(),
        (x - ub).max(),
        -min(z.min(), z_lb.min(), z_ub.min()),
        *(
            abs(times(u, v)).max()
            for u, v in ((z, h - G @ x), (z_lb, x - lb), (z_ub, ub - x))
        ),
    )


def rows_for_peers(A, b, G, h, lb, ub):
    """All constraints as rows M x + s = r, s in {0} x ℝ≥0."""
    eye = np.eye(N)
    low, up, on = np.isfinite(lb), np.isfinite(ub), np.isfinite(h)
    matrix = np.vstack([A, G[on], -eye[low], eye[up]])
    return sp.csc_matrix(matrix), np.concatenate([b, h[on], -lb[low], ub[up]])


def peer(name) -> Any:
    return pytest.importorskip(name, reason=f"the peer {name} is not installed")


def by_clarabel(cost, q, A, b, *rest):
    clarabel: Any = importlib.import_module("clarabel")
    M, r = rows_for_peers(A, b, *rest)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [clarabel.ZeroConeT(len(b)), clarabel.NonnegativeConeT(len(r) - len(b))]
    cost = sp.csc_matrix(np.triu(cost))
    return clarabel.DefaultSolver(cost, q, M, r, cones, settings).solve().obj_val


def by_piqp(cost, q, A, b, G, h, lb, ub):
    solver = peer("piqp").DenseSolver()
    on = np.isfinite(h)
    solver.setup(cost, q, A, b, G[on], None, h[on], lb, ub)
    solver.solve()
    return solver.result.info.primal_obj


def by_scs(cost, q, A, b, *rest):
    M, r = rows_for_peers(A, b, *rest)
    data = {"P": sp.csc_matrix(np.triu(cost)), "c": q, "A": M, "b": r}
    cone = {"z": len(b), "l": len(r) - len(b)}
    options = {"eps_abs": 1e-8, "eps_rel": 1e-8, "verbose": False}
    return peer("scs").SCS(data, cone, **options).solve()["info"]["pobj"]


# How near each comes to the optimum: SCS is a first-order method.
PEERS = {"clarabel": (by_clarabel, 1e-8), "piqp": (by_piqp, 1e-6), "scs": (by_scs, 1e-4)}
