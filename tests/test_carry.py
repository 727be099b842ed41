"""The state of an optimiser after a widening is what the wide model's own training would have given it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, lr_scheduler

import semiflat as sf
from semiflat.modules.carry import Move, Remake, carried, carried_state, moves
from semiflat.modules.surgery import changed_tensors, new_places, norm_gains
from semiflat.modules.widen import planned
from zoo import Basic

EXACT = 1e-13
STILL = "as if the weights had stood still"


class Attention(nn.Module):
    """Two heads of size 2 over a stream of 3, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Stream(nn.Module):
    """One block on a residual stream of 4 units, normalised before each layer."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.put, self.get = nn.Linear(3, 4), nn.Linear(4, 2)
        self.first, self.last = norm(4), norm(4)
        self.up, self.down = nn.Linear(4, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.put(x)
        stream = stream + self.down(torch.tanh(self.up(self.first(stream))))
        return self.get(self.last(stream))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), nn.GELU(), nn.Linear(6, 2))


def channels() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)
    )


CASES: dict[str, tuple[Any, tuple[int, ...], str, dict[str, Any]]] = {
    "units": (mlp, (8, 3), "0", {"copies": {1: [-0.5, 1.5], 4: 3}}),
    "new units": (mlp, (8, 3), "0", {"units": 2, "copies": {0: 2}}),
    "channels": (channels, (8, 1, 4, 4), "0", {"units": 1, "copies": {2: [-0.5, 1.5]}}),
    "heads": (Attention, (4, 5, 3), "qkv", {"units": 1, "copies": {1: [0.25, 0.75]}}),
    "scaled copies": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)),
        (8, 3),
        "0",
        {"copies": {1: [(2.0, 0.25), (0.5, 1.0)]}},
    ),
    "halves of a stream": (
        lambda: Stream(nn.LayerNorm),
        (8, 3),
        "put",
        {"copies": {unit: [0.5, 0.5] for unit in range(4)}},
    ),
    "roots in a stream": (lambda: Stream(nn.RMSNorm), (8, 3), "put", {"copies": {1: [0.25, 0.75]}}),
    "zeros in a stream": (lambda: Stream(nn.RMSNorm), (8, 3), "put", {"units": 2}),
}


class Case:
    """A model, what it is widened to, and batches; made once, since export takes its time."""

    def __init__(self, name: str) -> None:
        make, shape, group, how = CASES[name]
        torch.manual_seed(sum(map(ord, name)))
        self.given = make().double()
        for parameter in self.given.parameters():
            nn.init.normal_(parameter, std=0.7)
        self.batches = [torch.randn(shape, dtype=torch.float64) for _ in range(6)]
        self.widened = sf.widen(self.given, self.batches[0], group, **how)
        (self.change,) = self.widened._edits

    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Copies of the two models."""
        return copy.deepcopy(self.given), copy.deepcopy(self.widened.model)

    def follow(self, model: nn.Module, wide: nn.Module) -> None:
        """Give the wide model what the given one has by now."""
        now = dict(model.named_parameters()) | changed_tensors(model, self.change)
        if self.change.rescale is not None:
            for path, name in norm_gains(self.change.group, model):
                now[f"{path}.{name}"] = now[f"{path}.{name}"] * self.change.rescale[0]
        with torch.no_grad():
            for name, parameter in wide.named_parameters():
                parameter.copy_(now[name])

    def trained(
        self,
        model: nn.Module,
        wide: nn.Module,
        both: list[Optimizer],
        steps: int,
        still: bool = False,
    ) -> None:
        """Train the model, and let the wide one see the same batches at the same place."""
        for step in range(steps):
            batch = self.batches[step % len(self.batches)]
            if not still:
                self.follow(model, wide)
            for each, optimizer in zip((model, wide), both, strict=True):
                optimizer.zero_grad()
                (each(batch) ** 2 - each(batch)).mean().backward()
                optimizer.step()
        if not still:
            self.follow(model, wide)

    def differences(
        self, model: nn.Module, wide: nn.Module, own: Optimizer, found: Optimizer
    ) -> dict[str, float]:
        """The largest differences in what is kept of old units, relative to the largest entry, by key."""
        worst: dict[str, float] = {}
        for name, parameter in wide.named_parameters():
            known = self.known(name, parameter)
            of_own, of_found = own.state[parameter], found.state[parameter]
            assert of_own.keys() == of_found.keys()
            for key, value in of_own.items():
                if value is None:
                    assert of_found[key] is None
                    continue
                mask = known if value.ndim or not parameter.ndim else torch.tensor(True)
                gap = float(((of_found[key] - value) * mask).abs().max())
                size = float(value.abs().max())
                worst[key] = max(worst.get(key, 0.0), gap / size if gap else 0.0)
        return worst

    def known(self, name: str, parameter: Tensor) -> Tensor:
        """Where a parameter of the wide model belongs to no new unit."""
        mask = torch.ones(parameter.shape)
        before = self.given.get_parameter(name)
        for slot in self.change.group.slots:
            if slot.name == name:
                length = before.shape[slot.axis]
                places = new_places(slot, length, self.change.size, self.change.new)
                mask.index_fill_(slot.axis, places.flatten().long(), 0.0)
        return mask


