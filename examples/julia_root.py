"""A Julia residual as a layer: the rates of a stirred tank, learnt from its outflow.

`julia_root.jl` says when the tank is at steady state, F(c, θ) = 0, and nothing else. Julia
solves that by Newton's method in one call of compiled code; the derivatives, second ones
too, follow by the implicit function theorem. Three rates are fitted to concentrations at
a dozen dilutions, then the dilution that gives most of B is found with a gradient and a
Hessian through the solve. Needs Julia (`pyimplicit setup-julia`).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


FEED = 10.0  # of A [mol/L]
RATES = np.array([50.0, 100.0, 10.0])  # A → B [1/h], B → C [1/h], 2A → D [L/mol/h]


def main(steps: int = 30) -> dict[str, float]:
    """Fits the rates and finds the best dilution; returns errors and the optimum."""
    pi.julia.include(Path(__file__).with_suffix(".jl"))
    steady = pi.julia.function("Tank.steady", out=lambda c0, *params: c0)
    guess = jnp.array([FEED / 2, 1.0])
    outflow = lambda k, dilution: steady(guess, k, FEED, dilution)

    dilutions = jnp.geomspace(5.0, 500.0, 12)  # a dozen experiments [1/h], one call by vmap
    measure = jax.jit(lambda m: jax.vmap(outflow, (None, 0))(jnp.exp(m), dilutions))
    truth = jnp.log(RATES)
    data = measure(truth)
    result = pi.inverse.fit(
        lambda m: ((measure(m) - data) / 1e-3).ravel(),
        jnp.full(3, jnp.log(30.0)),
        method="gauss-newton",
        max_steps=steps,
        progress=False,
    )
    rates = jnp.exp(result.m)

    product = lambda log_d: outflow(rates, jnp.exp(log_d))[1]
    slope, curvature = jax.jit(jax.grad(product)), jax.jit(jax.hessian(product))
    log_d = jnp.log(100.0)
    for _ in range(8):  # Newton's method for a maximum
        log_d = log_d - slope(log_d) / curvature(log_d)
    taylor = pi.taylor_test(lambda m: jnp.sum(measure(m) ** 2), result.m, order=2)
    return {
        "error_of_rates": float(jnp.abs(rates / RATES - 1).max()),
        "best_dilution": float(jnp.exp(log_d)),
        "slope_there": float(slope(log_d)),
        "most_of_B": float(product(log_d)),
        "rate_gradient": float(taylor.rates[1]),
        "rate_hessian": float(taylor.rates[2]),
    }


def run(argv: list[str]) -> int:
    """`pyimplicit run julia-root`."""
    del argv
    jax.config.update("jax_enable_x64", True)
    for name, value in main().items():
        print(f"{name:16}{value:.6g}")
    return 0


if __name__ == "__main__":
    run([])
