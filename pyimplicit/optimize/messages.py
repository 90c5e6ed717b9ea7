"""What a failed programme says."""

from .._status import Status


_INDEFINITE = (
    "P is not positive semidefinite: (a) its symmetric part counts; (b) for a maximum "
    "change signs; (c) add a small multiple of the identity"
)
_INACCURATE = (
    "the solver stopped before it was accurate: (a) the programme is badly scaled: bring "
    "rows and unknowns near 1; (b) it has no interior: remove redundant equalities"
)


def messages(name: str) -> tuple[str, ...]:
    """The text for each `Status`."""
    own = {Status.not_positive_definite: _INDEFINITE, Status.inaccurate: _INACCURATE}
    return tuple(f"pyimplicit.{name}: {own.get(s, s.message)}" for s in Status)
