r"""What lies in a slag dump? Electrical tomography along a profile over a hill.

Electrodes stand on a line over the ground's section Ω (x, z). The conductivity σ does not
change across the section, but currents spread in three dimensions; a cosine transform
across it leaves one problem for each wavenumber k [1/m],

    -∇·(σ ∇ũ) + k² σ ũ = I/2 (δ_a - δ_b)  in Ω,     σ ∂ũ/∂ν = 0  on the ground,

and u = 2/π ∫ ũ dk (Dey & Morrison 1979, doi:10.1111/j.1365-2478.1979.tb00961.x). The mesh
is that of a polygon: the electrodes, and far from them the corners of a box. All matrices
have one pattern; a batch over k is one call. Found is the smoothest log σ that explains
the readings to their errors, as in `tree_tomography`.

    pyimplicit run slag-dump [--data FILE.ohm] [--out DIR]

Without `--data`, a dump with a conductive core is measured by the computer.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import ohm
from tree_tomography import wavenumbers

import pyimplicit as pi
from pyimplicit import fem, inverse, plot


@dataclasses.dataclass(frozen=True)
class Core:
    """What the computer measures, under the middle of the profile. [m], [S/m]"""

    z: float = 106.0
    radius: float = 4.0
    inside: float = 0.2
    outside: float = 0.02


class Ground:
    """log σ at the nodes ↦ the readings."""

    def __init__(self, survey: ohm.Survey, cells_between: int):
        x, z = survey.electrodes.T
        order = np.argsort(x)
        length = np.ptp(x)
        # Far enough that the box's sides matter less than the data's errors.
        left, right, bottom = (
            x.min() - 3 * length,
            x.max() + 3 * length,
            z.min() - 3 * length,
        )
        first, last = z[order[0]], z[order[-1]]
        box = [[right, last], [right, bottom], [left, bottom], [left, first]]
        corners = np.concatenate([survey.electrodes[order], box])
        self.survey, self.length = survey, length
        self.mesh = fem.Mesh.polygon(corners, size=length, points_per_edge=cells_between)
        self.V = fem.FunctionSpace(self.mesh, "P1")
        self.triangles = np.asarray(self.mesh.cells["triangle"])
        self.at_electrodes = fem.point_evaluation(self.V, survey.electrodes)
        self.sources = self.at_electrodes.T(jnp.eye(len(x)))
        self.waves = wavenumbers(survey.electrodes[order], low=8)
        self.predict = jax.jit(self.readings)

    def readings(self, m) -> jax.Array:
        """u_m - u_n for each reading, `(N,)` [V]."""
        sigma = jnp.exp(m)[self.triangles].mean(axis=1)
        K, M = fem.diffusion_values(self.V, sigma), fem.mass_values(self.V, sigma)
        pattern = self.V.pattern("spd")
        k, weight = self.waves
        # Column j belongs to a unit current at electrode j.
        solve = lambda k: pi.sparse_solve(pattern, K + k**2 * M, self.sources)
        u = jnp.tensordot(weight, jax.vmap(lambda k: self.at_electrodes(solve(k)))(k), 1)
        a, b, m, n = self.survey.abmn.T
        return (u[m, a] - u[m, b] - u[n, a] + u[n, b]) * self.survey.current


def hill(count: int, levels: int) -> ohm.Survey:
    """A Wenner profile of `count` electrodes 2 m apart over a dump 12 m high, without
    voltages: a, m, n, b are equally spaced, by 1 to `levels` times 2 m."""
    x = 2.0 * np.arange(count)
    flank = lambda at: 1 / (1 + np.exp((at - x) / 2))
    z = 100 + 12 * flank(0.25 * x[-1]) * (1 - flank(0.75 * x[-1]))
    abmn = [
        (i, i + 3 * s, i + s, i + 2 * s)
        for s in range(1, levels + 1)
        for i in range(count - 3 * s)
    ]
    unit, unknown = np.ones(len(abmn)), np.full(len(abmn), np.nan)
    axes = ("x", "z")
    return ohm.Survey(np.stack([x, z], axis=1), np.array(abmn), unit, unknown, axes)


def measure(survey: ohm.Survey, cells_between: int, error: float, seed: int) -> ohm.Survey:
    """Readings over a conductive core, with noise, on a mesh that the fit will not see."""
    ground = Ground(survey, cells_between)
    truth, middle = Core(), survey.electrodes[:, 0].mean()
    inside = np.hypot(*(ground.mesh.points - [middle, truth.z]).T) < truth.radius
    sigma = jnp.where(inside, truth.inside, truth.outside)
    volts = np.asarray(ground.predict(jnp.log(sigma)))
    noise = error * np.random.default_rng(seed).standard_normal(len(volts))
    return dataclasses.replace(survey, voltage=volts * (1 + noise))


def main(
    data=None,
    *,
    error: float = 0.03,
    cells_between: int = 4,
    count: int = 31,
    levels: int = 8,
    seed: int = 0,
    out=None,
) -> dict:
    """Returns the fit, the mesh, σ at the nodes [S/m] and Taylor rates; draws
    `out/slag_dump.png`. `data`: an .ohm file. `error`: of a reading, relative.
    `cells_between`: two electrodes, at least."""
    if data is None:
        survey = measure(hill(count, levels), cells_between + 1, error, seed)
    else:
        survey = ohm.read(data)
        if survey.axes != ("x", "z"):
            raise ValueError(f"{data}: a profile has electrodes (x, z); got {survey.axes}.")
    ground = Ground(survey, cells_between)
    unit = np.asarray(ground.predict(jnp.zeros(ground.V.shape)))
    m0 = jnp.full(ground.V.shape, np.median(np.log(abs(unit / survey.voltage))))
    weight = 1 / (error * abs(survey.voltage))
    residual = lambda m: (ground.readings(m) - survey.voltage) * weight
    prior = inverse.H1Prior(ground.V, 1.0, (2 / ground.length) ** 2, m0)
    fit = inverse.fit(residual, m0, prior=prior, target=1.0, max_steps=20, throw=False)
    found = {
        "fit": fit,
        "mesh": ground.mesh,
        "sigma": np.exp(np.asarray(fit.m)),
        "background": float(np.exp(m0[0])),
        "readings": len(survey.voltage),
        "wavenumbers": len(ground.waves[0]),
        "rates": pi.taylor_test(lambda m: 0.5 * jnp.sum(residual(m) ** 2), m0).rates,
    }
    if out is not None:
        draw(Path(out), survey, found)
    return found


def draw(folder: Path, survey: ohm.Survey, found) -> None:
    """The resistivity under the profile, and the way to it."""
    folder.mkdir(parents=True, exist_ok=True)
    made, (left, right) = plot.figure(12, 4, 2, width_ratios=[2, 1])
    rho = 1 / found["sigma"]
    plot.field(left, found["mesh"], rho, label="resistivity [Ω m]", log=True)
    x, z = survey.electrodes.T
    left.plot(x, z, "k.", markersize=4)
    left.set(xlim=(x.min() - 2, x.max() + 2), ylim=(z.min() - 15, z.max() + 2))
    left.set(xlabel="x [m]", ylabel="z [m]")
    plot.convergence(right, found["fit"], target=1.0)
    plot.save(made, folder / "slag_dump.png")


def run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("pyimplicit run slag-dump")
    parser.add_argument("--data", help="measured readings, an .ohm file")
    parser.add_argument("--error", type=float, default=0.03, help="of a reading, relative")
    parser.add_argument("--out", default="out", help="folder for the picture")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    found = main(**vars(options))
    print(found["fit"])
    print(f"{found['mesh'].n_cells} cells, {found['wavenumbers']} wavenumbers", end=", ")
    print(f"σ from {found['sigma'].min():.3g} to {found['sigma'].max():.3g} S/m")
    print("Taylor rates", *(f"{rate:.2f}" for rate in found["rates"]), "(1, 2, 3)")
    return 0 if found["fit"].converged else 1


if __name__ == "__main__":
    raise SystemExit(run([]))
