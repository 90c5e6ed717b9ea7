"""Every transform of JAX that a layer must stand: the columns of the table."""

import jax
import jax.numpy as jnp


def loss(f):
    """A number made of all outputs, with curvature in each."""

    def of(theta):
        out = f(theta)
        w = jnp.cos(1.0 + jnp.arange(out.size))
        return w @ out + 0.5 * (w[::-1] * out) @ out

    return of


def _direction(theta):
    return jnp.cos(2.0 + jnp.arange(theta.size)) * theta


def two(theta):
    return jnp.stack([theta, theta * (1 + 0.02 * jnp.sin(jnp.arange(theta.size)))])


def _both(f):
    """f with its value as what `jacfwd` and `grad` carry along."""
    return lambda theta: (f(theta),) * 2


def _jacfwd(f):
    return jax.jacfwd(_both(f), has_aux=True)


def _hessian(f):
    return jax.jacfwd(_both(jax.grad(loss(f))), has_aux=True)


def _vmap(f):
    def both(theta):
        value = f(theta)
        return loss(lambda _: value)(theta), value

    return lambda theta: jax.vmap(jax.grad(both, has_aux=True))(two(theta))


def _jvp_of_vmap(f):
    batched = jax.vmap(f)
    along = lambda ts: jax.jvp(batched, (ts,), (jax.vmap(_direction)(ts),))[1]
    return lambda theta: along(two(theta))


def _scan(f):
    def end(theta):
        step = lambda t, _: (t * (1 + 1e-2 * jnp.tanh(loss(f)(t))), None)
        return jax.lax.scan(step, theta, length=2)[0] @ _direction(theta)

    return jax.grad(end)


# A function theta -> numbers becomes another one; all are compiled but "eager". What
# passes two columns in one go is traced and compiled once for both.
TRANSFORMS = {
    ("jacfwd", "jit"): _jacfwd,
    ("jacrev",): jax.jacrev,
    ("hessian", "grad"): _hessian,
    ("vmap(grad)", "vmap"): _vmap,
    ("jvp(vmap)",): _jvp_of_vmap,
    ("scan",): _scan,
    ("rev-over-rev",): lambda f: jax.grad(lambda t: _direction(t) @ jax.grad(loss(f))(t)),
    ("checkpoint",): lambda f: jax.grad(jax.checkpoint(loss(jax.jit(f)))),
}
COLUMNS = [name for names in TRANSFORMS for name in names]


def cells(f):
    """theta -> all compiled cells of one row, by one program."""

    def row(theta):
        found = {}
        for names, T in TRANSFORMS.items():
            out = T(f)(theta)
            found |= zip(names, out if len(names) > 1 else [out], strict=True)
        return found

    return jax.jit(row)
