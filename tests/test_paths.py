"""Paths: P21's theorems and lemmas in their own words, against networks written out by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import semiflat as sf
from semiflat.images import Levels
from semiflat.paths.descent import down
from semiflat.paths.image import image_of
from semiflat.paths.infinity import lemma_7
from semiflat.paths.lemmas import State, alone, both_signs, lemma_5, lemma_6, listened_to
from semiflat.paths.path import Claim, Path, Piece, straight
from semiflat.paths.steering import Steering
from semiflat.paths.wide_layer import GOOD, WideLayer
from semiflat.paths.zero_loss import _measured


class Atan(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return math.pi / 2 - torch.atan2(torch.ones_like(z), z)


class Erf(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return 1 - torch.erfc(z)


MODULES = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, torch.atan: Atan, torch.erf: Erf}
ENDS = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    torch.atan: (-math.pi / 2, math.pi / 2),
    torch.erf: (-1.0, 1.0),
}
CLASS_A = list(MODULES)
LOGISTIC = ["sigmoid", "tanh"]
few = settings(max_examples=25, deadline=None)


def module(widths, activation, params) -> nn.Sequential:
    """The network, without semiflat."""
    layers: list[nn.Module] = []
    for k, (fan, out) in enumerate(pairwise(widths)):
        bias = f"{2 * k}.bias" in params
        layers += [nn.Linear(fan, out, bias=bias).double(), MODULES[activation]()]
    made = nn.Sequential(*layers[:-1])
    made.load_state_dict(params)
    return made


def loss(widths, activation, params, X, y) -> float:
    with torch.no_grad():
        return float(((module(widths, activation, params)(X) - y) ** 2).mean() / 2)


def data(samples: int, inputs: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    X = torch.randn((samples, inputs), generator=g).double()
    return X, torch.randn((samples, 1), generator=g).double()


def problem(widths, activation, samples, seed) -> sf.Problem:
    return sf.Problem(sf.MLP(widths, activation), *data(samples, widths[0], seed))


def single_precision() -> sf.Problem:
    X, y = data(3, 1, 0)
    return sf.Problem(sf.MLP([1, 3, 1]), X, y, dtype=torch.float32)


def levels(values: Tensor, activation: str) -> Levels:
    low, high = ENDS[activation]
    return Levels(values - low, high - values)


# -- Lemmas 2 to 4: the wide layer --------------------------------------------------------------------


@few
@given(
    st.sampled_from(CLASS_A),
    st.integers(2, 12),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 10**6),
)
def test_lemma_2_the_activation_vectors_span_everything_after_a_walk_that_keeps_all_outputs(
    activation, samples, inputs, spare, seed
):
    widths = [inputs, samples + spare, 2, 1]
    p = problem(widths, activation, samples, seed)
    params = p.net.random_params(seed)
    wide = WideLayer(p.net, p.X, 0)
    good = wide.make_good(params, seed)
    hidden = module(widths, activation, good.params)[:2](p.X).detach()
    spanned = torch.cat([hidden, torch.ones(samples, 1).double()], 1)
    sizes = torch.linalg.svdvals(spanned)
    assert sizes[samples - 1] > sizes[0] / (1.01 * GOOD)
    before, end = params, good.params
    for curve in good.curves:
        s = torch.linspace(0, 1, 5, dtype=torch.float64)
        for vector in curve(s):
            there = module(widths, activation, p.net.unflatten(vector))[:3](p.X)
            start = module(widths, activation, before)[:3](p.X)
            torch.testing.assert_close(there, start, rtol=1e-10, atol=1e-11)
        end = p.net.unflatten(curve(torch.ones(1).double())[0])
    torch.testing.assert_close(p.net.flatten(end), p.net.flatten(good.params), rtol=0, atol=0)


def test_lemma_2_without_its_epsilon_even_where_all_units_are_equal():
    p = problem([2, 20, 2, 1], "tanh", 20, 3)
    params = {key: torch.full_like(t, 0.3) for key, t in p.net.random_params(0).items()}
    wide = WideLayer(p.net, p.X, 0)
    assert wide.condition(params) == math.inf
    good = wide.make_good(params)
    assert good.after < GOOD
    assert good.exchanged >= 18


@few
@given(st.sampled_from(CLASS_A), st.integers(2, 8), st.integers(0, 10**6))
def test_lemma_3_any_path_of_pre_activations_is_a_path_of_incoming_weights(
    activation, samples, seed
):
    widths = [2, samples, 3, 1]
    p = problem(widths, activation, samples, seed)
    wide = WideLayer(p.net, p.X, 0)
    params = wide.make_good(p.net.random_params(seed)).params
    image = image_of(p.net.activations[1])
    steering = Steering(wide, params, image)
    g = torch.Generator().manual_seed(seed)
    goal = torch.randn((samples, 3), generator=g).double() * 2
    start = steering.state()
    z = wide.reached(params)

    def at(s: Tensor) -> State:
        z_s = torch.lerp(z, goal, s[:, None, None])
        return State(image.levels(z_s), start.weights.expand(len(s), -1), start.bias.expand(len(s)))

    from semiflat.paths.lemmas import Stage

    curve = steering.run(Stage("any", Claim.FREE, "", at))
    for part in (0.0, 0.37, 1.0):
        vector = curve(torch.tensor([part], dtype=torch.float64))[0]
        there = module(widths, activation, p.net.unflatten(vector))[:3](p.X).detach()
        torch.testing.assert_close(there, torch.lerp(z, goal, part), rtol=1e-9, atol=1e-9)
    begin = curve(torch.zeros(1).double())[0]
    torch.testing.assert_close(begin, p.net.flatten(params), rtol=0, atol=0)


@given(st.sampled_from(CLASS_A), st.floats(-300, 300))
def test_lemma_4_the_inverse_of_an_activation_keeps_its_digits_where_the_unit_is_saturated(
    activation, z
):
    image = image_of(sf.MLP([1, 1, 1], activation).activations[0])
    z = z / 12 if activation is torch.erf else z  # beyond ±26 its distance to ±1 underflows
    pre = torch.tensor([z], dtype=torch.float64)
    found = image.inverse(image.levels(pre))
    torch.testing.assert_close(found, pre, rtol=1e-12, atol=1e-12)
    value = MODULES[activation]()(pre)
    torch.testing.assert_close(image.value(image.levels(pre)), value, rtol=1e-12, atol=1e-15)


# -- Lemma 5 ------------------------------------------------------------------------------------------

inside = st.floats(0.02, 0.98)


@few
@given(
    st.lists(st.tuples(inside, inside), min_size=1, max_size=5),
    st.floats(0.01, 50),
    st.floats(0.01, 50),
    st.sampled_from(CLASS_A),
)
def test_lemma_5_vectors_stay_in_the_image_their_sum_stays_and_the_coefficients_end_with_both_signs(
    rows, one, two, activation
):
    low, high = ENDS[activation]
    r = low + (high - low) * torch.tensor(rows, dtype=torch.float64)
    t = torch.linspace(0, 1, 41, dtype=torch.float64)
    weights = torch.tensor(one, dtype=torch.float64), torch.tensor(two, dtype=torch.float64)
    moved, first, second = lemma_5(
        levels(r[:, 0], activation), levels(r[:, 1], activation), weights, t
    )
    r1 = moved.lower + low
    torch.testing.assert_close(r1[0], r[:, 0])  # (i)
    assert (moved.lower > 0).all()
    assert (moved.upper > 0).all()
    total = first[:, None] * r1 + second[:, None] * r[:, 1]
    kept = (one * r[:, 0] + two * r[:, 1]).expand_as(total)
    torch.testing.assert_close(total, kept, rtol=1e-10, atol=1e-10)  # (ii)
    torch.testing.assert_close(first[-1], weights[0] + 2 * weights[1])  # (iii)
    torch.testing.assert_close(second[-1], -weights[1])
    half = torch.tensor([0.5 - 1e-12, 0.5 + 1e-12], dtype=torch.float64)  # continuous there as well
    for side in lemma_5(levels(r[:, 0], activation), levels(r[:, 1], activation), weights, half)[
        1:
    ]:
        assert abs(float(side.diff())) < 1e-9 * (one + two) ** 2 / min(one, two)


@few
@given(
    st.sampled_from(["all", "one", "none"]),
    st.sampled_from([1.0, -1.0]),
    st.integers(2, 4),
    st.integers(0, 10**6),
)
def test_lemma_5_as_it_is_used_gives_output_weights_both_signs_at_constant_output(
    which, sign, units, seed
):
    g = torch.Generator().manual_seed(seed)
    image = image_of(sf.MLP([1, 1, 1], "sigmoid").activations[0])
    a = torch.rand((6, units), generator=g).double() * 0.9 + 0.05
    v = sign * (torch.rand(units, generator=g).double() + 0.1)
    if which == "one":
        v[1:] = 0
    if which == "none":
        v[:] = 0
    state = State(levels(a, "sigmoid"), v, torch.tensor(0.3, dtype=torch.float64))
    z = 0.3 + a @ v
    stages = both_signs(state)
    assert stages
    s = torch.linspace(0, 1, 17, dtype=torch.float64)
    for stage in stages:
        assert stage.claim is Claim.CONSTANT
        states = stage.at(s)
        found = states.bias[:, None] + (states.levels.lower @ states.weights[..., None])[..., 0]
        torch.testing.assert_close(found, z.expand_as(found), rtol=1e-9, atol=1e-10)
        assert (states.levels.lower > 0).all()
        assert (states.levels.upper > 0).all()
    torch.testing.assert_close(stages[0].at(s).weights[0], v)
    last = states.weights[-1]
    assert (last > 0).any()
    assert (last < 0).any()
    assert both_signs(State(image.levels(torch.zeros(6, units)), last, state.bias)) == []


# -- Lemma 6 ------------------------------------------------------------------------------------------


def _random_state(activation, units, samples, seed):
    g = torch.Generator().manual_seed(seed)
    low, high = ENDS[activation]
    a = low + (high - low) * (torch.rand((samples, units), generator=g).double() * 0.98 + 0.01)
    v = torch.randn(units, generator=g).double()
    v[0], v[1] = v[0].abs() + 0.01, -v[1].abs() - 0.01
    targets = 10 * torch.randn(samples, generator=g).double()
    return State(levels(a, activation), v, torch.tensor(-0.4, dtype=torch.float64)), a, targets


@few
@given(st.sampled_from(CLASS_A), st.integers(2, 5), st.integers(1, 9), st.integers(0, 10**6))
def test_lemma_6_the_outputs_stay_and_then_go_straight_to_the_targets_inside_the_image(
    activation, units, samples, seed
):
    low, _ = ENDS[activation]
    state, a, targets = _random_state(activation, units, samples, seed)
    image = image_of(sf.MLP([1, 1, 1], activation).activations[0])
    z = -0.4 + a @ state.weights
    *shrinking, arriving = lemma_6(state, image, targets)
    s = torch.linspace(0, 1, 13, dtype=torch.float64)
    for stage, goal in [*((one, z) for one in shrinking), (arriving, targets)]:
        states = stage.at(s)
        values = states.levels.lower + low
        found = states.bias[:, None] + (values @ states.weights[..., None])[..., 0]
        expected = z + s[:, None] * (goal - z)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
        assert (states.levels.lower > 0).all()
        assert (states.levels.upper > 0).all()
    squares = (found - targets).square().sum(1)
    first = squares[0]
    # (1 − t)² of what it was; the paper's last line has (1 − t).
    torch.testing.assert_close(squares, (1 - s) ** 2 * first, rtol=1e-6, atol=1e-8 * float(first))


def test_lemma_6_as_printed_divides_by_the_number_of_samples_and_stops_short_of_the_targets():
    # P21 App. D, 0 inside the image: a_j + t (y − z)/(w_j N) for every unit, N the number of samples.
    units, samples = 3, 12
    state, a, targets = _random_state("tanh", units, samples, 0)
    z = -0.4 + a @ state.weights
    printed = a + (targets - z)[:, None] / (state.weights * samples)
    reached = -0.4 + printed @ state.weights
    left = ((reached - targets).square().sum() / (z - targets).square().sum()).item()
    assert left == pytest.approx((1 - units / samples) ** 2)  # 0.5625, not 0
    shared = a + (targets - z)[:, None] / (state.weights * units)
    torch.testing.assert_close(-0.4 + shared @ state.weights, targets)


@few
@given(st.floats(-5, 5) | st.just(0.0), st.integers(1, 8), st.integers(0, 10**6))
def test_one_sigmoid_unit_reaches_any_targets_by_way_of_the_output_bias(weight, samples, seed):
    g = torch.Generator().manual_seed(seed)
    a = torch.rand((samples, 1), generator=g).double() * 0.98 + 0.01
    targets = 5 * torch.randn(samples, generator=g).double()
    image = image_of(sf.MLP([1, 1, 1], "sigmoid").activations[0])
    v, b = torch.tensor([weight], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    z = 0.7 + weight * a[:, 0]
    s = torch.linspace(0, 1, 13, dtype=torch.float64)
    stages = alone(State(levels(a, "sigmoid"), v, b), image, targets, with_bias=True)
    for stage, goal in [*((one, z) for one in stages[:-1]), (stages[-1], targets)]:
        states = stage.at(s)
        found = states.bias[:, None] + states.levels.lower[..., 0] * states.weights
        torch.testing.assert_close(found, z + s[:, None] * (goal - z), rtol=1e-9, atol=1e-9)
        assert (states.levels.lower > 0).all()
        assert (states.levels.upper > 0).all()


def test_a_tanh_unit_is_listened_to_again_where_no_unit_was():
    image = image_of(sf.MLP([1, 1, 1], "tanh").activations[0])
    a = torch.tensor([[0.5, -0.2], [0.1, 0.9]], dtype=torch.float64)
    state = State(
        levels(a, "tanh"), torch.zeros(2).double(), torch.tensor(1.5, dtype=torch.float64)
    )
    s = torch.linspace(0, 1, 9, dtype=torch.float64)
    for stage in listened_to(state, image):
        states = stage.at(s)
        found = (
            states.bias[:, None] + ((states.levels.lower - 1) @ states.weights[..., None])[..., 0]
        )
        torch.testing.assert_close(found, torch.full_like(found, 1.5))
    assert states.weights[-1].tolist() == [1.0, 0.0]


# -- Theorem 3 ----------------------------------------------------------------------------------------

STARTS = ("random", "large", "zero", "equal", "positive", "negative", "one weight", "no weights")


def start_at(net: sf.MLP, how: str, seed: int) -> dict[str, Tensor]:
    params = net.random_params(seed, scale=5.0 if how == "large" else 1.0)
    top = list(params)[-2]
    if how in ("zero", "equal"):
        params = {key: torch.full_like(t, 0.2 * (how == "equal")) for key, t in params.items()}
    if how in ("positive", "negative"):
        params[top] = params[top].abs() * (1 if how == "positive" else -1)
    if how in ("one weight", "no weights"):
        kept = params[top][0, 0] if how == "one weight" else 0.0
        params[top] = torch.zeros_like(params[top])
        params[top][0, 0] = kept
    return params


def measure(path: Path, widths, activation, p: sf.Problem, points=400, arrived=1e-18) -> None:
    """Non-increasing, continuous and at zero in the end, by networks written out by hand."""
    losses = [
        loss(widths, activation, path(t), p.X, p.y)
        for t in torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    ]
    first = losses[0]
    assert all(b <= a + 1e-9 * first for a, b in pairwise(losses))
    assert losses[-1] <= arrived * max(1.0, first)
    for t in path.breaks[1:-1]:
        before, at = path.vectors([t - 1e-13, t])
        assert (before - at).abs().max() <= 1e-6 * (1 + at.abs().max())


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CLASS_A),
    st.sampled_from(STARTS),
    st.integers(1, 12),
    st.integers(1, 3),
    st.integers(0, 2),
    st.lists(st.integers(2, 3), max_size=1),
    st.integers(1, 3) | st.none(),
    st.integers(0, 10**6),
)
def test_theorem_3_from_any_parameters_a_path_non_increasing_in_loss_leads_to_zero(
    activation, how, samples, inputs, spare, below, above, seed
):
    top = [] if above is None else [above]
    widths = [inputs, *below, samples + spare, *top, 1]
    p = problem(widths, activation, samples, seed)
    params = start_at(p.net, how, seed)
    saturated = how == "large" and below  # the widest layer is fed with nearly two values
    try:
        path = sf.path_to_zero_loss(sf.Point(p, params))
    except sf.InputError as refused:
        if not (saturated and re.search("condition number|same values", str(refused))):
            raise
        reject()  # too many of them fail the test
    assert path.check.largest_increase <= 1e-9
    assert path.check.largest_change <= 1e-9
    arrived = 1e-12 if saturated else 1e-18
    assert path.check.end <= arrived * max(1.0, path.check.start)
    measure(path, widths, activation, p, 60, arrived)
    moved = float((path.vectors([0.0])[0] - p.net.flatten(params)).norm())
    assert moved == pytest.approx(path.perturbation, abs=0)
    if not below:
        assert moved == 0  # from the point itself; the theorem promises one within ε


@pytest.mark.parametrize("activation", CLASS_A)
def test_theorem_3_at_fifty_samples_and_fifty_units_where_the_layer_is_singular_to_start_with(
    activation,
):
    X = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    p = sf.Problem(sf.MLP([1, 50, 3, 1], activation), X, torch.sin(4 * X) + 0.3 * X**2)
    path = sf.path_to_zero_loss(sf.Point(p, p.net.random_params(1)))
    assert path.condition_before > 1e15
    assert path.condition < GOOD
    measure(path, [1, 50, 3, 1], activation, p)


def taught(activation: str, seed: int, samples: int) -> sf.CriticalPoint:
    """The lowest minimum of a 1-1-1 network without hidden bias on what a 1-2-1 network computes."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn((samples, 1), generator=g).double() + 0.5
    teacher = sf.MLP([1, 2, 1], activation, [False, True])
    y = teacher.forward(teacher.random_params(seed, scale=3.0), X)
    p = sf.Problem(sf.MLP([1, 1, 1], activation, [False, True]), X, y)
    return sf.find_critical_point(p, starts=12, seed=0)


