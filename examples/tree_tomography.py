r"""Is the tree hollow? Electrical tomography of a trunk.

Electrodes stand around a trunk's section Ω. A current I enters at electrode a and leaves
at b; the voltage u_m - u_n is read. Along the trunk nothing changes, so a cosine
transform along it leaves one problem in the section for each wavenumber k [1/m],

    -∇·(σ ∇ũ) + k² σ ũ = I/2 (δ_a - δ_b)  in Ω,     σ ∂ũ/∂ν = 0  on the bark,

and u = 2/π ∫ ũ dk (Dey & Morrison 1979, doi:10.1111/j.1365-2478.1979.tb00961.x). Unknown
is the conductivity σ = exp(m) [S/m], m one number per node of a mesh of triangles. Found
is the smoothest m that explains the readings d_i to their errors e_i:

    min over m of  1/2 Σ_i ((u_m - u_n - d_i)/e_i)² + β/2 ∫ |∇(m - m₀)|² + (m - m₀)²/L² dx,

with β such that χ² = 1/N Σ_i ((u_m - u_n - d_i)/e_i)² = 1. An iterate factorises one
sparse matrix for each k, all of one pattern, in one call; the potentials of all
electrodes, their tangents and their adjoints share the factors. Wood conducts, air does
not: the hollow is where σ is low.

    pyimplicit run tree-tomography [--data FILE.ohm] [--engine auto|julia|host] [--out DIR]

Without `--data`, a trunk with a hollow of known place is measured by the computer. With
`--plane` the currents stay in the plane of the section, as in a slice 1 m thick (k = 0,
one factorisation): wrong for a trunk, whose far readings then make its core conduct.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import ohm
from hollow import Circle, compare, find_hollow
from rich.console import Console
from rich.table import Table

import pyimplicit as pi
from pyimplicit import fem, inverse, plot
from pyimplicit.diagnostics import taylor_test


class Section:
    """The electrodes' polygon as a mesh, and the readings that a conductivity makes."""

    def __init__(self, survey: ohm.Survey, cells: int, plane: bool):
        corners = survey.electrodes
        x, y = corners.T
        self.survey, self.plane = survey, plane
        self.area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
        size = np.sqrt(4 * self.area / (np.sqrt(3) * cells))  # of equilateral triangles
        self.mesh = fem.Mesh.polygon(corners, size=size)
        self.V = fem.FunctionSpace(self.mesh, "P1")
        self.at_electrodes = fem.point_evaluation(self.V, corners)
        self.sources = self.at_electrodes.T(jnp.eye(len(corners)))
        self.triangles = np.asarray(self.mesh.cells["triangle"])
        self.predict = jax.jit(self.readings)
        if plane:  # a wavenumber so small that only the constant of u feels it
            self.waves = jnp.array([1e-3 / np.sqrt(self.area)]), jnp.array([1.0])
        else:
            self.waves = wavenumbers(corners)

    def readings(self, sigma) -> jax.Array:
        """u_m - u_n for each reading, `(N,)` [V], of σ per node or per cell [S/m]."""
        if sigma.shape == self.V.shape:
            sigma = sigma[self.triangles].mean(axis=1)
        K, M = fem.diffusion_values(self.V, sigma), fem.mass_values(self.V, sigma)
        pattern = self.V.pattern("spd")
        k, weight = self.waves
        # Column j belongs to a unit current at electrode j.
        solve = lambda k: pi.sparse_solve(pattern, K + k**2 * M, self.sources)
        u = jnp.tensordot(weight, jax.vmap(lambda k: self.at_electrodes(solve(k)))(k), 1)
        a, b, m, n = self.survey.abmn.T
        return (u[m, a] - u[m, b] - u[n, a] + u[n, b]) * self.survey.current


