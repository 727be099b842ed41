"""What a bound rests on and no data can show: that the sample is one, and that it did not choose the prior."""

from __future__ import annotations

from semiflat.bounds.bounded import BoundedLoss, Clipped
from semiflat.bounds.box import BoxSurplus
from semiflat.bounds.posterior import PosteriorFamily


def assumptions(family: PosteriorFamily, loss: BoundedLoss, centred: bool) -> tuple[str, ...]:
    """What the user vouches for, a sentence each.

    With surplus ReLU units it is one more than F19 has: P_rl is Gaussian on H₀ units and uniform on the
    other E, so it depends on H₀, and F19 takes the least H₀ that fits the data. With smooth ones P is
    N(0, σ²I) on all of the wide network, whichever of its units are surplus.

    Args:
        family: the posteriors.
        loss: the bounded loss.
        centred: whether a prior mean was given.
    """
    widths = "-".join(str(width) for width in family.net.widths)
    found = ["the samples are i.i.d., and no sample was scaled or chosen by the others"]
    surplus = family.surplus
    if isinstance(surplus, BoxSurplus):
        own = family.narrow.hidden[family.layer]
        found.append(
            f"widths {widths}, of which {own} + {surplus.count} in hidden layer {family.layer}, and "
            f"K = {surplus.size:g} were fixed before the data were seen (of N splits that were tried, give "
            "each δ/N)"
        )
    else:
        found.append(
            f"widths {widths} were fixed before the data were seen (of N that were tried, give each δ/N)"
        )
    found.append("σ's grid, δ and the seed of the draws were fixed before the data were seen")
    if isinstance(loss, Clipped):
        found.append(
            f"where the loss is clipped, at {loss.at:g}, was fixed before the data were seen"
        )
    if centred:
        found.append("the prior mean was not made from these data")
    return tuple(found)