class Cases(dict[str, Case]):
    """Cases by name, made when they are first asked for."""

    def __missing__(self, name: str) -> Case:
        return self.setdefault(name, Case(name))


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


OPTIMISERS: dict[str, tuple[type[Optimizer], dict[str, Any]]] = {
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True, "maximize": True}),
    "dampening": (SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "foreach": True}),
    "plain": (SGD, {"lr": 0.05}),
    "Adam": (Adam, {"lr": 0.01, "foreach": False}),
    "amsgrad": (Adam, {"lr": 0.01, "amsgrad": True, "betas": (0.8, 0.9)}),
    "fused": (Adam, {"lr": 0.01, "fused": True}),
    "AdamW": (AdamW, {"lr": 0.01, "weight_decay": 0.3}),
    "RMSprop": (RMSprop, {"lr": 0.01, "eps": 1e-20}),
    "centered": (RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.7, "eps": 1e-20}),
    "Adagrad": (Adagrad, {"lr": 0.05, "lr_decay": 0.1}),
    "accumulated": (Adagrad, {"lr": 0.05, "initial_accumulator_value": 0.3}),
}
"""Momentum of RMSprop is exact but for its eps, so that is small here."""


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("case", ["units", "channels"])
def test_carried_state_is_that_of_the_wide_models_own_training(
    case: str, name: str, cases: Cases
) -> None:
    kind, options = OPTIMISERS[name]
    check_own(cases[case], kind, options)


@pytest.mark.parametrize("name", ["momentum", "amsgrad"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("units", "channels")])
def test_every_kind_of_unit_is_carried(case: str, name: str, cases: Cases) -> None:
    kind, options = OPTIMISERS[name]
    check_own(cases[case], kind, options)


def test_adamw_is_known_without_the_flag_that_older_torch_does_not_have(cases: Cases) -> None:
    case = cases["units"]
    model, wide = case.pair()
    both = [AdamW(each.parameters(), weight_decay=0.3) for each in (model, wide)]
    case.trained(model, wide, both, 2)
    moved, _ = moves(model, wide, [case.change])
    first = model.get_parameter("0.weight")
    options = dict(both[0].param_groups[0])
    options.pop("decoupled_weight_decay", None)
    _, exact = carried_state(AdamW, options, both[0].state[first], moved["0.weight"])
    assert exact
    _, exact = carried_state(Adam, options, both[0].state[first], moved["0.weight"])
    assert not exact


def check_own(case: Case, kind: Any, options: dict[str, Any]) -> None:
    model, wide = case.pair()
    both = [kind(each.parameters(), **options) for each in (model, wide)]
    case.trained(model, wide, both, 6)
    found = carried(model, wide, [case.change], both[0])
    assert type(found) is kind
    worst = case.differences(model, wide, both[1], found)
    assert max(worst.values(), default=0.0) <= EXACT, worst


