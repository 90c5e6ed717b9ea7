"""The dense interior point method in Julia, over threads, called by XLA.

The algorithm is that of `qp_interior.py` and `qp_polish.py`: a batch is one call, in which
each programme is solved in the workspace of a thread (see `julia/src/qp.jl`).
"""

import jax
import jax.numpy as jnp

from .. import engine
from ..engine.call import call
from .qp_data import QP
from .qp_kkt import Sets
from .qp_polish import Polished


def in_julia(dtype) -> bool:
    """Whether the current engine solves programmes of this precision itself."""
    wide = dtype in (jnp.float32, jnp.float64)
    return wide and engine.current() == "julia" and jax.default_backend() == "cpu"


def julia_optimum(problem: QP, rtol: float, max_steps: int):
    """`(point, status, steps, polished)`, like the solve in JAX."""
    (n, p, M), dtype = problem.sizes, problem.q.dtype
    number = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    flag = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bool_)
    count = jax.ShapeDtypeStruct((), jnp.int32)
    x, y, z, active, weak, L, status, steps, polished, error = call(
        engine.target("quadratic_programme", dtype),
        problem.P,
        problem.q,
        problem.A,
        problem.b,
        problem.C.G,
        problem.d,
        problem.live,
        problem.fixed,
        jnp.asarray(rtol, dtype),
        out=[
            *(number(n), number(p), number(M)),
            *(flag(M), flag(M), number(n, n)),
            *(count, count, flag(), number()),
        ],
        lower=int(problem.C.lower),
        upper=int(problem.C.upper),
        max_steps=max_steps,
    )
    best = Polished(x, y, z, Sets(active, weak), L, polished, error)
    return (x, y, z), status, steps, best
