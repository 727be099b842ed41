"""Which posteriors are looked at near a point: by its Hessian, and by what surplus units allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from semiflat.bounds.blocks import Covariance, GaussianBlock
from semiflat.bounds.box import BoxSurplus
from semiflat.bounds.posterior import PosteriorFamily
from semiflat.bounds.surplus import SmoothSurplus, surplus_curvature
from semiflat.embeddings.inactive import InactiveUnits
from semiflat.errors import InputError, unknown_name
from semiflat.evidence import ENOUGH, Evidence
from semiflat.networks import Params, weight_key
from semiflat.points import EmbeddedPoint, Point, check_one

DENSE_LIMIT = 4096
"""Parameters of the narrow network up to which its Hessian is built."""

TOLERANCE = 1e-10
"""``‖∇R‖∞`` up to which a point counts as critical."""

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Shape:
    """A family of posteriors, and what was done to the Hessian for it.

    Attributes:
        family: the posteriors.
        remark: one clause on eigenvalues that were changed, or ``""``.
    """

    family: PosteriorFamily
    remark: str


def family_at(point: Point, covariance: Covariance, prior_mean: Params | None, box: float) -> Shape:
    """The posteriors near a point, as :func:`semiflat.pac_bayes_bound` describes them."""
    if not isinstance(covariance, str) or covariance not in get_args(Covariance):
        raise unknown_name("covariance", covariance, get_args(Covariance))
    _check_point(point)
    surplus = _inactive(point)
    if surplus is None or not isinstance(point, EmbeddedPoint):
        plain = Point(point.problem, point.params) if isinstance(point, EmbeddedPoint) else point
        block, remark = _network_block(plain, covariance, prior_mean)
        net = plain.problem.net
        return Shape(PosteriorFamily(net, net, block), remark)
    source, layer = point.source, surplus.layer
    block, remark = _network_block(source, covariance, prior_mean)
    rows, columns = _surplus_weights(point, layer)
    wide, narrow = point.problem.net, source.problem.net
    if narrow.activations[layer].smooth:
        curvature = surplus_curvature(source, layer, rows[0])
        decay = source.problem.decay.largest
        smooth = SmoothSurplus(columns, rows[0], curvature, decay, covariance)
        if covariance == "inverse_hessian":
            _check_rank(smooth)
        return Shape(PosteriorFamily(wide, narrow, block, smooth, layer), remark)
    _check_box(source, layer, rows, box)
    boxed = BoxSurplus(columns, narrow.widths[layer], float(box))
    return Shape(PosteriorFamily(wide, narrow, block, boxed, layer, silent=layer == 0), remark)


def _network_block(
    point: Point, covariance: Covariance, prior_mean: Params | None
) -> tuple[GaussianBlock, str]:
    net = point.problem.net
    if net.parameter_count > DENSE_LIMIT:
        raise InputError(
            f"the posterior needs the Hessian of {net.parameter_count} parameters, and it is built for up "
            f"to {DENSE_LIMIT}; reduce the network first (sf.reduce), or bound a smaller one"
        )
    evidence = point.evidence.at(TOLERANCE)
    values, remark = _usable(evidence, covariance)
    mean = evidence.vector
    centre = torch.zeros_like(mean) if prior_mean is None else _centre(point, prior_mean)
    vectors = evidence.plain_spectrum.vectors
    return GaussianBlock("network", mean, centre, values, vectors, covariance), remark


def _usable(evidence: Evidence, covariance: Covariance) -> tuple[Tensor, str]:
    """Eigenvalues from 0 up, and what was changed to have them so; a saddle is refused."""
    spectrum = evidence.plain_spectrum
    values, floor = spectrum.values, spectrum.floor
    place = int(values.argmin())
    smallest, its_floor = float(values[place]), float(floor[place])
    if covariance == "inverse_hessian" and not bool((values > ENOUGH * floor).all()):
        weakest = int((values / floor.clamp(min=1e-300)).argmin())
        raise InputError(
            f"τ²H⁻¹ needs a positive definite Hessian, and eigenvalue {float(values[weakest]):.3g} is not "
            f"clearly above its noise floor {float(floor[weakest]):.1g}; use covariance='stationary', "
            "which gives flat directions the prior's own variance"
        )
    negative = values < 0
    decided = negative & spectrum.decided
    if decided.any() and evidence.critical:
        raise InputError(
            f"the point is a saddle: the Hessian has an eigenvalue {smallest:.3g} below its noise floor "
            f"{its_floor:.1g}; a posterior is built at a minimum: follow sf.judge(point)."
            "descent_direction to one"
        )
    if decided.any():
        # Off a critical point curvature may well be negative; its size is still the scale of change.
        count = int(decided.sum())
        remark = (
            f"the point is not critical (gradient {evidence.gradient_norm:.1g}) and {count} eigenvalues "
            f"of its Hessian are negative, down to {smallest:.2g}: they are taken by their size"
        )
        return torch.where(decided, -values, values.clamp(min=0)), remark
    remark = (
        f"{int(negative.sum())} eigenvalues between {smallest:.1g} and 0 are taken as 0, noise being "
        f"{its_floor:.1g}"
        if negative.any()
        else ""
    )
    return values.clamp(min=0), remark


def _centre(point: Point, prior_mean: Params) -> Tensor:
    net = point.problem.net
    if not isinstance(prior_mean, dict) or not all(
        isinstance(each, Tensor) for each in prior_mean.values()
    ):
        raise InputError(
            f"prior_mean must be a dict of parameters, each a tensor, not {prior_mean!r:.60}; None is 0"
        )
    if net.check_params(prior_mean) != ():
        raise InputError("prior_mean holds a batch of networks; give the parameters of one")
    flat = net.flatten(prior_mean).detach().to(torch.float64)
    if not flat.isfinite().all():
        raise InputError("prior_mean holds a value that is not finite; a prior needs finite ones")
    return flat


def _check_point(point: Point) -> None:
    check_one(point, "pac_bayes_bound")
    root = point.source if isinstance(point, EmbeddedPoint) else point
    root.problem.check_double("a bound")
    root.problem.check_plain("a PAC-Bayes bound")
    if isinstance(root.problem.weight_decay, dict):
        raise InputError(
            f"a PAC-Bayes bound takes one weight decay for all parameters, not {root.problem.decay}; use "
            "problem.with_weight_decay(...)"
        )


def _inactive(point: Point) -> InactiveUnits | None:
    """The embedding, if it is one step that adds inactive units."""
    if not isinstance(point, EmbeddedPoint) or len(point.embedding.steps) != 1:
        return None
    (step,) = point.embedding.steps
    return step if isinstance(step, InactiveUnits) else None


def _surplus_weights(point: EmbeddedPoint, layer: int) -> tuple[Tensor, Tensor]:
    """Incoming rows (E, D) and outgoing weights (E, M) of the units at the layer's end."""
    net, old = point.problem.net, point.source.problem.net.hidden[layer]
    rows = net.layer(point.params, layer)[old:]
    return rows, point.params[weight_key(layer + 1)][:, old:].mT.contiguous()


