"""What the runs of Z22's stages say: table, checks and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from semiflat_experiments import Check, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, counted, qualified

STAGNANT = 0.05
"""A run stagnates if the loss changes by less than this part while the number of steps doubles."""
NARROW = (1, 2, 3)


def at_width_1(record: Record) -> bool:
    """Whether the loss stagnates with the best fit of one unit as the nearest critical function."""
    stage = record["plateau"]
    return (
        record["lost"] < STAGNANT and stage["nearest_width"] == 1 and bool(stage["nearest_is_best"])
    )


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Plateau, end, and the tree."""
    kept = qualified(records)
    chosen = [each for each in kept if each["part"] == "chosen target"]
    drawn = [each for each in kept if each["part"] == "drawn target"]
    trees = [each["functions"] for each in kept if each["part"] == "tree"]
    tree = trees[0] if trees else []
    stagnant = [each for each in chosen if at_width_1(each)]
    ended = [each for each in chosen if _ends_at_3(each)]
    rows = [
        Row(
            "runs that stagnate at the width-1 function",
            "the run shown",
            f"{len(stagnant)} of {len(chosen)}",
            f"chosen target; the loss changes by less than {STAGNANT:.0%} while the steps double",
        ),
        Row(
            "loss there over the width-1 level",
            "close to it",
            _range([each["plateau"]["risk"] / each["levels"]["1"] for each in stagnant], ".3f"),
            f"median and range; steps spent within {2 * STAGNANT:.0%}: "
            + _range(
                [each["near_width_1"][-1] - each["near_width_1"][0] for each in stagnant], ".0f"
            ),
        ),
        _row_of_distances("distance there to the width-1, 2 and 3 functions", stagnant, "plateau"),
        _row_of_distances("distance at the end to the same", chosen, "end"),
        Row(
            "loss at the end over the constant's",
            "interpolates",
            _range([each["end"]["risk"] for each in chosen], ".1e"),
            f"after {settings['steps']} steps, still falling",
        ),
        Row(
            "units that would do, on the plateau and at the end",
            "—",
            " and ".join(
                _range([each[stage]["effective"] for each in chosen], "g")
                for stage in ("plateau", "end")
            ),
            f"by reduce, outputs off by {STAGNANT:.0%} of their spread at most",
        ),
        *_rows_of_tree(settings, tree),
        *_rows_of_drawn(settings, drawn),
        counted(records),
    ]
    return Outcome(rows, _checks(settings, chosen, tree, stagnant, ended), CAPTION, _data(kept))


CAPTION = (
    "Top left: loss over that of the constant, each line a seed; levels are the least losses of critical "
    "functions of one and two units (three fit the data). The loss stagnates at the level of one unit (dots). "
    "Top right: distance of the outputs to these functions, over the spread of the data, first seed. Bottom "
    "left: its outputs where it stagnates and at the end, shifted, each on the narrow function. Bottom right: "
    "critical functions from the width where they first occur; all go on in every wider network, saddles "
    "there unless they fit the data."
)


def _ends_at_3(record: Record) -> bool:
    """Whether the end is nearest to the best fit of three units, and farther from that of one than before."""
    start, end = record["plateau"]["distances"], record["end"]["distances"]
    nearest_is_3 = record["end"]["nearest_width"] == 3 and record["end"]["nearest_is_best"]
    return bool(nearest_is_3) and end["1"] > start["1"] and end["3"] < start["3"]


