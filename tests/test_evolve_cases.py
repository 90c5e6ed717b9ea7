"""Problems in time that the literature and the peers have: answers that are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import fem, inverse
from pyimplicit.fem import (
    BDF2,
    SDIRK2,
    SDIRK3,
    BackwardEuler,
    CrankNicolson,
    FunctionSpace,
    Mesh,
    evolve,
    models,
)


close = lambda a, b, tol: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


def test_the_initial_state_of_the_heat_equation():
    """dolfin-adjoint's example: found again from the temperatures after it."""
    V = FunctionSpace(Mesh.rectangle(8, 8))
    heat = models.heat(V, {"boundary": 0.0})
    x, y = V.dof_points.T
    sine = lambda k, x: np.sin(k * np.pi * x)
    truth = sine(1, x) * sine(2, y) + sine(2, x) * sine(1, y) / 2
    inside = (abs(V.dof_points - 0.5) < 0.5 - 1e-9).all(axis=1)
    t = jnp.linspace(0.0, 0.02, 11)

    def later(u0):
        start = inside * u0  # the values on the boundary are known
        return evolve(heat, start, t, {"kappa": 1.0}, method=CrankNicolson())[1:]

    data = jax.jit(later)(truth)
    result = inverse.fit(
        lambda u0: 0.5 * jnp.sum((later(u0) - data) ** 2),
        jnp.zeros(V.shape),
        method="newton-cg",
        inner_product=inverse.H1Prior(V, 1.0, 1.0),
        rtol=1e-8,
        progress=False,
    )
    assert result.steps <= 6
    np.testing.assert_allclose(inside * result.m, truth, atol=1e-5)


def test_heat_that_fades():
    """AdFem's u = (x² + y²) e^-t: exact in space for P2, so the rate is that in time."""
    V = FunctionSpace(Mesh.rectangle(2, 2), "P2")
    problem = models.heat(V, {"boundary": 0.0}, source="f")
    exact = lambda x, t: (x @ x) * jnp.exp(-t)
    given = lambda t: {"kappa": 1.0, "f": lambda x: -exact(x, t) - 4 * jnp.exp(-t)}
    sides = lambda t: {"boundary": lambda x: exact(x, t)}

    def error(n):
        u = evolve(
            problem, lambda x: exact(x, 0.0), jnp.linspace(0.0, 1.0, n + 1), given,
            dirichlet=sides, method=CrankNicolson(), save="last",
        )  # fmt: skip
        off = u - jax.vmap(lambda x: exact(x, 1.0))(V.dof_points)
        return jnp.linalg.norm(off) / np.sqrt(V.size)

    coarse, fine = jax.jit(lambda: (error(8), error(16)))()
    assert fine < 1e-4 and abs(np.log2(coarse / fine) - 2) < 0.1


def test_a_front_of_reaction_and_diffusion():
    """Nagumo's u' = u_xx + u(1-u)(u-a), whose front 1/(1 + exp((x - ct)/√2)) runs at
    c = (1-2a)/√2; the derivative in a moves it by -t dc/da u_x = √2 t u_x."""
    V = FunctionSpace(Mesh.interval(40, 16.0, origin=-8.0), "P2")
    problem = models.reaction_diffusion(V, {"boundary": 0.0})
    front = lambda z: jax.nn.sigmoid(-z / np.sqrt(2))
    exact = lambda x, t, a: front(x - (1 - 2 * a) / np.sqrt(2) * t)
    x = V.dof_points[:, 0]

    def run(a):
        law = fem.law(lambda u: -u * (1 - u) * (u - a))
        sides = lambda t: {"boundary": lambda x: exact(x[0], t, a)}
        t = jnp.linspace(0.0, 4.0, 33)
        given = {"kappa": 1.0, "f": 0.0, "reaction": law}
        return evolve(
            problem, front(x), t, given, dirichlet=sides, method=SDIRK2(), save="last"
        )

    u, t_u = jax.jit(lambda a: jax.jvp(run, (a,), (1.0,)))(0.25)
    want, t_want = jax.jvp(lambda a: exact(x, 4.0, a), (0.25,), (1.0,))
    close(u, want, 1e-3)
    close(t_u, t_want, 5e-3)
    assert abs(t_want).max() > 0.5


def test_a_string_and_its_speed():
    """u = sin πx cos πct with c² = κ, and its derivative in κ."""
    V = FunctionSpace(Mesh.interval(12), "P2")
    problem = models.wave(V, {"boundary": 0.0})
    x, end = V.dof_points[:, 0], 0.8
    t = jnp.linspace(0.0, end, 201)

    def run(kappa):
        return evolve(
            problem, np.sin(np.pi * x), t, {"kappa": kappa}, velocity=0.0,
            method=CrankNicolson(), save="last",
        )  # fmt: skip

    (u, v), (t_u, _) = jax.jit(lambda k: jax.jvp(run, (k,), (1.0,)))(4.0)
    phase = np.pi * 2.0 * end
    close(u, np.sin(np.pi * x) * np.cos(phase), 2e-3)
    close(v, -np.sin(np.pi * x) * np.sin(phase) * np.pi * 2.0, 1e-2)
    close(t_u, -np.sin(np.pi * x) * np.sin(phase) * np.pi * end / 4, 2e-3)


