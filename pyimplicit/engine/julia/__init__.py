"""Julia, started on first use and called by XLA itself."""

from .assembly import diffusion_assembly as diffusion_assembly
from .function import function as function, include as include, warmup as warmup
from .start import (
    JuliaUnavailable as JuliaUnavailable,
    started as started,
    version as version,
)
