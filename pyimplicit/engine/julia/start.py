"""Starts Julia, once, on first use. The only file that imports `juliacall`.

What must hold, and why:

- Julia handles signals. Its threads stop for the garbage collector at a guarded page,
  that is by SIGSEGV; without the handler the process dies.
- Python's main thread is *parked*: between calls it is in Julia's GC-safe state. XLA
  runs Julia on threads of its own while the main thread waits in C++; a collection there
  would wait for the main thread for ever. Calls into Julia leave and re-enter the state
  by themselves.
- At least two Julia threads, so that a task spawned by a handler finds one that is not
  parked.
- Ctrl-C stays Python's.
"""

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import json
import os
import signal
import sys
import threading
from pathlib import Path

from ..._config import companion, config
from .. import abi


class JuliaUnavailable(RuntimeError):
    """Julia is not set up, or did not start; the message says why and what to do."""


_lock = threading.RLock()
_failure: str | None = None
_started = False

_SETTINGS = {
    "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
    "PYTHON_JULIACALL_STARTUP_FILE": "no",
    "PYTHON_JULIACALL_AUTOLOAD_IPYTHON_EXTENSION": "no",
}
_SETUP = "Run `pyimplicit setup-julia`, or use the engine 'host'."


def missing() -> str | None:
    """Why Julia cannot be used, or `None`. Starts and downloads nothing."""
    if _started:
        return None
    if _failure:
        return _failure
    if importlib.util.find_spec("juliacall") is None:
        return "the Python package juliacall is not installed"
    if "juliacall" in sys.modules:
        return None  # somebody started Julia: whether it serves, we find out by trying
    try:
        found = location()
    except ValueError as err:
        return str(err)
    if found is None:
        return "no Julia is set up; `pyimplicit setup-julia` does it"
    executable, project = found
    if not Path(executable).is_file():
        return f"the Julia executable {executable} does not exist"
    if not Path(project).is_dir():
        return f"the Julia project {project} does not exist"
    return None


def location() -> tuple[str, str] | None:
    """`(executable, project)`: from juliacall's environment variables, else from
    pyimplicit's config file, else from an environment that juliapkg has resolved."""
    names = ("PYTHON_JULIACALL_EXE", "PYTHON_JULIACALL_PROJECT")
    given = [os.environ.get(name) for name in names]
    if all(given):
        return given[0] or "", given[1] or ""
    if any(given):
        raise ValueError(f"{names[0]} and {names[1]} must be set together")
    if config().julia_executable and config().julia_project:
        return config().julia_executable or "", config().julia_project or ""
    return _resolved_by_juliapkg()


