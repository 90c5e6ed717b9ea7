"""Faults that other programs of deep Ritz had, and what users of `pi.ritz` may get wrong:
named before anything is computed, or told with the result."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyimplicit import fem, ritz
from pyimplicit.ritz import jets
from pyimplicit.ritz.functional import Discrete, Functional
from pyimplicit.ritz.stalled import why

from .ritz_problems import PROBLEMS


KEY = jax.random.key(0)
DISK, SQUARE, INTERVAL, _ = PROBLEMS


# --- faults of other programs ----------------------------------------------------------


@pytest.mark.parametrize("lift", [False, True])
def test_the_network_of_the_paper_is_of_cubes(lift):
    """In one repository the activation of this name was never used, but tanh."""
    net = ritz.ReLU3(2, 4, 2, lift=lift, key=KEY)
    cube = lambda a: np.maximum(a, 0) ** 3
    s = x = np.array([0.4, -0.9])
    if net.lift is not None:
        W, b = net.lift
        s = W @ x + b
    for W1, b1, W2, b2 in net.blocks:
        s = np.pad(s, (0, 4 - s.size)) + cube(W2 @ cube(W1 @ s + b1) + b2)
    W, b = net.last
    assert float(net(jnp.asarray(x))) == pytest.approx(float((W @ s + b)[0]), rel=1e-12)


def test_derivatives_cost_what_they_must():
    """No Hessian on the way: of a function of d variables the gradient of ½|∇u|² in the
    parameters costs a fixed number of values of u, the Laplacian's d times as many."""

    def costs(d):
        net = ritz.MLP(d, 32, 2, key=KEY)
        x = jnp.ones(d)
        dirichlet = lambda net: 0.5 * jnp.sum(jets.first(net, x, d)[1] ** 2)
        laplacian = lambda net: jets.with_laplacian(net, x, d)[2]
        cost: Any = lambda fn: jax.jit(fn).lower(net).cost_analysis()
        flops = lambda fn: cost(fn)["flops"]
        one = flops(lambda net: net(x))
        return flops(jax.grad(dirichlet)) / one, flops(jax.grad(laplacian)) / one / d

    few, many = np.array(costs(20)), np.array(costs(80))
    assert (few < 10).all() and (many < 1.2 * few).all()


class Stretch(eqx.Module):
    """u = (a x, b y): free of shear, and held on its symmetry axes."""

    c: jax.Array = eqx.field(default_factory=lambda: jnp.zeros(2))

    def __call__(self, x):
        return self.c * x


@pytest.mark.parametrize("energy", [ritz.linear_elasticity, ritz.neo_hookean])
def test_a_load_moves_what_it_pulls(energy):
    """One library's energy method left all displacements zero. A square that is pulled at
    its right side: stresses are (t, 0), in both laws."""
    lam, mu, t = 1.3, 0.7, 0.4
    pull = lambda x: jnp.where(x[0] > 1 - 1e-9, jnp.array([t, 0.0]), 0.0)
    found = ritz.solve(
        energy(lam, mu, traction=pull), SQUARE.domain, ritz.Natural(), Stretch(),
        quadrature=ritz.Gauss(2, 1), fine=SQUARE.domain.gauss(3, 1), steps=8,
        report_every=8, optimizer=ritz.NaturalGradient(damping=(1e-15,), lengths=6),
    )  # fmt: skip
    a, b = map(float, found.theta)
    if energy is ritz.linear_elasticity:
        stress = lam * (a + b) + 2 * mu * np.array([a, b])
    else:
        f = 1 + np.array([a, b])
        stress = mu * (f - 1 / f) + lam * np.log(f[0] * f[1]) / f
    np.testing.assert_allclose(stress, [t, 0], atol=1e-8)
    assert a > 0.1 > 0 > b


