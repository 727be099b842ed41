"""What is measured at a point, and how far the measurement can be trusted."""

from semiflat.evidence.derivatives import LOUD, Evidence, critical_spectra, rounded_vectors
from semiflat.evidence.on_data import OnData
from semiflat.evidence.spectrum import (
    ENOUGH,
    EPS,
    Spectrum,
    singular_spectrum,
    symmetric_spectrum,
)

__all__ = [
    "ENOUGH",
    "EPS",
    "LOUD",
    "Evidence",
    "OnData",
    "Spectrum",
    "critical_spectra",
    "rounded_vectors",
    "singular_spectrum",
    "symmetric_spectrum",
]
