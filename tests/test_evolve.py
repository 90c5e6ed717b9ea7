"""Problems in time: rates of the schemes, exact solutions, discrete derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from pyimplicit import fem, taylor_test
from pyimplicit.fem import (
    BDF2,
    SDIRK2,
    SDIRK3,
    BackwardEuler,
    CrankNicolson,
    FunctionSpace,
    Mesh,
    Problem,
    evolve,
    models,
)
from pyimplicit.fem.schemes import Scheme


close = lambda a, b, tol=1e-10: np.testing.assert_allclose(a, b, rtol=tol, atol=tol)
SCHEMES = [BackwardEuler(), CrankNicolson(), BDF2(), SDIRK2(), SDIRK3()]
LINE = FunctionSpace(Mesh.interval(8))
ENDS = {"left": 0.0, "right": 0.0}
heat = models.heat(LINE, ENDS)


def modes(V, dirichlet):
    """λ and the modes of K u = λ M u, with zeros on the boundary."""
    problem = models.poisson(V, dirichlet)
    mass = Problem(V, lambda u, v, w: u * v, dirichlet, structure="spd")
    both = problem.matrix({"kappa": 1.0}), mass.matrix()
    K, M = (np.asarray(pattern.todense(a)) for a, pattern in both)
    values, free = scipy.linalg.eigh(K, M)
    vectors = np.zeros((V.n_dofs, len(values)))
    vectors[problem._condensed.free] = free
    return values, vectors


@pytest.mark.parametrize("method", SCHEMES, ids=lambda m: type(m).__name__)
def test_rates(method):
    """Against e^{-λt} with λ of the discrete operator, so that space has no error."""
    values, vectors = modes(LINE, ENDS)
    which, end = 2, 0.06

    def error(n):
        t = jnp.linspace(0.0, end, n + 1)
        u = evolve(heat, vectors[:, which], t, {"kappa": 1.0}, method=method, save="last")
        return jnp.abs(u - vectors[:, which] * np.exp(-values[which] * end)).max()

    coarse, fine = jax.jit(lambda: (error(24), error(48)))()
    assert abs(np.log2(coarse / fine) - method.order) < 0.2


@pytest.mark.parametrize("method", SCHEMES, ids=lambda m: type(m).__name__)
def test_exact_in_time_and_space(method):
    """u = (1 + x² + y²)(1 + 2t): source, boundary and steps change with t."""
    V = FunctionSpace(Mesh.rectangle(2, 1), "P2")
    exact = lambda x, t: (1 + x @ x) * (1 + 2 * t)
    problem = models.heat(V, {"boundary": 0.0}, source="f", density="rho")
    f = lambda t: lambda x: 3 * 2 * (1 + x @ x) - 4 * 0.5 * (1 + 2 * t)
    t = np.array([0.0, 0.1, 0.2, 0.25, 0.7])
    u = jax.jit(
        lambda: evolve(
            problem,
            lambda x: exact(x, 0.0),
            t,
            lambda t: {"kappa": 0.5, "f": f(t), "rho": 3.0},
            dirichlet=lambda t: {"boundary": lambda x: exact(x, t)},
            method=method,
        )
    )()
    assert u.shape == (5, V.n_dofs)
    close(u, [[exact(x, s) for x in V.dof_points] for s in t])


# --- derivatives ------------------------------------------------------------------------

rng = np.random.default_rng(0)
THETA = {
    "u0": jnp.asarray(rng.normal(size=LINE.n_dofs)),
    "kappa": jnp.asarray(rng.uniform(0.5, 2.0, LINE.mesh.n_points)),
    "f": jnp.array([1.0, -2.0]),
    "g": jnp.array(0.7),
    "end": jnp.array(0.3),
}


def heated(theta, method: Scheme = BackwardEuler(), **options):
    """Source and boundary values that change, and a last time, all differentiated."""
    problem = models.heat(LINE, {"left": 0.0}, source="f", neumann={"right": 0.3})
    a, b = theta["f"]
    coefficients = lambda t: {
        "kappa": fem.nodal(theta["kappa"]),
        "f": lambda x: jnp.sin(a * t + b * x[0]),
    }
    boundary = lambda t: {"left": theta["g"] * jnp.cos(t)}
    t = jnp.linspace(0.0, 1.0, 7) ** 2 * theta["end"]
    return evolve(
        problem, theta["u0"], t, coefficients, dirichlet=boundary, method=method, **options
    )


def products(fn, theta, seed=1):
    """Value, tangent, a cotangent's product with it in both modes, and H v of a loss."""
    random = lambda a: jnp.asarray(np.random.default_rng(seed).normal(size=a.shape))
    t_theta = jax.tree.map(random, theta)
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)))
    value, t_u = jax.jvp(fn, (theta,), (t_theta,))
    ct = jax.tree.map(random, value)
    gradient = jax.grad(lambda theta: dot(ct, jax.tree.map(jnp.sin, fn(theta))))
    first, second = jax.jvp(gradient, (theta,), (t_theta,))
    slope = jax.tree.map(lambda c, u: c * jnp.cos(u), ct, value)
    return value, t_u, (dot(slope, t_u), dot(first, t_theta)), first, second


