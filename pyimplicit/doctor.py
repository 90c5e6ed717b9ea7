"""`pyimplicit doctor`: what is installed, which engine runs and why, what to do."""

import os
import platform
import time
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from . import _config, engine
from .engine import abi
from .engine.julia import start
from .linear import SparsePattern, sparse_solve


_PACKAGES = ("pyimplicit", "jax", "jaxlib", "numpy", "scipy", "juliacall", "lineax")


def doctor() -> int:
    """Prints the report; returns 0 if the chosen engine works."""
    table = Table(title="pyimplicit doctor", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _facts():
        table.add_row(name, text)
    healthy = _engines(table)
    Console(soft_wrap=False).print(table)
    return 0 if healthy else 1


def _facts():
    yield "Python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    for name in _PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "not installed"
    yield "devices", ", ".join(map(str, jax.devices()))
    x64 = jax.config.read("jax_enable_x64")
    yield "float64", "on" if x64 else "off: jax.config.update('jax_enable_x64', True)"
    version = ".".join(map(str, abi.version()))
    tried = abi.version() in abi.TESTED_VERSIONS
    yield "XLA FFI", version if tried else f"{version}: never tried with this release"
    file = _config.path()
    yield "config file", f"{file}{'' if file.exists() else ' (none)'}"
    yield "cores", str(os.cpu_count())


def _engines(table: Table) -> bool:
    chosen = engine.current()
    reason = start.missing()
    if chosen == "julia" or reason is None:
        healthy = _julia(table) or chosen != "julia"
    else:
        healthy = True
        table.add_row("Julia", f"not used: {reason}")
    try:
        chosen = engine.current()  # a Julia that failed to start is out
        how = f"PYIMPLICIT_ENGINE={_config.config().engine}"
        seconds = _round_trip()
        table.add_row("engine", f"{chosen} ({how}), 1-op round trip {1e6 * seconds:.0f} µs")
    except Exception as err:
        table.add_row("engine", f"{chosen} does not work: {err}")
        return False
    return healthy


def _julia(table: Table) -> bool:
    found = start.location()
    if found:
        table.add_row("Julia executable", found[0])
        table.add_row("Julia project", found[1])
    begin = time.perf_counter()
    try:
        module = start.julia()
    except start.JuliaUnavailable as err:
        table.add_row("Julia", f"[red]does not start[/red]: {err}")
        return False
    seconds = time.perf_counter() - begin
    version, threads, blas, pythoncall = module.versions()
    table.add_row("Julia", f"{version}, started in {seconds:.1f} s")
    table.add_row("Julia threads", f"{threads}, BLAS {blas}")
    matches = str(pythoncall) == metadata.version("juliacall")
    remedy = "" if matches else ": must equal juliacall's; run `pyimplicit setup-julia`"
    table.add_row("PythonCall", f"{pythoncall}{remedy}")
    return True


def _round_trip() -> float:
    """Seconds of one jitted solve with a 2 x 2 matrix, the median of 200."""
    pattern = SparsePattern(np.array([0, 1]), np.array([0, 1]), (2, 2))
    solve = jax.jit(lambda v, b: sparse_solve(pattern, v, b))
    values, b = jnp.ones(2), jnp.ones(2)
    times = []
    for _ in range(201):
        begin = time.perf_counter()
        solve(values, b).block_until_ready()
        times.append(time.perf_counter() - begin)
    return float(np.median(times[1:]))
