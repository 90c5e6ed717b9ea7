"""Any Julia function whose derivative ChainRules knows, as a JAX function.

A Julia callable `g` on arrays becomes a primitive. Its tangent is `Pushforward(g)`, the
transpose of that is `Pullback(g)`, and both are Julia callables again, linear in their
last arguments: so one primitive with three rules gives both modes and every order.

    g(x)                      ẏ = J(x) ẋ           Pushforward(g)(x, ẋ)
    Pushforward(g)(x, ẋ)      transposed in ẋ      Pullback(g)(x, ȳ)
    Pullback(g)(x, ȳ)         transposed in ȳ      Pushforward(g)(x, ẋ)

A callable that is linear in its last arguments itself has its transpose in `Transposed`.

The tangent of a linear one is itself in its linear arguments, plus `Pushforward` of it in
the others; that asks ChainRules for a rule of the rule, and says so where there is none.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ..call import add_batch_axis, batch_shape, call_p
from . import ffi
from .start import julia


Shapes = jax.ShapeDtypeStruct | tuple[jax.ShapeDtypeStruct, ...]


class Equal(NamedTuple):
    """The same function on JAX arrays, and its transpose in its linear arguments, which
    takes cotangents in their place. Both return one array."""

    f: Callable
    transposed: Callable


def function(
    f: str | Any,
    out: Shapes | Callable[..., Shapes],
    *,
    linear: int = 0,
    equal: Equal | None = None,
) -> Callable:
    """A Julia function of arrays as a JAX function.

    `f`: its name ("Module.name"; `pi.julia.include(path)` loads your own file), or a
    Julia callable. `out`: a `jax.ShapeDtypeStruct`, or a tuple of them for a function that
    returns a tuple, or a function that makes them from the arguments' shapes and dtypes
    (each argument has `.shape` and `.dtype`).

    An equation needs no solver: `ImplicitRoot(F)` or `ImplicitFixedPoint(f)` of the Julia
    package is such a callable, (z0, θ...) -> z, with its rules (`out=lambda z0, *p: z0`).

    `linear`: in how many of its last arguments `f` is known to be linear; its transpose in
    these is `ImplicitAdjoints.Transposed(f)`, and no rule is asked for them. `equal`: the
    same in JAX, whose derivatives are taken where Julia has no rule.

    **Returns** a function of arrays. Julia sees plain `Array`s with the same indices
    (column-major; XLA lays them out so), numbers where an argument has rank 0, and
    must not keep or change its arguments. It is called by compiled code on a thread of
    XLA's, without Python. Under `vmap` the batch is one call, which loops in Julia.

    **Derivative** by ChainRules: forward mode needs an `frule`, reverse mode an `rrule`,
    second derivatives a rule of `ImplicitAdjoints.Pushforward(f)` or `Pullback(f)`. A
    missing rule is a `NotImplementedError` that names it when the function is compiled.

    **Errors** What Julia throws is raised as a JAX error with Julia's message.
    """
    if not (isinstance(f, str) or callable(f)):
        raise TypeError(
            "`julia.function(f, ...)` must be a name or a Julia callable.\n"
            f"Got {type(f).__name__}.\nPass for example 'MyModule.solve'."
        )
    op = _Op(f if isinstance(f, str) else _Held(f, equal))

    @functools.wraps(function, assigned=())
    def apply(*args):
        arrays = [jnp.asarray(a) for a in args]
        if not arrays:
            raise TypeError(f"`{op}` must get at least one array.")
        structs = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
        shapes = out(*structs) if callable(out) else out
        several = isinstance(shapes, tuple | list)
        results = function_p.bind(
            *arrays,
            op=op,
            out=tuple(
                (tuple(s.shape), np.dtype(s.dtype))
                for s in (shapes if several else (shapes,))
            ),
            nbatch=0,
            nlinear=linear,
        )
        return tuple(results) if several else results[0]

    apply.__name__ = apply.__qualname__ = str(op)
    return apply


def include(path) -> None:
    """Runs a Julia file in Julia's `Main`, so that its functions have names there."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"`julia.include(path)` must name a file. Got {path}.")
    julia().include_in_main(str(Path(path).resolve()))


