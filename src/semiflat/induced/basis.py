"""The gradient basis model: how far a point is from criticality, whatever the scale of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from semiflat.errors import InputError, whole
from semiflat.evidence import EPS
from semiflat.induced.convex import minimise, slope_noise
from semiflat.induced.features import GradientFeatures, ModuleFeatures, NetworkFeatures
from semiflat.induced.projection import project
from semiflat.induced.spans import DENSE_ENTRIES, DenseSpan, FeatureSpan, Span
from semiflat.losses import Loss, loss_named
from semiflat.modules.flat import FrozenModule
from semiflat.points import Point, PointBatch, check_one
from semiflat.records.shown import Shown

LossLike = str | Loss | Callable[[Tensor, Tensor], Tensor]
DENSE_SIDE = 1500
"""min(N·M, P) up to which a convex loss is minimised over an orthonormal basis."""


@dataclass(frozen=True)
class GradientBasisModel(Shown):
    """The infimum of the loss over the linear model in the gradient features (K19 §3.2).

    Attributes:
        loss: L(θ), of the data; a penalty of weight decay is not in it.
        infimum: ``inf_α L_θ(α)`` as found, never more than ``loss``. A direction of the features that
            rounding does not tell from zero counts for none, so that a saturated unit may leave it too high.
        gap: ``loss − infimum``.
        noise: what rounding may have changed of the gap.
        error: how far below ``infimum`` that of the directions that count may lie: by rounding, or by
            duality for outputs up to ten times as large as those found. What only outputs of 1e8 and more
            reach, along directions in which classes are all but tied, counts for none.
        attained: whether some α reaches the infimum; None where that could not be told.
        rank: independent features on the data; None where it was not needed.
        features: number of features P.
        cut: singular values of the features, scaled to columns of length 1, up to this count as zero;
            None where the rank was not needed.
        vanishing: number of terms of the loss that go to 0 in the limit, where it is not attained.
        method: ``"projection"``, ``"Newton"`` or ``"separated"``.

    >>> import semiflat as sf
    >>> X, y = [[-2.0], [-1.0], [0.0], [1.0], [2.0]], [-1.0, -0.5, 0.3, 0.6, 1.2]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> model = sf.gradient_basis_model(sf.Point(problem, problem.net.random_params(0)))
    >>> model.method, model.gap == model.loss - model.infimum, model.noise < 1e-12
    ('projection', True, True)
    """

    loss: float
    infimum: float
    gap: float
    noise: float
    error: float
    attained: bool | None
    rank: int | None
    features: int
    cut: float | None
    vanishing: int
    method: str

    @property
    def critical(self) -> bool | None:
        """False where the gap is clearly positive, so that θ is not critical (K19 Thm 1); else None.

        Clearly: ten times its noise, and more than the loss itself is rounded by, as stored parameters are
        never critical to the last digit. A smaller gap does not show that θ is critical.
        """
        return False if self.gap > 10 * (self.noise + EPS * abs(self.loss)) else None

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return dict(vars(self))


def gradient_basis_model(
    model: Point | nn.Module,
    X: Any = None,
    y: Any = None,
    loss: LossLike | None = None,
    *,
    convex: bool = False,
    batch_size: int = 256,
) -> GradientBasisModel:
    """How far below ``L(θ)`` the linear model in the features ``∂_k f(x_ν; θ)`` gets (K19 Thm 1).

    At a critical point it gets no lower, so the gap is a distance from criticality that does not depend
    on the parameterisation: rescaling a ReLU unit changes the gradient's length, but not the gap. For the
    squared loss it is half the mean square of the residual's projection on the features; for others a
    convex program, with a lower bound. With weight decay it is that of the data's risk alone, which is
    not 0 at critical points of the sum.

    Args:
        model: a point, or any module whose outputs (N, M) are linear in its last layer.
        X: inputs for a module; a point brings its own.
        y: its targets.
        loss: for a module; ``"squared"`` if not given.
        convex: vouch for a loss given as a function, of which nothing is known.
        batch_size: samples of a module that are differentiated at once.

    Raises:
        InputError: for a loss that is not known to be convex, a module whose outputs are not linear in a
            last layer (K19 Assumption 2), a :class:`PointBatch`, or features too many to project on.

    >>> import semiflat as sf
    >>> X = [[-2.0], [-1.0], [0.0], [1.0], [2.0]]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [-1.0, -0.5, 0.3, 0.6, 1.2])
    >>> here = gradient_basis_model(sf.Point(problem, problem.net.random_params(0)))
    >>> here.rank, here.features, here.gap > 0, here.attained
    (4, 4, True, True)
    >>> minimum = gradient_basis_model(sf.find_critical_point(problem, starts=8, seed=0))
    >>> minimum.gap <= minimum.noise < 1e-12
    True
    """
    return model_on(features_of(model, X, y, loss, convex, batch_size))


def gradient_basis_gap(
    model: Point | nn.Module,
    X: Any = None,
    y: Any = None,
    loss: LossLike | None = None,
    *,
    convex: bool = False,
    batch_size: int = 256,
) -> float:
    """``L(θ) − inf_α L_θ(α)`` ≥ 0 (K19 Thm 1); arguments and errors as for :func:`gradient_basis_model`.

    >>> import semiflat as sf
    >>> net = sf.MLP([2, 3, 1], "relu")
    >>> problem = sf.Problem(net, [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [1.0, -1.0, 0.5])
    >>> gradient_basis_gap(sf.Point(problem, net.random_params(0))) > 0
    True
    """
    return gradient_basis_model(model, X, y, loss, convex=convex, batch_size=batch_size).gap


def features_of(
    model: Point | nn.Module, X: Any, y: Any, loss: LossLike | None, convex: bool, batch_size: int
) -> GradientFeatures:
    """The gradient features of a point or module, its loss known to be convex."""
    if isinstance(model, Point | PointBatch):
        given = [n for n, v in (("X", X), ("y", y), ("loss", loss)) if v is not None]
        if given:
            raise InputError(
                f"a point brings its own data and loss; given besides is {', '.join(given)}: leave that "
                "out, or make a Problem of it"
            )
        check_modelled(model)
        check_convex(model.problem.loss, convex)
        return NetworkFeatures(model.problem, model.params)
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a Point or an nn.Module, not {type(model).__name__}")
    if X is None or y is None:
        raise InputError("a module comes without data; give X and y: gap(module, X, y, loss)")
    chosen = loss_named("squared" if loss is None else loss)
    check_convex(chosen, convex)
    batch_size = whole("batch_size", batch_size, 1)
    frozen = FrozenModule(model, X)
    return ModuleFeatures(frozen, frozen.targets(y, chosen), chosen, batch_size)


def check_modelled(point: Point) -> None:
    """Raise :class:`InputError` for what is not one point of which there is such a model."""
    check_one(point, "a gradient basis model")
    point.problem.check_double("a gradient basis")
    point.problem.check_plain("a gradient basis model")


def check_convex(loss: Loss, vouched: bool = False) -> None:
    """Raise :class:`InputError` unless the loss is convex in the outputs, or the user says so."""
    if not (loss.convex or vouched):
        raise InputError(
            f"nothing is known of the convexity of loss {loss.name}, and theory §6 (K19 Assumption 1) needs a "
            "convex one; pass convex=True if it is"
        )


def model_on(features: GradientFeatures) -> GradientBasisModel:
    """The model on features: a projection for the squared loss, a convex program for others."""
    loss, outputs, targets = features.loss, features.outputs, features.targets
    value = float(loss.value(outputs, targets).mean())
    if loss.quadratic:
        found = project(features, outputs - targets)
        share = 0.5 / features.samples
        gap = min(value, share * found.inside)
        # ‖P(r + δ)‖² differs from ‖Pr‖² by at most 2‖Pr‖‖δ‖ + ‖δ‖².
        moved = share * features.moved * (2 * found.inside**0.5 + features.moved)
        noise = share * found.noise + moved + 8 * EPS * gap
        error = share * (found.doubtful + found.noise) + moved + 8 * EPS * value
        return GradientBasisModel(
            value,
            value - gap,
            gap,
            noise,
            error,
            True,
            found.rank,
            features.count,
            found.cut,
            0,
            "projection",
        )
    rows = features.samples * features.width
    span: Span
    if rows * features.count <= DENSE_ENTRIES and min(rows, features.count) <= DENSE_SIDE:
        span = DenseSpan(features)
    else:
        span = FeatureSpan(features)
    return over_span(features, span, value)


def over_span(features: GradientFeatures, span: Span, value: float) -> GradientBasisModel:
    """The model over a span that holds the outputs, for any convex loss."""
    found = minimise(features.outputs, span, features.loss, features.targets)
    largest = None
    if isinstance(span, DenseSpan):
        largest = float(span.singular[0]) if len(span.singular) else 0.0
    cut = max(features.samples * features.width, features.count)
    infimum = min(value, found.value)
    moved = slope_noise(features.loss, features.outputs, features.targets, features.moved)
    noise = 16 * EPS * abs(value) + found.noise + moved
    every = found.attained is False and found.value == 0.0
    return GradientBasisModel(
        value,
        infimum,
        value - infimum,
        noise,
        0.0 if every else max(0.0, infimum - found.lower) + noise,
        found.attained,
        None if largest is None else span.dimension,
        features.count,
        None if largest is None else cut * EPS * largest,
        int(found.vanishing.sum()),
        "separated" if every else "Newton",
    )
