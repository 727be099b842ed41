"""What was found, in plain sentences; every number is one of the record's, counted or compared."""

from __future__ import annotations

import math

from semiflat.records.study import PointRow, RunsRecord, StudyRecord
from semiflat.report import classes, numbers, proofs
from semiflat.report.numbers import count, listed, loss
from semiflat.report.traps import NarrowPoint, most_added
from semiflat.report.words import MINIMA, kinds_counted, status_words

AT_INFINITY = ("CHANNEL", "SATURATED")
"""How runs end that reach a critical point of a limiting network."""
ALIKE = 1e-6
"""Part of a loss by which two count as one: a run to infinity is as low as its limit, but for that."""


def title(record: StudyRecord) -> str:
    """Data, network, samples and loss in one line."""
    data, network = record.data, record.network
    return (
        f"{data.name}: {numbers.widths(network.widths)} {network.activation}, "
        f"{data.samples} samples, {str(data.loss).replace('_', '-')} loss"
    )


def outcome(record: StudyRecord) -> str:
    """``"found"``, ``"nothing"`` if the search ended without a point, ``"unknown"`` if it did not."""
    if record.points:
        return "found"
    searches = record.searches()
    return "nothing" if searches and not searches[-1].interrupted else "unknown"


def summary(record: StudyRecord, narrow: list[NarrowPoint]) -> list[str]:
    """What was found, in about four sentences."""
    sentences = [*classes.summary(record), _runs(record)]
    sentences += [*_trivial(record.counted()), *classes.accuracy(record)]
    if record.embedded:
        sentences += [_embedded(record, narrow), _traps(record, narrow)]
        sentences += classes.nearest(record)
    elif record.points:
        sentences.append("None of them was embedded in a wider network.")
    proved = proofs.summary(record)
    return [*sentences, proved] if proved else sentences


def _runs(record: StudyRecord) -> str:
    first, second = record.search, record.search_any
    if not first:
        return "The study stopped before its search did: there is nothing to report yet."
    text = f"Of {count(_total(first), 'run')} from random starts, "
    if not second:
        return f"{text}{_reached(first)}{_distinct(record, first)}."
    return (
        f"{text}none reached a minimum at finite distance; of "
        f"{count(_total(second), 'further run')} that looked for critical points of any kind, "
        f"{_reached(second)}{_distinct(record, second)}."
    )


def _trivial(points: list[PointRow]) -> list[str]:
    """How many critical points say little of their network, and why."""
    found = []
    for beginning, one, many in _TRIVIAL:
        number = sum((row.trivial or "").startswith(beginning) for row in points)
        if number:
            of = f"{number} of the {len(points)}"
            if number == len(points):
                of = "It" if number == 1 else "Both" if number == 2 else f"All {number}"
            found.append(f"{of} {one if number == 1 else many}.")
    return found


_TRIVIAL = (
    (
        "dead units",
        "has units that do nothing on the data",
        "have units that do nothing on the data",
    ),
    (
        "embedded narrower",
        "is a narrower network’s point, embedded",
        "are narrower networks’ points, embedded",
    ),
)


def _total(search: RunsRecord) -> int:
    return sum(search.counts.values()) or search.starts


def _reached(search: RunsRecord) -> str:
    reached, far = search.ended("CONVERGED"), search.ended(*AT_INFINITY)
    text = f"{reached or 'none'} reached a finite critical point"
    return f"{text}, and {far} one at infinity" if far else text


def _distinct(record: StudyRecord, search: RunsRecord) -> str:
    points = record.counted()
    constants = len(record.points) - len(points)
    constant = "the constant predictor" + (f" ({constants} points)" if constants > 1 else "")
    if not points:
        return f": {constant} alone, which is there for any data" if constants else ""
    runs = search.ended("CONVERGED", *AT_INFINITY)
    found = "all distinct" if len(points) == runs > 1 else f"{len(points)} distinct"
    where = "" if len(points) == runs == 1 else f": {found}"
    text = f"{where}, the lowest at loss {loss(points[0].loss)}"
    if not constants:
        return text
    return f"{text}, and {constant}, which gives every sample the same output and is not counted"


