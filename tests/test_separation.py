"""Separable classes: what is said of them is checked on the definition alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import semiflat as sf
from semiflat.search.separation import Separation

CORNERS = [[0.0, 2.0], [0.2, 1.8], [-2.0, -1.0], [-1.8, -1.1], [2.0, -1.0], [1.9, -0.8]]
CLASSES = [0, 0, 1, 1, 2, 2]
XOR = [[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]], [0.0, 0.0, 1.0, 1.0]


def corners(hidden: list[int], activation: str = "tanh", **more: Any) -> sf.Problem:
    return sf.Problem(
        sf.MLP([2, *hidden, 3], activation), CORNERS, CLASSES, "cross_entropy", **more
    )


def smallest_margin(problem: sf.Problem, params: Any) -> float:
    """Of classes, from the outputs: how far the right one lies above the highest of the others."""
    f = problem.net.forward(params, problem.X)
    right = f.gather(1, problem.y[:, None])[:, 0]
    others = f.scatter(1, problem.y[:, None], -math.inf).amax(1)
    return float((right - others).min())


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "gelu", "softplus"])
@pytest.mark.parametrize("hidden", [[], [2], [3, 2]])
def test_linearly_separable_classes_are_told_apart_by_a_network(hidden, activation):
    problem = corners(hidden, activation)
    told = Separation.of_inputs(problem)
    assert told is not None
    assert smallest_margin(problem, told.point.params) > 0
    assert told.point.accuracy == 1.0
    length = sum(float(part.square().sum()) for part in told.direction.values())
    assert length == pytest.approx(1.0)
    last = f"{2 * len(hidden)}."
    assert all(key.startswith(last) for key, part in told.direction.items() if bool(part.any()))
    assert told.own_margin * (1 - 1e-9) <= told.margin <= told.at_most
    assert told.margin == pytest.approx(told.at_most, rel=1e-6)
    for length in (1.0, 30.0, 1000.0):
        assert smallest_margin(problem, told.along(length)) == pytest.approx(
            length * told.margin, rel=1e-9
        )
        assert told.risk(length) <= math.log1p(2 * math.exp(-length * told.margin)) * (1 + 1e-9)


def test_from_the_point_itself_the_loss_falls_for_ever_in_the_direction():
    problem = corners([2])
    told = Separation.of_inputs(problem)
    losses = []
    for step in (0.0, 10.0, 100.0, 1000.0):
        moved = {key: told.point.params[key] + step * told.direction[key] for key in told.direction}
        losses.append(float(problem.risk(moved)))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-3 * losses[0]


def test_the_largest_margin_of_two_samples_is_the_one_on_paper():
    """``min(w − b, 3w + b)`` on w² + b² = 1 is largest at w = −b = 1/√2, where both are √2."""
    problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [3.0]], [0.0, 1.0], loss="logistic")
    told = Separation.of_inputs(problem)
    assert told.margin == pytest.approx(math.sqrt(2))
    assert told.at_most == pytest.approx(math.sqrt(2))
    assert told.direction["0.weight"].item() == pytest.approx(math.sqrt(0.5))
    assert told.direction["0.bias"].item() == pytest.approx(-math.sqrt(0.5))


def test_no_direction_that_was_drawn_has_a_larger_margin():
    problem = corners([3], "gelu")
    point = sf.Point(problem, Separation.of_inputs(problem).point.params)
    told = Separation.at(point)
    draws = torch.Generator().manual_seed(0)
    for scale in (1.0, 0.1, 0.01):
        for _ in range(200):
            drawn = {
                key: part + scale * torch.randn(part.shape, generator=draws, dtype=part.dtype)
                for key, part in told.direction.items()
                if key.startswith("2.")
            }
            length = sum(float(part.square().sum()) for part in drawn.values()) ** 0.5
            params = point.params | {key: part / length for key, part in drawn.items()}
            assert smallest_margin(problem, params) <= told.at_most * (1 + 1e-9)


def test_three_corners_need_two_units():
    """Their logits have rank 2: one unit's output is a line on which the middle class loses."""
    assert Separation.of_inputs(corners([1])) is None
    assert Separation.of_inputs(corners([2, 1])) is None
    assert Separation.of_inputs(corners([2])) is not None


def test_what_no_line_tells_apart_a_run_may():
    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), *XOR, loss="logistic")
    assert Separation.of_inputs(problem) is None
    result = sf.run_search(problem, starts=8)
    told = result.separation
    assert told is not None
    assert told.found.startswith("the run from start ")
    outputs = problem.net.forward(told.along(1.0), problem.X)[:, 0]
    signs = 2 * torch.tensor(XOR[1]) - 1
    assert float((signs * outputs).min()) == pytest.approx(told.margin, rel=1e-9)
    assert "Separation(" in repr(told)


@pytest.mark.parametrize(
    ("X", "y", "more"),
    [
        (XOR[0], [0.0, 1.0, 1.0, 0.0], {"weight_decay": 0.01}),
        ([[0.0], [0.0], [1.0]], [0.0, 1.0, 1.0], {}),
        ([[0.0], [1.0], [2.0]], [0.0, 0.4, 1.0], {}),
    ],
    ids=["decayed", "one input of both classes", "probabilities"],
)
def test_where_the_infimum_is_attained_or_not_known_nothing_is_said(X, y, more):
    problem = sf.Problem(sf.MLP([len(X[0]), 2, 1], "tanh"), X, y, loss="logistic", **more)
    assert Separation.of_inputs(problem) is None
    result = sf.run_search(problem, starts=4, max_iterations=100)
    assert result.separation is None


def test_numbers_are_no_classes():
    problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [1.0]], [-1.0, 1.0])
    assert Separation.of_inputs(problem) is None
    fit = sf.find_critical_point(problem, starts=1)
    assert Separation.at(fit) is None
    assert fit.accuracy == 1.0  # of targets that are −1 and 1 the sign is a class all the same


def test_a_point_on_the_wrong_side_is_no_separation():
    problem = corners([2])
    told = Separation.of_inputs(problem)
    turned = {key: -part if key == "2.weight" else part for key, part in told.point.params.items()}
    assert Separation.at(sf.Point(problem, turned)) is None
    assert sf.Point(problem, turned).accuracy < 1


def test_weights_count_in_accuracy():
    weights = [3, 1, 1, 1]
    X, y = [[-1.0], [1.0], [2.0], [-2.0]], [1.0, 1.0, 1.0, 0.0]
    problem = sf.Problem(sf.MLP([1, 1]), X, y, loss="logistic", sample_weight=weights)
    params = {"0.weight": torch.ones(1, 1).double(), "0.bias": torch.zeros(1).double()}
    assert sf.Point(problem, params).accuracy == pytest.approx(0.5)
    plain = sf.Problem(sf.MLP([1, 1]), X, [0.5, 0.25, 0.75, 0.125])
    assert sf.Point(plain, params).accuracy is None


def test_the_constant_predictor_is_named_apart():
    """On XOR at weights 0 every sample gets ½: a critical point, whatever the data are."""
    problem = sf.Problem(sf.MLP([2, 1, 1], "tanh"), *XOR, loss="logistic")
    result = sf.run_search(problem, starts=8, kind="any", max_iterations=100)
    assert result.constants
    for point in result.constants:
        outputs = problem.net.forward(point.params, problem.X)
        assert float((outputs - outputs.mean(0)).abs().max()) < 1e-4
    assert {id(point) for point in result.constants} <= {id(point) for point in result.points}
    rest = [point for point in result.points if not point.constant]
    assert len(rest) + len(result.constants) == len(result.points)
