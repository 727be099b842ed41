"""Activations of class A of P21: increasing, analytic, bounded, with 0 in the closed image."""

from __future__ import annotations

from semiflat.activations import Activation
from semiflat.errors import InputError
from semiflat.images import Image


def image_of(activation: Activation) -> Image:
    """The image of an activation of class A.

    Raises:
        InputError: if the activation is not in class A, or not known to be.

    >>> import torch
    >>> from semiflat.activations import activation
    >>> image_of(activation("sigmoid")).zero_inside, image_of(activation(torch.erf)).zero_inside
    (False, True)
    """
    if activation.image is None:
        known = "is not" if activation.analytic else "is not known to be"
        raise InputError(
            f"activation {activation.name!r} {known} of class A (analytic, increasing, bounded, 0 in the "
            "closed image), which P21 Thm 3 needs; use tanh, sigmoid, torch.atan or torch.erf"
        )
    return activation.image
