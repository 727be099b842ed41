"""Parameters held fixed because an exact symmetry of the risk moves them: part of the checker.

Where a family of transformations leaves the risk as it is, no critical point stands alone. Each family
below moves some parameters transversally, so these can be held where they are: a critical point of the
risk in the others is one of the whole risk (the derivative along the family is 0 anyway), the kernel of
its Hessian gains exactly one dimension for each parameter held, and a strict minimum in the others is a
minimum. That they are transversal together follows from the order in which they are listed: the
families' directions, restricted to the parameters held, form a triangular matrix.
"""

from __future__ import annotations

from typing import Any

from semiflat.certificates.checker.arithmetic import arb
from semiflat.certificates.checker.balls import Network, NotDefinite, sweeps

HOMOGENEOUS = "relu", "leaky_relu", "identity"


def frozen_places(net: Network, families: list[dict[str, Any]], centre: list[arb]) -> list[int]:
    """Places in θ of the parameters held fixed.

    Args:
        families: of the file: ``{"family": name, …}``.
        centre: the parameters; those held have these values.

    Raises:
        NotDefinite: if a family does not leave the risk as it is, or does not move its parameter.
    """
    bias_alone = all(each["family"] == "softmax bias shift" for each in families)
    if net.decayed and not bias_alone:
        raise NotDefinite("symmetries: weight decay breaks them")
    found: set[int] = set()
    scaled: set[tuple[int, int]] = set()
    for each in families:
        match each["family"]:
            case "softmax shift":
                _need(net.shift_invariant, "the loss does not ignore a shift of the outputs")
                found |= _row(net, net.depth - 1, net.widths[-1] - 1)
            case "softmax bias shift":
                _need(net.shift_invariant, "the loss does not ignore a shift of the outputs")
                _need(
                    net.biases[-1] and not net.layer_decays[-1][1],
                    "the biases are none, or decayed",
                )
                found.add(net.place(net.depth - 1, net.widths[-1] - 1, net.widths[-2]))
            case "constant input":
                j = _index(each["input"], net.widths[0])
                values = {row[j] for row in net.X}
                _need(len(values) == 1, f"input {j} is not constant")
                _need(values == {0.0} or net.biases[0], f"no bias can do what input {j} does")
                found |= {net.place(0, k, j) for k in range(net.widths[1])}
            case "dead unit":
                layer, unit = _unit(net, each)
                _need(net.activations[layer] == "relu", "only a relu unit can be dead")
                found |= _row(net, layer, unit)
                found |= {net.place(layer + 1, i, unit) for i in range(net.widths[layer + 2])}
            case other if other != "scaling":
                raise NotDefinite(f"symmetries: unknown family {other!r}")
    for each in families:
        if each["family"] == "scaling":
            layer, unit = _unit(net, each)
            place = net.place(layer, unit, _index(each["input"], net.widths[layer]))
            _need(net.activations[layer] in HOMOGENEOUS, "the activation is not homogeneous")
            _need(place not in found, "a scaled unit must have a weight of its own to hold")
            _need((layer, unit) not in scaled, "one scaling a unit, and no more, is a symmetry")
            _need(centre[place] != 0, "a weight held against scaling must not be 0")
            found.add(place)
            scaled.add((layer, unit))
    return sorted(found)


def need_dead(net: Network, box: list[arb], families: list[dict[str, Any]]) -> None:
    """Raise :class:`NotDefinite` unless the units held as dead are 0 on every sample, over the box."""
    units = [(each["layer"], each["unit"]) for each in families if each["family"] == "dead unit"]
    for sweep in sweeps(net, box) if units else ():
        for layer, unit in units:
            silent = all(row[unit] == 0 for row in sweep.first[layer])
            _need(silent, f"unit {unit} of hidden layer {layer} is not dead on every sample")


def _row(net: Network, layer: int, row: int) -> set[int]:
    return {net.place(layer, row, j) for j in range(net.fan_in(layer))}


def _unit(net: Network, each: dict[str, Any]) -> tuple[int, int]:
    layer = _index(each["layer"], net.depth - 1)
    return layer, _index(each["unit"], net.widths[layer + 1])


def _index(given: int, size: int) -> int:
    _need(type(given) is int and 0 <= given < size, f"{given!r} is out of range")
    return given


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotDefinite(f"symmetries: {otherwise}")