def test_corollary_2_a_local_minimum_of_a_wide_network_has_a_non_increasing_path_to_zero():
    point = taught("sigmoid", 1, 6)
    assert point.loss > 1e-6
    assert sf.replications(point)[0].intervals == ((0.0, 1.0),)
    wide = sf.Replicate.uniform(0, 0, 8)(point)
    assert sf.judge(wide).kind is sf.Kind.MINIMUM
    path = sf.path_to_zero_loss(wide)
    assert path.check.start == pytest.approx(point.loss, rel=1e-9)
    measure(path, [1, 8, 1], "sigmoid", wide.problem)


def test_equal_samples_with_equal_targets_count_as_one():
    X, y = data(6, 2, 0)
    p = sf.Problem(sf.MLP([2, 6, 2, 1], "tanh"), torch.cat([X, X[:2]]), torch.cat([y, y[:2]]))
    path = sf.path_to_zero_loss(sf.Point(p, p.net.random_params(0)))
    measure(path, [2, 6, 2, 1], "tanh", p, 60)


def test_a_layer_below_that_mixes_up_samples_is_moved_and_it_is_said_how_far():
    p = problem([2, 3, 8, 2, 1], "sigmoid", 8, 0)
    params = start_at(p.net, "zero", 0)
    path = sf.path_to_zero_loss(sf.Point(p, params), epsilon=1e-3)
    assert 0 < path.perturbation < 0.1
    measure(path, [2, 3, 8, 2, 1], "sigmoid", p, 60)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: problem([2, 5, 3, 1], "tanh", 9, 0),
            "hidden layer 0 has 5 unit(s), 4 too few, hidden layer 1 has 3 unit(s), 6 too few",
        ),
        (lambda: problem([2, 7, 1], "tanh", 9, 0), "hidden layer 0 has 7 unit(s), 2 too few"),
        (lambda: problem([2, 9, 3, 1], "relu", 9, 0), "'relu' is not of class A"),
        (lambda: problem([2, 9, 1], "gelu", 9, 0), "'gelu' is not of class A"),
        (lambda: problem([2, 9, 1], "sin", 9, 0), "'sin' is not of class A"),
        (
            lambda: problem([2, 9, 1], lambda z: z / (1 + z**2).sqrt(), 9, 0),
            "is not known to be of class A",  # though it is
        ),
        (lambda: problem([2, 1], "tanh", 9, 0), "needs a hidden layer"),
        (
            lambda: sf.Problem(sf.MLP([1, 4, 2]), [[0.0], [1.0]], [[0.0, 1.0], [1.0, 0.0]]),
            "about one output, and this network has 2",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 4, 1]), [[0.0], [1.0]], [0.0, 1.0], "logistic"),
            "about the squared loss, and this problem has 'logistic'",
        ),
        (
            lambda: sf.Problem(
                sf.MLP([1, 4, 1]), [[0.0], [1.0]], [0.0, 1.0], lambda f, y: torch.cos(f - y).sum()
            ),
            "about the squared loss",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 4, 1]), [[0.0], [1.0]], [0.0, 1.0], weight_decay=0.1),
            "with weight decay 0.1 the loss has no zero",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 4, 1]), [[0.0], [1.0], [0.0]], [0.0, 1.0, 2.0]),
            "samples 0 and 2 have equal inputs and different targets",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 4, 1]), [[0.0], [1.0], [1e-12]], [0.0, 1.0, 2.0]),
            "two of the samples are equal to 1e-09 of their spread",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 3, 1]), [[1e7], [1e7 + 1], [1e7 + 2]], [0.0, 1.0, 0.0]),
            "(or all are to 1e-05 of their size)",
        ),
        (single_precision, "computes in torch.float32, and a path needs float64"),
    ],
)
def test_bad_input_for_theorem_3_is_one_clear_line(make, message):
    p = make()
    with pytest.raises(sf.InputError) as error:
        sf.path_to_zero_loss(sf.Point(p, p.net.random_params(0)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_float64_cannot_carry_is_refused_with_the_condition_number():
    X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    p = sf.Problem(sf.MLP([1, 40, 3, 1], "tanh", bias=False), X, torch.sin(5 * X))
    with pytest.raises(sf.InputError, match=r"condition number (inf|\d\.\d+e\+\d+)"):
        sf.path_to_zero_loss(sf.Point(p, p.net.random_params(0)))


@pytest.mark.parametrize("activation", CLASS_A)
def test_where_the_loss_is_zero_up_to_rounding_the_path_stays(activation):
    p = problem([2, 6, 1], activation, 6, 0)
    end = sf.path_to_zero_loss(sf.Point(p, p.net.random_params(0)))(1.0)
    fitted = sf.Problem(p.net, p.X, p.net.forward(end, p.X))
    path = sf.path_to_zero_loss(sf.Point(fitted, end))
    assert [piece.name for piece in path.pieces] == ["stay"]
    for t in (0.0, 0.4, 1.0):
        for key, tensor in path(t).items():
            assert torch.equal(tensor, end[key])
    assert path.check.end == path.check.start


def test_a_loss_that_rounding_hides_is_refused_and_so_is_an_end_above_zero():
    p = problem([2, 6, 1], "tanh", 6, 0)
    params = p.net.random_params(0)
    almost = p.net.forward(params, p.X)
    almost[0] += 1e-13
    close = sf.Point(sf.Problem(p.net, p.X, almost), params)
    assert 0 < float(close.loss) < 1e-25
    with pytest.raises(sf.InputError, match="a loss this near 0"):
        sf.path_to_zero_loss(close)
    path = sf.path_to_zero_loss(sf.Point(p, params))
    assert 0 < path.check.noise < 1e-9
    short = replace(path.check, end=1e-3 * path.check.start)
    with pytest.raises(sf.InputError, match=r"ends at 1\.0e-03 of the loss .* instead of 0"):
        _measured(short, 1e-9, path.condition)


def test_one_sigmoid_unit_on_top_without_an_output_bias_is_refused():
    p = sf.Problem(
        sf.MLP([1, 4, 1, 1], "sigmoid", bias=[True, True, False]), [[0.0], [1.0]], [0.0, 1.0]
    )
    with pytest.raises(sf.InputError, match="widen the last hidden layer to at least 2"):
        sf.path_to_zero_loss(sf.Point(p, p.net.random_params(0)))


def test_a_batch_and_a_thing_that_is_no_point_are_refused():
    p = problem([1, 4, 1], "tanh", 3, 0)
    with pytest.raises(sf.InputError, match="takes one point; this is a PointBatch"):
        sf.path_to_zero_loss(sf.PointBatch(p, p.net.random_params(0, batch=(2,))))
    with pytest.raises(sf.InputError, match="takes a Point, not dict"):
        sf.path_to_zero_loss(p.net.random_params(0))


# -- the path object ----------------------------------------------------------------------------------


def _bump(at: float, width: float) -> Path:
    """A path whose loss is 1/2 but for a bump."""
    p = sf.Problem(sf.MLP([1, 1]), [[0.0]], [1.0])

    def curve(s: Tensor) -> Tensor:
        bump = torch.exp(-(((s - at) / width) ** 2))
        return torch.stack([torch.zeros_like(s), -bump], 1)

    return Path(p, [Piece("bump", Claim.CONSTANT, "none", [curve])])


@pytest.mark.parametrize("width", [0.3, 0.05])
def test_the_check_sees_a_rise(width):
    path = _bump(0.43, width)
    found, start = path.check, float(path.losses([0.0])[0])
    assert found.largest_increase == pytest.approx((2.0 - start) / start, rel=1e-3)
    assert found.largest_change == pytest.approx((2.0 - start) / start, rel=1e-3)
    assert found.at == pytest.approx(0.43, abs=0.01)


def test_the_check_says_what_rounding_may_add():
    p = sf.Problem(sf.MLP([1, 1]), [[1.0]], [1.0])
    start = torch.tensor([1e8, 1 - 1e8 + 1e-5], dtype=torch.float64)  # w + b = 1 + 1e-5
    trade = start + torch.tensor([1e8, -1e8], dtype=torch.float64)
    path = Path(p, [Piece("trade", Claim.CONSTANT, "w + b stays", [straight(start, trade)])])
    # w + b moves by 4e8 rounding units, 9e-8, and so does the loss ½·1e-10 by one part in fifty.
    assert 1e-3 < path.check.noise < 1e-1
    stay = Path(p, [Piece("stay", Claim.CONSTANT, "nothing moves", [straight(start, start)])])
    assert stay.check.noise == 0


def test_of_two_wide_layers_the_one_whose_samples_differ_is_steered():
    p = problem([1, 3, 4, 1], "tanh", 3, 0)
    params = p.net.random_params(0)
    assert sf.path_to_zero_loss(sf.Point(p, params)).layer == 1
    params["0.weight"] *= 0
    path = sf.path_to_zero_loss(sf.Point(p, params))
    assert (path.layer, path.perturbation) == (0, 0)


def test_times_outside_the_path_are_refused_and_both_ends_are_exact():
    p = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    a, b = (
        torch.tensor([0.1, 0.7], dtype=torch.float64),
        torch.tensor([0.3, 0.11], dtype=torch.float64),
    )
    path = Path(p, [Piece("line", Claim.FREE, "", [straight(a, b), straight(b, a)])])
    assert torch.equal(path.vectors([0.0, 0.5, 1.0]), torch.stack([a, b, a]))
    for wrong in (-0.1, 1.1, math.nan, "half"):
        with pytest.raises(sf.InputError, match="numbers from 0 to 1"):
            path(wrong)
    assert path.piece_at(0.5).name == "line"
    assert path.losses([]).shape == (0,)


def test_a_path_is_plain_data_and_a_picture(tmp_path):
    p = problem([1, 4, 2, 1], "sigmoid", 4, 0)
    path = sf.path_to_zero_loss(sf.Point(p, start_at(p.net, "equal", 0)))
    record = json.loads(json.dumps(path.to_json(), allow_nan=False))
    assert [row["claim"] for row in record["pieces"]][-1] == "decreasing"
    assert record["condition_before"] is None  # singular
    assert record["end"] < 1e-20
    file = tmp_path / "path.png"
    assert path.draw(file) == file.read_bytes()
    assert file.read_bytes().startswith(b"\x89PNG")


def test_steps_down_fall_all_the_way():
    p = problem([2, 3, 1], "tanh", 20, 4)
    start = p.net.flatten(p.net.random_params(4))
    curves, end = down(p, start, steps=30)
    assert len(curves) > 3
    path = Path(p, [Piece("down", Claim.DECREASING, "", curves)])
    losses = path.losses(torch.linspace(0, 1, 40 * len(curves)))
    assert (losses.diff() < 1e-15).all()
    assert torch.equal(path.vectors([1.0])[0], end)


# -- Theorems 5 and 6: non-attracting regions --------------------------------------------------------


def _dense_lowest(point: sf.Point, layer: int, unit: int, share: float) -> float:
    """The lowest eigenvalue of the Hessian of a replicated point, written out by hand."""
    widths = list(point.problem.net.widths)
    activation = point.problem.net.activations[0]
    params = {key: t.clone() for key, t in point.params.items()}
    w, b, up = f"{2 * layer}.weight", f"{2 * layer}.bias", f"{2 * layer + 2}.weight"
    outgoing = params[up][:, unit : unit + 1].clone()
    params[w] = torch.cat([params[w], params[w][unit : unit + 1]])
    params[b] = torch.cat([params[b], params[b][unit : unit + 1]])
    params[up] = torch.cat([params[up], (1 - share) * outgoing], 1)
    params[up][:, unit] = share * outgoing[:, 0]
    keys = list(params)
    sizes = [params[key].numel() for key in keys]

    def risk(vector: Tensor) -> Tensor:
        parts = dict(zip(keys, vector.split(sizes), strict=True))
        h = point.problem.X
        for k in range(len(widths) - 1):
            h = h @ parts[f"{2 * k}.weight"].view_as(params[f"{2 * k}.weight"]).T
            h = h + parts[f"{2 * k}.bias"]
            if k < len(widths) - 2:
                h = activation.function(h)
        return (h - point.problem.y).square().sum(1).mean() / 2

    hessian = torch.func.hessian(risk)(torch.cat([params[key].flatten() for key in keys]))
    return float(torch.linalg.eigvalsh(hessian)[0] / torch.linalg.eigvalsh(hessian)[-1])


@pytest.mark.parametrize(
    ("activation", "widths", "seed"),
    [
        ("gelu", [1, 1, 1], 0),
        ("sigmoid", [1, 1, 1], 0),
        ("tanh", [1, 1, 1], 0),
        ("gelu", [1, 1, 1, 1], 0),
        ("gelu", [2, 2, 1], 1),
    ],
)
def test_theorem_6_replications_are_minima_on_the_intervals_and_saddles_off_them(
    activation, widths, seed
):
    g = torch.Generator().manual_seed(seed)
    X = torch.randn((30, widths[0]), generator=g).double()
    y = torch.tanh(2 * X[:, :1] + 1) - 0.8 * torch.tanh(1.5 * X[:, :1] - 1) + 0.3 * X[:, -1:] ** 2
    point = sf.find_critical_point(sf.Problem(sf.MLP(widths, activation), X, y), starts=16, seed=0)
    rows = sf.replications(point)
    assert len(rows) == sum(widths[1:-1])
    for row in rows:
        for share in (-2.0, -0.3, 0.2, 0.5, 0.8, 1.4, 3.0):
            lowest = _dense_lowest(point, row.layer, row.unit, share)
            if any(low < share < high for low, high in row.intervals):
                assert lowest > -1e-12
            else:
                assert lowest < -1e-11
    if activation == "gelu" and len(widths) == 3:
        assert any(row.intervals for row in rows)


def _region(copies: int, sign: float = 1.0) -> sf.NonAttractingRegion:
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = sign * (torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2)
    p = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, y)
    return sf.non_attracting_region(sf.find_critical_point(p, starts=8, seed=0), copies=copies)


@pytest.mark.parametrize("copies", [2, 3, 7])
def test_definition_1_a_region_of_minima_is_left_at_constant_loss_and_then_downwards(copies):
    region = _region(copies)
    path, wide = region.path, region.minimum.problem
    assert region.minimum_verdict.kind is sf.Kind.MINIMUM
    assert region.saddle_verdict.kind is sf.Kind.STRICT_SADDLE
    assert path.pieces[0].claim is Claim.CONSTANT
    assert path.check.largest_change < 1e-12
    assert path.check.largest_increase < 1e-12
    assert path.check.end < 0.9 * path.check.start
    # The edge is where the last copy's share passes 0: minima before it, strict saddles behind.
    at_edge = path(region.edge)["2.weight"][0, -1]
    assert abs(float(at_edge)) < 1e-12
    for t, kind in ((0.5, sf.Kind.MINIMUM), (1.5, sf.Kind.STRICT_SADDLE)):
        there = sf.Point(wide, path(t * region.edge))
        assert sf.judge(there).kind is kind
    assert torch.equal(path.vectors([0.0])[0], wide.net.flatten(region.minimum.params))


@pytest.mark.parametrize("activation", LOGISTIC)
def test_theorem_6_a_negative_definite_block_gives_the_outer_intervals(activation):
    point = taught(activation, 3, 25)
    (row,) = sf.replications(point)
    assert row.intervals == ((-math.inf, 0.0), (1.0, math.inf))
    assert float(torch.linalg.eigvalsh(sf.unit_blocks(point, 0, 0).G)[-1]) < 0
    region = sf.non_attracting_region(point, row.layer, row.unit, copies=3)
    assert region.minimum_verdict.kind is sf.Kind.MINIMUM
    assert region.path.check.largest_increase < 1e-12
    assert region.path.check.end < region.path.check.start


def test_bad_input_for_regions_is_one_clear_line():
    region = _region(2)
    with pytest.raises(sf.InputError, match="made from a local minimum, and this point is strict"):
        sf.replications(region.saddle)
    with pytest.raises(sf.InputError, match="at least 2, not 1"):
        sf.non_attracting_region(region.source, copies=1)
    with pytest.raises(sf.InputError, match="both layer and unit"):
        sf.non_attracting_region(region.source, layer=0)
    with pytest.raises(sf.InputError, match="unit 3 does not exist"):
        sf.non_attracting_region(region.source, 0, 3)
    with pytest.raises(sf.InputError, match="up to 2000 parameters"):
        sf.non_attracting_region(region.source, copies=10**4)
    X = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
    p = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, torch.sin(3 * X))
    point = sf.find_critical_point(p, starts=24, seed=0)
    if not any(row.intervals for row in sf.replications(point)):
        with pytest.raises(
            sf.InputError, match="no replication of this minimum is a local minimum"
        ):
            sf.non_attracting_region(point)


