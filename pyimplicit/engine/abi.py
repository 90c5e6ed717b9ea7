"""The call frame that XLA hands to a foreign function, seen from Python.

The structs mirror `xla/ffi/api/c_api.h` of jaxlib (`jax.ffi.include_dir()`); Julia's
half of the same table is `julia/src/xla.jl`. A handler written in Python is a ctypes
callback: it wraps XLA's buffers where they lie. Against `jax.pure_callback` it saves
the copies and, because no JAX array is made inside the callback, it cannot wait for the
thread pool it is running on.
"""

import atexit
import contextlib
import ctypes as ct
import functools
import re
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
import ml_dtypes
import numpy as np


# Versions of the interface whose layout was tried with this file and `xla.jl`.
TESTED_VERSIONS = ((0, 1), (0, 2), (0, 3))
_INTERNAL = 13
_METADATA = 1

_DTYPES = {
    1: np.dtype(bool),
    2: np.dtype(np.int8),
    3: np.dtype(np.int16),
    4: np.dtype(np.int32),
    5: np.dtype(np.int64),
    6: np.dtype(np.uint8),
    7: np.dtype(np.uint16),
    8: np.dtype(np.uint32),
    9: np.dtype(np.uint64),
    10: np.dtype(np.float16),
    11: np.dtype(np.float32),
    12: np.dtype(np.float64),
    15: np.dtype(np.complex64),
    16: np.dtype(ml_dtypes.bfloat16),
    18: np.dtype(np.complex128),
}


class _Extension(ct.Structure):
    _fields_ = [("struct_size", ct.c_size_t), ("type", ct.c_int), ("next", ct.c_void_p)]


class _Version(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("major", ct.c_int),
        ("minor", ct.c_int),
    ]


class _Metadata(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("api_version", _Version),
        ("traits", ct.c_uint32),
    ]


class _MetadataExtension(ct.Structure):
    _fields_ = [("base", _Extension), ("metadata", ct.POINTER(_Metadata))]


class _Buffer(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("dtype", ct.c_int),
        ("data", ct.c_void_p),
        ("rank", ct.c_int64),
        ("dims", ct.POINTER(ct.c_int64)),
    ]


class _ByteSpan(ct.Structure):
    _fields_ = [("ptr", ct.c_void_p), ("len", ct.c_size_t)]


class _Scalar(ct.Structure):
    _fields_ = [("dtype", ct.c_int), ("value", ct.c_void_p)]


class _Buffers(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("size", ct.c_int64),
        ("types", ct.c_void_p),
        ("items", ct.POINTER(ct.POINTER(_Buffer))),
    ]


class _Attributes(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("size", ct.c_int64),
        ("types", ct.c_void_p),
        ("names", ct.POINTER(ct.POINTER(_ByteSpan))),
        ("items", ct.POINTER(ct.POINTER(_Scalar))),
    ]


class _ErrorCreate(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("message", ct.c_char_p),
        ("code", ct.c_int),
    ]


_CREATE = ct.CFUNCTYPE(ct.c_void_p, ct.POINTER(_ErrorCreate))


class _Api(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.c_void_p),
        ("api_version", _Version),
        ("internal_api", ct.c_void_p),
        ("error_create", _CREATE),
    ]


class _CallFrame(ct.Structure):
    _fields_ = [
        ("struct_size", ct.c_size_t),
        ("extension_start", ct.POINTER(_Extension)),
        ("api", ct.POINTER(_Api)),
        ("ctx", ct.c_void_p),
        ("stage", ct.c_int),
        ("args", _Buffers),
        ("rets", _Buffers),
        ("attrs", _Attributes),
    ]


_HANDLER = ct.CFUNCTYPE(ct.c_void_p, ct.POINTER(_CallFrame))


@functools.cache
def version() -> tuple[int, int]:
    """`(major, minor)` of the interface that the installed jaxlib speaks."""
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    text = header.read_text()
    found = [
        re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")
    ]
    if None in found:
        raise RuntimeError(
            "jaxlib must carry the header of XLA's foreign function interface.\n"
            f"Got {header} without a version.\nInstall a released jaxlib."
        )
    major, minor = (int(m.group(1)) for m in found if m)
    return major, minor


