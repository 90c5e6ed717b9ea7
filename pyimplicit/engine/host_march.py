"""The march of `linear/march.py` in process: SciPy's factors, kept as for one solve."""

import numpy as np

from . import host


def march(inputs, outputs, attributes) -> None:
    """The operation that XLA calls. Samples with the same matrix L go together."""
    *matrix, f = inputs  # of which samples share: mass, stiffness, c, p, q
    y, status, residual = outputs
    key, transpose = attributes["pattern"], bool(attributes["transpose"])
    pattern = host.known_pattern(key)
    core = (1, 1, 1, 2, 2)
    m, order, n = y.shape[-3:]
    batch = y.shape[:-3]
    which = np.stack([_numbers(a, k, batch) for a, k in zip(matrix, core, strict=True)])
    f = np.broadcast_to(f, y.shape).reshape(-1, m, order, n)
    y, codes, errors = (
        a.reshape(-1, *a.shape[len(batch) :]) for a in (y, status, residual)
    )
    with host.one_blas_thread:
        for mine in _groups(which):
            own = [
                a.reshape(-1, *a.shape[a.ndim - k :])[i]
                for a, k, i in zip(matrix, core, which[:, mine[0]], strict=True)
            ]
            rows = _Rows(key, pattern, own, transpose)
            y[mine], codes[mine], errors[mine] = rows.march(f[mine])
    if attributes["throw"] and codes.any():
        # The first that failed, in the order of the march.
        s, j = min(zip(*codes.nonzero(), strict=True), key=_order(transpose))
        text = host.failure(pattern, codes[s, j], int(s), len(codes))
        kind = "transposed solve" if transpose else "solve"
        raise ValueError(f"{text[:-1]}, {kind} {j + 1} of {m}.")


class _Rows:
    """The banded block matrix L, or its transpose; see `linear/march.py`."""

    def __init__(self, key, pattern, numbers, transpose):
        mass, stiffness, c, p, q = numbers
        wide = np.complex128 if np.iscomplexobj(mass) else np.float64
        self.key, self.pattern, self.transpose = key, pattern, transpose
        self.values = mass.astype(wide), stiffness.astype(wide)
        self.M, self.K = (host.matrix(pattern, v) for v in self.values)
        if transpose:
            self.M, self.K = self.M.T, self.K.T
        self.c, self.p, self.q = (a.astype(np.float64) for a in (c, p, q))

    def march(self, f):
        """Solutions `(k, m, order, n)`, statuses and backward errors `(k, m)`."""
        k, m, order, n = f.shape
        y = np.zeros((m, order, n, k), self.M.dtype)
        given = np.moveaxis(f, 0, -1).astype(y.dtype)
        code, error = np.zeros((k, m), np.int32), np.zeros((k, m))
        last, factor = None, None
        for j in reversed(range(m)) if self.transpose else range(m):
            gamma = self.c[j] ** order
            if gamma != last or factor is None:
                last = gamma
                both = self.values[0] + gamma * self.values[1]
                factor = host.factorise(self.key, self.pattern, both)
            solve = self._first if order == 1 else self._second
            y[j], code[:, j], error[:, j] = solve(factor, given[j], y, j)
        return np.moveaxis(y, -1, 0), code, error

    def _first(self, factor, f, y, j):
        rhs = _plus(f[0], 1, self.M, self._past(self.p, y, j, 0))
        rhs = _plus(rhs, -1, self.K, self._past(self.q, y, j, 0))
        x, code, error = host.solve(factor, rhs, self.transpose)
        return x[None], code, error

    def _second(self, factor, f, y, j):
        c = self.c[j]
        old = [self._past(self.p, y, j, o) for o in range(2)]
        rate = [self._past(self.q, y, j, o) for o in range(2)]
        if self.transpose:
            r = _plus(_plus(f[0], -1, self.K, rate[0]), 1, None, old[1])
            s = _plus(_plus(f[1], 1, self.M, old[0]), 1, None, rate[1])
            x, code, error = host.solve(factor, s + c * r, True)
            return np.stack([x, r - c * (self.K @ x)]), code, error
        start = _plus(_plus(f[1], 1, None, old[0]), 1, None, rate[1])
        r = _plus(_plus(f[0], 1, self.M, old[1]), -1, self.K, rate[0])
        x, code, error = host.solve(factor, self.M @ start + c * r, False)
        return np.stack([x, (x - start) / c]), code, error

    def _past(self, w, y, j, o):
        """Σ_d w[j, d] y[j-1-d], or of those after j with their own weights; `None` if all
        weights are zero."""
        total = None
        for d in range(w.shape[1]):
            k = j + 1 + d if self.transpose else j - 1 - d
            weight = w[min(k, len(w) - 1) if self.transpose else j, d]
            if 0 <= k < len(y) and weight:
                term = weight * y[k, o]
                total = term if total is None else total + term
        return total


def _plus(b, sign, A, x):
    """b + sign A x; no A is the identity, no x is zero."""
    if x is None:
        return b
    product = x if A is None else A @ x
    return b + product if sign > 0 else b - product


def _numbers(a, k: int, batch) -> np.ndarray:
    """Which of the arrays of rank k in `a` belongs to each sample of the batch."""
    own = a.shape[: a.ndim - k]
    count = int(np.prod(own))
    return np.broadcast_to(np.arange(count).reshape(own), batch).ravel()


def _groups(which: np.ndarray) -> list[np.ndarray]:
    _, group = np.unique(which, axis=1, return_inverse=True)
    group = np.ravel(group)
    return [np.flatnonzero(group == g) for g in range(group.max() + 1)]


def _order(transpose: bool):
    return lambda place: (place[0], -place[1] if transpose else place[1])
