"""Widen a neural network exactly, and know what kind of point it is there."""

from semiflat._version import __version__
from semiflat.errors import InputError
from semiflat.networks import MLP
from semiflat.problem import Problem
from semiflat.embeddings import Embedding, NullUnits, Replicate
from semiflat.points import (
    EmbeddedPoint,
    Point,
    gradient,
    hessian,
    hessian_operator,
    jacobian,
    layer_block,
    unit_blocks,
)
from semiflat.search import CriticalPoint, SearchResult, Status, find_critical_point, find_critical_points, search
from semiflat.verdicts import Certainty, Inertia, Kind, Verdict, judge, judge_all
