"""Where new units lower the loss of a model, and growing it by them."""

from semiflat.growth.grow import Grown, GrowthStep, grow
from semiflat.growth.table import Growth, GrowthTable, where_to_grow

__all__ = ["Grown", "Growth", "GrowthStep", "GrowthTable", "grow", "where_to_grow"]
