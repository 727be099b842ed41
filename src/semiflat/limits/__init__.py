"""Networks at infinity as finite objects: the limits that runs to infinity have."""

from semiflat.limits.approach import approach
from semiflat.limits.limit import Limit, Rate, settled
from semiflat.limits.network import AtInfinity, Form, LimitMLP, LimitProblem
from semiflat.limits.recognise import Guess, RunsOff, balanced, recognise
from semiflat.limits.sharpen import sharpened

__all__ = [
    "AtInfinity",
    "Form",
    "Guess",
    "Limit",
    "LimitMLP",
    "LimitProblem",
    "Rate",
    "RunsOff",
    "approach",
    "balanced",
    "recognise",
    "settled",
    "sharpened",
]
