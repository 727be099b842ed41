"""The public names, in the order data flows: this list alone says which there are, and where."""

from semiflat.records.shown import to_dataframe as to_dataframe
from semiflat.errors import InputError as InputError, Unfinished as Unfinished
from semiflat.networks import MLP as MLP
from semiflat.data import (
    Dataset as Dataset,
    load_data as load_data,
    Standardisation as Standardisation,
    Preparation as Preparation,
)
from semiflat.activations import (
    Activation as Activation,
    Rise as Rise,
    Tail as Tail,
    Sup as Sup,
    Cross as Cross,
)
from semiflat.images import Image as Image, Levels as Levels
from semiflat.losses import Loss as Loss, ResidualLoss as ResidualLoss, Margins as Margins
from semiflat.decay import WeightDecay as WeightDecay
from semiflat.problem import Problem as Problem, Located as Located
from semiflat.points import (
    Point as Point,
    EmbeddedPoint as EmbeddedPoint,
    PointBatch as PointBatch,
    gradient as gradient,
    hessian as hessian,
    jacobian as jacobian,
)
from semiflat.operators import hessian_operator as hessian_operator
from semiflat.modules.operators import module_hessian_operator as module_hessian_operator
from semiflat.curvature.operators import HessianOperator as HessianOperator
from semiflat.points import unit_blocks as unit_blocks, layer_block as layer_block
from semiflat.curvature.blocks import UnitBlocks as UnitBlocks, LayerBlocks as LayerBlocks
from semiflat.evidence.derivatives import Evidence as Evidence, UnitEvidence as UnitEvidence
from semiflat.evidence.spectrum import Spectrum as Spectrum
from semiflat.evidence.on_data import OnData as OnData
from semiflat.evidence.natural import Natural as Natural
from semiflat.search import (
    find_critical_points as find_critical_points,
    find_critical_point as find_critical_point,
    run_search as run_search,
    saddle_lines as saddle_lines,
    CriticalPoint as CriticalPoint,
    SearchResult as SearchResult,
    Status as Status,
    Unseen as Unseen,
    SaddleLine as SaddleLine,
    Separation as Separation,
    LostStarts as LostStarts,
    Method as Method,
    Step as Step,
)
from semiflat.search.record import (
    SearchRecord as SearchRecord,
    LimitRecord as LimitRecord,
    Finished as Finished,
)
from semiflat.limits import (
    Limit as Limit,
    Form as Form,
    Rate as Rate,
    LimitMLP as LimitMLP,
    AtInfinity as AtInfinity,
)
from semiflat.embeddings import (
    Embedding as Embedding,
    Composition as Composition,
    Condition as Condition,
    Replicate as Replicate,
    ScaledReplicate as ScaledReplicate,
    Split as Split,
    InactiveUnits as InactiveUnits,
    InactivePropagation as InactivePropagation,
    ConstantUnits as ConstantUnits,
    NullUnits as NullUnits,
    NullGates as NullGates,
    Compatible as Compatible,
    GlobalSplit as GlobalSplit,
    GlobalNull as GlobalNull,
    Permute as Permute,
    Rescale as Rescale,
    Reflect as Reflect,
    Mix as Mix,
)
from semiflat.embeddings.widening import Widening as Widening, AddedUnit as AddedUnit
from semiflat.embeddings.unit_map import UnitMap as UnitMap
from semiflat.embeddings.unit_runs import Copies as Copies, Nulls as Nulls
from semiflat.embeddings.affine import AffineMap as AffineMap
from semiflat.embeddings.conditions import Checked as Checked, PointLike as PointLike
from semiflat.embeddings.base import Widenable as Widenable
from semiflat.verdicts import (
    judge as judge,
    judge_all as judge_all,
    escape as escape,
    Escape as Escape,
    Verdict as Verdict,
    Kind as Kind,
    Certainty as Certainty,
    Inertia as Inertia,
    Margin as Margin,
    FlatDirections as FlatDirections,
)
from semiflat.symmetries.families import FlatFamily as FlatFamily
from semiflat.certificates.certify import (
    certify as certify,
    certify_all as certify_all,
    certify_not_critical as certify_not_critical,
    certify_descent as certify_descent,
)
from semiflat.certificates.certificate import Certificate as Certificate
from semiflat.certificates.checker.verify import verify as verify, Verification as Verification
from semiflat.certificates.checker.distinct import (
    verify_distinct as verify_distinct,
    Distinction as Distinction,
)
from semiflat.nesting import (
    hierarchy as hierarchy,
    load_hierarchy as load_hierarchy,
    Hierarchy as Hierarchy,
    HierarchyPoint as HierarchyPoint,
    CriticalFunction as CriticalFunction,
    Trap as Trap,
    LeastWidth as LeastWidth,
    Proved as Proved,
    Induced as Induced,
    Disconnectivity as Disconnectivity,
    Pass as Pass,
)
from semiflat.nesting.stages import (
    stages as stages,
    Stages as Stages,
    Checkpoint as Checkpoint,
    Plateau as Plateau,
)
from semiflat.nesting.leaving import NearPoint as NearPoint
from semiflat.nesting.logger import StageLogger as StageLogger
from semiflat.nesting.record import PointRecord as PointRecord, Edge as Edge, Level as Level
from semiflat.reduction import (
    reduce as reduce,
    Reduction as Reduction,
    widths_by_tolerance as widths_by_tolerance,
    Widths as Widths,
    plot_widths as plot_widths,
)
from semiflat.reduction.record import Merge as Merge
from semiflat.induced import (
    gradient_basis_gap as gradient_basis_gap,
    gradient_basis_model as gradient_basis_model,
    GradientBasisModel as GradientBasisModel,
    perturbable_basis_gap as perturbable_basis_gap,
    perturbable_basis_model as perturbable_basis_model,
    refute_minimum as refute_minimum,
    Refutation as Refutation,
    resnet_model as resnet_model,
    ResNetModel as ResNetModel,
    locally_linear_model as locally_linear_model,
    LocallyLinearModel as LocallyLinearModel,
)
from semiflat.induced.refute import Sighting as Sighting
from semiflat.induced.linear_model import LinearMinimum as LinearMinimum
from semiflat.paths import (
    path_to_zero_loss as path_to_zero_loss,
    non_attracting_region as non_attracting_region,
    replications as replications,
    minimum_at_infinity as minimum_at_infinity,
    Path as Path,
    PathCheck as PathCheck,
    Piece as Piece,
    Claim as Claim,
    ZeroLossPath as ZeroLossPath,
    NonAttractingRegion as NonAttractingRegion,
    Replication as Replication,
    MinimumAtInfinity as MinimumAtInfinity,
    NearInfinity as NearInfinity,
)
from semiflat.bounds import (
    pac_bayes_bound as pac_bayes_bound,
    PacBayesBound as PacBayesBound,
    BoundedLoss as BoundedLoss,
    ZeroOne as ZeroOne,
    Clipped as Clipped,
    Estimate as Estimate,
    Posterior as Posterior,
    Prior as Prior,
)
from semiflat.bounds.posterior import PosteriorFamily as PosteriorFamily
from semiflat.bounds.blocks import (
    PosteriorScale as PosteriorScale,
    PartKL as PartKL,
    GaussianBlock as GaussianBlock,
)
from semiflat.bounds.surplus import SmoothSurplus as SmoothSurplus
from semiflat.bounds.box import BoxSurplus as BoxSurplus
from semiflat.symmetries.canonical import canonical_form as canonical_form
from semiflat.diagnosis import (
    diagnose as diagnose,
    Diagnosis as Diagnosis,
    Goal as Goal,
    LayerGradient as LayerGradient,
    NegativeCurvature as NegativeCurvature,
    Polished as Polished,
    WayOut as WayOut,
)
from semiflat.modules import (
    units as units,
    Units as Units,
    UnitGroup as UnitGroup,
    Slot as Slot,
    widen as widen,
    Widened as Widened,
    judge_module as judge_module,
    ModuleVerdict as ModuleVerdict,
    ModuleFamily as ModuleFamily,
    GradientPart as GradientPart,
    EigenvalueRange as EigenvalueRange,
    shrink as shrink,
    Shrunk as Shrunk,
    SparedUnit as SparedUnit,
    shrink_widths as shrink_widths,
    ShrunkWidths as ShrunkWidths,
    unit_curvature as unit_curvature,
    UnitCurvature as UnitCurvature,
    GroupCurvature as GroupCurvature,
    UnitSigns as UnitSigns,
    WideSigns as WideSigns,
    UnitSplit as UnitSplit,
)
from semiflat.growth import (
    deepen as deepen,
    grow as grow,
    Grown as Grown,
    Growth as Growth,
    GrowthSchedule as GrowthSchedule,
    GrowthStep as GrowthStep,
    GrowthTable as GrowthTable,
    Visit as Visit,
    where_to_grow as where_to_grow,
)
from semiflat.checkpoints import (
    save_point as save_point,
    load_point as load_point,
    StoredPoint as StoredPoint,
)
from semiflat._version import __version__ as __version__

__all__: list[str]
