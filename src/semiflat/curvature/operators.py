"""Matrix-free Hessian–vector products, for an MLP and for any ``nn.Module``.

Reverse over reverse differentiation with ``torch.func``: one product costs a few gradients and the
Hessian is never built, so it serves where the closed form's P × P would not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from semiflat.curvature.sweep import chunks
from semiflat.errors import InputError
from semiflat.losses import Loss, loss_named
from semiflat.networks import Params
from semiflat.problem import Problem, checked_weight_decay

PartialRisk = Callable[[Tensor, slice], Tensor]
"""(flat parameters, samples) -> the samples' part of the risk; the parts sum to the risk."""


class HessianOperator(LinearOperator):  # type: ignore[misc]  # SciPy ships no types
    """The Hessian of a risk as a SciPy ``LinearOperator`` of shape (P, P).

    Args:
        partial_risk: the part of the risk that a slice of samples contributes, as a function of the
            flat parameters.
        at: flat parameters, (P,).
        slices: slices that cover the samples; memory is that of one of them.
        weight_decay: λ of the penalty ½ λ ‖θ‖², which the parts do not have.
    """

    def __init__(
        self,
        partial_risk: PartialRisk,
        at: Tensor,
        slices: list[slice],
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(dtype=np.dtype(np.float64), shape=(len(at), len(at)))
        self._partial_risk, self._at, self._slices = partial_risk, at, slices
        self._weight_decay = weight_decay

    def product(self, vector: Tensor) -> Tensor:
        """``H v`` for a tensor v of shape (P,)."""
        vector = vector.to(self._at.dtype)
        result = self._weight_decay * vector
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
        result = self._weight_decay * self._at
        for part in self._slices:
            result += torch.func.grad(lambda v, part=part: self._partial_risk(v, part))(self._at)
        return result.detach()


def hessian_operator(problem: Problem, params: Params) -> HessianOperator:
    """The Hessian of the problem's risk at unbatched ``params``, without building it."""
    net = problem.net

    def partial_risk(vector: Tensor, part: slice) -> Tensor:
        outputs = net.forward(net.unflatten(vector), problem.X[part])
        return problem.loss.value(outputs, problem.y[part]).sum() / problem.samples

    slices = list(chunks(problem.samples, 12 * sum(net.widths)))
    return HessianOperator(partial_risk, net.flatten(params), slices, problem.weight_decay)


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
    decay = checked_weight_decay(weight_decay)
    frozen = copy.deepcopy(module).to("cpu", torch.float64)
    inputs = torch.as_tensor(X)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    trained = {k: p.detach() for k, p in frozen.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError("the module has no parameter that requires a gradient")
    fixed = {k: p.detach() for k, p in frozen.named_parameters() if not p.requires_grad}
    sizes = [p.numel() for p in trained.values()]

    def outputs(vector: Tensor, part: slice) -> Tensor:
        parts = zip(trained.items(), vector.split(sizes), strict=True)
        params = {key: piece.reshape(p.shape) for (key, p), piece in parts}
        result: Tensor = torch.func.functional_call(frozen, params | fixed, (inputs[part],))
        return result

    at = torch.cat([p.reshape(-1) for p in trained.values()])
    chosen = loss_named(loss)
    width = _probe(outputs, at, len(inputs))
    given = torch.as_tensor(y)
    targets = chosen.targets(
        given.double() if given.is_floating_point() else given, len(inputs), width
    )
    targets = targets.double() if chosen.name == "squared" else targets

    def partial_risk(vector: Tensor, part: slice) -> Tensor:
        return chosen.value(outputs(vector, part), targets[part]).sum() / len(inputs)

    starts = range(0, len(inputs), batch_size)
    slices = [slice(start, min(start + batch_size, len(inputs))) for start in starts]
    return HessianOperator(partial_risk, at, slices, decay)


def _probe(outputs: Callable[[Tensor, slice], Tensor], at: Tensor, samples: int) -> int:
    few = min(4, samples)
    with torch.no_grad():
        try:
            once, twice = outputs(at, slice(0, few)), outputs(at, slice(0, few))
            one = outputs(at, slice(0, 1))
        except Exception as error:
            raise InputError(
                f"the module failed on {few} inputs or on one ({error}); expected it to map (n, …) "
                "to (n, M) for any n (batch normalisation in training mode? call module.eval() first)"
            ) from error
        if once.ndim != 2 or len(once) != few:
            raise InputError(
                f"the module maps {few} inputs to outputs of shape {tuple(once.shape)}; expected "
                f"({few}, M)"
            )
    if not torch.equal(once, twice) or not torch.allclose(once[:1], one, rtol=1e-9, atol=1e-12):
        raise InputError(
            "the module gives different outputs for the same input, or an output that depends on "
            "the rest of the batch (dropout or batch normalisation in training mode?); call "
            "module.eval() first"
        )
    return once.shape[1]