def _resolved_by_juliapkg() -> tuple[str, str] | None:
    project = Path(
        os.environ.get("PYTHON_JULIAPKG_PROJECT") or Path(sys.prefix) / "julia_env"
    )
    try:
        meta = json.loads((project / "pyjuliapkg" / "meta.json").read_text())
        packages = {package["name"] for package in meta["pkgs"]}
        executable = meta["executable"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (executable, str(project)) if "ImplicitAdjoints" in packages else None


def julia():
    """The Julia module `ImplicitAdjoints`; starts Julia if need be.

    Raises `JuliaUnavailable` where there is none, where it cannot start, and where the
    start would happen on another thread than Python's main one.
    """
    with _lock:
        return _start()


def started() -> bool:
    """Whether Julia runs in this process for pyimplicit."""
    return _started


@functools.cache
def _start():
    global _failure, _started
    if reason := missing():
        raise JuliaUnavailable(f"Julia cannot be used: {reason}.\n{_SETUP}")
    if threading.current_thread() is not threading.main_thread():
        raise JuliaUnavailable(
            "Julia must be started on Python's main thread.\n"
            f"Got the thread {threading.current_thread().name!r}.\n"
            "Call pi.julia.warmup() there first."
        )
    abi.check_version()
    try:
        module = _import_juliacall()
        _park_main_thread(module)
    except JuliaUnavailable as err:
        _failure = str(err)
        raise
    except Exception as err:
        first = (str(err).strip() or type(err).__name__).splitlines()[0]
        _failure = f"it failed to start ({first})"
        raise JuliaUnavailable(
            f"Julia must start with the project of `pyimplicit setup-julia`.\n"
            f"Got: {first}\n{_SETUP}"
        ) from err
    major, minor = abi.version()
    debug = os.environ.get("PYIMPLICIT_DEBUG") == "1"
    module.configure(major, minor, config().cache_bytes, debug)
    abi.IN_FLIGHT.append(module.in_flight)
    _started = True
    return module


def _import_juliacall():
    foreign = "juliacall" in sys.modules
    handler = signal.getsignal(signal.SIGINT)
    with _environment({} if foreign else _juliacall_settings()):
        import juliacall
    # Julia's runtime takes SIGINT for itself; give Ctrl-C back to Python.
    signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    scope = juliacall.newmodule("pyimplicit")
    if foreign:
        _check_foreign_start(scope)
    scope.seval("import ImplicitAdjoints")
    return scope.ImplicitAdjoints


def _juliacall_settings() -> dict[str, str]:
    found = location()
    if found is None:
        raise JuliaUnavailable(f"No Julia is set up.\n{_SETUP}")
    executable, project = found
    settings = _SETTINGS | {
        "PYTHON_JULIACALL_EXE": executable,
        "PYTHON_JULIACALL_PROJECT": project,
        "PYTHON_JULIACALL_THREADS": str(_threads()),
    }
    kept = {name: os.environ[name] for name in settings if name in os.environ}
    if kept.get("PYTHON_JULIACALL_HANDLE_SIGNALS", "yes") != "yes":
        raise JuliaUnavailable(
            "PYTHON_JULIACALL_HANDLE_SIGNALS must be 'yes' (or unset): without it the "
            "first garbage collection ends the process.\n"
            f"Got {kept['PYTHON_JULIACALL_HANDLE_SIGNALS']!r}.\nUnset it."
        )
    if kept.get("PYTHON_JULIACALL_THREADS") in ("0", "1"):
        raise JuliaUnavailable(
            "PYTHON_JULIACALL_THREADS must be 2 or more (or unset): Python's main thread "
            "is Julia's first and runs no tasks.\n"
            f"Got {kept['PYTHON_JULIACALL_THREADS']!r}.\nUnset it."
        )
    return settings | kept


def _threads() -> int:
    # One is parked, and XLA's thread works too: as many as there are cores, at least 2.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return max(2, min(cores or os.cpu_count() or 2, 16))


def _check_foreign_start(scope) -> None:
    """Somebody imported juliacall first: is this Julia fit to be called by XLA?"""
    if scope.seval("Base.JLOptions().handle_signals") != 1:
        raise JuliaUnavailable(
            "Julia was started by another package with signal handling off; called by "
            "XLA, its first garbage collection would end the process.\n"
            "Got juliacall imported before pyimplicit's first Julia call.\n"
            "Set PYTHON_JULIACALL_HANDLE_SIGNALS=yes, or call pi.julia.warmup() first."
        )
    if scope.seval("Threads.nthreads()") < 2:
        raise JuliaUnavailable(
            "Julia was started by another package with one thread, which is parked "
            "while XLA works.\nGot juliacall imported before pyimplicit.\n"
            "Set PYTHON_JULIACALL_THREADS=2 (or more), or call pi.julia.warmup() first."
        )
    if scope.seval('Base.identify_package("ImplicitAdjoints") === nothing'):
        found = location()
        paths = scope.seval("LOAD_PATH")
        paths.append(found[1] if found else str(companion("julia")))


def _park_main_thread(module) -> None:
    path = module.runtime_library()
    runtime = ctypes.PyDLL(str(path))
    runtime.jl_gc_safe_enter.restype = ctypes.c_int8
    runtime.jl_gc_safe_leave.argtypes = [ctypes.c_int8]
    runtime.jl_gc_safe_leave.restype = None
    before = runtime.jl_gc_safe_enter()
    # juliacall's own exit hook expects the state it left; ours runs before it.
    atexit.register(runtime.jl_gc_safe_leave, before)


@contextlib.contextmanager
def _environment(settings: dict[str, str]):
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def version() -> str:
    """Julia's version, e.g. "1.10.8"; starts Julia if need be."""
    return str(julia().versions()[0])
