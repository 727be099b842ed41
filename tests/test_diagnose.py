"""What a diagnosis says of trained networks, held against automatic differentiation and descents of its own.

The networks are trained in float32 by torch, from fixed seeds. What is checked shares no code with the
library but the reading of its parameters: losses, gradients and Hessians are those of ``reference``, descents
are torch's L-BFGS and plain Newton steps.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import semiflat as sf
from helpers import refused, refused_command, run
from reference import MODULES, Reference
from semiflat.diagnosis import diagnose_cost
from semiflat.diagnosis.polish import separation
from semiflat.symmetries.canonical import same_network


@dataclass(frozen=True)
class Trained:
    """How a network was trained."""

    data: str
    hidden: tuple[int, ...]
    activation: str
    optimiser: str
    steps: int
    seed: int

    def __str__(self) -> str:
        hidden = "-".join(map(str, self.hidden))
        return f"{self.data}-{hidden}-{self.activation}-{self.optimiser}-{self.steps}"


def waves(samples: int = 60) -> tuple[Tensor, Tensor, str]:
    """Two inputs, two smooth targets with noise."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(samples, 2, generator=generator)
    y = torch.stack([torch.sin(2 * X[:, 0]), X[:, 0] * X[:, 1]], 1)
    return X, y + 0.3 * torch.randn(samples, 2, generator=generator), "squared"


def mixed(samples: int = 90) -> tuple[Tensor, Tensor, str]:
    """Three classes that overlap."""
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(samples) % 3
    return torch.randn(samples, 2, generator=generator) + 0.7 * y[:, None], y, "cross_entropy"


