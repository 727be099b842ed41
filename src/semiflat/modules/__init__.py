"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.families import ModuleFamily
from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.judge import EigenvalueRange, GradientPart, ModuleVerdict, judge_module
from semiflat.modules.shrink import Shrunk, ShrunkWidths, SparedUnit, shrink, shrink_widths
from semiflat.modules.widen import Widened, widen

__all__ = [
    "EigenvalueRange",
    "GradientPart",
    "ModuleFamily",
    "ModuleVerdict",
    "Shrunk",
    "ShrunkWidths",
    "Slot",
    "SparedUnit",
    "UnitGroup",
    "Units",
    "Widened",
    "judge_module",
    "shrink",
    "shrink_widths",
    "units",
    "widen",
]
