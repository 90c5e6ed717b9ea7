"""Linear relations between unknowns: periodic boundaries, multi-point constraints, and
the functions that a problem without Dirichlet conditions does not determine."""

import dataclasses

import numpy as np
import scipy.sparse as sp

from .space import FunctionSpace, Space, on_device, opaque


@dataclasses.dataclass(frozen=True, eq=False)
class Tie:
    """u[slaves] = Σⱼ weights[:, j] u[masters[:, j]], in places of `u.ravel()` (of a mixed
    space: of all fields, one after the other).

    `slaves`: `(m,)`; `masters`, `weights`: `(m, k)`. Masters may be slaves of others. A
    slave whose value a Dirichlet condition gives keeps that value.
    """

    slaves: np.ndarray
    masters: np.ndarray
    weights: np.ndarray

    def __post_init__(self):
        slaves, masters = (np.asarray(a, np.int64) for a in (self.slaves, self.masters))
        weights = np.asarray(self.weights, np.float64)
        n = slaves.shape
        if len(n) != 1 or masters.shape[:1] != n or masters.shape != weights.shape:
            raise ValueError(
                "`Tie(slaves, masters, weights)` must have shapes (m,), (m, k), (m, k).\n"
                f"Got {n}, {masters.shape} and {weights.shape}.\n"
                "Pad shorter rows with weight 0."
            )
        if np.unique(slaves).size < slaves.size:
            raise ValueError(
                "`Tie(slaves, ...)` must name each slave once.\n"
                f"Got {slaves.tolist()}.\nPut all its masters into one row."
            )
        for name, value in (("slaves", slaves), ("masters", masters), ("weights", weights)):
            object.__setattr__(self, name, value)

    def without(self, others: list["Tie"]) -> "Tie":
        """The tie without those that are slaves already: corners of periodic domains."""
        taken = np.concatenate([self.slaves[:0], *(tie.slaves for tie in others)])
        keep = ~np.isin(self.slaves, taken)
        return Tie(self.slaves[keep], self.masters[keep], self.weights[keep])


def periodic(V: FunctionSpace, slave: str, master: str, start: int = 0) -> Tie:
    """u on the boundary `slave` equals u on `master`, which is a translation of it."""
    from scipy.spatial import KDTree

    ours, theirs = (V.boundary_dofs(name) for name in (slave, master))
    x, y = V.dof_points[ours], V.dof_points[theirs]
    middle = lambda z: (z.min(axis=0) + z.max(axis=0)) / 2
    distance, at = KDTree(y - middle(y)).query(x - middle(x))
    size = np.ptp(x, axis=0).max() + np.ptp(y, axis=0).max()
    if len(x) != len(y) or distance.max() > 1e-8 * max(size, 1e-300):
        raise ValueError(
            "`periodic={slave: master}` must name boundaries with the same unknowns but "
            f"for a translation.\nGot {len(x)} on {slave!r} and {len(y)} on {master!r}, "
            f"{distance.max():.2g} apart.\nMesh both alike."
        )
    c = np.arange(V.components)
    places = lambda dofs: (start + dofs[:, None] * V.components + c).ravel()
    masters = places(theirs[at])[:, None]
    return Tie(places(ours), masters, np.ones(masters.shape))


def combination(space: Space, ties: list[Tie], given: np.ndarray) -> sp.csr_array | None:
    """S `(size, size)` with u = S u, zero in the columns of slaves; `None` for none."""
    if not ties:
        return None
    n = space.size
    slaves = np.concatenate([tie.slaves for tie in ties])
    width = [tie.masters.shape[1] for tie in ties]
    rows = np.concatenate(
        [np.repeat(t.slaves, k) for t, k in zip(ties, width, strict=True)]
    )
    cols = np.concatenate([tie.masters.ravel() for tie in ties])
    weights = np.concatenate([tie.weights.ravel() for tie in ties])
    for what in (slaves, cols):
        if what.size and not 0 <= what.min() <= what.max() < n:
            raise ValueError(
                f"`Tie` must name unknowns 0..{n - 1}.\nGot {what.min()} to {what.max()}.\n"
                "Places are those of u.ravel()."
            )
    if np.unique(slaves).size < slaves.size:
        raise ValueError(
            "Each unknown must be the slave of one constraint at most.\n"
            f"Got {slaves.size - np.unique(slaves).size} that are slaves of several.\n"
            "Let corners be masters in one of them."
        )
    tied = np.zeros(n, bool)
    tied[slaves] = True
    tied[given] = False
    keep = tied[rows]
    others = np.flatnonzero(~tied)
    S = sp.csr_array(
        (
            np.concatenate([np.ones(others.size), weights[keep]]),
            (np.concatenate([others, rows[keep]]), np.concatenate([others, cols[keep]])),
        ),
        shape=(n, n),
    )
    for _ in range(32):
        if not tied[S.indices].any():
            S.eliminate_zeros()
            return S
        S = sp.csr_array(S @ S)
        S.eliminate_zeros()
    raise ValueError(
        "Constraints must not go round in circles.\nGot slaves that are, in the end, "
        "their own masters.\nLet one of them be free."
    )


