"""A path of parameters in pieces, each with what is claimed of the loss along it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError, whole
from semiflat.evidence.slices import risks
from semiflat.files import write_whole
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.records.shown import Rows, Shown

Curve = Callable[[Tensor], Tensor]
"""s (k,) in [0, 1] to flat parameters (k, P); one that pickles."""


class Claim(StrEnum):
    """What the loss does along a piece: the theorem's word, which :meth:`Path.check` measures.

    >>> import semiflat as sf
    >>> [str(claim) for claim in sf.Claim]
    ['constant', 'decreasing', 'free']
    """

    CONSTANT = "constant"
    DECREASING = "decreasing"
    FREE = "free"


def straight(start: Tensor, end: Tensor) -> Curve:
    """The segment from ``start`` to ``end``, flat parameters (P,); both ends exactly."""
    return partial(_between, start, end)


def _between(start: Tensor, end: Tensor, s: Tensor) -> Tensor:
    return torch.lerp(start, end, s[:, None])


@dataclass(frozen=True)
class Piece(Shown):
    """A part of a path with one claim.

    Attributes:
        name: a few words.
        claim: what the loss does along it.
        reason: one sentence: why, with the source.
        curves: run through one after the other, each in an equal part of the piece.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 6, 2, 1], "sigmoid"), X, torch.cos(3 * X))
    >>> path = sf.path_to_zero_loss(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> piece = path.pieces[0]
    >>> piece.name, piece.claim
    ('Γ0: well-conditioned activations', <Claim.CONSTANT: 'constant'>)
    """

    name: str
    claim: Claim
    reason: str
    curves: Sequence[Curve]

    def _facts(self) -> dict[str, Any]:
        own = {"name": self.name, "claim": self.claim, "reason": self.reason}
        return own | {"curves": len(self.curves)}

    def vectors(self, s: Tensor) -> Tensor:
        """Flat parameters at s (k,) in [0, 1], (k, P)."""
        place = s * len(self.curves)
        which = place.floor().clamp(max=len(self.curves) - 1).long()
        parts = []
        for number in which.unique(sorted=True).tolist():
            parts.append((which == number).nonzero()[:, 0])
        found = torch.cat([self.curves[int(which[p[0]])](place[p] - which[p]) for p in parts])
        return found[torch.cat(parts).argsort()]


@dataclass(frozen=True)
class PathCheck(Shown):
    """What was measured along a path.

    Attributes:
        largest_increase: how far the loss ever rises above the lowest before it, relative to the
            loss at the start of the path (or absolute, where that is 0); over all pieces but free ones.
        at: t where it does.
        largest_change: the same for pieces claimed constant: largest distance from the loss at
            the piece's start.
        noise: what rounding may add to either: the change when the parameters that move are moved by a
            rounding unit.
        evaluations: points at which the loss was taken.
        start, end: loss at t = 0 and t = 1.

    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 6, 2, 1], "sigmoid"), X, torch.cos(3 * X))
    >>> check = sf.path_to_zero_loss(sf.Point(problem, problem.net.random_params(seed=0))).check
    >>> check.largest_increase < 1e-12, check.end < 1e-20 < check.start
    (True, True)
    """

    largest_increase: float
    at: float
    largest_change: float
    noise: float
    evaluations: int
    start: float
    end: float


class Path(Rows):
    """A continuous path of parameters, t in [0, 1], made of pieces of equal length in t.

    Attributes:
        problem: network, data and loss.
        pieces: in order; each ends where the next one starts.
        breaks: t at the pieces' ends, 0 first.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> a, b = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> path = Path(problem, [Piece("line", Claim.DECREASING, "convex", [straight(a, b)])])
    >>> path(1.0)["0.weight"].tolist(), path.losses([0.0, 1.0]).tolist()
    ([[1.0]], [0.25, 0.0])
    """

    def __init__(self, problem: Problem, pieces: Sequence[Piece]) -> None:
        self.problem = problem
        self.pieces = tuple(pieces)
        self.breaks: tuple[float, ...] = tuple(
            k / len(self.pieces) for k in range(len(self.pieces) + 1)
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "widths": self.problem.net.widths,
            "pieces": [piece.name.split(":")[0] for piece in self.pieces],
        }

    def _rows(self) -> list[dict[str, Any]]:
        losses = self.losses(list(self.breaks)).tolist()
        return [
            {
                "from": self.breaks[k],
                "to": self.breaks[k + 1],
                "claim": str(piece.claim),
                "loss_from": losses[k],
                "loss_to": losses[k + 1],
                "name": piece.name,
                "reason": piece.reason,
            }
            for k, piece in enumerate(self.pieces)
        ]

    def __len__(self) -> int:
        """How many pieces there are."""
        return len(self.pieces)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces."""
        return iter(self.pieces)

    def __getitem__(self, place: int) -> Piece:
        """One of the pieces."""
        return self.pieces[place]

    def __call__(self, t: float) -> Params:
        """The parameters at t.

        Raises:
            InputError: unless t is a number from 0 to 1.
        """
        return self.problem.net.unflatten(self.vectors(t)[0])

    def vectors(self, ts: Any) -> Tensor:
        """Flat parameters at each t, (k, P)."""
        try:
            t = torch.atleast_1d(torch.as_tensor(ts, dtype=torch.float64)).flatten()
        except (TypeError, ValueError):
            t = torch.full((1,), torch.nan)
        if not ((t >= 0) & (t <= 1)).all():
            raise InputError(f"t must be numbers from 0 to 1 along the path; given is {ts!r}")
        place = t * len(self.pieces)
        which = place.floor().clamp(max=len(self.pieces) - 1).long()
        found = torch.empty((len(t), self.problem.net.parameter_count), dtype=torch.float64)
        for number, piece in enumerate(self.pieces):
            chosen = which == number
            if chosen.any():
                found[chosen] = piece.vectors(place[chosen] - number)
        return found

    def losses(self, ts: Any) -> Tensor:
        """The loss at each t, (k,)."""
        t = torch.atleast_1d(torch.as_tensor(ts, dtype=torch.float64)).flatten()
        return risks(self.problem, lambda part: self.vectors(t[part]), len(t))

    def piece_at(self, t: float) -> Piece:
        """The piece that t lies in; at a break the later one."""
        self.vectors(t)
        return self.pieces[min(int(t * len(self.pieces)), len(self.pieces) - 1)]

    @cached_property
    def check(self) -> PathCheck:
        """The loss along the whole path, taken more densely wherever it is not smooth enough to trust."""
        return check(self)

    def to_json(self) -> dict[str, Any]:
        """Pieces, claims and what was measured, as plain data."""
        found = self.check
        return {
            "pieces": [
                {"name": p.name, "claim": str(p.claim), "reason": p.reason, "curves": len(p.curves)}
                for p in self.pieces
            ],
            "breaks": list(self.breaks),
            "losses": self.losses(list(self.breaks)).tolist(),
            "largest_increase": found.largest_increase,
            "largest_increase_at": found.at,
            "largest_change_where_constant": found.largest_change,
            "noise": found.noise,
            "evaluations": found.evaluations,
            "start": found.start,
            "end": found.end,
        }

    def plot(self, *, places: int = 60, ax: Any = None) -> Any:
        """Draw the loss along the path: pieces of constant loss shaded, decreasing ones dashed.

        Args:
            places: losses taken along each piece.
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib.
        """
        from semiflat.plots.drawing import axes_for, size
        from semiflat.plots.path import draw_path

        whole("places", places, 2)
        with axes_for(ax, 7.2, 3.4) as ax:
            pieces = []
            for number, piece in enumerate(self.pieces):
                left, right = self.breaks[number], self.breaks[number + 1]
                t = torch.linspace(left, right, places, dtype=torch.float64)
                pieces.append((piece.name, str(piece.claim), t.numpy(), self.losses(t).numpy()))
            draw_path(ax, pieces)
            first, last = (float(loss) for loss in self.losses([0.0, 1.0]))
            ax.set_title(
                f"The loss along the path leads from {size(first, 3)} to {size(last, 3)}",
                pad=20,
                loc="left",
            )
        return ax

    def draw(self, file: Any = None) -> bytes:
        """The same as a PNG.

        Args:
            file: where to write it, too.

        Raises:
            InputError: without matplotlib, or if the file cannot be written.
        """
        from semiflat.plots.look import canvas, png, style

        with style():
            figure = canvas(3.4)
            self.plot(ax=figure.add_subplot())
            picture = png(figure)
        if file is not None:
            write_whole(File(file), picture)
        return picture


