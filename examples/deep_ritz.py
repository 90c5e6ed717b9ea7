r"""The deep Ritz method on a plate with a slit: an energy, its error without knowing the
solution, and the parameters of the plate from a few readings.

The plate is the square (-1, 1)² of E and Yu's paper, less the slit [0, 1) × {0}. A flame
heats it at one place, and its edges and both faces of the slit are kept cold:

    -κ Δu + c u = f,     u = 0 on the boundary,     min ∫ ½ κ|∇u|² + ½ c u² - f u.

At the tip u is like √r, which linear elements and networks of x are slow to follow.
Here the network gets r^(1/2) (cos, sin)(θ/2) beside x, and vanishes on the boundary by
construction. Some 40 natural gradient steps train it.

How good is it? Its energy is above the least one by half the square of the error. For any
q with div q = -f, Prager and Synge's bound says by how much at most; q is a particular
field plus the curl of a second network. Linear elements stand beside, on a uniform mesh
with about as many unknowns, and on a fine one that is refined towards the tip.

Then κ and c are sought from readings of u at eight points, which the fine elements make
with other κ and c, and errors are added to. `ritz.layer` makes of the trained network a
function of κ and c: u of least energy, with derivatives by the implicit function theorem.

    pyimplicit run deep-ritz [--engine auto|julia|host] [--out DIR]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem, plot, ritz


PLATE = ritz.Slit()
FLAME, WIDTH = jnp.array([-0.25, 0.25]), 0.3  # where it burns, and its radius
RULE = ritz.Gauss(6, 2)
STEPS = ritz.LevenbergMarquardt()
TRUTH = {"kappa": 0.8, "c": 3.0}
START = {"kappa": jnp.array(1.0), "c": jnp.array(2.0)}
SENSORS = np.array([[-0.6, 0.5], [-0.6, -0.5], [-0.3, 0.0], [0.5, 0.5], [0.5, -0.5],
                    [0.1, 0.2], [0.0, 0.7], [0.7, -0.2]])  # fmt: skip
NOISE = 5e-4  # of a reading; u is up to 0.08


def flame(x):
    """f."""
    y = x - FLAME
    return jnp.exp(-0.5 * jnp.sum(y**2, axis=-1) / WIDTH**2)


def particular(x):
    """A field with divergence -f: that of the flame in the whole plane."""
    y = x - FLAME
    return WIDTH**2 * jnp.expm1(-0.5 * (y @ y) / WIDTH**2) * y / (y @ y)


def network(width: int, key: int):
    """A network of x and of the two functions of the tip."""
    net = ritz.MLP(4, width, 1, key=jax.random.key(key))
    return ritz.Features((None, PLATE.corner), net)


def trained(steps: int):
    """u of least energy for κ = 1, c = 0, and the bound of its error."""
    options: dict = {"quadrature": RULE, "optimizer": STEPS, "progress": False}
    found = ritz.solve(
        ritz.poisson(flame), PLATE, ritz.Exact(), network(16, 0), steps=steps,
        report_every=max(steps // 10, 1), **options,
    )  # fmt: skip
    q = ritz.Equilibrated(particular, network(16, 1))
    bound = ritz.flux_bound(
        found.field, PLATE, q, flame, friedrichs=1.0, steps=steps, report_every=steps,
        **options,
    )  # fmt: skip
    return found, bound


def slit_mesh(half: int, refined: bool) -> fem.Mesh:
    """Triangles with `2 half` of their edges along each side; `refined`: all points are
    drawn to the tip, x -> |x| x. Nodes on the slit are double; its boundary is "cold"."""
    square = fem.Mesh.rectangle(2 * half, 2 * half, (2.0, 2.0), origin=(-1.0, -1.0))
    x, cells = np.array(square.points), np.array(square.cells["triangle"])
    on = np.flatnonzero((np.abs(x[:, 1]) < 1e-12) & (x[:, 0] > -1e-12))
    on = on[np.argsort(x[on, 0])]  # from the tip on
    lower = np.arange(len(x))
    lower[on[1:]] = len(x) + np.arange(len(on) - 1)
    own = lambda a: np.where((x[a][..., 1].mean(axis=1) < 0)[:, None], lower[a], a)
    faces = np.stack([on[:-1], on[1:]], axis=1)
    sides = [own(np.asarray(facets)) for facets in square.boundaries.values()]
    cold = np.concatenate([*sides, faces, lower[faces]])
    points = np.concatenate([x, x[on[1:]]])
    if refined:
        points = points * np.abs(points).max(axis=1, keepdims=True)
    return fem.Mesh.from_arrays(points, {"triangle": own(cells)}, boundaries={"cold": cold})


def by_elements(mesh: fem.Mesh, kappa: float, c: float):
    """The space, u and its energy; linear elements."""
    V = fem.FunctionSpace(mesh, "P1", degree=4)
    problem = fem.Problem(V, form, {"cold": 0.0}, structure="spd")
    u = problem.solve({"kappa": kappa, "c": c})
    return V, u, float(-0.5 * fem.integrate(V, lambda w: flame(w.x) * w.u, u=u))


def form(u, v, w):
    return w.kappa * fem.dot(fem.grad(u), fem.grad(v)) + (w.c * u - flame(w.x)) * v


def fitted(steps: int, data):
    """κ, c from readings, by the layer; with the Taylor test of the misfit."""
    layer, _ = ritz.layer(
        lambda p: ritz.poisson(flame, kappa=p["kappa"], reaction=p["c"]), START, PLATE,
        ritz.Exact(), network(16, 2), quadrature=RULE, optimizer=STEPS, steps=steps,
        report_every=steps, cutoff=1e-5, progress=False,
    )  # fmt: skip
    physical = lambda q: jax.tree.map(jnp.exp, q)
    residual = lambda q, data: (layer(physical(q), jnp.asarray(SENSORS)) - data) / NOISE
    start = jax.tree.map(jnp.log, START)
    found = pi.least_squares(residual, start, data, rtol=1e-6, atol=1e-6).value
    misfit = jax.jit(lambda q: 0.5 * jnp.sum(residual(q, data) ** 2))
    taylor = pi.taylor_test(misfit, start, order=1)
    return physical(found), 2 * float(misfit(found)) / len(data), taylor


def main(
    steps: int = 40, cells: int = 32, out=None, *, engine: pi.engine.Engine = "auto", seed=0
) -> dict:
    """Trains, bounds, compares and fits; returns the numbers. A picture goes to the folder
    `out`, if given. `cells`: half of those along a side of the mesh that makes the data."""
    with pi.engine.use(engine):
        found, bound = trained(steps)
        least = found.energy - bound.bound
        mesh = slit_mesh(cells, True)
        elements = {
            f"{len(part.points)} nodes": by_elements(part, 1.0, 0.0)[2]
            for part in (slit_mesh(5, False), mesh)
        }
        V, u, _ = by_elements(mesh, *TRUTH.values())
        clean = np.asarray(fem.point_evaluation(V, SENSORS)(u))
        data = clean + np.random.default_rng(seed).normal(0, NOISE, clean.shape)
        fit, chi2, taylor = fitted(steps, jnp.asarray(data))
        summary = {
            "parameters": ritz.count(found.model),
            "energy": found.energy,
            "least_energy": (least, found.energy),
            "error_bound": bound.bound,
            "elements": {k: e - least for k, e in elements.items()},
            "kappa": float(fit["kappa"]),
            "c": float(fit["c"]),
            "chi2": chi2,
            "taylor_rates": taylor.rates,
        }
        if out is not None:
            summary["picture"] = str(picture(mesh, found, least, elements, Path(out)))
    return summary


def picture(mesh, found, least: float, elements: dict, folder: Path) -> Path:
    """The temperature, and the energy above what can be guaranteed, step by step."""
    folder.mkdir(parents=True, exist_ok=True)
    made, (left, right) = plot.figure(11, 4.2, columns=2)
    plot.field(left, mesh, found.u(jnp.asarray(mesh.points)), label="u", cmap="YlOrRd")
    plot.numbered_points(left, SENSORS, offset=0.07)
    left.plot([0, 1], [0, 0], color="black", linewidth=1.5)
    left.set(title="temperature, and the sensors of the fit", xlabel="x", ylabel="y")
    rows = found.history[1:]
    right.semilogy([r.step for r in rows], [r.energy - least for r in rows], "o-")
    for color, (name, energy) in zip(("C1", "C2"), elements.items(), strict=True):
        right.axhline(
            energy - least, color=color, linestyle="--", label=f"elements, {name}"
        )
    right.set(title="energy above the guaranteed least", xlabel="step", ylabel="I(u) - min")
    right.legend()
    right.grid(alpha=0.3)
    return plot.save(made, folder / "deep_ritz.png")


def run(argv: list[str]) -> int:
    """`pyimplicit run deep-ritz`."""
    parser = argparse.ArgumentParser("pyimplicit run deep-ritz")
    parser.add_argument("--out", default="out/deep-ritz", help="folder for the picture")
    parser.add_argument("--engine", default="auto", choices=("auto", "julia", "host"))
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    for name, value in main(out=options.out, engine=options.engine).items():
        print(f"{name:16}{value:.6g}" if isinstance(value, float) else f"{name:16}{value}")
    return 0


if __name__ == "__main__":
    run([])
