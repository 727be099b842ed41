"""The experiments of Fukumizu et al. 2019, and the dense reference that all papers' censuses use."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import semiflat as sf
from semiflat.activations import ACTIVATIONS
from semiflat.papers.dense import dense_gradient, dense_hessian

# -- the dense reference ---------------------------------------------------------------------------

SUMS = {
    "squared": lambda f, y: functional.mse_loss(f, y, reduction="sum") / 2,
    "cross_entropy": lambda f, y: functional.cross_entropy(f, y, reduction="sum"),
    "logistic": lambda f, y: functional.binary_cross_entropy_with_logits(f, y, reduction="sum"),
}


def a_point(activation, loss, widths=(2, 3, 2, 2), bias=True, weight_decay=0.0):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(6, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randn(6, widths[-1], generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        y = torch.tensor([0, 1, 1, 0, 1, 0])
    elif loss == "logistic":
        y = torch.sigmoid(y)
    net = sf.MLP(widths, activation, bias)
    problem = sf.Problem(net, X, y, loss, weight_decay=weight_decay)
    return sf.Point(problem, net.random_params(0))


def assert_derivatives_are_those_of_torchs_modules(point):
    """Central differences of the ``nn.Sequential``'s risk and of its gradient by backpropagation."""
    problem = point.problem
    module = problem.net.to_module(point.params)
    parameters = list(module.parameters())
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])

    def risk_and_gradient(at):
        with torch.no_grad():
            for p, piece in zip(parameters, at.split([p.numel() for p in parameters]), strict=True):
                p.copy_(piece.reshape(p.shape))
        f = module(problem.X)
        penalty = sum((p**2).sum() for p in parameters) * problem.weight_decay / 2
        risk = SUMS[problem.loss.name](f, problem.y) / len(f) + penalty
        parts = torch.autograd.grad(risk, parameters)
        return risk.detach(), torch.cat([part.reshape(-1) for part in parts])

    step = 1e-5
    moves = torch.eye(len(vector), dtype=torch.float64) * step
    ahead = [risk_and_gradient(vector + move) for move in moves]
    behind = [risk_and_gradient(vector - move) for move in moves]
    slopes, bends = (
        torch.stack([(a[k] - b[k]) / (2 * step) for a, b in zip(ahead, behind, strict=True)])
        for k in (0, 1)
    )
    torch.testing.assert_close(dense_gradient(point), slopes, rtol=0, atol=1e-9)
    torch.testing.assert_close(dense_hessian(point), bends, rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", SUMS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "leaky_relu(0.3)"])
def test_the_dense_reference_agrees_with_finite_differences(activation, loss):
    assert_derivatives_are_those_of_torchs_modules(a_point(activation, loss))


@pytest.mark.parametrize(
    ("widths", "bias"),
    [((2, 2), True), ((1, 3, 1), False), ((2, 2, 3, 2, 1), (True, False, True, False))],
)
def test_the_dense_reference_knows_every_depth_and_missing_biases(widths, bias):
    assert_derivatives_are_those_of_torchs_modules(
        a_point("tanh", "squared", widths, bias, weight_decay=0.3)
    )


def test_the_dense_reference_says_what_it_does_not_know():
    def square(z):
        return z**2

    with pytest.raises(sf.InputError, match=r"no dense reference for activation .*square"):
        dense_hessian(a_point(square, "squared"))
    point = a_point("tanh", lambda f, y: ((f - y) ** 4).sum())
    with pytest.raises(sf.InputError, match="no dense reference for loss"):
        dense_gradient(point)
