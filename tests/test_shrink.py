"""Shrinking of any model: what can be spared is spared, for the reason given, and nothing else changes."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import semiflat as sf
from helpers import refused
from semiflat.modules.laws import CONSTANT, SIGN, law
from semiflat.modules.ranges import ranges
from semiflat.modules.spare import ON_DATA, WITHIN
from zoo import ZOO


def doubled(tensor):
    return tensor.double() if tensor.is_floating_point() else tensor


def change_on(one, other, inputs):
    """The largest change of the outputs, relative to the largest: found without the library."""
    with torch.no_grad():
        a, b = copy.deepcopy(one)(inputs), copy.deepcopy(other)(inputs)
    return float((a - b).abs().max() / a.abs().max())


def mlp(*widths, act=nn.Tanh, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def data(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted_mlp(seed):
    """A point of a random perceptron with copies, multiples, opposite, unheard and constant units."""
    rng = random.Random(seed)
    depth = rng.choice([1, 2, 2, 3])
    act = rng.choice(["tanh", "sigmoid", "relu", "leaky_relu", "softplus", "gelu", "silu", "sin"])
    sizes = [rng.randint(1, 3), *(rng.randint(1, 4) for _ in range(depth)), rng.randint(1, 2)]
    net = sf.MLP(sizes, act)
    problem = sf.Problem(net, data(40, sizes[0], seed=seed), data(40, sizes[-1], seed=-seed - 1))
    point = sf.Point(problem, net.random_params(seed=seed))
    for _ in range(rng.randint(1, 4)):
        layer = rng.randrange(depth)
        share = rng.choice([0.25, -1.0, 2.0, 1.0])
        step = sf.Replicate(
            layer, rng.randrange(point.problem.net.hidden[layer]), [share, 1 - share]
        )
        null = sf.NullUnits(layer, [rng.uniform(-1, 1)])
        wide = null(point) if rng.random() < 0.2 else step(point)
        params = {key: value.clone() for key, value in wide.params.items()}
        scale = {"relu": rng.choice([2.0, 0.3]), "leaky_relu": 5.1}.get(act, -1.0)
        if rng.random() < 0.5 and (scale > 0 or act in ("tanh", "sin", "sigmoid")):
            params[f"{2 * layer}.weight"][-1] *= scale
            params[f"{2 * layer}.bias"][-1] *= scale
            params[f"{2 * layer + 2}.weight"][:, -1] /= scale
        point = sf.Point(wide.problem, params)
    return point


@pytest.mark.parametrize(
    "seeds", [range(3), pytest.param(range(3, 200), marks=pytest.mark.slow, id="many")]
)
def test_a_perceptrons_result_is_that_of_reduce(seeds):
    spared = 0
    for seed in seeds:
        point = planted_mlp(seed)
        module = point.problem.net.to_module(point.params)
        small = sf.shrink(module, point.problem.X, on_data=False)
        assert tuple(after for _, after in small.widths.values()) == sf.reduce(point).widths, seed
        # On inputs that it has not seen, too: what is left out makes no difference for any.
        far = 5 * data(50, point.problem.net.inputs, seed=seed + 1)
        assert change_on(module, small.model, far) < 1e-11
        spared += len(small.removed)
    assert spared > 2 * len(seeds)


QUICK = ("gpt tied", "gated")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO],
)
def test_after_widening_shrink_gives_the_old_widths_back(name):
    # With norms as they are made a post-norm stream takes a unit more, exactly, which none could with others.
    model = ZOO[name].born()[0].eval()
    inputs = doubled(ZOO[name].example())
    groups = sf.units(model, inputs)
    wide, planted = model, set()
    for group in groups.values():
        last = group.size - 1
        ways = [{"units": 1}, {"copies": {0: [0.25, 0.75], last: [0.5, 0.2, 0.3]}}]
        for way in ways:
            try:
                wide = sf.widen(wide, inputs, group.name, **way).model
            except sf.InputError:
                continue
            planted.add(group.name)
    batches = [(doubled(ZOO[name].example()), None) for _ in range(3)]
    small, alone = sf.shrink(wide, batches), sf.shrink(model, batches)
    # A unit of ReLU that was there before may be dead on the data.
    assert all(each.holds == ON_DATA and name not in QUICK for each in alone.removed)
    assert {group: (size, after) for group, (size, after) in alone.widths.items()} == {
        group.name: (group.size, small.widths[group.name][1])
        for group in groups.values()
        if not group.refuses
    }
    assert planted or not small.widths
    assert planted <= {each.group for each in small.removed}
    assert list(small.model.state_dict()) == list(model.state_dict())
    again = doubled(ZOO[name].example())
    assert change_on(wide, small.model, again) < 1e-12
    assert change_on(model, small.model, again) < 1e-12


class Branches(nn.Module):
    """A branch for each function, summed: linear, the function, linear."""

    def __init__(self, functions):
        super().__init__()
        self.functions = functions
        self.first = nn.ModuleList(nn.Linear(3, 4) for _ in functions)
        self.last = nn.ModuleList(nn.Linear(4, 2) for _ in functions)

    def forward(self, x):
        branches = zip(self.first, self.functions, self.last, strict=True)
        return sum(last(function(first(x))) for first, function, last in branches)


def written_over(z):
    torch.relu_(z)
    return z


FUNCTIONS = {
    "relu": (F.relu, (1, True, 0)),
    "leaky relu": (lambda z: F.leaky_relu(z, 0.1), (1, True, 0)),
    "clamped below": (lambda z: z.clamp(min=0.0), (1, True, 0)),
    "written over": (written_over, (1, True, 0)),
    "relu squared": (lambda z: F.relu(z) ** 2, (2, True, 0)),
    "product with itself": (lambda z: z * z, (2, True, 0)),
    "tanh": (torch.tanh, (1, False, SIGN)),
    "sum of odd ones": (lambda z: z + torch.sin(z), (1, False, SIGN)),
    "sigmoid": (torch.sigmoid, (1, False, CONSTANT)),
    "shifted": (lambda z: 3 - z, (1, False, CONSTANT)),
    "linear": (lambda z: -0.5 * z / 3, (1, True, SIGN)),
    "tanh of sigmoid": (lambda z: torch.tanh(torch.sigmoid(z)), None),
    "relu6": (F.relu6, None),
    "hardtanh of 50": (lambda z: F.hardtanh(z, -1.0, 50.0), None),
    "silu": (F.silu, None),
    "softplus": (F.softplus, None),
    "softmax": (lambda z: F.softmax(z, -1), None),
}


def test_the_law_of_what_lies_between_is_what_scaling_does():
    model = Branches([function for function, _ in FUNCTIONS.values()]).double()
    flow = sf.units(model, data(5, 3))._flow
    linear = [node for node in flow.captured.graph.nodes if "linear" in str(node.target)]
    for number, (name, (function, wanted)) in enumerate(FUNCTIONS.items()):
        names = [f"first.{number}.weight", f"first.{number}.bias"]
        found = law(flow, names, [linear[2 * number + 1].args[0]])
        got = found and (found.degree, found.positive, found.opposite)
        assert got == wanted, name
        if wanted is None:
            continue
        z = 10 * data(200, 4)
        degree, positive, opposite = wanted
        if positive:
            scaled, times = function(0.3 * z), 0.3**degree
            assert torch.allclose(scaled, times * function(z.clone()), rtol=1e-12), name
        left = function(-z) + function(z.clone())
        if opposite == CONSTANT:
            assert float(left.std()) < 1e-12, name
        if opposite == SIGN:
            assert float(left.abs().max()) < 1e-12, name


def test_values_stay_within_their_ranges_whatever_the_inputs_are():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Tanh()),
        *(nn.Linear(5, 4), nn.Hardtanh(-0.1, 0.2), nn.Linear(4, 2)),
    ).double()
    groups = sf.units(model, data(400, 3))
    flow = groups._flow
    nodes = [node for node in flow.captured.graph.nodes if node.op == "call_function"]
    found = ranges(flow, nodes)
    x, narrow = 20 * data(400, 3), 0
    for node, layer in zip(nodes, model, strict=True):
        with torch.no_grad():
            x = layer(x)
        low, high = found[node]
        assert bool(((low <= x) & (x <= high)).all()), node
        narrow += bool(torch.isfinite(low).all() and torch.isfinite(high).all())
    assert narrow == 8  # all but the first layer, whose inputs may be any


def test_a_unit_fed_with_less_than_0_is_dead_for_any_input():
    model = mlp(3, 4, 5, 2, act=nn.ReLU)
    with torch.no_grad():
        model[2].weight[1] = -model[2].weight[1].abs()
        model[2].bias[1] = -0.1
    small = sf.shrink(model, data(30, 3), on_data=False)
    assert [(each.group, each.unit, each.rule) for each in small.removed] == [("2", 1, "dead")]
    with torch.no_grad():
        model[2].bias[1] = 0.1
    assert not sf.shrink(model, data(30, 3), on_data=False).removed


def test_a_constant_is_absorbed_where_a_bias_can_take_it_up():
    torch.manual_seed(0)
    for padding, left in ((0, 3), (1, 4)):
        first, second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, padding=padding)
        first.weight.data[2] = 0.0
        model = nn.Sequential(first, nn.Sigmoid(), second, nn.Flatten()).double()
        small = sf.shrink(model, data(5, 1, 7, 7))
        assert small.widths["0"] == (4, left)
        assert change_on(model, small.model, data(5, 1, 7, 7, seed=9)) < 1e-13
        assert [each.rule for each in small.removed] == ["constant"] * (4 - left)


def test_what_holds_on_the_data_alone_is_said_and_left_where_it_is_not_asked_for():
    model = mlp(2, 5, 3, act=nn.ReLU)
    with torch.no_grad():
        model[0].bias[1] = -100.0  # dead on any data of size 1, and alive on other
        model[0].bias[2:4] = 100.0  # linear on the data
        model[0].weight[3] = 2 * model[0].weight[2]
    batches = [(data(30, 2), None), (data(11, 2, seed=2), None)]
    small = sf.shrink(model, batches)
    assert [(each.unit, each.rule, each.holds) for each in small.removed] == [
        (1, "dead", ON_DATA),
        (3, "proportional", ON_DATA),
    ]
    assert small.removed[1].by == (2,)
    assert small.bound < 1e-12
    assert change_on(model, small.model, 500 * data(50, 2)) > 1e-3
    assert not sf.shrink(model, batches, on_data=False).removed


class Scaled(nn.Module):
    """Units that all are multiplied by one input, where that is more than a threshold."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.threshold = 0.0

    def forward(self, x):
        return self.b(torch.tanh(self.a(x) * F.relu(x[:, :1] - self.threshold)))


