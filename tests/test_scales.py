"""Verdicts do not depend on the units in which data, targets and weights are given."""

from __future__ import annotations

import pytest
import torch

import semiflat as sf
from semiflat.evidence import Evidence

MINIMA = (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)
POWERS = [-20, -7, 7, 20]  # of 2: 1e-6 to 1e6, in numbers that are exact


def problem_of(activation: str, seed: int, loss: str = "squared", outputs: int = 1) -> sf.Problem:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn((14, 2), generator=generator, dtype=torch.float64)
    y = torch.randn((14, outputs), generator=generator, dtype=torch.float64)
    net = sf.MLP([2, 2, outputs], activation)
    if loss == "logistic":
        y = (y > 0).double()
    return sf.Problem(net, X, y, loss)


def kinds_found(activation: str, loss: str = "squared") -> list[sf.Point]:
    """Critical points of several kinds, and points that are none."""
    problem = problem_of(activation, seed=3, loss=loss)
    runs = sf.run_search(problem, starts=4, seed=0, kind="any", processes=1).runs
    here = [sf.Point(problem, run.params) for run in runs]
    wide = [sf.Replicate(0, 0, shares)(here[0]) for shares in ([0.4, 0.6], [-0.5, 1.5])]
    beside = sf.Point(problem, {k: t * (1 + 1e-4) for k, t in here[0].params.items()})
    return [*here, *wide, *(w.materialize() for w in wide), beside]


def rescaled(point: sf.Point, x: float, y: float) -> sf.Point:
    """The same functions of the data in other units: inputs times x, targets and outputs times y."""
    problem, net = point.problem, point.problem.net
    params = dict(point.params)
    params["0.weight"] = params["0.weight"] / x
    last = f"{2 * (net.depth - 1)}"
    params[f"{last}.weight"], params[f"{last}.bias"] = (
        params[f"{last}.weight"] * y,
        params[f"{last}.bias"] * y,
    )
    return sf.Point(sf.Problem(net, problem.X * x, problem.y * y, problem.loss), params)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu", "identity"])
def test_other_units_of_inputs_and_targets_change_no_verdict(activation: str) -> None:
    seen = set()
    for point in kinds_found(activation):
        plain = point.materialize() if isinstance(point, sf.EmbeddedPoint) else point
        kind = sf.judge(plain).kind
        seen.add(kind)
        for power in POWERS:
            for x, y in ((2.0**power, 1.0), (1.0, 2.0**power), (2.0**power, 2.0**-power)):
                assert sf.judge(rescaled(plain, x, y)).kind is kind, (power, x, y)
    assert sf.Kind.NOT_CRITICAL in seen
    assert len(seen) >= 2


def test_other_units_change_no_verdict_where_a_unit_hardly_speaks() -> None:
    """A GELU unit at the bottom of its bend, with outgoing weights near 0: a Newton step makes it another."""
    X = torch.randn(25, 2, generator=torch.Generator().manual_seed(5)).double()
    noise = torch.randn(25, 1, generator=torch.Generator().manual_seed(6)).double()
    row = X.new([[-1.0, -1.4, 1.4]])
    h = torch.nn.functional.gelu(X @ row[:, :2].mT + row[:, 2])
    heard = torch.linalg.qr(torch.cat([torch.ones_like(h), h], 1)).Q
    y = torch.tanh(X @ X.new([[1.2], [-0.7]])) + noise
    problem = sf.Problem(sf.MLP([2, 2, 1], "gelu"), X, y - heard @ (heard.mT @ y))
    params = {
        "0.weight": torch.cat([X.new([[-1.6e-8, -3.2e-8]]), row[:, :2]]),
        "0.bias": X.new([-0.751791524693564, 1.4]),
        "2.weight": X.new([[-5e-10, 0.0]]),
        "2.bias": X.new([0.0]),
    }
    for power in (0, *POWERS):
        for of_x, of_y in ((2.0**power, 1.0), (1.0, 2.0**power)):
            at = rescaled(sf.Point(problem, params), of_x, of_y)
            assert sf.judge(at).kind is sf.Kind.STRICT_SADDLE, (of_x, of_y, sf.judge(at).reason)


def test_another_size_of_a_homogeneous_unit_changes_no_verdict() -> None:
    for point in kinds_found("relu"):
        plain = point.materialize() if isinstance(point, sf.EmbeddedPoint) else point
        kind = sf.judge(plain).kind
        for power in POWERS:
            scale = 2.0**power
            params = {key: tensor.clone() for key, tensor in plain.params.items()}
            params["0.weight"][0] *= scale
            params["0.bias"][0] *= scale
            params["2.weight"][:, 0] /= scale
            assert sf.judge(sf.Point(plain.problem, params)).kind is kind, power


@pytest.mark.parametrize(("x", "y"), [(1e-6, 1e-5), (1e-5, 1e-5), (1e-5, 3e-6), (1.0, 1e-11)])
def test_small_is_not_zero(x: float, y: float) -> None:
    X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * x
    problem = sf.Problem(sf.MLP([1, 1]), X, X * (y / x))

    def at(w: float) -> sf.Point:
        params = {
            "0.weight": torch.full((1, 1), w, dtype=torch.float64),
            "0.bias": torch.zeros(1).double(),
        }
        return sf.Point(problem, params)

    assert sf.judge(at(0.0)).kind is sf.Kind.NOT_CRITICAL
    assert sf.judge(at(y / x)).kind in MINIMA


