"""An independent dense reference for networks, their derivatives and their widenings.

It imports nothing of semiflat: networks are an ``nn.Sequential``, every derivative is automatic,
wide networks are written out entry by entry in plain loops. Slow and simple on purpose: what it
says is what semiflat is tested against. The strategies that draw the cases are here too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

with warnings.catch_warnings():
    # The first forward-mode derivative in a process imports a part of torch that warns of torch.
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.func.jacfwd(torch.sin)(torch.zeros(1))


class Sine(nn.Module):
    """sin, for which torch has no module."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(z)


class ExactSoftplus(nn.Module):
    """log(1 + e^z); torch's own switches to z beyond 20."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.logaddexp(z, torch.zeros_like(z))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": ExactSoftplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sin": Sine,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "identity": nn.Identity,
}
ACTIVATIONS = tuple(MODULES)
KINKED = ("relu", "leaky_relu")

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared": lambda f, y: functional.mse_loss(f, y, reduction="none").sum(1) / 2,
    "cross_entropy": lambda f, y: functional.cross_entropy(f, y.long(), reduction="none"),
    "logistic": lambda f, y: functional.binary_cross_entropy_with_logits(
        f, y, reduction="none"
    ).sum(1),
    "cauchy": lambda f, y: torch.log1p((f - y).square().sum(1)),
}
"""(N, M) outputs and targets to N losses. Cauchy's is not convex and couples the outputs."""


def cauchy(f: Tensor, y: Tensor) -> Tensor:
    """The Cauchy loss of one sample: what a user of semiflat would hand in as a callable."""
    return torch.log1p(((f - y) ** 2).sum())


