"""What is given to a general compatible embedding, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiflat.embeddings.compatible_conditions import NULL, Floats, Groups
from semiflat.embeddings.vectors import listed, numbers
from semiflat.errors import InputError, whole_number
from semiflat.networks import MLP


def read_groups(widths: tuple[int, ...], index_map: Sequence[Sequence[int | None]]) -> list[Groups]:
    index_map = [listed(f"index_map[{k}]", v) for k, v in enumerate(listed("index_map", index_map))]
    if len(index_map) != len(widths) - 2:
        raise InputError(
            f"index_map has {len(index_map)} lists, but widths {list(widths)} have "
            f"{len(widths) - 2} hidden layer(s); give one list for each"
        )
    groups = []
    for layer, sources in enumerate(index_map):
        if len(sources) != widths[layer + 1]:
            raise InputError(
                f"index map of hidden layer {layer} has {len(sources)} entries; the wide layer has "
                f"{widths[layer + 1]} units, and each needs one"
            )
        index: NDArray[np.int64] = np.array(
            [_source(layer, unit, source, len(sources)) for unit, source in enumerate(sources)]
        )
        size = int(index.max()) + 1
        missing = sorted(set(range(size)) - set(index.tolist()))
        if missing or size == 0:
            raise InputError(
                f"index map of hidden layer {layer} is not total: no wide unit copies narrow unit "
                f"{missing[0] if missing else 0}; every narrow unit needs at least one copy"
            )
        groups.append(Groups(index, size))
    return groups


def _source(layer: int, unit: int, source: object, units: int) -> int:
    if source is None:
        return NULL
    found = whole_number(source)
    if found is None or not NULL <= found < units:
        raise InputError(
            f"index map of hidden layer {layer}: unit {unit} has source {source!r}; give a narrow unit, "
            f"a whole number from 0 (at most {units - 1} in a layer of {units}), or None for a null unit"
        )
    return found


def check_fits(net: MLP, widths: tuple[int, ...]) -> None:
    if len(widths) != len(net.widths) or (widths[0], widths[-1]) != (net.inputs, net.outputs):
        raise InputError(
            f"widths {list(widths)} do not fit a network of widths {list(net.widths)}: as many layers, "
            "and the same input and output, are needed"
        )
    for layer, (narrow, wide) in enumerate(zip(net.hidden, widths[1:-1], strict=True)):
        if wide < narrow:
            raise InputError(
                f"hidden layer {layer} would shrink from {narrow} to {wide} units; give at least "
                f"{narrow}"
            )


def read_matrices(alpha: Sequence[Any], widths: tuple[int, ...]) -> list[Floats]:
    alpha = listed("alpha", alpha)
    if len(alpha) != len(widths) - 1:
        raise InputError(
            f"alpha has {len(alpha)} matrices, but there are {len(widths) - 1} linear layers"
        )
    found = []
    for layer, given in enumerate(alpha):
        matrix = numbers(f"alpha[{layer}]", given, 2).numpy()
        if matrix.shape != (widths[layer + 1], widths[layer]):
            raise InputError(
                f"alpha[{layer}] has shape {matrix.shape}; linear layer {layer} of the wide network "
                f"needs {(widths[layer + 1], widths[layer])}"
            )
        found.append(matrix)
    return found


def read_vectors(name: str, given: Sequence[Any], groups: list[Groups]) -> list[Floats]:
    given = listed(name, given)
    if len(given) != len(groups):
        raise InputError(
            f"{name} has {len(given)} lists, but there are {len(groups)} hidden layers"
        )
    found = []
    for layer, (values, group) in enumerate(zip(given, groups, strict=True)):
        filled = [0.0 if value is None else value for value in listed(f"{name}[{layer}]", values)]
        vector = numbers(f"{name}[{layer}]", filled, 1).numpy()
        if len(vector) != len(group.index):
            raise InputError(
                f"{name}[{layer}] has {len(vector)} entries; the wide layer has {len(group.index)} "
                "units, and each needs one (anything at null units)"
            )
        vector[group.index == NULL] = 0
        found.append(vector)
    return found


def read_null_biases(given: Sequence[Any] | None, groups: list[Groups]) -> list[Floats]:
    counts = [int((group.index == NULL).sum()) for group in groups]
    if given is None:
        return [np.zeros(count) for count in counts]
    given = listed("null_biases", given)
    if len(given) != len(groups):
        raise InputError(
            f"null_biases has {len(given)} lists, but there are {len(groups)} hidden layers"
        )
    found = []
    for layer, (values, count) in enumerate(zip(given, counts, strict=True)):
        given_here = listed(f"null_biases[{layer}]", values)
        vector = (
            numbers(f"null_biases[{layer}]", given_here, 1).numpy() if given_here else np.zeros(0)
        )
        if len(vector) != count:
            raise InputError(
                f"null_biases[{layer}] has {len(vector)} entries, but the index map has {count} null "
                "unit(s) there"
            )
        found.append(vector)
    return found


def equal_shares(group: Groups) -> Floats:
    shares: Floats = 1.0 / group.counts[group.index.clip(min=0)]
    return np.where(group.index == NULL, 0.0, shares)


def random_shares(group: Groups, generator: np.random.Generator, scale: float) -> Floats:
    drawn = scale * generator.standard_normal(len(group.index))
    drawn[group.index == NULL] = 0
    source = group.index.clip(min=0)
    missing = 1 - np.bincount(source, weights=drawn, minlength=group.size)
    shares: Floats = drawn + (missing / group.counts)[source]
    return np.where(group.index == NULL, 0.0, shares)
