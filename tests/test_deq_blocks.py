"""Parts of equilibrium models: regularisers, monotone cells, normalisation, blocks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi

from .deq_cells import KEY, W1, K, N, X, close


RNG = np.random.default_rng(4)


def dense(cell, z, x):
    return jax.jacobian(cell)(z, x)


def test_regularisers_are_what_they_are_called():
    z = jnp.linspace(-1.0, 2.0, N)
    many: dict[str, Any] = dict(key=jax.random.key(1), probes=20_000)

    @eqx.filter_jit
    def measures(cell):
        frobenius = lambda cell: pi.deq.jacobian_frobenius(cell, z, X, **many)
        exact = lambda cell: jnp.sum(dense(cell, z, X) ** 2)
        trace = pi.deq.jacobian_trace(cell, z, X, **many)
        both = [eqx.filter_value_and_grad(f)(cell) for f in (frobenius, exact)]
        return both, (trace, jnp.trace(dense(cell, z, X)))

    both, trace = measures(pi.deq.MLPCell(N, K, key=KEY))
    (ours, by), (theirs, exact) = both
    close(ours, theirs, rtol=0.02)
    close(*trace, atol=0.02)
    close(by.W.weight, exact.W.weight, rtol=0.1, atol=0.02)


@jax.jit
def radius(J):
    return pi.deq.spectral_radius(lambda z, x: J @ z + x, J[0], 1.0, key=KEY)


@pytest.mark.parametrize("J", [
    np.diag([3.0, -5.0, 1.0]),
    [[0.0, -2.0, 0.0], [2.0, 0.1, 0.0], [5.0, 1.0, 1.5]],  # a complex pair leads
    np.asarray(W1) * 4,
    [[-7.0]],
    np.zeros((2, 2)),
], ids=["real", "pair", "random", "scalar", "zero"])  # fmt: skip
def test_spectral_radius_is_the_dense_one(J):
    J = np.asarray(J)
    n = len(J)
    J = np.pad(J, (0, N - n)) if n > 1 else J  # one program; zeros change nothing
    close(radius(J), np.abs(np.linalg.eigvals(J)).max(), rtol=1e-6)


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

    def exact(x, z):  # on the support of z it is linear
        on = (z > 0).astype(float)
        return jnp.linalg.solve(jnp.eye(4) - on[:, None] * cell.W, on * cell.injection(x))

    @jax.jit
    def run(z0):
        z, pull = jax.vjp(lambda x: deq(x, z0=z0).value, X)
        v = jnp.cos(jnp.arange(4.0))
        return z, cell(z, X), pull(v)[0], jax.vjp(lambda x: exact(x, z), X)[1](v)[0]

    z, again, ours, theirs = run(jnp.zeros(4))
    close(again, z)
    assert (z == 0).any() and (z > 0).any()
    close(run(100 * jnp.cos(jnp.arange(4.0)))[0], z)
    close(ours, theirs, atol=1e-8)


def test_certificate_bounds_the_contraction():
    cell = pi.deq.Monotone(4, K, margin=0.5, key=KEY)
    proof = pi.deq.certificate(cell.W)
    step = lambda z: (1 - proof.alpha) * z + proof.alpha * cell.W @ z
    assert jnp.linalg.norm(jax.jacobian(step)(jnp.zeros(4)), 2) <= proof.rate + 1e-12
    assert not pi.deq.certificate(2.0 * jnp.eye(3)).unique


class Normed(eqx.Module):
    """tanh(W z + U x) with W behind a normalising layer of equinox."""

    W: eqx.Module
    U: jax.Array

    def __init__(self, wrap, key):
        linear = eqx.nn.Linear(4, 4, use_bias=False, key=key)
        self.W = wrap(eqx.tree_at(lambda m: m.weight, linear, 9 * linear.weight))
        self.U = jnp.array(RNG.normal(size=(4, K)))

    def __call__(self, z, x, state=None):
        layer: Any = self.W
        if state is None:
            return jnp.tanh(layer(z) + self.U @ x)
        return jnp.tanh(0.9 * layer(z, state, inference=True)[0] + self.U @ x)


def compare_with_the_weight_itself(cell, weight, *args):
    """The same layer with its weight written out: value, and gradient in all parameters."""
    deq = lambda cell: pi.deq.DEQ(cell, init=lambda x: jnp.zeros(4), rtol=1e-11, atol=1e-11)
    bare = lambda cell: lambda z, x: jnp.tanh(weight(cell.W, *args) @ z + cell.U @ x)

    @eqx.filter_jit
    def both(cell, args):
        loss = lambda layer: lambda cell: jnp.sum(jnp.sin(layer(cell)))
        ours = lambda cell: deq(cell)(X, *args).value
        theirs = lambda cell: deq(bare(cell))(X).value
        return [eqx.filter_value_and_grad(loss(f))(cell) for f in (ours, theirs)]

    for a, b in zip(*map(jax.tree.leaves, both(cell, args)), strict=True):
        assert np.abs(b).max() > 1e-6
        close(a, b, atol=1e-8)


def test_weight_normalisation_is_equinoxs():
    cell = Normed(eqx.nn.WeightNorm, KEY)
    cell = eqx.tree_at(lambda c: c.W.g, cell, 0.3 * jnp.arange(1.0, 4.5)[:, None])
    rows = lambda W: W.g * W.layer.weight / jnp.linalg.norm(
        W.layer.weight, axis=1, keepdims=True
    )  # fmt: skip
    compare_with_the_weight_itself(cell, rows)


def test_spectral_normalisation_is_equinoxs():
    """Its power iteration moves between solves; in one, the state is an argument."""
    wrap = lambda linear: eqx.nn.SpectralNorm(linear, "weight", 20, key=KEY)
    cell, state = eqx.nn.make_with_state(Normed)(wrap, KEY)
    layer: Any = cell.W
    _, state = layer(jnp.zeros(4), state)
    u, v = state.get(layer.uv_index)
    weight = lambda W, *_: 0.9 * W.layer.weight / (u @ W.layer.weight @ v)
    assert jnp.linalg.norm(layer.layer.weight, 2) > 3
    assert jnp.linalg.norm(weight(layer), 2) < 0.91
    compare_with_the_weight_itself(cell, weight, state)


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
