"""Draws the pictures of docs/embeddings.md: a small network before and after each embedding.

Run ``python docs/draw_embeddings.py`` (or ``make figures``); it writes ``docs/figures/*.svg``, the same
bytes every time with the same matplotlib. Nothing in a picture but its sentence is written by hand: an
embedding is applied to a small network, and lines, labels and colours are read off the parameters and
activations that come out, so that the pictures cannot say anything else than the code does.

How to read them. Layers run from left to right. A line is a weight: blue above 0, orange below 0, the
wider the larger, grey and dashed where it is exactly 0. A circle is a unit; green ones were added, grey
ones hand on the same value for every input. With one hidden layer a circle says which incoming weights
the unit has (u₁: those of narrow unit 1, w₂: its own), with two the narrow unit that it computes (∅:
none, it is constant). The tag on its right says which outgoing weights it has (ζ₁: those of narrow
unit 1, v₂: its own).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from pictures import write
from torch import Tensor

import semiflat as sf
from semiflat.networks import Params, bias_key, weight_key

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#9A9A9A", "#222222"
LIGHT_GREEN, LIGHT_GREY = "#D8F0E6", "#E4E4E4"

WIDTH = 7.2
"""Inches, as are all lengths here: one unit of the axes is an inch."""

RADIUS, ROW = 0.24, 0.64
"""Of a unit's circle, and from one unit to the next."""

LEFT, RIGHT = (0.4, 2.8), (3.85, 6.85)
"""Where the narrow and the wide network begin and end."""

VALUES = (0.9, -0.6, 0.7, 1.2, 0.3, 0.5, 1.0, -0.8, 0.6, -1.2, 0.8, 1.1)
"""The weights of the narrow networks, one after the other and over again."""

PROBES = torch.tensor(
    [[0.6, -0.2], [-0.5, 0.7], [0.1, 0.3], [-0.3, -0.6], [0.8, 0.4], [-0.7, 0.1]],
    dtype=torch.float64,
)
"""Inputs of norm below 1, on which units are compared."""


@dataclass(frozen=True)
class Picture:
    """One embedding to draw.

    Attributes:
        name: of the file, without ``.svg``.
        embedding: what is drawn.
        sentence: what to see.
        widths, activation: of the narrow network.
    """

    name: str
    embedding: sf.Embedding
    sentence: str
    widths: tuple[int, ...] = (2, 2, 1)
    activation: str = "tanh"

    @property
    def net(self) -> sf.MLP:
        """The narrow network."""
        return sf.MLP(self.widths, self.activation)


@dataclass(frozen=True)
class Unit:
    """A circle.

    Attributes:
        label: one or two lines in it.
        added: whether the narrow network does not have it.
        constant: whether it hands on the same value for every input.
        tag: what its outgoing weights are; empty for none.
    """

    label: str
    added: bool = False
    constant: bool = False
    tag: str = ""


@dataclass(frozen=True)
class Drawing:
    """A network taken apart: its units by layer, input and output included, and its weights."""

    units: list[list[Unit]]
    weights: list[Tensor] = field(repr=False)


