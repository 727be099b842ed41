"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.families import ModuleFamily
from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.judge import EigenvalueRange, GradientPart, ModuleVerdict, judge_module
from semiflat.modules.widen import Widened, widen

__all__ = [
    "EigenvalueRange",
    "GradientPart",
    "ModuleFamily",
    "ModuleVerdict",
    "Slot",
    "UnitGroup",
    "Units",
    "Widened",
    "judge_module",
    "units",
    "widen",
]
