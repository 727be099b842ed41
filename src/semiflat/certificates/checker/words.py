"""The claim of a certificate in words, made of the numbers that are proved: part of the checker."""

from __future__ import annotations

from typing import Any

FORMAT = "semiflat-certificate-1"
NEWER = "semiflat-certificate-1.1"
"""With sample weights, or a weight decay for each group: what a checker of the first format does not know."""

KINDS = {
    "STRICT_MINIMUM": "a strict local minimum",
    "MINIMUM": "a local minimum on a flat set",
    "STRICT_SADDLE": "a strict saddle",
}


def claim_in_words(document: dict[str, Any]) -> str:
    """One or two sentences; the numbers are those of ``document["proved"]``, printed to 17 digits."""
    problem, proved = document["problem"], document["proved"]
    network = "-".join(map(str, problem["widths"]))
    weighted = "weighted " if problem["data"].get("weighted") else ""
    about = f"the exact {weighted}{problem['loss']} risk of the {network} network on data {_short(problem)}"
    match document["statement"]:
        case "no critical point":
            radius = _number(document["radius"])
            return (
                f"no parameters within {radius} of the centre are a critical point of {about}: one "
                f"entry of the gradient is at least {_number(proved['gradient_at_least'])} in size there"
            )
        case "descent":
            return (
                f"{about} is lower by at least {_number(proved['drop_at_least'])} at θ + t d than at θ, "
                f"with t = {_number(document['step'])} and d as in the file"
            )
    low, high = map(_number, proved["loss"])
    wide = document["statement"] == "embedded critical point"
    inertia = proved["narrow_inertia"] if wide else proved["inertia"]
    held = len(document["frozen"])
    family = " (the parameters held against symmetries as they are)," if held else ","
    claim = (
        f"within {_number(proved['location'])} of the centre lies a critical point of {about} and no other "
        f"within {_number(proved['unique'])}{family} with inertia {tuple(inertia)} and loss in "
        f"[{low}, {high}]"
    )
    if not wide:
        return f"{claim}; it is {_kind(proved)}"
    return (
        f"{claim}; embedded in {proved['parameters']} parameters as the file says it is {_kind(proved)} "
        f"by the {proved['theorem']}"
    )


def _kind(proved: dict[str, Any]) -> str:
    positive, zero, negative = proved["inertia"]
    counts = f"inertia ({positive}, {zero}, {negative})"
    if not proved["exact"]:
        counts = f"at least {positive} positive and {negative} negative eigenvalues"
    index = f" of index {negative}" if negative and proved["exact"] else ""
    return f"{KINDS[proved['kind']]}{index}, {counts}"


def _short(problem: dict[str, Any]) -> str:
    given = problem["weight_decay"]
    if isinstance(given, str):
        decay = float.fromhex(given)
        penalty = f" with weight decay {decay!r}" if decay else ""
    else:
        pairs = [tuple(float.fromhex(each) for each in pair) for pair in given]
        each = pairs[:1] if len(set(pairs)) == 1 else pairs
        penalty = " with weight decay (weights, biases) " + ", ".join(map(repr, each))
    return f"{problem['data']['sha256'][:12]}…{penalty}"


def _number(text: str) -> str:
    return repr(float.fromhex(text))
