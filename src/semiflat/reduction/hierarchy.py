"""In which order the units of a layer are best merged, by what each merge would do to the outputs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Step = tuple[int, int]

DROP = -1
"""In place of the second unit of a step: the first is dropped."""


class Hierarchy:
    """Agglomerative clustering of units that hand on h_j(x) and are heard with weights v_j.

    Two units with ``Δ = ‖h_i − h_j‖`` (root mean square over the data) become one, heard with
    ``ζ = v_i + v_j``, its row the mean of theirs weighted by the shares ``λ_i = ⟨v_i, ζ⟩/⟨ζ, ζ⟩``.
    Then what is heard changes, to first order in Δ, by the parts of v_i and v_j across ζ, and to
    second order by about ``|λ_i λ_j ζ| Δ²``. Where the shares cancel, rows weighted by ``|v|`` do
    better: ``2 |v_i| |v_j| / (|v_i| + |v_j|) Δ``. The lesser of the two is the cost; that of dropping a
    unit is what is heard of it. The cheapest step is taken, then the next, as far as is asked for.

    Args:
        values: h_j, (N, n).
        heard: v_j, (n, M).
        reflect: whether −h_j, heard with −v_j, is the same unit.
        above: whether a dropped unit's mean can go to a bias above.

    >>> values = np.array([[0.0, 1.0, 0.1], [1.0, 0.0, 1.0]])
    >>> hierarchy = Hierarchy(values, np.ones((3, 1)), reflect=False, above=True)
    >>> hierarchy.labels(1), hierarchy.steps
    (array([0, 1, 0]), [(0, 2)])
    """

    def __init__(self, values: Floats, heard: Floats, reflect: bool, above: bool) -> None:
        self.reflect = reflect
        self.product = values.T @ values / len(values)  # ⟨h_i, h_j⟩
        self.square = self.product.diagonal().copy()
        # Only the costs' order counts, so the largest weight may be 1.
        self.heard = heard / (np.abs(heard).max() or 1.0)
        self.weight = np.linalg.norm(self.heard, axis=1)
        self.mean = values.mean(0) if above else np.zeros(len(heard))
        self.alive = np.ones(len(heard), dtype=bool)
        self.alone = self._alone()
        self.cost = np.stack([self._costs(unit) for unit in range(len(heard))])
        # A lower bound on each row of it, looked up again once it is the least.
        self.least = self.cost.min(1)
        self.steps: list[Step] = []

    def labels(self, count: int) -> NDArray[np.int64]:
        """:meth:`taken` of so many of the steps it finds cheapest."""
        while len(self.steps) < count:
            self.steps.append(self._step())
        return self.taken(self.steps[:count])

    def first_steps(self, count: int) -> list[Step]:
        """The cheapest steps that can be taken first, cheapest first."""
        units = len(self.heard)
        costs = np.concatenate([np.triu(self.cost, 1).ravel(), self.alone])
        costs[: units**2][~np.triu(np.ones((units, units), dtype=bool), 1).ravel()] = np.inf
        found = [int(place) for place in costs.argsort()[:count] if costs[place] < np.inf]
        return [
            divmod(place, units) if place < units**2 else (place - units**2, DROP)
            for place in found
        ]

    def taken(self, steps: list[Step]) -> NDArray[np.int64]:
        """For each unit the first of its cluster after some steps, −1 if it is dropped; (n,)."""
        label = np.arange(len(self.heard))
        for first, second in reversed(steps):
            if second == DROP:
                label[first] = DROP
            else:
                label[second] = label[first]
        return label

    def _alone(self) -> Floats:
        alone: Floats = np.sqrt(np.clip(self.square - self.mean**2, 0, None)) * self.weight
        return alone

    def _costs(self, i: int) -> Floats:
        """What it costs to merge unit i with each of the others, (n,)."""
        inner, both = self.product[i], self.heard @ self.heard[i]
        if self.reflect:
            inner, both = np.abs(inner), np.copysign(1.0, inner) * both
        apart = np.sqrt(np.maximum(self.square[i] + self.square - 2 * inner, 0))
        one, other = self.weight[i], self.weight
        product = one * other
        whole = one**2 + other**2 + 2 * both  # |ζ|²
        cancel = whole <= 1e-16 * (one**2 + other**2)  # there are no shares of nothing
        whole = np.where(cancel, 1.0, whole)
        across = np.maximum(product**2 - both**2, 0) / whole
        second = (one**2 + both) * (other**2 + both) / (whole * np.sqrt(whole))
        by_share = np.sqrt(across + (second * apart) ** 2)
        by_size = product / np.maximum((one + other) / 2, 1e-300)
        costs: Floats = np.where(cancel, by_size, np.minimum(by_share, by_size)) * apart
        costs[~self.alive] = np.inf
        costs[i] = np.inf
        return costs

    def _step(self) -> Step:
        while True:
            i, drop = int(self.least.argmin()), int(self.alone.argmin())
            if self.alone[drop] <= self.least[i]:
                self._forget(drop)
                return drop, DROP
            j = int(self.cost[i].argmin())
            if self.cost[i, j] <= self.least[i]:
                break
            self.least[i] = self.cost[i, j]
        i, j = min(i, j), max(i, j)
        self._merge(i, j)
        return i, j

    def _merge(self, i: int, j: int) -> None:
        """Unit i stands for both from now on."""
        sign = -1.0 if self.reflect and self.product[i, j] < 0 else 1.0
        total = self.heard[i] + sign * self.heard[j]
        whole = float(total @ total)
        share = float(self.heard[i] @ total) / whole if whole > 0 else -1.0
        if not -1 <= share <= 2:
            share = float(self.weight[i] / max(self.weight[i] + self.weight[j], 1e-300))
        a, b = share, sign * (1 - share)
        inner = self.product[i, j]
        self.product[i] = a * self.product[i] + b * self.product[j]
        self.square[i] = a * a * self.square[i] + 2 * a * b * inner + b * b * self.square[j]
        self.product[i, i] = self.square[i]
        self.product[:, i] = self.product[i]
        self.mean[i] = a * self.mean[i] + b * self.mean[j]
        self.heard[i], self.weight[i] = total, whole**0.5
        self._forget(j)
        self.cost[i] = self.cost[:, i] = self._costs(i)
        self.least = np.minimum(self.least, self.cost[i])
        self.least[i] = self.cost[i].min()
        self.alone[i] = max(self.square[i] - self.mean[i] ** 2, 0.0) ** 0.5 * self.weight[i]

    def _forget(self, unit: int) -> None:
        self.alive[unit] = False
        self.cost[unit] = self.cost[:, unit] = np.inf
        self.least[unit] = self.alone[unit] = np.inf
