"""How a layer is differentiated: each adjoint against what it claims to compute."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import pyimplicit as pi


RNG = np.random.default_rng(3)
N = 4
W = RNG.normal(size=(N, N))
W = jnp.array(0.6 * W / np.abs(np.linalg.eigvals(W)).max())  # not symmetric
B = jnp.array([3.0, -20.0, 0.5, 7.0])
C = jnp.array([1.0, -2.0, 30.0, 4.0])  # the cotangent
EXACT = jnp.linalg.solve(jnp.eye(N) - W.T, C)  # dC·z/db for z = W z + b


def linear(z, b):
    return W @ z + b


def solved(adjoint, b=B, fn=linear, **options):
    options = {"solver": pi.Picard(), "max_steps": 200, **options}
    if isinstance(adjoint, pi.Reversible):
        options.pop("solver")
    return pi.fixed_point(fn, jnp.zeros_like(b), b, adjoint=adjoint, **options)


def gradient(adjoint, b=B, fn=linear, **options):
    g = jax.grad(lambda b: C @ solved(adjoint, b, fn, **options).value)(b)
    return jax.block_until_ready(g)  # a failure is raised where the numbers are needed


def neumann(steps, tau=1.0):
    step = (1 - tau) * jnp.eye(N) + tau * W.T
    total, term = jnp.zeros(N), C
    for _ in range(steps):
        total, term = total + tau * term, step @ term
    return total


# name, adjoint, the gradient it claims, tolerance
CLAIMS = {
    "implicit": (pi.Implicit(), EXACT, 1e-9),
    "implicit_lu": (pi.Implicit(lx.LU()), EXACT, 1e-12),
    "implicit_gmres": (
        pi.Implicit(pi.GMRES(1e-12, 1e-12), jacobian=pi.MatrixFree()), EXACT, 1e-9),
    "implicit_gmres_restarted": (
        pi.Implicit(pi.GMRES(1e-12, 1e-12, restart=2), jacobian=pi.MatrixFree()),
        EXACT, 1e-9),
    "implicit_bicgstab": (pi.Implicit(lx.BiCGStab(1e-12, 1e-12)), EXACT, 1e-9),
    "implicit_normal_cg": (pi.Implicit(lx.Normal(lx.CG(1e-14, 1e-14))), EXACT, 1e-8),
    "implicit_rtol": (pi.Implicit(rtol=1e-6, jacobian=pi.MatrixFree()), EXACT, 1e-4),
    "implicit_sparse": (
        pi.Implicit(jacobian=pi.SparsePattern(*np.divmod(np.arange(N * N), N), (N, N))),
        EXACT, 1e-12),
    "implicit_given": (
        pi.Implicit(jacobian=lambda z, b: W - jnp.eye(N)), EXACT, 1e-12),
    "unroll": (pi.Unroll(), EXACT, 1e-7),
    "unroll_7": (pi.Unroll(steps=7), neumann(7), 1e-13),
    "unroll_checkpoints": (pi.Unroll(checkpoints=3), EXACT, 1e-7),
    "phantom": (pi.Phantom(5), neumann(5), 1e-13),
    "phantom_damped": (pi.Phantom(3, 0.4), neumann(3, 0.4), 1e-13),
    "one_step": (pi.OneStep(), C, 1e-15),
    "reversible": (pi.Reversible(0.8), EXACT, 1e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", CLAIMS)
def test_the_gradient_is_what_the_adjoint_claims(name):
    adjoint, expected, rtol = CLAIMS[name]
    np.testing.assert_allclose(gradient(adjoint), expected, rtol=rtol)
    if not name.startswith("unroll_7"):
        value = solved(adjoint).value
        np.testing.assert_allclose(value, jnp.linalg.solve(jnp.eye(N) - W, B), rtol=1e-8)


@pytest.mark.parametrize(
    "adjoint",
    [pi.Implicit(), pi.Unroll(), pi.Unroll(steps=9), pi.Phantom(4, 0.5), pi.OneStep()],
    ids=lambda a: type(a).__name__,
)
def test_both_modes_agree_and_second_derivatives_are_there(adjoint):
    fn = lambda z, b: jnp.tanh(W @ z) + b * b
    value = lambda b: solved(adjoint, b, fn).value
    at = 0.1 * B
    forward, reverse = jax.jit(jax.jacfwd(value))(at), jax.jit(jax.jacrev(value))(at)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)
    H = jax.jit(jax.hessian(lambda b: C @ value(b)))(at)
    assert np.isfinite(H).all()
    np.testing.assert_allclose(H, H.T, rtol=1e-6, atol=1e-6 * np.abs(H).max())


def test_jacobian_free_backpropagation():
    """y = d + y⁵: the exact slope is 1/(1 - 5 y⁴), the Jacobian-free one is 1."""
    slope = lambda adjoint: jax.grad(
        lambda d: pi.fixed_point(lambda y, d: d + y**5, 0.0, d, adjoint=adjoint).value
    )(0.4)
    y = pi.fixed_point(lambda y, d: d + y**5, 0.0, 0.4).value
    np.testing.assert_allclose(slope(pi.Implicit()), 1 / (1 - 5 * y**4), rtol=1e-9)
    assert slope(pi.OneStep()) == 1.0


def test_an_adjoint_that_was_not_solved_is_refused():
    lazy = pi.Implicit(pi.GMRES(1e-12, 1e-12, max_steps=2), jacobian=pi.MatrixFree())
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"tangent or adjoint.*max_steps"):
        gradient(lazy)
    with pytest.raises(jax.errors.JaxRuntimeError, match="tangent or adjoint"):
        np.asarray(jax.jit(jax.vmap(lambda b: gradient(lazy, b)))(jnp.stack([B, 2 * B])))
    with pytest.raises(jax.errors.JaxRuntimeError, match="tangent or adjoint"):
        jax.block_until_ready(jax.jvp(lambda b: solved(lazy, b).value, (B,), (C,)))
    assert np.isnan(gradient(lazy, throw=False)).all()
    # The forward solve has nothing to do with it.
    assert solved(lazy).status == pi.Status.converged


def test_a_preconditioner_is_transposed_for_the_adjoint():
    inverse = lx.MatrixLinearOperator(jnp.linalg.inv(W - jnp.eye(N)))
    at_once = pi.GMRES(1e-10, 1e-10, max_steps=1)
    for M in (inverse, lambda z, b: inverse):
        adjoint = pi.Implicit(at_once, jacobian=pi.MatrixFree(), preconditioner=M)
        np.testing.assert_allclose(gradient(adjoint), EXACT, rtol=1e-8)
        t = jax.jvp(lambda b, a=adjoint: solved(a, b).value, (B,), (C,))[1]
        np.testing.assert_allclose(t, jnp.linalg.solve(jnp.eye(N) - W, C), rtol=1e-8)


def test_a_warm_start_saves_the_adjoint_its_work():
    """λ solves (W - I)ᵀ λ = C; with it as guess no step is left to do."""
    adjoint = jnp.linalg.solve((W - jnp.eye(N)).T, C)
    lazy = lambda guess: pi.Implicit(
        pi.GMRES(1e-10, 1e-10, max_steps=1), jacobian=pi.MatrixFree(), guess=guess
    )
    np.testing.assert_allclose(gradient(lazy(adjoint)), EXACT, rtol=1e-8)
    with pytest.raises(jax.errors.JaxRuntimeError, match="tangent or adjoint"):
        gradient(lazy(None))


@pytest.mark.parametrize(
    "adjoint, flat",
    [(lambda k: pi.Implicit(), True), (lambda k: pi.Reversible(0.8), True),
     (lambda k: pi.Unroll(steps=k), False)],
    ids=["implicit", "reversible", "unroll"],
)  # fmt: skip
def test_memory(adjoint, flat):
    """Temporary memory of the gradient's program for 100 and for 2,000 steps at most."""
    big = jnp.ones(2000)
    fn = lambda z, b: 0.5 * jnp.roll(z, 1) * jnp.cos(z) + b

    def temporaries(k):
        options = {"max_steps": k, "jacobian": pi.MatrixFree()}
        loss = lambda b: jnp.sum(solved(adjoint(k), b, fn, **options).value)
        program = jax.jit(jax.grad(loss)).lower(big).compile()
        memory: Any = program.memory_analysis()
        return memory.temp_size_in_bytes

    growth = temporaries(2000) / temporaries(100)
    assert growth < 1.1 if flat else growth > 10


