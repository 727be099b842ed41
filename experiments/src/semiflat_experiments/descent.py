"""Gradients of many networks with one hidden layer at once: autograd takes several times as long."""

from __future__ import annotations

from torch import Tensor

import semiflat as sf


def gradients(
    problem: sf.Problem,
    at: Tensor,
    data: tuple[Tensor, Tensor] | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """``∇R`` of the squared loss and the decay, (B, P), for a network with one hidden layer.

    Args:
        problem: says network, data and decay.
        at: parameters, (B, P).
        data: other inputs and targets for each network, (B, N, D) and (B, N, M).
        share: what each sample counts for in each network's loss, (B, N); 1/N by default.

    >>> import torch
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0], weight_decay=0.1)
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> at = problem.net.flatten(point.params)
    >>> torch.allclose(gradients(problem, at[None])[0], sf.gradient(point))
    True
    """
    net = problem.net
    X, y = (problem.X, problem.y) if data is None else data
    params = net.unflatten(at)
    W, V = params["0.weight"], params["2.weight"]
    z = X @ W.mT
    if "0.bias" in params:
        z = z + params["0.bias"][:, None]
    h, slope, _ = net.activations[0].derivatives(z)
    f = h @ V.mT
    if "2.bias" in params:
        f = f + params["2.bias"][:, None]
    error = (f - y) * (1 / X.shape[-2] if share is None else share[..., None])
    back = (error @ V) * slope
    found = {"0.weight": back.mT @ X, "2.weight": error.mT @ h}
    found |= {"0.bias": back.sum(1), "2.bias": error.sum(1)}
    return net.flatten({key: found[key] for key in params}) + problem.decays * at
