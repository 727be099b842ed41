"""Losses, and what is known of each: a file a family, and the rest of the library asks, never by name."""

from semiflat.losses.classes import CrossEntropy, Logistic
from semiflat.losses.hinge import Hinge2, Hinge3
from semiflat.losses.known import LOSSES, known_loss, loss_named
from semiflat.losses.loss import (
    Loss,
    LossDerivatives,
    LossFunction,
    Margins,
    real_targets,
)
from semiflat.losses.per_sample import PerSample
from semiflat.losses.residual import LogCosh, ResidualLoss, Squared

_real_targets = real_targets  # its name before it was public

__all__ = [
    "LOSSES",
    "CrossEntropy",
    "Hinge2",
    "Hinge3",
    "LogCosh",
    "Logistic",
    "Loss",
    "LossDerivatives",
    "LossFunction",
    "Margins",
    "PerSample",
    "ResidualLoss",
    "Squared",
    "known_loss",
    "loss_named",
    "real_targets",
]
