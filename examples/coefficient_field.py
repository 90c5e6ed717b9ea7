r"""A coefficient field from noisy data, with its uncertainty.

-∇·(e^m ∇u) = 1 on the unit square, u = 0 on its boundary. The temperature u is measured at
points, with normal errors of known size; sought is the log-conductivity m(x). A priori m
is a smooth random field, N(0, R⁻¹/β) with R = A M⁻¹ A, A = γ K + δ M. Found are

- for someone who does not know β: the m that minimises
  1/2 Σ_i ((u(x_i) - d_i)/e)² + β/2 mᵀR m, with the β for which
  χ² = 1/N Σ_i ((u(x_i) - d_i)/e)² = 1 (Morozov's discrepancy principle). It smooths too
  much: fitted parameters take their share of the noise, so the truth's own fit has χ² < 1;
- for someone who knows that β = 1: the most probable m, and the normal distribution that
  the posterior is near it, by the eigenpairs of the misfit's Hessian against R: the
  standard deviation of m at each point.

The truth is a draw of the prior, and is measured on a mesh twice as fine.

    pyimplicit run coefficient-field [--out DIR]

After hIPPYlib's tutorials: Villa, Petra, Ghattas, *hIPPYlib*, ACM Trans. Math. Softw. 47
(2021), doi:10.1145/3428447.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem, inverse, plot


def prior_of(V) -> inverse.BiLaplacianPrior:
    """Far from the boundary: standard deviation 1, correlation length 0.5."""
    delta = np.sqrt(32 / (4 * np.pi))
    return inverse.BiLaplacianPrior(V, gamma=delta / 32, delta=delta)


class Experiment:
    """m at the nodes of a mesh of n x n squares ↦ u at the points."""

    def __init__(self, n: int, points):
        self.V = fem.FunctionSpace(fem.Mesh.rectangle(n, n), "P1")
        self.problem = fem.models.poisson(self.V, {"boundary": 0.0}, source="f")
        self.at = fem.point_evaluation(self.V, points)
        self.predict = jax.jit(lambda m: self.at(self.solve(m)))

    def solve(self, m) -> jax.Array:
        return self.problem.solve({"kappa": jnp.exp(m), "f": 1.0})


def main(
    n: int = 40,
    per_side: int = 15,
    *,
    noise: float = 0.01,
    rank: int = 120,
    seed: int = 1,
    out=None,
) -> dict:
    """Returns both fits, the posterior, the truth at the nodes and numbers about them;
    draws `out/coefficient_field.png`. `noise`: of the largest measurement. `rank`: how
    many directions the data may inform."""
    line = (np.arange(per_side) + 0.5) / per_side
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    fine, coarse = Experiment(2 * n, points), Experiment(n, points)
    truth = prior_of(fine.V).sample(jax.random.key(seed), jnp.zeros(fine.V.shape))
    clean = fine.predict(truth)
    error = noise * float(abs(clean).max())
    data = clean + error * np.random.default_rng(seed).standard_normal(len(clean))

    misfit = lambda m: (coarse.at(coarse.solve(m)) - data) / error
    prior = prior_of(coarse.V)
    smooth = inverse.fit(misfit, jnp.zeros(coarse.V.shape), prior=prior, target=1.0)
    fit = inverse.fit(misfit, smooth.m, prior=prior)
    posterior = inverse.laplace_posterior(misfit, fit.m, prior, rank=rank)
    deviation = np.sqrt(posterior.variance())

    truth = fem.point_evaluation(fine.V, coarse.V.mesh.points)(truth)
    size = float(jnp.linalg.norm(truth))
    found = {
        "smooth": smooth,
        "fit": fit,
        "posterior": posterior,
        "deviation": deviation,
        "truth": truth,
        "informed": int(np.sum(posterior.eigenvalues > 1)),
        "within_two_deviations": float(np.mean(abs(fit.m - truth) < 2 * deviation)),
        "errors": [float(jnp.linalg.norm(f.m - truth)) / size for f in (smooth, fit)],
        "rates": pi.taylor_test(lambda m: 0.5 * jnp.sum(misfit(m) ** 2), fit.m).rates,
    }
    if out is not None:
        draw(Path(out), coarse.V.mesh, points, found)
    return found


def draw(folder: Path, mesh, points, found) -> None:
    """Truth, estimate, standard deviation, and the way to them."""
    folder.mkdir(parents=True, exist_ok=True)
    made, axes = plot.figure(17, 4, 4)
    m = np.asarray(found["fit"].m)
    plot.field(axes[0], mesh, found["truth"], label="true m")
    plot.field(axes[1], mesh, m, label="m found")
    plot.field(axes[2], mesh, found["deviation"], label="standard deviation of m")
    axes[2].plot(*points.T, "k.", markersize=2)
    plot.convergence(axes[3], found["smooth"], target=1.0)
    plot.save(made, folder / "coefficient_field.png")


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("pyimplicit run coefficient-field")
    parser.add_argument("--out", default="out", help="folder for the picture")
    options = parser.parse_args(argv)
    jax.config.update("jax_enable_x64", True)
    found = main(out=options.out)
    print(found["smooth"], found["fit"], sep="\n")
    print("relative errors of m", *(f"{error:.2f}" for error in found["errors"]))
    print(f"the data inform {found['informed']} directions; within two standard", end=" ")
    print(
        f"deviations of m lies the truth at {found['within_two_deviations']:.0%}", end=" "
    )
    print("of the nodes")
    print("Taylor rates", *(f"{rate:.2f}" for rate in found["rates"]), "(1, 2, 3)")


if __name__ == "__main__":
    run([])
