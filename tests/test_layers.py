"""Imports point down: no room uses one above it, and juliacall has one importer."""

import ast
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1] / "pyimplicit"

# The floor of each room; the longest matching prefix counts.
FLOORS = {
    "_config": 0,
    "_status": 0,
    "_tree": 0,
    "engine": 1,
    "linear": 2,
    "implicit": 3,
    "iterate": 3,
    "solvers": 3.5,
    "adjoint": 4,
    "custom": 4,
    "problem": 4.1,
    "sweep": 4,
    "reversible": 4.1,
    "root": 4.2,
    "fixed_point": 4.3,
    "minimize": 4.3,
    "fem": 5,
    "optimize": 5,
    "deq": 5,
    "ode": 5,
    "unrolled": 5,
    "inverse": 5.5,
    "ritz": 5.5,
    "diagnostics": 6,
    "check": 6,
    "plot": 6,
    "doctor": 6,
    "cli": 7,
    "": 8,
}
FILES = sorted(ROOT.rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return parts[0] if parts else ""


def imported(file: Path):
    """(parts of the module, name) of each import of our own package."""
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            module = base + tuple(node.module.split(".") if node.module else ())
            for alias in node.names:
                yield (*module, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "pyimplicit":
                yield from ((*node.module.split(".")[1:], a.name) for a in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pyimplicit":
                    yield tuple(alias.name.split(".")[1:])


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    own = "" if parts == ("__init__",) else room(parts)
    assert own in FLOORS, f"give {own} a floor"
    for target in imported(file):
        other = room(target)
        if other not in FLOORS:  # a name of the package's own __init__
            assert own in ("", "cli") or other.startswith("__"), (file, target)
            continue
        assert FLOORS[other] <= FLOORS[own], f"{file} imports {'.'.join(target)}"
        if own == other == "":
            raise AssertionError(f"{file} imports the package itself")


def test_one_importer_of_juliacall_starts_it():
    importers = [
        str(file.relative_to(ROOT))
        for file in FILES
        if any(
            "juliacall" in {alias.name for alias in node.names}
            or getattr(node, "module", "") == "juliacall"
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
    ]
    assert importers == ["engine/julia/start.py"]


def test_files_stay_readable():
    long = {str(f.name): n for f in FILES if (n := f.read_text().count("\n")) > 400}
    assert not long
