"""K19: gradient basis models, the perturbable basis, residual and locally linear networks.

References share no code with the library: networks are ``nn.Sequential``, Jacobians are automatic, linear
models are fitted by ``torch.linalg.lstsq`` or SciPy's L-BFGS from the definition.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mp
from scipy.optimize import minimize
from torch import Tensor, nn

import semiflat as sf
from known import linear
from reference import LOSSES, Reference, cauchy
from semiflat.evidence import OnData
from semiflat.induced import features as features_room
from semiflat.induced import perturbable as perturbable_room
from semiflat.induced import projection as projection_room
from semiflat.induced import rank as rank_room
from semiflat.induced.features import NetworkFeatures
from semiflat.induced.moves import draw_moves

FEW = settings(max_examples=15, deadline=None, derandomize=True)


def data(seed: int, samples: int, inputs: int, outputs: int, loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn((samples, inputs), generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return X, torch.randint(0, outputs, (samples,), generator=generator)
    y = torch.randn((samples, outputs), generator=generator, dtype=torch.float64)
    return X, (y > 0).double() if loss == "logistic" else y


def a_point(
    seed: int,
    widths: list[int],
    activation: str = "tanh",
    loss: str = "squared",
    samples: int = 12,
    bias: bool = True,
) -> sf.Point:
    net = sf.MLP(widths, activation, bias)
    X, y = data(seed, samples, widths[0], widths[-1], loss)
    return sf.Point(sf.Problem(net, X, y, loss), net.random_params(seed))


def dense_features(point: sf.Point) -> Tensor:
    """∂f(x_ν)/∂θ by automatic differentiation, (N·M, P)."""
    problem = point.problem
    name = problem.net.activations[0].name
    reference = Reference(name, point.params, problem.X, problem.y, problem.loss.name)
    found = torch.func.jacrev(reference.outputs)(reference.vector)
    return found.flatten(0, 1)


def best_linear(columns: Tensor, y: Tensor, loss: str, start: Tensor | None = None) -> float:
    """inf of the mean loss over ``columns @ α`` (N·M, P), from the definition."""
    if loss == "squared":
        target = y.reshape(-1, 1)
        fitted = torch.linalg.lstsq(columns, target, driver="gelsd").solution
        return float((columns @ fitted - target).square().sum()) / 2 / len(y)

    def value(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        f = (columns @ torch.from_numpy(alpha)).reshape(len(y), -1).requires_grad_()
        risk = LOSSES[loss](f, y).mean()
        (slope,) = torch.autograd.grad(risk, f)
        return risk.item(), (columns.T @ slope.reshape(-1)).numpy()

    tight = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-11, "maxcor": 30}
    return minimize(
        value, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B", options=tight
    ).fun


NETWORKS = st.sampled_from([[2, 3, 1], [3, 4, 2], [2, 3, 2, 2], [2, 2, 3, 1]])

# -- Theorem 1 ----------------------------------------------------------------------------------------


@FEW
@given(st.integers(0, 999), NETWORKS, st.sampled_from(["tanh", "gelu", "relu"]), st.booleans())
def test_features_are_the_derivatives_of_the_outputs(seed, widths, activation, bias):
    point = a_point(seed, widths, activation, bias=bias)
    dense, features = dense_features(point), NetworkFeatures(point.problem, point.params)
    alpha, cotangent = torch.randn(features.count).double(), torch.randn(12, widths[-1]).double()
    torch.testing.assert_close(features.matrix(), dense)
    torch.testing.assert_close(features.apply(alpha).reshape(-1), dense @ alpha)
    torch.testing.assert_close(features.adjoint(cotangent), dense.T @ cotangent.reshape(-1))


@FEW
@given(st.integers(0, 999), NETWORKS, st.sampled_from([4, 12, 40]), st.booleans())
def test_the_gap_of_the_squared_loss_is_that_of_least_squares(seed, widths, samples, bias):
    point = a_point(seed, widths, samples=samples, bias=bias)
    model = sf.gradient_basis_model(point)
    dense = dense_features(point)
    lowest = best_linear(dense, point.problem.y, "squared")
    assert abs(model.infimum - lowest) <= 1e-9 * point.loss + 10 * model.noise
    singular = torch.linalg.svdvals(dense)
    ratios = singular / singular[0]
    if not ((ratios > 1e-13) & (ratios < 1e-10)).any():
        assert model.rank == int((ratios > 1e-11).sum())
    assert model.features == dense.shape[1]
    assert model.attained


@FEW
@given(st.integers(0, 99), st.sampled_from(["cross_entropy", "logistic"]))
def test_the_infimum_of_a_loss_of_classes_is_bracketed(seed, loss):
    point = a_point(seed, [2, 3, 2], loss=loss, samples=50)
    model = sf.gradient_basis_model(point)
    lowest = best_linear(dense_features(point), point.problem.y, loss)
    # The reference has features of its own, which differ by rounding: noise says what that may change.
    assert model.infimum - model.error <= lowest
    assert lowest - 1e-6 <= model.infimum <= lowest + model.noise
    assert model.noise <= model.error < 1e-9
    assert model.gap == pytest.approx(point.loss - model.infimum, abs=1e-14)


def test_noise_covers_features_that_are_nearly_dependent():
    # Coefficients reach 25 000 here, so that features off by 1e-16 move the infimum by 1e-12.
    point = a_point(52, [2, 3, 2], loss="cross_entropy", samples=50)
    model = sf.gradient_basis_model(point)
    lowest = best_linear(dense_features(point), point.problem.y, "cross_entropy")
    assert 1e-13 < abs(model.infimum - lowest) < model.noise < 1e-10
    columns = point.problem.X.clone()
    columns[:, 1] = columns[:, 0] + 1e-9 * columns[:, 1]
    noises = []
    for X in (columns, columns * (1 + 2.0**-52)):
        # Differences of numbers so near are exact, and columns made of them have the same linear models.
        apart = torch.stack([X[:, 0], (X[:, 1] - X[:, 0]) * 2.0**30], 1)
        # One output: with two, cross-entropy does not see what both have in common, and where rounding keeps
        # features from having the very same, that is a way to another infimum.
        nearly, well = (
            sf.Problem(sf.MLP([2, 1]), x, point.problem.y.double(), "logistic") for x in (X, apart)
        )
        params = nearly.net.random_params(0)
        one, two = (sf.gradient_basis_model(sf.Point(each, params)) for each in (nearly, well))
        assert two.noise < 1e-13
        assert abs(one.infimum - two.infimum) <= one.noise
        noises.append(one.noise)
    assert 1e-12 < min(noises) < 1e-6


@FEW
@given(st.integers(0, 999), NETWORKS, st.sampled_from(["squared", "cross_entropy", "logistic"]))
def test_lemma2_the_gradient_is_the_slope_of_the_loss_in_the_features(seed, widths, loss):
    assume(loss != "cross_entropy" or widths[-1] > 1)
    point = a_point(seed, widths, loss=loss)
    y, f = (
        point.problem.y,
        point.problem.net.forward(point.params, point.problem.X).requires_grad_(),
    )
    (slope,) = torch.autograd.grad(LOSSES[loss](f, y).mean(), f)
    expected = dense_features(point).T @ slope.reshape(-1)
    found = NetworkFeatures(point.problem, point.params).adjoint(slope)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sf.gradient(point), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_thm1_critical_points_are_optimal_in_their_gradient_basis(hidden, bias):
    case = linear(2, hidden, bias)
    net = sf.MLP([2, hidden, 2], "identity", bias)
    problem = sf.Problem(net, case.X, case.y)
    for critical in case.critical():
        at = sf.Point(problem, case.point(critical.subset, seed=3))
        model = sf.gradient_basis_model(at)
        assert model.gap <= 1e-20, critical
        assert model.loss == pytest.approx(critical.loss)
        off = sf.Point(problem, {k: t + 0.01 for k, t in at.params.items()})
        assert sf.gradient_basis_gap(off) > 1e-7


def taught(loss: str) -> tuple[Tensor, Tensor]:
    """200 samples of two tanh units with noise: their minima are not at infinity."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn((200, 2), generator=generator, dtype=torch.float64)
    hidden = torch.tanh(X @ torch.tensor([[1.5, 1.0], [-1.0, 1.0]], dtype=torch.float64))
    f = hidden @ torch.tensor([[2.0, -2.0], [-1.0, 1.0]], dtype=torch.float64)
    if loss == "squared":
        return X, f + torch.randn((200, 2), generator=generator, dtype=torch.float64)
    return X, torch.multinomial(f.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize(("loss", "hidden"), [("squared", 2), ("squared", 1), ("cross_entropy", 1)])
def test_thm1_at_minima_that_a_search_finds(loss, hidden):
    net = sf.MLP([2, hidden, 2], "tanh")
    found = sf.find_critical_points(sf.Problem(net, *taught(loss), loss), starts=12, seed=0)
    converged = [point for point in found if point.status is sf.Status.CONVERGED]
    point = min(converged, key=lambda point: point.loss)
    model = sf.gradient_basis_model(point)
    assert model.gap <= 10 * model.noise + 1e-18
    assert model.error <= 1e-10
    assert model.attained
    off = sf.Point(point.problem, {k: t + 0.01 for k, t in point.params.items()})
    assert sf.gradient_basis_model(off).critical is False


@FEW
@given(st.integers(0, 999), st.floats(0.01, 100))
def test_the_gap_does_not_depend_on_the_parameterisation(seed, scale):
    assume(abs(scale - 1) > 0.1)
    point = a_point(seed, [2, 3, 2, 1], "relu", samples=30)
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["0.weight"][1] *= scale
    params["0.bias"][1] *= scale
    params["2.weight"][:, 1] /= scale
    rescaled = sf.Point(point.problem, params)
    assert sf.gradient_basis_gap(rescaled) == pytest.approx(sf.gradient_basis_gap(point), rel=1e-8)


def test_an_ill_conditioned_last_layer_costs_no_digits():
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2
    problem = sf.Problem(sf.MLP([1, 8, 1], "relu"), X, y)
    params = problem.net.random_params(0)
    fed = torch.relu(X @ params["0.weight"].T + params["0.bias"])
    sizes = torch.linalg.svdvals(torch.cat([fed, torch.ones_like(X)], 1))
    assert sizes[5] < 1e-3 * sizes[0], "its sixth direction loses three digits"
    assert sizes[6] < 1e-15, "and is the last"
    model = sf.gradient_basis_model(sf.Point(problem, params))
    exact = best_linear(dense_features(sf.Point(problem, params)), y, "squared")
    assert model.infimum == pytest.approx(exact, rel=1e-12)
    assert model.noise < 1e-14


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
@pytest.mark.parametrize("shift", [10, 20, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_saturated_unit_never_makes_the_gap_too_large(activation, shift, seed):
    X = torch.linspace(-2, 2, 14, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 3, 1], activation), X, torch.sin(3 * X) + X**2)
    params = problem.net.random_params(seed)
    params["0.bias"][0] += shift
    model = sf.gradient_basis_model(sf.Point(problem, params))
    exact = gap_in_60_digits(problem, params)
    assert model.gap <= exact + model.noise
    assert model.gap >= 0.98 * exact


def gap_in_60_digits(problem: sf.Problem, params: dict[str, Tensor]) -> float:
    """Of a 1-H-1 network, by Gram–Schmidt."""
    with mp.workdps(60):
        w, b, v, c = (list(map(mp.mpf, params[key].flatten().tolist())) for key in params)
        columns, residual = [], []
        for x, y in zip(problem.X[:, 0].tolist(), problem.y[:, 0].tolist(), strict=True):
            z = [mp.fadd(mp.fmul(wj, x), bj) for wj, bj in zip(w, b, strict=True)]
            if problem.net.activations[0].name == "tanh":
                h, slope = [mp.tanh(each) for each in z], [mp.sech(each) ** 2 for each in z]
            else:
                h = [1 / (1 + mp.exp(-each)) for each in z]
                slope = [each / (1 + mp.exp(zj)) for each, zj in zip(h, z, strict=True)]
            back = [vj * s for vj, s in zip(v, slope, strict=True)]
            columns.append([*(each * x for each in back), *back, *h, mp.mpf(1)])
            residual.append(sum(vj * hj for vj, hj in zip(v, h, strict=True)) + c[0] - y)
        basis: list[list[mp.mpf]] = []
        for column in zip(*columns, strict=True):
            left = [each / mp.norm(column) for each in column]
            for _ in range(2):
                for q in basis:
                    along = mp.fdot(q, left)
                    left = [a - along * e for a, e in zip(left, q, strict=True)]
            size = mp.norm(left)
            if size > mp.mpf(10) ** -35:
                basis.append([each / size for each in left])
        inside = sum(mp.fdot(q, residual) ** 2 for q in basis)
        return float(inside / 2 / len(residual))


@pytest.mark.parametrize(("samples", "limit"), [(6, 450), (60, 3000)])
def test_folding_in_small_chunks_changes_nothing(samples, limit, monkeypatch):
    point = a_point(2, [3, 4, 2], samples=samples)
    module = point.problem.net.to_module(point.params)
    whole = sf.gradient_basis_model(point)
    monkeypatch.setattr(features_room, "ROWS_BYTES", limit)
    monkeypatch.setattr(projection_room, "FOLDED_ENTRIES", 64)
    assert len(list(NetworkFeatures(point.problem, point.params).parts())) > 3
    for chunked in (
        sf.gradient_basis_model(point),
        sf.gradient_basis_model(module, point.problem.X, point.problem.y, batch_size=4),
    ):
        assert chunked.gap == pytest.approx(whole.gap, rel=1e-9)
        assert chunked.rank == whole.rank


# -- the rank, read off pivots or singular values ----------------------------------------------------


RANKS = {
    "full": [1.0] * 8,
    "decaying": [10.0**-k for k in range(8)],
    "deficient": [1.0, 0.5, 0.1, 0.1, 0.01, 0.0, 0.0, 0.0],
    "rounding of zeros": [1.0, 0.5, 0.1, 0.1, 0.01, 1e-17, 1e-17, 1e-17],
    "nearly deficient": [1.0, 0.5, 0.1, 0.1, 0.01, 1e-14, 1e-15, 1e-16],
    "at the cut": [1.0, 0.5, 0.1, 0.1, 0.01, 2e-14, 8e-15, 4e-15],
    "zero": [0.0] * 8,
}


@pytest.mark.parametrize("kind", RANKS)
@pytest.mark.parametrize("shape", [(8, 8), (30, 8), (8, 30)])
@pytest.mark.parametrize("seed", range(3))
def test_pivots_and_singular_values_tell_the_same_rank(kind, shape, seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)

    def turned(n: int) -> Tensor:
        square = torch.randn((n, n), generator=generator, dtype=torch.float64)
        return torch.linalg.qr(square).Q[:, :8]

    sizes = torch.tensor(RANKS[kind], dtype=torch.float64)
    matrix = (turned(shape[0]) * sizes) @ turned(shape[1]).T
    vector = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    rows, count = 40, 32
    slow = rank_room.split(matrix, vector, 0.25, rows, count)
    monkeypatch.setattr(rank_room, "SMALL", 0)
    fast = rank_room.split(matrix, vector, 0.25, rows, count)
    assert fast.rank == slow.rank
    assert fast.inside == pytest.approx(slow.inside, abs=slow.noise + fast.noise + 1e-13)
    whole = float(vector.square().sum()) + 0.25
    for each in (fast, slow):
        assert each.inside + each.rest == pytest.approx(whole, abs=1e-12)
    assert fast.doubtful == pytest.approx(slow.doubtful, abs=1e-12)
    assert fast.cut == pytest.approx(slow.cut, rel=0.05)
    assert slow.noise / 3 <= fast.noise <= 3 * slow.noise
    clear = torch.linalg.svdvals(matrix)
    if not ((clear > slow.cut / 3) & (clear < 3 * slow.cut)).any():
        assert slow.rank == int((clear > slow.cut).sum())


@pytest.mark.parametrize("kind", RANKS)
def test_pivots_decide_only_where_the_rank_leaves_no_doubt(kind, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn((8, 8), generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    matrix = (left * torch.tensor(RANKS[kind], dtype=torch.float64)) @ right
    found = rank_room._by_pivots(matrix, left[:, 0], 0.0, 40, 32)
    assert (found is None) == (kind in ("nearly deficient", "at the cut"))


def test_pivots_take_over_where_singular_vectors_cost_too_much():
    generator = torch.Generator().manual_seed(0)
    net = sf.MLP([20, 40, 1], "relu")
    X = torch.randn((700, 20), generator=generator, dtype=torch.float64)
    problem = sf.Problem(net, X, X[:, 0] * X[:, 1])
    point = sf.Point(problem, net.random_params(0))
    model = sf.gradient_basis_model(point)
    assert min(model.features, 700) > rank_room.SMALL
    dense = dense_features(point)
    lowest = best_linear(dense, problem.y, "squared")
    assert model.infimum == pytest.approx(lowest, rel=1e-10)
    assert model.rank == torch.linalg.matrix_rank(dense, rtol=1e-11)


# -- where the infimum is not attained ----------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
def test_separable_data_have_infimum_zero_which_is_not_attained(loss):
    point = a_point(1, [2, 4, 2], loss=loss, samples=6)
    model = sf.gradient_basis_model(point)
    assert (model.infimum, model.error, model.attained, model.method) == (0, 0, False, "separated")
    assert model.gap == point.loss
    assert best_linear(dense_features(point), point.problem.y, loss) < 1e-6


@pytest.mark.parametrize("loss", ["cross_entropy", "logistic"])
def test_partly_separable_data_lose_the_terms_that_vanish(loss):
    # The third kind of sample lies by itself, the first two on one spot with both targets.
    X = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    net = sf.MLP([1, 2 if loss == "cross_entropy" else 1], "tanh")
    y = torch.tensor([0, 0, 1, 1])
    problem = sf.Problem(net, X, y if loss == "cross_entropy" else y.double(), loss)
    model = sf.gradient_basis_model(sf.Point(problem, net.random_params(0)))
    entropy = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))
    assert model.infimum == pytest.approx(3 / 4 * entropy, abs=1e-12)
    assert (model.attained, model.vanishing) == (False, 1)
    assert model.error < 1e-12


def test_soft_targets_are_attained():
    net = sf.MLP([1, 1])
    X = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    problem = sf.Problem(net, X, [0.2, 0.7], "logistic")
    model = sf.gradient_basis_model(sf.Point(problem, net.random_params(0)))
    exact = -np.mean([p * np.log(p) + (1 - p) * np.log(1 - p) for p in (0.2, 0.7)])
    assert model.infimum == pytest.approx(exact, abs=1e-13)
    assert model.attained


def test_products_alone_reach_the_same_infimum(monkeypatch):
    from semiflat.induced import basis

    point = a_point(3, [2, 2, 3], loss="cross_entropy", samples=60)
    dense = sf.gradient_basis_model(point)
    monkeypatch.setattr(basis, "DENSE_SIDE", 1)
    free = sf.gradient_basis_model(point)
    assert free.rank is None
    assert free.infimum - free.error <= dense.infimum <= free.infimum + 1e-12
    assert free.error < 1e-6


# -- modules ------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return torch.cat([self.one(h), self.two(h)], dim=1)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_a_module_has_the_gap_of_its_network(loss):
    point = a_point(7, [2, 3, 2], loss=loss, samples=40)
    module = point.problem.net.to_module(point.params).float().double()
    narrow = sf.Point(point.problem, dict(module.state_dict()))
    found = sf.gradient_basis_model(module, point.problem.X, point.problem.y, loss)
    expected = sf.gradient_basis_model(narrow)
    assert found.gap == pytest.approx(expected.gap, rel=1e-9)
    assert found.rank == expected.rank


def test_several_heads_are_a_linear_last_layer_and_a_last_activation_is_none():
    X, y = data(0, 20, 2, 2, "squared")
    torch.manual_seed(0)
    heads = TwoHeads()
    assert 0 < sf.gradient_basis_gap(heads, X, y) < 2
    squashed = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Tanh())
    with pytest.raises(sf.InputError, match="not linear in the parameters of any"):
        sf.gradient_basis_gap(squashed, X, y)
    frozen = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    frozen[2].bias.requires_grad_(False)
    with pytest.raises(sf.InputError, match="weight and bias trained"):
        sf.gradient_basis_gap(frozen, X, y)