def test_reversible_refuses_what_round_off_has_eaten():
    slow = pi.Reversible(0.8, anchors=0)
    with pytest.raises(jax.errors.JaxRuntimeError, match="lost the iterates"):
        gradient(slow, rtol=1e-14, atol=1e-14)
    assert np.isnan(gradient(slow, rtol=1e-14, atol=1e-14, throw=False)).all()
    kept = gradient(pi.Reversible(0.8, anchors=100), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(kept, EXACT, rtol=1e-9)


def test_reversible_is_the_gradient_of_its_own_iterates():
    """Stopped early by a loose tolerance, it equals the same steps differentiated."""
    beta, at = 0.7, 0.1 * B
    fn = lambda z, b: jnp.tanh(W @ z) + b
    loose = {"rtol": 1e-2, "atol": 1e-2}
    steps = int(solved(pi.Reversible(beta), at, fn, **loose).stats["iterations"])
    assert 1 < steps < 20

    def written_out(b):
        y = z = jnp.zeros(N)
        for _ in range(steps):
            y = (1 - beta) * y + beta * fn(z, b)
            z = (1 - beta) * z + beta * fn(y, b)
        return z

    ours = lambda b: solved(pi.Reversible(beta), b, fn, **loose).value
    np.testing.assert_allclose(ours(at), written_out(at), rtol=1e-14)
    slope = lambda z: jax.grad(lambda b: C @ z(b))(at)
    np.testing.assert_allclose(slope(ours), slope(written_out), rtol=1e-12)
    # Stopped by the number of steps it is no fixed point, and has no gradient.
    cut = lambda b: solved(pi.Reversible(beta), b, fn, max_steps=1, throw=False).value
    assert np.isnan(slope(cut)).all()


def test_reversible_in_batches():
    """Weights that a batch shares and weights that it does not, both modes."""
    fn = lambda z, p: p[0] @ z + p[1]
    how: dict[str, Any] = dict(adjoint=pi.Reversible(0.8), rtol=1e-10, atol=1e-10)
    solve = lambda A, b: pi.fixed_point(fn, jnp.zeros(N), (A, b), **how).value
    exact = lambda A, b: jnp.linalg.solve(jnp.eye(N) - A, b)
    bs = jnp.stack([jnp.stack([B, 100 * B]), jnp.stack([C, 0 * C])])
    As = jnp.stack([W, 0.5 * W])

    def measures(layer):
        one = lambda A, b: (C @ layer(A, b)) ** 2
        shared = jax.vmap(jax.vmap(one, (None, 0)), (None, 0))
        own = jax.vmap(jax.vmap(one, (None, 0)))
        total = lambda batch: lambda A, b: jnp.sum(batch(A, b))
        return [
            jax.grad(total(shared), (0, 1))(W, bs),
            jax.grad(total(own), (0, 1))(As, bs),
            jax.vmap(jax.grad(one, (0, 1)), (None, 0))(W, bs[0]),
            jax.jvp(total(own), (As, bs), (As**2, bs)),
            jax.jacfwd(lambda s: shared(s * W, bs))(1.0),
        ]

    both = jax.jit(lambda: (measures(solve), measures(exact)))()
    for ours, theirs in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    for twice in (jax.hessian, lambda f: jax.grad(lambda b: jnp.sum(jax.grad(f)(b))),
                  lambda f: jax.jacfwd(jax.jacfwd(f))):  # fmt: skip
        with pytest.raises((NotImplementedError, RuntimeError), match="first derivatives"):
            twice(lambda b: C @ solve(W, b))(B)


def test_changing_the_word_changes_the_gradient_only():
    values = [
        solved(adjoint).value for adjoint in (pi.Implicit(), pi.Phantom(3), pi.OneStep())
    ]
    for value in values[1:]:
        np.testing.assert_array_equal(value, values[0])


def test_unrolled_minimisation():
    """Gradient descent on ½ a z² - p z, stopped after 3 steps."""
    a, s, p = 3.0, 0.1, 2.0
    solution = lambda p: pi.minimize(
        lambda z, p: 0.5 * a * z**2 - p * z, 0.0, p, solver=pi.GradientDescent(stepsize=s),
        adjoint=pi.Unroll(steps=3),
    )  # fmt: skip
    # z_k = (p/a) (1 - (1 - s a)^k)
    np.testing.assert_allclose(solution(p).value, p / a * (1 - (1 - s * a) ** 3))
    slope = jax.grad(lambda p: solution(p).value)(p)
    np.testing.assert_allclose(slope, (1 - (1 - s * a) ** 3) / a)


NONSENSE: Any = "nonsense"
BAD = {
    "phantom_of_a_root": (
        lambda: pi.root(lambda z, p: z - p, 0.0, 1.0, adjoint=pi.Phantom(2)),
        ValueError, "fixed-point map"),
    "reversible_with_solver": (
        lambda: pi.fixed_point(
            linear, B, B, solver=pi.Picard(), adjoint=pi.Reversible()),
        ValueError, "Leave the solver out"),
    "no_adjoint": (
        lambda: pi.root(lambda z, p: z - p, 0.0, 1.0, adjoint=NONSENSE),
        TypeError, "Known: pi.Implicit"),
    "steps": (lambda: pi.Unroll(steps=0), ValueError, "positive integer"),
    "phantom_steps": (lambda: pi.Phantom(0), ValueError, "positive integer"),
    "damping": (lambda: pi.Phantom(3, 1.5), ValueError, r"\(0, 1\]"),
    "beta": (lambda: pi.Reversible(1.0), ValueError, r"\(0, 1\)"),
    "anchors": (lambda: pi.Reversible(anchors=-1), ValueError, "0 or more"),
    "linear_solver": (lambda: pi.Implicit(NONSENSE), TypeError, "lineax solver"),
    "jacobian": (lambda: pi.Implicit(jacobian=NONSENSE), TypeError, "pi.Dense"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words) as caught:
        call()
    assert "Got" in str(caught.value)


def test_adjoints_are_pytrees_with_traced_options():
    """A damping that is an array is no reason to compile again."""
    run = eqx.filter_jit(lambda adjoint: gradient(adjoint))
    for tau in (0.3, 0.9):
        np.testing.assert_allclose(
            run(pi.Phantom(3, jnp.array(tau))), neumann(3, tau), rtol=1e-12
        )
