"""The Hessian of a point as an operator: SciPy's, which is imported with this module and by few others."""

from __future__ import annotations

from semiflat.curvature.operators import HessianOperator
from semiflat.curvature.operators import hessian_operator as operator_of
from semiflat.points import Point, check_one


def hessian_operator(point: Point) -> HessianOperator:
    """The Hessian as a SciPy ``LinearOperator``, never built.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> operator = sf.hessian_operator(point)
    >>> v = sf.gradient(point).numpy()
    >>> error = abs(operator @ v - sf.hessian(point).numpy() @ v).max()
    >>> operator.shape, bool(error < 1e-14)
    ((7, 7), True)
    """
    check_one(point, "hessian_operator")
    return operator_of(point.problem, point.params)
