"""The vocabulary of weak forms.

A form is a function `form(u, v, w)` that returns the integrand of a residual, linear in
the test function v: for -∇·(κ∇u) = f

    lambda u, v, w: w.kappa * dot(grad(u), grad(v)) - w.f * v

It is evaluated at one quadrature point. There `u` and `v` are `Field`s; `grad(u)` and
the like are plain JAX arrays; `w.x` is the point `(dim,)`, `w.h` the diameter of the cell,
on boundaries `w.n` the outward normal, and `w.NAME` the value there of the coefficient
NAME. Any JAX function may be used. In a mixed space u and v are tuples of `Field`s.

The form of a problem that minimises ∫ ψ(u, w) is the derivative of ψ:

    form = energy(lambda u, w: w.kappa * dot(grad(u), grad(u)) / 2 - w.f * u)
"""

import operator

import jax
import jax.numpy as jnp


@jax.tree_util.register_pytree_node_class
class Field:
    """A function at one point: `value` of shape `()` or `(components,)`, `gradient` of
    shape `(dim,)` or `(components, dim)`. In arithmetic it is its value."""

    __slots__ = ("gradient", "value")
    __array_ufunc__ = None  # NumPy arrays leave `a * field` to us

    def __init__(self, value, gradient):
        self.value, self.gradient = value, gradient

    def __jax_array__(self) -> jax.Array:  # jnp.exp(u), …
        return self.value

    def tree_flatten(self):
        return (self.value, self.gradient), None

    @classmethod
    def tree_unflatten(cls, _, leaves) -> "Field":
        return cls(*leaves)

    def __getitem__(self, item):
        return self.value[item]

    def __iter__(self):
        return iter(self.value)

    def __len__(self) -> int:
        return len(self.value)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self):
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def __repr__(self) -> str:
        return f"Field({self.value!r}, {self.gradient!r})"


def _plain(x):
    return x.value if isinstance(x, Field) else x


def _binary(op):
    forward = lambda a, b: op(_plain(a), _plain(b))
    backward = lambda a, b: op(_plain(b), _plain(a))
    return forward, backward


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    _forward, _backward = _binary(getattr(operator, _name))
    setattr(Field, f"__{_name}__", _forward)
    setattr(Field, f"__r{_name}__", _backward)
for _name in ("lt", "le", "gt", "ge"):
    setattr(Field, f"__{_name}__", _binary(getattr(operator, _name))[0])
for _op in (operator.neg, operator.pos, operator.abs):
    setattr(Field, f"__{_op.__name__}__", lambda a, op=_op: op(a.value))


def grad(u: Field) -> jax.Array:
    """∇u: `(dim,)`, or `(components, dim)` with ∂ⱼuᵢ in row i."""
    if isinstance(u, Field):
        return u.gradient
    raise TypeError(
        "`grad(u)` must get the unknown or the test function.\n"
        f"Got {type(u).__name__}.\n"
        "Write the product rule out; coefficients have no gradient here."
    )


def energy(density):
    """The form of the minimiser of ∫ density(u, w): its derivative in the direction v.
    Its matrix is symmetric."""

    def form(u, v, w):
        as_leaves = lambda field: jax.tree.map(lambda a: 1.0 * a, field)
        return jax.jvp(lambda u: jnp.asarray(_plain(density(u, w))), (u,), (as_leaves(v),))[
            1
        ]

    form.structure = "symmetric"
    return form


def div(u: Field) -> jax.Array:
    """∇·u of a function with as many components as dimensions: `()`."""
    return trace(_square(u, "div"))


def sym_grad(u: Field) -> jax.Array:
    """(∇u + ∇uᵀ)/2 of a function with as many components as dimensions."""
    gradient = _square(u, "sym_grad")
    return (gradient + gradient.T) / 2


def _square(u: Field, name: str) -> jax.Array:
    gradient = grad(u)
    if gradient.ndim == 2 and gradient.shape[0] == gradient.shape[1]:
        return gradient
    raise TypeError(
        f"`{name}(u)` must get a function with as many components as dimensions.\n"
        f"Got a gradient of shape {gradient.shape}.\n"
        "Make the space with FunctionSpace(mesh, ..., components=mesh.dim)."
    )


def dot(a, b) -> jax.Array:
    """a·b of two vectors, or a b of two scalars."""
    return _contract(a, b, "dot", (0, 1))


def inner(a, b) -> jax.Array:
    """Sum of the products of all entries of two arrays of one shape."""
    return _contract(a, b, "inner", (0, 1, 2, 3, 4))


def _contract(a, b, name: str, ranks) -> jax.Array:
    a, b = jnp.asarray(_plain(a)), jnp.asarray(_plain(b))
    if a.shape == b.shape and a.ndim in ranks:
        return jnp.sum(a * b)
    what = "two vectors" if name == "dot" else "two arrays of one shape"
    raise TypeError(
        f"`{name}(a, b)` must get {what}.\nGot shapes {a.shape} and {b.shape}.\n"
        "For matrices use `inner`, for a matrix times a vector `@`."
    )


def trace(a) -> jax.Array:
    """Sum of the diagonal of a square matrix."""
    return jnp.trace(_plain(a))


class Context:
    """The third argument of a form: `w.x` and the coefficients by name."""

    __slots__ = ("_used", "_values")

    def __init__(self, values: dict, used: set | None = None):
        self._values, self._used = values, used if used is not None else set()

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        self._used.add(name)
        if name in self._values:
            return self._values[name]
        raise AttributeError(
            f"`w.{name}` must be `x` or a coefficient of the solve.\n"
            f"Got coefficients {sorted(self._values.keys() - {'x', 'h', 'n'})}.\n"
            f"Pass {name!r} in the coefficients, or mend the name in the form."
        )

    def also(self, values: dict) -> "Context":
        """The same with more names."""
        return Context(self._values | values, self._used)

    def __repr__(self) -> str:
        return f"Context({', '.join(sorted(self._values))})"
