"""A certificate's file: a good one is believed, and no change makes one say what is not so."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from mpmath import mp
from torch import Tensor

import jets
import semiflat as sf
from reference import Reference, random_reference
from semiflat.certificates.checker.words import claim_in_words

Document = dict[str, Any]
Edit = Callable[[Document], None]
STATUSES = {"certified", "not certified", "invalid file"}
# -- good files -------------------------------------------------------------------------------------


def taught(
    widths: Sequence[int],
    activation: str,
    seed: int,
    loss: str = "squared",
    constant: int | None = None,
    decay: float = 0.0,
) -> sf.Problem:
    """What a random network of these widths says, with noise; one input may be constant."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    samples = 40 if loss == "cross_entropy" else 30
    X, net = normal(samples, widths[0]), sf.MLP(widths, activation)
    if constant is not None:
        X[:, constant] = 1.5
    teacher = net.to_module().double()
    parts = (1.5 * normal(net.parameter_count)).split([p.numel() for p in teacher.parameters()])
    for parameter, part in zip(teacher.parameters(), parts, strict=True):
        parameter.data = part.reshape(parameter.shape)
    with torch.no_grad():
        outputs = teacher(X)
    if loss == "cross_entropy":
        chances = 0.7 * outputs.softmax(1) + 0.3 / widths[-1]
        y = torch.multinomial(chances, 1, generator=generator)[:, 0]
    else:
        y = outputs + 0.3 * normal(*outputs.shape)
    return sf.Problem(net, X, y, loss, weight_decay=decay)


@cache
def found(widths: tuple[int, ...], activation: str, seed: int, **more: Any) -> tuple[sf.Point, ...]:
    """Critical points that are certified."""
    problem = taught(widths, activation, seed, **more)
    # In torch: which of several points comes first, and with which last bits, is the search's affair.
    points = sf.find_critical_points(
        problem, starts=8, max_iterations=150, processes=1, engine="torch"
    )
    return tuple(point for point in points if sf.certify(point).certified)


def narrow() -> sf.Point:
    return found((2, 2, 1), "sin", 1)[0]


def one_unit() -> sf.Point:
    """A strict minimum of one output whose unit has G ≻ 0."""
    point = found((1, 1, 1), "gelu", 0)[0]
    assert torch.linalg.eigvalsh(sf.unit_blocks(point, 0, 0).G).min() > 1e-4
    return point


def dead() -> sf.Point:
    """A minimum of two relu units, one of which is 0 on every sample, the other not."""
    return next(p for p in found((2, 2, 1), "relu", 0) if sum(silent(p)) == 1)


def silent(point: sf.Point) -> list[bool]:
    z = point.problem.X @ point.params["0.weight"].mT + point.params["0.bias"]
    return (z < 0).all(0).tolist()


def away(point: sf.Point) -> sf.Point:
    """A point nearby that is not critical."""
    return sf.Point(point.problem, {key: t + 0.1 for key, t in point.params.items()})


def downhill(point: sf.Point) -> sf.Certificate:
    down = point.problem.net.unflatten(-sf.gradient(point))
    return sf.certify_descent(point, down, 0.125)


GOOD: dict[str, Callable[[], sf.Certificate]] = {
    "narrow": lambda: sf.certify(narrow()),
    "minimum": lambda: sf.certify(sf.Replicate.uniform(0, 0, 3)(one_unit())),
    "saddle": lambda: sf.certify(
        (sf.Replicate(0, 0, [2, -1]) >> sf.NullUnits(0, [0.5, -1]))(one_unit())
    ),
    "mirrored": lambda: sf.certify((sf.Replicate(0, 0, [0.5, 0.5]) >> sf.Reflect(0, 0))(narrow())),
    "relu": lambda: sf.certify(dead()),
    "scaled": lambda: sf.certify(
        sf.ScaledReplicate(0, silent(dead()).index(False), [2, 0.5], [0.25, None])(dead())
    ),
    "dead null": lambda: sf.certify(sf.NullUnits(0, [-1])(dead())),
    "softmax": lambda: sf.certify(found((2, 2, 2), "gelu", 0, loss="cross_entropy")[0]),
    "constant": lambda: sf.certify(found((2, 1, 1), "gelu", 0, constant=1)[0]),
    "decay": lambda: sf.certify(decayed()),
    "not critical": lambda: sf.certify_not_critical(away(narrow()), 0.0078125),
    "descent": lambda: downhill(away(narrow())),
}


@cache
def good_text(name: str) -> str:
    certificate = GOOD[name]()
    assert certificate.certified, certificate
    return json.dumps(certificate.document)


def good(name: str) -> Document:
    """A file's document, new each time."""
    document: Document = json.loads(good_text(name))
    return document


def written(folder: Path, document: Any) -> Path:
    path = folder / "certificate.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def check(folder: Path, document: Any) -> sf.Verification:
    """What the checker says of a document; it never raises, and says one line."""
    result = sf.verify(written(folder, document))
    assert result.status in STATUSES
    assert result.ok is (result.status == "certified")
    assert result.reason
    assert "\n" not in result.reason
    return result


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_is_certified_and_its_reason_is_its_claim(name: str, tmp_path: Path) -> None:
    certificate = GOOD[name]()
    path = tmp_path / "sub" / "good.json"
    certificate.save(path)
    result = sf.verify(path)
    assert (result.ok, result.status) == (True, "certified")
    assert result.reason == certificate.reason == json.loads(path.read_text())["claim"]
    assert str(result) == f"certified: {certificate.reason}"
    assert json.loads(path.read_text()) == good(name)
    assert to_60_digits(good(name)) is (name not in ("not critical", "descent"))


def test_good_files_are_of_every_sort() -> None:
    families = {each["family"] for name in GOOD for each in good(name).get("frozen", [])}
    assert families == {"softmax shift", "constant input", "dead unit", "scaling"}
    statements = {good(name)["statement"] for name in GOOD}
    assert statements == {
        "critical point",
        "embedded critical point",
        "no critical point",
        "descent",
    }
    kinds = {good(name)["proved"]["kind"] for name in GOOD}
    assert kinds == {"STRICT_MINIMUM", "MINIMUM", "STRICT_SADDLE", "NOT_CRITICAL", "DESCENT"}


# -- what a file says, and when that follows from a good one ----------------------------------------


def number(text: str) -> Fraction:
    return Fraction(float.fromhex(text))


def meaning(document: Document) -> Document:
    """All that a file states, exactly; not how it is proved (Q, radius, contraction, bases, notes)."""
    problem, proved = document["problem"], document["proved"]
    data = problem["data"]
    bounds = {
        key: list(map(number, entry)) if isinstance(entry, list) else number(entry)
        for key, entry in proved.items()
        if key in BOUNDS
    }
    plain = {key: v for key, v in proved.items() if key not in {*BOUNDS, "contraction"}}
    said = {
        "statement": document["statement"],
        "network": [problem["widths"], problem["activations"], list(map(bool, problem["biases"]))],
        "risk": [problem["loss"], number(problem["weight_decay"])],
        "samples": [
            [list(map(number, x)), list(map(number, y))]
            for x, y in zip(data["X"], data["y"], strict=True)
        ],
        "centre": [sum(map(number, terms)) for terms in zip(*document["centre"], strict=True)],
        "bounds": bounds,
        "plain": plain,
    }
    match document["statement"]:
        case "no critical point":
            said["radius"] = number(document["radius"])
        case "descent":
            said["step"] = number(document["step"])
            said["direction"] = list(map(number, document["direction"]))
        case _:
            said["frozen"] = {tuple(sorted(each.items())) for each in document["frozen"]}
    if document["statement"] == "embedded critical point":
        said["embedding"] = runs_of(document)
    return said


BOUNDS = {"loss", "location", "unique", "eigenvalue_sizes", "gradient_at_least", "drop_at_least"}


def runs_of(document: Document) -> list[list[Any]]:
    """Each hidden layer's units, run by run: (source, share, scale, count), or (null bias, count)."""
    return [
        [
            (Fraction(run["null"]), run["count"])
            if "null" in run
            else (run["source"], Fraction(run["share"]), Fraction(run["scale"]), run["count"])
            for run in layer
        ]
        for layer in document["embedding"]["layers"]
    ]


def widened(document: Document) -> tuple[sf.Point, Tensor]:
    """The wide point of a file and its dense Hessian, one hidden layer, unit by unit (theory §2)."""
    problem = problem_of(document)
    theta = torch.tensor(list(map(float, meaning(document)["centre"])), dtype=torch.float64)
    params = at(problem, theta).params
    incoming = torch.cat([params["0.weight"], params["0.bias"][:, None]], 1)
    rows, columns = [], []
    for run in runs_of(document)[0]:
        for _ in range(run[-1]):
            if len(run) == 2:
                rows.append(torch.zeros_like(incoming[0]))
                rows[-1][-1] = float(run[0])
                columns.append(torch.zeros_like(params["2.weight"][:, 0]))
                continue
            source, share, scale, _ = run
            rows.append(float(scale) * incoming[source])
            columns.append(float(share / scale) * params["2.weight"][:, source])
    wide = {
        "0.weight": torch.stack(rows)[:, :-1],
        "0.bias": torch.stack(rows)[:, -1],
        "2.weight": torch.stack(columns, 1),
        "2.bias": params["2.bias"],
    }
    name = document["problem"]["activations"][0]
    y = problem.y if problem.loss.name == "squared" else problem.y.double()
    dense = Reference(name, wide, problem.X, y, problem.loss.name).hessian()
    net = problem.net.with_hidden([len(rows)])
    return sf.Point(problem.with_net(net), wide), dense


def dense_inertia(document: Document) -> list[int]:
    """Of the wide point of a file, by automatic differentiation; the gap around 0 is asserted."""
    point, hessian = widened(document)
    assert point.gradient_norm < 1e-10
    values = torch.linalg.eigvalsh(hessian)
    sizes = values.abs() / values.abs().max()
    assert not ((sizes > 1e-11) & (sizes < 1e-8)).any(), sizes
    signs = [(values > 0) & (sizes > 1e-9), sizes <= 1e-9, (values < 0) & (sizes > 1e-9)]
    return [int(sign.sum()) for sign in signs]


SAME = "it says the same"
SIGNS = "the inertia law asks for the signs of shares alone, and the dense Hessian agrees"
FOLLOWS = "it follows from the good one"
TIGHTER = "its bounds hold to 60 digits at the critical point"
HELD = "a unit that stays dead may have any weights"
REORDERED = "the risk is a mean over the samples, in any order"
MEASURED = "it is so at the point itself, in float64"


