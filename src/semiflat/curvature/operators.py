"""The Hessian as an operator that is never built: it serves where the P × P matrix would not fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.products import HessianProducts
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