def wavenumbers(electrodes, low=4, high=6) -> tuple[jax.Array, jax.Array]:
    """k [1/m] and weights w such that Σ w ũ(k), for a unit current, is u = 2/π ∫ ũ dk for
    I/2: `low` Gauss-Legendre points in sqrt(k) up to k₀ = 1/(2 r), `high` Gauss-Laguerre
    points above, for the smallest spacing r."""
    gap = np.linalg.norm(electrodes - np.roll(electrodes, 1, axis=0), axis=1)
    k0 = 1 / (2 * gap.min())
    t, w = np.polynomial.legendre.leggauss(low)
    t, w = (t + 1) / 2, w / 2
    s, v = np.polynomial.laguerre.laggauss(high)
    k = np.concatenate([k0 * t**2, k0 * (1 + s)])
    weight = np.concatenate([2 * k0 * t * w, k0 * np.exp(s) * v]) / np.pi
    return jnp.asarray(k), jnp.asarray(weight)


def main(
    data: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    *,
    engine: pi.engine.Engine = "auto",
    cells: int = 2500,
    relative_error: float = 0.03,
    absolute_error: float = 50e-6,
    plane: bool = False,
    check: bool = False,
    progress: bool | None = False,
    seed: int = 0,
) -> dict:
    """Fits the conductivity; writes three files to `out`, if given; returns the summary.

    `relative_error`: of a reading; `absolute_error` [V] is added. `cells`: of the mesh,
    about. `plane`: no currents along the trunk. `check`: also a Taylor test of the
    misfit. `seed`: of the synthetic noise.
    """
    _check_options(cells, relative_error, absolute_error)
    errors = lambda volts: relative_error * np.abs(volts) + absolute_error
    with pi.engine.use(engine):
        if data is None:
            truth = Circle()
            random = np.random.default_rng(seed)
            survey = measure(truth, errors, 3 * cells, plane, random)
        else:
            truth, survey = None, ohm.read(data)
            _check_section(data, survey)
        folder = None if out is None else _check_folder(out)
        began = time.perf_counter()
        section = Section(survey, cells, plane)
        start = homogeneous(section, data)
        weight = 1 / errors(survey.voltage)
        residual = lambda m: (section.readings(jnp.exp(m)) - survey.voltage) * weight
        m0 = jnp.full(section.V.shape, np.log(start))
        keep = section.area / np.pi  # the square of the trunk's radius
        result = inverse.fit(
            residual,
            m0,
            method="gauss-newton",
            prior=inverse.H1Prior(section.V, 1.0, 1 / keep, m0),
            target=1.0,
            max_steps=40,
            progress=progress,
            throw=False,
        )
        sigma = np.exp(np.asarray(result.m))
        volts = np.asarray(section.predict(sigma))
        off, known = volts - survey.voltage, survey.voltage != 0
        later = [row.seconds for row in result.history[2:]]
        hollow, nodes = find_hollow(section.mesh, sigma)
        summary = {
            "data": "synthetic" if data is None else str(data),
            "readings": len(volts),
            "electrodes": len(survey.electrodes),
            "engine": pi.engine.running(),
            "model": "plane" if plane else "trunk",
            "cells": section.mesh.n_cells,
            "nodes": section.mesh.n_points,
            "converged": result.converged,
            "message": result.message,
            "chi2": result.chi2,
            "rms_percent": 100
            * float(np.sqrt(np.mean((off / survey.voltage)[known] ** 2))),
            "steps": result.steps,
            "chi2_of_steps": [row.chi2 for row in result.history],
            "factorisations": sum(row.factorisations for row in result.history),
            "seconds_first_step": sum(row.seconds for row in result.history[:2]),
            "seconds_per_step": float(np.mean(later)) if later else None,
            "seconds": time.perf_counter() - began,
            "start_S_per_m": start,
            "conductivity_S_per_m": [float(sigma.min()), float(sigma.max())],
            "hollow": hollow,
        }
        if truth is not None:
            summary["truth"] = compare(summary["hollow"], truth)
        if check:
            report = taylor_test(lambda m: 0.5 * jnp.sum(residual(m) ** 2), m0)
            finite = [rate if np.isfinite(rate) else None for rate in report.rates]
            summary["taylor_rates"] = finite
    if folder is not None:
        summary["files"] = write(folder, section, sigma, nodes, result, summary, truth)
    return summary


