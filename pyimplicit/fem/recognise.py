"""Built-in operators in a form that somebody wrote, found by its flux.

At a point a scalar form that is affine in u is c₀ v + c₁·∇v with

    c₀ = m u + b·∇u + f,    c₁ = K ∇u + a u + g

For linear functions on simplices ∫ K∇u·∇v needs only the mean of K in each cell, since
gradients are constant there; ∫ (b·∇u) v, ∫ m u v and ∫ f v need b, m and f alone where
these are constant in each cell. Then the matrix is a sum of operators of
`pyimplicit.fem.loops`. Their coefficients are derivatives of the flux, by JAX: fewer
numbers than an element matrix has. Which of them there are, whether they are constant, and
whether K is κI is read off the operations of the form, never off numbers.

Of vectors only κ ∇u:∇v and m u·v are known: the same for each component, and none of them
mixed with others.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import loops
from .assembly import Term, dependence, flux, map_items, residual
from .forms import Field
from .operations import Kind, kinds
from .space import FunctionSpace, Space


def matrix_and_residual(V: Space, term: Term, points, dtype):
    """The matrix on `V.pattern()` `(nnz,)` and the residual at u = 0 `(size,)` of a form
    that is affine in u, as `linear_system` has them; `None` where the loops do not fit.

    *Derivative*: in the coefficients of the form through K, b, m and f, any order.
    """
    if not isinstance(V, FunctionSpace) or not loops.fits(V):
        return None
    if term.domain.name is not None:
        return None
    real = jnp.finfo(dtype).dtype
    zero = jnp.zeros(V.components, real), jnp.zeros((V.components, V.mesh.dim), real)
    at = lambda u, w: flux(V, term.form, (u,), w, dtype)[0]
    slopes = lambda w: jax.jacfwd(at)(zero, w)
    varying, fixed = _at_point(V, term, real)
    depends = lambda fn: dependence(lambda v, w: fn(v | w), varying, fixed)
    changes = lambda fn: np.any(depends(fn), axis=1)
    there, change = dependence(at, zero, varying | fixed), changes(slopes).reshape(2, 2)
    both = Kind.MULTIPLE, Kind.MULTIPLE
    linear = lambda p, w: jax.jvp(lambda u: at(u, w), (zero,), (p,))[1]
    m_is_number, k_is_number = (
        kind == Kind.MULTIPLE for kind in kinds(linear, zero, both, varying | fixed)
    )
    scalar = V.components == 1

    names = {}  # operator: its coefficients at a point
    if there[1, 1] and k_is_number:
        first = jnp.zeros_like(zero[1]).at[0, 0].set(1.0)
        along = lambda w: jax.jvp(lambda g: at((zero[0], g), w)[1], zero[1:], (first,))[1]
        names["Diffusion"] = lambda w: along(w)[0, 0]
    elif there[1, 1] and scalar:
        names["TensorDiffusion"] = lambda w: slopes(w)[1][1]
    if there[0, 1] and scalar and not change[0, 1] and V.degree >= 1:
        names["Advection"] = lambda w: slopes(w)[0][1]
    number = scalar or m_is_number
    if there[0, 0] and number and not change[0, 0] and V.degree >= 2:
        names["Mass"] = lambda w: slopes(w)[0][0][0, 0]
    if not names or len(names) < np.count_nonzero(there):
        return None
    c0, c1 = kinds(at, zero, both, varying | fixed)
    vanishes = lambda c: c not in (Kind.UNIFORM, Kind.FREE, Kind.ANY)
    rest = not (vanishes(c0) and vanishes(c1))
    if vanishes(c1) and rest and V.degree >= 1 and not changes(lambda w: at(zero, w)[0])[0]:
        names["Load"], rest = (lambda w: at(zero, w)[0]), False

    share = term.domain.quadrature_weights / term.domain.quadrature_weights.sum()

    def kernel(place, bases, w, axes, local):
        mean = lambda c: jnp.asarray(share, real) @ c.reshape(len(c), -1)
        return {name: mean(jax.vmap(at, (axes,))(w)) for name, at in names.items()}

    theta = map_items(V, term, kernel, jnp.zeros(V.size, real), points)
    parts = {n: loops.assemble(V, n, t, points=points) for n, t in theta.items()}
    load = residual(V, [term], jnp.zeros(V.size, dtype), points) if rest else None
    return sum(parts[n] for n in parts if n != "Load"), parts.get("Load", load)


def _at_point(V: Space, term: Term, real) -> tuple[dict, dict]:
    """What `w` holds at a point, as structs: what may vary in a cell, and what does not."""
    dim = V.mesh.dim
    struct = lambda *shape: jax.ShapeDtypeStruct(shape, real)
    varying: dict[str, Any] = {"x": struct(dim)}
    fixed: dict[str, Any] = {"h": struct()}
    for name, c in term.coefficients.items():
        of = lambda *shape, c=c: jax.ShapeDtypeStruct(shape, c.values.dtype)
        value = Field(of(*c.shape), of(*c.shape, dim)) if c.field else of(*c.shape)
        inside = c.by_point or c.element is not None
        (varying if inside else fixed)[name] = value
    return varying, fixed
