"""Where new units lower the loss of a model, and growing it by them."""

from semiflat.growth.depth import deepen
from semiflat.growth.finder import Growth
from semiflat.growth.grow import Grown, GrowthStep, grow
from semiflat.growth.schedule import GrowthSchedule, Visit
from semiflat.growth.table import GrowthTable, where_to_grow

__all__ = [
    "Grown",
    "Growth",
    "GrowthSchedule",
    "GrowthStep",
    "GrowthTable",
    "Visit",
    "deepen",
    "grow",
    "where_to_grow",
]