def data_of(name: str) -> tuple[Tensor, Tensor, str]:
    """Inputs (N, d) float32, targets and the name of the loss."""
    own = {"waves": waves, "mixed": mixed}
    if name in own:
        return own[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some pixels of the digits are always 0
        found = sf.load_data(name)
    y = torch.tensor(found.y)
    if found.loss == "squared":
        y = y.float().reshape(len(y), -1)
    return torch.tensor(found.X, dtype=torch.float32), y, found.loss


def module_of(widths: list[int], activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan, width in pairwise(widths):
        layers += [nn.Linear(fan, width), MODULES[activation]()]
    return nn.Sequential(*layers[:-1])


def trained(how: Trained) -> tuple[nn.Sequential, Tensor, Tensor, str]:
    """A float32 network after a few hundred steps on batches."""
    X, y, loss = data_of(how.data)
    outputs = y.shape[1] if loss == "squared" else int(y.max()) + 1
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        module = module_of([X.shape[1], *how.hidden, outputs], how.activation)
        if how.optimiser == "adam":
            optimiser: Any = torch.optim.Adam(module.parameters(), lr=1e-2)
        else:
            optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
        measure = nn.MSELoss() if loss == "squared" else nn.CrossEntropyLoss()
        for _ in range(how.steps):
            batch = torch.randint(0, len(X), (min(64, len(X)),))
            optimiser.zero_grad()
            measure(module(X[batch]), y[batch]).backward()
            optimiser.step()
    return module, X, y, loss


@cache
def point_of(how: Trained) -> sf.Point:
    module, X, y, loss = trained(how)
    return sf.Point.from_module(module, X, y, loss=loss)


@cache
def diagnosed(how: Trained) -> sf.Diagnosis:
    return sf.diagnose(point_of(how), say=lambda line: None)


def reference_of(point: sf.Point) -> Reference:
    """The same network, on which everything is automatic."""
    problem = point.problem
    name = problem.net.activations[0].name
    return Reference(name, dict(point.params), problem.X, problem.y, problem.loss.name)


def hessian_of(ref: Reference) -> Tensor:
    """The dense Hessian in float64, a few rows at a time, as memory allows."""
    slope = torch.func.grad(ref.risk)
    back = torch.func.vjp(slope, ref.vector)[1]
    rows = torch.eye(len(ref.vector), dtype=torch.float64).split(64)
    return torch.cat([torch.func.vmap(lambda v: back(v)[0])(some) for some in rows])


def lbfgs(ref: Reference, start: Tensor, steps: int = 300) -> Tensor:
    """Where torch's L-BFGS gets from there."""
    vector = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [vector],
        max_iter=steps,
        history_size=50,
        tolerance_grad=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        risk = ref.risk(vector)
        risk.backward()
        return risk

    optimiser.step(closure)
    return vector.detach()


def newton(ref: Reference, start: Tensor, steps: int = 8) -> Tensor:
    """Newton's steps with every curvature counted as positive, as long as the loss does not rise."""
    vector = start
    for _ in range(steps):
        values, vectors = torch.linalg.eigh(torch.func.hessian(ref.risk)(vector))
        slope = vectors.mT @ torch.func.grad(ref.risk)(vector)
        move = vectors @ (slope / values.abs().clamp(min=1e-12 * float(values.abs().max())))
        if float(ref.risk(vector - move)) > float(ref.risk(vector)):
            break
        vector = vector - move
    return vector


def check_gradient(found: sf.Diagnosis, ref: Reference) -> None:
    slope = ref.gradient()
    pieces = slope.split([shape.numel() for shape in ref.shapes.values()])
    layers = [torch.cat([pieces[k], pieces[k + 1]]) for k in range(0, len(pieces), 2)]
    size = float(slope.abs().max())
    for layer, told in zip(layers, found.gradient, strict=True):
        assert told.largest == pytest.approx(
            float(layer.abs().max()), rel=1e-9, abs=1e-14 + 1e-9 * size
        )
        expected = float(layer.square().sum() / slope.square().sum())
        assert told.share == pytest.approx(expected, abs=1e-8)
        assert told.part >= 0
    if found.verdict.kind is sf.Kind.NOT_CRITICAL:
        assert found.steep
        assert max(told.part for told in found.gradient) > 1e-10


def check_curvature(found: sf.Diagnosis, ref: Reference) -> None:
    if found.no_hessian:
        assert ref.nearest_kink() < 1e-6
        return
    H = hessian_of(ref)
    values = torch.linalg.eigvalsh(H)
    size = float(values.abs().max())
    rounding = 1e-13 * size * len(values)
    told = found.curvature
    if told is None:
        assert float(values[0]) > -1e-8 * size
        return
    assert 1 <= told.count <= int((values < rounding).sum())
    if told.whole:
        assert told.count >= int((values < -1e-8 * size).sum())
    assert told.lowest < -10 * told.floor
    way = ref_vector(ref, told.direction)
    assert float(torch.linalg.vector_norm(way)) == pytest.approx(1)
    assert float(way @ H @ way) == pytest.approx(told.lowest, rel=1e-6, abs=rounding)
    assert float(values[0]) <= told.lowest + rounding
    assert float(values[0]) >= told.lowest * (1 + 1e-6) - rounding or not told.whole
    assert not told.whole or float(values[0]) == pytest.approx(told.lowest, rel=1e-6)
    assert float(ref.gradient() @ way) <= 1e-12
    there = float(ref.risk(ref.vector + told.step * way))
    assert ref.value() - there == pytest.approx(told.drop, rel=1e-6, abs=1e-14)
    assert told.drop > 0, "the loss curves down, and does not rise at first"


def ref_vector(ref: Reference, params: sf.networks.Params) -> Tensor:
    return torch.cat([params[key].reshape(-1) for key in ref.shapes])


def check_polished(found: sf.Diagnosis, ref: Reference) -> None:
    there, problem = found.polished, found.point.problem
    point = there.point
    assert there.loss <= found.point.loss * (1 + 1e-12)
    if there.goal in (sf.Goal.NOT_TRIED, sf.Goal.HERE):
        return
    assert point is not None
    if there.goal is sf.Goal.INFINITY:
        assert isinstance(point.problem, sf.AtInfinity)
        limit = sf.Limit.of(point)
        gaps = [abs(limit.approach(scale).loss - there.loss) for scale in (1e2, 1e3, 1e4)]
        assert gaps[2] <= 1e-4 * there.loss or gaps[2] < gaps[0] / 5
        return
    ending = reference_of(point)
    # A loss of 1e-15 is the square of what outputs of size 1 are known to.
    assert ending.value() == pytest.approx(there.loss, rel=1e-9, abs=1e-15 * found.point.loss)
    moved = ending.outputs(ending.vector) - ref.outputs(ref.vector)
    if problem.loss.shift_invariant:
        moved = moved - moved.mean(1, keepdim=True)
    assert there.outputs == pytest.approx(float(moved.square().mean().sqrt()), rel=1e-6, abs=1e-12)
    if there.goal is sf.Goal.SEPARATION:
        assert problem.loss.classifies
        outputs = ending.outputs(ending.vector)
        assert bool((outputs.argmax(1) == problem.y).all())
        losses = [nn.functional.cross_entropy(s * outputs, problem.y) for s in (1, 2, 4, 8)]
        assert all(after < before for before, after in pairwise(losses))
        assert float(losses[-1]) < 0.1 * float(losses[0])
        return
    size = float(ending.gradient().abs().max())
    if there.goal is sf.Goal.FIT:
        assert there.loss < 1e-18
    elif there.goal is sf.Goal.CRITICAL:
        assert size < 1e-9
        check_kind(there, ending)
    else:
        assert there.verdict is None
        assert there.reason
    if "it still falls" in found.advice:
        assert float(ending.risk(lbfgs(ending, ending.vector, 40))) < there.loss, "it still falls"


def check_kind(there: sf.Polished, ending: Reference) -> None:
    """By eigenvalues, and by a descent: from beside a minimum it comes back to the same loss."""
    assert there.verdict is not None
    kind, vector = there.verdict.kind, ending.vector
    if kind is sf.Kind.UNDECIDED:
        return
    values = torch.linalg.eigvalsh(hessian_of(ending))
    if kind is sf.Kind.STRICT_SADDLE:
        assert float(values[0]) < 0
        return
    assert float(values[0]) > -1e-9 * float(values[-1])
    generator = torch.Generator().manual_seed(0)
    aside = 1e-6 * torch.randn(len(vector), generator=generator, dtype=torch.float64)
    back = newton(ending, lbfgs(ending, vector + aside * vector.abs().mean(), 60), 3)
    assert float(ending.risk(back)) >= there.loss * (1 - 1e-9) - 1e-18


def check_text(found: sf.Diagnosis) -> None:
    """Nothing twice, nothing circular."""
    text = str(found)
    parts = [part.strip() for part in re.split(r"[;\n]|(?<=[a-z)])\. ", text)]
    parts = [part for part in parts if len(part.split()) > 3]
    assert len(parts) == len(set(parts)), sorted(parts)
    assert "polish the point" not in text
    assert "find_critical_point" not in text
    assert len(found.sections) >= 6
    assert found.advice
    assert found.advice not in "\n".join(found.sections.values())
    assert "nan" not in text
    json.dumps(found.to_json(), allow_nan=False)
    assert found._repr_html_().count("<tr>") == len(found.sections) + 1


def check_widths(found: sf.Diagnosis) -> None:
    outputs = found.point.problem.outputs(found.point.params)
    spread = float((outputs - outputs.mean(0)).abs().max())
    for tolerance, widths, bound in found.widths:
        small = sf.reduce(found.point, tolerance)
        changed = (small.point.problem.outputs(small.point.params) - outputs).abs().max()
        assert sum(widths) <= sum(small.widths)
        assert bound <= tolerance * spread * (1 + 1e-9)
        assert small.widths != widths or float(changed) <= bound + 1e-12


def check_way_out(found: sf.Diagnosis) -> None:
    out, there = found.way_out, found.polished
    if out is None or not out.escape.found:
        return
    assert there.verdict is not None
    assert there.verdict.kind in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)
    wide, direction = out.escape.point, out.escape.direction
    assert wide is not None
    assert direction is not None
    assert wide.loss == pytest.approx(there.loss, rel=1e-9)
    if isinstance(wide.problem, sf.AtInfinity):
        return
    ref = reference_of(wide)
    way = out.step * ref_vector(ref, direction)
    lowest = min(float(ref.risk(ref.vector + sign * way)) for sign in (1, -1))
    assert ref.value() - lowest == pytest.approx(out.drop, rel=1e-6)
    if out.reached is not None:
        assert out.reached <= there.loss - out.drop + 1e-15


def check(how: Trained) -> sf.Diagnosis:
    found = diagnosed(how)
    ref = reference_of(point_of(how))
    assert found.point.loss == pytest.approx(ref.value(), rel=1e-9)
    check_gradient(found, ref)
    check_curvature(found, ref)
    check_polished(found, ref)
    check_widths(found)
    check_way_out(found)
    check_text(found)
    return found


QUICK = [
    Trained("waves", (4,), "tanh", "adam", 200, 0),
    Trained("mixed", (4,), "gelu", "sgd", 200, 2),
    Trained("waves", (6,), "relu", "sgd", 200, 1),
    Trained("wine", (4,), "relu", "adam", 60, 3),
]


@pytest.mark.parametrize("how", QUICK, ids=str)
def test_what_is_said_of_a_trained_network_is_true(how: Trained) -> None:
    check(how)


ALL = [
    Trained("diabetes", (8,), "tanh", "adam", 400, 10),
    Trained("diabetes", (8,), "gelu", "sgd", 400, 11),
    Trained("diabetes", (8,), "relu", "adam", 400, 12),
    Trained("diabetes", (3,), "gelu", "adam", 600, 13),
    Trained("diabetes", (14,), "tanh", "sgd", 300, 14),
    Trained("diabetes", (12, 8), "relu", "sgd", 300, 15),
    Trained("diabetes", (12, 8), "gelu", "adam", 300, 16),
    Trained("diabetes", (12, 8), "tanh", "adam", 300, 17),
    Trained("waves", (30,), "relu", "adam", 400, 18),
    Trained("waves", (30,), "tanh", "sgd", 400, 19),
    Trained("waves", (20,), "gelu", "adam", 400, 20),
    Trained("mixed", (20,), "tanh", "adam", 300, 21),
    Trained("mixed", (20,), "relu", "sgd", 300, 22),
    Trained("mixed", (20,), "gelu", "adam", 300, 23),
    Trained("mixed", (10, 6), "tanh", "sgd", 300, 24),
    Trained("iris", (14,), "tanh", "adam", 60, 25),
    Trained("iris", (14,), "gelu", "sgd", 300, 26),
    Trained("iris", (14, 8), "relu", "sgd", 200, 27),
    Trained("wine", (8,), "relu", "adam", 60, 28),
    Trained("wine", (20,), "tanh", "sgd", 200, 29),
    Trained("breast_cancer", (10,), "gelu", "adam", 60, 30),
    Trained("breast_cancer", (30,), "relu", "sgd", 100, 31),
    Trained("linnerud", (20,), "tanh", "adam", 300, 32),
    Trained("linnerud", (16,), "relu", "adam", 200, 33),
    Trained("diabetes", (30, 20), "gelu", "sgd", 200, 34),
    Trained("diabetes", (40, 30), "relu", "adam", 300, 35),
    Trained("diabetes", (50, 40), "tanh", "adam", 150, 36),
    Trained("digits", (20,), "gelu", "adam", 150, 37),
    Trained("digits", (32, 32), "relu", "sgd", 100, 38),
    Trained("digits", (60,), "tanh", "adam", 100, 39),
]


@pytest.mark.slow
@pytest.mark.parametrize("how", ALL, ids=str)
def test_what_is_said_of_thirty_trained_networks_is_true(how: Trained) -> None:
    check(how)


def test_the_thirty_are_of_all_kinds() -> None:
    assert len(set(ALL)) == 30
    assert {how.activation for how in ALL} == {"tanh", "relu", "gelu"}
    assert {how.optimiser for how in ALL} == {"adam", "sgd"}


# -- points of other kinds -------------------------------------------------------------------------

X, Y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]


