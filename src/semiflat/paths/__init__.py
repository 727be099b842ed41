"""Walks along the embedded set, minima at infinity, non-increasing paths to zero loss (P21)."""

from semiflat.paths.infinity import MinimumAtInfinity, NearInfinity, minimum_at_infinity
from semiflat.paths.non_attracting import (
    NonAttractingRegion,
    Replication,
    non_attracting_region,
    replications,
)
from semiflat.paths.path import Claim, Path, PathCheck, Piece
from semiflat.paths.zero_loss import ZeroLossPath, path_to_zero_loss

__all__ = [
    "Claim",
    "MinimumAtInfinity",
    "NearInfinity",
    "NonAttractingRegion",
    "Path",
    "PathCheck",
    "Piece",
    "Replication",
    "ZeroLossPath",
    "minimum_at_infinity",
    "non_attracting_region",
    "path_to_zero_loss",
    "replications",
]
