"""Random problems for K19 Thms 3 and 4: residual networks, and networks with units that are linear nearby."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize, root
from torch import Tensor

import semiflat as sf

Array = NDArray[np.float64]

SAMPLES = 40
RESIDUAL = [(1, 2, 2), (2, 2, 3), (2, 3, 2), (2, 3, 4), (3, 3, 3)]
"""d_y, d_x, d_z with d_y ≤ min(d_x, d_z)."""
CRITICAL = 1e-10
"""Gradients up to here count as none."""
TINY = 1e-12
"""Entries of W, of size 1, that are rounding of 0 where all are below."""
_APART = 10**7


class Residual:
    """``f = W(x + R z(x; u))`` with z = tanh(Ux + c), on random data.

    Args:
        seed: it chooses sizes and loss, and whether the targets' noise is of rank 1, so that W is, too.
    """

    def __init__(self, seed: int) -> None:
        self.sizes = d_y, d_x, d_z = RESIDUAL[seed % len(RESIDUAL)]
        self.loss = ("squared", "logistic")[seed // len(RESIDUAL) % 2]
        self.low_rank = self.loss == "squared" and d_y > 1 and seed // len(RESIDUAL) % 4 == 2
        self._generator = torch.Generator().manual_seed(_APART + seed)
        self.x = self._normal(SAMPLES, d_x)
        teacher = torch.tanh(2 * self.x @ self._normal(d_x, 3)) @ self._normal(3, d_y)
        y = teacher + 0.3 * self._normal(SAMPLES, d_y)
        if self.low_rank:
            y = y[:, :1] * torch.linspace(1, 2, d_y, dtype=y.dtype)
        self.y = torch.sigmoid(y) if self.loss == "logistic" else y
        self.shapes = {"W": (d_y, d_x), "R": (d_x, d_z), "U": (d_z, d_x), "c": (d_z,)}

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def parts(self, vector: Tensor, names: str = "WRUc") -> dict[str, Tensor]:
        """The matrices that a flat vector holds."""
        sizes = [int(np.prod(self.shapes[name])) for name in names]
        return {
            name: piece.reshape(self.shapes[name])
            for name, piece in zip(names, vector.split(sizes), strict=True)
        }

    def start(self) -> Tensor:
        """Random parameters."""
        return torch.cat([self._normal(*shape).reshape(-1) / 2 for shape in self.shapes.values()])

    def risk(self, vector: Tensor, z: Tensor | None = None) -> Tensor:
        """L of all parameters, or of W and R alone where the block's outputs z are given."""
        of = self.parts(vector, "WRUc" if z is None else "WR")
        if z is None:
            z = torch.tanh(self.x @ of["U"].T + of["c"])
        f = (self.x + z @ of["R"].T) @ of["W"].T
        if self.loss == "squared":
            terms = (f - self.y) ** 2 / 2
        else:
            terms = torch.logaddexp(f, torch.zeros_like(f)) - self.y * f
        mean: Tensor = terms.sum(1).mean()
        return mean

    def trained(self) -> tuple[Tensor, Tensor]:
        """W and R flat, and z: all parameters learned, then W and R brought to a minimum for that z."""
        ended = minimize(
            self._value(None),
            self.start().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300},
        )
        of = self.parts(torch.from_numpy(ended.x))
        z = torch.tanh(self.x @ of["U"].T + of["c"])
        begin = torch.cat([of["W"].reshape(-1), of["R"].reshape(-1)])
        ended = minimize(
            self._value(z), begin.numpy(), jac=True, hess=self.hessian_at(z), method="trust-exact",
            options={"gtol": 1e-12, "maxiter": 500},
        )  # fmt: skip
        return self.polished(torch.from_numpy(ended.x), z), z

    def any_critical(self, starts: int = 5) -> tuple[Tensor, Tensor]:
        """W and R flat where the gradient's length has a minimum, 0 or not; of so many starts; a random z."""
        of = self.parts(self.start())
        z = torch.tanh(self.x @ of["U"].T + of["c"])
        value, hessian = self._value(z), self.hessian_at(z)

        def gradient(vector: Array) -> Array:
            slope: Array = value(vector)[1]
            return slope

        for _ in range(starts):
            begin = self.parts(self.start())
            ended = root(
                gradient,
                torch.cat([begin["W"].reshape(-1), begin["R"].reshape(-1)]).numpy(),
                jac=hessian, method="lm", options={"maxiter": 60},
            )  # fmt: skip
            vector = self.polished(torch.from_numpy(ended.x), z)
            if self.gradient(vector, z) <= CRITICAL:
                break
        return vector, z

    def polished(self, vector: Tensor, z: Tensor) -> Tensor:
        """A few Newton steps outside the Hessian's kernel, as long as they shorten the gradient."""
        for _ in range(5):
            gradient = torch.from_numpy(self._value(z)(vector.numpy())[1])
            hessian = torch.from_numpy(self.hessian_at(z)(vector.numpy()))
            step = torch.linalg.pinv(hessian, rtol=1e-10, hermitian=True) @ gradient
            shorter = torch.from_numpy(self._value(z)((vector - step).numpy())[1])
            if float(shorter.norm()) >= float(gradient.norm()):
                break
            vector = vector - step
        W = vector[: int(np.prod(self.shapes["W"]))]  # a view
        if float(W.abs().max()) < TINY:
            W.zero_()
        return vector

    def gradient(self, vector: Tensor, z: Tensor) -> float:
        """The gradient's largest entry, by W and R."""
        return float(np.abs(self._value(z)(vector.numpy())[1]).max())

    def spectrum(self, vector: Tensor, z: Tensor) -> Tensor:
        """Eigenvalues of the Hessian by W and R."""
        values: Tensor = torch.linalg.eigvalsh(torch.from_numpy(self.hessian_at(z)(vector.numpy())))
        return values

    def _value(self, z: Tensor | None) -> Any:
        def value(vector: Array) -> tuple[float, Array]:
            at = torch.from_numpy(vector).requires_grad_()
            risk = self.risk(at, z)
            (gradient,) = torch.autograd.grad(risk, at)
            return risk.item(), gradient.numpy()

        return value

    def hessian_at(self, z: Tensor) -> Any:
        """The Hessian by W and R as SciPy asks for it."""

        def risk(vector: Tensor) -> Tensor:
            return self.risk(vector, z)

        second = torch.func.jacrev(torch.func.grad(risk))

        def hessian(vector: Array) -> Array:
            found: Array = second(torch.from_numpy(vector)).numpy()
            return found

        return hessian


