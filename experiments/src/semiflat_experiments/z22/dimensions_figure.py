"""The figure of Z22 §6: dimensions of embedded sets, and signs before and after embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from semiflat_experiments.experiment import Record, Settings, qualified
from semiflat_experiments.figure import MARKERS, SHADES, say_so

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def all_of(records: Sequence[Record], key: str) -> Iterator[dict[str, Any]]:
    """The entries of a list that every record holds, each with its record's shape."""
    for record in records:
        yield from ({**each, "shape": record["shape"]} for each in record[key])


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Dimensions against the estimate, and counts of eigenvalues against narrow ones."""
    kept = qualified(records)
    left, right = figure.subplots(1, 2)
    if not kept:
        say_so(left, "no point qualified")
        return say_so(right, "no point qualified")
    _draw_dimensions(left, list(all_of(kept, "dimensions")))
    _draw_signs(right, list(all_of(kept, "signs")))
    return None


def _draw_dimensions(axes: Axes, sets: Sequence[dict[str, Any]]) -> None:
    top = max(max(each["span"], each["zeros"] or 0) for each in sets)
    axes.plot([1.5, top], [1.5, top], color=SHADES[3], linewidth=0.8)
    for k, (key, label) in enumerate(
        (("zeros", "zeros of the Hessian"), ("span", "affine span"), ("rank", "rank of tangents"))
    ):
        seen = Counter((each["estimate"], each[key]) for each in sets if each[key] is not None)
        x = [estimate + 0.14 * (1 - k) for estimate, _ in seen]
        y = [value for _, value in seen]
        style: Any = {"marker": MARKERS[2 - k], "color": SHADES[2 - k], "linestyle": "none"}
        axes.plot(
            x, y, label=label, markersize=5, markerfacecolor="none" if k < 2 else None, **style
        )
    axes.set_xlabel("estimated dimension")
    axes.set_ylabel("measured")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_signs(axes: Axes, pairs: Sequence[dict[str, Any]]) -> None:
    clear = [each for each in pairs if each["narrow"] and each["wide"]]
    top = max((max(each["wide"]) for each in clear), default=1)
    axes.plot([0, top], [0, top], color=SHADES[3], linewidth=0.8)
    for k, label in enumerate(("positive", "zero", "negative")):
        seen = {(each["narrow"][k], each["wide"][k]) for each in clear}
        x, y = zip(*sorted(seen), strict=True) if seen else ((), ())
        style: Any = {"marker": MARKERS[k], "color": SHADES[k], "linestyle": "none", "alpha": 0.8}
        axes.plot(x, y, label=label, markersize=4, **style)
    axes.set_xlabel("eigenvalues of the narrow Hessian")
    axes.set_ylabel("of the wide one")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
