"""Limits that are kept, refused or gone beyond, and units that grow sharp."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import semiflat as sf
from semiflat.limits import Form, LimitMLP, balanced, recognise, sharpened
from semiflat.search import beyond
from semiflat.search.beyond import _Way, _why_not, go_beyond
from semiflat.search.driver import Driver, Options
from semiflat.search.further import go_further
from semiflat.search.outcome import beyond_outcome
from semiflat.search.record import Finished, SearchRecord
from semiflat.search.stop import Stop
from test_limits import with_a_minimum_at_infinity

U, G, T, L = Form.UNIT, Form.GATE, Form.TAIL, Form.LINEAR


@pytest.fixture(scope="module")
def left() -> tuple[sf.Problem, Finished]:
    """A run that was left on its way into a channel."""
    problem, vector = with_a_minimum_at_infinity()
    net = LimitMLP(problem.net, [["unit", "gate"]])
    near = sf.Limit(problem, net, problem.net.unflatten(vector)).approach(20.0)
    flat = problem.net.flatten(near.params)
    return problem, Finished(0, sf.Status.MAX_ITERATIONS, "still going", 9, flat, near.loss, 1e-3)


def test_a_limit_that_is_not_critical_is_kept_and_counts_for_nothing(
    left: tuple[sf.Problem, Finished],
) -> None:
    problem, run = left
    short = Options(max_iterations=1)  # too few steps to get there
    (reached,) = go_beyond([problem], [run], [None], short, last=True)
    assert reached is not None
    reached.stop = replace(reached.stop, small=False, stuck=False)
    reached.why_not = "which is no critical point"
    end = beyond_outcome(problem, run, reached, short)
    assert end.status is sf.Status.MAX_ITERATIONS
    assert end.limit is not None
    assert end.at_infinity is None
    record = SearchRecord(0, 0, end.iterations, end.status, end.evidence, end.limit)
    point = sf.CriticalPoint(problem, problem.net.unflatten(end.vector), record)
    assert point.limit is not None
    assert point.limit.loss < point.loss
    assert "no critical point was reached there" in point.note
    result = sf.SearchResult([], [point])
    assert result.at_infinity == result.with_infinity == []
    with pytest.raises(sf.InputError, match="its limit is no critical point"):
        sf.saddle_lines(point)


def test_a_limit_above_the_run_is_refused_and_another_looked_for(
    left: tuple[sf.Problem, Finished],
) -> None:
    problem, run = left
    way = _Way(problem, run, None, 0)
    guess = way.guess(again=True)
    assert guess is not None
    stop = Stop(
        problem.net.flatten(guess.params), run.loss + 1e-6, 1e-13, 5, True, False, 0.0, None
    )
    way.take(guess, stop, Options())
    assert way.reached is None
    assert way.refused == {(0, frozenset({0, 1}))}
    assert way.guess(again=True) is None  # there is no other pair
    way.take(guess, replace(stop, risk=run.loss - 1e-6), Options())
    assert way.reached is not None


def test_what_was_refused_is_not_tried_again_from_the_same_place(
    left: tuple[sf.Problem, Finished],
) -> None:
    problem, run = left
    way = _Way(problem, run, None, 0)
    guess = way.guess(again=True)
    assert guess is not None
    vector = problem.net.flatten(guess.params)
    lower = Stop(vector, run.loss - 1e-6, 1e-3, 5, False, False, 0.0, None)
    way.take(guess, lower, Options())
    there = way.reached
    assert there is not None
    assert there.refused == set()
    pair = (0, frozenset({0, 1}))
    worse = replace(guess, found={pair: "another"})
    way.take(worse, replace(lower, risk=run.loss), Options())
    assert way.reached is there
    assert there.refused == {pair}
    assert there.iterations == 10  # those of the other one, too
    assert _Way.on(problem, run, there).refused == {pair}


def test_of_two_pairs_the_one_that_is_allowed_is_recognised() -> None:
    generator = torch.Generator().manual_seed(5)
    X, y = torch.randn((2, 50, 2), generator=generator).double()
    problem = sf.Problem(sf.MLP([2, 4, 1], "sigmoid"), X, y[:, :1])
    net = LimitMLP(problem.net, [["unit", "gate", "unit", "gate"]])
    near = sf.Limit(problem, net, problem.net.random_params(2, scale=2)).approach(200.0)
    both = recognise(problem, near.params)
    assert both is not None
    assert set(both.found) == {(0, frozenset({0, 1})), (0, frozenset({2, 3}))}
    one = recognise(problem, near.params, None, lambda unit: 0 not in unit[1])
    assert one is not None
    assert set(one.found) == {(0, frozenset({2, 3}))}


def test_a_small_gradient_with_a_long_newton_step_is_no_critical_point_at_infinity(
    left: tuple[sf.Problem, Finished],
) -> None:
    """A unit far out has a small gradient whatever it does: it moves by 1 at each of Newton's steps."""
    problem, vector = with_a_minimum_at_infinity()
    known = sf.Limit(
        problem, LimitMLP(problem.net, [["unit", "gate"]]), problem.net.unflatten(vector)
    )
    assert known.critical
    wide = sf.Problem(sf.MLP([2, 3, 1], "tanh"), problem.X, problem.y)
    params = {
        "0.weight": torch.cat([known.params["0.weight"], torch.tensor([[0.3, 0.2]]).double()]),
        "0.bias": torch.cat([known.params["0.bias"], torch.tensor([-17.0]).double()]),
        "2.weight": torch.cat([known.params["2.weight"], torch.tensor([[0.5]]).double()], 1),
        "2.bias": known.params["2.bias"] + 0.5,
    }
    limit = sf.Limit(wide, LimitMLP(wide.net, [["unit", "gate", "unit"]]), params)
    assert limit.gradient_norm < 1e-12
    assert not limit.critical
    beside = sf.Limit(problem, known.net, problem.net.random_params(2))
    assert min(rate.gap for rate in beside.rates) < 0  # a saddle, were it critical
    assert limit.kind == beside.kind == "UNDECIDED"
    guess = recognise(problem, known.approach(20.0).params)
    assert guess is not None
    guess = replace(guess, offsets=limit.offsets)
    stop = Stop(
        wide.net.flatten(params), limit.loss, limit.gradient_norm, 5, True, False, 0.0, None
    )
    assert "small only because" in _why_not(guess, stop, limit, Options())


