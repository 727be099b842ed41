"""Atoms, one for each place along an axis that a layer writes, and which of them can only be changed together.

Every tensor of a model is followed by its *labels*: an integer tensor of its shape that names the atom of each
element. So axes are followed by position, through whatever is done to them, and never by size. Axes along which
labels do not change are kept expanded, of stride 0; so labels cost little.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
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
    """

    what: str
    where: str
    why: str
    atoms: Tensor
    node: str


@dataclass
class Ties:
    """A union–find of atoms, what was marked on them, and with which constants they meet.

    Attributes:
        marks: in the order of the operations.
    """

    marks: list[Mark] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)
    _meets: dict[int, int] = field(default_factory=dict)
    _met_at: dict[int, str] = field(default_factory=dict)

    def fresh(self, *shape: int) -> Tensor:
        """New atoms, one for each element."""
        count = 1
        for size in shape:
            count *= size
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count).view(shape)

    def find(self, atom: int) -> int:
        """The atom that stands for all that are tied to this one."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def roots(self, labels: Tensor) -> Tensor:
        """The atom that stands for each element's; labels below 0 stay."""
        thin = slim(labels)
        atoms, places = thin.reshape(-1).unique(return_inverse=True)
        found = [self.find(int(atom)) if atom >= 0 else int(atom) for atom in atoms.tolist()]
        return torch.tensor(found, dtype=torch.long)[places].view(thin.shape).expand(labels.shape)

    def tie(self, one: Tensor, other: Tensor) -> Tensor:
        """Tie what meets, element by element, after broadcasting; the atoms that were apart until now."""
        a, b = torch.broadcast_tensors(slim(one), slim(other))
        both = (a >= 0) & (b >= 0)
        pairs = torch.stack([a[both], b[both]], 1).unique(dim=0)
        apart = []
        for x, y in pairs.tolist():
            first, second = self.find(x), self.find(y)
            if first != second:
                self._parent[max(first, second)] = min(first, second)
                apart.append(x)
        return torch.tensor(apart, dtype=torch.long)

    def along(self, labels: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Tie everything along some axes; the labels with those axes cut to one place, kept."""
        thin = slim(labels)
        for axis in axes:
            if thin.shape[axis] > 1:
                first = thin.narrow(axis, 0, 1)
                self.tie(first, thin)
                # What stands for the axis is any unit there; a constant only where there is none.
                thin = thin.amax(axis, keepdim=True)
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
        for atom, value in zip(atoms.reshape(-1).tolist(), sums.reshape(-1).tolist(), strict=True):
            if atom >= 0:
                self._meets[atom] = (self._meets.get(atom, 0) + value) % (1 << 61)
                self._met_at.setdefault(atom, where)

    def met(self, atom: int) -> int:
        """A number for the constants that an atom meets; 0 for none."""
        return self._meets.get(atom, 0)

    def met_at(self, atom: int) -> str:
        """Where an atom first meets a constant."""
        return self._met_at[atom]

    def mark(self, what: str, labels: Tensor, where: str, node: str, why: str = "") -> None:
        """Mark the atoms among some labels."""
        atoms = slim(labels).reshape(-1).unique()
        atoms = atoms[atoms >= 0]
        if len(atoms):
            self.marks.append(Mark(what, where, why, atoms, node))

    def __len__(self) -> int:
        """How many atoms there are."""
        return len(self._parent)