# -- Theorem 1 and Lemma 7 ---------------------------------------------------------------------------


@few
@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_lemma_7_there_are_weights_that_make_the_sum_negative_and_others_that_make_it_positive(
    samples, units, seed
):
    g = torch.Generator().manual_seed(seed)
    d = torch.randn(samples, generator=g).double()
    d = d - d.mean()
    a = torch.randn((samples, units), generator=g).double()
    low, high = lemma_7(d, a)
    assert float((d * torch.exp(-a @ low)).sum()) < 0
    assert float((d * torch.exp(-a @ high)).sum()) > 0


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(LOGISTIC),
    st.sampled_from([[1, 2, 1], [2, 3, 1], [2, 2, 2, 1], [1, 3, 4, 1]]),
    st.floats(-3, 3),
    st.integers(0, 10**6),
)
def test_theorem_1_the_loss_near_infinity_is_larger_than_at_infinity(
    activation, widths, mean, seed
):
    X, y = data(15, widths[0], seed)
    y = y + 2 * X[:, :1] + mean
    found = sf.minimum_at_infinity(sf.Problem(sf.MLP(widths, activation), X, y), seed)
    limit = float((y - y.mean()).square().mean() / 2)
    assert found.loss == pytest.approx(limit, rel=1e-12)
    layer = len(widths) - 3
    rate = {"tanh": 2.0, "sigmoid": 1.0}[activation]

    def at(p: Tensor) -> Tensor:  # the risk in p_i = exp(−rate b_i), by hand
        h = X
        for k in range(layer):
            h = MODULES[activation]()(
                h @ found.params[f"{2 * k}.weight"].T + found.params[f"{2 * k}.bias"]
            )
        z = h @ found.params[f"{2 * layer}.weight"].T + found.params[f"{2 * layer}.bias"]
        e = p * torch.exp(-rate * z)
        a = (1 - e) / (1 + e) if activation == "tanh" else 1 / (1 + e)
        top = found.params[f"{2 * layer + 2}.weight"], found.params[f"{2 * layer + 2}.bias"]
        return (a @ top[0].T + top[1] - y).square().mean() / 2

    zero = torch.zeros(widths[-2]).double()
    slopes = torch.func.grad(at)(zero)
    torch.testing.assert_close(found.slopes, slopes, rtol=1e-8, atol=1e-12)
    assert (slopes > 0).all()
    assert float(at(zero)) == pytest.approx(limit, rel=1e-12)
    # On the ray it is larger, and tends to the limit as exp(−rate b) does.
    gaps = [
        loss(widths, activation, found.ray(b / rate).params, X, y) - limit for b in (14.0, 17.0)
    ]
    assert gaps[0] > gaps[1] > 0
    assert gaps[0] / gaps[1] == pytest.approx(math.exp(3), rel=0.05)
    near = found.check(tries=500, seed=seed)
    assert near.radius > 0
    assert near.smallest > 0


