"""Which units of a group can be spared, and what takes their place: for any input, on the data, or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from semiflat.modules.groups import Slot, UnitGroup
from semiflat.modules.laws import CONSTANT, SIGN, Law, law
from semiflat.modules.signals import Look, Outputs
from semiflat.modules.surgery import EXACT, Row
from semiflat.reduction.state import ROUNDING
from semiflat.reduction.twins import twins

ANY_INPUT, ON_DATA, WITHIN = "any input", "these batches", "the tolerance"
SURELY = 1e-6
"""What the laws say is held against the outputs on the data: relative difference up to which they agree."""
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spared:
    """A unit that can be left out.

    Attributes:
        unit: in the group as it is.
        rule: why, in a word.
        by: units that take its place, and how many times each hands on what it does.
        constant: whether what is left is a constant, for the readers' biases.
        fitted: whether ``by`` is to be found by least squares, over all that are kept.
        squared: whether the sum of squares over the units is to stay, too.
    """

    unit: int
    rule: str
    by: dict[int, float] = field(default_factory=dict)
    constant: bool = False
    fitted: bool = False
    squared: bool = False


def slices(tensor: Tensor, slot: Slot) -> Tensor:
    """What a tensor holds of each unit, (units, numbers)."""
    moved = tensor.movedim(slot.axis, 0)
    return moved[slot.positions.to(moved.device)].reshape(len(slot.positions), -1)


@dataclass
class Rules:
    """The rules for one group.

    Attributes:
        group: the group.
        tensors: of the model in float64, by name.
        look: what its units hand on.
        precision: relative rounding error of the weights, or of the outputs, whichever are compared.
    """

    group: UnitGroup
    tensors: Tensors
    look: Look
    precision: float

    @property
    def outputs(self) -> Outputs:
        """What is kept of the outputs."""
        return self.look.outputs[self.group.name]

    def steps(self, holds: str) -> list[tuple[Spared, float]]:
        """Units that can be spared by the rules of one kind, and what it costs to leave out all up to each."""
        if holds == WITHIN:
            return self.nearly()
        found = self.for_any_input() if holds == ANY_INPUT else self.on_data()
        return [(each, 0.0) for each in found]

    # -- for any input ----------------------------------------------------------------------------

    def for_any_input(self) -> list[Spared]:
        """Units that make no difference whatever the input is."""
        if self.group.norms:
            return self._of_stream(exact=True)
        unheard = self._zero(*self.group.of("reads"))
        spared = {int(unit): Spared(int(unit), "unheard") for unit in unheard.nonzero()}
        flat = self._flat()
        if bool(flat.any()):  # ranges take their time, and what is settled is flat on any data
            flat &= self._settled()
        for unit in flat.nonzero().flatten().tolist():
            if unit not in spared:
                dead = not bool(self.outputs.sizes[unit])
                spared[unit] = Spared(unit, "dead" if dead else "constant", constant=not dead)
        scaled: list[tuple[frozenset[str], Law | None]] = [*self._scalings()]
        for names, how in scaled:
            if how is not None and how.homogeneous:
                zero = self._zero(*(slot for slot in self._made() if slot.name in names))
                for unit in zero.nonzero().flatten().tolist():
                    if unit not in spared or spared[unit].rule == "constant":
                        spared[unit] = Spared(unit, "dead")
        for names, how in scaled or [(frozenset(), None)]:
            for each in self._twins(
                names, how, [u for u in range(self.group.size) if u not in spared]
            ):
                spared[each.unit] = each
        return self._resolved(spared)

    def _settled(self) -> Tensor:
        """Which units can take one value alone, by the ranges of what comes before them."""
        settled = torch.ones(self.group.size, dtype=torch.bool)
        for reader in self.outputs.readers:
            low, high = (reader.outputs(end) for end in self.look.ranges[reader.source])
            settled &= (low == high).all(2).all(0)
        return settled

    def _resolved(self, spared: dict[int, Spared]) -> list[Spared]:
        """Twins of twins, found by scaling different weights, become twins of what is kept; one is."""
        order = sorted(spared)
        found = []
        for unit in order:
            each = spared[unit]
            by = dict(each.by)
            constant = each.constant
            while any(one in spared for one in by):
                one, factor = next((u, f) for u, f in by.items() if u in spared)
                del by[one]
                constant |= spared[one].constant
                for leader, times in spared[one].by.items():
                    by[leader] = by.get(leader, 0.0) + factor * times
            found.append(Spared(unit, each.rule, by, constant))
        return found[1:] if len(found) == self.group.size else found

    def _made(self) -> list[Slot]:
        """Slots of what makes a unit, each tensor's axis once."""
        return list(
            {
                (slot.name, slot.axis): slot for slot in self.group.slots if slot.role != "reads"
            }.values()
        )

    def _zero(self, *slots: Slot) -> Tensor:
        """Which units are 0 in all these slots, to rounding."""
        zero = torch.ones(self.group.size, dtype=torch.bool)
        for slot in slots:
            tensor = self.tensors[slot.name]
            rounding = ROUNDING * torch.finfo(torch.float64).eps * float(tensor.abs().max())
            zero &= (slices(tensor, slot).abs() <= rounding).all(1)
        return zero if slots else ~zero

    def _scalings(self) -> Iterator[tuple[frozenset[str], Law]]:
        """Sets of tensors that make the units, and the law by which the units answer to their being scaled."""
        makers = [slot for slot in self.group.slots if slot.role in ("writes", "adds")]
        read = {slot.name for slot in self.group.of("reads")}
        sets = [frozenset(slot.name for slot in makers)]
        for module in dict.fromkeys(slot.module for slot in self.group.of("writes")):
            sets.append(frozenset(slot.name for slot in makers if slot.module == module))
        sources = [reader.source for reader in self.outputs.readers]
        for names in dict.fromkeys(sets):
            how = None if names & read else law(self.look.groups._flow, names, sources)
            if how is not None and (how.positive or self._may_turn(how)):
                yield names, how

    def _may_turn(self, how: Law) -> bool:
        return how.opposite == SIGN or (how.opposite == CONSTANT and self._takes_constants())

    def _takes_constants(self) -> bool:
        return all(reader.bias is not None for reader in self.outputs.readers)

    def _twins(self, names: frozenset[str], how: Law | None, units: list[int]) -> list[Spared]:
        """Units with the same weights as another, but for a factor in those of these names."""
        made = self._made()
        scaled = [slot for slot in made if not names or slot.name in names]
        rest = [slot for slot in made if slot not in scaled]
        reflect, positive = (
            how is not None and self._may_turn(how),
            how is not None and how.positive,
        )
        found: list[Spared] = []
        for alike in self._classes(rest, units):
            rows = torch.cat([slices(self.tensors[s.name], s)[alike] for s in scaled], 1).numpy()
            first, factors = twins(rows, np.abs(rows), self.precision, reflect, positive)
            for place, (leader, factor) in enumerate(
                zip(first.tolist(), factors.tolist(), strict=True)
            ):
                if leader == place:
                    continue
                times = factor ** (how.degree if how else 1)
                constant = factor < 0 and how is not None and how.opposite == CONSTANT
                each = Spared(alike[place], _rule(factor), {alike[leader]: times}, constant)
                if self._agrees(each):
                    found.append(each)
        return found

    def _classes(self, slots: list[Slot], units: list[int]) -> list[list[int]]:
        """Units with the same weights in some slots."""
        if not slots or not units:
            return [units] if units else []
        rows = torch.cat([slices(self.tensors[s.name], s)[units] for s in slots], 1).numpy()
        first, _ = twins(rows, np.abs(rows), self.precision, False, False)
        return [
            [units[place] for place in np.flatnonzero(first == leader)]
            for leader in np.unique(first)
        ]

    def _agrees(self, spared: Spared) -> bool:
        """Whether the outputs on the data are what a law says."""
        rest = self.outputs.factor[:, spared.unit].clone()
        for unit, times in spared.by.items():
            rest -= times * self.outputs.factor[:, unit]
        return float(rest.norm()) <= SURELY * float(self.outputs.sizes[spared.unit])

    # -- on the data ------------------------------------------------------------------------------

    def on_data(self) -> list[Spared]:
        """Units that make no difference on the data, to rounding: those of the first rule that finds any."""
        if self.group.norms:
            return self._of_stream(exact=False)
        return self._constants() or self._pairs() or self._dependent()

    def _flat(self) -> Tensor:
        """Which units hand on a constant that every reader's bias can take up, to rounding."""
        return self._spread() <= max(self.precision, EXACT) * self.outputs.sizes

    def _spread(self) -> Tensor:
        spread: Tensor = torch.linalg.vector_norm(self.outputs.factor, dim=0)
        return spread

    def _constants(self) -> list[Spared]:
        sizes = self.outputs.sizes
        dead = sizes <= self.precision * float(sizes.max())
        flat = (dead | self._flat()).nonzero().flatten().tolist()
        found = [
            Spared(unit, "dead" if dead[unit] else "constant", constant=not bool(dead[unit]))
            for unit in flat
        ]
        return found[1:] if len(found) == self.group.size else found

    def _pairs(self) -> list[Spared]:
        """Units that hand on a multiple of what another does, and a constant."""
        if self.outputs.rows < 3 or self.group.size < 2:
            return []  # any two pairs of numbers lie on a line
        factor, sizes = self.outputs.factor, self.outputs.sizes
        spread = self._spread()
        unit = factor / spread
        near = (unit.mT @ unit).abs() >= 1 - 1e-6
        leaders: list[int] = []
        found = []
        for j in range(self.group.size):
            for i in leaders:
                if not near[i, j]:
                    continue
                times = float(factor[:, i] @ factor[:, j] / spread[i] ** 2)
                apart = (factor[:, j] - times * factor[:, i]).norm()
                if float(apart) <= self.precision * float(sizes[j] + abs(times) * sizes[i]):
                    times = float(f"{times:.15g}")
                    found.append(Spared(j, _rule(times), {i: times}, constant=True))
                    break
            else:
                leaders.append(j)
        return found

    @property
    def enough(self) -> bool:
        """Whether there is more data than units: else they depend on one another whatever they are."""
        takes = sum(reader.columns.shape[1] for reader in self.outputs.readers if reader.bias)
        return self.outputs.rows > self.group.size + takes

    def _dependent(self) -> list[Spared]:
        """Units that are a combination of others and a constant; those least of use to the others first."""
        if not self.enough or self.group.size < 2:
            return []
        scaled = (self.outputs.factor / self.outputs.sizes).numpy()
        upper, order = scipy.linalg.qr(scaled, mode="r", pivoting=True)
        left = np.abs(np.diag(upper)) <= self.precision * self.group.size**0.5
        spared = order[: len(left)][left][::-1].tolist()
        return [Spared(int(unit), "dependent", constant=True, fitted=True) for unit in spared]

    # -- streams ----------------------------------------------------------------------------------

    def _of_stream(self, exact: bool) -> list[Spared]:
        """Units of a stream with norms over it: their mean, or zeros; or as many copies of every unit."""
        whats = {what for what, _ in self.group.norms}
        flat = self._spread() <= self.precision * self.outputs.sizes.clamp(min=self._smallest())
        if exact and len(whats) == 1:
            flat &= self._mean() if whats == {"layer norm"} else self._zero(*self._makers())
        found = [
            Spared(unit, "constant", constant=True) for unit in flat.nonzero().flatten().tolist()
        ]
        if found and len(found) < self.group.size:
            return found
        if not exact:
            return self._multiples() if whats == {"rms norm"} else []
        copies = self._twins(frozenset(), None, list(range(self.group.size)))
        count: dict[int, int] = {}
        for each in copies:
            (leader,) = each.by
            count[leader] = count.get(leader, 1) + 1
        whole = len(copies) + len(count) == self.group.size and len(set(count.values())) == 1
        return copies if whole else []

    def _multiples(self) -> list[Spared]:
        """Units of a stream that are written as multiples of another, and handed on as such on the data."""
        scaled = frozenset(slot.name for slot in self._made() if slot.role != "between")
        both = Law(1, True, SIGN)
        found = self._twins(scaled, both, list(range(self.group.size)))
        return [replace(each, squared=True) for each in found]

    def by_squares(
        self, spared: list[Spared], kept: list[int], times: Tensor
    ) -> dict[str, list[Row]]:
        """What becomes of a stream's units under RMS norms, where some are multiples of others: the root of the
        sum of their squares is written in their place, and what they were read with is divided by it.
        """
        roots = (1 + times.square().sum(1)).sqrt().tolist()
        gone = [each.unit for each in spared]
        written: list[Row] = [((unit, root),) for unit, root in zip(kept, roots, strict=True)]
        read: list[Row] = [
            tuple((u, f / root) for u, f in ((unit, 1.0), *zip(gone, row, strict=True)) if f)
            for unit, root, row in zip(kept, roots, times.tolist(), strict=True)
        ]
        if all(self._multiple(slot, gone, kept, times) for slot in self.group.of("reads")):
            read = written  # one tensor may make and read them
        return {"writes": written, "adds": written, "shifts": written, "reads": read}

    def _multiple(self, slot: Slot, gone: list[int], kept: list[int], times: Tensor) -> bool:
        rows = slices(self.tensors[slot.name], slot)
        off = (rows[gone] - times.mT @ rows[kept]).abs()
        return bool((off <= self.precision * rows.abs().max()).all())

    def _smallest(self) -> float:
        return float(self.outputs.sizes.max())

    def _makers(self) -> list[Slot]:
        return [slot for slot in self._made() if slot.role in ("writes", "adds")]

    def _mean(self) -> Tensor:
        """Which units are written as the mean of all are."""
        mean = torch.ones(self.group.size, dtype=torch.bool)
        for slot in self._makers():
            rows = slices(self.tensors[slot.name], slot)
            off = (rows - rows.mean(0)).abs()
            mean &= (off <= self.precision * rows.abs().amax(0)).all(1)
        return mean

    # -- nearly -----------------------------------------------------------------------------------

    def nearly(self) -> list[tuple[Spared, float]]:
        """All units but one, in the order in which they are best spared, and what that changes in the readers.

        The change is relative, in the mean square over the data, with the best weights of all that are kept:
        each step takes the unit that costs least and hands its weights on by least squares (the optimal
        brain surgeon's step for a linear layer). Where there is less data than units, its mean replaces it.
        """
        if self.group.norms or self.group.size < 2:
            return []
        heard = torch.cat(
            [slices(self.tensors[s.name], s) for s in self.group.of("reads")], 1
        ).clone()
        gram = self.outputs.factor.mT @ self.outputs.factor
        whole = float((heard * (gram @ heard)).sum())
        if not whole > 0:
            return []
        fitted = self.enough
        if not fitted:
            gram = gram.diagonal().diag()
        ridge = 1e-14 * float(gram.diagonal().max())
        inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
        left = torch.ones(self.group.size, dtype=torch.bool)
        found, total = [], 0.0
        while int(left.sum()) > 1:
            cost = heard.square().sum(1) / inverse.diagonal()
            cost[~left] = float("inf")
            unit = int(cost.argmin())
            total += max(float(cost[unit]), 0.0)
            column = inverse[:, unit] / inverse[unit, unit]
            heard -= column[:, None] * heard[unit]
            inverse -= column[:, None] * inverse[unit].clone()
            left[unit] = False
            inverse[unit, unit] = 1.0
            spared = Spared(
                unit, "nearly dependent" if fitted else "nearly constant", {}, True, fitted
            )
            found.append((spared, (total / whole) ** 0.5))
        return found


def _rule(factor: float) -> str:
    if factor == 1:
        return "duplicate"
    return "opposite" if factor == -1 else "proportional"
