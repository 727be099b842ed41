"""What is measured at a point, and how far the measurement can be trusted."""

from semiflat.evidence.derivatives import (
    LOUD,
    TILTED,
    Evidence,
    allowed_gradient,
    first_kink,
    kinks,
    no_hessian,
    rounded_vectors,
    roundings,
    settles_penalty,
)
from semiflat.evidence.natural import Natural
from semiflat.evidence.on_data import Fed, OnData
from semiflat.evidence.spectrum import (
    ENOUGH,
    EPS,
    Spectrum,
    singular_spectrum,
    symmetric_spectrum,
)
from semiflat.evidence.unbuilt import Unbuilt

__all__ = [
    "ENOUGH",
    "EPS",
    "LOUD",
    "TILTED",
    "Evidence",
    "Fed",
    "Natural",
    "OnData",
    "Spectrum",
    "Unbuilt",
    "allowed_gradient",
    "first_kink",
    "kinks",
    "no_hessian",
    "rounded_vectors",
    "roundings",
    "settles_penalty",
    "singular_spectrum",
    "symmetric_spectrum",
]
