"""Unrolled algorithms: iterations as trainable layers, and their fixed points."""

from .amp import AMP as AMP
from .iteration import Iteration as Iteration
from .lasso import (
    ADMM as ADMM,
    FISTA as FISTA,
    ISTA as ISTA,
    DouglasRachford as DouglasRachford,
)
from .lista import (
    ALISTA as ALISTA,
    LISTA as LISTA,
    LISTA_CP as LISTA_CP,
    analytic_weights as analytic_weights,
)
from .thresholds import select_support as select_support, soft_threshold as soft_threshold
from .training import nmse as nmse, train as train
