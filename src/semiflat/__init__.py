"""Widen a neural network exactly, and know what kind of point it is there.

The public names, in the order data flows: a network, a problem, points, their derivatives, critical
points, embeddings, verdicts, files. Each is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from semiflat._version import __version__

if TYPE_CHECKING:
    from semiflat.errors import InputError, Unfinished
    from semiflat.networks import MLP
    from semiflat.data import Dataset, load_data
    from semiflat.activations import Activation
    from semiflat.decay import WeightDecay
    from semiflat.losses import Loss, ResidualLoss
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
    from semiflat.limits import Form, Limit
    from semiflat.search import (
        CriticalPoint,
        LostStarts,
        Method,
        SaddleLine,
        SearchResult,
        Status,
        Step,
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
        NullGates,
        NullUnits,
        Permute,
        Reflect,
        Replicate,
        Rescale,
        ScaledReplicate,
        Split,
    )
    from semiflat.certificates.certificate import Certificate
    from semiflat.certificates.certify import (
        certify,
        certify_all,
        certify_descent,
        certify_not_critical,
    )
    from semiflat.certificates.checker.distinct import Distinction, verify_distinct
    from semiflat.certificates.checker.verify import Verification, verify
    from semiflat.verdicts import (
        Certainty,
        Escape,
        Inertia,
        Kind,
        Verdict,
        escape,
        judge,
        judge_all,
    )
    from semiflat.reduction import Reduction, reduce, widths_by_tolerance
    from semiflat.induced import (
        GradientBasisModel,
        LocallyLinearModel,
        Refutation,
        ResNetModel,
        gradient_basis_gap,
        gradient_basis_model,
        locally_linear_model,
        perturbable_basis_gap,
        perturbable_basis_model,
        refute_minimum,
        resnet_model,
    )
    from semiflat.paths import (
        MinimumAtInfinity,
        NonAttractingRegion,
        Path,
        PathCheck,
        Replication,
        ZeroLossPath,
        minimum_at_infinity,
        non_attracting_region,
        path_to_zero_loss,
        replications,
    )
    from semiflat.bounds import Clipped, PacBayesBound, ZeroOne, pac_bayes_bound
    from semiflat.symmetries.canonical import canonical_form
    from semiflat.checkpoints import load_point, save_point

__all__ = [
    "InputError",
    "Unfinished",
    "MLP",
    "Dataset",
    "load_data",
    "Activation",
    "Loss",
    "ResidualLoss",
    "WeightDecay",
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
    "Method",
    "Step",
    "Limit",
    "Form",
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
    "NullGates",
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
    "certify",
    "certify_all",
    "certify_not_critical",
    "certify_descent",
    "Certificate",
    "verify",
    "Verification",
    "verify_distinct",
    "Distinction",
    "reduce",
    "Reduction",
    "widths_by_tolerance",
    "gradient_basis_gap",
    "gradient_basis_model",
    "GradientBasisModel",
    "perturbable_basis_gap",
    "perturbable_basis_model",
    "refute_minimum",
    "Refutation",
    "resnet_model",
    "ResNetModel",
    "locally_linear_model",
    "LocallyLinearModel",
    "path_to_zero_loss",
    "non_attracting_region",
    "replications",
    "minimum_at_infinity",
    "Path",
    "PathCheck",
    "ZeroLossPath",
    "NonAttractingRegion",
    "Replication",
    "MinimumAtInfinity",
    "pac_bayes_bound",
    "PacBayesBound",
    "ZeroOne",
    "Clipped",
    "canonical_form",
    "save_point",
    "load_point",
    "__version__",
]

_ROOMS = {
    "errors": "InputError Unfinished",
    "networks": "MLP",
    "data": "Dataset load_data",
    "problem": "Problem",
    "losses": "Loss ResidualLoss",
    "activations": "Activation",
    "decay": "WeightDecay",
    "points": "EmbeddedPoint Point gradient hessian hessian_operator jacobian layer_block "
    "unit_blocks",
    "curvature.operators": "module_hessian_operator",
    "limits": "Form Limit",
    "search": "CriticalPoint LostStarts Method SaddleLine SearchResult Status Step Unseen "
    "find_critical_point find_critical_points run_search saddle_lines",
    "embeddings": "Compatible Composition Condition ConstantUnits Embedding GlobalNull GlobalSplit "
    "InactivePropagation InactiveUnits NullGates NullUnits Permute Reflect Replicate Rescale "
    "ScaledReplicate Split",
    "certificates.certificate": "Certificate",
    "certificates.certify": "certify certify_all certify_descent certify_not_critical",
    "certificates.checker.distinct": "Distinction verify_distinct",
    "certificates.checker.verify": "Verification verify",
    "verdicts": "Certainty Escape Inertia Kind Verdict escape judge judge_all",
    "reduction": "Reduction reduce widths_by_tolerance",
    "induced": "GradientBasisModel LocallyLinearModel Refutation ResNetModel gradient_basis_gap "
    "gradient_basis_model locally_linear_model perturbable_basis_gap perturbable_basis_model "
    "refute_minimum resnet_model",
    "paths": "MinimumAtInfinity NonAttractingRegion Path PathCheck Replication ZeroLossPath "
    "minimum_at_infinity non_attracting_region path_to_zero_loss replications",
    "bounds": "Clipped PacBayesBound ZeroOne pac_bayes_bound",
    "symmetries.canonical": "canonical_form",
    "checkpoints": "load_point save_point",
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names.split()}

# Out of sight of type checkers, which would take any name for a public one.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _ROOM_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # Kept, so that it is asked for once.
        value = globals()[name] = getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
