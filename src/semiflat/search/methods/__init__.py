"""The methods that the search's loop can walk by: one a file."""

from semiflat.search.methods.gauss_newton import GaussNewton
from semiflat.search.methods.gradient_system import GradientSystem
from semiflat.search.methods.method import Eigen, Method, bounded_newton
from semiflat.search.methods.trust_region import TrustRegion

__all__ = ["Eigen", "GaussNewton", "GradientSystem", "Method", "TrustRegion", "bounded_newton"]