def test_bad_input_of_gradient_basis_models():
    point = a_point(0, [2, 3, 1])
    module = point.problem.net.to_module(point.params)
    with pytest.raises(sf.InputError, match="given besides is X, loss"):
        sf.gradient_basis_gap(point, point.problem.X, loss="squared")
    with pytest.raises(sf.InputError, match="give X and y"):
        sf.gradient_basis_gap(module)
    with pytest.raises(sf.InputError, match=r"expected a Point or an nn\.Module, not str"):
        sf.gradient_basis_gap("point")
    batch = sf.PointBatch(point.problem, point.problem.net.random_params(0, batch=(3,)))
    with pytest.raises(sf.InputError, match=r"one point; this is a PointBatch of shape \(3,\)"):
        sf.gradient_basis_gap(batch)
    callable_loss = sf.Problem(point.problem.net, point.problem.X, point.problem.y, cauchy)
    with pytest.raises(sf.InputError, match="pass convex=True"):
        sf.gradient_basis_gap(sf.Point(callable_loss, point.params))


def test_more_than_is_held_is_refused_in_one_line(monkeypatch):
    point = a_point(0, [2, 3, 2], samples=40)
    module = point.problem.net.to_module(point.params)
    monkeypatch.setattr(projection_room, "SMALLER_SIDE", 10)
    line = "80 outputs on the data and 17 features are too many to project on: the smaller number must be"
    for arguments in ((point,), (module, point.problem.X, point.problem.y)):
        with pytest.raises(sf.InputError, match=line) as caught:
            sf.gradient_basis_gap(*arguments)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(perturbable_room, "UNION_ENTRIES", 1000)
    with pytest.raises(sf.InputError, match="more than 1000 numbers; give fewer directions"):
        sf.perturbable_basis_gap(point)


