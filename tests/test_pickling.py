"""Whatever a public function returns pickles and deep-copies, and the copy says and builds the same."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from enum import Enum
from functools import cache, partial
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import semiflat as sf
from semiflat.activations import ACTIVATIONS, activation, leaky_relu
from semiflat.losses import LOSSES, loss_named
from semiflat.symmetries.families import TangentFamily

X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
PROBLEM = sf.Problem(sf.MLP([1, 2, 1]), X, torch.cos(3 * X))
WIDE = sf.Problem(sf.MLP([1, 13, 2, 1], "sigmoid"), X, torch.cos(3 * X))
CURVED = sf.Problem(
    sf.MLP([1, 1, 1], "gelu"),
    torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None],
    torch.tanh(torch.linspace(-1, 5, 40, dtype=torch.float64))[:, None],
)


def absolute(f: Tensor, y: Tensor) -> Tensor:
    """A loss of the user's own."""
    return ((f - y) ** 2 + 1).sqrt().sum()


def wave(z: Tensor) -> Tensor:
    """An activation of the user's own."""
    return torch.sin(z) + z / 3


@cache
def point() -> sf.CriticalPoint:
    return sf.find_critical_point(PROBLEM, starts=4, seed=0)


@cache
def million() -> sf.Verdict:
    many = sf.Replicate(0, 0, [0.25] * 4 + [0] * 3) >> sf.Replicate(0, 1, [1e-6] * 10**6)
    return sf.judge(many(point()))


def own() -> sf.Problem:
    return sf.Problem(sf.MLP([1, 2, 1], wave), X, torch.cos(3 * X), loss=absolute)


def start(seed: int = 0, problem: sf.Problem = PROBLEM) -> sf.Point:
    return sf.Point(problem, problem.net.random_params(seed))


def channel() -> sf.CriticalPoint:
    """A run into a channel, beside a line of saddles."""
    x = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    runs = sf.run_search(sf.Problem(sf.MLP([1, 2, 1]), x, torch.cos(2 * x)), starts=12, seed=0).runs
    return next(run for run in runs if run.status is sf.Status.CHANNEL)


def separable() -> sf.SearchResult:
    problem = sf.Problem(sf.MLP([1, 1, 1]), X, (X[:, 0] > 0).double(), "logistic")
    return sf.run_search(problem, starts=6, seed=0)


def scaled() -> sf.EmbeddedPoint:
    found = sf.find_critical_point(PROBLEM.with_net(sf.MLP([1, 1, 1], "relu")), starts=8, seed=0)
    return sf.ScaledReplicate(0, 0, [2, 0.5], [1.25, -3])(found)


def minimum() -> sf.Point:
    """A minimum of CURVED."""
    return sf.find_critical_point(CURVED, starts=8, seed=0)


