"""Shared lists of sparse systems: closed forms and non-symmetric ones first."""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp

from pyimplicit.linear.pattern import Structure


@dataclasses.dataclass(frozen=True)
class SparseProblem:
    """A matrix in coordinate form; `values` in the order of `rows` and `cols`."""

    name: str
    rows: np.ndarray
    cols: np.ndarray
    values: np.ndarray
    n: int
    structure: Structure

    def dense(self, values=None):
        A = np.zeros((self.n, self.n), np.asarray(self.values).dtype)
        A[self.rows, self.cols] = self.values if values is None else values
        return A if self.structure == "general" else (A + A.T) / 2


def laplacian(n: int, dirichlet: bool = True) -> Any:
    """The 5-point Laplacian on n x n nodes; without Dirichlet condition singular."""
    d = np.full(n, 2.0)
    if not dirichlet:
        d[[0, -1]] = 1.0
    D = sp.csr_array(np.diag(d) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1))
    identity = sp.eye_array(n)
    return (sp.kron(D, identity) + sp.kron(identity, D)).tocoo()


def _problem(name, matrix, structure, rng=None):
    A: Any = sp.coo_array(matrix)
    order = np.arange(A.nnz) if rng is None else rng.permutation(A.nnz)
    return SparseProblem(
        name, A.row[order], A.col[order], A.data[order], A.shape[0], structure
    )


def sparse_problems() -> tuple[SparseProblem, ...]:
    rng = np.random.default_rng(0)
    n = 12
    random = sp.random_array((n, n), density=0.3, rng=rng) + 3 * sp.eye_array(n)
    advection = laplacian(4) + 5 * sp.kron(np.eye(4), np.diag(np.ones(3), 1))
    symmetric = sp.random_array((n, n), density=0.3, rng=rng) - 2 * sp.eye_array(n)
    rows = np.random.default_rng(1).normal(size=(3, 9))
    saddle = np.block([[laplacian(3).toarray(), rows.T], [rows, -0.1 * np.eye(3)]])
    wave = laplacian(4).astype(complex) - (2.0 + 0.3j) * sp.eye_array(16)
    return (
        _problem("scalar", np.array([[3.0]]), "general"),
        _problem("permutation", np.array([[0.0, 2.0], [-1.0, 0.0]]), "general"),
        _problem("random", random, "general", rng),
        _problem("advection", advection, "general", rng),
        _problem("poisson", laplacian(4), "spd", rng),
        _problem("saddle", saddle, "quasidefinite", rng),
        _problem("indefinite", symmetric + symmetric.T, "symmetric", rng),
        _problem("helmholtz", wave, "symmetric", rng),
    )
