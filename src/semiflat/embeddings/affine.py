"""Affine maps between parameter spaces, ``θ_wide = A θ_narrow + c``, with A sparse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # which imports its parts where they are first used
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiflat.memory import check_floats
from semiflat.networks import MLP, Params
from semiflat.records.shown import Shown

Floats = NDArray[np.float64]
Places = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class AffineMap(Shown):
    """``θ_wide = A θ_narrow + c`` between the flat parameters of two networks.

    Attributes:
        narrow, wide: the two architectures.
        A: ``scipy.sparse`` CSR array (P_wide, P_narrow).
        c: constants, (P_wide,).

    >>> from semiflat import MLP, Replicate
    >>> affine = Replicate(0, 0, [0.5, 0.5]).matrix(MLP([1, 1, 1]))
    >>> affine.A.toarray().tolist()[-2:], affine.c.tolist()
    ([[0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """

    narrow: MLP
    wide: MLP
    A: scipy.sparse.csr_array
    c: Floats

    @classmethod
    def identity(cls, net: MLP) -> AffineMap:
        """The map that changes nothing."""
        size = net.parameter_count
        return cls(net, net, scipy.sparse.csr_array(scipy.sparse.eye_array(size)), np.zeros(size))

    @property
    def shape(self) -> tuple[int, int]:
        """(P_wide, P_narrow)."""
        return self.wide.parameter_count, self.narrow.parameter_count

    def then(self, after: AffineMap) -> AffineMap:
        """This map followed by another."""
        return AffineMap(
            self.narrow,
            after.wide,
            scipy.sparse.csr_array(after.A @ self.A),
            after.A @ self.c + after.c,
        )

    def parameters(self, params: Params) -> Params:
        """``A θ + c``; batch axes are kept."""
        return self._through(self.narrow, self.wide, params, lambda v: self.A @ v + self.c[:, None])

    def tangent(self, vector: Params) -> Params:
        """``A v``."""
        return self._through(self.narrow, self.wide, vector, lambda v: self.A @ v)

    def adjoint(self, covector: Params) -> Params:
        """``Aᵀ g``."""
        return self._through(self.wide, self.narrow, covector, lambda v: self.A.T @ v)

    @staticmethod
    def _through(
        source: MLP, target: MLP, params: Params, linear: Callable[[Floats], Floats]
    ) -> Params:
        flat = source.flatten(params)
        columns = flat.detach().reshape(-1, flat.shape[-1]).mT.to(torch.float64).numpy()
        moved: Tensor = torch.from_numpy(np.ascontiguousarray(linear(columns).T)).to(flat.dtype)
        return target.unflatten(moved.reshape(*flat.shape[:-1], target.parameter_count))


def places(net: MLP) -> Places:
    """Where each parameter stands in the flat vector: indices shaped like the parameters."""
    numbers = net.unflatten(torch.arange(net.parameter_count))
    return {key: tensor.numpy() for key, tensor in numbers.items()}


class Entries:
    """Collects the entries of a sparse matrix between two networks' parameters."""

    def __init__(self, narrow: MLP, wide: MLP) -> None:
        check_floats(
            "the matrix into the wide network", 3 * wide.parameter_count, "take fewer copies"
        )
        self.narrow, self.wide = narrow, wide
        self.c = np.zeros(wide.parameter_count)
        self._rows: list[NDArray[np.int64]] = []
        self._columns: list[NDArray[np.int64]] = []
        self._values: list[Floats] = []

    def add(self, rows: NDArray[np.int64], columns: NDArray[np.int64], values: Floats) -> None:
        """Entries ``A[rows, columns] += values``; the three broadcast."""
        rows, columns, values = np.broadcast_arrays(rows, columns, values)
        kept = values.ravel() != 0
        self._rows.append(rows.ravel()[kept])
        self._columns.append(columns.ravel()[kept])
        self._values.append(values.ravel()[kept])

    def build(self) -> AffineMap:
        """The map."""
        shape = self.wide.parameter_count, self.narrow.parameter_count
        places = np.concatenate(self._rows), np.concatenate(self._columns)
        A = scipy.sparse.csr_array((np.concatenate(self._values), places), shape=shape)
        return AffineMap(self.narrow, self.wide, A, self.c)
