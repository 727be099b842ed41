"""Draws the pictures of docs/modules.md: the tensors of a layer before and after one of its units is copied.

Run ``python docs/draw_modules.py`` (or ``make figures``). Nothing is drawn by hand: ``sf.units`` says where
the units lie, ``sf.widen`` makes the wide model, and its tensors are drawn.

How to read them. A square is a number: blue above 0, orange below 0, the darker the larger. Tensors that make a
unit have it as rows, tensors that read it as columns. The unit that is copied and its copy have a green frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pictures import write
from torch import Tensor, nn

import semiflat as sf
from semiflat.modules.surgery import new_places

BLUE, ORANGE, GREEN, INK = "#0072B2", "#D55E00", "#009E73", "#222222"
COLOURS = LinearSegmentedColormap.from_list("weights", [ORANGE, "#ffffff", BLUE])
SQUARE, TITLE = 0.13, 0.42
"""Inches: of a number, and from the tensors up to the title."""
SHARES = (0.25, 0.75)


class Attention(nn.Module):
    """Two heads of size 2."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = 2, nn.Linear(3, 12), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, 3) to the same."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """Three gated units."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2) to the same."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Residual(nn.Module):
    """A stream of two channels that one block adds to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = (
            nn.Conv2d(1, 2, 1),
            nn.Conv2d(2, 2, 1),
            nn.Conv2d(2, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, height, width) to the same."""
        x = self.stem(x)
        return self.head(x + F.relu(self.block(x)))


@dataclass(frozen=True)
class Picture:
    """One layer to draw: name of the file, how the model is made, an example of its inputs, group, sentence."""

    name: str
    make: Callable[[], nn.Module]
    example: Tensor
    group: str
    sentence: str


PICTURES = (
    Picture(
        "modules-linear",
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)),
        torch.ones(1, 2),
        "0",
        "A linear unit is a row that writes it, a bias and a column that reads it",
    ),
    Picture(
        "modules-channel",
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
        ),
        torch.ones(1, 1, 3, 3),
        "0",
        "A channel has its filter, its norm with the statistics, and a column for each place after flattening",
    ),
    Picture(
        "modules-head",
        Attention,
        torch.ones(1, 2, 3),
        "qkv",
        "A head has rows for its query, key and value, and the columns that read it",
    ),
    Picture(
        "modules-gated", Gated, torch.ones(1, 2), "gate", "A gated unit has a row in both factors"
    ),
    Picture(
        "modules-stream",
        Residual,
        torch.ones(1, 1, 2, 2),
        "stem",
        "A channel of a stream is written by all that add to it, and read by all that follow",
    ),
)


def flat(tensor: Tensor, slot: sf.Slot) -> Tensor:
    """A tensor as a matrix, with the units along rows, or along columns if it reads them."""
    matrix = tensor.detach().movedim(slot.axis, 0).reshape(tensor.shape[slot.axis], -1)
    return matrix.T if slot.role == "reads" else matrix


def draw_tensor(
    ax: Axes, matrix: Tensor, slot: sf.Slot, framed: Tensor, corner: tuple[float, float]
) -> None:
    """One matrix, with frames round some places along the units' axis; its upper left corner is given."""
    (left, top), (rows, columns), size = corner, matrix.shape, float(matrix.abs().max())
    for row in range(rows):
        for column in range(columns):
            colour = COLOURS(0.5 + 0.42 * float(matrix[row, column]) / size)
            at = (left + column * SQUARE, top - (row + 1) * SQUARE)
            ax.add_patch(
                Rectangle(at, SQUARE, SQUARE, facecolor=colour, edgecolor="#cccccc", lw=0.4)
            )
    for place in framed.flatten().tolist():
        if slot.role == "reads":
            at, wide, high = (left + place * SQUARE, top - rows * SQUARE), SQUARE, rows * SQUARE
        else:
            at, wide, high = (left, top - (place + 1) * SQUARE), columns * SQUARE, SQUARE
        ax.add_patch(Rectangle(at, wide, high, fill=False, edgecolor=GREEN, lw=1.3, zorder=3))


def draw(picture: Picture) -> Figure:
    """The tensors of a group, before above and after below."""
    torch.manual_seed(1)
    model = picture.make().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.2, 1.0).mul_(torch.randint(0, 2, tensor.shape) * 2.0 - 1)
    for name, tensor in model.named_buffers():
        if name.endswith("var"):
            tensor.data.abs_()
    group = sf.units(model, picture.example)[picture.group]
    wide = sf.widen(model, picture.example, picture.group, copies={0: SHARES})
    before, after = (
        {**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (model, wide.model)
    )
    slots = {(slot.name, slot.axis): slot for slot in group.slots}.values()
    matrices = {
        slot: [flat(tensors[slot.name], slot) for tensors in (before, after)] for slot in slots
    }
    high = [max(pair[row].shape[0] for pair in matrices.values()) * SQUARE for row in (0, 1)]
    below = -high[0] - 0.35
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    left = 0.1
    for slot, (narrow, broad) in matrices.items():
        length = before[slot.name].shape[slot.axis]
        copies = new_places(slot, length, group.size + 1, [0, group.size])
        draw_tensor(ax, narrow, slot, slot.positions[0], (left, 0))
        draw_tensor(ax, broad, slot, copies, (left, below))
        ax.text(left, 0.08, slot.name, fontsize=6.5, color=INK)
        ax.text(left, below + 0.08, slot.role, fontsize=6.5, color=GREEN)
        left += max(broad.shape[1] * SQUARE, 0.06 * len(slot.name)) + 0.25
    bottom = below - high[1] - 0.25
    shares = " and ".join(f"{share:g}" for share in SHARES)
    words = f"Below, unit 0 is there twice, read with shares {shares}."
    words += f" The outputs change by {wide.output_change:.0e}."
    ax.text(0.1, TITLE, picture.sentence + ".", fontsize=8, color=INK)
    ax.text(0.1, bottom, words, fontsize=7, color=INK)
    right = max(left, 5.6)
    ax.set(xlim=(0, right), ylim=(bottom - 0.12, TITLE + 0.22))
    figure.set_size_inches(right, TITLE + 0.34 - bottom)
    ax.axis("off")
    return figure


if __name__ == "__main__":
    write({picture.name: partial(draw, picture) for picture in PICTURES})
