"""What is said of a loss over batches holds against plain automatic differentiation, or is refused."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import semiflat as sf
from helpers import refused
from semiflat.modules.batches import Batches as BatchesOf
from semiflat.modules.families import Search
from semiflat.modules.flat import FlatModule
from semiflat.modules.moves import Act, Move, Part, scaled
from semiflat.modules.risk import OnBatches

Batches = list[tuple[Any, Any]]


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double()


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum(1).mean()


def reference(
    model: nn.Module, batches: Batches, loss: Callable[[Any, Any], Tensor]
) -> Callable[[Tensor], Tensor]:
    """The loss of flat parameters, by nothing of the library."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    total = sum(len(x) for x, _ in batches)

    def risk(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        params = {
            key: part.view(p.shape) for (key, p), part in zip(named.items(), parts, strict=True)
        }
        value = torch.zeros(())
        for x, y in batches:
            # Buffers of a batch norm change when it runs.
            buffers = {name: b.clone() for name, b in model.named_buffers()}
            outputs = torch.func.functional_call(model, params | buffers, (x,))
            value = value + len(x) / total * loss(outputs, y)
        return value

    return risk


def hessian(risk: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Row by row: in torch 2.13 ``torch.func.hessian`` is wrong for batch norms in train mode."""
    found: Tensor = torch.autograd.functional.hessian(risk, at)
    return found


def vector_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters() if p.requires_grad])


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in named.values()])


class Attention(nn.Module):
    """Two heads beside a way round them."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(size, size) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        def heads(made: Tensor) -> Tensor:
            return made.view(*made.shape[:2], 2, -1).transpose(1, 2)

        made = nn.functional.scaled_dot_product_attention(
            *(heads(each(x)) for each in (self.q, self.k, self.v))
        )
        return x + self.o(made.transpose(1, 2).reshape(x.shape))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def normed() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(2, 3),
    )


LABELS = torch.arange(12) % 3
IMAGES = drawn(12, 1, 4, 4)


@pytest.fixture(scope="module")
def in_train_mode() -> tuple[Any, Batches, sf.ModuleVerdict]:
    model = seeded(normed)
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([0.7, 1.3]))
    batches = [(IMAGES[:7], LABELS[:7]), (IMAGES[7:], LABELS[7:])]
    return model, batches, sf.judge_module(model, batches, cross_entropy)


# -- against plain automatic differentiation -------------------------------------------------------


def test_loss_gradient_and_ends_of_the_spectrum_are_those_of_the_weighted_loss(
    in_train_mode: tuple[nn.Module, Batches, sf.ModuleVerdict],
) -> None:
    model, batches, found = in_train_mode
    risk, at = reference(model, batches, cross_entropy), vector_of(model)
    slope = torch.func.grad(risk)(at)
    values = torch.linalg.eigvalsh(hessian(risk, at))
    assert abs(found.loss - float(risk(at))) < 1e-14
    assert found.gradient_length == pytest.approx(float(slope.norm()), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(slope.abs().max()), rel=1e-12)
    assert found.lowest is not None
    assert found.highest is not None
    for range_, value in ((found.lowest, values[0]), (found.highest, values[-1])):
        assert range_.sure == "both"
        assert range_.below <= float(value) <= range_.above
        assert range_.above - range_.below < 1e-9
    assert sum(part.share for part in found.gradient) == pytest.approx(1)
    assert [part.module for part in found.gradient] == ["0", "1", "5"]


def test_noise_between_batches_is_the_standard_error_of_the_mean_gradient(
    in_train_mode: tuple[nn.Module, Batches, sf.ModuleVerdict],
) -> None:
    model, batches, found = in_train_mode
    at = vector_of(model)
    slopes = torch.stack(
        [torch.func.grad(reference(model, [batch], cross_entropy))(at) for batch in batches]
    )
    shares = torch.tensor([7 / 12, 5 / 12], dtype=torch.float64)[:, None]
    mean = (shares * slopes).sum(0)
    error = ((shares * (slopes - mean)).square().sum(0) * 2 / 1).sum().sqrt()
    assert found.gradient_noise == pytest.approx(float(error), rel=1e-9)
    parts = [part.noise for part in found.gradient if part.noise is not None]
    assert math.hypot(*parts) == pytest.approx(float(error), rel=1e-9)
    assert found.beyond_noise == (found.gradient_length > 3 * float(error))