def pictures() -> list[Picture]:
    """All pictures, in the order of the page.

    >>> import re
    >>> from pathlib import Path
    >>> page = (Path(__file__).parent / "embeddings.md").read_text(encoding="utf-8")
    >>> re.findall(r"figures/(.*)\\.svg", page) == [picture.name for picture in pictures()]
    True
    """
    deep = (2, 2, 2, 1)
    return [
        Picture(
            "replicate",
            sf.Replicate(layer=0, unit=1, weights=[0.3, 0.7]),
            "Both copies have the incoming weights u₁; λ₁ζ₁ + λ₂ζ₁ = ζ₁.",
        ),
        Picture(
            "replicate-outside",
            sf.Replicate(layer=0, unit=1, weights=[-0.5, 1.5]),
            "Shares below 0 and above 1 compute the same function.",
        ),
        Picture(
            "replicate-offsets",
            sf.Replicate(0, 1, [0.5, 0.5], offsets=[[0.9, -0.3], [-0.9, 0.3]]),
            "Free outgoing weights: v₁ + v₂ = ζ₁, neither a multiple of ζ₁.",
            widths=(2, 2, 2),
        ),
        Picture(
            "scaled-replicate",
            sf.ScaledReplicate(layer=0, unit=1, incoming=[2, 0.5], outgoing=[0.25, None]),
            "Copies βⱼu₁ with outgoing weights γⱼζ₁; γ₁β₁ + γ₂β₂ = 1.",
            activation="relu",
        ),
        Picture(
            "inactive-smooth",
            sf.InactiveUnits(layer=0, count=1, outgoing=[0.8]),
            "Incoming weights and bias are 0, so the unit is 0 for every input; v₂ is free.",
        ),
        Picture(
            "inactive-both",
            sf.InactiveUnits(layer=0, count=1),
            "Unit and propagation inactive: nothing leads in, nothing leads out.",
        ),
        Picture(
            "inactive-relu",
            sf.InactiveUnits(0, outgoing=[0.8], incoming=[[0.7, -0.9, -2.0]]),
            "The bias keeps u·x̃ < 0 on every sample; v₂ is free.",
            activation="relu",
        ),
        Picture(
            "inactive-propagation",
            sf.InactivePropagation(layer=0, incoming=[[0.7, -0.9, 0.5]]),
            "Nothing listens to the unit; w₂ is free.",
        ),
        Picture(
            "constant-units",
            sf.ConstantUnits(layer=0, biases=[0.5], outgoing=[[0.8]]),
            "What the unit hands on, σ(0.5)·0.8, the bias above takes away.",
            activation="sigmoid",
        ),
        Picture(
            "null-units",
            sf.NullUnits(layer=0, biases=[0.4]),
            "Nothing leads in, nothing leads out, any bias.",
        ),
        Picture(
            "compatible",
            sf.Compatible(
                [2, 3, 3, 1],
                [[0, 1, 1], [0, 1, 1]],
                alpha=[np.ones((3, 2)), [[1, 0.5, 0.5], [1, 1, 0], [1, 0, 1]], [[1, 0.5, 0.5]]],
            ),
            "Copies may feed each other unevenly: here each copy of unit 1 above hears one of those below.",
            widths=deep,
        ),
        Picture(
            "compatible-random",
            sf.Compatible.random(
                sf.MLP(deep), [2, 4, 3, 1], 6, index_map=[[0, 1, 1, None], [0, 1, 0]], scale=0.5
            ),
            "Any weights that meet the conditions, a null unit among them.",
            widths=deep,
        ),
        Picture(
            "global-split",
            sf.GlobalSplit(),
            "Three networks side by side; the output takes 1 + 1 − 1 of them.",
            widths=deep,
        ),
        Picture(
            "global-null",
            sf.GlobalNull(0.5),
            "As many null units as there are units, in every hidden layer.",
            widths=deep,
        ),
        Picture(
            "split",
            sf.Split(0, sources=[0, 1, 0, 1], shares=[0.25, 0.5, 0.75, 0.5], scales=[1, 1, 1, -1]),
            "Each unit of the layer copies some unit; tanh allows a mirrored copy.",
        ),
        Picture(
            "permute",
            sf.Permute(layer=0, order=[1, 0]),
            "The units change places.",
        ),
        Picture(
            "rescale",
            sf.Rescale(layer=0, unit=1, factor=2),
            "Incoming weights times 2, outgoing weights over 2.",
            activation="relu",
        ),
        Picture(
            "reflect",
            sf.Reflect(layer=0, unit=1),
            "Both sides change sign; σ(−z) = 1 − σ(z), so ζ₁ goes to the bias above.",
            activation="sigmoid",
        ),
        Picture(
            "composition",
            sf.Replicate(0, 1, [0.3, 0.7]) >> sf.Replicate(0, 1, [2, -1]) >> sf.NullUnits(0, [0.4]),
            "A copy of a copy, and a null unit: 0.3 of ζ₁ becomes 0.6 and −0.3 of it.",
        ),
    ]


def narrow_params(net: sf.MLP) -> Params:
    """The weights to start from."""
    flat = np.resize(np.array(VALUES), net.parameter_count)
    return net.unflatten(torch.from_numpy(flat))


def hidden_values(net: sf.MLP, params: Params) -> list[Tensor]:
    """What the hidden units hand on at the probes, (probes, units) for each layer."""
    h, found = PROBES, []
    for layer, activation in enumerate(net.activations):
        h = activation.function(h @ params[weight_key(layer)].mT + params[bias_key(layer)])
        found.append(h)
    return found


