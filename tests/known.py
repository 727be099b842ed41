"""Problems whose critical points are known: in closed form, or all of them on a grid.

It imports nothing of semiflat. The networks are written out, the linear algebra is that of the theory
and every derivative is automatic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

import reference  # noqa: F401  (loads torch's forward mode before warnings become errors)

# -- linear networks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearCritical:
    """The critical points of a linear network whose product is ``P_S Σyx Σxx⁻¹``.

    Attributes:
        subset: S, of the eigenvectors of ``Σyx Σxx⁻¹ Σxy``, the largest eigenvalue first.
        loss: the risk there.
        positive, zero, negative: the inertia of the Hessian.
    """

    subset: tuple[int, ...]
    loss: float
    positive: int
    zero: int
    negative: int


@dataclass(frozen=True)
class Linear:
    """``½ mean‖W₂W₁x (+ W₂b₁ + b₂) − y‖²`` with p hidden units, d inputs and as many outputs.

    With A = W₁Σxx^½ and the singular values s₁ > … > s_d > 0 of M = ΣyxΣxx^−½, s² = λ, the risk is
    ½‖W₂A − M‖² and a constant, and its critical points are W₂A = P_S M (Baldi & Hornik 1989), |S| ≤ p,
    one orbit of GL(p) for each S. GL(p) acts linearly, so inertia is that at W₂ = U_S D, A = D V_Sᵀ,
    D = diag(√s_k), other units 0. There the Hessian falls apart, in coordinates a = Uᵀ dW₂, b = dA V,
    with r = |S|, into

        (a_ij √s_j + √s_i b_ij)²                  i, j ∈ S      r² times (+, 0)
        s_k a_ik² + s_k b_ki² − 2 s_i a_ik b_ki   i ∉ S, k ∈ S  s_k ± s_i: one negative iff s_i > s_k
        −2 s_i a_ik b_ki                          i ∉ S, k > r  (+, −)
        0                                         i ∈ S, k > r  2 r (p − r) zeros

    so that n₋ = #{(i ∉ S, k ∈ S): λ_i > λ_k} + (p − r)(d − r) and n₀ = r² + 2r(p − r), which is the
    dimension of the orbit: all are Morse–Bott, all but the top min(p, d) are strict saddles. With
    biases the output's d are fitted (d more positive) and the hidden ones' p shift against them (p more
    zeros); the covariances are then those about the means.
    """

    X: Tensor
    y: Tensor
    hidden: int
    bias: bool

    @property
    def _covariances(self) -> tuple[Tensor, Tensor, Tensor]:
        X, y = self.X, self.y
        if self.bias:
            X, y = X - X.mean(0), y - y.mean(0)
        return X.T @ X / len(X), y.T @ X / len(X), y.T @ y / len(X)

    def critical(self) -> list[LinearCritical]:
        """All of them, lowest loss first."""
        sxx, syx, syy = self._covariances
        size, p = len(sxx), self.hidden
        values = torch.linalg.eigvalsh(syx @ torch.linalg.solve(sxx, syx.T)).flip(0)
        found = []
        for r in range(min(size, p) + 1):
            for subset in combinations(range(size), r):
                rest = [i for i in range(size) if i not in subset]
                wrong = sum(bool(values[i] > values[k]) for i in rest for k in subset)
                negative = wrong + (p - r) * (size - r)
                zero = r * r + 2 * r * (p - r) + (p if self.bias else 0)
                total = 2 * size * p + ((size + p) if self.bias else 0)
                loss = float(syy.trace() - values[list(subset)].sum()) / 2
                positive = total - zero - negative
                found.append(LinearCritical(subset, loss, positive, zero, negative))
        return sorted(found, key=lambda point: point.loss)

    def point(self, subset: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        """A random point of the orbit of S."""
        sxx, syx, _ = self._covariances
        _, vectors = torch.linalg.eigh(syx @ torch.linalg.solve(sxx, syx.T))
        chosen = vectors.flip(1)[:, list(subset)]
        generator = torch.Generator().manual_seed(seed)
        p, r = self.hidden, len(subset)
        mix = torch.randn((p, p), generator=generator).double() + 2 * torch.eye(p).double()
        outer = torch.zeros((len(sxx), p)).double()
        inner = torch.zeros((p, len(sxx))).double()
        outer[:, :r], inner[:r] = chosen, chosen.T @ syx @ torch.linalg.inv(sxx)
        params = {"0.weight": mix @ inner, "2.weight": outer @ torch.linalg.inv(mix)}
        if self.bias:
            shift = torch.randn(p, generator=generator).double()
            through = params["2.weight"] @ (params["0.weight"] @ self.X.mean(0) + shift)
            params |= {"0.bias": shift, "2.bias": self.y.mean(0) - through}
        keys = [f"{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
        return {key: params[key] for key in keys if key in params}


def linear(size: int, hidden: int, bias: bool, whitened: bool = False) -> Linear:
    """Data of that size, generic, with noise; ``whitened`` inputs have Σxx = 1 (and mean 0 with biases)."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn((20, size), generator=generator).double() + (0.5 if bias else 0.0)
    if whitened:
        X = X - X.mean(0) if bias else X
        X = X @ torch.linalg.inv(torch.linalg.cholesky(X.T @ X / len(X))).T
    map_ = torch.randn((size, size), generator=generator).double()
    noise = torch.randn((20, size), generator=generator).double()
    return Linear(X, X @ map_.T + 0.5 * noise, hidden, bias)