def test_the_way_down_and_the_step_lower_the_loss_by_what_is_said(
    in_train_mode: tuple[nn.Module, Batches, sf.ModuleVerdict],
) -> None:
    model, batches, found = in_train_mode
    risk, at = reference(model, batches, cross_entropy), vector_of(model)
    assert found.kind is sf.Kind.NOT_CRITICAL
    assert found.step is not None
    assert found.takes_off > 0
    assert found.loss - float(risk(at + flat(found.step))) == pytest.approx(found.takes_off)
    assert found.way_down is not None
    assert found.way_curvature is not None
    way = flat(found.way_down)
    turned = hessian(risk, at) @ way
    assert float(way @ turned) == pytest.approx(found.way_curvature)
    assert found.way_curvature < 0
    falls = [found.loss - float(risk(at + size * at.norm() * way)) for size in (0.3, 0.1, 0.03)]
    assert max(falls) == pytest.approx(found.way_takes_off)
    assert found.way_takes_off > 0


def test_above_the_limit_the_sure_bounds_are_sure_and_nothing_is_counted(
    in_train_mode: tuple[nn.Module, Batches, sf.ModuleVerdict],
) -> None:
    model, batches, dense = in_train_mode
    found = sf.judge_module(model, batches, cross_entropy, dense_limit=0, steps=20)
    values = torch.linalg.eigvalsh(
        hessian(reference(model, batches, cross_entropy), vector_of(model))
    )
    assert found.inertia is None
    assert found.method == "Lanczos"
    assert found.lowest is not None
    assert found.highest is not None
    assert (found.lowest.sure, found.highest.sure) == ("above", "below")
    assert found.lowest.below <= float(values[0]) <= found.lowest.above
    assert found.highest.below <= float(values[-1]) <= found.highest.above
    assert found.lowest.risk == found.highest.risk > 0
    assert "with probability" in str(found.lowest) or "too few steps" in str(found.lowest)
    assert found.kind is dense.kind
    assert found.flat_directions is not None
    assert dense.flat_directions is not None
    assert [each.name for each in found.flat_directions] == [
        each.name for each in dense.flat_directions
    ]


def test_bounds_by_an_invariant_space_close_in_on_the_ends() -> None:
    model, X = seeded(lambda: nn.Linear(2, 1)), drawn(9, 2)
    found = sf.judge_module(model, [(X, X[:, :1])], mse_loss, dense_limit=0)
    assert found.lowest is not None
    assert 0 < found.lowest.above - found.lowest.below < 1e-11


def test_in_float32_the_ranges_hold_what_float64_finds() -> None:
    model = seeded(Gated)
    batches = [(drawn(20, 3), drawn(20, 2, seed=2))]
    fine = sf.judge_module(model, batches, mse_loss)
    coarse = sf.judge_module(model.float(), batches, mse_loss, dtype=None)
    assert fine.lowest is not None
    assert coarse.lowest is not None
    assert coarse.lowest.below < fine.lowest.below
    assert fine.lowest.above < coarse.lowest.above
    assert 1e-8 < coarse.lowest.above - coarse.lowest.below < 1e-2


# -- flat families ---------------------------------------------------------------------------------


