"""Reads electrical field data in the `.ohm` text format (also called "unified data").

    24# Number of sensors          the count, then a header that names the columns
    #x y
    0.0  -0.245                    one line for each electrode [m]
    264# Number of data
    #a b m n i u                   electrode numbers from 1, current [A], voltage [V];
    1 2 3 4 5e-05 -0.00787         or R [Ohm] instead of i and u

Columns may stand in any order, units follow a slash (`i/mA`), `#` starts a comment.
Format: https://www.pygimli.org (unified data format). Each fault is one line with file
and line number.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np


UNITS = {"": 1.0, "a": 1.0, "ma": 1e-3, "v": 1.0, "mv": 1e-3, "ohm": 1.0, "m": 1.0}


class OhmError(ValueError):
    """A fault in an `.ohm` file: `FILE:LINE: rule; got fact; remedy`."""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Four-point readings. `electrodes`: `(k, 2)` [m], named by `axes`. `abmn`: `(n, 4)`,
    electrode numbers from 0. `current`: `(n,)` [A]. `voltage`: u(m) - u(n), `(n,)` [V].
    Where the file gives resistances, the current is 1 A."""

    electrodes: np.ndarray
    abmn: np.ndarray
    current: np.ndarray
    voltage: np.ndarray
    axes: tuple[str, ...] = ("x", "y")


def read(path: str | os.PathLike) -> Survey:
    """The survey in a file; raises `OhmError` or `OSError`."""
    lines = _Lines(Path(path))
    names, table, numbers = lines.section("sensors", ["x", "y", "z"])
    axes = [name for name in ("x", "y", "z") if name in names]
    xyz = {axis: table[:, names.index(axis)] for axis in axes}
    flat = [axis for axis in axes if np.ptp(xyz[axis]) > 0]
    if len(flat) != 2:
        raise lines.error(
            numbers[0] - 1,
            f"electrodes must lie in a plane of two axes; they vary along {flat or 'none'}",
        )
    electrodes = np.stack([xyz[axis] for axis in flat], axis=1)
    _distinct(lines, electrodes, numbers)
    names, table, numbers = lines.section("data", [])
    column = lambda name: table[:, names.index(name)]
    abmn = np.stack([column(name) for name in "abmn"], axis=1)
    if "u" in names and "i" in names:
        current, voltage = column("i"), column("u")
    else:
        current, voltage = np.ones(len(table)), column("r")
    for row, line in enumerate(numbers):
        _check(lines, line, abmn[row], current[row], voltage[row], len(electrodes))
    lines.finish()
    return Survey(electrodes, abmn.astype(int) - 1, current, voltage, tuple(flat))


