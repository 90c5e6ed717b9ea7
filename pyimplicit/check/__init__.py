"""One report on all that a layer promises: derivatives, solves, batches, NaN."""

from .layer import check_layer as check_layer
from .report import Check as Check, LayerReport as LayerReport
