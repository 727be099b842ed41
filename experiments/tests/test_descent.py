"""Gradients of many networks at once are the dense ones."""

from __future__ import annotations

import pytest
import torch

import semiflat as sf
from semiflat_experiments.dense import dense_gradient
from semiflat_experiments.descent import gradients


def a_problem(activation, bias=True, decay=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    return sf.Problem(sf.MLP([2, 3, 2], activation, [bias, True]), X, y, weight_decay=decay)


def dense(problem, at):
    return torch.stack([dense_gradient(sf.Point(problem, problem.net.unflatten(v))) for v in at])


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_the_dense_ones_with_decay(activation, bias):
    problem = a_problem(activation, bias, decay=0.3)
    at = problem.net.flatten(problem.net.random_params(0, batch=(4,)))
    torch.testing.assert_close(gradients(problem, at), dense(problem, at), rtol=0, atol=1e-13)


def test_data_and_shares_of_its_own_are_each_networks():
    problems = [a_problem("tanh", seed=seed) for seed in (0, 1)]
    net = problems[0].net
    at = net.flatten(net.random_params(0, batch=(2,)))
    data = torch.stack([p.X for p in problems]), torch.stack([p.y for p in problems])
    both = torch.cat([dense(p, v[None]) for p, v in zip(problems, at, strict=True)])
    torch.testing.assert_close(gradients(problems[0], at, data), both, rtol=0, atol=1e-13)
    few = torch.tensor([[2, 2, 5], [0, 1, 8]])  # batches drawn with replacement
    share = torch.zeros(2, 9, dtype=torch.float64)
    share.scatter_add_(1, few, torch.full(few.shape, 1 / 3, dtype=torch.float64))
    parts = [sf.Problem(net, problems[0].X[rows], problems[0].y[rows]) for rows in few]
    wanted = torch.cat([dense(p, v[None]) for p, v in zip(parts, at, strict=True)])
    torch.testing.assert_close(gradients(problems[0], at, share=share), wanted, rtol=0, atol=1e-13)