class _Lines:
    """The lines of a file, taken from the top."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        try:
            self.lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as err:
            raise self.error(1, f"an .ohm file must be text; {err.reason}") from None

    def error(self, line: int, text: str) -> OhmError:
        """An error at a line number from 1."""
        return OhmError(f"{self.path}:{line}: {text}")

    def _next(self) -> tuple[str, str] | None:
        """The next line that is not blank: its text before and after a '#'."""
        while self.at < len(self.lines):
            text, _, comment = self.lines[self.at].partition("#")
            self.at += 1
            if text.strip() or comment.strip():
                return text.strip(), comment.strip()
        return None

    def section(self, what: str, default: list[str]):
        """Column names in lower case, values `(rows, columns)` in base units, and the
        line number of each row."""
        count = self._count(what)
        names, scale = default, [1.0] * len(default)
        rows, numbers = [], []
        while len(rows) < count:
            line = self._next()
            if line is None:
                raise self.error(
                    max(len(self.lines), 1),
                    f"the file ends early; got {len(rows)} of the {count} {what} that "
                    "it announces",
                )
            text, comment = line
            if not text:
                if not rows and self._is_header(comment, what):
                    names, scale = self._columns(comment, what)
                continue
            rows.append(self._row(text, names, what))
            numbers.append(self.at)
        if len({len(row) for row in rows}) > 1:
            raise self.error(numbers[0], f"all lines of the {what} must be equally long")
        width = len(rows[0])
        return names[:width], np.array(rows) * scale[:width], numbers

    def _count(self, what: str) -> int:
        line = self._next()
        while line is not None and not line[0]:
            line = self._next()
        if line is None:
            raise self.error(
                max(len(self.lines), 1), f"the file ends before the number of {what}"
            )
        if not line[0].isdecimal() or int(line[0]) < 1:
            raise self.error(
                self.at,
                f"the number of {what} must stand here, a positive whole number; "
                f"got {line[0]!r}",
            )
        return int(line[0])

    def _is_header(self, comment: str, what: str) -> bool:
        first = {name.partition("/")[0].lower() for name in comment.split()}
        return ("x" if what == "sensors" else "a") in first

    def _columns(self, comment: str, what: str) -> tuple[list[str], list[float]]:
        names, scale = [], []
        for word in comment.split():
            name, _, unit = word.lower().partition("/")
            known = name in ("x", "y", "z", "i", "u", "r")
            if known and unit not in UNITS:
                raise self.error(
                    self.at, f"the unit of {word!r} is not known; use A, mA, V, mV, Ohm, m"
                )
            names.append(name)
            scale.append(UNITS[unit] if known else 1.0)
        needed = "abmn" + ("" if "r" in names else "iu") if what == "data" else ""
        missing = [name for name in needed if name not in names]
        if missing:
            raise self.error(
                self.at,
                "the header must name the columns a, b, m, n, i, u (or R for i and u); "
                f"missing: {', '.join(missing)}",
            )
        return names, scale

    def _row(self, text: str, names: list[str], what: str) -> list[float]:
        words = text.split()
        if what == "data" and not names:
            raise self.error(
                self.at, "a header such as '#a b m n i u' must stand before the data"
            )
        short = len(words) < len(names) and what == "data"
        if short or len(words) > len(names):
            raise self.error(
                self.at,
                f"a line of the {what} must have one number for each of the columns "
                f"{' '.join(names)}; got {len(words)} of {len(names)}",
            )
        row = []
        for name, word in zip(names, words, strict=False):
            try:
                row.append(float(word))
            except ValueError:
                raise self.error(
                    self.at, f"column {name} must be a number; got {word!r}"
                ) from None
        return row

    def finish(self) -> None:
        """Only a block of topography, a count and as many lines, may follow."""
        line = self._next()
        while line is not None and not line[0]:
            line = self._next()
        if line is None:
            return
        first = self.at
        rest = sum(1 for _ in iter(self._next, None))
        if not line[0].isdecimal() or rest < int(line[0]):
            raise self.error(
                first,
                "nothing may follow the announced number of data; got a further line, so "
                "the number is too small or lines are doubled",
            )


def _distinct(lines: _Lines, x: np.ndarray, numbers: list[int]) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise lines.error(
            numbers[bad[0]], f"an electrode's place must be finite; got {x[bad[0]]}"
        )
    gap = np.linalg.norm(x[:, None] - x, axis=2) + np.tri(len(x)) * 1e300
    i, j = np.unravel_index(gap.argmin(), gap.shape)
    if gap[i, j] <= 1e-6 * np.ptp(x, axis=0).max():
        raise lines.error(
            numbers[j],
            f"electrodes must be apart; got electrode {j + 1} at the place of electrode "
            f"{i + 1} (line {numbers[i]})",
        )


def _check(lines, line, abmn, current, voltage, count) -> None:
    """One reading, line by line, so that the first fault is named."""
    for name, number in zip("abmn", abmn, strict=True):
        if not (number == int(number) if np.isfinite(number) else False) or not (
            1 <= number <= count
        ):
            raise lines.error(
                line,
                f"electrode {name} must be a number from 1 to {count}; got {number:g}",
            )
    for p, q in ((0, 1), (2, 3), (0, 2), (0, 3), (1, 2), (1, 3)):
        if abmn[p] == abmn[q]:
            raise lines.error(
                line,
                f"electrodes {'abmn'[p]} and {'abmn'[q]} must differ; both are {abmn[p]:g}",
            )
    for name, number in (("current", current), ("voltage", voltage)):
        if not np.isfinite(number):
            raise lines.error(line, f"the {name} must be finite; got {number}")
    if current == 0:
        raise lines.error(line, "the current must not be zero; got 0 A")
