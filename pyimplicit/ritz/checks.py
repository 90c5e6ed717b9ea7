"""What `solve` and its kin refuse, before anything is compiled."""

import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ..fem.mesh import Mesh
from .boundary import AbstractBoundary, Exact, picked
from .domains import AbstractDomain, MeshDomain, Nodes, Rule
from .energies import at
from .functional import Functional
from .optimizers import AbstractOptimizer
from .quadrature import AbstractQuadrature


FAR = 0.2  # parts of its largest value that a distance may have on the boundary
ENOUGH = 256  # nodes that boundary values are looked at


def as_domain(domain) -> AbstractDomain:
    """A mesh as a domain."""
    if isinstance(domain, AbstractDomain):
        return domain
    if isinstance(domain, Mesh):
        return MeshDomain(domain)
    raise TypeError(
        f"`solve(domain=...)` must be a domain.\nGot {domain!r}.\n"
        "Known: ritz.Box, Ball, Polygon, LShape, Slit, Implicit, and any fem.Mesh."
    )


def check_objects(boundary, model, quadrature, optimizer, fine) -> None:
    """Raises where an argument is of another kind."""
    kinds = (
        ("boundary", boundary, AbstractBoundary, "ritz.Exact(0.0)"),
        ("quadrature", quadrature, AbstractQuadrature, "ritz.Gauss(4, 8)"),
        ("optimizer", optimizer, AbstractOptimizer, "ritz.NaturalGradient()"),
        ("fine", fine, Rule | None, "ritz.Gauss(8, 8).rule(domain)"),
    )
    for name, given, kind, example in kinds:
        if not isinstance(given, kind):
            what = "ritz.Rule" if name == "fine" else f"ritz {name}"
            raise TypeError(
                f"`solve({name}=...)` must be a {what}.\nGot {given!r}.\n"
                f"Take for example {example}."
            )
    if not callable(model):
        raise TypeError(
            f"`solve(model=...)` must be an equinox module x -> u.\nGot {model!r}.\n"
            "Take for example ritz.MLP(2, key=jax.random.key(0))."
        )


def check_numbers(steps, report_every, chunk) -> None:
    """Raises unless all are positive whole numbers."""
    numbers = (
        ("steps", steps, "Some 100 natural gradient steps, some 10,000 of Adam."),
        ("report_every", report_every, "It is the number of steps between two reports."),
        ("chunk", chunk, "It is how many nodes are worked on at once: 2048."),
    )
    for name, n, remedy in numbers:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(
                f"`solve({name}=...)` must be a positive whole number.\nGot {n!r}.\n"
                f"{remedy}"
            )


def check_file(checkpoint: str | os.PathLike | None, resume: bool) -> None:
    """Raises where nothing could be written, or read."""
    if checkpoint is None and resume:
        raise ValueError(
            "`solve(resume=True)` must have a `checkpoint` to start from.\nGot None.\n"
            "Pass checkpoint='run.eqx', the same in each run."
        )
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ValueError(
            "`solve(checkpoint=...)` must be a file in a folder that exists.\n"
            f"Got {str(checkpoint)!r}.\nMake the folder before."
        )


def check_functional(functional: Functional, fine: Rule) -> None:
    """Raises where model, boundary values and energy do not fit together, or boundary
    values are not held where they should be."""
    if not functional.theta.size:
        raise ValueError(
            "`solve(model=...)` must have parameters.\nGot a model without floating "
            "arrays.\nMake them arrays of the module, not closures."
        )
    x = jax.ShapeDtypeStruct(fine.interior.x.shape[1:], functional.theta.dtype)
    u = _check_model(functional, x)
    held_by, energy = functional.boundary, functional.energy
    if energy.scale_free and held_by.active:
        raise ValueError(
            "Boundary values of an energy that does not change if u is multiplied by a "
            f"number must hold exactly.\nGot a quotient with {type(held_by).__name__}, "
            "which u evades by becoming small.\nTake ritz.Exact(), or ritz.Natural()."
        )
    if isinstance(held_by, Exact) or held_by.active:
        _check_values(held_by, x, u)
    if isinstance(held_by, Exact) and held_by.distance is None:
        _check_distance(functional.domain, fine)
    on: Any = getattr(held_by, "on", None)
    if on is not None and not bool(jnp.any(jax.vmap(on)(fine.boundary.x))):
        raise ValueError(
            f"`{type(held_by).__name__}(on=...)` must hold somewhere on the boundary.\n"
            f"Got a condition that none of {len(fine.boundary.x)} nodes meets.\n"
            "Leave room for rounding, e.g. lambda x: x[0] < 1e-9."
        )
    _check_energy(functional, fine)


