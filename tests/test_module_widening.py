"""Widening keeps what a model computes, of whatever kind it is: replayed here, beside what is said."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import semiflat as sf
from helpers import refused
from semiflat.errors import InputError
from semiflat.modules.surgery import change_of_outputs
from test_module_units import FOUND, QUICK, at_home
from zoo import GPT, ZOO, Attention, Basic, ConvNeXt

WAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "new": lambda size: {"units": 2},
    "negative": lambda size: {"copies": {0: [-0.5, 1.5]}},
    "unheard": lambda size: {"copies": {size - 1: [0, 1.0]}},
    "three": lambda size: {"copies": {0: 3}},
    "all": lambda size: {"copies": dict.fromkeys(range(size), 2)},
    "all and new": lambda size: {"copies": {unit: [0.5, 0.5] for unit in range(size)}, "units": 1},
}
NORM = "a layer norm is over the units"
SQUARED = "which enter squared"
SINGLY = "acts on them one by one before a norm"
POST = "normalised again"
SIZES = "its code takes their number from somewhere else"
# What cannot be kept, and why.
WONT = {
    ("convnext", "0"): {**dict.fromkeys(("negative", "unheard", "three"), NORM)}
    | dict.fromkeys(("new", "all and new"), SINGLY),
    ("post-norm", "words"): {**dict.fromkeys(("negative", "unheard", "three"), NORM)}
    | dict.fromkeys(("new", "all and new"), POST),
    ("gpt", "words"): dict.fromkeys(("negative", "unheard", "three"), NORM),
    ("vit", "patches"): dict.fromkeys(("negative", "unheard", "three"), NORM),
    ("twice", "first"): dict.fromkeys(("negative", "unheard", "three"), NORM),
    ("gpt tied", "words"): {**dict.fromkeys(("negative", "unheard", "three"), NORM)}
    | {"all": "give each the same equal shares"},
    ("gpt fixed sizes", "words"): {**dict.fromkeys(("negative", "unheard", "three"), NORM)}
    | dict.fromkeys(("new", "all", "all and new"), SIZES),
    ("gpt fixed sizes", "blocks.0.attention.qkv"): dict.fromkeys(WAYS, SIZES),
    ("llama", "words"): {"negative": SQUARED},
    ("llama untied", "words"): {"negative": SQUARED},
}


def groups_of(name):
    return [each.split(",")[0] for each in FOUND[name].split("; ") if each]


def cases():
    quick = set(QUICK) - {"skips", "mixer"}
    for name in ZOO:
        for group in groups_of(name):
            for way in WAYS:
                taken = name in quick and (
                    way == "negative" or (group in ("words", "1.layers.0", "q"))
                )
                marks = [] if taken else pytest.mark.slow
                yield pytest.param(name, group, way, marks=marks, id=f"{name}-{group}-{way}")


def outputs(model, example, mode):
    """Of a copy; in train mode also what evaluation gives once statistics have moved."""
    model = copy.deepcopy(model).train(mode)
    with torch.no_grad():
        first = model(example)
        return torch.stack([first, model.eval()(example)])


def gap(one, other):
    return float((one - other).abs().max() / one.abs().max())


def facts(model):
    tensors = (*model.named_parameters(), *model.named_buffers())
    return (
        [(name, type(module), module.training) for name, module in model.named_modules()],
        [(name, t.dtype, t.device, t.requires_grad) for name, t in tensors],
        list(model.state_dict()),
    )


@pytest.mark.parametrize(("name", "group", "way"), list(cases()))
def test_outputs_stay_in_both_modes_and_the_model_is_of_the_same_kind(name, group, way):
    model, example, groups = at_home(name)
    next(iter(model.parameters())).requires_grad_(False)
    given = WAYS[way](groups[group].size)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    if way in WONT.get((name, group), {}):
        with pytest.raises(InputError) as error:
            sf.widen(model, example, groups[group], **given)
        assert WONT[name, group][way] in str(error.value)
        assert "\n" not in str(error.value)
        return
    wide = sf.widen(model, example, groups[group], **given)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    more = sum(
        len(s) - 1 if isinstance(s, list) else s - 1 for s in given.get("copies", {}).values()
    )
    assert wide.size == groups[group].size + more + given.get("units", 0)
    for mode in (True, False):
        assert gap(outputs(model, example, mode), outputs(wide.model, example, mode)) < 1e-12
    assert wide.output_change < 1e-12
    assert set(wide.changes) == {"train", "eval"}
    assert wide.rounding < 1e-12
    assert facts(wide.model) == facts(model)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        pytest.param(
            name,
            group,
            id=f"{name}-{group}",
            marks=[] if name in ("fours", "llama") else pytest.mark.slow,
        )
        for name in ZOO
        if name not in ("gpt fixed sizes", "convnext", "post-norm")
        for group in groups_of(name)[:2]
    ],
)
def test_the_wide_model_has_the_same_groups_with_the_new_size(name, group):
    model, example, groups = at_home(name)
    wide = sf.widen(model, example, groups[group], units=3)
    sizes = {name: (found.kind, found.size) for name, found in groups.items()}
    sizes[group] = groups[group].kind, groups[group].size + 3
    again = sf.units(wide.model, example)
    assert {name: (found.kind, found.size) for name, found in again.items()} == sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_keeps_its_type_and_its_outputs_to_the_rounding_of_it(dtype):
    torch.manual_seed(0)
    model, example = GPT().to(dtype), torch.randint(0, 7, (2, 5))
    wide = sf.widen(model, example, "blocks.0.up", copies={0: [-0.3, 1.3]}, units=1)
    assert {tensor.dtype for tensor in wide.model.parameters()} == {dtype}
    assert wide.output_change < 1e-12
    assert 0 < wide.rounding < 32 * torch.finfo(dtype).eps


def stack(name):
    torch.manual_seed(0)
    if name == "gpt":
        return GPT(blocks=1).double(), torch.randint(0, 7, (2, 5)), "blocks"
    blocks = nn.Sequential(*(Basic(4, 4) if name == "basic" else ConvNeXt(4) for _ in range(2)))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), blocks, nn.Conv2d(4, 2, 1))
    return model.double(), torch.randn(2, 1, 6, 6).double(), "2"


@pytest.mark.parametrize("name", ["gpt", "basic", pytest.param("convnext", marks=pytest.mark.slow)])
def test_new_residual_blocks_add_nothing_at_first_and_learn(name):
    model, example, blocks = stack(name)
    wide = sf.widen(model, example, blocks, units=2)
    assert (
        wide.size == wide.group.size + 2 == len(list(wide.model.get_submodule(blocks).children()))
    )
    for mode in (True, False):
        assert gap(outputs(model, example, mode), outputs(wide.model, example, mode)) < 1e-12
    wide.model(example).square().sum().backward()
    last = f"{blocks}.{wide.size - 1}."
    new = [each for name, each in wide.model.named_parameters() if name.startswith(last)]
    assert any(bool(each.grad.any()) for each in new)


def test_blocks_that_cannot_be_added_say_why():
    model, example, _ = stack("basic")
    model[2] = nn.Sequential(Basic(4, 4), Basic(4, 6, 2)).double()
    model[3] = nn.Conv2d(6, 2, 1).double()
    with pytest.raises(InputError, match="its last block may change sizes"):
        sf.widen(model, example, "2", units=1)
    with pytest.raises(InputError, match="give units, a number of new ones"):
        sf.widen(model, example, "2", copies={0: 2})
    post, words = GPT(blocks=1, post=True), torch.randint(0, 7, (2, 5))
    with pytest.raises(InputError, match="post-norm"):
        sf.widen(post, words, "blocks", units=1)


def test_constant_units_are_heard_and_taken_up_by_the_biases_behind_them():
    model, example, groups = at_home("vgg")
    for group in ("8", "4"):
        wide = sf.widen(model, example, groups[group], constants=[0.7, 1.5], units=1)
        assert wide.size == groups[group].size + 3
        for mode in (True, False):
            assert gap(outputs(model, example, mode), outputs(wide.model, example, mode)) < 1e-12
    new = sf.widen(model, example, groups["8"], constants=[0.7]).model.state_dict()
    assert new["8.bias"][-1] == 0.7
    assert not new["8.weight"][-1].any()
    assert new["10.weight"][:, -1].all()
    expected = model[10].bias - 0.7 * new["10.weight"][:, -1]
    assert torch.allclose(new["10.bias"], expected, rtol=0, atol=1e-14)


def test_constants_that_no_bias_takes_up_are_refused():
    model, example, groups = at_home("vgg")
    with pytest.raises(InputError, match="'4' pads what it reads"):
        sf.widen(model, example, groups["0"], constants=[1.0])
    for given in ([float("nan")], "many", 3):
        with pytest.raises(InputError, match="constants must be"):
            sf.widen(model, example, groups["8"], constants=given)
    model, example, groups = at_home("llama")
    with pytest.raises(InputError, match="they have no bias"):
        sf.widen(model, example, groups["gate"], constants=[1.0])


def relu():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)


def test_scaled_copies_are_copies_of_homogeneous_units_only():
    model, example = relu()
    pairs = {1: [(2.0, 0.25), (0.5, 1.0)]}
    assert sf.widen(model, example, "0", copies=pairs).output_change < 1e-14
    model[1] = nn.Tanh()
    with pytest.raises(InputError, match="so it is not exact"):
        sf.widen(model, example, "0", copies=pairs)


def test_new_units_have_the_incoming_weights_that_are_given_and_are_not_heard():
    model, example = relu()
    rows, biases = torch.tensor([[1.0, 2, 3]]), torch.tensor([0.5])
    wide = sf.widen(model, example, "0", units=1, incoming={"0.weight": rows, "0.bias": biases})
    tensors = wide.model.state_dict()
    assert torch.equal(tensors["0.weight"][4:], rows)
    assert torch.equal(tensors["0.bias"][4:], biases)
    assert not tensors["2.weight"][:, 4].any()


def test_new_units_differ_with_the_seed_and_have_the_size_of_the_others():
    model, example = relu()
    wide = [sf.widen(model, example, "0", units=50, seed=seed).model for seed in (0, 0, 1)]
    rows = [each.state_dict()["0.weight"][4:] for each in wide]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert 0.5 < (rows[0].std() / model[0].weight.std()).item() < 2


def test_copies_that_are_only_counted_get_unequal_shares():
    model, example = relu()
    wide = sf.widen(model, example, "0", copies={2: 2}).model.state_dict()["2.weight"]
    assert torch.equal(wide[:, 2] + wide[:, 4], model[2].weight[:, 2])
    assert not torch.equal(wide[:, 2], wide[:, 4])


def test_a_layer_norm_without_weights_allows_whole_multiples_only():
    torch.manual_seed(0)
    norm = nn.LayerNorm(4, elementwise_affine=False)
    model, example = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2)), torch.randn(5, 3)
    wide = sf.widen(model, example, "0", copies=dict.fromkeys(range(4), 2))
    assert wide.output_change < 1e-14
    assert wide.attributes["1.normalized_shape"] == (8,)
    with pytest.raises(InputError, match="the norm '1' has no gain that could be rescaled"):
        sf.widen(model, example, "0", units=1)


def test_numbers_of_heads_that_a_class_keeps_follow():
    class Named(Attention):
        def __init__(self):
            super().__init__(8, 2)
            self.num_heads, self.head_dim, self.all_head_size = 2, 4, 8

        def forward(self, x):
            self.h = self.num_heads
            return super().forward(x)

    wide = sf.widen(Named(), torch.randn(2, 3, 8), "qkv", units=1)
    assert [getattr(wide.model, of) for of in ("num_heads", "head_dim", "all_head_size")] == [
        3,
        4,
        12,
    ]


def test_a_tied_embedding_stays_tied():
    model, example = ZOO["llama"].born()
    wide = sf.widen(model, example, "words", units=2, copies={0: [0.25, 0.75]}).model
    weight = wide.get_parameter("words.weight")
    assert wide.get_parameter("head.weight") is weight
    assert torch.allclose(weight[:, 0], 0.5 * model.words.weight[:, 0])


def test_what_the_model_itself_rounds_is_allowed_and_said():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)).float().to(x.dtype))

    torch.manual_seed(0)
    wide = sf.widen(Casts(), torch.randn(5, 3), "one", copies={0: [0.3, 0.7]})
    assert wide.note == "" or "rounds to float32" in wide.note
    assert wide.output_change < 1e-6


def test_where_something_is_drawn_only_evaluation_is_compared():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    wide = sf.widen(model, torch.randn(5, 3), "0", units=1)
    assert set(wide.changes) == {"eval"}
    assert "drawn at random" in wide.note


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "nothing is to be added"),
        ({"units": -1}, "units"),
        ({"units": 1.5}, "units"),
        ({"copies": {9: 2}}, "there is no unit 9 in '0'; units are 0 … 3"),
        ({"copies": {True: 2}}, "there is no unit True"),
        ({"copies": {0: 0}}, "unit 0 would have 0 copies"),
        ({"copies": {0: [0.5, 0.6]}}, "the shares of unit 0 add up to 1.1, not to 1"),
        ({"copies": {0: [float("nan"), 1]}}, "add up to nan"),
        ({"copies": {0: [float("inf"), float("-inf")]}}, "add up to nan"),
        ({"copies": {0: []}}, "the shares of unit 0 add up to 0"),
        ({"copies": {0: "half"}}, "must be a number, shares or pairs"),
        ({"copies": {0: [(1, 2, 3)]}}, "must be a number, shares or pairs"),
        ({"copies": [0, 1]}, "copies must be a mapping"),
        ({"units": 1, "incoming": {"2.weight": 0}}, "does not write '0'"),
        ({"units": 1, "incoming": {"0.weight": torch.zeros(3)}}, r"expected \(1, 3\)"),
        ({"units": 1, "incoming": {"0.bias": torch.tensor([torch.nan])}}, "not finite"),
        ({"copies": {0: 2}, "incoming": {"0.bias": torch.zeros(1)}}, "give their number"),
    ],
)
def test_what_cannot_be_asked_for_is_said_in_one_line(given, says):
    model, example = relu()
    with pytest.raises(InputError, match=says) as error:
        sf.widen(model, example, "0", **given)
    assert "\n" not in str(error.value)


def test_a_group_that_cannot_be_changed_says_why():
    model, example = relu()
    with pytest.raises(InputError, match="'2' cannot be changed: it is an output"):
        sf.widen(model, example, "2", units=1)
    with pytest.raises(InputError, match="did you mean '0'"):
        sf.widen(model, example, "0.weight", units=1)


class OnZeros(nn.Module):
    """Another network on inputs other than zeros as soon as it has another width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(x))) + self.first.out_features * x[:, :1]


