"""Closed-form derivatives and matrix-free operators against the dense reference."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import semiflat as sf
from helpers import point_of, problem_of, refused
from reference import ACTIVATIONS, LOSSES, cauchy, random_reference
from semiflat.curvature import (
    blocks,
    engine,
    gauss_newton,
    gradient,
    halves,
    hessian,
    products,
    sweep,
)
from semiflat.modules.operators import module_hessian_operator

pytestmark = pytest.mark.usefixtures("in_torch")


@pytest.fixture
def in_torch():
    """What torch computes is the definition; the compiled engine is held against it in test_engine.py."""
    with engine.using("torch"):
        yield


RELATIVE = 1e-11
HIDDEN = {1: [3], 2: [3, 2], 3: [2, 3, 2], 4: [2, 3, 2, 2]}


def assert_close(found: Tensor, expected: Tensor, scale: Tensor | None = None) -> None:
    """Equal to 1e-11 of the largest entry (of ``scale``, if what is compared is a part of it)."""
    assert found.shape == expected.shape
    size = float((expected if scale is None else scale).abs().max())
    assert float((found - expected).abs().max()) <= RELATIVE * max(size, 1e-6)


# -- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("depth", HIDDEN)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_equal_those_of_automatic_differentiation(
    activation: str, loss: str, depth: int, bias: bool
) -> None:
    seed = 8 * ACTIVATIONS.index(activation) + 2 * depth + bias
    outputs = 1 + (seed % 3) if loss != "cross_entropy" else 2 + seed % 2
    ref = random_reference([2, *HIDDEN[depth], outputs], activation, loss, bias, 6, seed)
    point = point_of(ref)
    assert point.loss == pytest.approx(ref.value(), rel=1e-13)
    expected = ref.gradient()
    assert_close(sf.gradient(point), expected)
    assert point.gradient_norm == pytest.approx(float(expected.abs().max()), rel=1e-11)
    assert_close(sf.jacobian(point), ref.jacobian())
    H = sf.hessian(point)
    assert_close(H, ref.hessian())
    assert_close(H, H.T)
    for layer in range(depth):
        assert_close(sf.layer_block(point, layer), ref.F_null(layer))
        unit = seed % ref.hidden[layer]
        found, K = sf.unit_blocks(point, layer, unit), ref.K(layer, unit)
        above = ref.widths[layer + 2]
        assert_close(found.K, K)
        assert_close(found.F, K[:above, above:], scale=K)
        assert_close(found.G, K[above:, above:], scale=K)
        assert torch.equal(found.K[:above, :above], torch.zeros(above, above).double())


@pytest.mark.parametrize("biases", [[True, False, True], [False, True, False], [True, True, False]])
def test_derivatives_are_right_where_only_some_layers_have_a_bias(biases: list[bool]) -> None:
    ref = random_reference([2, 3, 2, 2], "softplus", "cauchy", biases, 5, seed=1)
    point = point_of(ref)
    assert_close(sf.gradient(point), ref.gradient())
    assert_close(sf.jacobian(point), ref.jacobian())
    assert_close(sf.hessian(point), ref.hessian())
    for layer in range(2):
        assert_close(sf.layer_block(point, layer), ref.F_null(layer))
        for unit in range(ref.hidden[layer]):
            assert_close(sf.unit_blocks(point, layer, unit).K, ref.K(layer, unit))


def test_derivatives_are_right_without_hidden_layers_and_where_layers_are_wide_or_thin() -> None:
    for widths in ([3, 2], [1, 1, 1], [5, 1, 4, 1], [1, 7, 1, 3], [4, 2, 6, 2]):
        for samples in (1, 9):
            ref = random_reference(widths, "silu", "logistic", True, samples, seed=2)
            point = point_of(ref)
            assert_close(sf.gradient(point), ref.gradient())
            assert_close(sf.jacobian(point), ref.jacobian())
            assert_close(sf.hessian(point), ref.hessian())


def test_an_elementwise_function_is_differentiated_as_its_named_twin() -> None:
    ref = random_reference([2, 3, 2, 2], "tanh", "squared", True, 5, seed=3)
    net = sf.MLP(ref.widths, lambda z: torch.sinh(z) / torch.cosh(z))
    point = sf.Point(sf.Problem(net, ref.X, ref.y), ref.params)
    assert_close(sf.gradient(point), ref.gradient())
    assert_close(sf.hessian(point), ref.hessian())
    for unit in range(3):
        assert_close(sf.unit_blocks(point, 0, unit).K, ref.K(0, unit))


def test_the_gradient_of_a_unit_s_incoming_row_is_F_transposed_times_its_outgoing_column() -> None:
    """theory §1: Fᵀζ = ∂R/∂u, and F∅'s bias column is ∂R/∂b of the layer above."""
    ref = random_reference([2, 3, 2, 2], "gelu", "cross_entropy", True, 6, seed=4)
    point = point_of(ref)
    rows = point.problem.net.unflatten(ref.gradient())
    for layer in range(2):
        assert_close(sf.layer_block(point, layer)[:, -1], rows[f"{2 * layer + 2}.bias"])
        for unit in range(ref.hidden[layer]):
            zeta = ref.params[f"{2 * layer + 2}.weight"][:, unit]
            pulled = sf.unit_blocks(point, layer, unit).F.T @ zeta
            assert_close(pulled[:-1], rows[f"{2 * layer}.weight"][unit])
            assert_close(pulled[-1], rows[f"{2 * layer}.bias"][unit])


