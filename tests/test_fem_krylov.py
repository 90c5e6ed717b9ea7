"""Iterative solves equal direct ones, forwards and transposed, or say that they failed."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Krylov, Mesh, Problem, dot, grad


V = FunctionSpace(Mesh.box(3, 3, 3))
needs_pyamg = pytest.mark.skipif(
    importlib.util.find_spec("pyamg") is None, reason="pyamg is an extra"
)
POISSON = fem.models.poisson(V, {"left": 0.0}, source="f")
WIND = Problem(
    V,
    lambda u, v, w: w.kappa * dot(grad(u), grad(v)) + 20 * grad(u)[0] * v - w.f * v,
    {"left": 0.0},
)
# Indefinite: 60 lies among the eigenvalues
WAVES = Problem(
    V,
    lambda u, v, w: w.kappa * dot(grad(u), grad(v)) - 60 * u * v - w.f * v,
    {"boundary": 0.0},
    structure="symmetric",
)


@pytest.mark.parametrize(
    "problem, solver",
    [
        (POISSON, Krylov("cg", "ilu")),
        pytest.param(POISSON, Krylov, marks=needs_pyamg),  # made there: it needs pyamg
        (WAVES, Krylov("minres")),
        (WIND, Krylov("gmres", "ilu")),
    ],
    ids=["cg", "cg-amg", "minres", "gmres"],
)
def test_equals_the_direct_solve(problem, solver):
    solver = solver("cg", "amg") if solver is Krylov else solver
    rng = np.random.default_rng(0)
    kappa, t_kappa = (jnp.asarray(rng.uniform(1, 2, V.mesh.n_cells)) for _ in range(2))
    weights = jnp.asarray(rng.normal(size=V.size))

    @jax.jit
    def program(kappa):
        def every(solver):
            loss = lambda k: (
                weights @ problem.solve({"kappa": k, "f": 1.0}, solver=solver) ** 2
            )
            forwards = jax.jvp(loss, (kappa,), (t_kappa,))[1]
            second = jax.jvp(jax.grad(loss), (kappa,), (t_kappa,))[1]
            return *jax.value_and_grad(loss)(kappa), forwards, second

        batch = jax.vmap(lambda k: problem.solve({"kappa": k, "f": 1.0}, solver=solver))
        return every(solver), every(None), batch(jnp.stack([kappa, 2 * kappa]))

    found, expected, batch = program(kappa)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8 * np.abs(b).max())
    np.testing.assert_allclose(weights @ batch[0] ** 2, expected[0], rtol=1e-7)
    np.testing.assert_allclose(found[2], found[1] @ t_kappa, rtol=1e-7)


def test_failures_are_said():
    few = Krylov("cg", "diagonal", max_steps=2)
    solve = lambda k, throw: POISSON.solve({"kappa": k, "f": 1.0}, solver=few, throw=throw)
    with pytest.raises(Exception, match=r"cg and preconditioner 'diagonal'.*max_steps"):
        jax.block_until_ready(jax.jit(lambda k: solve(k, True))(1.0))
    solution = jax.jit(lambda k: solve(k, False))(1.0)
    assert int(solution.status) == 4 and np.isnan(solution.value).any()


def wind_by_cg(kappa):
    return WIND.solve({"kappa": kappa, "f": 1.0}, solver=Krylov("cg", "ilu"))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Krylov("jacobi"), r"(?s)must be one of 'cg'.*Got 'jacobi'"),  # pyright: ignore[reportArgumentType]
        (lambda: Krylov(rtol=0.0), "0 < rtol < 1"),
        (lambda: Krylov("minres", "ilu"), "positive definite preconditioner"),
        (lambda: jax.eval_shape(wind_by_cg, 1.0), "gmres"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
