"""Networks at infinity as finite objects: the limits that runs to infinity have."""

from semiflat.limits.network import Form, LimitMLP, LimitProblem

__all__ = ["Form", "LimitMLP", "LimitProblem"]
