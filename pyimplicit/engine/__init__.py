"""Where a solve runs: in Julia where one is set up, else in process (`host`).

The engine is chosen when a function is *traced*. `auto` takes Julia if it is set up and
never downloads anything.
"""

import functools
import threading
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .. import _config
from . import abi, host, host_march, host_product
from .julia import ffi, start


Engine = Literal["auto", "julia", "host"]

_lock = threading.Lock()
_chosen: str | None = None  # what `use` said; None: the configuration
_traced: str | None = None  # the engine that the last trace got


def available() -> dict[str, str | None]:
    """Engines and why they are not there: `None` means usable. Starts nothing."""
    return {"host": None, "julia": start.missing()}


def current() -> str:
    """The engine that a solve traced now will get: "julia" or "host"."""
    name = _chosen or _config.config().engine
    if name == "auto":
        return "host" if available()["julia"] else "julia"
    return name


class use:
    """Chooses the engine: `engine.use("host")`, or `with engine.use("host"): …`.

    Process-wide. Functions that were compiled for another engine are traced again (JAX's
    caches are cleared), so that a comparison compares what it says.
    """

    def __init__(self, name: Engine):
        global _chosen
        self._before = _chosen
        _chosen = _config.check_engine(name)
        _forget_stale()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        global _chosen
        _chosen = self._before
        _forget_stale()


def _forget_stale() -> None:
    staging = isinstance(jnp.add(0, 0), Tracer)
    if _traced is not None and current() != _traced and not staging:
        jax.clear_caches()


def running() -> str:
    """The current engine, started if need be. Where `auto` finds a Julia that does not
    start, it warns once and takes the host; "julia" raises."""
    name = current()
    if name == "julia":
        try:
            start.julia()
        except start.JuliaUnavailable as err:
            if (_chosen or _config.config().engine) == "julia":
                raise
            warnings.warn(
                f"Julia is set up, but the host engine is used. {err}", stacklevel=5
            )
            return "host"
    return name


def used() -> bool:
    """Whether any function of this process was traced for an engine."""
    return _traced is not None


def target(op: str, dtype) -> str:
    """The XLA target of an operation on the current engine, which is started."""
    global _traced
    with _lock:
        _traced = running()
        if _traced == "julia":
            return ffi.target(op, dtype)
        return _host_target(op)


@functools.cache
def _host_target(op: str) -> str:
    """The XLA target of an operation in process, registered on first use."""
    operations = {
        "sparse_solve": host.sparse_solve,
        "march": host_march.march,
        "product": host_product.run,
    }
    name = f"pyimplicit.host.{op}"
    abi.register_python(name, operations[op])
    return name


def register_pattern(key: int, n: int, rows, cols, partner, structure: str) -> None:
    """Makes a sparse pattern known to the current engine; a second time is free."""
    if running() == "julia":
        ffi.register_pattern(key, n, rows, cols, structure)
    else:
        host.register_pattern(key, n, rows, cols, partner, structure)


def counters() -> dict[str, int]:
    """Work of the current engine since `clear()`: "analyses" (symbolic),
    "factorisations" (numeric), "cache_hits", "solves" (right-hand sides), and what it
    keeps: "factors" and "bytes" [bytes]."""
    if running() == "julia":
        return ffi.counters()
    return host.counters()


def clear() -> None:
    """Drops the current engine's factors and sets its counters to zero."""
    if running() == "julia":
        ffi.clear()
    else:
        host.clear()