def test_a_loss_the_user_vouches_for_is_minimised():
    point = a_point(4, [2, 2, 1], samples=30)

    def huber(f: Tensor, y: Tensor) -> Tensor:
        return torch.sqrt(1 + (f - y) ** 2).sum()

    problem = sf.Problem(point.problem.net, point.problem.X, point.problem.y, huber)
    model = sf.gradient_basis_model(sf.Point(problem, point.params), convex=True)
    columns = dense_features(point)

    def value(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        residual = columns.numpy() @ alpha - point.problem.y.numpy()[:, 0]
        root = np.sqrt(1 + residual**2)
        return root.mean(), columns.numpy().T @ (residual / root) / len(root)

    lowest = minimize(value, np.zeros(columns.shape[1]), jac=True, tol=1e-14).fun
    assert model.infimum == pytest.approx(lowest, abs=1e-9)


def far_out(weight: float) -> sf.Point:
    X = [[-2.0], [-1.0], [1.0], [2.0], [0.5]]
    problem = sf.Problem(sf.MLP([1, 1]), X, [0.0, 1, 0, 1, 1], "logistic")
    return sf.Point(
        problem, {"0.weight": torch.tensor([[weight]]).double(), "0.bias": torch.zeros(1).double()}
    )


@pytest.mark.parametrize("weight", [-30.0, -40.0, -1000.0, 1000.0])
def test_a_loss_that_is_straight_to_the_last_digit_is_still_minimised(weight):
    model = sf.gradient_basis_model(far_out(weight))
    near = sf.gradient_basis_model(far_out(0.0))
    assert model.infimum == pytest.approx(near.infimum, abs=1e-12)
    assert model.error < 1e-10
    assert model.gap > 1
    generator = torch.Generator().manual_seed(0)
    X = torch.randn((40, 3), generator=generator).double()
    y = torch.randint(0, 3, (40,), generator=generator)
    module = torch.nn.Linear(3, 3).double()
    small = sf.gradient_basis_model(module, X, y, "cross_entropy")
    with torch.no_grad():
        module.weight *= weight
    large = sf.gradient_basis_model(module, X, y, "cross_entropy")
    assert large.infimum == pytest.approx(small.infimum, abs=1e-11)
    assert max(large.error, small.error) < 1e-10


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_noise_covers_outputs_that_are_rounded(offset):
    generator = torch.Generator().manual_seed(0)
    x = torch.linspace(-1, 1, 50).double()[:, None]
    y = offset + x + torch.randn((50, 1), generator=generator).double()
    point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1]), x, y), starts=1, seed=0)
    model = sf.gradient_basis_model(point)
    w, b = (Fraction(float(tensor)) for tensor in point.params.values())
    xs, ys = ([Fraction(value) for value in column[:, 0].tolist()] for column in (x, y))
    rest = [w * each + b - target for each, target in zip(xs, ys, strict=True)]
    middle = sum(xs) / 50
    along = sum((each - middle) * r for each, r in zip(xs, rest, strict=True))
    spread = sum((each - middle) ** 2 for each in xs)
    exact = float((sum(rest) ** 2 / 50 + along**2 / spread) / 100)
    assert abs(model.gap - exact) <= model.noise
    assert model.critical is None
    assert sf.judge(point).kind is sf.Kind.STRICT_MINIMUM