@dataclass
class Reference:
    """A network at given parameters, with data and a loss; everything by automatic differentiation.

    ``params`` has the keys of an ``nn.Sequential`` of Linear, activation, Linear, …; a missing bias
    is a Linear without one. Layers and units count from 0.
    """

    activation: str
    params: dict[str, Tensor]
    X: Tensor
    y: Tensor
    loss: str

    def __post_init__(self) -> None:
        modules: list[nn.Module] = []
        for layer in range(len(self.widths) - 1):
            if layer:
                modules.append(MODULES[self.activation]())
            fan, width = self.widths[layer : layer + 2]
            modules.append(nn.Linear(fan, width, bias=self.has_bias[layer]))
        self.module = nn.Sequential(*modules).double()
        self.module.load_state_dict(self.params)
        self.module.requires_grad_(False)
        self.shapes = {key: p.shape for key, p in self.module.named_parameters()}

    @property
    def widths(self) -> list[int]:
        weights = [tensor for key, tensor in self.params.items() if key.endswith("weight")]
        return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]

    @property
    def has_bias(self) -> list[bool]:
        return [f"{2 * layer}.bias" in self.params for layer in range(len(self.widths) - 1)]

    @property
    def hidden(self) -> list[int]:
        return self.widths[1:-1]

    @property
    def vector(self) -> Tensor:
        """All parameters, flat, in the order of the module's own."""
        return torch.cat([p.reshape(-1) for p in self.module.parameters()])

    def outputs(self, vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in self.shapes.values()])
        params = {
            key: piece.reshape(shape)
            for (key, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }
        return torch.func.functional_call(self.module, params, (self.X,))

    def risk(self, vector: Tensor) -> Tensor:
        return LOSSES[self.loss](self.outputs(vector), self.y).mean()

    def value(self) -> float:
        return float(self.risk(self.vector))

    def gradient(self) -> Tensor:
        return torch.func.grad(self.risk)(self.vector)

    def hessian(self) -> Tensor:
        return torch.func.hessian(self.risk)(self.vector)

    def jacobian(self) -> Tensor:
        """(N, M, P)."""
        return torch.func.jacrev(self.outputs)(self.vector)

    # -- the matrices of theory §1, each as a derivative of something plain -----------------------

    def _around(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """What hidden ``layer`` is fed with, bias's 1 included; z of the next layer; its δ."""
        linear = self.module[2 * layer]
        below = self.module[: 2 * layer](self.X)
        fed = (
            torch.cat([below, below.new_ones(len(below), 1)], 1)
            if linear.bias is not None
            else below
        )
        above = self.module[2 * layer : 2 * layer + 3](below).requires_grad_()
        tail = self.module[2 * layer + 3 :]
        (delta,) = torch.autograd.grad(LOSSES[self.loss](tail(above), self.y).mean(), above)
        return fed, above.detach(), delta

    def K(self, layer: int, unit: int) -> Tensor:
        """The Hessian in (v, w) of ``Σ δ_{l+1}·(ζ + v) σ((u + w)·x̃)``, δ held fixed."""
        fed, _, delta = self._around(layer)
        modules: list[Any] = [self.module[2 * layer + k] for k in range(3)]
        linear, sigma, following = modules
        u = linear.weight[unit]
        if linear.bias is not None:
            u = torch.cat([u, linear.bias[unit, None]])
        zeta = following.weight[:, unit]

        def response(moved: Tensor) -> Tensor:
            v, w = moved[: len(zeta)], moved[len(zeta) :]
            return (delta * sigma(fed @ (u + w))[:, None] * (zeta + v)).sum()

        here = torch.zeros(len(zeta) + len(u), dtype=torch.float64)
        return torch.autograd.functional.hessian(response, here)

    def F(self, layer: int, unit: int) -> Tensor:
        above = self.widths[layer + 2]
        return self.K(layer, unit)[:above, above:]

    def G(self, layer: int, unit: int) -> Tensor:
        above = self.widths[layer + 2]
        return self.K(layer, unit)[above:, above:]

    def F_null(self, layer: int) -> Tensor:
        """The gradient at 0 of weights S that lead from x̃ past hidden ``layer``: z_{l+1} + S x̃."""
        fed, above, _ = self._around(layer)
        tail = self.module[2 * layer + 3 :]

        def skipping(S: Tensor) -> Tensor:
            return LOSSES[self.loss](tail(above + fed @ S.T), self.y).mean()

        shape = (above.shape[1], fed.shape[1])
        return torch.func.grad(skipping)(torch.zeros(shape, dtype=torch.float64))

    def nearest_kink(self) -> float:
        """The smallest |z| in a hidden layer on the data."""
        z = [self.module[: 2 * layer + 1](self.X) for layer in range(len(self.hidden))]
        return min(float(each.abs().min()) for each in z)

    def replicated_units(self, steps: Sequence[Step]) -> set[tuple[int, int]]:
        """(layer, unit) of the narrow units that steps replicate, directly or through a copy."""
        origin: list[list[int | None]] = [list(range(width)) for width in self.hidden]
        found = set()
        for step in steps:
            units = origin[step[1]]
            if step[0] == "null":
                units += [None] * len(step[2])
            else:
                source = units[step[2]]
                units += [source] * (len(step[3]) - 1)
                if source is not None:
                    found.add((step[1], source))
        return found

    def fed(self, layer: int) -> Tensor:
        """x̃ of a hidden layer on the data, the bias's 1 included where it has one, (N, D)."""
        return self._around(layer)[0]

    def error(self, layer: int) -> Tensor:
        """∂R/∂z of a hidden layer on the data, (N, width)."""
        z = self.module[: 2 * layer + 1](self.X).requires_grad_()
        value = LOSSES[self.loss](self.module[2 * layer + 1 :](z), self.y).mean()
        (found,) = torch.autograd.grad(value, z)
        return found

    def activity(self, layer: int) -> Tensor:
        """What the units of a hidden layer hand on, on the data, (N, width)."""
        return self.module[: 2 * layer + 2](self.X)

    def at(self, inputs: Tensor) -> Tensor:
        """Outputs on other inputs."""
        return self.module(inputs)

    def gradient_terms(self) -> Tensor:
        """``Σ |∂R/∂f| |∂f/∂θ|``, (P,): what the terms that the gradient sums add up to in size."""
        f = self.outputs(self.vector).requires_grad_()
        (errors,) = torch.autograd.grad(LOSSES[self.loss](f, self.y).mean(), f)
        return (errors[..., None] * self.jacobian()).abs().sum((0, 1))

    def widened(self, steps: Sequence[Step]) -> Reference:
        """The wide network of :func:`widened`, with the same data and loss."""
        return replace(self, params=widened(self.params, steps))


# -- wide networks -------------------------------------------------------------------------------

Step = tuple[Any, ...]
"""("replicate", layer, unit, weights) or ("null", layer, biases)."""


def widened(params: dict[str, Tensor], steps: Sequence[Step]) -> dict[str, Tensor]:
    """The steps carried out one after the other on lists of numbers."""
    depth = sum(key.endswith("weight") for key in params)
    weights = [params[f"{2 * layer}.weight"].tolist() for layer in range(depth)]
    biases = [
        params[f"{2 * layer}.bias"].tolist() if f"{2 * layer}.bias" in params else None
        for layer in range(depth)
    ]
    for step in steps:
        layer = step[1]
        if step[0] == "replicate":
            unit, shares = step[2], step[3]
            for _ in shares[1:]:
                weights[layer].append(list(weights[layer][unit]))
                if biases[layer] is not None:
                    biases[layer].append(biases[layer][unit])
            for row in weights[layer + 1]:
                outgoing = row[unit]
                row[unit] = shares[0] * outgoing
                for share in shares[1:]:
                    row.append(share * outgoing)
        else:
            for bias in step[2]:
                weights[layer].append([0.0] * len(weights[layer][0]))
                if biases[layer] is not None:
                    biases[layer].append(bias)
                for row in weights[layer + 1]:
                    row.append(0.0)
    wide: dict[str, Tensor] = {}
    for layer in range(depth):
        wide[f"{2 * layer}.weight"] = torch.tensor(weights[layer], dtype=torch.float64)
        if biases[layer] is not None:
            wide[f"{2 * layer}.bias"] = torch.tensor(biases[layer], dtype=torch.float64)
    return wide


# -- random instances ----------------------------------------------------------------------------


def random_reference(
    widths: Sequence[int],
    activation: str,
    loss: str,
    bias: bool | Sequence[bool] = True,
    samples: int = 7,
    seed: int = 0,
) -> Reference:
    """Gaussian parameters and inputs, targets that the loss can use."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params: dict[str, Tensor] = {}
    for layer, (fan, width) in enumerate(pairwise(widths)):
        params[f"{2 * layer}.weight"] = normal(width, fan) * (1.5 / fan**0.5)
        if bias if isinstance(bias, bool) else bias[layer]:
            params[f"{2 * layer}.bias"] = normal(width) * 0.5
    X, outputs = normal(samples, widths[0]), widths[-1]
    if loss == "cross_entropy":
        y = torch.randint(0, outputs, (samples,), generator=generator)
    elif loss == "logistic":
        y = torch.rand(samples, outputs, generator=generator, dtype=torch.float64)
        y = torch.where(y < 0.5, (y < 0.25).double(), y)  # classes 0 and 1, and probabilities
    else:
        y = normal(samples, outputs)
    return Reference(activation, params, X, y, loss)


def critical_reference(
    widths: Sequence[int],
    activation: str,
    loss: str = "squared",
    bias: bool | Sequence[bool] = True,
    size: float = 1.0,
    seed: int = 0,
) -> Reference:
    """A network at a critical point, made so by its targets.

    The gradient is linear in the residuals ∂ℓ/∂f, so for any parameters there are residuals that
    make it 0, as soon as there are more of them than parameters. Small ones leave the curvature to
    the Gauss–Newton part, which is positive definite; large ones let the rest win.

    Args:
        loss: "squared", or "logistic", whose targets are then probabilities.
        size: largest residual; for "logistic" as a part of the room that [0, 1] leaves.
    """
    free = random_reference(widths, activation, loss, bias, samples=2, seed=seed)
    samples = 2 * len(free.vector) // widths[-1] + 5
    ref = random_reference(widths, activation, loss, bias, samples, seed)
    outputs = ref.outputs(ref.vector)
    left, sizes, _ = torch.linalg.svd(ref.jacobian().flatten(0, 1))
    null_space = left[:, int((sizes > 1e-12 * sizes[0]).sum()) :]
    generator = torch.Generator().manual_seed(seed + 1)
    mix = torch.randn(null_space.shape[1], generator=generator, dtype=torch.float64)
    residuals = (null_space @ mix).reshape(outputs.shape)
    predicted, room = outputs, torch.ones_like(outputs)
    if loss == "logistic":
        predicted = torch.sigmoid(outputs)
        room = torch.where(residuals > 0, predicted, 1 - predicted)
    return replace(ref, y=predicted - residuals * (size / (residuals / room).abs().max()))


def _special(reference: Reference, twist: str, seed: int) -> Reference:
    """The same network at parameters where something coincides, unless that puts σ on its kink."""
    generator = torch.Generator().manual_seed(seed)
    params = {key: tensor.clone() for key, tensor in reference.params.items()}
    if twist == "zero weights":
        for tensor in params.values():
            tensor[torch.rand(tensor.shape, generator=generator) < 0.3] = 0.0
    elif twist == "duplicate units":
        for key, tensor in params.items():
            if int(key.split(".")[0]) < 2 * len(reference.hidden):
                tensor[-1] = tensor[0]
    elif twist == "unheard units":
        params[[key for key in params if key.endswith("weight")][-1]][:, -1] = 0.0
    twisted = replace(reference, params=params)
    usable = reference.activation not in KINKED or twisted.nearest_kink() > 1e-9
    return twisted if usable else reference


@dataclass
class Case:
    """A network at some parameters, critical or not, and steps that widen it."""

    narrow: Reference
    steps: list[Step]
    twist: str

    def __repr__(self) -> str:
        n = self.narrow
        return (
            f"{n.widths} {n.activation} {n.loss} bias={n.has_bias} N={len(n.X)} {self.twist} "
            f"{self.steps}"
        )


TWISTS = ("zero weights", "duplicate units", "unheard units")

QUARTERS = st.integers(-8, 8).map(lambda quarter: quarter / 4)
"""Numbers that binary and decimal notation both hold exactly; 0 and both signs."""


@st.composite
def shares(draw: st.DrawFn) -> list[float]:
    """2 to 4 shares of any sign, and 0, that sum to 1."""
    free = draw(st.lists(QUARTERS, min_size=1, max_size=3))
    return draw(st.permutations([*free, 1 - sum(free)]))


@st.composite
def step_lists(
    draw: st.DrawFn, hidden: Sequence[int], has_bias: Sequence[bool], kinked: bool
) -> list[Step]:
    """1 to 3 steps; layers and units of the later ones are those the earlier ones have made."""
    hidden = list(hidden)
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 3))):
        layer = draw(st.integers(0, len(hidden) - 1))
        # A null unit with bias 0 sits on the kink of a ReLU; without a bias it has no other.
        nulls = has_bias[layer + 1] and (has_bias[layer] or not kinked)
        if nulls and draw(st.integers(0, 2)) == 0:
            alphas = QUARTERS.filter(bool) if kinked else QUARTERS
            alphas = alphas if has_bias[layer] else st.just(0.0)
            steps.append(("null", layer, draw(st.lists(alphas, min_size=1, max_size=2))))
            hidden[layer] += len(steps[-1][2])
        else:
            unit = draw(st.integers(0, hidden[layer] - 1))
            steps.append(("replicate", layer, unit, draw(shares())))
            hidden[layer] += len(steps[-1][3]) - 1
    return steps


@st.composite
def cases(
    draw: st.DrawFn,
    activation: str | None = None,
    depth: int = 4,
    width: int = 5,
) -> Case:
    """Up to ``depth`` hidden layers of up to ``width`` units; all losses; biases or not."""
    seed = draw(st.integers(0, 2**16))
    # From the seed, because hypothesis likes to draw the same choice again and again.
    activation = activation or ACTIVATIONS[seed % len(ACTIVATIONS)]
    loss = list(LOSSES)[seed // len(ACTIVATIONS) % len(LOSSES)]
    layers = draw(st.integers(1, depth))
    hidden = draw(st.lists(st.integers(1, width), min_size=layers, max_size=layers))
    outputs = draw(st.integers(2 if loss == "cross_entropy" else 1, 3))
    widths = [draw(st.integers(1, 3)), *hidden, outputs]
    mixed = st.lists(st.booleans(), min_size=layers + 1, max_size=layers + 1)
    has_bias = draw(st.sampled_from([[True] * (layers + 1), [False] * (layers + 1)]) | mixed)
    narrow = random_reference(widths, activation, loss, has_bias, draw(st.integers(2, 12)), seed)
    twist = draw(st.sampled_from(["none", "none", "none", *TWISTS]))
    narrow = _special(narrow, twist, seed)
    return Case(narrow, draw(step_lists(hidden, has_bias, activation in KINKED)), twist)


# -- signs of eigenvalues ------------------------------------------------------------------------

FLOOR = 1.5e-14
GAP = 30.0


def count(eigenvalues: Tensor, scale: float | None = None) -> tuple[int, int, int, bool]:
    """(positive, zero, negative, clear) for eigenvalues or singular values.

    Rounding in a Hessian by automatic differentiation and in LAPACK's eigenvalues is a few ε times
    the largest one (``scale``), hardly more at the largest sizes here (some 300) than at the
    smallest: in thousands of random cases true zeros came out below 3e-16 of it. The floor is far
    above that, at 1.5e-14, and the spectrum is *clear* if it holds nothing within a factor 30 of
    the floor, between 5e-16 and 4.5e-13: a gap of three orders of magnitude around it.
    """
    size = eigenvalues.abs()
    if not len(size):
        return 0, 0, 0, True
    floor = FLOOR * (float(size.max()) if scale is None else scale)
    clear = floor == 0 or not bool(((size >= floor / GAP) & (size <= GAP * floor)).any())
    positive, negative = int((eigenvalues > floor).sum()), int((eigenvalues < -floor).sum())
    return positive, len(size) - positive - negative, negative, clear


def spectrum(matrix: Tensor) -> Tensor:
    """Eigenvalues of a symmetric matrix, ascending."""
    return torch.linalg.eigvalsh((matrix + matrix.T) / 2)


# -- every embedding by hand -----------------------------------------------------------------------

Tensors = dict[str, Tensor]
Hand = Callable[[Tensors], Tensors]
"""What an embedding does to parameters, written out from its paper."""


@dataclass
class Unit:
    """A hidden unit on its own: incoming weights, bias (0 where the layer has none), outgoing weights."""

    w: Tensor
    b: Tensor
    v: Tensor


def units_of(params: Tensors, layer: int) -> list[Unit]:
    """The units of a hidden layer, one by one."""
    incoming, outgoing = params[f"{2 * layer}.weight"], params[f"{2 * layer + 2}.weight"]
    biases = params.get(f"{2 * layer}.bias", incoming.new_zeros(len(incoming)))
    return [Unit(incoming[r], biases[r], outgoing[:, r]) for r in range(len(incoming))]


def with_units(
    params: Tensors, layer: int, units: Sequence[Unit], onto_bias: Tensor | None = None
) -> Tensors:
    """The network with these units in a hidden layer, and something added to the bias above."""
    out = dict(params)
    out[f"{2 * layer}.weight"] = torch.stack([unit.w for unit in units])
    if f"{2 * layer}.bias" in params:
        out[f"{2 * layer}.bias"] = torch.stack([unit.b for unit in units])
    out[f"{2 * layer + 2}.weight"] = torch.stack([unit.v for unit in units], 1)
    if onto_bias is not None:
        out[f"{2 * layer + 2}.bias"] = params[f"{2 * layer + 2}.bias"] + onto_bias
    return out


def replicated(
    params: Tensors, layer: int, unit: int, shares: Sequence[float], offsets: Tensor | None = None
) -> Tensors:
    """F19 Table 1 (I) and eq. (4): w_j = u, v_j = λ_j ζ, plus d_j; the others at the end."""
    units = units_of(params, layer)
    old = units[unit]
    copies = [
        Unit(old.w, old.b, share * old.v + (0 if offsets is None else offsets[j]))
        for j, share in enumerate(shares)
    ]
    units[unit] = copies[0]
    return with_units(params, layer, [*units, *copies[1:]])


def scaled_replicated(
    params: Tensors, layer: int, unit: int, beta: Sequence[float], gamma: Sequence[float]
) -> Tensors:
    """F19 eq. (9): w_j = β_j u (its bias too), v_j = γ_j ζ."""
    units = units_of(params, layer)
    old = units[unit]
    copies = [Unit(b * old.w, b * old.b, g * old.v) for b, g in zip(beta, gamma, strict=True)]
    units[unit] = copies[0]
    return with_units(params, layer, [*units, *copies[1:]])


def added(params: Tensors, layer: int, rows: Tensor, columns: Tensor) -> Tensors:
    """F19 Table 1 (II), (III), eq. (10), Z22 Def. 4.3: units with (w, b) and v given, at the end.

    ``rows`` have the bias last where the layer has one.
    """
    width = params[f"{2 * layer}.weight"].shape[1]
    biased = f"{2 * layer}.bias" in params
    assert rows.shape[1] == width + biased
    new = [
        Unit(row[:width], row[width] if biased else row.new_zeros(()), column)
        for row, column in zip(rows, columns, strict=True)
    ]
    return with_units(params, layer, [*units_of(params, layer), *new])


def constant_added(
    params: Tensors, layer: int, biases: Tensor, columns: Tensor, activation: str
) -> Tensors:
    """Units with w = 0, whose constant σ(α) v the bias above loses."""
    incoming = params[f"{2 * layer}.weight"]
    sigma = MODULES[activation]()
    new = [
        Unit(incoming.new_zeros(incoming.shape[1]), alpha, column)
        for alpha, column in zip(biases, columns, strict=True)
    ]
    lost = sum(sigma(alpha) * column for alpha, column in zip(biases, columns, strict=True))
    return with_units(params, layer, [*units_of(params, layer), *new], -torch.as_tensor(lost))


def permuted(params: Tensors, layer: int, order: Sequence[int]) -> Tensors:
    """The new unit k is the old ``order[k]``."""
    units = units_of(params, layer)
    return with_units(params, layer, [units[k] for k in order])


KAPPA = {"tanh": 0.0, "sin": 0.0, "identity": 0.0, "sigmoid": 1.0}
"""κ with σ(−z) = κ − σ(z)."""


def mixed(params: Tensors, layer: int, matrix: Sequence[Sequence[float]]) -> Tensors:
    """Linear units (w, b, v): w'_k = Σ_j M_kj w_j, likewise b', and v' solves Σ_k v'_k M_kj = v_j."""
    old = units_of(params, layer)
    heard = torch.stack([unit.v for unit in old], 1)
    solved = torch.linalg.solve(torch.tensor(matrix, dtype=torch.float64).T, heard.T)
    new = []
    for shares, column in zip(matrix, solved, strict=True):
        pairs = list(zip(shares, old, strict=True))
        w = torch.stack([share * unit.w for share, unit in pairs]).sum(0)
        b = torch.stack([share * unit.b for share, unit in pairs]).sum(0)
        new.append(Unit(w, b, column))
    return with_units(params, layer, new)


def split(
    params: Tensors,
    layer: int,
    sources: Sequence[int],
    shares: Sequence[float],
    scales: Sequence[float],
    activation: str,
    offsets: Tensor | None = None,
) -> Tensors:
    """Unit j: s_j u and (λ_j/s_j) ζ + d_j; what mirrored units add, κ v_j, the bias above loses."""
    old = units_of(params, layer)
    new = []
    for j, (source, share, scale) in enumerate(zip(sources, shares, scales, strict=True)):
        free = 0 if offsets is None else offsets[j]
        one = old[source]
        new.append(Unit(scale * one.w, scale * one.b, share / scale * one.v + free))
    mirrored = [unit.v for unit, scale in zip(new, scales, strict=True) if scale < 0]
    kappa = KAPPA.get(activation, 0.0)
    lost = -kappa * torch.stack(mirrored).sum(0) if kappa and mirrored else None
    return with_units(params, layer, new, lost)


IndexMap = Sequence[Sequence[int | None]]


def compatible(
    params: Tensors,
    index_map: IndexMap,
    alpha: Sequence[Tensor],
    null_biases: Sequence[Tensor],
    activation: str,
) -> Tensors:
    """Z22 Def. 5.2 with Remark 5.1, α_b from Condition 2; ``null_biases`` are b*, in order."""
    sigma = MODULES[activation]()
    depth = len(alpha)
    inputs, outputs = params["0.weight"].shape[1], len(params[f"{2 * depth - 2}.weight"])
    maps: list[Sequence[int | None]] = [range(inputs), *index_map, range(outputs)]
    out: Tensors = {}
    below: dict[int, Tensor] = {}  # b* of the null units below, by place
    for layer in range(depth):
        W, b = params[f"{2 * layer}.weight"], params.get(f"{2 * layer}.bias")
        sources, sources_below = maps[layer + 1], maps[layer]
        one = torch.ones((), dtype=torch.float64)
        inter = torch.stack(
            [
                torch.stack(
                    [W[s, t] if s is not None and t is not None else one for t in sources_below]
                )
                for s in sources
            ]
        )
        out[f"{2 * layer}.weight"] = alpha[layer] * inter
        null_places = [i for i, s in enumerate(sources) if s is None]
        here = (
            dict(zip(null_places, null_biases[layer], strict=True))
            if layer < len(index_map)
            else {}
        )
        if b is not None:
            entries = []
            for i, s in enumerate(sources):
                from_nulls = sum(
                    (alpha[layer][i, j] * sigma(b_star) for j, b_star in below.items()), 0 * one
                )
                entries.append((here[i] if s is None else b[s]) - from_nulls)
            out[f"{2 * layer}.bias"] = torch.stack(entries)
        below = here
    return out


def tripled(params: Tensors, shares: Sequence[float] = (1, 1, -1)) -> Tensors:
    """Z22 Ex. 5.1, the matrices as they stand there; any number of folds."""
    depth = sum(key.endswith("weight") for key in params)
    folds = len(shares)
    out: Tensors = {}
    for key, tensor in params.items():
        layer, kind = int(key.split(".")[0]) // 2, key.split(".")[1]
        if kind == "bias":
            out[key] = tensor if layer == depth - 1 else torch.cat([tensor] * folds)
        elif layer == 0:
            out[key] = torch.cat([tensor] * folds)
        elif layer < depth - 1:
            out[key] = torch.block_diag(*[tensor] * folds)
        else:
            out[key] = torch.cat([share * tensor for share in shares], 1)
    return out


def with_nulls_everywhere(params: Tensors, biases: Sequence[Sequence[float]]) -> Tensors:
    """Z22 Ex. 5.2: null units below and to the right of every hidden layer's, with biases b**."""
    for layer, values in enumerate(biases):
        wide = params[f"{2 * layer}.weight"].shape[1] + (f"{2 * layer}.bias" in params)
        above = len(params[f"{2 * layer + 2}.weight"])
        rows = torch.zeros((len(values), wide), dtype=torch.float64)
        if f"{2 * layer}.bias" in params:
            rows[:, -1] = torch.tensor(list(values), dtype=torch.float64)
        columns = torch.zeros((len(values), above), dtype=torch.float64)
        params = added(params, layer, rows, columns)
    return params


def flat(params: Tensors) -> Tensor:
    """Flat in the order Linear by Linear, weight then bias, whatever the dict's order."""
    return torch.cat([params[key].reshape(-1) for key in ordered(params)])


def ordered(params: Tensors) -> list[str]:
    """Keys Linear by Linear, weight before bias."""
    return sorted(params, key=lambda key: (int(key.split(".")[0]), key.endswith("bias")))


def unflat(vector: Tensor, like: Tensors) -> Tensors:
    """The inverse of :func:`flat`."""
    keys = ordered(like)
    pieces = vector.split([like[key].numel() for key in keys])
    return {key: piece.reshape(like[key].shape) for key, piece in zip(keys, pieces, strict=True)}


def matrix_of(by_hand: Hand, params: Tensors) -> tuple[Tensor, Tensor]:
    """A (P_wide, P_narrow) and c of an affine map of parameters, by derivative and value at 0."""

    def image(vector: Tensor) -> Tensor:
        return flat(by_hand(unflat(vector, params)))

    zero = torch.zeros_like(flat(params))
    return torch.func.jacfwd(image)(zero), image(zero)


def reach(params: Tensors, inputs: Tensor) -> float:
    """The largest sum over paths of products of absolute weights, on the largest inputs.

    Every absolute weight times whatever absolute value may reach it, ``|W| h + |b| + 1``, the 1
    covering σ(0). Rounding in the outputs is a few ε of it: no sum or difference in a forward pass
    has larger terms, the activations here having slopes below 1.13.
    """
    h = inputs.abs().amax(0)
    for key in ordered(params):
        h = params[key].abs() @ h + 1 if key.endswith("weight") else h + params[key].abs()
    return float(h.max())
