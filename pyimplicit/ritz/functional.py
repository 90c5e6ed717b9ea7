r"""The energy of a network as a function of its parameters θ, one flat vector.

I(θ) = C(Σ w e(x, jet u_θ(x))) + Σ w b(x, …) on given nodes. Its gradient is one reverse
pass over the forward-mode jets. Its metric, for natural gradients, is the second variation
pulled back by the Jacobian of u_θ,

    G_ij = Σ w D²e[jet ∂u/∂θ_i, jet ∂u/∂θ_j]

(Müller, Zeinhofer 2023, *Achieving high accuracy with PINNs via energy natural gradient
descent*, ICML, arXiv:2302.13163, Eq. (6)); also called generalised Gauss–Newton.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from . import jets
from .boundary import AbstractBoundary, miss
from .domains import AbstractDomain, Nodes, Rule
from .energies import Energy


class Functional:
    """An energy on a domain with a boundary treatment, for a model. `chunk`: how many
    nodes are worked on at once."""

    def __init__(
        self,
        energy: Energy,
        domain: AbstractDomain,
        boundary: AbstractBoundary,
        model: Any,
        chunk: int = 2048,
    ):
        self.energy, self.domain, self.boundary = energy, domain, boundary
        self.chunk = chunk
        varied, self.fixed = eqx.partition(model, eqx.is_inexact_array)
        self.theta, self.unravel = ravel_pytree(varied)
        self.on_boundary = boundary.active or energy.boundary is not None

    def model(self, theta: jax.Array) -> Any:
        """The model with these parameters."""
        return eqx.combine(self.unravel(theta), self.fixed)

    def field(self, theta: jax.Array) -> Callable:
        """x -> u."""
        return self.boundary.field(self.model(theta), self.domain)

    def interior_jet(self, theta, x) -> tuple:
        return self.energy.jet(self.field(theta), x, self.domain.dim)

    def boundary_jet(self, theta, x) -> tuple:
        return jets.first(self.field(theta), x, self.domain.dim)

    def boundary_density(self, x, n, data, u, grad_u):
        """The treatment's density and the energy's own."""
        total = jnp.zeros((), x.dtype)
        if self.boundary.active:
            total += self.boundary.density(self.energy, x, n, u, grad_u, data)
        if self.energy.boundary is not None:
            total += self.energy.boundary(x, n, u)
        return total

    def integrals(self, theta: jax.Array, nodes: Nodes) -> jax.Array:
        """Of the energy's density, `()` or `(k,)`."""

        def at_node(x, w):
            return w * self.energy.density(x, *self.interior_jet(theta, x))

        return summed(at_node, (nodes.x, nodes.w), self.chunk)

    def pure(self, theta: jax.Array, rule: Rule) -> jax.Array:
        """The energy, without what the treatment of the boundary adds."""
        total = self.energy.total(self.integrals(theta, rule.interior))
        if (b := self.energy.boundary) is not None:
            u = self.field(theta)
            load = lambda x, w, n: w * b(x, n, u(x))
            total += summed(load, rule.boundary, self.chunk)
        return total

    def violation(self, theta: jax.Array, rule: Rule) -> jax.Array:
        """‖u - g‖ in L²(∂Ω), where the treatment's condition holds; NaN if there is
        none."""
        if not self.boundary.active:
            return jnp.full((), jnp.nan)
        held_by: Any = self.boundary
        u, on = self.field(theta), held_by.on

        def square(x, w, n):
            held = 1.0 if on is None else on(x)
            return w * held * jnp.sum(miss(held_by, x, u(x)) ** 2)

        return jnp.sqrt(summed(square, rule.boundary, self.chunk))


