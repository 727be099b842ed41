"""Matrix-free Hessian–vector products, for an MLP and for any ``nn.Module``.

Reverse over reverse differentiation with ``torch.func``: one product costs a few gradients and the
Hessian is never built, so it serves where the closed form's P × P would not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from semiflat.curvature.modules import FrozenModule
from semiflat.curvature.sweep import chunks
from semiflat.decay import WeightDecay
from semiflat.errors import InputError, whole
from semiflat.losses import Loss, loss_named
from semiflat.networks import Params
from semiflat.problem import Problem

PartialRisk = Callable[[Tensor, slice], Tensor]
"""(flat parameters, samples) -> the samples' part of the risk; the parts sum to the risk."""


class HessianOperator(LinearOperator):  # type: ignore[misc]  # SciPy ships no types
    """The Hessian of a risk as a SciPy ``LinearOperator`` of shape (P, P).

    Args:
        partial_risk: the part of the risk that a slice of samples contributes, as a function of the
            flat parameters.
        at: flat parameters, (P,).
        slices: slices that cover the samples; memory is that of one of them.
        decays: λ_i of the penalty ½ Σ λ_i θ_i², which the parts do not have: one number, or (P,).

    >>> import torch
    >>> import semiflat as sf
    >>> from scipy.sparse.linalg import eigsh
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> H = sf.hessian_operator(point)
    >>> lowest = eigsh(H, k=1, which="SA", return_eigenvectors=False)
    >>> bool(abs(lowest[0] - torch.linalg.eigvalsh(sf.hessian(point))[0]) < 1e-8)
    True
    >>> torch.allclose(H.gradient(), sf.gradient(point))
    True
    """

    def __init__(
        self,
        partial_risk: PartialRisk,
        at: Tensor,
        slices: list[slice],
        decays: float | Tensor = 0.0,
    ) -> None:
        super().__init__(dtype=np.dtype(np.float64), shape=(len(at), len(at)))
        self._partial_risk, self._at, self._slices = partial_risk, at, slices
        self._decays = decays

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` for a tensor v of shape (P,)."""
        vector = vector.to(self._at.dtype)
        result = self._decays * vector
        for part in self._slices:
            gradient = torch.func.grad(lambda v, part=part: self._partial_risk(v, part))
            pull = torch.func.vjp(gradient, self._at)[1]
            (product,) = pull(vector)  # Hᵀv, and H is symmetric
            result += product.detach()
        return result

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self.product(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))).numpy()

    def _adjoint(self) -> HessianOperator:
        return self

    def gradient(self) -> Tensor:
        """The gradient of the risk, (P,)."""
        result = self._decays * self._at
        for part in self._slices:
            result += torch.func.grad(lambda v, part=part: self._partial_risk(v, part))(self._at)
        return result.detach()


def hessian_operator(problem: Problem, params: Params) -> HessianOperator:
    """The Hessian of the problem's risk at unbatched ``params``, without building it."""
    net = problem.net
    partial_risk = partial(_part, problem)
    slices = list(chunks(problem.samples, 12 * sum(net.widths)))
    return HessianOperator(partial_risk, net.flatten(params), slices, problem.decays)


def _part(problem: Problem, vector: Tensor, part: slice) -> Tensor:
    outputs = problem.outputs(problem.net.unflatten(vector), part)
    losses = problem.loss.value(outputs, problem.y[part])
    return (losses * problem.share(part)).sum()


def module_hessian_operator(
    module: nn.Module,
    X: Any,
    y: Any,
    loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "squared",
    batch_size: int = 1024,
    weight_decay: float = 0.0,
) -> HessianOperator:
    """The Hessian of ``mean_ν ℓ(module(x_ν), y_ν) + ½ weight_decay ‖θ‖²`` of any ``nn.Module``.

    It is taken in the module's parameters θ. The module is copied and analysed in float64; the given
    one is left as it is. Parameters that need no gradient are held fixed and do not count in θ. Flat
    order: that of ``module.named_parameters()``.

    Args:
        module: maps inputs (n, …) to outputs (n, M), the same outputs each time.
        X: N inputs. y: N targets, as the loss takes them.
        loss: as for ``Problem``.
        batch_size: samples to differentiate at once; bounds the memory.
        weight_decay: as for ``Problem``.

    Raises:
        InputError: if the module's outputs are not (N, M), differ from call to call, or depend on
            the other samples of a batch (dropout or batch normalisation in training mode); if the
            weight decay is no finite number from 0 up.

    >>> module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1))
    >>> H = module_hessian_operator(module, torch.ones(5, 2), torch.zeros(5))
    >>> H.shape, H.matvec(np.ones(7)).shape
    ((7, 7), (7,))
    """
    decay, batch_size = WeightDecay.of(weight_decay).plain, whole("batch_size", batch_size, 1)
    if isinstance(decay, dict):
        raise InputError(
            f"the parameters of a module have one weight decay, not {decay!r}; give a number"
        )
    frozen = FrozenModule(module, X)
    chosen = loss_named(loss)
    targets = frozen.targets(y, chosen)
    partial_risk = partial(_part_of_module, frozen, chosen, targets)
    return HessianOperator(partial_risk, frozen.at, frozen.slices(batch_size), decay)


def _part_of_module(
    frozen: FrozenModule, loss: Loss, targets: Tensor, vector: Tensor, part: slice
) -> Tensor:
    return loss.value(frozen.outputs(vector, part), targets[part]).sum() / frozen.samples
