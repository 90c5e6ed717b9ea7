"""Equilibrium models against closed forms: linear, scalar and monotone cells."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.sweep import forth

from .deq_cells import KEY, W1, K, Linear, N, U, X, close, mlp, resolvent
from .layers import broken


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


def test_a_wide_state_has_its_adjoint_without_a_matrix():
    n = 100
    W = jnp.array(np.random.default_rng(1).normal(size=(n, n))) * 0.8 / np.sqrt(n)
    ct, x = jnp.cos(jnp.arange(n)), jnp.ones(n)
    value = lambda x: pi.deq.DEQ(lambda z, x: W @ z + x)(x).value
    grad = jax.jit(jax.grad(lambda x: ct @ value(x)))(x)
    close(grad, jnp.linalg.solve(jnp.eye(n) - W.T, ct), atol=1e-8)
    program = str(jax.make_jaxpr(jax.grad(lambda x: ct @ value(x)))(x))
    assert " lu[" not in program and "f64[13,100]" in program  # the Krylov space


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


def test_reversed_steps_return_the_start():
    """The right column of the rule is the left one with y and z exchanged and
    β → -β/(1 - β)."""
    f, beta = lambda y: jnp.tanh(0.7 * W1 @ y + U @ X), 0.6
    start = pair = jnp.arange(1.0, N + 1), jnp.zeros(N)
    for _ in range(12):
        pair = forth(f, pair, beta)
    z, y = pair[::-1]
    for _ in range(12):
        z, y = forth(f, (z, y), -beta / (1 - beta))
    close(jnp.stack([y, z]), jnp.stack(start), rtol=0, atol=1e-10)


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
    grad = jax.grad(lambda x: jnp.sum(deq(x).value ** 3))
    v, h = jnp.array([1.0, -0.5, 0.3]), 1e-4
    both = jax.jit(lambda x: jax.jvp(grad, (x,), (v,)))
    close(both(X)[1], (both(X + h * v)[0] - both(X - h * v)[0]) / (2 * h), rtol=1e-5)
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
