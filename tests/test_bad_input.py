"""Whatever is given where something else is wanted is refused in one line that says so."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import semiflat as sf
from semiflat import memory
from semiflat.activations import activation
from semiflat.losses import loss_named

X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
PROBLEM = sf.Problem(sf.MLP([1, 1, 1]), X, torch.cos(3 * X))
MODULE = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()


@cache
def point() -> sf.CriticalPoint:
    return sf.find_critical_point(PROBLEM, starts=3, seed=0)


@cache
def curved() -> sf.CriticalPoint:
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * x + 1) + 0.3 * x**2
    return sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "gelu"), x, y), starts=8, seed=0)


@cache
def file(name: str) -> Path:
    path = Path(tempfile.mkdtemp()) / name
    if name == "proof.json":
        sf.certify(point()).save(path)
    else:
        sf.save_point(point(), path)
    return path


def wrong() -> dict[str, Any]:
    """Something of each kind that is not wanted somewhere."""
    flat = torch.zeros(4, dtype=torch.float64)
    return {
        "None": None,
        "text": "nonsense",
        "a negative number": -5,
        "half a number": 1.5,
        "a bool": True,
        "nan": float("nan"),
        "a complex number": 1j,
        "a list": [1, 2],
        "a ragged list": [[1.0], [1.0, 2.0]],
        "a dict": {"a": 1},
        "an object": object(),
        "an array of objects": np.array([object(), None]),
        "an array of text": np.array(["a", "b"]),
        "a vector": flat,
        "a number of the wrong shape": torch.tensor(3.0),
        "a tensor without values": flat.to("meta"),
        "a sparse tensor": torch.eye(2).to_sparse(),
        "a quantised tensor": quantised(),
        "complex numbers": torch.ones(2, dtype=torch.complex128),
        "a module": MODULE,
        "a network": sf.MLP([2, 1]),
        "a problem": PROBLEM,
        "a point": point(),
        "a batch of points": sf.PointBatch(PROBLEM, PROBLEM.net.random_params(0, batch=(2,))),
        "a function": len,
        "a class": int,
    }


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


def settings(**more: Any) -> dict[str, Any]:
    return more


@cache
def linear() -> sf.Point:
    net = sf.MLP([1, 1, 1], "identity")
    return sf.Point(PROBLEM.with_net(net), net.random_params(0))


def on(
    embedding: type[sf.Embedding], at: Callable[[], sf.Point] = point
) -> Callable[..., sf.Point]:
    """The embedding, applied: layers and units are refused where they do not exist."""
    return lambda **given: embedding(**given)(at())


# Each with arguments that are right.
TAKES: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "MLP": (sf.MLP, lambda: settings(widths=[1, 2, 1], activation="tanh", bias=True)),
    "MLP.random_params": (
        PROBLEM.net.random_params,
        lambda: settings(seed=0, batch=(), scale=1.0, dtype=torch.float64),
    ),
    "MLP.unflatten": (PROBLEM.net.unflatten, lambda: settings(vector=torch.zeros(4))),
    "MLP.flatten": (PROBLEM.net.flatten, lambda: settings(params=point().params)),
    "MLP.to_module": (PROBLEM.net.to_module, lambda: settings(params=point().params)),
    "MLP.from_module": (sf.MLP.from_module, lambda: settings(module=MODULE)),
    "MLP.from_sklearn": (sf.MLP.from_sklearn, lambda: settings(estimator=None)),
    "load_data": (sf.load_data, lambda: settings(source="diabetes")),
    "Problem": (
        sf.Problem,
        lambda: settings(
            net=PROBLEM.net, X=X, y=X, loss="squared", dtype=X.dtype, weight_decay=0.0
        ),
    ),
    "Problem.with_net": (PROBLEM.with_net, lambda: settings(net=PROBLEM.net)),
    "Problem.with_weight_decay": (PROBLEM.with_weight_decay, lambda: settings(weight_decay=0.1)),
    "Point": (sf.Point, lambda: settings(problem=PROBLEM, params=point().params)),
    "Point.from_module": (
        sf.Point.from_module,
        lambda: settings(module=MODULE, X=X, y=X, loss="squared", weight_decay=0.0),
    ),
    "Point.from_sklearn": (sf.Point.from_sklearn, lambda: settings(model=None, X=X, y=X)),
    "gradient": (sf.gradient, lambda: settings(point=point())),
    "hessian": (sf.hessian, lambda: settings(point=point())),
    "jacobian": (sf.jacobian, lambda: settings(point=point())),
    "hessian_operator": (sf.hessian_operator, lambda: settings(point=point())),
    "unit_blocks": (sf.unit_blocks, lambda: settings(point=point(), layer=0, unit=0)),
    "layer_block": (sf.layer_block, lambda: settings(point=point(), layer=0)),
    "module_hessian_operator": (
        sf.module_hessian_operator,
        lambda: settings(module=MODULE, X=X, y=X, loss="squared", batch_size=4, weight_decay=0.0),
    ),
    "run_search": (
        sf.run_search,
        lambda: settings(
            problem=PROBLEM,
            starts=2,
            seed=0,
            kind="minimum",
            tolerance=1e-10,
            max_iterations=20,
            start_scale=1.0,
            start=None,
            thread_count=1,
            processes=1,
        ),
    ),
    "find_critical_point": (
        sf.find_critical_point,
        lambda: settings(problem=PROBLEM, starts=2, seed=0, start=point().params),
    ),
    "find_critical_points": (
        sf.find_critical_points,
        lambda: settings(problem=PROBLEM, starts=2, seed=0),
    ),
    "saddle_lines": (sf.saddle_lines, lambda: settings(run=point())),
    "Replicate": (on(sf.Replicate), lambda: settings(layer=0, unit=0, weights=[0.5, 0.5])),
    "Replicate applied": (sf.Replicate(0, 0, [0.5, 0.5]), lambda: settings(point=point())),
    "NullUnits": (on(sf.NullUnits), lambda: settings(layer=0, biases=[0.5])),
    "ScaledReplicate": (
        on(sf.ScaledReplicate),
        lambda: settings(layer=0, unit=0, incoming=[2, 1], outgoing=[0.25, 0.5]),
    ),
    "Permute": (on(sf.Permute), lambda: settings(layer=0, order=[0])),
    "Rescale": (on(sf.Rescale), lambda: settings(layer=0, unit=0, factor=2)),
    "Reflect": (on(sf.Reflect), lambda: settings(layer=0, unit=0)),
    "Mix": (on(sf.Mix, linear), lambda: settings(layer=0, matrix=[[2.0]])),
    "judge": (
        sf.judge,
        lambda: settings(point=point(), tolerance=1e-10, dense_limit=4096, proof=False),
    ),
    "judge_all": (sf.judge_all, lambda: settings(points=[point()])),
    "escape": (sf.escape, lambda: settings(point=point(), tolerance=1e-10)),
    "certify": (sf.certify, lambda: settings(point=point())),
    "certify_all": (sf.certify_all, lambda: settings(points=[point()])),
    "certify_not_critical": (sf.certify_not_critical, lambda: settings(point=point(), radius=0.0)),
    "certify_descent": (
        sf.certify_descent,
        lambda: settings(point=point(), direction=point().params, step=0.1),
    ),
    "verify": (sf.verify, lambda: settings(path=file("proof.json"))),
    "verify_distinct": (sf.verify_distinct, lambda: settings(paths=[file("proof.json")])),
    "reduce": (sf.reduce, lambda: settings(point=point(), tolerance=0.0)),
    "widths_by_tolerance": (
        sf.widths_by_tolerance,
        lambda: settings(point=point(), tolerances=[0.0, 0.1]),
    ),
    "gradient_basis_gap": (
        sf.gradient_basis_gap,
        lambda: settings(model=MODULE, X=X, y=X, loss="squared", batch_size=9),
    ),
    "perturbable_basis_gap": (sf.perturbable_basis_gap, lambda: settings(point=point(), seed=0)),
    "refute_minimum": (sf.refute_minimum, lambda: settings(point=point(), seed=0)),
    "resnet_model": (
        sf.resnet_model,
        lambda: settings(W=np.ones((1, 1)), R=np.ones((1, 2)), x=X, z=X.repeat(1, 2), y=X),
    ),
    "locally_linear_model": (sf.locally_linear_model, lambda: settings(point=point(), depth=1)),
    "path_to_zero_loss": (
        sf.path_to_zero_loss,
        lambda: settings(point=point(), seed=0, tolerance=1e-9, epsilon=1e-3),
    ),
    "replications": (sf.replications, lambda: settings(point=curved(), tolerance=1e-10)),
    "non_attracting_region": (
        sf.non_attracting_region,
        lambda: settings(point=curved(), layer=0, unit=0, copies=2),
    ),
    "minimum_at_infinity": (
        sf.minimum_at_infinity,
        lambda: settings(problem=PROBLEM.with_net(sf.MLP([1, 3, 1], "sigmoid")), seed=0),
    ),
    "pac_bayes_bound": (
        sf.pac_bayes_bound,
        lambda: settings(point=point(), loss=sf.Clipped(1.0), delta=0.05, draws=10),
    ),
    "Clipped": (sf.Clipped, lambda: settings(at=1.0)),
    "canonical_form": (sf.canonical_form, lambda: settings(point=point())),
    "save_point": (sf.save_point, lambda: settings(point=point(), path=file("p.safetensors"))),
    "load_point": (sf.load_point, lambda: settings(path=file("p.safetensors"))),
}
ASKED = [(name, argument) for name, (_, right) in TAKES.items() for argument in right()]


@pytest.mark.parametrize(("name", "argument"), ASKED)
def test_a_wrong_argument_is_refused_in_one_line_or_taken(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # text is a good name of a file to write
    function, right = TAKES[name]
    lines = []
    for value in wrong().values():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", UserWarning
                )  # a search that is taken may find nothing
                function(**right() | {argument: value})
        except sf.InputError as error:
            lines.append(str(error).count("\n"))
    assert not any(lines)
    assert len(lines) > len(wrong()) // 2 or (name, argument) in LENIENT


LENIENT = {
    # Read a file, and say in a Verification that it is none.
    ("verify", "path"),
    ("verify_distinct", "paths"),
}


@pytest.mark.parametrize("limit", [-5, 1.5, True, None, "4096"])
def test_the_limit_of_dense_hessians_is_a_whole_number(limit: Any) -> None:
    with pytest.raises(sf.InputError, match="dense_limit must be a whole number of at least 0"):
        sf.judge(point(), dense_limit=limit)
    assert sf.judge(point(), dense_limit=0).method == "Lanczos"


@pytest.mark.parametrize("tolerance", [True, "1e-10", None, -1.0, float("inf"), [1e-10]])
def test_a_tolerance_is_a_number_from_0_up(tolerance: Any) -> None:
    with pytest.raises(sf.InputError, match="tolerance must be a finite number"):
        sf.judge(point(), tolerance=tolerance)


def test_what_has_to_be_made_of_a_module_is_said() -> None:
    for wanted in (sf.judge, sf.gradient, sf.hessian, sf.hessian_operator):
        with pytest.raises(sf.InputError, match=r"Point\.from_module\(module, X, y\)"):
            wanted(MODULE)
    with pytest.raises(sf.InputError, match=r"Point\.from_module\(module, X, y\)"):
        sf.Point(MODULE, point().params)
    with pytest.raises(sf.InputError, match=r"Problem\(net, X, y\)"):
        sf.run_search(MODULE)
    with pytest.raises(sf.InputError, match=r"net\.unflatten\(vector\)"):
        sf.Point(PROBLEM, torch.zeros(4))


def test_an_error_stands_on_one_line_whatever_was_given() -> None:
    assert str(sf.InputError(f"this is no {MODULE}.")).count("\n") == 0
    assert str(sf.InputError("a\n   b")) == "a b"


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "given", "meant"),
    [
        (activation, "swish", "did you mean 'silu'?"),
        (activation, "Swish", "did you mean 'silu'?"),
        (activation, "logistic", "did you mean 'sigmoid'?"),
        (activation, "linear", "did you mean 'identity'?"),
        (activation, "Tanh", "did you mean 'tanh'?"),
        (activation, "TANH", "did you mean 'tanh'?"),
        (loss_named, "mse", "did you mean 'squared'?"),
        (loss_named, "MSELoss", "did you mean 'squared'?"),
        (loss_named, "ce", "did you mean 'cross_entropy'?"),
        (loss_named, "CrossEntropy", "did you mean 'cross_entropy'?"),
        (loss_named, "nll", "did you mean 'cross_entropy'?"),
        (loss_named, "bce", "did you mean 'logistic'?"),
        (loss_named, "binary_crossentropy", "did you mean 'logistic'?"),
        (loss_named, "sigmoid", "did you mean 'logistic'?"),
        (sf.load_data, "mnist", "did you mean 'digits', images of 8 × 8?"),
        (sf.load_data, "MNIST", "did you mean 'digits', images of 8 × 8?"),
    ],
)
def test_a_name_that_others_use_is_answered_with_the_one_used_here(ask, given, meant) -> None:
    with pytest.raises(sf.InputError, match=re.escape(meant)):
        ask(given)


@pytest.mark.parametrize("given", ["elu", "selu", "ELU"])
def test_another_function_is_not_answered_with_one_spelt_nearly_so(given: str) -> None:
    with pytest.raises(sf.InputError, match="unknown activation") as caught:
        activation(given)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("y", "outputs", "classes"),
    [
        ([0, 1, 2, 1], 3, True),
        ([[0], [1], [2], [1]], 3, True),
        ([0, 1, 3, 1], 3, False),  # no class of three
        ([0.5, 1, 2, 1], 3, False),
        ([-1, 1, 1, -1], 3, False),
        ([0, 1, 1], 3, None),  # too few of them
        ([[0, 1], [1, 0], [1, 1], [0, 0]], 3, False),
    ],
)
def test_classes_under_a_loss_of_numbers_are_recognised(y, outputs, classes) -> None:
    for loss in ("squared", "logistic"):
        with pytest.raises(sf.InputError, match="y has") as caught:
            sf.Problem(sf.MLP([1, 2, outputs]), X[:4], y, loss=loss)
        said = "for classes say loss='cross_entropy'" in str(caught.value)
        assert said == bool(classes)


# -- memory ---------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10**9)
    X, y = torch.zeros((3, 100), dtype=torch.float64), torch.zeros((3, 1), dtype=torch.float64)
    problem = sf.Problem(sf.MLP([100, 200, 1]), X, y)
    large = sf.Point(problem, problem.net.random_params(0))
    assert problem.net.parameter_count == 20401
    dense = (
        "a dense Hessian of 20401 parameters would take 3.1 GiB of memory, and 0.9 GiB are free; up "
        "to 11180"
    )
    takes: list[Callable[[Any], Any]] = [
        sf.hessian,
        sf.certify,
        lambda p: sf.find_critical_point(p.problem, start=p.params, method="trust_region"),
    ]
    for take in takes:
        with pytest.raises(sf.InputError, match=re.escape(dense)):
            take(large)
    for call, said in (
        (lambda: sf.judge(large, dense_limit=10**9), "5 dense Hessians of 20401 parameters"),
        (lambda: sf.run_search(problem, starts=2, processes=1, kind="any"), "a dense Hessian"),
    ):
        with pytest.raises(sf.InputError, match=said):
            call()
    assert sf.judge(large).method == "Lanczos"
    many = sf.Point(problem.with_net(sf.MLP([100, 50, 1])), sf.MLP([100, 50, 1]).random_params(0))
    assert sf.hessian(many).shape == (5101, 5101)
    tall = sf.Problem(sf.MLP([100, 200, 1]), torch.zeros((7000, 100)), torch.zeros(7000))
    with pytest.raises(
        sf.InputError, match="the Jacobian of 7000 outputs in 20401 parameters would take"
    ):
        sf.jacobian(sf.Point(tall, large.params))
    copies = sf.Replicate.uniform(0, 0, 10**9)
    with pytest.raises(sf.InputError, match="the parameters of the wide network would take 22"):
        _ = copies(point()).params
    with pytest.raises(sf.InputError, match="the matrix into the wide network would take"):
        copies.matrix(PROBLEM.net)
    with pytest.raises(sf.InputError, match=r"the parameters of 1 network\(s\) of widths"):
        sf.Problem(sf.MLP([1, 10**9, 1]), X[:, :1], y)


def test_free_memory_is_known_here_and_nothing_small_asks_for_it(monkeypatch) -> None:
    assert memory.available() > 2**20
    monkeypatch.setattr(memory, "available", lambda: 0)
    assert sf.hessian(point()).shape == (4, 4)
    monkeypatch.setattr(memory, "available", lambda: None)  # not said by the system
    memory.check_floats("a thousand terabytes", 2**47, "")
    memory.check_hessians(1, 10**9)


# -- what used to end in an error of torch or Python ------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        lambda: sf.judge(
            sf.Point(sf.Problem(PROBLEM.net, X, X, dtype=torch.float32), point().params)
        ),
        lambda: sf.run_search(PROBLEM, out=5),
        lambda: sf.find_critical_points(PROBLEM, 1, infinity="yes"),
        lambda: sf.find_critical_points(PROBLEM, 1, infinity=1),
        lambda: sf.run_search(PROBLEM, max_iterations=10**30),
        lambda: sf.run_search(PROBLEM, tolerance=10**400),
        lambda: sf.judge(point(), tolerance=10**400),
        lambda: sf.Composition(None),
        lambda: sf.reduce(point(), on_data=torch.zeros(3)),
        lambda: sf.pac_bayes_bound(point(), covariance=np.array([1, 2])),
    ],
)
def test_what_is_of_the_wrong_type_or_size_is_refused_in_one_line(ask: Callable[[], Any]) -> None:
    with pytest.raises(sf.InputError) as refused:
        ask()
    assert "\n" not in str(refused.value)


def test_a_tolerance_may_be_any_whole_number() -> None:
    assert sf.judge(point(), tolerance=10**30).kind is not sf.Kind.NOT_CRITICAL


# -- modules --------------------------------------------------------------------------------------


class Tied(nn.Module):
    """Rows of one matrix make the units, and read them."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.words(ids)) @ self.words.weight.T


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


