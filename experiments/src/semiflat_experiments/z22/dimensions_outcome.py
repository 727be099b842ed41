"""What the points of Z22 §6 say: table, checks and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from semiflat_experiments import Check, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, counted, qualified
from semiflat_experiments.z22.census import SHAPES
from semiflat_experiments.z22.dimensions_figure import all_of

LEAST = 1e-7
"""Of the Hessian of the split network: above it H⁽²⁾ counts as not 0, and an eigenvalue as negative."""


def fewer(each: dict[str, Any]) -> bool:
    """Whether some count is smaller in the wider network."""
    return any(wide < narrow for narrow, wide in zip(each["narrow"], each["wide"], strict=True))


def deep(shape: str) -> bool:
    """Whether a network has several hidden layers."""
    return len(SHAPES[shape][0]) > 3


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """The estimate beside ranks, contradictions to Thm 6.2, and ways down for Thm 6.3."""
    kept = qualified(records)
    sets = list(all_of(kept, "dimensions"))
    clear = [each for each in sets if each["zeros"] is not None]
    compared = [each for each in all_of(kept, "signs") if each["narrow"] and each["wide"]]
    unclear = sum(len(each["signs"]) for each in kept) - len(compared)
    ways = [{**each["ways_down"], "shape": each["shape"]} for each in kept]
    bent = [each for each in ways if _bent(each)]
    lost = [each["output_only"] for each in kept]
    lost = [each for each in lost if each["narrow"] and each["wide"]]
    printed = [each["as_printed"] for each in kept if each["as_printed"]]
    rows = [
        *[_row_of_shape(shape, sets) for shape in settings["shapes"]],
        *_rows_of_curvature(sets),
        Row(
            "zeros of the Hessian less the estimate",
            "at least 0",
            _counted_values([each["zeros"] - each["estimate"] for each in clear]),
            f"at embedded minima; {len(sets) - len(clear)} of {len(sets)} with an unclear eigenvalue",
        ),
        *_rows_of_signs(compared, unclear),
        Row(
            "Thm 6.2 without criticality: n₀ falls",
            "—",
            f"{sum(each['wide'][1] < each['narrow'][1] for each in lost)} of {len(lost)}",
            "an embedding that keeps the output only; AᵀH_wA = H_n to "
            f"{max((each['apart'] for each in lost), default=0.0):.0e}, which the proof rests on",
        ),
        *_rows_of_ways(ways, bent),
        Row(
            "H⁽²⁾,[L−1] with j up to m_L, as printed, and up to m_(L−1)",
            "equal to the derivative",
            f"off by {_spread([one for one, _ in printed])} and {_spread([two for _, two in printed])}",
            "relative, where m_L and m_(L−1) differ",
        ),
        counted(records),
    ]
    checks = _checks(records, kept, sets, clear, compared, bent, lost, printed)
    return Outcome(rows, checks, CAPTION, _data(settings, kept, sets, compared))


CAPTION = (
    "Left: Z22's estimate of the dimension of an embedded set, and what was measured over minima of random "
    "problems: the rank of its tangents is the estimate, deep networks' sets may span more, being curved, and "
    "the Hessian has at least as many zeros (markers are moved apart). Right: positive, zero and negative "
    "eigenvalues of Hessians before and after embedding, at critical points and others: none lies below "
    "the line."
)


def _bent(way: dict[str, Any]) -> bool:
    return bool(way["split_scale"] * LEAST < way["second_part"])


def _counted_values(values: Sequence[int]) -> str:
    counts = Counter(values)
    return ", ".join(f"{value} ({counts[value]})" for value in sorted(counts)) or "none"


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.1e} to {max(values):.1e}" if values else "none"


def _row_of_shape(shape: str, sets: Sequence[dict[str, Any]]) -> Row:
    mine = [each for each in sets if each["shape"] == shape]
    narrow, wide, loss = SHAPES[shape]
    names = "-".join(map(str, narrow)) + " into " + "-".join(map(str, wide))
    estimate = mine[0]["estimate"] if mine else 0
    return Row(
        f"dimension, {names}, {loss}",
        str(estimate) if mine else "—",
        _counted_values([each["rank"] for each in mine]),
        "rank of the tangents (number of sets)"
        + (f"; one-step compositions give {mine[0]['K']}" if mine else ""),
    )


def _rows_of_curvature(sets: Sequence[dict[str, Any]]) -> list[Row]:
    rows = []
    for name, several, nulls in (
        ("one hidden layer", False, None),
        ("several hidden layers, splitting", True, False),
        ("several hidden layers, with null units", True, True),
    ):
        mine = [
            each
            for each in sets
            if deep(each["shape"]) == several and nulls in (None, bool(each["null_units"]))
        ]
        rows.append(
            Row(
                f"affine span less dimension, {name}",
                "above 0, in general" if several else "0",
                _counted_values([each["span"] - each["rank"] for each in mine]),
                "of points drawn from one set",
            )
        )
    return rows


def _rows_of_signs(compared: Sequence[dict[str, Any]], unclear: int) -> list[Row]:
    rows = []
    for name in dict.fromkeys(each["embedding"] for each in compared):
        mine = [each for each in compared if each["embedding"] == name]
        rows.append(
            Row(
                f"Thm 6.2, {name}: a count that falls",
                "0",
                f"{sum(map(fewer, mine))} of {len(mine)}",
                f"library's counts differ from the dense Hessian's {sum(map(_differs, mine))} times",
            )
        )
    rows.append(
        Row("Hessians with an unclear eigenvalue", "—", str(unclear), "left out of the lines above")
    )
    return rows


def _differs(each: dict[str, Any]) -> bool:
    return each["said"] is None or list(each["said"]) != list(each["wide"])


def _rows_of_ways(ways: Sequence[dict[str, Any]], bent: Sequence[dict[str, Any]]) -> list[Row]:
    kinds = Counter(f"{each['escape']}, {each['new_units']} new" for each in bent)
    return [
        Row(
            "Thm 6.3: minima with H⁽²⁾ ≠ 0 that have a way down",
            "all",
            f"{sum(map(_leads_down, bent))} of {len(bent)}",
            f"three-fold global splitting a strict saddle in {sum(map(_split_down, bent))}; "
            f"{len(ways) - len(bent)} minima with H⁽²⁾ too small to tell",
        ),
        Row(
            "curvature along the lemmas' directions, off by",
            "−λ/2 and 2λ",
            _spread([each["lemma_apart"] for each in bent]),
            "over the largest entry of the dense Hessian",
        ),
        Row(
            "fewest new units that the library needs",
            "2 (m₁ + … + m_(L−1))",
            str(max((each["new_units"] for each in bent), default=0)),
            "; ".join(f"{count}: {kind}" for kind, count in kinds.most_common()),
        ),
    ]


def _split_down(way: dict[str, Any]) -> bool:
    return bool(way["split_least"] < 0)


def _leads_down(way: dict[str, Any]) -> bool:
    down = way["down"]
    return down is not None and down["least"] < -1e-10 and down["gradient"] < 1e-12


def _checks(
    records: Sequence[Record],
    kept: Sequence[Record],
    sets: Sequence[dict[str, Any]],
    clear: Sequence[dict[str, Any]],
    compared: Sequence[dict[str, Any]],
    bent: Sequence[dict[str, Any]],
    lost: Sequence[dict[str, Any]],
    printed: Sequence[Sequence[float]],
) -> list[Check]:
    ranks = sum(each["rank"] == each["library_rank"] == each["estimate"] for each in sets)
    enough = sum(each["zeros"] >= each["estimate"] for each in clear)
    flat = [each for each in sets if not deep(each["shape"])]
    curved = [each for each in sets if deep(each["shape"]) and not each["null_units"]]
    flats = sum(each["span"] == each["rank"] for each in flat)
    curves = sum(each["span"] > each["rank"] for each in curved)
    contradictions, others = sum(map(fewer, compared)), sum(map(_differs, compared))
    falls = sum(each["wide"][1] < each["narrow"][1] for each in lost)
    down = sum(_leads_down(each) and _split_down(each) for each in bent)
    apart = max((each["lemma_apart"] for each in bent), default=1.0)
    misprint = [one > 1e-3 > 1e-10 > two for one, two in printed]
    return [
        Check(
            "the rank of the tangents is the estimate, by the library and by automatic differentiation",
            0 < ranks == len(sets),
            f"{ranks} of {len(sets)}",
        ),
        Check(
            "embedded minima have at least as many zero eigenvalues",
            0 < enough == len(clear),
            f"{enough} of {len(clear)}",
        ),
        Check(
            "sets are flat with one hidden layer and curved with several, if there are no null units",
            0 < flats == len(flat) and 0 < curves == len(curved),
            f"{flats} of {len(flat)} flat, {curves} of {len(curved)} curved",
        ),
        Check(
            "Thm 6.2: no count of eigenvalues falls",
            sum(each["narrow"][1] > 0 for each in compared) > 0 and not contradictions,
            f"{contradictions} contradictions in {len(compared)}, "
            f"{sum(each['narrow'][1] > 0 for each in compared)} with zeros before",
        ),
        Check(
            "the library's counts are the dense Hessian's",
            bool(compared) and not others,
            f"{others} differ in {len(compared)}",
        ),
        Check(
            "without criticality n₀ may fall, so AᵀH_wA = H_n alone does not prove Thm 6.2",
            falls > 0,
            f"{falls} of {len(lost)}",
        ),
        Check(
            "Thm 6.3: every minimum with H⁽²⁾ ≠ 0 becomes a strict saddle, as the lemmas say",
            0 < down == len(bent) and apart < 1e-9,
            f"{down} of {len(bent)}; curvatures off by {apart:.1e} at most",
        ),
        Check(
            "H⁽²⁾,[L−1] needs j up to m_(L−1), not m_L",
            0 < sum(misprint) == len(misprint),
            f"{sum(misprint)} of {len(misprint)}",
        ),
        Check(
            "three tasks of four or more came to a minimum",
            4 * len(kept) >= 3 * len(records) > 0,
            f"{len(kept)} of {len(records)}",
        ),
    ]


def _data(
    settings: Settings,
    kept: Sequence[Record],
    sets: Sequence[dict[str, Any]],
    compared: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    about = {}
    for shape in settings["shapes"]:
        mine = [each for each in sets if each["shape"] == shape]
        about[shape] = {
            key: [each[key] for each in mine]
            for key in ("null_units", "K", "estimate", "rank", "span", "zeros")
        }
    return {
        "sets": about,
        "signs": {
            name: Counter(
                " ".join(map(str, [*each["narrow"], *each["wide"]]))
                for each in compared
                if each["at"] == name
            )
            for name in dict.fromkeys(each["at"] for each in compared)
        },
        "ways_down": [
            {
                "shape": each["shape"],
                "seed": each["seed"],
                "escape": each["ways_down"]["escape"],
                "new_units": each["ways_down"]["new_units"],
            }
            for each in kept
        ],
    }
