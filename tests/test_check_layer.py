"""`check_layer` passes what is right; each planted fault fails in its own row."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import pyimplicit as pi
from pyimplicit.check import check_layer
from pyimplicit.check.linear import solve_residuals


JVP, VJP, VJP_FD = "jvp vs finite differences", "vjp vs jvp", "vjp vs finite differences"
RESIDUAL, BATCH, JIT = "adjoint residual", "batch independence", "jit"
SECOND, SYMMETRY, REVERSE = "second order", "second order symmetry", "reverse over reverse"
FINITE, NAN_OUT, NAN_BATCH = "finite", "NaN in, NaN out", "NaN in a batch"

X = jnp.array([0.3, -1.2, 2.0])
A = jnp.array([[4.0, 1.0, 0.0], [-2.0, 5.0, 1.0], [0.5, 0.0, 3.0]])
SAMPLES = jnp.array([[0.3, -1.2, 2.0], [1.0, 0.5, -0.7], [0.1, 2.2, 0.9], [1.5, 1.6, 1.7]])


def check(fn, *args, **options):
    return check_layer(fn, *args, show=False, **options)


def failed(report) -> set[str]:
    return {c.name for c in report.checks if c.passed is False}


def left_out(report) -> set[str]:
    return {c.name for c in report.checks if c.passed is None}


def with_jvp(value, tangent):
    """A function that claims a derivative."""
    fn = jax.custom_jvp(value)
    fn.defjvp(lambda primals, tangents: (fn(*primals), tangent(*primals, *tangents)))
    return fn


def with_vjp(value, cotangent):
    fn = jax.custom_vjp(value)
    fn.defvjp(lambda *x: (value(*x), x), cotangent)
    return fn


def linear_solve(A, b, factor=1.0, adjoint_factor=1.0, transpose=True):
    """A⁻¹b; the answers can be off by a factor, the adjoint by a missing transpose."""
    return jax.lax.custom_linear_solve(
        lambda x: A @ x,
        b,
        lambda _, b: factor * jnp.linalg.solve(A, b),
        lambda _, b: adjoint_factor * jnp.linalg.solve(A.T if transpose else A, b),
    )


def condition(z, theta):
    return A @ z + jnp.tanh(z[::-1]) - theta


@jax.custom_jvp
def root(theta):
    """The root of `condition` by Newton's method, and the implicit function theorem."""
    step = lambda z, _: (
        z - jnp.linalg.solve(jax.jacfwd(condition)(z, theta), condition(z, theta)),
        None,
    )
    return jax.lax.scan(step, jnp.zeros_like(theta), length=12)[0]


@root.defjvp
def _root_jvp(primals, tangents):
    (theta,), (t_theta,) = primals, tangents
    z = root(theta)
    J = jax.jacfwd(condition)(z, theta)
    return z, linear_solve(J, t_theta)


def tree(p):
    inner = jnp.sin(p["a"]) * p["b"][0]
    return {"u": inner, "v": (p["c"] ** 2, p["n"]), "name": p["name"]}


TREE = {"a": X, "b": (2.0, 3), "c": jnp.array([1 + 2j, 0.5j]), "n": 3, "name": "tree"}


@pytest.mark.parametrize(
    "fn, args, n_solves",
    [
        (tree, (TREE,), 0),
        (jnp.linalg.solve, (A, X), 4),
        (jax.jit(jnp.linalg.solve), (A.astype("float32"), X.astype("float32")), 4),
        (eqx.filter_jit(linear_solve), (A, X), 4),
        (jax.checkpoint(linear_solve), (A + 1j, X + 0j), 5),
        (root, (X,), 2),
        (lambda A, b: lx.linear_solve(lx.MatrixLinearOperator(A), b).value, (A, X), 4),
    ],
    ids=["tree", "solve", "single", "filter_jit", "complex", "root", "lineax"],
)
def test_what_is_right_passes(fn, args, n_solves):
    report = check(fn, *args)
    assert report.passed, str(report)
    always = {VJP_FD} if n_solves else {VJP_FD, RESIDUAL}
    assert left_out(report) - {NAN_BATCH} == always, str(report)
    if n_solves:
        assert f"of {n_solves} linear solves" in report[RESIDUAL].note


def test_a_sparse_solve_passes(engine):
    pattern = pi.SparsePattern([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], (3, 3))
    values = jnp.array([3.0, 1.0, -1.0, 2.0, 4.0])
    report = check(lambda values, b: pi.sparse_solve(pattern, values, b), values, X)
    assert report.passed, str(report)
    assert "2 raise" in report[NAN_OUT].note


