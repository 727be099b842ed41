"""Points of limiting networks: judged, embedded, left, saved and read as other points are."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.limits import AtInfinity, Limit, LimitMLP
from semiflat.study.widenings import output_change
from test_limits import with_a_minimum_at_infinity

SIGMA: dict[str, Any] = {
    "tanh": (torch.tanh, lambda z: 1 - torch.tanh(z) ** 2),
    "sigmoid": (torch.sigmoid, lambda z: torch.sigmoid(z) * (1 - torch.sigmoid(z))),
    "softplus": (torch.nn.functional.softplus, torch.sigmoid),
}
CASES = [
    ("tanh", [["unit", "gate"]]),
    ("sigmoid", [["unit", "gate", "gate", "unit"]]),
    ("softplus", [["unit", "tail", "linear"]]),
    ("tanh", [["linear", "unit", "gate", "tail"], ["unit", "gate"]]),
    ("sigmoid", [["unit", "unit", "gate"], ["unit", "gate", "gate"]]),
]
each_case = pytest.mark.parametrize(("name", "forms"), CASES, ids=str)


def made(name: str, forms: list[list[str]], outputs: int = 2, seed: int = 0) -> sf.Point:
    """A random point of a limiting network on random data."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(12, outputs, generator=generator, dtype=torch.float64)
    net = sf.MLP([2, *map(len, forms), outputs], name)
    problem = sf.Problem(net, X, y)
    return Limit(problem, LimitMLP(net, forms), net.random_params(seed)).point


def outputs_of(net: Any, name: str, params: dict[str, Tensor], X: Tensor) -> Tensor:
    """The limiting network written out unit by unit; nothing of the library's but names and shapes."""
    sigma, slope = SIGMA[name]
    h = X
    for layer, row in enumerate(net.forms):
        z = h @ params[f"{2 * layer}.weight"].T + params[f"{2 * layer}.bias"]
        columns, base = [], None
        for unit, form in enumerate(row):
            if form == "unit":
                base = z[:, unit]
                columns.append(sigma(base))
            elif form == "gate":
                columns.append(z[:, unit] * slope(base))
            elif form == "tail":
                columns.append(torch.exp(z[:, unit]))
            else:
                columns.append(z[:, unit])
        h = torch.stack(columns, 1)
    top = len(net.forms)
    return h @ params[f"{2 * top}.weight"].T + params[f"{2 * top}.bias"]


def independent(point: sf.Point) -> Any:
    """The risk of a point's problem, from the outputs above, as a function of flat parameters."""
    problem, net = point.problem, point.problem.net
    name = net.activations[0].name

    def risk(vector: Tensor) -> Tensor:
        f = outputs_of(net, name, net.unflatten(vector), problem.X)
        return ((f - problem.y) ** 2).sum(1).mean() / 2

    return risk


def inertia(matrix: Tensor) -> tuple[int, int, int]:
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    size = 1e-11 * float(values.abs().max())
    counts = (values > size), (values.abs() <= size), (values < -size)
    return tuple(int(each.sum()) for each in counts)  # type: ignore[return-value]


def dense(point: sf.Point) -> Tensor:
    """The Hessian by automatic differentiation."""
    return torch.func.hessian(independent(point))(point.problem.net.flatten(point.params))


@each_case
def test_derivatives_are_those_of_automatic_differentiation(
    name: str, forms: list[list[str]]
) -> None:
    point = made(name, forms)
    problem, vector = point.problem, point.problem.net.flatten(point.params)
    risk = independent(point)
    found = risk_gradient_hessian(problem, point.params)
    expected = risk(vector), torch.func.grad(risk)(vector), torch.func.hessian(risk)(vector)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert point.loss == pytest.approx(float(expected[0]), rel=1e-12)
    assert point.gradient_norm == pytest.approx(float(expected[1].abs().max()), rel=1e-10)
    net, X = problem.net, problem.X
    top = len(forms)
    f = outputs_of(net, name, point.params, X)
    torch.testing.assert_close(net.forward(point.params, X), f)
    torch.testing.assert_close(net.fed(point.params, X, top) @ net.layer(point.params, top).mT, f)
    operator = sf.hessian_operator(point)
    torch.testing.assert_close(
        torch.from_numpy(operator @ torch.eye(len(vector)).double().numpy()), expected[2]
    )


