"""Steady Darcy flow by equilibrium models, with data from the package's own FEM.

-∇·(κ∇u) = 1 on the unit square, u = 0 on its boundary, κ a random field. Three learners:

- an equilibrium Fourier neural operator: κ ↦ u is the fixed point of one FNO layer;
- the same layer, weight-tied and unrolled: as many weights, other training;
- a learned smoother inside the iteration z ← z + M (b - A(κ) z). Whatever M is, if it is
  invertible its fixed point is the finite-element solution: training makes it fast, never
  wrong. M is diagonal in the sine basis between two scalings by diag(A)^(-1/2), with
  positive, trained entries, so it is symmetric positive definite.

Marwah et al. 2023, arXiv:2312.00234 (FNO-DEQ); Hsieh et al. 2019, *Learning neural PDE
solvers with convergence guarantees*, arXiv:1906.01200 (the fixed point that is kept).
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import pyimplicit as pi


class Darcy:
    """The problem on n x n squares: fields, solutions, the matrix."""

    def __init__(self, n: int):
        self.n = n
        mesh = pi.fem.Mesh.rectangle(n, n)
        self.V = pi.fem.FunctionSpace(mesh, "P1")
        sides = {name: 0.0 for name in ("left", "right", "bottom", "top")}
        self.problem = pi.fem.models.poisson(self.V, sides, source="f")
        points = mesh.points
        inside = np.all((points > 1e-9) & (points < 1 - 1e-9), axis=1)
        self.inside = jnp.asarray(inside, float)
        (cells,) = mesh.cells.values()
        self.cells = jnp.asarray(cells)
        # ⟨1, v⟩: the derivative of the integral of u.
        total = lambda u: pi.fem.integrate(self.V, lambda w: w.u, u=u)
        self.load = self.inside * jax.grad(total)(jnp.zeros(self.V.shape))

    def kappa(self, count: int, key) -> jax.Array:
        """exp of smooth normal fields at the nodes, `(count, (n + 1)²)`."""
        k = jnp.arange(1, 5)
        decay = 1.5 / (k[:, None] ** 2 + k**2)
        a = decay * jax.random.normal(key, (count, 4, 4))
        x = jnp.linspace(0, 1, self.n + 1)
        waves = jnp.cos(jnp.pi * k[:, None] * x)
        fields = jnp.einsum("bij,ix,jy->bxy", a, waves, waves)
        return jnp.exp(fields).reshape(count, -1)

    def solve(self, kappa) -> jax.Array:
        return self.problem.solve({"kappa": self.by_cell(kappa), "f": 1.0})

    def by_cell(self, kappa):
        return jnp.mean(kappa[self.cells], axis=1)

    def matrix(self, kappa):
        """z ↦ A z on the nodes inside, and the diagonal of A."""
        values = pi.fem.diffusion_values(self.V, self.by_cell(kappa))
        pattern = self.V.pattern()
        operator = pi.SparseOperator(pattern, values)
        on = np.asarray(pattern.rows) == np.asarray(pattern.cols)
        where = np.flatnonzero(on)
        place = jnp.asarray(np.asarray(pattern.rows)[where])
        diagonal = jnp.zeros(self.V.size, values.dtype).at[place].add(values[where])
        return lambda z: self.inside * operator.mv(self.inside * z), diagonal

    def grid(self, a):
        return a.reshape(self.n + 1, self.n + 1)


class Operator(eqx.Module):
    """κ ↦ u: the equilibrium of an FNO layer, or as many steps of it as `adjoint` says."""

    deq: pi.deq.DEQ
    last: jax.Array

    def __init__(self, width: int, modes: int, *, adjoint=None, steps: int = 60, key):
        a, b = jax.random.split(key)
        cell = pi.deq.FNOCell(width, 4, modes, key=a)
        how: dict[str, Any] = dict(rtol=1e-4, atol=1e-4, max_steps=steps, throw=False)
        if adjoint is None:
            # The adjoint as accurate as the state; a short basis, which is its memory.
            short = pi.Implicit(pi.GMRES(1e-4, 1e-4, restart=8), rtol=1e-4)
            self.deq = pi.deq.DEQ(cell, pi.Anderson(memory=4), short, **how)
        else:
            self.deq = pi.deq.DEQ(cell, pi.Picard(), adjoint, **how)
        self.last = jax.random.normal(b, (width,)) / width**0.5

    def __call__(self, darcy: Darcy, kappa):
        log = darcy.grid(jnp.log(kappa))
        x = jnp.linspace(0, 1, darcy.n + 1)
        first, second = jnp.meshgrid(x, x, indexing="ij")
        bubble = 16 * first * (1 - first) * second * (1 - second)
        found = self.deq(jnp.stack([log, first, second, bubble]))
        out = jnp.einsum("c,cij->ij", self.last, found.value)
        return 0.1 * (bubble * out).reshape(-1), found  # zero on the boundary


class Smoother(eqx.Module):
    """M = D^(-1/2) S diag(s) S D^(-1/2), S the sine transform, D the diagonal of A."""

    log_scale: jax.Array  # (n - 1, n - 1): log of s

    def __init__(self, n: int):
        self.log_scale = jnp.full((n - 1, n - 1), jnp.log(0.8))  # damped Jacobi

    def __call__(self, darcy: Darcy, r, diagonal):
        n = darcy.n
        k = jnp.arange(1, n)
        S = jnp.sqrt(2 / n) * jnp.sin(jnp.pi * k[:, None] * k / n)
        scale = darcy.inside / jnp.sqrt(diagonal)
        inner = darcy.grid(scale * r)[1:-1, 1:-1]
        inner = S @ (jnp.exp(self.log_scale) * (S @ inner @ S)) @ S
        return scale * jnp.pad(inner, 1).reshape(-1)

    def iteration(self, darcy: Darcy, kappa):
        """The map z ↦ z + M (b - A z)."""
        A, diagonal = darcy.matrix(kappa)
        return lambda z, smoother: z + smoother(darcy, darcy.load - A(z), diagonal)

    def solve(self, darcy: Darcy, kappa, **options) -> pi.Solution:
        step = self.iteration(darcy, kappa)
        tight: dict[str, Any] = dict(rtol=1e-10, atol=1e-12, max_steps=2000)
        start = jnp.zeros(darcy.V.size)
        return pi.fixed_point(step, start, self, **{**tight, **options})


def relative(u, v):
    return jnp.linalg.norm(u - v) / jnp.linalg.norm(v)


def train(model, loss, batches, steps: int, rate: float, key):
    """Adam; `loss(model, batch)`, `batches(key)`. The model and the losses."""
    dynamic, static = eqx.partition(model, eqx.is_inexact_array)
    optimiser = optax.adam(rate)

    def body(carry, key):
        dynamic, state = carry
        f = lambda d: loss(eqx.combine(d, static), batches(key))
        value, grads = jax.value_and_grad(f)(dynamic)
        updates, state = optimiser.update(grads, state)
        return (optax.apply_updates(dynamic, updates), state), value

    run = jax.jit(lambda start, keys: jax.lax.scan(body, start, keys))
    start = dynamic, optimiser.init(dynamic)
    (dynamic, _), losses = run(start, jax.random.split(key, steps))
    return eqx.combine(dynamic, static), losses


def operator_loss(darcy: Darcy):
    def loss(model, batch):
        kappa, u = batch

        def one(kappa, u):
            v, found = model(darcy, kappa)
            return jnp.where(found.status == 0, relative(v, u), 0.0)

        return jnp.mean(jax.vmap(one)(kappa, u))

    return loss


def smoother_loss(darcy: Darcy, steps: int = 4):
    """How much of a random error is left after a few steps, in the energy norm."""

    def loss(smoother, batch):
        def one(kappa, error):
            A, diagonal = darcy.matrix(kappa)
            start = error @ A(error)
            once = lambda _, e: e - smoother(darcy, A(e), diagonal)
            error = jax.lax.fori_loop(0, steps, once, error)
            return (error @ A(error) / start) ** (1 / (2 * steps))

        return jnp.mean(jax.vmap(one)(*batch))

    return loss


def cost(model, loss, batch) -> dict:
    """Of one gradient of the loss: "bytes" for what lies between its operations, from the
    compiled program, and "seconds" of the faster of two runs."""
    dynamic, static = eqx.partition(model, eqx.is_inexact_array)
    gradient = jax.grad(lambda d, batch: loss(eqx.combine(d, static), batch))
    ready = jax.jit(gradient).lower(dynamic, batch).compile()
    memory: Any = ready.memory_analysis()
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        jax.block_until_ready(ready(dynamic, batch))
        seconds.append(time.perf_counter() - begin)
    return {"bytes": memory.temp_size_in_bytes, "seconds": min(seconds)}


def main(n: int = 16, steps: int = 150, width: int = 8, count: int = 64) -> dict:
    """Returns errors of both operators on fresh fields and what a gradient of each costs,
    how the smoother converges before and after training, and its distance from the FEM
    solution."""
    darcy = Darcy(n)
    solve = jax.jit(jax.vmap(darcy.solve))
    kappa, fresh = (darcy.kappa(count, jax.random.key(k)) for k in (0, 1))
    data, truth = (kappa, solve(kappa)), solve(fresh)
    found: dict = {}

    def pairs(key):
        at = jax.random.randint(key, (8,), 0, count)
        return data[0][at], data[1][at]

    for name, adjoint in (("equilibrium", None), ("unrolled", pi.Unroll(16))):
        model = Operator(width, min(4, n // 4), adjoint=adjoint, key=jax.random.key(2))
        how: dict[str, Any] = dict(steps=steps, rate=5e-3, key=jax.random.key(3))
        model, losses = train(model, operator_loss(darcy), pairs, **how)
        predict = eqx.filter_jit(lambda m, k: jax.vmap(lambda k: m(darcy, k))(k))
        u, stats = predict(model, fresh)
        found[name] = {
            "losses": losses,
            **cost(model, operator_loss(darcy), (data[0][:8], data[1][:8])),
            "error": float(jnp.mean(jax.vmap(relative)(u, truth))),
            "converged": float(jnp.mean(stats.status == 0)),
            "iterations": float(jnp.mean(stats.stats["iterations"])),
        }

    def errors(key):
        a, b = jax.random.split(key)
        noise = jax.random.normal(b, (8, darcy.V.size))
        return darcy.kappa(8, a), darcy.inside * noise

    smoother = Smoother(n)
    how: dict[str, Any] = dict(steps=2 * steps, rate=5e-2, key=jax.random.key(4))
    trained, losses = train(smoother, smoother_loss(darcy), errors, **how)
    run = jax.jit(lambda k, s: s.solve(darcy, k, solver=pi.Anderson(memory=8)))
    for name, each in (("before", smoother), ("after", trained)):
        solution = run(fresh[0], each)
        found[name] = {
            "iterations": int(solution.stats["iterations"]),
            "error": float(relative(solution.value, truth[0])),
        }
    found["smoother"] = {"losses": losses}
    return found


def run(argv: list[str]) -> None:
    del argv
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name in ("equilibrium", "unrolled"):
        row = found[name]
        print(f"{name:12} relative error {row['error']:.4f}, ", end="")
        print(f"{row['iterations']:.1f} evaluations, converged {row['converged']:.2f},")
        print(f"{'':13}a gradient {1e3 * row['seconds']:.0f} ms", end=" ")
        print(f"and {row['bytes'] / 2**20:.1f} MiB")
    for name in ("before", "after"):
        row = found[name]
        print(f"smoother {name} training: {row['iterations']} steps, ", end="")
        print(f"relative distance from the FEM solution {row['error']:.1e}")


if __name__ == "__main__":
    run([])
