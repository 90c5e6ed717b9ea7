"""Several fields on one mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .space import FunctionSpace, Space


class MixedSpace(Space):
    """Several fields on one mesh, e.g. velocity and pressure: `MixedSpace(V, Q)`.

    In forms `u` and `v` are tuples, `(u, p), (v, q) = u, v`; solutions and loads are
    tuples of arrays of the shapes of the parts. The quadrature is that of the part with
    the highest `degree`.
    """

    def __init__(self, *parts: FunctionSpace):
        if len(parts) < 2 or not all(isinstance(part, FunctionSpace) for part in parts):
            raise TypeError(
                "`MixedSpace(V, Q, ...)` must get two or more FunctionSpaces.\n"
                f"Got {', '.join(type(part).__name__ for part in parts) or 'nothing'}.\n"
                "One field alone is a FunctionSpace."
            )
        if any(part.mesh is not parts[0].mesh for part in parts):
            raise ValueError(
                "The parts of a `MixedSpace` must be on one mesh.\n"
                f"Got {', '.join(map(repr, parts))}.\nMake them with the same Mesh object."
            )
        self.parts, self.mesh = parts, parts[0].mesh
        self.degree = max(part.degree for part in parts)
        self.size = sum(part.size for part in parts)
        self.shape = tuple(part.shape for part in parts)

    def __repr__(self) -> str:
        return f"MixedSpace({', '.join(map(repr, self.parts))})"

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Quadrature points in space, `(n_cells, n_quadrature, dim)`. [length]"""
        return max(self.parts, key=lambda part: part.degree).x

    def split(self, u) -> tuple:
        """The fields of a vector of all unknowns, `(size, ...)`, in their shapes."""
        pieces = jnp.split(u, self.starts[1:])
        return tuple(
            p.reshape(*part.shape, *u.shape[1:])
            for p, part in zip(pieces, self.parts, strict=True)
        )

    def join(self, fields: tuple) -> jax.Array:
        """The vector of all unknowns, `(size, ...)`."""
        return jnp.concatenate(
            [part.join((f,)) for f, part in zip(fields, self.parts, strict=True)]
        )