FIRST, DEEPEST = 8, 7
"""Intervals of a curve to begin with; times an interval may be halved."""
EPS = torch.finfo(torch.float64).eps
TRIES = 8
"""Ways in which parameters are rounded to see what it does."""
STRAIGHT = 1e-3
"""Part of the loss at the start by which an interval's middle may miss the line between its ends."""


def check(path: Path) -> PathCheck:
    """Measure the loss along a path.

    Every curve is cut into intervals, and each is halved until the loss at its middle is that of the
    line between its ends to a small part, so that a rise between two points taken would show.
    """
    start = float(path.losses([0.0])[0])
    scale = start if start > 0 else 1.0
    lowest, rise, where, change, evaluations = start, 0.0, 0.0, 0.0, 1
    for number, piece in enumerate(path.pieces):
        t, losses, count = _along(path, number, scale)
        evaluations += count
        if piece.claim is Claim.FREE:
            lowest = float(losses[-1])
            continue
        before = torch.cummin(torch.cat([losses.new_tensor([lowest]), losses]), 0).values[:-1]
        up = losses - before
        most = int(up.argmax())
        if float(up[most]) > rise * scale:
            rise, where = float(up[most]) / scale, float(t[most])
        lowest = min(lowest, float(losses.min()))
        if piece.claim is Claim.CONSTANT:
            change = max(change, float((losses - losses[0]).abs().max()) / scale)
    noise = max(_noise(path, piece) for piece in path.pieces) / scale
    return PathCheck(rise, where, change, noise, evaluations, start, float(path.losses([1.0])[0]))


