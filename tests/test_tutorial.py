"""The implicit-layers tutorial, chapter by chapter, with its numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from .test_examples import example


# Chapter 2's printed results: z* and row 0 of d sum(z)/dW.
Z = [0.006496, -0.701596, -0.984715, -0.041966, -0.615222,
     -0.481838, 0.578312, 0.955671, -0.083732, 0.844781]  # fmt: skip
GRADIENT = [0.007524, -0.812573, -1.140476, -0.048604, -0.712537,
            -0.558054, 0.669789, 1.106837, -0.096977, 0.978406]  # fmt: skip


def test_introduction():
    found = example("tutorial_introduction").main(steps=150)
    assert max(found["gradients"].values()) < 1e-8, found["gradients"]
    assert found["losses"][-1] < 0.3 * found["losses"][0]
    assert found["accuracy"] > 0.9


def test_implicit_functions():
    chapter = example("implicit_layers")
    # The tutorial's generator and precision: float32, threefry not partitionable.
    with jax.threefry_partitionable(False), jax.enable_x64(False):
        W = jax.random.normal(jax.random.PRNGKey(0), (10, 10)) / jnp.sqrt(10)
        x = jax.random.normal(jax.random.PRNGKey(1), (10,))
        f = lambda W, x, z: jnp.tanh(jnp.dot(W, z) + x)
        for solver in (chapter.fwd_solver, chapter.newton_solver, chapter.anderson_solver):
            total = lambda W, s=solver: chapter.fixed_point_layer(s, f, W, x).sum()
            z = chapter.fixed_point_layer(solver, f, W, x)
            np.testing.assert_allclose(z, Z, atol=2e-5)
            np.testing.assert_allclose(jax.grad(total)(W)[0], GRADIENT, atol=5e-5)


def test_neural_odes():
    found = example("tutorial_neural_ode").main(steps=300)
    for name in ("resnet", "ode"):
        losses = found[name]["losses"]
        assert losses[-1] < 0.4 * losses[0], name
    assert (jnp.diff(found["ode"]["prediction"]) > 0).all()  # paths do not cross
    for a, b in zip(*map(jax.tree.leaves, found["gradients"].values()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_continuous_flow():
    found = example("continuous_flow").main(steps=80, batch=32)
    assert abs(found["integral"] - 1) < 2e-3
    assert found["losses"][-10:].mean() < found["losses"][:5].mean() - 0.2


def test_darcy_flow():
    found = example("darcy_equilibrium").main(n=8, steps=60, width=4, count=32)
    tied, unrolled = found["equilibrium"], found["unrolled"]
    for model in (tied, unrolled):
        assert model["losses"][-10:].mean() < 0.5 * model["losses"][:5].mean()
        assert model["error"] < 0.3
    assert tied["converged"] == 1.0
    # Whatever the weights of the smoother are, the fixed point is the FEM solution.
    before, after = found["before"], found["after"]
    assert max(before["error"], after["error"]) < 1e-6
    assert after["iterations"] < 0.5 * before["iterations"]


def test_deep_equilibrium_models():
    found = example("tutorial_equilibrium").main(steps=40)
    assert found["gradient"] < 1e-6
    assert found["iterations"]["Anderson"] < found["iterations"]["forward iteration"]
    assert found["accuracy"][-10:].mean() > 0.9
    # Without the Jacobian term in the loss this falls below a quarter.
    assert found["converged"].min() > 0.8


def test_differentiable_optimisation():
    found = example("tutorial_optimisation").main(steps=40)
    x = jnp.array([-1.3, 0.4, 2.0])
    for name, exact in (
        ("relu", jax.nn.relu), ("sigmoid", jax.nn.sigmoid), ("softmax", jax.nn.softmax),
    ):  # fmt: skip
        value, J = found[name]
        np.testing.assert_allclose(value, exact(x), atol=1e-7, err_msg=name)
        np.testing.assert_allclose(J, jax.jacrev(exact)(x), atol=1e-6, err_msg=name)
    assert found["gradient"] < 1e-6
    np.testing.assert_allclose(found["h"], found["truth"], atol=0.02)
    (plane, slope), (same, slope_too) = found["margin"]  # CVXPY's words, and pi.qp
    np.testing.assert_allclose(plane, same, atol=1e-6)
    np.testing.assert_allclose(slope, slope_too, atol=1e-5)
    assert jnp.abs(slope).max() > 0.01
