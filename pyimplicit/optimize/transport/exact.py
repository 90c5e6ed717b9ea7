r"""Optimal transport without regularisation: a linear program.

    min ⟨P, C⟩   with   P ≥ 0, P 1 = a, Pᵀ 1 = b

The simplex method says which n + m - 1 cells form an optimal basis (a spanning tree of
rows and columns). On it everything is a formula: the flow solves B P_B = (a, b), the
potentials Bᵀ(f, g) = C_B, and the inverse of B says by which paths of the tree: its
entries are 0 and ±1. JAX differentiates two products with it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._status import Status
from ..._tree import stop_gradient
from ...engine.failure import fail_unless_zero
from .host import transport_vertex
from .marginals import problem
from .sinkhorn import Transport


def exact(cost, a=None, b=None, *, throw: bool = True) -> Transport:
    r"""Optimal transport between histograms a and b.

    **Arguments:**

    - `cost`: C, `(n, m)`; +∞ forbids a pair.
    - `a`, `b`: marginals `(n,)`, `(m,)`, of one mass, not negative; uniform by default.
    - `throw`: raise where there is no plan (forbidden pairs). False: NaN, see `status`.

    **Returns:** a `Transport`; the plan is a vertex: at most n + m - 1 entries. The last
    entry of g is 0. `stats["margin"]`: the least flow in the basis over the mass; 0 at a
    degenerate vertex. `stats["dual_margin"]`: the least reduced cost outside the basis; 0
    if there are other optimal bases.

    **Derivative:** of the basic solution. In cost the plan stands still and value moves by
    ⟨P, Ċ⟩; in a and b (changes that keep the masses equal) the flow moves along the basis
    and value by ⟨f, ȧ⟩ + ⟨g, ḃ⟩. Where `margin` or `dual_margin` is 0 this is one of
    several one-sided derivatives.

    **Errors:** `ValueError` on misfit shapes; at run time on unequal masses, negative or
    NaN input, and if every plan has a forbidden pair.

    Runs on the host, also under jit and vmap; a batch is a loop there. Equal masses (n = m,
    the default marginals) are an assignment problem, SciPy's; others go to its HiGHS, on
    the pairs that nearly optimal prices name, and those that its own then ask for. That is
    the slower of the two by far: a network simplex method (POT's `emd`) solves such
    problems of some hundred rows fifteen to forty times faster.

    ??? cite "Reference"
        Peyré, Cuturi, *Computational optimal transport* (2019), Chapter 3. arXiv:1803.00567
    """
    C, a, b = problem("exact", cost, a, b)
    return _exact(C, a, b, throw)


@eqx.filter_jit
def _exact(C, a, b, throw):
    n, m = C.shape
    cells, paths, code = transport_vertex(*stop_gradient((C, a, b)))
    if throw:
        messages = tuple(f"pyimplicit.transport.exact: {_message(s)}" for s in Status)
        cells, paths = fail_unless_zero((cells, paths), code, messages)
    i, j = cells // m, cells % m
    # Where forbidden pairs cut the problem in parts, one of them (flow 0) joins two.
    costs = jnp.where(jnp.isfinite(C[i, j]), C[i, j], 0)
    flow = jnp.concatenate([a, b])[:-1] @ paths
    dual = paths @ costs
    f, g = dual[:n], jnp.append(dual[n:], jnp.zeros((), C.dtype))
    still = stop_gradient(flow)
    flow = flow + stop_gradient(jnp.maximum(still, 0) - still)  # round-off only
    P = jnp.zeros_like(C).at[i, j].set(flow)
    value = jnp.sum(flow * costs)
    reduced = (C - f[:, None] - g).at[i, j].set(jnp.inf)
    stats = {
        "margin": jnp.min(still) / jnp.sum(stop_gradient(a)),
        "dual_margin": jnp.min(stop_gradient(reduced)),
    }
    # 0, or NaN with a derivative that is NaN in everything.
    given = jnp.sum(jnp.where(jnp.isfinite(C), C, 0)) + jnp.sum(a) + jnp.sum(b)
    none = jnp.where(code == 0, jnp.zeros((), C.dtype), jnp.nan) * given
    P, f, g, value = jax.tree.map(lambda x: x + none, (P, f, g, value))
    return Transport(P, f, g, value, code, stats)


def _message(status: Status) -> str:
    if status == Status.singular:
        return "no plan: every one uses a forbidden pair (an infinite cost)"
    return status.message
