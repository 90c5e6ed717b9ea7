"""The implicit-layers tutorial's fixed-point layer, with every derivative.

The tutorial (Kolter, Duvenaud, Johnson 2020, http://implicit-layers-tutorial.org, chapter
2) ends in one function, `fixed_point_layer(solver, f, params, x)`: z = f(params, x, z).
Here it is with the same solvers and signature. Theirs has a hand-written reverse rule,
solved by the forward solver; this one has both modes, Hessians, and adjoint solves that
are checked. `layer` is the same thing as one would write it with pyimplicit alone.
"""

import jax
import jax.numpy as jnp

import pyimplicit as pi


def fwd_solver(f, z_init):
    """Fixed-point iteration until two iterates agree."""
    cond = lambda carry: jnp.linalg.norm(carry[0] - carry[1]) > 1e-5
    body = lambda carry: (carry[1], f(carry[1]))
    return jax.lax.while_loop(cond, body, (z_init, f(z_init)))[1]


def newton_solver(f, z_init):
    """Fixed-point iteration of Newton's map for f(z) - z = 0."""
    F = lambda z: f(z) - z
    return fwd_solver(lambda z: z - jnp.linalg.solve(jax.jacobian(F)(z), F(z)), z_init)


def anderson_solver(f, z_init, m=5, lam=1e-4, max_iter=50, tol=1e-5, beta=1.0):
    """Anderson acceleration with the tutorial's options."""
    solver = pi.Anderson(memory=m, regularization=lam, damping=beta, rtol=tol, atol=tol)
    return pi.fixed_point(
        lambda z, _: f(z), z_init, solver=solver, max_steps=max_iter
    ).value


def fixed_point_layer(solver, f, params, x):
    """z with z = f(params, x, z), by any solver(f, z_init)."""

    @pi.custom_fixed_point(lambda z, params, x: f(params, x, z))
    def solve(z_init, params, x):
        return solver(lambda z: f(params, x, z), z_init=z_init)

    return solve(jnp.zeros_like(x), params, x)


def layer(W, x):
    """The same layer, written with pyimplicit."""
    return pi.fixed_point(lambda z, p: jnp.tanh(p[0] @ z + p[1]), x, (W, x)).value


def main() -> dict:
    """Returns values and gradients of the tutorial's example for each solver."""
    ndim = 10
    W = jax.random.normal(jax.random.key(0), (ndim, ndim)) / jnp.sqrt(ndim)
    x = jax.random.normal(jax.random.key(1), (ndim,))
    f = lambda W, x, z: jnp.tanh(jnp.dot(W, z) + x)
    found = {}
    for solver in (fwd_solver, newton_solver, anderson_solver):
        total = lambda W, x, solver=solver: fixed_point_layer(solver, f, W, x).sum()
        found[solver.__name__] = (
            fixed_point_layer(solver, f, W, x),
            jax.grad(total)(W, x),
            jax.hessian(total, argnums=1)(W, x),
        )
    total = lambda W, x: layer(W, x).sum()
    hessian = jax.hessian(total, argnums=1)(W, x)
    found["pyimplicit"] = layer(W, x), jax.grad(total)(W, x), hessian
    found["report"] = pi.check_layer(layer, W, x, show=False)
    return found


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    report = found.pop("report")
    for name, (z, g, h) in found.items():
        print(
            f"{name:16} z[0] = {z[0]:+.6f}   d sum(z)/dW[0, 0] = {g[0, 0]:+.6f}   ", end=""
        )
        print(f"trace of the Hessian in x = {jnp.trace(h):+.6f}")
    print(report)


if __name__ == "__main__":
    run([])
