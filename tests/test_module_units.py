"""Which units are found in models of every kind, and why some cannot be changed."""

import functools

import pytest
import torch
from torch import nn

import semiflat as sf
from helpers import refused
from semiflat.errors import InputError
from semiflat.modules.ties import Ties, slim
from zoo import ZOO

OUTPUT = "it is an output of the model"
# Name, kind and size of each group that can be changed.
FOUND = {
    "skips": "first, residual stream 6; inner, linear unit 5",
    "vgg": "0, channel 4; 4, channel 6; 8, linear unit 5",
    "basic": "0, residual stream 4; 3.conv1, channel 4; 4.conv1, channel 6; 4.conv2, residual stream 6",
    "bottleneck": "0, residual stream 6; 1.layers.0, channel 3; 1.layers.3, channel 3; "
    "2.layers.0, channel 2; 2.layers.3, channel 2",
    "grouped": "0, residual stream 6; 1.layers.0, block of channels 4",
    "mobile": "0, residual stream 4; 1.expand.0, channel 6; 2.expand.0, channel 8; 2.excite.down, channel 3",
    "convnext": "0, residual stream 4; 1.up, linear unit 8; 2.up, linear unit 8",
    "unet": "one, channel 4; two, channel 6; up, channel 5; back, channel 4",
    "gpt": "words, residual stream 8; blocks.0.attention.qkv, head 2; blocks.0.up, linear unit 16; "
    "blocks.1.attention.qkv, head 2; blocks.1.up, linear unit 16",
    "gpt tied": "words, residual stream 8; blocks.0.attention.qkv, head 2; blocks.0.up, linear unit 16",
    "gpt fixed sizes": "words, residual stream 8; blocks.0.attention.qkv, head 2; "
    "blocks.0.up, linear unit 16",
    "post-norm": "words, residual stream 8; blocks.0.attention.qkv, head 2; blocks.0.up, linear unit 16",
    "vit": "patches, residual stream 8; block.attention.qkv, head 2; block.up, linear unit 16",
    "encoder": "1.linear1, linear unit 12",
    "llama": "words, residual stream 8; q, head 2; gate, gated unit 10",
    "llama untied": "words, residual stream 8; q, head 2; gate, gated unit 10",
    "twice": "first, residual stream 8; block.attention.qkv, head 2; block.up, linear unit 16",
    "per head": "first, linear unit 6; q, head 3",
    "group norms": "0, block of channels 4; 3, channel 4; 6, block of channels 2; 9, channel 5",
    "decoder": "0, linear unit 4; 3, channel 5; 7, block of channels 2",
    "fours": "first, linear unit 4; q, head 4; o, linear unit 4; conv, channel 4",
    "gated": "up, gated unit 6; down, linear unit 4",
    "qk norm": "first, linear unit 6; q, head 3",
    "lstm": "",
    "gru": "",
    "mixer": "up, linear unit 7",
}
# Why others cannot, but for outputs.
REFUSED = {
    "encoder": {
        "0": "MultiheadAttention ties its heads times their size to the stream ('1.self_attn')",
        "1.self_attn": "MultiheadAttention ties its heads times their size to the stream ('1.self_attn')",
    },
    "lstm": dict.fromkeys(
        ("first", "cells[0:20]", "cells[0:20]#2"), "no rule is known for 'lstm' (lstm in 'cells')"
    ),
    "gru": dict.fromkeys(
        ("first", "cells[0:15]", "cells[0:15]#2"), "no rule is known for 'gru' (gru in 'cells')"
    ),
    "mixer": {"first": "the same weights are applied to every unit by itself (linear in 'up')"},
}
QUICK = ["skips", "grouped", "gpt tied", "llama", "per head", "group norms", "fours", "gated"]
QUICK += ["qk norm", "lstm", "mixer"]


@functools.cache
def at_home(name):
    model, example = ZOO[name].born()
    return model, example, sf.units(model, example)


def animals():
    marks = {name: [] if name in QUICK else pytest.mark.slow for name in ZOO}
    return [pytest.param(name, marks=marks[name], id=name) for name in ZOO]


@pytest.mark.parametrize("name", animals())
def test_every_group_of_units_is_found(name):
    _, _, groups = at_home(name)
    can = [f"{g.name}, {g.kind} {g.size}" for g in groups.values() if not g.refuses]
    assert "; ".join(can) == FOUND[name]
    cannot = {g.name: g.refuses for g in groups.values() if g.refuses}
    assert {n: why for n, why in cannot.items() if why != OUTPUT} == REFUSED.get(name, {})
    assert groups.unreached == ()