RETURNED: dict[str, Callable[[], Any]] = {
    "network": lambda: sf.MLP([1, 2, 3, 1], ["tanh", wave]),
    "problem": lambda: PROBLEM,
    "problem with loss and activation of one's own": own,
    "point": start,
    "embedded point": lambda: sf.Replicate(0, 0, [0.3, 0.7])(point()),
    "critical point": point,
    "search": lambda: sf.find_critical_points(PROBLEM, starts=4, seed=0),
    "search that ends at infinity": separable,
    "saddle lines": lambda: sf.saddle_lines(channel()),
    "unit blocks": lambda: sf.unit_blocks(point(), 0, 0),
    "Hessian operator": lambda: sf.hessian_operator(point()),
    "Hessian operator of a module": lambda: sf.module_hessian_operator(
        nn.Linear(1, 1).double(), X, X
    ),
    "verdict of a module": lambda: sf.judge_module(
        nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double(),
        [(X, X)],
        nn.functional.mse_loss,
    ),
    "conditions": lambda: [
        (sf.Replicate(0, 0, [0.3, 0.7]) >> each).preserves_criticality
        for each in (
            sf.InactiveUnits(0, 1, outgoing=[[1.0]]),
            sf.InactivePropagation(0, [[1.0, 0.0]]),
        )
    ],
    "verdict": lambda: sf.judge(point()),
    "verdict on any point": lambda: sf.judge(start()),
    "verdict on a large point": lambda: sf.judge(start(), dense_limit=1),
    "verdict of a saddle by Lanczos": lambda: sf.judge(
        sf.Replicate(0, 0, [2, -1])(point()).materialize(), dense_limit=1
    ),
    "verdict on copies": lambda: sf.judge(sf.Replicate(0, 0, [2, -1])(point())),
    "verdict on scaled copies": lambda: sf.judge(scaled()),
    "verdict on null units": lambda: sf.judge(sf.NullUnits(0, [0.3, 0.1])(minimum())),
    "verdict off critical points": lambda: sf.judge(sf.Replicate(0, 0, [2, -1])(start())),
    "verdict by irreversibility": lambda: sf.judge(
        sf.Compatible.random(sf.MLP([1, 3, 1]), [1, 40, 1], seed=0)(
            sf.Replicate(0, 0, [2, -1])(point()).materialize()
        ),
        dense_limit=20,
    ),
    "verdict with dead units": lambda: sf.judge(dead()),
    "verdict on a million copies": million,
    "proved verdict": lambda: sf.judge(sf.Replicate(0, 0, [2, -1])(point()), proof=True),
    "escape": lambda: sf.escape(point()),
    "certificate": lambda: sf.certify(point()),
    "certificate of copies": lambda: sf.certify(sf.Replicate(0, 0, [0.3, 0.7])(point())),
    "certificate of no critical point": lambda: sf.certify_not_critical(start()),
    "certificate of a descent": lambda: sf.certify_descent(
        start(), PROBLEM.net.unflatten(-sf.gradient(start())), 0.01
    ),
    "certificate of nothing": lambda: sf.certify(start()),
    "reduction": lambda: sf.reduce(sf.Replicate(0, 0, [0.3, 0.7])(point()).materialize()),
    "widths by tolerance": lambda: sf.widths_by_tolerance(start(), [1e-3, 1e-1]),
    "gradient basis gap": lambda: sf.gradient_basis_gap(start()),
    "gradient basis model": lambda: sf.gradient_basis_model(start()),
    "perturbable basis gap": lambda: sf.perturbable_basis_gap(start(), seed=0),
    "perturbable basis model": lambda: sf.perturbable_basis_model(start(), seed=0),
    "gradient basis model of a module": lambda: sf.gradient_basis_model(
        nn.Linear(1, 1).double(), X, X
    ),
    "refutation": lambda: sf.refute_minimum(
        sf.InactiveUnits(0, 1, outgoing=[[0.0]])(point()), seed=0
    ),
    "residual model": lambda: sf.resnet_model(
        torch.ones(1, 1).double(), torch.ones(1, 2).double(), X, X.repeat(1, 2), X
    ),
    "locally linear model": lambda: sf.locally_linear_model(start()),
    "path to zero loss": lambda: sf.path_to_zero_loss(start(problem=WIDE)),
    "path to zero loss with 0 inside the image": lambda: sf.path_to_zero_loss(
        start(problem=WIDE.with_net(sf.MLP([1, 12, 1, 1], "tanh")))
    ),
    "path to zero loss of one unit": lambda: sf.path_to_zero_loss(
        start(problem=WIDE.with_net(sf.MLP([1, 12, 1, 1], "sigmoid")))
    ),
    "path to zero loss past deaf units": lambda: sf.path_to_zero_loss(deaf("tanh")),
    "path to zero loss past a deaf unit": lambda: sf.path_to_zero_loss(deaf("sigmoid")),
    "path to zero loss past two deaf units": lambda: sf.path_to_zero_loss(deaf("sigmoid", 2)),
    "replications": lambda: sf.replications(minimum()),
    "non-attracting region": lambda: sf.non_attracting_region(minimum()),
    "minimum at infinity": lambda: sf.minimum_at_infinity(
        sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), X, X + X**2)
    ),
    "its way back": lambda: (
        sf.minimum_at_infinity(sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), X, X + X**2)).path
    ),
    "bound": lambda: sf.pac_bayes_bound(point(), sf.Clipped(1.0), draws=20),
    "data": lambda: sf.load_data("diabetes"),
}


RETURNED = {what: cache(make) for what, make in RETURNED.items()}
"""Each made once, for all that looks at it."""


def deaf(named: str, units: int = 1) -> sf.Point:
    """A point whose last hidden layer nobody listens to."""
    problem = WIDE.with_net(sf.MLP([1, 13, units, 1], named))
    params = problem.net.random_params(0)
    return sf.Point(problem, params | {"4.weight": 0 * params["4.weight"]})