def test_a_unit_that_no_weight_writes_need_not_be_constant():
    torch.manual_seed(0)
    model = Scaled().double()
    with torch.no_grad():
        model.a.weight[2] = 0.0
    assert not sf.shrink(model, data(30, 3)).removed
    model.threshold = 100.0  # on the data everything is 0
    small = sf.shrink(model, data(30, 3))
    assert small.widths["a"] == (4, 1)
    assert {each.holds for each in small.removed} == {ON_DATA}
    assert not sf.shrink(model, data(30, 3), on_data=False).removed


def test_combinations_of_others_are_found_where_there_is_more_data_than_units():
    model = mlp(2, 6, 2, act=nn.Identity)
    small = sf.shrink(model, data(50, 2))
    assert small.widths == {"0": (6, 2)}
    assert {each.rule for each in small.removed} == {"dependent"}
    assert change_on(model, small.model, data(50, 2, seed=3)) < 1e-12
    tanh = mlp(2, 6, 2)
    assert sf.shrink(tanh, data(5, 2)).widths == {"0": (6, 6)}  # 5 rows are always dependent


def test_a_group_keeps_one_unit():
    model = mlp(2, 4, 2)
    with torch.no_grad():
        model[2].weight.zero_()
    small = sf.shrink(model, data(20, 2))
    assert small.widths == {"0": (4, 1)}
    assert change_on(model, small.model, data(9, 2, seed=5)) == 0.0
    with torch.no_grad():
        model[0].weight.zero_()
    assert sf.shrink(model, data(20, 2)).widths == {"0": (4, 1)}


