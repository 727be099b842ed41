"""Straight moves of the parameters that keep the outputs on the data: K19's V[θ, ε], as far as it is known.

Two linear spaces of moves, each of which may be made at once in all layers:

- *unnoticed*: rows of ``[W_l, b_l]`` along the null space of what layer l is fed with (K19 §3.3: the left
  null space of hidden activations): shares of duplicate units, constant units against the bias, dead
  units, dependent activations, dependent inputs. No activation changes.
- *unheard*: changes of pre-activations that nothing above hears, whatever their size on each sample:
  ``Z_l`` holds units whose outgoing weights are 0, and combinations a of units linear on the data with
  ``W_{l+1} a`` unheard in turn (the vectors a_l of K19's proofs of Thms 3 and 4).

The outputs along every move are measured, and moves that do not keep them are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.gradient import in_layer
from semiflat.evidence import EPS, OnData
from semiflat.networks import MLP, weight_key

CHECKED = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Parts of a move at which the outputs, and the sides of kinks, are looked at."""
HALVINGS = 40


@dataclass(frozen=True)
class Move:
    """A straight segment from θ along which the outputs stay as they are.

    Attributes:
        family: which kind of move.
        step: θ moves to θ + step; flat, (P,).
    """

    family: str
    step: Tensor


@dataclass(frozen=True)
class MoveFamily:
    """A linear space of moves, by a function that draws one of ordinary size."""

    name: str
    draw: Callable[[torch.Generator], Tensor]


def families(data: OnData) -> list[MoveFamily]:
    """The families of straight moves at a point; none where there are no such moves."""
    net = data.net
    unheard = unheard_changes(data)
    quiet: list[Callable[[torch.Generator], Tensor]] = []
    heard: list[Callable[[torch.Generator], Tensor]] = []
    both: list[Callable[[torch.Generator], Tensor]] = []
    found: list[MoveFamily] = []
    for layer in range(net.depth):
        null = data.inputs[layer].null_space
        if len(null):
            draw = _unnoticed(net, data, layer, null)
            quiet.append(draw)
            found.append(MoveFamily(f"null space of what layer {layer} is fed with", draw))
            if layer:
                null = _not_seeing(data, layer, null, unheard[layer - 1])
        if len(null):
            both.append(_unnoticed(net, data, layer, null))
        if layer:
            for pair in data.duplicate_directions(layer):
                draw = _unnoticed(net, data, layer, pair[None])
                found.append(
                    MoveFamily(f"shares of two duplicates in hidden layer {layer - 1}", draw)
                )
        if layer < len(net.hidden) and len(unheard[layer]):
            draw = _unheard(net, data, layer, unheard[layer])
            heard.append(draw)
            both.append(draw)
            found.append(MoveFamily(f"units of hidden layer {layer} that nothing hears", draw))
    for name, draws in (
        ("null spaces of all layers together", quiet),
        ("unheard units of all layers together", heard),
        ("both together", both),
    ):
        if len(draws) > 1:
            found.append(MoveFamily(name, _together(draws)))
    return found


def not_analytic(net: MLP) -> str | None:
    """Why a gradient along a move says nothing of θ itself; None where it does (K19 Lemma 3)."""
    for layer, each in enumerate(net.activations):
        if not each.analytic:
            return (
                f"activation {each.name} of hidden layer {layer} is not known to be analytic, so a gradient "
                "that is not 0 after a move may be 0 near the point; name the activation if it has a name"
            )
    return None


def unheard_changes(data: OnData) -> list[Tensor]:
    """``Z_l`` of each hidden layer: pre-activation changes nothing above hears, (q, width), orthonormal.

    From the top: a change a of the activations is unheard if ``W_{l+1} a`` is 0 or lies in Z_{l+1}. Of one
    unit, that is not linear, exactly 0: with a share of 1e-16 a minimum is still one, and moves of any size
    may not be heard at all.
    """
    net = data.net
    found: list[Tensor] = []
    deaf = torch.zeros(net.outputs, dtype=torch.bool)
    for layer in range(len(net.hidden) - 1, -1, -1):
        heard = data.params[weight_key(layer + 1)]
        if found:
            heard = heard - found[-1].mT @ (found[-1] @ heard)
        size = float(torch.linalg.matrix_norm(data.params[weight_key(layer + 1)]))
        limit = 8 * max(heard.shape) * EPS * size
        # Units whatever they do.
        alone = (data.params[weight_key(layer + 1)][~deaf] == 0).all(0) | data.dead[layer]
        linear = _linear_units(data, layer) & ~alone
        eye = torch.eye(net.hidden[layer], dtype=heard.dtype)
        rows = [eye[alone]]
        if linear.any():
            slopes = data.slopes[layer][0, linear]
            _, sizes, right = torch.linalg.svd(heard[:, linear], full_matrices=True)
            null = right[int((sizes > limit).sum()) :]
            changes = torch.zeros((len(null), net.hidden[layer]), dtype=heard.dtype)
            changes[:, linear] = null / slopes
            rows.append(torch.linalg.qr(changes.mT).Q.mT)
        found.append(torch.cat(rows))
        deaf = alone
    return found[::-1]