def test_a_float32_problem_is_computed_in_float32() -> None:
    ref = random_reference([2, 3, 2], "tanh", "squared", True, 6, seed=5)
    point = sf.Point(problem_of(ref, torch.float32), ref.params)
    for found, expected in [
        (sf.gradient(point), ref.gradient()),
        (sf.jacobian(point), ref.jacobian()),
        (sf.hessian(point), ref.hessian()),
        (sf.unit_blocks(point, 0, 1).K, ref.K(0, 1)),
    ]:
        assert found.dtype == torch.float32
        assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-5)


SECOND = [
    ([2, 2, 1], "squared"),
    ([3, 2], "cross_entropy"),
    ([2, 3, 2, 3], "cross_entropy"),
    ([2, 1, 4, 2, 2], "squared"),
    ([2, 4, 6, 4, 1], "logistic"),
    ([1, 9, 1, 3], "squared"),
    ([16, 17, 3], "cross_entropy"),  # from here on some blocks are halved
    ([17, 15], "squared"),
    ([5, 16, 17, 16, 2], "logistic"),
    ([20, 45, 3], "cross_entropy"),  # and from here on no table is made
    ([3, 20, 30, 20, 2], "squared"),
]


@pytest.mark.parametrize("bias", [True, False, "some"], ids=str)
@pytest.mark.parametrize(("widths", "loss"), SECOND, ids=str)
def test_second_derivatives_are_dense_ones_to_rounding(
    widths: list[int], loss: str, bias: bool | str
) -> None:
    """The Hessian is torch.func's, Gauss–Newton JᵀL''J, of each network of a batch as of one alone."""
    biases = [layer % 2 == 1 for layer in range(len(widths) - 1)] if bias == "some" else bias
    ref = random_reference(widths, "tanh", loss, biases, 7, seed=len(widths))
    problem = problem_of(ref)
    vectors = torch.stack([ref.vector, -0.5 * ref.vector.flip(0)])
    _, gradients, hessians = hessian.risk_gradient_hessian(problem, problem.net.unflatten(vectors))
    convex = gauss_newton.risk_gradient_gauss_newton(problem, problem.net.unflatten(vectors))
    for k, vector in enumerate(vectors):
        alone = hessian.risk_gradient_hessian(problem, problem.net.unflatten(vector))
        curved = torch.func.hessian(ref.risk)(vector)
        outputs, slopes = ref.outputs(vector), torch.func.jacrev(ref.outputs)(vector)
        second = torch.stack(
            [
                torch.func.hessian(lambda f, y=y: LOSSES[loss](f[None], y[None]).sum())(f)
                for f, y in zip(outputs, ref.y, strict=True)
            ]
        )
        squares = torch.einsum("nip,nij,njq->pq", slopes, second, slopes) / len(ref.X)
        for found, expected in [
            (hessians[k], curved),
            (alone[2], curved),
            (gradients[k], torch.func.grad(ref.risk)(vector)),
            (convex[1][k], gradients[k]),
            (convex[2][k], squares),
        ]:
            assert float((found - expected).abs().max() / expected.abs().max()) < 1e-13


