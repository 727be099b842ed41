"""Whether critical points of one function lie on one connected set: paths of critical points between them.

Where units are idle (constant, unheard, or copies of another), critical points come in sets that are
pieces of planes and curved sheets, glued together where units do nothing at all. So each point is first
brought there: copies give their outgoing weights to one of them, idle units give theirs up and then their
incoming ones, one unit at a time. From there they go straight to the one of them that got furthest.

Each leg is a line, along which the gradient stays what it is at the points themselves; or, where it does
not, short steps along the line, each brought back to the critical set near by. Nothing rests on why a
unit is thought to be idle: a leg that leaves the critical set is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.evidence import OnData
from semiflat.networks import Params, bias_key, weight_key
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.symmetries.canonical import aligned, normalized, same_network

SLACK = 100.0
"""A gradient on the way may be this many times what it is, or what rounding makes it, at the points."""
LOOKS = 8
"""Places on a straight leg at which the gradient is asked for."""
STEPS = 32
"""Into how many steps a leg is cut that is not straight."""
CORRECTIONS = 8
"""Levenberg–Marquardt steps on the gradient that bring one of them back to the critical set."""
TRIALS = 3
"""How often a point is sent to one of a set that it is not seen to lie on."""
MOST = 64
"""How many points of one function are sent along legs that are not straight; batches hold as many."""
ALIKE = 1e-3
"""Part of their size up to which two units are taken for copies, to be tried."""


def joined(points: Sequence[Point]) -> list[bool]:
    """Which of some points are shown to lie on one connected set of critical points.

    Up to the symmetries of the activations. At least one is. Only of those found to be together it is
    known that they are: the others may be, too.

    Args:
        points: critical points of one problem that compute one function on the data.
    """
    problem, net = points[0].problem, points[0].problem.net
    noise = float(OnData(problem, points[0].params).natural.noise.max())
    paths = _Paths(problem, SLACK * max(noise, *(float(p.gradient_norm) for p in points)))
    # Scales are symmetries, and a path, unless weights are penalised.
    params = [normalized(net, p.params) if problem.outputs_alone else p.params for p in points]
    flat = torch.stack([net.flatten(each) for each in params])
    settled = torch.cat([paths.settle(some) for some in flat.split(MOST)])
    end = settled[int(torch.linalg.vector_norm(settled, dim=-1).argmin())]
    goal, ends = net.unflatten(end), [net.unflatten(row) for row in settled]
    found = [same_network(net, goal, each) for each in ends]
    near = torch.stack([net.flatten(aligned(net, each, goal)) for each in ends])
    for trial in range(TRIALS):
        others = [k for k, done in enumerate(found) if not done][:MOST]
        if not others:
            break
        if trial:  # by way of the nearest that has arrived
            there = near[torch.tensor(found)]
            goals = there[torch.cdist(near[others], there).argmin(1)]
        else:
            goals = end.expand(len(others), -1)
        arrived = paths.go(near[others], goals)[1].tolist()
        for k, done in zip(others, arrived, strict=True):
            found[k] = done
        if not any(arrived):
            break
    return found


class _Paths:
    """Paths of critical points of a problem, for a batch (B, P) of them at once.

    Args:
        limit: what ‖∇R‖∞ may be on them.
    """

    def __init__(self, problem: Problem, limit: float) -> None:
        self.problem, self.limit = problem, limit

    def settle(self, theta: Tensor) -> Tensor:
        """Where points get to on legs that leave their idle units with nothing to do."""
        net = self.problem.net
        for layer in reversed(range(len(net.hidden))):
            theta = self._merged(theta, layer)
            for unit in range(net.hidden[layer]):
                theta = self.go(theta, self._muted(theta, layer, unit))[0]
                for weights, bias in ((True, True), (True, False), (False, True)):
                    rest = self._resting(theta, layer, unit, weights, bias)
                    theta = self.go(theta, rest)[0]
        return theta

    def go(self, theta: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Points taken to their targets, and which arrived; the others stay where they are."""
        theta = theta.clone()
        arrived = (theta == target).all(-1)
        rows = (~arrived).nonzero().flatten()
        if len(rows):
            parts = torch.linspace(0, 1, LOOKS + 1, dtype=theta.dtype)[1:, None, None]
            line = theta[rows] + parts * (target[rows] - theta[rows])
            line[-1] = target[rows]
            good = (self._steepest(line) <= self.limit).all(0)
            theta[rows[good]] = target[rows[good]]
            arrived[rows[good]] = True
            rows = rows[~good]
        if len(rows):
            there = self._along(theta[rows], target[rows])
            theta[rows[there]] = target[rows[there]]
            arrived[rows[there]] = True
        return theta, arrived

    def _along(self, theta: Tensor, target: Tensor) -> Tensor:
        """Which points get to their targets by short steps, each brought back to the critical set."""
        length = torch.linalg.vector_norm(target - theta, dim=-1) / STEPS
        arrived = torch.zeros(len(theta), dtype=torch.bool)
        going = self._steepest(target) <= self.limit
        for _ in range(2 * STEPS):
            rows = going.nonzero().flatten()
            if not len(rows):
                break
            ahead = target[rows] - theta[rows]
            distance = torch.linalg.vector_norm(ahead, dim=-1)
            last = distance <= length[rows]
            part = torch.where(last, 1.0, length[rows] / distance)
            at, critical = self._corrected(theta[rows] + part[:, None] * ahead)
            left = torch.linalg.vector_norm(target[rows] - at, dim=-1)
            # A step brought back to where it came from gets nowhere.
            good = critical & (left <= distance - length[rows] / 4)
            theta[rows[good]] = at[good]
            arrived[rows[critical & last]] = True
            going[rows[~good | last]] = False
        return arrived

    def _corrected(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The points after a few Levenberg–Marquardt steps on ∇R = 0, and which are critical then."""
        net, theta = self.problem.net, theta.clone()
        rows = torch.arange(len(theta))
        steepest = torch.full((len(theta),), float("inf"), dtype=theta.dtype)
        for _ in range(CORRECTIONS + 1):
            _, gradient, hessian = risk_gradient_hessian(self.problem, net.unflatten(theta[rows]))
            before, now = steepest[rows], gradient.abs().amax(-1)
            steepest[rows] = now
            on = (now > self.limit) & (now < before)
            if not bool(on.any()):
                break
            rows, gradient, now = rows[on], gradient[on], now[on]
            values, vectors = torch.linalg.eigh(hessian[on])
            along = (vectors.mT @ gradient[..., None])[..., 0]
            # A damping as small as the gradient keeps the speed of Newton's steps to a set of solutions.
            damping = values.abs().amax(-1) * now
            move = values * along / (values.square() + damping[:, None]).clamp(min=1e-300)
            theta[rows] -= (vectors @ move[..., None])[..., 0]
        return theta, steepest <= self.limit

    def _steepest(self, theta: Tensor) -> Tensor:
        _, gradient = risk_gradient(self.problem, self.problem.net.unflatten(theta))
        return gradient.abs().amax(-1)

    def _merged(self, theta: Tensor, layer: int) -> Tensor:
        """Copies of a unit, or its mirror images, give their outgoing weights to the first of them."""
        net = self.problem.net
        mirror = net.activations[layer].reflection
        h = net.fed(net.unflatten(theta), self.problem.X, layer + 1)[..., : net.hidden[layer]]
        size = ALIKE * h.abs().amax((-2, -1))
        for k in range(1, net.hidden[layer]):
            for j in range(k):
                for sign, constant in ((1.0, 0.0), (-1.0, mirror)):
                    if constant is None:
                        continue
                    alike = (h[..., k] - constant - sign * h[..., j]).abs().amax(-1) <= size
                    params = _copied(net.unflatten(theta))
                    outgoing = params[weight_key(layer + 1)]
                    given = outgoing[..., k].clone()
                    outgoing[..., j] += sign * given
                    outgoing[..., k] = 0.0
                    if net.biases[layer + 1]:
                        params[bias_key(layer + 1)] += constant * given
                    target = torch.where(alike[:, None], net.flatten(params), theta)
                    theta = self.go(theta, target)[0]
        return theta

    def _muted(self, theta: Tensor, layer: int, unit: int) -> Tensor:
        """The unit's outgoing weights 0, with the bias above making up for its mean."""
        net = self.problem.net
        params = _copied(net.unflatten(theta))
        outgoing = params[weight_key(layer + 1)]
        if net.biases[layer + 1]:
            mean = net.fed(params, self.problem.X, layer + 1)[..., unit].mean(-1, keepdim=True)
            params[bias_key(layer + 1)] += mean * outgoing[..., unit]
        outgoing[..., unit] = 0.0
        return net.flatten(params)

    def _resting(self, theta: Tensor, layer: int, unit: int, weights: bool, bias: bool) -> Tensor:
        """An unheard unit's incoming weights, or its bias, or both where nothing is left of it."""
        net = self.problem.net
        params = _copied(net.unflatten(theta))
        if weights:
            params[weight_key(layer)][..., unit, :] = 0.0
        if bias and net.biases[layer]:
            # A unit with a kink rests beside it.
            params[bias_key(layer)][..., unit] = 0.0 if net.activations[layer].smooth else -1.0
        silent = (params[weight_key(layer + 1)][..., unit] == 0).all(-1, keepdim=True)
        return torch.where(silent, net.flatten(params), theta)


def _copied(params: Params) -> Params:
    return {key: tensor.clone() for key, tensor in params.items()}
