"""Modules and estimators of others: taken only where they are what they are read as."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.utils import prune

import semiflat as sf
from helpers import refused
from semiflat.activations import Elementwise


def inputs(samples: int, features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, features, generator=generator, dtype=torch.float64)


def cubed(z: Tensor) -> Tensor:
    return z**3


def fitted(estimator: Any, X: np.ndarray, y: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


# -- modules that are something else, or not only what they look like -----------------------------


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Residuum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - torch.tanh(x)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Squashed(nn.Tanh):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class Squared(nn.Linear):
    """Computes with the squares of what is trained."""

    def __getattr__(self, name: str) -> Any:
        value: Any = super().__getattr__(name)
        return value**2 if name == "weight" else value


class Doubled(nn.Linear):
    bias = property(lambda self: 2 * self._parameters["bias"])


class Renamed(nn.Linear):
    """A subclass that computes what a Linear does."""


class Chained(nn.Sequential):
    """A subclass that computes what a Sequential does."""


def chain(*widths: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for fan, out in itertools.pairwise(widths):
        modules += [nn.Linear(fan, out), nn.Tanh()]
    return nn.Sequential(*modules[:-1]).double()


def hooked(where: str, kind: str) -> nn.Sequential:
    module = chain(2, 3, 1)
    part = module if where == "itself" else module[0]
    if kind == "forward":
        part.register_forward_hook(lambda module, given, out: 2 * out)
    else:
        part.register_forward_pre_hook(lambda module, given: (2 * given[0],))
    return module


def changed(change: Callable[[Any], Any], *widths: int, norm: bool = False) -> Any:
    module = normalised() if norm else chain(*(widths or (2, 3, 1)))
    change(module)
    return module


def tied(module: nn.Sequential) -> None:
    module[2].weight = module[0].weight


def sharing(module: nn.Sequential) -> None:
    module[2].weight = nn.Parameter(module[0].weight.data.T)


def doubled(module: nn.Sequential) -> None:
    module[0].__class__ = Doubled


def expanded(module: Any) -> None:
    module[0].weight.data = module[0].weight.data[:1].clone().expand(3, 2)


def own_forward(module: nn.Sequential) -> None:
    module[1].forward = lambda x: x  # type: ignore[method-assign]


def no_parameter(module: Any) -> None:
    weight = module[0].weight.detach()
    del module[0].weight
    module[0].weight = weight


def with_(place: int, entry: Any) -> Callable[[nn.Sequential], None]:
    def put(module: nn.Sequential) -> None:
        module[place] = entry

    return put


def normalised(**settings: Any) -> nn.BatchNorm1d:
    generator = torch.Generator().manual_seed(1)
    norm = nn.BatchNorm1d(3, **settings).double().eval()
    with torch.no_grad():
        for tensor in [*norm.parameters(), norm.running_mean, norm.running_var]:
            if tensor is not None:
                tensor.copy_(torch.rand(3, generator=generator) + 0.5)
    return norm


OTHERS = {
    "a Sequential with its own forward": (
        lambda: Residual(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)),
        "Residual has a forward of its own",
    ),
    "nested": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Tanh(), Residual(nn.Linear(2, 2))),
        "module 2, Residual, has a forward of its own",
    ),
    "a Linear with its own forward": (
        lambda: nn.Sequential(Scaled(2, 1)),
        "module 0, Scaled, has a forward of its own",
    ),
    "an activation with its own forward": (
        lambda: changed(with_(1, Squashed())),
        "module 1, Squashed, has a forward of its own",
    ),
    "a module of one's own": (
        lambda: changed(with_(1, Residuum())),
        "module 1, Residuum(), is not supported; supported is Linear",
    ),
    "a forward put in its place": (lambda: changed(own_forward), "module 1, Tanh, has a forward"),
    "a hook": (lambda: hooked("itself", "forward"), "Sequential has a forward hook"),
    "a pre-hook": (lambda: hooked("itself", "pre"), "Sequential has a forward hook"),
    "a hook of a layer": (lambda: hooked("0", "forward"), "module 0, Linear, has a forward hook"),
    "a pre-hook of a layer": (lambda: hooked("0", "pre"), "module 0, Linear, has a forward hook"),
    "a parametrisation": (
        lambda: changed(
            lambda m: nn.utils.parametrize.register_parametrization(m[0], "weight", nn.Tanh())
        ),
        "parametrisation",
    ),
    "weight norm": (
        lambda: changed(lambda m: nn.utils.parametrizations.weight_norm(m[0])),
        "weight or spectral norm",
    ),
    "spectral norm": (lambda: changed(lambda m: nn.utils.spectral_norm(m[2])), "module 2, "),
    "a pruning mask": (
        lambda: changed(lambda m: prune.l1_unstructured(m[0], "weight", 2)),
        "pruning mask",
    ),
    "a weight that is no parameter": (lambda: changed(no_parameter), "has the parameters ['bias']"),
    "one layer twice": (
        lambda: nn.Sequential(layer := nn.Linear(2, 2), nn.Tanh(), layer),
        "module 2 is module 0 again",
    ),
    "one parameter twice": (
        lambda: changed(tied, 2, 2, 2),
        "'0.weight' and '2.weight' share memory",
    ),
    "one memory twice": (
        lambda: changed(sharing, 2, 3, 2),
        "'0.weight' and '2.weight' share memory",
    ),
    "a softplus that is soon a line": (
        lambda: changed(with_(1, nn.Softplus(1, threshold=1))),
        "module 1, Softplus(beta=1, threshold=1), is not supported",
    ),
    "a weight that is another one": (
        lambda: nn.Sequential(Squared(2, 1)),
        "module 0, Squared, has a forward of its own, or attributes",
    ),
    "a bias that is another one": (
        lambda: changed(doubled),
        "module 0, Doubled, has a forward of its own, or attributes",
    ),
    "one number in several places": (lambda: changed(expanded), "'0.weight' share memory"),
    "frozen": (
        lambda: changed(lambda m: m[0].requires_grad_(False)),
        "parameter '0.weight' is frozen (requires_grad=False)",
    ),
    "complex": (
        lambda: chain(2, 3, 1).to(torch.complex128),
        "'0.weight' of the module holds complex",
    ),
    "meta": (lambda: chain(2, 3, 1).to("meta"), "'0.weight' of the module is on the device 'meta'"),
    "sparse": (
        lambda: changed(
            lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight.detach().to_sparse()))
        ),
        "give tensor.to_dense()",
    ),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.Linear(3, 1)),
        "'0.weight' of the module has no shape yet",
    ),
    "infinite": (
        lambda: changed(lambda m: nn.init.constant_(m[2].bias, torch.inf)),
        "'2.bias' holds a value that is not finite",
    ),
    "dropout while training": (
        lambda: changed(with_(1, nn.Dropout(0.1))),
        "is in training mode; call module.eval() first",
    ),
    "batch normalisation while training": (
        lambda: changed(with_(1, nn.BatchNorm1d(3).double())),
        "is in training mode",
    ),
    "batch normalisation without statistics": (
        lambda: changed(with_(1, nn.BatchNorm1d(3, track_running_stats=False).double())).eval(),
        "no running statistics",
    ),
    "batch normalisation by 0": (
        lambda: changed(with_(1, changed(lambda m: nn.init.zeros_(m.weight), norm=True))),
        "has the weight 0 for a feature",
    ),
    "batch normalisation that needs a bias": (
        lambda: nn.Sequential(
            nn.Linear(2, 3, bias=False), normalised(affine=False), nn.Tanh(), nn.Linear(3, 1)
        ).double(),
        "a bias that is not trained",
    ),
    "batch normalisation before a layer without bias": (
        lambda: nn.Sequential(normalised(), nn.Linear(3, 1, bias=False)).double(),
        "a bias that is not trained",
    ),
    "two types": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1).double()),
        "the module fails on inputs of shape (5, 2)",
    ),
    "what only its outputs show": (lambda: changed(with_(1, Elementwise(cubed, "tanh"))), "off by"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm` is deprecated")
def test_a_module_that_is_another_network_is_refused_by_name(what: str) -> None:
    make, text = OTHERS[what]
    with refused(text) as caught:
        sf.MLP.from_module(make())
    assert "\n" not in str(caught.value)


def test_a_global_hook_is_refused() -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: 2 * out)
    try:
        with refused("a global forward hook"):
            sf.MLP.from_module(chain(2, 3, 1))
    finally:
        handle.remove()


UNDERSTOOD: dict[str, Callable[[], nn.Sequential]] = {
    "nested": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 3))),
        nn.ReLU(),
        nn.Linear(3, 1),
    ),
    "subclasses that compute the same": lambda: Chained(Renamed(2, 3), nn.Tanh(), nn.Linear(3, 1)),
    "dropout that is off": lambda: nn.Sequential(
        nn.Dropout(0.5), nn.Linear(2, 3), nn.AlphaDropout(0.2), nn.Tanh(), nn.Linear(3, 1)
    ).eval(),
    "dropout of nothing": lambda: nn.Sequential(
        nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.0), nn.Linear(3, 1)
    ),
    "flat already": lambda: nn.Sequential(
        nn.Linear(2, 3), nn.Flatten(), nn.Tanh(), nn.Linear(3, 1), nn.Flatten()
    ),
    "one activation twice": lambda: nn.Sequential(
        nn.Linear(2, 3), act := nn.Tanh(), nn.Linear(3, 3), act, nn.Linear(3, 1)
    ),
    "an identity before the activation": lambda: nn.Sequential(
        nn.Linear(2, 3), nn.Identity(), nn.Tanh(), nn.Linear(3, 1)
    ),
    "a softplus far out": lambda: changed(
        lambda m: (with_(1, nn.Softplus())(m), nn.init.constant_(m[0].bias, 20.5))
    ),
    "single precision": lambda: chain(2, 50, 50, 1).float(),
    "half precision": lambda: chain(2, 5, 1).to(torch.bfloat16),
    "parts of one vector": lambda: changed(
        lambda m: nn.utils.vector_to_parameters(
            nn.utils.parameters_to_vector(m.parameters()).detach().clone(), m.parameters()
        )
    ),
}


@pytest.mark.parametrize("what", UNDERSTOOD)
def test_a_module_that_is_understood_computes_the_same(what: str) -> None:
    module = UNDERSTOOD[what]()
    module = module if what.endswith("precision") else module.double()
    state, mode = torch.random.get_rng_state(), [each.training for each in module.modules()]
    net, params = sf.MLP.from_module(module)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [each.training for each in module.modules()] == mode
    X = inputs(7, 2)
    there = module(X.to(next(module.parameters()).dtype)).double()
    close = {"half precision": 0.1, "single precision": 1e-5, "a softplus far out": 1e-8}
    assert torch.allclose(net.forward(params, X), there, atol=close.get(what, 1e-13))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("place", ["first", "before", "after", "last", "twice", "no bias"])
def test_batch_normalisation_is_folded_into_the_layer_beside_it(place: str, affine: bool) -> None:
    one, two = nn.Linear(3, 3), nn.Linear(3, 3)
    norm = normalised(affine=affine)
    if place == "no bias":
        one = nn.Linear(3, 3, bias=not affine)
    modules = {
        "first": [norm, one, nn.Tanh(), two],
        "before": [one, norm, nn.Tanh(), two],
        "after": [one, nn.Tanh(), norm, two],
        "last": [one, nn.Tanh(), two, norm],
        "twice": [norm, normalised(momentum=None), one, normalised(), nn.Tanh(), two],
        "no bias": [one, norm, nn.Tanh(), two],
    }[place]
    module = nn.Sequential(*modules).double().eval()
    net, params = sf.MLP.from_module(module)
    assert net.widths == (3, 3, 3)
    assert net.biases == (True, True)
    X = inputs(9, 3)
    assert torch.allclose(net.forward(params, X), module(X), rtol=1e-12, atol=1e-13)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_tests_of_any_module_take_what_has_values_and_say_so_otherwise() -> None:
    X, y = inputs(6, 2), inputs(6, 1)
    for take in (sf.module_hessian_operator, sf.gradient_basis_gap):
        for what in ("meta", "complex", "sparse"):
            with refused("of the module"):
                take(OTHERS[what][0](), X, y)
        with refused("not finite"):
            take(OTHERS["infinite"][0](), X, y)
        with refused("cannot be copied"):
            take(changed(lambda m: nn.utils.weight_norm(m[0])), X, y)
    # A forward of its own is what is differentiated.
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), Scaled(3, 1)).double()
    assert sf.gradient_basis_gap(module, X, module(X).detach()) == pytest.approx(0, abs=1e-25)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_an_output_function_that_no_loss_takes_up_is_refused(loss: str) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.poisson(2, size=60)
    model = fitted(
        MLPRegressor(hidden_layer_sizes=(4,), loss=loss, max_iter=30, random_state=0), X, y
    )
    if loss == "poisson":
        with refused("the output function of this MLPRegressor is 'exp'"):
            sf.MLP.from_sklearn(model)
    else:
        assert sf.MLP.from_sklearn(model)[0].widths == (3, 4, 1)


def test_an_estimator_that_holds_a_network_is_named_with_the_way_to_it() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    network = MLPRegressor(hidden_layer_sizes=(4,), max_iter=30, random_state=0)
    for made, text in (
        (
            make_pipeline(StandardScaler(), network),
            "network = model[-1], whose inputs are model[:-1]",
        ),
        (
            TransformedTargetRegressor(network, transformer=StandardScaler()),
            "model.regressor_, whose",
        ),
        (GridSearchCV(network, {"alpha": [0.1, 0.2]}, cv=2), "model.best_estimator_"),
    ):
        with refused(text):
            sf.MLP.from_sklearn(fitted(made, X, y))


def test_an_estimator_that_predicts_anything_else_is_refused() -> None:
    class Doubled(MLPRegressor):
        def predict(self, X: Any) -> Any:
            return 2 * super().predict(X)

    rng = np.random.default_rng(0)
    model = fitted(
        Doubled(hidden_layer_sizes=(4,), max_iter=30), rng.normal(size=(60, 3)), rng.normal(size=60)
    )
    with refused("the Doubled is not the plain network it looks like"):
        sf.MLP.from_sklearn(model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", ["two", "three", "labels"])
def test_classifiers_of_any_kind_and_type_are_read(dtype: type, classes: str) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 2)).astype(dtype)
    y = {
        "two": np.where(X[:, 0] > 0, "yes", "no"),
        "three": rng.choice(["a", "b", "c"], 60),
        "labels": rng.integers(0, 2, (60, 2)),
    }[classes]
    model = fitted(MLPClassifier(hidden_layer_sizes=(5,), max_iter=60, random_state=0), X, y)
    net, params = sf.MLP.from_sklearn(model)
    assert net.outputs == {"two": 1, "three": 3, "labels": 2}[classes]
    assert params["0.weight"].dtype == torch.float64


# -- from what a person has to a point ------------------------------------------------------------


def problem(*widths: int, activation: Any = "tanh") -> sf.Problem:
    return sf.Problem(sf.MLP(widths, activation), inputs(9, widths[0]), inputs(9, widths[-1], 1))


def test_a_point_is_made_of_a_module_of_the_problem_s_network() -> None:
    here, module = problem(2, 3, 1), chain(2, 3, 1)
    point = sf.Point(here, module)
    assert point.problem is here
    direct = sf.Point.from_module(module, here.X, here.y)
    for found in (point, direct):
        assert all(torch.equal(found.params[key], module.state_dict()[key]) for key in found.params)
    assert point.loss == direct.loss
    squared = ((module(here.X) - here.y) ** 2).mean() / 2
    assert point.loss == pytest.approx(float(squared.detach()), rel=1e-12)
    decayed = sf.Point.from_module(module, here.X, here.y.abs(), loss=absolute, weight_decay=0.1)
    assert (decayed.problem.weight_decay, decayed.problem.loss.name) == (0.1, "<callable absolute>")
    own = problem(2, 3, 1, activation=cubed)
    assert sf.Point(own, own.net.to_module(own.net.random_params(0))).loss > 0


def absolute(f: Tensor, y: Tensor) -> Tensor:
    return (1 + (f - y).square()).sqrt().sum()


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)),
        nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1)),
    ],
    ids=["width", "activation", "bias"],
)
def test_a_module_of_another_architecture_is_refused(module: nn.Sequential) -> None:
    with refused("and the problem's network widths [2, 3, 1], activations ['tanh'] and biases"):
        sf.Point(problem(2, 3, 1), module)


def test_a_state_dict_is_taken_where_its_layers_fit_in_one_order() -> None:
    class Named(nn.Module):
        def __init__(self, *widths: int) -> None:
            super().__init__()
            for k, (fan, out) in enumerate(itertools.pairwise(widths)):
                setattr(self, f"fc{k + 1}", nn.Linear(fan, out))

    here, module = problem(2, 3, 1), Named(2, 3, 1)
    point = sf.Point(here, module.state_dict())
    assert torch.equal(point.params["2.weight"], module.fc2.weight.double())
    layers = list(chain(2, 3, 3, 1))
    dropped = nn.Sequential(*layers[:2], nn.Dropout(), *layers[2:]).eval()
    state = {f"net.{key}": tensor for key, tensor in dropped.state_dict().items()}
    for given in (state, dropped.state_dict()):  # numbered, though two layers may have one shape
        point = sf.Point(problem(2, 3, 3, 1), given)
        assert torch.equal(point.params["4.weight"], dropped[5].weight)
    square = problem(2, 2, 2)
    with refused("layers ['fc1', 'fc2'] fit widths [2, 2, 2] in more than one order"):
        sf.Point(square, Named(2, 2, 2).state_dict())
    backwards = dict(reversed([*Named(2, 3, 1).state_dict().items()]))
    with refused("missing keys"):
        sf.Point(here, backwards)
    unsorted = {key: state[key] for key in sorted(state, key=lambda key: "net.5" not in key)}
    with refused("missing keys"):
        sf.Point(problem(2, 3, 3, 1), unsorted)


@pytest.mark.parametrize("how", [{}, {"with_mean": False}, {"with_std": False}])
def test_a_standardising_pipeline_s_point_predicts_as_it_does_on_new_rows(
    how: dict[str, bool],
) -> None:
    generator = np.random.default_rng(0)
    rows = pandas.DataFrame(1 + 2 * generator.normal(size=(60, 2)), columns=["age", "size"])
    large = (rows["age"] > rows["size"]).to_numpy()
    network = MLPClassifier((6,), solver="lbfgs", max_iter=400, random_state=0)
    for fed, y in ((rows, large), (rows.to_numpy(), large + (rows["age"].to_numpy() > 2) * 1)):
        pipeline = fitted(make_pipeline(StandardScaler(**how), network), fed[:40], y[:40])
        point = sf.Point.from_sklearn(pipeline, fed[:40], y[:40])
        told, expected = point.predict(fed[40:]), pipeline.predict(fed[40:])
        assert told.dtype == expected.dtype
        assert told.tolist() == expected.tolist()
        assert len(set(told.tolist())) > 1


@pytest.mark.parametrize("kind", ["squared", "logistic", "cross_entropy", "labels"])
def test_a_point_is_made_of_a_fitted_estimator_with_its_own_loss(kind: str) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(60, 2))
    y = {
        "squared": X[:, 0] ** 2,
        "logistic": np.where(X[:, 0] * X[:, 1] > 0, "yes", "no"),
        "cross_entropy": rng.choice([7, 3, 5], 60),
        "labels": (X > 0).astype(int),
    }[kind]
    network = MLPRegressor if kind == "squared" else MLPClassifier
    network = network(
        hidden_layer_sizes=(4,), max_iter=200, alpha=0, solver="lbfgs", random_state=0
    )
    model = fitted(network, X, y)
    point = sf.Point.from_sklearn(model, X, y)
    assert point.problem.loss.name == {"labels": "logistic"}.get(kind, kind)
    assert point.loss == pytest.approx(model.loss_, rel=1e-6)
    assert sf.Point.from_sklearn(model, X, y, weight_decay=0.1).loss > point.loss
    piped = fitted(make_pipeline(StandardScaler(), network), 3 * X + 1, y)
    inside = sf.Point.from_sklearn(piped, 3 * X + 1, y)
    expected = StandardScaler().fit_transform(3 * X + 1)
    assert torch.allclose(inside.problem.X, torch.from_numpy(expected))
    assert inside.loss == pytest.approx(piped[-1].loss_, rel=1e-6)


def test_an_estimator_s_data_are_refused_in_one_line() -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(60, 2))
    model = fitted(MLPClassifier(hidden_layer_sizes=(4,), max_iter=9), X, np.arange(60) % 3)
    with refused("y[1] = 8 is none of the classes [0, 1, 2]"):
        sf.Point.from_sklearn(model, X, np.arange(60) % 2 * 8)
    piped = fitted(make_pipeline(StandardScaler(), model), X, np.arange(60) % 3)
    with refused("the steps before the network fail on X: X has 1 features"):
        sf.Point.from_sklearn(piped, X[:, :1], np.arange(60) % 3)
    searched = fitted(
        GridSearchCV(piped, {"mlpclassifier__alpha": [1, 2]}, cv=2), X, np.arange(60) % 3
    )
    assert sf.Point.from_sklearn(searched, X, np.arange(60) % 3).problem.net.outputs == 3