@pytest.mark.parametrize("last", [True, False])
def test_the_last_stage_goes_on_in_limits_until_its_steps_are_used_up(
    left: tuple[sf.Problem, Finished], last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, run = left
    rounds = []

    def slow(members, options, attempt, last):  # type: ignore[no-untyped-def]
        if not members:
            return []
        rounds.append(len(members))
        ((_, guess),) = members
        at = problem.net.flatten(guess.params)
        return [Stop(at, run.loss * 0.99 ** len(rounds), 1e-3, 300, False, False, 1e-6, None)]

    monkeypatch.setattr(beyond, "_search", slow)
    (reached,) = go_beyond([problem], [run], [None], Options(max_iterations=1500), last)
    assert reached is not None
    assert reached.iterations == 300 * len(rounds)
    assert len(rounds) == (5 if last else 1)


def test_a_jump_that_changes_the_loss_by_next_to_nothing_is_told() -> None:
    X = torch.linspace(-1, 1, 60).double()[:, None]
    noise = torch.randn((60, 1), generator=torch.Generator().manual_seed(0)).double()
    problem = sf.Problem(sf.MLP([1, 1, 1], "softplus"), X, X.clamp(min=0.1) + 0.01 * noise)
    start = torch.tensor([[300.0, -30.0, 1 / 300, 0.1]]).double()
    driver = Driver(problem, start, Options(1e-12, 1500, largest=1e9))
    net = LimitMLP(problem.net, [[U]])
    none = [torch.zeros(1, 60).double()]

    def jump(row: int, vector: torch.Tensor) -> torch.Tensor:
        params = sharpened(problem, net, net.unflatten(vector), none)
        assert params is not None
        return net.flatten(params)

    go_further(driver, [0], jump, last=True)
    assert bool(driver.runs.creeping[0])
    size, loss = driver.runs.last[0].tolist()
    assert float(driver.runs.theta[0].abs().max()) > 1.2 * size
    assert 0 < loss - float(driver.runs.risk[0]) < 1e-5 * loss
    assert Stop.of(driver.runs, 0, driver.options).before == (size, loss)


def test_balancing_changes_no_output() -> None:
    generator = torch.Generator().manual_seed(3)
    X, y = torch.randn((2, 40, 2), generator=generator).double()
    problem = sf.Problem(sf.MLP([2, 5, 4, 1], "sigmoid"), X, y[:, :1])
    net = LimitMLP(problem.net, [[U, G, G, T, L], [U, T, L, U]])
    params = net.random_params(1, scale=3)
    params["0.weight"][1] *= 1e-5
    params["2.bias"][1] += 20
    offsets = [torch.zeros(width, 40).double() for width in net.hidden]
    out = balanced(problem, net, params, offsets)
    batch = beyond.LimitProblem([problem], [net], [offset[None] for offset in offsets])
    one, other = (batch.risk({k: v[None] for k, v in p.items()}) for p in (params, out))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    z = net.through(out, X.mT, 0)[1]
    assert z[1:3].square().mean(1).tolist() == pytest.approx([1.0, 1.0])
    assert float(z[3].max()) == pytest.approx(0, abs=1e-12)
    assert float(z[4].mean()) == pytest.approx(0, abs=1e-12)
    assert float(z[4].std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize("activation", ["softplus", "sigmoid", "tanh", "gelu"])
def test_what_is_on_the_edge_of_a_sharper_unit_sees_what_it_saw(activation: str) -> None:
    generator = torch.Generator().manual_seed(1)
    X, y = torch.randn((2, 200, 3), generator=generator).double()
    problem = sf.Problem(sf.MLP([3, 2, 1], activation), X, y[:, :1])
    params = problem.net.random_params(0)
    params["0.weight"][1] *= 300
    params["0.bias"][1] *= 300
    net = LimitMLP(problem.net, [[U, U]])
    none = [torch.zeros(2, 200).double()]
    out = sharpened(problem, net, params, none)
    assert out is not None
    before, after = (p["0.weight"][1] @ X.T + p["0.bias"][1] for p in (params, out))
    edge = before.abs().argsort()[:3]
    edge = edge[before[edge].abs() < 4]
    assert 0 < len(edge) <= 3
    torch.testing.assert_close(after[edge], before[edge], rtol=1e-9, atol=1e-9)
    assert float(after.std()) == pytest.approx(3 * float(before.std()), rel=0.05)
    shrunk = float(out["2.weight"][0, 1] / params["2.weight"][0, 1])
    assert shrunk == pytest.approx(1 / 3 if activation in ("softplus", "gelu") else 1)
    for key in params:  # the other unit, and the outputs' bias
        kept = params[key][..., :1] if key.startswith("2") else params[key][:1]
        assert torch.equal(out[key][..., :1] if key.startswith("2") else out[key][:1], kept)
    assert sharpened(problem, net, problem.net.random_params(0), none) is None


def test_a_unit_that_tends_to_a_kink_is_followed_until_the_loss_levels_off() -> None:
    X = torch.linspace(-1, 1, 60).double()[:, None]
    noise = torch.randn((60, 1), generator=torch.Generator().manual_seed(0)).double()
    problem = sf.Problem(sf.MLP([1, 1, 1], "softplus"), X, X.clamp(min=0.1) + 0.01 * noise)
    ends = sf.run_search(problem, starts=8, processes=1)
    assert ends.counts[sf.Status.MAX_ITERATIONS] == 0
    sharp = [run for run in ends.runs if run.status is sf.Status.DIVERGED]
    assert sharp
    best = min(run.loss for run in ends.runs)
    bent = sf.run_search(sf.Problem(sf.MLP([1, 1, 1], "relu"), X, problem.y), starts=8, processes=1)
    assert best == pytest.approx(min(run.loss for run in bent.runs), rel=1e-3)
