"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.widen import Widened, widen

__all__ = ["Slot", "UnitGroup", "Units", "Widened", "units", "widen"]
