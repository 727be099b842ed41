"""A path of non-increasing loss from any parameters to zero loss (P21 Thm 3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError, positive, whole_seed
from semiflat.networks import MLP, Params
from semiflat.paths.image import image_of
from semiflat.paths.lemmas import Stage, alone, both_signs, lemma_6, listened_to
from semiflat.paths.path import (
    Claim,
    Curve,
    Path,
    PathCheck,
    Piece,
    rounding,
    straight,
)
from semiflat.paths.steering import Steering, silenced
from semiflat.paths.wide_layer import WideLayer
from semiflat.points import Point, check_one
from semiflat.problem import Problem

WORST = 1e8
"""Condition number from which float64 leaves too few digits for the loss to keep still."""
ARRIVED = 1e-12
"""Part of the loss at the start that counts as 0 at the end."""
TOGETHER = 1e-9
"""Distance of two samples, relative to their spread, below which a layer counts them as one."""
SPREAD = 1e-5
"""Spread of the samples, relative to their size, below which rounding hides where a step is."""


class ZeroLossPath(Path):
    """The path of P21 Thm 3, with what it cost.

    Attributes:
        layer: the wide hidden layer.
        condition: condition number of its N × (units + constant) matrix of activations, that the path is
            steered with.
        condition_before: the same at the start.
        exchanged: how many of its units were moved to make it so.
        perturbation: distance from the given parameters to path(0); 0 but where a layer below the
            wide one mixes up samples.

    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 6, 2, 1], "sigmoid"), X, torch.cos(3 * X))
    >>> path = sf.path_to_zero_loss(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> path.layer, path.perturbation, path.condition < path.condition_before
    (0, 0.0, True)
    """

    def __init__(
        self,
        problem: Problem,
        pieces: Sequence[Piece],
        layer: int,
        condition_before: float,
        condition: float,
        exchanged: int,
        perturbation: float,
    ) -> None:
        super().__init__(problem, pieces)
        self.layer, self.condition_before, self.condition = layer, condition_before, condition
        self.exchanged, self.perturbation = exchanged, perturbation

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {
            "layer": self.layer,
            "condition": self.condition,
            "condition_before": self.condition_before,
            "exchanged": self.exchanged,
            "perturbation": self.perturbation,
        }

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return super().to_json() | {
            "layer": self.layer,
            "condition": self.condition,
            # Singular: None, as JSON knows no infinity.
            "condition_before": self.condition_before if isfinite(self.condition_before) else None,
            "exchanged": self.exchanged,
            "perturbation": self.perturbation,
        }


def path_to_zero_loss(
    point: Point, *, seed: int = 0, tolerance: float = 1e-9, epsilon: float = 1e-3
) -> ZeroLossPath:
    """A continuous path of non-increasing loss from a point, critical or not, to zero loss (P21 Thm 3).

    For squared loss, one output and activations of class A (tanh, sigmoid, ``torch.atan``,
    ``torch.erf``), with a hidden layer at least as wide as there are samples: the last one, or the
    second-last. Γ0 makes that layer's N × n matrix of activations well-conditioned while the outputs stay
    as they are; then, if the last hidden layer is the wide one, its outgoing weights go straight to a fit;
    else Γ1 gives the output weights both signs, Γ2 makes room in the image of the activation, and Γ3 takes
    the outputs straight to the targets. Loss is constant along Γ0, Γ1 and Γ2 and strictly decreasing along
    the last piece.

    The theorem starts at a point within ε of the given one. Here the path starts at the point
    itself, as Γ0 reaches full rank at constant loss; only where a layer below the wide one takes two
    samples to the same activations are the layers below moved at random first, by ``epsilon`` relative
    to each parameter (``path.perturbation``), which changes the loss before the path begins.

    Args:
        point: one point.
        seed: of the random columns that Γ0 chooses from.
        tolerance: largest rise of the loss, relative to that at the start.
        epsilon: see above.

    Returns:
        The path, measured: ``path(t)`` are the parameters at t in [0, 1], ``path.check`` says how far
        the loss rises anywhere, ``path.condition`` what the steering rests on.

    Raises:
        InputError: for another loss, weight decay, more outputs, an activation outside class A, a width
            below N (with the number of units missing), equal samples with different targets, a
            condition number that float64 cannot carry, or a path whose loss rises by more than
            ``tolerance``.

    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 6, 2, 1], "sigmoid"), X, torch.cos(3 * X))
    >>> path = path_to_zero_loss(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> [piece.claim.value for piece in path.pieces][-1], path.check.largest_increase < 1e-9
    ('decreasing', True)
    >>> bool(path.losses([1.0]) < 1e-20)
    True
    """
    _check(point)
    seed, tolerance = whole_seed(seed), positive("tolerance", tolerance)
    problem = point.problem
    first = _distinct(problem)
    inputs, targets = problem.X[first], problem.y[first, 0]
    able = _wide_layers(problem.net, len(inputs))
    here = _nothing_left(point)
    if here is not None:
        return here
    layer, params, perturbation = _apart(problem.net, point.params, inputs, able, epsilon, seed)
    wide = WideLayer(problem.net, inputs, layer)
    good = wide.make_good(params, seed)
    if not good.after <= WORST:
        raise InputError(
            f"the activations of hidden layer {layer} on the {len(inputs)} samples have condition number "
            f"{good.after:.1e} (at first {good.before:.1e}), and float64 carries the path up to "
            f"{WORST:.0e}; widen that layer by a few units, or spread the samples (nearly equal ones?)"
        )
    pieces = []
    if good.curves:
        pieces.append(
            Piece(
                "Γ0: well-conditioned activations",
                Claim.CONSTANT,
                "units nobody listens to move where their activations are needed; the outputs stay as they "
                "are (P21 Lemma 2, without its ε)",
                good.curves,
            )
        )
    if layer == len(problem.net.hidden) - 1:
        pieces.append(_straight_to_the_fit(wide, good.params, targets))
    else:
        pieces += _steered(wide, good.params, targets)
    path = ZeroLossPath(
        problem, pieces, layer, good.before, good.after, good.exchanged, perturbation
    )
    _measured(path.check, tolerance, good.after)
    return path


def _nothing_left(point: Point) -> ZeroLossPath | None:
    """The path that stays where it is, if the loss is zero up to rounding."""
    at = point.problem.net.flatten(point.params)
    all_of_them = torch.ones_like(at, dtype=torch.bool)
    if point.loss > float(rounding(point.problem, at[None], all_of_them)[0]):
        return None
    stay = Piece("stay", Claim.CONSTANT, "the loss is zero up to rounding", [straight(at, at)])
    return ZeroLossPath(point.problem, [stay], 0, 1.0, 1.0, 0, 0.0)


def _straight_to_the_fit(wide: WideLayer, params: Params, targets: Tensor) -> Piece:
    columns, net = wide.columns(params), wide.net
    inverse = torch.linalg.pinv(columns)
    rows = net.layer(params, wide.layer + 1)
    for _ in range(2):  # the second time for what rounding left
        missing = targets - columns @ rows[0]
        rows = rows + (inverse @ missing)[None]
    fit = wide.with_outgoing(params, rows)
    return Piece(
        "Γ: to the fit",
        Claim.DECREASING,
        "the outputs are linear in the last weights, and go straight to the targets: the loss is (1 − s)² "
        "of what it was",
        [straight(net.flatten(params), net.flatten(fit))],
    )


def _steered(wide: WideLayer, params: Params, targets: Tensor) -> list[Piece]:
    net = wide.net
    image = image_of(net.activations[wide.layer + 1])
    steering = Steering(wide, params, image)
    if silenced(steering.state().levels):
        raise InputError(
            "a unit of the last hidden layer is saturated beyond what float64 can tell from its limit; "
            "make its incoming weights smaller"
        )
    ran: list[tuple[Stage, Curve]] = []

    def run(stages: Sequence[Stage]) -> None:
        ran.extend((stage, steering.run(stage)) for stage in stages)

    if image.zero_inside:
        run(listened_to(steering.state(), image))
        run(lemma_6(steering.state(), image, targets))
    elif net.widths[-2] == 1:
        run(alone(steering.state(), image, targets, net.biases[-1]))
    else:
        run(both_signs(steering.state()))
        run(lemma_6(steering.state(), image, targets))
    pieces = []
    for (name, claim, reason), part in groupby(
        ran, lambda one: (one[0].name, one[0].claim, one[0].reason)
    ):
        pieces.append(Piece(name, claim, reason, [curve for _, curve in part]))
    return pieces


def _check(point: Point) -> None:
    check_one(point, "path_to_zero_loss")
    problem, net = point.problem, point.problem.net
    if not problem.loss.quadratic:
        raise InputError(
            f"P21 Thm 3 is about the squared loss, and this problem has {problem.loss.name!r}; make the "
            "problem with loss='squared'"
        )
    problem.check_outputs_alone("the loss has no zero to lead to")
    if net.outputs != 1:
        raise InputError(
            f"P21 Thm 3 is about one output, and this network has {net.outputs}; take one output at a time"
        )
    problem.check_double("a path")
    problem.check_plain("a path")
    if not net.hidden:
        raise InputError(f"P21 Thm 3 needs a hidden layer, and widths {list(net.widths)} have none")


def _distinct(problem: Problem) -> Tensor:
    """The first of each group of equal samples.

    Raises:
        InputError: if two equal samples have different targets: there is no zero loss then.
    """
    _, group = torch.unique(problem.X, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(group), dtype=torch.long)
    first = first.scatter_reduce(0, group, torch.arange(len(group)), "amin")
    wrong = (problem.y[first[group], 0] != problem.y[:, 0]).nonzero()[:, 0]
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"samples {int(first[group[row]])} and {row} have equal inputs and different targets, so no "
            "network reaches zero loss; merge them or drop one"
        )
    return first.sort().values


def _wide_layers(net: MLP, samples: int) -> list[int]:
    """The hidden layers that can be steered with, of the last and the second-last."""
    last = len(net.hidden) - 1
    wide = [k for k in (last, last - 1) if k >= 0 and net.hidden[k] >= samples]
    if wide:
        for layer in range(wide[-1], last + 1):
            image_of(net.activations[layer])
        return wide
    widths = ", ".join(
        f"hidden layer {layer} has {net.hidden[layer]} unit(s), {samples - net.hidden[layer]} too few"
        for layer in (last - 1, last)
        if layer >= 0
    )
    raise InputError(
        f"P21 Thm 3 needs at least as many units as distinct samples, {samples}, in the last or the "
        f"second-last hidden layer; {widths}"
    )


def _apart(
    net: MLP, params: Params, inputs: Tensor, wide: list[int], epsilon: float, seed: int
) -> tuple[int, Params, float]:
    """The wide layer to steer with, parameters that tell its samples apart, and how far they moved.

    The last is simpler, but of two wide layers the one serves whose samples differ as they are; where
    neither's do, the one with fewer layers below, that a small move tells apart.
    """
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise InputError(f"epsilon must be a number from 0 up to 1, not {epsilon!r}")
    for layer in wide:
        if _told_apart(net.fed(params, inputs, layer)):
            return layer, params, 0.0
    layer = wide[-1]
    if layer == 0:
        raise InputError(
            f"two of the samples are equal to {TOGETHER:.0e} of their spread (or all are to {SPREAD:.0e} of "
            "their size), and no unit of ordinary size tells them apart; merge or drop one, or standardise"
        )
    generator = torch.Generator().manual_seed(seed)
    moved = dict(params)
    for key in list(net.shapes)[: sum(1 + net.biases[below] for below in range(layer))]:
        noise = torch.randn(params[key].shape, generator=generator, dtype=torch.float64)
        moved[key] = params[key] + epsilon * (1 + params[key].abs()) * noise
    if not _told_apart(net.fed(moved, inputs, layer)):
        raise InputError(
            f"hidden layer {layer} is fed with the same values for different samples (also with the layers "
            f"below moved by epsilon = {epsilon:g}); give a larger epsilon, or scale the inputs"
        )
    return layer, moved, float(torch.linalg.vector_norm(net.flatten(moved) - net.flatten(params)))


def _told_apart(fed: Tensor) -> bool:
    if len(fed) == 1:
        return True
    spread = (fed.amax(0) - fed.amin(0)).amax()
    if not spread > SPREAD * fed.abs().max():
        return False
    apart = torch.pdist(fed)
    return bool(apart.min() > TOGETHER * spread)


def _measured(found: PathCheck, tolerance: float, condition: float) -> None:
    rise = max(found.largest_increase, found.largest_change, found.noise)
    what = "rises by" if found.noise < rise else "is rounded by up to"
    if not rise <= tolerance:
        raise InputError(
            f"along the path the loss {what} {rise:.1e} of {found.start:.3g}, more than tolerance "
            f"{tolerance:.0e}: float64 does not carry it at condition number {condition:.1e}"
            + (" and a loss this near 0" if found.start < 1e-8 else "")
            + "; give a larger tolerance, or start elsewhere"
        )
    if not found.end <= ARRIVED * found.start:
        raise InputError(
            f"the path ends at {found.end / found.start:.1e} of the loss {found.start:.3g} instead of 0: "
            f"float64 does not carry it at condition number {condition:.1e}; scale inputs and targets to "
            "ordinary size"
        )