@pytest.mark.parametrize("activation", LOGISTIC)
def test_theorem_1_a_different_non_increasing_path_leads_down_from_there(activation):
    X, _ = data(20, 2, 0)
    p = sf.Problem(sf.MLP([2, 3, 1], activation), X, torch.sin(2 * X[:, :1]) + X[:, 1:])
    found = sf.minimum_at_infinity(p)
    check = found.path.check
    assert check.start == pytest.approx(found.loss, rel=1e-12)
    assert check.largest_increase < 1e-12
    assert check.end < 0.5 * found.loss


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: problem([2, 1, 1], "sigmoid", 9, 0), "at least two units in each"),
        (lambda: problem([2, 1, 3, 1], "sigmoid", 9, 0), "at least two units in each"),
        (lambda: problem([2, 3, 1], "relu", 9, 0), "not about 'relu'"),
        (lambda: problem([2, 3, 1], torch.atan, 9, 0), "not about '<callable atan>'"),
        (
            lambda: sf.Problem(sf.MLP([1, 2, 1], "sigmoid"), [[0.0], [1.0]], [1.0, 1.0]),
            "targets that are constant",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 2, 1], "sigmoid", False), [[0.0], [1.0]], [0.0, 1.0]),
            "biases to infinity, and it has none",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 2, 2], "sigmoid"), [[0.0]], [[0.0, 1.0]]),
            "about one output, and this network has 2",
        ),
        (
            lambda: sf.Problem(sf.MLP([1, 2, 1], "sigmoid"), [[0.0]], [1.0], "logistic"),
            "about the squared loss without weight decay",
        ),
        (single_precision, "computes in torch.float32, and a path needs float64"),
    ],
)
def test_bad_input_for_theorem_1_is_one_clear_line(make, message):
    with pytest.raises(sf.InputError) as error:
        sf.minimum_at_infinity(make())
    assert message in str(error.value)
    assert "\n" not in str(error.value)