@pytest.mark.parametrize(
    ("kind", "options", "keys"),
    [
        (SGD, {"momentum": 0.5, "dampening": 0.2}, ["momentum_buffer"]),
        (Adam, {}, ["exp_avg"]),
        (RMSprop, {"centered": True}, ["grad_avg"]),
    ],
)
def test_coupled_decay_is_exact_in_means_while_weights_stand_still(
    kind: Any, options: dict[str, Any], keys: list[str], cases: Cases
) -> None:
    case = cases["units"]
    model, wide = case.pair()
    both = [kind(each.parameters(), lr=0.0, weight_decay=0.3, **options) for each in (model, wide)]
    case.trained(model, wide, both, 60, still=True)
    with pytest.warns(UserWarning, match=STILL):
        found = carried(model, wide, [case.change], both[0])
    worst = case.differences(model, wide, both[1], found)
    assert all(worst[key] <= EXACT for key in keys), worst


@pytest.mark.parametrize("name", ["Adam", "amsgrad", "momentum"])
def test_coupled_decay_is_nearly_that_of_the_wide_model(name: str, cases: Cases) -> None:
    """Nearer by far than without the correction."""
    case = cases["units"]
    kind, options = OPTIMISERS[name]
    model, wide = case.pair()
    both = [
        kind(each.parameters(), **{**options, "weight_decay": 0.3, "lr": 0.002})
        for each in (model, wide)
    ]
    case.trained(model, wide, both, 40)
    with pytest.warns(UserWarning, match=STILL):
        found = carried(model, wide, [case.change], both[0])
    both[0].param_groups[0]["weight_decay"] = 0.0
    plain = carried(model, wide, [case.change], both[0])
    near, far = (case.differences(model, wide, both[1], each) for each in (found, plain))
    assert all(near[key] < 0.3 * far[key] for key in near if far[key]), (near, far)


@pytest.mark.parametrize("name", ["Adam", "centered"])
def test_no_mean_square_is_put_below_the_square_of_the_mean(name: str, cases: Cases) -> None:
    """Not where gradients have grown of late, either: steps would be longer than they ever are."""
    case = cases["units"]
    kind, options = OPTIMISERS[name]
    model, wide = case.pair()
    options = {**options, "weight_decay": 1.0}
    both = [kind(each.parameters(), **options) for each in (model, wide)]
    case.trained(model, wide, both, 4)
    mean, square = ("exp_avg", "exp_avg_sq") if kind is Adam else ("grad_avg", "square_avg")
    for state in both[0].state.values():
        state[square] *= 1e-3
    with pytest.warns(UserWarning, match=STILL):
        found = carried(model, wide, [case.change], both[0])
    group = found.param_groups[0]
    betas = group["betas"] if kind is Adam else [group["alpha"]] * 2
    first, second = (1 - beta**4 for beta in betas)
    moved, _ = moves(model, wide, [case.change])
    for name, parameter in wide.named_parameters():
        state, move = found.state[parameter], moved[name]
        least = (state[mean] / first) ** 2
        put_right = move.penalty(1.0) != 0 if move.remakes else torch.zeros(least.shape) > 0
        assert bool((state[square] / second >= least * (1 - 1e-12))[put_right].all())
        assert bool(put_right.any()) == (name != "2.bias")


def test_momentum_of_rmsprop_starts_fresh_where_a_penalty_is_put_right(cases: Cases) -> None:
    """And goes on elsewhere; where there never was a gradient, with eps 0, it is 0."""
    case = cases["units"]
    model, wide = case.pair()
    optimizer = RMSprop(model.parameters(), eps=0.0, weight_decay=0.1, momentum=0.5)
    case.trained(model, wide, [optimizer, SGD(wide.parameters())], 3)
    first = model.get_parameter("0.weight")
    optimizer.state[first]["square_avg"][0] = 0.0
    with pytest.warns(UserWarning, match=STILL):
        found = carried(model, wide, [case.change], optimizer)
    old = optimizer.state[first]["momentum_buffer"]
    new = found.state[wide.get_parameter("0.weight")]["momentum_buffer"]
    torch.testing.assert_close(new[[2, 3, 5]], old[[2, 3, 5]])
    assert not bool(new[[0, 1, 4, 6, 7, 8]].any())
    assert bool(old[[1, 4]].any())