def narrow_drawing(net: sf.MLP, params: Params) -> Drawing:
    """The narrow network."""
    return _drawing(net, params, net, params)


def wide_drawing(picture: Picture) -> Drawing:
    """The wide network, as the library makes it, checked to compute the narrow one's outputs.

    >>> [(unit.label, unit.tag) for unit in wide_drawing(pictures()[0]).units[1]]
    [('u₀', 'ζ₀'), ('u₁', '0.3ζ₁'), ('u₁', '0.7ζ₁')]
    """
    net, params = picture.net, narrow_params(picture.net)
    wide, wide_params = picture.embedding.widen(net), picture.embedding.apply(net, params)
    torch.testing.assert_close(wide.forward(wide_params, PROBES), net.forward(params, PROBES))
    return _drawing(wide, wide_params, net, params)


def _drawing(wide: sf.MLP, wide_params: Params, net: sf.MLP, params: Params) -> Drawing:
    values, narrow_values = hidden_values(wide, wide_params), hidden_values(net, params)
    units = [[Unit(f"x{_low(k)}") for k in range(net.inputs)]]
    for layer, width in enumerate(wide.hidden):
        circles = []
        for unit in range(width):
            h, row = values[layer][:, unit], wide_params[weight_key(layer)][unit]
            constant = bool(torch.allclose(h, h[0].expand_as(h), atol=1e-12))
            if len(wide.hidden) > 1:
                source, _ = (-1, 0.0) if constant else _multiple(h, narrow_values[layer].mT)
                label = "∅" if constant else str(source)
            else:
                source, scale = _multiple(row, params[weight_key(0)])
                label = _times(scale, f"u{_low(source)}") if source >= 0 else f"w{_low(unit)}"
                label = label if row.any() else "0"
            if source < 0:
                label += f"\nb={_number(float(wide_params[bias_key(layer)][unit]))}"
            tag = ""
            if layer + 1 == len(wide.hidden):
                column, narrow = wide_params[weight_key(layer + 1)], params[weight_key(layer + 1)]
                _, share = _multiple(column[:, unit], narrow.mT[source : source + 1])
                tag = (
                    _times(share, f"ζ{_low(source)}") if source >= 0 and share else f"v{_low(unit)}"
                )
                tag = tag if column[:, unit].any() else "0"
            circles.append(Unit(label, unit >= net.hidden[layer], constant, tag))
        units.append(circles)
    shifts = wide_params[bias_key(wide.depth - 1)] - params[bias_key(net.depth - 1)]
    outputs = []
    for k, shift in enumerate(shifts.tolist()):
        name = "f" if net.outputs == 1 else f"f{_low(k)}"
        outputs.append(Unit(name if abs(shift) < 1e-12 else f"{name}\nb{_number(shift, '+')}"))
    return Drawing([*units, outputs], [wide_params[weight_key(k)] for k in range(wide.depth)])


def _multiple(vector: Tensor, rows: Tensor) -> tuple[int, float]:
    """The first of some rows that a vector is a multiple of, and which; (−1, 0) if none."""
    for k, row in enumerate(rows):
        factor = float(vector @ row / (row @ row))
        if factor and torch.allclose(vector, factor * row, atol=1e-12):
            return k, factor
    return -1, 0.0


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.2g}".replace("-", "−")


def _times(factor: float, name: str) -> str:
    shown = _number(factor)
    return {"1": "", "−1": "−"}.get(shown, shown) + name


