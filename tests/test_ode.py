"""Initial value problems, events and steady states against closed forms."""

import functools
from pathlib import Path
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.ode import Backsolve, Direct, Forward


A = jnp.array([[-0.3, 2.0, 0.0], [-2.0, -0.3, 1.0], [0.5, 0.0, -1.0]])  # not normal
Y0 = jnp.array([1.0, -20.0, 3.0])
T = jnp.array([0.0, 0.4, 1.5])
TIGHT: dict[str, Any] = dict(rtol=1e-10, atol=1e-10)
close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)


def linear(t, y, A):
    del t
    return A @ y


def exact(A, y0):
    return jnp.stack([jax.scipy.linalg.expm(A * t) @ y0 for t in T])


@functools.cache
def exact_jacobian():
    return jax.jit(jax.jacfwd(exact))(A, Y0)


def path(A, y0, **options):
    return pi.ode.odeint(linear, y0, T, A, **{**TIGHT, **options}).value


@pytest.mark.parametrize("adjoint, mode", [
    (pi.Unroll(checkpoints=3), jax.jacrev),
    (Direct(), jax.jacfwd),
    (Forward(), jax.jacfwd),
    (Backsolve(), jax.jacrev),
], ids=lambda a: getattr(a, "__name__", type(a).__name__))  # fmt: skip
def test_linear_equation_has_the_derivatives_of_the_exponential(adjoint, mode):
    solve = lambda A: 2 * (path(A, Y0, adjoint=adjoint),)
    J, value = jax.jit(mode(solve, has_aux=True))(A)
    close(value, exact(A, Y0))
    close(J, exact_jacobian(), atol=1e-5)


def test_what_a_field_closes_over_is_differentiated():
    def total(a):
        field = lambda t, y, p: a * A @ y  # diffrax's own BacksolveAdjoint refuses it
        return jnp.sum(pi.ode.odeint(field, Y0, T, adjoint=Backsolve(), **TIGHT).value)

    want = jax.grad(lambda a: jnp.sum(exact(a * A, Y0)))(1.3)
    close(jax.jit(jax.grad(total))(1.3), want)


def test_second_order():
    f = lambda solve: lambda a: solve(a * A, Y0)[-1, 0]
    ours = f(functools.partial(path, adjoint=Direct()))
    twice = lambda f: jax.jit(jax.jacfwd(jax.jacfwd(f)))(1.0)
    close(twice(ours), twice(f(exact)), rtol=1e-5)


def test_the_slope_in_time_is_the_field():
    at = lambda t: pi.ode.odeint(linear, Y0, jnp.stack([0.0, t]), A, **TIGHT).value[-1]

    @jax.jit
    def run(t):
        value, pull = jax.vjp(at, t)
        return value, pull(Y0)[0]

    value, slope = run(0.8)
    close(slope, Y0 @ A @ value)


def test_equal_steps():
    """Euler's method, k steps: (I + A/k)ᵏ y0; its derivative is that of the formula."""
    k, t = 7, jnp.array([0.0, 1.0])
    how: dict[str, Any] = dict(solver=diffrax.Euler(), adjoint=pi.Unroll(steps=k))
    solve = lambda A: pi.ode.odeint(linear, Y0, t, A, **how)
    formula = lambda A: jnp.linalg.matrix_power(jnp.eye(3) + A / k, k) @ Y0

    def end(A):
        found = solve(A)
        return found.value[-1], found

    J, found = jax.jit(jax.jacfwd(end, has_aux=True))(A)
    assert found.stats["iterations"] == k
    close(found.value[-1], formula(A), rtol=1e-12)
    close(J, jax.jacfwd(formula)(A), rtol=1e-10)


def test_a_sample_does_not_depend_on_its_mates():
    solve = jax.jit(jax.vmap(lambda y0: pi.ode.odeint(linear, y0, T, A)))
    mates, others = solve(jnp.stack([Y0, 1e-3 + 0 * Y0])), solve(jnp.stack([Y0, 100 * Y0]))
    close(mates.value[0], others.value[0], rtol=1e-13, atol=1e-14)
    close(mates.value[0], exact(A, Y0), rtol=1e-4)
    steps, more = mates.stats["iterations"], others.stats["iterations"]
    assert steps[0] == more[0] and steps[1] != more[1]


def blow_up(t, y, p):
    del t
    return p * y**2  # y = 1/(1/y0 - p t)


def test_failure_is_reported():
    how: dict[str, Any] = dict(solver=diffrax.Heun(), adjoint=Direct(), max_steps=64)

    def end(p):  # past the pole
        t = jnp.array([0.0, 2.0])
        found = pi.ode.odeint(blow_up, 1.0, t, p, throw=False, **how)
        return found.value[-1], found.status

    slope, status = jax.jit(jax.grad(end, has_aux=True))(1.0)
    assert np.isnan(slope) and status != 0
    short = {**how, "max_steps": 3}
    run = jax.jit(lambda t: pi.ode.odeint(blow_up, 1.0, t, 1.0, **short).value)
    with pytest.raises(Exception, match=r"ode\.odeint: the largest number of steps"):
        jax.block_until_ready(run(jnp.array([0.0, 0.9])))


def falling(t, y, g):
    del t
    return {"height": y["speed"], "speed": -g}


