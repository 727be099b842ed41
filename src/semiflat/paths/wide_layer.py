"""A wide hidden layer made well-conditioned without changing the function (P21 Lemmas 2 and 3, from any w).

P21 perturbs the parameters by ε so that the N samples' activations span R^N. That is not enough for
float64, whose N × N matrix of smooth features has condition numbers of 1e10 and more, nor is it needed:
with the next layer's bias the layer's n ≥ N columns and the constant are at least N + 1, so they are
dependent. Along a null vector a the outgoing weights of a unit can be taken to 0 while every output stays
as it is; nobody listens to the unit then, its incoming weights move anywhere, and are put where its
column helps most. Repeated until the matrix is well-conditioned, this is a path of constant loss that
starts at the given parameters themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from torch import Tensor

from semiflat.networks import MLP, Params
from semiflat.paths.path import Curve, straight
from semiflat.unit_surgery import with_layer, with_rows

GOOD = 1e4
"""A condition number that leaves twelve digits."""
NULL = 1e-13
"""Part of the largest singular value below which a singular vector is a null vector."""
WEAK = 1e-2
"""Part of the largest singular value below which a direction of R^N asks for a better column."""
POOL = 10
"""Columns to choose from, for each sample."""
STEEPEST = 1e4
"""Largest slope of a new unit, over the data's extent along its direction."""
PATIENCE = 30
"""Exchanges in a row without a better condition number after which it is given up."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Widened:
    """Where the walk ended.

    Attributes:
        params: the parameters there.
        curves: how they were reached, each with the outputs constant.
        before, after: condition numbers of the samples × (units + constant) matrix.
        exchanged: how many units were moved.
    """

    params: Params
    curves: list[Curve]
    before: float
    after: float
    exchanged: int


class WideLayer:
    """One hidden layer on the distinct samples: its activations, and what they can be turned into.

    Args:
        net: the network.
        inputs: distinct samples (N, d).
        layer: the hidden layer.
    """

    def __init__(self, net: MLP, inputs: Tensor, layer: int) -> None:
        self.net, self.inputs, self.layer = net, inputs, layer

    def columns(self, params: Params) -> Tensor:
        """Activations of the layer and, if the next has biases, the constant: (N, n) or (N, n + 1)."""
        return self.net.fed(params, self.inputs, self.layer + 1)

    def condition(self, params: Params) -> float:
        """σ₁/σ_N of :meth:`columns`; infinite if their rank is less than N to rounding."""
        return _condition(torch.linalg.svdvals(self.columns(params)), len(self.inputs))

    def reached(self, params: Params) -> Tensor:
        """What the next layer's units are before its activation, (N, m)."""
        return self.columns(params) @ self.net.layer(params, self.layer + 1).mT

    def with_outgoing(self, params: Params, rows: Tensor) -> Params:
        """``params`` with the next layer's weights, (m, n) or with its biases (m, n + 1)."""
        return with_layer(self.net, params, self.layer + 1, rows)

    def make_good(self, params: Params, seed: int = 0) -> Widened:
        """Walk at constant outputs to where the columns are well-conditioned, or as near as it gets."""
        generator = np.random.default_rng(seed)
        goal = self.reached(params)
        before = best = self.condition(params)
        best_params, curves, best_curves, exchanged, waited = params, [], 0, 0, 0
        while best > GOOD and waited < PATIENCE:
            freed = self._free(params)
            if freed is None:
                break
            units, silent = freed
            rows = self._best_rows(silent, units, generator)
            moved = with_rows(self.net, silent, self.layer, units, rows)
            curves += [self._line(params, silent), self._line(silent, moved)]
            params, exchanged = moved, exchanged + len(units)
            condition = self.condition(params)
            waited = 0 if condition < 0.9 * best else waited + 1
            if condition < best:
                best, best_params, best_curves = condition, params, len(curves)
        curves = curves[:best_curves]
        if curves:
            # The weights picked up rounding on the way; these give back what there was at the start.
            exact = torch.linalg.lstsq(self.columns(best_params), goal, driver="gelsd").solution.mT
            settled = self.with_outgoing(best_params, exact)
            curves.append(self._line(best_params, settled))
            best_params = settled
        return Widened(best_params, curves, before, best, exchanged)

    def _line(self, start: Params, end: Params) -> Curve:
        return straight(self.net.flatten(start), self.net.flatten(end))

    def _free(self, params: Params) -> tuple[list[int], Params] | None:
        """Units to take the outgoing weights from, and the parameters with these at 0."""
        columns = self.columns(params).numpy()
        samples, width = len(columns), self.net.widths[self.layer + 1]
        _, sizes, right = np.linalg.svd(columns, full_matrices=True)
        rank = int((sizes > NULL * sizes[0]).sum())
        null = right[rank:]
        if not len(null):
            return None
        weak = samples - int((sizes > WEAK * sizes[0]).sum())
        # The units whose part in the null vectors is largest: freeing them changes the others least.
        _, _, order = qr(null[:, :width], pivoting=True, mode="economic")
        units = order[: max(1, min(weak, len(null), width))]
        outgoing = self.net.layer(params, self.layer + 1).numpy()
        mixed = np.linalg.lstsq(null[:, units].T, -outgoing[:, units].T, rcond=None)[0].T
        rows = outgoing + mixed @ null
        rows[:, units] = 0.0
        return units.tolist(), self.with_outgoing(params, torch.from_numpy(rows))

    def _best_rows(
        self, params: Params, units: list[int], generator: np.random.Generator
    ) -> Tensor:
        """Incoming weights for free units whose columns widen what the others span the most."""
        columns = self.columns(params).numpy()
        kept = np.delete(columns, units, axis=1)
        left, sizes, _ = np.linalg.svd(kept, full_matrices=True)
        reach = np.zeros(len(columns))
        reach[: len(sizes)] = sizes[: len(columns)]
        # In these coordinates the length of a column is what it adds to log det of the Gram matrix.
        weights = 1 / np.hypot(reach, NULL * reach.max(initial=1.0))
        pool = self._pool(params, generator)
        activation = self.net.activations[self.layer].function
        fed = self.net.fed(params, self.inputs, self.layer)
        found = activation(fed @ torch.from_numpy(pool).mT).numpy()
        _, _, order = qr((left * weights).T @ found, pivoting=True, mode="economic")
        return torch.from_numpy(pool[order[: len(units)]])

    def _pool(self, params: Params, generator: np.random.Generator) -> Matrix:
        """Rows to choose from: steps between two neighbours along random directions, (k, D)."""
        fed = self.net.fed(params, self.inputs, self.layer).numpy()
        inputs, bias = self.net.widths[self.layer], self.net.biases[self.layer]
        count = POOL * max(len(fed), 20)
        directions = generator.standard_normal((count, inputs))
        along = np.sort(fed[:, :inputs] @ directions.T, axis=0)
        extent = np.maximum(along[-1] - along[0], 1e-300)
        if not bias or len(fed) == 1:
            steep = 10.0 ** generator.uniform(-0.5, 2.0, count) / extent
            rows = directions * steep[:, None]
            return np.column_stack([rows, generator.uniform(-2, 2, count)]) if bias else rows
        gap = generator.integers(len(fed) - 1, size=count)
        low, high = along[gap, np.arange(count)], along[gap + 1, np.arange(count)]
        steep = np.minimum(4 / np.maximum(high - low, 1e-300), STEEPEST / extent)
        return np.column_stack([directions * steep[:, None], -steep * (low + high) / 2])


def _condition(sizes: Tensor, samples: int) -> float:
    eps = torch.finfo(sizes.dtype).eps
    if len(sizes) < samples or float(sizes[samples - 1]) <= eps * float(sizes[0]):
        return float("inf")
    return float(sizes[0] / sizes[samples - 1])
