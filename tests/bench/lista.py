"""Sparse recovery in 16 layers: the algorithms, and nets trained from their steps.

    python -m tests.bench.lista [ISTA LISTA_CP ...] [--steps 300]

The workload of LISTA-CPSS: 250 measurements of 500 unknowns, a tenth of them not zero,
no noise; columns of unit length. NMSE in dB on 1,000 fresh samples. AMP is the bar: it has
no weights, and reaches -30 dB in 16 steps. Nets are trained layer by layer in float32, by
stages for one layer and for all so far; the last stage is end to end.

With --steps 100, each net once, on two busy cores: ISTA -5.4, FISTA -10.4, ADMM -15.2,
AMP -31.1 (trained -28.1), LISTA -13.0, LISTA_CP -28.2, ALISTA -29.7,
DouglasRachford -31.5, LISTA_CPSS -59.8, ALISTA selected -61.4. It is the selection of
the support that takes the nets past AMP.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import pyimplicit as pi


M, N, DENSITY = 250, 500, 0.1


def dictionary(m: int = M, n: int = N, seed: int = 0) -> np.ndarray:
    """Gaussian, with columns of unit length."""
    A = np.random.default_rng(seed).normal(size=(m, n))
    return A / np.linalg.norm(A, axis=0)


def sampler(A, batch: int, density: float = DENSITY) -> Callable:
    """`sample(key)`: `batch` sparse vectors and their measurements."""

    def sample(key):
        where, size = jax.random.split(key)
        shape = batch, A.shape[1]
        on = jax.random.bernoulli(where, density, shape)
        x = jnp.where(on, jax.random.normal(size, shape, A.dtype), 0.0)
        return x, x @ A.T

    return sample


def nets(A, layers: int = 16) -> dict:
    """`(untrained model, whether it is trained)` by name. Nets start from thresholds as
    large as noise-like errors ask for, those with a W in each layer from ALISTA's."""
    u, support = pi.unrolled, (1.2, 13.0)
    large: dict = dict(penalty=2.5)
    start: dict = dict(large, W=u.analytic_weights(A))
    return {
        "ISTA 0.1": (u.ISTA(A, layers), False),
        "FISTA 0.1": (u.FISTA(A, layers), False),
        "ADMM 0.1": (u.ADMM(A, layers), False),
        "AMP": (u.AMP(A, layers), False),
        "AMP, trained": (u.AMP(A, layers), True),
        "DouglasRachford": (u.DouglasRachford(A, layers), True),
        "ALISTA": (u.ALISTA(A, layers, **large), True),
        "ALISTA, selected": (u.ALISTA(A, layers, support=support, **large), True),
        "LISTA": (u.LISTA(A, layers), True),
        "LISTA_CP": (u.LISTA_CP(A, layers, **start), True),
        "LISTA_CPSS": (u.LISTA_CP(A, layers, support=support, **start), True),
    }


def optimiser(steps: int) -> optax.GradientTransformation:
    """Adam; thresholds and step sizes move faster than the entries of matrices."""
    adam = lambda rate: optax.adam(optax.cosine_decay_schedule(rate, steps, 0.02))
    kind = lambda weights: jax.tree.map(lambda a: int(a.ndim > 1), weights)
    return optax.multi_transform({0: adam(1e-2), 1: adam(5e-4)}, kind)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all if none is given")
    parser.add_argument("--steps", type=int, default=150, help="of Adam, in each stage")
    args = parser.parse_args()
    A = jnp.asarray(dictionary(), jnp.float32)
    x, b = sampler(A, 1000)(jax.random.key(1))
    table = Table(title=f"NMSE \\[dB] after so many layers, {args.steps} steps a stage")
    for head in ("", "1", "2", "4", "8", "16", "weights", "trained in \\[s]"):
        table.add_column(head, justify="right")
    for name, (model, trainable) in nets(A).items():
        if args.names and name not in args.names:
            continue
        begin = time.perf_counter()
        if trainable:
            how: dict[str, Any] = dict(steps=args.steps, refine=(0.2,))
            model, losses = pi.unrolled.train(
                model,
                sampler(A, 64),
                key=jax.random.key(2),
                optimiser=optimiser(args.steps),
                **how,
            )
            jax.block_until_ready(losses)
        seconds = f"{time.perf_counter() - begin:.0f}" if trainable else ""
        found = jax.jit(lambda m, b: jax.vmap(lambda b: m.iterates(b))(b))(model, b)
        errors = [f"{pi.unrolled.nmse(found[:, k - 1], x):.2f}" for k in (1, 2, 4, 8, 16)]
        count = sum(getattr(model, n).size for n in (*model.per_layer, *model.shared))
        table.add_row(name, *errors, f"{count:,}", seconds)
        print(name, *errors, seconds, flush=True)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