def test_within_a_tolerance_no_output_changes_by_more_and_a_larger_one_leaves_no_more():
    model, x = mlp(4, 12, 8, 3, act=nn.Tanh), data(300, 4)
    batches = [(x[:200], None), (x[200:], None)]
    table = sf.shrink_widths(model, batches, [0.3, 0, 0.03])
    assert [each.tolerance for each in table.results] == [0, 0.03, 0.3]
    before = 20
    for each in table.results:
        bound = change_on(model, each.model, x)
        assert bound <= max(each.tolerance, 1e-12)
        assert each.bound == pytest.approx(bound, rel=1e-6, abs=1e-13)
        left = sum(after for _, after in each.widths.values())
        assert left <= before
        before = left
    assert before < 14
    last = table.results[-1]
    assert {each.holds for each in last.removed} == {WITHIN}
    # The readers' weights are fitted anew: leaving the same units out as they are does far worse.
    kept = [u for u in range(12) if u not in {e.unit for e in last.removed if e.group == "0"}]
    plain = copy.deepcopy(model)
    with torch.no_grad():
        plain[2].weight[:, [u for u in range(12) if u not in kept]] = 0.0
    assert change_on(model, plain, x) > 1.5 * last.bound


def test_a_head_with_opposite_values_is_the_opposite_of_another():
    torch.manual_seed(0)
    gpt = ZOO["gpt tied"].make().double().eval()
    x = ZOO["gpt tied"].example()
    groups = sf.units(gpt, x)
    (heads, *_) = [group for group in groups.values() if group.kind == "head"]
    wide = sf.widen(gpt, x, heads.name, copies={0: [0.25, 0.75]}).model
    slots = [slot for slot in sf.units(wide, x)[heads.name].slots if slot.role == "writes"]
    values = slots[-1]  # the opposite values, so the opposite head
    tensors = dict(wide.named_parameters())
    with torch.no_grad():
        places = values.positions[-1][-heads.of("reads")[0].positions.shape[1] :]
        tensors[values.name].transpose(0, values.axis)[places] *= -1
        for slot in sf.units(wide, x)[heads.name].slots:
            if slot.role == "adds" and slot.module == values.module:
                tensors[slot.name][slot.positions[-1][-len(places) :]] *= -1
    small = sf.shrink(wide, [(ZOO["gpt tied"].example(), None)], groups=[heads.name])
    assert small.widths == {heads.name: (heads.size + 1, heads.size)}
    assert small.removed[0].rule == "opposite"


