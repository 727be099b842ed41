"""Points and inputs that once gave a wrong answer, a false sentence or a raw error."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import semiflat as sf
from semiflat.curvature.parts import second_difference


def t(*values: object) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def small_problem(activation: str = "tanh", widths: tuple[int, ...] = (1, 2, 1)) -> sf.Problem:
    X = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    y = torch.cos(2 * X) if widths[-1] == 1 else torch.cat([X, X**2], 1)
    return sf.Problem(sf.MLP(widths, activation), X, y)


def test_residuals_above_rounding_are_no_exact_fit_however_large_the_weights_that_cancel() -> None:
    X = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
    x = X[:, 0]
    w, b, large = 1.3, 0.4, 1024
    h = torch.tanh(w * x + b)
    s1 = 1 - h**2
    r = -2 * h * s1
    Q = torch.linalg.qr(torch.stack([torch.ones_like(x), h, s1, s1 * x], 1))[0]
    for _ in range(4):
        r = r - Q @ (Q.T @ r)
    r = r * (4e-11 / r.abs().max())
    problem = sf.Problem(sf.MLP([1, 1, 1]), X, h - r)
    params = {"0.weight": t([w]), "0.bias": t(b), "2.weight": t([1.0]), "2.bias": t(0.0)}
    wide = sf.Replicate(0, 0, [large + 1, -large])(sf.Point(problem, params))
    assert sf.judge(wide).kind is sf.Kind.STRICT_SADDLE
    assert sf.judge(wide.materialize()).kind not in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)


@pytest.mark.parametrize("widths", [(1, 2, 2), (1, 2, 2, 2)])
def test_a_relu_unit_at_its_kink_is_judged(widths: tuple[int, ...]) -> None:
    problem = small_problem("relu", widths)
    params = problem.net.random_params(0)
    params["0.weight"][0] = 0
    params["0.bias"][0] = 0
    kinds = (sf.Kind.NOT_CRITICAL, sf.Kind.UNDECIDED)
    assert sf.judge(sf.Point(problem, params)).kind in kinds
    nothing = {key: 0 * tensor for key, tensor in params.items()}
    assert sf.judge(sf.Point(problem, nothing)).kind in kinds


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_a_layer_that_is_silent_for_several_reasons_keeps_one_unit(
    activation: str, tolerance: float
) -> None:
    problem = small_problem(activation, (1, 1, 1))
    params = problem.net.random_params(0)
    params["0.weight"][:] = 0
    params["0.bias"][:] = -1.0
    point = sf.NullUnits(0, [0.4, -0.4])(sf.Point(problem, params))
    small = sf.reduce(point, tolerance)
    assert small.widths == (1,)
    back = small.embedding(small.point)
    for key, tensor in point.params.items():
        assert torch.allclose(back.params[key], tensor, atol=1e-14)


def test_an_escape_is_not_denied_where_the_floors_hide_it() -> None:
    problem = sf.Problem(
        sf.MLP([1, 1, 1, 1], "softplus"),
        [[0.30762033551139906], [-0.7328824085385068], [0.08720940986726229], [-1.316071765564522]],
        [-1.8821758916317028, -1.883534197528919, -1.8832377406654788, -1.8819146536763243],
    )
    params = {
        "0.weight": t([0.7359463714103682]),
        "0.bias": t(-20.0),
        "2.weight": t([1.0320254141188765]),
        "2.bias": t(0.5880646973516407),
        "4.weight": t([-1.5986345146903562]),
        "4.bias": t(-0.23644473542057554),
    }
    point = sf.Point(problem, params)
    # Its gradient is small only because a unit is far out on its tail: it is not near a critical point.
    assert sf.certify_not_critical(point, 1e-6).certified
    assert sf.judge(point).kind is sf.Kind.NOT_CRITICAL
    assert sf.escape(point).kind == "not critical"


def test_units_that_differ_by_more_than_rounding_are_no_twins() -> None:
    problem = small_problem("gelu", (1, 3, 1))
    params = {
        "0.weight": t([1.0], [1 + 1e-14], [-2.0]),
        "0.bias": t(0.3, 0.3, 1.0),
        "2.weight": t([1e6, -1e6, 1.0]),
        "2.bias": t(1.0),
    }
    point = sf.Point(problem, params)
    assert sf.reduce(point).widths == (3,)
    near = sf.reduce(point, 1e-6)
    assert near.widths == (1,)
    change = (
        near.point.problem.net.forward(near.point.params, problem.X)
        - problem.net.forward(params, problem.X)
    ).abs()
    assert 1e-9 < float(change.max()) <= near.bound


def test_where_every_tangent_is_zero_the_rank_is_0() -> None:
    problem = sf.Problem(
        sf.MLP([1, 1, 2, 1], ["sin", "sigmoid"]), [[-1.0], [0.2], [0.7]], [0.1, 0.5, -0.2]
    )
    middle = sf.NullUnits(0, [1.0])(sf.Point(problem, problem.net.random_params(seed=1)))
    plain = middle.materialize()
    embedding = sf.Compatible.random(
        plain.problem.net, [1, 3, 2, 1], index_map=[[0, 1, 1], [0, 1]], seed=0
    )
    directions = embedding.flat_directions(plain)
    wide = embedding(plain)
    jacobian = sf.jacobian(wide).flatten(0, 1)
    assert embedding.tangent_rank(plain) == len(directions) == 0
    assert jacobian.shape[1] == directions.shape[1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: sf.Replicate(0, 0, ["1e400", None]),
        lambda: sf.NullUnits(0, ["1e400"]),
        lambda: sf.GlobalNull("1e400"),
        lambda: sf.Rescale(0, 0, "1e400"),
        lambda: sf.Rescale(0, 0, "1e-400"),
        lambda: sf.Rescale(0, 0, 1e-310),
        lambda: sf.ScaledReplicate(0, 0, ["1e-400"], [None]),
        lambda: sf.GlobalSplit(["1e309", "-1e309", 1]),
        lambda: sf.Split(0, [0, 0, 1], ["1e400", "-1e400", 1]),
    ],
)
def test_numbers_beyond_floating_point_are_refused(make) -> None:
    with pytest.raises(sf.InputError, match="does not fit floating point"):
        make()


def test_scales_that_multiply_beyond_floating_point_are_refused() -> None:
    point = sf.Point(small_problem("relu"), small_problem("relu").net.random_params(0))
    tiny = sf.Rescale(0, 0, 1e-200) >> sf.Rescale(0, 0, 1e-200)
    with pytest.raises(sf.InputError, match="does not fit floating point"):
        _ = tiny(point).params
    with pytest.raises(sf.InputError, match="overflows"):
        _ = (sf.Rescale(0, 0, 1e-299) >> sf.Replicate(0, 0, [1e20, None]))(point).params


def test_a_file_whose_embedding_lost_a_row_is_refused(tmp_path) -> None:
    problem = small_problem()
    point = sf.Point(problem, problem.net.random_params(0))
    path = tmp_path / "p.safetensors"
    sf.save_point(sf.Replicate(0, 0, [0.5, 0.5], offsets=[[1.0], [-1.0]])(point), path)
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    entries = json.loads(metadata["embedding"])
    entries[0]["offsets"] = entries[0]["offsets"][:1]
    save_file(tensors, str(path), metadata | {"embedding": json.dumps(entries)})
    with pytest.raises(sf.InputError, match="offsets"):
        sf.load_point(path).point(problem.X, problem.y)


def test_an_underflow_is_no_zero_of_an_activation() -> None:
    for activation, bias in (("gelu", -1000.0), ("silu", -800.0)):
        with pytest.raises(sf.InputError, match="inactive units need a bias"):
            sf.InactiveUnits(0, 1, bias=bias).widen(sf.MLP([1, 2, 1], activation))
    assert sf.InactiveUnits(0, 1, bias=math.pi).widen(sf.MLP([1, 2, 1], "sin")).widths == (1, 3, 1)


def test_arguments_of_the_wrong_kind() -> None:
    problem = small_problem()
    point = sf.Point(problem, problem.net.random_params(0))
    for tolerance in ("a", math.nan, -1.0, math.inf):
        with pytest.raises(sf.InputError, match="tolerance must be"):
            sf.judge(point, tolerance)  # type: ignore[arg-type]
    with pytest.raises(sf.InputError, match="takes a list"):
        sf.judge_all(point)  # type: ignore[arg-type]
    with pytest.raises(sf.InputError, match="must be a list"):
        sf.widths_by_tolerance(point, 0.1)  # type: ignore[arg-type]
    with pytest.raises(sf.InputError, match="floating-point type"):
        sf.Replicate(0, 0, [0.5, 0.5]).lift(torch.ones(7, dtype=torch.int64), problem.net)
    batch = sf.PointBatch(problem, problem.net.random_params(0, batch=(2,)))
    with pytest.raises(sf.InputError, match="one point"):
        sf.GlobalSplit().flat_directions(batch)
    shares = torch.tensor([0.3, 0.7], dtype=torch.float32)
    assert sf.Replicate(0, 0, shares) == sf.Replicate(0, 0, [0.3, 0.7])


def test_the_finite_difference_finds_its_step_where_the_loss_bends_fast() -> None:
    """A quartic much steeper than the quadratic: long steps see only the quartic."""
    problem = sf.Problem(
        sf.MLP([1, 1]),
        [[1.0]],
        [0.0],
        loss=lambda f, y: (f**2).sum() ** 2 * 1e9 - 0.5 * (f**2).sum(),
    )
    direction = t(1.0, 0.0)
    measured = second_difference(problem, t(0.0, 0.0), direction)
    assert measured == pytest.approx(-1.0, rel=0.05)


def orthogonal(vector: torch.Tensor, columns: list[torch.Tensor], size: float) -> torch.Tensor:
    """The part of a vector off some columns, at a given size."""
    basis = torch.linalg.qr(torch.stack(columns, 1))[0]
    for _ in range(4):
        vector = vector - basis @ (basis.T @ vector)
    return vector * (size / vector.abs().max())


@pytest.mark.parametrize(
    ("interval", "size"),
    [
        ((50, 100), 0.3),
        ((30, 40), 1e-2),
        ((1950, 2020), 0.3),
        ((10, 20), 1e-2),
        *[((-1, 1), size) for size in (1e-3, 1e-7, 1e-8, 1e-9, 1e-10, 1e-12)],
    ],
)
def test_a_unit_nobody_hears_is_no_proof_of_a_minimum(
    interval: tuple[float, float], size: float
) -> None:
    """Third order leads down, in whatever units the inputs are and however small the residuals."""
    X = torch.linspace(*interval, 30, dtype=torch.float64)[:, None]
    middle, half = sum(interval) / 2, (interval[1] - interval[0]) / 2
    x = (X[:, 0] - middle) / half
    w0, b0, w1, b1 = 1.5 / half, -1.5 * middle / half + 0.3, -0.9 / half, 0.9 * middle / half + 0.5
    h, k = torch.tanh(w0 * X[:, 0] + b0), torch.tanh(w1 * X[:, 0] + b1)
    dh, dk = 1 - h**2, 1 - k**2
    r = orthogonal(
        torch.tanh(w1 * X[:, 0] + b1 + 0.3 * x),
        [torch.ones_like(x), h, dh, dh * x, k, dk, dk * x],
        size,
    )
    params = {"0.weight": t([w0]), "0.bias": t(b0), "2.weight": t([1.0]), "2.bias": t(0.0)}
    point = sf.Point(sf.Problem(sf.MLP([1, 1, 1]), X, h - r), params)
    wide = sf.InactivePropagation(0, [[w1, b1]])(point)
    for each in (wide, wide.materialize()):
        assert sf.judge(each).kind is sf.Kind.UNDECIDED


@pytest.mark.parametrize("big", [1e4, 1e6, 1e8])
def test_each_output_is_fitted_to_its_own_rounding(big: float) -> None:
    X = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
    x = X[:, 0]
    h = torch.tanh(1.3 * x + 0.4)
    s = 1 - h**2
    r = orthogonal(torch.tanh(2 * x + 0.1), [torch.ones_like(x), h, s, s * x], 8.8e-16 * big)
    y = torch.stack([torch.full_like(x, big), h - r], 1)
    params = {
        "0.weight": t([1.3]),
        "0.bias": t(0.4),
        "2.weight": t([0.0], [1.0]),
        "2.bias": t(big, 0.0),
    }
    point = sf.Point(sf.Problem(sf.MLP([1, 1, 2]), X, y), params)
    wide = sf.Replicate(0, 0, [1, 0])(point)
    for each in (wide, wide.materialize()):
        assert sf.judge(each).kind is not sf.Kind.MINIMUM


@pytest.mark.parametrize("size", [1e-12, 1e-20, 1e-160])
def test_targets_far_below_the_tolerance_prove_nothing(size: float) -> None:
    X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1]), X, size * torch.sin(3 * X[:, 0]))
    params = {"0.weight": t([0.7]), "0.bias": t(0.3), "2.weight": t([0.0]), "2.bias": t(0.0)}
    point = sf.Point(problem, params)
    assert sf.judge(point).kind in (sf.Kind.UNDECIDED, sf.Kind.NOT_CRITICAL)
    assert sf.escape(point).kind in ("undecided", "not critical")
