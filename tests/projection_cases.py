"""Projections as cases of one test, and the data that the others share."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import projection as pr


# What compiled code raises: JAX makes the one or the other of it.
FAILURE = (jax.errors.JaxRuntimeError, ValueError)
RNG = np.random.default_rng(3)
normal = lambda *shape: jnp.asarray(RNG.normal(size=shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """`project(x, theta)`; `outside(p, theta)`: how far p is from the set, ≥ 0; `points`:
    some of the set; `convex`: whether the variational inequality holds."""

    name: str
    project: Callable[..., Any]
    x: Any
    theta: Any
    outside: Callable[..., Any]
    points: Any
    convex: bool = True

    def __repr__(self):
        return self.name


def _simplex_points(theta, n=5):
    return theta * np.concatenate([np.eye(n), np.full((1, n), 1 / n)])


def _simplex_off(p, value):
    return np.abs(p.sum() - value) + np.maximum(-p, 0).sum()


def _plan_off(P, theta):
    a, b = theta
    b = b * a.sum() / b.sum()
    apart = np.abs(P.sum(1) - a).sum() + np.abs(P.sum(0) - b).sum()
    return apart + np.maximum(-P, 0).sum()


def _plan_points(theta):
    a, b = theta
    return (np.outer(a, b) / b.sum())[None]


def exponential_off(p, theta):
    a, b, c = p
    if b <= 1e-300:
        return np.maximum(-c, 0) + np.maximum(a, 0) + np.maximum(-b, 0)
    return np.maximum(b * np.exp(a / b) - c, 0)


def _permutahedron_off(p, w):
    p, w = np.sort(p)[::-1], np.sort(w)[::-1]
    excess = np.maximum(np.cumsum(p) - np.cumsum(w), 0).sum()
    return excess + np.abs(p.sum() - w.sum())


def _section_point(t):
    low, high, w, c = t
    return (low + (c - w @ low) / (w @ (high - low)) * (high - low))[None]


X = jnp.array([0.9, -1.3, 2.1, 0.4, 1.7])
PAIR = {"u": normal(3), "v": normal(2, 1)}
A = normal(2, 5)
W = jnp.array([0.5, 1.5, 2.0, 0.8, 1.1])
BOX = (jnp.array([-0.5, -1.0, 0.0, -0.2, -0.3]), jnp.array([0.7, 0.4, 1.2, 0.9, 0.6]))
COST = normal(3, 4)
MARGINALS = (jnp.array([0.23, 0.46, 0.31]), jnp.array([0.12, 0.39, 0.21, 0.28]))
INNER = jnp.array([0.1, -0.2, 0.3, 0.05, 0.02])
E, G, ORIGIN = normal(1, 3), normal(3, 3), jnp.array([0.1, 0.2, -0.3])

balanced = lambda a, b: (a, b * a.sum() / b.sum())
on_simplex = lambda p, theta: _simplex_off(p, 1)
nothing = lambda p, theta: 0.0
norm = lambda p: float(np.linalg.norm(reals(p)))
norm1 = lambda p: np.abs(p).sum()
excess = lambda a: np.maximum(a, 0).sum()
ball_points = lambda theta: np.concatenate([theta * np.eye(5), -theta * np.eye(5)])
rank_one = np.outer([1.0, -2, 3], [1, -2, 3])

CASES = (
    Case("non_negative", lambda x, t: pr.projection_non_negative(x), X, None,
         lambda p, t: excess(-p), lambda t: np.eye(5)),
    Case("box", lambda x, t: pr.projection_box(x, t), X, BOX,
         lambda p, t: excess(t[0] - p) + excess(p - t[1]), lambda t: np.stack(t)),
    Case("hypercube", pr.projection_hypercube, X, jnp.array(0.8),
         lambda p, t: excess(-p) + excess(p - t), lambda t: t * np.eye(5)),
    Case("linf_ball", pr.projection_linf_ball, X, jnp.array(0.8),
         lambda p, t: excess(np.abs(p) - t), lambda t: t * np.eye(5)),
    Case("simplex", pr.projection_simplex, X, jnp.array(1.5), _simplex_off,
         _simplex_points),
    Case("sparse_simplex", lambda x, t: pr.projection_sparse_simplex(x, 2, value=t), X,
         jnp.array(3.0), lambda p, t: _simplex_off(p, t) + (np.sum(p > 0) > 2),
         _simplex_points, False),
    Case("l1_sphere", pr.projection_l1_sphere, X, jnp.array(1.5),
         lambda p, t: np.abs(norm1(p) - t), ball_points, False),
    Case("l1_sphere_from_inside", pr.projection_l1_sphere, 0.1 * X, jnp.array(1.5),
         lambda p, t: np.abs(norm1(p) - t), ball_points, False),
    Case("l1_ball", pr.projection_l1_ball, X, jnp.array(1.5),
         lambda p, t: excess(norm1(p) - t), ball_points),
    Case("l2_sphere", pr.projection_l2_sphere, PAIR, jnp.array(1.5),
         lambda p, t: np.abs(norm(p) - t), ball_points, False),
    Case("l2_ball", pr.projection_l2_ball, PAIR, jnp.array(0.7),
         lambda p, t: excess(norm(p) - t), ball_points),
    Case("hyperplane", pr.projection_hyperplane, X, (W, jnp.array(3.0)),
         lambda p, t: np.abs(t[0] @ p - t[1]), lambda t: np.diag(t[1] / t[0])),
    Case("halfspace", pr.projection_halfspace, X, (W, jnp.array(3.0)),
         lambda p, t: excess(t[0] @ p - t[1]), lambda t: np.diag(t[1] / t[0])),
    Case("affine_set", pr.projection_affine_set, X, (A, A @ INNER),
         lambda p, t: np.abs(t[0] @ p - t[1]).sum(), lambda t: INNER[None]),
    Case("polyhedron", pr.projection_polyhedron, X[:3],
         (E, E @ ORIGIN, G, G @ ORIGIN + jnp.array([0.02, 0.5, 3.0])),
         lambda p, t: np.abs(t[0] @ p - t[1]).sum() + excess(t[2] @ p - t[3]),
         lambda t: ORIGIN[None]),
    Case("box_section", pr.projection_box_section, X, (*BOX, W, jnp.array(1.3)),
         lambda p, t: excess(t[0] - p) + excess(p - t[1]) + np.abs(t[2] @ p - t[3]),
         _section_point),
    Case("capped_simplex", lambda x, t: pr.projection_capped_simplex(x, *t), X,
         (jnp.array(2.0), jnp.array(0.8)),
         lambda p, t: _simplex_off(p, t[0]) + excess(p - t[1]),
         lambda t: np.full((1, 5), t[0] / 5)),
    Case("transport", lambda x, t: pr.projection_transport(x, balanced(*t)), COST,
         MARGINALS, _plan_off, _plan_points),
    Case("birkhoff", lambda x, t: pr.projection_birkhoff(x), COST[:, :3], None,
         lambda P, t: _plan_off(P, (np.ones(3), np.ones(3))),
         lambda t: np.eye(3)[np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])]),
    Case("psd_cone", lambda x, t: pr.projection_psd_cone(x), normal(3, 3), None,
         lambda P, t: excess(-np.linalg.eigvalsh(P)) + np.abs(P - P.T).sum(),
         lambda t: np.stack([np.eye(3), rank_one])),
    Case("second_order_cone", lambda x, t: pr.projection_second_order_cone(x),
         X.at[0].set(0.3), None, lambda p, t: excess(np.linalg.norm(p[1:]) - p[0]),
         lambda t: np.array([[1.0, 0, 0, 0, 1], [2.0, -1, 1, 1, 1]])),
    Case("exponential_cone", lambda x, t: pr.projection_exponential_cone(x),
         jnp.array([0.7, -0.4, 0.9]), None, exponential_off,
         lambda t: np.array([[-1.0, 0, 2], [1, 1, 3], [0.5, 2, 5]])),
    Case("isotonic", lambda x, t: pr.projection_isotonic(x), X, None,
         lambda p, t: excess(-np.diff(p)), lambda t: np.triu(np.ones((5, 5)))),
    Case("permutahedron", pr.projection_permutahedron, X, W * 2, _permutahedron_off,
         lambda t: np.stack([t, t[::-1]])),
)  # fmt: skip
# No projections, but tested like them but for the inequality.
LAYERS = (
    Case("soft_sort", pr.soft_sort, X, jnp.array(0.7), nothing, None, False),
    Case("soft_rank", pr.soft_rank, X, jnp.array(0.7), nothing, None, False),
    Case("isotonic_regression", lambda x, t: pi.isotonic_regression(x, t, -1.0, 1.6), X, W,
         nothing, None, False),
    Case("sparsemax", lambda x, t: pi.sparsemax(x), X, None, on_simplex,
         None, False),
    Case("entmax", pi.entmax, X, jnp.array(1.3), on_simplex, None, False),
)  # fmt: skip


def reals(tree):
    return np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)])