def why_true(new: Document, old: Document) -> str | None:
    """Why a changed file is still true, if it is, by exact arithmetic on what both say."""
    said, before = meaning(new), meaning(old)
    if said == before:
        return SAME
    if {**said, "embedding": None} == {**before, "embedding": None}:
        return SIGNS if dense_inertia(new) == new["proved"]["inertia"] else None
    if follows(said, before):
        return FOLLOWS
    if {**said, "centre": None} == {**before, "centre": None} and still_dead(new, old):
        return HELD
    other: Document = {"bounds": None, "risk": None}
    if {**said, **other} == {**before, **other} and to_60_digits(new):
        return TIGHTER
    other = {**said, "samples": sorted(said["samples"])}
    if other == {**before, "samples": sorted(before["samples"])}:
        return REORDERED
    return MEASURED if new["statement"] in ("no critical point", "descent") and so(new) else None


def follows(said: Document, before: Document) -> bool:
    """Whether boxes that hold the old box, or lie within it, make the statement a weaker one."""
    fixed = set(before) - {"centre", "bounds", "radius", "step"}
    if any(said.get(key) != before[key] for key in fixed):
        return False
    moved = max(abs(a - b) for a, b in zip(said["centre"], before["centre"], strict=True))
    new, old = said["bounds"], before["bounds"]
    if before["statement"] == "no critical point":
        within = moved + said["radius"] <= before["radius"]
        return within and new["gradient_at_least"] <= old["gradient_at_least"]
    if before["statement"] == "descent":
        same = moved == 0 and said["step"] == before["step"]
        return same and new["drop_at_least"] <= old["drop_at_least"]
    # What is held fixed is held where the centre is.
    return (
        (moved == 0 or not said["frozen"])
        and moved + old["location"] <= new["location"]
        and moved + new["unique"] <= old["unique"]
        and new["loss"][0] <= old["loss"][0] <= old["loss"][1] <= new["loss"][1]
        and new["eigenvalue_sizes"][0] <= old["eigenvalue_sizes"][0]
        and new["eigenvalue_sizes"][1] >= old["eigenvalue_sizes"][1]
    )


def to_60_digits(document: Document) -> bool:
    """Whether a file's bounds hold at the exact critical point next to its centre."""
    if "Q" not in document:
        return False
    problem, bounds = problem_of(document), meaning(document)["bounds"]
    net, order = problem.net, in_rows(problem.net).tolist()
    exact: list[Any] = [None] * len(order)
    for at_flat, value in zip(order, meaning(document)["centre"], strict=True):
        exact[at_flat] = value
    risk = net, exact, problem.X.tolist(), problem.y.tolist(), problem.loss.name
    slopes = jets.gradient_entries(*risk, range(len(exact)), problem.weight_decay)
    free = [i for i in order if i not in held_flat(document, net)]
    H = sf.hessian(sf.Point(problem, net.unflatten(torch.tensor(list(map(float, exact))).double())))
    H = H[free][:, free]
    slope = torch.tensor([float(slopes[i]) for i in free], dtype=torch.float64)
    step = torch.linalg.solve(H, slope)
    loss = jets.risk(*risk, problem.weight_decay) - mp.mpf(float(slope @ step)) / 2
    values = torch.linalg.eigvalsh(H).abs()
    box = number(document["radius"]) * min(
        sum(abs(number(q)) for q in row) for row in document["Q"]
    )
    return (
        float(step.abs().max()) <= float(bounds["location"]) * (1 + 1e-6)
        and bounds["unique"] <= box
        and mp.mpf(float(bounds["loss"][0])) <= loss <= mp.mpf(float(bounds["loss"][1]))
        and float(bounds["eigenvalue_sizes"][0]) <= float(values.min()) * (1 + 1e-6)
        and float(bounds["eigenvalue_sizes"][1]) >= float(values.max()) * (1 - 1e-6)
    )


def held_flat(document: Document, net: sf.MLP) -> set[int]:
    """Where the parameters that a file holds fixed stand in the flat parameters of torch."""
    numbers = net.unflatten(torch.arange(net.parameter_count))
    top = f"{2 * net.depth - 2}"
    held: list[Tensor] = []
    for each in document["frozen"]:
        match each["family"]:
            case "softmax shift":
                held += [numbers[f"{top}.weight"][-1], numbers[f"{top}.bias"][-1:]]
            case "constant input":
                held.append(numbers["0.weight"][:, each["input"]])
            case "dead unit":
                unit = each["unit"]
                held += [numbers["0.weight"][unit], numbers["0.bias"][unit, None]]
                held.append(numbers["2.weight"][:, unit])
            case "scaling":
                held.append(numbers["0.weight"][each["unit"], each["input"], None])
    return {int(i) for part in held for i in part}


def still_dead(new: Document, old: Document) -> bool:
    """Whether only weights of units held as dead differ, which still are dead on the data."""
    problem = problem_of(new)
    here, before = (
        at(problem, torch.tensor(list(map(float, meaning(d)["centre"])), dtype=torch.float64))
        for d in (new, old)
    )
    units = [each["unit"] for each in new.get("frozen", []) if each["family"] == "dead unit"]
    others = {key: tensor.clone() for key, tensor in here.params.items()}
    for unit in units:
        for key in ("0.weight", "0.bias"):
            others[key][unit] = before.params[key][unit]
        others["2.weight"][:, unit] = before.params["2.weight"][:, unit]
    same = all(torch.equal(others[key], before.params[key]) for key in others)
    return same and all(silent(here)[unit] for unit in units) and here.gradient_norm < 1e-10


def so(document: Document) -> bool:
    """Whether float64 finds the gradient, or the drop, of a file as large as the file says."""
    said = meaning(document)
    problem = problem_of(document)
    centre = torch.tensor([float(c) for c in said["centre"]], dtype=torch.float64)
    if said["statement"] == "descent":
        direction = torch.tensor([float(d) for d in said["direction"]], dtype=torch.float64)
        end = centre + float(said["step"]) * direction
        drop = at(problem, centre).loss - at(problem, end).loss
        return drop >= float(said["bounds"]["drop_at_least"]) - 1e-12
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 2, (20, len(centre)), generator=generator, dtype=torch.float64)
    least = min(
        at(problem, centre + float(abs(said["radius"])) * (2 * corner - 1)).gradient_norm
        for corner in corners
    )
    return least >= float(said["bounds"]["gradient_at_least"]) - 1e-12


def problem_of(document: Document) -> sf.Problem:
    problem = document["problem"]
    X, y = ([list(map(float.fromhex, row)) for row in problem["data"][k]] for k in "Xy")
    targets = [row[0] for row in y] if problem["loss"] == "cross_entropy" else y
    net = sf.MLP(problem["widths"], problem["activations"], problem["biases"])
    decay = float.fromhex(problem["weight_decay"])
    return sf.Problem(net, X, targets, problem["loss"], weight_decay=decay)


def in_rows(net: sf.MLP) -> Tensor:
    """For each entry of a file's centre where it stands in the flat parameters of torch."""
    numbers = net.unflatten(torch.arange(net.parameter_count))
    rows = []
    for layer, bias in enumerate(net.biases):
        weight = numbers[f"{2 * layer}.weight"]
        parts = [weight, numbers[f"{2 * layer}.bias"][:, None]] if bias else [weight]
        rows.append(torch.cat(parts, 1).reshape(-1))
    return torch.cat(rows)


def at(problem: sf.Problem, theta: Tensor) -> sf.Point:
    """The point with these parameters, in the order of a file."""
    flat = torch.empty_like(theta)
    flat[in_rows(problem.net)] = theta
    return sf.Point(problem, problem.net.unflatten(flat))


# -- the table of changes ---------------------------------------------------------------------------


def put(*path: Any) -> Edit:
    """Put the last argument at the place that the others name."""
    *keys, last, value = path

    def edit(document: Document) -> None:
        place(document, keys)[last] = value

    return edit


def change(path: Sequence[Any], by: Callable[[Any], Any]) -> Edit:
    """Replace what stands somewhere by a function of it."""

    def edit(document: Document) -> None:
        inside = place(document, path[:-1])
        inside[path[-1]] = by(inside[path[-1]])

    return edit


def drop(*path: Any) -> Edit:
    def edit(document: Document) -> None:
        del place(document, path[:-1])[path[-1]]

    return edit


def together(*edits: Edit) -> Edit:
    def edit(document: Document) -> None:
        for each in edits:
            each(document)

    return edit


def reworded(*edits: Edit) -> Edit:
    """The edits, and the claim in words made anew, as a forger would."""
    return together(*edits, lambda d: d.__setitem__("claim", claim_in_words(d)))