def _checks(
    settings: Settings,
    chosen: Sequence[Record],
    tree: Sequence[dict[str, Any]],
    stagnant: Sequence[Record],
    ended: Sequence[Record],
) -> list[Check]:
    placed = [(node, each) for node in tree for each in node["embedded"]]
    worst = max((each["gradient"] for _, each in placed), default=0.0)
    above = [(node, each) for node, each in placed if node["loss"] > 1e-10 * tree[0]["loss"]]
    wide = [each for _, each in above if each["width"] == settings["width"]]
    saddles = sum(each["kind"] == "strict saddle" for each in wide)
    return [
        Check(
            "the loss stagnates near the best fit of one unit, in three runs of four or more",
            4 * len(stagnant) >= 3 * len(chosen) > 0,
            f"{len(stagnant)} of {len(chosen)}",
        ),
        Check(
            "and ends nearest to the best fit of three units, farther from that of one than before",
            4 * len(ended) >= 3 * len(chosen) > 0,
            f"{len(ended)} of {len(chosen)}",
        ),
        Check(
            "every critical function of a width is one of wider networks: its embedded points are critical",
            bool(placed) and worst < 1e-9,
            f"{len(placed)} embedded points, gradients up to {worst:.1e}",
        ),
        Check(
            f"at width {settings['width']} those that do not fit the data are strict saddles",
            bool(wide) and saddles == len(wide),
            f"{saddles} of {len(wide)}",
        ),
    ]


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "none"
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _row_of_distances(what: str, records: Sequence[Record], stage: str) -> Row:
    found = [
        _range([each[stage]["distances"][str(width)] for each in records], ".3f")
        for width in NARROW
    ]
    return Row(what, "close to width 1" if stage == "plateau" else "close to width 3", "; ".join(found),
               "root mean square over the data, over their spread")  # fmt: skip


def _rows_of_tree(settings: Settings, tree: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for width in NARROW:
        mine = [node for node in tree if node["width"] == width]
        kinds = Counter(f"{node['kind']}, {node['certainty'].lower()}" for node in mine)
        rows.append(
            Row(
                f"critical functions of width {width} and no less",
                "—",
                str(len(mine)),
                "; ".join(f"{count} {kind}" for kind, count in kinds.items())
                + (f"; least loss {mine[0]['loss']:.4g}" if mine else ""),
            )
        )
    wide = [
        each for node in tree for each in node["embedded"] if each["width"] == settings["width"]
    ]
    kinds = Counter(f"{each['kind']}, {each['certainty'].lower()}" for each in wide)
    rows.append(
        Row(
            f"their embedded points of width {settings['width']}",
            "critical",
            str(len(wide)),
            "; ".join(f"{count} {kind}" for kind, count in kinds.items()),
        )
    )
    return rows


def _rows_of_drawn(settings: Settings, drawn: Sequence[Record]) -> list[Row]:
    stagnant = [each for each in drawn if each["lost"] < STAGNANT]
    widths = Counter(each["plateau"]["nearest_width"] for each in stagnant)
    near = "".join(f"{widths[k]} nearest to one of width {k}; " for k in sorted(widths))
    least = [min(each["distances"]["1"]) for each in drawn]
    return [
        Row(
            "runs on drawn targets that stagnate at all",
            "—",
            f"{len(stagnant)} of {len(drawn)}",
            f"{near}at the best fit of one unit {sum(map(at_width_1, drawn))}; "
            f"{settings['drawn_steps']} steps",
        ),
        Row(
            f"that come within {STAGNANT:.0%} of the width-1 function",
            "—",
            f"{sum(distance < STAGNANT for distance in least)} of {len(drawn)}",
            f"least distance on the way {_range(least, '.3f')}; part of the loss lost while the steps double, "
            f"at the least {_range([each['lost'] for each in drawn], '.2f')}",
        ),
    ]


def _data(kept: Sequence[Record]) -> dict[str, Any]:
    """The tree, the first run and a line for each of the others."""
    tree = next((each for each in kept if each["part"] == "tree"), None)
    runs = [each for each in kept if each["part"] != "tree"]

    def short(value: float | None) -> float | None:
        return None if value is None else float(f"{value:.4g}")

    return {
        "functions": [] if tree is None else tree["functions"],
        "runs": [
            {
                "part": each["part"],
                "seed": each["seed"],
                "lost": short(each["lost"]),
                "near_width_1": each["near_width_1"],
                "levels": {width: short(level) for width, level in each["levels"].items()},
                **{
                    stage: {
                        key: {w: short(d) for w, d in value.items()}
                        if key == "distances"
                        else value
                        for key, value in each[stage].items()
                        if key != "outputs"
                    }
                    for stage in ("plateau", "end")
                },
            }
            for each in runs
        ],
    }
