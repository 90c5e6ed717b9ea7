"""Sparse solves on both engines: values, status, derivatives, transforms, bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.test_util import check_grads

import pyimplicit as pi

from .problems import laplacian, sparse_problems


PROBLEMS = sparse_problems()
problems = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
real_problems = pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p.values.dtype == float], ids=lambda p: p.name
)


def pattern_of(problem):
    return pi.SparsePattern(
        problem.rows, problem.cols, (problem.n, problem.n), problem.structure
    )


def rhs(problem, *k):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(problem.n, *k)).astype(problem.values.dtype))


@problems
@pytest.mark.parametrize("transpose", [False, True])
def test_value(engine, problem, transpose):
    pattern, b, B = pattern_of(problem), rhs(problem), rhs(problem, 3)
    A = problem.dense().T if transpose else problem.dense()
    solve = lambda b: pi.sparse_solve(pattern, problem.values, b, transpose=transpose)
    for right in (b, B):
        x = solve(right)
        assert x.dtype == right.dtype and x.shape == right.shape
        np.testing.assert_allclose(A @ x, right, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(jax.jit(solve)(right), x)


@problems
def test_status(engine, problem):
    solution = pi.sparse_solve(
        pattern_of(problem), problem.values, rhs(problem, 2), throw=False
    )
    assert solution.status.tolist() == [pi.Status.converged] * 2
    assert (solution.stats["residual"] < 1e-14).all()


@real_problems
def test_jvp_and_vjp_against_finite_differences(engine, problem):
    # The engine's operation has no derivative of its own: only the rule can pass this.
    pattern = pattern_of(problem)
    fn = lambda v, b: jnp.sin(pi.sparse_solve(pattern, v, b))
    check_grads(fn, (jnp.asarray(problem.values), rhs(problem)), order=2, rtol=1e-5)


@problems
@pytest.mark.parametrize("transpose", [False, True])
def test_derivatives_against_a_dense_solve(engine, problem, transpose):
    pattern, b = pattern_of(problem), rhs(problem)
    values = jnp.asarray(problem.values)

    def dense(v, b):
        A = pattern.todense(v)
        return jnp.linalg.solve(A.T if transpose else A, b)

    sparse = lambda v, b: pi.sparse_solve(pattern, v, b, transpose=transpose)
    rng = np.random.default_rng(2)
    tangents = tuple(
        jnp.asarray(rng.normal(size=a.shape).astype(a.dtype)) for a in (values, b)
    )
    y, t = jax.jvp(sparse, (values, b), tangents)
    y_dense, t_dense = jax.jvp(dense, (values, b), tangents)
    np.testing.assert_allclose(y, y_dense, atol=1e-12)
    np.testing.assert_allclose(t, t_dense, atol=1e-11)
    ct = rhs(problem)
    for got, want in zip(
        jax.vjp(sparse, values, b)[1](ct), jax.vjp(dense, values, b)[1](ct), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-11)
    # <ct, J t> = <J' ct, t>, without conjugation as JAX has it
    left = jnp.sum(ct * t)
    back = jax.vjp(sparse, values, b)[1](ct)
    right = sum(jnp.sum(c * s) for c, s in zip(back, tangents, strict=True))
    np.testing.assert_allclose(left, right, rtol=1e-10)


@real_problems
def test_second_order(engine, problem):
    pattern, b = pattern_of(problem), rhs(problem)
    values = jnp.asarray(problem.values)
    loss = lambda solve: lambda v: jnp.sum(jnp.sin(solve(v)))
    sparse = loss(lambda v: pi.sparse_solve(pattern, v, b))
    dense = loss(lambda v: jnp.linalg.solve(pattern.todense(v), b))
    want = jax.jit(jax.hessian(dense))(values)
    orders = lambda v: (jax.hessian(sparse)(v), jax.jacrev(jax.grad(sparse))(v))
    for found in jax.jit(orders)(values):
        np.testing.assert_allclose(found, want, atol=1e-10)


def test_one_stored_entry_of_a_symmetric_matrix(engine):
    # CHOLMOD reads one triangle; the derivative must not see that.
    A = laplacian(3)
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "spd")
    values, b = jnp.asarray(A.data), jnp.arange(1.0, 10.0)
    loss = jax.jit(lambda v: jnp.sum(pi.sparse_solve(pattern, v, b) ** 2))
    gradient = jax.grad(loss)(values)
    (k,) = np.flatnonzero((A.row == 1) & (A.col == 0))
    h = 1e-5
    finite = (loss(values.at[k].add(h)) - loss(values.at[k].add(-h))) / (2 * h)
    np.testing.assert_allclose(gradient[k], finite, rtol=1e-8)


@real_problems
def test_vmap_scan_and_batch_independence(engine, problem):
    pattern, b = pattern_of(problem), rhs(problem)
    scales = jnp.array([1.0, 2.0, 0.5, 1.0])
    values = scales[:, None] * problem.values
    solve = lambda v, b: pi.sparse_solve(pattern, v, b)
    alone = jnp.stack([solve(v, b) for v in values])
    both = jax.vmap(solve)(values, jnp.tile(b, (4, 1)))
    np.testing.assert_array_equal(jax.vmap(solve, (0, None))(values, b), alone)
    np.testing.assert_array_equal(both, alone)
    nested = jax.vmap(jax.vmap(solve, (None, 0)), (0, None))(values, jnp.stack([b, -b]))
    np.testing.assert_allclose(nested[:, 1], -alone, rtol=1e-12)
    crossed = jax.vmap(jax.vmap(solve, (0, None)), (None, 0))(values, jnp.stack([b, -b]))
    np.testing.assert_allclose(crossed, jnp.swapaxes(nested, 0, 1), rtol=1e-12)
    _, scanned = jax.lax.scan(lambda c, v: (c, solve(v, b)), 0.0, values)
    np.testing.assert_array_equal(scanned, alone)
    gradient = jax.vmap(jax.grad(lambda v: jnp.sum(solve(v, b) ** 3)))(values)
    one = jax.grad(lambda v: jnp.sum(solve(v, b) ** 3))(values[1])
    np.testing.assert_allclose(gradient[1], one, rtol=1e-12, atol=1e-14)


def test_one_factorisation_for_everything(engine):
    A = laplacian(5)
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "spd")
    values, b = jnp.asarray(A.data), jnp.ones(25)
    loss = jax.jit(lambda v: jnp.sum(jnp.sin(pi.sparse_solve(pattern, v, b))))
    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(lambda v, t: jax.jvp(jax.grad(loss), (v,), (t,))[1])
    pi.engine.clear()
    jax.block_until_ready((loss(values), gradient(values), product(values, values)))
    counts = pi.engine.counters()
    assert counts["factorisations"] == 1
    assert counts["cache_hits"] >= 4
    assert counts["factors"] == 1 and counts["bytes"] > 0
    jax.block_until_ready(loss(2 * values))
    assert pi.engine.counters()["factorisations"] == 2


def test_a_batch_of_right_hand_sides_is_one_factorisation(engine):
    A = laplacian(5)
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "general")
    pi.engine.clear()
    x = pi.sparse_solve(pattern, A.data, jnp.eye(25))
    np.testing.assert_allclose(x @ A.toarray(), np.eye(25), atol=1e-13)
    counts = pi.engine.counters()
    assert (counts["factorisations"], counts["solves"]) == (1, 25)
    assert counts["cache_hits"] == 0


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_single_precision_in_and_out(engine, dtype):
    A = laplacian(4)
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "general")
    values, b = A.data.astype(dtype), np.ones(16, dtype)
    x = pi.sparse_solve(pattern, values, b)
    assert x.dtype == dtype
    # Solved in double precision, so right to the last bit of single.
    exact = np.linalg.solve(A.toarray(), np.ones(16))
    np.testing.assert_allclose(x, exact, rtol=2e-7)
    assert (
        jax.grad(lambda v: pi.sparse_solve(pattern, v, b).real.sum())(
            jnp.asarray(values)
        ).dtype
        == dtype
    )


def neumann(structure):
    A = laplacian(6, dirichlet=False)
    return pi.SparsePattern(A.row, A.col, A.shape, structure), A.data, np.ones(36)


def null_space():
    """Singular, though round-off leaves pivots, and its huge answers a small residual."""
    w = np.random.default_rng(5).uniform(1, 3, 39)
    A = np.diag(np.append(w, 0) + np.append(0, w)) - np.diag(w, 1) - np.diag(w, -1)
    K = np.block([[A, np.zeros((40, 1))], [np.zeros((1, 40)), -np.ones((1, 1))]])
    rows, cols = np.nonzero(K)
    pattern = pi.SparsePattern(rows, cols, K.shape, "quasidefinite")
    return pattern, K[rows, cols], np.sin(np.arange(41.0))


def zero_row():
    pattern = pi.SparsePattern([0, 0, 1, 1], [0, 1, 0, 1], (2, 2))
    return pattern, np.array([1.0, 2.0, 0.0, 0.0]), np.ones(2)


def with_values(structure, change):
    A = laplacian(4)
    values, b = A.data.copy(), np.ones(16)
    change(A, values, b)
    return pi.SparsePattern(A.row, A.col, A.shape, structure), values, b


def _set(array, index, value):
    array[index] = value


def advect(A, values, b):
    values[A.row < A.col] *= 0.5


FAILURES = {
    "neumann-spd": (lambda: neumann("spd"), "singular"),
    "neumann-general": (lambda: neumann("general"), "singular"),
    "neumann-symmetric": (lambda: neumann("symmetric"), "singular"),
    "null-space": (null_space, "singular"),
    "zero-row": (zero_row, "singular"),
    "indefinite": (
        lambda: with_values("spd", lambda A, v, b: v.__imul__(-1.0)),
        "not_positive_definite",
    ),
    "nan-value": (
        lambda: with_values("spd", lambda A, v, b: _set(v, 3, np.nan)),
        "nonfinite",
    ),
    "inf-value": (
        lambda: with_values("general", lambda A, v, b: _set(v, 3, np.inf)),
        "nonfinite",
    ),
    "nan-rhs": (
        lambda: with_values("general", lambda A, v, b: _set(b, 2, np.nan)),
        "nonfinite",
    ),
    "not-symmetric": (lambda: with_values("spd", advect), "not_symmetric"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_raises_with_cause_and_remedy(engine, case):
    make, status = FAILURES[case]
    pattern, values, b = make()
    with pytest.raises(jax.errors.JaxRuntimeError) as err:
        jax.jit(lambda v: pi.sparse_solve(pattern, v, b))(values).block_until_ready()
    text = str(err.value)
    assert pi.Status[status].message in text
    n = pattern.shape[0]
    assert f"{n} x {n}, {pattern.nnz} entries, '{pattern.structure}'" in text
    assert "Traceback" not in text and "Stacktrace" not in text


@pytest.mark.parametrize("case", FAILURES)
def test_failure_is_a_value_without_throw(engine, case):
    make, status = FAILURES[case]
    pattern, values, b = make()
    solve = lambda v, b: pi.sparse_solve(pattern, v, b, throw=False)
    solution = jax.jit(solve)(values, b)
    assert int(solution.status) == pi.Status[status]
    assert jnp.isnan(solution.value).all()
    gradient = jax.grad(lambda v: jnp.sum(solve(v, b).value ** 2))(jnp.asarray(values))
    assert jnp.isnan(gradient).any() and not jnp.isfinite(gradient).all()


def test_one_bad_sample_does_not_touch_its_neighbours(engine):
    A = laplacian(4)
    pattern = pi.SparsePattern(A.row, A.col, A.shape, "spd")
    values = jnp.stack([A.data, -A.data, 2 * A.data])
    solve = lambda v: pi.sparse_solve(pattern, v, jnp.ones(16), throw=False)
    solution = jax.vmap(solve)(values)
    assert solution.status.tolist() == [0, pi.Status.not_positive_definite, 0]
    np.testing.assert_array_equal(solution.value[2], solve(values[2]).value)
    with pytest.raises(jax.errors.JaxRuntimeError, match="sample 1 of 3"):
        jax.vmap(lambda v: pi.sparse_solve(pattern, v, jnp.ones(16)))(values)


def test_badly_scaled_is_not_singular(engine):
    A = laplacian(6)
    scale = 10.0 ** np.linspace(-9, 9, 36)
    values = A.data * scale[A.row] * scale[A.col]
    for structure in ("spd", "general"):
        pattern = pi.SparsePattern(A.row, A.col, A.shape, structure)
        x = pi.sparse_solve(pattern, values, scale)
        np.testing.assert_allclose(
            x * scale, np.linalg.solve(A.toarray(), np.ones(36)), rtol=1e-9
        )


def test_lineax_operator_and_solver(engine):
    problem = PROBLEMS[2]
    pattern, b = pattern_of(problem), rhs(problem)
    A = problem.dense()

    def solve(v, b, transpose=False):
        operator = pi.SparseOperator(pattern, v)
        operator = operator.T if transpose else operator
        return lx.linear_solve(operator, b, pi.SparseDirect()).value

    values = jnp.asarray(problem.values)
    np.testing.assert_allclose(A @ solve(values, b), b, atol=1e-12)
    np.testing.assert_allclose(A.T @ solve(values, b, True), b, atol=1e-12)
    operator = pi.SparseOperator(pattern, values)
    np.testing.assert_allclose(operator.as_matrix(), A)
    np.testing.assert_allclose(operator.T.mv(b), A.T @ b, atol=1e-13)
    np.testing.assert_allclose(lx.diagonal(operator), np.diag(A))
    check_grads(solve, (values, b), order=1, rtol=1e-5)
    many = jax.vmap(solve, (0, None))(jnp.stack([values, 2 * values]), b)
    np.testing.assert_allclose(many[1], many[0] / 2, rtol=1e-12)
    bad = lx.linear_solve(
        pi.SparseOperator(pattern, 0 * values), b, pi.SparseDirect(), throw=False
    )
    assert bad.result == lx.RESULTS.singular


def entry(structure: Any = "general", rows=(0, 1), cols=(0, 1), shape=(2, 2)):
    return lambda: pi.SparsePattern(np.array(rows), np.array(cols), shape, structure)


BAD_PATTERNS = {
    "unknown structure": (entry("hermitian"), "'general', 'symmetric', 'spd'"),
    "row outside": (entry(rows=(0, 2)), "Got 2 as entry 1"),
    "negative": (entry(cols=(-1, 0)), "Got -1 as entry 0"),
    "duplicate": (entry(rows=(0, 0), cols=(1, 1)), r"\(0, 1\) as entries 0 and 1"),
    "one triangle": (entry("spd", (0, 1), (0, 0)), r"Got \(1, 0\) without \(0, 1\)"),
    "lengths": (entry(rows=(0,)), "Got 1 and 2"),
    "floats": (entry(rows=(0.0, 1.0)), "vector of integers"),
    "not square": (entry("spd", shape=(2, 3)), "must be square"),
    "shape": (entry(shape=(0, 2)), "two positive numbers"),
}


@pytest.mark.parametrize("case", BAD_PATTERNS)
def test_bad_patterns(case):
    make, text = BAD_PATTERNS[case]
    with pytest.raises(ValueError, match=text):
        make()


def solve_with(values=(1.0, 1.0), b=(1.0, 1.0), structure: Any = "general", shape=(2, 2)):
    pattern = pi.SparsePattern(np.arange(2), np.arange(2), shape, structure)
    return lambda: pi.sparse_solve(pattern, np.array(values), np.array(b))


BAD_CALLS = {
    "values": (solve_with(values=(1.0,)), ValueError, r"Got \(1,\)"),
    "b": (solve_with(b=(1.0, 1.0, 1.0)), ValueError, r"Got \(3,\)"),
    "rank": (solve_with(b=np.ones((2, 1, 1))), ValueError, r"Got \(2, 1, 1\)"),
    "not square": (solve_with(shape=(2, 3)), ValueError, "square matrix"),
    "complex spd": (solve_with((1j, 1), structure="spd"), TypeError, "complex128"),
    "not a pattern": (lambda: pi.sparse_solve(np.eye(2), 1, 1), TypeError, "ndarray"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, kind, text = BAD_CALLS[case]
    with pytest.raises(kind, match=text):
        call()


def test_pattern_is_compared_by_content():
    a, b = entry()(), entry()()
    assert a == b and hash(a) == hash(b) and a is not b
    assert a != entry(rows=(1, 0), cols=(1, 0))() and a != entry("symmetric")()


def test_a_traced_pattern_is_refused():
    with pytest.raises(TypeError, match="before a function is traced"):
        jax.jit(lambda i: pi.SparsePattern(i, i, (2, 2)).nnz)(jnp.arange(2))


def test_refused_on_other_platforms(engine):
    solve = jax.jit(solve_with())
    with pytest.raises(NotImplementedError, match=r"(?s)CPU only.*cuda.*device_put"):
        solve.trace().lower(lowering_platforms=("cuda",))