# -- one unit ---------------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
    "gelu": lambda z: z * torch.special.ndtr(z),
}

BOX = 4.0
"""|w| and |b| up to which all critical points are known."""
STRIP = 0.05
"""|w| below which they are not: there the unit turns linear, its outgoing weight grows as 1/w."""


@dataclass(frozen=True)
class OneUnit:
    """``½ mean (v σ(wx + b) + c − y)²``, in (w, b) with v and c fitted.

    Where v ≠ 0 its critical points are the zeros of ``g = (mean rσ'x, mean rσ')``, r the residual: the
    gradient is v·g. The (v, c) block is positive definite, so the whole Hessian has the index of the
    fitted risk's 2 × 2 one. Where v = 0 the output is constant, and c = mean y: these points form curves.
    """

    activation: str
    x: Tensor
    y: Tensor

    def fit(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(v, c) at u = (w, b)."""
        h = FUNCTIONS[self.activation](u[0] * self.x + u[1])
        centred = h - h.mean()
        v = (centred @ (self.y - self.y.mean())) / (centred @ centred)
        return v, self.y.mean() - v * h.mean()

    def risk(self, u: Tensor) -> Tensor:
        """The fitted risk."""
        v, c = self.fit(u)
        h = FUNCTIONS[self.activation](u[0] * self.x + u[1])
        return (v * h + c - self.y).square().mean() / 2

    def field(self, u: Tensor) -> Tensor:
        """g."""
        v, c = self.fit(u)
        z = u[0] * self.x + u[1]
        h, slope = torch.func.jvp(FUNCTIONS[self.activation], (z,), (torch.ones_like(z),))[:2]
        pull = (v * h + c - self.y) * slope
        return torch.stack([(pull * self.x).mean(), pull.mean()])

    def halves(self) -> list[tuple[float, float]]:
        """The boxes' ranges of w: one is enough where −σ(−z) is σ and a constant."""
        right = (STRIP, BOX)
        return [right] if self.activation in ("tanh", "sigmoid") else [(-BOX, -STRIP), right]

    @cached_property
    def critical(self) -> list[Tensor]:
        """All (w, b) in the box with g = 0, by Newton's method from every node of a grid."""
        steps = 24
        sides = [torch.linspace(*half, steps, dtype=torch.float64) for half in self.halves()]
        heights = torch.linspace(-BOX, BOX, 2 * steps, dtype=torch.float64)
        u = torch.cartesian_prod(torch.cat(sides), heights)
        field = torch.func.vmap(self.field)
        slope = torch.func.vmap(torch.func.jacfwd(self.field))
        for _ in range(40):
            step = torch.linalg.solve_ex(slope(u), field(u)[..., None])[0][..., 0].nan_to_num()
            u = u - step * (0.3 / torch.linalg.vector_norm(step, dim=1, keepdim=True)).clamp(max=1)
        inside = (u.abs().amax(1) <= BOX) & (u[:, 0].abs() >= STRIP)
        if len(sides) == 1:
            inside &= u[:, 0] > 0
        found: list[Tensor] = []
        for one in u[inside & (field(u).abs().amax(1) < 1e-13)]:
            if not any((one - other).abs().max() < 1e-6 for other in found):
                found.append(one)
        return sorted(found, key=lambda one: float(self.risk(one)))

    def turns(self, half: tuple[float, float]) -> float:
        """How often g turns round on the way round a box: what its zeros count to, by Σ sign det Dg."""
        left, right = half
        corners = [[left, -BOX], [right, -BOX], [right, BOX], [left, BOX], [left, -BOX]]
        way = torch.tensor(corners, dtype=torch.float64)
        for _ in range(60):
            g = torch.func.vmap(self.field)(way)
            angle = torch.atan2(g[:, 1], g[:, 0]).diff()
            change = torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi
            lengths = torch.linalg.vector_norm(way.diff(dim=0), dim=1)
            coarse = (change.abs() > 0.3) | (lengths > 0.01)
            if not coarse.any():
                return float(change.sum() / (2 * torch.pi))
            middle = (way[:-1] + way[1:])[coarse] / 2
            place = torch.cat([torch.arange(len(way)), coarse.nonzero()[:, 0] + 0.5])
            way = torch.cat([way, middle])[place.argsort(stable=True)]
        raise AssertionError(
            "g turns too fast on the way round the box: is one of its zeros there?"
        )

    def index(self, u: Tensor) -> int:
        """Number of negative eigenvalues of the Hessian there."""
        return int((torch.linalg.eigvalsh(torch.func.hessian(self.risk)(u)) < 0).sum())

    def params(self, u: Tensor) -> dict[str, Tensor]:
        """All four parameters."""
        v, c = self.fit(u)
        shaped = {"0.weight": u[:1, None], "0.bias": u[1:]}
        return shaped | {"2.weight": v.reshape(1, 1), "2.bias": c.reshape(1)}


def wave(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """A sine with noise, at random places."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, generator=generator).double()
    noise = torch.randn(samples, generator=generator).double()
    return x, torch.sin(2 * x) + 0.5 * noise


def two_units(
    activation: str, samples: int, seed: int, width: float, noise: float, second: float
) -> tuple[Tensor, Tensor]:
    """What two units make, with noise, at random places."""
    generator = torch.Generator().manual_seed(seed)
    x = width * torch.randn(samples, generator=generator).double()
    k = 2 * torch.randn(4, generator=generator).double()
    sigma = FUNCTIONS[activation]
    y = sigma(k[0] * x + k[1]) - second * sigma(k[2] * x + k[3])
    return x, y + noise * torch.randn(samples, generator=generator).double()


def one_units() -> dict[str, OneUnit]:
    """Problems with several critical points in the box."""
    return {
        "gelu 8": OneUnit("gelu", *wave(8, 1)),
        "gelu 8 near-degenerate": OneUnit("gelu", *wave(8, 3)),
        "gelu 12": OneUnit("gelu", *wave(12, 2)),
        "tanh": OneUnit("tanh", *two_units("tanh", 8, 5, 1.0, 0.3, 1.0)),
        "sigmoid": OneUnit("sigmoid", *two_units("sigmoid", 10, 11, 3.0, 0.2, 1.0)),
        "softplus": OneUnit("softplus", *two_units("softplus", 12, 0, 1.0, 0.2, 0.0)),
    }


def constant(target: Tensor) -> float:
    """The risk of the best constant."""
    return float((target - target.mean()).square().mean() / 2)


def hessian_inertia(
    risk: Callable[[Tensor], Tensor], vector: Tensor, floor: float = 1e-9
) -> tuple[int, int, int]:
    """(positive, zero, negative) of the dense Hessian, zero being below a part of the largest."""
    values = torch.linalg.eigvalsh(torch.func.hessian(risk)(vector))
    zero = values.abs() <= floor * values.abs().max()
    return int((values[~zero] > 0).sum()), int(zero.sum()), int((values[~zero] < 0).sum())
