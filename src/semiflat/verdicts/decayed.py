"""The inertia law with weight decay, for the embeddings that keep the penalty.

Let D_u be the diagonal of the λ of a unit's outgoing and incoming weights, (μ…, Λ…), and K_u its block of
the data's risk. Copies ``(β_j u, β_j ζ)`` with Σβ_j² = 1 of a positively homogeneous unit have, in
coordinates ``β_j (u + p_j), β_j (ζ + q_j)``, the outputs and the penalty

    Σ β_j² (ζ + q_j) σ((u + p_j)·x̃),    ½ Σ β_j² (Λ(u + p_j)² + μ(ζ + q_j)²),

so that second derivatives are those along the means Σ β_j² (q_j, p_j), which are the narrow network's, and

    H_wide ≅ H_narrow ⊕ (K_u + D_u) for each further copy,

narrow and wide with their penalties. A null unit with σ(α) = 0, or below a bias that is not decayed, adds
``[[μI, σ'(α) F∅], [σ'(α) F∅ᵀ, Λ]]``. Both hold at any parameters, critical or not, whatever the λ of each
group, and were compared with dense Hessians (tests/test_decayed.py). At a critical point (ζ, u) is in the
kernel of K_u + D_u: the copies turn into each other. With one λ for all and G = 0 its eigenvalues are λ ± s
for the singular values s of F, of which λ is one (and λ where F has none): a minimum stays one as long as no
other singular value exceeds λ.
"""

from __future__ import annotations

import torch

from semiflat.embeddings.unit_runs import Copies, Nulls
from semiflat.evidence.spectrum import symmetric_spectrum
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.points import EmbeddedPoint
from semiflat.verdicts.verdict import Inertia


def inertia_with_decay(point: EmbeddedPoint) -> Inertia | None:
    """The wide Hessian's signs by the law, from narrow quantities; None for embeddings it does not cover.

    It covers balanced scaled copies of one unit, and null units of one layer.

    >>> import semiflat as sf
    >>> from semiflat.verdicts.decayed import inertia_with_decay
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y, weight_decay=1e-3)
    >>> wide = sf.NullUnits(0, [0])(sf.find_critical_point(problem, starts=8))
    >>> tuple(inertia_with_decay(wide)) == tuple(sf.judge(wide).inertia)
    True
    """
    source = point.source
    net = source.problem.net
    if source.problem.net != point.core.problem.net or source.evidence.no_hessian:
        return None
    changed = [
        (layer, runs)
        for layer, runs in enumerate(point.unit_map.layers)
        if any(isinstance(run, Nulls) or run.count > 1 or run.scale != 1 for run in runs)
        or sum(run.count for run in runs) > net.hidden[layer]
    ]
    if len(changed) != 1:
        return None
    [(layer, runs)] = changed
    nulls = [run for run in runs if isinstance(run, Nulls)]
    copies = [run for run in runs if isinstance(run, Copies)]
    whole = all(run.weight == run.scale == 1 and run.count == 1 for run in copies)
    blocks = None
    if nulls and whole:
        blocks = _null_blocks(point, layer, nulls)
    elif not nulls and all(run.weight == run.scale**2 and run.scale > 0 for run in copies):
        blocks = _copied_blocks(point, layer, copies)
    if blocks is None:
        return None
    positive, _, negative = source.evidence.spectrum.count()
    for block, count in blocks:
        more, _, fewer = symmetric_spectrum(block).count()
        positive, negative = positive + count * more, negative + count * fewer
    total = point.problem.net.parameter_count
    return Inertia(positive, total - positive - negative, negative)


Blocks = list[tuple[list[torch.Tensor], int]]
"""Matrices at the point and next to it, and how many times each occurs."""


def _copied_blocks(point: EmbeddedPoint, layer: int, copies: list[Copies]) -> Blocks | None:
    net, found = point.source.problem.net, []
    if not net.activations[layer].homogeneous:
        return None
    decays = net.unflatten(point.source.problem.decays)
    for unit in range(net.hidden[layer]):
        count = sum(run.count for run in copies if run.source == unit)
        if count > 1:
            by = torch.diag(
                torch.cat([decays[weight_key(layer + 1)][:, unit], _row(net, decays, layer)])
            )
            sites = [
                _bordered(site.F[unit], site.G[unit]) + by
                for site in point.source.evidence.layer(layer)
            ]
            found.append((sites, count - 1))
    return found


def _null_blocks(point: EmbeddedPoint, layer: int, nulls: list[Nulls]) -> Blocks | None:
    net, found = point.source.problem.net, []
    decays = net.unflatten(point.source.problem.decays)
    activation = net.activations[layer]
    above = decays.get(bias_key(layer + 1))
    for run in nulls:
        at = torch.full((1, 1), float(run.bias), dtype=torch.float64)
        value, slope = (float(part) for part in activation.derivatives(at)[:2])
        free = above is not None and not bool(above.any())
        if run.gate or not (activation.smooth or run.bias) or not (value == 0 or free):
            return None
        by = torch.diag(torch.cat([decays[weight_key(layer + 1)][:, 0], _row(net, decays, layer)]))
        sites = []
        for site in point.source.evidence.layer(layer):
            F = slope * site.F_null
            sites.append(_bordered(F, F.new_zeros(F.shape[1], F.shape[1])) + by)
        found.append((sites, run.count))
    return found


def _row(net: MLP, decays: Params, layer: int) -> torch.Tensor:
    """λ of one unit's incoming weights and its bias; of one matrix all are alike."""
    return net.layer(decays, layer)[0]


def _bordered(F: torch.Tensor, G: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.cat([F.new_zeros(len(F), len(F)), F], 1), torch.cat([F.mT, G], 1)])
