"""Atoms, one for each place along an axis that a layer writes, and which of them can only be changed together.

Every tensor of a model is followed by its *labels*: an integer tensor of its shape that names the atom of each
element. So axes are followed by position, through whatever is done to them, and never by size. Axes along which
labels do not change are kept expanded, of stride 0; so labels cost little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

FIXED = -1
"""Label of what no unit owns: an input, a constant whose elements differ."""
UNIFORM = -2
"""Label of a constant that is the same everywhere: what is padded, zeros, ones."""


def slim(labels: Tensor) -> Tensor:
    """Labels with every axis along which they are expanded cut to one place.

    >>> tuple(slim(torch.arange(3)[:, None].expand(3, 5)).shape)
    (3, 1)
    """
    cut = [
        slice(0, 1) if size > 1 and stride == 0 else slice(None)
        for size, stride in zip(labels.shape, labels.stride(), strict=True)
    ]
    return labels[tuple(cut)]


def filled(label: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """One label for all elements of a shape."""
    return torch.tensor(label).expand(shape)


@dataclass
class Mark:
    """What happens to some atoms at an operation.

    Attributes:
        what: ``"forbids"``, ``"layer norm"``, ``"rms norm"``, ``"attends"``, ``"gated"``, ``"joined"``,
            ``"block"``.
        where: the operation and its module, in words.
        why: for ``"forbids"``, the reason.
        atoms: which, each once.
        node: name of the operation in the graph.
        lanes: of an operation along an axis, the labels that it takes together, (lanes, places).
    """

    what: str
    where: str
    why: str
    atoms: Tensor
    node: str
    lanes: Tensor | None = None


@dataclass
class Ties:
    """Which atoms are tied, what was marked on them, and with which constants they meet.

    Attributes:
        marks: in the order of the operations.
    """

    marks: list[Mark] = field(default_factory=list)
    _count: int = 0
    _edges: list[Tensor] = field(default_factory=list)
    _standing: Tensor | None = None
    _met: list[tuple[Tensor, Tensor, str]] = field(default_factory=list)

    def fresh(self, *shape: int) -> Tensor:
        """New atoms, one for each element."""
        start = self._count
        self._count += torch.Size(shape).numel()
        self._standing = None
        return torch.arange(start, self._count).view(shape)

    @property
    def standing(self) -> Tensor:
        """For each atom the first of all that are tied to it, which stands for them."""
        if self._standing is None:
            edges = torch.cat([torch.empty(0, 2, dtype=torch.long), *self._edges])
            self._edges = [edges]
            ones = torch.ones(len(edges), dtype=torch.int8).numpy()
            size = self._count
            graph = coo_array((ones, (edges[:, 0].numpy(), edges[:, 1].numpy())), (size, size))
            part = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
            first = torch.full((size,), size).scatter_reduce(0, part, torch.arange(size), "amin")
            self._standing = first[part]
        return self._standing

    def roots(self, labels: Tensor) -> Tensor:
        """The atom that stands for each element's; labels below 0 stay."""
        thin = slim(labels)
        if not self._count:
            return labels
        found = torch.where(thin >= 0, self.standing[thin.clamp(min=0)], thin)
        return found.expand(labels.shape)

    def tie(self, one: Tensor, other: Tensor) -> Tensor:
        """Tie what meets, element by element, after broadcasting; the atoms that were not the same before."""
        pairs = pairs_of(one, other)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        if len(pairs):
            self._edges.append(pairs)
            self._standing = None
        return pairs[:, 0]

    def along(self, labels: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Tie everything along some axes; the labels with those axes cut to one place, kept."""
        thin = slim(labels)
        for axis in axes:
            if thin.shape[axis] > 1:
                # What stands for the axis is any unit there; a constant only where there is none.
                highest = thin.amax(axis, keepdim=True)
                self.tie(highest, thin)
                thin = highest
        return thin

    def meets(self, labels: Tensor, shape: torch.Size, salt: int, where: str) -> None:
        """Record which elements of a constant of given shape the atoms are combined with, after broadcasting.

        Units can take each other's place only if they meet the same ones.
        """
        thin = slim(labels)
        sizes = [1] * (thin.ndim - len(shape)) + list(shape)
        thin = thin.view([1] * (len(sizes) - thin.ndim) + list(thin.shape))
        varies = [n > 1 and s > 1 for n, s in zip(thin.shape, sizes, strict=True)]
        if not any(varies):
            return  # every unit meets all of it
        numbers = torch.arange(torch.Size(sizes).numel()).view(sizes)
        hashed = (numbers + 1 + salt * 1_000_003) * 0x5851F42D4C957F2D
        hashed = hashed ^ (hashed >> 29)
        over = tuple(axis for axis, yes in enumerate(varies) if not yes)
        met = hashed.sum(over, keepdim=True) if over else hashed
        atoms, sums = torch.broadcast_tensors(thin, met)
        owned = atoms >= 0
        self._met.append((atoms[owned], sums[owned], where))

    def met(self) -> Tensor:
        """For each atom a number for the constants that it meets; 0 for none."""
        total = torch.zeros(self._count, dtype=torch.long)
        for atoms, sums, _ in self._met:
            total.index_add_(0, atoms, sums)
        return total

    def met_at(self, atoms: Tensor) -> str:
        """Where one of some atoms first meets a constant."""
        return next(where for which, _, where in self._met if bool(torch.isin(which, atoms).any()))

    def mark(
        self,
        what: str,
        labels: Tensor,
        where: str,
        node: str,
        why: str = "",
        lanes: Tensor | None = None,
    ) -> None:
        """Mark the atoms among some labels."""
        atoms = slim(labels).reshape(-1).unique()
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.marks.append(Mark(what, where, why, atoms, node, lanes))

    def apart(self, lanes: Tensor, units: Tensor) -> bool:
        """Whether each lane holds places of one of some units alone, and there are lanes of several."""
        owners = self.roots(lanes)
        theirs = owners[torch.isin(owners, units).any(1)]
        return bool((theirs == theirs[:, :1]).all()) and len(theirs[:, 0].unique()) > 1

    def __len__(self) -> int:
        """How many atoms there are."""
        return self._count


def pairs_of(one: Tensor, other: Tensor) -> Tensor:
    """The atoms that meet, element by element, after broadcasting: each pair once, (pairs, 2).

    >>> pairs_of(torch.tensor([[3], [4]]), torch.tensor([5, -1])).tolist()
    [[3, 5], [4, 5]]
    """
    a, b = torch.broadcast_tensors(slim(one), slim(other))
    both = (a >= 0) & (b >= 0)
    coded = ((a[both] << 31) + b[both]).unique()
    return torch.stack([coded >> 31, coded & ((1 << 31) - 1)], 1)