def test_cells_that_are_numbered_backwards_change_nothing():
    mesh = fem.Mesh.rectangle(3, 2)
    cells = np.array(mesh.cells["triangle"])
    cells[::2] = cells[::2, ::-1]
    turned = fem.Mesh.from_arrays(np.array(mesh.points), {"triangle": cells})
    fn = lambda x: np.exp(x[:, 0]) * x[:, 1]
    sums = []
    for m in (mesh, turned):
        inside, around = ritz.Gauss(6, 1).rule(ritz.MeshDomain(m))
        flux = np.asarray(around.normal) * fn(np.asarray(around.x))[:, None]
        sums.append([inside.w @ fn(np.asarray(inside.x)), *(around.w @ flux)])
    np.testing.assert_allclose(*sums, rtol=1e-10)
    e = np.e - 1
    np.testing.assert_allclose(sums[0], [e / 2, e / 2, e], rtol=1e-10)


# --- what is told with the result ------------------------------------------------------


def run(energy=INTERVAL.energy, boundary: Any = None, width=4, **more):
    options: dict[str, Any] = {
        "quadrature": ritz.Gauss(3, 2), "fine": INTERVAL.domain.gauss(4, 2), "steps": 2,
        "report_every": 1,
    } | more  # fmt: skip
    boundary = ritz.Exact() if boundary is None else boundary
    net = ritz.MLP(1, width, 1, key=KEY)
    return ritz.solve(energy, INTERVAL.domain, boundary, net, **options)


def test_energies_without_a_minimum_are_named():
    """A wrong sign, by the second variation where steps are refused, and by how far it fell
    where they are not; and a load that nothing holds."""
    wrong = ritz.poisson(1.0, kappa=-1.0)
    net = ritz.MLP(1, 4, 1, key=KEY)
    f = Functional(wrong, INTERVAL.domain, ritz.Exact(), net)
    problem = Discrete(f, INTERVAL.domain.gauss(3, 2), 0)
    said = why(problem, problem, f.theta, 12)
    assert "second variation is negative" in said and "wrong sign" in said
    fell = run(wrong, optimizer=ritz.LevenbergMarquardt(), steps=40, report_every=40)
    assert fell.energy < -1e6 and "The energy fell" in fell.message
    loose = run(ritz.poisson(1.0), ritz.Natural(), steps=4, report_every=4)
    assert "boundary values that nothing holds" in loose.message


def test_files_of_another_run_are_refused(tmp_path):
    file = tmp_path / "run.eqx"
    first = run(checkpoint=file)
    again = run(checkpoint=file, resume=True, steps=1)
    assert again.message == "2 steps were taken" == first.message
    np.testing.assert_array_equal(first.theta, again.theta)
    others: list[dict[str, Any]] = [{"width": 5}, {"optimizer": ritz.Adam(1e-2)},
                                    {"boundary": ritz.AugmentedLagrangian()}]  # fmt: skip
    for other in others:
        with pytest.raises(ValueError, match="of the same model") as caught:
            run(checkpoint=file, resume=True, **other)
        assert "Got" in str(caught.value)
    file.write_bytes(b"not one")
    with pytest.raises(ValueError, match="of the same model"):
        run(checkpoint=file, resume=True)


# --- what is refused -------------------------------------------------------------------

NET, PAIR = ritz.MLP(2, 3, 1, key=KEY), ritz.MLP(2, 3, 1, out=2, key=KEY)
ELASTIC = ritz.linear_elasticity(1.0, 1.0)
OUTSIDE = ritz.Implicit(lambda x: 1 - x @ x, [-1.2] * 2, [1.2] * 2, 4)
LARGER = ritz.MeshDomain(fem.Mesh.disk(2), distance=lambda x: 4 - x @ x)


def call(energy: Any = SQUARE.energy, domain: Any = SQUARE.domain, boundary: Any = None,
         model: Any = NET, **more):  # fmt: skip
    boundary = ritz.Exact() if boundary is None else boundary
    how: dict[str, Any] = {"fine": ritz.Gauss(2, 1).rule(domain)} | more
    return lambda: ritz.solve(energy, domain, boundary, model, **how)