def kernel(model: nn.Module, X: Tensor) -> int:
    """How many directions change no output to first order."""
    named = dict(model.named_parameters())

    def outputs(vector: Tensor) -> Tensor:
        parts = vector.split([p.numel() for p in named.values()])
        params = {key: part.view(named[key].shape) for key, part in zip(named, parts, strict=True)}
        return torch.func.functional_call(model, params, (X,)).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(outputs, vector_of(model))
    values = torch.linalg.svdvals(jacobian)
    return jacobian.shape[1] - int((values > 1e-9 * values[0]).sum())


@pytest.mark.parametrize(
    ("make", "shape", "names"),
    [
        (Gated, (40, 3), {"scaling": 4}),
        (
            lambda: nn.Sequential(Attention(), nn.Flatten(), nn.Linear(12, 2)),
            (60, 3, 4),
            {"attention bases": 16, "bias without effect": 4, "bias passed on": 8},
        ),
    ],
    ids=["gated", "attention"],
)
def test_flat_families_are_all_that_changes_no_output(
    make: Callable[[], nn.Module], shape: tuple[int, ...], names: dict[str, int]
) -> None:
    model, X = seeded(make), drawn(*shape)
    found = sf.judge_module(model, [(X, drawn(shape[0], 2, seed=3))], mse_loss)
    families = found.flat_directions
    assert families is not None
    sizes: dict[str, int] = {}
    for family in families:
        sizes[family.name] = sizes.get(family.name, 0) + family.dimension
    assert sizes == names
    assert families.dimension == sum(names.values()) == kernel(model, X)
    outputs = model(X).detach()
    params = {name: p.detach() for name, p in model.named_parameters()}
    for family in families:
        assert isinstance(family, sf.ModuleFamily)
        moved = family.moved(params, 1e-3 if family.name == "bias passed on" else 0.5)
        there = torch.func.functional_call(model, moved, (X,))
        assert float((there - outputs).abs().max()) < 1e-12
        assert float((flat(moved) - vector_of(model)).norm()) > 1e-4
        assert flat(family.direction()).norm() == pytest.approx(1)


def test_batch_norm_takes_off_biases_and_all_but_eps_of_the_scale(
    in_train_mode: tuple[nn.Module, Batches, sf.ModuleVerdict],
) -> None:
    _, _, found = in_train_mode
    assert found.mode == "train mode: batch norms take the statistics of each batch (1 of 1)"
    assert found.flat_directions is not None
    names = {family.name: family.dimension for family in found.flat_directions}
    assert names == {"bias without effect": 2, "common shift": 1}
    assert len(found.nearly_flat) == 1
    assert "but for the norm's eps" in found.nearly_flat[0]


def test_without_eps_the_scale_before_a_batch_norm_is_flat() -> None:
    model = seeded(normed)
    model[1].eps = 1e-300
    found = sf.judge_module(model, [(IMAGES, LABELS)], cross_entropy)
    assert found.flat_directions is not None
    assert not found.nearly_flat
    assert "scale before a norm" in [family.name for family in found.flat_directions]


def test_in_eval_mode_a_batch_norm_s_own_scale_and_shift_undo_what_is_before_it() -> None:
    model = seeded(normed)
    model(IMAGES)
    found = sf.judge_module(model.eval(), [(IMAGES, LABELS)], cross_entropy)
    assert found.mode == "eval mode: batch norms use the statistics that they keep (1 of 1)"
    assert found.flat_directions is not None
    sizes = {family.name: family.dimension for family in found.flat_directions}
    assert sizes["scaling"] == 2
    assert sizes["shift"] == 2


def test_dead_unheard_and_duplicate_units_are_named() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)))
    with torch.no_grad():
        model[0].bias[1] = -30.0
        model[2].weight[:, 2] = 0.0
        model[0].weight[4], model[0].bias[4] = 2 * model[0].weight[3], 2 * model[0].bias[3]
    found = sf.judge_module(model, [(drawn(20, 2), drawn(20, 2, seed=3))], mse_loss)
    assert found.flat_directions is not None
    families = {family.name: family for family in found.flat_directions}
    assert "units 1 of '0' say nothing on these batches" in families["dead units: outgoing"].reason
    assert "units 2 of '0' are read with weights 0" in families["unheard units: incoming"].reason
    assert "units 3 and 4 of '0'" in families["duplicate units"].reason
    assert families["duplicate units"].dimension == 2


