r"""When did the heater burn? The power of a heat source in time, from thermometers.

A heater sits under a plate of aluminium, which loses heat to the air on both faces. Per
area, with the temperature u above that of the air,

    ρ c d u' - ∇·(κ d ∇u) + 2 h u = P(t) g(x),     no flux through the edges,

g the heater's footprint with ∫ g = 1. Four thermometers stand away from the heater, their
readings dᵢ have errors of e = 0.1 K, and the power P(t) [W] is sought: the smoothest one
that explains the readings to their errors,

    min over P of  1/2 Σᵢ ((uᵢ - dᵢ)/e)² + β/2 ∫ P'² + P²/L² dt,

β such that χ² = 1. It is a field on a mesh of the time axis, so it has an H1 prior like
any other field. Every product of the fit with the derivative of the readings is a march
through all steps, forwards or backwards, with one and the same factor of the matrix.

    pyimplicit run heat-source [--engine auto|julia|host] [--out DIR]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem, inverse, plot


SIZE = (0.3, 0.2)  # of the plate [m]
HEATER, WIDTH = np.array([0.11, 0.12]), 0.015  # where it is, and its radius [m]
SENSORS = np.array([[0.03, 0.04], [0.18, 0.07], [0.08, 0.18], [0.26, 0.16]])  # [m]
PLATE = {
    "store": 2.4e6 * 0.002,  # ρ c d [J m⁻² K⁻¹]
    "conduct": 200 * 0.002,  # κ d [W K⁻¹]
    "lose": 2 * 10.0,  # 2 h [W m⁻² K⁻¹]
}
NOISE = 0.1  # of a reading [K]
END = 600.0  # [s]


def power(t):
    """The power that the computer measures: a slow fire, and a short one [W]."""
    slow = 60 * jnp.sin(jnp.pi * jnp.clip((t - 40) / 240, 0.0, 1.0)) ** 2
    return slow + 90 * jnp.exp(-(((t - 420) / 30) ** 2))


class Plate:
    """The mesh, the times `(n + 1,)` [s], and the readings that a power makes."""

    def __init__(self, cells: int, steps: int):
        self.mesh = fem.Mesh.rectangle(3 * cells, 2 * cells, SIZE)
        self.V = fem.FunctionSpace(self.mesh, "P1")
        self.axis = fem.FunctionSpace(fem.Mesh.interval(steps, END), "P1")
        self.times = jnp.asarray(self.axis.mesh.points[:, 0])
        self.sensors = fem.point_evaluation(self.V, SENSORS)
        g = jax.vmap(footprint)(self.V.dof_points)
        self.heater = self.V.pattern().matvec(fem.mass_values(self.V), g)  # ⟨g, v⟩
        self.problem = fem.Problem(self.V, form, mass=mass, structure="spd")

    def evolve(self, P, save) -> jax.Array:
        """u from the cold plate on, for the power `(n + 1,)` [W] at the times."""
        return fem.evolve(
            self.problem, 0.0, self.times, PLATE,
            load=lambda t: jnp.interp(t, self.times, P) * self.heater,
            method=fem.CrankNicolson(), save=save,
        )  # fmt: skip

    def readings(self, P) -> jax.Array:
        """`(n + 1, sensors)` [K]."""
        return self.evolve(P, lambda t, u: self.sensors(u))


def form(u, v, w):
    flow = w.conduct * fem.dot(fem.grad(u), fem.grad(v))
    return flow + w.lose * u * v


def mass(u, v, w):
    return w.store * u * v


def footprint(x):
    """g [m⁻²]."""
    r2 = jnp.sum((x - HEATER) ** 2) / WIDTH**2
    return jnp.exp(-r2) / (jnp.pi * WIDTH**2)


def main(
    cells: int = 16,
    steps: int = 100,
    out=None,
    *,
    engine: pi.engine.Engine = "auto",
    seed=0,
) -> dict:
    """Finds the power from noisy readings; returns how well, and the powers [W]. A picture
    goes to the folder `out`, if given."""
    with pi.engine.use(engine):
        plate = Plate(cells, steps)
        truth = power(plate.times)
        clean = np.asarray(jax.jit(plate.readings)(truth))
        noise = np.random.default_rng(seed).normal(0, NOISE, clean.shape)
        data = clean + noise
        residual = lambda P: ((plate.readings(P) - data) / NOISE).ravel()
        result = inverse.fit(
            residual,
            jnp.zeros(plate.axis.shape),
            prior=inverse.H1Prior(plate.axis, 1.0, 1 / END**2),
            target=1.0,
            progress=False,
        )
        taylor = pi.taylor_test(
            lambda P: 0.5 * jnp.sum(residual(P) ** 2), result.m, order=1
        )
        found = np.asarray(result.m)
        summary = {
            "chi2": result.chi2,
            "steps": result.steps,
            "error": float(np.linalg.norm(found - truth) / np.linalg.norm(truth)),
            "energy_ratio": float(np.trapezoid(found) / np.trapezoid(truth)),
            "factorisations": sum(row.factorisations for row in result.history),
            "taylor_rates": taylor.rates,
            "power_W": found,
        }
        if out is not None:
            summary["picture"] = str(picture(plate, found, data, Path(out)))
    return summary


def picture(plate: Plate, found, data, folder: Path) -> Path:
    """The plate when it is warmest, the readings, and the powers."""
    folder.mkdir(parents=True, exist_ok=True)
    both = lambda t, u: (u, plate.sensors(u))
    u, fitted = jax.jit(lambda P: plate.evolve(P, both))(found)
    warmest = int(jnp.argmax(u.mean(axis=1)))
    made, (left, middle, right) = plot.figure(15, 4.2, columns=3)
    t = np.asarray(plate.times)
    plot.field(left, plate.mesh, u[warmest], label="u [K]", cmap="YlOrRd")
    plot.numbered_points(left, SENSORS, offset=0.012)
    left.set(title=f"temperature at {t[warmest]:.0f} s", xlabel="x [m]", ylabel="y [m]")
    for k in range(len(SENSORS)):
        middle.plot(t, data[:, k], ".", markersize=3, color=f"C{k}")
        middle.plot(t, fitted[:, k], color=f"C{k}", label=f"thermometer {k + 1}")
    middle.set(title="readings and fit", xlabel="t [s]", ylabel="u [K]")
    right.plot(t, power(plate.times), "k--", label="true")
    right.plot(t, found, color="tab:red", label="found")
    right.set(title="power of the heater", xlabel="t [s]", ylabel="P [W]")
    for ax in (middle, right):
        ax.legend()
        ax.grid(alpha=0.3)
    return plot.save(made, folder / "heat_source.png")


def run(argv: list[str]) -> int:
    """`pyimplicit run heat-source`."""
    parser = argparse.ArgumentParser("pyimplicit run heat-source")
    parser.add_argument("--out", default="out/heat-source", help="folder for the picture")
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    summary = main(out=options.out, engine=options.engine)
    del summary["power_W"]
    for name, value in summary.items():
        print(f"{name:16}{value:.4g}" if isinstance(value, float) else f"{name:16}{value}")
    return 0


if __name__ == "__main__":
    run([])
