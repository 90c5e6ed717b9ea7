"""Elastic solids, small and large deformations, against closed forms and benchmarks."""

import jax
import jax.numpy as jnp
import numpy as np

import pyimplicit as pi
from pyimplicit import fem
from pyimplicit.fem import (
    FunctionSpace,
    Mesh,
    MixedSpace,
    Problem,
    dot,
    grad,
    inner,
    models,
)
from pyimplicit.fem.models.solid import lame

from .test_fem_models import at, close, quads, quarter


def stress(V, u, point, E, nu, plane):
    """σ of a displacement at a node, the mean over its cells."""
    dof, found = at(V, point), []
    for c in np.flatnonzero((V.cells == dof).any(axis=1)):
        reference = V.element.cell.points[V.cells[c] == dof]
        gradients = V.element.gradients(reference)[0]
        J = V.dof_points[V.cells[c]].T @ gradients
        slope = np.asarray(u)[V.cells[c]].T @ gradients @ np.linalg.inv(J)
        mu, lam = lame(E, nu, plane)
        found.append(mu * (slope + slope.T) + lam * np.trace(slope) * np.eye(2))
    return np.mean(found, axis=0)


def test_cantilever():
    """Tip deflection PL³/3EI + 6PL/5GA of a slender clamped beam (ν = 0)."""
    length, height, E, load = 20.0, 1.0, 3e4, 2.0
    V = FunctionSpace(quads(20, 1, (length, height)), "Q2", 2)
    beam = models.elasticity(
        V, {"left": 0.0}, plane="stress", neumann={"right": (0.0, -load / height)}
    )
    u = jax.jit(lambda: beam.solve({"E": E, "nu": 0.0}))()
    exact = load * length**3 / (3 * E / 12) + 6 * load * length / (5 * E / 2)
    close(-u[at(V, [length, height / 2]), 1], exact, 1e-3)


def test_lame_cylinder():
    """A pressurised thick cylinder in plane strain, displacements and hoop stress."""
    a, b, p, E, nu = 1.0, 2.0, 3.0, 10.0, 0.3
    V = quarter(4, 4, ((a, a), (b, b)))
    cylinder = models.elasticity(
        V,
        {"bottom": (None, 0.0), "top": (0.0, None)},
        boundary={"left": lambda u, v, w: p * dot(w.n, v)},
    )
    u = jax.jit(lambda: cylinder.solve({"E": E, "nu": nu}))()
    r = np.linalg.norm(V.dof_points, axis=1)
    scale = p * a**2 / (b**2 - a**2) * (1 + nu) / E
    radial = scale * ((1 - 2 * nu) * r + b**2 / r)
    close(u, V.dof_points / r[:, None] * radial[:, None], 1e-3)
    hoop = stress(V, u, [a, 0], E, nu, "strain")[1, 1]
    close(hoop, p * (a**2 + b**2) / (b**2 - a**2), 0.02)


def test_cook():
    """Cook's membrane: E = 1, ν = 1/3, unit shear load; the tip's middle rises by 23.96."""
    corners = np.array([[0.0, 0], [48, 44], [48, 60], [0, 44]])

    def move(x):
        s, t = x.T
        weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=1)
        return weights @ corners

    V = FunctionSpace(quads(12, 12).second_order(move), "Q2", 2)
    cook = models.elasticity(
        V, {"left": 0.0}, plane="stress", neumann={"right": (0.0, 1 / 16)}
    )
    u = jax.jit(lambda: cook.solve({"E": 1.0, "nu": 1 / 3}))()
    close(u[at(V, [48, 52]), 1], 23.96, 1.5e-3)


def test_nafems_le1():
    """Elliptic membrane under outward pressure 10 MPa: σ_yy at D is 92.7 MPa."""
    V = quarter(16, 20, ((2.0, 1.0), (3.25, 2.75)))
    membrane = models.elasticity(
        V,
        {"bottom": (None, 0.0), "top": (0.0, None)},
        plane="stress",
        boundary={"right": lambda u, v, w: -10.0 * dot(w.n, v)},
    )
    E, nu = 210e3, 0.3
    u = jax.jit(lambda: membrane.solve({"E": E, "nu": nu}))()
    close(stress(V, u, [2, 0], E, nu, "stress")[1, 1], 92.7, 0.005)


def test_hyperelasticity():
    """Uniaxial stretch by 3 of a compressible bar, in steps: F = diag(3, b, b) with the
    b at which its sides are free."""
    V = FunctionSpace(Mesh.box(1, 1, 1), "P1", 3)
    supports = {
        "left": (0.0, None, None),
        "front": (None, 0.0, None),
        "bottom": (None, None, 0.0),
        "right": (2.0, None, None),
    }
    bar = models.hyperelasticity(V, supports)
    solve = lambda mu: bar.solve({"mu": mu, "lam": 2.0}, steps=4)
    run = jax.jit(lambda mu: jax.jvp(solve, (mu,), (1.0,)))
    (u, slope), (up, _), (down, _) = run(1.5), run(1.5 + 1e-5), run(1.5 - 1e-5)
    sides = 1 + u[-1, 1]
    close(u, V.dof_points * np.array([2, sides - 1, sides - 1]), 1e-9)
    # P₂₂ = μ (b - 1/b) + λ ln(3 b²)/b = 0
    close(1.5 * (sides - 1 / sides) + 2 * np.log(3 * sides**2) / sides, 0, 1e-9)
    close(slope, (up - down) / 2e-5, 1e-7)


