"""The ways in which the census embeds a minimum, and what it records of each embedded point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

import semiflat as sf
from semiflat_experiments.f19.claims import (
    CRITICAL,
    MINIMUM,
    NOT_IN_GENERAL,
    SADDLE,
    SILENT,
    Blocks,
    Claim,
    Shares,
    claims,
)
from semiflat_experiments.f19.evidence import blocks_from_pair, evidence

MINIMA = (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)
BY_THE_BOX = "F19 Thm 9"
SECTION_B = "F19 Thm 2, §B"
"""What is said of stationarity alone."""


class Way(NamedTuple):
    """An embedding of a minimum.

    Attributes:
        name: which.
        layer, unit: where; the unit is None where none is replicated.
        embedding: the embedding.
        claims: what is said of the embedded point.
        blocks: the replicated unit's.
    """

    name: str
    layer: int
    unit: int | None
    embedding: sf.Embedding
    claims: list[Claim]
    blocks: Blocks | None = None


def shares(generator: torch.Generator) -> dict[str, list[float | None]]:
    """Shares of every pattern that some theorem is about, the last filled in; two decimals each.

    >>> shares(torch.Generator().manual_seed(0))["three, one above 0"]
    [-0.09, -0.44, None]
    """
    a, b = (torch.randint(5, 45, (2,), generator=generator) / 100).tolist()
    a, b = round(a, 2), round(b, 2)
    return {
        "two inside": [a, None],
        "two outside": [1 + a, None],
        "two, one 0": [1, None],
        "three inside": [a, b, None],
        "three, one above 0": [-a, -b, None],
        "three, two above 0": [1 + a, b, None],
    }


PATTERNS = {
    "two inside": Shares(2, 0, 0),
    "two outside": Shares(1, 1, 0),
    "two, one 0": Shares(1, 0, 1),
    "three inside": Shares(3, 0, 0),
    "three, one above 0": Shares(1, 2, 0),
    "three, two above 0": Shares(2, 1, 0),
}


def ways(point: sf.Point, strict: bool, seed: int) -> Iterator[Way]:
    """Every unit replicated with shares of every pattern, and units added to every layer."""
    net, generator = point.problem.net, torch.Generator().manual_seed(seed)
    scale = float(torch.linalg.eigvalsh(sf.hessian(point)).abs().max())
    for layer, width in enumerate(net.hidden):
        for unit in range(width):
            known = sf.unit_blocks(point, layer, unit)
            blocks = Blocks.of(known.F, known.G, scale)
            for name, weights in shares(generator).items():
                said = claims(net, point.problem.loss.name, layer, strict, blocks, PATTERNS[name])
                embedding = _replicated(net, layer, unit, weights)
                stationary = Claim(SECTION_B, "(I) unit replication", CRITICAL)
                yield Way(name, layer, unit, embedding, [*said, stationary], blocks)
        yield from _added(net, layer, generator, point)


def _replicated(
    net: sf.MLP, layer: int, unit: int, weights: Sequence[float | None]
) -> sf.Embedding:
    if net.activations[layer].smooth:
        return sf.Replicate(layer, unit, weights)
    # F19 Thm 10: all copies of one size, here half of it, so that Σγ is 2.
    outgoing = [None if each is None else 2 * each for each in weights]
    return sf.ScaledReplicate(layer, unit, [0.5] * len(weights), outgoing)


def _added(net: sf.MLP, layer: int, generator: torch.Generator, point: sf.Point) -> Iterator[Way]:
    """Two units that are 0 or that nothing listens to."""
    above, fan_in = net.widths[layer + 2], net.fan_in(layer)
    v = torch.randn(2, above, generator=generator, dtype=torch.float64)
    w = torch.randn(2, fan_in, generator=generator, dtype=torch.float64)
    activation = net.activations[layer]

    def way(name: str, embedding: sf.Embedding, *said: Claim) -> Way:
        return Way(name, layer, None, embedding, list(said))

    if not activation.smooth and net.biases[layer]:
        radius = float(net.fed(point.params, point.problem.X, layer)[:, :-1].norm(dim=1).max())
        box = sf.InactiveUnits.in_box(
            layer, 2, fan_in - 1, radius=radius, outgoing=v, seed=int(generator.initial_seed())
        )
        deep = "" if len(net.hidden) == 1 else ", two layers"
        yield way("inactive units", box, Claim(BY_THE_BOX, f"inactive units{deep}", MINIMUM))
    if activation.name in ("tanh", "gelu", "silu", "sin"):
        yield way(
            "inactive units",
            sf.InactiveUnits(layer, outgoing=v),
            Claim(SECTION_B, "(II) inactive units, v ≠ 0", NOT_IN_GENERAL),
        )
        yield way(
            "inactive units, v = 0",
            sf.InactiveUnits(layer, 2),
            Claim(SECTION_B, "eq. (28): both inactive", CRITICAL),
        )
    if activation.smooth:
        yield way(
            "inactive propagation",
            sf.InactivePropagation(layer, w),
            Claim(SECTION_B, "(III) inactive propagation", NOT_IN_GENERAL),
        )


def recorded(point: sf.Point, strict: bool, seed: int) -> list[dict[str, Any]]:
    """All embeddings of a minimum, each with what is said of it, its verdict and the evidence."""
    found = list(ways(point, strict, seed))
    wide: list[sf.Point] = [way.embedding(point) for way in found]
    verdicts, certificates = sf.judge_all(wide), sf.certify_all(wide)
    return [
        _record(way, each, verdict, certificate, seed)
        for way, each, verdict, certificate in zip(found, wide, verdicts, certificates, strict=True)
    ]


def _record(
    way: Way, wide: sf.Point, verdict: sf.Verdict, certificate: sf.Certificate, seed: int
) -> dict[str, Any]:
    seen = evidence(wide, verdict, seed)
    for claim in way.claims:
        if not consistent(claim.says, verdict.kind):
            seen["against"].append(f"{claim.theorem}, {claim.case}")
    proved = certificate.kind if certificate.certified else None
    if proved is not None and _sort(proved) != _sort(verdict.kind):
        if verdict.kind is sf.Kind.UNDECIDED:
            seen["open"].append("measured undecided, but proved")
        else:
            seen["against"].append("a proof")
    inertia = verdict.inertia
    return {
        "embedding": way.name,
        "layer": way.layer,
        "unit": way.unit,
        "blocks": None if way.blocks is None else list(way.blocks),
        "claims": [list(claim) for claim in way.claims],
        "kind": str(verdict.kind),
        "reason": verdict.reason if verdict.kind is sf.Kind.UNDECIDED else "",
        "inertia": None if inertia is None else list(inertia),
        "proved": proved,
        **seen,
    }


def _sort(kind: str) -> str:
    """The kind, flat and strict minima being of one sort."""
    return MINIMUM if kind in MINIMA else str(kind)


def consistent(says: str, kind: sf.Kind) -> bool:
    """Whether a verdict leaves room for what a theorem says; an undecided one always does.

    >>> consistent("saddle", sf.Kind.MINIMUM), consistent("critical", sf.Kind.MINIMUM)
    (False, True)
    """
    if says in (SILENT, NOT_IN_GENERAL) or kind is sf.Kind.UNDECIDED:
        return True
    if says == MINIMUM:
        return kind in MINIMA
    if says == SADDLE:
        return kind is sf.Kind.STRICT_SADDLE
    return kind is not sf.Kind.NOT_CRITICAL


def lemma_4(point: sf.Point) -> float:
    """How far F and G of its units are from those in the dense Hessian of two copies, over ``‖∇²R‖∞``."""
    net, farthest = point.problem.net, 0.0
    scale = float(sf.hessian(point).abs().max())
    for layer, width in enumerate(net.hidden):
        for unit in range(width):
            pair = sf.Replicate(layer, unit, [0.3, 0.7])(point)
            known = sf.unit_blocks(point, layer, unit)
            F, G = blocks_from_pair(pair, layer, (unit, width), (0.3, 0.7))
            for one, other in ((known.F, F), (known.G, G)):
                farthest = max(farthest, float((one - other).abs().max()) / scale)
    return farthest
