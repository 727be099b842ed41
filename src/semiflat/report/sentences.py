"""What was found, in plain sentences; every number is one of the record's, counted or compared."""

from __future__ import annotations

from typing import Any

from semiflat.report import numbers, proofs
from semiflat.report.numbers import count, finite, listed, loss
from semiflat.report.traps import NarrowPoint, most_added, rows
from semiflat.report.words import LOSSES, MINIMA, kinds_counted, status_words

Row = dict[str, Any]


def title(record: Row) -> str:
    """Data, network, samples and loss in one line."""
    data, network = record["data"], record["network"]
    return (
        f"{data.get('name')}: {numbers.widths(network.get('widths'))} {network.get('activation')}, "
        f"{data.get('samples')} samples, {LOSSES.get(str(data.get('loss')), data.get('loss'))}"
    )


def outcome(record: Row) -> str:
    """``"found"``, ``"nothing"`` if the search ended without a point, ``"unknown"`` if it did not."""
    if rows(record, "points"):
        return "found"
    last = record.get("search_any") or record.get("search") or {}
    return "nothing" if last and not last.get("interrupted") else "unknown"


def summary(record: Row, narrow: list[NarrowPoint]) -> list[str]:
    """What was found, in about four sentences."""
    sentences = [_runs(record)]
    if rows(record, "embedded"):
        sentences += [_embedded(record, narrow), _traps(record, narrow)]
    elif rows(record, "points"):
        sentences.append("None of them was embedded in a wider network.")
    proved = proofs.summary(record)
    return [*sentences, proved] if proved else sentences


def _runs(record: Row) -> str:
    first, second = record.get("search") or {}, record.get("search_any") or {}
    points = rows(record, "points")
    if not first:
        return "The study stopped before its search did: there is nothing to report yet."
    text = f"Of {count(_total(first), 'run')} from random starts, "
    if not second:
        return f"{text}{_reached(first)}{_distinct(points, first)}."
    return (
        f"{text}none reached a minimum at finite distance; of "
        f"{count(_total(second), 'further run')} that looked for critical points of any kind, "
        f"{_reached(second)}{_distinct(points, second)}."
    )


def _total(search: Row) -> int:
    return sum((search.get("counts") or {}).values()) or int(search.get("starts") or 0)


def _reached(search: Row) -> str:
    reached = (search.get("counts") or {}).get("CONVERGED", 0)
    return f"{reached or 'none'} reached a finite critical point"


def _distinct(points: list[Row], search: Row) -> str:
    if not points:
        return ""
    runs = (search.get("counts") or {}).get("CONVERGED", 0)
    found = "all distinct" if len(points) == runs > 1 else f"{len(points)} distinct"
    where = "" if len(points) == runs == 1 else f": {found}"
    return f"{where}, the lowest at loss {loss(points[0].get('loss'))}"


def _embedded(record: Row, narrow: list[NarrowPoint]) -> str:
    embedded = rows(record, "embedded")
    kinds = [row.get("kind") for row in embedded]
    minima = sum(kind in MINIMA for kind in kinds)
    counts = [
        count(kinds.count("STRICT_SADDLE"), "strict saddle"),
        count(minima, "minimum", "minima"),
        f"{kinds.count('UNDECIDED')} undecided",
    ]
    other = [k for k in kinds if k not in (*MINIMA, "STRICT_SADDLE", "UNDECIDED")]
    counts += [text for _, text in kinds_counted(other)]
    which = "It was" if len(rows(record, "points")) == 1 else f"The {len(narrow)} lowest were"
    if len(narrow) == 1 < len(rows(record, "points")):
        which = "The lowest was"
    most = most_added(record)
    units = "one unit more" if most == 1 else f"up to {most} units more"
    return (
        f"{which} placed in networks with {units} without changing what the network computes, "
        f"in {count(len(embedded), 'way')}: {listed(counts)}."
    )


def _traps(record: Row, narrow: list[NarrowPoint]) -> str:
    traps = [point for point in narrow if point.freed is not None]
    before = min(finite([point.loss for point in narrow]), default=None)
    if not any(point.followed for point in narrow):
        saddles = sum(row.get("kind") == "STRICT_SADDLE" for row in rows(record, "embedded"))
        if saddles:
            return "The ways down from the saddles have not been followed."
        return "No way down was found, so nothing was followed."
    best = [
        min((reached.loss for p in narrow if (reached := p.best[k])), default=None)
        for k in range(most_added(record))
    ]
    one, more = best[0] if best else None, min(finite(best), default=None)
    text = f"{_stopped(traps)}: the best loss found is {loss(before)} before"
    if one is not None:
        text += f" and {loss(one)} after adding one unit ({numbers.change(before, one)})"
    if more is not None and more != one:
        text += f", {loss(more)} after adding up to {len(best)} ({numbers.change(before, more)})"
    return f"{text}."


def _stopped(traps: list[NarrowPoint]) -> str:
    freed = sum(point.freed is True for point in traps)
    if not traps:
        return "None of the narrow points is known to be a minimum, so there was no trap to leave"
    if len(traps) == 1:
        which = "the narrow minimum " + ("stopped" if freed else "did not stop") + " being a trap"
    else:
        some = "none" if not freed else str(freed)
        some = f"all {freed}" if freed == len(traps) else f"{some} of the {len(traps)}"
        which = f"{some} narrow minima stopped being traps"
    return f"With ONE unit added, {which}"


def search_note(record: Row) -> str:
    """Whether a run went lower than the lowest critical point without ending at one."""
    points = rows(record, "points")
    lowest = loss_of = points[0].get("loss") if points else None
    if not numbers.is_number(loss_of):
        return ""
    ends = [
        end
        for key in ("search", "search_any")
        for end in (record.get(key) or {}).get("lowest") or []
        if end.get("status") != "CONVERGED"
        and numbers.is_number(end.get("loss"))
        and end["loss"] < lowest
    ]
    if not ends:
        return ""
    end = min(ends, key=lambda row: float(row["loss"]))
    return (
        f"Lower than the lowest critical point, {loss(lowest)}, went a run that "
        f"{status_words(end['status'])}: to {loss(end['loss'])}. The lowest critical point is not "
        "the lowest loss this network can have."
    )


def why_nothing(record: Row) -> list[str]:
    """How the runs ended that looked for a minimum, most frequent first, with the evidence."""
    search = record.get("search") or {}
    counts = sorted((search.get("counts") or {}).items(), key=lambda item: -item[1])
    return [_ended(search, status, runs) for status, runs in counts if runs]


def _ended(search: Row, status: str, runs: int) -> str:
    meaning = (search.get("meanings") or {}).get(status) or status_words(status)
    ends: list[Row] = search.get("lowest") or []
    lowest = next((e for e in ends if e.get("status") == status), {})
    text = f"{runs} of {count(_total(search), 'run')} ended as “{meaning}”."
    if lowest.get("evidence"):
        text += f" The lowest of them, at loss {loss(lowest.get('loss'))}: {lowest['evidence']}."
    return text
