"""Records of studies and hierarchies as figures and pages; reads the record and computes nothing scientific."""

from semiflat.plots.look import canvas, png, style
from semiflat.report.write import hierarchy_page, report_files, write_hierarchy_page, write_report

__all__ = [
    "canvas",
    "hierarchy_page",
    "png",
    "report_files",
    "style",
    "write_hierarchy_page",
    "write_report",
]