@each_case
def test_directions_said_to_be_flat_change_nothing(name: str, forms: list[list[str]]) -> None:
    point = made(name, forms)
    vector = point.problem.net.flatten(point.params)
    gradient = torch.func.grad(independent(point))(vector)
    families = [f for f in sf.judge(point).flat_directions or () if f.name in GAUGES]
    assert families
    for family in families:
        tangents = family.tangents  # type: ignore[attr-defined]
        assert float((tangents @ gradient).abs().max()) < 1e-12
    assert sum(family.dimension for family in families) == Limit.of(point).gauge


GAUGES = {"gates of one unit", "tails", "linear units at infinity"}


def risk_above(point: sf.Point, top: int, z: Tensor) -> Tensor:
    """The risk from the pre-activations of linear layer ``top``, the last or the last but one, on."""
    problem, params = point.problem, point.params
    if top < len(problem.net.hidden):
        h = problem.net.activity(top, z)
        z = h @ params[f"{2 * top + 2}.weight"].T + params[f"{2 * top + 2}.bias"]
    return ((z - problem.y) ** 2).sum(1).mean() / 2


def surrogate(point: sf.Point, layer: int, unit: int) -> Tensor:
    """K of a branch: the Hessian of ⟨δ, c σ(z) + Σ v_j z_j σ'(z)⟩ in (c, v | u, ω), δ held fixed."""
    problem, net = point.problem, point.problem.net
    name = net.activations[0].name
    sigma, slope = SIGMA[name]
    top = layer + 1
    x = net.fed(point.params, problem.X, layer)
    branch = net.branch(layer, unit)
    above = point.params[f"{2 * top}.weight"]

    z = net.fed(point.params, problem.X, top) @ net.layer(point.params, top).mT
    delta = torch.func.grad(partial(risk_above, point, top))(z)
    rows = net.layer(point.params, layer)[branch]
    M, D, k = len(above), x.shape[1], len(branch)

    def s(vector: Tensor) -> Tensor:
        readout, inner = vector[: M * k].reshape(M, k), vector[M * k :].reshape(k, D)
        base = x @ inner[0]
        said = [sigma(base), *((x @ inner[j]) * slope(base) for j in range(1, k))]
        return (delta * (torch.stack(said, 1) @ readout.T)).sum()

    at = torch.cat([above[:, branch].flatten(), rows.flatten()])
    return torch.func.hessian(s)(at)