def test_a_penalty_gives_new_units_no_past(cases: Cases) -> None:
    case = cases["new units"]
    model, wide = case.pair()
    optimizer = Adam(model.parameters(), weight_decay=0.1)
    case.trained(model, wide, [optimizer, SGD(wide.parameters())], 2)
    with pytest.warns(UserWarning, match=STILL):
        found = carried(model, wide, [case.change], optimizer)
    into = found.state[wide.get_parameter("0.weight")]["exp_avg"]
    assert not bool(into[-2:].any())
    assert bool(into[:-2].all())


def test_a_tensor_whose_roles_disagree_starts_fresh_at_copies_and_says_so(cases: Cases) -> None:
    """Its gradient is a sum of two, of which only the whole was kept."""
    case = cases["units"]
    model, _ = case.pair()
    change = planned(case.change.group, 0, {1: [0.25, 0.75]}, {}, 0)
    writes = next(slot for slot in change.group.slots if slot.name == "0.weight")
    slots = (*change.group.slots, replace(writes, role="reads"))
    moved, remarks = moves(
        model, model, [replace(change, group=replace(change.group, slots=slots))]
    )
    assert remarks == ["'0.weight' both makes and reads units of '0', and starts fresh at copies"]
    mean = moved["0.weight"].mean(torch.ones(6, 3))
    assert mean[:, 0].tolist() == [1, 0, 1, 1, 1, 1, 0]


def test_what_nothing_has_read_starts_with_the_median_of_the_others(cases: Cases) -> None:
    """A copy with the share 0 as a new unit does; units without gradients do not count."""
    case = cases["units"]
    model, _ = case.pair()
    change = planned(case.change.group, 1, {0: [1.0, 0.0]}, {}, 0)
    moved, _ = moves(model, model, [change])
    square = torch.tensor([0.0, 9.0, 4.0, 0.0, 1.0, 0.0]).outer(torch.tensor([1.0, 2.0, 0.0]))
    into, out = moved["0.weight"].square(square), moved["2.weight"].square(square.mT)
    assert into[:6].equal(square)
    assert into[6:].tolist() == [[4.0, 8.0, 0.0]] * 2  # the copy, and the new unit
    assert out[:, :7].equal(torch.cat([square, square[:1]]).mT)  # what reads the copy goes on
    assert out[:, 7].tolist() == [4.0, 8.0, 0.0]
    assert moved["0.weight"].mean(square)[6:].tolist() == [[0.0] * 3] * 2


def test_a_new_units_first_steps_are_as_long_as_its_neighbours() -> None:
    """Without the median they are many times as long: the optimiser has forgotten how to begin."""
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.3 * torch.randn(64, 1)
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = Adam(model.parameters(), lr=1e-2)

    def train(model: nn.Module, optimizer: Optimizer, steps: int) -> list[list[Tensor]]:
        taken = []
        for _ in range(steps):
            before = [parameter.detach().clone() for parameter in model.parameters()]
            optimizer.zero_grad()
            some = torch.randint(len(x), (16,))
            (model(x[some]) - y[some]).square().mean().backward()
            optimizer.step()
            pairs = zip(model.parameters(), before, strict=True)
            taken.append([parameter.detach() - old for parameter, old in pairs])
        return taken

    train(model, optimizer, 300)

    def longest(empty: bool) -> float:
        """The longest step of a new unit's weight, in longest steps of the others', over 20 steps."""
        wide = sf.widen(model, x, "0", units=3)
        fresh = wide.carry(optimizer)
        into, _, out, _ = wide.model.parameters()
        if empty:
            fresh.state[into]["exp_avg_sq"][12:] = 0.0
            fresh.state[out]["exp_avg_sq"][:, 12:] = 0.0
        pairs = [
            pair
            for into, _, out, _ in train(wide.model, fresh, 20)
            for pair in ((into[12:], into[:12]), (out[:, 12:], out[:, :12]))
        ]
        return max(float(new.abs().max() / old.abs().max()) for new, old in pairs)

    torch.manual_seed(1)
    carried_on = longest(empty=False)
    torch.manual_seed(1)
    assert carried_on < 1.5 < 4 < longest(empty=True)


