"""What an experiment is: tasks that can be run apart, and what their records say beside the paper's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Settings = Mapping[str, Any]
"""Plain values: numbers, strings, lists of them."""
Task = dict[str, Any]
"""Plain values, a ``seed`` among them: what one piece of work is given."""
Record = dict[str, Any]
"""Plain values: what it came to. ``dropped`` holds the reason, if the task did not qualify."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: the quantity, with its unit where it has one.
        published: the paper's figure, ``"—"`` where it gives none.
        measured: ours.
        why: one sentence on the difference, or what the line shows; may be empty.
    """

    what: str
    published: str
    measured: str
    why: str = ""


@dataclass(frozen=True)
class Check:
    """A claim of the paper, or of the experiment about itself, that the records bear out or not.

    Attributes:
        claim: in words.
        holds: whether it does.
        evidence: the numbers it rests on.
    """

    claim: str
    holds: bool
    evidence: str


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to.

    Attributes:
        rows: published beside measured.
        checks: the direction of the published effect, and the experiment's own sanity.
        caption: what to see in the figure.
        data: plain values behind the table and the figure, small enough to keep.
    """

    rows: Sequence[Row]
    checks: Sequence[Check]
    caption: str
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every check does."""
        return all(check.holds for check in self.checks)


@dataclass(frozen=True)
class Experiment:
    """A published experiment.

    Attributes:
        name: what the command line calls it.
        source: paper, and figure, section or theorems.
        title: a few words.
        describes: the experiment in the paper's own terms, one paragraph.
        full, quick: its settings.
        tasks: the independent pieces of work, each with its seed.
        run: one of them; a pure function of settings and task, run in a process with one thread.
        outcome: what all records say.
        draw: onto an empty figure.
    """

    name: str
    source: str
    title: str
    describes: str
    full: Settings
    quick: Settings
    tasks: Callable[[Settings], Sequence[Task]]
    run: Callable[[Settings, Task], Record]
    outcome: Callable[[Settings, Sequence[Record]], Outcome]
    draw: Callable[[Figure, Settings, Sequence[Record]], None]

    def settings(self, quick: bool) -> dict[str, Any]:
        """The full ones, or these with the quick ones' changes."""
        return {**self.full, **(self.quick if quick else {})}


def seeds(settings: Settings) -> list[Task]:
    """``settings["runs"]`` tasks that differ in their seed alone, from ``settings["seed"]`` up."""
    first = settings["seed"]
    return [{"seed": seed} for seed in range(first, first + settings["runs"])]


def qualified(records: Sequence[Record]) -> list[Record]:
    """The records of tasks that came to what they were run for."""
    return [record for record in records if not record.get("dropped")]


def counted(records: Sequence[Record]) -> Row:
    """How many tasks were run, how many qualified, and why the others did not."""
    reasons = Counter(record["dropped"] for record in records if record.get("dropped"))
    kept = len(records) - reasons.total()
    others = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    return Row("runs that qualified", "—", f"{kept} of {len(records)}", others)
