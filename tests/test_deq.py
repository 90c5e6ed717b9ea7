"""Equilibrium models against closed forms: linear, scalar and monotone cells."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from .layers import broken


RNG = np.random.default_rng(3)
N, K = 5, 3
_W = RNG.normal(size=(N, N))
W1: Any = jnp.array(_W / np.abs(np.linalg.eigvals(_W)).max())  # ρ = 1, not symmetric
U = jnp.array(RNG.normal(size=(N, K)))
X = jnp.array([0.3, -2.0, 5.0])
KEY = jax.random.key(0)
close = functools.partial(np.testing.assert_allclose, rtol=1e-7, atol=1e-9)


class Linear(eqx.Module):
    """z ↦ W z + U x, with z* = (I - W)⁻¹ U x."""

    W: jax.Array

    def state(self, x):
        return jnp.zeros(N)

    def __call__(self, z, x):
        return self.W @ z + U @ x


def resolvent(W, x=X):
    return jnp.linalg.solve(jnp.eye(N) - W, U @ x)


def linear(scale, x=X, **options):
    return pi.deq.DEQ(Linear(scale * W1), **options)(x)


@pytest.mark.parametrize("scale, solver", [
    (0.7, pi.Picard()), (0.7, pi.Anderson()), (3.0, pi.Newton()),
    (3.0, pi.Anderson(memory=N)),
], ids=["picard", "anderson", "newton", "anderson, expansive"])  # fmt: skip
def test_linear_cell_has_the_resolvents_derivatives(scale, solver):
    def both(W, x):
        return 2 * (pi.deq.DEQ(Linear(W), solver=broken(solver))(x).value,)

    W = scale * W1
    mode = jax.jacfwd if isinstance(solver, pi.Newton) else jax.jacrev
    ours, value = jax.jit(mode(both, (0, 1), has_aux=True))(W, X)
    close(value, resolvent(W))
    for a, b in zip(ours, jax.jit(jax.jacrev(resolvent, (0, 1)))(W, X), strict=True):
        close(a, b)


def test_picard_reports_failure_where_the_map_expands():
    short: dict[str, Any] = dict(solver=pi.Picard(), max_steps=50)

    def both(x):
        found = linear(3.0, x, **short, throw=False)
        return found.value, found.status

    J, status = jax.jit(jax.jacrev(both, has_aux=True))(X)
    assert status == pi.Status.max_steps_reached and np.isnan(J).all()
    with pytest.raises(Exception, match="largest number of steps"):
        linear(3.0, **short)


SCALAR = {
    "sqrt": (lambda z, a: 0.5 * (z + a / z), 1.0, 2.0, np.sqrt(2), 0.5 / np.sqrt(2)),
    "cos": (lambda z, a: jnp.cos(a * z), 1.0, 1.0, 0.7390851332151607, None),
    "jfb": (lambda z, d: d + z**5, 0.0, 0.4, None, None),
}
COS = -0.7390851332151607 * np.sin(0.7390851332151607) / (1 + np.sin(0.7390851332151607))


@pytest.mark.parametrize("name", SCALAR)
def test_scalar_maps(name):
    cell, z0, a, z, slope = SCALAR[name]
    value = lambda a: pi.deq.DEQ(cell, init=lambda a: jnp.array(z0))(a).value
    found, grad = jax.jit(jax.value_and_grad(value))(a)
    if name == "jfb":  # z = d + z⁵, z' = 1/(1 - 5 z⁴); its one-step gradient is 1
        z, slope = found, 1 / (1 - 5 * found**4)
        one = lambda d: pi.deq.DEQ(cell, adjoint=pi.OneStep())(d).value
        close(found - a, found**5)
        close(jax.grad(one)(a), 1.0)
        close(grad - 1.0, 5 * z**4 / (1 - 5 * z**4))
    close(found, z)
    close(grad, COS if slope is None else slope)


@pytest.mark.parametrize("tau", [1.0, 0.6])
def test_phantom_gradient_is_the_truncated_neumann_series(tau):
    W, k = 0.7 * W1, 4
    adjoint = pi.Phantom(k, tau)
    value = lambda x: pi.deq.DEQ(Linear(W), adjoint=adjoint)(x).value
    step = (1 - tau) * np.eye(N) + tau * np.asarray(W)
    series = tau * sum(np.linalg.matrix_power(step, i) for i in range(k))
    close(jax.jacrev(value)(X), series @ U)


def test_anderson_with_full_memory_is_gmres():
    """Walker, Ni 2011: the mixed step of number k is the map at GMRES's iterate k."""
    W, b = 3.0 * np.asarray(W1), np.asarray(U @ X)
    A = np.eye(N) - W
    deq = pi.deq.DEQ(
        Linear(jnp.array(W)), solver=pi.Anderson(memory=N + 1, safeguard=jnp.inf)
    )
    at = tuple(range(2, N + 2))
    found, states = pi.deq.trajectory(deq, X, at=at)
    for k, state in enumerate(states, start=1):
        krylov = np.stack([np.linalg.matrix_power(A, i) @ b for i in range(k)], 1)
        y = krylov @ np.linalg.lstsq(A @ krylov, b, rcond=None)[0]
        close(state, W @ (W @ y + b) + b, rtol=1e-5, atol=1e-4)
    assert found.stats["iterations"] <= N + 2 + 1


