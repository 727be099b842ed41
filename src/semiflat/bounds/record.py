"""What a bound says, about what, and at which price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semiflat.bounds.blocks import PartKL
from semiflat.bounds.monte_carlo import Estimate
from semiflat.bounds.posterior import Posterior
from semiflat.records.codec import Codec
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class PacBayesBound(Shown):
    """A PAC-Bayes bound on the mean true loss of a random network, θ ~ Q.

    It holds with probability at least 1 − δ over an i.i.d. sample and the Monte Carlo draws. It is about
    the stochastic network, not about the one at the point itself.

    Attributes:
        value: the bound: the lowest of Maurer's and Catoni's, each at half the price.
        best: which of them it is.
        bounds: each inequality by itself at the whole price: one of them holds, chosen in advance.
        empirical: E_Q L̂, from draws made after σ and τ were chosen.
        kl: KL(Q‖P) in nats.
        parts: the same, block by block.
        point_risk: the bounded loss on the data of the network at the point itself.
        trivial: what is attained without learning from the inputs.
        trivial_by: by what.
        samples: n.
        delta: δ.
        shares: what δ is spent on; the parts sum to it.
        sigma, tau: of prior and posterior.
        sigmas: how many σ there were to choose from, paid for by their logarithm.
        covariance: ``"stationary"`` or ``"inverse_hessian"``.
        loss: the bounded loss, in words.
        remark: what was done to the Hessian, or ``""``.
        assumes: what the bound rests on and the data do not show, a sentence each.
        posterior: Q, with ``sample``, ``kl`` and ``prior``.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 500).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=4, seed=0))
    >>> bound.best, bound.samples, bound.delta, bound.loss
    ('Catoni', 500, 0.05, 'zero-one loss')
    >>> bound.point_risk < bound.value < bound.trivial
    True
    """

    value: float
    best: str
    bounds: dict[str, float]
    empirical: Estimate
    kl: float
    parts: tuple[PartKL, ...]
    point_risk: float
    trivial: float
    trivial_by: str
    samples: int
    delta: float
    shares: dict[str, float]
    sigma: float
    tau: float
    sigmas: int
    covariance: str
    loss: str
    remark: str
    assumes: tuple[str, ...]
    posterior: Posterior

    @property
    def vacuous(self) -> bool:
        """Whether no more is said than is known without training."""
        return self.value >= min(1.0, self.trivial)

    @property
    def reason(self) -> str:
        """One sentence a person can read."""
        where = f"n = {self.samples}, δ = {self.delta:g}"
        if self.vacuous:
            than = f"{self.trivial:.4g}, which {self.trivial_by} attains"
            return (
                f"the bound on the true {self.loss} of the stochastic network, {_up(self.value)}, is not "
                f"below {than}: it says nothing ({where}, KL = {self.kl:.4g} nats)"
            )
        return (
            f"the true {self.loss} of the stochastic network is at most {_up(self.value)} with probability "
            f"{1 - self.delta:g} over an i.i.d. sample ({self.best}, {where}, KL = {self.kl:.4g} nats, "
            f"{self.empirical.mean:.4g} on the data; {self.trivial_by}: {self.trivial:.4g})"
        )

    def __str__(self) -> str:
        kind = "vacuous" if self.vacuous else "non-vacuous"
        text = f"{kind}: {self.reason}"
        return f"{text}; {self.remark}" if self.remark else text

    def __bool__(self) -> bool:
        raise TypeError("a bound is neither true nor false; ask for its value, or whether vacuous")

    def to_json(self) -> dict[str, Any]:
        """Everything but the posterior itself, as plain data; None for what is infinite."""
        own = {k: v for k, v in vars(self).items() if k not in ("posterior", "trivial_by")}
        derived = {
            "vacuous": self.vacuous,
            "reason": self.reason,
            "empirical": {k: v for k, v in vars(self.empirical).items() if k != "delta"},
            "trivial": {"value": self.trivial, "by": self.trivial_by},
        }
        plain: dict[str, Any] = Codec().to_plain(own | derived)
        return plain


def _up(value: float) -> str:
    """Four digits after the point, rounded up: a bound must not be printed below itself."""
    shown = f"{value:.4f}"
    return shown if float(shown) >= value else f"{value + 5e-5:.4f}"
