"""The main job: from a data set to judged and proved wider networks and the ways out of their saddles."""

from semiflat.study.run import Study
from semiflat.study.settings import Settings

__all__ = ["Settings", "Study"]
