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
        linear, sigma, following = (self.module[2 * layer + k] for k in range(3))
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

    def widened(self, steps: Sequence[Step]) -> Reference:
        """The wide network of :func:`widened`, with the same data and loss."""
        return replace(self, params=widened(self.params, steps))


# -- wide networks -------------------------------------------------------------------------------

Step = tuple[str, int, int, list[float]] | tuple[str, int, list[float]]
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
    hidden, steps = list(hidden), []
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
