"""Makes Julia's operations known to XLA: one C function pointer for each signature."""

import functools
import itertools
import threading

import numpy as np

from .. import abi
from .start import julia


_lock = threading.Lock()
_patterns: set[int] = set()
_numbers = itertools.count()


@functools.cache
def target(op: str, dtype) -> str:
    """The XLA target of a built-in operation for one element type."""
    name = f"pyimplicit.julia.{op}.{np.dtype(dtype).name}"
    pointer = getattr(julia(), f"{op}_pointer")(np.dtype(dtype).name)
    abi.register(name, int(pointer))
    return name


def function_target(f, ins, outs) -> str:
    """A new XLA target for a Julia callable on arrays of these (dtype, rank)."""
    pointer = julia().function_pointer(f, _specs(ins), _specs(outs))
    with _lock:
        name = f"pyimplicit.julia.function.{next(_numbers)}"
    abi.register(name, int(pointer))
    return name


def missing_rule(f, ins) -> str:
    """Why a derivative has no rule for arguments of these (dtype, rank), or ""."""
    return str(julia().missing_rule(f, _specs(ins)))


def _specs(arrays) -> list[tuple[str, int]]:
    return [(np.dtype(dtype).name, int(rank)) for dtype, rank in arrays]


def register_pattern(key: int, n: int, rows, cols, structure: str) -> None:
    """Makes a sparse pattern known to Julia under its content key."""
    if key not in _patterns:
        julia().register_pattern(key, n, rows, cols, structure)
        _patterns.add(key)


def counters() -> dict[str, int]:
    """What `engine.counters` shows, from Julia."""
    found = julia().counters()
    names = ("analyses", "factorisations", "cache_hits", "solves", "bytes", "factors")
    return {name: int(getattr(found, name)) for name in names}


def clear() -> None:
    """Drops Julia's factors and sets its counters to zero."""
    julia().clear()
