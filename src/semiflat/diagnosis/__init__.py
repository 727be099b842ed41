"""What a trained network is: one answer for any point, critical or not."""

from semiflat.diagnosis.curvature import NegativeCurvature
from semiflat.diagnosis.diagnose import diagnose, diagnose_cost
from semiflat.diagnosis.gradient import LayerGradient
from semiflat.diagnosis.polish import Goal, Polished
from semiflat.diagnosis.result import Diagnosis
from semiflat.diagnosis.way_out import WayOut

__all__ = [
    "Diagnosis",
    "Goal",
    "LayerGradient",
    "NegativeCurvature",
    "Polished",
    "WayOut",
    "diagnose",
    "diagnose_cost",
]
