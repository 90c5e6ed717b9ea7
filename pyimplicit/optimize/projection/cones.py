"""Projections onto the positive semidefinite, second-order and exponential cones."""

import jax
import jax.numpy as jnp
import lineax as lx

from ...implicit import Linearisation, attach
from ..vectors import matrix, norm, vector


def projection_psd_cone(X):
    r"""argmin_P ‖P - X‖ with P = Pᵀ ⪰ 0.

    **Arguments:** `X`: `(n, n)`; if it is not symmetric, (X + Xᵀ)/2 is projected.

    **Returns:** P = V max(Λ, 0) Vᵀ with X = V Λ Vᵀ.

    **Derivative:** V (Ω ∘ VᵀẊV) Vᵀ with Ω_ij = (λᵢ⁺ + λⱼ⁺)/(|λᵢ| + |λⱼ|): finite for
    repeated eigenvalues. At the kink λᵢ = λⱼ = 0 (to round-off) Ω_ij = 0.

    ??? cite "Reference"
        Higham, *Computing a nearest symmetric positive semidefinite matrix* (1988).
        doi:10.1016/0024-3795(88)90223-6. Malick, Sendov, *Clarke generalized Jacobian of
        the projection onto the cone of positive semidefinite matrices* (2006).
        doi:10.1007/s11228-005-0005-1
    """
    X = matrix("projection_psd_cone", "X", X)
    if X.shape[0] != X.shape[1]:
        raise ValueError(
            f"`projection_psd_cone(X)` takes a square matrix.\nGot shape {X.shape}.\n"
            "For a batch use jax.vmap."
        )
    X = (X + X.T) / 2
    return _psd(X)


@jax.jit
def _psd(X):
    values, V = jnp.linalg.eigh(jax.lax.stop_gradient(X))
    P = (V * jnp.maximum(values, 0)) @ V.T
    size = jnp.abs(values)
    zero = size <= X.shape[0] * jnp.finfo(X.dtype).eps * jnp.max(size)
    kernel = (V * zero) @ V.T

    # P and N = P - X are orthogonal parts: P N + N P = 0. Along Ẋ,
    #     S Ṗ + Ṗ S = P Ẋ + Ẋ P,  S = P + N = |X|,
    # which has one solution but in the kernel of X, where Z Ṗ Z = 0 makes it one.
    def condition(P, X):
        N = P - X
        return P @ N + N @ P + kernel @ P @ kernel

    return attach(
        P,
        condition,
        X,
        Linearisation(_Lyapunov(V, jnp.where(zero, 0, size), zero), throw=False),
    )


class _Lyapunov(lx.AbstractLinearSolver):
    """Solves S Y + Y S + Z Y Z = B, given the eigenvectors of S and Z; a lineax solver."""

    V: jax.Array
    values: jax.Array
    zero: jax.Array

    def init(self, operator, options):
        return self

    def compute(self, state, vector, options):
        V = state.V
        B = V.T @ vector.reshape(V.shape) @ V
        both = state.zero[:, None] & state.zero
        Y = B / jnp.where(both, 1, state.values[:, None] + state.values)
        return (V @ Y @ V.T).reshape(-1), lx.RESULTS.successful, {}

    def transpose(self, state, options):
        return state, options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return True


def projection_second_order_cone(x):
    """argmin_p ‖p - x‖ with p = (t, u), ‖u‖₂ ≤ t.

    **Arguments:** `x`: `(n,)`, the first entry is t.

    **Returns:** x inside, 0 in the polar cone (‖u‖ ≤ -t), else ½(1 + t/‖u‖)(‖u‖, u).

    **Derivative:** of these formulas; on the boundary of the cone the identity, on that of
    the polar cone zero.

    ??? cite "Reference"
        Fukushima, Luo, Tseng, *Smoothing functions for second-order-cone complementarity
        problems* (2001), Prop. 3.3. doi:10.1137/S1052623400380365
    """
    x = vector("projection_second_order_cone", x)
    t, u = x[0], x[1:]
    if u.size == 0:
        return jnp.where(x > 0, x, 0)
    length = norm(u)
    inside, polar = length <= t, length <= -t
    outside = ~(inside | polar)
    safe = jnp.where(outside, length, 1)
    half = (1 + t / safe) / 2
    p = half * jnp.concatenate([safe[None], u])
    return jnp.where(inside, x, jnp.where(polar, 0, p))