def test_an_event_is_differentiable():
    """Thrown up from h at v: down at t = (v + √(v² + 2 g h))/g."""

    def landing(at, adjoint):
        h, v, g = at
        start = {"height": h, "speed": v}
        event = lambda t, y, g: y["height"]
        how: dict[str, Any] = dict(
            event=event, t_max=100.0, direction=False, adjoint=adjoint, **TIGHT
        )
        t, y = pi.ode.odeint_event(falling, start, 0.0, g, **how).value
        return jnp.stack([t, y["speed"], y["height"]])

    def formula(at):
        h, v, g = at
        root = jnp.sqrt(v * v + 2 * g * h)
        return jnp.stack([(v + root) / g, -root, 0.0 * h])

    at, t_at = jnp.array([7.0, 5.0, 9.81]), jnp.array([1.0, -2.0, 0.5])
    ct = jnp.array([10.0, 1.0, -3.0])
    forward = jax.jit(lambda at: jax.jvp(lambda a: landing(a, Direct()), (at,), (t_at,)))
    value, t_value = forward(at)
    close(value, formula(at))
    close(t_value, jax.jvp(formula, (at,), (t_at,))[1])
    reverse = jax.jit(jax.grad(lambda at: ct @ landing(at, pi.Unroll())))
    close(reverse(at), jax.grad(lambda at: ct @ formula(at))(at))


def test_an_event_that_does_not_occur_is_reported():
    never: dict[str, Any] = dict(event=lambda t, y, p: y - 5.0, t_max=0.5)

    def end(p):
        found = pi.ode.odeint_event(blow_up, 1.0, 0.0, p, throw=False, **never)
        return found.value[1], found

    slope, found = jax.jit(jax.grad(end, has_aux=True))(1.0)
    assert found.status == pi.Status.infeasible and np.isnan(slope)
    close(found.value[0], 0.5)
    with pytest.raises(Exception, match="did not occur"):
        pi.ode.odeint_event(blow_up, 1.0, 0.0, 1.0, **never)


def test_steady_states():
    """y' = θ - y rests at θ, with dy/dθ = 1."""
    rest = lambda θ: pi.ode.steady_state(lambda t, y, θ: θ - y, 0.0, θ).value
    value, slope = jax.jit(jax.value_and_grad(rest))(0.76)
    close(value, 0.76)
    close(slope, 1.0)


def test_the_steady_state_that_is_run_into():
    """y' = θ y - y³ has the unstable state 0 next to the guess, and runs to √θ."""
    field = lambda t, y, θ: θ * y - y**3
    close(pi.ode.steady_state(field, 0.01, 2.0).value, 0.0)
    runs = lambda θ: pi.ode.steady_state(field, 0.01, θ, march=20.0).value
    value, slope = jax.jit(jax.value_and_grad(runs))(2.0)
    close(value, np.sqrt(2.0))
    close(slope, 0.5 / np.sqrt(2.0))
    close(jax.jit(jax.grad(jax.grad(runs)))(2.0), -0.25 / 2**1.5)


@pytest.mark.julia
def test_a_julia_right_hand_side():
    """Both modes, against the same field in JAX."""
    pi.julia.include(Path(__file__).with_name("julia_functions.jl"))
    square = pi.julia.function("BridgeTests.square", jax.ShapeDtypeStruct((2,), "float64"))
    # square(x) = B x² for a known B, 2 x 3: a field for two of three unknowns.
    B = np.array([[1 + i + 2.0 * (1 + j) for j in range(3)] for i in range(2)])
    ours = lambda t, y, p: -p * jnp.append(square(y), jnp.sum(y)) / 10
    theirs = lambda t, y, p: -p * jnp.append(B @ y**2, jnp.sum(y)) / 10
    start = jnp.array([0.5, 0.2, 0.3])

    def derivatives(field):
        adjoint = pi.Unroll(steps=6)
        end = lambda y0, p: pi.ode.odeint(field, y0, T, p, adjoint=adjoint).value[-1]
        run = lambda y0, p: (
            jax.jvp(end, (y0, p), (Y0, 0.3)),
            jax.grad(lambda y0, p: Y0 @ end(y0, p), (0, 1))(y0, p),
        )
        return jax.tree.leaves(jax.jit(run)(start, 1.0))

    for a, b in zip(derivatives(ours), derivatives(theirs), strict=True):
        close(a, b)


@pytest.mark.parametrize("change, error, match", [
    (dict(t=T[:1]), ValueError, "two times"),
    (dict(t=T[jnp.array([0, 2, 1])]), ValueError, "increase"),
    (dict(vector_field=lambda t, y, p: y[:2]), ValueError, "look like y"),
    (dict(adjoint=pi.Implicit()), TypeError, "Backsolve"),
    (dict(max_steps=0), ValueError, "positive integer"),
    (dict(vector_field=3), TypeError, "function of"),
])  # fmt: skip
def test_bad_input_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        pi.ode.odeint(**{"vector_field": linear, "y0": Y0, "t": T, "params": A, **change})


def test_what_is_for_odes_is_refused_elsewhere():
    with pytest.raises(TypeError, match="differential equations only"):
        pi.root(lambda z, p: z - p, 1.0, 2.0, adjoint=Direct())
    with pytest.raises(TypeError, match="where it is zero"):
        bad: Any = 1
        pi.ode.odeint_event(linear, Y0, 0.0, A, event=bad, t_max=1.0)