def warmup() -> None:
    """Starts Julia now (on the main thread) instead of at the first solve."""
    julia()


class _Held:
    """A Julia callable, compared by identity."""

    def __init__(self, f, equal: Equal | None = None):
        self.f, self.equal = f, equal

    def __str__(self):
        return str(self.f)


@dataclasses.dataclass(frozen=True)
class _Op:
    """What is called: `f` after a chain of "Pushforward" and "Pullback"."""

    f: str | _Held
    chain: tuple[tuple[str, tuple[bool, ...]], ...] = ()

    def __str__(self) -> str:
        name = str(self.f)
        for kind, _ in self.chain:
            name = f"{kind}({name})"
        return name

    def then(self, kind: str, which) -> "_Op":
        return _Op(self.f, (*self.chain, (kind, tuple(map(bool, which)))))

    def transposed(self) -> "_Op":
        """Its transpose in the arguments in which it is linear."""
        kind, which = self.chain[-1] if self.chain else ("", ())
        inner = _Op(self.f, self.chain[:-1])
        if kind == "Transposed":
            return inner
        other = {"Pushforward": "Pullback", "Pullback": "Pushforward"}
        return inner.then(other[kind], which) if kind else self.then("Transposed", ())

    @functools.cached_property
    def callable(self):
        module = julia()
        f = module.resolve(self.f) if isinstance(self.f, str) else self.f.f
        for kind, which in self.chain:
            f = getattr(module, kind)(f, which)
        return f

    def in_jax(self) -> Callable | None:
        """The same on JAX arrays, as a function that returns a tuple; `None` if nobody
        said what it is."""
        equal = getattr(self.f, "equal", None)
        if equal is None:
            return None
        f = lambda *args: (equal.f(*args),)
        for kind, which in self.chain:
            if kind == "Transposed":
                f = lambda *args: (equal.transposed(*args),)
            else:
                f = functools.partial(_DERIVED[kind], f, which)
        return f


def _pushforward(f, which, *args):
    x, tangents = args[: len(which)], iter(args[len(which) :])
    moved = [
        next(tangents) if w else jnp.zeros_like(a) for a, w in zip(x, which, strict=True)
    ]
    return jax.jvp(f, x, tuple(moved))[1]


def _pullback(f, which, *args):
    x, cotangents = args[: len(which)], args[len(which) :]
    found = jax.vjp(f, *x)[1](cotangents)
    return tuple(a for a, w in zip(found, which, strict=True) if w)


_DERIVED = {"Pushforward": _pushforward, "Pullback": _pullback}


def _over_batch(f: Callable, nbatch: int) -> Callable:
    """`f` over leading axes, of size 1 where an argument is not batched."""
    mapped = f
    for _ in range(nbatch):
        mapped = jax.vmap(mapped)

    def apply(*args):
        batch = batch_shape(args, nbatch)
        return mapped(*(jnp.broadcast_to(a, batch + a.shape[nbatch:]) for a in args))

    return apply


function_p = Primitive("julia_function")
function_p.multiple_results = True


@function_p.def_abstract_eval
def _abstract(*avals, out, nbatch, **_):
    batch = batch_shape(avals, nbatch)
    return [ShapedArray(batch + shape, dtype) for shape, dtype in out]


