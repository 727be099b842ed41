"""What the page says of separable classes, of the weight decay, and of accuracy."""

from __future__ import annotations

from semiflat.records.study import NearestRow, StudyRecord
from semiflat.report.numbers import change, count, listed, loss, size
from semiflat.report.words import kinds_counted

SAME = 1e-9
"""Part of a loss by which two count as one."""


def percent(part: float | None) -> str:
    """A part of the samples; all of them is said only of all.

    >>> percent(1.0), percent(0.9866666), percent(0.99999), percent(None)
    ('100 %', '98.7 %', 'over 99.9 %', '–')
    """
    if part is None:
        return "–"
    if 0.9995 <= part < 1:
        return "over 99.9 %"
    return f"{100 * part:.3g} %"


def summary(record: StudyRecord) -> list[str]:
    """That classes are separable, or why the study has weight decay, in one or two short sentences."""
    told, decay, found = record.separation, record.decay, []
    if told is not None:
        found.append(
            "These classes can be told apart without error, so without weight decay the loss falls for ever as "
            "the weights grow: its infimum 0 lies at infinity."
        )
    if decay is not None:
        how = "This study adds" if decay.chosen else "The study was asked for"
        found.append(f"{how} weight decay λ = {decay.words}; every loss here includes the penalty.")
    elif told is not None:
        found.append(
            "This study has none: what it finds are limits at infinity, saddles, and minima that are not the "
            "lowest. --weight-decay 1e-3 makes every minimum finite."
        )
    return found


def paragraphs(record: StudyRecord) -> list[str]:
    """What is known at infinity, and what the weight decay does, for the section on the search."""
    told, decay, found = record.separation, record.decay, []
    if told is not None:
        falls = [
            f"{loss(low) if low is None or low > 1e-300 else 'less than 1e-300'} at length {size(length, 4)}"
            for length, low in told.falls
        ]
        found.append(
            f"The classes are separable: {told.found}. There, scaling the last layer up lowers the loss for "
            "ever. With the hidden layers as they are there, it falls fastest in the end along the direction "
            "of largest margin of the last layer, in which every margin grows by at least "
            f"{size(told.margin, 3)} for each unit of length"
            + (f": without weight decay the loss is {listed(falls)}." if falls else ".")
        )
    if decay is not None:
        why = f" It was not asked for: {decay.why}." if decay.chosen else ""
        found.append(
            f"Weight decay λ = {decay.words} adds ½λ‖θ‖² to the mean loss"
            + (", of all parameters." if decay.everywhere else ", of the parameters it names.")
            + why
            + (" With it every minimum is finite." if decay.everywhere else "")
        )
        if decay.chosen:
            share = _penalty_share(record)
            found.append(
                "Why this λ: a weight of size 1 costs half of it, little beside what one wrong sample may "
                f"cost, and directions that the data leave flat have the curvature {decay.words}, far above "
                "rounding, so that kinds can be told and proved."
                + (f" At the lowest point the penalty is {share} of the loss." if share else "")
                + " --weight-decay takes another: a smaller one gives larger weights and less loss on the "
                "data; 0 shows what there is without, mostly limits at infinity."
            )
    return found


def _penalty_share(record: StudyRecord) -> str:
    points = record.counted()
    if not points or points[0].penalty is None or not points[0].loss:
        return ""
    return percent(points[0].penalty / points[0].loss)


def accuracy(record: StudyRecord) -> list[str]:
    """How many samples the points give their class: a sentence, where there are classes."""
    known = [row for row in record.counted() if row.accuracy is not None]
    if not known:
        return []
    parts = [row.accuracy for row in known if row.accuracy is not None]
    text = f"The lowest, {known[0].name}, gives {percent(known[0].accuracy)} of the samples their class"
    if len(known) > 1:
        low, high = percent(min(parts)), percent(max(parts))
        text += f"; all of them {low}" if low == high else f"; all of them from {low} to {high}"
    return [f"{text} (on the data they were trained on)."]


def nearest(record: StudyRecord) -> list[str]:
    """Where descent led from the wide points that the penalty moves, in a few sentences."""
    rows = record.nearest
    if not rows:
        return []
    below = [row for row in rows if _below(row)]
    distances = [row.distance for row in rows if row.distance is not None]
    ends = [row.kind for row in rows if row.kind != "NOT_CRITICAL"]
    kinds = listed([text for _, text in kinds_counted(ends)])
    left = len(rows) - len(ends)
    if left:
        unfinished = f"{count(left, 'time')} where it is not at a critical point yet"
        kinds = f"{kinds}, and {unfinished}" if kinds else unfinished
    text = (
        f"From {count(len(rows), 'wide point')} that the penalty moves, with one unit added, descent ended at "
        + kinds
        + (f", {size(min(distances))} to {size(max(distances))} away" if distances else "")
    )
    if not below:
        return [f"{text}; none of them below its narrow point."]
    lowest = min(below, key=lambda row: row.loss or 0.0)
    return [
        f"{text}; {len(below)} of them below their narrow point, the lowest at {loss(lowest.loss)}, from "
        f"{lowest.source} at {loss(lowest.loss_before)} ({change(lowest.loss_before, lowest.loss)})."
    ]


def _below(row: NearestRow) -> bool:
    if row.loss is None or row.loss_before is None:
        return False
    return row.loss < row.loss_before * (1 - SAME)


def wide_text(record: StudyRecord) -> str:
    """What wide points have in common where there is weight decay; nothing without."""
    if record.decay is None:
        return ""
    return (
        "Copying a unit keeps what the network computes, but not the penalty, so most of these points are not "
        "critical with weight decay. Those in this section are: copies of a positively homogeneous unit (relu) "
        "whose incoming and outgoing weights shrink by the same factors β with Σβ² = 1, new units that hand on "
        "nothing (σ of their bias is 0, or the bias above them is not decayed), and copies of units "
        "that are not decayed. The kind of each is that of its own Hessian; beside it stands what the inertia "
        "law with weight decay says of the signs, from the narrow network alone."
    )