def test_an_example_of_zeros_does_not_hide_that_the_outputs_change() -> None:
    with refused("changes the outputs"):
        sf.widen(OnZeros(), torch.zeros(2, 3), "first", units=1)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)) * mask[..., None])


def test_what_is_uncertain_in_train_mode_lets_nothing_pass_in_eval_mode():
    class Counted(nn.Module):
        """Its outputs depend on the number of units by 10⁻¹⁰."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 4)
            self.norm = nn.BatchNorm1d(4, eps=1e-30, affine=False)

        def forward(self, x):
            hidden = torch.tanh(self.first(x))
            return self.norm(self.last(hidden)) + 1e-10 * hidden.shape[-1]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Counted().double()
        x = torch.randn(1, 3).double() + 1e-5 * torch.randn(4, 3).double()
    with refused("in eval mode, so it is not exact"):
        sf.widen(model, x, "first", units=2)


def test_where_nothing_is_finite_nothing_is_said_to_stay():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    for each in model.parameters():
        nn.init.constant_(each, math.nan)
    x = torch.ones(4, 3)
    for ask in (lambda: sf.widen(model, x, "0", units=1), lambda: sf.shrink(model, x)):
        with refused("no output of the model is finite"):
            ask()


def test_an_output_that_is_no_number_for_some_samples_is_not_taken_for_chance():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.ones(4, 3)
    x[0, 0] = math.nan
    assert set(sf.widen(model, x, "0", units=1).changes) == {"train", "eval"}
    assert set(sf.shrink(model, x).changes) == {"train", "eval"}


def test_a_group_of_another_model_is_refused():
    x = torch.ones(4, 3)
    named = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    others = [
        nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)),
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    ]
    for other in others:
        with refused("the group '0' is of another model"):
            sf.widen(other, x, sf.units(named, x)["0"], units=1)


def test_numbers_that_the_models_own_type_cannot_hold_are_refused():
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    with refused("too large for torch.float32"):
        sf.widen(model, torch.ones(4, 3), "0", constants=[1e300])
    with refused("must be numbers of the shape"):
        sf.widen(model, torch.ones(4, 3), "0", units=1, incoming={"0.weight": "x"})


def test_a_constant_is_refused_where_the_bias_of_what_reads_it_is_not_added() -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x):
            return torch.einsum("bh,oh->bo", self.first(x).relu(), self.last.weight)

    class Tied(Einsum):
        def forward(self, x):
            return nn.functional.linear(self.first(x).tanh(), self.first.weight.T)

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with refused("'last' is not called with them"):
        sf.widen(Einsum(), x, "first", constants=[0.7])
    tied = Tied()
    with refused("has no bias to take up a constant"):
        sf.widen(tied, x, next(iter(sf.units(tied, x))), constants=[0.7])


@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_a_mask_that_is_all_ones_does_not_hide_that_a_constant_unit_is_none(
    dtype: torch.dtype,
) -> None:
    given = torch.randn(3, 5, 4), torch.ones(3, 5, dtype=dtype)
    with refused("change the outputs"):
        sf.widen(Masked(), given, "first", constants=[0.7])
    assert sf.widen(Masked(), given, "first", units=2).output_change < 1e-14


def test_copies_of_heads_are_not_scaled() -> None:
    attention = SmallAttention()
    with refused("copies of heads cannot be scaled"):
        sf.widen(attention, torch.zeros(1, 6, 4), "q", copies={0: [(2, 0.25), (1, 0.5)]})


class SmallAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 8) for _ in "qkv")
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [
            each(x).unflatten(-1, (-1, 2)).transpose(1, 2) for each in (self.q, self.k, self.v)
        ]
        met = nn.functional.scaled_dot_product_attention(*parts)
        return self.out(met.transpose(1, 2).flatten(2))


def test_an_example_with_a_graph_is_taken_for_its_values() -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
    example = 2 * torch.randn(4, 3, requires_grad=True)
    assert sf.widen(model, example, "0", units=1).output_change < 1e-14


def test_outputs_that_are_not_finite_do_not_count_as_equal() -> None:
    nan, one, inf = (torch.tensor([value, 2.0]) for value in (math.nan, 1.0, math.inf))
    assert change_of_outputs([one], [one]) == 0
    assert change_of_outputs([inf], [inf]) == 0
    assert change_of_outputs([nan], [nan]) == 0
    assert change_of_outputs([nan], [one]) == math.inf
    assert change_of_outputs([one], [inf]) == math.inf
    nothing = torch.full((2,), math.nan)
    assert change_of_outputs([nothing], [nothing]) == math.inf
    with refused("no output of the model is finite"):
        sf.widen(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), nothing[None], "0", units=1)


class Within(nn.Module):
    """Units that are linear, and an input that is not heard, up to a limit far beyond any replay."""

    def __init__(self, limit: float, gated: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.limit, self.gated = limit, gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.hardtanh(self.first(x), -self.limit, self.limit)
        return self.last(h * torch.relu(x[:, :1] - self.limit) if self.gated else h)


def test_what_is_exact_on_the_example_alone_is_refused() -> None:
    """Scaled copies ask the law of what lies between, constants between which numbers it can be."""
    example, pairs = torch.randn(5, 3), {1: [(2.0, 0.25), (0.5, 1.0)]}
    with refused("are exact on the example, but need not be on other inputs"):
        sf.widen(Within(1e9, False), example, "first", copies=pairs)
    with refused("are constant on the example, but need not be on other inputs"):
        sf.widen(Within(1e9, True), example, "first", constants=[0.7])
    wide = sf.widen(Within(1e9, False), example, "first", copies={1: 2}, constants=[0.7], units=1)
    narrow, far = copy.deepcopy(wide._given), 1e12 * torch.randn(50, 3)
    assert gap(narrow(far).detach(), wide.model(far).detach()) < 1e-6


@pytest.mark.parametrize(
    ("between", "scale", "allowed"),
    [
        (nn.ReLU(), 2.0, True),
        (nn.PReLU(4), 0.5, True),
        (nn.LeakyReLU(), -1.0, False),
        (nn.Identity(), -3.0, True),
        (nn.Tanh(), -1.0, True),
        (nn.Tanh(), 2.0, False),
    ],
)
def test_copies_are_scaled_as_far_as_what_lies_between_goes_along(
    between: nn.Module, scale: float, allowed: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), between, nn.Linear(4, 2))
    pairs = {1: [(scale, 0.5), (1.0, 1 - 0.5 * scale)]}
    if allowed:
        assert sf.widen(model, torch.randn(5, 3), "0", copies=pairs).output_change < 1e-13
        return
    with pytest.raises(InputError):
        sf.widen(model, torch.randn(5, 3), "0", copies=pairs)


class Rough(nn.Module):
    """Its batch norm divides by what tells rows apart, and its outputs may know how many units there are."""

    def __init__(self, knows: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 4)
        self.norm, self.knows = nn.BatchNorm1d(4, eps=1e-30), knows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.norm(self.second(torch.tanh(self.first(x))))
        return made + self.knows * len(self.first.weight)


def nearly_equal(apart: float) -> torch.Tensor:
    return torch.randn(1, 3, dtype=torch.float64) + apart * torch.randn(4, 3, dtype=torch.float64)


def test_an_edit_is_not_blamed_for_what_last_places_of_weights_do() -> None:
    torch.manual_seed(
        7
    )  # of ten seeds the one where the edit rounds most: 1.4 times what last places do
    model, example = Rough().double(), nearly_equal(1e-5)
    wide = sf.widen(model, example, "first", copies={unit: [0.3, 0.7] for unit in range(6)})
    assert 1e-12 < wide.changes["train"] < 1e-9
    assert wide.changes["eval"] < 1e-14
    assert "in train mode the last places of its weights change the outputs" in wide.note
    # On rows that differ it is exact, and nothing is said.
    wide = sf.widen(
        model, nearly_equal(1.0), "first", copies={unit: [0.3, 0.7] for unit in range(6)}
    )
    assert wide.output_change < 1e-13
    assert wide.note == ""


@pytest.mark.parametrize(("apart", "knows"), [(1.0, 3e-12), (1e-5, 1e-8), (1e-9, 1e-7)])
def test_what_is_larger_than_a_models_own_rounding_is_refused(apart: float, knows: float) -> None:
    torch.manual_seed(0)
    model, example = Rough(knows).double(), nearly_equal(apart)
    with pytest.raises(InputError, match="so it is not exact"):
        sf.widen(model, example, "first", units=2)