REFUSED = {
    "a model of another dimension": (call(model=ritz.MLP(3, key=KEY)), "of 2 inputs"),
    "u of shape (1,)": (call(model=eqx.nn.MLP(2, 1, 4, 1, key=KEY)), r"not \(1,\)"),
    "u of shape (1,), d = 1": (
        call(INTERVAL.energy, INTERVAL.domain, model=ritz.MLP(1, out=1, key=KEY)),
        r"not \(1,\)"),
    "two outputs for Poisson": (call(model=PAIR), r"Got shape \(2, 2\)"),
    "a scalar that is elastic": (call(ELASTIC), r"shapes \(\), \(2,\)"),
    "three components in the plane": (
        call(ELASTIC, model=ritz.MLP(2, out=3, key=KEY)), r"\(3,\), \(3, 2\)"),
    "a density of two": (call(lambda u, g: g @ g), "positional"),
    "a density that is a vector": (call(lambda x, u, g: g**2), "scalar density"),
    "no such component": (
        call(ELASTIC, boundary=ritz.Exact(components=(2,)), model=PAIR), "Count from"),
    "components of a scalar": (
        call(boundary=ritz.Penalty(components=(0,))), "Count from zero"),
    "two values for one": (call(boundary=ritz.Penalty(lambda x: x)), "shape of what"),
    "one value in a vector": (call(boundary=ritz.Exact(lambda x: x[:1])), "shape of what"),
    "nowhere": (call(boundary=ritz.Nitsche(on=lambda x: x[0] < -1)), "none of"),
    "a quotient with a penalty": (call(ritz.rayleigh(), boundary=ritz.Penalty()), "small"),
    "a quotient with Nitsche": (call(ritz.rayleigh(), boundary=ritz.Nitsche()), "small"),
    "the outside of a disk": (call(domain=OUTSIDE), "vanishes on the whole"),
    "another disk's distance": (call(domain=LARGER), "vanishes on the whole"),
    "a rule that is none": (call(fine=ritz.Gauss(2, 1)), r"\.rule\(domain\)"),
    "no steps to a report": (call(report_every=0), "report_every"),
    "no nodes at once": (call(chunk=0), "chunk"),
    "steps that are true": (call(steps=True), "steps"),
    "nothing to start from": (call(resume=True), "checkpoint"),
    "no such folder": (call(checkpoint="no/such/folder.eqx"), "folder"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused(what):
    wrong, words = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=words) as caught:
        wrong()
    assert "Got" in str(caught.value)


def test_solves_are_not_differentiated():
    """Which would be by chance: `ritz.layer` is."""
    wrong = lambda k: run(ritz.poisson(1.0, kappa=k)).energy
    with pytest.raises(TypeError, match=r"ritz\.layer") as caught:
        jax.grad(wrong)(1.0)
    assert "Got" in str(caught.value)


def test_points_on_a_straight_side_change_no_polygon():
    """Where each of two sides on one line counts, a product of lines has slope zero
    there."""
    few = ritz.Polygon([(0, 0), (2, 0), (2, 1), (0, 1)])
    more = ritz.Polygon([(0, 0), (0.5, 0), (2, 0), (2, 0.3), (2, 1), (0, 1)])
    x = few.sample(KEY, 10)
    D = [jax.vmap(polygon.distance)(x) for polygon in (few, more)]
    np.testing.assert_allclose(*D, rtol=1e-12)
    slope = jax.grad(more.distance)(jnp.array([0.7, 0.0]))
    assert float(slope[1]) > 0.5 and more.area == few.area == 6


def test_points_of_a_result_are_rows():
    found = run(steps=1)
    with pytest.raises(ValueError, match="x\\[:, None\\]"):
        found.u(jnp.linspace(0.0, 1.0, 5))