@pytest.mark.parametrize(
    "shares", [[0.5, 0.5], [0.3, 0.3, 0.4], [-0.5, 1.5], [2, -0.5, -0.5], [1, 0]]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_inertia_law_holds_for_copies_of_a_branch(shares: list[float], seed: int) -> None:
    for name, forms in (CASES[0], CASES[1], CASES[3], CASES[4]):
        point = made(name, forms, seed=seed)
        for layer, row in enumerate(forms):
            for unit in [k for k, form in enumerate(row) if form == "unit"]:
                wide = sf.Replicate(layer, unit, shares)(point)
                net = wide.problem.net
                f = net.forward(wide.params, point.problem.X)
                torch.testing.assert_close(
                    f, point.problem.net.forward(point.params, point.problem.X)
                )
                K = surrogate(point, layer, unit)
                size = len(point.problem.net.branch(layer, unit)) * net.widths[layer + 2]
                rank = int(torch.linalg.matrix_rank(K[:size, size:], rtol=1e-11))
                up, _, down = inertia(K)
                narrow = inertia(dense(point))
                p, q = sum(s > 0 for s in shares), sum(s < 0 for s in shares)
                z = sum(s == 0 for s in shares)
                law = (
                    narrow[0] + (p - 1) * up + q * down + z * rank,
                    narrow[2] + (p - 1) * down + q * up + z * rank,
                )
                found = inertia(dense(wide))
                assert (found[0], found[2]) == law


@pytest.mark.parametrize("seed", range(4))
def test_a_null_gate_adds_the_rank_of_its_base_s_f_to_both_counts(seed: int) -> None:
    for name, forms in (CASES[0], CASES[1], CASES[3]):
        point = made(name, forms, seed=seed)
        unit = forms[0].index("unit")
        wide = sf.NullGates(0, unit)(point)
        branch = point.problem.net.branch(0, unit)
        assert wide.problem.net.branch(0, unit) == [*branch, branch[-1] + 1]
        problem, net = point.problem, point.problem.net
        z = net.fed(point.params, problem.X, 0) @ net.layer(point.params, 0).mT
        slope = SIGMA[name][1](z[:, unit])
        f = net.fed(point.params, problem.X, 1) @ net.layer(point.params, 1).mT
        delta = torch.func.grad(partial(risk_above, point, 1))(f)
        F = (delta * slope[:, None]).T @ net.fed(point.params, problem.X, 0)
        rank = int(torch.linalg.matrix_rank(F, rtol=1e-11))
        narrow, found = inertia(dense(point)), inertia(dense(wide))
        assert (found[0], found[2]) == (narrow[0] + rank, narrow[2] + rank)


@pytest.fixture(scope="module")
def channel() -> sf.CriticalPoint:
    """A run into a channel to infinity, whose end is known to be a minimum."""
    problem, vector = with_a_minimum_at_infinity()
    known = Limit(problem, LimitMLP(problem.net, [["unit", "gate"]]), problem.net.unflatten(vector))
    (run,) = sf.run_search(problem, starts=1, start=known.approach(20.0).params).runs
    assert run.status is sf.Status.CHANNEL
    return run


def test_a_minimum_at_infinity_is_judged_embedded_and_left(channel: sf.CriticalPoint) -> None:
    point = channel.limit.point  # type: ignore[union-attr]
    assert isinstance(point, sf.Point)
    assert point.loss == pytest.approx(channel.limit.loss, rel=1e-14)  # type: ignore[union-attr]
    verdict = sf.judge(point)
    assert verdict.kind is sf.Kind.MINIMUM, verdict.reason
    assert "every finite network next to it that was tried has more loss" in verdict.reason
    assert verdict.inertia is not None
    assert tuple(verdict.inertia)[:3] == inertia(dense(point))
    assert verdict.inertia.zero == channel.limit.gauge  # type: ignore[union-attr]
    for embedding in (
        sf.Replicate(0, 0, [0.5, 0.5]),
        sf.Replicate(0, 0, [-0.5, 1.5]),
        sf.NullUnits(0, [0.4]),
        sf.NullGates(0, 0),
        sf.Replicate(0, 0, [0.3, 0.7]) >> sf.NullUnits(0, [0]),
    ):
        wide = embedding(point)
        found = sf.judge(wide)
        assert found.inertia is not None
        assert tuple(found.inertia)[:3] == inertia(dense(wide)), embedding
        assert wide.loss == pytest.approx(point.loss, rel=1e-12)
        copied = "Replicate" in repr(embedding)
        says = "each copy of unit 0 of hidden layer 0 stands for 2 finite units"
        assert (says in found.reason) == copied
        if found.kind is sf.Kind.STRICT_SADDLE:
            direction = found.descent_direction
            assert direction is not None
            net, risk = wide.problem.net, independent(wide)
            at, along = net.flatten(wide.params), net.flatten(direction)
            assert float(along @ dense(wide) @ along) < 0
            assert float(risk(at + 1e-3 * along)) < float(risk(at))
    left = sf.escape(point)
    assert left.found, left.reason
    assert left.new_units >= 1
    assert left.curvature == pytest.approx(left.measured_curvature, rel=1e-4)


def test_it_is_saved_and_read_again(channel: sf.CriticalPoint, tmp_path: Path) -> None:
    point = channel.limit.point  # type: ignore[union-attr]
    wide = sf.Replicate(0, 0, [0.5, 0.5])(point)
    problem = channel.problem
    for k, each in enumerate((point, wide)):
        sf.save_point(each, tmp_path / f"{k}.safetensors")
        again = sf.load_point(tmp_path / f"{k}.safetensors").point(problem.X, problem.y)
        assert again.problem.net == each.problem.net
        assert again.loss == each.loss
        one, other = sf.judge(again), sf.judge(each)
        assert (one.kind, one.inertia) == (other.kind, other.inertia)


def test_steps_keep_their_samples_through_files_and_copies(tmp_path: Path) -> None:
    data = sf.load_data("diabetes")
    problem = sf.Problem(sf.MLP([10, 2, 1], "tanh"), data.X, data.y)
    x, y = data.X, data.y
    runs = [run for run in sf.run_search(problem, starts=8).runs if run.limit is not None]
    run = min(runs, key=lambda each: each.limit.loss)  # type: ignore[union-attr]
    limit = run.limit
    assert limit is not None
    assert any(form == "step" for row in limit.net.forms for form in row)
    point = limit.point
    assert point.loss == pytest.approx(limit.loss, rel=1e-13)
    step = [str(form) for form in limit.net.forms[0]].index("step")
    wide = sf.Replicate(0, step, [0.25, 0.75])(point)
    torch.testing.assert_close(
        wide.problem.outputs(wide.params), point.problem.outputs(point.params)
    )
    for k, each in enumerate((point, wide)):
        sf.save_point(each, tmp_path / f"{k}.safetensors")
        again = sf.load_point(tmp_path / f"{k}.safetensors").point(x, y)
        assert again.loss == each.loss
        assert sf.judge(again).kind is sf.judge(each).kind
    assert output_change(wide) < 1e-12
    assert isinstance(wide.problem, AtInfinity)
    wide.problem.offsets = [torch.zeros_like(each) for each in wide.problem.offsets]
    assert output_change(wide) > 0.01  # the network alone does not know its steps' samples


def test_what_has_no_place_at_infinity_says_so(channel: sf.CriticalPoint) -> None:
    point = channel.limit.point  # type: ignore[union-attr]

    def refused(text: str) -> Any:
        return pytest.raises(sf.InputError, match=re.escape(text))

    with refused("unit 1 of hidden layer 0 is a gate of unit 0; name that unit"):
        sf.Replicate(0, 1, [0.5, 0.5])(point)
    with refused("Limit.of takes a point of a limiting network"):
        Limit.of(sf.Point(channel.problem, channel.params))
    with refused("null gates are of a limiting network"):
        sf.NullGates(0, 0)(sf.Point(channel.problem, channel.params))
    with refused("a limiting network is widened by Replicate, NullUnits and NullGates alone"):
        sf.InactiveUnits(0, 1, [[0.5]], bias=0)(point)
    with refused("a limiting network is no nn.Sequential"):
        point.problem.net.to_module(point.params)
    with refused("are below the"):
        point.problem.net.with_hidden([1])
    with refused("with weight decay 0.1 units at infinity cost infinitely much"):
        Limit(channel.problem.with_weight_decay(0.1), point.problem.net, point.params)
    with refused("with weight decay 0.1 units at infinity cost infinitely much"):
        point.problem.with_weight_decay(0.1)
    problem, same = point.problem, point.problem.with_weight_decay(0)
    assert isinstance(problem, AtInfinity)
    assert isinstance(same, AtInfinity)
    assert same.far is problem.far
    assert "units at infinity cannot be evaluated in balls" in sf.certify(point).reason
    assert json.loads(json.dumps(sf.judge(point).to_json()))["certainty"] == "MEASURED"


def test_reducing_takes_back_what_widening_did(channel: sf.CriticalPoint) -> None:
    point = channel.limit.point  # type: ignore[union-attr]
    assert sf.reduce(point).widths == (2,)
    assert not sf.reduce(point).merges
    for embedding in (
        sf.Replicate(0, 0, [0.25, 0.75]),
        sf.Replicate(0, 0, [-0.5, 1.0, 0.5]),
        sf.NullGates(0, 0, 2),
        sf.NullUnits(0, [0.4, -1]),
        sf.Replicate(0, 0, [0.25, 0.75]) >> sf.NullUnits(0, [0.5]) >> sf.NullGates(0, 2),
    ):
        wide = embedding(point).materialize()
        small = sf.reduce(wide)
        assert small.point.problem.net == point.problem.net, embedding
        assert small.point.loss == pytest.approx(point.loss, rel=1e-13)
        back = small.embedding(small.point)
        assert back.problem.net == wide.problem.net
        for key, tensor in wide.params.items():
            torch.testing.assert_close(back.params[key], tensor, rtol=1e-13, atol=1e-15)
    two = made(*CASES[4])
    wide = (sf.Replicate(0, 1, [0.5, 0.5]) >> sf.Replicate(1, 0, [2, -1]))(two).materialize()
    small = sf.reduce(wide)
    assert small.point.problem.net == two.problem.net
    back = small.embedding(small.point)
    for key, tensor in wide.params.items():
        torch.testing.assert_close(back.params[key], tensor, rtol=1e-13, atol=1e-15)


def test_the_tanh_study_of_diabetes_embeds_judges_and_leaves_its_lowest_point(
    tmp_path: Path,
) -> None:
    from semiflat.report import write_report
    from semiflat.study import Settings, Study

    settings = Settings(hidden=(2,), activation="tanh", starts=8, wider=1, points=1)
    record = Study(sf.load_data("diabetes"), settings, tmp_path).run()
    lowest = record["points"][0]
    finite = [row["loss"] for row in record["points"] if row["at_infinity"] is None]
    assert lowest["at_infinity"] is not None
    assert lowest["loss"] < min(finite, default=1.0)
    assert lowest["loss"] == min(row["loss"] for row in record["points"])
    embedded = [row for row in record["embedded"] if row["source"] == "p0"]
    assert len(embedded) >= 3
    for row in embedded:
        assert row["method"] == "dense Hessian"
        assert row["dense_inertia"] is None  # the same matrix counted again would check nothing
        assert row["output_change"] < 1e-12
    far = [row for row in record["points"] if row["at_infinity"] is not None]
    for row in [*far, *embedded]:
        assert row["certificate"]["status"] == "invalid_input"
        assert row["certificate"]["file"] is None
        assert not (tmp_path / "certificates" / f"{row['name']}.json").exists()
    left = [row for row in record["escapes"] if row["source"] == "p0"]
    assert left
    assert min(row["loss_after"] for row in left) < lowest["loss"] * 0.95
    page = write_report(record, tmp_path)[0].read_text()
    assert "p0 ∞" in page
    assert "Points marked ∞ lie at infinity" in page
    assert "The lowest critical point is not the lowest loss" not in page
    assert f"Points at infinity ({len(embedded)} rows) are no check of the law" in page
    assert "signs that the law" not in page
    assert "`" not in page.split("<script")[0]
    assert lowest["kind"] != "UNDECIDED" or f"Undecided: {lowest['reason']}" in page
    there = sf.load_point(tmp_path / "points" / "p0.safetensors")
    data = sf.load_data("diabetes")
    assert there.point(data.X, data.y).loss == pytest.approx(lowest["loss"], rel=1e-13)


def first_order(point: sf.Point) -> float:
    """What a finite network at 1/scale differs by, times the scale: over the gates of the first layer."""
    problem, net = point.problem, point.problem.net
    W, b = point.params["0.weight"], point.params["0.bias"]
    rows = torch.cat([W, b[:, None]], 1)
    fed = torch.cat([problem.X, torch.ones(problem.samples, 1).double()], 1)
    name = net.activations[0].name
    sigma = SIGMA[name][0]
    residual = outputs_of(net, name, point.params, problem.X) - problem.y
    total = torch.tensor(0.0)
    for head in net.heads(0):
        z = (fed @ rows[head]).requires_grad_()
        (slope,) = torch.autograd.grad(sigma(z).sum(), z, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), z)
        for gate in net.branch(0, head)[1:]:
            v = point.params["2.weight"][:, gate]
            total = total + ((residual @ v) * bend * (fed @ rows[gate]) ** 2).mean() / 2
    return float(total)


