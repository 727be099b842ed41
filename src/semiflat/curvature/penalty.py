"""What weight decay adds to the derivatives of the risk: the one place where it is added."""

from __future__ import annotations

from torch import Tensor

from semiflat.networks import Params
from semiflat.problem import Problem


def add_penalty(
    problem: Problem,
    params: Params,
    risk: Tensor,
    gradient: Tensor,
    hessian: Tensor | None = None,
) -> None:
    """Add ``½ λ ‖θ‖²``, ``λθ`` and ``λI`` to what the data make of them, in place.

    Args:
        problem: says λ, its weight decay.
        params: with any leading batch axes.
        risk: ``(*batch,)``. gradient: ``(*batch, P)``, in the flat order.
        hessian: ``(*batch, P, P)``, any matrix that the penalty is to be counted in.
    """
    decay = problem.weight_decay
    if not decay:
        return
    risk += problem.penalty(params)
    gradient += decay * problem.net.flatten(params)
    if hessian is not None:
        hessian.diagonal(dim1=-2, dim2=-1).add_(decay)
