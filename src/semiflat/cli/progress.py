"""What commands say of how long they take: the bar, and what is said before it starts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from semiflat.progress import stages

if TYPE_CHECKING:
    from semiflat.costs import Cost

__all__ = ["say_cost", "stages"]


def say_cost(cost: Cost) -> None:
    """On standard error what a command will take, where that is much."""
    if cost.words:
        print(f"this will take {cost.words}", file=sys.stderr)
