"""The one question: what does the sample tell of the true risk near this point?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from semiflat.bounds.assumptions import assumptions
from semiflat.bounds.blocks import Covariance, PosteriorScale
from semiflat.bounds.bounded import BoundedLoss, bounded_loss
from semiflat.bounds.family import family_at
from semiflat.bounds.inequalities import catoni, check_delta, maurer, mcallester
from semiflat.bounds.monte_carlo import Estimate, bounded_risks, draw_risks, estimate
from semiflat.bounds.posterior import Posterior, PosteriorFamily
from semiflat.bounds.record import PacBayesBound
from semiflat.errors import InputError, whole, whole_seed
from semiflat.networks import Params
from semiflat.points import EmbeddedPoint, Point
from semiflat.problem import Problem

SIGMAS: tuple[float, ...] = tuple(2.0**k for k in range(-5, 5))
"""σ of the prior, a grid fixed before any data are seen."""

TAUS: tuple[float, ...] = tuple(2.0 ** (k / 2) for k in range(-24, 5))
"""τ of the posterior; free, as the bound holds for all posteriors at once."""

MONTE_CARLO_SHARE = 0.1
"""Part of δ that is spent on the draws."""

# Streams of random numbers that have nothing to do with each other.
_PILOT, _SEARCHED, _FRESH = 1, 2, 3
_LEAST = 1e-50  # of σ and τ: their squares and ratios stay numbers
_FINALISTS = 4
_ROUGHLY = 512  # samples that the first look is taken on


def pac_bayes_bound(
    point: Point,
    loss: BoundedLoss | None = None,
    delta: float = 0.05,
    *,
    covariance: Covariance = "stationary",
    prior_mean: Params | None = None,
    sigmas: Sequence[float] = SIGMAS,
    taus: Sequence[float] = TAUS,
    box: float = 2.0,
    draws: int = 2000,
    seed: int = 0,
) -> PacBayesBound:
    """A bound on the true risk of a random network near a point (F19 §5.2, §F; theory §7).

    Prior P = N(μ₀, σ²I); posterior Q = N(θ̂, Σ) with Σ by the Hessian H of the risk on the data:
    ``"stationary"``, (H/τ² + I/σ²)⁻¹, the stationary condition of F19 eq. (40), or ``"inverse_hessian"``,
    F19's τ²H⁻¹. At a point embedded by :class:`InactiveUnits` the surplus units have blocks of their own:
    outgoing weights N(v̂, σ²I); incoming weights Gaussian with the curvature that they have (smooth
    activations), or uniform on the box B_K in prior and posterior (relu, where ‖x‖ ≤ 1), at no cost in KL.
    Only narrow matrices are built. Any other embedded point is taken as the wide point that it is.

    The bound is on E_Q of the true bounded loss, with probability at least 1 − δ over an i.i.d. sample,
    and not on the loss of the network at the point. The point may have been trained on these data, on
    others, or not at all; the prior must not have been chosen by them, which is the user's to say: the
    record's ``assumes`` lists it. E_Q L̂ is estimated by fresh draws and its confidence is paid for, as is
    the choice of σ; τ costs nothing. Computed in floating point: an error of rounding, near 1e-12, is not
    covered.

    Args:
        point: a plain point, or one embedded by ``InactiveUnits``; critical or not, but no saddle.
        loss: ``ZeroOne()`` or ``Clipped(at)``; None for zero-one where the problem has classes.
        delta: the probability with which the bound may fail.
        covariance: ``"stationary"`` or ``"inverse_hessian"``.
        prior_mean: μ₀ on the narrow network's parameters, fixed before the data were seen: the
            initialisation of one run, or a network trained on other data; None for 0.
        sigmas: values of σ to choose from, from 1e-50 to 1e50, fixed before the data were seen.
        taus: values of τ to choose from, in the same range.
        box: K of the box of surplus relu units, fixed before the data were seen.
        draws: networks drawn from Q for the estimate of E_Q L̂.
        seed: of the draws.

    Raises:
        InputError: for a saddle; for ``"inverse_hessian"`` where H, or S of the surplus units, is not
            clearly positive definite; for a loss that does not fit; for relu units outside the box, or
            inputs with ‖x‖ > 1; for more than 4096 narrow parameters; for a :class:`PointBatch`.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 500).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> point = sf.find_critical_point(problem, starts=4, seed=0)
    >>> bound = pac_bayes_bound(point)
    >>> bound.vacuous, bound.value < 0.1
    (False, True)
    """
    check_delta(delta)
    sigmas, taus = _grid("sigmas", sigmas), _grid("taus", taus)
    draws, seed = whole("draws", draws, 1), whole_seed(seed)
    shape = family_at(point, covariance, prior_mean, box)
    root = point.source if isinstance(point, EmbeddedPoint) else point
    bounded = bounded_loss(root.problem, loss)
    shares = {"monte carlo": MONTE_CARLO_SHARE * delta, "sample": (1 - MONTE_CARLO_SHARE) * delta}
    price = shares["sample"] / len(sigmas)
    scale = _choose(root.problem, shape.family, bounded, sigmas, taus, price, seed)
    risks = draw_risks(root.problem, shape.family, scale, bounded, draws, seed, _FRESH)
    found = estimate(risks, shares["monte carlo"])
    posterior = Posterior(shape.family, scale)
    kl, n = posterior.kl(), root.problem.samples
    value, best = _best(found, kl, n, price)
    # An embedding keeps the function on the data.
    single = {key: tensor[None] for key, tensor in root.params.items()}
    trivial, trivial_by = bounded.trivial(root.problem)
    return PacBayesBound(
        value=value,
        best=best,
        bounds={
            name: inequality(found.upper, kl, n, price)
            for name, inequality in (
                ("McAllester", mcallester),
                ("Maurer", maurer),
                ("Catoni", catoni),
            )
        },
        empirical=found,
        kl=kl,
        parts=tuple(posterior.parts()),
        point_risk=float(bounded_risks(root.problem, root.problem.net, single, bounded)[0]),
        trivial=trivial,
        trivial_by=trivial_by,
        samples=n,
        delta=delta,
        shares=shares,
        sigma=scale.sigma,
        tau=scale.tau,
        sigmas=len(sigmas),
        covariance=covariance,
        loss=str(bounded),
        remark=shape.remark,
        assumes=assumptions(shape.family, bounded, prior_mean is not None),
        posterior=posterior,
    )


def _best(found: Estimate, kl: float, samples: int, price: float) -> tuple[float, str]:
    """The lower of two bounds at half the price each.

    McAllester's is not among them: below 1 it is never lower than Maurer's.
    """
    return min(
        (maurer(found.upper, kl, samples, price / 2), "Maurer"),
        (catoni(found.upper, kl, samples, price / 2), "Catoni"),
    )


def _choose(
    problem: Problem,
    family: PosteriorFamily,
    loss: BoundedLoss,
    sigmas: Sequence[float],
    taus: Sequence[float],
    price: float,
    seed: int,
) -> PosteriorScale:
    """σ and τ with the lowest bound, by pilot draws that are not used again."""
    n = problem.samples
    scales = [PosteriorScale(sigma, tau) for sigma in sigmas for tau in taus]
    kls = [sum(part.total for part in family.kl(scale)) for scale in scales]
    # Sorted by what the bound is at risk 0: beyond the lowest found, nothing can be better.
    order = sorted(range(len(scales)), key=kls.__getitem__)

    def bound(k: int, count: int, stream: int, every: int = 1) -> float:
        risks = draw_risks(problem, family, scales[k], loss, count, seed, stream, every)
        return maurer(min(1.0, float(risks.mean())), kls[k], n, price)

    seen: list[tuple[float, int]] = []
    lowest = math.inf
    for k in order:
        if maurer(0.0, kls[k], n, price) >= lowest:
            break
        seen.append((bound(k, 16, _PILOT, every=-(-n // _ROUGHLY)), k))
        lowest = min(lowest, seen[-1][0])
    finalists = [k for _, k in sorted(seen)[:_FINALISTS]] or order[:1]
    return scales[min(finalists, key=lambda k: bound(k, 128, _SEARCHED))]


def _grid(name: str, given: Sequence[float]) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in given)
    except (TypeError, ValueError):
        values = ()
    if not values or any(not _LEAST <= value <= 1 / _LEAST for value in values):
        raise InputError(
            f"{name} must be one or more finite numbers above 0, from {_LEAST:g} to {1 / _LEAST:g}, not "
            f"{given!r}"
        )
    return tuple(sorted(set(values)))
