"""What commands say of separable classes, at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import semiflat as sf
    from semiflat.search.gather import Progress

REMEDY = "with weight decay every minimum is finite: --weight-decay 1e-3"
"""What to do."""


def note(line: str) -> None:
    """A line for who waits: to the standard error output, where it goes into no file of results."""
    print(line, file=sys.stderr, flush=True)


class SeparatedSoFar:
    """Says so when the first run of a search tells the classes apart.

    Args:
        problem: what is searched.
        said: whether it has been said.
    """

    def __init__(self, problem: sf.Problem, said: bool) -> None:
        self.problem, self.said = problem, said

    def then(self, progress: Progress) -> Progress:
        """A progress that looks at the runs that have ended before it hands them on."""

        def look(finished: Sequence[sf.Finished]) -> None:
            lowest = min(finished, key=lambda run: run.loss, default=None)
            below = self.problem.no_critical_point_below
            if not self.said and lowest is not None and lowest.loss < below:
                self.said = True
                note(
                    f"separable classes: start {lowest.start} tells them apart, so the infimum 0 of the loss "
                    f"lies at infinity; {REMEDY}"
                )
            progress(finished)

        return look


def separation_row(told: sf.Separation | None) -> dict[str, Any] | None:
    """A separation as plain data."""
    if told is None:
        return None
    return {
        "found": told.found,
        "margin": told.margin,
        "at_most": told.at_most,
        "direction": {key: value.tolist() for key, value in told.direction.items() if value.any()},
    }
