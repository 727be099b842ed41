"""The methods that the search's loop can walk by: one a file."""

from semiflat.search.methods.gradient_system import GradientSystem
from semiflat.search.methods.levenberg_marquardt import LevenbergMarquardt
from semiflat.search.methods.method import LEAST, Local, Method, Step, bounded_newton, check_step
from semiflat.search.methods.newton_cg import NewtonCG
from semiflat.search.methods.signed_newton import SignedNewton
from semiflat.search.methods.trust_region import TrustRegion

METHODS: dict[str, Method] = {
    "trust_region": TrustRegion(),
    "levenberg_marquardt": LevenbergMarquardt(),
    "signed_newton": SignedNewton(),
    "gradient_system": GradientSystem(),
    "newton_cg": NewtonCG(),
}
"""The methods that a search knows by name."""

__all__ = [
    "LEAST",
    "METHODS",
    "GradientSystem",
    "LevenbergMarquardt",
    "Local",
    "Method",
    "NewtonCG",
    "SignedNewton",
    "Step",
    "TrustRegion",
    "bounded_newton",
    "check_step",
]
