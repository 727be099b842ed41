"""Curvature of the units of any model, and the inertia law for parallel branches (theory §9)."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from branch_cases import KINDS, Channels, Drawn, Heads, Kind, Skips, change, drawn, verdict
from helpers import refused
from semiflat.modules.batches import Batches
from semiflat.modules.branches import FEW, Branch, Program, Programs, tried
from semiflat.modules.unit_curvature import _Built, _Work

MANY = 12
"""Cases of each kind in the slow test."""
NAMES = [kind.name for kind in KINDS]
LONGER = ("channels, own statistics", "grouped heads")
"""Kinds that are left to the slow test: much like another, and longer."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in LONGER])
def test_signs_of_the_wide_hessian_follow_from_narrow_ones(kind: Kind) -> None:
    holds(kind, range(1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_signs_of_the_wide_hessian_follow_from_narrow_ones_many_times(kind: Kind) -> None:
    found = holds(kind, range(kind.name not in LONGER, MANY))
    assert found["holds"] >= 2 * found["unclear"]


def holds(kind: Kind, seeds: range) -> Counter[str]:
    """The law is not contradicted in any case; how many are clear."""
    found: Counter[str] = Counter()
    for seed in seeds:
        case = drawn(kind, seed)
        assert len(case.found), case.found.refused
        said, what = verdict(case, change(case, seed))
        assert said != "wrong", what
        found[said] += 1
    return found


# -- K itself --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def channels() -> Drawn:
    """Channels through batch normalisation in training mode, on two batches."""
    return drawn(KINDS[2], 5)


@pytest.fixture(scope="module")
def heads() -> Drawn:
    """Attention heads under layer normalisation."""
    return drawn(KINDS[3], 5)


def by_hand(
    data: list[tuple[Tensor, Tensor]],
    surrogate: Callable[[Tensor, Tensor, Tensor], Tensor],
    entries: Tensor,
) -> Tensor:
    """The Hessian of a surrogate ``surrogate(entries, x, y)``, by automatic differentiation."""
    samples = sum(len(x) for x, _ in data)
    parts = [
        torch.autograd.functional.hessian(lambda e, x=x, y=y: surrogate(e, x, y), entries)
        * (len(x) / samples)
        for x, y in data
    ]
    return torch.stack(parts).sum(0)


def test_K_of_a_channel_is_that_of_a_surrogate_written_by_hand(channels: Drawn) -> None:
    model = channels.model
    assert isinstance(model, Channels)
    unit = 1
    conv, bn, read = model.conv, model.bn, model.read

    def pooled(weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, x: Tensor) -> Tensor:
        z = F.conv2d(x, weight, bias)
        mean = z.mean((0, 2, 3), keepdim=True)
        spread = z.var((0, 2, 3), correction=0, keepdim=True)
        z = (z - mean) / (spread + bn.eps).sqrt() * gain.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
        return F.avg_pool2d(torch.tanh(z), 2)

    def surrogate(entries: Tensor, x: Tensor, y: Tensor) -> Tensor:
        whole = pooled(conv.weight, conv.bias, bn.weight, bn.bias, x).detach()
        s = F.conv2d(whole, read.weight, read.bias).detach().requires_grad_()
        loss = channels.loss(model.out(torch.sigmoid(s).flatten(1)), y)
        (delta,) = torch.autograd.grad(loss, s)
        v, weight, bias, gain, shift = entries.split([8, 4, 1, 1, 1])
        own = pooled(weight.view(1, 1, 2, 2), bias, gain, shift, x)
        return (delta * F.conv2d(own, v.view(2, 1, 2, 2))).sum()

    entries = torch.cat(
        [
            read.weight[:, unit].reshape(-1),
            conv.weight[unit].reshape(-1),
            *(each[unit : unit + 1] for each in (conv.bias, bn.weight, bn.bias)),
        ]
    ).detach()
    K = by_hand(channels.data, surrogate, entries)
    found = channels.found["conv"].K(unit)
    assert float((found - K).abs().max()) <= 1e-12 * float(K.abs().max())


def test_K_of_a_head_is_that_of_a_surrogate_written_by_hand(heads: Drawn) -> None:
    model = heads.model
    assert isinstance(model, Heads)
    unit, size, width = 0, 2, 3
    rows = slice(unit * size, unit * size + size)

    def surrogate(entries: Tensor, x: Tensor, y: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = model.o.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
        model(x)
        hook.remove()
        s = seen[0].requires_grad_()
        (delta,) = torch.autograd.grad(heads.loss(model.norm(x + s), y), s)
        out, q, k, v = entries.split([width * size, size * width, size * width, size * width])
        query, key, value = (x @ each.view(size, width).T for each in (q, k, v))
        weights = (query @ key.transpose(1, 2) / size**0.5).softmax(-1)
        return (delta * (weights @ value @ out.view(width, size).T)).sum()

    entries = torch.cat(
        [
            model.o.weight[:, rows].reshape(-1),
            *(each.weight[rows].reshape(-1) for each in (model.q, model.k, model.v)),
        ]
    ).detach()
    K = by_hand(heads.data, surrogate, entries)
    found = heads.found["q"].K(unit)
    # Entries that read a head lie by places along the axis first.
    order = torch.arange(width * size).view(width, size).T.reshape(-1)
    order = torch.cat([order, torch.arange(width * size, len(K))])
    assert float((found - K[order][:, order]).abs().max()) <= 1e-12 * float(K.abs().max())


def test_perceptrons_have_the_blocks_and_the_signs_that_judge_gives_them() -> None:
    net = sf.MLP([2, 3, 2, 2], "tanh")
    generator = torch.Generator().manual_seed(3)
    X, y = (torch.randn(9, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    problem = sf.Problem(net, X, y)
    point = sf.Point(problem, net.random_params(3))
    outputs = net.forward(point.params, X)
    factor = float(point.loss) / float(F.mse_loss(outputs, y))
    found = sf.unit_curvature(
        net.to_module(point.params),
        [(X[:4], y[:4]), (X[4:], y[4:])],
        lambda f, t: factor * F.mse_loss(f, t),
    )
    assert found.loss == pytest.approx(float(point.loss), rel=1e-14)
    narrow = sf.judge(point).inertia
    for layer, name in enumerate(["0", "2"]):
        for unit in range(net.hidden[layer]):
            K = sf.unit_blocks(point, layer, unit).K
            assert float((found[name].K(unit) - K).abs().max()) <= 1e-13 * float(K.abs().max())
            for shares in ([0.25, 0.75], [1.5, -0.5], [1.0, 0.0]):
                wide = found.law({name: {unit: shares}}, narrow=narrow)
                judged = sf.judge(sf.Replicate(layer, unit, shares)(point)).inertia
                assert judged is not None
                assert (wide.positive, wide.zero, wide.negative) == tuple(judged)
        wide = found.law(nulls={name: 2}, narrow=narrow)
        judged = sf.judge(sf.NullUnits(layer, [0.0, 0.0])(point)).inertia
        assert judged is not None
        assert (wide.positive, wide.zero, wide.negative) == tuple(judged)
        skip = torch.linalg.matrix_norm(point.evidence.layer(layer)[0].F_null, ord=2)
        assert found[name].units[0].null_norm == pytest.approx(float(skip), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_beyond_the_dense_limit_counts_and_extremes_are_bounds(
    channels: Drawn, dtype: torch.dtype
) -> None:
    few = sf.unit_curvature(
        channels.model, channels.data, channels.loss, dense_limit=0, directions=6, dtype=dtype
    )
    for name, group in few.items():
        assert (group.exact, group.blocks) == (False, None)
        for unit, other in zip(group.units, channels.found[name].units, strict=True):
            assert 0 < unit.positive <= other.positive
            assert 0 < unit.negative <= other.negative
            assert 0 < unit.rank_F <= other.rank_F
            slack = unit.floor + other.floor
            assert other.lowest - slack <= unit.lowest < 0 < unit.highest <= other.highest + slack
            assert unit.floor < 1e-2 * unit.highest
    said = few.law({"conv": {0: [0.5, 0.5]}}, narrow=(1, 1, 1))
    assert (said.exact, said.zero) == (False, None)


@pytest.mark.parametrize("kind", [*KINDS, replace(KINDS[2], train=False)], ids=[*NAMES, "eval"])
def test_in_some_directions_K_is_what_it_is_there(kind: Kind) -> None:
    case = drawn(kind, 3)
    work = _Work(Programs(case.model, torch.float64), Batches(case.data), case.loss)
    built = _Built(work, work.start(None, 0, 3))
    assert list(built.K) == list(case.found)
    for name, branch in built.branches.items():
        size = work.size(branch)
        along = branch.coordinates(torch.eye(size, dtype=torch.float64))
        assert along.shape[1] < size or all(len(basis) <= 3 for basis in branch.bases)
        assert float((along.mT @ along - torch.eye(along.shape[1])).abs().max()) <= 1e-12
        for unit, found in enumerate(built.K[name][0]):
            K = case.found[name].K(unit)
            assert float((found - along.mT @ K @ along).abs().max()) <= 1e-12 * float(K.abs().max())


@pytest.mark.parametrize(
    ("kind", "replaced", "summed"),
    [
        (KINDS[0], 2, True),
        (replace(KINDS[2], train=False), 2, True),
        (KINDS[2], 2, False),  # statistics of the batch tie places
        (KINDS[8], 0, False),  # the same weights at every time
    ],
    ids=["hidden units", "channels", "channels, statistics of the batch", "recurrent units"],
)
def test_what_units_share_is_taken_once(kind: Kind, replaced: int, summed: bool) -> None:
    case = drawn(kind, 3)
    work = _Work(Programs(case.model, torch.float64), Batches(case.data), case.loss)
    name, branch = next(iter(work.start(None, 0, 3).items()))
    assert len({line.node for line in branch.lines if line is not None}) == replaced
    seen = next(work.passes())
    assert (seen.local(seen.branches[name]).closed() is not None) == summed


def test_what_may_not_be_replaced_is_refuted_by_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    program = Program(model, x := torch.randn(3, 2, dtype=torch.float64))
    branch = program.branches["0"]
    assert isinstance(branch, Branch)
    assert tried(program, x)["0"] is branch
    reader, weight, bias = branch.lines
    assert reader is not None
    assert weight is not None
    for lines in (
        (replace(reader, axis=0), weight, bias),  # as many samples as units
        (reader, replace(weight, axis=0), None),
        (reader, None, bias),  # an operation that does not run so
    ):
        program.branches["0"] = replace(branch, lines=lines)
        found = tried(program, x)["0"]
        assert isinstance(found, Branch)
        assert found.lines == (None, None, None)


class Counted(nn.Module):
    """Hidden units of a model in which the number of samples is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).view(x.shape[0], 3))


def test_a_trial_takes_few_samples_where_the_operations_take_any_number() -> None:
    torch.manual_seed(0)
    x = torch.randn(FEW + 4, 2)
    free = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    for model, samples in ((free, FEW), (Counted(), FEW + 4)):
        program = Program(model, x)
        few = program.fewer(x, FEW)
        assert isinstance(few, Tensor)
        assert len(few) == samples
        assert program.fewer(few, FEW) is few
        found = sf.unit_curvature(model, [(x, x[:, :1])], F.mse_loss, dense_limit=0, directions=2)
        assert len(found) == 1


def test_float32_leaves_undecided_what_it_cannot_tell(channels: Drawn) -> None:
    coarse = sf.unit_curvature(channels.model, channels.data, channels.loss, dtype=torch.float32)
    for name, group in coarse.items():
        for unit, fine in zip(group.units, channels.found[name].units, strict=True):
            assert unit.positive <= fine.positive
            assert unit.negative <= fine.negative
            assert unit.rank_F <= fine.rank_F
            assert abs(unit.lowest - fine.lowest) <= unit.floor
            assert unit.floor > 1e5 * fine.floor


def test_batches_of_other_shapes_count_by_their_samples_and_nothing_is_touched() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Linear(4, 2)).eval()
    x, y = torch.randn(7, 3), torch.randint(0, 2, (7,))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    one = sf.unit_curvature(model, [(x, y)], F.cross_entropy)
    two = sf.unit_curvature(model.train(), [(x[:5], y[:5]), (x[5:], y[5:])], F.cross_entropy)
    assert (one.mode, two.mode) == ("eval", "train")
    parts = sf.unit_curvature(model.eval(), [(x[:5], y[:5]), (x[5:], y[5:])], F.cross_entropy)
    assert float((one["0"].K(1) - parts["0"].K(1)).abs().max()) <= 1e-14
    assert float((one["0"].K(1) - two["0"].K(1)).abs().max()) > 1e-3  # other statistics
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


# -- what is refused -------------------------------------------------------------------------------


class Excited(nn.Module):
    """Channels scaled by what all of them give together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        return self.c(x * torch.sigmoid(self.b(x)))


class Tied(nn.Module):
    """Decoded by the weights that encode."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x)) @ self.a.weight


class Stopped(nn.Module):
    """Units whose derivatives stop before they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = torch.tanh(self.a(x))
        return self.b(hidden + torch.tanh(self.a(x)))


class Stream(nn.Module):
    """A stream under layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Excited(), "'b.weight' both makes the units and reads them"),
        (Tied(), "'a.weight' both makes the units and reads them"),
        (Stream(), "a layer norm takes the units together"),
        (Stopped(), "the model has other derivatives than the recorded operations"),
    ],
)
def test_units_that_are_no_parallel_branches_are_refused(model: nn.Module, why: str) -> None:
    out = 3 if isinstance(model, Tied) else 1
    data = [(torch.randn(6, 3), torch.randn(6, out))]
    found = sf.unit_curvature(model, data, F.mse_loss)
    name = next(name for name in found.refused if name.startswith("a"))
    assert why in found.refused[name]
    assert not len(found)
    assert math.isnan(found.loss)
    with refused("no curvature of its own"):
        found[name]


def test_a_wrong_analysis_is_refuted_by_numbers() -> None:
    torch.manual_seed(0)
    model, x = Skips().double(), torch.randn(5, 2, dtype=torch.float64)
    program = Program(model, x)
    branch = program.branches["a"]
    assert isinstance(branch, Branch)
    first, *rest = branch.parts
    wrong = {
        "by other ways": replace(branch, readers=branch.readers[:1]),
        "act on one another": replace(
            branch, parts=(replace(first, positions=first.positions.flip(0)), *rest)
        ),
        "not linear in its weights": replace(
            branch, parts=(*branch.parts[:-1], replace(branch.parts[-1], reads=True))
        ),
    }
    assert tried(program, x)["a"] is branch
    for why, other in wrong.items():
        program.branches["a"] = other
        assert why in str(tried(program, x)["a"])


def test_bad_input_is_refused_in_one_line(channels: Drawn) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    data = [(torch.randn(6, 3), torch.randn(6, 1))]
    mse = F.mse_loss
    dropping = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: sf.unit_curvature(model, data, mse, ["1"]), "no group of units '1'"),
        (lambda: sf.unit_curvature(model, data, mse, ["2"]), "'2' has no curvature of its own"),
        (lambda: sf.unit_curvature(dropping, data, mse), "draws at random"),
        (lambda: sf.unit_curvature(model, iter(data), mse), "gone through again"),
        (
            lambda: sf.unit_curvature(model, data, lambda f, t: ((f - t) ** 2).sum()),
            "mean over the batch",
        ),
        (lambda: channels.found.law({"conv": {0: [0.5, 0.6]}}), "not to 1"),
        (lambda: channels.found.law({"conv": {9: [0.5, 0.5]}}), "no unit 9"),
        (lambda: channels.found["bn"], "nothing is known of a group 'bn'"),
    ]
    for ask, expected in cases:
        with refused(expected):
            ask()


def test_a_unit_at_a_kink_has_no_signs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight[2] = 0  # type: ignore[operator,index]
        model[0].bias[2] = 0  # type: ignore[operator,index]
    found = sf.unit_curvature(model, [(torch.randn(6, 3), torch.randn(6, 1))], F.mse_loss)
    units = found["0"].units
    assert [unit.exact for unit in units] == [True, True, False, True]
    assert "kink" in units[2].note
    assert (units[2].positive, units[2].negative) == (0, 0)
    # With biases 0 the null unit would be at a kink, too.
    assert found["0"].null == "0.weight is 0, biases are 1"
    with refused("it stands at a kink"):
        found.split("0", 2)


@pytest.mark.parametrize(
    "activation",
    [
        lambda h: h * (h > 0),
        lambda h: torch.where(h > 0, h, 0.1 * h),
        lambda h: torch.maximum(h, torch.zeros_like(h)),
        lambda h: torch.stack([h, 0 * h]).amax(0),
        lambda h: h.clamp(min=torch.zeros(())),
        lambda h: h.masked_fill(h < 0, 0.0),
    ],
)
def test_an_activation_of_own_code_has_its_kinks_too(activation: Any) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(activation(self.first(x)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Own()
    with torch.no_grad():
        model.first.weight[2] = 0
        model.first.bias[2] = 0
    found = sf.unit_curvature(model, [(torch.randn(6, 3), torch.randn(6, 1))], F.mse_loss)
    assert [unit.exact for unit in found["first"].units] == [True, True, False, True]
    assert "kink" in found["first"].units[2].note


def test_batches_and_shares_that_do_not_fit_are_refused_in_a_line() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    with refused("the batch has no targets"):
        sf.unit_curvature(model, [(x, None)], F.mse_loss)
    with refused("not finite"):
        sf.unit_curvature(model, [(x / 0, y)], F.mse_loss)
    found = sf.unit_curvature(model, [(x, y)], F.mse_loss)
    given: list[Any] = [(0.2, 0.3, 0.5), "ab", (float("nan"), 1.0)]
    for shares in given:
        with refused("shares"):
            found.split("0", 0, shares)


# -- the way down ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shares", [None, (0.25, 0.75), (2.0, -1.0)])
def test_a_split_goes_down_as_K_says(heads: Drawn, shares: tuple[float, float] | None) -> None:
    split = heads.found.split("q", 1, shares)
    assert split.curvature < 0
    assert split.measured == pytest.approx(split.curvature, rel=1e-8)
    assert split.loss == pytest.approx(heads.found.loss, rel=1e-12)
    assert split.loss_after < split.loss
    x, y = heads.data[0]
    with torch.no_grad():
        before, after = (float(heads.loss(each(x), y)) for each in (heads.model, split.model))
    assert after == pytest.approx(before, rel=1e-12)
    total = sum(float(each.square().sum()) for each in split.direction.values())
    assert total == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"loss": "mse"}, "loss must be a function"),
        ({"loss": nn.functional.mse_loss, "dtype": torch.float16}, "dtype must be"),
    ],
)
def test_what_cannot_be_asked_for_is_said(given: dict[str, Any], why: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with refused(why):
        sf.unit_curvature(model, [(torch.randn(4, 2), torch.randn(4, 1))], **given)
