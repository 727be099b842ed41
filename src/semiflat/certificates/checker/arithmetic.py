"""Arb's balls, or one clear line where python-flint is not installed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

try:
    from flint import arb, arb_mat, ctx, fmpq
except ImportError:

    class _Missing:
        """Refuses at the first use, so that the package's names can be imported without it."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            raise _refusal()

        def __call__(self, *arguments: Any) -> Any:
            raise _refusal()

    def _refusal() -> Exception:
        from semiflat.errors import InputError

        return InputError("proofs need python-flint: pip install 'semiflat[certify]'")

    arb = arb_mat = ctx = fmpq = _Missing()  # type: ignore[misc, assignment]


def need_arithmetic() -> None:
    """Raise ``InputError`` where python-flint is not installed."""
    assert ctx.prec


def quotient(value: Fraction) -> arb:
    """A rational as a ball."""
    return arb(fmpq(value.numerator, value.denominator))


__all__ = ["arb", "arb_mat", "ctx", "need_arithmetic", "quotient"]
