"""Architectures and parameters: to and from other libraries, flat vectors, batches, refusals."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from torch import Tensor, nn

import semiflat as sf
from helpers import refused
from reference import ACTIVATIONS, MODULES
from semiflat.activations import activation, leaky_relu


def inputs(samples: int, features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, features, generator=generator, dtype=torch.float64)


def cubed(z: Tensor) -> Tensor:
    return z**3


architectures = st.builds(
    lambda widths, seed: (widths, [bool(seed >> k & 1) for k in range(len(widths) - 1)]),
    st.lists(st.integers(1, 5), min_size=2, max_size=6),
    st.integers(0, 31),
)


# -- nn.Sequential --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)"])
def test_to_module_and_from_module_are_inverse(name: str) -> None:
    net = sf.MLP([2, 4, 3, 2], name)
    params = net.random_params(seed=3)
    module = net.to_module(params)
    back, again = sf.MLP.from_module(module)
    assert (back.widths, back.biases) == (net.widths, net.biases)
    assert [a.name for a in back.activations] == [name, name]
    assert list(again) == list(params)
    assert all(torch.equal(again[key], params[key]) for key in params)
    X = 3 * inputs(9, 2)
    assert torch.equal(module(X), net.forward(params, X))
    assert torch.equal(module(X), back.forward(again, X))


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.2)"])
def test_a_network_read_back_equals_the_one_it_came_from(name: str) -> None:
    net = sf.MLP([2, 3, 1], name)
    assert sf.MLP.from_module(net.to_module())[0] == net
    assert sf.MLP([2, 3, 1], name) == net
    assert sf.MLP([2, 3, 1], "sin" if name != "sin" else "tanh") != net


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_forward_is_what_torch_s_own_modules_compute(name: str) -> None:
    net = sf.MLP([3, 4, 2, 2], name, bias=[True, False, True])
    params = net.random_params(seed=1)
    linears = [nn.Linear(3, 4), nn.Linear(4, 2, bias=False), nn.Linear(2, 2)]
    module = nn.Sequential(
        linears[0], MODULES[name](), linears[1], MODULES[name](), linears[2]
    ).double()
    module.load_state_dict(params)
    X = 2 * inputs(11, 3)
    assert torch.allclose(net.forward(params, X), module(X), rtol=1e-14, atol=1e-15)


def test_an_elementwise_function_goes_to_a_module_and_back() -> None:
    net = sf.MLP([1, 2, 1], cubed)
    params = net.random_params(seed=0)
    back, again = sf.MLP.from_module(net.to_module(params))
    X = inputs(5, 1)
    assert torch.equal(back.forward(again, X), net.forward(params, X))
    by_hand = cubed(X @ params["0.weight"].T + params["0.bias"])
    assert torch.allclose(
        net.forward(params, X), by_hand @ params["2.weight"].T + params["2.bias"], rtol=1e-14
    )


def test_a_float32_module_is_read_in_float64_and_left_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    net, params = sf.MLP.from_module(module)
    assert all(tensor.dtype == torch.float64 for tensor in params.values())
    assert all(torch.equal(params[key].float(), before[key]) for key in params)
    for tensor in params.values():
        tensor += 1
    assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)
    assert net.to_module({k: t.float() for k, t in params.items()})[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    "modules",
    [
        [nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)],
        [nn.Identity(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)],
        [nn.Linear(2, 3), nn.Tanh(), nn.Identity(), nn.Linear(3, 1)],
        [nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Identity()],
        [nn.Linear(2, 3), nn.Linear(3, 1)],
        [nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1)],
        [nn.Linear(2, 3, bias=False), nn.SiLU(), nn.Linear(3, 1, bias=False)],
        [nn.Linear(2, 1)],
        [nn.Linear(2, 3), nn.LeakyReLU(0.3), nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 1)],
    ],
    ids=lambda modules: "-".join(type(module).__name__ for module in modules),
)
def test_what_from_module_accepts_computes_the_same(modules: list[nn.Module]) -> None:
    module = nn.Sequential(*modules).double()
    net, params = sf.MLP.from_module(module)
    X = inputs(7, 2)
    assert torch.allclose(net.forward(params, X), module(X), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(
    ("modules", "place"),
    [
        ([nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 1)], "module 1, Dropout"),
        ([nn.Linear(2, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Linear(3, 1)], "module 2, BatchNorm1d"),
        ([nn.Linear(2, 3), nn.Tanh(), nn.Tanh(), nn.Linear(3, 1)], "module 2, Tanh"),
        ([nn.Tanh(), nn.Linear(2, 3)], "module 0, Tanh"),
        ([nn.Linear(2, 3), nn.Softplus(beta=2), nn.Linear(3, 1)], "module 1, Softplus"),
        ([nn.Linear(2, 3), nn.GELU("tanh"), nn.Linear(3, 1)], "module 1, GELU"),
        ([nn.Linear(2, 3), nn.Flatten(0), nn.Linear(3, 1)], "module 1, Flatten"),
        ([nn.Conv1d(2, 3, 1), nn.Tanh(), nn.Linear(3, 1)], "module 0, Conv1d"),
        ([nn.Linear(2, 3), nn.Softmax(-1)], "module 1, Softmax"),
    ],
)
def test_an_unsupported_module_is_named_with_its_place(
    modules: list[nn.Module], place: str
) -> None:
    with refused(place):
        sf.MLP.from_module(nn.Sequential(*modules))


@pytest.mark.parametrize("trailing", [[], [nn.Identity()]], ids=["bare", "then Identity"])
def test_an_activation_of_the_output_is_refused_and_never_dropped(
    trailing: list[nn.Module],
) -> None:
    modules = [nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1), nn.Sigmoid(), *trailing]
    with refused("the last layer must be linear"):
        sf.MLP.from_module(nn.Sequential(*modules))


def test_from_module_takes_a_sequential_with_a_linear_in_it() -> None:
    with refused("expected an nn.Sequential"):
        sf.MLP.from_module(nn.Linear(2, 1))  # type: ignore[arg-type]
    with refused("no Linear"):
        sf.MLP.from_module(nn.Sequential())
    with refused("no Linear"):
        sf.MLP.from_module(nn.Sequential(nn.Identity()))


def test_widths_that_do_not_follow_one_another_are_refused_by_name() -> None:
    with refused("'2.weight' has shape (1, 4), expected (1, 3)"):
        sf.MLP.from_module(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(4, 1)))


def test_to_module_takes_one_network() -> None:
    net = sf.MLP([1, 2, 1])
    with refused("not of a batch"):
        net.to_module(net.random_params(0, batch=(3,)))


# -- scikit-learn ---------------------------------------------------------------------------------


def fitted(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


SKLEARN = ["relu", "tanh", "logistic", "identity"]


@pytest.mark.parametrize("name", SKLEARN)
@pytest.mark.parametrize("targets", [1, 2])
def test_a_scikit_learn_regressor_s_network_gives_its_predictions(name: str, targets: int) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 3)), rng.normal(size=(30, targets))
    y = y[:, 0] if targets == 1 else y
    model = fitted(
        MLPRegressor(hidden_layer_sizes=(5, 4), activation=name, max_iter=20, random_state=0), X, y
    )
    net, params = sf.MLP.from_sklearn(model)
    assert net.widths == (3, 5, 4, targets)
    ours = net.forward(params, torch.from_numpy(X)).numpy()
    assert np.allclose(ours.reshape(y.shape), model.predict(X), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SKLEARN)
def test_a_scikit_learn_binary_classifier_s_network_gives_its_logit(name: str) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 2))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    model = fitted(
        MLPClassifier(hidden_layer_sizes=(4,), activation=name, max_iter=50, random_state=0), X, y
    )
    net, params = sf.MLP.from_sklearn(model)
    assert net.widths == (2, 4, 1)
    logits = net.forward(params, torch.from_numpy(X))
    assert np.allclose(torch.sigmoid(logits)[:, 0], model.predict_proba(X)[:, 1], atol=1e-13)
    # The loss that the docstring names is the one scikit-learn measured, but for its penalty.
    ours = float(sf.Problem(net, X, y, loss="logistic").risk(params))
    p = model.predict_proba(X)[np.arange(40), y]
    assert ours == pytest.approx(-np.log(p).mean(), rel=1e-12)


@pytest.mark.parametrize("name", SKLEARN)
def test_a_scikit_learn_classifier_s_network_gives_its_logits(name: str) -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(40, 2))
    y = rng.integers(0, 3, size=40)
    model = fitted(
        MLPClassifier(hidden_layer_sizes=(4, 3), activation=name, max_iter=50, random_state=0), X, y
    )
    net, params = sf.MLP.from_sklearn(model)
    assert net.widths == (2, 4, 3, 3)
    logits = net.forward(params, torch.from_numpy(X))
    assert np.allclose(torch.softmax(logits, 1), model.predict_proba(X), atol=1e-13)
    ours = float(sf.Problem(net, X, y, loss="cross_entropy").risk(params))
    p = model.predict_proba(X)[np.arange(40), y]
    assert ours == pytest.approx(-np.log(p).mean(), rel=1e-12)


@pytest.mark.parametrize("given_", [MLPRegressor(), object(), None])
def test_what_is_no_fitted_scikit_learn_network_is_refused(given_: object) -> None:
    with refused("call its fit first"):
        sf.MLP.from_sklearn(given_)


# -- flat vectors and batches ---------------------------------------------------------------------


@settings(derandomize=True, deadline=None, database=None, max_examples=60)
@given(architectures, st.lists(st.integers(1, 3), max_size=2))
def test_flatten_and_unflatten_are_inverse_in_torch_s_own_order(
    architecture: tuple[list[int], list[bool]], batch: list[int]
) -> None:
    widths, biases = architecture
    net = sf.MLP(widths, "tanh", biases)
    params = net.random_params(seed=0, batch=tuple(batch))
    vector = net.flatten(params)
    assert vector.shape == (*batch, net.parameter_count)
    back = net.unflatten(vector)
    assert list(back) == list(params) == list(net.to_module().state_dict())
    assert all(torch.equal(back[key], params[key]) for key in params)
    assert torch.equal(net.flatten(back), vector)
    first = {key: t.reshape(-1, *net.shapes[key])[0] for key, t in params.items()}
    by_torch = nn.utils.parameters_to_vector(net.to_module(first).parameters())
    assert torch.equal(net.flatten(first), by_torch)
    assert net.parameter_count == sum(p.numel() for p in net.to_module().parameters())
    assert net.check_params(params) == tuple(batch)


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(architectures, st.sampled_from(ACTIVATIONS))
def test_a_batch_of_networks_is_its_networks_one_by_one(
    architecture: tuple[list[int], list[bool]], name: str
) -> None:
    widths, biases = architecture
    net = sf.MLP(widths, name, biases)
    params = net.random_params(seed=5, batch=(2, 3))
    X = inputs(4, widths[0])
    own = torch.stack([inputs(4, widths[0], seed=k) for k in range(6)]).reshape(2, 3, 4, -1)
    shared, separate = net.forward(params, X), net.forward(params, own)
    assert shared.shape == separate.shape == (2, 3, 4, widths[-1])
    for i in range(2):
        for j in range(3):
            one = {key: tensor[i, j] for key, tensor in params.items()}
            assert torch.allclose(shared[i, j], net.forward(one, X), rtol=1e-13, atol=1e-14)
            alone = net.forward(one, own[i, j])
            assert torch.allclose(separate[i, j], alone, rtol=1e-13, atol=1e-14)


def test_random_network_k_depends_on_seed_and_k_alone() -> None:
    net = sf.MLP([2, 3, 1])
    few, many = net.random_params(7, batch=(3,)), net.random_params(7, batch=(50,))
    assert all(torch.equal(few[key], many[key][:3]) for key in few)
    grid = net.random_params(7, batch=(5, 10))
    assert all(torch.equal(grid[key].flatten(0, 1), many[key]) for key in grid)
    alone = net.random_params(7)
    assert all(torch.equal(alone[key], many[key][0]) for key in alone)
    flat = net.flatten(many)
    assert len({tuple(row) for row in flat.tolist()}) == 50
    assert not torch.equal(net.flatten(net.random_params(8)), net.flatten(alone))
    assert not torch.equal(
        net.flatten(net.random_params(None)), net.flatten(net.random_params(None))
    )


def test_random_weights_have_the_stated_deviations() -> None:
    net = sf.MLP([4, 9, 2])
    drawn = net.random_params(0, batch=(2000,), scale=3.0)
    expected = {"0.weight": 3 / 2, "0.bias": 1.5, "2.weight": 1.0, "2.bias": 1.5}
    for key, deviation in expected.items():
        assert float(drawn[key].std()) == pytest.approx(deviation, rel=0.03)
        assert abs(float(drawn[key].mean())) < 0.05 * deviation


def test_a_vector_of_the_wrong_length_is_refused() -> None:
    with refused("length 12 does not fit widths [2, 3, 1], which have 13 parameters"):
        sf.MLP([2, 3, 1]).unflatten(torch.zeros(12))


# -- shapes and refusals --------------------------------------------------------------------------


def test_layers_without_a_bias_have_no_such_parameter() -> None:
    net = sf.MLP([2, 3, 4, 1], "tanh", bias=[False, True, False])
    assert list(net.shapes) == ["0.weight", "2.weight", "2.bias", "4.weight"]
    assert [net.fan_in(layer) for layer in range(3)] == [2, 4, 4]
    assert net.parameter_count == 6 + 12 + 4 + 4
    assert net.layer(net.random_params(0), 0).shape == (3, 2)
    assert net.layer(net.random_params(0), 1).shape == (4, 4)
    assert sf.MLP([2, 3, 1], bias=False).biases == (False, False)
    assert (
        float(
            sf.MLP([2, 3, 1], bias=False).forward(
                sf.MLP([2, 3, 1], bias=False).random_params(0), torch.zeros(1, 2).double()
            )
        )
        == 0.0
    )
    module, (back, _) = net.to_module(), sf.MLP.from_module(net.to_module())
    assert [module[place].bias is None for place in (0, 2, 4)] == [True, False, True]
    assert back.biases == net.biases


@pytest.mark.parametrize(
    "widths", [[], [3], 3, [2, 0, 1], [2, -1, 1], [2, 2.5, 1], [2, "3", 1], [2, None, 1], None]
)
def test_widths_that_make_no_network_are_refused(widths: Any) -> None:
    with refused("cannot make a network"):
        sf.MLP(widths)


def test_whole_numbers_of_any_library_are_widths() -> None:
    widths = np.array([2, 3, 1])
    net = sf.MLP(widths)  # type: ignore[arg-type]
    assert net.widths == (2, 3, 1)
    assert all(type(width) is int for width in net.widths)


def test_lists_of_the_wrong_length_are_refused() -> None:
    with refused("3 activations were given for 2 hidden layers"):
        sf.MLP([1, 2, 2, 1], ["tanh"] * 3)
    with refused("bias has 2 entries, but widths [1, 2, 2, 1] make 3 linear layers"):
        sf.MLP([1, 2, 2, 1], bias=[True, False])


def test_each_hidden_layer_may_have_an_activation_of_its_own() -> None:
    net = sf.MLP([1, 2, 2, 1], ["tanh", "relu"])
    params = net.random_params(0)
    X = inputs(6, 1)
    h = torch.tanh(X @ params["0.weight"].T + params["0.bias"])
    h = torch.relu(h @ params["2.weight"].T + params["2.bias"])
    by_hand = h @ params["4.weight"].T + params["4.bias"]
    assert torch.allclose(net.forward(params, X), by_hand, rtol=1e-14, atol=1e-15)


def test_an_unknown_activation_is_answered_with_the_nearest_one() -> None:
    with refused("unknown activation 'tahn'; did you mean 'tanh'?"):
        sf.MLP([1, 2, 1], "tahn")
    with refused("must be a name or an elementwise function"):
        sf.MLP([1, 2, 1], 3)  # type: ignore[arg-type]


def test_a_function_that_is_not_elementwise_is_no_activation() -> None:
    with refused("is not elementwise"):
        activation(lambda z: torch.softmax(z.reshape(-1), 0).reshape(z.shape))
    with refused("is not elementwise"):
        activation(lambda z: z.sum())
    with refused("failed on a float64 tensor"):
        activation(lambda z: torch.linalg.inv(z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2.bias": None}, "missing keys ['2.bias'], unexpected keys []"),
        ({"4.bias": torch.zeros(1)}, "missing keys [], unexpected keys ['4.bias']"),
        ({"0.weight": torch.zeros(2, 3)}, "'0.weight' has shape (2, 3), expected (3, 2)"),
        ({"0.bias": torch.zeros(())}, "'0.bias' has shape (), expected (3,)"),
        ({"2.bias": torch.zeros(5, 1)}, "'2.bias' has shape (5, 1), expected (1,)"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_by_key(
    change: dict[str, Tensor | None], message: str
) -> None:
    net = sf.MLP([2, 3, 1])
    params = {k: t for k, t in (net.random_params(0) | change).items() if t is not None}
    for use in (net.check_params, net.flatten, net.to_module):
        with refused(message):
            use(params)


def test_batch_axes_must_be_the_same_for_every_key() -> None:
    net = sf.MLP([2, 3, 1])
    params = net.random_params(0, batch=(4,))
    params["2.weight"] = params["2.weight"][:2]
    with refused("'2.weight' has shape (2, 1, 3), expected (4, 1, 3)"):
        net.check_params(params)


@pytest.mark.parametrize("unit", [-1, 3, 1.0, True])
def test_a_unit_that_does_not_exist_is_refused(unit: Any) -> None:
    with refused(f"unit {unit!r} does not exist in hidden layer 0, which has 3 unit(s)"):
        sf.MLP([2, 3, 1]).check_unit(0, unit)


@pytest.mark.parametrize("layer", [-1, 1, 0.0, False])
def test_a_hidden_layer_that_does_not_exist_is_refused(layer: Any) -> None:
    with refused(f"hidden layer {layer!r} does not exist: widths [2, 3, 1] have 1 hidden"):
        sf.MLP([2, 3, 1]).check_layer(layer)


# -- activations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives_are_those_of_automatic_differentiation(name: str) -> None:
    z = torch.cat([torch.linspace(-8, 8, 81), torch.linspace(-30, 30, 13)]).double() + 0.01
    function = MODULES[name]()
    at = z.clone().requires_grad_()
    value = function(at)
    (first,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), at)
    ours = activation(name).derivatives(z)
    for mine, theirs in zip(ours, (value, first, second), strict=True):
        assert mine.shape == z.shape
        assert torch.allclose(mine, theirs.detach(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_derivatives_stay_finite_far_out(name: str) -> None:
    z = torch.tensor([-1e4, -800.0, -40.0, 0.0, 40.0, 800.0, 1e4], dtype=torch.float64)
    assert all(bool(torch.isfinite(part).all()) for part in activation(name).derivatives(z))


def test_saturated_units_keep_the_digits_of_their_slope() -> None:
    z = torch.tensor([20.0, 100.0, 300.0], dtype=torch.float64)
    e = torch.exp(-z)
    for side in (z, -z):
        _, slope, bend = activation("tanh").derivatives(side)
        assert torch.allclose(slope, 4 * e**2 / (1 + e**2) ** 2, rtol=1e-12, atol=0)
        assert torch.allclose(bend, -2 * torch.tanh(side) * slope, rtol=1e-12, atol=0)
        _, slope, bend = activation("sigmoid").derivatives(side)
        assert torch.allclose(slope, e / (1 + e) ** 2, rtol=1e-12, atol=0)
        assert torch.allclose(bend, -torch.sign(side) * slope, rtol=1e-8, atol=0)
        _, _, bend = activation("softplus").derivatives(side)
        assert torch.allclose(bend, e / (1 + e) ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("known", ["tanh", "sigmoid", torch.atan, torch.erf])
def test_what_is_known_of_an_activations_image_is_pickled_with_it(known: Any) -> None:
    sigma = activation(known)
    copied = pickle.loads(pickle.dumps(sigma))
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    assert copied.odd == sigma.odd
    assert torch.allclose(copied.image.inverse(copied.image.levels(z)), z, atol=1e-12)


def test_a_functions_third_derivative_is_differentiated_and_not_taken_for_zero() -> None:
    """A gate's Hessian in a limiting network rests on it."""
    z = torch.linspace(-3, 3, 25, dtype=torch.float64)
    assert torch.allclose(activation(lambda x: x**3).third(z), torch.full_like(z, 6.0))
    for constant in (lambda x: x**2, lambda x: 2 * x, torch.ones_like):
        assert not activation(constant).third(z).any()
    for name in ACTIVATIONS:
        if activation(name).smooth:
            ours = activation(activation(name).function).third(z)
            assert torch.allclose(ours, activation(name).third(z), atol=1e-12), name


