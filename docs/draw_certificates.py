"""Draws the picture of docs/certificates.md: one proof, in the plane of a network's two parameters.

Run ``python docs/draw_certificates.py`` (or ``make figures``); it writes ``docs/figures/krawczyk.svg``. All
that is drawn is computed: the box, the image and the row sums by the checker's own functions, in balls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from draw_embeddings import BLUE, INK, ORANGE
from flint import arb, arb_mat
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from numpy.typing import NDArray
from pictures import write

from semiflat.certificates.checker.balls import Network, hessian, risk_gradient
from semiflat.certificates.checker.inertia import congruent_signs

Array = NDArray[np.float64]

INPUTS = [-3.0, -1.0, -0.25, 0.25, 1.0, 3.0]
TARGETS = [-3.96875, -3.0625, -0.84375, 1.0, 2.9375, 4.0625]
NET = Network(
    [1, 1, 1],
    ["tanh"],
    [False, False],
    "squared",
    0.0,
    [[x] for x in INPUTS],
    [[y] for y in TARGETS],
)
"""f(x) = v tanh(w x): two parameters, θ = (w, v)."""

CENTRE = (0.9453125, 4.0546875)
"""Near the minimum, but so far from it that the picture shows it."""

RADIUS = 0.012
"""ρ."""

SHADE, PALE = "#DCE9F5", "#BBBBBB"


@dataclass(frozen=True)
class Proof:
    """What is drawn, by balls.

    Attributes:
        centre: c.
        Q: with QᵀH(c)Q ≈ I.
        radius: ρ.
    """

    centre: tuple[float, float]
    Q: Array
    radius: float

    @cached_property
    def reach(self) -> Array:
        """Half the sides of the box X around c + Q[−ρ, ρ]²."""
        return self.radius * np.abs(self.Q).sum(1)

    @cached_property
    def row_sums(self) -> Array:
        """Of |QᵀH(X)Q − I|, upper bounds."""
        box = [arb(c, r) for c, r in zip(self.centre, self.reach.tolist(), strict=True)]
        B, signs, _ = congruent_signs(hessian(NET, box), arb_mat(self.Q.tolist()))
        assert signs == [1, 1]
        rows = [[B[i, j] - int(i == j) for j in range(2)] for i in range(2)]
        return np.array([float(sum((abs(b) for b in row), arb(0)).upper()) for row in rows])

    @cached_property
    def step(self) -> Array:
        """−Qᵀ∇R(c), the Newton step in the coordinates u."""
        gradient = risk_gradient(NET, [arb(c) for c in self.centre])[1]
        slope = arb_mat(self.Q.T.tolist()) * arb_mat([[entry] for entry in gradient])
        return np.array([-float(entry) for entry in slope.entries()])

    @property
    def square(self) -> Array:
        """Lower and upper ends of [−ρ, ρ]²."""
        return np.array([[-self.radius, self.radius]] * 2)

    @property
    def image(self) -> Array:
        """Lower and upper ends of the box that holds Krawczyk's image of [−ρ, ρ]²."""
        around = self.row_sums * self.radius
        return np.stack([self.step - around, self.step + around], 1)

    def theta(self, u: Array) -> Array:
        """Coordinates u, (…, 2), as parameters."""
        found: Array = np.asarray(self.centre) + u @ self.Q.T
        return found


def proof() -> Proof:
    """The proof that is drawn.

    >>> found = proof()
    >>> bool((np.abs(found.image) < found.radius).all())          # into the interior: it is one
    True
    """
    H = np.array(
        [[float(h) for h in row] for row in hessian(NET, [arb(c) for c in CENTRE]).tolist()]
    )
    values, vectors = np.linalg.eigh(H)
    return Proof(CENTRE, vectors / np.sqrt(values), RADIUS)


def slopes(theta: Array) -> Array:
    """∇R at parameters (n, 2), in float64."""
    x, y = np.array(INPUTS), np.array(TARGETS)
    w, v = theta[:, :1], theta[:, 1:]
    h = np.tanh(w * x)
    error = v * h - y
    return np.stack([(error * v * (1 - h * h) * x).mean(1), (error * h).mean(1)], 1)


def risk(w: Array, v: Array) -> Array:
    """R on a grid, in float64."""
    x, y = np.array(INPUTS), np.array(TARGETS)
    found: Array = ((v[..., None] * np.tanh(w[..., None] * x) - y) ** 2).mean(-1) / 2
    return found


def minimum(start: Array) -> Array:
    """The critical point, by Krawczyk's map itself: it is a contraction."""
    at, found = start, proof()
    for _ in range(100):
        at = at - slopes(at[None])[0] @ found.Q @ found.Q.T
    return at


def draw() -> Figure:
    """The picture: the plane of the parameters, and the coordinates in which the proof is made."""
    found = proof()
    figure = Figure(figsize=(7.2, 3.9), facecolor="white")
    FigureCanvasAgg(figure)
    left = figure.add_axes((0.085, 0.13, 0.47, 0.78))
    right = figure.add_axes((0.655, 0.13, 0.335, 0.78))
    _parameters(left, found)
    _coordinates(right, found)
    for axes in (left, right):
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


