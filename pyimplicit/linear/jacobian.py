"""How a Jacobian is stored: dense, by its products, sparse, or as the user says.

    pi.root(fn, z0, params, jacobian=pattern)

`None` (the default) is `Dense()` up to 500 unknowns and `MatrixFree()` above. A
`SparsePattern` says where the Jacobian can be nonzero; its values are found by a few
products (one for each colour of its columns), so a large sparse problem never makes a
dense matrix. A function `jacobian(z, params)` returns the Jacobian itself: an array, a
lineax operator, a `SparseOperator`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from .colouring import column_colours, row_colours
from .gmres import GMRES
from .operator import SparseDirect, SparseOperator
from .pattern import SparsePattern
from .small import SMALL, SmallLU


DENSE_LIMIT = 500


class Dense(eqx.Module):
    """A dense matrix, made by one product with each unit vector (in one batch)."""


class MatrixFree(eqx.Module):
    """Only products with the Jacobian, never its entries: for iterative linear solvers."""


Jacobian = Dense | MatrixFree | SparsePattern | Callable[..., Any] | None


def check_jacobian(jacobian: Any, where: str) -> None:
    """Raises unless `jacobian` is one of the ways above."""
    if jacobian is None or isinstance(jacobian, Dense | MatrixFree | SparsePattern):
        return
    if callable(jacobian) and not isinstance(jacobian, type):
        return
    raise TypeError(
        f"`{where}(jacobian=...)` must be pi.Dense(), pi.MatrixFree(), a SparsePattern or "
        f"a function of (z, params).\nGot {jacobian!r}.\n"
        "Leave it out for a choice by size."
    )


def jacobian_operator(
    jacobian: Jacobian, matvec, y, z, params, tags: frozenset = frozenset()
) -> lx.AbstractLinearOperator:
    """The Jacobian whose products are `matvec`, on vectors like `y`.

    `matvec`: linear, `(n,)` to `(n,)`. `z`, `params`: where, for a user's function.
    """
    struct = jax.ShapeDtypeStruct(y.shape, y.dtype)
    if jacobian is None:
        jacobian = Dense() if y.size <= DENSE_LIMIT else MatrixFree()
    if isinstance(jacobian, MatrixFree):
        return lx.FunctionLinearOperator(matvec, struct, tags)
    if isinstance(jacobian, Dense):
        matrix = jax.vmap(matvec, in_axes=1, out_axes=1)(jnp.eye(y.size, dtype=y.dtype))
        return lx.MatrixLinearOperator(matrix, tags)
    if isinstance(jacobian, SparsePattern):
        return SparseOperator(jacobian, compressed(jacobian, matvec, y))
    given = jacobian(z, params)
    if eqx.is_array(given):
        given = lx.MatrixLinearOperator(given.astype(y.dtype), tags)
    if not isinstance(given, lx.AbstractLinearOperator):
        raise TypeError(
            "`jacobian(z, params)` must return an array or a lineax operator.\n"
            f"Got {type(given).__name__}.\nFor a sparse matrix return "
            "pi.SparseOperator(pattern, values)."
        )
    sizes = (given.out_size(), given.in_size())
    if sizes != (y.size, y.size):
        raise ValueError(
            f"`jacobian(z, params)` must be {y.size} x {y.size}.\nGot {sizes[0]} x "
            f"{sizes[1]}.\nRows and columns follow the unknowns, raveled."
        )
    return given


def compressed(pattern: SparsePattern, matvec, y):
    """The entries of the matrix with products `matvec` at the places of `pattern`."""
    n = y.size
    if pattern.shape != (n, n):
        raise ValueError(
            f"`jacobian` must be a SparsePattern of shape ({n}, {n}), the unknowns.\n"
            f"Got {pattern.shape}.\nRows and columns follow the unknowns, raveled."
        )
    colours, index, other, product = (
        column_colours(pattern), pattern.cols, pattern.rows, matvec
    )  # fmt: skip
    if colours.max() >= 32:  # perhaps a full row, and the columns are the sparse side
        by_rows = row_colours(pattern)
        if by_rows.max() < colours.max():
            transposed = jax.linear_transpose(matvec, y)
            product = lambda v: transposed(v)[0]
            colours, index, other = by_rows, pattern.rows, pattern.cols
    seeds = np.zeros((colours.max() + 1, n))
    seeds[colours, np.arange(n)] = 1.0
    products = jax.vmap(product)(jnp.asarray(seeds, y.dtype))
    flat = colours[index] * n + other
    return products.reshape(-1)[flat.astype(np.int32)]


def default_solver(operator, rtol) -> lx.AbstractLinearSolver:
    """A solver that suits how the matrix is stored and what is known of it."""
    if isinstance(operator, SparseOperator):
        return SparseDirect()
    if isinstance(operator, lx.FunctionLinearOperator):
        if lx.is_positive_semidefinite(operator):
            return lx.CG(rtol, rtol, max_steps=max(1000, operator.in_size()))
        return GMRES(rtol, rtol)
    if isinstance(operator, lx.MatrixLinearOperator) and operator.in_size() <= SMALL:
        return SmallLU()
    return lx.AutoLinearSolver(well_posed=True)