@pytest.fixture(scope="module")
def minimum() -> sf.CriticalPoint:
    return sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, Y), starts=8)


def test_near_a_minimum_it_is_told_how_near(minimum: sf.CriticalPoint) -> None:
    near = {key: value + 1e-4 for key, value in minimum.params.items()}
    found = sf.diagnose(sf.Point(minimum.problem, near))
    assert found.steep
    assert found.polished.goal is sf.Goal.CRITICAL
    assert same_network(minimum.problem.net, found.polished.point.params, minimum.params)
    length = float(torch.linalg.vector_norm(minimum.problem.net.flatten(minimum.params)))
    assert found.polished.parameters == pytest.approx(2e-4 / length, rel=0.01)
    assert found.advice.startswith("More training of this network gains no more than")
    assert "One unit more" in found.advice


def test_symmetries_are_no_distance(minimum: sf.CriticalPoint) -> None:
    from semiflat.diagnosis.polish import apart

    problem = minimum.problem.with_net(sf.MLP([1, 3, 1], "tanh"))
    one = problem.net.random_params(0)
    other = (sf.Reflect(0, 1) >> sf.Permute(0, [2, 0, 1]))(sf.Point(problem, one)).params
    assert apart(problem, one, other) < 1e-14
    other["2.bias"] = other["2.bias"] + 0.1
    length = float(torch.linalg.vector_norm(problem.net.flatten(one)))
    assert apart(problem, one, other) == pytest.approx(0.1 / length)


