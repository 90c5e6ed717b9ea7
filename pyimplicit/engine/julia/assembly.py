"""Assembly in Julia: threaded loops with rules by hand (`julia/src/assembly.jl`)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .function import Equal, function
from .start import julia


def assembly(
    operator: str,
    components: int,
    nodes: np.ndarray,
    places: np.ndarray,
    size: int,
    mesh_points: tuple[int, int],
    n_coefficients: int,
    formula: Callable,
) -> Callable:
    """The map from points and coefficients to the entries of an operator.

    `operator`: its name in Julia. `nodes`: `(n, k)`, of each cell or facet. `places`:
    `(n, rows, columns)` or `(n, rows)`, where each entry goes among `size`. `mesh_points`:
    `(n_points, dim)`. `n_coefficients`: m below. `formula`: the same map in JAX.

    **Returns** a JAX function from `(n_points, dim)` and `(n, m)` to `(size,)`.

    **Derivative**: of any order; from the third on in the points that of `formula`. See
    `Assembly` in Julia.
    """
    n_points, dim = mesh_points
    loop = julia().make_assembly(
        operator,
        components,
        nodes.astype(np.int32),
        places.astype(np.int32),
        size,
        n_points,
        dim,
    )
    out = lambda points, theta: jax.ShapeDtypeStruct((size,), theta.dtype)

    # Julia's first index is fastest: transposed, the arrays keep their place in memory.
    def same(points, theta):
        return formula(points.T, theta.T)

    def transposed(points, v):
        theta = jax.ShapeDtypeStruct((n_coefficients, len(nodes)), v.dtype)
        return jax.linear_transpose(lambda theta: same(points, theta), theta)(v)[0]

    run = function(loop, out, linear=1, equal=Equal(same, transposed))

    def apply(points, theta):
        if jnp.iscomplexobj(theta):
            return jax.lax.complex(apply(points, theta.real), apply(points, theta.imag))
        return run(points.T, theta.T)

    return apply