@cache
def signs() -> Any:
    data = [(X.float(), torch.cos(X).float())]
    return sf.unit_curvature(MODULE, data, nn.functional.mse_loss)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: sf.widen(MODULE, X, "0", units=10**9), "1000000000 more units of '0' would take"),
        (lambda: sf.widen(MODULE, X, "0", copies={0: 10**9}), "more units of '0' would take"),
        (
            lambda: sf.widen(Stack(), torch.ones(2, 3), "blocks", units=10**9),
            "1000000000 more blocks of 'blocks' would take",
        ),
        (
            lambda: sf.widen(
                Tied(),
                torch.arange(5),
                "words[0:4]",
                units=1,
                incoming={"words.weight": torch.ones(5, 1)},
            ),
            "'words.weight', which both makes and reads the units of 'words[0:4]'",
        ),
        (lambda: sf.shrink(MODULE, X, groups=3), "groups must be names of groups"),
        (lambda: sf.shrink(MODULE, X, groups=[3]), "there is no group of units 3"),
        (lambda: signs().law(3), "expected a dict, not 3"),
        (lambda: signs().law({"0": 3}), "copies['0'] must be a mapping"),
        (lambda: signs().law(nulls=3), "expected a dict, not 3"),
        (lambda: signs().law(narrow=3), "narrow must be three counts"),
        (lambda: signs().law(narrow=(1, 2)), "narrow must be three counts"),
        (lambda: signs().law(narrow=(1, 0.5, 2)), "narrow must be a whole number"),
        (
            lambda: sf.units(nn.Linear(2, 2, dtype=torch.complex64), torch.ones(1, 2)),
            "'weight' is complex",
        ),
        (
            lambda: sf.units(MODULE, torch.ones(2, 1, dtype=torch.complex128)),
            "input 0 is complex",
        ),
    ],
)
def test_what_a_module_cannot_be_asked_is_said_in_one_line(
    ask: Callable[[], Any], said: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of torch, on complex modules
        with pytest.raises(sf.InputError, match=re.escape(said)) as refused:
            ask()
    assert "\n" not in str(refused.value)