def mlp(bound=None, **options):
    cell = pi.deq.MLPCell(N, K, hidden=7, bound=bound, key=KEY)
    return pi.deq.DEQ(cell, **options)


def test_reversible_gradient_is_that_of_its_own_steps():
    adjoint = pi.Reversible(0.6)
    deq = mlp(adjoint=adjoint, rtol=1e-8, atol=1e-8)

    def ours(x):
        found = deq(x)
        return jnp.sum(jnp.sin(found.value)), found

    def unrolled(x):
        def step(pair, _):
            y, z = pair
            y = 0.4 * y + 0.6 * deq.cell(z, x)
            return (y, 0.4 * z + 0.6 * deq.cell(y, x)), None

        start = 2 * (deq.cell.state(x),)
        z = jax.lax.scan(step, start, length=int(found.stats["iterations"]))[0][1]
        return jnp.sum(jnp.sin(z)), z

    grad, found = jax.jit(jax.grad(ours, has_aux=True))(X)
    want, z = jax.jit(jax.grad(unrolled, has_aux=True))(X)
    close(found.value, z, rtol=1e-12)
    close(grad, want, rtol=1e-10, atol=1e-12)


def test_a_samples_answer_does_not_depend_on_its_mates():
    deq = mlp(solver=pi.Picard())
    xs = jnp.stack([X, 0.01 * X, -20 * X])
    solve = jax.jit(lambda x: deq(x))
    together = jax.jit(jax.vmap(lambda x: deq(x)))(xs)
    assert len(set(np.asarray(together.stats["iterations"]))) > 1
    for i, x in enumerate(xs):
        alone = solve(x)
        close(together.value[i], alone.value, rtol=1e-13, atol=1e-14)
        assert together.stats["iterations"][i] == alone.stats["iterations"]
        assert together.status[i] == 0 and together.stats["residual"].shape == (3,)


def test_second_order():
    deq = mlp(rtol=1e-12, atol=1e-12, solver=pi.Picard())
    f = lambda x: jnp.sum(deq(x).value ** 3)
    h = 1e-4
    H = jax.jit(jax.hessian(f))(X)
    grad = jax.jit(jax.grad(f))
    columns = [(grad(X + h * e) - grad(X - h * e)) / (2 * h) for e in np.eye(K)]
    close(H, jnp.stack(columns, 1), rtol=1e-5, atol=1e-7)
    # The same layer in the package's own table of checks.
    report = pi.check_layer(lambda x: deq(x).value, X, second_order=False, show=False)
    assert report.passed, str(report)


