"""Julia inside a process of its own: it may not hang, crash, or speak at exit."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pyimplicit.engine.julia import start


HERE = Path(__file__).parent
WATCHDOG = 120  # seconds; a hang is a failure, not a lost CI run
julia = pytest.mark.julia

SOLVE = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import pyimplicit as pi
pattern = pi.SparsePattern([0, 1, 0, 1], [0, 1, 1, 0], (2, 2))
solve = jax.jit(lambda v: pi.sparse_solve(pattern, v, jnp.ones(2)))
good = lambda: np.allclose(solve(jnp.array([2.0, 4.0, 0.0, 0.0])), [0.5, 0.25])
"""
FUNCTIONS = f"""
pi.julia.include({str(HERE / "julia_functions.jl")!r})
f = pi.julia.function("BridgeTests.collects", lambda x: x)
gradient = jax.jit(jax.grad(lambda x: jnp.sum(f(x) ** 2)))
x = jnp.arange(4.0)
"""


def python(code: str, env=(), check=True):
    """Runs `code` in a new Python; it must end well and say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)],
        env=os.environ | dict(env),
        capture_output=True,
        text=True,
        timeout=WATCHDOG,
    )
    if check:
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    return done


@julia
def test_a_thousand_gradients_with_collections_inside():
    code = """
    for _ in range(1000):
        g = gradient(x)
    np.testing.assert_allclose(g, 8 * x)
    print("done")
    """
    assert python(SOLVE + FUNCTIONS + textwrap.dedent(code)).stdout == "done\n"


@julia
def test_four_python_threads_and_the_main_one():
    code = """
    import threading
    from juliacall import Main
    gradient(x).block_until_ready(); good()
    failed = []
    def work(k):
        for _ in range(100):
            if not np.allclose(gradient(k * x), 8 * k * x) or not good():
                failed.append(k)
    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    [t.start() for t in threads]
    for _ in range(20):
        Main.GC.gc()
    [t.join() for t in threads]
    assert not failed
    """
    python(SOLVE + FUNCTIONS + textwrap.dedent(code))


@julia
def test_vmap_scan_and_a_task_inside_a_handler():
    code = """
    batch = jnp.arange(12.0).reshape(3, 4)
    want = 8 * batch
    assert np.allclose(jax.vmap(gradient)(batch), want)
    assert np.allclose(jax.lax.scan(lambda c, x: (c, gradient(x)), 0, batch)[1], want)
    g = pi.julia.function("BridgeTests.spawns", lambda x: x)
    assert np.allclose(jax.jit(jax.vmap(g))(batch), 3 * batch)
    """
    python(SOLVE + FUNCTIONS + textwrap.dedent(code))


@julia
def test_ctrl_c_interrupts_python_and_leaves_it_alive():
    code = """
    import signal, time
    # A shell's background jobs ignore Ctrl-C, and so do their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert good()
    print("ready", flush=True)
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        print("interrupted", good(), flush=True)
    """
    child = subprocess.Popen(
        [sys.executable, "-c", SOLVE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WATCHDOG)
    finally:
        child.kill()
    assert (out, err, child.returncode) == ("interrupted True\n", "", 0)


def test_import_is_light_and_starts_nothing():
    # How long it takes is `python -m tests.bench.imports`; here is why it is quick.
    code = """
    import sys
    import jax, equinox, diffrax
    before = set(sys.modules)
    import pyimplicit
    new = {name.split(".")[0] for name in set(sys.modules) - before}
    assert not pyimplicit.julia.started()
    print(sorted(new & {"juliacall", "juliapkg", "matplotlib", "meshio", "cvxpy"}))
    """
    assert python(code).stdout == "[]\n"


def settings():
    found = start.location()
    assert found
    return {
        "PYTHON_JULIACALL_EXE": found[0],
        "PYTHON_JULIACALL_PROJECT": found[1],
        "PYTHON_JULIACALL_STARTUP_FILE": "no",
    }


@julia
@pytest.mark.parametrize("before", ["import juliacall, jax", "import jax, juliacall"])
def test_juliacall_was_imported_first_by_somebody(before):
    env = settings() | {
        "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
        "PYTHON_JULIACALL_THREADS": "2",
    }
    code = "import numpy\n" + before + SOLVE + 'assert good(), "wrong"\n'
    code += "assert pi.engine.current() == 'julia' and pi.julia.started()"
    python(code, env)


@julia
def test_juliacall_first_with_signals_off_falls_back_and_says_so():
    env = settings() | {"PYTHON_JULIACALL_HANDLE_SIGNALS": "no"}
    code = "import juliacall, warnings" + SOLVE
    code += textwrap.dedent("""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert good()
    assert "signal handling off" in str(said[0].message), said
    assert pi.engine.current() == "host"
    pi.engine.use("julia")
    try:
        good()
    except pi.julia.JuliaUnavailable as err:
        print("refused")
    """)
    assert python(code, env).stdout == "refused\n"


@pytest.mark.parametrize("name", ["host", pytest.param("julia", marks=julia)])
def test_exit_while_a_solve_is_running(name):
    code = SOLVE + textwrap.dedent(f"""
    pi.engine.use({name!r})
    n = 20000
    i = np.arange(n)
    rows, cols = np.r_[i, i[:-1], i[1:]], np.r_[i, i[1:], i[:-1]]
    chain = pi.SparsePattern(rows, cols, (n, n), "spd")
    values = jnp.asarray(np.r_[np.full(n, 2.1), np.full(2 * n - 2, -1.0)])
    many = jax.vmap(lambda k: pi.sparse_solve(chain, k * values, jnp.ones((n, 8))))
    jax.jit(many)(jnp.arange(1.0, 11.0))  # nobody waits, nobody holds the result
    """)
    python(code)


NOWHERE = {"PYIMPLICIT_CONFIG": str(HERE / "no_such_config.toml")}


@pytest.fixture
def without_julia(monkeypatch):
    for name in ("PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def test_julia_missing(without_julia, tmp_path):
    env = NOWHERE | {"PYTHON_JULIAPKG_PROJECT": str(tmp_path)}
    code = SOLVE + textwrap.dedent("""
    assert good() and pi.engine.current() == "host"
    print(pi.engine.available()["julia"])
    pi.engine.use("julia")
    try:
        good()
    except pi.julia.JuliaUnavailable as err:
        print(err)
    """)
    out = python(code, env).stdout
    assert out.count("pyimplicit setup-julia") == 3


@julia
@pytest.mark.parametrize("fault", ["empty", "garbage"])
def test_julia_project_broken(fault, tmp_path):
    (tmp_path / "Project.toml").write_text("" if fault == "empty" else "[deps\n???")
    env = settings() | {"PYTHON_JULIACALL_PROJECT": str(tmp_path)}
    code = SOLVE + textwrap.dedent("""
    import warnings
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert good()
    assert len(said) == 1 and "the host engine is used" in str(said[0].message), said
    assert "failed to start" in pi.engine.available()["julia"]
    """)
    done = python(code, env, check=False)
    assert done.returncode == 0, done.stderr
    assert "signal" not in done.stderr


@julia
@pytest.mark.parametrize(
    ("name", "value"),
    [("PYTHON_JULIACALL_THREADS", "1"), ("PYTHON_JULIACALL_HANDLE_SIGNALS", "no")],
)
def test_settings_that_would_hang_or_crash_are_refused(name, value):
    code = SOLVE + textwrap.dedent(f"""
    pi.engine.use("julia")
    try:
        good()
    except pi.julia.JuliaUnavailable as err:
        assert {name!r} in str(err)
        print("refused")
    """)
    assert python(code, {name: value}).stdout == "refused\n"


@julia
def test_a_start_on_another_thread_is_refused_or_falls_back():
    code = SOLVE + textwrap.dedent("""
    import threading, warnings
    pi.engine.use("julia")
    def work():
        try:
            good()
        except pi.julia.JuliaUnavailable as err:
            print("refused" if "warmup" in str(err) else err)
    t = threading.Thread(target=work); t.start(); t.join()
    assert good() and pi.julia.started()
    t = threading.Thread(target=lambda: print(good())); t.start(); t.join()
    """)
    assert python(code).stdout == "refused\nTrue\n"


def test_config_file_must_be_toml(tmp_path):
    (tmp_path / "config.toml").write_text("julia = [")
    code = "import pyimplicit as pi; pi.engine.current()"
    done = python(code, {"PYIMPLICIT_CONFIG": str(tmp_path / "config.toml")}, False)
    assert done.returncode == 1 and "must be readable TOML" in done.stderr


@pytest.mark.parametrize("value", ["cuda", ""])
def test_unknown_engine(value):
    code = "import pyimplicit as pi; pi.engine.current()"
    done = python(code, {"PYIMPLICIT_ENGINE": value}, False)
    assert done.returncode == 1 and "'auto', 'julia', 'host'" in done.stderr
