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
with other κ and c, and errors are added to. `ritz.layer` has made of the same network a
function of κ and c: u of least energy, with derivatives by the implicit function theorem,
for any optimiser; here SciPy's.

    pyimplicit run deep-ritz [--engine auto|julia|host] [--out DIR]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import pyimplicit as pi
from pyimplicit import fem, plot, ritz


PLATE = ritz.Slit()
FLAME, WIDTH = jnp.array([-0.25, 0.25]), 0.3  # where it burns, and its radius
RULE, FINE = ritz.Gauss(6, 2), ritz.Gauss(8, 2)  # to train, and to report
STEPS = ritz.LevenbergMarquardt()
TRUTH = {"kappa": 0.8, "c": 3.0}
GUESS = np.array([1.0, 2.0])  # of κ and c
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
    """A network of least energy for κ = 1, c = 0, what `ritz.layer` makes of it, and the
    bound of its error."""
    options: dict = {"quadrature": RULE, "optimizer": STEPS, "progress": False}
    options["fine"] = FINE.rule(PLATE)
    layer, found = ritz.layer(
        lambda p: ritz.poisson(flame, kappa=p["kappa"], reaction=p["c"]),
        {"kappa": jnp.array(1.0), "c": jnp.array(0.0)}, PLATE, ritz.Exact(),
        network(16, 0), steps=steps, report_every=max(steps // 10, 1), cutoff=1e-5,
        solver=pi.Broyden(),  # from the identity, which the Hessian of a layer is near to
        **options,
    )  # fmt: skip
    q = ritz.Equilibrated(particular, network(16, 1))
    bound = ritz.flux_bound(
        found.field, PLATE, q, flame, friedrichs=1.0, steps=steps, report_every=steps,
        **options,
    )  # fmt: skip
    return layer, found, bound


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


def by_elements(mesh: fem.Mesh):
    """The space of linear elements, and κ, c -> u and its energy."""
    V = fem.FunctionSpace(mesh, "P1", degree=4)
    problem = fem.Problem(V, form, {"cold": 0.0}, structure="spd")

    @jax.jit
    def solve(kappa, c):
        u = problem.solve({"kappa": kappa, "c": c})
        return u, -0.5 * fem.integrate(V, lambda w: flame(w.x) * w.u, u=u)

    return V, solve


def form(u, v, w):
    return w.kappa * fem.dot(fem.grad(u), fem.grad(v)) + (w.c * u - flame(w.x)) * v


def fitted(layer, data):
    """κ and c from readings, by the layer, and their χ² per reading; with the Taylor test
    of the misfit. One program gives readings and slopes to both."""

    def residual(q):
        p = {"kappa": jnp.exp(q[0]), "c": jnp.exp(q[1])}
        r = (layer(p, jnp.asarray(SENSORS)) - data) / NOISE
        return r, r

    look = jax.jit(jax.jacfwd(residual, has_aux=True))
    how: dict = {"jac": lambda q: look(q)[0], "xtol": 1e-6}
    found = scipy.optimize.least_squares(lambda q: look(q)[1], np.log(GUESS), **how)

    def misfit(q):
        J, r = look(q)
        return 0.5 * r @ r, r @ J

    taylor = pi.taylor_test(misfit, np.log(GUESS), order=1, with_gradient=True)
    return np.exp(found.x), float(2 * found.cost / len(data)), taylor


def main(
    steps: int = 40, cells: int = 32, out=None, *, engine: pi.engine.Engine = "auto", seed=0
) -> dict:
    """Trains, bounds, compares and fits; returns the numbers. A picture goes to the folder
    `out`, if given. `cells`: half of those along a side of the mesh that makes the data."""
    with pi.engine.use(engine):
        layer, found, bound = trained(steps)
        least = found.energy - bound.bound
        mesh = slit_mesh(cells, True)
        elements = {}
        for part in (slit_mesh(5, False), mesh):
            V, solve = by_elements(part)
            elements[f"{len(part.points)} nodes"] = float(solve(1.0, 0.0)[1])
        u, _ = solve(*TRUTH.values())  # on the fine mesh
        clean = np.asarray(fem.point_evaluation(V, SENSORS)(u))
        data = clean + np.random.default_rng(seed).normal(0, NOISE, clean.shape)
        (kappa, c), chi2, taylor = fitted(layer, data)
        summary = {
            "parameters": ritz.count(found.model),
            "energy": found.energy,
            "least_energy": (least, found.energy),
            "error_bound": bound.bound,
            "elements": {k: e - least for k, e in elements.items()},
            "kappa": float(kappa),
            "c": float(c),
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
