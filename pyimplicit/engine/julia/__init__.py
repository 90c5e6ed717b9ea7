"""Julia, started on first use and called by XLA itself."""

from .assembly import assembly as assembly
from .function import function as function, include as include, warmup as warmup
from .start import (
    JuliaUnavailable as JuliaUnavailable,
    started as started,
    version as version,
)