def _linear_units(data: OnData, layer: int) -> Tensor:
    """Units that are linear on the data near θ: identity, or on one side of the kink on every sample."""
    activation, z = data.net.activations[layer], data.pre[layer]
    if activation.slopes is None:
        return torch.zeros(z.shape[1], dtype=torch.bool)
    if activation.smooth:
        return torch.ones(z.shape[1], dtype=torch.bool) & (data.slopes[layer][0] != 0)
    one_side = (z > 0).all(0) | (z < 0).all(0)
    return one_side & (data.slopes[layer][0] != 0)


def _not_seeing(data: OnData, layer: int, null: Tensor, changes: Tensor) -> Tensor:
    """The null vectors (q, D) that stay null when unheard units below change."""
    moved = data.slopes[layer - 1][0] * changes
    alone = (changes != 0).sum(1) == 1
    moved = torch.where(alone[:, None], changes, moved)  # not linear, so no slope speaks for it
    seen = null[:, : data.net.widths[layer]] @ moved.mT
    if not seen.numel():
        return null
    left, sizes, _ = torch.linalg.svd(seen, full_matrices=True)
    rank = int((sizes > 1e-10 * max(1e-300, float(null.abs().max()))).sum())
    kept: Tensor = left[:, rank:].mT @ null
    return kept


def _unnoticed(
    net: MLP, data: OnData, layer: int, null: Tensor
) -> Callable[[torch.Generator], Tensor]:
    rows = net.layer(data.params, layer)
    null = null / torch.linalg.vector_norm(null, dim=1, keepdim=True)
    size = float(rows.abs().max()) or 1.0

    def draw(generator: torch.Generator) -> Tensor:
        mix = torch.randn((len(rows), len(null)), generator=generator, dtype=torch.float64)
        return in_layer(net, layer, size * mix @ null)

    return draw


def _unheard(
    net: MLP, data: OnData, layer: int, changes: Tensor
) -> Callable[[torch.Generator], Tensor]:
    # As long as what it does to the pre-activations: inputs come in all units.
    fed = data.inputs[layer].values.square().mean(0).sqrt()
    scale = torch.where(fed > 0, fed, 1.0)

    def draw(generator: torch.Generator) -> Tensor:
        mix = torch.randn((len(changes), len(fed)), generator=generator, dtype=torch.float64)
        return in_layer(net, layer, changes.mT @ (mix / scale) / len(fed) ** 0.5)

    return draw


def _together(
    draws: list[Callable[[torch.Generator], Tensor]],
) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.stack([draw(generator) for draw in draws]).sum(0)


def draw_moves(
    data: OnData, seed: int, each: int, counts: dict[str, int] | None = None
) -> Iterator[Move]:
    """Moves of every family, ``each`` of them and their opposites, as long as they keep the outputs.

    A move is halved until no unit with a kink changes sides on any sample along it.
    """
    generator = torch.Generator().manual_seed(seed)
    for family in families(data):
        for _ in range(each):
            step = family.draw(generator)
            for sign in (1.0, -1.0):
                kept = kept_step(data, sign * step)
                if counts is not None:
                    name = family.name if kept is not None else "dropped: outputs change"
                    counts[name] = counts.get(name, 0) + 1
                if kept is not None:
                    yield Move(family.name, kept)


def kept_step(data: OnData, step: Tensor) -> Tensor | None:
    """The step, halved until it crosses no kink; None if the outputs change along it."""
    problem, net = data.problem, data.net
    at = net.flatten(data.params)
    if not torch.isfinite(step).all() or not step.any():
        return None
    kinked = [k for k, activation in enumerate(net.activations) if not activation.smooth]
    for _ in range(HALVINGS):
        along = [OnData(problem, net.unflatten(at + part * step)) for part in CHECKED]
        crossed = any(
            bool(((there.pre[k] > 0) != (data.pre[k] > 0)).any() or (there.pre[k] == 0).any())
            for there in along
            for k in kinked
        )
        if not crossed:
            break
        step = step / 2
    else:
        return None
    limit = 1e4 * EPS * max(_size(there) for there in (data, *along))
    change = max(float((there.outputs - data.outputs).abs().max()) for there in along)
    return step if change <= limit else None


def _size(data: OnData) -> float:
    """The largest term that any pre-activation or output is a sum of: what rounding scales with."""
    last = data.net.layer(data.params, data.net.depth - 1)
    terms = float((data.inputs[-1].values.abs() @ last.abs().mT).max())
    return max([terms, *(float(size.max()) for size in data.sizes)])