def test_the_symmetries_and_the_image_an_activation_claims_are_its_own() -> None:
    z = torch.linspace(-3, 3, 25, dtype=torch.float64)
    for name in (*ACTIVATIONS, "leaky_relu(0.2)", torch.atan, torch.arctan, torch.erf):
        sigma = activation(name)
        value, mirrored = sigma.function(z), sigma.function(-z)
        reflects = bool(torch.allclose(value + mirrored, (value + mirrored)[:1], atol=1e-12))
        assert (sigma.reflection is not None) == reflects, name
        if sigma.reflection is not None:
            assert torch.allclose(mirrored, sigma.reflection - value, atol=1e-12), name
        scales = bool(torch.allclose(sigma.function(2.5 * z), 2.5 * value, atol=1e-12))
        assert sigma.homogeneous == scales, name
        assert sigma.odd == bool(torch.allclose(mirrored, -value, atol=1e-12)), name
        bounded = float(sigma.function(z.new_tensor(1e9)) - sigma.function(z.new_tensor(-1e9))) < 9
        assert (sigma.image is not None) == (bounded and bool((value.diff() > 0).all())), name
        if sigma.image is not None:
            ends = sigma.function(z.new_tensor([-1e18, 1e18]))
            assert torch.allclose(ends, z.new_tensor([sigma.image.low, sigma.image.high])), name
    assert activation("identity").smooth
    assert not activation("relu").smooth
    assert leaky_relu(0.2).slopes == (0.2, 1.0)
