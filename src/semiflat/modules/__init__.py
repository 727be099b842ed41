"""Any PyTorch model: its units, exact widening and shrinking, and what kind of point it is."""

from semiflat.modules.groups import Slot, UnitGroup, Units, units

__all__ = ["Slot", "UnitGroup", "Units", "units"]
