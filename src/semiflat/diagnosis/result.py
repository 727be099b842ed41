"""What a diagnosis holds, as data, as a page of a notebook and as a figure."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from semiflat.diagnosis.advice import advice
from semiflat.diagnosis.curvature import NegativeCurvature
from semiflat.diagnosis.gradient import LayerGradient
from semiflat.diagnosis.polish import Polished
from semiflat.diagnosis.sentences import sentences
from semiflat.diagnosis.way_out import WayOut
from semiflat.points import Point
from semiflat.records.shown import Shown
from semiflat.verdicts import Verdict


@dataclass(frozen=True, kw_only=True)
class Diagnosis(Shown):
    """What a point is, what is near it, and what to do.

    Attributes:
        point: the point, an embedded one with its parameters built.
        verdict: on the point itself, as :func:`judge` gives it.
        gradient: of each linear layer.
        steep: whether some entry of the gradient is more than tolerance and rounding allow.
        curvature: the surely negative curvature; None if there is none that is sure, or no Hessian.
        no_hessian: why the loss has no second derivative here; ``""`` if it has one.
        dense: whether Hessians were built.
        polished: where polishing leads.
        widths: ``(tolerance, hidden widths, bound)``, as :func:`widths_by_tolerance` has them; none for
            layers of more than 1,000 units.
        way_out: what one unit more opens at the minimum that the point is, or that polishing leads to.
        why_no_way_out: why it was not looked for at one; else ``""``.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> found = sf.diagnose(sf.find_critical_point(problem, starts=8))
    >>> print(found)
    widths 1-1-1, 5 samples, loss ...
      gradient: ...
      curvature: no eigenvalue of the 4 is surely negative
      polishing leads nowhere else: the point is critical already, a strict minimum (measured)
      flat: no direction is known along which the loss is constant
      width: 1 hidden unit, and no fewer while outputs may change by up to 10 % of their spread
      one unit more: NullUnits(layer=0, biases=[0]) opens a way down ...
      advice: Training is done: this is a strict minimum. One unit more, ...
    >>> found.to_json()["polished"]["goal"]
    'HERE'
    """

    point: Point
    verdict: Verdict
    gradient: tuple[LayerGradient, ...]
    steep: bool
    curvature: NegativeCurvature | None
    no_hessian: str
    dense: bool
    polished: Polished
    widths: tuple[tuple[float, tuple[int, ...], float], ...]
    way_out: WayOut | None
    why_no_way_out: str = ""

    @cached_property
    def sections(self) -> dict[str, str]:
        """A sentence for each thing that was looked at, by its name."""
        return sentences(self)

    @cached_property
    def advice(self) -> str:
        """What to do: one piece of advice."""
        return advice(self)

    def __str__(self) -> str:
        lines = [self.sections["point"]]
        lines += [f"  {text}" for name, text in self.sections.items() if name != "point"]
        return "\n".join([*lines, f"  advice: {self.advice}"])

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.point.problem.net.widths))
        return f"Diagnosis(widths={widths}, loss={self.point.loss:.6g}, polishing={self.polished.goal})"

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [*self.sections.items(), ("advice", self.advice)]
        cells = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text.removeprefix(f'{name}: '))}</td></tr>"
            for name, text in rows
        )
        return f"<table>{''.join(cells)}</table>"

    def to_json(self) -> dict[str, Any]:
        """Everything but parameters and directions, as plain data; what is not finite as None."""
        curvature, polished, out = self.curvature, self.polished, self.way_out
        plain: dict[str, Any] = _plain(
            {
                "widths": list(self.point.problem.net.widths),
                "samples": self.point.problem.samples,
                "loss": self.point.loss,
                "gradient_norm": self.point.gradient_norm,
                "verdict": self.verdict.to_json(),
                "gradient": [vars(each) for each in self.gradient],
                "curvature": curvature
                and {key: part for key, part in vars(curvature).items() if key != "direction"},
                "no_hessian": self.no_hessian,
                "dense": self.dense,
                "polished": {
                    "goal": str(polished.goal),
                    "loss": polished.loss,
                    "parameters": polished.parameters,
                    "outputs": polished.outputs,
                    "steps": polished.steps,
                    "reason": polished.reason,
                    "verdict": None if polished.verdict is None else polished.verdict.to_json(),
                },
                "effective_widths": [
                    {"tolerance": tolerance, "hidden": list(hidden), "bound": bound}
                    for tolerance, hidden, bound in self.widths
                ],
                "way_out": out
                and {
                    "escape": out.escape.to_json(),
                    "step": out.step,
                    "drop": out.drop,
                    "reached": out.reached,
                    "status": out.status and str(out.status),
                },
                "why_no_way_out": self.why_no_way_out,
                "sections": self.sections,
                "advice": self.advice,
            }
        )
        return plain

    def plot(self) -> Any:
        """A figure of three parts, a ``matplotlib.figure.Figure``.

        What each layer has of the gradient; the loss along the direction of the lowest negative curvature;
        and the loss on the straight line to where polishing leads. Needs matplotlib.

        Raises:
            InputError: without matplotlib.
        """
        from semiflat.diagnosis.figure import drawn

        return drawn(self)


def _plain(value: Any) -> Any:
    """Plain data without numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
