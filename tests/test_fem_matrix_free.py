"""Matrix-free solves equal direct ones, on the device alone, or say that they failed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import FunctionSpace, Krylov, Mesh, Problem, Tie, dot, evolve, grad


V = FunctionSpace(Mesh.rectangle(4, 3))
rng = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(rng.uniform(1, 2, shape))


@pytest.fixture(autouse=True)
def _same_numbers():
    """In whatever order the tests run."""
    rng.bit_generator.state = np.random.default_rng(0).bit_generator.state


CG = Krylov(matrix_free=True)
CHEBYSHEV = Krylov("cg", "chebyshev", matrix_free=True)
GMRES = Krylov("gmres", matrix_free=True)

form = lambda u, v, w: w.kappa * dot(grad(u), grad(v)) - v
wind = lambda u, v, w: form(u, v, w) + 15 * grad(u)[0] * v
bent = lambda u, v, w: (w.kappa + u * u) * dot(grad(u), grad(v)) - 40 * v
corner = Tie(np.array([7]), np.array([[8, 12]]), np.array([[0.3, 0.7]]))
BODY = FunctionSpace(Mesh.box(3, 1, 1), components=3)


def elastic(dirichlet):
    problem = fem.models.elasticity(BODY, {"left": dirichlet}, force="f")
    f = fem.constant(jnp.array([0.0, 0.0, -1.0]))
    return lambda kappa, **how: problem.solve({"E": kappa, "nu": 0.3, "f": f}, **how)


def plain(form=form, dirichlet=None, space=V, structure="spd", **conditions):
    dirichlet = {"left": 0.3} if dirichlet is None else dirichlet
    problem = Problem(space, form, dirichlet, structure=structure, **conditions)
    return lambda kappa, **how: problem.solve({"kappa": kappa}, **how)


CASES = {
    "poisson": (plain(robin={"right": (2.0, 0.5)}), CG),
    "chebyshev": (plain(neumann={"right": 1.0}), CHEBYSHEV),
    "tied": (plain(periodic={"top": "bottom"}, constraints=[corner]), CG),
    "floating": (
        plain(
            lambda u, v, w: form(u, v, w) - 8 * w.x[0] * v,
            dirichlet={},
            nullspace="constants",
        ),
        CG,
    ),
    "waves": (
        plain(
            lambda u, v, w: form(u, v, w) - 30 * u * v,
            space=FunctionSpace(Mesh.rectangle(2, 2), "P2"),
            structure="symmetric",
        ),
        Krylov("minres", matrix_free=True),
    ),
    "wind": (plain(wind, structure=None), GMRES),
    "bent": (plain(bent, structure=None), GMRES),
    "elastic": (elastic((0.0, 0.0, 0.0)), CG),
}


def every(loss, second: bool):
    """Value, gradient, and (`second`) a tangent and a product with the Hessian."""

    def run(kappa, t_kappa):
        both = jax.value_and_grad(loss)
        if not second:
            return both(kappa)
        (value, gradient), (tangent, product) = jax.jvp(both, (kappa,), (t_kappa,))
        return value, gradient, tangent, product

    return run


@pytest.mark.parametrize("name", CASES)
def test_equals_the_direct_solve(name):
    solve, how = CASES[name]
    n = {"elastic": BODY.mesh.n_cells, "waves": 8}.get(name, V.mesh.n_cells)
    kappa, t_kappa = draw(n), draw(n)
    size = jax.eval_shape(solve, kappa).shape
    weights = jnp.asarray(rng.normal(size=size))
    loss = lambda how: lambda k: jnp.sum(weights * solve(k, solver=how) ** 2)
    second = name in ("chebyshev", "bent")
    both = lambda *a: (every(loss(how), second)(*a), every(loss(None), second)(*a))
    found, expected = jax.jit(both)(kappa, t_kappa)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8 * np.abs(b).max())
    if second:
        np.testing.assert_allclose(found[2], found[1] @ t_kappa, rtol=1e-7)


def test_transposed_products_batches_and_loops():
    """⟨w, J t⟩ = ⟨Jᵀ w, t⟩; vmap over coefficients and several loads; scan."""
    solve, how = CASES["poisson"]
    kappa = draw(3, V.mesh.n_cells)
    one = lambda k: solve(k, solver=how)

    @jax.jit
    def program(kappa, t, w):
        u, tangent = jax.jvp(one, (kappa[0],), (t,))
        (pulled,) = jax.vjp(one, kappa[0])[1](w)
        many = jax.vmap(jax.grad(lambda k: jnp.sum(one(k) ** 2)))(kappa)
        step = lambda total, k: (total + jnp.sum(one(k) ** 2), None)
        loop = jax.grad(lambda kappa: jax.lax.scan(step, 0.0, kappa)[0])(kappa)
        loads = jnp.stack([jnp.zeros(V.size), w], axis=1)
        return (
            u,
            w @ tangent,
            pulled @ t,
            many,
            loop,
            solve(kappa[0], load=loads, solver=how),
        )

    w = jnp.asarray(rng.normal(size=V.size))
    u, forwards, backwards, many, loop, columns = program(kappa, draw(V.mesh.n_cells), w)
    np.testing.assert_allclose(forwards, backwards, rtol=1e-9)
    np.testing.assert_allclose(many, loop, rtol=1e-8, atol=1e-10 * np.abs(loop).max())
    np.testing.assert_allclose(columns[:, 0], u, rtol=1e-9)
    expected = solve(kappa[0], load=w)
    np.testing.assert_allclose(columns[:, 1], expected, rtol=1e-7, atol=1e-9)


# GMRES ends a cycle with a triangular solve, on a CPU one of BLAS.
@pytest.mark.parametrize(
    "name, allowed", [("poisson", set()), ("chebyshev", set()), ("wind", {"trsm"})]
)
def test_nothing_leaves_the_device(name, allowed):
    """No callback in the jaxpr, no call of anything outside in the program; with
    `throw` the one that raises, in a branch of its own."""
    solve, how = CASES[name]
    kappa = draw(V.mesh.n_cells)

    def loss(k, throw):
        u = solve(k, solver=how, throw=throw)
        return jnp.sum((u if throw else u.value) ** 2)

    both = jax.value_and_grad(loss)
    text = str(jax.make_jaxpr(both, static_argnums=1)(kappa, False))
    assert "while" in text and "dot_general" in text
    assert not re.search(r"callback|ffi|pyimplicit", text)
    for throw in (False, True):
        program = jax.jit(both, static_argnums=1).lower(kappa, throw)
        called = set(re.findall(r"custom_call @(\w+)", program.as_text()))
        inside = {n for n in called if n != "pyimplicit_fail"}
        assert all(any(a in n for a in allowed) for n in inside), called
        assert throw == ("pyimplicit_fail" in called)


def test_failures_are_said():
    few = Krylov(max_steps=3, matrix_free=True)
    loose = Krylov("gmres", max_steps=3, restart=3, matrix_free=True)
    poisson, bent_one = CASES["poisson"][0], CASES["bent"][0]
    kappa = draw(V.mesh.n_cells)
    solve = jax.jit(lambda k, throw: poisson(k, solver=few, throw=throw), static_argnums=1)
    with pytest.raises(Exception, match=r"cg and preconditioner 'diagonal', matrix-free: "):
        jax.block_until_ready(solve(kappa, True))
    solution = solve(kappa, False)
    assert int(solution.status) == 4 and np.isnan(solution.value).any()
    assert int(solution.stats["iterations"]) == 3 and float(solution.stats["residual"]) > 0
    value = lambda k: jnp.sum(poisson(k, solver=few, throw=False).value)
    assert np.isnan(jax.jit(jax.grad(value))(kappa)).all()
    newton = jax.jit(lambda k: bent_one(k, solver=loose, throw=False))(kappa)
    assert int(newton.status) != 0 and np.isnan(newton.value).any()
    negative = jax.jit(lambda k: poisson(k, solver=CG, throw=False).status)
    assert int(negative(-kappa)) == 2 and int(negative(kappa.at[0].set(np.nan))) == 3
    crooked = jax.jit(lambda k: plain(wind)(k, solver=CG, throw=False).status)
    assert int(crooked(kappa)) == 7


def test_a_transposed_solve_that_fails():
    """The load is an eigenvector, so the first step finds the answer, but not that of the
    transposed system."""
    few = Krylov(max_steps=1, matrix_free=True)
    problem = Problem(V, lambda u, v, w: w.kappa * u * v, structure="spd")
    values, pattern = problem.matrix({"kappa": 1.0})
    A = pattern.todense(values)
    d = jnp.sqrt(jnp.diag(A))
    _, modes = jnp.linalg.eigh(A / d[:, None] / d)
    solve = lambda b: problem.solve({"kappa": 1.0}, load=b, solver=few)
    pulled = jax.jit(lambda b, w: jax.vjp(solve, b)[1](w)[0])
    load = d * modes[:, 0]
    jax.block_until_ready(pulled(load, load))
    with pytest.raises(Exception, match="transposed solve: the residual"):
        jax.block_until_ready(pulled(load, draw(V.size)))


def test_single_precision():
    solve = CASES["poisson"][0]
    kappa = draw(V.mesh.n_cells)
    both = lambda how: jax.jit(
        jax.value_and_grad(lambda k: jnp.sum(solve(k, solver=how) ** 2))
    )
    single = kappa.astype(jnp.float32)
    program = both(CG).lower(single)
    assert not re.search(r"dot_general.*f64", program.as_text())
    value, gradient = program.compile()(single)
    assert value.dtype == gradient.dtype == jnp.float32
    expected = both(None)(kappa)
    np.testing.assert_allclose(value, expected[0], rtol=1e-4)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-4 * abs(expected[1]).max())


def steps(problem, loads, method, n):
    return lambda kappa, solver: jnp.sum(
        evolve(
            problem, 0.0, jnp.linspace(0.0, 0.1, n), {"kappa": kappa, **loads},
            solver=solver, method=method, save="last",
        ) ** 2
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_time(kind):
    """Steps by `Krylov`, with and without a matrix, equal those by factors; for several
    coefficients at once."""
    method, batch = ("cg", 2) if kind == "linear" else ("gmres", 1)
    loss = steps(Problem(V, bent, {"left": 1.0}), {}, fem.BackwardEuler(), 3)
    if kind == "linear":
        heat = fem.models.heat(V, {"left": 1.0}, source="f")
        loss = steps(heat, {"f": 1.0}, fem.CrankNicolson(), 4)
    solvers = [None, *(Krylov(method, "diagonal", matrix_free=f) for f in (False, True))]
    each = lambda solver: jax.vmap(jax.value_and_grad(lambda k: loss(k, solver)))
    kappa = draw(batch, V.mesh.n_cells)
    expected, *others = jax.jit(lambda k: [each(s)(k) for s in solvers])(kappa)
    for found in others:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9 * np.abs(b).max())


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Krylov(preconditioner="amg", matrix_free=True), "'chebyshev'"),
        (lambda: Krylov(preconditioner="chebyshev"), "'amg'"),
        (lambda: Krylov("gmres", "chebyshev", matrix_free=True), "preconditioners"),
        (lambda: jax.eval_shape(lambda k: CASES["wind"][0](k, solver=CG), 1.0), "gmres"),
        (
            lambda: jax.eval_shape(lambda k: CASES["poisson"][0](k, solver=CG), 1j),
            "complex",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("matrix_free", [True, False])
def test_a_structure_that_the_form_has_not_is_reported(matrix_free):
    """Else the transposed solve would be with the matrix itself."""
    solve = plain(wind, structure="symmetric")
    how = Krylov("gmres", matrix_free=matrix_free)
    u = jax.jit(lambda k: solve(k, solver=how, throw=False))(draw(V.mesh.n_cells))
    assert u.status == pi.Status.not_symmetric and jnp.isnan(u.value[-1])
    with pytest.raises(jax.errors.JaxRuntimeError, match="across the diagonal"):
        jax.block_until_ready(jax.jit(lambda k: solve(k, solver=how))(draw(V.mesh.n_cells)))
