"""How many of several certified points are distinct, proved: part of the checker.

Two parameter vectors that a symmetry of the network turns into each other compute one function: so do
permuted, mirrored and rescaled units, and whatever other symmetry there is. Hence two critical points whose
losses or whose outputs on some sample differ, as the balls of both show, are distinct modulo all of them.
(With cross-entropy, outputs are compared up to the shift that softmax ignores.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semiflat.certificates.checker.arithmetic import arb, ctx, need_arithmetic
from semiflat.certificates.checker.balls import Network, NotDefinite, risk_gradient, sweeps
from semiflat.certificates.checker.exact import Invalid
from semiflat.certificates.checker.verify import DAMAGED, PRECISIONS, load, prove_again

Seen = tuple[arb, list[list[arb]]]
"""Loss, and outputs on each sample."""


@dataclass(frozen=True)
class Distinction:
    """What is proved of several certificates together.

    Attributes:
        at_least: so many distinct critical points are proved, 0 if a file is not certified.
        chosen: places of files that are pairwise proved distinct, that many.
        ok: whether all of them are.
        reason: in words.

    >>> Distinction(at_least=2, chosen=(0, 2), ok=False, reason="files 0 and 1 may be one point").chosen
    (0, 2)
    """

    at_least: int
    chosen: tuple[int, ...]
    ok: bool
    reason: str


def verify_distinct(paths: Sequence[str | Path], data: str | Path | None = None) -> Distinction:
    """Check certificates of one problem, and count the critical points proved to be distinct.

    Distinct means: not one network up to permuted, mirrored or rescaled units, or any other change that
    keeps the risk and the outputs on the data.

    Args:
        paths: of certificates of narrow critical points, all of one problem.
        data: as for :func:`verify`.

    Raises:
        InputError: if python-flint is not installed.

    >>> import pathlib, tempfile, torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.sin(4 * X))
    >>> found = sf.find_critical_points(problem, starts=8)
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> files = [folder / f"{k}.json" for k in range(len(found))]
    >>> for point, file in zip(found, files, strict=True):
    ...     sf.certify(point).save(file)
    ...
    >>> answer = sf.verify_distinct(files)
    >>> answer.ok, answer.at_least, answer.chosen
    (True, 3, (0, 1, 2))
    """
    need_arithmetic()
    if not isinstance(paths, list | tuple):
        return Distinction(0, (), False, "certificates are given as a list of files")
    seen: list[Seen] = []
    first: Network | None = None
    for path in paths:
        try:
            document, net = load(path, data)
            if document["statement"] != "critical point":
                raise Invalid("its statement is not that of a narrow critical point")
            if first is not None and net != first:
                raise Invalid("it is of another problem than the first")
            first = net
            seen.append(seen_of(net, prove_again(document, net).theta))
        except (Invalid, NotDefinite, *DAMAGED) as error:
            return Distinction(0, (), False, f"{str(path)!r}: {error}")
    chosen: list[int] = []
    for place, one in enumerate(seen):
        if all(differ(one, seen[other]) for other in chosen):
            chosen.append(place)
    count, total = len(chosen), len(seen)
    return Distinction(
        count,
        tuple(chosen),
        0 < count == total,
        f"at least {count} of {total} critical points are distinct modulo symmetries: losses or outputs "
        "on the data differ, proved by balls",
    )


def seen_of(net: Network, theta: list[arb]) -> Seen:
    """Of the parameters in some balls."""
    with ctx.workprec(PRECISIONS[0]):
        passes = list(sweeps(net, theta))
        outputs = [row for sweep in passes for row in sweep.outputs]
        if net.shift_invariant:
            outputs = [[f - row[0] for f in row] for row in outputs]
        return risk_gradient(net, theta, passes)[0], outputs


def differ(one: Seen, two: Seen) -> bool:
    """Whether losses or outputs are proved to differ."""
    rows = zip(one[1], two[1], strict=True)
    return not one[0].overlaps(two[0]) or any(
        not a.overlaps(b) for row, other in rows for a, b in zip(row, other, strict=True)
    )
