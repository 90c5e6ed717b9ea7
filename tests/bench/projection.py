"""Projections and transport: ratios against jaxopt, in one run.

    pip install jaxopt; python -m tests.bench.projection [simplex section transport ...]

Compile time and warm time apart, forward and gradient; see `tests/bench/implicit.py`.
"""

import argparse
import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import pyimplicit as pi

from .implicit import compare


with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jaxopt announces its end at import
    import jaxopt.projection


def pair(name: str, *args):
    """Ours and theirs, forward and the gradient of a weighted sum."""
    modules = {"pyimplicit": pi.projection}
    if "jaxopt" in globals():
        modules["jaxopt"] = jaxopt.projection
    forward, gradient = {}, {}
    for peer, module in modules.items():
        fn = getattr(module, name)
        forward[peer] = lambda x, fn=fn: fn(x, *args)
        loss = lambda x, fn=fn: jnp.sum(jnp.sin(fn(x, *args)))
        gradient[peer] = jax.grad(loss)
    return forward, gradient


def both(title, name, x, console, *args, repeats=10):
    forward, gradient = pair(name, *args)
    compare(f"{title}, forward", forward, x, console, repeats)
    compare(f"{title}, gradient", gradient, x, console, repeats)


def simplex(console):
    rng = np.random.default_rng(0)
    for n in (100, 1000, 10_000, 100_000):
        both(
            f"simplex, n={n:,}",
            "projection_simplex",
            jnp.asarray(rng.normal(size=n)),
            console,
        )
    x = jnp.asarray(rng.normal(size=(1000, 100)))
    forward, gradient = pair("projection_simplex")
    for what, fns in (("forward", forward), ("gradient", gradient)):
        batched = {peer: jax.vmap(fn) for peer, fn in fns.items()}
        compare(f"1,000 simplices of 100, {what}", batched, x, console)


def section(console):
    rng = np.random.default_rng(0)
    n = 10_000
    w = jnp.asarray(rng.uniform(0.5, 2, size=n))
    args = (-jnp.ones(n), jnp.ones(n), w, jnp.asarray(100.0))
    x = jnp.asarray(rng.normal(size=n))
    both("box section, n=10,000", "projection_box_section", x, console, args)


def transport(console):
    rng = np.random.default_rng(0)
    n = 50
    x = jnp.asarray(rng.normal(size=(n, n)))
    for name in ("projection_birkhoff", "kl_projection_birkhoff"):
        both(f"{name}, n={n}", name, x, console, repeats=3)


RUNS = {"simplex": simplex, "section": section, "transport": transport}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", default=list(RUNS), help=", ".join(RUNS))
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    console = Console(width=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jaxopt's
        for name in args.runs:
            RUNS[name](console)


if __name__ == "__main__":
    main()
