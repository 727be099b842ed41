"""PAC-Bayes bounds with posteriors shaped by the Hessian and by flat directions (F19 §5.2, §F)."""

from semiflat.bounds.bounded import BoundedLoss, Clipped, ZeroOne
from semiflat.bounds.inequalities import binary_kl, catoni, kl_inverse, maurer, mcallester
from semiflat.bounds.monte_carlo import Estimate
from semiflat.bounds.pac_bayes import pac_bayes_bound
from semiflat.bounds.posterior import Posterior, Prior
from semiflat.bounds.record import PacBayesBound

__all__ = [
    "BoundedLoss",
    "Clipped",
    "Estimate",
    "PacBayesBound",
    "Posterior",
    "Prior",
    "ZeroOne",
    "binary_kl",
    "catoni",
    "kl_inverse",
    "maurer",
    "mcallester",
    "pac_bayes_bound",
]