def test_conjugate_gradients_lose_a_nan():
    """JAX's answer to a right-hand side with NaN is zero."""
    S = A @ A.T
    cg = lambda b: jax.scipy.sparse.linalg.cg(lambda x: S @ x, b, tol=1e-10)[0]
    report = check(cg, X)
    assert failed(report) == {NAN_OUT}
    assert report[NAN_OUT].note == "swallowed in args[0]"


def test_a_batch_of_the_users_own():
    layer = lambda x, labels, w: {"y": jnp.tanh(x["in"].T @ w) * labels[:, None]}
    labels, w = jnp.array([1, 2, 3, 4]), jnp.ones((3, 2)) / 3
    report = check(layer, {"in": SAMPLES.T}, labels, w, batch_axes=(-1, 0, None))
    assert report.passed, str(report)


def shifted_by_mean(x):
    return jnp.sin(x - jnp.mean(x, axis=0))


@jax.custom_jvp
def stopped_together(x):
    """z = cos(z)/2 + x for each sample; all iterate until the slowest is there."""
    step = lambda z: jnp.cos(z) / 2 + x
    return jax.lax.while_loop(lambda z: jnp.any(abs(step(z) - z) > 1e-7), step, x)


@stopped_together.defjvp
def _stopped_together_jvp(primals, tangents):
    z = stopped_together(*primals)
    return z, tangents[0] / (1 + jnp.sin(z) / 2)


def in_numpy(function):
    def call(*args):
        out = jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)
        return jax.pure_callback(function, out, *args, vmap_method="sequential")

    return call


def reverse_only_once(x):
    """Right, but its rule holds a solve whose adjoint is twice what it should be."""
    slope = lambda x: linear_solve(jnp.eye(3), jnp.cos(x), adjoint_factor=2.0)
    return with_vjp(jnp.sin, lambda x, w: (w * slope(x[0]),))(x)


def eager_differs(x):
    return jnp.sin(x) * (1.0 if hasattr(x, "_trace") else 1.1)


ONE_WRONG = jnp.array([1.0, 1.0, 1.01])

FAULTS = {
    "derivative off by 1%": (
        with_jvp(jnp.sin, lambda x, t: 1.01 * jnp.cos(x) * t),
        {},
        {JVP},
    ),
    "one of three derivatives off by 1%": (
        with_jvp(jnp.sin, lambda x, t: ONE_WRONG * jnp.cos(x) * t),
        {},
        {JVP},
    ),
    "no derivative of any function": (
        with_jvp(lambda x: x[0] * x[1:], lambda x, t: 1.01 * t[0] * x[1:] + x[0] * t[1:]),
        {},
        {JVP, SYMMETRY, REVERSE},
    ),
    "pullback without its transpose": (
        with_vjp(lambda x: A @ x, lambda _, w: (A @ w,)),
        {},
        {VJP_FD},
    ),
    "pullback with one component off by 1%": (
        with_vjp(jnp.sin, lambda x, w: (ONE_WRONG * jnp.cos(x[0]) * w,)),
        {},
        {VJP_FD},
    ),
    "solve with a residual of 1%": (
        lambda b: linear_solve(A, b, factor=1.01, adjoint_factor=1.01),
        {},
        {RESIDUAL},
    ),
    "transposed solve with a residual of 1%": (
        eqx.filter_jit(lambda b: linear_solve(A, b, adjoint_factor=1.01)),
        {},
        {VJP, RESIDUAL},
    ),
    "transposed solve without its transpose": (
        lambda b: linear_solve(A, b, transpose=False),
        {},
        {VJP, RESIDUAL},
    ),
    "second derivative forgotten": (
        with_jvp(jnp.sin, lambda x, t: jax.lax.stop_gradient(jnp.cos(x)) * t),
        {},
        {SECOND},
    ),
    "second derivative wrong in reverse": (reverse_only_once, {}, {REVERSE}),
    "samples share a mean": (shifted_by_mean, {"batch_axes": 0}, {BATCH, NAN_BATCH}),
    "samples stop together": (stopped_together, {"batch_axes": 0}, {BATCH}),
    "NaN replaced": (lambda x: jnp.sin(jnp.nan_to_num(x)), {}, {NAN_OUT}),
    "NaN of a sample reaches its mates": (
        lambda x: jnp.sin(x) + 0.0 * jnp.sum(x),
        {"batch_axes": (0,)},
        {NAN_BATCH},
    ),
    "another value without jit": (eager_differs, {}, {JIT}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_where_it_is(fault):
    fn, options, rows = FAULTS[fault]
    report = check(fn, SAMPLES if options else X, **options)
    assert failed(report) == rows, str(report)
    assert not report.passed and "FAILED" in str(report)


def test_second_derivatives_that_are_not_there_do_not_apply():
    fn = with_vjp(in_numpy(np.sin), lambda x, w: (w * in_numpy(np.cos)(*x),))
    report = check(fn, X)
    assert report.passed, str(report)
    assert left_out(report) == {JVP, VJP, RESIDUAL, SECOND, SYMMETRY, REVERSE}
    assert "not available" in report[SECOND].note
    assert "callbacks do not support JVP" in report[SECOND].note


def test_without_reverse_mode():
    fn = lambda x: jax.lax.while_loop(lambda z: z[0] < 10.0, lambda z: 2 * z, x)
    report = check(fn, X)
    assert failed(report) == {VJP}
    assert "Reverse-mode differentiation does not work" in report[VJP].note
    assert report[JVP].passed and report[BATCH].passed


def test_errors_at_nan_are_an_answer():
    strict = lambda x: eqx.error_if(jnp.sin(x), jnp.isnan(x).any(), "x holds NaN")
    report = check(strict, X)
    assert report.passed, str(report)
    assert report[NAN_OUT].note == "of 1 arguments, 1 raise"
    assert report[NAN_BATCH].passed is None and "x holds NaN" in report[NAN_BATCH].note


def test_errors_in_a_check_are_its_result():
    def twice_only(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), x.dtype), x)

    fn = with_jvp(twice_only, lambda x, t: jnp.cos(x) * t)
    report = check(fn, X)
    assert failed(report) == {BATCH, NAN_BATCH}, str(report)
    assert "vmap" in report[BATCH].note


