"""What a point shows of itself: the loss on lines and planes through it, its spectrum, its shares."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from semiflat.costs import DENSE_LIMIT
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.operators import hessian_operator
from semiflat.embeddings import Replicate
from semiflat.errors import InputError, positive
from semiflat.evidence import Evidence
from semiflat.evidence.slices import both_ways, on_line, on_plane, seen_within
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.records.shown import Shown

PLACES, ACROSS = 161, 61
"""Places along a line, and along each side of a plane."""
NOISE = 1e-13
"""Part of the loss that rounding may make of a change."""
UNSEEN = 1e-9
"""Part of what is drawn that cannot be seen."""
SHARES = [Fraction(k, 20) for k in range(-20, 41)]
"""λ from −1 to 2."""


class Pictures(Shown):
    """The pictures of a point. What a point has to have for them stands first."""

    problem: Problem

    @property
    def params(self) -> Params:
        """The parameters, in the problem's dtype."""
        raise NotImplementedError

    @property
    def evidence(self) -> Evidence:
        """Derivatives with their rounding noise, and spectra."""
        raise NotImplementedError

    def plot_line(
        self, direction: Any = None, *, reach: float | None = None, ax: Any = None
    ) -> Any:
        """Draw the loss on the straight line through the point, and the parabola of its derivatives.

        To see: the two touch at the point (the dot). Where the loss falls, the triangle marks the lowest
        place on the line. Works at points of any size, and at those at infinity.

        Args:
            direction: params-shaped, as ``verdict.descent_direction``; or flat, (P,); or another point of
                the same network, to look towards. By default that of lowest curvature. Of a direction the
                length does not matter: t is the distance from the point.
            reach: how far to look, both ways; by default as far as shows the shape.
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib, for a direction that does not fit or is 0, and without one for
                more parameters than a dense Hessian is built for.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
        >>> ax = sf.find_critical_point(problem, starts=1).plot_line([1.0, 0.0])
        >>> print(ax.get_title("left"))
        Loss on a line: slope 0, curvature 0.67.
        It is nowhere lower than at the point.
        """
        from semiflat.plots.drawing import axes_for, minus, size
        from semiflat.plots.line import draw_line, line_legend

        with axes_for(ax) as ax:
            start = self._start()
            unit, length = self._direction(direction, start)
            steps, found = both_ways(self.problem, start, unit)
            if length and reach is None:
                ends = -0.3 * length, 1.3 * length
            else:
                reach = seen_within(steps, found) if reach is None else positive("reach", reach)
                ends = -reach, reach
            t = torch.linspace(*ends, PLACES, dtype=start.dtype)
            here, gradient = risk_gradient(self.problem, self.params)
            slope, along = float(gradient @ unit), unit.double().numpy()
            curvature = float(along @ (hessian_operator(self.problem, self.params) @ along))
            change = (on_line(self.problem, start, unit, t) - here).double().numpy()
            most, noise = float(abs(change).max()), self._noise(float(here))
            # What is too small to be seen in the picture is not called something else than 0.
            slope = slope if abs(slope) * ends[1] > max(UNSEEN * most, noise) else 0.0
            curvature = (
                curvature if abs(curvature) * ends[1] ** 2 > max(UNSEEN * most, noise) else 0.0
            )
            draw_line(ax, t.double().numpy(), change, curvature, slope, noise)
            ax.set_xlabel("t, distance along the direction")
            if float(change.min()) < -noise:
                seen = f"It falls by up to {size(-float(change.min()), 3)} (triangle)."
            elif most <= noise:
                seen = "It is constant."
            else:
                seen = "It is nowhere lower than at the point."
            ax.set_title(
                f"Loss on a line: slope {minus(size(slope, 2))}, curvature "
                f"{minus(size(curvature, 2))}.\n{seen}",
                loc="left",
            )
            parabola = "½κt²" if slope == 0 else "slope · t + ½κt²"
            ax.legend(
                handles=line_legend("loss", parabola, "the point"), frameon=False, fontsize=8.5
            )
            if 0 < length <= ends[1]:
                ax.axvline(length, color="#777777", linewidth=0.8, linestyle=":")
                ax.text(
                    length,
                    0.98,
                    "the other point",
                    transform=ax.get_xaxis_transform(),
                    fontsize=8,
                    ha="right",
                    va="top",
                    rotation=90,
                )
        return ax

    def plot_plane(
        self,
        one: Any = None,
        two: Any = None,
        *,
        reach: float | None = None,
        ax: Any = None,
    ) -> Any:
        """Draw contours of the loss on the plane through the point that two directions span.

        Lines join places of equal loss, and the darker it is the higher. Between two neighbouring lines lies
        the same part of the plane. To see: closed lines around the point (the dot) are a minimum in this
        plane, crossing ones a saddle; the triangle is the lowest place, where it is another; squares are the
        points that were given for directions.

        Args:
            one: first direction, to the right; as for :meth:`plot_line`.
            two: second direction, upwards; what of it is parallel to the first is taken out. By default
                the two are those of lowest curvature.
            reach: how far to look, in all four senses; by default as far as shows the shape.
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: as for :meth:`plot_line`, and for directions that are parallel.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
        >>> point = sf.find_critical_point(problem, starts=1)
        >>> ax = point.plot_plane([1.0, 0.0], [0.0, 1.0])
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('t₁, along the first direction', 't₂, along the second')
        """
        from semiflat.plots.drawing import axes_for
        from semiflat.plots.plane import draw_plane

        with axes_for(ax, 5.0, 4.6) as ax:
            start = self._start()
            first, length = self._direction(one, start)
            toward, other = self._direction(two, start, 0 if one is not None else 1)
            across = toward - (toward @ first) * first
            if float(torch.linalg.vector_norm(across)) < 1e-6:
                raise InputError(
                    "the two directions are parallel and span no plane; give another second direction"
                )
            second = across / torch.linalg.vector_norm(across)
            if reach is not None:
                reach = positive("reach", reach)
            elif length or other:
                reach = 1.5 * max(length, other)
            else:
                reach = min(
                    seen_within(*both_ways(self.problem, start, each)) for each in (first, second)
                )
            t = torch.linspace(-reach, reach, ACROSS, dtype=start.dtype)
            losses = on_plane(self.problem, start, first, second, t, t).double().numpy()
            here, places = float(self.problem.risk(self.params)), t.double().numpy()
            others = [(length, 0.0)] if length else []
            if other:
                others.append((other * float(toward @ first), other * float(toward @ second)))
            draw_plane(ax, places, places, losses, here, others)
            ax.set_xlabel("t₁, along the first direction")
            ax.set_ylabel("t₂, along the second")
            ax.set_title(
                "The loss on a plane through the point (dot);\ndarker is higher", loc="left"
            )
        return ax

    def plot_spectrum(self, *, ax: Any = None) -> Any:
        """Draw the eigenvalues of the Hessian, one mark each, on an axis logarithmic to both sides.

        Strokes are positive, circles at 0 are zero within rounding, triangles are negative: at a critical
        point each of those is a way down. At the right stands how many there are of each. Above the spectrum
        of an embedded point stands that of its source.

        Args:
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib, for more parameters than a dense Hessian is built for, and where
                there is no Hessian.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
        >>> ax = sf.find_critical_point(problem, starts=1).plot_spectrum()
        >>> print(ax.get_title("left"))
        Curvatures: 2 positive, 0 zero, 0 negative.
        Nowhere does the loss curve down.
        """
        import numpy as np

        from semiflat.plots.drawing import axes_for
        from semiflat.plots.spectrum import draw_spectrum, linear_below, set_ticks, signs_header

        source = getattr(self, "source", None)
        shown = [("", self)] if source is None else [("narrow", source), ("wide", self)]
        with axes_for(ax, 6.4, 1.2 + 0.75 * len(shown)) as ax:
            rows = []
            for name, point in shown:
                point._check_dense("a spectrum is drawn")
                evidence = point.evidence
                if evidence.no_hessian:
                    raise InputError(f"no spectrum to draw: {evidence.no_hessian}")
                spectrum = evidence.plain_spectrum
                rows.append((name, spectrum.values.numpy(), evidence.spectrum.count()))
            every = np.concatenate([values for _, values, _ in rows])
            threshold = linear_below(every)
            draw_spectrum(ax, rows, threshold)
            set_ticks(ax, every, threshold)
            signs_header(ax)
            up, zero, down = rows[-1][2]
            seen = (
                "Triangles: the loss curves down." if down else "Nowhere does the loss curve down."
            )
            ax.set_title(
                f"Curvatures: {up} positive, {zero} zero, {down} negative.\n{seen}",
                loc="left",
            )
        return ax

    def plot_shares(self, layer: int, unit: int, *, ax: Any = None) -> Any:
        """Draw what becomes of the point when a unit is replicated, against the share λ of one copy.

        The copies have the shares λ and 1 − λ of the unit's outgoing weights: for every λ the function is the
        same. Drawn is the lowest eigenvalue of the wide Hessian, measured. The mark says what the inertia law
        tells of its sign from the narrow point alone (theory §3, F19 Thm 5). Shaded is λ from 0 to 1. To see:
        whether and where a way down opens.

        Args:
            layer: hidden layer, from 0.
            unit: of that layer, from 0.
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib, for a unit that is not there, a point that is not critical, one
                at infinity or with weight decay, where the law does not hold, at a kink, and for more
                parameters than a dense Hessian is built for.

        >>> import semiflat as sf
        >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
        >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
        >>> ax = point.plot_shares(layer=0, unit=0)
        >>> ax.get_xlabel()
        'share λ of one copy'
        """
        from semiflat.plots.drawing import SIGNS, axes_for, size
        from semiflat.plots.shares import draw_shares, spread

        with axes_for(ax) as ax:
            self.problem.net.check_unit(layer, unit)
            self._check_law()
            shares, losses, lowest = along_shares(self.problem, self.params, layer, unit)
            inside, outside, edge = self._signs(layer, unit)
            sorts = [
                edge if share in (0, 1) else inside if 0 < share < 1 else outside
                for share in shares
            ]
            line = torch.tensor([float(share) for share in shares], dtype=torch.float64).numpy()
            draw_shares(ax, line, lowest.numpy(), sorts, SIGNS)
            ax.set_xlabel("share λ of one copy")
            ax.set_title(
                f"Two copies of unit {unit} of hidden layer {layer}: the loss is the same for every λ\n"
                f"(max − min = {size(spread(losses.numpy()))}). {_ways_down(inside, outside, edge)}",
                loc="left",
            )
            marks = [mark.legend() for sort, mark in SIGNS.items() if sort in sorts]
            ax.legend(handles=marks, frameon=False, fontsize=8.5)
        return ax

    def _noise(self, here: float) -> float:
        """What rounding may make of a change of the loss; where that is 0, of outputs of the targets' size."""
        zero = torch.zeros_like(self._start())
        scale = float(self.problem.risk(self.problem.net.unflatten(zero)))
        return NOISE * abs(here) + (NOISE**2 * scale if math.isfinite(scale) else 0.0)

    def _start(self) -> Tensor:
        return self.problem.net.flatten(self.params)

    def _direction(self, given: Any, start: Tensor, which: int = 0) -> tuple[Tensor, float]:
        """A direction of unit length (P,), and how far the point is that was given for it; else 0."""
        net, length = self.problem.net, 0.0
        if given is None:
            self._check_dense("the direction of lowest curvature is taken")
            spectrum = self.evidence.plain_spectrum
            vector = spectrum.vectors[:, min(which, spectrum.vectors.shape[1] - 1)]
        elif isinstance(given, Pictures):
            if given.problem.net != net:
                raise InputError(
                    f"the other point has widths {list(given.problem.net.widths)}, and this one "
                    f"{list(net.widths)}; a line joins points of one network"
                )
            vector = given._start() - start
            length = float(torch.linalg.vector_norm(vector))
        elif isinstance(given, dict):
            vector = net.flatten(given)
        else:
            try:
                vector = torch.as_tensor(given, dtype=torch.float64)
            except (TypeError, ValueError, RuntimeError):
                raise InputError(
                    "a direction must be a dict of parameters, a flat vector or a Point, not "
                    f"{type(given).__name__}"
                ) from None
        if vector.shape != start.shape:
            raise InputError(
                f"a direction must have shape {tuple(start.shape)}, flat, or be a dict of parameters; this "
                f"one has shape {tuple(vector.shape)}"
            )
        vector = vector.detach().to(start.dtype)
        norm = float(torch.linalg.vector_norm(vector))
        if not 0 < norm < float("inf"):
            raise InputError(
                "a direction must be finite and not 0"
                + ("; the other point is this one" if isinstance(given, Pictures) else "")
            )
        return vector / norm, length

    def _check_dense(self, what: str) -> None:
        count = self.problem.net.parameter_count
        if count > DENSE_LIMIT:
            raise InputError(
                f"{what} from the dense Hessian, up to {DENSE_LIMIT} parameters, and this network has "
                f"{count}; judge(point) needs less, and plot_line(direction) shows one direction"
            )

    def _check_law(self) -> None:
        self._check_dense("shares are drawn")
        if not self.problem.by_algebra:
            why = "with weight decay" if self.problem.decay else "at infinity"
            raise InputError(
                f"copies do not keep a point critical {why}, or not by the law that plot_shares draws; "
                "judge the embedded points one by one"
            )
        evidence = self.evidence
        if not evidence.critical:
            raise InputError(
                "the law of shares is one of critical points, and this is none (gradient "
                f"{evidence.gradient_norm:.1e}); polish it: find_critical_point(problem, start=point.params)"
            )
        if evidence.no_hessian:
            raise InputError(f"no curvatures to draw: {evidence.no_hessian}")

    def _signs(self, layer: int, unit: int) -> tuple[str, str, str]:
        """By the inertia law, for λ in (0, 1), outside of [0, 1], and 0 or 1: what lies below zero."""
        spectrum, known = self.evidence.spectrum, self.evidence.unit_evidence(layer, unit)

        def sort(of: Any, sign: int) -> str:
            if spectrum.clearest(-1) or of.clearest(sign):
                return "negative"
            # A value beyond its floor and not clearly so may be on either side.
            below = [each for each, s in ((spectrum, -1), (of, sign)) if _may_be(each, s)]
            return "unknown" if below else "flat"

        return sort(known.K, -1), sort(known.K, 1), sort(known.F, 0)