def families_of(found: sf.ModuleVerdict) -> list[sf.ModuleFamily]:
    assert found.flat_directions is not None
    return [each for each in found.flat_directions if isinstance(each, sf.ModuleFamily)]


@functools.cache
def of_lower_rank(which: int, shares: tuple[float, ...]) -> tuple[nn.Module, Batches]:
    """A linear net that maps onto one of the three directions of the best one, and copies of its unit."""
    X = drawn(40, 3)
    Y = X @ (torch.tensor([3.0, 2.0, 1.0]).double()[:, None] * torch.linalg.qr(drawn(3, 3))[0]).mT
    best: Tensor = torch.linalg.lstsq(X, Y).solution.mT
    _, ways = torch.linalg.eigh(best @ X.mT @ X @ best.mT)
    way = ways[:, which : which + 1]
    into, out = nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False)
    model = nn.Sequential(into, out).double()
    with torch.no_grad():
        into.weight.copy_(1.3 * way.mT @ best)
        out.weight.copy_(way / 1.3)
    return sf.widen(model, X[:2], "0", copies={0: list(shares)}).model, [(X, Y)]


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("shares", [(0.3, 0.7), (-1.0, 2.0), (1.0, 0.0), (0.2, 0.3, 0.5)])
def test_copies_in_a_linear_net_are_saddles_whose_zeros_are_what_matrices_mix(
    which: int, shares: tuple[float, ...]
) -> None:
    model, batches = of_lower_rank(which, shares)
    dense = hessian(reference(model, batches, half_square), vector_of(model))
    values = torch.linalg.eigvalsh(dense)
    zero = int((values.abs() < 1e-9).sum())
    found = sf.judge_module(model, batches, half_square)
    assert found.kind is sf.Kind.STRICT_SADDLE
    assert found.inertia == (int((values > 1e-9).sum()), zero, int((values < -1e-9).sum()))
    assert found.inertia.zeros_explained == zero
    assert found.way_takes_off > 0
    mixing = [each for each in families_of(found) if each.name == "mixing"]
    assert [family.joint and not family.affine for family in mixing] == [True]
    for seed in range(
        8
    ):  # what holds near by, too, leads from critical points to such: H is 0 along it
        assert float((dense @ flat(mixing[0].direction(seed))).norm()) < 1e-11
    if len(shares) == 2:
        assert mixing[0].dimension == zero


def test_straight_flat_families_are_joint_only_where_moves_along_all_keep_the_loss() -> None:
    model, batches = of_lower_rank(1, (0.3, 0.7))
    found = sf.judge_module(model, batches, half_square)
    straight = [family for family in families_of(found) if family.affine]
    assert {family.joint for family in straight} == {True, False}
    risk = reference(model, batches, half_square)
    named = {name: p.detach() for name, p in model.named_parameters()}
    for family in straight:
        there = float(risk(flat(family.moved(named, 0.5))))
        assert there == pytest.approx(found.loss, rel=1e-12)
    joint = every = named
    for seed, family in enumerate(straight):
        every = family.moved(every, 0.5, seed)
        joint = family.moved(joint, 0.5, seed) if family.joint else joint
    assert float(risk(flat(joint))) == pytest.approx(found.loss, rel=1e-12)
    assert abs(float(risk(flat(every))) - found.loss) > 1e-6