def homogeneous(section: Section, data=None) -> float:
    """The conductivity [S/m] of the trunk if it were the same everywhere: the geometric
    mean of those that explain one reading each."""
    unit = np.asarray(section.predict(jnp.ones(section.V.shape)))
    with np.errstate(divide="ignore"):
        apparent = unit / section.survey.voltage
    good = np.isfinite(apparent) & (apparent > 0)
    if good.mean() < 0.5:
        raise ValueError(
            f"{data}: readings must be u(m) - u(n), positive for a current from a to b; "
            f"{(~good).sum()} of {good.size} have the other sign. Swap m and n, or check "
            "the order of the electrodes."
        )
    return float(np.exp(np.log(apparent[good]).mean()))


def measure(truth: Circle, errors, cells: int, plane: bool, random) -> ohm.Survey:
    """Dipole-dipole readings on a trunk with a hollow, with normal noise, from a mesh
    that the fit will not see."""
    angle = 2 * np.pi * np.arange(24) / 24
    radius = 0.24 * (1 + 0.06 * np.cos(2 * angle + 0.5) + 0.04 * np.cos(3 * angle))
    electrodes = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    pairs = [(i, j) for i in range(24) for j in range(i + 2, 24) if (j + 1) % 24 != i]
    abmn = np.array([(i, i + 1, j, (j + 1) % 24) for i, j in pairs])
    current, unknown = np.full(len(abmn), 5e-3), np.full(len(abmn), np.nan)
    survey = ohm.Survey(electrodes, abmn, current, unknown)
    section = Section(survey, cells, plane)
    centres = section.mesh.points[section.triangles].mean(axis=1)
    hollow = np.hypot(*(centres - [truth.x, truth.y]).T) < truth.radius
    sigma = jnp.where(hollow, truth.inside, truth.outside)
    volts = np.asarray(section.predict(sigma))
    noisy = volts + errors(volts) * random.standard_normal(volts.shape)
    return dataclasses.replace(survey, voltage=noisy)


