"""Separable classes: where every sample is on the right side, the infimum of the loss lies at infinity.

Let all margins be positive at some parameters: ``f_y − f_k > 0`` for cross-entropy, ``(2y − 1) f > 0`` for the
logistic loss. Then scaling the last layer up lowers every term, for ever: the infimum of the risk is 0, no
parameters attain it, and every descent that gets there ends in a run to infinity. With the hidden layers
held fixed the last layer is a linear classifier on what they feed it, and the length-one weights with the
largest smallest margin are the direction in which the loss falls fastest in the end.

Whether there are such parameters is told in two ways. *From the inputs alone*: a linear program finds logits
``Wx + c`` that tell the classes apart, if there are any, and a network with hidden layers as wide as the rank
of W (at most classes − 1) has them to any precision in units that are all but linear on the data. *From a run*
whose end has positive margins. Either way the answer is parameters at which all margins, computed, are
positive beyond rounding; that none are found says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from semiflat.losses.separable import PROGRAM_ENTRIES, separation
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.records.shown import Shown

ROUNDED = 1e-10
"""Part of the largest output that a margin must exceed to be positive beyond rounding."""
BENDS = (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3)
"""How far units are driven from where they stand, as parts of 1, to be as linear as need be."""
STANDS = (0.0, 1.0, 0.5)
"""Pre-activations around which units are made linear: σ' may be 0, or have a kink, at one of them."""
ROUNDS, ADDED = 200, 64
"""Of the program for the largest margin: how many, and how many of the tightest samples join in each."""
MET = 1e-9
"""Part of the margin by which a sample may fall short of it at the end."""


@dataclass(frozen=True, eq=False)
class Separation(Shown):
    """Parameters that tell all classes apart, and the direction in which the loss falls for ever there.

    Attributes:
        point: where all margins are positive.
        found: how it was found, to go on a sentence.
        direction: of the last layer alone, shaped like the parameters, of length 1: with the point's hidden
            layers, its smallest margin is the largest that was found.
        margin: that margin: by so much at least each margin grows with a step of length 1.
        at_most: no direction of the last layer has a larger one, by a convex combination of samples.

    >>> import semiflat as sf
    >>> X, y = [[-2.0], [-1.0], [1.0], [3.0]], [0.0, 0.0, 1.0, 1.0]
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, y, loss="logistic")
    >>> told = sf.Separation.of_inputs(problem)
    >>> told.found, told.margin > 0
    ('a linear function of the inputs tells the classes apart', True)
    >>> told.risk(100.0) < 1e-3 * told.risk(1.0)
    True
    >>> sf.Separation.of_inputs(problem.with_weight_decay(1e-3)) is None      # then the infimum is attained
    True
    """

    point: Point
    found: str
    direction: Params
    margin: float
    at_most: float

    @classmethod
    def of_inputs(cls, problem: Problem) -> Separation | None:
        """By a linear program on the inputs; None if it finds none, or the program would be large.

        Takes milliseconds to a second; it is asked of plain classes without weight decay alone.
        """
        point = _nearly_linear(problem) if _falls_for_ever(problem) else None
        if point is None:
            return None
        return cls._at(point, "a linear function of the inputs tells the classes apart")

    @classmethod
    def at(
        cls, point: Point, found: str = "the point tells the classes apart"
    ) -> Separation | None:
        """At a point; None if not all margins are positive there, or with weight decay."""
        if not _falls_for_ever(point.problem) or not _tells_apart(point.problem, point.params):
            return None
        return cls._at(point, found)

    @classmethod
    def _at(cls, point: Point, found: str) -> Separation:
        direction, margin, at_most = _largest_margin(point)
        return cls(point, found, direction, margin, at_most)

    def along(self, length: float) -> Params:
        """The point's hidden layers below a last layer of that length in :attr:`direction`."""
        last = _last_layer(self.point.problem.net)
        return {
            key: length * self.direction[key] if key in last else value
            for key, value in self.point.params.items()
        }

    def risk(self, length: float) -> float:
        """The risk there: it tends to 0 as the length grows."""
        return float(self.point.problem.risk(self.along(length)))

    @cached_property
    def own_margin(self) -> float:
        """The smallest margin of the point's own last layer, scaled to length 1."""
        problem, net = self.point.problem, self.point.problem.net
        length = sum(float(self.point.params[key].square().sum()) for key in _last_layer(net))
        return float(_smallest(problem, problem.outputs(self.point.params)) / length**0.5)

    def __str__(self) -> str:
        bound = (
            "" if self.at_most <= self.margin * (1 + 1e-6) else f", of {self.at_most:.3g} at most"
        )
        return (
            f"{self.found}, so the infimum 0 of the loss lies at infinity: scaling the last layer up lowers it "
            "for ever, with these hidden layers fastest in the end along the direction of largest margin "
            f"({self.margin:.3g} a unit of length{bound}), where a last layer of length 10, 100 and 1000 has "
            "loss " + ", ".join(_few_digits(self.risk(length)) for length in (10.0, 100.0, 1000.0))
        )

    def __repr__(self) -> str:
        return f"Separation({self.found!r}, margin={self.margin:.6g}, at_most={self.at_most:.6g})"