def test_gauss_newton_takes_the_positive_part_of_a_loss_that_is_not_convex() -> None:
    ref = random_reference([2, 3, 3], "tanh", "cauchy", True, 12, seed=3)
    point = point_of(ref)
    matrix = gauss_newton.risk_gradient_gauss_newton(point.problem, point.params)[2]
    second = torch.func.vmap(torch.func.hessian(cauchy))(ref.outputs(ref.vector), ref.y)
    values, vectors = torch.linalg.eigh(second)
    assert values.min() < 0 < values.max()
    positive = vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT
    slopes = ref.jacobian()
    squares = torch.einsum("nip,nij,njq->pq", slopes, positive, slopes) / len(ref.X)
    assert float((matrix - squares).abs().max() / squares.abs().max()) < 1e-13


def test_wide_networks_are_what_the_cases_of_halved_blocks_are_made_of() -> None:
    """So that those above do not come to test the small ones' way when a threshold is moved."""
    nets = [sf.MLP(widths) for widths, _ in SECOND]
    halved = [any(block.halved for block in halves.blocks(net)) for net in nets]
    assert halved == [False] * 6 + [True] * 5
    assert [net.parameter_count > halves.KEPT for net in nets] == [False] * 9 + [True] * 2


# -- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", [True, False, [False, True, False]], ids=str)
def test_a_batch_of_points_is_its_points_one_by_one(loss: str, bias: bool | list[bool]) -> None:
    ref = random_reference([2, 3, 2, 2], "tanh", loss, bias, 5, seed=6)
    problem = problem_of(ref)
    params = problem.net.random_params(seed=1, batch=(2, 3))
    many = sf.PointBatch(problem, params)
    derivatives: list[Callable[[sf.Point | sf.PointBatch], Tensor]] = [
        sf.gradient,
        sf.hessian,
        sf.jacobian,
        lambda p: torch.as_tensor(p.loss, dtype=torch.float64),
        lambda p: sf.layer_block(p, 1),
        lambda p: sf.unit_blocks(p, 0, 2).F,
        lambda p: sf.unit_blocks(p, 1, 0).G,
        lambda p: sf.unit_blocks(p, 1, 1).K,
    ]
    for derivative in derivatives:
        together = derivative(many)
        assert together.shape[:2] == (2, 3)
        for i in range(2):
            for j in range(3):
                one = sf.Point(problem, {key: t[i, j] for key, t in params.items()})
                assert_close(together[i, j], derivative(one), scale=together)


def three_by_two() -> sf.PointBatch:
    problem = problem_of(random_reference([2, 3, 2], "tanh", "squared", samples=5, seed=6))
    return sf.PointBatch(problem, problem.net.random_params(seed=1, batch=(3, 2)))


def test_a_batch_gives_its_points_by_index_and_one_after_the_other() -> None:
    many = three_by_two()
    assert (len(many), many.shape, many.loss.shape) == (6, (3, 2), (3, 2))
    assert repr(many) == "PointBatch(widths=[2, 3, 2], shape=(3, 2))"
    assert [point.loss for point in many] == pytest.approx(many.loss.flatten().tolist(), rel=1e-14)
    for at in ((0, 1), (2, 0), (-1, -2), (torch.tensor(1), torch.tensor(1))):
        one = many[at]
        assert type(one) is sf.Point
        assert all(torch.equal(one.params[key], t[at]) for key, t in many.params.items())
    row = sf.PointBatch(many.problem, {key: t[0] for key, t in many.params.items()})
    assert len(row) == 2
    assert row[1].loss == many[0, 1].loss
    assert sf.judge(row[0]).kind is sf.Kind.NOT_CRITICAL
    none = sf.PointBatch(many.problem, many.problem.net.random_params(0, batch=(0,)))
    assert (len(none), list(none), none.loss.shape) == (0, [], (0,))


@pytest.mark.parametrize(
    "index", [0, (0,), (3, 0), (0, -3), (0, 0, 0), (0, True), (0.0, 1), slice(2), "a"]
)
def test_an_index_that_no_point_has_is_refused(index: Any) -> None:
    with pytest.raises(
        sf.InputError, match=r"no point of a PointBatch of shape \(3, 2\) has index"
    ):
        three_by_two()[index]


