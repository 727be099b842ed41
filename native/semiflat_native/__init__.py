"""The compiled engine of semiflat: derivatives and descents of small networks. semiflat itself calls it."""

from semiflat_native._engine import (
    ACTIVATIONS,
    BENDING,
    FORMS,
    GAUSS_NEWTON,
    GRADIENT,
    HESSIAN,
    LOSSES,
    METHODS,
    PRODUCT,
    Networks,
    __version__,
    kernels,
    takes,
)

__all__ = [
    "ACTIVATIONS",
    "BENDING",
    "FORMS",
    "GAUSS_NEWTON",
    "GRADIENT",
    "HESSIAN",
    "LOSSES",
    "METHODS",
    "PRODUCT",
    "Networks",
    "__version__",
    "kernels",
    "takes",
]
