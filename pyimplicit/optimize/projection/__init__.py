"""Projections argmin_p ‖p - x‖ onto convex sets, with jaxopt's names and signatures.

Each finds the active part of the set without derivatives, and is a formula on it that JAX
differentiates (or a condition that `implicit.attach` does): exact Jacobians in both modes,
any order. At kinks, where a projection has one-sided derivatives only, one of them holds;
each function says which.
"""

from .balls import (
    projection_l2_ball as projection_l2_ball,
    projection_l2_sphere as projection_l2_sphere,
)
from .boxes import (
    projection_box as projection_box,
    projection_hypercube as projection_hypercube,
    projection_linf_ball as projection_linf_ball,
    projection_non_negative as projection_non_negative,
)
from .cones import (
    projection_exponential_cone as projection_exponential_cone,
    projection_psd_cone as projection_psd_cone,
    projection_second_order_cone as projection_second_order_cone,
)
from .order import (
    projection_isotonic as projection_isotonic,
    projection_permutahedron as projection_permutahedron,
    soft_rank as soft_rank,
    soft_sort as soft_sort,
)
from .planes import (
    projection_affine_set as projection_affine_set,
    projection_halfspace as projection_halfspace,
    projection_hyperplane as projection_hyperplane,
)
from .polyhedron import projection_polyhedron as projection_polyhedron
from .section import (
    projection_box_section as projection_box_section,
    projection_capped_simplex as projection_capped_simplex,
)
from .simplex import (
    projection_l1_ball as projection_l1_ball,
    projection_l1_sphere as projection_l1_sphere,
    projection_simplex as projection_simplex,
    projection_sparse_simplex as projection_sparse_simplex,
)
from .transport import (
    kl_projection_birkhoff as kl_projection_birkhoff,
    kl_projection_transport as kl_projection_transport,
    projection_birkhoff as projection_birkhoff,
    projection_transport as projection_transport,
)
