"""Widen a neural network exactly, and know what kind of point it is there.

The public names, in the order data flows: a network, a problem, points, their derivatives, critical
points, embeddings, verdicts, files.
"""

from semiflat._version import __version__
from semiflat.errors import InputError
from semiflat.networks import MLP
from semiflat.data import Dataset, load_data
from semiflat.problem import Problem
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
from semiflat.curvature.operators import module_hessian_operator
from semiflat.search import (
    CriticalPoint,
    LostStarts,
    SaddleLine,
    SearchResult,
    Status,
    Unseen,
    find_critical_point,
    find_critical_points,
    run_search,
    saddle_lines,
)
from semiflat.embeddings import (
    Compatible,
    Composition,
    Condition,
    ConstantUnits,
    Embedding,
    GlobalNull,
    GlobalSplit,
    InactivePropagation,
    InactiveUnits,
    NullUnits,
    Permute,
    Reflect,
    Replicate,
    Rescale,
    ScaledReplicate,
    Split,
)
from semiflat.verdicts import Certainty, Escape, Inertia, Kind, Verdict, escape, judge, judge_all
from semiflat.reduction import Reduction, reduce, widths_by_tolerance
from semiflat.symmetries.canonical import canonical_form
from semiflat.checkpoints import load_point, save_point

__all__ = [
    "InputError",
    "MLP",
    "Dataset",
    "load_data",
    "Problem",
    "Point",
    "EmbeddedPoint",
    "gradient",
    "hessian",
    "jacobian",
    "hessian_operator",
    "module_hessian_operator",
    "unit_blocks",
    "layer_block",
    "find_critical_points",
    "find_critical_point",
    "run_search",
    "saddle_lines",
    "CriticalPoint",
    "SearchResult",
    "Status",
    "Unseen",
    "SaddleLine",
    "LostStarts",
    "Embedding",
    "Composition",
    "Condition",
    "Replicate",
    "ScaledReplicate",
    "Split",
    "InactiveUnits",
    "InactivePropagation",
    "ConstantUnits",
    "NullUnits",
    "Compatible",
    "GlobalSplit",
    "GlobalNull",
    "Permute",
    "Rescale",
    "Reflect",
    "judge",
    "judge_all",
    "escape",
    "Escape",
    "Verdict",
    "Kind",
    "Certainty",
    "Inertia",
    "reduce",
    "Reduction",
    "widths_by_tolerance",
    "canonical_form",
    "save_point",
    "load_point",
    "__version__",
]
