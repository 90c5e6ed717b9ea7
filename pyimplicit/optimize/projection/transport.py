r"""Projections onto the transport polytope {P ≥ 0, P 1 = a, Pᵀ 1 = b}.

Euclidean: P = max(S + f + g, 0) with the dual f, g that make the marginals right: the
minimum of ½‖max(S + f + g, 0)‖² - ⟨a, f⟩ - ⟨b, g⟩, which is convex and piecewise quadratic.
Newton's method finds it after finitely many steps. Kullback–Leibler: Sinkhorn's problem.
"""

import jax
import jax.numpy as jnp
import lineax as lx

from ..._status import Status
from ..._tree import stop_gradient
from ...engine.failure import fail_unless_zero
from ...implicit import Linearisation, attach
from ..pseudo_inverse import LeastNorm
from ..transport.marginals import problem
from ..transport.sinkhorn import sinkhorn


MAX_STEPS = 200


def projection_transport(sim_matrix, marginals, make_solver=None, use_semi_dual=True):
    r"""argmin_P ‖P - S‖ with P ≥ 0, P 1 = a, Pᵀ 1 = b.

    **Arguments:**

    - `sim_matrix`: S, `(n, m)`.
    - `marginals`: `(a, b)`, `(n,)` and `(m,)`, of one mass, not negative.
    - `make_solver`: None. (In jaxopt a solver for the dual; here Newton's method finds it
      to round-off, so that there is nothing to choose, and another value is an error.)
    - `use_semi_dual`: True or False, of jaxopt's signature: which of two duals of one
      solution is solved. Here it is always the full one.

    **Returns:** P, `(n, m)`, with marginals right to round-off.

    **Derivative:** that of P on its support, by the implicit function theorem, least-norm
    where parts of the support are not connected (at a permutation matrix P stands still).
    In the marginals it is that for b Σa/Σb; where the support falls into parts, changes of
    a or b that move mass between them leave the face, and raise. Entries with
    S + f + g = 0 count as outside.

    **Errors:** `ValueError` on misfit shapes and on a `make_solver`; at run time on unequal
    masses, negative or NaN input, or no convergence.

    ??? cite "Reference"
        Blondel, Seguy, Rolet, *Smooth and sparse optimal transport* (2018), Table 1.
        arXiv:1710.06276. Semismooth Newton: Lorenz, Manns, Meyer 2021. arXiv:1903.01112
    """
    _no_choice("projection_transport", make_solver, use_semi_dual)
    S, a, b = _problem("projection_transport", sim_matrix, marginals)
    return _euclidean(S, a, b)


@jax.jit
def _euclidean(S, a, b):
    still = stop_gradient((S, a, b))
    z, error = _newton(*still)
    failed = ~(error <= 1e3 * jnp.finfo(S.dtype).eps) * jnp.int32(Status.max_steps_reached)
    messages = tuple(f"pyimplicit.projection_transport: {s.message}" for s in Status)
    z = fail_unless_zero(z, failed, messages)
    support = _sum(z, still[0]) > 0

    sides = _sides(S)
    z = z - sides * (sides @ z) / z.size
    how = Linearisation(LeastNorm(), _slope)
    z = attach(z, _condition, (S, a, b, support), how)
    return jnp.where(support, _sum(z, S), 0)


# f + c, g - c is the same P: the gauge is Σf = Σg, an added term that vanishes. So the
# Jacobian is regular where the support is connected; elsewhere it has a null space.


def _condition(z, theta):
    S, a, b, support = theta
    P, sides = jnp.where(support, _sum(z, S), 0), _sides(S)
    return jnp.concatenate([P.sum(1) - a, P.sum(0) - b]) + sides * (sides @ z) / z.size


def _slope(z, theta):
    S, *_, support = theta
    M, sides = support.astype(z.dtype), _sides(S)
    H = jnp.block([[jnp.diag(M.sum(1)), M], [M.T, jnp.diag(M.sum(0))]])
    return lx.MatrixLinearOperator(H + jnp.outer(sides, sides) / z.size)


def _sides(S):
    return jnp.concatenate([jnp.ones(S.shape[0], S.dtype), -jnp.ones(S.shape[1], S.dtype)])


def projection_birkhoff(sim_matrix, make_solver=None, use_semi_dual=True):
    """argmin_P ‖P - S‖ over doubly stochastic matrices: `projection_transport` with
    marginals of ones. S is `(n, n)`."""
    ones = _ones("projection_birkhoff", sim_matrix)
    return projection_transport(sim_matrix, ones, make_solver, use_semi_dual)