def dead() -> sf.EmbeddedPoint:
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), X + 2, torch.cos(X))
    found = sf.find_critical_point(problem, starts=8, seed=0)
    return (sf.InactiveUnits.in_box(0, 2, 1, radius=4) >> sf.Replicate(0, 0, [2, -1]))(found)


def same(one: Any, two: Any, within: tuple[int, ...] = ()) -> None:
    """Fail unless both are made of the same numbers, names and functions."""
    assert type(one) is type(two)
    if id(one) in within:
        return
    same_ = partial(same, within=(*within, id(one)))
    if isinstance(one, Tensor):
        assert torch.equal(one.isnan(), two.isnan())
        assert torch.equal(one[~one.isnan()], two[~two.isnan()])
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            same_(one[key], two[key])
    elif isinstance(one, list | tuple):
        for each, other in zip(one, two, strict=True):
            same_(each, other)
    elif isinstance(one, partial):
        same_([one.func, one.args, one.keywords], [two.func, two.args, two.keywords])
    elif isinstance(one, FunctionType | type | Enum | nn.Module):
        assert isinstance(one, nn.Module) or one is two
    elif hasattr(one, "__self__"):
        same_([one.__name__, one.__self__], [two.__name__, two.__self__])
    elif hasattr(one, "__dict__") and type(one).__module__.startswith("semiflat"):
        first, second = (each.__getstate__() or {} for each in (one, two))
        # What was computed since is not compared.
        both = first.keys() & second.keys()
        same_({key: first[key] for key in both}, {key: second[key] for key in both})
    else:
        assert one == two or (one != one and two != two)


def copies(given: Any) -> list[Any]:
    return [pickle.loads(pickle.dumps(given)), copy.deepcopy(given)]


@pytest.mark.parametrize("what", RETURNED)
def test_whatever_is_returned_pickles_and_deep_copies(what):
    given = RETURNED[what]()
    for found in copies(given):
        same(given, found)
        for name in ("to_json", "descent_direction", "document", "params", "way_down"):
            if hasattr(given, name):
                one, two = (getattr(each, name) for each in (given, found))
                same(*((one(), two()) if callable(one) else (one, two)))
        if isinstance(given, sf.Path):
            ts = torch.linspace(0, 1, 41, dtype=torch.float64)
            assert torch.equal(given.vectors(ts), found.vectors(ts))


def test_nothing_large_is_built_to_pickle():
    found = million()
    assert found.descent_direction["0.weight"].shape == (1000007, 1)  # kept, and not pickled
    assert len(pickle.dumps(found)) < 20_000
    wide = sf.Replicate(0, 1, [1e-6] * 10**6)(point())
    assert len(wide.params) == 4
    assert len(pickle.dumps(wide)) < 20_000
    saddle = sf.judge(sf.Replicate(0, 0, [2, -1] + [0] * 48)(point()).materialize())
    assert saddle.kind is sf.Kind.STRICT_SADDLE
    eigenvectors = 8 * sum(saddle.inertia) ** 2
    families = saddle.flat_directions.families
    kept = [family.tangents for family in families if isinstance(family, TangentFamily)]
    assert len(kept) == len(families)
    tangents = sum(8 * each.numel() for each in kept)
    assert len(pickle.dumps(saddle)) < tangents + eigenvectors / 2


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)"])
def test_a_named_activation_stays_the_one_of_that_name(name):
    for given in (activation(name), *([leaky_relu()] if name == "leaky_relu" else [])):
        for found in copies(given):
            assert found is activation(name)


@pytest.mark.parametrize("name", LOSSES)
def test_a_named_loss_stays_the_one_of_that_name(name):
    for found in copies(loss_named(name)):
        assert found is loss_named(name)


def test_a_users_function_pickles_if_it_does_itself():
    for found in copies(own()):
        assert found.net.activations[0].function is wave
        assert found.loss.function is absolute
        params = own().net.random_params(0)
        assert operator.eq(*(float(each.risk(params)) for each in (own(), found)))
    for hidden in (
        sf.Problem(sf.MLP([1, 1], "tanh"), X, X, loss=lambda f, y: (f - y).square().sum()),
        sf.MLP([1, 2, 1], lambda z: z**3),
    ):
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(hidden)
