"""The checker: is what a certificate says true? Nothing in the file is believed.

It needs the standard library and python-flint alone: no NumPy, no torch, none of the code that searched
or proved. Every number of the file is exact (hexadecimal floats, sums of them, rationals); everything
else is computed anew in ball arithmetic, and only comparisons that hold for all numbers in the balls
count. Run it by hand with ``python -m semiflat.certificates.checker.verify FILE``.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semiflat.certificates.checker.arithmetic import arb, arb_mat, ctx, need_arithmetic
from semiflat.certificates.checker.balls import (
    ACTIVATIONS,
    LOSSES,
    SHIFT_INVARIANT,
    Network,
    NotDefinite,
    hessian,
    risk_gradient,
)
from semiflat.certificates.checker.exact import Invalid, exact, matrix, number
from semiflat.certificates.checker.gauge import frozen_places, need_dead
from semiflat.certificates.checker.inertia import congruent_signs
from semiflat.certificates.checker.wide import embedded
from semiflat.certificates.checker.words import FORMAT, NEWER, claim_in_words

PRECISIONS = 128, 256, 512
TERMS = 10
DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class Verification:
    """What the checker says.

    Attributes:
        ok: whether the file's claim was proved again.
        status: ``"certified"``, ``"not certified"`` or ``"invalid file"``.
        reason: the claim, or what is wrong with the file or its proof.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "proof.json"
    >>> sf.certify(sf.find_critical_point(problem, starts=1)).save(file)
    >>> answer = sf.verify(file)
    >>> answer.ok, answer.status
    (True, 'certified')
    """

    ok: bool
    reason: str
    status: str = "certified"

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


@dataclass
class Proof:
    """What has been proved of one file.

    Attributes:
        net: the problem.
        theta: balls that contain the exact critical point, in the order of θ.
        proved: inertia, kind and bounds, as the file's ``"proved"`` has them.
    """

    net: Network
    theta: list[arb]
    proved: dict[str, Any]


def verify(path: str | Path, data: str | Path | None = None) -> Verification:
    """Check a certificate from scratch, in ball arithmetic alone.

    Args:
        path: of the certificate.
        data: of the file with the data, where the certificate has only their hash; by default the
            one that it names, beside it.

    Raises:
        InputError: if python-flint is not installed.

    >>> verify("no/such/file.json").status
    'invalid file'
    """
    need_arithmetic()
    try:
        document, network = load(path, data)
        prove_again(document, network)
    except NotDefinite as error:
        return Verification(False, str(error), "not certified")
    except Invalid as error:
        return Verification(False, str(error), "invalid file")
    except DAMAGED as error:
        what = f"{str(path)!r} cannot be read: {type(error).__name__}: {error}"
        return Verification(False, what, "invalid file")
    return Verification(True, document["claim"])


def load(path: str | Path, data: str | Path | None = None) -> tuple[dict[str, Any], Network]:
    """A certificate and its problem.

    Raises:
        NotDefinite: if the file itself says that nothing is proved.
        Invalid: if it is no certificate.
    """
    document = read(path)
    status, reason = document["status"], document.get("reason")
    if status in ("undecided", "invalid_input") and isinstance(reason, str):
        raise NotDefinite(f"the file itself says {status}: {reason[:1000]!r}")
    if status != "certified":
        raise Invalid(f"{str(path)!r} has no status that is known")
    return document, network_of(document, Path(path).parent, data)


def read(path: str | Path) -> dict[str, Any]:
    """The file as plain data."""
    path = Path(path)
    if not path.is_file():
        raise Invalid(f"there is no file {str(path)!r}")
    try:
        document = json.loads(path.read_bytes().decode(), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{str(path)!r} is not whole JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") not in (FORMAT, NEWER):
        raise Invalid(f"{str(path)!r} is no certificate of format {FORMAT!r}")
    return document


def prove_again(document: dict[str, Any], network: Network) -> Proof:
    """The proof of the file's statement, at rising precision.

    Raises:
        NotDefinite: naming the step that fails.
    """
    for precision in PRECISIONS:
        with ctx.workprec(precision):
            try:
                proof = STATEMENTS[document["statement"]](document, network)
                break
            except NotDefinite:
                if precision == PRECISIONS[-1]:
                    raise
    said, found = document["proved"], proof.proved
    # As they are written: 1, 1.0 and true are three things in a file.
    other = [k for k in {**said, **found} if _written(said, k) != _written(found, k)]
    if other:
        raise NotDefinite(f"{other[0]}: what is proved differs from what the file says")
    if document["claim"] != claim_in_words(document):
        raise NotDefinite("the claim in words is not what the file proves")
    return proof


def critical_point(document: dict[str, Any], net: Network) -> Proof:
    """Exactly one critical point in the box, its inertia, its loss.

    With coordinates θ = c + Qu on the parameters that are not frozen, and QᵀH(X)Q = S + E for all Hessians
    of the box X ⊇ c + Q[−ρ, ρ]ᴾ, S diagonal with entries ±1, ε the largest row sum of |E|:
    ‖Qᵀ∇R(c)‖∞ + ερ < ρ and ε < 1 make Krawczyk's operator a contraction of the box into its interior
    (preconditioner Q S Qᵀ), whence one critical point, with ‖u‖∞ ≤ ‖Qᵀ∇R(c)‖∞ / (1 − ε); and by
    Sylvester and Gershgorin every Hessian of the box has the inertia of S.
    """
    centre = centre_of(document, net)
    frozen = frozen_places(net, document["frozen"], centre)
    free = [i for i in range(net.size) if i not in frozen]
    Q = matrix(document["Q"], len(free), len(free))
    rho, claimed = number(document["radius"]), document["proved"]
    epsilon = number(claimed["contraction"])
    reach = [sum((abs(q) for q in row), arb(0)) for row in Q.tolist()]
    box = list(centre)
    for i, r in zip(free, reach, strict=True):
        box[i] += arb(0, (rho * r).abs_upper())
    need_dead(net, box, document["frozen"])
    H = part(hessian(net, box), free)
    congruent, signs, row_sum = congruent_signs(H, Q)
    need(row_sum <= epsilon, f"inertia: the row sums of |QᵀHQ − S| reach {row_sum.str(5)}")
    need(epsilon < 1, "inertia: the contraction is not below 1")
    risk, gradient = risk_gradient(net, centre)
    slope = Q.transpose() * arb_mat([[gradient[i]] for i in free])
    size = largest([abs(entry) for entry in slope.entries()])
    need(size + epsilon * rho < rho, "existence: Krawczyk's operator leaves the box")
    near = (size / (1 - epsilon)).abs_upper()
    squares = sum((q * q for q in Q.entries()), arb(0))
    total = sum((abs(entry) for entry in congruent.entries()), arb(0))
    width = near * near * total / 2
    rows = [sum((abs(entry) for entry in row), arb(0)) for row in H.tolist()]
    low, high = map(number, claimed["loss"])
    need(low <= risk - width and risk + width <= high, "loss: it is not within the interval")
    need(largest([near * r for r in reach]) <= number(claimed["location"]), "location: too tight")
    unique = number(claimed["unique"])
    need(unique >= 0, "uniqueness: a distance is not below 0")
    # Where no parameter is free, nothing is proved of any distance, nor of eigenvalues but zeros.
    need(all(rho * r >= unique for r in reach or [arb(0)]), "uniqueness: the box is smaller")
    least, most = map(number, claimed["eigenvalue_sizes"])
    need(least >= 0, "eigenvalues: a size is not below 0")
    need(
        (1 - epsilon) / squares >= least if free else least == 0,
        "eigenvalues: one may be smaller than the file says",
    )
    need(largest(rows) <= most, "eigenvalues: one may be larger than the file says")
    inertia = [signs.count(1), len(frozen), signs.count(-1)]
    theta = list(centre)
    for i, r in zip(free, reach, strict=True):
        theta[i] += arb(0, (near * r).abs_upper())
    kind = "STRICT_SADDLE" if inertia[2] else "MINIMUM" if frozen else "STRICT_MINIMUM"
    own = {"inertia": inertia, "exact": True, "kind": kind}
    bounds = ("contraction", "loss", "location", "unique", "eigenvalue_sizes")
    return Proof(net, theta, {**{key: claimed[key] for key in bounds}, **own})


def embedded_critical_point(document: dict[str, Any], net: Network) -> Proof:
    """A critical point embedded in a wider network: the narrow proof, and a theorem on top."""
    proof = critical_point(document, net)
    narrow = proof.proved
    wide = embedded(net, proof.theta, narrow["inertia"], document["embedding"])
    return Proof(net, proof.theta, {**narrow, "narrow_inertia": narrow["inertia"], **wide})


def no_critical_point(document: dict[str, Any], net: Network) -> Proof:
    """A gradient entry that is not 0 anywhere within the radius."""
    radius, entry, claimed = number(document["radius"]), document["entry"], document["proved"]
    if not (radius >= 0 and type(entry) is int and 0 <= entry < net.size):
        raise Invalid("radius or entry is out of range")
    box = [c + arb(0, radius.abs_upper()) for c in centre_of(document, net)]
    slope = risk_gradient(net, box)[1][entry]
    bound = number(claimed["gradient_at_least"])
    need(
        bound > 0 and abs(slope) >= bound, f"the gradient's entry {entry} may be 0: {slope.str(5)}"
    )
    return Proof(
        net, box, {"kind": "NOT_CRITICAL", "gradient_at_least": claimed["gradient_at_least"]}
    )


def descent(document: dict[str, Any], net: Network) -> Proof:
    """The risk at θ + t d lies below that at θ."""
    start, step, claimed = centre_of(document, net), number(document["step"]), document["proved"]
    direction = [number(d) for d in document["direction"]]
    end = [a + step * d for a, d in zip(start, direction, strict=True)]
    drop = risk_gradient(net, start)[0] - risk_gradient(net, end)[0]
    bound = number(claimed["drop_at_least"])
    need(bound > 0 and drop >= bound, f"descent: the risk falls by {drop.str(5)} alone")
    return Proof(net, start, {"kind": "DESCENT", "drop_at_least": claimed["drop_at_least"]})


def _written(record: dict[str, Any], key: str) -> str:
    return json.dumps(record[key], sort_keys=True) if key in record else ""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key stands twice")
    return record


STATEMENTS = {
    "critical point": critical_point,
    "embedded critical point": embedded_critical_point,
    "no critical point": no_critical_point,
    "descent": descent,
}


def network_of(document: dict[str, Any], folder: Path, data: str | Path | None = None) -> Network:
    """The problem of a file, its data held against their hash."""
    problem = document["problem"]
    stored = problem["data"]
    if "X" not in stored:
        beside = Path(data) if data is not None else folder / Path(stored["file"]).name
        if not beside.is_file():
            raise Invalid(
                f"the data are not in the certificate, and there is no file {str(beside)!r}"
            )
        stored = {**json.loads(beside.read_bytes().decode()), "sha256": stored["sha256"]}
    X, y, weights = data_in(stored)
    widths, activations, biases = problem["widths"], problem["activations"], problem["biases"]
    loss, given = problem["loss"], problem["weight_decay"]
    one = isinstance(given, str)
    pairs = [[given, given]] * len(biases) if one else given
    decays = [(exact(weight), exact(bias)) for weight, bias in pairs]
    whole = all(type(w) is int and w > 0 for w in widths) and len(widths) >= 2
    whole = whole and all(isinstance(b, bool) for b in biases)
    fits = len(activations) == len(widths) - 2 and len(biases) == len(widths) - 1
    classes = loss in SHIFT_INVARIANT and all(len(row) == 1 for row in y)
    of_size = X and all(len(row) == widths[0] for row in X) and len(y) == len(X)
    targets = all(len(row) == (1 if classes else widths[-1]) for row in y)
    counted = weights is None or (len(weights) == len(X) and all(w > 0 for w in weights))
    decayed = len(decays) == len(biases) and min(map(min, decays), default=-1.0) >= 0
    if not (whole and fits and of_size and targets and counted and decayed):
        raise Invalid("architecture and data do not fit together")
    if not (set(activations) <= set(ACTIVATIONS) and loss in LOSSES):
        raise Invalid(f"unknown activation or loss: {activations}, {loss!r}")
    if classes and not all(row[0] in range(widths[-1]) for row in y):
        raise Invalid("a target is no class")
    if bool(problem["data"].get("weighted")) is (weights is None):
        raise Invalid("the file says otherwise whether its samples have weights")
    if hash_of(X, y, classes, weights) != stored["sha256"]:
        raise Invalid("the data are not those of the certificate: their SHA-256 differs")
    decay = decays[0][0] if one else decays
    return Network(widths, activations, biases, loss, decay, X, y, weights)


def data_in(
    stored: dict[str, Any],
) -> tuple[list[list[float]], list[list[float]], list[float] | None]:
    """X, y and, where samples have them, weights of a file."""
    X, y = ([[exact(v) for v in row] for row in stored[key]] for key in ("X", "y"))
    return X, y, [exact(w) for w in stored["weights"]] if "weights" in stored else None


def hash_of(
    X: list[list[float]],
    y: list[list[float]],
    classes: bool,
    weights: list[float] | None = None,
) -> str:
    """SHA-256 of the shapes and little-endian float64 values of X, y and the weights there are."""
    digest = hashlib.sha256()
    more = [] if weights is None else [([[w] for w in weights], True)]
    for rows, flat in ((X, False), (y, classes), *more):
        shape = (len(rows),) if flat else (len(rows), len(rows[0]))
        values = array("d", [v for row in rows for v in row])
        if sys.byteorder == "big":
            values.byteswap()
        digest.update(repr(shape).encode() + values.tobytes())
    return digest.hexdigest()


def centre_of(document: dict[str, Any], net: Network) -> list[arb]:
    """Balls around the exact sums of the centre's terms."""
    if len(document["centre"]) > TERMS:
        raise Invalid(f"the centre has more than {TERMS} terms")
    terms = [[number(v) for v in term] for term in document["centre"]]
    if any(len(term) != net.size for term in terms):
        raise Invalid(f"the centre must have {net.size} numbers")
    return [sum(values, arb(0)) for values in zip(*terms, strict=True)]


def part(H: arb_mat, kept: list[int]) -> arb_mat:
    """The rows and columns kept."""
    rows = H.tolist()
    return arb_mat(len(kept), len(kept), [rows[i][j] for i in kept for j in kept])


def largest(values: list[arb]) -> arb:
    """The least upper bound of balls from 0 up that they show."""
    if not all(v.is_finite() for v in values):
        return arb("inf")
    return max((v.upper() for v in values), default=arb(0))


def need(holds: bool, otherwise: str) -> None:
    """Raise :class:`NotDefinite` unless a comparison holds for certain."""
    if not holds:
        raise NotDefinite(otherwise)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    results = [verify(path) for path in sys.argv[1:]]
    print("\n".join(map(str, results)))
    sys.exit(0 if results and all(result.ok for result in results) else 1)