def check_version() -> None:
    """Raises where the layout of the call frame was never tried."""
    if version() not in TESTED_VERSIONS:
        known = ", ".join(f"{a}.{b}" for a, b in TESTED_VERSIONS)
        raise RuntimeError(
            f"XLA's foreign function interface must be one that was tried: {known}.\n"
            f"Got {version()[0]}.{version()[1]} (jaxlib {metadata.version('jaxlib')}).\n"
            "Upgrade pyimplicit, or install an older jaxlib."
        )


def register(target: str, pointer: int) -> None:
    """Registers a C function `XLA_FFI_Error* f(XLA_FFI_CallFrame*)` for the CPU."""
    check_version()
    _wait_at_exit()
    new = ct.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ct.py_object, [ct.c_void_p, ct.c_char_p, ct.c_void_p]
    jax.ffi.register_ffi_target(target, new(pointer, None, None), platform="cpu")


@functools.cache
def _wait_at_exit() -> None:
    """A handler that still runs when Python goes away would wait for it for ever, and XLA
    for the handler. Called after jax's import, so it runs before jax's own exit hook."""
    atexit.register(_finish_pending)


def _finish_pending() -> None:
    for array in jax.live_arrays():
        # A failed computation is as finished as any; there is nobody left to tell.
        with contextlib.suppress(Exception):
            array.block_until_ready()
    # Results that nobody holds any more: XLA has no list of them, so wait until no handler
    # has run for a while. Sleeping gives them the interpreter lock.
    idle = 0
    while idle < 5:
        time.sleep(0.01)
        idle = 0 if any(count() for count in IN_FLIGHT) else idle + 1


def register_python(target: str, fn: Callable) -> None:
    """Registers `fn(inputs, outputs, attributes)` for the CPU: `inputs` and `outputs`
    are tuples of NumPy arrays over XLA's memory, good for the length of the call;
    `attributes` a dict of numbers. What `fn` raises becomes an XLA error."""
    handler = _HANDLER(functools.partial(_run, fn))
    _ALIVE.append(handler)
    pointer = ct.cast(handler, ct.c_void_p).value
    if pointer is None:
        raise RuntimeError(f"ctypes gave no pointer for `{target}`.")
    register(target, pointer)


_running: set[int] = set()  # threads that are in a handler
IN_FLIGHT: list[Callable[[], int]] = [lambda: len(_running)]  # and other engines' counts
_ALIVE: list = []  # XLA keeps the bare pointer; the callbacks must live as long


def _run(fn, frame_ptr) -> int | None:
    frame = frame_ptr.contents
    if frame.extension_start and frame.extension_start.contents.type == _METADATA:
        metadata = ct.cast(
            frame.extension_start, ct.POINTER(_MetadataExtension)
        ).contents.metadata.contents
        metadata.api_version.major, metadata.api_version.minor = version()
        metadata.traits = 0
        return None
    try:
        if frame.struct_size < ct.sizeof(_CallFrame):
            raise RuntimeError(
                f"XLA's call frame has {frame.struct_size} bytes, at least "
                f"{ct.sizeof(_CallFrame)} expected: this jaxlib was never tried."
            )
        _running.add(threading.get_ident())
        fn(_arrays(frame.args), _arrays(frame.rets), _attributes(frame.attrs))
    except BaseException as err:  # nothing may cross into C
        return _error(frame.api, str(err) or type(err).__name__)
    finally:
        _running.discard(threading.get_ident())
    return None


def _arrays(buffers) -> tuple[np.ndarray, ...]:
    return tuple(_array(buffers.items[i].contents) for i in range(buffers.size))


def _array(buffer) -> np.ndarray:
    dtype = _DTYPES[buffer.dtype]
    shape = tuple(buffer.dims[i] for i in range(buffer.rank))
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    memory = (ct.c_char * size).from_address(buffer.data)
    return np.frombuffer(memory, dtype).reshape(shape)


def _attributes(attrs) -> dict[str, int | float | bool]:
    found = {}
    for i in range(attrs.size):
        name, scalar = attrs.names[i].contents, attrs.items[i].contents
        dtype = _DTYPES[scalar.dtype]
        raw = ct.string_at(scalar.value, dtype.itemsize)
        found[ct.string_at(name.ptr, name.len).decode()] = np.frombuffer(raw, dtype)[
            0
        ].item()
    return found


def _error(api, message: str) -> int:
    args = _ErrorCreate(ct.sizeof(_ErrorCreate), None, message.encode(), _INTERNAL)
    return api.contents.error_create(ct.byref(args))
