"""`check_layer`: a layer is run through all checks."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console

from . import derivatives, safety
from .batch import given, vmapped
from .flat import Flat
from .report import LayerReport, Skip, row


def check_layer(
    fn: Callable[..., Any],
    *args: Any,
    batch_axes: int | tuple[int | None, ...] | None = None,
    second_order: bool = True,
    tolerance: float | None = None,
    seed: int = 0,
    show: bool = True,
) -> LayerReport:
    """Tests `fn(*args)` and its derivatives, prints a table and returns it.

    y = f(x) stands for the layer: x are the floating numbers of its arguments, y those of
    its results (a complex number is two). J is the Jacobian, v a direction for x, w one
    for y, H the Hessian of <w, f>, ε the round-off of the coarsest dtype. The rows:

    - `jvp vs finite differences`: J v against central differences, along 3 directions. The
      step is swept; the best two neighbouring steps count.
    - `vjp vs jvp`: <w, J v> = <Jᵀw, v>, relative to the length of the sums' terms.
    - `vjp vs finite differences`: the same with differences for J v, where there is no
      forward mode (`jax.custom_vjp`).
    - `adjoint residual`: the largest ‖A x - b‖/‖b‖ of the linear solves in the programs of
      the jvp and the vjp, those of the layer itself included.
    - `second order`: H v against differences of the gradient. `second order symmetry`:
      <u, H v> = <v, H u>. `reverse over reverse`: H v against forward over reverse.
    - `batch independence`: a sample's value and gradient in a batch are those it has
      alone, and stay when its mates are moved far away.
    - `finite`: how many numbers in value and gradient are not. `NaN in, NaN out`: the
      arguments in which a NaN goes unnoticed (an error or a NaN somewhere in value or
      gradient is fine; so is an argument without influence). `NaN in a batch`: how far a
      sample of NaN moves its mates.
    - `jit`: value and gradient, compiled and not.

    **Arguments:**

    - `fn`: any JAX function, not only a layer of this package.
    - `args`: pytrees. Their floating and complex arrays are varied, each by its own size,
      other leaves not. Half precision is too coarse for finite differences.
    - `batch_axes`: for an `fn` that takes a batch: the batch axis of the arrays of each
      argument, None for what is shared, as `in_axes` of `jax.vmap`; the results have
      theirs first. If not given, batches are made by `jax.vmap`.
    - `second_order`: false leaves these rows out.
    - `tolerance`: of the rows about derivatives and solves; ε^(1/3) if not given. The
      differences of a layer that iterates are no better than its own tolerance: tighten
      that, or raise this. Batches and jit are held to √ε.
    - `seed`: of the random directions.
    - `show`: whether to print.

    **Returns:** a `LayerReport`. A row that raises has failed, and its note is the error.
    Where there is no forward mode, or no second derivative, the rows about it do not
    apply; without reverse mode, those about it fail.

    **Derivative:** uses those of `fn`, in both modes.

    **Errors:** what `fn(*args)` raises; `TypeError` if nothing in `args` or in the result
    is floating; `ValueError` if `batch_axes` do not fit.

    ??? cite "Reference"
        Griewank, Walther, *Evaluating Derivatives* (2008), Chapter 3 (both modes, and the
        identity between them). doi:10.1137/1.9780898717761
    """
    with np.errstate(all="ignore"):  # what overflows fails its check
        layer = Flat(fn, args, seed)
        batch = vmapped(layer) if batch_axes is None else given(layer, fn, args, batch_axes)
        loose = layer.eps ** (1 / 3) if tolerance is None else tolerance
        exact = layer.eps**0.5
        in_batch = lambda check: functools.partial(check, batch=batch)
        if_asked = lambda check: check if second_order else _not_asked
        rows = (
            ("jvp vs finite differences", loose, derivatives.jvp_vs_differences),
            ("vjp vs jvp", loose, derivatives.vjp_vs_jvp),
            ("vjp vs finite differences", loose, derivatives.vjp_vs_differences),
            ("adjoint residual", loose, derivatives.adjoint_residual),
            ("second order", loose, if_asked(derivatives.second_order)),
            ("second order symmetry", loose, if_asked(derivatives.symmetry)),
            ("reverse over reverse", loose, if_asked(derivatives.reverse_over_reverse)),
            ("batch independence", exact, in_batch(safety.independence)),
            ("finite", 0.0, safety.finite),
            ("NaN in, NaN out", 0.0, safety.nan_out),
            ("NaN in a batch", exact, in_batch(safety.nan_in_batch)),
            ("jit", exact, safety.jit),
        )
        report = LayerReport(tuple(row(*each, layer) for each in rows))
    if show:
        Console().print(report)
    return report


def _not_asked(layer: Flat):
    raise Skip("second_order=False")