@dataclasses.dataclass(frozen=True, eq=False)
class Discrete:
    """The functional on the nodes of one step: a function of θ alone. What an optimiser
    is given. `held`: what the boundary treatment holds between steps. `check`: other
    nodes, that steps are judged by too."""

    functional: Functional
    rule: Rule
    step: Any
    held: Any = ()
    check: Rule | None = None

    @property
    def data(self):
        f, nodes = self.functional, self.rule.boundary
        return f.boundary.data(nodes, self.step, self.held)

    def value(self, theta: jax.Array) -> jax.Array:
        f = self.functional
        total = f.energy.total(f.integrals(theta, self.rule.interior))
        if f.on_boundary:
            node = lambda x, w, n, data: (
                w * f.boundary_density(x, n, data, *f.boundary_jet(theta, x))
            )
            total += summed(node, (*self.rule.boundary, self.data), f.chunk)
        return total

    def rise(self, theta: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """new θ -> by how much the energy is higher there, on the worse of the two rules.

        On any nodes the energy has no lower bound: a function that jumps between them
        pays nothing for its slope. Metric steps find such functions; on other nodes they
        are seen.
        """
        problems = [self]
        if self.check is not None:
            problems.append(dataclasses.replace(self, rule=self.check, check=None))
        start = [p.value(theta) for p in problems]

        def of(new):
            rises = [p.value(new) - e for p, e in zip(problems, start, strict=True)]
            return jnp.max(jnp.stack(rises))

        return of

    def _parts(self, theta) -> Iterator[tuple[Callable, Callable, tuple]]:
        """For each of the two places: jets and density as functions of one node, and the
        nodes `(x, w, normal, data)`. The density of the interior is the one whose second
        variation makes the metric."""
        f, inside = self.functional, self.rule.interior
        integrals = jax.lax.stop_gradient(f.integrals(theta, inside))
        c = f.energy.coefficients(integrals)
        density = lambda x, n, data, *jet: jnp.sum(c * f.energy.density(x, *jet))
        yield f.interior_jet, density, (inside.x, inside.w, None, ())
        if f.on_boundary:
            yield f.boundary_jet, f.boundary_density, (*self.rule.boundary, self.data)

    def square(self, theta: jax.Array) -> jax.Array:
        """D²I[u, u] without the boundary: of quadratic energies |u|², the energy norm. Its
        derivative is 2 D²I[u, ∂u/∂θ]: D²I does not move with θ."""
        here = jax.lax.stop_gradient(theta)
        jet, density, (x, w, n, data) = next(self._parts(here))

        def at_node(x, w):
            q = jets.flat(jet(theta, x))
            return w * (q @ _curvature(jet, density, here, x, n, data) @ q)

        return summed(at_node, (x, w), self.functional.chunk)

    def gram(self, theta: jax.Array) -> jax.Array:
        """G, `(p, p)`."""
        total = jnp.zeros((theta.size, theta.size), theta.dtype)
        for jet, density, nodes in self._parts(theta):

            def block(x, w, n, data, jet=jet, density=density):
                H = _curvature(jet, density, theta, x, n, data)
                J = jax.jacrev(lambda theta: jets.flat(jet(theta, x)))(theta)
                return J, w * (H @ J)

            def chunk(part, block=block):
                J, HJ = jax.vmap(block)(*part)
                flat = lambda a: a.reshape(-1, theta.size)
                return flat(J).T @ flat(HJ)

            total += _by_chunks(chunk, nodes, max(self.functional.chunk // 8, 32))
        return (total + total.T) / 2

    def product(self, theta: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """v -> G v, without G: one forward and one reverse pass for each product."""
        products = []
        for jet, density, nodes in self._parts(theta):

            def all_jets(theta, jet=jet, nodes=nodes):
                return jax.vmap(lambda x: jets.flat(jet(theta, x)))(nodes[0])

            _, push = jax.linearize(all_jets, theta)
            pull = jax.linear_transpose(push, theta)

            def second(x, w, n, data, jet=jet, density=density):
                return w * _curvature(jet, density, theta, x, n, data)

            H = jax.vmap(second)(*nodes)
            products.append((push, pull, H))

        def apply(v):
            total = jnp.zeros_like(v)
            for push, pull, H in products:
                total += pull(jnp.einsum("nkl,nl->nk", H, push(v)))[0]
            return total

        return apply


def _curvature(jet, density, theta, x, n, data):
    """D²e at the jet of one node, `(k, k)`."""
    parts = jet(theta, x)
    of_q = lambda q: density(x, n, data, *jets.unflat(q, parts))
    return jax.hessian(of_q)(jets.flat(parts))


def summed(fn: Callable, nodes: tuple, chunk: int) -> jax.Array:
    """Σ fn(*node) over the nodes, whose arrays share their first axis."""
    return _by_chunks(lambda part: jax.vmap(fn)(*part).sum(axis=0), tuple(nodes), chunk)


def _by_chunks(fn: Callable, nodes: tuple, chunk: int):
    """Σ fn(part) over parts of at most `chunk` nodes. `nodes[1]` are the weights: the last
    part is filled with copies of the first node, weight zero."""
    n = len(nodes[0])
    if n <= chunk:
        return fn(nodes)
    parts = -(-n // chunk)
    fill = parts * chunk - n
    more = jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[:1], fill, 0)]), nodes)
    weights = jnp.where(jnp.arange(parts * chunk) < n, more[1], 0)
    more = (more[0], weights, *more[2:])
    split = jax.tree.map(lambda a: a.reshape(parts, chunk, *a.shape[1:]), more)
    first = jax.tree.map(lambda a: a[0], split)
    rest = jax.tree.map(lambda a: a[1:], split)
    # Recomputed in reverse: a pass keeps the intermediates of one part only.
    step = jax.checkpoint(lambda total, part: total + fn(part), prevent_cse=False)
    return jax.lax.scan(lambda c, p: (step(c, p), None), fn(first), rest)[0]
