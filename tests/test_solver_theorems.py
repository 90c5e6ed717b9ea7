"""What is known of the solvers beyond their answers: theorems, updates, memory, rates."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.solvers.broyden import _direction

from .solver_problems import Circulant
from .test_linear_solve import sizes_in


# What Picard cannot do.
def test_an_expansive_map():
    """Spectral radius above 1: Picard says so; the others converge."""
    n = 50
    f = Circulant(n, {1: 1.6, 0: -0.9})
    assert np.abs(f.eigenvalues).max() > 2
    b = jnp.cos(jnp.arange(n) + 1.0) * 10
    zero = jnp.zeros(n)
    solve = lambda solver, **o: lambda b: pi.fixed_point(f, zero, b, solver=solver, **o)
    lost = solve(pi.Picard(), max_steps=60, throw=False)
    total = lambda b: (jnp.sum(lost(b).value), lost(b).status)
    (_, status), g = jax.jit(jax.value_and_grad(total, has_aux=True))(b)
    assert status == pi.Status.max_steps_reached
    assert np.all(np.isnan(g))
    with pytest.raises(jax.errors.JaxRuntimeError, match="largest number of steps"):
        np.asarray(solve(pi.Picard(), max_steps=60)(b).value)
    for solver, steps in (
        (pi.Anderson(memory=n), n + 3),
        (pi.Broyden(memory=2 * n), 2 * n + 3),
        (pi.Broyden(memory=2 * n, good=False), 2 * n + 3),
    ):
        found = solve(solver)(b)
        np.testing.assert_allclose(found.value, f.exact(b), rtol=1e-8, atol=1e-8)
        assert found.stats["iterations"] <= steps, solver


# The theorems.
def iterates(solver, fn, z0, steps):
    """z0 and the points that follow."""
    given = lambda z, params: (fn(z), None)
    struct = jax.eval_shape(fn, z0)
    init = lambda z: solver.init(given, z, None, {}, struct, None, frozenset())
    step = lambda z, state: solver.step(given, z, None, {}, state, frozenset())[:2]
    state, step = eqx.filter_jit(init)(z0), eqx.filter_jit(step)
    points = [z0]
    for _ in range(steps):
        z, state = step(points[-1], state)
        points.append(z)
    return np.array(points)


def test_anderson_with_full_memory_is_gmres():
    """Walker, Ni 2011, Theorem 2.2: its iterates are f(GMRES's), the first one shifted."""
    n = 6
    W = np.random.default_rng(1).normal(size=(n, n))
    b = np.arange(1.0, n + 1)
    found = iterates(pi.Anderson(memory=n), lambda z: W @ z + b, jnp.zeros(n), n + 1)
    A, krylov = np.eye(n) - W, [b]
    for k in range(n + 1):
        if k == 0:
            x = np.zeros(n)
        else:
            basis = np.linalg.qr(np.array(krylov[:k]).T)[0]
            x = basis @ np.linalg.lstsq(A @ basis, b)[0]
            krylov.append(A @ krylov[-1])
        np.testing.assert_allclose(found[k + 1], W @ x + b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[-1], np.linalg.solve(A, b), rtol=1e-8)


def test_damping():
    f = lambda z: jnp.cos(z) + jnp.array([0.0, 3.0])
    z0 = jnp.array([1.0, -2.0])
    expected = [z0]
    for _ in range(3):
        expected.append(0.7 * expected[-1] + 0.3 * f(expected[-1]))
    for solver in (pi.Picard(damping=0.3), pi.Anderson(damping=0.3, start=9)):
        np.testing.assert_allclose(iterates(solver, f, z0, 3), expected, rtol=1e-14)
    # With mixing, β weighs what is left of the residual: none of it in one dimension more.
    A = jnp.array([[0.5, 0.8], [-0.6, 0.7]])
    line = lambda z: A @ z + 1.0
    found = iterates(pi.Anderson(damping=0.4), line, jnp.zeros(2), 4)[-1]
    np.testing.assert_allclose(found, jnp.linalg.solve(jnp.eye(2) - A, jnp.ones(2)))


def test_chord_is_linear_and_newton_quadratic():
    F = lambda z: z**2 - 2.0
    errors = lambda solver, k: iterates(solver, F, jnp.array([1.6]), k)[:, 0] - 2**0.5
    e = errors(pi.Chord(), 9)
    np.testing.assert_allclose(e[-1] / e[-2], 1 - 2**0.5 / 1.6, rtol=1e-3)
    e = errors(pi.Newton(), 3)
    np.testing.assert_allclose(e[-1] / e[-2] ** 2, 1 / (2 * 2**0.5), rtol=1e-3)


def broyden_state(solver, n):
    struct = jax.ShapeDtypeStruct((n,), float)
    fn = lambda z, _: (z, None)
    return solver.init(fn, jnp.zeros(n), None, {}, struct, None, frozenset())


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_broyden_is_the_update_with_the_last_pairs(good):
    """Also when the ring of pairs has gone round: the compact form against rank-one updates
    of a dense inverse, from the definitions."""
    m, n, rng = 4, 7, np.random.default_rng(0)
    pairs = rng.normal(size=(6, 2, n))
    p = rng.normal(size=n)
    H = np.eye(n)
    for s, q in pairs[-m:]:
        u = s @ H if good else q
        H = H + np.outer(s - H @ q, u) / (u @ q)
        np.testing.assert_allclose(H @ q, s)
    solver = pi.Broyden(memory=m, good=good)
    state, remembered = broyden_state(solver, n), eqx.filter_jit(solver._remembered)
    for s, q in pairs:
        new = remembered(state, s, q, jnp.array(True))
        where = lambda k: (k.S, k.Q, k.LL, k.LQ, k.age, k.steps)
        state = eqx.tree_at(where, state, new)
    S, Q, LL, LQ, age, _ = new
    d = _direction(S, Q, S if good else Q, LL, LQ, age, jnp.array(p))
    np.testing.assert_allclose(d, -H @ p, rtol=1e-9)


def test_broyden_keeps_what_it_says():
    n, m = 1000, 7
    state = broyden_state(pi.Broyden(memory=m), n)
    size = sum(a.nbytes for a in jax.tree.leaves(state) if eqx.is_array(a))
    assert 16 * m * n < size < 16 * m * n + 8 * (5 * n + 4 * m * m)


def test_broyden_is_not_deceived():
    """Small corrections of a wrong model, far away or with a singular Jacobian, are no
    convergence."""
    flat = lambda z, p: jnp.arctan(z)  # runs away, where |z| makes every step a small one
    found = pi.root(flat, 3.0, solver=pi.Broyden(), throw=False)
    assert found.status != pi.Status.converged
    narrow = lambda z, p: jnp.stack(  # Powell 1970, badly scaled
        [1e4 * z[0] * z[1] - 1, jnp.exp(-z[0]) + jnp.exp(-z[1]) - 1.0001]
    )
    start = jnp.array([0.0, 1.0])
    found = pi.root(narrow, start, solver=pi.Broyden(safeguard=2.0), throw=False)
    assert found.status != pi.Status.converged or found.stats["residual"] < 1e-6
    found = pi.root(narrow, start, solver=pi.Broyden(jacobian=pi.Dense()))
    np.testing.assert_allclose(found.value, [1.09815933e-05, 9.10614674], rtol=1e-7)


def test_an_infinite_or_singular_jacobian_is_no_convergence():
    cases = [lambda z: jnp.sqrt(z) - 1, lambda z: z * z - 1]
    fn = lambda z, which: jax.lax.switch(which, cases, z)
    for solver in (
        pi.Newton(),
        pi.Chord(),
        pi.NewtonKrylov(),
        pi.Broyden(jacobian=pi.Dense()),
    ):
        solve = lambda which, s=solver: (
            pi.root(fn, 0.0, which, solver=s, throw=False).status
        )
        assert solve(jnp.array(0)) == pi.Status.nonfinite
        krylov = isinstance(solver, pi.NewtonKrylov)
        expected = pi.Status.inaccurate if krylov else pi.Status.singular
        assert solve(jnp.array(1)) == expected


def test_newton_krylov_uses_its_preconditioner():
    n = 40
    d = 10.0 ** jnp.linspace(0, 6, n)
    fn = lambda z, p: d * z + jnp.sin(z) - p
    p = fn(jnp.ones(n), 0.0)
    inverse = lambda z, p: lx.DiagonalLinearOperator(1 / (d + jnp.cos(z)))
    solver = pi.NewtonKrylov(preconditioner=inverse, restart=2, max_products=4)
    found = pi.root(fn, jnp.zeros(n), p, solver=solver)  # four products at condition 10⁶
    np.testing.assert_allclose(found.value, 1.0, rtol=1e-9)
    assert found.stats["iterations"] <= 6


@pytest.mark.parametrize("solver", [pi.NewtonKrylov(), pi.Newton(line_search=True)])
def test_line_search(solver):
    """From where a full step makes it worse: arctan, beyond the pole of 1/z, and to where
    the logarithm is NaN."""
    cases = [lambda z: jnp.arctan(z - 3.0), lambda z: 1 / z - 1 / 3.0]
    cases.append(lambda z: jnp.log(z - 2.0))
    fn = lambda z, which: jax.lax.switch(which, cases, z)
    for which in range(3):
        found = pi.root(fn, 8.0, jnp.array(which), solver=solver)
        np.testing.assert_allclose(found.value, 3.0, rtol=1e-9)


@pytest.mark.parametrize("solver", [pi.Broyden(), pi.NewtonKrylov()])
def test_unrolled(solver):
    """The iteration is differentiated, not the condition: the same at the solution."""
    A = jnp.array([[3.0, 1.0], [-2.0, 4.0]])
    fn = lambda z, p: A @ z + 0.1 * z**3 - p
    how: Any = dict(solver=solver, adjoint=pi.Unroll(), max_steps=16)
    value = lambda p: pi.root(fn, jnp.zeros(2), p, **how).value
    p = jnp.array([5.0, -7.0])
    w = jnp.array([1.0, 10.0])
    if isinstance(solver, pi.NewtonKrylov):
        z, pullback = jax.vjp(jax.jit(value), p)
        derivative, expected = pullback(w)[0], lambda J: jnp.linalg.solve(J.T, w)
    else:
        z, derivative = jax.jvp(jax.jit(value), (p,), (w,))
        expected = lambda J: jnp.linalg.solve(J, w)
    J = A + jnp.diag(0.3 * z**2)
    np.testing.assert_allclose(derivative, expected(J), rtol=1e-6)


# Many unknowns.
LARGE = 5000
RING = Circulant(LARGE, {1: 0.45, -3: 0.25, 7: -0.15})


def ring(z, b):
    return RING(z, b) - 0.1 * z**3


def ring_energy(z, p):
    return (
        0.5 * jnp.sum(z**2)
        + 0.3 * jnp.sum(z * jnp.roll(z, 3))
        + 0.1 * jnp.sum(z**4)
        - p @ z
    )


MANY = {
    "anderson": pi.Anderson(),
    "broyden": pi.Broyden(),
    "chord": pi.Chord(),
    "newton_krylov": pi.NewtonKrylov(),
}
MANY_MINIMISERS = {
    "proximal": pi.ProximalGradient(prox=lambda v, p, s: v),
    "gauss_newton": pi.GaussNewton(),
}


@pytest.mark.parametrize("name", MANY | MANY_MINIMISERS)
def test_5000_unknowns_without_a_matrix(name):
    z = jnp.sin(jnp.arange(LARGE) + 1.0)
    zero = jnp.zeros(LARGE)
    if name == "gauss_newton":
        p = z - ring(z, 0.0)
        residual = lambda z, p: z - ring(z, 0.0) - p
        solve = lambda p: pi.least_squares(
            residual, zero, p, solver=pi.GaussNewton(), adjoint=pi.Unroll(), max_steps=20
        )
    elif name in MANY:
        p = z - ring(z, 0.0)
        solve = lambda p: pi.fixed_point(ring, zero, p, solver=MANY[name])
    else:
        p = jax.grad(ring_energy)(z, zero)
        solve = lambda p: pi.minimize(ring_energy, zero, p, solver=MANY_MINIMISERS[name])
    program = jax.jit(solve).trace(p)
    assert max(sizes_in(program.jaxpr.jaxpr)) <= 60 * LARGE  # 51 vectors of GMRES
    found = program.lower().compile()(p)
    assert found.status == pi.Status.converged
    error = jnp.linalg.norm(found.value - z) / jnp.linalg.norm(z)
    assert error < 1e-8
