"""The KL divergence that F19 §F.2.2 prints for smooth surplus units, to be held beside the exact one.

Two slips are in it. The last terms are ``− d⁰ + d¹`` where the Gaussian formula gives ``− d⁰ − dim w`` (the
block of v has the prior's covariance and costs nothing but its mean). And ln(σ²/τ²) is counted d¹ = E·M
times for the incoming weights, of which there are E·D. The first makes it too large, the second too small
where D > M.
"""

from __future__ import annotations

import math

import torch

from semiflat.bounds.posterior import Posterior
from semiflat.bounds.surplus import SmoothSurplus
from semiflat.errors import InputError


def printed_smooth_kl(posterior: Posterior) -> float:
    """F19's KL(Q_sm‖P_sm) as printed, for ``covariance="inverse_hessian"`` and prior mean 0.

    Raises:
        InputError: if the posterior is not Q_sm.
    """
    family, (sigma, tau) = posterior.family, posterior.scale
    surplus, block = family.surplus, family.block
    if (
        not isinstance(surplus, SmoothSurplus)
        or surplus.covariance != "inverse_hessian"
        or surplus.decay
        or block.prior_mean.any()
    ):
        raise InputError(
            "F19 prints the KL of smooth surplus units with covariance='inverse_hessian', prior mean 0 and "
            "no weight decay"
        )
    H, S = block.values, surplus.spectra(sigma)[0][0]
    d0, d1 = len(block.mean), surplus.outgoing.numel()
    squares = block.mean.square().sum() + surplus.outgoing.square().sum()
    squares += surplus.count * surplus.incoming.square().sum()
    return 0.5 * float(
        (d0 + d1) * math.log(sigma**2 / tau**2)
        + torch.log(H).sum()
        + torch.log(S).sum()
        + tau**2 / sigma**2 * (H.reciprocal().sum() + S.reciprocal().sum())
        + squares / sigma**2
        - d0
        + d1
    )
