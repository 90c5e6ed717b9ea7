"""y = S x with a constant sparse matrix S, in process by SciPy.

XLA sums into places that an array names one after the other, some 10 ns a number on a CPU;
a product by compressed rows takes one.

*Derivative*: linear in x, so the tangent is S ẋ and x̄ = Sᵀ ȳ, by the same rows read as
columns. S has none: it is data of whoever makes it, not of the user.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .call import call_p


class Rows(NamedTuple):
    """A matrix by compressed rows, in arrays that JAX holds."""

    indptr: jax.Array
    indices: jax.Array
    data: jax.Array


def product(target: str, S: Rows, x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """S x, `(rows,)`, for x `(columns,)` of the type of S; `shape`: of S. `target`: of
    `run` below, as XLA knows it."""
    return product_p.bind(*S, x, target=target, shape=shape, transposed=False)


def run(inputs, outputs, attributes) -> None:
    """The operation that XLA calls."""
    indptr, indices, data, x = inputs
    (y,) = outputs
    shape = attributes["rows"], attributes["columns"]
    S = sp.csr_array((data.ravel(), indices.ravel(), indptr.ravel()), shape, copy=False)
    S = S.T if attributes["transposed"] else S
    for one, given in zip(
        y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), strict=True
    ):
        one[:] = S @ given


product_p = Primitive("pyimplicit_product")


@product_p.def_abstract_eval
def _abstract(indptr, indices, data, x, *, shape, transposed, target):
    return ShapedArray((*x.shape[:-1], shape[transposed]), x.dtype)


def _call(indptr, indices, data, x, *, shape, transposed, target):
    nbatch = x.ndim - 1
    level = lambda a: a.reshape((1,) * nbatch + a.shape)
    (y,) = call_p.bind(
        *map(level, (indptr, indices, data)), x,
        target=target, out=(((shape[transposed],), np.dtype(x.dtype)),),
        column_major=False, nbatch=nbatch,
        attributes=(("columns", shape[1]), ("rows", shape[0]),
                    ("transposed", int(transposed))),
    )  # fmt: skip
    return y


product_p.def_impl(jax.jit(_call, static_argnames=("shape", "transposed", "target")))
mlir.register_lowering(product_p, mlir.lower_fun(_call, multiple_results=False))


def _jvp(primals, tangents, **params):
    t_x = ad.instantiate_zeros(tangents[3])
    return product_p.bind(*primals, **params), product_p.bind(*primals[:3], t_x, **params)


def _transpose(ct, indptr, indices, data, x, *, transposed, **params):
    del x
    if isinstance(ct, ad.Zero):
        return [None] * 4
    how = {"transposed": not transposed, **params}
    return [None, None, None, product_p.bind(indptr, indices, data, ct, **how)]


def _batch(args, dims, **params):
    *S, x = args
    return product_p.bind(*S, jnp.moveaxis(x, dims[3], 0), **params), 0


ad.primitive_jvps[product_p] = _jvp
ad.primitive_transposes[product_p] = _transpose
batching.primitive_batchers[product_p] = _batch
