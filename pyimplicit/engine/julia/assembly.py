"""Assembly in Julia: threaded loops with rules by hand (`julia/src/assembly.jl`)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .function import function
from .start import julia


def assembly(
    operator: str,
    components: int,
    nodes: np.ndarray,
    places: np.ndarray,
    size: int,
    mesh_points: tuple[int, int],
) -> Callable:
    """The map from points and coefficients to the entries of an operator.

    `operator`: its name in Julia. `nodes`: `(n, k)`, of each cell or facet. `places`:
    `(n, rows, columns)` or `(n, rows)`, where each entry goes among `size`. `mesh_points`:
    `(n_points, dim)`.

    **Returns** a JAX function from `(n_points, dim)` and `(n, m)` to `(size,)`.

    **Derivative**: of any order in the coefficients, in which it is linear; up to the
    second in the points. See `Assembly` in Julia.
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
    run = function(loop, out, linear=1)

    # Julia's first index is fastest: transposed, the arrays keep their place in memory.
    def apply(points, theta):
        if jnp.iscomplexobj(theta):
            return jax.lax.complex(apply(points, theta.real), apply(points, theta.imag))
        return run(points.T, theta.T)

    return apply