def kl_projection_transport(sim_matrix, marginals, make_solver=None, use_semi_dual=True):
    """argmin_P KL(P | exp S) with P 1 = a, Pᵀ 1 = b: `sinkhorn` with cost -S and ε = 1.

    Arguments as `projection_transport`; S may hold -∞. *Derivative*: as `sinkhorn`.
    """
    _no_choice("kl_projection_transport", make_solver, use_semi_dual)
    S, a, b = _problem("kl_projection_transport", sim_matrix, marginals)
    return sinkhorn(-S, a, b, epsilon=1.0).plan


def kl_projection_birkhoff(sim_matrix, make_solver=None, use_semi_dual=True):
    """`kl_projection_transport` with marginals of ones. S is `(n, n)`."""
    ones = _ones("kl_projection_birkhoff", sim_matrix)
    return kl_projection_transport(sim_matrix, ones, make_solver, use_semi_dual)


def _no_choice(name: str, make_solver, use_semi_dual) -> None:
    if make_solver is not None:
        raise ValueError(
            f"`{name}(make_solver=...)` must be None: Newton's method solves the dual, "
            f"to round-off.\nGot {make_solver!r}.\nLeave it out; for a looser or a longer "
            "entropic solve use pi.transport.sinkhorn(rtol=..., max_steps=...)."
        )
    if not isinstance(use_semi_dual, bool):
        raise ValueError(
            f"`{name}(use_semi_dual=...)` must be True or False.\nGot {use_semi_dual!r}.\n"
            "Both have the same solution: leave it out."
        )


def _problem(name: str, sim_matrix, marginals):
    if not isinstance(marginals, tuple | list) or len(marginals) != 2:
        raise ValueError(
            f"`{name}(marginals=...)` must be a pair (a, b).\n"
            f"Got {type(marginals).__name__}.\n"
            "a are the row sums, b the column sums."
        )
    # Costs are checked for NaN and -∞; here S = -C.
    C, a, b = problem(name, -jnp.asarray(sim_matrix), *marginals, argument="sim_matrix")
    return -C, a, b


def _ones(name: str, sim_matrix):
    shape = jnp.shape(sim_matrix)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"`{name}(sim_matrix)` takes a square matrix.\nGot shape {shape}.\n"
            "For other shapes use projection_transport; for a batch jax.vmap."
        )
    return jnp.ones(shape[0]), jnp.ones(shape[0])


def _sum(z, S):
    return S + z[: S.shape[0], None] + z[S.shape[0] :]


def _newton(S, a, b):
    """Regularised semismooth Newton steps, the best of halved lengths. `(z, error)`."""
    f = (a - S.sum(1)) / S.shape[1]  # the answer if P ≥ 0 did not bind
    start = jnp.concatenate([f, (b - S.sum(0) - f.sum()) / S.shape[0]])
    mass, sums = jnp.sum(a), jnp.concatenate([a, b])
    energy = lambda z: jnp.sum(jnp.maximum(_sum(z, S), 0) ** 2) / 2 - sums @ z

    def gradient(z):
        P = jnp.maximum(_sum(z, S), 0)
        return jnp.concatenate([P.sum(1), P.sum(0)]) - sums

    size = lambda z: jnp.sum(jnp.abs(gradient(z))) / mass

    def step(carry):
        z, error, steps = carry
        M = (_sum(z, S) > 0).astype(S.dtype)
        H = jnp.block([[jnp.diag(M.sum(1)), M], [M.T, jnp.diag(M.sum(0))]])
        shift = 1e-9 + jnp.minimum(1e-3, 1e-3 * error)
        d = -jnp.linalg.solve(H + shift * jnp.eye(z.size), gradient(z))
        tried = z + 0.5 ** jnp.arange(20, dtype=S.dtype)[:, None] * d
        full = size(tried[0])
        # Where energies differ by round-off only, the gradient decides.
        best = jnp.where(full < 0.5 * error, 0, jnp.argmin(jax.vmap(energy)(tried)))
        return tried[best], size(tried[best]), steps + 1

    goal = 10 * jnp.finfo(S.dtype).eps
    going = lambda c: ~(c[1] <= goal) & (c[2] < MAX_STEPS)
    z, error, _ = jax.lax.while_loop(going, step, (start, size(start), jnp.array(0)))
    return z, error