def test_a_saddle_is_left_along_its_direction(minimum: sf.CriticalPoint) -> None:
    saddle = sf.Replicate(0, 0, ["1/4", "3/4"])(minimum)
    found = sf.diagnose(saddle)
    assert found.verdict.method == "inertia law"
    assert found.polished.goal is sf.Goal.HERE
    assert found.advice.startswith("Leave this strict saddle: go")
    step, direction = found.curvature.step, found.curvature.direction
    left = {key: value + step * direction[key] for key, value in saddle.params.items()}
    assert sf.Point(saddle.problem, left).loss == pytest.approx(saddle.loss - found.curvature.drop)
    assert len(found.verdict.flat_directions) > 0
    assert found.sections["flat"].startswith("flat: 1 direction")
    assert "do the work of 1 exactly" in found.sections["width"]
    check_text(found)


def test_the_side_is_the_gradient_s_and_the_step_the_best_of_those_tried() -> None:
    point, found = point_of(QUICK[0]), diagnosed(QUICK[0])
    net, way = point.problem.net, found.curvature.direction
    vector, flat = net.flatten(point.params), net.flatten(way)
    assert float(sf.gradient(point) @ flat) < 0
    for step in (found.curvature.step / 1.7, found.curvature.step * 1.7):
        there = float(point.problem.risk(net.unflatten(vector + step * flat)))
        assert point.loss - there <= found.curvature.drop