def projection_exponential_cone(x):
    r"""argmin_p ‖p - x‖ over the closure of {(a, b, c): b > 0, b exp(a/b) ≤ c}.

    **Arguments:** `x`: `(3,)`, in the order of Clarabel, SCS and CVXPY.

    **Returns:** x inside, 0 in the polar cone, (a, 0, max(c, 0)) if a ≤ 0 and b ≤ 0; else
    the point of the boundary ray (ρ, 1, exp ρ) that is nearest, by bisection for ρ.

    **Derivative:** of the condition for ρ (one equation, by the implicit function
    theorem), and of the formulas elsewhere. On the borders of the regions one of the
    one-sided derivatives.

    ??? cite "Reference"
        Friberg, *Projection onto the exponential cone: a univariate root-finding problem*
        (2023). doi:10.1080/10556788.2021.2022147
    """
    x = vector("projection_exponential_cone", x)
    if x.size != 3:
        raise ValueError(
            f"`projection_exponential_cone(x)` takes three numbers.\nGot {x.size}.\n"
            "For many cones use jax.vmap on an array of shape (k, 3)."
        )
    return _exponential(x)


@jax.jit
def _exponential(x):
    a, b, c = x
    still = jax.lax.stop_gradient(x)
    inside, polar, flat = _regions(still)
    general = ~(inside | polar | flat)
    # A harmless point of the general region stands in where it is another region's turn.
    y = jnp.where(general, x, jnp.array([1.0, 1.0, 0.0], x.dtype))
    # Inside a layer that failed NaN arrives here: it goes on, and the layer tells.
    rho = attach(_ray(jax.lax.stop_gradient(y)), _off_ray, y, Linearisation(throw=False))
    height, mu = _coordinates(rho, y)
    # p = y (ρ, 1, e^ρ), or, as y e^ρ = c + μ, what does not overflow for ρ > 0.
    up, down = jnp.exp(jnp.minimum(rho, 0)), jnp.exp(-jnp.maximum(rho, 0))
    p = jnp.where(rho < 0, height, y[2] + mu * down) * jnp.stack([rho * down, down, up])
    wall = jnp.stack([a, jnp.zeros_like(b), jnp.where(c > 0, c, 0)])
    p = jnp.where(flat, wall, jnp.where(polar, 0, p))
    return jnp.where(jnp.any(jnp.isnan(still)), jnp.nan, jnp.where(inside, x, p))


def _regions(x):
    a, b, c = x
    ratio = lambda p, q: p / jnp.where(q == 0, 1, q)
    inside = (b > 0) & (b * jnp.exp(ratio(a, b)) <= c)
    inside |= (a <= 0) & (b == 0) & (c >= 0)
    # The polar cone: -x in the dual cone {u < 0, -u exp(v/u) ≤ e w} ∪ {u = 0, v, w ≥ 0}.
    polar = (a > 0) & (a * jnp.exp(ratio(b, a)) <= -jnp.e * c)
    polar |= (a == 0) & (b <= 0) & (c <= 0)
    return inside, polar & ~inside, (a <= 0) & (b <= 0) & ~inside & ~polar


# Off both cones x = y (ρ, 1, e^ρ) + μ (e^ρ, (1 - ρ) e^ρ, -1), y, μ > 0: a point of the
# boundary and the normal there. The first two rows give y and μ, the third is left for ρ.
def _coordinates(rho, x):
    a, b, _ = x
    det = rho**2 - rho + 1
    return ((rho - 1) * a + b) / det, (a - rho * b) / det  # y, μ e^ρ


def _off_ray(rho, x):
    """Rises with ρ; its third row divided by e^ρ + e^-ρ, which could overflow."""
    y, mu = _coordinates(rho, x)
    up, down = jax.nn.sigmoid(2 * rho), jax.nn.sigmoid(-2 * rho)
    least = jnp.exp(-jnp.abs(rho))
    return y * up - mu * down - x[2] * least / (1 + least**2)


def _ray(x):
    a, b, _ = x
    ratio = lambda p, q: p / jnp.where(q == 0, 1, q)
    # y > 0 and μ > 0 bound ρ on one side or both; on the other, e^ρ or e^-ρ does.
    low = jnp.where(a > 0, 1 - ratio(b, a), -jnp.inf)
    high = jnp.where(b > 0, ratio(a, b), jnp.inf)
    reach = 3 * jnp.log(jnp.finfo(x.dtype).max)
    low = jnp.maximum(low, jnp.minimum(high, 0) - reach)
    high = jnp.minimum(high, jnp.maximum(low, 0) + reach)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        below = _off_ray(middle, x) < 0
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, jnp.finfo(x.dtype).nmant + 12, halve, (low, high))
    return (low + high) / 2