def _check_model(functional: Functional, x) -> Any:
    """What the model returns at one point, as a shape."""
    try:
        u = jax.eval_shape(functional.model(functional.theta), x)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"`solve(model=...)` must take one point of the domain, {x.shape}.\n"
            f"Got an error from it: {_first_line(error)}\n"
            f"Make it a model of {x.shape[0]} inputs."
        ) from error
    if not eqx.is_array_like(u) and not hasattr(u, "shape"):
        raise TypeError(f"The model must return an array.\nGot {u!r}.\nReturn u(x).")
    if u.ndim > 1:
        raise ValueError(
            "`solve(model=...)` must return a scalar or a vector at one point.\n"
            f"Got shape {u.shape}.\nReturn () or (m,)."
        )
    return u


def _check_values(held_by: Any, x, u) -> None:
    """Raises unless the components exist and g has the shape of what it is for."""
    name, components = type(held_by).__name__, held_by.components
    known = range(u.shape[0]) if u.ndim else ()
    if components is not None and not all(c in known for c in components):
        raise ValueError(
            f"`{name}(components=...)` must be numbers of components of u.\n"
            f"Got {components!r} for u of shape {u.shape}.\n"
            "Count from zero; leave it out for all of them, or for a scalar."
        )
    held = jax.eval_shape(lambda u: picked(held_by, u), u).shape
    g = jax.eval_shape(lambda x: jnp.asarray(at(held_by.g, x)), x).shape
    if g not in ((), held):
        raise ValueError(
            f"`{name}(g)` must be a number, or of the shape of what it holds.\n"
            f"Got shape {g} for u of shape {held}.\nReturn a scalar for a scalar u."
        )


def _check_distance(domain: AbstractDomain, fine: Rule) -> None:
    def largest(nodes: Nodes) -> float:
        some = nodes.x[:: max(len(nodes.x) // ENOUGH, 1)]
        return float(jnp.max(jnp.abs(jax.vmap(domain.distance)(some))))

    around, inside = largest(fine.boundary), largest(fine.interior)
    if around > FAR * inside:
        raise ValueError(
            "`Exact` must have a distance that vanishes on the whole boundary.\n"
            f"Got up to {around:.3g} there, and {inside:.3g} inside.\nIf u is to be held "
            "where it vanishes only, pass Exact(g, distance); else see that the domain is "
            "the one that you mean, or take ritz.Nitsche."
        )


def _check_energy(functional: Functional, fine: Rule) -> None:
    """Raises unless the density takes what the model returns, to one number."""
    shapes = ""
    try:
        jet = jax.eval_shape(functional.interior_jet, functional.theta, fine.interior.x[0])
        shapes = ", ".join(str(part.shape) for part in jet)
        total = jax.eval_shape(lambda theta: functional.pure(theta, fine), functional.theta)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            "`solve(energy=...)` must be a density e(x, u, grad_u) of what the model "
            f"returns.\nGot u, grad_u, … of shapes {shapes} and an error: "
            f"{_first_line(error)}\nA scalar u has shape (), not (1,): see `out` of "
            "ritz.MLP, `out_size` of eqx.nn.MLP."
        ) from error
    if total.shape != ():
        raise ValueError(
            "`solve(energy=...)` must have a scalar density, or a `combine` to one "
            f"number.\nGot shape {total.shape} from u, grad_u, … of shapes {shapes}.\n"
            "Sum over components; a scalar u has shape (), not (1,)."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