def _may_be(spectrum: Any, sign: int) -> bool:
    """Whether some value of that sign (0: any) is beyond its floor."""
    wanted = torch.ones_like(spectrum.hidden) if sign == 0 else sign * spectrum.values > 0
    return bool((~spectrum.hidden & wanted).any())


def _ways_down(inside: str, outside: str, edge: str) -> str:
    """What is to be seen along the line of shares."""
    if inside == outside == edge == "negative":
        return "A way down for every λ."
    ways = {
        (True, True): "A way down for every λ but 0 and 1.",
        (True, False): "A way down for λ between 0 and 1.",
        (False, True): "A way down for λ outside of 0 to 1.",
        (False, False): "No way down to be seen."
        if "unknown" in (inside, outside, edge)
        else "No way down to second order.",
    }
    return ways[inside == "negative", outside == "negative"]


def along_shares(
    problem: Problem, params: Params, layer: int, unit: int
) -> tuple[list[Fraction], Tensor, Tensor]:
    """Along the line of shares (λ, 1 − λ) of a unit: the shares, losses, and lowest eigenvalues."""
    wide = [Replicate(layer, unit, [share, 1 - share]).on(problem.net) for share in SHARES]
    widened = problem.widened(wide[0])
    batch = torch.stack(
        [widened.net.flatten(each.units.parameters(problem.net, params)) for each in wide]
    )
    risk, _, hessians = risk_gradient_hessian(widened, widened.net.unflatten(batch))
    return SHARES, risk, torch.linalg.eigvalsh(hessians)[:, 0]