@pytest.mark.parametrize("adjoint, flat", [
    (lambda steps: pi.Implicit(jacobian=pi.MatrixFree()), True),
    (lambda steps: pi.Reversible(0.5), True),
    (lambda steps: pi.Unroll(steps), False),
], ids=["implicit", "reversible", "unrolled"])  # fmt: skip
def test_memory_does_not_grow_with_the_number_of_steps(adjoint, flat):
    cell = pi.deq.MLPCell(32, K, key=KEY)

    def bytes_for(max_steps):
        solver = None if isinstance(adjoint(1), pi.Reversible) else pi.Picard()
        deq = pi.deq.DEQ(cell, solver, adjoint(max_steps), max_steps=max_steps)
        grad = jax.grad(lambda x: jnp.sum(deq(x).value))
        memory: Any = jax.jit(grad).lower(X).compile().memory_analysis()
        return memory.temp_size_in_bytes

    few, many = bytes_for(50), bytes_for(500)
    assert (many <= 1.05 * few) if flat else (many > 3 * few), (few, many)


# Regularisers, against dense Jacobians.


def dense(cell, z, x):
    return jax.jacobian(cell)(z, x)


def test_regularisers_are_what_they_are_called():
    cell = pi.deq.MLPCell(N, K, key=KEY)
    z = jnp.linspace(-1.0, 2.0, N)
    J = np.asarray(dense(cell, z, X))
    many: dict[str, Any] = dict(key=jax.random.key(1), probes=20_000)
    close(pi.deq.jacobian_frobenius(cell, z, X, **many), (J**2).sum(), rtol=0.02)
    close(pi.deq.jacobian_trace(cell, z, X, **many), np.trace(J), atol=0.02)
    # The mean over all signs is exact, and so is its gradient in the weights.
    frobenius = lambda cell: pi.deq.jacobian_frobenius(cell, z, X, **many)
    exact = lambda cell: jnp.sum(dense(cell, z, X) ** 2)
    ours, theirs = (eqx.filter_grad(f)(cell) for f in (frobenius, exact))
    close(ours.W.weight, theirs.W.weight, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("J", [
    np.diag([3.0, -5.0, 1.0]),
    [[0.0, -2.0, 0.0], [2.0, 0.1, 0.0], [5.0, 1.0, 1.5]],  # a complex pair leads
    np.asarray(W1) * 4,
    [[-7.0]],
    np.zeros((2, 2)),
], ids=["real", "pair", "random", "scalar", "zero"])  # fmt: skip
def test_spectral_radius_is_the_dense_one(J):
    J = jnp.array(J)
    radius = pi.deq.spectral_radius(lambda z, x: J @ z + x, J[0], 1.0, key=KEY)
    close(radius, np.abs(np.linalg.eigvals(np.asarray(J))).max(), rtol=1e-6)


def test_spectral_radius_refuses_to_be_differentiated():
    radius = lambda a: pi.deq.spectral_radius(lambda z, x: a * z, X, 0.0, key=KEY)
    with pytest.raises(Exception, match="spectral_radius"):
        jax.grad(radius)(2.0)


# Monotone operators.


@pytest.mark.parametrize("splitting", [
    pi.deq.PeacemanRachford(0.7), pi.deq.ForwardBackward(),
], ids=lambda s: type(s).__name__)  # fmt: skip
def test_monotone_layers_have_one_fixed_point_whatever_the_weights(splitting):
    cell = pi.deq.Monotone(4, K, margin=0.5, key=KEY)
    cell = eqx.tree_at(lambda c: (c.A, c.B), cell, (cell.A, 3 * cell.B))
    deq = pi.deq.MonotoneDEQ(cell, splitting, rtol=1e-11, atol=1e-11, max_steps=5000)
    proof = deq.certificate()
    assert proof.unique and proof.margin >= 0.5 - 1e-12
    assert np.abs(np.linalg.eigvals(np.asarray(cell.W))).max() > 1  # no contraction
    solve = jax.jit(lambda x, z0: deq(x, z0=z0).value)
    z = solve(X, jnp.zeros(4))
    close(cell(z, X), z)
    assert (z == 0).any() and (z > 0).any()
    close(solve(X, 100 * jnp.cos(jnp.arange(4.0))), z)

    def exact(x):  # on the support of z it is linear
        on = (z > 0).astype(float)
        return jnp.linalg.solve(jnp.eye(4) - on[:, None] * cell.W, on * cell.injection(x))

    close(jax.jacrev(solve)(X, jnp.zeros(4)), jax.jacrev(exact)(X), atol=1e-8)


def test_certificate_bounds_the_contraction():
    cell = pi.deq.Monotone(4, K, margin=0.5, key=KEY)
    proof = pi.deq.certificate(cell.W)
    step = lambda z: (1 - proof.alpha) * z + proof.alpha * cell.W @ z
    assert jnp.linalg.norm(jax.jacobian(step)(jnp.zeros(4)), 2) <= proof.rate + 1e-12
    assert not pi.deq.certificate(2.0 * jnp.eye(3)).unique


# Blocks, several resolutions, trajectories.

BLOCKS = {
    "mlp": (pi.deq.MLPCell(4, 3, 6, bound=0.9, key=KEY), (3,)),
    "conv": (pi.deq.ConvCell(4, 4, groups=2, key=KEY), (4, 5, 5)),
    "transformer": (pi.deq.TransformerCell(4, 2, causal=True, key=KEY), (3, 4)),
    "fourier": (pi.deq.FNOCell(3, 2, 2, key=KEY), (2, 6, 6)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_have_equilibria_with_exact_gradients(name):
    cell, shape = BLOCKS[name]
    x = jnp.array(RNG.normal(size=shape))
    deq = pi.deq.DEQ(cell, pi.Picard(), rtol=1e-11, atol=1e-11)

    @jax.jit
    def f(t):
        z = deq(x + t * jnp.cos(x)).value
        return jnp.sum(jnp.sin(z + jnp.arange(z.size).reshape(z.shape)))

    slope, h = jax.jvp(f, (0.0,), (1.0,))[1], 1e-5
    close(slope, (f(h) - f(-h)) / (2 * h), rtol=1e-5, atol=1e-7)


def test_bounded_layers_contract():
    cell = pi.deq.MLPCell(4, 3, bound=0.5, key=KEY)
    cell = eqx.tree_at(lambda c: c.W.linear.weight, cell, 30 * cell.W.linear.weight)
    assert jnp.linalg.norm(dense(cell, jnp.zeros(4), 0 * X), 2) <= 0.5 + 1e-12


def test_causal_attention_does_not_look_ahead():
    cell, shape = BLOCKS["transformer"]
    solve = jax.jit(lambda x: pi.deq.DEQ(cell)(x).value)
    x = jnp.array(RNG.normal(size=shape))
    close(solve(x)[:2], solve(x.at[2].add(5.0))[:2])


def test_spectral_convolution_is_one():
    conv = pi.deq.SpectralConv(1, 1, 2, key=KEY)
    z = jnp.array(RNG.normal(size=(1, 8, 8)))
    moved = jnp.roll(z, (3, 1), (1, 2))
    close(conv(moved), jnp.roll(conv(z), (3, 1), (1, 2)))
    plane = jnp.cos(2 * jnp.pi * jnp.arange(8) / 8)[None, :, None] * jnp.ones((1, 1, 8))
    fine = jnp.cos(2 * jnp.pi * jnp.arange(16) / 16)[None, :, None] * jnp.ones((1, 1, 16))
    close(conv(fine)[:, ::2, ::2], conv(plane))  # the same operator on a finer grid
    with pytest.raises(ValueError, match="fewer modes"):
        conv(jnp.ones((1, 3, 8)))


def test_dropout_masks_are_arguments():
    deq = pi.deq.DEQ(pi.deq.MLPCell(N, K, bound=0.5, key=KEY), pi.Picard())
    mask = pi.deq.dropout_mask(KEY, (N,), 0.4)
    assert set(np.round(np.asarray(mask), 6)) <= {0.0, round(1 / 0.6, 6)}
    z = deq(X, mask).value
    close(deq.cell(z, X, mask), z)
    assert not np.allclose(z, deq(X).value)
    off = mask == 0
    close(z[off], jnp.tanh(deq.cell.U(X))[off])
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        pi.deq.dropout_mask(KEY, (N,), 1.0)


def test_several_resolutions_at_once():
    branches, fuse, shapes, post = pi.deq.image_pyramid([2, 3], 4, 2, key=KEY)
    how: dict[str, Any] = dict(solver=pi.Picard(), rtol=1e-11, atol=1e-11)
    deq = pi.deq.MultiscaleDEQ(branches, fuse, shapes=shapes, post=post, **how)
    x = jnp.array(RNG.normal(size=(2, 4, 4)))

    @jax.jit
    def f(t):
        z = deq(x * t).value
        return jnp.sum(z[1] ** 2), z  # the coarse state; the input enters at the fine one

    (_, z), (slope, _) = jax.jvp(f, (1.0,), (1.0,))
    assert [a.shape for a in z] == [(2, 4, 4), (3, 2, 2)]
    for a, b in zip(deq.cell(z, x), z, strict=True):
        close(a, b)
    close(slope, (f(1 + 1e-5)[0] - f(1 - 1e-5)[0]) / 2e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="one for each"):
        pi.deq.MultiscaleDEQ(branches, fuse[:1], shapes=shapes)


def test_trajectory_samples_the_solver():
    W = 0.7 * W1
    deq = pi.deq.DEQ(Linear(W), solver=pi.Picard())

    def run(x):
        found, states = pi.deq.trajectory(deq, x, at=(1, 3, 400))
        return (found.value, states), (found, states)

    (J, J_states), (found, states) = jax.jit(jax.jacrev(run, has_aux=True))(X)
    power = lambda k: sum(jnp.linalg.matrix_power(W, i) for i in range(k)) @ U @ X
    # One phantom step follows each sample; after the end the last state is repeated.
    close(states[0], power(2))
    close(states[1], power(4))
    close(states[2], resolvent(W))
    close(found.value, resolvent(W))
    close(J, jnp.linalg.solve(jnp.eye(N) - W, U))
    close(J_states[0], U)
    loss = pi.deq.fixed_point_correction(lambda z: z[0], states, gamma=0.5)
    close(loss, 0.25 * states[0, 0] + 0.5 * states[1, 0] + states[2, 0])
    with pytest.raises(ValueError, match="increasing"):
        pi.deq.trajectory(deq, X, at=(3, 3))
    with pytest.raises(TypeError, match="fixed-point solver"):
        pi.deq.trajectory(pi.deq.DEQ(Linear(W), solver=pi.Newton()), X, at=(3,))
    with pytest.raises(ValueError, match="scalar"):
        pi.deq.fixed_point_correction(lambda z: z, states)


def test_starts():
    W = 0.7 * W1
    cold = pi.deq.DEQ(Linear(W), solver=pi.Picard())
    steps = int(cold(X).stats["iterations"])
    assert cold(X, z0=resolvent(W)).stats["iterations"] <= 2 < steps
    warm = pi.deq.DEQ(Linear(W), solver=pi.Picard(), init=lambda x: resolvent(W, x))
    assert warm(X).stats["iterations"] <= 2
    guess = pi.deq.DEQ(Linear(W), init=lambda x: 2 * resolvent(W, x))
    close(guess.start_loss(X, resolvent(W)), jnp.mean(resolvent(W) ** 2))
    with pytest.raises(ValueError, match="Pass z0="):
        pi.deq.DEQ(lambda z, x: jnp.tanh(z) + U @ x)(X)
    with pytest.raises(TypeError, match="cell\\(z, x\\)"):
        pi.deq.DEQ(3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="Monotone"):
        pi.deq.MonotoneDEQ(Linear(W))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="positive"):
        pi.deq.Monotone(2, 2, margin=0.0, key=KEY)
