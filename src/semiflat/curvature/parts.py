"""The two parts of the Hessian, H⁽¹⁾ from the loss's curvature and H⁽²⁾ from the network's."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.gradient import output_jacobian
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.networks import Params
from semiflat.problem import Problem

STEPS = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


def hessian_parts(problem: Problem, params: Params) -> tuple[Tensor, Tensor]:
    """``H⁽¹⁾ = mean_ν Jᵀ ℓ'' J`` (Gauss–Newton) and ``H⁽²⁾ = mean_ν Σ_i ∂_iℓ ∇²f_i``, each (P, P).

    They sum to the Hessian of the data's part of the risk (Z22 eqs. A.12–A.14): that of weight decay,
    the diagonal of the λ_i, comes from neither the loss nor the network's curvature and is in neither. For
    one network, not a batch.
    """
    hessian = risk_gradient_hessian(problem.with_weight_decay(0), params)[2]
    jacobian = output_jacobian(problem, params)
    _, _, second = problem.loss.derivatives(problem.outputs(params), problem.y)
    second = problem.weighed(second)
    first_part = torch.einsum("nip,nij,njq->pq", jacobian, second, jacobian)
    return first_part, hessian - first_part


def second_difference(problem: Problem, at: Tensor, direction: Tensor) -> float:
    """The second derivative of the risk along a unit direction, from the risk alone.

    Args:
        at: flat parameters, (P,).
        direction: flat, (P,).

    The step is the one whose neighbours agree best with it.
    """
    steps = torch.tensor(STEPS, dtype=at.dtype) * max(1.0, float(at.abs().max()) ** 0.5)
    offsets = torch.cat([steps, -steps])
    risks = problem.risk(problem.net.unflatten(at + offsets[:, None] * direction))
    up, down = risks[: len(steps)], risks[len(steps) :]
    estimates = (up + down - 2 * problem.risk(problem.net.unflatten(at))) / steps.square()
    spread = (estimates[1:-1] - estimates[:-2]).abs() + (estimates[1:-1] - estimates[2:]).abs()
    return float(estimates[1:-1][spread.argmin()])