def _jvp(primals, tangents, *, op, out, nbatch, nlinear):
    bind = functools.partial(function_p.bind, nbatch=nbatch)
    primal_out = bind(*primals, op=op, out=out, nlinear=nlinear)
    if any(not jnp.issubdtype(dtype, jnp.inexact) for _, dtype in out):
        raise TypeError(
            f"A Julia function that is differentiated must return floats.\n"
            f"Got `{op}` with results {[str(d) for _, d in out]}.\n"
            "Return whole numbers from a function of their own."
        )
    n = len(primals) - nlinear
    moved = [type(t) is not ad.Zero for t in tangents]
    terms = []
    if any(moved[:n]):
        # All but the linear arguments are differentiated by a rule; when `op` is itself
        # linear in the last ones, those stay where they are.
        which = (*moved[:n], *[False] * nlinear)
        moving = [t for t, m in zip(tangents[:n], moved[:n], strict=True) if m]
        pushed, same = op.then("Pushforward", which), op.in_jax()
        if same and _missing(pushed, _specs((*primals, *moving), nbatch)):
            push = functools.partial(_pushforward, _over_batch(same, nbatch), which)
            terms.append(push(*primals, *moving))
        else:
            terms.append(bind(*primals, *moving, op=pushed, out=out, nlinear=len(moving)))
    if any(moved[n:]):
        linear = [ad.instantiate_zeros(t) for t in tangents[n:]]
        terms.append(bind(*primals[:n], *linear, op=op, out=out, nlinear=nlinear))
    total = terms[0] if len(terms) == 1 else [a + b for a, b in zip(*terms, strict=True)]
    return primal_out, total


ad.primitive_jvps[function_p] = _jvp


def _transpose(cts, *args, op, out, nbatch, nlinear):
    n = len(args) - nlinear
    fixed = args[:n]
    if any(ad.is_undefined_primal(a) for a in fixed):
        raise NotImplementedError(
            f"`{op}` is not linear in its arguments, so it cannot be transposed."
        )
    cts = [
        jnp.zeros(shape, dtype) if type(ct) is ad.Zero else ct
        for ct, (shape, dtype) in zip(cts, _batched(out, fixed, nbatch), strict=True)
    ]
    back = op.transposed()
    core = lambda a: (a.aval.shape[nbatch:], np.dtype(a.aval.dtype))
    results = function_p.bind(
        *fixed,
        *cts,
        op=back,
        out=tuple(
            core(a) if ad.is_undefined_primal(a) else (a.shape[nbatch:], a.dtype)
            for a in args[n:]
        ),
        nbatch=nbatch,
        nlinear=len(cts),
    )
    # A linear argument that was not batched received one contribution per sample.
    return [None] * n + [
        _unbroadcast(r, a.aval.shape) if ad.is_undefined_primal(a) else None
        for r, a in zip(results, args[n:], strict=True)
    ]


def _batched(out, args, nbatch):
    batch = batch_shape(args, nbatch)
    return [(batch + shape, dtype) for shape, dtype in out]


def _unbroadcast(x, shape):
    axes = [i for i, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if a != b]
    return jnp.sum(x, axis=axes, keepdims=True) if axes else x


ad.primitive_transposes[function_p] = _transpose


def _batch(args, dims, *, nbatch, **params):
    results = function_p.bind(*add_batch_axis(args, dims), nbatch=nbatch + 1, **params)
    return results, [0] * len(results)


batching.primitive_batchers[function_p] = _batch


def _call(*args, op, out, nbatch, nlinear):
    del nlinear
    ins = _specs(args, nbatch)
    return call_p.bind(
        *args,
        target=_target(op, ins, tuple((dtype, len(shape)) for shape, dtype in out)),
        out=out,
        column_major=True,
        attributes=(),
        nbatch=nbatch,
    )


def _specs(args, nbatch: int):
    return tuple((np.dtype(a.dtype), np.ndim(a) - nbatch) for a in args)


@functools.cache
def _missing(op: _Op, ins) -> str:
    return ffi.missing_rule(op.callable, ins) if op.chain else ""


@functools.cache
def _target(op: _Op, ins, outs) -> str:
    if why := _missing(op, ins):
        raise NotImplementedError(why)
    return ffi.function_target(op.callable, ins, outs)


mlir.register_lowering(function_p, mlir.lower_fun(_call, multiple_results=True))


@functools.lru_cache(maxsize=4096)
def _compiled(params):
    return jax.jit(functools.partial(function_p.bind, **dict(params)))


@function_p.def_impl
def _eager(*args, **params):
    return _compiled(tuple(sorted(params.items(), key=lambda item: item[0])))(*args)
