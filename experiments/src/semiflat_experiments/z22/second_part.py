"""Z22 §6.3: the part of the Hessian due to the curvature of the outputs, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import semiflat as sf


def second_part(point: sf.Point) -> Tensor:
    """``H⁽²⁾ = Σ_i E ∂_iℓ ∇²f_i``, (P, P), flat in the order of the params dict.

    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> J = sf.jacobian(point)[:, 0]
    >>> torch.allclose(second_part(point), sf.hessian(point) - J.T @ J / 3)
    True
    """
    errors = _errors(point)
    net, vector = point.problem.net, point.problem.net.flatten(point.params)

    def pulled(at: Tensor) -> Tensor:
        return (errors * _layers(point, net.unflatten(at))[-1]).sum()

    found: Tensor = torch.func.jacrev(torch.func.grad(pulled))(vector)
    return found


def below_output(point: sf.Point) -> int:
    """How many parameters there are below the last linear layer."""
    last = point.problem.net.depth - 1
    own = [point.params[key].numel() for key in (f"{2 * last}.weight", f"{2 * last}.bias")]
    return int(point.problem.net.parameter_count - sum(own))


def as_written(point: sf.Point, terms: int) -> Tensor:
    """``Σ_{i ≤ m_L, j ≤ terms} E ∂_iℓ W^[L]_ij ∇²(f^[L−1])_j`` in the parameters below the last layer."""
    errors, net = _errors(point), point.problem.net
    outgoing = point.params[f"{2 * (net.depth - 1)}.weight"]
    pulled_back = (errors @ outgoing)[:, :terms]
    vector, few = net.flatten(point.params), below_output(point)

    def pulled(at: Tensor) -> Tensor:
        params = net.unflatten(torch.cat([at, vector[few:]]))
        return (pulled_back * _layers(point, params)[-2][:, :terms]).sum()

    found: Tensor = torch.func.jacrev(torch.func.grad(pulled))(vector[:few])
    return found


def _layers(point: sf.Point, params: dict[str, Tensor]) -> list[Tensor]:
    """Outputs of all layers on the data, by the modules of ``nn.Sequential``."""
    module = point.problem.net.to_module()
    found, h = [], point.problem.X
    for number, each in enumerate(module):
        own = {key: params[f"{number}.{key}"] for key, _ in each.named_parameters()}
        h = torch.func.functional_call(each, own, h)
        if number % 2 or number == len(module) - 1:
            found.append(h)
    return found


def _errors(point: sf.Point) -> Tensor:
    """``∂R/∂f``, a row for each sample."""
    outputs, y = _layers(point, point.params)[-1], point.problem.y
    if point.problem.loss.name not in _SLOPES:
        raise sf.InputError(f"no slope written out for loss {point.problem.loss.name!r}")
    return _SLOPES[point.problem.loss.name](outputs, y) / len(outputs)


_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda f, y: f - y,
    "logistic": lambda f, y: torch.sigmoid(f) - y,
}
