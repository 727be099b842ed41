"""What the added units of an embedded point contribute: eigenvalues, flat directions, ways down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.embeddings.directions import WideDirection, steepest_copy, steepest_null
from semiflat.evidence import Evidence, OnData, Spectrum
from semiflat.symmetries.families import FlatFamily, fresh_directions
from semiflat.symmetries.flatness import Flatness
from semiflat.verdicts.law import Shares, added_by_copies
from semiflat.verdicts.layout import Layout


@dataclass(frozen=True)
class Surplus:
    """What one replicated unit, or the null units of one layer, add to the narrow network.

    Attributes:
        what: who it is, for reasons.
        size: number of added parameters.
        positive, negative: eigenvalues added.
        explained: added zeros whose directions are flat.
        escapes: the spectra and signs that can make it a saddle: (spectrum, sign, own), where an
            eigenvalue λ with sign·λ < 0 beyond doubt is a way down; sign 0: any that is not zero.
            ``own`` is the same in natural units.
        why_open: if it adds no way down, why it may still not be a minimum; empty if it is one,
            because its whole kernel is flat.
        families: its flat families.
        steepest: finds its direction of most negative curvature.
    """

    what: str
    size: int
    positive: int
    negative: int
    explained: int
    escapes: list[tuple[Spectrum, int, Spectrum]]
    why_open: str
    families: list[FlatFamily]
    steepest: Callable[[], WideDirection | None]


def added(point: Layout, evidence: Evidence, flat: Flatness) -> list[Surplus]:
    """What replicated, null and dead units add to the core; ``evidence`` is the core's."""
    return [*_replicated(point, evidence, flat), *_null_layers(point, evidence), *_dead(point)]


def _replicated(point: Layout, evidence: Evidence, flat: Flatness) -> list[Surplus]:
    net = point.core.problem.net
    found = []
    for layer, width in enumerate(net.hidden):
        for unit in range(width):
            shares = point.units.shares(layer, unit)
            if sum(count for _, count in shares) > 1:
                found.append(_replicated_unit(point, evidence, flat, layer, unit))
    return found


def _replicated_unit(
    point: Layout, evidence: Evidence, flat: Flatness, layer: int, unit: int
) -> Surplus:
    net, data = point.core.problem.net, evidence.on_data
    signs = Shares.of(point.units.shares(layer, unit))
    p, q, z = signs
    known = evidence.unit_evidence(layer, unit)
    K, F = known.K, known.F
    up, _, down = K.count()
    rank_F = F.count()[0]
    positive, negative = added_by_copies(signs, up, down, rank_F)
    # Counted bottom up: the layers below are already wide, the one above is still narrow.
    above, fan = net.widths[layer + 2], point.net.fan_in(layer)
    loose = fan - data.inputs[layer].rank  # incoming directions that no sample notices
    mixing, regular = _mixing(data, layer, unit)
    source = evidence.layer(layer)[0]
    out, into = known.units
    measured = fresh_directions((mixing / into[:, None]).mT, mixing.new_zeros((0, len(mixing))))
    block = out[:, None] * source.F[unit] * into
    seen = torch.linalg.svdvals(block @ measured) > F.counting_floor.max()
    copies = signs.added
    size = copies * (above + fan)
    # The kernel's flat part: outgoing weights v with Fᵀv = 0, incoming ones that go unnoticed or mix.
    still = above - rank_F + loose + mixing.shape[1] - int(seen.sum())
    explained = (copies - z) * still + z * (above + fan - 2 * rank_F)
    if flat.has("exact fits"):
        explained = size - positive - negative
    why = ""
    if K.doubtful:
        why = "an eigenvalue of K is too close to its noise floor to tell its sign"
    elif z and not regular:
        why = "a share is 0, so where the copy's weights curve the loss, higher derivatives decide"
    elif explained < size - positive - negative:
        unknown = size - positive - negative - explained
        why = f"{unknown} zero eigenvalues are not explained: higher derivatives decide"
    return Surplus(
        what=f"unit {unit} of hidden layer {layer}, in {copies + 1} copies,",
        size=size,
        positive=positive,
        negative=negative,
        explained=explained,
        escapes=[(K, 1, known.own_K)] * (p >= 2)
        + [(K, -1, known.own_K)] * (q >= 1)
        + [(F, 0, known.own_F)] * (z >= 1),
        why_open=why,
        families=_copy_families(layer, unit, copies, z, above, fan, loose, mixing.shape[1]),
        steepest=lambda: steepest_copy(
            point.units,
            net,
            layer,
            unit,
            source.F[unit],
            source.G[unit],
            known.own,
        ),
    )