# -- Theorem 4 ---------------------------------------------------------------------------------------

LOCALLY_LINEAR: dict[str, tuple[tuple[int, ...], list[str], Literal["minimum", "any"]]] = {
    "linear 2-2-2": ((2, 2, 2), ["identity"], "any"),
    "linear 3-2-2-1": ((3, 2, 2, 1), ["identity", "identity"], "any"),
    "linear 2-3-2-2": ((2, 3, 2, 2), ["identity", "identity"], "any"),
    "gelu, identity 1-2-2-1": ((1, 2, 2, 1), ["gelu", "identity"], "minimum"),
    "relu 2-3-1, a unit always active": ((2, 3, 1), ["relu"], "minimum"),
}


def locally_linear(name: str, seed: int) -> sf.SearchResult:
    """Critical points of a random problem of one of :data:`LOCALLY_LINEAR`."""
    widths, activations, kind = LOCALLY_LINEAR[name]
    generator = torch.Generator().manual_seed(2 * _APART + seed)
    X = torch.randn((SAMPLES, widths[0]), generator=generator, dtype=torch.float64)
    mix = torch.randn((widths[0] + 1, widths[-1]), generator=generator, dtype=torch.float64)
    y = torch.cat([X, torch.cos(2 * X[:, :1])], dim=1) @ mix
    y = y + 0.2 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    net = sf.MLP(widths, activations)
    problem = sf.Problem(net, X, y)
    if "always" in name:
        start = net.random_params(seed, batch=(4,))
        start["0.bias"][:, 0] = 4 * X.abs().sum(1).max()
        return sf.run_search(problem, start=start, max_iterations=300, processes=1)
    return sf.run_search(problem, 4, seed=seed, kind=kind, max_iterations=300, processes=1)
