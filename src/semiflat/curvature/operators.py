"""The Hessian as an operator that is never built, for an MLP and for any ``nn.Module``.

It serves where the P × P matrix would not fit. The products are closed form for an MLP; for any other
module they come by reverse over reverse differentiation with ``torch.func``, at a few gradients each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.modules import FrozenModule
from semiflat.curvature.products import HessianProducts
from semiflat.decay import WeightDecay
from semiflat.errors import InputError, whole
from semiflat.losses import Loss, loss_named
from semiflat.networks import Params
from semiflat.problem import Problem


class HessianOperator(LinearOperator):  # type: ignore[misc]  # SciPy ships no types
    """The Hessian of a risk as a SciPy ``LinearOperator`` of shape (P, P).

    Args:
        size: number of parameters P.
        product: makes ``H v`` of a float64 v of shape (P,).
        gradient: makes the gradient of the risk, (P,).

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
        self, size: int, product: Callable[[Tensor], Tensor], gradient: Callable[[], Tensor]
    ) -> None:
        super().__init__(dtype=np.dtype(np.float64), shape=(size, size))
        self._product, self._gradient = product, gradient

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` for a tensor v of shape (P,)."""
        return self._product(vector.to(torch.float64))

    def _matvec(self, vector: np.ndarray) -> np.ndarray:
        return self.product(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))).numpy()

    def _adjoint(self) -> HessianOperator:
        return self

    def gradient(self) -> Tensor:
        """The gradient of the risk, (P,)."""
        return self._gradient()


def hessian_operator(problem: Problem, params: Params) -> HessianOperator:
    """The Hessian of the problem's risk at unbatched ``params``, without building it."""
    products = HessianProducts(problem, params)
    return HessianOperator(
        problem.net.parameter_count, products.times, partial(_gradient, problem, params)
    )


def _gradient(problem: Problem, params: Params) -> Tensor:
    return risk_gradient(problem, params)[1]


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
    slices = frozen.slices(batch_size)

    found = _OfModule(frozen, chosen, targets, slices, decay)
    return HessianOperator(len(frozen.at), found.product, found.gradient)


@dataclass(frozen=True)
class _OfModule:
    """The derivatives of a module's risk, a slice of samples after the other."""

    frozen: FrozenModule
    loss: Loss
    targets: Tensor
    slices: list[slice]
    decay: float

    def _gradient_of(self, part: slice) -> Callable[[Tensor], Tensor]:
        def risk(vector: Tensor) -> Tensor:
            f = self.frozen.outputs(vector, part)
            return self.loss.value(f, self.targets[part]).sum() / self.frozen.samples

        return torch.func.grad(risk)

    def product(self, vector: Tensor) -> Tensor:
        """``H v``, (P,)."""
        result = self.decay * vector
        for part in self.slices:
            pull = torch.func.vjp(self._gradient_of(part), self.frozen.at)[1]
            result += pull(vector)[0].detach()  # Hᵀv, and H is symmetric
        return result

    def gradient(self) -> Tensor:
        """The gradient, (P,)."""
        result = self.decay * self.frozen.at
        for part in self.slices:
            result += self._gradient_of(part)(self.frozen.at)
        return result.detach()