@pytest.mark.parametrize("activation", ["tanh", "softplus", "leaky_relu"])
def test_exact_fits_are_refuted_by_nothing(activation):
    net = sf.MLP([1, 3, 1], activation)
    params = net.random_params(1)
    X = torch.linspace(-1, 1, 20).double()[:, None]
    noise = 1e-16 * torch.randn((20, 1), generator=torch.Generator().manual_seed(0)).double()
    fit = sf.Point(sf.Problem(net, X, net.forward(params, X) + noise), params)
    assert 0 < fit.loss < 1e-30
    assert sf.gradient_basis_model(fit).critical is None
    assert not sf.locally_linear_model(fit).refuted
    assert not sf.refute_minimum(fit).refuted
    W, R, x, z, _ = residual(0, 2, 3, 2, 2)
    found = sf.resnet_model(W, R, x, z, x @ W.T + z @ (W @ R).T)
    assert 0 < found.loss < 1e-28
    assert not found.refuted
    assert found.to_json()["minimum"]["gap"] == found.gap


@pytest.mark.parametrize("power", [-20, -12, 0, 12, 20])
def test_a_rescaled_minimum_is_not_refuted(power):
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2
    point = sf.find_critical_point(sf.Problem(sf.MLP([1, 2, 1], "relu"), X, y), starts=8, seed=0)
    scale = 2.0**power
    params = {
        "0.weight": point.params["0.weight"] * scale,
        "0.bias": point.params["0.bias"] * scale,
        "2.weight": point.params["2.weight"] / scale,
        "2.bias": point.params["2.bias"],
    }
    found = sf.refute_minimum(sf.Point(point.problem, params))
    assert not found.refuted
    model = sf.gradient_basis_model(sf.Point(point.problem, params))
    assert model.gap == pytest.approx(sf.gradient_basis_gap(point), rel=1e-6)
    assert model.critical is None