class Counted(nn.Module):
    """A model that counts how often it runs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        Counted.runs += 1
        return self.inner(x)

    runs = 0


def searched(model: nn.Module, batches: Batches) -> Search:
    risk = OnBatches(FlatModule(model), BatchesOf(batches), mse_loss)
    return Search(risk, {}, torch.zeros_like(risk.at, dtype=torch.bool), 1e-12, 2.3e-16)


def scaling(sign: int, *ends: tuple[str, int]) -> Move:
    parts = [Part(name, axis, torch.arange(4)[:, None], "") for name, axis in ends]
    acts = (Act(part, scaled(sign * (-1) ** part.axis)) for part in parts)
    return Move("scaling", "", (4,), tuple(acts))


def test_moves_tried_together_are_told_apart_and_wrong_ones_never_cancel() -> None:
    search = searched(seeded(Gated), [(drawn(20, 3), drawn(20, 2, seed=2))])
    right = [
        scaling(sign, ("up.weight", 0), ("up.bias", 0), ("down.weight", 1)) for sign in (1, -1)
    ]
    wrong = [scaling(sign, ("up.weight", 0)) for sign in (1, -1)]
    assert search._verified(wrong, True) == []
    found = search._verified([right[0], *wrong, right[1]], True)
    assert [family._move for family in found] == right


def test_families_cost_a_few_runs_of_the_model_and_not_some_each() -> None:
    X = drawn(30, 3, 4)
    model = Counted(seeded(lambda: nn.Sequential(Attention(), nn.Flatten(), nn.Linear(12, 2))))
    risk = OnBatches(FlatModule(model), BatchesOf([(X, drawn(30, 2))]), mse_loss)
    groups = sf.units(model, X[:2])
    Counted.runs = 0
    search = Search(risk, groups, torch.zeros_like(risk.at, dtype=torch.bool), 1e-12, 2.3e-16)
    found = search.families()
    assert len(found) >= 5
    assert Counted.runs <= 3 + 3 * 3


def test_products_run_the_model_once_where_slopes_are_kept_and_say_the_same() -> None:
    X = drawn(12, 1, 4, 4)
    model = Counted(seeded(normed))
    batches = [(X[:7], LABELS[:7]), (X[7:], LABELS[7:])]
    risk = OnBatches(FlatModule(model), BatchesOf(batches), cross_entropy)
    ways = drawn(3, len(risk.at))
    plain = [risk.product(way) for way in ways]
    risk.keep, Counted.runs = True, 0
    assert all(torch.equal(risk.product(way), each) for way, each in zip(ways, plain, strict=True))
    assert Counted.runs == 2
    there = risk.product(ways[0], risk.at + 0.1)
    risk.keep = False
    assert torch.equal(risk.product(ways[0], risk.at + 0.1), there)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, (3, 2), stride=(2, 1), bias=False),
        nn.Conv2d(2, 3, 2, padding=(0, 1), dilation=2),
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 3, 3, padding="same"),
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
    ],
    ids=str,
)
def test_convolutions_are_those_of_the_model_with_all_their_derivatives(conv: nn.Module) -> None:
    X, Y = drawn(5, 2, 5, 4), LABELS[:5] % 2
    model = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    model(X)
    risk = OnBatches(FlatModule(model), BatchesOf([(X, Y)]), cross_entropy)
    plain = reference(model, [(X, Y)], cross_entropy)
    assert float(risk.value()) == pytest.approx(float(plain(risk.at)), rel=1e-14)
    assert float((risk.gradient() - torch.func.grad(plain)(risk.at)).abs().max()) < 1e-14
    assert float((risk.hessian() - hessian(plain, risk.at)).abs().max()) < 1e-13


# -- kinds -----------------------------------------------------------------------------------------


@functools.cache
def problems() -> list[sf.Point]:
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) + 0.3 * X**2
    found = []
    for activation in ("gelu", "relu"):
        problem = sf.Problem(sf.MLP([1, 2, 1], activation), X, y)
        minimum = sf.find_critical_point(problem, starts=8)
        found += [sf.Point(problem, problem.net.random_params(0)), minimum]
        for shares in ([0.25, 0.75], [2.0, -1.0]):
            wide = sf.Replicate(0, 0, shares)(minimum)
            found.append(sf.Point(wide.problem, wide.params))
    return found


def test_kinds_agree_with_those_of_a_network() -> None:
    seen = set()
    for point in problems():
        problem = point.problem
        model = problem.net.to_module(point.params)
        found = sf.judge_module(model, [(problem.X, problem.y)], half_square)
        verdict = sf.judge(point)
        assert found.kind is verdict.kind, (found.reason, verdict.reason)
        assert found.inertia == verdict.inertia
        seen.add(found.kind)
        if found.kind is sf.Kind.STRICT_SADDLE:
            assert found.way_takes_off > 0
            assert found.descent_direction is not None
    assert {sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM, sf.Kind.STRICT_SADDLE} < seen
    assert sf.Kind.NOT_CRITICAL in seen


def test_a_softmax_s_shift_explains_the_zeros_of_a_minimum() -> None:
    X = torch.tensor([[-1.0], [-1.0], [0.0], [0.5], [1.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    problem = sf.Problem(sf.MLP([1, 2]), X, y, "cross_entropy")
    point = sf.find_critical_point(problem, starts=2)
    found = sf.judge_module(problem.net.to_module(point.params), [(X, y)], cross_entropy)
    assert found.kind is sf.Kind.MINIMUM is sf.judge(point).kind
    assert found.flat_directions is not None
    assert found.flat_directions.zeros_explained == 2


def test_a_large_saddle_is_sure_only_by_its_direction() -> None:
    point = problems()[3]
    model = point.problem.net.to_module(point.params)
    found = sf.judge_module(model, [(point.problem.X, point.problem.y)], half_square, dense_limit=0)
    assert found.kind is sf.judge(point).kind is sf.Kind.STRICT_SADDLE
    assert found.way_curvature is not None
    assert found.way_curvature < 0 < found.way_takes_off


def test_a_large_minimum_is_undecided() -> None:
    point = problems()[1]
    model = point.problem.net.to_module(point.params)
    found = sf.judge_module(model, [(point.problem.X, point.problem.y)], half_square, dense_limit=0)
    assert found.kind is sf.Kind.UNDECIDED
    assert "that is no certainty" in found.reason
    assert found.way_down is None


def test_at_a_kink_there_is_no_hessian() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)))
    with torch.no_grad():
        model[0].weight.fill_(1.0), model[0].bias.fill_(-0.5)
    X = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    found = sf.judge_module(model, [(X, model(X).detach())], mse_loss)
    assert found.kind is sf.Kind.UNDECIDED
    assert found.lowest is None
    assert "'relu' is given on batch 0 are at its kink" in found.reason


class Formula(nn.Module):
    """A function of two parameters, times the inputs."""

    def __init__(self, f: Callable[[Tensor, Tensor], Tensor], *at: float) -> None:
        super().__init__()
        self.f, self.p = f, nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(*self.p) * x


NO_MINIMUM: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "where": (lambda a: torch.where(a >= 0, a**2, -(a**2)), 0.0),
    "times a comparison": (lambda a: a**2 * (a >= 0) - a**2 * (a < 0), 0.0),
    "the smaller": (lambda a: torch.minimum(a, 0 * a) - a / 2 + a**2, 0.0),
    "the larger": (lambda a: a**2 - torch.maximum(a, -a), 0.0),
    "the largest of all": (lambda a: a**2 - torch.stack([a, -a]).max(), 0.0),
    "the largest along an axis": (lambda a: a**2 - torch.stack([a, -a]).amax(0), 0.0),
    "the largest of several": (lambda a: a + a**2 - torch.stack([a, -a]).topk(1)[0][0], 0.0),
    "the largest norm": (
        lambda a: a**2 - torch.linalg.vector_norm(torch.stack([a, 2 * a, -2 * a]), math.inf),
        0.0,
    ),
    "soft shrinking": (lambda a: (a - 0.5) ** 2 - nn.functional.softshrink(a, 0.5), 0.5),
    "celu": (lambda a: nn.functional.celu(a, 0.5) - a + a**2, 0.0),
    "Huber's loss": (lambda a: a - nn.functional.huber_loss(a, 0 * a) + 0.1 * (a - 1) ** 2, 1.0),
    "a step": (lambda a: a**2 + a.floor(), 0.0),
    "a step at halves": (lambda a: (a - 0.5) ** 2 - a.round(), 0.5),
}
"""Functions of one number, and a place where derivatives say minimum, but where there are none."""


@pytest.mark.parametrize("name", NO_MINIMUM)
def test_where_an_operation_has_no_second_derivative_no_kind_is_said(name: str) -> None:
    f, at = NO_MINIMUM[name]
    model = Formula(lambda a, b: f(a) + b**2, at, 0.0)
    batches = [(torch.ones(4, 1).double(), torch.zeros(4, 1).double())]
    found = sf.judge_module(model, batches, lambda outputs, _: outputs.mean())
    assert found.kind is sf.Kind.UNDECIDED
    assert found.lowest is None
    assert "not differentiable" in found.reason


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: (torch.where(a > 0, a, -a) - 1) ** 2 + b**2,
        lambda a, b: (torch.stack([a, b]).amax(0) - 1) ** 2 + b**2,
        lambda a, b: torch.fft.fft(torch.stack([a - 1, b])).real.square().sum(),
    ],
)
def test_a_choice_that_stays_near_by_hides_no_minimum(
    f: Callable[[Tensor, Tensor], Tensor],
) -> None:
    batches = [(torch.ones(4, 1).double(), torch.zeros(4, 1).double())]
    found = sf.judge_module(Formula(f, 1.0, 0.0), batches, lambda outputs, _: outputs.mean())
    assert found.kind is sf.Kind.STRICT_MINIMUM


def test_of_a_point_that_is_not_critical_it_is_said_whether_a_step_helps() -> None:
    model = seeded(lambda: nn.Linear(1, 1))
    X = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    found = sf.judge_module(model, [(X, 3 * X + 1)], mse_loss)
    # A quadratic loss: a Newton step takes all of it off.
    assert found.takes_off == pytest.approx(found.loss, rel=1e-9)
    assert "off the loss of" in found.reason


def test_a_loss_that_does_not_depend_on_the_parameters_is_refused() -> None:
    batches = [(drawn(4, 3), drawn(4, 2))]
    with refused("no derivative by the model's parameters"):
        sf.judge_module(seeded(lambda: nn.Linear(3, 2)), batches, lambda _, y: y.square().mean())


# -- what is kept ----------------------------------------------------------------------------------


def test_the_model_its_buffers_and_the_random_state_stay() -> None:
    model = seeded(normed)
    before = {key: each.clone() for key, each in model.state_dict().items()}
    state = torch.random.get_rng_state()
    sf.judge_module(model, [(IMAGES, LABELS)], cross_entropy)
    assert all(torch.equal(each, before[key]) for key, each in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_frozen_parameters_are_held_and_said() -> None:
    model = seeded(Gated)
    model.gate.requires_grad_(False)
    batches = [(drawn(20, 3), drawn(20, 2, seed=2))]
    found = sf.judge_module(model, batches, mse_loss)
    assert found.held == ("gate.weight", "gate.bias")
    assert found.inertia is not None
    assert sum(found.inertia) == 26
    values = torch.linalg.eigvalsh(hessian(reference(model, batches, mse_loss), vector_of(model)))
    assert found.lowest is not None
    assert found.lowest.below <= float(values[0])


def test_inputs_by_name_and_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embed(ids)))

    ids = torch.arange(10) % 5
    found = sf.judge_module(seeded(Tied), [({"ids": ids}, (ids + 1) % 5)], cross_entropy)
    assert sum(part.share for part in found.gradient) == pytest.approx(1)
    assert found.inertia is not None
    assert sum(found.inertia) == 15


# -- bad input -------------------------------------------------------------------------------------

LINEAR = seeded(lambda: nn.Linear(3, 2))
PAIR = (drawn(4, 3), drawn(4, 2))


class Fails(nn.Module):
    """Fails on batches of three samples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 3:
            raise ValueError("three are too few")
        return self.inner(x)


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + torch.randn_like(x))


