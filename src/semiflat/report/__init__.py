"""A study's record as figures and one page; reads the record and computes nothing scientific."""

from semiflat.report.write import write_report

__all__ = ["write_report"]
