"""Weight decay: one number for all parameters, or one for each group of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from semiflat.errors import InputError, unknown_name
from semiflat.networks import MLP, bias_key, weight_key
from semiflat.records.shown import Shown

GROUPS = "weight", "bias"
"""Names that stand for all weights, and for all biases."""


@dataclass(frozen=True)
class WeightDecay(Shown):
    """The λ_i of the penalty ``½ Σ_i λ_i θ_i²``.

    Attributes:
        groups: pairs of a name and its λ ≥ 0; later ones count where several name a parameter. Names are
            ``"weight"``, ``"bias"``, and those of single tensors as a state dict has them (``"2.bias"``).

    >>> WeightDecay.of({"weight": 1e-3}).plain
    {'weight': 0.001, 'bias': 0.0}
    >>> WeightDecay.of({"weight": 0.5, "bias": 0.5}).plain
    0.5
    """

    groups: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, given: Any) -> WeightDecay:
        """What a user gives: a number, or a number for each group.

        Raises:
            InputError: if a λ is no finite number from 0 up.
        """
        if isinstance(given, WeightDecay):
            return given
        if not isinstance(given, Mapping):
            decay = _checked("weight_decay", given)
            return cls(tuple((name, decay) for name in GROUPS) if decay else ())
        found = dict.fromkeys(GROUPS, 0.0)
        found |= {
            str(name): _checked(f"weight_decay[{name!r}]", decay) for name, decay in given.items()
        }
        own = {name: decay for name, decay in found.items() if name not in GROUPS}
        if not any(found.values()):
            return cls()
        return cls(tuple(found.items() if own else [(name, found[name]) for name in GROUPS]))

    @classmethod
    def of_optimizer(cls, optimizer: torch.optim.Optimizer, module: nn.Module) -> WeightDecay:
        """What an optimiser's parameter groups add to the gradient of a module's linear layers.

        Raises:
            InputError: if the optimiser's decay is decoupled from the gradient, as AdamW's is: then where
                it comes to rest is no critical point of a loss with a penalty. Or if a parameter is not the
                optimiser's, or the module's linear layers are not its only parameters.

        >>> module = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> groups = [{"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": 0.1},
        ...           {"params": [p for p in module.parameters() if p.ndim == 1]}]
        >>> WeightDecay.of_optimizer(torch.optim.SGD(groups, lr=0.1), module).plain
        {'weight': 0.1, 'bias': 0.0}
        """
        decay_of: dict[int, float] = {}
        for group in optimizer.param_groups:
            decay = float(group.get("weight_decay", 0.0))
            if decay and (
                group.get("decoupled_weight_decay") or isinstance(optimizer, torch.optim.AdamW)
            ):
                raise InputError(
                    f"the weight decay of {type(optimizer).__name__} is decoupled from the gradient, and no "
                    "penalty of a loss: no weight_decay here stands for it"
                )
            decay_of |= {id(parameter): decay for parameter in group["params"]}
        found: dict[str, float] = {}
        linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
        for layer, each in enumerate(linear):
            for name, parameter in each.named_parameters(recurse=False):
                if id(parameter) not in decay_of:
                    raise InputError(
                        f"{name} of linear layer {layer} is no parameter of the optimiser; give the module "
                        "that it trains"
                    )
                found[weight_key(layer) if name == "weight" else bias_key(layer)] = decay_of[
                    id(parameter)
                ]
        if len(found) != len(list(module.parameters())):
            raise InputError(
                "the module has parameters beside those of its linear layers; say the weight decay of each "
                'group yourself, as weight_decay={"weight": 1e-3, "bias": 0}'
            )
        for name in GROUPS:  # said once, where it is the same in all layers
            values = {decay for key, decay in found.items() if key.endswith(name)}
            if len(values) == 1:
                found = {key: decay for key, decay in found.items() if not key.endswith(name)}
                found[name] = values.pop()
        return cls.of(found)

    @property
    def plain(self) -> float | dict[str, float]:
        """As plain data: a number where all parameters have the same λ."""
        values = {decay for _, decay in self.groups}
        return dict(self.groups) if len(values) > 1 else float(next(iter(values), 0.0))

    @property
    def largest(self) -> float:
        """The largest λ."""
        return max((decay for _, decay in self.groups), default=0.0)

    def __bool__(self) -> bool:
        return bool(self.groups)

    def check(self, net: MLP) -> None:
        """Raise :class:`InputError` if a name is none of the network's."""
        for name, _ in self.groups:
            if name not in GROUPS and name not in net.shapes:
                raise unknown_name("group of weight_decay", name, [*GROUPS, *net.shapes])

    def of_each(self, net: MLP) -> np.ndarray:
        """λ of each parameter, (P,) float64, in the flat order."""
        known = dict(self.groups)
        parts = [
            np.full(math.prod(shape), known.get(key, known.get(key.rsplit(".", 1)[-1], 0.0)))
            for key, shape in net.shapes.items()
        ]
        found: np.ndarray = np.concatenate(parts)
        return found

    def of_layers(self, net: MLP) -> list[tuple[float, float]]:
        """λ of the weights and of the biases of each linear layer; 0 for biases that are not there."""
        params = net.unflatten(torch.from_numpy(self.of_each(net)))
        found = {key: float(each.flatten()[0]) for key, each in params.items()}
        return [
            (found[weight_key(layer)], found.get(bias_key(layer), 0.0))
            for layer in range(net.depth)
        ]

    def __str__(self) -> str:
        plain = self.plain
        if isinstance(plain, float):
            return f"{plain:g}"
        return "{" + ", ".join(f"{name}: {decay:g}" for name, decay in plain.items()) + "}"


def _checked(what: str, given: Any) -> float:
    number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or given < 0:
        raise InputError(
            f"{what} must be a finite number from 0 up, the λ of the penalty ½ λ ‖θ‖² such as 1e-4, or a "
            f'number for each group, as {{"weight": 1e-4, "bias": 0}}; given is {given!r}'
        )
    return float(given)