def test_slots_say_what_tensors_do_with_a_unit():
    _, _, groups = at_home("grouped")
    roles = [(slot.name.split(".")[-1], slot.role) for slot in groups["1.layers.0"].slots]
    assert [role for name, role in roles if name == "running_var"] == ["statistics"] * 2
    assert {role for name, role in roles if name == "bias"} == {"adds", "shifts"}
    assert ("weight", "writes") in roles
    assert ("weight", "reads") in roles
    assert ("weight", "between") in roles  # the grouped convolution, gains


def test_flattened_channels_are_read_at_every_place():
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    (read,) = sf.units(model, torch.zeros(2, 1, 3, 3))["0"].of("reads")
    assert read.positions.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


class Of(nn.Module):
    """A layer, what is done to it, and a layer that reads it."""

    def __init__(self, does, **parts):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
        self.does = does
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        return self.two(self.does(self, torch.tanh(self.one(x))))


def changed_in_place(model, h):
    h[:, :2].mul_(2)
    return h


def chosen(model, h):
    return h.gather(1, h.detach().round().long().clamp(0, 3))


@pytest.mark.parametrize(
    ("does", "parts", "why"),
    [
        (lambda m, h: h * m.c, {"c": torch.arange(4.0)}, "treats the units differently"),
        (lambda m, h: h @ m.c, {"c": torch.randn(4, 4)}, "summed with others by fixed weights"),
        (lambda m, h: h - h.mean(1, keepdim=True), {}, "summed with others by fixed weights"),
        (lambda m, h: h.softmax(1), {}, "mixed with others along an axis"),
        (lambda m, h: h.sort(1)[0], {}, "no rule is known for 'sort'"),
        (
            lambda m, h: torch.nn.functional.linear(h, m.u @ m.v),
            {"u": nn.Parameter(torch.randn(4, 2)), "v": nn.Parameter(torch.randn(2, 4))},
            "its weights are computed from parameters",
        ),
        (changed_in_place, {}, "a part of it is changed in place"),
        (chosen, {}, "no rule is known for 'gather'"),
    ],
    ids=["constant", "fixed sum", "centred", "softmax", "sort", "low rank", "in place", "gather"],
)
def test_what_treats_units_as_a_whole_is_named(does, parts, why):
    assert why in sf.units(Of(does, **parts), torch.randn(5, 3))["one"].refuses


def test_places_that_an_input_chooses_cannot_be_changed():
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, places):
            return self.two(self.one(x).index_select(1, places))

    example = torch.randn(5, 3), torch.tensor([3, 1, 0, 2])
    assert "an input chooses its places" in sf.units(Chooses(), example)["one"].refuses


def test_a_weight_that_reads_inputs_elsewhere_keeps_its_size():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, x):
            for _ in range(2):
                x = torch.tanh(self.step(x))
            return self.last(x)

    groups = sf.units(Loop(), torch.randn(5, 3))
    assert "used elsewhere for what no unit owns" in groups["step"].refuses


def test_one_number_for_all_units_is_no_unit():
    groups = sf.units(
        Of(lambda m, h: h * m.c, c=nn.Parameter(torch.tensor(0.7))), torch.randn(5, 3)
    )
    assert list(groups) == ["one", "two"]
    assert groups["one"].refuses == ""
    assert groups.unreached == ()


def test_parameters_that_are_not_reached_and_what_is_drawn_are_named():
    model = Of(lambda m, h: m.drop(h), drop=nn.Dropout(0.3), spare=nn.Linear(2, 2))
    groups = sf.units(model, torch.randn(5, 3))
    assert groups.unreached == ("spare.weight", "spare.bias")
    assert groups.random == ("dropout in 'drop'",)
    assert groups.mode == "train"
    assert sf.units(model.eval(), torch.randn(5, 3)).random == ()


class ByBatch(nn.Module):
    """Another layer on the way of batches of more than four samples."""

    def __init__(self):
        super().__init__()
        self.one, self.more, self.two = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.one(x))
        return self.two(torch.tanh(self.more(h)) if len(x) > 4 else h)


def test_what_was_taken_to_hold_of_inputs_is_said():
    assert sf.units(ByBatch(), torch.randn(6, 3)).guards == ("x has sizes (6, 3)",)
    few = sf.units(ByBatch(), torch.randn(3, 3))
    assert few.guards == ("x has sizes (3, 3)",)
    assert few.unreached == ("more.weight", "more.bias")
    assert "guards" in repr(few)

    class Asserts(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, scale):
            count = (x > 0).sum().item()
            torch._check(count <= 12)
            return self.two(self.one(x)) * scale + count

    _, scale, *asserted = sf.units(Asserts(), (torch.randn(4, 3), 3.0)).guards
    assert scale == "an input is 3.0"
    assert any("<= 12" in each for each in asserted)


