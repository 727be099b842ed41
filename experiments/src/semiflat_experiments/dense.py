"""Dense derivatives of a risk by automatic differentiation: the reference of the papers' censuses.

The network, its activations and the loss are written out here from the parameters, so that nothing is
shared with the closed forms that a census is about. Slow and simple on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import semiflat as sf

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    "gelu": lambda z: z * torch.erfc(-z / math.sqrt(2)) / 2,
    "silu": lambda z: z * torch.sigmoid(z),
    "sin": torch.sin,
    "relu": lambda z: torch.where(z > 0, z, torch.zeros_like(z)),
    "identity": lambda z: z,
}

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda f, y: ((f - y) ** 2).sum(1) / 2,
    "cross_entropy": lambda f, y: torch.logsumexp(f, 1) - f.gather(1, y[:, None])[:, 0],
    "logistic": lambda f, y: (torch.logaddexp(f, torch.zeros_like(f)) - y * f).sum(1),
}

BLURRED, CLEAR = 1e-11, 1e-9
"""Of the largest eigenvalue: below the first the dense Hessian cannot tell signs, above the second it can."""


def dense_gradient(point: sf.Point) -> Tensor:
    """``∇R``, (P,), flat in the order of the params dict.

    Args:
        point: one network, not a batch, with an activation and a loss that the library knows by name.

    Raises:
        InputError: for an activation or a loss of the user's own.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> bool((dense_gradient(point) - sf.gradient(point)).abs().max() < 1e-15)
    True
    """
    derivative: Tensor = torch.func.grad(_risk(point))(_vector(point))
    return derivative


def dense_hessian(point: sf.Point) -> Tensor:
    """``∇²R``, (P, P), flat in the order of the params dict; see :func:`dense_gradient`.

    At a kink of a piecewise linear activation it is that of the piece left of the kink.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> bool((dense_hessian(point) - sf.hessian(point)).abs().max() < 1e-15)
    True
    """
    # Reverse over reverse: forward mode imports parts of torch that warn of themselves.
    second: Tensor = torch.func.jacrev(torch.func.grad(_risk(point)))(_vector(point))
    return second


def compared(values: Tensor, inertia: sf.Inertia | None) -> str:
    """``"equal"`` or ``"different"`` from the signs of a dense Hessian's eigenvalues, or ``"unclear"``.

    >>> compared(torch.tensor([1.0, 0.0, -0.1]), sf.Inertia(1, 1, 1))
    'equal'
    >>> compared(torch.tensor([1.0, 0.0, -0.1]), sf.Inertia(2, 1, 0))
    'different'
    >>> compared(torch.tensor([1.0, 1e-10, -0.1]), sf.Inertia(1, 1, 1))
    'unclear'
    """
    if inertia is None:
        return "unclear"
    size = values.abs() / values.abs().max()
    above, below = (int((s * values > 0)[size > CLEAR].sum()) for s in (1, -1))
    if inertia.positive < above or inertia.negative < below:
        return "different"
    if (inertia.positive, inertia.negative) == (above, below):
        return "unclear" if bool(((size > BLURRED) & (size <= CLEAR)).any()) else "equal"
    return "unclear"


def _keys(point: sf.Point) -> list[str]:
    # Linear by Linear, weight before bias, as in a state_dict.
    return sorted(point.params, key=lambda key: (int(key.split(".")[0]), key.endswith("bias")))


def _vector(point: sf.Point) -> Tensor:
    return torch.cat([point.params[key].reshape(-1) for key in _keys(point)])


def _risk(point: sf.Point) -> Callable[[Tensor], Tensor]:
    """The risk of a flat vector of parameters."""
    problem, keys = point.problem, _keys(point)
    shapes = [point.params[key].shape for key in keys]
    activations = [_activation(each.name) for each in problem.net.activations]
    if problem.loss.name not in _LOSSES:
        raise sf.InputError(
            f"no dense reference for loss {problem.loss.name!r}; known: {', '.join(_LOSSES)}"
        )
    loss = _LOSSES[problem.loss.name]

    def risk(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes])
        params = {
            key: piece.reshape(shape)
            for key, shape, piece in zip(keys, shapes, pieces, strict=True)
        }
        h = problem.X
        for layer in range(len(activations) + 1):
            h = h @ params[f"{2 * layer}.weight"].T
            if f"{2 * layer}.bias" in params:
                h = h + params[f"{2 * layer}.bias"]
            if layer < len(activations):
                h = activations[layer](h)
        return loss(h, problem.y).mean() + (problem.decays * vector**2).sum() / 2

    return risk


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if name.startswith("leaky_relu"):
        slope = 0.01 if name == "leaky_relu" else float(name[len("leaky_relu(") : -1])
        return lambda z: torch.where(z > 0, z, slope * z)
    known = ", ".join([*ACTIVATIONS, "leaky_relu"])
    raise sf.InputError(f"no dense reference for activation {name!r}; known: {known}")
