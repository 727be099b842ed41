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
    """Add ``½ Σ λ_i θ_i²``, ``λ_i θ_i`` and the diagonal of the λ_i to what the data make of them, in place.

    Args:
        problem: says the λ_i, its weight decay.
        params: with any leading batch axes.
        risk: ``(*batch,)``. gradient: ``(*batch, P)``, in the flat order.
        hessian: ``(*batch, P, P)``, any matrix that the penalty is to be counted in.
    """
    if not problem.decay:
        return
    risk += problem.penalty(params)
    gradient += problem.decays * problem.net.flatten(params)
    if hessian is not None:
        hessian.diagonal(dim1=-2, dim2=-1).add_(problem.decays)