def _check_rank(surplus: SmoothSurplus) -> None:
    needed = surplus.count * len(surplus.incoming)
    if surplus.rank < needed and not surplus.decay:
        raise InputError(
            f"τ²S⁻¹ does not exist: S of {surplus.count} surplus units has rank {surplus.rank} of {needed} "
            f"(F19 eq. 42: at most {surplus.outgoing.shape[1]} units have one, with outgoing weights that "
            "are independent); use covariance='stationary'"
        )


def _check_box(source: Point, layer: int, rows: Tensor, box: float) -> None:
    net = source.problem.net
    if isinstance(box, bool) or not isinstance(box, int | float) or not 0 < box < float("inf"):
        raise InputError(f"box is {box!r}; expected K, a finite number above 0, of F19's box B_K")
    if not net.biases[layer]:
        raise InputError(
            f"the box B_K needs a bias, and linear layer {layer} has none; give the network biases"
        )
    fed = net.fed(source.params, source.problem.X, layer)[:, :-1]
    norms = torch.linalg.vector_norm(fed, dim=1)
    largest, sample = float(norms.max()), int(norms.argmax())
    if largest > 1 + _ROUNDING:
        what = "‖x‖" if layer == 0 else f"‖h‖ below hidden layer {layer}"
        raise InputError(
            f"relu units of the box B_K are inactive where {what} ≤ 1, and sample {sample} has "
            f"{largest:.4g}; rescale the inputs by a number fixed before the data were seen, and train again"
        )
    lengths, depths = torch.linalg.vector_norm(rows[:, :-1], dim=1), -rows[:, -1]
    least = max(float(lengths.max()), float(depths.max()) / 3)
    most = float(depths.min())
    if not least * (1 - _ROUNDING) <= box <= most * (1 + _ROUNDING):
        way = (
            f"give box a value from {least:.4g} to {most:.4g}"
            if least <= most
            else "no box holds all of them: make them with InactiveUnits.in_box"
        )
        raise InputError(
            f"the surplus units do not lie in the box B_K of K = {box:g} (‖w‖ ≤ K, −3K ≤ bias ≤ −K); {way}"
        )