def test_a_front_of_burgers_thinner_than_a_cell():
    """From 1 to 0 it runs at 1/2, and ∫u grows so. Upwind it is two cells wide, and hardly
    overshoots; plain Galerkin oscillates everywhere."""
    V = FunctionSpace(Mesh.interval(40))
    x = V.dof_points[:, 0]
    t = jnp.linspace(0.0, 0.6, 31)

    def run(stabilise):
        sides = {"left": 1.0, "right": 0.0}
        problem = models.burgers(V, sides, stabilise=stabilise)
        start = jnp.where(x < 0.25, 1.0, 0.0)
        return evolve(problem, start, t, {"nu": 1e-4, "f": 0.0}, method=SDIRK2())

    plain, upwind = jax.jit(lambda: (run(False), run(True)))()
    area = np.trapezoid(upwind, x, axis=1)
    close(area - area[0], t / 2, 1e-8)
    variation = lambda u: np.abs(np.diff(u)).sum()
    assert variation(plain[-1]) > 10 and variation(upwind[-1]) < 1.3


@pytest.mark.parametrize(
    "method, matrices",
    [(BackwardEuler(), 2), (CrankNicolson(), 2), (BDF2(), 4), (SDIRK3(), 2)],
    ids=lambda m: type(m).__name__,
)
def test_one_factorisation_for_each_length_of_step(engine, method, matrices):
    """Forwards and backwards; BDF2 has another matrix where the length changes."""
    V = FunctionSpace(Mesh.rectangle(3, 3))
    problem = models.heat(V, {"left": 0.0}, source="f")
    t = jnp.concatenate([jnp.linspace(0.0, 1.0, 9), jnp.linspace(1.25, 2.0, 4)])

    def loss(kappa):
        u = evolve(problem, 1.0, t, {"kappa": kappa, "f": 1.0}, method=method)
        return jnp.sum(u**2)

    run = jax.jit(jax.value_and_grad(loss))
    pi.engine.clear()
    jax.block_until_ready(run(jnp.linspace(1.0, 2.0, V.mesh.n_cells)))
    found = pi.engine.counters()
    assert found["factorisations"] == matrices
    assert found["solves"] == 2 * 12 * method.n_stages


# --- all steps in one call --------------------------------------------------------------

LINE = FunctionSpace(Mesh.interval(5))
rng = np.random.default_rng(3)
THETA = {
    "a": jnp.array(2.0),
    "end": jnp.array(1.5),
    "kappa": jnp.asarray(rng.uniform(1, 2, 5)),
    "u0": jnp.asarray(rng.normal(size=6)),
}


def moving(theta, method, order):
    """Everything changes in time, and the start does not match the given values."""
    model = models.heat if order == 1 else models.wave
    problem = model(LINE, {"left": 0.0}, source="f", density="rho")
    a, u0 = theta["a"], theta["u0"]
    force = lambda t: lambda x: jnp.sin(a * t + x[0])
    given = lambda t: {"kappa": theta["kappa"], "rho": 2.0, "f": force(t)}
    t = jnp.array([0.0, 0.1, 0.2, 0.25, 0.4]) * theta["end"]
    return evolve(
        problem, u0, t, given, dirichlet=lambda t: {"left": a * t},
        velocity=u0**2 if order == 2 else None, method=method,
    )  # fmt: skip


def everything(method, order):
    """Values, tangents, and the gradient of a loss."""
    path = lambda theta: moving(theta, method, order)
    loss = lambda theta: sum(jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(path(theta)))
    tangent = jax.tree.map(lambda a: jnp.cos(3 * a), THETA)
    both = lambda theta: (jax.jvp(path, (theta,), (tangent,)), jax.grad(loss)(theta))
    return jax.jit(both)(THETA)


@functools.cache
def step_by_step(method, order):
    with pytest.MonkeyPatch.context() as patch, pi.engine.use("host"):
        patch.setattr("pyimplicit.fem.linear_march.LARGEST", 0)
        return everything(method, order)


@pytest.mark.parametrize("method, order", [(BDF2(), 1), (SDIRK3(), 1), (SDIRK2(), 2)])
def test_one_call_for_all_steps(engine, method, order):
    """The same numbers as from the loop over the steps."""
    want = step_by_step(method, order)
    pi.engine.clear()
    found = everything(method, order)
    for a, b in zip(*map(jax.tree.leaves, (found, want)), strict=True):
        close(a, b, 1e-12 * max(1.0, np.abs(b).max()))
