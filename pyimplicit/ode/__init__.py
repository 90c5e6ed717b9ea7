"""Ordinary differential equations, on diffrax."""

from .adjoints import Backsolve as Backsolve, Direct as Direct, Forward as Forward
from .solve import odeint as odeint, odeint_event as odeint_event
from .steady import steady_state as steady_state