def test_a_point_at_infinity_is_told_of_as_one() -> None:
    inputs = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), inputs, inputs.abs())
    run = next(run for run in sf.run_search(problem, starts=2).runs if run.status.at_infinity)
    found = sf.diagnose(run.limit.point)
    assert isinstance(found.point.problem, sf.AtInfinity)
    assert found.polished.goal is sf.Goal.HERE
    check_text(found)
    elsewhere = {key: value + 0.1 for key, value in run.limit.params.items()}
    moved = sf.diagnose(sf.Point(run.limit.point.problem, elsewhere))
    assert moved.polished.goal is sf.Goal.NOT_TRIED
    assert "at infinity" in moved.sections["polishing"]
    check_text(moved)
    # A finite point on the way there leads there.
    near = sf.diagnose(run.limit.approach(10.0))
    assert near.polished.goal is sf.Goal.INFINITY
    assert near.polished.loss == pytest.approx(run.limit.loss)
    assert near.polished.parameters is None
    assert near.polished.verdict.kind is sf.Kind.MINIMUM
    assert near.advice.startswith("Do not wait for the weights to settle")


def test_classes_are_separated_only_where_every_sample_is_and_nothing_holds_the_weights() -> None:
    problem = sf.Problem(sf.MLP([1, 2]), [[-1.0], [1.0]], [0, 1], loss="cross_entropy")
    apart, wrong = (
        torch.tensor([[1.0, 0.5], [0.0, 2.0]]).double(),
        torch.tensor([[1.0, 0.5], [2.0, 2.0]]),
    )
    assert separation(problem, apart) == 0.5
    assert separation(problem, wrong.double()) is None
    assert separation(problem.with_weight_decay(1e-3), apart) is None
    soft = sf.Problem(
        sf.MLP([1, 2]), [[-1.0], [1.0]], [[0.9, 0.1], [0.0, 1.0]], loss="cross_entropy"
    )
    assert separation(soft, apart) is None, (
        "outputs of two classes that both have a part stay together"
    )
    squared = sf.Problem(sf.MLP([1, 2]), [[-1.0], [1.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert separation(squared, apart) is None


def test_weight_decay_makes_the_advice_s_minimum() -> None:
    module, inputs, y, loss = trained(QUICK[3])
    found = diagnosed(QUICK[3])
    assert found.polished.goal is sf.Goal.SEPARATION
    assert "add weight decay" in found.advice
    held = sf.diagnose(sf.Point.from_module(module, inputs, y, loss=loss, weight_decay=1e-2))
    assert held.polished.goal is not sf.Goal.SEPARATION
    assert "weight decay 0.01" in held.sections["point"]
    check_text(held)


def test_a_fit_is_told_as_one() -> None:
    found = sf.diagnose(point_of(Trained("linnerud", (30,), "tanh", "adam", 60, 1)))
    assert found.polished.goal is sf.Goal.FIT
    assert found.advice.startswith("Decide whether the targets are to be met one by one")
    again = sf.diagnose(found.polished.point)
    assert again.polished.goal in (sf.Goal.HERE, sf.Goal.FIT)
    assert again.advice.startswith("Stop")
    assert again.way_out is None


def test_at_a_kink_there_is_no_hessian_to_tell_of() -> None:
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), [[0.0], [1.0], [2.0]], [0.1, 0.7, 1.1])
    params = {"0.weight": [[1.0]], "0.bias": [0.0], "2.weight": [[0.5]], "2.bias": [0.1]}
    at_kink = {key: torch.tensor(value).double() for key, value in params.items()}
    found = sf.diagnose(sf.Point(problem, at_kink))
    assert found.curvature is None
    assert "not differentiable here" in found.sections["curvature"]
    check_text(found)


def test_without_hessians_less_is_said_and_what_is_said_holds() -> None:
    point = point_of(QUICK[0])
    found = sf.diagnose(point, dense_limit=10)
    whole = diagnosed(QUICK[0])
    assert not found.dense
    assert not found.curvature.whole
    assert 1 <= found.curvature.count <= whole.curvature.count
    check_curvature(found, reference_of(point))
    check_polished(found, reference_of(point))
    check_text(found)
    assert "not looked for" in found.sections["flat"]
    assert found.polished.loss < point.loss


def test_what_is_surely_negative_is_what_the_inertia_law_counts(minimum: sf.CriticalPoint) -> None:
    wide = sf.Replicate(0, 0, [2, *[-1 / 40] * 40])(minimum)
    found = sf.diagnose(wide, dense_limit=50)
    assert found.verdict.method == "inertia law"
    assert not found.dense
    assert 1 <= found.curvature.count <= found.verdict.inertia.negative
    # None of the zeros that rounding leaves below 0 is counted.
    assert found.verdict.inertia.zero == 40
    assert sf.diagnose(wide).curvature.count == found.verdict.inertia.negative == 40


def test_what_takes_long_is_said_before_and_what_takes_too_long_is_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semiflat.diagnosis import polish

    point = point_of(QUICK[0])
    told: list[str] = []
    with caplog.at_level(logging.WARNING, logger="semiflat"):
        sf.diagnose(point, say=told.append)
    assert told[0] == "gradient and curvature"
    assert not caplog.records, "it takes a moment"
    net = sf.MLP([50, 600, 600, 1])
    wide = sf.Problem(net, torch.zeros(3000, 50), torch.zeros(3000))
    assert polish.polish_cost(wide, 1000).seconds == 0.0
    assert diagnose_cost(sf.Point(wide, net.random_params(0))).seconds > 0.0
    monkeypatch.setattr(polish, "MOST_WORK", 0.0)
    monkeypatch.setattr("semiflat.costs.LARGE", 0)
    with caplog.at_level(logging.WARNING, logger="semiflat"):
        found = sf.diagnose(point, dense_limit=10)
    assert [record.getMessage()[:24] for record in caplog.records] == ["the diagnosis will take "]
    assert found.polished.goal is sf.Goal.NOT_TRIED
    assert "it was not tried" in found.sections["polishing"]
    assert found.advice.startswith("Train on; ")


def test_a_run_out_of_steps_is_said_to_be_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from semiflat.diagnosis import polish

    monkeypatch.setattr(polish, "STEPS", 3)
    monkeypatch.setattr(polish, "FEWEST", 1)
    point = point_of(QUICK[0])
    found = sf.diagnose(point)
    assert found.polished.goal is sf.Goal.ON_ITS_WAY
    assert found.polished.verdict is None
    assert "and it still falls" in found.advice
    assert found.polished.loss < point.loss


def test_it_is_drawn() -> None:
    found = diagnosed(QUICK[0])
    axes = found.plot().axes
    assert [len(ax.lines) for ax in axes] == [0, 3, 3]
    assert sum(bar.get_height() for bar in axes[0].patches) == pytest.approx(100)
    line = axes[2].lines[0].get_ydata()
    assert min(line) >= found.polished.loss - 1e-12
    bare = sf.diagnose(sf.find_critical_point(sf.Problem(sf.MLP([1, 1]), X, Y), starts=1))
    (only,) = bare.plot().axes  # a minimum: neither a gradient nor a way to see, but its curvatures
    assert only.collections or only.lines


def test_what_is_no_point_is_refused(minimum: sf.CriticalPoint) -> None:
    with refused("diagnose takes a Point"):
        sf.diagnose(minimum.params)  # type: ignore[arg-type]
    with refused("dense_limit"):
        sf.diagnose(minimum, dense_limit=-1)
    with refused("tolerance"):
        sf.diagnose(minimum, tolerance=float("nan"))


def test_where_the_loss_overflows_nothing_is_said() -> None:
    problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, Y)
    far = {key: 1e200 * value for key, value in problem.net.random_params(0).items()}
    for ask in (sf.diagnose, sf.judge):
        with refused("the loss at the point is inf"):
            ask(sf.Point(problem, far))


