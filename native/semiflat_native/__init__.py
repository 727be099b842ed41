"""The compiled engine of semiflat: derivatives and descents of small networks. semiflat itself calls it."""

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController

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


@cache
def _pools() -> ThreadpoolController:
    import scipy.linalg.cython_lapack  # noqa: F401  (its LAPACK is what is called)

    return ThreadpoolController()


def one_thread_of_lapack() -> AbstractContextManager[None]:
    """Inside, LAPACK runs in the thread that calls it: the engine has threads, and bits stay the same."""
    found: AbstractContextManager[None] = _pools().limit(limits=1, user_api="blas")
    return found


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
    "one_thread_of_lapack",
    "takes",
]
