"""Double precision, both engines, and the rule for tests that need Julia."""

import os

import jax
import pytest


# XLA's older code generator compiles small programs in half the time, and most of a run
# is that. To run with the other one, as users do: `XLA_FLAGS= python -m pytest`. (XLA
# ends the process for a flag that it does not know.)
if (0, 10) <= jax.__version_info__ < (0, 11):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
jax.config.update("jax_enable_x64", True)

import pyimplicit as pi  # noqa: E402


VERSIONS: set[str] = set()  # of the Julias that ran
REQUIRED = os.environ.get("PYIMPLICIT_REQUIRE_JULIA") == "1"


def pytest_collection_modifyitems(items):
    """Tests of one engine run together: switching throws compiled functions away."""
    items.sort(key=lambda item: "[julia" in item.name)


def pytest_runtest_setup(item):
    if item.get_closest_marker("julia") is not None:
        _need_julia()


def _need_julia():
    if reason := pi.engine.available()["julia"]:
        if REQUIRED:
            pytest.fail(f"PYIMPLICIT_REQUIRE_JULIA=1, but {reason}")
        pytest.skip(reason)


@pytest.fixture(autouse=True, scope="module")
def _forget():
    """What one file compiled is of no use to the next; kept, it takes gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(
    params=["host", pytest.param("julia", marks=pytest.mark.julia)], scope="session"
)
def engine(request):
    """Runs a test once for each engine."""
    if request.param == "julia":
        _need_julia()
    with pi.engine.use(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def _default_engine(request):
    """`engine` stays as the last test had it; tests of Julia alone must not see that."""
    alone = request.node.get_closest_marker("julia") is not None
    if not alone or "engine" in request.fixturenames:
        yield
        return
    with pi.engine.use("auto"):
        yield


def pytest_sessionfinish(session):
    """Each process says which Julia ran in it."""
    if pi.julia.started():
        output = getattr(session.config, "workeroutput", None)  # of pytest-xdist
        if output is None:
            VERSIONS.add(str(pi.julia.version()))
        else:
            output["julia"] = str(pi.julia.version())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if version := getattr(node, "workeroutput", {}).get("julia"):
        VERSIONS.add(version)


def pytest_terminal_summary(terminalreporter):
    """One line that says whether the Julia half ran."""
    passed = terminalreporter.stats.get("passed", [])
    ran = sum("julia" in report.keywords for report in passed)
    if ran:
        version = ", ".join(sorted(VERSIONS)) or "in subprocesses only"
        line = f"Julia half: ran, Julia {version}, {ran} tests passed"
    else:
        line = f"Julia half: not run ({pi.engine.available()['julia'] or 'deselected'})"
    terminalreporter.write_line(line)
