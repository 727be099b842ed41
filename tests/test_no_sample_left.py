"""Where every sample lies beyond a hinge's margin nothing is left to fit: all that decay spares is flat."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import semiflat as sf
from semiflat.verdicts.verdict import MINIMA

X, Y = [[-1.0], [-0.5], [0.5], [1.0]], [-1.0, -1.0, 1.0, 1.0]
DECAYS: list[Any] = [{"0.bias": 0.01}, {"2.bias": 0.01}, {"weight": 1e-3}, 0.0]


@pytest.mark.parametrize("loss", ["hinge2", "hinge3"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity", "tanh"])
@pytest.mark.parametrize("decay", DECAYS, ids=str)
def test_every_verdict_is_given_there(loss: str, activation: str, decay: Any) -> None:
    problem = sf.Problem(sf.MLP([1, 2, 1], activation), X, Y, loss, weight_decay=decay)
    result = sf.run_search(problem, starts=4, seed=0, processes=1)
    assert len(result.runs) == 4
    weights = torch.tensor([[9.0], [-8.0]]).double()
    beyond = {
        "0.weight": weights,
        "0.bias": torch.zeros(2).double(),
        "2.weight": weights.T.clone(),
        "2.bias": torch.zeros(1).double(),
    }
    point = sf.Point(problem, beyond)
    for each in (point, sf.Replicate(0, 0, [0.5, 0.5])(point)):
        verdict = sf.judge(each)
        assert verdict.kind in (sf.Kind.NOT_CRITICAL, *MINIMA, sf.Kind.UNDECIDED)
        assert verdict.kind is not sf.Kind.NOT_CRITICAL or decay == {"weight": 1e-3}
    assert sf.escape(point).kind is not None