def test_what_is_carried_twice_is_what_two_changes_carry_at_once() -> None:
    torch.manual_seed(1)
    x = torch.randn(8, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = Adam(model.parameters())
    model(x).square().mean().backward()
    optimizer.step()
    first = sf.widen(model, x, "0", copies={1: 2}, units=1)
    second = sf.widen(first.model, x, "2", copies={0: [-1.0, 2.0]}, units=2)
    twice = second.carry(first.carry(optimizer))
    once = carried(model, second.model, [*first._edits, *second._edits], optimizer)
    for one, other in zip(twice.state.values(), once.state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("shares", [[0.25, 0.75], [0.1, 0.2, 0.7]])
def test_copies_made_one_again_have_the_units_state(shares: list[float]) -> None:
    """Gradients of what writes the copies add up; those of what reads them are the same."""
    given = torch.rand(4, 3, dtype=torch.float64)
    slot = sf.Slot("0.weight", "writes", 0, torch.arange(4)[:, None])
    wide = sf.Slot("0.weight", "writes", 0, torch.arange(3 + len(shares))[:, None])
    apart = [((unit, 1.0),) for unit in range(3)] + [((3, share),) for share in shares]
    together = [((unit, 1.0),) for unit in range(3)]
    together.append(tuple((3 + copy, 1.0) for copy in range(len(shares))))
    move = Move([Remake(slot, apart, 1.0), Remake(wide, together, 1.0)], given, given)
    for back in (move.mean(given), move.square(given)):
        torch.testing.assert_close(back, given, rtol=1e-15, atol=0)


# -- groups, options and what is refused ------------------------------------------------------------


class Shared(nn.Module):
    """A layer under two names, applied twice; of the first layer the bias is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.again = self.twice
        self.first.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(torch.tanh(self.first(x)))
        return self.last(torch.tanh(self.again(x)))


def test_groups_options_and_steps_stay() -> None:
    """Frozen and shared parameters stand where they stood; one that no group has is in none."""
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(5, 3)
    named = dict(model.named_parameters())
    left = named.pop("last.bias")
    last = [(name, named.pop(name)) for name in ("last.weight", "first.bias")]
    optimizer = AdamW(
        [
            {"params": last, "lr": 0.5, "weight_decay": 0.0, "name": "head"},
            {"params": named.items(), "betas": (0.5, 0.6)},
        ],
        lr=torch.tensor(0.25),
        amsgrad=True,
        foreach=False,
        maximize=True,
    )
    for _ in range(3):
        model(x).sum().backward()
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    wide = sf.widen(model, x, "first", units=1, copies={0: 2})
    found = wide.carry(optimizer)
    after = dict(wide.model.named_parameters())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for old, new in zip(optimizer.param_groups, found.param_groups, strict=True):
        assert {**old, "params": 0} == {**new, "params": 0}
        moved = [id(after[names[id(each)]]) for each in old["params"]]
        assert [id(each) for each in new["params"]] == moved
    assert found.defaults == optimizer.defaults
    assert found.param_groups[1]["lr"] is not optimizer.param_groups[1]["lr"]
    assert after["last.bias"].shape == left.shape
    assert after["last.bias"] not in found.state
    assert after["first.bias"] not in found.state
    assert all(float(state["step"]) == 3 for state in found.state.values())
    assert all(state["exp_avg"].dtype == torch.float32 for state in found.state.values())
    found.step()
    assert str(optimizer.state_dict()) == str(before)


def test_a_new_block_is_trained_as_the_others_are() -> None:
    """Its parameters stand behind the last block's, in their groups, without state."""
    blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
    decayed = [(name, each) for name, each in blocks.named_parameters() if "weight" in name]
    others = [(name, each) for name, each in blocks.named_parameters() if "bias" in name]
    optimizer = AdamW([{"params": others, "weight_decay": 0.0}, {"params": decayed}])
    sum(block(torch.ones(3)).sum() for block in blocks).backward()
    optimizer.step()
    deep = copy.deepcopy(blocks).append(nn.Linear(3, 3))
    found = carried(blocks, deep, [], optimizer)
    assert [group["param_names"] for group in found.param_groups] == [
        ["0.bias", "1.bias", "2.bias"],
        ["0.weight", "1.weight", "2.weight"],
    ]
    named = dict(deep.named_parameters())
    for group in found.param_groups:
        pairs = zip(group["param_names"], group["params"], strict=True)
        assert all(named[name] is parameter for name, parameter in pairs)
    assert found.param_groups[0]["weight_decay"] == 0.0
    assert {named["2.bias"], named["2.weight"]}.isdisjoint(found.state)
    assert len(found.state) == 4


def test_a_block_that_widen_adds_has_no_state_and_the_groups_of_the_block_before() -> None:
    torch.manual_seed(0)
    stacks = [nn.Sequential(*(Basic(4, 4) for _ in range(count))) for count in (2, 3)]
    model, x = nn.Sequential(nn.Conv2d(1, 4, 3), *stacks), torch.randn(2, 1, 6, 6)
    model.append(nn.Conv2d(4, 2, 1))
    # A group for each stack and layer: a block's first convolution, say, trains at a rate of its own.
    kinds: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, each in model.named_parameters():
        stack, *rest = name.split(".")
        kinds.setdefault(stack + rest[-2] if len(rest) > 1 else stack, []).append((name, each))
    given = [{"params": named, "lr": 0.01 * (1 + n)} for n, named in enumerate(kinds.values())]
    optimizer = Adam(given)
    model(x).square().mean().backward()
    optimizer.step()
    wide = sf.widen(model, x, "1", units=2)
    found, named = wide.carry(optimizer), dict(wide.model.named_parameters())
    for name, each in model.named_parameters():
        for key, value in optimizer.state[each].items():
            assert torch.equal(found.state[named[name]][key], value), name
    new = [name for name in named if name.startswith(("1.2.", "1.3."))]
    assert {named[name] for name in new}.isdisjoint(found.state)
    of_name = {name: n for n, g in enumerate(found.param_groups) for name in g["param_names"]}
    assert len(of_name) == len(named)
    for name in new:
        assert of_name[name] == of_name["1.1." + name[4:]], name
    wide.model(x).square().mean().backward()
    found.step()


def test_hooks_are_left_behind_and_that_is_said(cases: Cases) -> None:
    case = cases["units"]
    model, wide = case.pair()
    optimizer = SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="hooks of the optimiser are left behind"):
        carried(model, wide, [case.change], optimizer)


def test_an_optimiser_that_has_not_begun_is_carried(cases: Cases) -> None:
    case = cases["new units"]
    for kind, options in OPTIMISERS.values():
        found = case.widened.carry(kind(case.given.parameters(), **options))
        own = kind(case.widened.model.parameters(), **options)
        torch.testing.assert_close(found.state_dict(), own.state_dict(), rtol=0, atol=0)


class Own(SGD):
    """An optimiser that asks for more than its options."""

    def __init__(self, params: Any, lr: float, mean: Tensor) -> None:
        super().__init__(params, lr)


@pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.LBFGS])
def test_another_class_starts_fresh_and_says_so(kind: Any, cases: Cases) -> None:
    case = cases["units"]
    model, wide = case.pair()
    optimizer = kind(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.step(lambda: square_of(model, optimizer, case.batches[0]))
    with pytest.warns(UserWarning, match=f"what {kind.__name__} keeps is not known here"):
        found = carried(model, wide, [case.change], optimizer)
    assert type(found) is kind
    assert not found.state
    before = square_of(wide, found, case.batches[0])
    found.step(lambda: square_of(wide, found, case.batches[0]))
    assert square_of(wide, found, case.batches[0]) < before


def square_of(model: nn.Module, optimizer: Optimizer, batch: Tensor) -> float:
    optimizer.zero_grad()
    loss = model(batch).square().mean()
    loss.backward()
    return loss.item()


def test_what_cannot_be_carried_is_refused(cases: Cases) -> None:
    widened = cases["units"].widened
    model, _ = cases["units"].pair()
    right = SGD(cases["units"].given.parameters(), lr=0.1)
    of_right = lr_scheduler.StepLR(right, 3)
    with pytest.raises(
        sf.InputError, match=r"4 of the 4 parameters .* not of the model .* \(6, 3\)"
    ):
        widened.carry(SGD(model.parameters(), lr=0.1))
    with pytest.raises(sf.InputError, match="1 of the 5 parameters"):
        widened.carry(SGD([*cases["units"].given.parameters(), torch.zeros(2)], lr=0.1))
    with pytest.raises(sf.InputError, match="optimizer is a Sequential; expected an optimiser"):
        widened.carry(model)  # type: ignore[arg-type]
    with pytest.raises(sf.InputError, match="StepLR does not schedule the given optimiser"):
        widened.carry(SGD(cases["units"].given.parameters(), lr=0.1), [of_right])
    with pytest.raises(sf.InputError, match="schedulers is a StepLR; expected a list"):
        widened.carry(right, of_right)  # type: ignore[arg-type]
    with pytest.raises(
        sf.InputError, match=r"class Own cannot be made again from its options .*mean"
    ):
        widened.carry(Own(cases["units"].given.parameters(), 0.1, torch.zeros(())))


UNEQUAL = {unit: [0.25, 0.75] for unit in range(4)}


@pytest.mark.parametrize(
    ("case", "how", "mixed"),
    [
        ("halves of a stream", {"units": 1, "copies": {}}, True),
        ("halves of a stream", {"units": 0, "copies": UNEQUAL}, True),
        ("zeros in a stream", {"units": 0, "copies": UNEQUAL}, True),
        ("roots in a stream", {"units": 0, "copies": {0: 3}}, False),
        ("units", {"units": 1, "copies": {0: 2}}, False),
    ],
)
def test_a_stream_whose_norms_mix_gradients_says_so(
    case: str, how: dict[str, Any], mixed: bool, cases: Cases
) -> None:
    """The exact ones are tried above, where a warning would be an error."""
    model, _ = cases[case].pair()
    change = planned(cases[case].change.group, incoming={}, seed=0, **how)
    _, remarks = moves(model, model, [change])
    assert mixed == any(
        "norms over the units of 'put' mix their gradients" in each for each in remarks
    )


# -- schedulers -------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Any] = {
    "StepLR": lambda o: [lr_scheduler.StepLR(o, 2, 0.1)],
    "Cosine": lambda o: [lr_scheduler.CosineAnnealingLR(o, 7)],
    "Lambda": lambda o: [lr_scheduler.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (1 + n)])],
    "OneCycle": lambda o: [lr_scheduler.OneCycleLR(o, [0.1, 0.3], total_steps=9)],
    "Cyclic": lambda o: [lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, mode="triangular2")],
    "Plateau": lambda o: [lr_scheduler.ReduceLROnPlateau(o, patience=0)],
    "Sequential": lambda o: [
        lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.5)], [3]
        )
    ],
    "Chained": lambda o: [
        lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)], o
        )
    ],
    "two": lambda o: [lr_scheduler.ConstantLR(o), lr_scheduler.MultiStepLR(o, [1, 4])],
}


