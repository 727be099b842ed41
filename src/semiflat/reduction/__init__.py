"""The inverse of the embeddings: the smallest equivalent network, and the embedding that leads back."""

from __future__ import annotations

from semiflat.reduction.picture import plot_widths
from semiflat.reduction.record import Merge, Reduction
from semiflat.reduction.smallest import Widths, reduce, widths_by_tolerance

__all__ = ["Merge", "Reduction", "Widths", "plot_widths", "reduce", "widths_by_tolerance"]
