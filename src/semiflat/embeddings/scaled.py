"""Scaled replication: copies of a positively homogeneous unit, each at its own scale."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import PointLike
from semiflat.embeddings.exact import Exact, fraction, short, show, show_runs, total
from semiflat.embeddings.vectors import index, rows_of
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole
from semiflat.networks import MLP, bias_key, weight_key


class ScaledReplicate(Embedding):
    """Replace a unit by copies with incoming weights ``β_j u`` and outgoing ``γ_j ζ``, Σγ_jβ_j = 1.

    For positively homogeneous activations (relu, leaky_relu, identity), with β_j > 0: F19 (I)_R,
    eq. (9), Prop. 6, Thm 10. Maps critical points to critical points where the loss is
    differentiable. It is a replication with shares ``γ_j β_j`` whose copies are then rescaled.

    Args:
        layer: hidden layer, from 0.
        unit: unit in it, from 0.
        incoming: the β_j, each above 0, exact like the weights of ``Replicate``.
        outgoing: the γ_j; one may be ``None`` and is filled in.

    Raises:
        InputError: if some β_j is not above 0, the numbers differ in count, Σγ_jβ_j is not exactly 1;
            and, once applied, if the activation is not positively homogeneous.

    >>> ScaledReplicate(layer=0, unit=1, incoming=[2, 0.5], outgoing=[0.25, None])
    ScaledReplicate(layer=0, unit=1, incoming=[2, 0.5], outgoing=[0.25, 1])
    """

    def __init__(
        self, layer: int, unit: int, incoming: Iterable[Exact], outgoing: Iterable[Exact | None]
    ) -> None:
        try:
            beta = [fraction(value, "incoming scale") for value in incoming]
            gamma = [None if value is None else fraction(value) for value in outgoing]
        except TypeError as error:
            raise InputError(
                f"incoming and outgoing must be lists of numbers, such as [2, 0.5]: {error}"
            ) from None
        wrong = [(k, value) for k, value in enumerate(beta) if value <= 0]
        if wrong:
            raise InputError(
                f"incoming scale {wrong[0][0]} is {show(wrong[0][1])}; every β must be above 0, "
                "because σ(βz) = βσ(z) holds for positive β only"
            )
        if len(beta) != len(gamma) or not beta:
            raise InputError(
                f"incoming has {len(beta)} numbers and outgoing {len(gamma)}; give one of each for "
                "every copy, at least one"
            )
        if gamma.count(None) > 1:
            raise InputError(
                f"outgoing holds {gamma.count(None)} None; at most one can be filled in"
            )
        pairs = list(zip(beta, gamma, strict=True))
        known = total((b * g, 1) for b, g in pairs if g is not None)
        complete = [short((1 - known) / b) if g is None else g for b, g in pairs]
        if None not in gamma and known != 1:
            raise InputError(
                f"the sum of outgoing × incoming scales is {show(known)}, not 1, so the function "
                "would change; leave one outgoing scale None to have it filled in"
            )
        self.layer, self.unit = index(layer), index(unit)
        self.incoming, self.outgoing = tuple(beta), tuple(complete)

    @classmethod
    def balanced(cls, layer: int, unit: int, copies: int = 2) -> ScaledReplicate:
        """Copies with β = γ and Σβ² = 1: those that weight decay lets be, too.

        With decay Λ on the incoming weights u and μ on the outgoing ζ, a critical point has Fᵀζ = −Λu and
        Σ δ σ(z) = −μζ. At a copy (βu, γζ) the gradients are (β − γ)Λu and (γ − β)μζ: both vanish where β = γ,
        and nowhere else unless neither side is decayed. That holds whatever the λ of each group is, biases
        decayed or not. Such copies keep the penalty: Σβ²‖u‖² = ‖u‖². The β are rational, so that Σβ² is exactly
        1: the largest is split into ⅗ and ⅘ of itself.

        >>> ScaledReplicate.balanced(layer=0, unit=1, copies=3)
        ScaledReplicate(layer=0, unit=1, incoming=[0.6, 0.48, 0.64], outgoing=[0.6, 0.48, 0.64])
        """
        scales = [Fraction(1)]
        for _ in range(whole("copies", copies, 1) - 1):
            largest = scales.pop(scales.index(max(scales)))
            scales += [largest * Fraction(3, 5), largest * Fraction(4, 5)]
        return cls(layer, unit, scales, scales)

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the copies.

        Raises:
            InputError: if there is no such unit, or its activation is not positively homogeneous.
        """
        net = widening.wide
        net.check_unit(self.layer, self.unit)
        activation = net.activations[self.layer]
        if not activation.homogeneous:
            raise InputError(
                f"scaled replication needs a positively homogeneous activation (relu, leaky_relu, "
                f"identity), and hidden layer {self.layer} has {activation.name}; use "
                "Replicate(layer, unit, weights), which fits every activation"
            )
        shares = [(b * g, 1) for b, g in zip(self.incoming, self.outgoing, strict=True)]
        return widening.with_units(
            widening.units.replicated(self.layer, self.unit, shares, self.incoming)
        )

    def own_dimension(self, net: MLP) -> int:
        """copies + (copies − 1)·M: each copy's scale, and outgoing weights with ``Σ β_j v_j = ζ``."""
        copies = len(self.incoming)
        return copies + (copies - 1) * net.widths[self.layer + 2]

    def own_freedom(self, net: MLP) -> int:
        """2·copies − 1: the β_j, and the γ_j with ``Σ γ_j β_j = 1``."""
        return 2 * len(self.incoming) - 1

    def own_directions(self, point: PointLike) -> Tensor:
        """Free outgoing weights with ``Σβ_j v_j = ζ``, and each β_j against its own v_j."""
        net, copies = point.problem.net, len(self.incoming)
        widening = self.on(net)
        wide, params = widening.wide, widening.parameters(point.params)
        places = [self.unit, *range(net.hidden[self.layer], net.hidden[self.layer] + copies - 1)]
        above = net.widths[self.layer + 2]
        rows, parts = rows_of(wide, self.own_dimension(net))
        column, weight = parts[weight_key(self.layer + 1)], parts[weight_key(self.layer)]
        unit_vectors = torch.eye(above, dtype=torch.float64)
        for k, place in enumerate(places):
            beta = float(self.incoming[k])
            weight[k, place] = params[weight_key(self.layer)][place] / beta
            if net.biases[self.layer]:
                parts[bias_key(self.layer)][k, place] = params[bias_key(self.layer)][place] / beta
            column[k, :, place] = -params[weight_key(self.layer + 1)][:, place] / beta
            if k > 0:
                chosen = slice(copies + (k - 1) * above, copies + k * above)
                column[chosen, :, place] = unit_vectors / beta
                column[chosen, :, places[0]] = -unit_vectors / float(self.incoming[0])
        return rows

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; scales are fractions as text."""
        scales = {
            "incoming": list(map(str, self.incoming)),
            "outgoing": list(map(str, self.outgoing)),
        }
        return [{"type": "ScaledReplicate", "layer": self.layer, "unit": self.unit, **scales}]

    def __repr__(self) -> str:
        incoming, outgoing = (
            show_runs([(value, 1) for value in values]) for values in (self.incoming, self.outgoing)
        )
        return (
            f"ScaledReplicate(layer={self.layer}, unit={self.unit}, incoming={incoming}, "
            f"outgoing={outgoing})"
        )
