"""Search for critical points: batched, second order, honest about how each run ended."""

from semiflat.search.find import find_critical_point, find_critical_points, run_search
from semiflat.search.gather import LostStarts
from semiflat.search.methods import Method, Step
from semiflat.search.record import CriticalPoint, SearchRecord, SearchResult, Status
from semiflat.search.saddle_line import SaddleLine, saddle_lines
from semiflat.search.separation import Separation
from semiflat.search.unseen import Unseen

__all__ = [
    "CriticalPoint",
    "LostStarts",
    "Method",
    "SaddleLine",
    "SearchRecord",
    "SearchResult",
    "Separation",
    "Status",
    "Step",
    "Unseen",
    "find_critical_point",
    "find_critical_points",
    "run_search",
    "saddle_lines",
]
