"""What is known of operations: a table generated from the rules."""

from __future__ import annotations

from semiflat.modules import rules

KINDS = {
    "_pointwise": "element by element: units that meet are tied",
    "_random": "something is drawn at random; units stay",
    "_prelu": "element by element, with a weight for each unit or for all",
    "_glu": "gated: the two halves are tied",
    "_same": "units stay",
    "_move": "moves elements; units are followed by position",
    "_as_other": "moves elements; units are followed by position",
    "_index": "moves elements; places that an input chooses are refused",
    "_getitem": "a part of what an operation gives",
    "_cat": "puts tensors together; units are followed by position",
    "_pad": "adds places that no unit owns",
    "_uniform": "a constant that is the same for all units",
    "_matmul": "reads units and makes new ones; two computed factors tie what meets: heads",
    "_addmm": "reads units and makes new ones",
    "_einsum": "reads units and makes new ones; two factors with `->` and no `...`",
    "_linear": "reads units and makes new ones",
    "_attention": "ties queries, keys and values of a head; grouped heads, too",
    "_convolve": "reads channels and makes new ones; groups are blocks of channels",
    "_embedding": "makes units",
    "_batch_norm": "acts on each channel; statistics follow",
    "_group_norm": "ties the channels of a group to a block",
    "_layer_norm": "a norm over the units: exact for whole multiples, and where it can be rescaled",
    "_pool": "pools places; units stay",
    "_along_axis": "mixes an axis: refused where units lie along it",
    "_reduce": "sums an axis: refused where units lie along it, but for the root mean square of a norm",
}
"""What a rule does, in words."""


def known() -> dict[str, list[str]]:
    """The names of the operations that have a rule, by what it does.

    >>> "gelu" in known()[KINDS["_pointwise"]], "lstm" in sum(known().values(), [])
    (True, False)
    """
    found: dict[str, list[str]] = {}
    for name, rule in rules.RULES.items():
        found.setdefault(KINDS[rule.__name__], []).append(name)
    return {what: sorted(names) for what, names in sorted(found.items())}


def table_of_operations() -> str:
    """A Markdown table of :func:`known`."""
    lines = ["| operations | what a unit makes of them |", "|---|---|"]
    for what, names in known().items():
        lines.append(f"| {', '.join(f'`{name}`' for name in names)} | {what} |")
    lines += [
        "",
        "Any other operation that PyTorch tags as pointwise works element by element. What is left is refused "
        "by name: so are torch's recurrent cells (`lstm`, `gru`, `rnn_tanh`), sorting, Fourier transforms and "
        "linear algebra.",
        "",
    ]
    return "\n".join(lines)