def _few_digits(risk: float) -> str:
    return f"{risk:.2g}" if risk > 1e-300 else "less than 1e-300"


def _falls_for_ever(problem: Problem) -> bool:
    """Whether right classes everywhere mean that the infimum is 0 and not attained."""
    return not problem.decay and problem.loss.separated_below(problem.y) is not None


def _smallest(problem: Problem, outputs: Tensor) -> float:
    found = problem.loss.margins(outputs, problem.y)
    if found is None or len(found.ties) or not bool(found.counted.any()):
        return -float("inf")
    return float(found.sizes[found.counted].min())


def _tells_apart(problem: Problem, params: Params) -> bool:
    outputs = problem.outputs(params)
    return _smallest(problem, outputs) > ROUNDED * float(outputs.abs().max())


def _last_layer(net: MLP) -> list[str]:
    keys = [weight_key(net.depth - 1)]
    return [*keys, bias_key(net.depth - 1)] if net.biases[-1] else keys


# -- the largest margin ---------------------------------------------------------------------------


def _largest_margin(point: Point) -> tuple[Params, float, float]:
    """A direction of the last layer, its margin, and what no margin exceeds."""
    problem, net = point.problem, point.problem.net
    fed = _fed(problem, point.params)
    rows = _margins_of(problem, fed)
    # In the order of the rows: each output's weights, then its bias.
    own = net.layer(point.params, net.depth - 1)
    best, at_most = _hard_margin(rows, own.flatten().numpy())
    last = torch.from_numpy(best).reshape(own.shape)
    direction = {key: torch.zeros_like(value) for key, value in point.params.items()}
    direction[weight_key(net.depth - 1)] = last[:, : net.widths[-2]].clone()
    if net.biases[-1]:
        direction[bias_key(net.depth - 1)] = last[:, -1].clone()
    margin = float((rows @ best).min())
    return direction, margin, max(margin, at_most)


def _fed(problem: Problem, params: Params) -> Tensor:
    """What the last layer is fed with, and 1 if it has a bias, (N, k)."""
    net, h = problem.net, problem.X
    for layer in range(net.depth - 1):
        z = h @ params[weight_key(layer)].mT
        if net.biases[layer]:
            z = z + params[bias_key(layer)]
        h = problem.activate(layer, z)[0]
    return torch.cat([h, h.new_ones(len(h), 1)], 1) if net.biases[-1] else h


def _margins_of(problem: Problem, fed: Tensor) -> np.ndarray:
    """The margins as a linear map of the last layer, (margins, M k)."""
    found = problem.loss.margins(_basis(problem.net.outputs, fed), problem.y)
    assert found is not None
    rows: np.ndarray = found.sizes[found.counted].numpy()
    return rows


def _basis(outputs: int, fed: Tensor) -> Tensor:
    """The outputs that each weight of a layer fed with ``fed`` (N, k) makes alone, (N, M, M k)."""
    basis = fed.new_zeros(len(fed), outputs, outputs, fed.shape[1])
    for output in range(outputs):
        basis[:, output, output] = fed
    return basis.flatten(2)


