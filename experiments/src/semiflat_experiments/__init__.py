"""The published experiments of five papers, one a file, ours beside theirs.

Written over the public names alone, as any user would write them.
"""

from __future__ import annotations

from importlib import import_module

from semiflat.errors import unknown_name
from semiflat_experiments.experiment import Check, Experiment, Outcome, Row

__all__ = ["NAMES", "Check", "Experiment", "Outcome", "Row", "experiment", "minutes"]

_FILES: dict[str, tuple[str, int]] = {
    "f19-generalisation": ("f19.generalisation", 2),
    "f19-census": ("f19.census", 6),
    "f19-relu-fits": ("f19.relu_rates", 4),
    "f19-sussmann": ("f19.sussmann", 5),
    "f19-decay": ("f19.decay", 8),
    "p21-definite": ("p21.definite", 118),
    "p21-region": ("p21.region", 14),
    "p21-escape": ("p21.escape", 6),
    "p21-narrow": ("p21.narrow", 10),
    "p21-degeneracy": ("p21.degeneracy", 49),
    "z22-stages": ("z22.stages", 12),
    "z22-plateaus": ("z22.plateaus", 30),
    "z22-dimensions": ("z22.dimensions", 2),
    "z22-planted": ("z22.planted", 12),
    "k19-gap": ("k19.gap", 6),
    "k19-refutation": ("k19.refutation", 2),
    "m18-xor": ("m18.xor", 5),
}
"""Names on the command line, in the order they are run, the files they are in, and the minutes they take on
one core of the machine that docs/results come from."""

NAMES = tuple(_FILES)


def experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        InputError: for an unknown one, naming the known.

    >>> experiment("f19-generalisation").source
    'F19 Fig. 2'
    """
    if name not in _FILES:
        raise unknown_name("experiment", name, NAMES)
    found: Experiment = import_module(f"semiflat_experiments.{_FILES[name][0]}").EXPERIMENT
    return found


def minutes(name: str) -> int:
    """About how long an experiment takes on one core."""
    return _FILES[name][1]