@functools.cache
def program(checkpoints):
    """`products` of all values, times their times; compiled once for two tests."""
    options = {"checkpoints": checkpoints, "save": lambda t, u: t * u}
    path = lambda theta: heated(theta, BDF2(), **options)
    return jax.jit(lambda theta: products(path, theta))


def test_derivatives(tol=1e-6, h=1e-5):
    """Against central differences, and the two modes against each other. Those of other
    schemes: in test_evolve_cases.py and below."""
    found, theta = program(None), THETA
    _, t_u, pairing, _, second = found(theta)
    np.testing.assert_allclose(*pairing, rtol=1e-10)
    random = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape))
    t_theta = jax.tree.map(random, theta)
    move = lambda h: found(jax.tree.map(lambda a, t: a + h * t, theta, t_theta))
    ahead, behind = move(h), move(-h)
    difference = lambda i: jax.tree.map(lambda a, b: (a - b) / (2 * h), ahead[i], behind[i])
    size = lambda tree: max(float(abs(a).max()) for a in jax.tree.leaves(tree))
    for exact, near in ((t_u, difference(0)), (second, difference(3))):
        scale = size(exact)
        assert scale > 1e-3
        for a, b in zip(*map(jax.tree.leaves, (exact, near)), strict=True):
            close(a / scale, b / scale, tol)


# --- checkpoints ------------------------------------------------------------------------


def test_binomial_plan():
    """The factors of 1000 steps that Griewank and Walther's bound gives (and spyro saw)."""
    factors = [fem.checkpoint_plan(1000, s).recompute_factor for s in (5, 10, 20, 40, 60)]
    close(factors, [7.28, 4.62, 3.74, 3.09, 2.94], 6e-3)
    plan = fem.checkpoint_plan(7, 3, state_bytes=80)
    assert plan.bytes == 240 and fem.checkpoint_plan(9, 99).recompute_factor == 2.0
    reversed_ = [b + m for _, b, m, to in plan.moves if to < 0]
    assert reversed_ == list(reversed(range(7)))
    with pytest.raises(ValueError, match="positive whole number"):
        fem.checkpoint_plan(10, 0)


def test_checkpoints_change_nothing():
    """Value, gradient, tangent and H v with few states, step by step, are those with all,
    in one call."""
    few, all_ = program(2)(THETA), program(None)(THETA)
    for a, b in zip(*map(jax.tree.leaves, (few, all_)), strict=True):
        close(a, b, 1e-11)