class Nullspace:
    """The functions Z `(size, m)` that the forms do not see. Their part in the load is
    taken away (it has no solution), and so is their part in the solution.

    With the mass matrix M, b - M Z (ZᵀMZ)⁻¹ Zᵀb, and u - Z (ZᵀMZ)⁻¹ ZᵀM u: the same as
    multipliers for the conditions ZᵀM u = 0. `grounded`: m unknowns that are held at zero
    meanwhile.
    """

    def __init__(self, space: Space, modes: np.ndarray, given, slaves):
        from scipy.linalg import qr

        scale = np.abs(modes).max(axis=0)
        if np.abs(modes[given]).max(initial=0) > 1e-10 * scale.max():
            raise ValueError(
                "A nullspace must vanish where Dirichlet conditions give values.\n"
                f"Got {len(given)} given unknowns.\nLeave out one of the two."
            )
        open_ = np.setdiff1d(np.arange(space.size), np.concatenate([given, slaves]))
        *_, pivots = qr(modes[open_].T, mode="economic", pivoting=True)
        self.grounded = np.sort(open_[np.asarray(pivots)[: modes.shape[1]]])
        self._modes = on_device(modes)
        weighed = np.asarray(_mass(space) @ modes)
        self._weighed = on_device(weighed)
        self._gram = on_device(np.linalg.inv(modes.T @ weighed))

    def balance(self, load):
        """The load without the part that has no solution."""
        Z, MZ, gram = (opaque(a).astype(load.dtype) for a in self._arrays)
        return load - MZ @ (gram @ (Z.T @ load))

    def centre(self, u):
        """The solution that is orthogonal to Z."""
        Z, MZ, gram = (opaque(a).astype(u.dtype) for a in self._arrays)
        return u - Z @ (gram @ (MZ.T @ u))

    @property
    def _arrays(self):
        return self._modes, self._weighed, self._gram


def modes_of(space: Space, nullspace) -> np.ndarray:
    """The modes `(size, m)` that a user's `nullspace` means."""
    if isinstance(nullspace, tuple):
        if len(nullspace) != len(space.parts):
            raise ValueError(
                f"`nullspace` must be a tuple of {len(space.parts)}, one for each field.\n"
                f"Got {len(nullspace)}.\nUse None for a field without."
            )
        blocks = []
        for part, start, name in zip(space.parts, space.starts, nullspace, strict=True):
            if name is not None:
                inner = modes_of(part, name)
                block = np.zeros((space.size, inner.shape[1]))
                block[start : start + part.size] = inner
                blocks.append(block)
        return np.concatenate(blocks, axis=1)
    if not isinstance(nullspace, str):
        modes = np.asarray(nullspace, float)
        modes = modes.reshape(space.size, -1) if modes.size % space.size == 0 else modes
        if modes.ndim != 2 or len(modes) != space.size:
            raise ValueError(
                f"`nullspace` must have shape ({space.size}, m).\nGot {modes.shape}.\n"
                "One column for each function."
            )
        return modes
    (V, *more) = space.parts
    if nullspace not in ("constants", "rigid") or more:
        raise ValueError(
            "`nullspace` must be 'constants', 'rigid', an array, or for several fields a "
            f"tuple of these.\nGot {nullspace!r}.\nE.g. (None, 'constants') for Stokes."
        )
    c = V.components
    constants = np.tile(np.eye(c), (V.n_dofs, 1))
    if nullspace == "constants":
        return constants
    x = V.dof_points - V.dof_points.mean(axis=0)
    if c != V.mesh.dim:
        raise ValueError(
            "`nullspace='rigid'` must have as many components as dimensions.\n"
            f"Got {c} in {V.mesh.dim}-D.\nUse 'constants'."
        )
    turns = []
    for i in range(c):
        for j in range(i):
            turn = np.zeros_like(x)
            turn[:, i], turn[:, j] = x[:, j], -x[:, i]
            turns.append(turn.ravel() / np.abs(x).max())
    return np.concatenate([constants, np.stack(turns, axis=1)], axis=1)


def _mass(space: Space) -> sp.csr_array:
    blocks = []
    for V in space.parts:
        rows = np.broadcast_to(V.cells[:, :, None], V.mass.shape)
        cols = np.swapaxes(rows, 1, 2)
        M = sp.coo_array((V.mass.ravel(), (rows.ravel(), cols.ravel())), (V.n_dofs,) * 2)
        blocks.append(sp.kron(M, sp.eye_array(V.components)))
    return sp.csr_array(sp.block_diag(blocks))