@pytest.mark.parametrize("function", [torch.relu, torch.nn.functional.elu, torch.abs])
def test_nothing_follows_from_moves_with_a_function_that_may_not_be_analytic(function):
    X = (torch.arange(-8, 9).double() / 8)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], function), X, 3 * X**2)
    flat = torch.tensor([0.5, 3, 0, float(problem.y.mean())]).double()
    point = sf.Point(problem, problem.net.unflatten(flat))
    found = sf.refute_minimum(point)
    assert not found.refuted
    assert "not known to be analytic" in found.reason
    with pytest.raises(sf.InputError, match="not known to be analytic"):
        sf.perturbable_basis_gap(point)


# -- Theorem 2 and Lemma 3 ----------------------------------------------------------------------------


def even_data(inputs: int, samples: int = 12) -> tuple[Tensor, Tensor]:
    """Data with Σ(y − ȳ)x = 0 and y not constant."""
    half = torch.randn((samples // 2, inputs), generator=torch.Generator().manual_seed(4)).double()
    return torch.cat([half, -half]), torch.cat([half, -half]).square().sum(1, keepdim=True)


def bias_only(widths: list[int]) -> sf.Point:
    X, y = even_data(widths[0])
    net = sf.MLP(widths, "tanh")
    params = {key: torch.zeros(shape).double() for key, shape in net.shapes.items()}
    params[list(params)[-1]] = y.mean(0)
    return sf.Point(sf.Problem(net, X, y), params)


@pytest.mark.parametrize("widths", [[2, 1, 1], [2, 3, 1], [1, 2, 2, 1], [2, 1, 2, 1]])
def test_lemma3_refutes_where_the_hessian_is_undecided(widths):
    point = bias_only(widths)
    values = torch.linalg.eigvalsh(sf.hessian(point))
    assert values.min() >= -1e-15, "positive semidefinite"
    assert point.gradient_norm < 1e-15
    assert sf.judge(point).kind is sf.Kind.UNDECIDED
    found = sf.refute_minimum(point)
    assert (found.refuted, found.by) == (True, "gradient")
    assert_refuted(point, found)


def assert_refuted(point: sf.Point, found: sf.Refutation) -> None:
    """What a refutation says, by the definition: same outputs all along, and lower near its end."""
    problem, net = point.problem, point.problem.net
    outputs = net.forward(point.params, problem.X)
    assert found.descent is not None
    reach = net.flatten(point.params)
    if found.direction is not None:
        v = net.flatten(found.direction)
        assert float(v.norm()) == pytest.approx(1)
        for part in (0.1, 0.37, 1.0):
            there = net.unflatten(reach + part * found.size * v)
            torch.testing.assert_close(net.forward(there, problem.X), outputs, rtol=0, atol=1e-11)
        reach = reach + found.size * v
    lengths = torch.logspace(-8, 1, 80, dtype=torch.float64)
    way = reach + lengths[:, None] * net.flatten(found.descent)
    assert float(problem.risk(net.unflatten(way)).min()) < point.loss - found.fall / 2 < point.loss
    assert found.fall > 0


def share_of_zero(share: float) -> sf.EmbeddedPoint:
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2
    point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, y), starts=8, seed=0)
    return sf.Replicate(0, 0, [share, 1 - share])(point)


def test_lemma3_refutes_a_share_of_exactly_zero_that_the_hessian_leaves_open():
    point = share_of_zero(0.0).materialize()
    assert torch.linalg.eigvalsh(sf.hessian(point)).min() > -1e-12
    assert sf.judge(point).kind is sf.Kind.UNDECIDED
    found = sf.refute_minimum(point)
    assert (found.refuted, found.by) == (True, "gradient"), found.reason
    assert found.family == "units of hidden layer 0 that nothing hears"
    assert_refuted(point, found)
    assert all(sighting.value > 10 * sighting.floor for sighting in found.seen)