BAD = {
    "rise": dict(t=[0.0, 2.0, 1.0]),
    "at least two times": dict(t=[0.0]),
    "stepping scheme": dict(method="BDF2"),
    "'all', 'last'": dict(save="some"),
    "must have shape": dict(u0=jnp.zeros(3)),
    "positive whole number": dict(checkpoints=0),
    "does not read": dict(coefficients={"kappa": 1.0, "f": 1.0}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_inputs(message):
    given = dict(u0=0.0, t=[0.0, 1.0], coefficients={"kappa": 1.0}) | BAD[message]
    problem = Problem(LINE, lambda u, v, w: w.kappa * fem.dot(fem.grad(u), fem.grad(v)))
    u0, t, coefficients = (given.pop(n) for n in ("u0", "t", "coefficients"))
    with pytest.raises((ValueError, TypeError), match=message):
        evolve(problem, u0, jnp.array(t), coefficients, **given)


def test_wave_keeps_its_energy():
    """The trapezoidal rule, over a thousand steps."""
    problem = models.wave(LINE, ENDS, density="rho")
    mass = Problem(LINE, lambda u, v, w: 2 * u * v, ENDS, structure="spd")
    M, pattern = mass.matrix()
    K, _ = models.poisson(LINE, ENDS).matrix({"kappa": 3.0})
    free = problem._condensed.free
    u0, v0 = np.sin(np.pi * LINE.dof_points[:, 0]), rng.normal(size=LINE.n_dofs)
    v0[[0, -1]] = 0.0

    def energy(t, state):
        u, v = (a[free] for a in state)
        return (v @ pattern.matvec(M, v) + u @ pattern.matvec(K, u)) / 2

    coefficients = {"kappa": 3.0, "rho": 2.0}
    t = jnp.linspace(0.0, 20.0, 1001)
    energies = jax.jit(
        lambda: evolve(
            problem, u0, t, coefficients,
            velocity=v0, method=CrankNicolson(), save=energy,
        )
    )()  # fmt: skip
    assert energies.shape == (1001,) and energies[0] > 1
    close(energies / energies[0], 1.0, 1e-10)


def test_nonlinear():
    """u = x (1 + t), exact in time: κ(u) = 1 + u², and Newton's steps are reported."""
    problem = models.nonlinear_diffusion(LINE, {"left": 0.0, "right": 1.0})
    # u' - (κ(u) u_x)_x = x - 2 u u_x² = x - 2 x (1 + t)³
    source = lambda t: lambda x: x[0] - 2 * x[0] * (1 + t) ** 3
    found = jax.jit(
        lambda: evolve(
            problem, lambda x: x[0], jnp.linspace(0.0, 0.5, 5),
            lambda t: {"kappa": fem.law(lambda u: 1 + u**2), "f": source(t)},
            dirichlet=lambda t: {"right": 1 + t}, throw=False,
        )
    )()  # fmt: skip
    close(found.value[-1], 1.5 * LINE.dof_points[:, 0], 1e-9)
    assert (found.status == 0).all() and (found.stats["iterations"] > 0).all()


@pytest.mark.parametrize(
    "method", [CrankNicolson(), BDF2(), SDIRK3()], ids=lambda m: type(m).__name__
)
def test_rates_of_nonlinear_problems(method):
    """u' = -u³, the same everywhere: u = 1/√(1/u₀² + 2t), and its derivative in u₀. (Other
    schemes: Burgers' equation below, and two fronts in test_evolve_cases.py.)"""
    V = FunctionSpace(Mesh.interval(1))
    problem = models.reaction_diffusion(V)
    given = {"kappa": 1.0, "f": 0.0, "reaction": fem.law(lambda u: u**3)}
    exact = jax.value_and_grad(lambda u0: 1 / jnp.sqrt(1 / u0**2 + 2 * 0.3))

    def error(n):
        def last(u0):
            t = jnp.linspace(0.0, 0.3, n + 1)
            return evolve(problem, u0, t, given, method=method, save="last")[0]

        return jnp.abs(jnp.stack(jax.value_and_grad(last)(1.2)) - jnp.stack(exact(1.2)))

    coarse, fine = jax.jit(lambda: (error(12), error(24)))()
    assert (abs(np.log2(coarse / fine) - method.order) < 0.15).all()


def test_a_mode_by_crank_and_nicolson():
    """The march multiplies a mode by ((1 - hκλ/2)/(1 + hκλ/2))ⁿ: so its value, gradient
    and second derivatives in κ and the last time are known."""
    values, vectors = modes(LINE, ENDS)
    lam, mode, n = values[1], vectors[:, 1], 6

    def amplitude(theta):
        t = jnp.linspace(0.0, theta[1], n + 1)
        given = {"kappa": theta[0]}
        u = evolve(heat, mode, t, given, method=CrankNicolson(), save="last")
        return u @ mode / (mode @ mode)

    def closed(theta):
        x = theta[0] * theta[1] / n * lam / 2
        return ((1 - x) / (1 + x)) ** n

    def all_of(f):
        slope = jax.grad(f)
        return jax.jit(lambda theta: (f(theta), *jax.jvp(slope, (theta,), (theta,))))

    theta = jnp.array([1.3, 0.05])
    for found, want in zip(all_of(amplitude)(theta), all_of(closed)(theta), strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-9)


def test_a_transposed_march_that_fails(engine):
    """A cotangent that is not finite: the forward march is right, the transposed one
    raises (at the last step, its first), or is NaN."""
    start, t = jnp.sin(np.pi * LINE.dof_points[:, 0]), jnp.linspace(0.0, 1.0, 4)

    def pulled(bad, throw):
        run = lambda k: evolve(heat, start, t, {"kappa": k}, save="last", throw=throw)
        value, back = jax.vjp(lambda k: run(k) if throw else run(k).value, 1.0)
        return value, back(jnp.full(LINE.n_dofs, 1.0).at[3].set(bad))[0]

    compiled = jax.jit(pulled, static_argnums=1)
    assert np.isfinite(compiled(1.0, True)[1])
    value, gradient = compiled(np.nan, False)
    assert np.isfinite(value).all() and np.isnan(gradient)
    with pytest.raises(Exception, match=r"NaN or infinity.*transposed solve 3 of 3"):
        jax.block_until_ready(compiled(np.nan, True))


def test_burgers_with_checkpoints():
    """A Taylor test of the initial state's gradient through Newton's steps, with 3 states;
    and memory that does not grow with the steps."""
    V = FunctionSpace(Mesh.interval(10), "P2")
    problem = models.burgers(V, ENDS)
    start = jnp.sin(2 * jnp.pi * V.dof_points[:, 0])

    def loss(u0, checkpoints, n=6):
        t = jnp.linspace(0.0, 0.2, n + 1)
        u = evolve(
            problem, u0, t, {"nu": 0.05, "f": 0.0}, checkpoints=checkpoints, save="last"
        )
        return jnp.sum(u**2)

    compiled = lambda n: jax.jit(jax.grad(lambda u0: loss(u0, 3, n))).lower(start).compile()
    few, many = compiled(6), compiled(96)
    size = lambda program: program.memory_analysis().temp_size_in_bytes
    assert size(many) - size(few) < 90 * V.size * 8 / 4  # of what 90 states take
    report = taylor_test(lambda u0: loss(u0, 3), start, order=1)
    assert report.passed


def test_batches_and_failures():
    """A sample whose matrix is not definite fails alone, from its first step on."""
    kappa = jnp.array([1.0, -5.0, 2.0])
    t = jnp.linspace(0.0, 1.0, 4)
    start = jnp.sin(np.pi * LINE.dof_points[:, 0])
    solve = lambda k: evolve(heat, start, t, {"kappa": k}, throw=False)
    many, alone = jax.jit(jax.vmap(solve))(kappa), jax.jit(solve)(2.0)
    close(many.value[2], alone.value)
    assert (many.status[0] == 0).all() and (many.status[1] != 0).all()
    assert np.isnan(many.value[1, 1:, 1:-1]).all() and np.isfinite(many.value[0]).all()


def test_advection_with_coefficients_that_are_closed_over(engine):
    """Not symmetric, and a parameter that only functions of x hold; both engines."""
    V = fem.FunctionSpace(fem.Mesh.rectangle(4, 4), "P1")

    def form(u, v, w):
        slope = fem.grad(u)
        return w.nu * fem.dot(slope, fem.grad(v)) + fem.dot(w.wind, slope) * v

    problem = fem.Problem(V, form, {"left": 1.0})
    t = jnp.linspace(0.0, 0.1, 4)

    def loss(nu, checkpoints=None):
        given = {"nu": nu, "wind": lambda x: jnp.array([30.0, 10.0 * nu])}
        options = {"method": SDIRK3(), "checkpoints": checkpoints, "save": "last"}
        return jnp.sum(jnp.sin(fem.evolve(problem, 0.0, t, given, **options)))

    f = jax.jit(loss)
    difference = (f(0.3 + 1e-5) - f(0.3 - 1e-5)) / 2e-5
    for checkpoints in (None, 2):
        slope = jax.jit(jax.grad(functools.partial(loss, checkpoints=checkpoints)))(0.3)
        np.testing.assert_allclose(slope, difference, rtol=1e-6)
