"""Search for critical points: batched, second order, honest about how each run ended."""

from semiflat.search.find import find_critical_point, find_critical_points, run_search
from semiflat.search.record import CriticalPoint, SearchRecord, SearchResult, Status
from semiflat.search.spread import LostStarts

__all__ = [
    "CriticalPoint",
    "LostStarts",
    "SearchRecord",
    "SearchResult",
    "Status",
    "find_critical_point",
    "find_critical_points",
    "run_search",
]
