"""From a point to its certificate."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from semiflat._version import __version__
from semiflat.certificates.bounded import Array
from semiflat.certificates.certificate import (
    CERTIFIED,
    INVALID,
    UNDECIDED,
    Certificate,
    nothing,
)
from semiflat.certificates.checker.arithmetic import arb, arb_mat, ctx
from semiflat.certificates.checker.balls import (
    Network,
    NotDefinite,
    risk_gradient,
)
from semiflat.certificates.checker.verify import centre_of, hash_of
from semiflat.certificates.checker.wide import bordered, embedded
from semiflat.certificates.checker.words import FORMAT, NEWER, claim_in_words
from semiflat.certificates.in_balls import without_balls
from semiflat.certificates.narrow import PRECISION, Narrow, prove_narrow
from semiflat.certificates.polish import Undecided, in_rows
from semiflat.embeddings.unit_runs import Copies
from semiflat.errors import InputError
from semiflat.memory import check_hessians
from semiflat.networks import Params
from semiflat.points import EmbeddedPoint, Point, check_one
from semiflat.problem import Problem
from semiflat.progress import counted

LARGEST = sys.float_info.max


def certify(point: Point) -> Certificate:
    """Prove what kind of critical point lies next to a point.

    For a plain point: that exactly one critical point of the exact risk on exactly these data lies within
    a tiny box, with its Hessian's inertia and an interval for its loss (Krawczyk's test, and Sylvester's
    law of inertia, in ball arithmetic). For an embedded point: the same of its narrow source, and from
    it by the inertia law (theory §3; F19 Thms 5, 10, 11, P21 Thms 5–6) that the wide point is a local
    minimum on a flat set or a strict saddle.

    Args:
        point: plain or embedded.

    Returns:
        A :class:`Certificate`: ``"certified"``; ``"undecided"`` with the inequality that failed, as at
        degenerate points and at points that have not converged; or ``"invalid_input"`` where the
        activation or loss is a Python function.

    Raises:
        InputError: if it is not a single point.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> point = sf.find_critical_point(problem, starts=1)
    >>> certificate = sf.certify(point)
    >>> certificate.status, certificate.kind, certificate.inertia
    ('certified', 'STRICT_MINIMUM', (2, 0, 0))
    """
    return certify_all([point])[0]


def certify_all(points: Sequence[Point], *, progress: bool = False) -> list[Certificate]:
    """The certificates of several points; what those embedded from one source share is proved once.

    Args and errors: as for :func:`certify`; with ``progress=True`` a bar counts the points, in a terminal or
    a notebook.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> wide = [sf.Replicate.uniform(0, 0, copies)(point) for copies in (2, 1000)]
    >>> [(proof.status, proof.inertia) for proof in sf.certify_all([point, *wide])]
    [('certified', (4, 0, 0)), ('certified', (5, 1, 1)), ('certified', (1003, 999, 999))]
    """
    if not isinstance(points, list | tuple):
        raise InputError("certify_all takes a list of points; use certify(point) for one")
    known: dict[int, Narrow | Certificate] = {}
    found = []
    for point in counted(points, "prove", progress):
        root = _source(point)
        if id(root) not in known:
            known[id(root)] = _narrow(root)
        narrow = known[id(root)]
        if isinstance(narrow, Certificate):
            source = "" if root is point else "of the narrow point: "
            found.append(nothing(narrow.status, source + narrow.reason))
        elif root is point:
            found.append(_plain(narrow))
        else:
            assert isinstance(point, EmbeddedPoint)
            found.append(_wide(point, narrow))
    return found


def certify_not_critical(point: Point, radius: float = 0.0) -> Certificate:
    """Prove that no parameters within ``radius`` of a point, entry by entry, are a critical point.

    An entry of the gradient is shown to be other than 0 all over that box. With radius 0 that is said of
    the point's own float64 parameters, and it is then no local minimum either.

    Raises:
        InputError: if it is not a single point, or the radius is no finite number from 0 up.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> sf.certify_not_critical(point, radius=0.01).kind
    'NOT_CRITICAL'
    """
    if not isinstance(radius, int | float) or not 0 <= radius <= LARGEST:
        raise InputError(f"radius must be a finite number from 0 up, not {radius!r:.40}")
    check_one(point, "a certificate")
    net = _network(point.problem)
    if isinstance(net, Certificate):
        return net
    theta = in_rows(point)
    with ctx.workprec(PRECISION):
        box = [arb(v, float(radius)) for v in theta.tolist()]
        try:
            slopes = risk_gradient(net, box)[1]
        except NotDefinite as error:
            return nothing(UNDECIDED, str(error))
        entry = max(range(len(slopes)), key=lambda i: float(slopes[i].abs_lower()))
        least = float(slopes[entry].abs_lower()) * (1 - 1e-9)
        if not 0 < least < float("inf"):
            widest = max(float(s.rad()) for s in slopes)
            return nothing(
                UNDECIDED,
                f"every entry of the gradient may be 0 somewhere within {float(radius)!r} (they are known "
                f"to {widest:.2g}); try a smaller radius, or certify() it as a critical point",
            )
    head = {
        "radius": float(radius).hex(),
        "entry": entry,
        "proved": {"kind": "NOT_CRITICAL", "gradient_at_least": least.hex()},
    }
    return _finished("no critical point", net, [theta], head)


def certify_descent(point: Point, direction: Params, step: float) -> Certificate:
    """Prove that the risk at ``θ + step · direction`` lies below that at θ.

    Raises:
        InputError: if point or direction do not fit, or the step is no finite number.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> down = problem.net.unflatten(-sf.gradient(point))
    >>> sf.certify_descent(point, down, step=0.1).status
    'certified'
    """
    if not isinstance(step, int | float) or not abs(step) <= LARGEST:
        raise InputError(f"step must be a finite number, not {step!r:.40}")
    if not isinstance(direction, dict):
        raise InputError(
            f"direction must be a dict shaped like the parameters, not a {type(direction).__name__}"
        )
    check_one(point, "a certificate")
    net = _network(point.problem)
    if isinstance(net, Certificate):
        return net
    towards = Point(point.problem, direction)
    check_one(towards, "a direction of descent")
    theta, along = in_rows(point), in_rows(towards)
    with ctx.workprec(PRECISION):
        start = [arb(v) for v in theta.tolist()]
        end = [a + arb(float(step)) * arb(d) for a, d in zip(start, along.tolist(), strict=True)]
        try:
            drop = risk_gradient(net, start)[0] - risk_gradient(net, end)[0]
        except NotDefinite as error:
            return nothing(UNDECIDED, str(error))
        least = float(drop.lower()) * (1 - 1e-9)
    if not 0 < least < float("inf"):
        return nothing(
            UNDECIDED, f"the risk falls by {drop.str(5)}, which is not proved to be above 0"
        )
    head = {
        "direction": [d.hex() for d in along.tolist()],
        "step": float(step).hex(),
        "proved": {"kind": "DESCENT", "drop_at_least": least.hex()},
    }
    return _finished("descent", net, [theta], head)


def _source(point: Point) -> Point:
    """Where the narrow proof has to be made; a wide point itself if embedding does not carry criticality."""
    check_one(point, "a certificate")
    if isinstance(point, EmbeddedPoint) and point.problem.by_algebra:
        return point.source
    return point


def _network(problem: Problem) -> Network | Certificate:
    """The problem for balls, or why there is none."""
    net, loss = problem.net, problem.loss.name
    names = [a.name for a in net.activations]
    unknown = without_balls(problem)
    if unknown:
        return nothing(INVALID, unknown)
    X = problem.X.double().tolist()
    y = problem.y.double().reshape(problem.samples, -1).tolist()
    weights = None if problem.sample_weight is None else problem.sample_weight.tolist()
    one = problem.weight_decay
    decay = problem.decay.of_layers(net) if isinstance(one, dict) else one
    return Network(list(net.widths), names, list(net.biases), loss, decay, X, y, weights)


def _narrow(root: Point) -> Narrow | Certificate:
    net = _network(root.problem)
    if isinstance(net, Certificate):
        return net
    check_hessians(1, root.problem.net.parameter_count)
    try:
        return prove_narrow(_in_double(root), net)
    except Undecided as error:
        return nothing(UNDECIDED, str(error))


def _in_double(point: Point) -> Point:
    """The point, and its problem, in float64."""
    problem = point.problem
    if problem.dtype is torch.float64:
        return point
    y = problem.y.double() if problem.y.is_floating_point() else problem.y
    exact = Problem(
        problem.net,
        problem.X.double(),
        y,
        problem.loss,
        weight_decay=problem.decay,
        sample_weight=problem.sample_weight,
    )
    return Point(exact, point.params)


def _plain(narrow: Narrow) -> Certificate:
    return _finished("critical point", narrow.net, narrow.centre, _head(narrow), narrow.Q)


def _head(narrow: Narrow) -> dict[str, Any]:
    return {
        "frozen": narrow.frozen,
        "radius": narrow.radius.hex(),
        "proved": narrow.proved,
        "notes": {"method": narrow.method, "found": narrow.margins},
    }


def _wide(point: EmbeddedPoint, narrow: Narrow) -> Certificate:
    if point.core is not point.source:
        return nothing(
            UNDECIDED,
            f"{point.embedding!r} adds units with weights of their own; proofs cover copies (scaled and "
            "mirrored ones too) and null units",
        )
    layers = [[_run(run) for run in runs] for runs in point.unit_map.layers]
    copied = [
        (layer, unit)
        for layer, width in enumerate(narrow.net.widths[1:-1])
        for unit in range(width)
        if sum(count for _, count in point.unit_map.shares(layer, unit)) > 1
    ]
    with ctx.workprec(PRECISION):
        spaces = bordered(narrow.net, narrow.box, copied).items()
        bases = [each for at, K in spaces if (each := _basis(at, K)) is not None]
        embedding = {"layers": layers, "bases": bases}
        try:
            wide = embedded(narrow.net, narrow.box, narrow.proved["inertia"], embedding)
        except NotDefinite as error:
            return nothing(UNDECIDED, str(error))
    proved = {**narrow.proved, "narrow_inertia": narrow.proved["inertia"], **wide}
    head = _head(narrow) | {"embedding": embedding, "proved": proved}
    return _finished("embedded critical point", narrow.net, narrow.centre, head, narrow.Q)


def _run(run: Any) -> dict[str, Any]:
    if isinstance(run, Copies):
        return {
            "source": run.source,
            "share": str(run.weight),
            "scale": str(run.scale),
            "count": run.count,
        }
    return {"null": str(run.bias), "count": run.count}


def _basis(at: tuple[int, int], K: arb_mat) -> dict[str, Any] | None:
    """Q that brings a unit's K, less the rows of F that depend on others, near diag(±1)."""
    size = K.nrows()
    mid = np.array([float(entry) for entry in K.entries()]).reshape(size, size)
    values, vectors = np.linalg.eigh(mid)
    if not np.abs(values).min() > 0:
        return None
    Q = vectors / np.sqrt(np.abs(values))
    return {"layer": at[0], "unit": at[1], "Q": _hex(Q.tolist())}