def test_one_set_of_parameters_is_a_point_and_many_are_a_batch() -> None:
    many = three_by_two()
    problem, one = many.problem, many[0, 0]
    with pytest.raises(
        sf.InputError,
        match=r"a batch of shape \(3, 2\); PointBatch\(problem, params\) has .* one by one",
    ):
        sf.Point(problem, many.params)
    for given in (one.params, problem.net.to_module(one.params)):
        with pytest.raises(sf.InputError, match=r"those of one; make it Point\(problem, params\)"):
            sf.PointBatch(problem, given)
    broken = {key: t.clone() for key, t in many.params.items()}
    broken["2.bias"][1, 1, 0] = math.nan
    with pytest.raises(
        sf.InputError, match=r"parameter '2\.bias' holds a value that is not finite"
    ):
        sf.PointBatch(problem, broken)
    with pytest.raises(sf.InputError, match="problem must be a Problem"):
        sf.PointBatch(problem.net, many.params)


ONE_POINT: dict[str, Callable[[Any], Any]] = {
    "judge": sf.judge,
    "judge_all": lambda many: sf.judge_all([many]),
    "escape": sf.escape,
    "hessian_operator": sf.hessian_operator,
    "save_point": lambda many: sf.save_point(many, "never.safetensors"),
    "an embedding": lambda many: sf.EmbeddedPoint(many, sf.Replicate(0, 0, [0.5, 0.5])),
    "gradient_basis_model": sf.gradient_basis_model,
    "perturbable_basis_model": lambda many: sf.perturbable_basis_model(many, 0.1),
    "refute_minimum": sf.refute_minimum,
    "locally_linear_model": sf.locally_linear_model,
    "replications": sf.replications,
    "canonical_form": sf.canonical_form,
}


@pytest.mark.parametrize("name", ONE_POINT)
def test_what_takes_one_point_says_what_to_do_with_a_batch(name: str) -> None:
    with pytest.raises(
        sf.InputError,
        match=r"takes one point; this is a PointBatch of shape \(3, 2\); take them one by one",
    ):
        ONE_POINT[name](three_by_two())


# -- chunks of samples ----------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of at most 3 samples everywhere; the list collects how many chunks each call made."""
    made: list[int] = []
    real = sweep.chunks

    def few(samples: int, floats_per_sample: int, *_: Any) -> Iterator[slice]:
        parts = list(real(samples, floats_per_sample, limit=8 * floats_per_sample * 3))
        made.append(len(parts))
        return iter(parts)

    for module in (hessian, gradient, blocks, products):
        monkeypatch.setattr(module, "chunks", few)
    return made


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_over_chunks_of_samples_are_sums_over_samples(
    loss: str, small_chunks: list[int]
) -> None:
    ref = random_reference([2, 3, 2, 2], "sigmoid", loss, True, 10, seed=7)
    point = point_of(ref)
    vector = torch.linspace(-1, 1, len(ref.vector), dtype=torch.float64)
    expected = ref.hessian()
    for found, true in [
        (sf.gradient(point), ref.gradient()),
        (sf.hessian(point), expected),
        (sf.layer_block(point, 1), ref.F_null(1)),
        (sf.unit_blocks(point, 0, 1).K, ref.K(0, 1)),
        (sf.hessian_operator(point).product(vector), expected @ vector),
    ]:
        assert_close(found, true)
    risks = (
        gradient.risk_gradient(point.problem, point.params)[0],
        hessian.risk_gradient_hessian(point.problem, point.params)[0],
    )
    for risk in risks:
        assert float(risk) == pytest.approx(ref.value(), rel=1e-13)
    assert len(small_chunks) == 7
    assert set(small_chunks) == {4}


def test_a_batch_in_chunks_is_its_points_one_by_one(small_chunks: list[int]) -> None:
    ref = random_reference([2, 3, 2], "tanh", "squared", True, 8, seed=8)
    problem = problem_of(ref)
    params = problem.net.random_params(seed=2, batch=(4,))
    many = sf.PointBatch(problem, params)
    for derivative in (sf.gradient, sf.hessian):
        together = derivative(many)
        for k in range(4):
            one = sf.Point(problem, {key: t[k] for key, t in params.items()})
            assert_close(together[k], derivative(one))
    assert set(small_chunks) == {3}


def test_chunks_cover_the_samples_and_hold_what_fits() -> None:
    for samples, floats, limit in [(10, 100, 2400), (1, 1, 8), (7, 10**9, 8), (5, 1, 10**9)]:
        parts = list(sweep.chunks(samples, floats, limit))
        covered = [n for part in parts for n in range(samples)[part]]
        assert covered == list(range(samples))
        size = max(part.stop - part.start for part in parts)
        assert size == 1 or size * floats * 8 <= limit


