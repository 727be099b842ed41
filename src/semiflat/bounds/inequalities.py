"""PAC-Bayes inequalities: what the risk of a random network can be, given its risk on n samples.

Each takes the empirical risk ``r = E_Q L̂`` (or an upper value of it), ``KL(Q‖P)``, n and δ, and gives a
number that ``E_Q L`` exceeds for some Q with probability at most δ over an i.i.d. sample of n. The loss is
in [0, 1], and P is fixed before the sample is seen. Bounds are rounded up, never down.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, xlogy

from semiflat.errors import InputError

CATONI_GRID: tuple[float, ...] = tuple(2.0**k for k in range(-8, 4))
"""Catoni's λ/n, fixed in advance: from where a bound is a percent above r to where r is 0."""

_EPS = float(np.finfo(np.float64).eps)
_SUMMED = 2**20  # n up to which ξ(n) is summed; beyond, 2√n is near enough


def mcallester(risk: float, kl: float, samples: int, delta: float) -> float:
    """``r + 2 √(2 (KL + ln(n/δ)) / (n − 1))``, McAllester's form (F19 eq. 39).

    F19 prints it as eq. (13) with ln(2δ/n) in place of ln(n/δ); that is no bound.

    >>> round(mcallester(0.0, 0.0, 1001, 0.05), 4)
    0.2815
    """
    _check(risk, kl, samples, delta)
    if samples == 1:
        return math.inf
    root = math.sqrt(2 * (kl + math.log(samples / delta)) / (samples - 1))
    return _up(risk + 2 * root)


def maurer(risk: float, kl: float, samples: int, delta: float) -> float:
    """The largest p with ``kl(r‖p) ≤ (KL + ln(ξ(n)/δ)) / n``, Seeger's form with Maurer's ξ(n).

    >>> round(maurer(0.0, 0.0, 1000, 0.05), 4)
    0.0067
    """
    _check(risk, kl, samples, delta)
    return kl_inverse(risk, (kl + log_xi(samples) - math.log(delta)) / samples)


def catoni(risk: float, kl: float, samples: int, delta: float) -> float:
    """``min over λ of (1 − e^{−(λr + KL + ln(G/δ))/n}) / (1 − e^{−λ/n})``, over a grid of G values λ.

    Catoni 2007, Thm 1.2.6. The grid (``CATONI_GRID``) is fixed in advance and paid for by ln G.

    >>> round(catoni(0.0, 0.0, 1000, 0.05), 4)
    0.0055
    """
    _check(risk, kl, samples, delta)
    paid = (kl + math.log(len(CATONI_GRID) / delta)) / samples
    found = min(math.expm1(-rate * risk - paid) / math.expm1(-rate) for rate in CATONI_GRID)
    return _up(found)


def kl_inverse(risk: float, budget: float) -> float:
    """The largest p with ``kl(r‖p) ≤ budget``, rounded up; kl is that of two Bernoulli variables.

    >>> kl_inverse(0.25, 0.0) >= 0.25
    True
    >>> kl_inverse(0.0, math.log(2)) - 0.5 < 1e-12
    True
    """
    if not 0 <= risk <= 1 or not budget >= 0:
        raise InputError(
            f"kl_inverse takes a risk from 0 to 1 and a budget from 0 up, not {risk!r} and {budget!r}"
        )
    # What rounding may take from a computed kl, so that p is never below the exact one.
    budget = budget * (1 + 16 * _EPS) + 16 * _EPS
    if risk == 1 or not budget < math.inf:
        return 1.0
    low, high = risk, 1.0
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return high
        if binary_kl(risk, middle) > budget:
            high = middle
        else:
            low = middle


def binary_kl(first: float, second: float) -> float:
    """``kl(q‖p) = q ln(q/p) + (1−q) ln((1−q)/(1−p))``, in nats.

    >>> round(binary_kl(0.0, 0.5), 4)
    0.6931
    """
    if first == second:
        return 0.0
    if second in (0.0, 1.0):
        return math.inf
    head = first * math.log(first / second) if first else 0.0
    tail = (1 - first) * math.log((1 - first) / (1 - second)) if first < 1 else 0.0
    return max(0.0, head + tail)


@lru_cache
def log_xi(samples: int) -> float:
    """``ln ξ(n)``, ``ξ(n) = Σ_k C(n,k) (k/n)^k (1−k/n)^{n−k}``, between √n and 2√n (Maurer 2004).

    >>> round(math.exp(log_xi(1)), 6), round(math.exp(log_xi(2)), 6)
    (2.0, 2.5)
    """
    above = math.log(2) + math.log(samples) / 2
    if samples > _SUMMED:
        return above
    k = np.arange(samples + 1, dtype=np.float64)
    n = float(samples)
    logs = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    logs += xlogy(k, k / n) + xlogy(n - k, 1 - k / n)
    largest = logs.max()
    found = float(largest + np.log(np.exp(logs - largest).sum()))
    # gammaln(n) is n ln n in size, and so is what rounding does to its differences.
    return min(above, found + 8 * _EPS * n * max(1.0, math.log(n)))


def _up(value: float) -> float:
    return value * (1 + 16 * _EPS)


def _check(risk: float, kl: float, samples: int, delta: float) -> None:
    if not 0 <= risk <= 1:
        raise InputError(f"the empirical risk is {risk!r}; a bound needs a loss from 0 to 1")
    if not kl >= 0:
        raise InputError(f"KL(Q‖P) is {kl!r}; expected a number from 0 up")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise InputError(f"the number of samples is {samples!r}; expected a whole number from 1 up")
    check_delta(delta)


def check_delta(delta: float, name: str = "delta") -> None:
    """Raise :class:`InputError` unless ``0 < delta < 1``."""
    if isinstance(delta, bool) or not isinstance(delta, int | float) or not 0 < delta < 1:
        raise InputError(
            f"{name} is {delta!r}; expected a probability between 0 and 1, such as 0.05"
        )
