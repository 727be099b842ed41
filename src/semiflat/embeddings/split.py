"""Splitting a whole layer at once: each of its units by itself a copy of some unit."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import Condition
from semiflat.embeddings.exact import Exact, Run, fraction, show, total
from semiflat.embeddings.vectors import index, listed, numbers
from semiflat.embeddings.widening import Widening, with_offsets
from semiflat.errors import InputError, whole
from semiflat.networks import MLP, bias_key, weight_key


class Split(Embedding):
    """Make every unit of a wide layer a copy of some unit: replications of a layer in one step.

    Unit j of the wide layer is a copy of ``sources[j]`` with incoming weights ``s_j u`` and outgoing
    weights ``(λ_j / s_j) ζ + d_j``; the shares λ of the copies of each unit sum to 1. It is the way
    back from a reduction, and contains ``Replicate``, ``ScaledReplicate`` and ``Reflect``.

    Args:
        layer: hidden layer, from 0.
        sources: for each wide unit the unit it copies; every unit needs a copy.
        shares: the λ_j, exact like the weights of ``Replicate``.
        scales: the s_j: above 0 for positively homogeneous activations, −1 for those with
            ``σ(−z) = κ − σ(z)``; None for 1.
        offsets: the d_j, (wide width, M), with ``Σ s_j d_j = 0`` over the copies of each unit; None
            for 0. A critical point stays one where ``Fᵀ d_j = 0``.

    Raises:
        InputError: for a unit without a copy, shares that do not sum to exactly 1, offsets that do
            not cancel; and, once applied, scales that the activation does not allow.

    >>> Split(0, sources=[0, 1, 0], shares=["1/4", 1, "3/4"])
    Split(layer=0, sources=[0, 1, 0], shares=[0.25, 1, 0.75])
    """

    def __init__(
        self,
        layer: int,
        sources: Sequence[int],
        shares: Sequence[Exact],
        scales: Sequence[Exact] | None = None,
        offsets: Any = None,
    ) -> None:
        self.layer = index(layer)
        self.sources = tuple(whole("each source", source) for source in listed("sources", sources))
        self.shares = tuple(fraction(share, "share") for share in listed("shares", shares))
        given = [1] * len(self.sources) if scales is None else listed("scales", scales)
        self.scales = tuple(fraction(scale, "scale") for scale in given)
        sizes = {len(self.sources), len(self.shares), len(self.scales)}
        if len(sizes) > 1 or not self.sources:
            raise InputError(
                f"{len(self.sources)} sources, {len(self.shares)} shares and {len(self.scales)} scales "
                "were given; give one of each for every wide unit"
            )
        runs: dict[int, list[Run]] = {}
        for source, share in zip(self.sources, self.shares, strict=True):
            runs.setdefault(source, []).append((share, 1))
        sums = {source: total(of_one) for source, of_one in runs.items()}
        if sorted(sums) != list(range(len(sums))):
            raise InputError(f"the sources must cover every unit from 0; they are {sorted(sums)}")
        wrong = next((unit for unit, found in sums.items() if found != 1), None)
        if wrong is not None:
            raise InputError(
                f"the shares of the copies of unit {wrong} sum to {show(sums[wrong])}, not 1"
            )
        self.offsets = None if offsets is None else self._balanced(offsets)

    def _balanced(self, offsets: Any) -> torch.Tensor:
        given = numbers("offsets", offsets, 2)
        if len(given) != len(self.sources):
            raise InputError(
                f"offsets have {len(given)} rows; give one for each of the {len(self.sources)} units"
            )
        scales = torch.tensor([float(scale) for scale in self.scales], dtype=torch.float64)
        index = torch.tensor(self.sources)
        blank = torch.zeros((max(self.sources) + 1, given.shape[1]), dtype=torch.float64)
        left = blank.index_add(0, index, given * scales[:, None])
        terms = blank.index_add(0, index, (given * scales[:, None]).abs())
        if (left.abs() > 1e-12 * (1 + terms)).any():
            unit = int((left.abs() - 1e-12 * (1 + terms)).amax(1).argmax())
            raise InputError(
                f"the offsets of the copies of unit {unit}, times their scales, must sum to 0; they "
                f"sum to {left[unit].tolist()}"
            )
        return given

    @property
    def preserves_criticality(self) -> bool | Condition:
        """``True`` without offsets; with them, where ``Fᵀ d_j = 0`` for each of them."""
        if self.offsets is None or not self.offsets.any():
            return True
        return self.critical_where("Fᵀ d_j = 0 for every copy's offset d_j")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the split.

        Raises:
            InputError: if the layer is not as wide as the sources say, or a scale does not fit its activation.
        """
        net = widening.wide
        net.check_layer(self.layer)
        if max(self.sources) + 1 != net.hidden[self.layer]:
            raise InputError(
                f"the sources cover units 0 to {max(self.sources)}, but hidden layer {self.layer} has "
                f"{net.hidden[self.layer]} unit(s)"
            )
        self._check_scales(net)
        units = widening.units.split(self.layer, self.sources, self.shares, self.scales)
        copied = widening.with_units(units)
        if self.offsets is None:
            return copied
        kappa = net.activations[self.layer].reflection or 0.0
        mirrored = torch.tensor([scale < 0 for scale in self.scales])
        lost = kappa * self.offsets[mirrored].sum(0) if kappa and bool(mirrored.any()) else None
        return with_offsets(copied, self.layer, range(len(self.sources)), self.offsets, lost)

    def _check_scales(self, net: MLP) -> None:
        activation = net.activations[self.layer]
        for scale in set(self.scales) - {Fraction(1)}:
            mirrored = scale == -1 and activation.reflection is not None
            if mirrored and activation.reflection and not net.biases[self.layer + 1]:
                raise InputError(
                    f"a mirrored {activation.name} unit needs a bias in linear layer {self.layer + 1}, "
                    "which has none"
                )
            if not mirrored and not (scale > 0 and activation.homogeneous):
                raise InputError(
                    f"scale {show(scale)} does not fit {activation.name}: scales above 0 need a "
                    "positively homogeneous activation, and −1 one with σ(−z) = κ − σ(z)"
                )

    def own_dimension(self, net: MLP) -> int:
        """(m' − m)·M for m' wide and m narrow units: outgoing weights that keep each unit's sum."""
        return (len(self.sources) - net.hidden[self.layer]) * net.widths[self.layer + 2]

    def own_freedom(self, net: MLP) -> int:
        """m' − m: shares that sum to 1 for each unit."""
        return len(self.sources) - net.hidden[self.layer]

    def own_directions(self, point: Any) -> torch.Tensor:
        """Outgoing weights that may move from one copy to the next."""
        net = point.problem.net
        wide, above = self.on(net).wide, net.widths[self.layer + 2]
        flat = torch.zeros((self.own_dimension(net), wide.parameter_count), dtype=torch.float64)
        parts = wide.unflatten(flat)
        column = parts[weight_key(self.layer + 1)]
        kappa = net.activations[self.layer].reflection or 0.0
        first: dict[int, int] = {}
        at = 0
        for place, source in enumerate(self.sources):
            if source not in first:
                first[source] = place
                continue
            for where, sign in ((place, 1.0), (first[source], -1.0)):
                scale = float(self.scales[where])
                moved = torch.eye(above, dtype=torch.float64) * (sign / scale)
                column[at : at + above, :, where] = moved
                if scale < 0 and kappa:
                    parts[bias_key(self.layer + 1)][at : at + above] -= kappa * moved
            at += above
        return flat

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; shares and scales are fractions as text."""
        entry: dict[str, Any] = {
            "type": "Split",
            "layer": self.layer,
            "sources": list(self.sources),
            "shares": list(map(str, self.shares)),
            "scales": list(map(str, self.scales)),
        }
        return [entry if self.offsets is None else entry | {"offsets": self.offsets.tolist()}]

    def __repr__(self) -> str:
        if len(self.sources) > 8:
            return f"Split(layer={self.layer}, sources=…, shares=…)"
        shown = ", ".join(show(share) for share in self.shares)
        scaled = any(scale != 1 for scale in self.scales)
        scales = f", scales=[{', '.join(map(show, self.scales))}]" if scaled else ""
        free = "" if self.offsets is None else ", offsets=…"
        return f"Split(layer={self.layer}, sources={list(self.sources)}, shares=[{shown}]{scales}{free})"