class Parts(nn.Module):
    """A group whose number of units is written in the code, another, and samples that see one another."""

    def __init__(self):
        super().__init__()
        self.fixed, self.free, self.last = nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(10, 2)

    def forward(self, x):
        one, two = (torch.tanh(each(x)) for each in (self.fixed, self.free))
        return self.last(torch.cat([one.view(-1, 5), two - two.mean(0)], 1))


def test_a_group_that_cannot_be_edited_does_not_keep_others_from_it():
    torch.manual_seed(0)
    model = Parts().double().eval()
    with torch.no_grad():
        for layer in (model.fixed, model.free):
            layer.weight[4], layer.bias[4] = layer.weight[1], layer.bias[1]
    batches = [(data(40, 3), None), (data(17, 3, seed=2), None)]
    small = sf.shrink(model, batches)
    assert small.widths == {"fixed": (5, 5), "free": (5, 4)}
    assert "does not run" in small.refused["fixed"]
    assert [(each.group, each.unit, each.by) for each in small.removed] == [("free", 4, (1,))]
    assert max(change_on(model, small.model, x) for x, _ in batches) < 1e-12


def test_the_bound_is_the_largest_change_over_the_largest_output_on_all_batches():
    model = mlp(3, 9, 2)
    batches = [(x, None) for x in (0.1 * data(30, 3), 3 * data(30, 3, seed=2), data(9, 3, seed=3))]
    small = sf.shrink(model, batches, 0.05)
    assert 0 < len(small.removed) < 9
    with torch.no_grad():
        pairs = [(model(x), small.model(x)) for x, _ in batches]
    gap = max(float((one - other).abs().max()) for one, other in pairs)
    bound = gap / max(float(one.abs().max()) for one, _ in pairs)
    assert small.bound == small.changes["eval"] == pytest.approx(bound, rel=1e-9)
    assert small.bound <= 0.05


