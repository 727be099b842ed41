"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.splits import UnitSplit
from semiflat.modules.unit_curvature import unit_curvature
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature, UnitSigns, WideSigns
from semiflat.modules.widen import Widened, widen

__all__ = [
    "GroupCurvature",
    "Slot",
    "UnitCurvature",
    "UnitGroup",
    "UnitSigns",
    "UnitSplit",
    "Units",
    "WideSigns",
    "Widened",
    "unit_curvature",
    "units",
    "widen",
]