def test_zero_is_the_minimum_where_inputs_and_targets_are_uncorrelated() -> None:
    X = torch.tensor([[-1.0], [-1.0], [1.0], [1.0]], dtype=torch.float64) * 1e-6
    y = torch.tensor([-1.0, 1.0, -1.0, 1.0]) * 1e-6
    problem = sf.Problem(sf.MLP([1, 1]), X, y)
    nothing = {"0.weight": torch.zeros(1, 1).double(), "0.bias": torch.zeros(1).double()}
    assert sf.judge(sf.Point(problem, nothing)).kind is sf.Kind.STRICT_MINIMUM


def test_a_search_on_data_in_small_units_goes_on_to_where_the_critical_point_is() -> None:
    X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None] * 1e-6
    problem = sf.Problem(sf.MLP([1, 1]), X, 10 * X)
    start = {"0.weight": torch.zeros(1, 1).double(), "0.bias": torch.zeros(1).double()}
    point = sf.find_critical_point(problem, start=start)
    assert point.status is sf.Status.CONVERGED
    assert float(point.params["0.weight"]) == pytest.approx(10, rel=1e-6)


@pytest.mark.parametrize(
    "case", [("step", [40.0, 0.0, 1.0, 0.0]), ("linear", [2.0**-28, 0.0, 2.0**28, 0.0])]
)
def test_zero_loss_up_to_rounding_is_no_minimum_where_a_step_is_long(
    case: tuple[str, list[float]],
) -> None:
    name, vector = case
    X = torch.tensor([[-1.5], [-0.5], [0.5], [1.5]], dtype=torch.float64)
    problem = sf.Problem(sf.MLP([1, 1, 1]), X, torch.sign(X) if name == "step" else X)
    point = sf.Point(problem, problem.net.unflatten(torch.tensor(vector, dtype=torch.float64)))
    assert sf.certify_not_critical(point, 0.0).certified
    assert sf.judge(point).kind not in MINIMA
    assert sf.judge(point, proof=True).kind not in MINIMA


@pytest.mark.parametrize("power", [0, -20, -40, -60])
def test_an_output_of_any_size_is_heard(power: int) -> None:
    """F ≠ 0 of the second output alone: copies of the unit open a way down, however small it is."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn((12, 1), generator=generator, dtype=torch.float64)
    h = torch.tanh(0.8 * X[:, 0] + 0.3)
    slope = 1 - h.square()
    span = torch.stack([torch.ones_like(h), h, slope, slope * X[:, 0]], dim=1)
    basis = torch.linalg.qr(span)[0]
    r = torch.randn((12, 2), generator=generator, dtype=torch.float64)
    free = torch.linalg.qr(span[:, :2])[0]
    for _ in range(3):
        r[:, 0] -= basis @ (basis.T @ r[:, 0])
        r[:, 1] -= free @ (free.T @ r[:, 1])
    small = 2.0**power
    f = torch.stack([h, torch.zeros_like(h)], dim=1)
    y = f + r * torch.tensor([1.0, small])
    problem = sf.Problem(sf.MLP([1, 1, 2]), X, y)
    vector = torch.tensor([0.8, 0.3, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    point = sf.Point(problem, problem.net.unflatten(vector))
    assert Evidence(point, 1e-10).critical
    wide = sf.Replicate(0, 0, [0.5, 0.5])(point)
    verdict = sf.judge(wide)
    assert verdict.kind not in MINIMA
    if sf.judge(point).kind in MINIMA:
        assert verdict.kind is sf.Kind.STRICT_SADDLE
        assert verdict.curvature < 0
    assert sf.judge(wide.materialize()).kind not in MINIMA


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic"])
def test_the_best_outputs_for_repeated_inputs_are_a_global_minimum(loss: str) -> None:
    X = torch.eye(3, dtype=torch.float64).repeat(6, 1)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(18, generator=generator, dtype=torch.float64)
    if loss != "squared":
        y = torch.arange(18) // 3 % 2
    problem = sf.Problem(sf.MLP([3, 2, 2 if loss == "cross_entropy" else 1]), X, y, loss)
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    verdict = sf.judge(point)
    assert verdict.kind is sf.Kind.MINIMUM
    assert verdict.flat_directions.families[-1].name == "exact fits"
    moved = sf.Point(problem, {k: t + 1e-3 for k, t in point.params.items()})
    assert sf.judge(moved).kind is sf.Kind.NOT_CRITICAL


def test_a_proof_leaves_no_other_verdict_standing() -> None:
    """That there is no critical point near, and that the loss falls, are proved where they can be."""
    problem = problem_of("tanh", seed=5)
    away = sf.judge(sf.Point(problem, problem.net.random_params(0)), proof=True)
    assert (away.kind, away.certainty) == (sf.Kind.NOT_CRITICAL, sf.Certainty.PROVED)
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    saddle = sf.Replicate(0, 0, [0, 1])(point)  # no embedding that is proved: F = 0 at one output
    proved = sf.judge(saddle.materialize(), proof=True)
    assert proved.kind is sf.judge(saddle.materialize()).kind
    unheard = sf.InactiveUnits(0, 1)(point)
    verdict = sf.judge(unheard, proof=True)
    if verdict.kind is sf.Kind.STRICT_SADDLE and verdict.certainty is sf.Certainty.MEASURED:
        assert verdict.descent.kind == "DESCENT"


def test_zeros_within_noise_are_told_from_flat_directions() -> None:
    problem = problem_of("tanh", seed=3)
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    wide = sf.judge(sf.Replicate(0, 0, [0.3, 0.7])(point)).inertia
    assert wide.zeros_explained + wide.zeros_within_noise == wide.zero
    assert wide.zeros_explained >= 1
    assert tuple(wide) == (wide.positive, wide.zero, wide.negative)
    words = str(sf.Inertia(3, 2, 0, zeros_explained=1))
    assert words.startswith("3 positive, 2 zero, 0 negative")
    assert "1 only within noise" in words
