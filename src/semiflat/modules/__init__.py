"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.families import ModuleFamily
from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.judge import EigenvalueRange, GradientPart, ModuleVerdict, judge_module
from semiflat.modules.shrink import Shrunk, ShrunkWidths, SparedUnit, shrink, shrink_widths
from semiflat.modules.splits import UnitSplit
from semiflat.modules.unit_curvature import unit_curvature
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature, UnitSigns, WideSigns
from semiflat.modules.widen import Widened, widen

__all__ = [
    "EigenvalueRange",
    "GradientPart",
    "GroupCurvature",
    "ModuleFamily",
    "ModuleVerdict",
    "Shrunk",
    "ShrunkWidths",
    "Slot",
    "SparedUnit",
    "UnitCurvature",
    "UnitGroup",
    "UnitSigns",
    "UnitSplit",
    "Units",
    "WideSigns",
    "Widened",
    "judge_module",
    "shrink",
    "shrink_widths",
    "unit_curvature",
    "units",
    "widen",
]
