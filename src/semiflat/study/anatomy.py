"""What a point is made of, as the page draws it: its parameters and the eigenvalues of its Hessian."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from semiflat.points import EmbeddedPoint, Point, hessian
from semiflat.records.study import Anatomy

MOST = 400
"""Parameters up to which a network is drawn, as many as a dense Hessian is built for."""


def anatomy(point: Point, spectrum: bool = True) -> Anatomy:
    """The parameters of a point in five digits, and the eigenvalues of its Hessian if they are wanted.

    Empty above :data:`MOST` parameters: nobody reads such a picture, and the file has them.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> made_of = anatomy(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> {key: len(rows) for key, rows in made_of.parameters.items()}, len(made_of.eigenvalues)
    ({'0.weight': 2, '0.bias': 2, '2.weight': 1, '2.bias': 1}, 7)
    """
    whole = point.materialize() if isinstance(point, EmbeddedPoint) else point
    if whole.problem.net.parameter_count > MOST:
        return Anatomy()
    parameters: dict[str, Sequence[Sequence[float | None]]] = {
        key: [
            [_rounded(number) for number in row] for row in tensor.reshape(len(tensor), -1).tolist()
        ]
        for key, tensor in whole.params.items()
    }
    if not spectrum:
        return Anatomy(parameters=parameters)
    matrix = hessian(whole)
    if not bool(torch.isfinite(matrix).all()):
        return Anatomy(parameters=parameters)
    values = torch.linalg.eigvalsh(matrix).tolist()
    return Anatomy(parameters=parameters, eigenvalues=[_rounded(value) for value in values])


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