@pytest.mark.parametrize(("activation", "share"), [("gelu", 0.3), ("gelu", 0.01), ("relu", 0.4)])
def test_lemma3_gradients_vanish_wherever_a_minimum_can_be_moved_to(activation, share):
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2
    problem = sf.Problem(sf.MLP([1, 1, 1], activation), X, y)
    narrow = sf.find_critical_point(problem, starts=8, seed=0)
    wide = sf.Replicate(0, 0, [share, 1 - share])(narrow)
    assert sf.judge(wide).kind is sf.Kind.MINIMUM
    net, at = wide.problem.net, wide.problem.net.flatten(wide.params)
    moves = list(draw_moves(OnData(wide.problem, wide.params), 3, 3))
    assert len(moves) >= 6
    f = net.forward(wide.params, X).requires_grad_()
    (slope,) = torch.autograd.grad(LOSSES["squared"](f, wide.problem.y).mean(), f)
    for move in moves:
        for epsilon in (0.01, 0.1, 1.0):
            there = sf.Point(wide.problem, net.unflatten(at + epsilon * move.step))
            reached = dense_features(there).T @ slope.reshape(-1)
            assert float(reached.abs().max()) < 1e-12, (move.family, epsilon)


@FEW
@given(st.integers(0, 99), st.sampled_from(["squared", "cross_entropy"]))
def test_lemma1_more_directions_never_raise_the_infimum(seed, loss):
    point = a_point(seed, [2, 3, 2], loss=loss, samples=25)
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["2.weight"][:, :2] = 0
    at = sf.Point(point.problem, params)
    generator = torch.Generator().manual_seed(seed)
    directions = []
    for unit in (0, 1):
        move = {key: torch.zeros_like(tensor) for key, tensor in params.items()}
        move["0.weight"][unit] = torch.randn(2, generator=generator, dtype=torch.float64)
        directions.append(move)
    one, other = (sf.perturbable_basis_model(at, [each]) for each in directions)
    both = sf.perturbable_basis_model(at, directions)
    assert both.infimum - both.error <= min(one.infimum, other.infimum)
    assert max(one.infimum, other.infimum) <= sf.gradient_basis_model(at).infimum + one.noise
    net, flat = point.problem.net, point.problem.net.flatten(params)
    points = [at] + [
        sf.Point(point.problem, net.unflatten(flat + net.flatten(move))) for move in directions
    ]
    union = torch.cat([dense_features(each) for each in points], 1)
    if both.infimum > 0.01:
        lowest = best_linear(union, point.problem.y, loss)
        assert both.infimum == pytest.approx(lowest, abs=1e-6)


@pytest.mark.parametrize("share", [0.3, 1e-2, 1e-6, 1e-9, 1e-12, 1e-14, 1e-16])
def test_thm2_never_refutes_a_minimum_however_small_its_share(share):
    wide = share_of_zero(share)
    assert sf.judge(wide).kind is sf.Kind.MINIMUM
    found = sf.refute_minimum(wide)
    assert not found.refuted, found.reason
    assert sum(found.tried.values()) > 0


@pytest.mark.parametrize("hidden", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_thm2_holds_at_the_global_minima_of_linear_networks(hidden, bias):
    case = linear(2, hidden, bias)
    net = sf.MLP([2, hidden, 2], "identity", bias)
    problem = sf.Problem(net, case.X, case.y)
    for critical in case.critical():
        at = sf.Point(problem, case.point(critical.subset, seed=1))
        found = sf.refute_minimum(at)
        assert found.refuted == (critical.negative > 0), (critical, found.reason)
        if found.refuted:
            assert_refuted(at, found)
        else:
            model = sf.perturbable_basis_model(at)
            assert model.gap <= 10 * model.noise + 1e-18


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_minima_that_a_search_finds_are_not_refuted(activation, seed):
    X = torch.cat([torch.linspace(-2, 2, 25)[:, None], torch.ones(25, 1)], dim=1).double()
    y = torch.sin(2 * X[:, 0]) + 0.1 * torch.cos(9 * X[:, 0])
    problem = sf.Problem(sf.MLP([2, 2, 1], activation), X, y)
    points = sf.run_search(problem, starts=6, seed=seed).points
    if not points:
        pytest.skip("no finite critical point found")
    for point in points:
        verdict = sf.judge(point)
        if verdict.kind in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM):
            found = sf.refute_minimum(point)
            assert not found.refuted, (verdict.kind, found.reason)


@FEW
@given(st.integers(0, 999), st.sampled_from(["tanh", "relu", "identity"]))
def test_moves_keep_the_outputs_on_the_whole_segment(seed, activation):
    point = a_point(seed, [3, 4, 4, 2], activation, samples=4)
    net, X = point.problem.net, point.problem.X
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["2.weight"][:, 1] = 0
    params["4.weight"][:, 2] = 0
    at = sf.Point(point.problem, params)
    flat, outputs = net.flatten(params), net.forward(params, X)
    moves = list(draw_moves(OnData(at.problem, at.params), seed, 2))
    assert {move.family for move in moves} >= {"units of hidden layer 0 that nothing hears"}
    module = net.to_module(params)
    for move in moves:
        for part in (0.05, 0.6, 1.0):
            module.load_state_dict(net.unflatten(flat + part * move.step))
            torch.testing.assert_close(module(X).detach(), outputs, rtol=0, atol=1e-11)


@FEW
@given(st.integers(0, 999))
def test_thm2_inequalities_between_loss_gradient_basis_and_perturbable_basis(seed):
    point = a_point(seed, [2, 3, 1], samples=20)
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["2.weight"][:, 0] = 0
    at = sf.Point(point.problem, params)
    one, many = sf.gradient_basis_model(at), sf.perturbable_basis_model(at, seed=seed)
    assert at.loss >= one.infimum >= many.infimum - many.noise >= -1e-9
    assert many.features > one.features


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = torch.nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.last(self.attend(x, x, x, need_weights=False)[0].mean(1))


