"""Equilibrium models: layers z = cell(z, x)."""

from .blocks import (
    Bounded as Bounded,
    ConvCell as ConvCell,
    MLPCell as MLPCell,
    TransformerCell as TransformerCell,
)
from .fourier import FNOCell as FNOCell, SpectralConv as SpectralConv
from .model import DEQ as DEQ, dropout_mask as dropout_mask
from .monotone import (
    Certificate as Certificate,
    ForwardBackward as ForwardBackward,
    Monotone as Monotone,
    MonotoneDEQ as MonotoneDEQ,
    PeacemanRachford as PeacemanRachford,
    certificate as certificate,
)
from .multiscale import (
    MultiscaleCell as MultiscaleCell,
    MultiscaleDEQ as MultiscaleDEQ,
    image_pyramid as image_pyramid,
)
from .regularisers import (
    jacobian_frobenius as jacobian_frobenius,
    jacobian_trace as jacobian_trace,
    spectral_radius as spectral_radius,
)
from .trajectory import (
    fixed_point_correction as fixed_point_correction,
    trajectory as trajectory,
)
