"""A Julia solver of your own in JAX: a rod's conductivity, learnt from its temperature.

`julia_solver.jl` solves -(k u')' + u^4 = q by Newton's method in Julia and has an `rrule`
and an `frule`. Here it is a JAX function: compiled code calls it without Python, and its
gradient is that of the converged solution. Needs Julia (`pyimplicit setup-julia`).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi


def main(n: int = 40, steps: int = 20) -> dict[str, float]:
    """Fits log k of `n` cells to the temperature; returns misfits and the error of k."""
    pi.julia.include(Path(__file__).with_suffix(".jl"))
    temperature = pi.julia.function(
        "Rod.temperature",
        out=lambda k, q: jax.ShapeDtypeStruct((k.shape[0] - 1,), k.dtype),
    )
    x = (np.arange(n) + 0.5) / n
    truth = jnp.asarray(1 + 0.5 * np.sin(2 * np.pi * x))
    heating = jnp.array([2.0, 5.0, 11.0])  # three experiments: one call by vmap
    measure = jax.jit(lambda m: jax.vmap(temperature, (None, 0))(jnp.exp(m), heating))
    data = measure(jnp.log(truth))

    def misfit(m):  # in units of the noise, and neighbours alike where nothing is known
        return jnp.concatenate([((measure(m) - data) / 1e-5).ravel(), jnp.diff(m)])

    result = pi.inverse.fit(
        misfit, jnp.zeros(n), method="gauss-newton", max_steps=steps, progress=False
    )
    loss = lambda m: jnp.sum((measure(m) - data) ** 2)
    taylor = pi.taylor_test(loss, 0.1 * jnp.ones(n), order=1)
    return {
        "misfit_before": float(loss(jnp.zeros(n))),
        "misfit_after": float(loss(result.m)),
        "error": float(jnp.abs(jnp.exp(result.m) - truth).max()),
        "rate_gradient": float(taylor.rates[1]),
    }


def run(argv: list[str]) -> int:
    """`pyimplicit run julia-solver`."""
    del argv
    jax.config.update("jax_enable_x64", True)
    for name, value in main().items():
        print(f"{name:16}{value:.3e}")
    return 0


if __name__ == "__main__":
    run([])