def _hard_margin(rows: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, float]:
    """Length-one w of the largest ``min rows·w``, as far as it was found, and what that cannot exceed.

    The shortest w with ``rows·w ≥ 1`` is a least distance program (Lawson and Hanson 1974, ch. 23): its dual is
    a least-squares problem with non-negative unknowns. It is solved for the tightest rows, which are joined by
    those it violates most.
    """
    size = float(np.linalg.norm(rows, axis=1).max())
    rows = rows / size
    best = own / np.linalg.norm(own)
    at_most, among = np.inf, np.array([], dtype=np.int64)
    for _ in range(ROUNDS):
        reached = rows @ best
        among = np.union1d(among, np.argsort(reached, kind="stable")[:ADDED])
        system = np.vstack([rows[among].T, np.ones(len(among))])
        goal = np.zeros(len(system))
        goal[-1] = 1.0
        try:
            weights, _ = nnls(system, goal)
        except RuntimeError:  # too many steps: the best so far stands
            break
        off = system @ weights - goal
        if not weights.sum() > 0 or not off[-1] < 0:
            break
        at_most = min(at_most, float(np.linalg.norm(off[:-1]) / weights.sum()))
        found = off[:-1] / -off[-1]
        found = found / np.linalg.norm(found)
        now, before = float((rows @ found).min()), float(reached.min())
        done = now >= at_most * (1 - MET)
        if now > before:
            best = found
        if done:
            break
        fresh = np.setdiff1d(np.argsort(rows @ found, kind="stable")[:ADDED], among)
        if not len(fresh):
            break
        among = np.union1d(among, fresh)
    return best, at_most * size


# -- linear functions of the inputs ---------------------------------------------------------------


def _nearly_linear(problem: Problem) -> Point | None:
    """A network that is a separating linear function of the inputs, all but; None if none is found."""
    net = problem.net
    if not all(net.biases) or not problem.by_algebra:
        return None
    fed = torch.cat([problem.X, problem.X.new_ones(problem.samples, 1)], 1)
    outputs = net.outputs
    if problem.samples * outputs * outputs * (net.inputs + 1) > PROGRAM_ENTRIES:
        return None
    told = separation(problem.loss, _basis(outputs, fed), problem.y)
    if told.direction is None or not bool(told.vanishing.any()):
        return None
    rows = _margins_of(problem, fed)
    best_logits, _ = _hard_margin(rows, told.direction.numpy())
    if not float((rows @ best_logits).min()) > 0:
        return None
    logits = torch.from_numpy(best_logits).reshape(outputs, -1)
    if problem.loss.shift_invariant:
        logits = logits - logits.mean(0)
    W, c = logits[:, :-1], logits[:, -1]
    left, sizes, right = torch.linalg.svd(W, full_matrices=False)
    rank = int((sizes > 1e-12 * sizes[0]).sum())
    if rank > min(net.hidden, default=rank):
        return None
    if not net.hidden:
        params = {weight_key(0): W.clone(), bias_key(0): c.clone()}
        return Point(problem, params) if _tells_apart(problem, params) else None
    best: tuple[float, Params] | None = None
    for stand in STANDS:
        for bend in BENDS:
            made = _in_units(problem, left[:, :rank] * sizes[:rank], c, right[:rank], stand, bend)
            if made is None or not _tells_apart(problem, made):
                continue
            length = sum(float(made[key].square().sum()) for key in _last_layer(net)) ** 0.5
            margin = _smallest(problem, problem.outputs(made)) / length
            if best is None or margin > best[0]:
                best = margin, made
    return None if best is None else Point(problem, best[1])


def _in_units(
    problem: Problem, V: Tensor, c: Tensor, rows: Tensor, stand: float, bend: float
) -> Params | None:
    """The network ``V·(rows·x) + c`` in units driven by ``bend`` around ``stand``; None where σ' is 0 there."""
    net = problem.net
    params = {key: problem.X.new_zeros(shape) for key, shape in net.shapes.items()}
    rank = len(rows)
    size = float((problem.X @ rows.mT).abs().max())
    if size == 0:
        return None
    at = torch.full((1, 1), stand, dtype=problem.X.dtype)
    into, offset, gain = rows, 0.0, bend / size
    for layer, activation in enumerate(net.activations):
        value, slope = (float(part) for part in activation.derivatives(at)[:2])
        if not abs(slope) > 1e-6:
            return None
        # What is fed is offset + gain'·(linear features); each unit goes bend from its stand at most.
        params[weight_key(layer)][:rank, : into.shape[1]] = gain * into
        params[bias_key(layer)][:] = stand
        params[bias_key(layer)][:rank] -= gain * offset
        into, offset, gain = torch.eye(rank, dtype=rows.dtype), value, 1.0 / slope
    scale = size / bend
    params[weight_key(net.depth - 1)][:, :rank] = scale * gain * V
    params[bias_key(net.depth - 1)][:] = c - scale * gain * offset * V.sum(1)
    return params