def test_a_branch_that_batches_take_otherwise_is_refused():
    model = ByBatch().eval()
    with refused("on batch 1, of other sizes than the first, the model takes another way"):
        sf.shrink(model, [(torch.randn(6, 3), None), (torch.randn(3, 3), None)])
    with refused("with 5 units of 'more' the model does not run"):
        sf.widen(model, torch.randn(6, 3), "more", units=1)


def test_weights_that_others_compute_are_not_edited_by_name():
    norm = nn.utils.parametrizations.weight_norm
    made = Of(lambda m, h: h)
    made.one = norm(made.one)
    hooked = Of(lambda m, h: h)
    hooked.one.register_forward_hook(lambda module, inputs, output: output * 2)
    assert "computed by a parametrisation" in sf.units(made, torch.randn(5, 3))["one"].refuses
    assert "a hook is registered" in sf.units(hooked, torch.randn(5, 3))["one"].refuses


def test_weights_that_forward_computes_are_named_with_the_operation():
    linear = Of(lambda m, h: torch.nn.functional.linear(h, m.mid.weight.abs()), mid=nn.Linear(4, 4))
    why = "its weights are computed from parameters, by abs"
    assert why in sf.units(linear, torch.randn(5, 3))["one"].refuses

    class Convolved(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv1d(3, 4, 1), nn.Conv1d(4, 5, 1)
            self.last = nn.Conv1d(5, 1, 1)

        def forward(self, x):
            made = torch.conv1d(self.one(x).relu(), self.two.weight / 2, self.two.bias)
            return self.last(made.relu())

    groups = sf.units(Convolved(), torch.randn(2, 3, 6))
    assert groups["one"].refuses == groups["two"].refuses == why.replace("abs", "div (conv1d)")
    assert groups.unknown == {}


class Takes(nn.Module):
    def forward(self, x):
        return x[: int((x > 0).sum().item())]


def test_a_number_taken_out_of_a_tensor_prints_nothing(capfd):
    with refused("depends on the values of its inputs"):
        sf.units(Takes(), torch.randn(5, 3))
    assert capfd.readouterr() == ("", "")


def test_the_given_model_and_the_random_state_stay():
    model, example = ZOO["group norms"].born()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    sf.units(model, example)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_quantised_modules_are_refused_by_name():
    packed = nn.Sequential(
        type("Linear", (nn.Linear,), {"__module__": "torch.ao.nn.quantized"})(3, 2)
    )
    with pytest.raises(InputError, match="'0' is a quantised Linear"):
        sf.units(packed, torch.zeros(4, 3))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def meta():
    with torch.device("meta"):
        return nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (nn.Linear(3, 2), torch.zeros(4, 5), "the model fails on the example"),
        (nn.Linear(3, 2), {"wrong": torch.zeros(4, 3)}, "the model fails on the example"),
        (lambda x: x, torch.zeros(4, 3), "model must be an nn.Module"),
        (Branches(), torch.ones(3), "depends on the values of its inputs"),
        (nn.LazyLinear(2), torch.ones(3, 2), "has no values yet"),
        (meta(), torch.ones(3, 2), "has no values yet"),
        (
            torch.compile(nn.Linear(2, 2), backend="eager"),
            torch.ones(3, 2),
            "what torch.compile made",
        ),
        (
            torch.fx.symbolic_trace(nn.Linear(2, 2)),
            torch.ones(3, 2),
            "no modules of its own to edit",
        ),
    ],
    ids=["shape", "name", "function", "branch", "lazy", "meta", "compiled", "traced"],
)
def test_what_is_no_use_is_said_in_one_line(model, example, says):
    with pytest.raises(InputError, match=says) as error:
        sf.units(model, example)
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_there_brings_the_nearest():
    _, _, groups = at_home("fours")
    with pytest.raises(InputError, match="did you mean 'conv'"):
        groups["cnv"]
    assert "k" in groups  # written by it, too
    assert groups["k"].name == "q"


def test_ties_are_closed_and_mixed_lanes_are_told_from_heads():
    ties = Ties()
    atoms = ties.fresh(3, 2)
    ties.along(atoms, (1,))
    assert ties.roots(atoms).tolist() == [[0, 0], [2, 2], [4, 4]]
    assert ties.apart(atoms, torch.tensor([0, 2, 4]))
    assert not ties.apart(atoms.T, torch.tensor([0, 2, 4]))
    assert not ties.apart(atoms[:1], torch.tensor([0]))  # one unit alone: nothing tells
    assert slim(ties.roots(torch.tensor(1).expand(4, 4))).shape == (1, 1)


def test_an_example_without_samples_is_refused() -> None:
    with refused("an input without elements"):
        sf.units(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)), torch.zeros(0, 4))