def test_hyperelasticity_in_one_step_of_load():
    """Pressed to a quarter of its length at once. Newton's full steps turn it inside out,
    where the energy is NaN; the line search shortens them."""
    V = FunctionSpace(quads(2, 1), "Q1", 2)
    supports = {"left": (0.0, None), "bottom": (None, 0.0)}
    block = models.hyperelasticity(V, supports, neumann={"right": (-12.0, 0.0)})
    mu, lam = 1.0, 2.0
    solve = lambda **how: block.solve({"mu": mu, "lam": lam}, throw=False, **how)
    found, plain = jax.jit(lambda: (solve(), solve(solver=pi.Newton())))()
    assert found.status == 0 and plain.status != 0
    F = 1 + found.value[-1]  # diag(a, b), P = μ (F - 1/F) + λ ln(ab) / F
    close(found.value, V.dof_points * (F - 1), 1e-9)
    close(mu * (F - 1 / F) + lam * np.log(F.prod()) / F, np.array([-12.0, 0.0]), 1e-8)


def test_steps_of_given_displacements():
    """Pressed to half its length by a plate, which moves by two cells: at once it would
    turn the last one inside out."""
    V = FunctionSpace(quads(4, 1), "Q1", 2)
    supports = {"left": (0.0, None), "bottom": (None, 0.0), "right": (0.0, None)}
    block = models.hyperelasticity(V, supports)
    mu, lam = 1.0, 2.0

    def solve(a, steps=5, **how):
        given = {"right": (a, None)}
        coefficients = {"mu": mu, "lam": lam}
        return block.solve(coefficients, dirichlet=given, steps=steps, **how)

    both = jax.jit(lambda a: (solve(a), jax.jacfwd(solve)(a), solve(a, 1, throw=False)))
    u, slope, at_once = both(-0.5)
    assert at_once.status != 0
    b = 1 + u[-1, 1]
    close(mu * (b - 1 / b) + lam * np.log(0.5 * b) / b, 0, 1e-9)  # its sides are free
    close(u, V.dof_points * jnp.stack([-0.5, b - 1]), 1e-9)
    close(slope[:, 0], V.dof_points[:, 0], 1e-9)


def test_nearly_incompressible_rubber_of_scikit_fem():
    """Example 36: displacement and pressure in a cube of five tetrahedra refined twice,
    λ/μ = 10000, stretched by 2; the norm of all displacements. There is a closed form."""
    corners = np.array([(x, y, z) for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)])
    five = [[0, 1, 2, 4], [3, 1, 2, 7], [5, 1, 4, 7], [6, 2, 4, 7], [1, 2, 4, 7]]
    sides = {f"{axis}": np.flatnonzero(x == 0) for axis, x in enumerate(corners.T)}
    sides["end"] = np.flatnonzero(corners[:, 2] == 1)
    facets = {
        name: [np.intersect1d(t, on) for t in five if len(np.intersect1d(t, on)) == 3]
        for name, on in sides.items()
    }
    mesh = Mesh.from_arrays(corners, {"tetra": five}, boundaries=facets).refine(2)
    V, Q = FunctionSpace(mesh, "P2", 3), FunctionSpace(mesh, "P1")
    mu, lam = 1.0, 1e4

    @fem.energy
    def form(u, w):
        u, p = u
        F, p = jnp.eye(3) + grad(u), p.value
        J = (lam + p + jnp.sqrt((lam + p) ** 2 + 4 * lam * mu)) / (2 * lam)
        of_volume = lam / 2 * (J - 1) ** 2 - mu * jnp.log(J)
        change = models.solid.determinant(F) - J
        return p * change + mu / 2 * (inner(F, F) - 3) + of_volume

    supports = {
        "0": (0.0, None, None),
        "1": (None, 0.0, None),
        "2": (None, None, 0.0),
        "end": (None, None, 1.0),
    }
    problem = Problem(MixedSpace(V, Q), form, (supports, {}))
    u, p = jax.jit(lambda: problem.solve(steps=2))()
    close(jnp.linalg.norm(u), 16.530715, 1e-7)
    b = 1 + u[at(V, [1, 1, 1]), 0]  # F = diag(b, b, 2), J = 2 b²: the sides are free
    close(u, V.dof_points * jnp.stack([b - 1, b - 1, 1.0]), 1e-8)
    close(mu * b + p * 2 * b, 0, 1e-7)
    close(p, lam * (2 * b**2 - 1) - mu / (2 * b**2), 1e-6)