def _finished(
    statement: str,
    net: Network,
    centre: Sequence[Array],
    head: dict[str, Any],
    Q: Array | None = None,
) -> Certificate:
    """The certificate of a statement; ``head`` and ``Q`` are what it has beyond problem and centre."""
    decay: Any = net.decay
    decay = [_hex([pair])[0] for pair in decay] if isinstance(decay, list) else float(decay).hex()
    newer = isinstance(decay, list) or net.weights is not None
    problem = {
        "widths": net.widths,
        "activations": net.activations,
        "biases": net.biases,
        "loss": net.loss,
        "weight_decay": decay,
    }
    data: dict[str, Any] = {"sha256": hash_of(net.X, net.y, net.classes, net.weights)}
    if net.weights is not None:
        data["weighted"] = True
    document = {
        "format": NEWER if newer else FORMAT,
        "status": CERTIFIED,
        "claim": "",
        "statement": statement,
        "problem": {**problem, "data": data},
        **head,
        "notes": {**head.get("notes", {}), **_versions(), "precision": PRECISION},
    }
    document["claim"] = claim_in_words(document)

    large = partial(_large, document["problem"], net, centre, Q)
    return Certificate(CERTIFIED, document["claim"], document, large)


def of_document(document: dict[str, Any], problem: Problem) -> Certificate:
    """The certificate that :attr:`Certificate.without_data` is of; the data are the problem's."""
    if document["status"] != CERTIFIED:
        return nothing(document["status"], document["reason"])
    net = _network(problem)
    assert isinstance(net, Network)  # or nothing would have been proved
    data = partial(_with_data, document["problem"], net)
    return Certificate(CERTIFIED, document["claim"], document, data)