def _embedded(record: StudyRecord, narrow: list[NarrowPoint]) -> str:
    kinds = [row.kind for row in record.embedded]
    minima = sum(kind in MINIMA for kind in kinds)
    counts = [
        count(kinds.count("STRICT_SADDLE"), "strict saddle"),
        count(minima, "minimum", "minima"),
        f"{kinds.count('UNDECIDED')} undecided",
    ]
    other = [k for k in kinds if k not in (*MINIMA, "STRICT_SADDLE", "UNDECIDED")]
    counts += [text for _, text in kinds_counted(other)]
    points = len(record.counted() or record.points)
    which = "It was" if points == 1 else f"The {len(narrow)} lowest were"
    if len(narrow) == points > 1:
        which = "Both were" if points == 2 else f"All {points} were"
    elif len(narrow) == 1 < points:
        which = "The lowest was"
    most = most_added(record)
    units = "one unit more" if most == 1 else f"up to {most} units more"
    kept = "what the network computes" + (" or the penalty" if record.decay else "")
    return (
        f"{which} placed in networks with {units} without changing {kept}, "
        f"in {count(len(kinds), 'way')}: {listed(counts)}."
    )


def _traps(record: StudyRecord, narrow: list[NarrowPoint]) -> str:
    traps = [point for point in narrow if point.freed is not None]
    if not any(point.followed for point in narrow):
        if any(row.kind == "STRICT_SADDLE" for row in record.embedded):
            return "The ways down from the saddles have not been followed."
        return "No way down was found, so nothing was followed."
    most = most_added(record)
    one, more = _lowest(narrow, 1), _lowest(narrow, most)
    parts = [f"with one unit added is {_reached_from(*one)}"] if one else []
    if more and more != one:
        parts.append(
            f"with up to {most} added it is {_reached_from(*more)}"
            if parts
            else f"with up to {most} units added is {_reached_from(*more)}"
        )
    text = f"{_stopped(traps)}."
    if parts:
        text += f" The lowest loss reached {'; '.join(parts)}."
    before = min(narrow, key=lambda p: p.loss if p.loss is not None else math.inf)
    if more and before.loss is not None and more[0] >= before.loss:
        text += f" That is not below the lowest point found, {before.name} at {loss(before.loss)}."
    return text


def _lowest(narrow: list[NarrowPoint], most: int) -> tuple[float, NarrowPoint] | None:
    """The lowest loss reached with up to so many added units, and from which narrow point."""
    ends = [(end.loss, point) for point in narrow for end in point.best[:most] if end is not None]
    return min(ends, key=lambda end: end[0], default=None)


def _reached_from(reached: float, point: NarrowPoint) -> str:
    change = numbers.change(point.loss, reached)
    return f"{loss(reached)}, from {point.name} at {loss(point.loss)} ({change})"


def _stopped(traps: list[NarrowPoint]) -> str:
    freed = sum(point.freed is True for point in traps)
    if not traps:
        return (
            "None of the narrow points that were embedded is known to be a minimum, so there was no trap to "
            "leave"
        )
    if len(traps) == 1:
        which = "the narrow minimum " + ("stopped" if freed else "did not stop") + " being a trap"
    else:
        some = "none" if not freed else str(freed)
        every = "both" if freed == 2 else f"all {freed}"
        some = every if freed == len(traps) else f"{some} of the {len(traps)}"
        which = f"{some} narrow minima stopped being traps"
    return f"With ONE unit added, {which}"


def search_note(record: StudyRecord) -> str:
    """Whether a run went lower than the lowest critical point without ending at one."""
    lowest = record.points[0].loss if record.points else None
    ends = [
        (end.loss, status_words(end.status))
        for search in record.searches()
        for end in search.lowest
        if end.status != "CONVERGED" and end.loss is not None
    ]
    reached, ended = min(ends, key=lambda end: end[0], default=(math.inf, ""))
    if lowest is None or reached >= lowest * (1 - ALIKE):
        return ""
    return (
        f"Lower than the lowest critical point, {loss(lowest)}, went a run that "
        f"{ended}: to {loss(reached)}. The lowest critical point is not "
        "the lowest loss this network can have."
    )


def why_nothing(record: StudyRecord) -> list[str]:
    """How the runs ended that looked for a minimum, most frequent first, with the evidence."""
    if (search := record.search) is None:
        return []
    counts = sorted(search.counts.items(), key=lambda item: -item[1])
    return [_ended(search, status, runs) for status, runs in counts if runs]


def _ended(search: RunsRecord, status: str, runs: int) -> str:
    meaning = search.meaning(status) or status_words(status)
    lowest = search.lowest_of(status)
    text = f"{runs} of {count(_total(search), 'run')} ended as “{meaning}”."
    if lowest.evidence:
        text += f" The lowest of them, at loss {loss(lowest.loss)}: {lowest.evidence}."
    return text
