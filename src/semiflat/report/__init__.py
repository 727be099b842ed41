"""A study's record as figures and one page; reads the record and computes nothing scientific."""

from semiflat.plots.look import canvas, png, style
from semiflat.report.write import report_files, write_report

__all__ = ["canvas", "png", "report_files", "style", "write_report"]
