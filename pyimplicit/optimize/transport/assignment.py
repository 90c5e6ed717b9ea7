"""Assignment: who gets what, and derivatives that are of use in training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..._status import Status
from ..._tree import stop_gradient
from ...engine.failure import fail_unless_zero
from ...implicit import borrow
from ..perturbed import make_perturbed_argmax
from ..vectors import check_positive, matrix
from .host import assignment_columns
from .sinkhorn import sinkhorn


class Entropic(eqx.Module):
    """Derivatives of the entropic plan: Sinkhorn's with ε = `epsilon` [units of the cost],
    in place of those of the permutation, which are zero. n ≤ m; the columns that get nobody
    share an extra row of cost 0."""

    epsilon: Any

    def __check_init__(self):
        check_positive("Entropic", "epsilon", self.epsilon)

    def plan(self, cost):
        n, m = cost.shape
        a, b = jnp.ones(n, cost.dtype), jnp.ones(m, cost.dtype)
        if n < m:
            cost = jnp.concatenate([cost, jnp.zeros((1, m), cost.dtype)])
            a = jnp.append(a, m - n)
        return sinkhorn(cost, a, b, epsilon=self.epsilon).plan[:n]


class Perturbed(eqx.Module):
    """Derivatives of the expected permutation under noise (see `perturbed`).

    `key`: a random key. `num_samples`, `sigma` [units of the cost], `noise`: the noise;
    each sample is an assignment problem.
    """

    key: Any
    num_samples: int = eqx.field(static=True, default=100)
    sigma: Any = 0.1
    noise: Any = None

    def __check_init__(self):
        check_positive("Perturbed", "sigma", self.sigma)

    def plan(self, cost):
        options = {} if self.noise is None else {"noise": self.noise}
        smooth = make_perturbed_argmax(
            lambda scores: _permutation(-scores)[0],
            self.num_samples, self.sigma, control_variate=True, **options,
        )  # fmt: skip
        return smooth(-cost, self.key)


def assignment(cost, smoothing: Entropic | Perturbed | None = None, *, throw: bool = True):
    """The cheapest assignment of rows to columns.

    **Arguments:**

    - `cost`: C, `(n, m)`, n ≤ m; +∞ forbids a pair.
    - `smoothing`: whose derivatives the result has: None: its own, zero wherever there is
      one best assignment; `Entropic(epsilon)`; `Perturbed(key, ...)`. The value is the
      permutation in every case, so with smoothing value and derivative belong to different
      functions, on purpose.
    - `throw`: raise if there is no assignment. False: NaN.

    **Returns:** P, `(n, m)`: one 1 in each row, at most one in each column.

    **Derivative:** see `smoothing`; that of the smoothed plan, both modes. The cost of the
    assignment, ⟨P, C⟩, has the gradient P with None.

    **Errors:** `ValueError` on misfit shapes; at run time on NaN, or if every assignment
    has a forbidden pair.

    Runs on the host (SciPy), also under jit and vmap; a batch is a loop there.

    ??? cite "Reference"
        Crouse, *On implementing 2D rectangular assignment algorithms* (2016).
        doi:10.1109/TAES.2016.140952
    """
    C = matrix("assignment", "cost", cost)
    if C.shape[0] > C.shape[1]:
        raise ValueError(
            "`assignment(cost)` needs at least as many columns as rows.\n"
            f"Got shape {C.shape}.\nTranspose it."
        )
    if not (smoothing is None or isinstance(smoothing, Entropic | Perturbed)):
        raise TypeError(
            "`assignment(smoothing=...)` must be None, Entropic(epsilon), Perturbed(key).\n"
            f"Got {smoothing!r}.\nBoth are in pi.transport."
        )
    return _assignment(C, smoothing, throw)


@eqx.filter_jit
def _assignment(C, smoothing, throw):
    P, code = _permutation(stop_gradient(C))
    if throw:
        messages = tuple(f"pyimplicit.transport.assignment: {_message(s)}" for s in Status)
        P = fail_unless_zero(P, code, messages)
    P = jnp.where(code == 0, P, jnp.nan)
    found: Any = code == 0
    return P if smoothing is None else borrow(P, smoothing.plan(C), found)


def _permutation(C):
    columns, code = assignment_columns(C)
    return jax.nn.one_hot(columns, C.shape[1], dtype=C.dtype), code


def _message(status: Status) -> str:
    if status == Status.singular:
        return "no assignment: every one uses a forbidden pair (an infinite cost)"
    return status.message