@pytest.mark.parametrize("train", [False, True])
def test_nothing_but_the_widths_changes(train):
    torch.manual_seed(0)
    norm, last = nn.BatchNorm2d(4), nn.Linear(36, 3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), last).train(train)
    norm.weight.data.uniform_(0.5, 2)
    last.bias.requires_grad_(False)
    x = torch.randn(8, 1, 5, 5)
    wide = sf.widen(model, x, "0", copies={1: [0.25, 0.75]}, units=1).model
    held, state = copy.deepcopy(wide.state_dict()), torch.random.get_rng_state()
    small = sf.shrink(wide, [(x, None), (x[:3], None)], on_data=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, held[name]) for name, tensor in wide.state_dict().items())
    assert small.model.training == train
    assert small.mode == ("train" if train else "eval")
    assert small.widths == {"0": (6, 4)}
    assert max(small.changes.values()) < 1e-12, "in both modes"
    assert str(small.model) == str(model)
    assert {t.dtype for t in small.model.parameters()} == {torch.float32}
    assert [p.requires_grad for p in small.model.parameters()] == [True] * 5 + [False]
    for name, tensor in small.model.state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[name], atol=1e-7), name


def test_the_optimiser_keeps_what_is_left_and_moments_of_copies_add_up():
    model, x = mlp(3, 4, 2), data(20, 3)

    def steps(module, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    wide = sf.widen(model, x, "0", copies={1: [0.25, 0.75]}).model
    first = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    second = torch.optim.SGD(wide.parameters(), 0.0, momentum=0.9)
    steps(model, first, 1)
    steps(wide, second, 1)  # a step of size 0: the moments are filled, the copies stay copies
    small = sf.shrink(wide, x)
    carried = small.carry(second)
    for mine, its in zip(small.model.parameters(), model.parameters(), strict=True):
        one, other = carried.state[mine]["momentum_buffer"], first.state[its]["momentum_buffer"]
        assert torch.allclose(one, other, atol=1e-14)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.b(F.dropout(self.a(x).tanh(), 0.5, self.training))


def test_what_does_not_fit_is_said_in_one_line():
    model, x = mlp(3, 4, 2), data(6, 3)
    with refused("there is no group of units '1'"):
        sf.shrink(model, x, groups=["1"])
    with refused("the units of '2' cannot be changed: it is an output of the model"):
        sf.shrink(model, x, groups="2")
    with refused("tolerance must be 0 or more"):
        sf.shrink(model, x, -0.1)
    with refused("tolerance must be a finite number"):
        sf.shrink(model, x, float("nan"))
    with refused("give on_data=True"):
        sf.shrink(model, x, 0.1, on_data=False)
    with refused("on_data must be True or False"):
        sf.shrink(model, x, on_data=1)
    with refused("expected a pair (inputs, targets)"):
        sf.shrink(model, [x])
    with refused("gone through again"):
        sf.shrink(model, iter([(x, None)]))
    with refused("there are no batches"):
        sf.shrink(model, [])
    with refused("the model fails on the example"):
        sf.shrink(model, data(6, 4))
    with refused("draws at random in train mode (dropout"):
        sf.shrink(Noisy(), x)
    with refused("tolerances must be a list"):
        sf.shrink_widths(model, x, 0.1)
    with refused("not list"):
        sf.shrink([model], x)
    assert sf.shrink(Noisy().eval(), x.float()).mode == "eval"


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 9), nn.Linear(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).int().to(x.dtype))


def test_what_is_cut_to_whole_numbers_is_not_taken_for_constant() -> None:
    torch.manual_seed(0)
    model = Whole().eval()
    small = sf.shrink(model, [(0.1 * torch.randn(8, 4), None)], on_data=False)
    assert not small.removed


class Compared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.last(h * (h > 0) + torch.where(h > 1, h, 0.5 * h))


def test_comparisons_on_the_way_are_taken() -> None:
    torch.manual_seed(0)
    model = Compared().eval()
    wide = sf.widen(model, torch.randn(6, 4), "first", units=2, copies={1: 2}).model
    small = sf.shrink(wide, torch.randn(50, 4))
    assert small.widths == {"first": (8, 5)}
    assert small.bound < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_units_of_half_precision_are_not_left_out_for_its_coarseness(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 3)).to(dtype).eval()
    small = sf.shrink(model, [(torch.randn(64, 8).to(dtype), None)])
    assert not small.removed
    wide = sf.widen(model, torch.randn(4, 8).to(dtype), "0", copies={2: 2}).model.eval()
    assert sf.shrink(wide, torch.randn(64, 8).to(dtype)).widths == {"0": (17, 16)}
