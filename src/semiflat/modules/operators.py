"""The Hessian of any ``nn.Module`` as an operator that is never built."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from semiflat.curvature.operators import HessianOperator
from semiflat.decay import WeightDecay
from semiflat.errors import InputError, whole
from semiflat.losses import Loss, loss_named
from semiflat.modules.flat import Derivatives, FrozenModule, Term


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

    >>> import numpy as np
    >>> import torch
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
    found = _OnSamples(frozen, chosen, frozen.targets(y, chosen), batch_size, decay)
    return HessianOperator(len(frozen.at), found.product, found.gradient)


class _OnSamples(Derivatives):
    """The risk of a module on samples, a slice of them after the other."""

    def __init__(
        self, frozen: FrozenModule, loss: Loss, targets: Tensor, batch_size: int, decay: float
    ) -> None:
        self.frozen, self.at, self.decay = frozen, frozen.at, decay
        self.loss, self.targets, self.batch_size = loss, targets, batch_size

    def terms(self) -> Iterator[Term]:
        for part in self.frozen.slices(self.batch_size):

            def risk(vector: Tensor, part: slice = part) -> Tensor:
                outputs = self.frozen.outputs(vector, part)
                return self.loss.value(outputs, self.targets[part]).sum() / self.frozen.samples

            yield risk