def test_sentences_are_plain_where_all_parameters_are_zero_and_where_there_is_no_hidden_layer() -> (
    None
):
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, Y)
    nought = {key: 0 * value for key, value in problem.net.random_params(0).items()}
    assert (
        "inf" not in sf.diagnose(sf.Point(problem, nought)).sections["polishing"].split("loss")[-1]
    )
    line = sf.Problem(sf.MLP([1, 1]), X, Y)
    assert "width" not in sf.diagnose(sf.Point(line, line.net.random_params(0))).sections


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "mynets.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))\n"
        "def number():\n    return 3\n"
        "def lacking():\n    import nothing_e\n"
    )
    save_file(module_of([4, 3, 3], "tanh").state_dict(), own_folder / "net.safetensors")
    torch.save(module_of([4, 3, 3], "tanh").state_dict(), own_folder / "net.pt")
    return own_folder


def test_the_command_tells_of_a_module_and_of_a_saved_point(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    asked = [
        "diagnose",
        "--model",
        "mynets:make",
        "--weights",
        "net.safetensors",
        "--data",
        "iris",
    ]
    code, out, err = run(capsys, *asked, "--figure", "it.png")
    assert code == 0
    assert "was standardised" in err  # the module may have been trained on other numbers
    assert "--raw" in err
    assert "standardised" not in run(capsys, *asked, "--raw")[2]
    assert "widths 4-3-3" in out
    assert "advice: " in out
    assert (folder / "it.png").read_bytes()[:4] == b"\x89PNG"
    code, out, _ = run(capsys, *asked, "--weight-decay", "1e-2", "--json")
    record = json.loads(out)
    assert record["widths"] == [4, 3, 3]
    data = sf.load_data("iris")
    problem = sf.Problem(sf.MLP([4, 3, 3], "tanh"), data.X, data.y, "cross_entropy")
    point = sf.Point(problem, problem.net.random_params(0))
    sf.save_point(point, folder / "p.safetensors", {"source": "iris"})
    code, out, _ = run(capsys, "diagnose", "p.safetensors", "--json")
    assert code == 0
    assert json.loads(out)["loss"] == point.loss
    (folder / "mine.png").write_text("mine")
    assert "mine.png" in refused_command(
        capsys, "diagnose", "p.safetensors", "--figure", "mine.png"
    )


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "give a .safetensors file of a point, or --model"),
        (
            ("p.safetensors", "--model", "mynets:make"),
            "give a .safetensors file of a point, or --model",
        ),
        (("--model", "mynets:make"), "--model needs --weights"),
        (("--model", "mynets", "--weights", "net.safetensors"), "mynets:make"),
        (("--model", "mynets:none", "--weights", "net.safetensors"), "mynets.py"),
        # A name that Python has.
        (("--model", "random:none", "--weights", "net.safetensors"), "random.py"),
        (
            ("--model", "nothing_d:make", "--weights", "net.safetensors"),
            "run the command in the folder where nothing_d.py",
        ),
        (("--model", "mynets:lacking", "--weights", "net.safetensors"), "where nothing_e.py"),
        (("--model", "mynets:number", "--weights", "net.safetensors"), "makes a int"),
        (("--model", "mynets:make", "--weights", "net.pt"), "A pickle can run code"),
        (("--model", "mynets:make", "--weights", "no.safetensors"), "there is no file"),
        (("p.safetensors", "--weights", "net.safetensors"), "--weights goes with --model"),
        (("p.safetensors", "--weight-decay", "1"), "--weight-decay goes with --model"),
        (("net.safetensors",), "--model PACKAGE.MODULE:FUNCTION --weights FILE"),
        (
            (
                "--model",
                "mynets:make",
                "--weights",
                "net.safetensors",
                "--figure",
                "it.pdf",
                "--raw",
            ),
            "ends in .png",
        ),
    ],
)
def test_what_the_command_cannot_use_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, given: tuple[str, ...], why: str
) -> None:
    data = () if why.startswith("--model needs") else ("--data", "iris")
    assert why in refused_command(capsys, "diagnose", *given, *data)