def around(certificate: Certificate, problem: Problem) -> tuple[Network, list[arb]]:
    """The problem in balls, and balls that hold the critical point that a certificate proves."""
    net = _network(problem)
    assert isinstance(net, Network)
    assert certificate.location is not None
    with ctx.workprec(PRECISION):
        near = arb(0, certificate.location)
        return net, [each + near for each in centre_of(certificate.document, net)]


def _large(
    problem: dict[str, Any],
    net: Network,
    centre: Sequence[Array],
    Q: Array | None,
) -> dict[str, Any]:
    """The large entries of a certificate."""
    body = {**_with_data(problem, net), "centre": _hex([t.tolist() for t in centre])}
    return body if Q is None else {**body, "Q": _hex(Q.tolist())}


def _with_data(problem: dict[str, Any], net: Network) -> dict[str, Any]:
    data = {**problem["data"], "X": _hex(net.X), "y": _hex(net.y)}
    if net.weights is not None:
        data["weights"] = [w.hex() for w in net.weights]
    return {"problem": {**problem, "data": data}}


@cache  # reading a package's metadata takes as long as a small proof
def _versions() -> dict[str, str]:
    return {
        "semiflat": __version__,
        "python": platform.python_version(),
        "python-flint": version("python-flint"),
    }


def _hex(matrix: Sequence[Sequence[float]]) -> list[list[str]]:
    return [[v.hex() for v in row] for row in matrix]
