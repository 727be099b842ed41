"""Sample weights: whole ones are repeated rows, in every derivative, verdict, certificate and file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from reference import LOSSES
from semiflat.curvature.acceleration import bending
from semiflat.curvature.blocks import layer_blocks
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.parts import hessian_parts
from semiflat.problem import ProblemBatch

TIMES = torch.tensor([2, 1, 0, 3, 1, 2, 1, 1])


def data(loss: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    X = torch.randn(len(TIMES), 2, generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        return X, torch.randint(0, 3, (len(X),), generator=generator)
    y = torch.randn(len(X), 3, generator=generator, dtype=torch.float64)
    if loss == "logistic":
        return X, torch.sigmoid(y)
    return X, y.sign() if loss.startswith("hinge") else y


def pair(loss: Any, activation: str = "tanh", **more: Any) -> tuple[sf.Problem, sf.Problem]:
    """The problem with weights, and with repeated rows."""
    X, y = data(loss if isinstance(loss, str) else "squared")
    net = sf.MLP([2, 3, 3], activation)
    weighted = sf.Problem(net, X, y, loss, sample_weight=TIMES / 2, **more)
    repeated = sf.Problem(
        net, X.repeat_interleave(TIMES, 0), y.repeat_interleave(TIMES, 0), loss, **more
    )
    return weighted, repeated


def refused(text: str) -> Any:
    return pytest.raises(sf.InputError, match=re.escape(text))


def taught(activation: str = "tanh") -> tuple[sf.Problem, sf.Problem]:
    """The two for targets that no network of two units fits, and more samples than parameters."""
    generator = torch.Generator().manual_seed(1)
    X = 2 * torch.rand(16, 2, generator=generator, dtype=torch.float64) - 1
    y = torch.sin(3 * X[:, 0]) * X[:, 1] + 0.3 * X[:, 0]
    times, net = TIMES.repeat(2), sf.MLP([2, 2, 1], activation)
    weighted = sf.Problem(net, X, y, sample_weight=times / 2)
    return weighted, sf.Problem(net, X.repeat_interleave(times, 0), y.repeat_interleave(times, 0))


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy", "logistic", "log_cosh", "hinge3"])
def test_every_derivative_is_that_of_repeated_rows(loss: str) -> None:
    weighted, repeated = pair(loss, "softplus", weight_decay=0.1)
    params = weighted.net.random_params(3)
    for derivatives in (risk_gradient, risk_gradient_hessian, risk_gradient_gauss_newton):
        for one, other in zip(
            derivatives(weighted, params), derivatives(repeated, params), strict=True
        ):
            close(one, other)
    close(weighted.risk(params), repeated.risk(params))
    for one, other in zip(
        hessian_parts(weighted, params), hessian_parts(repeated, params), strict=True
    ):
        close(one, other)
    direction = weighted.net.random_params(4)
    close(bending(weighted, params, direction), bending(repeated, params, direction))
    blocks = layer_blocks(weighted, params, 0), layer_blocks(repeated, params, 0)
    for name in ("F", "G", "F_null"):
        close(*(getattr(each, name) for each in blocks))
    points = sf.Point(weighted, params), sf.Point(repeated, params)
    vector = torch.arange(float(weighted.net.parameter_count)).double().numpy()
    one, other = (torch.from_numpy(sf.hessian_operator(point) @ vector) for point in points)
    close(one, other)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_risk_is_the_weighted_mean_of_an_independent_loss(loss: str) -> None:
    X, y = data(loss)
    net = sf.MLP([2, 3, 3])
    w = torch.linspace(0.1, 2.0, len(X), dtype=torch.float64)
    problem = sf.Problem(net, X, y, loss, sample_weight=w)

    def risk(vector: Tensor) -> Tensor:
        losses = LOSSES[loss](net.forward(net.unflatten(vector), X), y)
        return (w * losses).sum() / w.sum()

    at = net.flatten(net.random_params(0))
    value, gradient, hessian = risk_gradient_hessian(problem, net.unflatten(at))
    close(value, risk(at))
    close(gradient, torch.func.grad(risk)(at))
    close(hessian, torch.func.hessian(risk)(at))


def test_a_batch_of_data_sets_has_weights_each_its_own() -> None:
    weighted, _ = pair("squared")
    X, y = weighted.X, weighted.y
    other = sf.Problem(weighted.net, X + 1, y, sample_weight=range(1, len(X) + 1))
    plain = sf.Problem(weighted.net, X - 1, y)
    batch = ProblemBatch([weighted, other, plain])
    at = torch.stack([weighted.net.flatten(weighted.net.random_params(k)) for k in range(3)])
    for part, problems in (
        (slice(None), [weighted, other, plain]),
        (slice(1, 3), [other, plain]),
    ):
        params = weighted.net.unflatten(at[part])
        found = risk_gradient_hessian(batch.rows(part), params)
        for k, problem in enumerate(problems):
            alone = risk_gradient_hessian(problem, weighted.net.unflatten(at[part][k]))
            for one, expected in zip(found, alone, strict=True):
                close(one[k], expected)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_verdicts_are_those_of_repeated_rows(activation: str) -> None:
    weighted, repeated = taught(activation)
    result = sf.run_search(weighted, starts=12, processes=1)
    converged = [run for run in result.runs if run.status is sf.Status.CONVERGED][:4]
    assert converged
    for run in converged:
        for embed in (
            None,
            sf.Replicate(0, 0, [0.3, 0.7]),
            sf.Replicate(0, 1, [-0.5, 1.5]) >> sf.NullUnits(0, [0.4]),
        ):
            points = sf.Point(weighted, run.params), sf.Point(repeated, run.params)
            one, other = (sf.judge(p if embed is None else embed(p)) for p in points)
            assert one.kind is other.kind, (one.reason, other.reason)
            assert one.inertia == other.inertia


def test_a_certificate_is_of_the_weighted_risk_and_equals_that_of_repeated_rows(
    tmp_path: Path,
) -> None:
    weighted, repeated = taught()
    point = sf.find_critical_point(weighted, starts=12)
    one = sf.certify(point)
    other = sf.certify(sf.Point(repeated, point.params))
    assert one.certified, one.reason
    assert (one.kind, one.inertia) == (other.kind, other.inertia)
    low, high = one.loss or (0, 0)
    also_low, also_high = other.loss or (0, 0)
    assert max(low, also_low) <= min(high, also_high)
    assert "weighted squared risk" in one.reason
    one.save(tmp_path / "inside.json")
    one.save(tmp_path / "beside.json", data="data.json")
    for name in ("inside.json", "beside.json"):
        assert sf.verify(tmp_path / name).ok
    # Another weight is another risk; none, too.
    document = json.loads((tmp_path / "inside.json").read_text())
    weights = document["problem"]["data"]["weights"]
    for k in range(len(weights)):
        forged = [*weights[:k], (0.75).hex(), *weights[k + 1 :]]
        assert "SHA-256" in changed(document, tmp_path, weights=forged)
    assert "otherwise whether its samples" in changed(document, tmp_path, weighted=False)
    assert "do not fit" in changed(document, tmp_path, weights=weights[1:])
    assert "do not fit" in changed(document, tmp_path, weights=[*weights[1:], "0x0p+0"])


def changed(document: dict[str, Any], folder: Path, **data: Any) -> str:
    """What the checker says of a certificate whose data say something else."""
    problem = {**document["problem"], "data": {**document["problem"]["data"], **data}}
    (folder / "forged.json").write_text(json.dumps({**document, "problem": problem}))
    found = sf.verify(folder / "forged.json")
    assert not found.ok
    return found.reason


def test_weights_that_are_all_alike_are_none() -> None:
    X, y = data("squared")
    net = sf.MLP([2, 3, 3])
    plain = sf.Problem(net, X, y)
    alike = sf.Problem(net, X, y, sample_weight=[0.3] * len(X))
    assert alike.sample_weight is None
    assert alike.data_hash == plain.data_hash


def test_a_saved_point_asks_for_its_weights(tmp_path: Path) -> None:
    weighted, _ = pair("squared")
    X, y = data("squared")
    point = sf.Point(weighted, weighted.net.random_params(0))
    sf.save_point(point, tmp_path / "p.safetensors")
    stored = sf.load_point(tmp_path / "p.safetensors")
    assert stored.point(X, y, sample_weight=TIMES / 2).loss == point.loss
    with refused("with no sample weights) are not those that"):
        stored.point(X, y)
    with refused("with the same sample_weight if it was made with some"):
        stored.point(X, y)
    with refused("with their sample weights) are not those that"):
        stored.point(X, y, sample_weight=TIMES / 2 + 1)


def test_a_search_in_a_folder_goes_on_with_the_same_weights_alone(tmp_path: Path) -> None:
    weighted, _ = pair("squared")
    X, y = data("squared")
    sf.run_search(weighted, starts=2, out=tmp_path, processes=1)
    again = sf.run_search(weighted, starts=2, out=tmp_path, processes=1)
    assert len(again.runs) == 2
    other = sf.Problem(weighted.net, X, y, sample_weight=TIMES / 2 + 1)
    with pytest.raises(sf.InputError, match="data"):
        sf.run_search(other, starts=2, out=tmp_path, processes=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0], "sample_weight has shape (2,); 8 samples need (8,)"),
        ([1.0] * 7 + [-1.0], "sample_weight[7] = -1 is below 0"),
        ([0.0] * 8, "sample_weight is 0 for every sample"),
        ([1.0] * 7 + [float("nan")], "sample_weight holds nan at row 7"),
        (["a"] * 8, "sample_weight is not an array of numbers"),
        (2.0, "sample_weight has shape ()"),
    ],
)
def test_weights_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    X, y = data("squared")
    with refused(message):
        sf.Problem(sf.MLP([2, 3, 3]), X, y, sample_weight=given)


def test_what_counts_all_samples_alike_refuses_them() -> None:
    weighted, _ = pair("squared")
    point = sf.Point(weighted, weighted.net.random_params(0))
    with refused("a gradient basis model counts all samples alike"):
        sf.gradient_basis_gap(point)
    with refused("a PAC-Bayes bound counts all samples alike"):
        sf.pac_bayes_bound(point, sf.Clipped(1.0))
    X, y = data("squared")
    single = sf.Problem(sf.MLP([2, 9, 1]), X, y[:, 0], sample_weight=TIMES + 1)
    with refused("a path counts all samples alike"):
        sf.path_to_zero_loss(sf.Point(single, single.net.random_params(0)))
    with refused("a path counts all samples alike"):
        sf.minimum_at_infinity(single)


def test_data_below_which_nothing_is_critical_count_with_the_least_share() -> None:
    X, y = data("cross_entropy")
    problem = sf.Problem(sf.MLP([2, 3, 3]), X, y, "cross_entropy", sample_weight=TIMES + 1)
    least = 1 / float((TIMES + 1).sum())
    assert problem.no_critical_point_below == pytest.approx(torch.log(torch.tensor(2.0)) * least)
