"""What is proved of a hierarchy's points: what each of them is, and that they are distinct."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from semiflat.certificates.certificate import INVALID, UNDECIDED, Certificate
from semiflat.nesting.record import Widths, widths_name
from semiflat.progress import counted
from semiflat.records.shown import Facts, Shown

if TYPE_CHECKING:
    from semiflat.certificates.checker.distinct import Seen
    from semiflat.nesting.result import HierarchyPoint

FOLDER, DATA = "certificates", "data.json"
"""Of certificates beside a hierarchy's page, and the file there with the data of all."""


@dataclass(frozen=True)
class Proved(Shown):
    """What is proved of a hierarchy's points.

    Attributes:
        certified: names of the points next to which a critical point is proved to be, with its kind.
        distinct: by level, those of them that are pairwise proved to be distinct, modulo all symmetries:
            their losses differ, or their outputs on some sample.
        otherwise: names of points whose kind is proved to be another than the measured one.
        undecided: names of points that were tried in vain, as flat and degenerate ones are; each one's
            certificate says why.
        refused: for each reason why nothing can be proved of some points, how many these are: those at
            infinity, and all where the activation or loss is a Python function.
        not_tried: how many points are left.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=4, saddle_starts=0, processes=1)
    >>> proved = h.certify()
    >>> proved.certified, proved.undecided, proved.distinct          # the constant predictor is flat
    (('1-0',), ('1-1',), {(1,): ('1-0',)})
    >>> print(h["1-1"].certificate.reason)
    the Hessian is singular to rounding ...
    """

    certified: tuple[str, ...]
    distinct: dict[Widths, tuple[str, ...]]
    otherwise: tuple[str, ...]
    undecided: tuple[str, ...]
    refused: dict[str, int]
    not_tried: int

    def _facts(self) -> Facts:
        distinct = {widths_name(widths): names for widths, names in self.distinct.items()}
        return super()._facts() | {"distinct": distinct}

    @property
    def tried(self) -> bool:
        """Whether a proof of any point was tried."""
        return bool(self.certified or self.undecided or self.refused)

    def __str__(self) -> str:
        if not self.tried:
            return "no proof was tried"
        each = ", ".join(f"{len(names)} at {widths_name(w)}" for w, names in self.distinct.items())
        parts = [
            f"proved in ball arithmetic: what {len(self.certified)} points are",
            *([f"at least so many are distinct by width: {each}"] if each else []),
            *(
                [f"proved to be of another kind: {_named(self.otherwise)}"]
                if self.otherwise
                else []
            ),
            *([f"undecided: {_named(self.undecided)}"] if self.undecided else []),
            *(f"{count} cannot be proved: {reason}" for reason, count in self.refused.items()),
            *([f"{self.not_tried} not tried"] if self.not_tried else []),
        ]
        return "; ".join(parts)


def _named(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def prove(levels: Sequence[Sequence[HierarchyPoint]], seconds: float | None, bar: bool) -> None:
    """Give points their certificates, the first of each level first; those that have one keep it."""
    from semiflat.certificates.certify import certify

    left = [
        point
        for row in zip_longest(*levels)
        for point in row
        if point is not None and point.certificate is None
    ]
    end = None if seconds is None else time.monotonic() + seconds
    for point in counted(left, "prove", bar):
        if end is not None and time.monotonic() > end:
            break
        point.certificate = certify(point)


def proved(levels: Mapping[Widths, Sequence[HierarchyPoint]]) -> Proved:
    """What the certificates of points say together."""
    tried = [
        (p, p.certificate) for own in levels.values() for p in own if p.certificate is not None
    ]
    certified = {widths: [p for p in own if _certified(p)] for widths, own in levels.items()}
    return Proved(
        certified=tuple(p.name for own in certified.values() for p in own),
        distinct={widths: tuple(distinct(own)) for widths, own in certified.items() if own},
        otherwise=tuple(p.name for p, c in tried if c.certified and c.kind != p.kind),
        undecided=tuple(p.name for p, c in tried if c.status == UNDECIDED),
        refused=dict(Counter(c.reason for _, c in tried if c.status == INVALID)),
        not_tried=sum(map(len, levels.values())) - len(tried),
    )


def distinct(points: Sequence[HierarchyPoint]) -> list[str]:
    """Certified points of one level that are pairwise proved to be distinct, by their names.

    What symmetries turn into each other has one loss and the same outputs. So two critical points are distinct
    if the intervals that hold their losses do not meet, or those of an output: the certificate's box holds
    the critical point, and so balls of that size hold its outputs.
    """
    chosen: list[_Proof] = []
    for one in map(_Proof, points):
        if all(one.apart(other) for other in chosen):
            chosen.append(one)
    return [each.point.name for each in chosen]


def files(points: Sequence[HierarchyPoint], folder: Path) -> dict[Path, bytes]:
    """The certificates of points as files that ``semiflat verify`` takes, with one file of their data."""
    content: dict[Path, bytes] = {}
    for point in filter(_certified, points):
        assert point.certificate is not None
        content |= point.certificate.files(folder / f"{point.name}.json", DATA)
    return content


def _certified(point: HierarchyPoint) -> bool:
    return point.certificate is not None and point.certificate.certified


class _Proof:
    """A certified point as one among others."""

    def __init__(self, point: HierarchyPoint) -> None:
        self.point = point
        self.certificate: Certificate = point.certificate  # type: ignore[assignment]
        assert self.certificate.loss is not None
        self.low, self.high = self.certificate.loss
        self._seen: Seen | None = None

    def apart(self, other: _Proof) -> bool:
        """Whether they are proved to be distinct."""
        from semiflat.certificates.checker.distinct import differ

        return self.high < other.low or other.high < self.low or differ(self.seen, other.seen)

    @property
    def seen(self) -> Seen:
        """Its outputs on the data, which are seldom needed."""
        from semiflat.certificates.certify import around
        from semiflat.certificates.checker.distinct import seen_of

        if self._seen is None:
            self._seen = seen_of(*around(self.certificate, self.point.problem))
        return self._seen