def test_attention_has_a_gap():
    torch.manual_seed(0)
    module, X = Attention().double(), torch.randn(120, 3, 4).double()
    y = torch.randn(120, 1).double()
    gap = sf.gradient_basis_gap(module, X, y)
    parameters = dict(module.named_parameters())
    rows = torch.func.jacrev(lambda p: torch.func.functional_call(module, p, (X,)))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = rows(parameters)
    features = torch.cat([found[key].reshape(120, -1) for key in parameters], 1).detach()
    assert best_linear(features, y, "squared") == pytest.approx(
        float((module(X) - y).detach().square().mean()) / 2 - gap, abs=1e-12
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, m: sf.gradient_basis_gap(m, torch.zeros(0, 2), []), "at least one sample"),
        (lambda p, m: sf.gradient_basis_gap(m, "abc", [1.0]), "X is not an array of numbers"),
        (lambda p, m: sf.gradient_basis_gap(m, torch.ones(2, 2), [1, math.nan]), "y holds nan at row 1"),
        (lambda p, m: sf.gradient_basis_gap(m, torch.ones(2, 2), [1, 2], batch_size=0), "batch_size must be"),
        (lambda p, m: sf.gradient_basis_gap(torch.nn.Sequential(m, Single()), torch.ones(2, 2), [1, 2]),
         "outputs are float32 though its parameters are float64"),
        (lambda p, m: sf.refute_minimum(p, seed="a"), "seed must be a whole number of at least 0, not 'a'"),
        (lambda p, m: sf.refute_minimum(p, seed=2**70), "seed must be at most"),
        (lambda p, m: sf.refute_minimum(p, tolerance=-1), "tolerance must be positive and finite"),
        (lambda p, m: sf.refute_minimum(single_precision(p)), "a gradient basis needs float64"),
        (lambda p, m: sf.perturbable_basis_gap(p, 3), "directions must be a list of them, not 3"),
        (lambda p, m: sf.perturbable_basis_gap(p, [None]), "a direction is not an array of numbers"),
        (lambda p, m: sf.perturbable_basis_gap(p, size=math.nan), "size must be positive and finite"),
        (lambda p, m: sf.perturbable_basis_gap(p, draws=-1), "draws must be a whole number"),
        (lambda p, m: sf.resnet_model(None, [[1.0]], [[1.0]], [[1.0]], [1.0]), "W is not an array"),
        (lambda p, m: sf.resnet_model([[1.0]], [[1.0]], [[1.0]], [[1.0]], [math.nan]), "y holds nan"),
        (lambda p, m: sf.locally_linear_model(p, depth=True), "depth True is out of range"),
    ],
)  # fmt: skip
def test_wrong_arguments_get_one_line(call, message):
    point, module = a_point(0, [2, 3, 1]), torch.nn.Linear(2, 1)
    with pytest.raises(sf.InputError, match=message) as caught:
        call(point, module)
    assert "\n" not in str(caught.value)


class Single(torch.nn.Module):
    def forward(self, x):
        return x.float()


def single_precision(point):
    problem = point.problem
    other = sf.Problem(problem.net, problem.X, problem.y, dtype=torch.float32)
    return sf.Point(other, {key: tensor.float() for key, tensor in point.params.items()})


def test_bad_input_of_refutations():
    point = a_point(0, [2, 3, 1])
    decayed = sf.Point(point.problem.with_weight_decay(0.1), point.params)
    with pytest.raises(
        sf.InputError, match=r"weight decay 0\.1 moves that keep the outputs change the risk"
    ):
        sf.refute_minimum(decayed)
    with pytest.raises(sf.InputError, match="draws must be a whole number of at least 1, not 0"):
        sf.refute_minimum(point, draws=0)
    with pytest.raises(sf.InputError, match="changes the outputs on the data"):
        sf.perturbable_basis_gap(point, [torch.ones(13)])
    with pytest.raises(sf.InputError, match=r"shape \(3,\)"):
        sf.perturbable_basis_gap(point, [torch.ones(3)])
    found = sf.refute_minimum(point)
    assert (found.refuted, found.size, found.direction) == (True, 0.0, None)
    assert "not a critical point" in found.reason
    with pytest.raises(TypeError, match="not true or false by itself"):
        bool(found)
    kinked = sf.Point(
        sf.Problem(sf.MLP([1, 1, 1], "relu"), [[0.0], [1.0]], [0.0, 1.0]),
        {k: torch.zeros(s) for k, s in sf.MLP([1, 1, 1]).shapes.items()},
    )
    assert "is at its kink" in sf.refute_minimum(kinked).reason


# -- Theorem 3 ----------------------------------------------------------------------------------------


