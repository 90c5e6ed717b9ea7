r"""The stiffest beam of half the material: topology optimisation of the MBB beam.

Half of a beam on two supports, pressed down in the middle: where to put material of a given
volume, so that the work of the load c = ⟨f, u⟩ (the compliance) is least? Each cell has a
density x in (0, 1), smoothed over the radius r (no chequerboard), and Young's modulus
E = ε + x̃³ (half-dense material does not pay). u is the solution of linear elasticity in
plane stress, so

    min over x of c(x) = ⟨f, u(x)⟩,   mean x̃ = 1/2,   0 <= x <= 1.

The gradient is `jax.grad` through the solve: c is its own adjoint, but nothing here knows
that. The update is that of optimality criteria: x (-∂c/∂x / λ ∂V/∂x)^½, within a move
limit, with the λ that keeps the volume.

Source: Sigmund 2001, doi:10.1007/s001580050176; with a density filter Andreassen et al.
2011, doi:10.1007/s00158-010-0594-7, whose 60 x 20 beam (r = 2.4) has c = 233.71.

    pyimplicit run mbb-beam [--engine auto|julia|host] [--cells 60] [--out DIR]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem, plot


VOLUME = 0.5  # of the full beam
POWER = 3.0  # E = EMPTY + x̃³
EMPTY = 1e-9
MOVE = 0.2  # a density may change by so much in a step


class Beam:
    """`3 n x n` unit squares, symmetric about the left edge; the load 1 at its top.
    Densities are `(n, 3 n)`, rows from below."""

    def __init__(self, n: int, radius: float):
        square = fem.Mesh.rectangle(3 * n, n, (3.0 * n, float(n)), cells="quad")
        corners = square.nearest_nodes([[0.0, n], [3.0 * n, 0.0]])
        boundaries = {**square.boundaries, "support": corners[1:, None]}
        self.mesh = fem.Mesh.from_arrays(square.points, square.cells, boundaries=boundaries)
        self.V = fem.FunctionSpace(self.mesh, "Q1", components=2)
        fixed = {"left": (0.0, None), "support": (None, 0.0)}
        self.problem = fem.models.elasticity(self.V, fixed, plane="stress")
        self.load = jnp.zeros(self.V.shape).at[corners[0], 1].set(-1.0)
        centres = self.mesh.points[self.mesh.cells["quad"]].mean(axis=1)
        self.order = np.lexsort(centres.T)  # cells by row, then by column
        self.shape = (n, 3 * n)
        reach = np.arange(1 - np.ceil(radius), np.ceil(radius))
        self.cone = jnp.maximum(0.0, radius - np.hypot(*np.meshgrid(reach, reach)))

    def filter(self, x) -> jax.Array:
        """x̃: means over the neighbours, with weights falling to 0 at the radius."""
        smooth = lambda a: jax.scipy.signal.convolve2d(a, self.cone, mode="same")
        return smooth(x) / smooth(jnp.ones(self.shape))

    def compliance(self, x) -> jax.Array:
        stiff = EMPTY + self.filter(x).ravel() ** POWER
        E = jnp.zeros(self.mesh.n_cells).at[self.order].set(stiff)
        u = self.problem.solve({"E": fem.cellwise(E), "nu": 0.3}, self.load)
        return jnp.sum(self.load * u)

    def volume(self, x) -> jax.Array:
        return jnp.mean(self.filter(x))

    def step(self, x) -> tuple[jax.Array, jax.Array]:
        """The compliance, and better densities of the same volume."""
        c, slope = jax.value_and_grad(self.compliance)(x)
        worth = jnp.sqrt(jnp.maximum(0.0, -slope / jax.grad(self.volume)(x)))
        lowest, most = jnp.maximum(0.0, x - MOVE), jnp.minimum(1.0, x + MOVE)
        update = lambda root: jnp.clip(x * worth / root, lowest, most)
        excess = lambda log, _: self.volume(update(jnp.exp(log))) - VOLUME
        log = jnp.log(jnp.max(worth))  # √λ is at most this times x/(x - move)
        ends = {"lower": log - 30, "upper": log + 3}
        found = pi.root(
            excess, log, solver=pi.Bisection(rtol=1e-10, atol=1e-10), options=ends
        )
        return c, update(jnp.exp(found.value))


def main(
    cells: int = 20,
    radius: float | None = None,
    *,
    max_steps: int = 300,
    out=None,
    engine: pi.engine.Engine = "auto",
) -> dict:
    """Optimises a beam of `3 cells x cells` squares until no density changes by 1 % any
    more; returns its compliance, and the densities. A picture goes to `out`, if given."""
    with pi.engine.use(engine):
        beam = Beam(cells, 0.12 * cells if radius is None else radius)
        step = jax.jit(beam.step)
        x, history, change = jnp.full(beam.shape, VOLUME), [], np.inf
        while change > 0.01 and len(history) < max_steps:
            c, new = step(x)
            history.append(float(c))
            change, x = float(jnp.max(jnp.abs(new - x))), new
        summary = {
            "compliance": float(jax.jit(beam.compliance)(x)),
            "at_first": history[0],
            "steps": len(history),
            "volume": float(beam.volume(x)),
            "taylor_rates": pi.taylor_test(beam.compliance, 0.2 + 0.6 * x, order=1).rates,
            "densities": np.asarray(beam.filter(x)),
        }
        if out is not None:
            summary["picture"] = str(picture(summary, history, Path(out)))
    return summary


def picture(summary: dict, history, folder: Path) -> Path:
    """The whole beam, and the compliance over the steps."""
    folder.mkdir(parents=True, exist_ok=True)
    made, (left, right) = plot.figure(13, 3.2, columns=2, width_ratios=(3, 1))
    half = summary["densities"]
    whole = np.hstack([half[:, ::-1], half])
    left.imshow(whole, origin="lower", cmap="gray_r", vmin=0, vmax=1)
    left.set(title=f"c = {summary['compliance']:.2f}", xlabel="x", ylabel="y")
    right.semilogy(history)
    right.set(title="compliance", xlabel="step")
    right.grid(alpha=0.3)
    return plot.save(made, folder / "mbb_beam.png")


def run(argv: list[str]) -> int:
    """`pyimplicit run mbb-beam`."""
    parser = argparse.ArgumentParser("pyimplicit run mbb-beam")
    parser.add_argument("--out", default="out/mbb-beam", help="folder for the picture")
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    parser.add_argument("--cells", type=int, default=20, help="over the height")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    summary = main(options.cells, out=options.out, engine=options.engine)
    del summary["densities"]
    for name, value in summary.items():
        print(f"{name:16}{value:.5g}" if isinstance(value, float) else f"{name:16}{value}")
    return 0


if __name__ == "__main__":
    run([])