def _parameters(axes: Axes, found: Proof) -> None:
    centre = np.array(found.centre)
    wide = 1.25 * found.reach
    w, v = np.meshgrid(*(np.linspace(c - r, c + r, 201) for c, r in zip(centre, wide, strict=True)))
    levels = np.quantile(risk(w, v), [0.02, 0.08, 0.18, 0.32, 0.5, 0.7, 0.9])
    axes.contour(w, v, risk(w, v), levels=levels, colors=PALE, linewidths=0.6, zorder=1)
    axes.add_patch(
        Rectangle(
            tuple(centre - found.reach),
            *(2 * found.reach),
            fill=False,
            edgecolor=INK,
            lw=1.2,
            ls=(0, (5, 3)),
            zorder=2,
        )
    )
    axes.add_patch(
        Polygon(found.theta(_corners(found.square)), fill=False, edgecolor=INK, lw=1.6, zorder=3)
    )
    axes.add_patch(
        Polygon(
            found.theta(_corners(found.image)), facecolor=SHADE, edgecolor=BLUE, lw=1.4, zorder=4
        )
    )
    _points(axes, centre, minimum(centre))
    right, up = found.reach
    _label(axes, (centre[0] + 0.97 * right, centre[1] + 0.91 * up), "X", "right")
    w, v = found.theta(found.radius * np.array([-0.42, -1.0]))
    _label(axes, (w + 0.07 * right, v), "c + Q[−ρ, ρ]²", "left")
    _label(axes, (centre[0] + 0.05 * right, centre[1] + 0.11 * up), "c", "left")
    w, v = found.theta(np.array([found.image[0].mean(), found.image[1, 1]]))
    _pointed(axes, "image", (w, v), (w - 0.62 * right, v - 0.3 * up))
    axes.set_xlim(centre[0] - wide[0], centre[0] + wide[0])
    axes.set_ylim(centre[1] - wide[1], centre[1] + wide[1])
    axes.set_xlabel("incoming weight w", fontsize=9, color=INK)
    axes.set_ylabel("outgoing weight v", fontsize=9, color=INK)
    axes.set_title("the parameters θ = (w, v)", fontsize=9.5, color=INK)


def _coordinates(axes: Axes, found: Proof) -> None:
    rho = found.radius
    axes.add_patch(Polygon(_corners(found.square), fill=False, edgecolor=INK, lw=1.6))
    axes.add_patch(Polygon(_corners(found.image), facecolor=SHADE, edgecolor=BLUE, lw=1.4))
    at = np.linalg.solve(found.Q, minimum(np.array(found.centre)) - found.centre)
    _points(axes, np.zeros(2), at)
    (low1, high1), (low2, _) = found.image
    below = low2 - 0.18 * rho
    axes.annotate(
        "",
        (low1, below),
        (high1, below),
        arrowprops={"arrowstyle": "<->", "color": INK, "lw": 0.8, "shrinkA": 0, "shrinkB": 0},
    )
    _label(axes, ((low1 + high1) / 2, below - 0.14 * rho), "2 ε₁ρ", "center")
    _label(axes, (-0.94 * rho, 0.85 * rho), "[−ρ, ρ]²", "left")
    _label(axes, (low1, found.image[1][1] + 0.1 * rho), "image", "left")
    _label(axes, (-0.1 * rho, -0.02 * rho), "c", "right")
    _pointed(axes, "critical point", at, (0.5 * rho, 0.72 * rho))
    axes.set_xlim(-1.25 * rho, 1.25 * rho)
    axes.set_ylim(-1.25 * rho, 1.25 * rho)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([-rho, 0, rho], ["−ρ", "0", "ρ"])
    axes.set_xlabel("u₁", fontsize=9, color=INK)
    axes.set_ylabel("u₂", fontsize=9, color=INK, labelpad=-2)
    axes.set_title("the coordinates u, θ = c + Qu", fontsize=9.5, color=INK)


def _points(axes: Axes, centre: Array, critical: Array) -> None:
    axes.plot(*centre, "+", color=INK, ms=8, mew=1.4, zorder=6)
    axes.plot(*critical, "o", color=ORANGE, ms=5, zorder=6)


def _pointed(axes: Axes, text: str, to: Sequence[float] | Array, at: tuple[float, float]) -> None:
    line = {"arrowstyle": "-", "color": INK, "lw": 0.7, "shrinkA": 0, "shrinkB": 2}
    axes.annotate(text, to, at, fontsize=9, ha="center", color=INK, zorder=7, arrowprops=line)


def _label(axes: Axes, at: Sequence[float] | Array, text: str, align: str) -> None:
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    axes.text(*at, text, fontsize=9, ha=align, va="center", color=INK, bbox=box, zorder=7)


def _corners(sides: Array) -> Array:
    (low1, high1), (low2, high2) = sides
    return np.array([[low1, low2], [high1, low2], [high1, high2], [low1, high2]])


if __name__ == "__main__":
    write({"krawczyk": draw})