def write(folder, section: Section, sigma, nodes, result, summary, truth) -> dict:
    """Writes `conductivity.vtu`, `section.png` (with matplotlib) and `summary.json`; they
    are made in a hidden folder and moved when all are there. Returns their places."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as made_in:
            parts = Path(made_in)
            fem.write(parts / "conductivity.vtu", section.V, conductivity=sigma)
            try:
                draw(parts / "section.png", section, sigma, nodes, result, summary, truth)
            except ImportError:
                Console(stderr=True).print("No picture: pip install 'pyimplicit[plot]'")
            names = [*sorted(f.name for f in parts.iterdir()), "summary.json"]
            files = {name: str(folder / name) for name in names}
            text = json.dumps(summary | {"files": files}, indent=2, allow_nan=False)
            (parts / "summary.json").write_text(text + "\n")
            for name in names:
                os.replace(parts / name, folder / name)
    except BaseException:
        if new and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return files


def draw(path: Path, section: Section, sigma, nodes, result, summary, truth) -> None:
    """The section with its hollow, and the way to it."""
    made, (left, right) = plot.figure(11, 5.2, 2, width_ratios=[1.45, 1])
    plot.field(left, section.mesh, sigma, label="conductivity σ [S/m]", log=True)
    corners, hollow = section.survey.electrodes, summary["hollow"]
    left.fill(*corners.T, fill=False, edgecolor="black", linewidth=1)
    plot.numbered_points(left, corners, offset=0.045 * np.ptp(corners, axis=0).max())
    title = "no hollow found"
    if hollow:
        # Outline this part alone: hide what is low elsewhere.
        near = section.triangles[np.isin(section.triangles, nodes).any(axis=1)]
        shown = np.full(sigma.shape, sigma.max())
        shown[near] = sigma[near]
        plot.outline(left, section.mesh, shown, hollow["threshold_S_per_m"])
        place = hollow["x_m"], hollow["y_m"]
        left.plot(*place, "w+", markersize=10)
        title = "hollow at ({:+.3f}, {:+.3f}) m".format(*place)
        title += f", {100 * hollow['share_of_section']:.0f} % of the section"
    if truth:
        turn = np.linspace(0, 2 * np.pi, 100)
        circle = np.stack([np.cos(turn), np.sin(turn)]) * truth.radius
        style = {"color": "tab:red", "label": "true hollow"}
        left.plot(truth.x + circle[0], truth.y + circle[1], "--", **style)
        left.legend(loc="lower left", fontsize=9, framealpha=0.9)
    left.set(title=title, xlabel="x [m]", ylabel="y [m]")
    plot.convergence(right, result, target=1.0)
    right.set_title(f"χ² = {result.chi2:.2f}, rms misfit {summary['rms_percent']:.1f} %")
    plot.save(made, path)


def _check_options(cells: int, relative: float, absolute: float) -> None:
    if not 100 <= cells <= 1_000_000:
        raise ValueError(f"--cells must lie between 100 and 1000000; got {cells}.")
    for name, value in (("relative", relative), ("absolute", absolute)):
        if not 0 <= value < np.inf:
            raise ValueError(f"--{name}-error must be at least 0; got {value}.")
    if relative == absolute == 0:
        raise ValueError("--relative-error and --absolute-error must not both be 0.")


def _check_section(data, survey: ohm.Survey) -> None:
    if "z" in survey.axes:
        raise ValueError(
            f"{data}: electrodes must go round a section (x, y); these have a height z, "
            "so this is a profile over the ground."
        )


def _check_folder(out) -> Path:
    """The folder, if files can be made in it; found out before the work."""
    folder = Path(out)
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"--out must be a folder; {there} is a file.")
    try:
        with tempfile.TemporaryFile(dir=there):
            return folder
    except OSError as err:
        raise PermissionError(
            f"--out must be a folder to write in; {there}: {err}"
        ) from err


def run(argv: list[str] | None = None) -> int:
    """The command line; prints what was found."""
    parser = argparse.ArgumentParser("pyimplicit run tree-tomography")
    parser.add_argument("--data", help="measured readings, an .ohm file")
    parser.add_argument("--out", default="out/tree-tomography", help="folder for results")
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    parser.add_argument("--cells", type=int, default=2500, help="of the mesh, about")
    parser.add_argument("--relative-error", type=float, default=0.03)
    parser.add_argument("--absolute-error", type=float, default=50e-6, help="[V]")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic noise")
    parser.add_argument("--plane", action="store_true", help="no currents along z")
    parser.add_argument("--check", action="store_true", help="Taylor test of the misfit")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = vars(parser.parse_args(argv))
    jax.config.update("jax_enable_x64", True)
    quiet = options.pop("quiet")
    summary = main(**options, progress=not quiet)
    Console().print(_table(summary))
    return 0 if summary["converged"] else 1


def _table(summary: dict) -> Table:
    table = Table(title="Tree tomography", show_header=False)
    table.add_row("data", "{data}, {readings} readings".format(**summary))
    table.add_row("mesh", "{cells} cells, {nodes} nodes".format(**summary))
    table.add_row("fit", "{message}, after {steps} steps".format(**summary))
    table.add_row("rms misfit", "{rms_percent:.2f} %".format(**summary))
    time = "{seconds:.1f} s, engine {engine}, {factorisations} factorisations"
    table.add_row("time", time.format(**summary))
    if summary["seconds_per_step"]:
        table.add_row("", "{seconds_per_step:.2f} s a step once compiled".format(**summary))
    found = "centre ({x_m:+.3f}, {y_m:+.3f}) m, diameter {diameter_m:.3f} m, "
    found += "{share_of_section:.0%} of the section, conducts {contrast:.0f} times less"
    hollow = summary["hollow"]
    table.add_row("hollow", found.format(**hollow) if hollow else "none found")
    if "centre_error_m" in summary.get("truth", {}):
        known = "centre within {centre_error_m:.3f} m of the truth, {area_ratio:.2f} times "
        table.add_row("", known.format(**summary["truth"]) + "its area")
    if "taylor_rates" in summary:
        rates = ", ".join(
            "exact" if r is None else f"{r:.2f}" for r in summary["taylor_rates"]
        )
        table.add_row("Taylor rates", f"{rates} (should be 1, 2, 3)")
    for file in summary.get("files", {}).values():
        table.add_row("wrote", file)
    return table


if __name__ == "__main__":
    try:
        sys.exit(run())
    except (ValueError, OSError) as err:
        sys.exit(f"tree_tomography: {err}")
