"""A hierarchy as its page shows it: the points that are selected, and what their functions are on a grid."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semiflat._version import __version__
from semiflat.certificates.certificate import INVALID
from semiflat.errors import InputError
from semiflat.nesting.proofs import FOLDER
from semiflat.nesting.record import Widths
from semiflat.nesting.valleys import disconnectivity
from semiflat.problem import Problem
from semiflat.records.codec import Codec
from semiflat.records.nested import (
    EdgeRow,
    FunctionRow,
    LevelRow,
    NestedRecord,
    NestedRow,
    PassRow,
    PlacesRecord,
    TrapRow,
    TreeRow,
)
from semiflat.records.study import ProofRow, read

if TYPE_CHECKING:
    from semiflat.nesting.result import Hierarchy, HierarchyPoint

LOWEST = 300
"""Points of each level at most, lowest first, where nothing else is asked for."""
ROOM, POINT, PROOF, EDGE = 1_300_000, 1700, 400, 250
"""Bytes of a page that points, their proofs and edges may take together, so that it has 3 MB at most, and what
each of them takes."""
NUMBERS = 50_000
"""Values of all functions together."""
VALLEYS = 60
"""Of each disconnectivity graph, lowest first."""
STEPS = {1: 61, 2: 21}
"""Places along each input, by how many inputs there are."""
BEYOND = 0.05
"""How far the grid goes beyond the data, in parts of their range."""
DRAWN = 120
"""Samples that are drawn."""
OUTPUTS = {"line": 4, "map": 1, "samples": 4}
"""Outputs of a function that are told."""


def page_record(
    hierarchy: Hierarchy,
    tolerance: float,
    lowest: int | None,
    files: str,
    certificates: bool,
    command: str,
) -> dict[str, Any]:
    """See :meth:`semiflat.Hierarchy.page_record`."""
    levels = hierarchy.levels
    every = [hierarchy.at(level.hidden) for level in levels]
    if lowest is None:
        lowest = _room(hierarchy, every)
    shown = [point for own in every for point in own[:lowest]]
    names = {point.name for point in shown}
    problem = hierarchy.problem
    places, inputs = _places(problem)
    proved = hierarchy.proved
    parts = [hierarchy.selection] if hierarchy.selection else []
    if len(shown) < len(hierarchy):
        parts.append(f"the {lowest} lowest of each width: {len(shown)} of {len(hierarchy)} points")
    record = NestedRecord(
        semiflat=__version__,
        problem=_in_words(problem),
        decay=not problem.outputs_alone,
        selection="; ".join(parts),
        points=[_point(point, certificates) for point in shown],
        edges=[
            read(EdgeRow, edge.to_json())
            for edge in hierarchy.edges
            if edge.source in names or (not edge.source and edge.target in names)
        ],
        levels=[
            read(LevelRow, level.to_json() | {"points": len(own), "shown": len(own[:lowest])})
            for level, own in zip(levels, every, strict=True)
        ],
        traps=[read(TrapRow, t.to_json()) for t in hierarchy.traps() if t.point in names],
        trees=[_tree(hierarchy, level.hidden) for level in levels],
        functions=_functions(hierarchy, shown, places, inputs),
        places=places,
        least_width=_least_width(hierarchy, tolerance),
        proved=str(proved) if proved.tried else "",
        files=files,
        command=command,
    )
    plain: dict[str, Any] = Codec().to_plain(record)
    return plain


def _room(hierarchy: Hierarchy, levels: list[list[HierarchyPoint]]) -> int:
    """How many points of each level there is room for."""
    edges = Counter(edge.source for edge in hierarchy.edges)
    used = 0
    for lowest in range(LOWEST):
        there = [own[lowest] for own in levels if lowest < len(own)]
        used += sum(POINT + EDGE * edges[point.name] for point in there)
        used += PROOF * sum(point.certificate is not None for point in there)
        if used > ROOM and lowest:
            return lowest
    return LOWEST


def _least_width(hierarchy: Hierarchy, tolerance: float) -> str:
    try:
        return hierarchy.least_width(tolerance).reason
    except InputError as error:  # of some of the points, or of none
        return f"not known: {error}"


def _in_words(problem: Problem) -> str:
    net = problem.net
    names = ", ".join(dict.fromkeys(each.name for each in net.activations))
    decay = f", weight decay {problem.weight_decay}" if problem.decay else ""
    weighed = ", weighted" if problem.sample_weight is not None else ""
    return (
        f"{names} networks with {len(net.hidden)} hidden layer(s), {net.inputs} input(s) and {net.outputs} "
        f"output(s); {problem.samples} samples{weighed}; {problem.loss.name.replace('_', '-')} loss{decay}"
    )


def _point(point: HierarchyPoint, certificates: bool) -> NestedRow:
    record, proof = point.record, None
    if point.certificate is not None and point.certificate.status != INVALID:
        file = (
            f"{FOLDER}/{record.name}.json" if certificates and point.certificate.certified else None
        )
        own = {"status": point.certificate.status, "reason": point.certificate.reason, "file": file}
        proof = read(ProofRow, {**point.certificate.proved, **own})
    return NestedRow(
        name=record.name,
        kind=record.kind,
        certainty=record.certainty,
        inertia=record.inertia,
        reason=record.reason,
        gradient_norm=record.gradient_norm,
        hidden=record.hidden,
        loss=record.loss,
        at_infinity=None if record.limit is None else record.limit.forms,
        function=record.function,
        new=record.new,
        trivial=record.trivial,
        found=record.found,
        origin=record.origin,
        evidence=record.evidence,
        certificate=proof,
    )


def _tree(hierarchy: Hierarchy, hidden: Widths) -> TreeRow:
    """The graph of the lowest valleys alone."""
    tree = disconnectivity(hierarchy, hidden)
    kept = dict(list(tree.valleys.items())[:VALLEYS])
    passes = []
    for each in tree.passes:
        sides = [own for side in each.sides if (own := [name for name in side if name in kept])]
        if len(sides) > 1:
            passes.append(PassRow(saddle=each.saddle, loss=each.loss, sides=sides))
    return TreeRow(hidden=hidden, total=len(tree.valleys), valleys=kept, passes=passes)


# -- functions --------------------------------------------------------------------------------------


def _places(problem: Problem) -> tuple[PlacesRecord, Tensor]:
    """Where functions are told, and the inputs there, (K, d)."""
    X, inputs = problem.X.double(), problem.net.inputs
    step = _step(problem)
    drawn, targets = X[::step], _targets(problem)[::step]
    if inputs in STEPS:
        kind = "line" if inputs == 1 else "map"
        low, high = X.min(0).values, X.max(0).values
        margin = BEYOND * (high - low).clamp_min(1e-12)
        axes = [
            torch.linspace(float(a - m), float(b + m), STEPS[inputs], dtype=torch.float64)
            for a, b, m in zip(low, high, margin, strict=True)
        ]
        at = torch.cartesian_prod(*axes).reshape(-1, inputs)
        at = torch.tensor(_digits(at), dtype=torch.float64)  # what is told is what is computed at
        told, data = at, torch.cat([drawn, targets], 1)
    else:
        kind, at, told, data = "samples", drawn, targets, targets[:0]
    margin_alone = kind == "samples" and _classes(problem)
    what = "margin" if margin_alone else "output"
    left_out = 0 if margin_alone else max(0, problem.net.outputs - OUTPUTS[kind])
    record = PlacesRecord(
        kind=kind,
        at=_digits(told),
        data=_digits(data),
        beside=not problem.loss.odds,
        total=problem.samples,
        what=what,
        left_out=left_out,
    )
    return record, at


def _classes(problem: Problem) -> bool:
    """Whether targets are classes, with an output for each."""
    return not problem.y.is_floating_point() and problem.net.outputs > 1


def _targets(problem: Problem) -> Tensor:
    """As numbers, (N, 1) or (N, M)."""
    return problem.y.double().reshape(problem.samples, -1)


def _functions(
    hierarchy: Hierarchy, shown: list[HierarchyPoint], places: PlacesRecord, inputs: Tensor
) -> list[FunctionRow]:
    """The critical functions of these points, lowest loss first, as many as there is room for."""
    problem = hierarchy.problem
    computed: dict[int, list[HierarchyPoint]] = {}
    for point in shown:
        computed.setdefault(point.record.function, []).append(point)
    rows: list[FunctionRow] = []
    numbers = 0
    for number, own in sorted(computed.items(), key=lambda item: item[1][0].record.loss):
        first = own[0]
        values, on_data = _outputs(first, places, inputs)
        if places.kind == "samples" and _classes(problem):
            values = _margins(problem, values)
        values = values[:, : OUTPUTS[places.kind]].T
        numbers += values.numel()
        if numbers > NUMBERS and rows:
            break
        rows.append(
            FunctionRow(
                number=number,
                loss=first.record.loss - float(first.problem.penalty(first.params)),
                points=[point.name for point in own],
                values=[_digits(row[:, None], flat=True) for row in values],
                on_data=on_data,
            )
        )
    return rows


def _outputs(point: HierarchyPoint, places: PlacesRecord, inputs: Tensor) -> tuple[Tensor, bool]:
    """A function's outputs, (K, M): at the inputs; or at the samples that are drawn, and then True."""
    if places.kind != "samples":
        try:
            return point.problem.net.forward(point.params, inputs), False
        except InputError:  # a step at infinity is known on the data alone
            pass
    return point.problem.outputs(point.params)[:: _step(point.problem)], places.kind != "samples"


def _step(problem: Problem) -> int:
    """Every which sample is drawn."""
    return max(1, -(-problem.samples // DRAWN))


def _margins(problem: Problem, outputs: Tensor) -> Tensor:
    """Of each drawn sample, its class's output minus the largest other, (K, 1)."""
    own = problem.y.long().reshape(-1)[:: _step(problem), None]
    others = outputs.scatter(1, own, -torch.inf).amax(1, keepdim=True)
    return outputs.gather(1, own) - others


def _digits(rows: Tensor, flat: bool = False) -> list[Any]:
    """Numbers in four digits, which is all that can be seen."""
    short = [[float(f"{value:.4g}") for value in row] for row in rows.tolist()]
    return [row[0] for row in short] if flat else short
