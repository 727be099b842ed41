"""What speaks for and against a verdict on an embedded point, without the library's closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.dense import CLEAR, compared, dense_gradient, dense_hessian

CRITICAL = 1e-10
"""A gradient below it, times √R where R > 1, is one of a critical point, as for ``sf.judge``."""
STEPS = tuple(10.0**k for k in (-4, -3, -2, -1, 0))
NEIGHBOURS, RADIUS = 64, 1e-4
"""Of random networks nearby. Small, because beyond shares of 0 they may be lower than a minimum."""


def evidence(wide: sf.Point, verdict: sf.Verdict, seed: int) -> dict[str, Any]:
    """Plain values: what the dense derivatives, a walk down and random neighbours say of a verdict.

    ``against`` holds what contradicts it, ``open`` what could not be told, ``lower`` is whether a
    neighbour is lower.
    """
    point = sf.Point(wide.problem, wide.params)
    gradient = dense_gradient(point)
    steepest = float(gradient.abs().max()) / max(1.0, point.loss) ** 0.5
    against: list[str] = []
    untold: list[str] = []
    if (verdict.kind is sf.Kind.NOT_CRITICAL) != (steepest > max(CRITICAL, _rounding(point))):
        against.append(f"a gradient of {steepest:.0e}")
    H = dense_hessian(point)
    values, vectors = torch.linalg.eigh(H)
    agreement = compared(values, verdict.inertia)
    if agreement != "equal":
        (against if agreement == "different" else untold).append(f"{agreement} inertia")
    if verdict.kind is sf.Kind.STRICT_SADDLE:
        walked = way_down(point, H, verdict)
        if walked != "falls":
            (against if walked == "does not fall" else untold).append(walked)
    # The zero ones alone: along small positive curvature a minimum's basin may end nearer than its neighbours.
    zeros = 0 if verdict.inertia is None else verdict.inertia.zero
    lower = lower_neighbour(point, vectors[:, values.abs().argsort()[:zeros]], gradient, seed)
    if verdict.kind in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM):
        if bool((values < -CLEAR * values.abs().max()).any()):
            against.append("a negative eigenvalue")
        if lower:
            against.append("a lower neighbour")
    return {"gradient": steepest, "lower": lower, "against": against, "open": untold}


def way_down(point: sf.Point, H: Tensor, verdict: sf.Verdict) -> str:
    """Whether the loss falls along a strict saddle's direction as it says, both ways."""
    direction = verdict.descent_direction
    if direction is None or verdict.curvature is None:
        return "does not fall"
    net = point.problem.net
    along, at = net.flatten(direction), net.flatten(point.params)
    curvature = float(along @ H @ along)
    if not abs(curvature - verdict.curvature) <= 1e-6 * abs(curvature) + 1e-12 * float(
        H.abs().max()
    ):
        return "does not fall"
    losses = [
        point.problem.risk(net.unflatten(torch.stack([at + t * along, at - t * along])))
        for t in STEPS
    ]
    rounding = 1e-14 * max(1.0, point.loss)
    if any(bool((each < point.loss - rounding).all()) for each in losses):
        return "falls"
    return "a way down too faint for float64" if curvature < 0 else "does not fall"


def lower_neighbour(point: sf.Point, flat: Tensor, gradient: Tensor, seed: int) -> bool:
    """Whether a network nearby is lower, by more than rounding and what is left of the gradient.

    Args:
        point: called a minimum.
        flat: orthonormal directions in which the Hessian is 0, (P, k).
        gradient: what is left of it, (P,).
        seed: of the random networks.
    """
    net = point.problem.net
    at = net.flatten(point.params)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(NEIGHBOURS, flat.shape[1], generator=generator, dtype=torch.float64)
    moves = _reach(point) * normal @ flat.T
    losses = point.problem.risk(net.unflatten(at + moves))
    allowed = 1e-14 * max(1.0, point.loss) + moves.abs() @ gradient.abs()
    return bool((losses < point.loss - allowed).any())


def _reach(point: sf.Point) -> float:
    """How far neighbours are: nearer than the next kink, beyond which a minimum may have lower ones."""
    net, reach = point.problem.net, RADIUS
    for layer, activation in enumerate(net.activations):
        if not activation.smooth:
            fed = net.fed(point.params, point.problem.X, layer)
            z = fed @ net.layer(point.params, layer).mT
            reach = min(reach, 0.01 * float(z.abs().min()) / float(fed.norm(dim=1).max()))
    return reach


def _rounding(point: sf.Point) -> float:
    """What rounding of the outputs may do to a gradient; large where softmax's shift ran off."""
    net = point.problem.net
    outputs = net.forward(point.params, point.problem.X)
    return 2e-16 * float(outputs.abs().max()) * float(net.flatten(point.params).abs().max())


def blocks_from_pair(
    wide: sf.Point, layer: int, places: Sequence[int], shares: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """F and G of a unit from the dense Hessian of two copies at ``places`` with ``shares``.

    By F19 Lemma 4 in the coordinates of the network itself: ``∂²R/∂v_j∂w_k = δ_jk F + λ_k Y`` and
    ``∂²R/∂w_j∂w_k = δ_jk λ_j G + λ_j λ_k N`` for some Y and N.
    """
    net = wide.problem.net
    H = dense_hessian(sf.Point(wide.problem, wide.params))
    numbered = net.unflatten(torch.arange(net.parameter_count, dtype=torch.float64))
    rows = net.layer(numbered, layer)[list(places)].long()
    columns = numbered[f"{2 * layer + 2}.weight"][:, list(places)].T.long()
    ratio = shares[0] / shares[1]
    F = H[columns[0]][:, rows[0]] - ratio * H[columns[0]][:, rows[1]]
    G = (H[rows[0]][:, rows[0]] - ratio * H[rows[0]][:, rows[1]]) / shares[0]
    return F, G
