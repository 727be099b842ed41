"""The gradient features ``∂_k f(x_ν; θ)`` as a linear map Φ: α ↦ (Σ_k α_k ∂_k f(x_ν))_ν (K19 §3.2).

Three ways to use it, so that its N·M × P matrix need not be held: rows of some samples, products
``Φα`` and products ``Φᵀg``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from semiflat.curvature.gradient import flat_rows, jacobian_of
from semiflat.curvature.sweep import Sweep, chunks, contract, sweep
from semiflat.errors import InputError
from semiflat.evidence import EPS, rounded_vectors
from semiflat.losses import Loss
from semiflat.modules.flat import FrozenModule
from semiflat.networks import Params
from semiflat.problem import Problem

ROWS_BYTES = 128 * 2**20
"""What the rows that are made at a time may hold."""
KEPT_BYTES = 512 * 2**20
"""What the activations of all samples may hold to be kept from product to product."""


class GradientFeatures(ABC):
    """The features of a model at θ, with the loss and targets of its data.

    Attributes:
        outputs: ``f(x_ν; θ)``, (N, M).
        targets: N targets, as the loss takes them.
        loss: ℓ.
        count: number of features P.
        moved: how far rounding may have moved outputs and targets, ``‖δ‖`` over all N·M.
    """

    outputs: Tensor
    targets: Tensor
    loss: Loss
    count: int
    moved: float

    @abstractmethod
    def rows(self, part: slice) -> Tensor:
        """Φ on some samples, (n, M, P)."""

    @abstractmethod
    def apply(self, alpha: Tensor) -> Tensor:
        """``Φα``, (N, M)."""

    @abstractmethod
    def adjoint(self, cotangent: Tensor) -> Tensor:
        """``Φᵀg`` for g of shape (N, M), (P,)."""

    @property
    def samples(self) -> int:
        """Number of samples N."""
        return self.outputs.shape[0]

    @property
    def width(self) -> int:
        """Number of outputs M."""
        return self.outputs.shape[1]

    def parts(self) -> Iterator[slice]:
        """Slices of samples whose rows hold at most ``ROWS_BYTES``."""
        return chunks(self.samples, self.width * self.count, ROWS_BYTES)

    def scales(self) -> Tensor:
        """What brings each column of Φ to length 1, and those of rounding's size to 0; (P,)."""
        squares = torch.zeros(self.count, dtype=torch.float64)
        for part in self.parts():
            squares += self.rows(part).square().sum((0, 1))
        return column_scales(squares.sqrt())

    def matrix(self) -> Tensor:
        """Φ as a whole, (N·M, P)."""
        rows = torch.cat([self.rows(part) for part in self.parts()])
        return rows.reshape(self.samples * self.width, self.count)


def column_scales(sizes: Tensor) -> Tensor:
    """The inverse of column lengths, and 0 for columns no longer than rounding of the longest."""
    longest = float(sizes.max()) if len(sizes) else 0.0
    return torch.where(sizes > EPS * longest, 1 / sizes, 0.0)


def moved_by_rounding(outputs: Tensor, again: Tensor, targets: Tensor) -> float:
    """``‖δ‖`` from the outputs, those at rounded parameters, and the last places of both and of targets."""
    size = float(torch.linalg.vector_norm(outputs))
    if targets.is_floating_point():
        size += float(torch.linalg.vector_norm(targets))
    return 2 * float(torch.linalg.vector_norm(again - outputs)) + 4 * EPS * size


class NetworkFeatures(GradientFeatures):
    """The features of a problem's network, in closed form."""

    def __init__(self, problem: Problem, params: Params) -> None:
        self.problem, self.params, self._net = problem, params, problem.net
        self.targets, self.loss = problem.y, problem.loss
        self.count = problem.net.parameter_count
        self.outputs = problem.net.forward(params, problem.X)
        again = problem.net.forward(self._nearby(), problem.X)
        self.moved = moved_by_rounding(self.outputs, again, self.targets)
        floats = 12 * sum(problem.net.widths)
        self._parts = list(chunks(problem.samples, floats))
        self._kept: list[Sweep] | None = None
        if 8 * floats * problem.samples <= KEPT_BYTES:
            self._kept = [sweep(problem, params, part) for part in self._parts]

    def rounded(self) -> NetworkFeatures:
        """The features a rounding away."""
        return NetworkFeatures(self.problem, self._nearby())

    def _nearby(self) -> Params:
        return self._net.unflatten(rounded_vectors(self._net.flatten(self.params)))

    def _sweeps(self) -> Iterator[tuple[slice, Sweep]]:
        for k, part in enumerate(self._parts):
            kept = self._kept
            yield part, sweep(self.problem, self.params, part) if kept is None else kept[k]

    def rows(self, part: slice) -> Tensor:
        return jacobian_of(self._net, sweep(self.problem, self.params, part))

    def apply(self, alpha: Tensor) -> Tensor:
        net = self._net
        moves = net.unflatten(alpha)
        result = torch.empty_like(self.outputs)
        for part, s in self._sweeps():
            change = net.layer(moves, 0) @ s.inputs[0]
            for layer in range(1, net.depth):
                below = s.first[layer - 1] * change
                change = net.layer(moves, layer) @ s.inputs[layer] + s.weights[layer] @ below
            result[part] = change.mT
        return result

    def adjoint(self, cotangent: Tensor) -> Tensor:
        net = self._net
        total = torch.zeros(self.count, dtype=cotangent.dtype)
        for part, s in self._sweeps():
            delta = cotangent[part].mT
            found = []
            for layer in range(net.depth - 1, -1, -1):
                found.append(flat_rows(net, layer, contract(delta, s.inputs[layer])))
                if layer:
                    delta = (s.weights[layer].mT @ delta) * s.first[layer - 1]
            total += torch.cat(found[::-1])
        return total


