r"""How stiff is the rubber? Two moduli from the shape and the force of a stretched sheet.

A notched sheet is clamped on the left and pulled by δ on the right; a load cell reads the
force, a camera the displacements of some points. The rubber is neo-Hookean (plane strain),

    ψ = μ/2 (tr FᵀF - 2) - μ ln J + λ/2 (ln J)²,      F = I + ∇u,  J = det F,

and u makes ∫ ψ least. The moduli μ, λ that explain both to their errors are

    min over (ln μ, ln λ) of  1/2 Σᵢ |(u(xᵢ) - dᵢ)/e|² + 1/2 ((R - Rₘ)/eᵣ)².

Displacements alone fix only λ/μ; the force gives the scale. R is the derivative of the
energy by δ, and as u makes the energy least, it is enough to move u along any field that
is 1 on the right and 0 on the left: no stress is written down.

Source: Bonet, Wood 2008, doi:10.1017/CBO9780511755446, eq. (6.27).

    pyimplicit run hyperelastic-fit [--engine auto|julia|host] [--out DIR]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem, inverse, plot


LENGTH, HEIGHT = 60.0, 30.0  # [mm]
NOTCH, RADIUS = 25.0, 9.0  # its centre on the lower edge [mm]
PULL = 24.0  # δ [mm]
STEPS = 6  # of the load
TRUTH = {"mu": 0.4, "lam": 0.9}  # [N/mm²]
SEEN = 0.05  # error of a displacement [mm]
FELT = 0.02  # error of the force per thickness [N/mm]


class Sheet:
    """The mesh with cells of about `size` [mm], and what is measured of the sheet."""

    def __init__(self, size: float):
        angle = np.linspace(np.pi, 0, 1 + max(8, round(np.pi * RADIUS / size)))
        notch = np.stack([NOTCH + RADIUS * np.cos(angle), RADIUS * np.sin(angle)], 1)
        corners = [[0, 0], *notch, [LENGTH, 0], [LENGTH, HEIGHT], [0, HEIGHT]]
        mesh = fem.Mesh.polygon(corners, size=size, points_per_edge=1)
        at = lambda x: mesh.exterior[np.all(mesh.points[mesh.exterior, 0] == x, axis=1)]
        clamps = {"left": at(0.0), "right": at(LENGTH)}
        self.mesh = fem.Mesh.from_arrays(mesh.points, mesh.cells, boundaries=clamps)
        self.V = fem.FunctionSpace(self.mesh, "P1", components=2)
        held = {"left": 0.0, "right": (PULL, 0.0)}
        self.problem = fem.models.hyperelasticity(self.V, held)
        inside = np.meshgrid(np.linspace(6, 54, 9), np.linspace(12, 27, 4))
        self.marks = np.stack([a.ravel() for a in inside], axis=1)
        self.see = fem.point_evaluation(self.V, self.marks)

    def solve(self, m) -> jax.Array:
        """The displacement `(n, 2)` [mm] for the logarithms of the moduli."""
        moduli = {name: jnp.exp(value) for name, value in m.items()}
        return self.problem.solve(moduli, steps=STEPS)

    def measure(self, m) -> tuple[jax.Array, jax.Array]:
        """Displacements of the marks `(36, 2)` [mm], and the force [N/mm]."""
        u = self.solve(m)
        mu, lam = jnp.exp(m["mu"]), jnp.exp(m["lam"])
        ramp = jnp.asarray(self.V.dof_points * [1 / LENGTH, 0.0])
        density = lambda w: fem.models.solid.neo_hookean(jnp.eye(2) + fem.grad(w.u), w)
        stored = lambda s: fem.integrate(self.V, density, u=u + s * ramp, mu=mu, lam=lam)
        return self.see(u), jax.grad(stored)(0.0)


def main(size: float = 2.0, out=None, *, engine: pi.engine.Engine = "auto", seed=0) -> dict:
    """Finds the moduli from noisy measurements; returns them, how well they are known,
    and the work it took. A picture goes to the folder `out`, if given."""
    with pi.engine.use(engine):
        sheet = Sheet(size)
        truth = {name: jnp.log(value) for name, value in TRUTH.items()}
        rng = np.random.default_rng(seed)
        seen, felt = jax.jit(sheet.measure)(truth)
        seen = np.asarray(seen) + rng.normal(0, SEEN, seen.shape)
        felt = float(felt) + rng.normal(0, FELT)

        def residual(m):
            u, force = sheet.measure(m)
            return jnp.append(((u - seen) / SEEN).ravel(), (force - felt) / FELT)

        start = {"mu": jnp.log(1.0), "lam": jnp.log(1.0)}
        result = inverse.fit(residual, start, progress=False)
        J = jax.jit(jax.jacfwd(residual))(result.m)
        J = np.stack([J["mu"], J["lam"]], axis=1)
        spread = np.sqrt(np.diag(np.linalg.inv(J.T @ J)))  # of the logarithms
        misfit = lambda m: 0.5 * jnp.sum(residual(m) ** 2)
        summary = {
            "mu": float(jnp.exp(result.m["mu"])),
            "lam": float(jnp.exp(result.m["lam"])),
            "relative_spread": tuple(map(float, spread)),
            "force": felt,
            "chi2": result.chi2,
            "steps": result.steps,
            "taylor_rates": pi.taylor_test(misfit, start, order=1).rates,
        }
        if out is not None:
            summary["picture"] = str(picture(sheet, result.m, seen, Path(out)))
    return summary


def picture(sheet: Sheet, m, seen, folder: Path) -> Path:
    """The sheet before and after, where the marks were seen, and J."""
    folder.mkdir(parents=True, exist_ok=True)
    u = np.asarray(jax.jit(sheet.solve)(m))
    after = fem.Mesh.from_arrays(sheet.mesh.points + u, sheet.mesh.cells)
    made, (left, right) = plot.figure(14, 4, columns=2)
    plot.field(left, sheet.mesh, np.hypot(*u.T), label="|u| [mm]")
    left.plot(*sheet.marks.T, "k.", markersize=4)
    left.set(title="undeformed", xlabel="x [mm]", ylabel="y [mm]")
    growth = after.volumes / sheet.mesh.volumes
    plot.field(right, after, growth, label="J", cmap="YlOrRd")
    right.plot(*(sheet.marks + seen).T, "k.", markersize=4)
    right.set(title="stretched; dots as seen", xlabel="x [mm]", ylabel="y [mm]")
    return plot.save(made, folder / "hyperelastic_fit.png")


def run(argv: list[str]) -> int:
    """`pyimplicit run hyperelastic-fit`."""
    parser = argparse.ArgumentParser("pyimplicit run hyperelastic-fit")
    parser.add_argument("--out", default="out/hyperelastic-fit", help="for the picture")
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    for name, value in main(out=options.out, engine=options.engine).items():
        print(f"{name:16}{value:.4g}" if isinstance(value, float) else f"{name:16}{value}")
    return 0


if __name__ == "__main__":
    run([])
