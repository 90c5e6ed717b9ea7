r"""The pseudo-inverse at weakly active rows, by solves with a regular matrix alone.

The weakly active rows W of the matrix K of `qp_kkt` are zero, so that their multipliers are
free. Let K₀ be K with ones on their diagonal and their columns out: regular and symmetric
where the strictly active rows determine the solution; B the columns of C_Wᵀ in the x-rows,
E those of the identity on W, and S the projection on all other rows. Then

    null K = range N,  N = E - K₀⁻¹ B,     K⁺ = (I - N (NᵀN)⁻¹ Nᵀ) K₀⁻¹ S

and NᵀN = I + Bᵀ K₀⁻² B, for which conjugate gradients need few steps (at most as many as W
has rows).
"""

import jax
import jax.numpy as jnp


STEPS = 200  # of conjugate gradients


def least_norm(K, solve, b, tol: float):
    """`(v, ok)`: K⁺ b for `K`, a `KKT` or its transpose; `solve`: with K₀, `(v, error)`."""
    weak, n, below = K.row != K.col, K.sizes[0], sum(K.sizes)
    transposed = jnp.any(K.row & ~K.col)
    at = lambda a: jnp.where(weak, a, 0.0)
    on_W = lambda a: jnp.zeros_like(b).at[below:].set(at(a))  # E a
    push = lambda a: jnp.zeros_like(b).at[:n].set(K.C.tmul(at(a)))  # B a
    pull = lambda v: at(K.C.mul(v[:n]))  # Bᵀ v

    def twice(b):
        """K₀⁻¹ b and K₀⁻² b, and the larger error."""
        step = lambda v, _: ((out := solve(v))[0], out)
        _, (v, error) = jax.lax.scan(step, b, length=2)
        return v[0], v[1], jnp.max(error)

    def body(carry):
        a, r, d, before, k = carry
        q = d + pull(twice(push(d))[1])
        step = before / (d @ q)
        a, r = a + step * d, r - step * q
        return a, r, r + (r @ r) / before * d, r @ r, k + 1

    first, second, error = twice(b - on_W(b[below:]))
    right = jnp.where(transposed, at(b[below:]) - pull(first), -pull(second))
    size = right @ right
    going = lambda c: (c[3] > 1e-26 * size) & (c[4] < STEPS)
    start = jnp.zeros_like(right), right, right, size, jnp.int32(0)
    a, _, _, left, _ = jax.lax.while_loop(going, body, start)
    once, again, more = twice(push(a))  # N a = E a - once
    v = first + jnp.where(transposed, again, once - on_W(a))
    return v, (jnp.maximum(error, more) <= tol) & (left <= tol * size)