class Shuffled:
    def __iter__(self) -> Any:
        order = torch.randperm(4)
        return iter([(PAIR[0][order], PAIR[1][order])])


def alone(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


@pytest.mark.parametrize(
    ("model", "batches", "loss", "words"),
    [
        (LINEAR, [], mse_loss, "there are no batches"),
        (LINEAR, iter([PAIR]), mse_loss, "that can be gone through again"),
        (LINEAR, Shuffled(), mse_loss, "two passes over the batches differ"),
        (LINEAR, [PAIR, (torch.zeros(0, 3), torch.zeros(0, 2))], mse_loss, "batch 1 has no inputs"),
        (LINEAR, [PAIR[0]], mse_loss, "batch 0 is a Tensor; expected a pair"),
        (LINEAR, [[PAIR[0]]], mse_loss, "batch 0 is a list of 1; expected a pair"),
        (LINEAR, [(PAIR[0], None)], mse_loss, "and the batch has no targets"),
        (LINEAR, [PAIR], alone, "the loss gives (4, 2); expected one number"),
        (LINEAR, [PAIR], lambda o, t: alone(o, t).sum(), "expected a loss that is a mean"),
        (LINEAR, [PAIR], lambda o, t: mse_loss(o, t) / 0, "the loss is inf on batch 0"),
        (LINEAR, [PAIR], "mse", "loss must be a function loss(outputs, targets), not 'mse'"),
        (LINEAR, [PAIR, (PAIR[0] * math.nan, PAIR[1])], mse_loss, "the loss is nan on batch 1"),
        (LINEAR, [(drawn(4, 5), PAIR[1])], mse_loss, "the model fails on batch 0, of 4 samples"),
        (
            seeded(Fails),
            [PAIR, PAIR, (PAIR[0][:3], PAIR[1][:3]), PAIR],
            mse_loss,
            "the model fails on batch 2, of 3 samples (three are too few)",
        ),
        (seeded(Noisy), [PAIR], mse_loss, "something is drawn at random on the way"),
        (
            seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))),
            [PAIR],
            mse_loss,
            "dropout is on in '1', so that no two passes are the same; call model.eval()",
        ),
        (seeded(lambda: nn.Linear(3, 2).requires_grad_(False)), [PAIR], mse_loss, "no parameter"),
        (lambda x: x, [PAIR], mse_loss, "expected an nn.Module, not function"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    model: Any, batches: Any, loss: Any, words: str
) -> None:
    with refused(words):
        sf.judge_module(model, batches, loss)


def test_dropout_with_p_0_and_in_eval_mode_is_nothing() -> None:
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)))
    assert sf.judge_module(model.eval(), [PAIR], mse_loss).mode == "eval mode"
    model[1].p = 0.0
    assert sf.judge_module(model.train(), [PAIR], mse_loss).mode == "train mode"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance": -1.0}, "tolerance must be a finite number from 0 up"),
        ({"steps": 1}, "steps"),
        ({"dense_limit": -1}, "dense_limit"),
        ({"dtype": torch.float16}, "dtype must be torch.float64"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with refused(words):
        sf.judge_module(LINEAR, [PAIR], mse_loss, **options)


def test_the_callers_gradient_mode_makes_no_difference() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    X = torch.randn(20, 2, dtype=torch.float64)
    data = [(X, X[:, :1])]
    with torch.no_grad():
        inside = sf.judge_module(model, data, nn.functional.mse_loss)
    outside = sf.judge_module(model, data, nn.functional.mse_loss)
    assert (inside.kind, inside.loss) == (outside.kind, outside.loss)