class ModuleFeatures(GradientFeatures):
    """The features of any ``nn.Module`` with a linear last layer, by automatic differentiation.

    Raises:
        InputError: if no layer's parameters give the outputs as ``f = Σ_k g_k ∂_k f`` (K19
            Assumption 2).
    """

    def __init__(self, frozen: FrozenModule, targets: Tensor, loss: Loss, batch_size: int) -> None:
        self._frozen, self.targets, self.loss = frozen, targets, loss
        self.count = len(frozen.at)
        self._slices = frozen.slices(batch_size)
        with torch.no_grad():
            self.outputs = self._at(frozen.at)
            again = self._at(rounded_vectors(frozen.at))
        if self.outputs.dtype != torch.float64:
            raise InputError(
                f"the module's outputs are {str(self.outputs.dtype).removeprefix('torch.')} though its "
                "parameters are float64; let it keep the type it is given"
            )
        if not torch.isfinite(self.outputs).all():
            raise InputError(
                "the module gives outputs that are not finite; check X and its parameters"
            )
        self.moved = moved_by_rounding(self.outputs, again, targets)
        self.linear_in = _linear_layer(self, frozen)

    def _at(self, vector: Tensor) -> Tensor:
        return torch.cat([self._frozen.outputs(vector, part) for part in self._slices])

    def rows(self, part: slice) -> Tensor:
        frozen = self._frozen

        def one(vector: Tensor, sample: Tensor) -> Tensor:
            return frozen.outputs_of(vector, sample[None])[0]

        try:
            each = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0))
            found: Tensor = each(frozen.at, frozen.inputs[part])
        except (RuntimeError, ValueError):  # a module that cannot be taken sample by sample
            found = torch.func.jacrev(lambda vector: frozen.outputs(vector, part))(frozen.at)
        return found.detach()

    def apply(self, alpha: Tensor) -> Tensor:
        return torch.cat([self._apply(alpha, part) for part in self._slices])

    def _apply(self, alpha: Tensor, part: slice) -> Tensor:
        # Φᵀ is linear in g, so its own pull-back is Φ: reverse mode twice, no forward mode.
        zero = torch.zeros_like(self.outputs[part])
        pull = torch.func.vjp(lambda v: self._frozen.outputs(v, part), self._frozen.at)[1]
        push = torch.func.vjp(lambda g: pull(g)[0], zero)[1]
        found: Tensor = push(alpha)[0]
        return found.detach()

    def adjoint(self, cotangent: Tensor) -> Tensor:
        total = torch.zeros(self.count, dtype=torch.float64)
        for part in self._slices:
            pull = torch.func.vjp(
                lambda v, part=part: self._frozen.outputs(v, part), self._frozen.at
            )[1]
            total += pull(cotangent[part])[0].detach()
        return total


def _linear_layer(features: ModuleFeatures, frozen: FrozenModule) -> str:
    """The layer whose own parameters g give ``f = Σ_k g_k ∂_k f``, K19's Assumption 2 at θ.

    Which holds where the outputs are homogeneous of degree 1 in them (Euler): of a linear last layer,
    or of one that only piecewise linear layers without biases follow.
    """
    size = max(1e-300, float(features.outputs.abs().max()))
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in frozen.places))[::-1]
    suffixes = [layers[: k + 1] for k in range(1, len(layers))]  # several heads, one after another
    for chosen in [[layer] for layer in layers] + suffixes:
        own = torch.zeros_like(frozen.at)
        for name, place in frozen.places.items():
            if name.rpartition(".")[0] in chosen:
                own[place] = frozen.at[place]
        if float((features.apply(own) - features.outputs).abs().max()) <= 1e-9 * size:
            return ", ".join(name or "the module itself" for name in chosen)
    raise InputError(
        "the outputs of the module are not linear in the parameters of any of its layers, as theory §6 "
        "needs (K19 Assumption 2: f = Σ_k g_k ∂_k f); let it end in a linear layer, weight and bias "
        "trained, and leave softmax to the loss"
    )