@pytest.mark.parametrize("seed", range(3))
def test_several_gates_of_one_unit_are_met_at_first_order_from_both_sides(seed: int) -> None:
    point = made("tanh", [["unit", "gate", "gate"]], seed=seed)
    limit = Limit.of(point)
    scale = 1e5
    for sign in (1, -1):
        near = limit._gap(sign * scale, (0, 0), 0.0)
        assert near * scale == pytest.approx(sign * first_order(point), rel=1e-3)
    (rate,) = limit.rates
    assert rate.gap < 0, "one of the two ways goes down"


@pytest.mark.parametrize("side", [-0.1, 0.1])
def test_a_unit_with_two_gates_is_no_minimum_at_infinity(side: float) -> None:
    g = torch.Generator().manual_seed(6)
    X = torch.randn(30, 3, generator=g, dtype=torch.float64)
    total = X.sum(1, keepdim=True)
    y = [torch.sin(total * (k + 1)) + 0.3 * X[:, :1] ** 2 * (-1) ** k for k in range(3)]
    problem = sf.Problem(sf.MLP([3, 3, 3], "tanh"), X, torch.cat(y, 1))
    runs = sf.run_search(problem, starts=4, seed=0, processes=1, max_iterations=300).runs
    there = next(run.limit for run in runs if run.limit and "gate" in run.limit.net.forms[0])
    wide = sf.NullGates(0, there.net.forms[0].index("gate") - 1)(there.point)  # type: ignore[arg-type]
    down = sf.judge(wide).descent_direction
    start = {key: tensor + side * down[key] for key, tensor in wide.params.items()}
    lower = sf.find_critical_point(wide.problem, start=start, max_iterations=500)
    limit = Limit.of(lower)
    assert max(len(limit.net.branch(0, head)) for head in limit.net.heads(0)) == 3
    assert limit.inertia[2] == 0, "a minimum of the limiting network"
    verdict = sf.judge(lower)
    assert verdict.kind is sf.Kind.UNDECIDED
    assert limit.kind == "SADDLE"
    assert not limit.held
    assert "finite networks next to it have less loss" in verdict.reason
    assert problem.with_net(limit.net.finite).risk(limit.way_down()) < limit.loss