def residual(seed: int, d_y: int, d_x: int, d_z: int, rank: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    W = draw(d_y, rank) @ draw(rank, d_x)
    return W, draw(d_x, d_z), draw(20, d_x), draw(20, d_z), draw(20, d_y)


@FEW
@given(
    st.integers(0, 999), st.sampled_from([(1, 2, 2), (2, 3, 2), (2, 2, 4), (3, 3, 3)]), st.data()
)
def test_thm3_the_perturbed_basis_spans_the_linear_model_of_a_residual_network(seed, sizes, drawn):
    d_y, d_x, d_z = sizes
    rank = drawn.draw(st.integers(0, d_y))
    W, R, x, z, y = residual(seed, d_y, d_x, d_z, rank)
    found = sf.resnet_model(W, R, x, z, y)
    columns = torch.cat([x, z], 1)
    whole = torch.kron(columns, torch.eye(d_y).double())
    lowest = best_linear(whole, y, "squared")
    assert found.minimum.infimum == pytest.approx(lowest, rel=1e-9)
    assert found.rank == rank
    assert len(found.directions) == (0 if rank == d_y else sizes[2])

    def outputs(theta: Tensor) -> Tensor:
        w, r = theta.split([W.numel(), R.numel()])
        return ((x + z @ r.reshape(R.shape).T) @ w.reshape(W.shape).T).reshape(-1)

    here = torch.cat([W.reshape(-1), R.reshape(-1)])
    points = [here] + [
        here + torch.cat([torch.zeros(W.numel()).double(), v.reshape(-1)]) for v in found.directions
    ]
    for there in points:
        torch.testing.assert_close(outputs(there), outputs(here), rtol=0, atol=1e-12)
    basis = torch.cat([torch.func.jacrev(outputs)(there) for there in points], 1)
    fitted = basis @ torch.linalg.lstsq(basis, whole, driver="gelsd").solution
    torch.testing.assert_close(fitted, whole, rtol=0, atol=1e-8)
    assert found.spanned
    assert found.refuted, "these points are nowhere near the linear model"


def test_thm3_a_fitted_residual_network_is_not_refuted_and_bad_shapes_are():
    W, R, x, z, y = residual(0, 2, 3, 2, 2)
    fitted = torch.linalg.lstsq(torch.cat([x, z], 1), y).solution.T  # (d_y, d_x + d_z)
    W = fitted[:, :3]
    R = torch.linalg.pinv(W) @ fitted[:, 3:]
    found = sf.resnet_model(W, R, x, z, y)
    assert not found.refuted
    assert found.gap < 1e-15
    with pytest.raises(sf.InputError, match="K19 Thm 3 needs d_y ≤ min"):
        sf.resnet_model(*residual(0, 3, 3, 2, 1))
    with pytest.raises(sf.InputError, match="do not fit"):
        sf.resnet_model(W, R.T, x, z, y)
    with pytest.raises(sf.InputError, match="R must be a matrix"):
        sf.resnet_model(W, torch.ones(3), x, z, y)


def test_thm3_with_classes():
    W, R, x, z, _ = residual(1, 2, 2, 2, 1)
    y = torch.arange(20) % 2
    found = sf.resnet_model(W, R, x, z, y, "cross_entropy")
    whole = torch.kron(torch.cat([x, z], 1), torch.eye(2).double())
    lowest = best_linear(whole, y, "cross_entropy")
    assert found.minimum.infimum == pytest.approx(lowest, abs=1e-9)


# -- Theorem 4 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[2, 2, 2], [3, 2, 3, 2], [2, 3, 4, 3, 1]])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zeroed", ["none", "last", "first", "all"])
def test_thm4_the_perturbed_basis_of_a_deep_linear_network_spans_all_linear_maps(
    widths, bias, zeroed
):
    point = a_point(1, widths, "identity", samples=15, bias=bias)
    keys = [key for key in point.params if key.endswith("weight")]
    chosen = {"none": [], "last": keys[-1:], "first": keys[:1], "all": keys}[zeroed]
    params = {k: 0 * t if k in chosen else t for k, t in point.params.items()}
    at = sf.Point(point.problem, params)
    found = sf.locally_linear_model(at)
    assert (found.depth, found.smallest) == (0, 0)
    assert found.spanned, found.outside
    X, y = point.problem.X, point.problem.y
    columns = torch.cat([X, torch.ones(15, 1).double()], 1) if bias else X
    lowest = best_linear(torch.kron(columns, torch.eye(widths[-1]).double()), y, "squared")
    assert found.minimum.infimum == pytest.approx(lowest, rel=1e-9)
    net = point.problem.net
    flat, outputs = net.flatten(params), net.forward(params, X)
    features = [dense_features(at)]
    for direction in found.directions:
        there = net.unflatten(flat + net.flatten(direction))
        torch.testing.assert_close(net.forward(there, X), outputs, rtol=0, atol=1e-11)
        features.append(dense_features(sf.Point(point.problem, there)))
    basis = torch.cat(features, 1)
    whole = torch.kron(columns, torch.eye(widths[-1]).double())
    fitted = basis @ torch.linalg.lstsq(basis, whole, driver="gelsd").solution
    torch.testing.assert_close(fitted, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("hidden", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_thm4_every_local_minimum_of_a_linear_network_is_global(hidden, bias):
    case = linear(2, hidden, bias)
    problem = sf.Problem(sf.MLP([2, hidden, 2], "identity", bias), case.X, case.y)
    for critical in case.critical():
        at = sf.Point(problem, case.point(critical.subset, seed=2))
        found = sf.locally_linear_model(at)
        assert found.refuted == (critical.negative > 0), critical
        assert found.gap == pytest.approx(critical.loss - case.critical()[0].loss, abs=1e-12)


def test_thm4_units_that_are_active_on_every_sample_are_linear():
    net = sf.MLP([2, 3, 2, 1], "relu")
    X, y = data(0, 10, 2, 1, "squared")
    params = net.random_params(0)
    params["0.bias"] = torch.tensor([9.0, 9.0, -9.0]).double()
    params["2.weight"] = torch.tensor([[1.0, 0.5, 1.0], [0.3, 0.0, -1.0]]).double()
    params["2.bias"] = torch.tensor([5.0, -20.0]).double()
    found = sf.locally_linear_model(sf.Point(sf.Problem(net, X, y), params))
    # Unit 0 also feeds unit 1 of the layer above, which is dead: condition 3.
    assert found.linear == ((1,), (0,))
    assert (found.smallest, found.spanned, found.refuted) == (0, True, True)
    higher = sf.locally_linear_model(sf.Point(sf.Problem(net, X, y), params), depth=2)
    assert higher.depth == 2
    assert higher.minimum.infimum >= found.minimum.infimum
    curved = a_point(0, [2, 3, 2, 1])
    assert sf.locally_linear_model(curved).depth == 2
    with pytest.raises(sf.InputError, match="K19 Thm 4 holds from depth 2 to 2"):
        sf.locally_linear_model(curved, depth=1)
    with pytest.raises(sf.InputError, match="weight decay"):
        sf.locally_linear_model(sf.Point(curved.problem.with_weight_decay(0.1), curved.params))


def test_slip_in_thm4_the_blocks_must_be_those_of_all_linear_units():
    # K19 §A.5 splits W^(l) after the first d_y units and drops what they feed to the others (ξ). In a
    # linear network wider than its output that changes the function.
    point = a_point(3, [2, 3, 3, 1], "identity", samples=10, bias=False)
    W1, W2, W3 = (point.params[key] for key in ("0.weight", "2.weight", "4.weight"))
    x = point.problem.X.T
    f = W3 @ W2 @ W1 @ x
    papers = W3[:, :1] @ W2[:1] @ (W1 @ x) + W3[:, 1:] @ W2[1:, 1:] @ (W1[1:] @ x)
    whole = papers + W3[:, 1:] @ W2[1:, :1] @ (W1[:1] @ x)
    torch.testing.assert_close(whole, f)
    assert (papers - f).abs().max() > 0.1
