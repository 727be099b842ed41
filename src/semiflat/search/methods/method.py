"""What a method is, and what methods share: rotations, and the step within a radius."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.networks import MLP
from semiflat.problem import Problem
from semiflat.records.shown import Shown

Local = tuple[Tensor, ...]
"""A method's local model at each of a batch of points, as it keeps it: tensors with the runs first."""
SMALL = 3.0
"""Size up to which parameters are measured by one unit."""
LEAST = 1e-4
"""Part of the promised decrease that an accepted step must keep."""


@dataclass(frozen=True)
class Step(Shown):
    """Steps of a batch of runs.

    Attributes:
        move: what to add to the parameters, (B, P).
        promised: by how much they are to lower the merit, (B,); inf: not to be taken.
        length: in the method's own units, (B,).
        gradient: the model's gradient after the step, (B, P), for a method that is held to it
            rather than to its merit.

    >>> Step(move=torch.zeros(4, 7), promised=torch.ones(4), length=torch.zeros(4)).gradient is None
    True
    """

    move: Tensor
    promised: Tensor
    length: Tensor
    gradient: Tensor | None = None


class Method(ABC):
    """How to step, and the merit a step is to lower. Runs stand first in every tensor.

    A subclass has :meth:`step`; what else it has the search makes use of. A method's *scale*, (B, k), is what
    it holds its steps back by: a radius, a damping, or the length of a step.

    Attributes:
        exact: whether its model has the curvature of the risk, negative one too.
        follows_loss: whether a way down is a reason to go on.
        builds: whether what its runs end at is told by dense Hessians, where these fit.
        compiled: what the compiled engine calls it, said by each class for itself alone; None if it does not
            know it.

    >>> class Downhill(Method):
    ...     def step(self, problem, theta, gradient, local, scale):
    ...         move = -scale * gradient
    ...         size = torch.linalg.vector_norm(gradient, dim=-1)
    ...         return Step(move, scale[:, 0] * size.square() / 2, scale[:, 0] * size)
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> sf.run_search(problem, starts=2, method=Downhill()).points[0].loss < 1e-20
    True
    """

    exact: bool = False
    follows_loss: bool = True
    builds: bool = True
    compiled: str | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "compiled" not in cls.__dict__:
            cls.compiled = None

    @abstractmethod
    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        """The steps to try from ``theta`` (B, P), where the gradient is ``gradient`` (B, P)."""

    def local(self, problem: Problem, theta: Tensor) -> Local:
        """The local models at ``theta`` (B, P), one for each run of ``problem``; none by default."""
        return ()

    def scale(self, local: Local, gradient: Tensor, length: Tensor) -> Tensor:
        """The scale to begin with, (B, k), where steps of ``length`` (B,) were good before."""
        return length[:, None]

    def adapt(self, scale: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
        """The next scale, after steps of ``length`` that kept ``ratio`` of their promise: doubled or halved."""
        return torch.where(ratio > LEAST, 2.0, 0.5)[:, None] * scale

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        """What a step is to lower, (B,): the risk."""
        return risk

    def downhill(self, local: Local) -> Tensor:
        """Whether the local model has a way down where the gradient is 0, (B,); never by default."""
        return torch.zeros(1, dtype=torch.bool)


def check_step(method: Method, step: Any, theta: Tensor) -> None:
    """Raise :class:`InputError`, naming the method, unless it gave a :class:`Step` from ``theta`` (B, P)."""
    runs, parameters = theta.shape
    if not isinstance(step, Step):
        found = f"a {type(step).__name__}"
    else:
        shapes = {"move": (runs, parameters), "promised": (runs,), "length": (runs,)}
        if step.gradient is not None:
            shapes["gradient"] = (runs, parameters)
        wrong = [name for name, shape in shapes.items() if not _is_real(getattr(step, name), shape)]
        if not wrong:
            return
        given = getattr(step, wrong[0])
        shown = (
            f"shape {tuple(given.shape)}, {given.dtype}"
            if isinstance(given, Tensor)
            else repr(given)
        )
        found = f"a Step whose {wrong[0]} is {shown:.60}"
    raise InputError(
        f"{type(method).__name__}.step gave {found}; expected is a semiflat.Step of real tensors: move "
        f"({runs}, {parameters}), promised ({runs},), length ({runs},), and gradient None or "
        f"({runs}, {parameters})"
    )


def _is_real(given: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(given, Tensor) and given.shape == shape and given.is_floating_point()


def rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (B, P, P) times vectors (B, P)."""
    return (matrix @ vector[..., None]).squeeze(-1)


def sizes(net: MLP, theta: Tensor) -> Tensor:
    """What counts as one unit of each parameter, (B, P): the typical size in its tensor over :data:`SMALL`.

    On the way to infinity the weights of one layer reach hundreds while another's stay near 1: a step
    that is small to the ones is large to the others.
    """
    typical = {
        key: (tensor.square().flatten(1).mean(-1).sqrt().clamp(min=SMALL) / SMALL)
        for key, tensor in net.unflatten(theta).items()
    }
    return torch.cat(
        [typical[key][:, None].expand(-1, math.prod(shape)) for key, shape in net.shapes.items()],
        -1,
    )


def eigen(hessian: Tensor) -> Local:
    """Eigenvalues (B, P), ascending, and eigenvectors (B, P, P).

    A Hessian that overflowed, or that the solver gives up, counts as 0: its run's step will be
    rejected, and it must not stop the others.
    """
    clean = torch.where(torch.isfinite(hessian), hessian, 0.0)
    try:
        values, vectors = torch.linalg.eigh(clean)
    except RuntimeError:  # what torch's LinAlgError is
        if len(clean) == 1:
            values, vectors = torch.linalg.eigh(torch.zeros_like(clean))
        else:
            values, vectors = map(
                torch.cat, zip(*(eigen(each[None]) for each in clean), strict=True)
            )
    return values, vectors


def next_radius(radius: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
    """The trust radius after steps of ``length`` that kept ``ratio`` of their promise."""
    radius = torch.where(ratio < 0.25, length / 4, radius)
    far = (ratio > 0.75) & (length > 0.9 * radius)
    return torch.where(far, 2 * radius, radius).clamp(max=1e4)


def bounded_newton(values: Tensor, slope: Tensor, radius: Tensor) -> Tensor:
    """The minimiser of ``slope·p + ½ Σ values p²`` with ``‖p‖ ≤ radius``, row by row.

    Args:
        values: curvatures in ascending order, (B, P).
        slope: (B, P).
        radius: (B,).
    """
    lowest = values[:, 0]
    scale = values.abs().amax(-1).clamp(min=1e-300)
    # μ ≥ low makes every values + μ positive; the step shrinks from there on as μ grows.
    low = (-lowest).clamp(min=0) + 1e-15 * scale
    high = low + torch.linalg.vector_norm(slope, dim=-1) / radius + 1e-15 * scale

    free = (lowest > 1e-14 * scale) & (
        torch.linalg.vector_norm(slope / values.clamp(min=1e-300), dim=-1) <= radius
    )
    # Newton's method on 1/radius = 1/‖p(μ)‖, nearly linear in μ, kept inside the bracket. A hundredth
    # of the radius is near enough.
    mu = torch.where(free, torch.zeros_like(low), low)
    for _ in range(60):
        shifted = values + mu[:, None]
        squares = (slope / shifted).square()
        length = squares.sum(-1).sqrt()
        off = (length - radius) / radius
        open_rows = ~free & (off.abs() > 0.01) & (high - low > 1e-14 * scale)
        if not open_rows.any():
            break
        low, high = torch.where(off > 0, mu, low), torch.where(off > 0, high, mu)
        guess = mu + off * squares.sum(-1) / (squares / shifted).sum(-1).clamp(min=1e-300)
        middle = torch.where(low > 0.1 * high, (low + high) / 2, (low * high).sqrt())
        inside = (guess > low) & (guess < high)
        mu = torch.where(open_rows, torch.where(inside, guess, middle), mu)
    found = -slope / (values + mu[:, None])
    # Rounding in the last bits of μ must not lead out of the radius.
    length = torch.linalg.vector_norm(found, dim=-1)
    found = (
        found
        * torch.where(free, 1.0, (1.01 * radius / length.clamp(min=1e-300)).clamp(max=1.0))[:, None]
    )
    # The hard case: no slope along the lowest, negative curvature. Go that way to the boundary.
    short = (lowest < 0) & (torch.linalg.vector_norm(found, dim=-1) < 0.98 * radius)
    rest = (radius.square() - found[:, 1:].square().sum(-1)).clamp(min=0).sqrt()
    towards = torch.where(found[:, 0] < 0, -rest, rest)
    found[:, 0] = torch.where(short, towards, found[:, 0])
    return found