def place(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


def times(factor: float) -> Callable[[str], str]:
    return lambda text: (float.fromhex(text) * factor).hex()


def plus(amount: float) -> Callable[[str], str]:
    return lambda text: (float.fromhex(text) + amount).hex()


def rehashed(document: Document) -> None:
    """Bring the data's hash up to date, from its definition."""
    data = document["problem"]["data"]
    digest = hashlib.sha256()
    for key in "Xy":
        rows = [list(map(float.fromhex, row)) for row in data[key]]
        flat = key == "y" and document["problem"]["loss"] == "cross_entropy"
        shape = (len(rows),) if flat else (len(rows), len(rows[0]))
        digest.update(repr(shape).encode())
        digest.update(b"".join(struct.pack("<d", v) for row in rows for v in row))
    data["sha256"] = digest.hexdigest()


def nudge(document: Document) -> None:
    """Another term of the centre: a small part of the box, in one entry."""
    size = len(document["centre"][0])
    step = float.fromhex(document["proved"]["unique"]) / 2**20
    document["centre"].append([step.hex(), *["0x0p0"] * (size - 1)])


def roomier(document: Document) -> None:
    """Bounds that leave room for :func:`nudge`."""
    proved = document["proved"]
    unique = float.fromhex(proved["unique"])
    proved["location"] = (float.fromhex(proved["location"]) + unique / 16).hex()
    proved["unique"] = (unique / 2).hex()
    proved["loss"] = [plus(-1e-3)(proved["loss"][0]), plus(1e-3)(proved["loss"][1])]


def transposed(rows: list[list[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def grown(rows: list[list[str]]) -> list[list[str]]:
    """A matrix with one more row and column, 1 on the diagonal."""
    one, zero = (1.0).hex(), (0.0).hex()
    return [[*row, zero] for row in rows] + [[zero] * len(rows) + [one]]


def without(family: str) -> Edit:
    """A family less that is held, Q grown to the parameters that are free then."""

    def edit(document: Document) -> None:
        held = document["frozen"]
        document["frozen"] = [each for each in held if each["family"] != family]
        assert len(document["frozen"]) < len(held)
        document["Q"] = grown(document["Q"])

    return edit


def more(**family: Any) -> Edit:
    return lambda document: document["frozen"].append(family)


def shares(*given: tuple[str, int]) -> Edit:
    runs = [{"source": 0, "share": s, "scale": "1", "count": n} for s, n in given]
    return put("embedding", "layers", 0, runs)


NOT, BAD, TRUE = "not certified", "invalid file", "still true"
Y00 = "problem", "data", "y", 0, 0
X00 = "problem", "data", "X", 0, 0
LOSS, SIZES = ("proved", "loss"), ("proved", "eigenvalue_sizes")
RUN = "embedding", "layers", 0, 0
NULL = "embedding", "layers", 0, 2
BASIS = "embedding", "bases", 0, "Q"

CHANGES: list[tuple[str, str, Edit, str, str]] = [
    # the centre
    ("narrow", "centre moved by 1e-6", change(("centre", 0, 0), plus(1e-6)), NOT, ""),
    ("narrow", "centre moved within the box", nudge, NOT, ""),
    ("narrow", "centre moved, bounds with it", together(nudge, roomier), NOT, "claim"),
    ("narrow", "centre moved, all with it", reworded(nudge, roomier), TRUE, FOLLOWS),
    (
        "narrow",
        "a term of zeros more",
        lambda d: d["centre"].append(["0x0p0"] * len(d["centre"][0])),
        TRUE,
        SAME,
    ),
    (
        "narrow",
        "a term of 1e-6 more",
        lambda d: d["centre"].append([(1e-6).hex()] * len(d["centre"][0])),
        NOT,
        "",
    ),
    ("narrow", "terms in another order", change(("centre",), lambda c: c[::-1]), TRUE, SAME),
    ("narrow", "a term less", drop("centre", 1), NOT, ""),
    ("narrow", "no centre", put("centre", []), BAD, ""),
    ("narrow", "an entry less", change(("centre", 0), lambda t: t[1:]), BAD, "numbers"),
    ("narrow", "centre not finite", put("centre", 0, 0, "nan"), BAD, "finite"),
    ("decay", "centre moved by 1e-6", change(("centre", 0, 3), plus(1e-6)), NOT, ""),
    ("softmax", "held entry moved by 1e-6", change(("centre", 0, -1), plus(1e-6)), NOT, ""),
    # the box
    ("narrow", "radius × 10⁶", change(("radius",), times(1e6)), NOT, "inertia"),
    ("narrow", "radius × 10³⁰⁰", change(("radius",), times(1e300)), NOT, "inertia"),
    ("narrow", "radius halved", change(("radius",), times(0.5)), NOT, "uniqueness"),
    (
        "narrow",
        "radius and uniqueness halved",
        reworded(
            change(("radius",), times(0.5)),
            change(("proved", "unique"), times(0.5)),
        ),
        TRUE,
        FOLLOWS,
    ),
    ("narrow", "radius a little larger", change(("radius",), times(1 + 1e-6)), TRUE, SAME),
    ("narrow", "radius 0", put("radius", "0x0p0"), NOT, "existence"),
    ("narrow", "radius negative", change(("radius",), times(-1)), NOT, "existence"),
    ("narrow", "radius nan", put("radius", "nan"), BAD, "finite"),
    ("narrow", "radius inf", put("radius", "inf"), BAD, "finite"),
    ("narrow", "radius beyond float64", put("radius", "0x1p5000"), BAD, ""),
    ("narrow", "radius no text", put("radius", 1e-8), BAD, ""),
    ("narrow", "contraction 0", put("proved", "contraction", "0x0p0"), NOT, "inertia"),
    ("narrow", "contraction negative", put("proved", "contraction", "-0x1p-3"), NOT, "inertia"),
    ("narrow", "contraction 1", put("proved", "contraction", "0x1p0"), NOT, "contraction"),
    ("narrow", "contraction 2", put("proved", "contraction", "0x1p1"), NOT, "contraction"),
    ("narrow", "contraction near 1", put("proved", "contraction", (1 - 2**-53).hex()), NOT, ""),
    ("narrow", "contraction nan", put("proved", "contraction", "nan"), BAD, "finite"),
    (
        "narrow",
        "contraction a little larger",
        change(("proved", "contraction"), times(1 + 1e-12)),
        TRUE,
        SAME,
    ),
    # the claim's numbers
    ("narrow", "inertia", put("proved", "inertia", [8, 0, 1]), NOT, "inertia"),
    ("narrow", "inertia, in words", reworded(put("proved", "inertia", [8, 0, 1])), NOT, "inertia"),
    ("narrow", "kind", put("proved", "kind", "STRICT_SADDLE"), NOT, "kind"),
    ("narrow", "kind, in words", reworded(put("proved", "kind", "STRICT_SADDLE")), NOT, "kind"),
    ("relu", "a strict minimum", reworded(put("proved", "kind", "STRICT_MINIMUM")), NOT, "kind"),
    ("relu", "a zero less", reworded(change(("proved", "inertia", 1), lambda z: z - 1)), NOT, ""),
    ("narrow", "not exact", reworded(put("proved", "exact", False)), NOT, "exact"),
    ("narrow", "loss up", change((*LOSS,), lambda e: list(map(plus(1e-3), e))), NOT, "loss"),
    (
        "narrow",
        "loss up, in words",
        reworded(change(LOSS, lambda e: list(map(plus(1e-3), e)))),
        NOT,
        "loss",
    ),
    ("narrow", "loss from above", change(LOSS, lambda e: [e[1], e[1]]), NOT, "loss"),
    ("narrow", "loss from below", change(LOSS, lambda e: [e[0], e[0]]), NOT, "loss"),
    ("narrow", "loss turned round", reworded(change(LOSS, lambda e: e[::-1])), NOT, "loss"),
    ("narrow", "loss wider", change((*LOSS, 0), plus(-1e-3)), NOT, "claim"),
    ("narrow", "loss wider, in words", reworded(change((*LOSS, 0), plus(-1e-3))), TRUE, FOLLOWS),
    ("narrow", "loss of one end", change(LOSS, lambda e: e[:1]), BAD, ""),
    ("narrow", "nearer", change(("proved", "location"), times(2.0**-40)), NOT, "location"),
    (
        "narrow",
        "nearer, in words",
        reworded(change(("proved", "location"), times(2.0**-40))),
        NOT,
        "location",
    ),
    ("narrow", "at the centre", reworded(put("proved", "location", "0x0p0")), NOT, "location"),
    ("narrow", "farther", change(("proved", "location"), times(2)), NOT, "claim"),
    (
        "narrow",
        "farther, in words",
        reworded(change(("proved", "location"), times(2))),
        TRUE,
        FOLLOWS,
    ),
    ("narrow", "alone farther", change(("proved", "unique"), times(1.01)), NOT, "uniqueness"),
    (
        "narrow",
        "alone farther, in words",
        reworded(change(("proved", "unique"), times(1.01))),
        NOT,
        "uniqueness",
    ),
    (
        "narrow",
        "alone nearer, in words",
        reworded(change(("proved", "unique"), times(0.5))),
        TRUE,
        FOLLOWS,
    ),
    ("narrow", "least eigenvalue larger", change((*SIZES, 0), times(1.01)), NOT, "eigenvalues"),
    ("narrow", "largest eigenvalue smaller", change((*SIZES, 1), times(0.5)), NOT, "eigenvalues"),
    ("narrow", "least eigenvalue smaller", change((*SIZES, 0), times(0.5)), TRUE, FOLLOWS),
    ("narrow", "largest eigenvalue larger", change((*SIZES, 1), times(2)), TRUE, FOLLOWS),
    ("narrow", "a bound more", put("proved", "index", 0), NOT, "index"),
    ("narrow", "a bound less", drop("proved", "kind"), NOT, "kind"),
    ("narrow", "no bounds", put("proved", {}), BAD, ""),
    # Q
    ("narrow", "Q a little", change(("Q", 0, 0), times(1 + 1e-9)), TRUE, SAME),
    ("narrow", "Q a lot", change(("Q", 0, 0), plus(1.0)), NOT, "inertia"),
    ("narrow", "Q transposed", change(("Q",), transposed), NOT, "inertia"),
    (
        "narrow",
        "Q negated",
        change(("Q",), lambda Q: [list(map(times(-1), r)) for r in Q]),
        TRUE,
        SAME,
    ),
    ("narrow", "Q's columns reversed", change(("Q",), lambda Q: [r[::-1] for r in Q]), TRUE, SAME),
    ("narrow", "Q's rows reversed", change(("Q",), lambda Q: Q[::-1]), NOT, "inertia"),
    ("narrow", "Q 0", change(("Q",), lambda Q: [["0x0p0"] * len(r) for r in Q]), NOT, "inertia"),
    (
        "narrow",
        "Q singular",
        change(("Q",), lambda Q: [[*r[:-1], r[0]] for r in Q]),
        NOT,
        "inertia",
    ),
    ("narrow", "Q twice", change(("Q",), lambda Q: [list(map(times(2), r)) for r in Q]), NOT, ""),
    ("narrow", "Q a row less", drop("Q", 0), BAD, "matrix"),
    ("narrow", "Q a column less", change(("Q",), lambda Q: [r[1:] for r in Q]), BAD, "matrix"),
    ("narrow", "Q grown", change(("Q",), grown), BAD, "matrix"),
    ("narrow", "Q empty", put("Q", []), BAD, "matrix"),
    ("narrow", "Q not finite", put("Q", 0, 0, "inf"), BAD, "finite"),
    # the data
    ("narrow", "a target", change(Y00, times(1 + 2**-52)), BAD, "SHA-256"),
    ("narrow", "an input", change(X00, times(1 + 2**-52)), BAD, "SHA-256"),
    ("softmax", "a class", change(Y00, lambda y: (1 - float.fromhex(y)).hex()), BAD, "SHA-256"),
    ("narrow", "the hash", put("problem", "data", "sha256", "0" * 64), BAD, "SHA-256"),
    ("narrow", "a target and the hash", together(change(Y00, plus(1e-3)), rehashed), NOT, ""),
    (
        "narrow",
        "a target's last bit and the hash",
        reworded(change(Y00, times(1 + 2**-52)), rehashed),
        NOT,
        "",
    ),
    (
        "softmax",
        "a class and the hash",
        reworded(change(Y00, lambda y: (1 - float.fromhex(y)).hex()), rehashed),
        NOT,
        "",
    ),
    ("softmax", "no class", together(put(*Y00, "0x1p1"), rehashed), BAD, "class"),
    ("softmax", "half a class", together(put(*Y00, "0x1p-1"), rehashed), BAD, "class"),
    ("narrow", "an input and the hash", reworded(change(X00, plus(1e-3)), rehashed), NOT, ""),
    (
        "narrow",
        "samples in another order",
        together(
            change(("problem", "data", "X"), lambda X: X[::-1]),
            change(("problem", "data", "y"), lambda y: y[::-1]),
            rehashed,
        ),
        NOT,
        "claim",
    ),
    (
        "narrow",
        "samples in another order, in words",
        reworded(
            change(("problem", "data", "X"), lambda X: X[::-1]),
            change(("problem", "data", "y"), lambda y: y[::-1]),
            rehashed,
        ),
        TRUE,
        REORDERED,
    ),
    (
        "narrow",
        "a sample twice",
        reworded(
            change(("problem", "data", "X"), lambda X: [*X, X[0]]),
            change(("problem", "data", "y"), lambda y: [*y, y[0]]),
            rehashed,
        ),
        NOT,
        "",
    ),
    ("narrow", "a target less", drop("problem", "data", "y", 0), BAD, "fit"),
    ("narrow", "an input more", change(("problem", "data", "X", 0), lambda x: [*x, x[0]]), BAD, ""),
    ("narrow", "no samples", together(*(put("problem", "data", k, []) for k in "Xy")), BAD, "fit"),
    ("narrow", "an input not finite", put(*X00, "inf"), BAD, "finite"),
    # the problem
    ("narrow", "activation", put("problem", "activations", ["tanh"]), NOT, ""),
    ("narrow", "activation unknown", put("problem", "activations", ["cube"]), BAD, "unknown"),
    ("narrow", "an activation more", put("problem", "activations", ["sin"] * 2), BAD, "fit"),
    ("relu", "activation leaky", put("problem", "activations", ["leaky_relu"]), NOT, ""),
    ("relu", "activation identity", put("problem", "activations", ["identity"]), NOT, ""),
    ("narrow", "loss", reworded(put("problem", "loss", "logistic")), NOT, ""),
    ("narrow", "loss unknown", put("problem", "loss", "cauchy"), BAD, "unknown"),
    ("narrow", "loss of classes", reworded(put("problem", "loss", "cross_entropy")), BAD, "class"),
    ("softmax", "loss squared", put("problem", "loss", "squared"), BAD, "fit"),
    ("narrow", "fewer units", reworded(put("problem", "widths", [2, 1, 1])), BAD, "numbers"),
    ("narrow", "more units", reworded(put("problem", "widths", [2, 3, 1])), BAD, "numbers"),
    ("narrow", "more inputs", put("problem", "widths", [3, 2, 1]), BAD, "fit"),
    ("narrow", "more outputs", put("problem", "widths", [2, 2, 2]), BAD, "fit"),
    ("narrow", "no units", put("problem", "widths", [2, 0, 1]), BAD, "fit"),
    ("narrow", "half a unit", put("problem", "widths", [2, 2.0, 1]), BAD, "fit"),
    ("narrow", "no layers", put("problem", "widths", [2]), BAD, "fit"),
    ("narrow", "a bias less", put("problem", "biases", [True, False]), BAD, "numbers"),
    ("narrow", "biases for three layers", put("problem", "biases", [True] * 3), BAD, "fit"),
    ("narrow", "weight decay", put("problem", "weight_decay", "0x1p-10"), NOT, ""),
    (
        "narrow",
        "weight decay, in words",
        reworded(put("problem", "weight_decay", "0x1p-40")),
        NOT,
        "",
    ),
    ("narrow", "weight decay negative", put("problem", "weight_decay", "-0x1p-9"), BAD, "fit"),
    ("decay", "weight decay 0", reworded(put("problem", "weight_decay", "0x0p0")), NOT, ""),
    (
        "decay",
        "weight decay's last bit",
        reworded(change(("problem", "weight_decay"), times(1 + 2**-52))),
        NOT,
        "",
    ),
    # what is held against symmetries
    ("narrow", "softmax shift, squared loss", more(family="softmax shift"), NOT, "symmetries"),
    (
        "narrow",
        "scaling of sin",
        more(family="scaling", layer=0, unit=0, input=0),
        NOT,
        "symmetries",
    ),
    ("narrow", "a dead unit of sin", more(family="dead unit", layer=0, unit=0), NOT, "symmetries"),
    (
        "narrow",
        "an input that is not constant",
        more(family="constant input", input=0),
        NOT,
        "symmetries",
    ),
    ("narrow", "a family unknown", more(family="rotation"), NOT, "symmetries"),
    ("narrow", "a family without a name", more(layer=0), BAD, ""),
    ("decay", "softmax shift, decay", more(family="softmax shift"), NOT, "weight decay"),
    (
        "relu",
        "the live unit is dead",
        together(
            put("frozen", [{"family": "dead unit", "layer": 0, "unit": unit} for unit in (0, 1)]),
            change(("Q",), lambda Q: [row[:1] for row in Q[:1]]),
        ),
        NOT,
        "dead",
    ),
    (
        "relu",
        "the dead unit is scaled",
        lambda d: d["frozen"].append({**d["frozen"][0], "family": "scaling", "input": 0}),
        NOT,
        "symmetries",
    ),
    (
        "relu",
        "a bias is scaled",
        change(("frozen", -1, "input"), lambda _: 2),
        NOT,
        "symmetries",
    ),
    ("relu", "no such unit", put("frozen", -1, "unit", 2), NOT, "symmetries"),
    ("relu", "no such layer", put("frozen", -1, "layer", 1), NOT, "symmetries"),
    ("relu", "scaled twice", lambda d: d["frozen"].append(d["frozen"][-1]), NOT, "symmetries"),
    ("relu", "dead twice", lambda d: d["frozen"].insert(0, d["frozen"][0]), TRUE, SAME),
    ("relu", "weight decay", put("problem", "weight_decay", "0x1p-40"), NOT, "weight decay"),
    ("relu", "scaling not held", without("scaling"), NOT, ""),
    ("relu", "nothing held", put("frozen", []), BAD, "matrix"),
    ("softmax", "nothing held", put("frozen", []), BAD, "matrix"),
    ("constant", "nothing held", without("constant input"), NOT, "inertia"),
    ("constant", "another input", put("frozen", 0, "input", 0), NOT, "not constant"),
    ("constant", "no such input", put("frozen", 0, "input", 2), NOT, "symmetries"),
    # the statement
    ("narrow", "it is embedded", put("statement", "embedded critical point"), BAD, ""),
    ("narrow", "it is not critical", put("statement", "no critical point"), BAD, ""),
    ("narrow", "it is a descent", put("statement", "descent"), BAD, ""),
    ("narrow", "no statement known", put("statement", "a global minimum"), BAD, ""),
    ("narrow", "no statement", drop("statement"), BAD, ""),
    ("minimum", "it is narrow", put("statement", "critical point"), NOT, ""),
    ("not critical", "it is critical", put("statement", "critical point"), BAD, ""),
    ("not critical", "it is a descent", put("statement", "descent"), BAD, ""),
    # theorem and embedding
    ("minimum", "theorem", reworded(put("proved", "theorem", "a hunch")), NOT, "theorem"),
    ("minimum", "a premise", put("proved", "premises", 0, "none"), NOT, "premises"),
    ("minimum", "a premise less", drop("proved", "premises", 1), NOT, "premises"),
    ("minimum", "a premise more", lambda d: d["proved"]["premises"].append("x"), NOT, "premises"),
    ("minimum", "parameters", reworded(put("proved", "parameters", 11)), NOT, "parameters"),
    ("minimum", "shares short of 1", shares(("1/3", 2), ("1/4", 1)), NOT, "sum"),
    ("minimum", "other shares within", shares(("1/2", 1), ("1/4", 2)), TRUE, SIGNS),
    ("minimum", "a share of another sign", shares(("1", 2), ("-1", 1)), NOT, "inertia"),
    ("minimum", "that, in words", reworded(shares(("1", 2), ("-1", 1))), NOT, "inertia"),
    ("minimum", "a share 0", shares(("1/2", 2), ("0", 1)), NOT, ""),
    ("minimum", "more copies", shares(("1/4", 4)), NOT, "inertia"),
    ("minimum", "fewer copies", shares(("1/2", 2)), NOT, "inertia"),
    ("minimum", "one copy", shares(("1", 1)), NOT, ""),
    ("minimum", "no copies", put("embedding", "layers", 0, []), NOT, "sum"),
    ("minimum", "copies for nothing", shares(("1/3", 3), ("1", 0)), NOT, "count"),
    ("minimum", "copies less than none", shares(("1/3", 4), ("1/3", -1)), NOT, "count"),
    ("minimum", "half a copy", put(*RUN, "count", 3.0), NOT, "count"),
    ("minimum", "shares divided by 0", shares(("1/0", 3)), BAD, ""),
    ("minimum", "shares no numbers", shares(("x", 3)), BAD, ""),
    ("minimum", "scale 2", put(*RUN, "scale", "2"), NOT, "scaled"),
    ("minimum", "scale -1", put(*RUN, "scale", "-1"), NOT, "scaled"),
    ("minimum", "scale 0", put(*RUN, "scale", "0"), NOT, "scaled"),
    ("mirrored", "not mirrored", put(*RUN, "scale", "1"), TRUE, SIGNS),
    ("mirrored", "scale -2", put(*RUN, "scale", "-2"), NOT, "scaled"),
    ("scaled", "another scale", put(*RUN, "scale", "7"), TRUE, SIGNS),
    ("scaled", "scale negative", put(*RUN, "scale", "-1"), NOT, "scaled"),
    ("scaled", "scale 0", put(*RUN, "scale", "0"), NOT, "scaled"),
    ("minimum", "no such unit", put(*RUN, "source", 1), NOT, "unit"),
    ("minimum", "no unit before the first", put(*RUN, "source", -1), NOT, "unit"),
    ("minimum", "a layer more", lambda d: d["embedding"]["layers"].append([]), NOT, ""),
    ("minimum", "no layers", put("embedding", "layers", []), NOT, "layer"),
    ("minimum", "no embedding", drop("embedding"), BAD, ""),
    ("minimum", "weight decay", put("problem", "weight_decay", "0x1p-9"), NOT, ""),
    ("minimum", "a basis a little", change((*BASIS, 0, 0), times(1 + 1e-9)), TRUE, SAME),
    ("minimum", "a basis a lot", change((*BASIS, 0, 0), plus(1e3)), NOT, ""),
    ("minimum", "a basis 0", put(*BASIS, [["0x0p0"] * 2] * 2), NOT, ""),
    ("minimum", "a basis a row less", drop(*BASIS, 0), BAD, "matrix"),
    ("minimum", "no basis", put("embedding", "bases", []), NOT, ""),
    ("minimum", "the basis of none", put("embedding", "bases", 0, "unit", 1), NOT, ""),
    ("minimum", "narrow inertia", reworded(put("proved", "narrow_inertia", [3, 1, 0])), NOT, ""),
    ("minimum", "the centre", change(("centre", 0, 0), plus(1e-6)), NOT, ""),
    ("saddle", "it is a minimum", reworded(put("proved", "kind", "MINIMUM")), NOT, "kind"),
    ("saddle", "another null bias", put(*NULL, "null", "3/4"), TRUE, SIGNS),
    ("saddle", "null units less", drop(*NULL), NOT, ""),
    ("saddle", "null units more", put(*NULL, "count", 2), NOT, "inertia"),
    ("saddle", "null bias no number", put(*NULL, "null", "x"), BAD, ""),
    ("dead null", "another null bias", put(*NULL, "null", "-1/8"), TRUE, SIGNS),
    ("dead null", "a null unit at the kink", put(*NULL, "null", "0"), NOT, "kink"),
    ("dead null", "a null unit that is heard", put(*NULL, "null", "1"), NOT, "inertia"),
    # text
    (
        "narrow",
        "the claim",
        change(("claim",), lambda c: c.replace("minimum", "maximum")),
        NOT,
        "claim",
    ),
    ("narrow", "a letter of the claim", change(("claim",), lambda c: c + " "), NOT, "claim"),
    ("narrow", "no claim", drop("claim"), BAD, ""),
    ("narrow", "format", put("format", "semiflat-certificate-2"), BAD, "format"),
    ("narrow", "no format", drop("format"), BAD, "format"),
    (
        "narrow",
        "nothing proved, as it says",
        together(put("status", "undecided"), put("reason", "no")),
        NOT,
        "itself says undecided",
    ),
    ("narrow", "another status", put("status", "proved"), BAD, ""),
    ("narrow", "no status", drop("status"), BAD, ""),
    ("narrow", "the notes", put("notes", {"semiflat": "99", "by": "nobody"}), TRUE, SAME),
    ("narrow", "no notes", drop("notes"), TRUE, SAME),
    ("narrow", "an entry more", put("comment", [1, 2]), TRUE, SAME),
    # no critical point
    ("not critical", "wider", change(("radius",), times(2)), NOT, ""),
    ("not critical", "wider, in words", reworded(change(("radius",), times(64))), NOT, "entry"),
    ("not critical", "narrower", change(("radius",), times(0.5)), NOT, "claim"),
    (
        "not critical",
        "narrower, in words",
        reworded(change(("radius",), times(0.5))),
        TRUE,
        FOLLOWS,
    ),
    (
        "not critical",
        "steeper",
        reworded(change(("proved", "gradient_at_least"), times(1.01))),
        NOT,
        "entry",
    ),
    (
        "not critical",
        "less steep",
        reworded(change(("proved", "gradient_at_least"), times(0.5))),
        TRUE,
        FOLLOWS,
    ),
    ("not critical", "flat", reworded(put("proved", "gradient_at_least", "0x0p0")), NOT, "entry"),
    (
        "not critical",
        "less than flat",
        reworded(put("proved", "gradient_at_least", "-0x1p-9")),
        NOT,
        "entry",
    ),
    ("not critical", "another entry", change(("entry",), lambda i: (i + 1) % 9), NOT, "entry"),
    ("not critical", "no such entry", put("entry", 9), BAD, ""),
    (
        "not critical",
        "the critical point",
        change(("centre",), lambda _: good("narrow")["centre"]),
        NOT,
        "entry",
    ),
    ("not critical", "kind", reworded(put("proved", "kind", "NOTHING")), NOT, "kind"),
    # descent
    ("descent", "upwards", reworded(change(("step",), times(-1))), NOT, "falls"),
    ("descent", "no step", reworded(put("step", "0x0p0")), NOT, "falls"),
    ("descent", "half a step", reworded(change(("step",), times(0.5))), NOT, "falls"),
    (
        "descent",
        "a deeper fall",
        reworded(change(("proved", "drop_at_least"), times(1.01))),
        NOT,
        "falls",
    ),
    (
        "descent",
        "a smaller fall",
        reworded(change(("proved", "drop_at_least"), times(0.5))),
        TRUE,
        FOLLOWS,
    ),
    ("descent", "no fall", reworded(put("proved", "drop_at_least", "0x0p0")), NOT, "falls"),
    ("descent", "a rise", reworded(put("proved", "drop_at_least", "-0x1p9")), NOT, "falls"),
    (
        "descent",
        "another way",
        change(("direction",), lambda d: list(map(times(-1), d))),
        NOT,
        "falls",
    ),
    ("descent", "a shorter way", drop("direction", 0), BAD, ""),
]


@pytest.mark.parametrize(
    ("name", "edit", "outcome", "why"),
    [pytest.param(name, *rest, id=f"{name}: {what}") for name, what, *rest in CHANGES],
)
def test_a_changed_file_is_refused_or_still_true(
    name: str, edit: Edit, outcome: str, why: str, tmp_path: Path
) -> None:
    document = good(name)
    edit(document)
    result = check(tmp_path, document)
    if outcome == TRUE:
        assert result.ok, result
        assert why_true(document, good(name)) == why
    else:
        assert result.status == outcome, result
        assert why in result.reason, result


@pytest.mark.parametrize("name", ["minimum", "saddle", "mirrored", "scaled", "dead null"])
def test_wide_points_read_from_a_good_file_have_the_inertia_it_says(name: str) -> None:
    document = good(name)
    assert dense_inertia(document) == document["proved"]["inertia"]


# -- changes at random ------------------------------------------------------------------------------


def somewhere(rng: random.Random, document: Any, deep: bool) -> list[Any]:
    """A path: at each step any of the entries; to a leaf, or to any depth."""
    path: list[Any] = []
    while isinstance(document, dict | list) and document:
        if path and not deep and rng.random() < 0.4:
            break
        path.append(
            rng.choice(list(document))
            if isinstance(document, dict)
            else rng.randrange(len(document))
        )
        document = document[path[-1]]
    return path


def other_value(rng: random.Random, value: Any) -> Any:
    """Another value of the same or another type."""
    anything = [None, True, False, 0, 1, -1, 3, 17, 0.5, float("nan"), float("inf"), "", "x"]
    anything += [[], {}, [[]], ["0x1p0"], {"family": "scaling"}, "nan", "-inf", "0x1p2000", "1/0"]
    number_like = [f"{sign}0x1.8p{rng.randrange(-40, 40)}" for sign in ("", "-")]
    same: list[Any] = [*number_like, "0x0p0", "-0x0p0", "1e2"]
    if isinstance(value, str) and "0x" in value:
        factor = rng.choice([1 + 2.0**-52, 1 + 1e-12, 1 + 1e-9, 1 + 1e-6, 0.5, 2, -1, 1e9])
        same += [times(factor)(value), plus(rng.choice([1e-300, 1e-30, 1e-9, 1e-3]))(value)] * 4
    elif isinstance(value, int):
        same = [value + 1, value - 1, float(value), -value, not value, value + 2**64]
    elif isinstance(value, str):
        same = [value + " ", value[:-1], value.upper(), "tanh", "relu", "squared", "1/3", "-1/2"]
    return rng.choice(same if rng.random() < 0.6 else anything)


def edited(rng: random.Random, name: str, *begin: str) -> tuple[Document, list[Any], str]:
    """A good file with one leaf replaced or one entry deleted, below ``begin``; where, and what."""
    document = good(name)
    delete = rng.random() < 0.2
    path = [*begin, *somewhere(rng, place(document, begin), deep=not delete)]
    inside = place(document, path[:-1])
    if delete:
        del inside[path[-1]]
        return document, path, f"{name}: {path} deleted"
    new = other_value(rng, inside[path[-1]])
    label = f"{name}: {path} {inside[path[-1]]!r} -> {new!r}"
    inside[path[-1]] = new
    return document, path, label


HOW = {"notes", "Q", "radius", "contraction", "bases", "frozen"}
"""Where a file says how it is proved, not what: there one change may leave it certified, if the proof
still holds. (In "frozen" a family may be named twice.) Anywhere else it may only spell the same value
otherwise (``true`` for 1, ``0x0p0`` for ``0x0.0p+0``), or ``why_true`` says why what is said now is
true: other numbers are no tighter than those proved; the embedding has other shares of the same signs,
other scales or null biases; a dead unit other weights; or it is so at the point itself."""


def spelled(leaf: Any) -> Any:
    """What a leaf stands for: an exact number, if it is one."""
    for read in (number, Fraction):
        try:
            return read(leaf)
        except (ValueError, TypeError):
            continue
    return leaf


def leaves_a_true_statement(document: Document, name: str, path: list[Any], label: str) -> str:
    """Why a changed file that is certified is true."""
    reason = why_true(document, good(name))
    assert reason is not None, label
    if reason == SAME and not HOW & set(path):
        whole = good(name)
        old, new = place(whole, path), place(document, path)
        same = bool if "biases" in path else spelled
        assert same(old) == same(new), label
    return reason


def test_one_change_anywhere_is_refused_or_leaves_a_true_statement(tmp_path: Path) -> None:
    rng = random.Random(3)
    outcomes: Counter[str] = Counter()
    for _ in range(600):
        name = rng.choice(list(GOOD))
        document, path, label = edited(rng, name)
        result = check(tmp_path, document)
        outcomes[result.status] += 1
        if result.ok:
            leaves_a_true_statement(document, name, path, label)
    assert min(outcomes[status] for status in STATUSES) >= 60, outcomes


def test_one_change_and_new_words_are_refused_or_leave_a_true_statement(tmp_path: Path) -> None:
    rng = random.Random(4)
    reasons: Counter[str] = Counter()
    for _ in range(600):
        name = rng.choice(list(GOOD))
        document, path, label = edited(rng, name, *rng.choice([(), ("proved",)]))
        try:
            document["claim"] = claim_in_words(document)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError):
            continue
        if check(tmp_path, document).ok:
            reasons[leaves_a_true_statement(document, name, path, label)] += 1
    assert min(reasons[reason] for reason in (SAME, FOLLOWS)) >= 10, reasons


def test_one_byte_changed_is_refused_or_leaves_a_true_statement(tmp_path: Path) -> None:
    rng = random.Random(5)
    path, certified = tmp_path / "certificate.json", 0
    for _ in range(300):
        name = rng.choice(list(GOOD))
        content = bytearray(good_text(name).encode())
        content[rng.randrange(len(content))] = rng.choice(
            [rng.randrange(256), *b"0123456789abcdef"]
        )
        path.write_bytes(content)
        result = sf.verify(path)
        if result.ok:
            certified += 1
            assert why_true(json.loads(content), good(name)) is not None
    assert certified < 100


# -- forged files -----------------------------------------------------------------------------------

Place = tuple[int, int, int]


def forged(
    point: sf.Point, held: Sequence[Place], families: list[Document]
) -> tuple[sf.Point, Document]:
    """A file, right in every number, of a point that is critical but for the parameters ``held``.

    These are moved away from ``point``, the others made critical by Newton's method. If the families
    are symmetries that move the parameters held, the point is critical too; if not, it is not.
    """
    problem, net = point.problem, point.problem.net
    order = in_rows(net)
    numbers = torch.empty_like(order)
    numbers[order] = torch.arange(len(order))
    starts = [sum(net.fan_in(m) * net.widths[m + 1] for m in range(n)) for n in range(net.depth)]
    fixed = [starts[layer] + row * net.fan_in(layer) + column for layer, row, column in held]
    free = [i for i in range(net.parameter_count) if i not in fixed]
    theta = net.flatten(point.params)[order]
    theta[fixed] += 2**-10
    for _ in range(20):
        here = at(problem, theta)
        slope, H = sf.gradient(here)[order], sf.hessian(here)[order][:, order]
        theta[free] -= torch.linalg.solve(H[free][:, free], slope[free])
    here = at(problem, theta)
    H = sf.hessian(here)[order][:, order][free][:, free]
    assert sf.gradient(here)[order][free].abs().max() < 1e-12
    values, vectors = torch.linalg.eigh(H)
    Q = vectors / values.abs().sqrt()
    radius, reach = 1e-9, Q.abs().sum(1)
    negative = int((values < 0).sum())
    inertia = [len(free) - negative, len(fixed), negative]
    loss, largest = here.loss, float(H.abs().sum(1).max())
    document = {
        "format": "semiflat-certificate-1",
        "status": "certified",
        "statement": "critical point",
        "problem": {
            "widths": list(net.widths),
            "activations": [a.name for a in net.activations],
            "biases": list(net.biases),
            "loss": problem.loss.name,
            "weight_decay": problem.weight_decay.hex(),
            "data": {
                "X": hexed(problem.X),
                "y": hexed(problem.y.reshape(problem.samples, -1).double()),
            },
        },
        "centre": hexed(theta[None]),
        "frozen": families,
        "radius": radius.hex(),
        "Q": hexed(Q),
        "proved": {
            "contraction": (0.5).hex(),
            "loss": [(loss - 1e-9).hex(), (loss + 1e-9).hex()],
            "location": (radius / 2 * float(reach.max())).hex(),
            "unique": (radius / 2 * float(reach.min())).hex(),
            "eigenvalue_sizes": ["0x0p0", (2 * largest).hex()],
            "inertia": inertia,
            "exact": True,
            "kind": "STRICT_SADDLE" if negative else "MINIMUM",
        },
    }
    rehashed(document)
    document["claim"] = claim_in_words(document)
    return here, document


def hexed(rows: Tensor) -> list[list[str]]:
    return [[v.hex() for v in row] for row in rows.tolist()]


def live() -> int:
    """The unit of :func:`dead` that is not."""
    return silent(dead()).index(False)


def no_bias(constant: float) -> sf.Point:
    """A second input that is constant; no bias could do what it does, but if it is 0 nothing does."""
    X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None] * torch.tensor([1.0, 0.0])
    X[:, 1] = constant
    net = sf.MLP([2, 1, 1], "tanh", bias=[False, True])
    problem = sf.Problem(net, X, torch.sin(2 * X[:, 0]) + X[:, 0])
    return sf.find_critical_point(problem, starts=8, processes=1)


def alive() -> sf.Point:
    """A minimum of two relu units, neither of which is dead."""
    return next(p for p in found((2, 2, 1), "relu", 0) if not any(silent(p)))


def decayed() -> sf.Point:
    return found((2, 2, 1), "tanh", 0, decay=0.0625)[0]


def scaling(unit: int, into: int) -> Document:
    return {"family": "scaling", "layer": 0, "unit": unit, "input": into}


def dead_unit(unit: int) -> Document:
    return {"family": "dead unit", "layer": 0, "unit": unit}


SHIFT = {"family": "softmax shift"}
LAST = [(1, 0, 0), (1, 0, 1), (1, 0, 2)]


def both(unit: int) -> list[Place]:
    """Incoming and outgoing weights of a unit of dead()."""
    return [(0, unit, 0), (0, unit, 1), (0, unit, 2), (1, 0, unit)]


FORGED: dict[str, tuple[bool, Callable[[], tuple[sf.Point, list[Place], list[Document]]]]] = {
    "softmax shift": (
        True,
        lambda: (
            found((2, 2, 2), "gelu", 0, loss="cross_entropy")[0],
            [(1, 1, 0), (1, 1, 1), (1, 1, 2)],
            [SHIFT],
        ),
    ),
    "constant input": (
        True,
        lambda: (
            found((2, 1, 1), "gelu", 0, constant=1)[0],
            [(0, 0, 1)],
            [{"family": "constant input", "input": 1}],
        ),
    ),
    "dead unit and scaling": (
        True,
        lambda: (
            dead(),
            [*both(1 - live()), (0, live(), 1)],
            [dead_unit(1 - live()), scaling(live(), 1)],
        ),
    ),
    "zero input, no bias": (
        True,
        lambda: (no_bias(0.0), [(0, 0, 1)], [{"family": "constant input", "input": 1}]),
    ),
    "softmax shift of squared loss": (False, lambda: (narrow(), LAST, [SHIFT])),
    "scaling of sin": (False, lambda: (narrow(), [(0, 0, 1)], [scaling(0, 1)])),
    "dead unit of sin": (False, lambda: (narrow(), both(1), [dead_unit(1)])),
    "live relu as dead": (
        False,
        lambda: (dead(), [*both(0), *both(1)], [dead_unit(0), dead_unit(1)]),
    ),
    "input not constant": (
        False,
        lambda: (
            narrow(),
            [(0, 0, 0), (0, 1, 0)],
            [{"family": "constant input", "input": 0}],
        ),
    ),
    "constant input, no bias": (
        False,
        lambda: (no_bias(1.5), [(0, 0, 1)], [{"family": "constant input", "input": 1}]),
    ),
    "softmax shift, weight decay": (
        False,
        lambda: (decayed(), LAST, [SHIFT]),
    ),
    "scaling, weight decay": (
        False,
        lambda: (
            found((2, 2, 1), "relu", 2, decay=0.0625)[0],
            [(0, 0, 0), (0, 1, 0)],
            [scaling(0, 0), scaling(1, 0)],
        ),
    ),
    "one unit scaled twice": (
        False,
        lambda: (
            alive(),
            [(0, 0, 0), (0, 1, 0), (0, 1, 1)],
            [scaling(0, 0), scaling(1, 0), scaling(1, 1)],
        ),
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_certified_only_where_its_symmetries_hold(
    name: str, tmp_path: Path
) -> None:
    true, make = FORGED[name]
    point, document = forged(*make())
    result = check(tmp_path, document)
    if true:
        assert point.gradient_norm < 1e-12
        assert result.ok, result
    else:
        assert point.gradient_norm > 1e-6
        assert result.status == "not certified", result
        assert result.reason.startswith("symmetries:"), result


def test_a_null_unit_has_no_bias_where_its_layer_has_none(tmp_path: Path) -> None:
    certificate = sf.certify(sf.NullUnits(0, [0])(no_bias(1.5)))
    assert certificate.kind == "STRICT_SADDLE"
    document = json.loads(json.dumps(certificate.document))
    assert check(tmp_path, document).ok
    document["embedding"]["layers"][0][-1]["null"] = "1/2"
    assert check(tmp_path, document).status == "not certified"


def test_null_units_do_not_stay_critical_with_weight_decay(tmp_path: Path) -> None:
    """What the law says of another point of that inertia, put under a proof with weight decay."""
    law = json.loads(json.dumps(sf.certify(sf.NullUnits(0, [0.5])(narrow())).document))
    assert check(tmp_path, law).ok
    document = good("decay")
    assert document["proved"]["inertia"] == law["proved"]["narrow_inertia"]
    document["statement"], document["embedding"] = law["statement"], law["embedding"]
    said = "narrow_inertia", "kind", "inertia", "exact", "parameters", "theorem", "premises"
    document["proved"] |= {key: law["proved"][key] for key in said}
    document["claim"] = claim_in_words(document)
    result = check(tmp_path, document)
    assert result.status == "not certified"
    assert "weight decay" in result.reason


def test_a_basis_that_proves_nothing_makes_no_minimum(tmp_path: Path) -> None:
    """A saddle by an indefinite G, with no basis to see it by, and the words of a minimum."""
    point = found((1, 1, 1), "tanh", 2)[0]
    values = torch.linalg.eigvalsh(sf.unit_blocks(point, 0, 0).G)
    assert values[0] < -1e-6
    assert values[1] > 1e-6
    wide = sf.certify(sf.Replicate.uniform(0, 0, 3)(point))
    assert (wide.kind, point.problem.net.parameter_count) == ("STRICT_SADDLE", 4)
    for basis in ([["0x0p0"] * 2] * 2, None):
        document = json.loads(json.dumps(wide.document))
        proved = document["proved"]
        flat = good("minimum")["proved"]["premises"][-1]
        assert "Morse–Bott" in flat
        proved["premises"] = [*(each for each in proved["premises"] if "K at" not in each), flat]
        proved |= {"kind": "MINIMUM", "exact": False, "inertia": [4, 0, 0]}
        if basis is None:
            document["embedding"]["bases"] = []
        else:
            document["embedding"]["bases"][0]["Q"] = basis
        document["claim"] = claim_in_words(document)
        result = check(tmp_path, document)
        assert result.status == "not certified"
        assert result.reason.startswith("embedding:")


def test_biases_are_true_or_false(tmp_path: Path) -> None:
    for value in ("false", "no", 3, [0], {"bias": False}):
        document = good("narrow")
        put("problem", "biases", 0, value)(document)
        assert check(tmp_path, document).status == "invalid file"


# -- damaged files ----------------------------------------------------------------------------------


def test_a_file_cut_short_anywhere_is_invalid(tmp_path: Path) -> None:
    path, whole = tmp_path / "certificate.json", good_text("relu").encode()
    for part in range(20):
        path.write_bytes(whole[: len(whole) * part // 20])
        assert sf.verify(path).status == "invalid file", part
    path.write_bytes(whole[:-1])
    assert sf.verify(path).status == "invalid file"
    path.write_bytes(whole)
    assert sf.verify(path).ok


NONSENSE = {
    "empty": b"",
    "white space": b" \n",
    "binary": bytes(range(256)) * 9,
    "text": b"certified",
    "a list": b"[]",
    "a list of a certificate": b'[{"format": "semiflat-certificate-1", "status": "certified"}]',
    "null": b"null",
    "a number": b"1",
    "a text": b'"semiflat-certificate-1"',
    "another object": b'{"status": "certified", "claim": "x"}',
    "no more than a format": b'{"format": "semiflat-certificate-1"}',
    "no more than a status": b'{"format": "semiflat-certificate-1", "status": "certified"}',
    "nested": b"[" * 200_000 + b"]" * 200_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "UTF-16": '{"format": "semiflat-certificate-1"}'.encode("utf-16"),
    "half a character": b'{"format": "\xff"}',
    "a number too long": b'{"format": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_invalid(name: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_bytes(NONSENSE[name])
    result = sf.verify(path)
    assert (result.ok, result.status) == (False, "invalid file")
    assert sf.verify_distinct([path]).at_least == 0


def test_what_is_no_file_is_invalid(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json", tmp_path / "none" / "none.json", ""):
        result = sf.verify(path)
        assert (result.ok, result.status) == (False, "invalid file")
        assert "no file" in result.reason
        assert not sf.verify_distinct([path]).ok


def test_an_undecided_certificate_is_saved_and_not_certified(tmp_path: Path) -> None:
    certificate = sf.certify(away(narrow()))
    certificate.save(tmp_path / "undecided.json", data="data.json")
    result = sf.verify(tmp_path / "undecided.json")
    assert result.status == "not certified"
    assert certificate.reason in result.reason
    assert not (tmp_path / "data.json").exists()


def test_a_number_too_large_to_write_down_ends_at_once(tmp_path: Path) -> None:
    document = good("saddle")
    document["embedding"]["layers"][0][2]["null"] = "1e999999999"
    code = f"import semiflat; print(semiflat.verify({str(written(tmp_path, document))!r}).status)"
    assert run("-c", code, seconds=5).stdout.split() != ["certified"]


# -- data in a file of their own --------------------------------------------------------------------


def test_certificates_share_a_file_of_data(tmp_path: Path) -> None:
    for name in ("narrow", "not critical"):
        GOOD[name]().save(tmp_path / f"{name}.json", data="data.json")
        assert sf.verify(tmp_path / f"{name}.json").ok
        stored = json.loads((tmp_path / f"{name}.json").read_text())["problem"]["data"]
        assert set(stored) == {"sha256", "file"}
    GOOD["narrow"]().save(tmp_path / "with.json")
    sizes = [(tmp_path / f"{name}.json").stat().st_size for name in ("narrow", "with")]
    assert sizes[0] < sizes[1]


def test_data_are_taken_from_any_file_that_is_given(tmp_path: Path) -> None:
    path, data = tmp_path / "a" / "narrow.json", tmp_path / "a" / "data.json"
    GOOD["narrow"]().save(path, data="data.json")
    elsewhere = tmp_path / "b.json"
    data.rename(elsewhere)
    missing = sf.verify(path)
    assert missing.status == "invalid file"
    assert "data.json" in missing.reason
    assert sf.verify(path, data=elsewhere).ok
    assert sf.verify(path, data=str(elsewhere)).ok
    assert sf.verify(path, data=tmp_path).status == "invalid file"
    assert sf.verify(path, data=tmp_path / "none.json").status == "invalid file"
    assert sf.verify_distinct([path], data=elsewhere).at_least == 1
    assert sf.verify_distinct([path]).at_least == 0


def test_other_data_than_the_certificates_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "narrow.json", tmp_path / "data.json"
    GOOD["narrow"]().save(path, data="data.json")
    whole = data.read_bytes()
    values = json.loads(whole)
    GOOD["relu"]().save(tmp_path / "relu.json", data="other.json")
    other = json.loads((tmp_path / "other.json").read_text())
    edited = json.loads(whole)
    edited["y"][3][0] = times(1 + 2**-52)(edited["y"][3][0])
    lied = {**edited, "sha256": json.loads(path.read_text())["problem"]["data"]["sha256"]}
    less = {key: rows[1:] for key, rows in values.items()}
    turned = {"X": values["X"][::-1], "y": values["y"]}
    for wrong in (other, edited, lied, less, turned):
        data.write_text(json.dumps(wrong))
        result = sf.verify(path)
        assert result.status == "invalid file"
        assert "SHA-256" in result.reason
    for wrong in ({}, [], None, {"X": values["X"]}, {"X": 1, "y": 2}, {"X": [[1]], "y": [[1]]}):
        data.write_text(json.dumps(wrong))
        assert sf.verify(path).status == "invalid file"
    data.write_bytes(whole[:-9])
    assert sf.verify(path).status == "invalid file"
    data.write_bytes(whole)
    assert sf.verify(path).ok


def test_data_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "narrow.json"
    GOOD["narrow"]().save(path, data="data.json")
    (tmp_path / "data.json").write_bytes(NONSENSE["nested"])
    assert sf.verify(path).status == "invalid file"
    assert sf.verify_distinct([path]).at_least == 0


def test_a_certificate_may_not_be_its_own_data(tmp_path: Path) -> None:
    with pytest.raises(sf.InputError):
        GOOD["narrow"]().save(tmp_path / "one.json", data="one.json")


# -- the checker by itself --------------------------------------------------------------------------

HIDDEN = "import sys; sys.modules.update(dict.fromkeys({}))"
SEARCHING = ("torch", "numpy", "scipy", "joblib", "safetensors", "mpmath")


def run(*arguments: str, seconds: float | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments], capture_output=True, text=True, timeout=seconds
    )


def test_verify_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    bad = good("narrow")
    put("radius", "0x0p0")(bad)
    paths = [tmp_path / "good.json", tmp_path / "bad.json"]
    for path, document in zip(paths, (good("minimum"), bad), strict=True):
        path.write_text(json.dumps(document))
    code = (
        f"{HIDDEN.format(SEARCHING)}\n"
        "import semiflat\n"
        f"for path in {[*map(str, paths)]!r}:\n"
        "    print(semiflat.verify(path))\n"
        f"print(semiflat.verify_distinct([{str(paths[1])!r}]).at_least)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == f"certified: {good('minimum')['claim']}"
    assert second.startswith("not certified: existence")
    assert third == "0"


@pytest.mark.parametrize("hidden", [False, True])
def test_the_checker_run_by_hand_says_by_its_exit_code_whether_all_hold(
    tmp_path: Path, hidden: bool
) -> None:
    fine, other, bad = (str(tmp_path / f"{name}.json") for name in ("fine", "other", "bad"))
    document = good("narrow")
    put("proved", "kind", "STRICT_SADDLE")(document)
    for path, content in {fine: good("narrow"), other: good("relu"), bad: document}.items():
        Path(path).write_text(json.dumps(content))
    module = "semiflat.certificates.checker.verify"
    cases = {
        (fine,): 0,
        (fine, other): 0,
        (bad,): 1,
        (fine, bad): 1,
        (str(tmp_path / "none.json"),): 1,
        (): 1,
    }
    for paths, code in cases.items() if not hidden else [((fine,), 0), ((bad,), 1)]:
        by_hand = ["-m", module]
        if hidden:
            start = "import runpy; sys.argv[0] = 'verify'"
            begin = f"runpy.run_module({module!r}, run_name='__main__')"
            by_hand = ["-c", f"{HIDDEN.format(SEARCHING)}; {start}; {begin}"]
        done = run(*by_hand, *paths)
        assert done.returncode == code, done
        assert done.stderr == ""
        lines = done.stdout.split("\n")[:-1]
        assert [line.split(":")[0] for line in lines if line] == [
            sf.verify(path).status for path in paths
        ]


def test_without_python_flint_one_line_says_what_to_install(tmp_path: Path) -> None:
    path = written(tmp_path, good("narrow"))
    code = (
        f"{HIDDEN.format(('flint',))}\n"
        "from semiflat import *\n"
        "import semiflat as sf\n"
        "problem = Problem(MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])\n"
        "point = find_critical_point(problem, starts=1)\n"
        "assert judge(point).kind is Kind.STRICT_MINIMUM\n"
        "for ask in (\n"
        "    lambda: certify(point),\n"
        "    lambda: certify_not_critical(point),\n"
        "    lambda: certify_descent(point, point.params, 0.5),\n"
        "    lambda: judge(point, proof=True),\n"
        f"    lambda: verify({str(path)!r}),\n"
        f"    lambda: verify_distinct([{str(path)!r}]),\n"
        "):\n"
        "    try:\n"
        "        print('no error:', ask())\n"
        "    except InputError as error:\n"
        "        print(error)\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        assert not line.startswith("no error"), line
        assert "semiflat[certify]" in line


# -- how many are distinct --------------------------------------------------------------------------


def saved(folder: Path, points: Sequence[sf.Point]) -> list[Path]:
    paths = [folder / f"{place}.json" for place in range(len(points))]
    for path, certificate in zip(paths, sf.certify_all(list(points)), strict=True):
        assert certificate.certified, certificate
        certificate.save(path, data="data.json")
    return paths


def test_the_distinct_points_of_a_search_are_counted(tmp_path: Path) -> None:
    points = found((2, 2, 1), "gelu", 0)
    assert len(points) >= 3
    counted = sf.verify_distinct(saved(tmp_path, points))
    assert counted.ok
    assert counted.at_least == len(points)
    assert counted.chosen == tuple(range(len(points)))
    assert f"at least {len(points)} of {len(points)}" in counted.reason


COPIES: dict[str, Callable[[], list[sf.Point]]] = {
    "the same": lambda: [narrow(), narrow()],
    "permuted": lambda: [narrow(), sf.Permute(0, [1, 0])(narrow()).materialize()],
    "mirrored": lambda: [narrow(), sf.Reflect(0, 1)(narrow()).materialize()],
    "both": lambda: [
        narrow(),
        (sf.Reflect(0, 0) >> sf.Permute(0, [1, 0]))(narrow()).materialize(),
    ],
    "half a period": lambda: [narrow(), half_a_period(narrow())],
    "rescaled": lambda: [dead(), sf.Rescale(0, live(), 3)(dead()).materialize()],
    "shifted": lambda: [
        found((2, 2, 2), "gelu", 0, loss="cross_entropy")[0],
        shifted(found((2, 2, 2), "gelu", 0, loss="cross_entropy")[0]),
    ],
    "with decay": lambda: [
        decayed(),
        sf.Point(decayed().problem, {**decayed().params, **mirrored(decayed())}),
    ],
}


def half_a_period(point: sf.Point) -> sf.Point:
    """sin(z + π) = −sin z."""
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["0.bias"][0] += torch.pi
    params["2.weight"][:, 0] *= -1
    return sf.Point(point.problem, params)


def shifted(point: sf.Point) -> sf.Point:
    """Another with the same softmax."""
    moved = {key: point.params[key] + (0.5 if key == "2.bias" else 0) for key in point.params}
    return sf.Point(point.problem, moved)


def mirrored(point: sf.Point) -> dict[str, Tensor]:
    """Both units of an odd activation turned round."""
    return {key: -point.params[key] for key in ("0.weight", "0.bias", "2.weight")}


@pytest.mark.parametrize("name", COPIES)
def test_what_symmetries_turn_into_each_other_counts_once(name: str, tmp_path: Path) -> None:
    points = COPIES[name]()
    if name != "the same":
        flat = [point.problem.net.flatten(point.params) for point in points]
        assert (flat[0] - flat[1]).abs().max() > 1e-2
    counted = sf.verify_distinct(saved(tmp_path, points))
    assert (counted.at_least, counted.chosen, counted.ok) == (1, (0,), False)


def test_copies_among_distinct_points_are_left_out(tmp_path: Path) -> None:
    one, two, *_ = found((2, 2, 1), "gelu", 0)
    turned = [sf.Permute(0, [1, 0])(point).materialize() for point in (one, two)]
    counted = sf.verify_distinct(saved(tmp_path, [one, turned[0], two, turned[1], one]))
    assert (counted.at_least, counted.chosen, counted.ok) == (2, (0, 2), False)


def test_files_of_two_problems_are_not_counted_together(tmp_path: Path) -> None:
    first = saved(tmp_path, [narrow()])
    others = [
        GOOD["decay"](),
        sf.certify(found((2, 2, 1), "gelu", 0)[0]),
        sf.certify(narrow_elsewhere()),
    ]
    for certificate in others:
        certificate.save(tmp_path / "other.json")
        counted = sf.verify_distinct([*first, tmp_path / "other.json"])
        assert (counted.at_least, counted.chosen, counted.ok) == (0, (), False)
        assert "other.json" in counted.reason
        assert "another problem" in counted.reason


def narrow_elsewhere() -> sf.Point:
    """The same risk, but for the order of its samples."""
    problem = narrow().problem
    turned = sf.Problem(problem.net, problem.X.flip(0), problem.y.flip(0))
    return sf.Point(turned, narrow().params)


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("narrow", put("proved", "kind", "STRICT_SADDLE")),
        ("narrow", put("radius", "0x1p5000")),
        ("narrow", put("radius", None)),
        ("narrow", put("frozen", [1])),
        ("narrow", put("problem", [])),
        ("narrow", put("Q", [])),
        ("narrow", put("status", "undecided")),
        ("narrow", drop("proved")),
        ("minimum", put("notes", {})),
        ("not critical", put("notes", {})),
        ("descent", put("notes", {})),
    ],
)
def test_one_bad_file_leaves_nothing_counted(name: str, edit: Edit, tmp_path: Path) -> None:
    document = good(name)
    edit(document)
    paths = [*saved(tmp_path, [narrow()]), written(tmp_path, document)]
    for given in (paths, paths[::-1], paths[1:]):
        counted = sf.verify_distinct(given)
        assert (counted.at_least, counted.chosen, counted.ok) == (0, (), False)
        assert "certificate.json" in counted.reason


# -- bad input --------------------------------------------------------------------------------------

NET = sf.MLP([1, 2, 1], "tanh")
PROBLEM = sf.Problem(NET, [[-1.0], [0.0], [1.0], [2.0]], [0.0, 0.5, 0.2, 1.0])


def somewhere_else(problem: sf.Problem = PROBLEM) -> sf.Point:
    return sf.Point(problem, problem.net.random_params(seed=0))


CERTIFY: dict[str, Callable[[Any], sf.Certificate]] = {
    "certify": sf.certify,
    "certify_not_critical": sf.certify_not_critical,
    "certify_descent": lambda point: sf.certify_descent(point, NET.random_params(seed=1), 0.1),
}


@pytest.mark.parametrize("name", CERTIFY)
def test_a_certificate_is_of_one_point(name: str) -> None:
    for given in (None, "point", [somewhere_else()], PROBLEM, NET.random_params(seed=0)):
        with pytest.raises(
            sf.InputError, match=r"a certificate takes a Point, not \w+; make one with Point"
        ):
            CERTIFY[name](given)
    batch = sf.PointBatch(PROBLEM, NET.random_params(0, (3,)))
    with pytest.raises(sf.InputError, match="a certificate takes one point; this is a PointBatch"):
        CERTIFY[name](batch)


def test_certify_all_takes_a_list() -> None:
    assert sf.certify_all([]) == []
    with pytest.raises(sf.InputError):
        sf.certify_all(somewhere_else())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CERTIFY)
@pytest.mark.parametrize("what", ["activation", "loss"])
def test_functions_of_a_user_are_named_as_what_cannot_be_certified(name: str, what: str) -> None:
    activation: Any = (lambda z: torch.tanh(z)) if what == "activation" else "tanh"
    loss: Any = (lambda f, y: ((f - y) ** 4).sum()) if what == "loss" else "squared"
    problem = sf.Problem(sf.MLP([1, 2, 1], activation), PROBLEM.X, PROBLEM.y, loss)
    certificate = CERTIFY[name](somewhere_else(problem))
    assert certificate.status == "invalid_input"
    assert not certificate.certified
    assert what in certificate.reason
    assert "known: " in certificate.reason
    assert "\n" not in certificate.reason


def test_a_point_that_has_not_converged_is_undecided() -> None:
    certificate = sf.certify(somewhere_else())
    assert certificate.status == "undecided"
    assert "gradient" in certificate.reason
    assert "\n" not in certificate.reason
    assert (certificate.kind, certificate.inertia, certificate.loss) == (None, None, None)
    assert (certificate.location, certificate.unique, certificate.theorem) == (None, None, None)
    assert certificate.premises == []
    assert certificate.proved == {}


@pytest.mark.parametrize(
    "radius",
    [
        -1,
        -1e-300,
        float("nan"),
        float("inf"),
        "1",
        None,
        [0.1],
        1j,
        pytest.param(10**400, id="huge"),
    ],
)
def test_a_radius_that_is_none_is_refused(radius: Any) -> None:
    with pytest.raises(sf.InputError, match="radius"):
        sf.certify_not_critical(somewhere_else(), radius)


@pytest.mark.parametrize(
    "step",
    [float("nan"), float("inf"), -float("inf"), "1", None, 1j, pytest.param(10**400, id="huge")],
)
def test_a_step_that_is_none_is_refused(step: Any) -> None:
    point = somewhere_else()
    with pytest.raises(sf.InputError, match="step"):
        sf.certify_descent(point, NET.unflatten(-sf.gradient(point)), step)


def test_a_direction_that_does_not_fit_is_refused() -> None:
    point = somewhere_else()
    for direction in ({}, sf.MLP([1, 3, 1]).random_params(0), NET.random_params(0, (3,))):
        with pytest.raises(sf.InputError):
            sf.certify_descent(point, direction, 0.1)


@pytest.mark.parametrize("what", ["single precision", "huge"])
def test_points_of_other_precision_or_size_are_decided_or_not_but_never_an_error(what: str) -> None:
    single = sf.Problem(NET, PROBLEM.X, PROBLEM.y, dtype=torch.float32)
    point = somewhere_else()
    if what == "single precision":
        point = somewhere_else(single)
    else:
        point = sf.Point(PROBLEM, {key: 1e200 * t for key, t in point.params.items()})
    assert sf.certify(point).status == "undecided"
    assert sf.certify_not_critical(point).status in ("certified", "undecided")


def test_a_point_all_of_whose_parameters_symmetries_move_is_believed(tmp_path: Path) -> None:
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu", bias=False), [[-1.0], [-2.0]], [0.3, 0.5])
    ones = {key: torch.ones(1, 1) for key in ("0.weight", "2.weight")}
    certificate = sf.certify(sf.Point(problem, ones))
    assert certificate.inertia == (0, 2, 0)
    certificate.save(tmp_path / "all.json")
    assert sf.verify(tmp_path / "all.json").ok


def tiny_logistic() -> sf.Point:
    """One parameter."""
    problem = sf.Problem(sf.MLP([1, 1], bias=False), [[1.0], [-2.0]], [0.3, 0.6], "logistic")
    return sf.find_critical_point(problem, starts=1, processes=1)


def one_free_parameter() -> sf.Point:
    """Softmax and a dead relu unit hold all parameters but one."""
    return found((2, 1, 2), "relu", 2, loss="cross_entropy")[0]


def sigmoid_saddle() -> sf.Point:
    """Balls of a saddle's box are many times as wide as float64's bounds of it."""
    given = random_reference([3, 2, 2], "sigmoid", "squared", True, 3, seed=692475)
    problem = sf.Problem(sf.MLP([3, 2, 2], "sigmoid"), given.X, given.y, weight_decay=1e-4)
    return sf.find_critical_points(
        problem, starts=2, seed=475, kind="any", max_iterations=40, processes=1
    )[0]


@pytest.mark.parametrize("make", [tiny_logistic, one_free_parameter, sigmoid_saddle])
def test_what_is_certified_is_believed(make: Callable[[], sf.Point], tmp_path: Path) -> None:
    certificate = sf.certify(make())
    assert certificate.certified
    certificate.save(tmp_path / "certified.json")
    assert sf.verify(tmp_path / "certified.json").ok


def test_a_certificate_is_neither_true_nor_false() -> None:
    for certificate in (GOOD["narrow"](), sf.certify(somewhere_else())):
        with pytest.raises(TypeError, match="neither true nor false"):
            bool(certificate)


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(sf.InputError, match="cannot write"):
        GOOD["narrow"]().save(tmp_path / "folder")
