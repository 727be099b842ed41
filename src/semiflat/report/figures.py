"""All figures of a record, in the order of the page."""

from __future__ import annotations

from semiflat.records.study import StudyRecord
from semiflat.report.descent import draw_descent
from semiflat.report.drawing import Figure
from semiflat.report.look import style
from semiflat.report.share_line import draw_share_line
from semiflat.report.spectrum import draw_spectrum

__all__ = ["Figure", "draw_figures"]


def draw_figures(record: StudyRecord) -> list[Figure]:
    """Those of the three figures there are data for."""
    with style():
        drawn = [draw(record) for draw in (draw_descent, draw_spectrum, draw_share_line)]
    return [figure for figure in drawn if figure is not None]