@pytest.mark.parametrize("begun", [0, 4])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_go_on_for_the_new_optimiser(name: str, begun: int, cases: Cases) -> None:
    """Both step on to the same rates, and neither touches the other."""
    case = cases["units"]
    model, wide = case.pair()
    first, *rest = model.parameters()
    optimizer = SGD([{"params": [first]}, {"params": rest, "lr": 0.7}], lr=0.2, momentum=0.9)
    schedulers = SCHEDULERS[name](optimizer)

    def rates(optimizer: Optimizer, schedulers: list[Any], steps: int) -> list[Any]:
        found = []
        for _ in range(steps):
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(*([1.0] if name == "Plateau" else []))
            keys = [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
            found.append(keys)
        return found

    rates(optimizer, schedulers, begun)
    now = copy.deepcopy(optimizer.param_groups[1]["lr"])
    new, again = carried(model, wide, [case.change], optimizer, schedulers)
    assert all(scheduler.optimizer is new for scheduler in again)
    ahead = rates(new, again, 4)
    assert optimizer.param_groups[1]["lr"] == now != ahead[-1][1][0]
    assert rates(optimizer, schedulers, 4) == ahead
    assert [type(each) for each in again] == [type(each) for each in schedulers]


def test_a_scheduler_may_step_first_where_the_optimiser_has_stepped(cases: Cases) -> None:
    """No warning that the order is wrong: it was right."""
    case = cases["units"]
    model, wide = case.pair()
    optimizer = SGD(model.parameters(), lr=0.2)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    new, (again,) = carried(model, wide, [case.change], optimizer, [scheduler])
    again.step()
    assert new.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["lr"] == 0.2