def test_a_function_of_values_cannot_be_compiled():
    report = check(lambda x: jnp.sin(x) if x[0] > 0 else jnp.cos(x), X)
    assert {JIT} < failed(report) and "Tracer" in report[JIT].note
    assert report[JVP].passed and report[VJP].passed and report[SECOND].passed


def test_a_gradient_that_is_not_finite():
    report = check(jnp.linalg.norm, jnp.zeros(3), second_order=False)
    assert FINITE in failed(report)
    assert report[FINITE].measured == 3


def test_an_argument_without_influence_does_not_swallow():
    assert check(lambda x, unused: jnp.sin(x), X, jnp.ones(2), second_order=False).passed


def test_options():
    wrong = with_jvp(jnp.sin, lambda x, t: 1.01 * jnp.cos(x) * t)
    report = check(wrong, X, tolerance=0.1, second_order=False, seed=3)
    assert report.passed and {SECOND, SYMMETRY, REVERSE} < left_out(report)
    assert report[JVP].tolerance == 0.1
    assert report[JVP].measured == pytest.approx(0.01, rel=0.02)


def test_the_report_is_printed(capsys):
    report = check_layer(jnp.sin, X, second_order=False)
    assert "jvp vs finite" in capsys.readouterr().out
    assert "Layer: passed" in str(report)
    with pytest.raises(KeyError, match="no check 'jpv'; there are 'jvp vs finite"):
        report["jpv"]


def test_solves_in_loops_are_counted():
    def loop(b):
        return jax.lax.scan(lambda c, _: (jnp.linalg.solve(A, c), c), b, length=3)[0]

    report = check(loop, X, second_order=False)
    assert report.passed and report[RESIDUAL].passed is None
    assert "(in loops, branches) not looked at" in report[RESIDUAL].note


def test_residuals_of_batches_and_least_squares():
    solver = lambda A, b: lx.linear_solve(lx.MatrixLinearOperator(A), b, lx.QR()).value
    residuals, hidden = solve_residuals(jax.vmap(solver, (None, 0)), A, SAMPLES)
    assert residuals.shape == (1,) and residuals[0] < 1e-15 and hidden == 0
    residuals, hidden = solve_residuals(solver, A[:, :2], X)
    assert residuals.shape == (0,) and hidden == 1
    sloppy = jax.vmap(lambda b: linear_solve(A, b, factor=1.5))
    np.testing.assert_allclose(solve_residuals(sloppy, SAMPLES).residuals, [0.5])


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: check(jnp.sin, jnp.arange(3)),
            TypeError,
            "floating-point arrays in `args`",
        ),
        (lambda: check(jnp.argmax, X), TypeError, "arrays in the result"),
        (lambda: check(jnp.sin, X, batch_axes=(0, 0)), ValueError, "for each argument"),
        (lambda: check(jnp.sin, X, batch_axes=1), ValueError, "axes of every array"),
        (lambda: check(jnp.sum, X, batch_axes=0), ValueError, "batch in their first axis"),
        (
            lambda: check(jnp.add, SAMPLES, X, batch_axes=(0, 0)),
            ValueError,
            "of one length",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "Got " in str(caught.value) and str(caught.value).count("\n") == 2


def test_errors_of_the_layer_itself_come_through():
    with pytest.raises(ZeroDivisionError):
        check(lambda x: x / (1 // 0), X)