def _mixing(data: OnData, layer: int, unit: int) -> tuple[Tensor, bool]:
    """Incoming directions (D, k), beyond the unnoticed ones, that copies may take without effect.

    Units linear on the data with the same slopes act through the sum of outgoing times incoming
    weights. Where the outgoing or the incoming weights of such a group have full rank, the set of
    equal functions is a manifold and every incoming direction is free ("regular"); else only those
    that mix the group's own rows are known to be.
    """
    net, fan = data.net, data.net.fan_in(layer)
    unnoticed = data.inputs[layer].null_space
    if not net.activations[layer].homogeneous:
        return torch.zeros((fan, 0), dtype=torch.float64), False
    group = next(g for g in data.same_pattern(layer) if unit in g)
    rows = net.layer(data.params, layer)[group]
    columns = net.layer(data.params, layer + 1)[:, group]
    everything = torch.eye(fan, dtype=torch.float64)
    if (
        bool(data.dead[layer][unit])
        or int(torch.linalg.matrix_rank(columns)) == columns.shape[0]
        or int(torch.linalg.matrix_rank(rows)) == fan
    ):
        return fresh_directions(everything, unnoticed), True
    if data.one_slope(layer, unit) and net.biases[layer] and net.biases[layer + 1]:
        rows = torch.cat([rows, everything[-1:]])
    return fresh_directions(rows, unnoticed), False


def _copy_families(
    layer: int, unit: int, copies: int, zero: int, above: int, fan: int, loose: int, mixing: int
) -> list[FlatFamily]:
    who = f"the copies of unit {unit} of hidden layer {layer}"
    families = [
        FlatFamily(
            "replicated unit",
            f"{who} may share out its outgoing weights in any way",
            copies * above,
        )
    ]
    if loose:
        families.append(
            FlatFamily(
                "unnoticed incoming weights",
                f"what {who} are fed with is linearly dependent on the data",
                copies * loose,
            )
        )
    if zero:
        families.append(
            FlatFamily(
                "copies with share 0",
                f"nothing listens to {zero} of {who}: their incoming weights may be anything",
                zero * (fan - loose),
                joint=False,
            )
        )
    if mixing and copies > zero:
        families.append(
            FlatFamily(
                "copies linear on the data",
                f"{who} act through the sum of outgoing times incoming weights",
                (copies - zero) * mixing,
            )
        )
    return families


def _null_layers(point: Layout, evidence: Evidence) -> list[Surplus]:
    net = point.core.problem.net
    found = []
    for layer, activation in enumerate(net.activations):
        runs = point.units.nulls(layer)
        if not runs:
            continue
        count = sum(run.count for run in runs)
        alphas = torch.tensor([float(run.bias) for run in runs], dtype=torch.float64)
        _, slopes, _ = activation.derivatives(alphas)
        heard = sum(r.count for r, s in zip(runs, slopes.tolist(), strict=True) if s != 0)
        dead = activation.slopes is not None and activation.slopes[0] == 0
        dead = dead and all(run.bias < 0 for run in runs)
        F, own = evidence.skipping(layer)
        rank = F.count()[0]
        above, fan = net.widths[layer + 2], point.net.fan_in(layer)
        size = count * (above + fan)
        found.append(
            Surplus(
                what=f"F∅ of hidden layer {layer}, with {count} null unit(s),",
                size=size,
                positive=heard * rank,
                negative=heard * rank,
                explained=size - 2 * heard * rank,
                escapes=[(F, 0, own)] * (heard > 0),
                why_open=""
                if dead
                else "at second order the null units leave the loss as it is; higher derivatives "
                "decide",
                families=_null_families(layer, count, above, fan, dead),
                steepest=lambda layer=layer: steepest_null(  # type: ignore[misc]
                    point.units, net, layer, evidence.layer(layer)[0].F_null
                ),
            )
        )
    return found


def _null_families(layer: int, count: int, above: int, fan: int, dead: bool) -> list[FlatFamily]:
    return [
        FlatFamily(
            "null units: incoming",
            f"nothing listens to the null units of hidden layer {layer}: their incoming weights may "
            "be anything",
            count * fan,
            joint=dead,
        ),
        FlatFamily(
            "null units: outgoing",
            f"the null units of hidden layer {layer} are constant: what they add, the bias above can "
            "take away",
            count * above,
            joint=dead,
        ),
    ]


def _dead(point: Layout) -> list[Surplus]:
    """Units inactive on the data: zero rows and columns of the Hessian (F19 Prop. 7, eq. 12)."""
    count = sum(point.dead)
    if not count:
        return []
    size = point.wide.parameter_count - point.net.parameter_count
    layers = ", ".join(str(layer) for layer, n in enumerate(point.dead) if n)
    reason = (
        f"{count} added unit(s) of hidden layer(s) {layers} are inactive on every sample, and stay so "
        "nearby: what leads to them and from them may be anything"
    )
    return [
        Surplus(
            what=f"{count} inactive unit(s)",
            size=size,
            positive=0,
            negative=0,
            explained=size,
            escapes=[],
            why_open="",
            families=[FlatFamily("inactive on the data", reason, size)],
            steepest=lambda: None,
        )
    ]