# -- operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
def test_the_mlp_operator_is_the_hessian(activation: str, loss: str) -> None:
    ref = random_reference([2, 3, 2, 2], activation, loss, True, 7, seed=9)
    operator = sf.hessian_operator(point_of(ref))
    H = ref.hessian()
    assert operator.shape == tuple(H.shape)
    assert_close(operator.gradient(), ref.gradient())
    columns = operator @ np.eye(len(H))
    assert_close(torch.from_numpy(columns), H)
    vector = np.linspace(-1, 2, len(H))
    assert np.allclose(operator.matvec(vector), H.numpy() @ vector, rtol=0, atol=1e-11)
    assert np.allclose(operator.rmatvec(vector), operator.matvec(vector), rtol=0, atol=1e-12)
    assert np.allclose(operator.H @ vector, operator @ vector, rtol=0, atol=1e-12)


class Residual(nn.Module):
    """x + W tanh(Vx), then a readout: not an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 3, bias=False)
        self.norm, self.readout = nn.LayerNorm(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.norm(x + self.outer(torch.tanh(self.inner(x)))))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)
    )


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 2))


def batch_normalised() -> nn.Module:
    norm: Any = nn.BatchNorm1d(4)
    module = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    norm.running_mean.copy_(torch.randn(4, generator=generator))
    norm.running_var.copy_(torch.rand(4, generator=generator) + 0.5)
    return module.eval()


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "residual": (Residual, (7, 3), "squared"),
    "convolutional": (convolutional, (5, 1, 3, 3), "cross_entropy"),
    "embedding": (embedding, (6, 3), "logistic"),
    "batch norm in eval mode": (batch_normalised, (6, 3), "cauchy"),
}


def dense_of_module(
    module: nn.Module, X: Tensor, y: Tensor, loss: str, trained: list[str]
) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian in the named parameters, on a float64 copy."""
    module = copy.deepcopy(module).double()
    start = {key: p.detach() for key, p in module.named_parameters()}

    def risk(vector: Tensor) -> Tensor:
        params, at = dict(start), 0
        for key in trained:
            size = start[key].numel()
            params[key] = vector[at : at + size].reshape(start[key].shape)
            at += size
        outputs = torch.func.functional_call(module, params, (X,))
        return LOSSES[loss](outputs, y).mean()

    vector = torch.cat([start[key].reshape(-1) for key in trained])
    # Reverse mode twice: torch.func.hessian is wrong for LayerNorm (torch 2.13, vmap over jvp).
    H = torch.autograd.functional.hessian(risk, vector)
    return torch.autograd.functional.jacobian(risk, vector), H


def module_case(name: str) -> tuple[nn.Module, Tensor, Tensor, str]:
    make, shape, loss = MODULES[name]
    generator = torch.Generator().manual_seed(11)
    X = torch.randn(shape, generator=generator, dtype=torch.float64)
    if name == "embedding":
        X = torch.randint(0, 5, shape, generator=generator)
    if loss == "cross_entropy":
        y = torch.randint(0, 3, shape[:1], generator=generator)
    else:
        y = torch.rand(shape[0], 2, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(), X, y, loss


@pytest.mark.parametrize("batch_size", [1024, 2])
@pytest.mark.parametrize("name", MODULES)
def test_the_operator_of_any_module_is_its_hessian(name: str, batch_size: int) -> None:
    module, X, y, loss = module_case(name)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    given = cauchy if loss == "cauchy" else loss
    operator = module_hessian_operator(module, X, y, given, batch_size)
    trained = [key for key, _ in module.named_parameters()]
    g, H = dense_of_module(module, X, y, loss, trained)
    assert operator.shape == tuple(H.shape)
    assert_close(torch.from_numpy(operator @ np.eye(len(H))), H)
    assert_close(operator.gradient(), g)
    # The given module is left as it was, dtype and all.
    after = module.state_dict()
    assert all(after[key].dtype == before[key].dtype for key in before)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_parameters_that_need_no_gradient_are_held_fixed() -> None:
    module, X, y, loss = module_case("residual")
    module.inner.weight.requires_grad_(False)
    module.norm.requires_grad_(False)
    trained = ["inner.bias", "outer.weight", "readout.weight", "readout.bias"]
    assert trained == [key for key, p in module.named_parameters() if p.requires_grad]
    g, H = dense_of_module(module, X, y, loss, trained)
    operator = module_hessian_operator(module, X, y, loss)
    assert_close(torch.from_numpy(operator @ np.eye(len(H))), H)
    assert_close(operator.gradient(), g)
    module.requires_grad_(False)
    with refused("no parameter that requires a gradient"):
        module_hessian_operator(module, X, y, loss)


def test_the_operator_of_an_mlp_s_module_is_that_of_its_point() -> None:
    ref = random_reference([2, 3, 2, 2], "sin", "logistic", True, 7, seed=10)
    point = point_of(ref)
    by_module = module_hessian_operator(
        point.problem.net.to_module(ref.params), ref.X, ref.y, "logistic"
    )
    H = sf.hessian(point)
    assert_close(torch.from_numpy(by_module @ np.eye(len(H))), H)


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)],
    ids=["dropout", "batch norm", "batch norm without statistics"],
)
def test_a_module_that_is_random_or_mixes_samples_is_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(3, 4), layer, nn.Tanh(), nn.Linear(4, 2))
    X = torch.linspace(-1, 1, 18).reshape(6, 3) ** 3
    with refused("call module.eval() first"):
        module_hessian_operator(module, X, torch.zeros(6, 2))


