"""Gradient-basis models and what they tell of a point: criticality, and no local minimum (K19)."""

from semiflat.induced.basis import GradientBasisModel, gradient_basis_gap, gradient_basis_model
from semiflat.induced.locally_linear import LocallyLinearModel, locally_linear_model
from semiflat.induced.perturbable import perturbable_basis_gap, perturbable_basis_model
from semiflat.induced.refute import Refutation, refute_minimum
from semiflat.induced.resnet import ResNetModel, resnet_model

__all__ = [
    "GradientBasisModel",
    "LocallyLinearModel",
    "Refutation",
    "ResNetModel",
    "gradient_basis_gap",
    "gradient_basis_model",
    "locally_linear_model",
    "perturbable_basis_gap",
    "perturbable_basis_model",
    "refute_minimum",
    "resnet_model",
]