def _noise(path: Path, piece: Piece) -> float:
    """What rounding the parameters that a piece moves does to the loss, at its ends and in the middle."""
    at = piece.vectors(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    moving = at.amax(0) != at.amin(0)
    return float(rounding(path.problem, at, moving).max())


def rounding(problem: Problem, at: Tensor, moving: Tensor) -> Tensor:
    """What the loss changes by when the parameters ``moving`` (P,) of each ``at`` (k, P) are rounded."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (TRIES, *at.shape), generator=generator).double() * 2 - 1
    losses = problem.risk(problem.net.unflatten(at * (1 + EPS * signs * moving)))
    return losses.amax(0) - losses.amin(0)


def _along(path: Path, number: int, scale: float) -> tuple[Tensor, Tensor, int]:
    """t and losses along a piece, dense enough; and how many losses were taken."""
    curves, pieces = len(path.pieces[number].curves), len(path.pieces)
    grid = torch.linspace(0, 1, curves * FIRST + 1, dtype=torch.float64)
    t = (number + grid) / pieces
    losses = path.losses(t)
    open_ = torch.ones(len(t) - 1, dtype=torch.bool)
    for _ in range(DEEPEST):
        left = open_.nonzero()[:, 0]
        if not len(left):
            break
        middle = (t[left] + t[left + 1]) / 2
        found = path.losses(middle)
        bent = (found - (losses[left] + losses[left + 1]) / 2).abs() > STRAIGHT * scale
        order = torch.cat([t, middle]).argsort()
        still = torch.zeros(len(t) + len(middle), dtype=torch.bool)
        still[: len(t) - 1][left] = bent
        still[len(t) :] = bent
        t, losses = torch.cat([t, middle])[order], torch.cat([losses, found])[order]
        open_ = still[order][:-1]
    return t, losses, len(t)
