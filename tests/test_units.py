"""Surgery on hidden units: what keeps the function, for one network, for batches and for directions."""

import pytest
import torch

import semiflat as sf
from semiflat.limits import Form, Limit, LimitMLP, recognise
from semiflat.limits.network import SATURATED
from semiflat.limits.recognise import Guess
from semiflat.unit_surgery import chosen, may_reflect, merged, reflected, with_layer, with_rows

X = torch.randn((7, 3), generator=torch.Generator().manual_seed(0)).double()
NETS = [
    sf.MLP([3, 4, 5, 2], activation, bias)
    for activation in ("tanh", "sigmoid", "softplus")
    for bias in (True, False, [True, False, True])
]


def same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("net", NETS, ids=str)
@pytest.mark.parametrize("layer", [0, 1])
def test_units_turned_round_and_in_another_order_make_the_same_function(net, layer):
    params = net.random_params(1, batch=(3,))
    order = torch.randperm(net.hidden[layer], generator=torch.Generator().manual_seed(2))
    moved = chosen(net, params, layer, order)
    same(net.forward(moved, X), net.forward(params, X))
    same(moved[f"{2 * layer}.weight"], params[f"{2 * layer}.weight"][:, order])
    constant = net.activations[layer].reflection
    assert may_reflect(net, layer) == (constant == 0 or (constant == 1 and net.biases[layer + 1]))
    if may_reflect(net, layer):
        turned = reflected(net, params, layer, [0, 2])
        same(net.forward(turned, X), net.forward(params, X))
        same(turned[f"{2 * layer}.weight"][:, 2], -params[f"{2 * layer}.weight"][:, 2])
        mask = torch.arange(net.hidden[layer]) % 4 == 2
        mask[0] = True
        same(net.flatten(reflected(net, params, layer, mask)), net.flatten(turned))


@pytest.mark.parametrize("net", NETS[:6], ids=str)
def test_directions_move_as_parameters_do(net):
    """Each is linear, the constant of a reflection included."""
    params, direction = net.random_params(1), net.random_params(2)
    there = {key: params[key] + 0.5 * direction[key] for key in params}

    def moved(each):
        source = torch.tensor([0, 1, 0, -1])
        scale = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
        constant = torch.arange(4).double() if net.biases[1] else None
        rows = net.layer(each, 0)[:2]
        small = merged(net, each, 0, rows, source, scale, constant)
        turned = reflected(net, each, 1, [3]) if may_reflect(net, 1) else each
        return torch.cat([tensor.flatten() for tensor in (*small.values(), *turned.values())])

    same(moved(there), moved(params) + 0.5 * moved(direction))


def test_copies_made_one_and_a_constant_unit_dropped_leave_the_function():
    net = sf.MLP([3, 4, 2], "sigmoid")
    rows = torch.randn((2, 4), generator=torch.Generator().manual_seed(3)).double()
    alone = torch.tensor([0.0, 0.0, 0.0, 0.7]).double()
    params = with_layer(
        net, net.random_params(4), 0, torch.stack([rows[0], rows[1], -rows[0], alone])
    )
    source, scale = torch.tensor([0, 1, 0, -1]), torch.tensor([1.0, 1.0, -1.0, 1.0]).double()
    constant = torch.zeros(4).double()
    constant[2], constant[3] = 1.0, torch.sigmoid(alone[3])
    small = merged(net, params, 0, rows, source, scale, constant)
    same(net.with_hidden([2]).forward(small, X), net.forward(params, X))


@pytest.mark.parametrize("net", NETS[:2], ids=str)
def test_other_weights_of_a_layer_or_of_some_units_leave_the_rest_and_what_was_given(net):
    params = net.random_params(5)
    before = net.flatten(params).clone()
    rows = torch.randn((2, net.fan_in(1)), generator=torch.Generator().manual_seed(6)).double()
    changed = with_rows(net, params, 1, [4, 1], rows)
    expected = net.layer(params, 1).clone()
    expected[4], expected[1] = rows
    same(net.layer(changed, 1), expected)
    same(net.layer(with_layer(net, params, 1, expected), 1), expected)
    same(net.layer(changed, 0), net.layer(params, 0))
    assert torch.equal(net.flatten(params), before)


def test_where_a_new_step_is_put_last_the_steps_above_see_the_units_in_their_new_order():
    net = sf.MLP([3, 3, 2, 1], "tanh")
    problem = sf.Problem(net, X, X.sum(1))
    known = LimitMLP(net, [["unit"] * 3, ["unit", "step"]])
    params = net.random_params(7)
    far = {key: torch.zeros_like(tensor) for key, tensor in params.items()}
    far["2.weight"][1] = torch.tensor([1.0, -3.0, 2.0]).double()
    params["0.weight"][0] *= 1e4
    params["0.bias"][0] *= 1e4
    sides = net.fed(params, problem.X, 1) @ net.layer(far, 1).mT
    offsets = [torch.zeros((3, 7)).double(), SATURATED * sides.mT.sign()]
    guess = recognise(problem, params, Guess(known, params, offsets, far, {}))
    assert guess is not None
    assert guess.net.forms == (("unit", "unit", "step"), ("unit", "step"))
    assert guess.far["2.weight"][1].tolist() == [-3.0, 2.0, 1.0]
    limit = Limit(problem, guess.net, guess.params, guess.far)
    assert torch.equal(limit.offsets[1].sign(), guess.offsets[1].sign())


def test_without_biases_a_step_is_told_with_the_weights_it_had():
    net = sf.MLP([3, 2, 1], "tanh", bias=False)
    params = net.random_params(8)
    params["0.weight"][0] *= 1e4
    guess = recognise(sf.Problem(net, X, X.sum(1)), params)
    assert guess is not None
    assert guess.net.forms[0].count(Form.STEP) == 1
    (words,) = guess.found.values()
    assert f"incoming weights of length {float(params['0.weight'][0].norm()):.3g}" in words