def _low(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def draw(picture: Picture) -> Figure:
    """The picture: the narrow network, an arrow, the wide network, and what the signs mean."""
    before = narrow_drawing(picture.net, narrow_params(picture.net))
    after = wide_drawing(picture)
    most = max(len(layer) for layer in after.units)
    height = most * ROW + 1.25
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    axes.text(0.15, height - 0.2, picture.sentence, fontsize=10, va="center", color=INK)
    middle = 0.55 + most * ROW / 2
    _network(axes, before, LEFT, middle)
    _network(axes, after, RIGHT, middle)
    axes.add_patch(
        FancyArrowPatch(
            (3.12, middle), (3.52, middle), color=INK, arrowstyle="->", mutation_scale=16
        )
    )
    for text, (start, end), net in (
        ("before", LEFT, picture.net),
        ("after", RIGHT, picture.embedding.widen(picture.net)),
    ):
        words = f"{text}: {'-'.join(map(str, net.widths))}, {picture.activation}"
        axes.text((start + end) / 2, height - 0.5, words, fontsize=9, ha="center", color="#555555")
    _legend(axes)
    return figure


def _network(axes: Axes, drawing: Drawing, span: tuple[float, float], middle: float) -> None:
    start, end = span
    gaps = np.array([1.0] * (len(drawing.weights) - 1) + [1.35])  # the last one has the tags
    across = start + (end - start) * np.cumsum([0, *gaps]) / gaps.sum()
    places = [
        [(x, middle + ROW * ((len(layer) - 1) / 2 - k)) for k in range(len(layer))]
        for x, layer in zip(across, drawing.units, strict=True)
    ]
    blank: list[tuple[float, float]] = []
    for layer, weight in enumerate(drawing.weights):
        for above, row in enumerate(weight.tolist()):
            for below, value in enumerate(row):
                line = [places[layer][below], places[layer + 1][above]]
                if value == 0:
                    blank += [*line, (np.nan, np.nan)]
                else:
                    _weight(axes, line, value)
    if blank:
        faint = 0.5 if len(blank) > 36 else 0.9
        axes.plot(*zip(*blank, strict=True), color=GREY, lw=faint, ls=(0, (3, 3)), zorder=1)
    for circles, where, following in zip(
        drawing.units, places, [*places[1:], places[-1]], strict=True
    ):
        for unit, (x, y) in zip(circles, where, strict=True):
            _unit(axes, unit, x, y)
            if unit.tag:
                _tag(axes, unit, (x, y), following)


def _weight(axes: Axes, line: list[tuple[float, float]], value: float) -> None:
    width, color = 0.5 + 1.6 * min(abs(value), 2.5), BLUE if value > 0 else ORANGE
    axes.plot(*zip(*line, strict=True), color=color, lw=width, zorder=2, solid_capstyle="butt")


def _unit(axes: Axes, unit: Unit, x: float, y: float) -> None:
    fill = LIGHT_GREY if unit.constant else LIGHT_GREEN if unit.added else "white"
    edge, width = (GREEN, 2.0) if unit.added else (INK, 1.0)
    axes.add_patch(Circle((x, y), RADIUS, facecolor=fill, edgecolor=edge, lw=width, zorder=3))
    longest = max(map(len, unit.label.splitlines()))
    size = 7.5 if longest > 5 else 8.5 if "\n" in unit.label or longest > 4 else 9.5
    axes.text(
        x,
        y,
        unit.label,
        fontsize=size,
        ha="center",
        va="center",
        color=INK,
        zorder=4,
        linespacing=1,
    )


def _tag(
    axes: Axes, unit: Unit, start: tuple[float, float], ends: Sequence[tuple[float, float]]
) -> None:
    to_x, to_y = np.mean(ends, axis=0)
    part = 0.5 if len(ends) == 1 else 0.42
    x, y = start[0] + part * (to_x - start[0]), start[1] + part * (to_y - start[1])
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(x, y, unit.tag, fontsize=9.5, ha="center", va="center", color=INK, bbox=box, zorder=5)


def _legend(axes: Axes) -> None:
    y, x = 0.2, 0.2
    for text, color, dashed in (
        ("weight > 0", BLUE, False),
        ("weight < 0", ORANGE, False),
        ("weight = 0", GREY, True),
    ):
        ls = (0, (3, 3)) if dashed else "solid"
        axes.plot((x, x + 0.3), (y, y), color=color, lw=1 if dashed else 2.2, ls=ls)
        axes.text(x + 0.38, y, text, fontsize=8.5, va="center", color=INK)
        x += 1.32
    for text, fill, edge, width in (
        ("added unit", LIGHT_GREEN, GREEN, 2.0),
        ("constant on the inputs", LIGHT_GREY, INK, 1.0),
    ):
        axes.add_patch(Circle((x + 0.1, y), 0.09, facecolor=fill, edgecolor=edge, lw=width))
        axes.text(x + 0.27, y, text, fontsize=8.5, va="center", color=INK)
        x += 1.3


if __name__ == "__main__":
    write({picture.name: partial(draw, picture) for picture in pictures()})