def test_what_is_of_finite_networks_takes_no_limits(channel: sf.CriticalPoint) -> None:
    point = channel.limit.point  # type: ignore[union-attr]
    for function in (
        sf.gradient_basis_gap,
        sf.refute_minimum,
        sf.locally_linear_model,
        sf.non_attracting_region,
        sf.canonical_form,
        sf.path_to_zero_loss,
        lambda point: sf.minimum_at_infinity(point.problem),
        lambda point: sf.pac_bayes_bound(point, sf.Clipped(2.0)),
    ):
        with pytest.raises(sf.InputError, match="this one has units at infinity"):
            function(point)
    assert sf.widths_by_tolerance(point, [0, 0.1]) == [(0.0, (2,), 0.0), (0.1, (2,), 0.0)]


def test_steps_are_known_for_their_samples_alone() -> None:
    X = torch.randn(9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    net = sf.MLP([1, 2, 1], "tanh")
    problem, params = sf.Problem(net, X, X.sin()), net.random_params(0)
    far = {key: torch.zeros_like(tensor) for key, tensor in params.items()}
    far["0.weight"][1] = 1.0
    limit = Limit(problem, LimitMLP(net, [["unit", "step"]]), params, far)
    z = X @ params["0.weight"].T + params["0.bias"]
    h = torch.stack([z[:, 0].tanh(), X[:, 0].sign()], 1)
    told = limit.point.problem.outputs(params)
    assert torch.allclose(told, h @ params["2.weight"].T + params["2.bias"])
    with pytest.raises(sf.InputError, match=r"use problem.outputs\(params\)"):
        limit.net.forward(params, X)