def test_a_convolution_with_batch_norm_in_train_mode_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    X = torch.linspace(-1, 1, 45).reshape(5, 1, 3, 3) ** 3
    with refused("call module.eval() first"):
        module_hessian_operator(module, X, torch.zeros(5, 2))
    assert module_hessian_operator(module.eval(), X, torch.zeros(5, 2)).shape[0] > 0


def test_dropout_in_eval_mode_is_nothing() -> None:
    linear = nn.Linear(3, 2)
    X, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 2)
    dropped = module_hessian_operator(nn.Sequential(nn.Dropout(), linear).eval(), X, y)
    bare = module_hessian_operator(nn.Sequential(linear), X, y)
    assert np.array_equal(dropped @ np.eye(8), bare @ np.eye(8))


def test_outputs_that_are_no_rows_are_refused() -> None:
    with refused("to outputs of shape (4,)"):
        module_hessian_operator(
            nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.zeros(6, 3), torch.zeros(6)
        )


# -- bad data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_named_by_row_and_column(bad: float) -> None:
    X = np.zeros((5, 3))
    X[3, 1] = X[4, 0] = bad
    with refused(f"X holds {bad} at row 3, column 1 (counted from 0), one of 2 values"):
        sf.Problem(sf.MLP([3, 2, 1]), X, np.zeros(5))


@pytest.mark.parametrize("shape", [(0, 2), (4,), (4, 3), (2, 2, 2), ()])
def test_inputs_of_the_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with refused(f"X has shape {shape}; a network with 2 input(s) needs (N, 2)"):
        sf.Problem(sf.MLP([2, 2, 1]), np.zeros(shape), np.zeros(4))


def test_a_point_needs_finite_parameters_that_fit() -> None:
    ref = random_reference([2, 3, 1], "tanh", "squared")
    problem = problem_of(ref)
    broken = {key: t.clone() for key, t in ref.params.items()}
    broken["2.weight"][0, 1] = float("nan")
    with refused("parameter '2.weight' holds a value that is not finite"):
        sf.Point(problem, broken)
    with refused("missing keys ['0.bias']"):
        sf.Point(problem, {k: t for k, t in ref.params.items() if k != "0.bias"})


def test_a_point_keeps_its_own_parameters_and_data() -> None:
    ref = random_reference([2, 3, 1], "tanh", "squared")
    X, y = ref.X.clone(), ref.y.clone()
    point = sf.Point(sf.Problem(sf.MLP(ref.widths), X, y), ref.params)
    before = sf.gradient(point)
    for tensor in (X, y, *ref.params.values()):
        tensor.add_(1.0)
    assert torch.equal(sf.gradient(point), before)


@pytest.mark.parametrize(("layer", "unit"), [(1, 0), (-1, 0), (0, 3), (0, -1)])
def test_blocks_of_a_unit_that_does_not_exist_are_refused(layer: int, unit: int) -> None:
    point = point_of(random_reference([2, 3, 1], "tanh", "squared"))
    with refused("does not exist"):
        sf.unit_blocks(point, layer, unit)
    if layer:
        with refused("does not exist"):
            sf.layer_block(point, layer)
