"""The published experiments of the four papers, one a file, ours beside theirs.

Written over the public names alone, as any user would write them.
"""

from __future__ import annotations

from importlib import import_module

from semiflat.errors import unknown_name
from semiflat.papers.experiment import Check, Experiment, Outcome, Row

__all__ = ["NAMES", "Check", "Experiment", "Outcome", "Row", "experiment"]

_FILES: dict[str, str] = {
    "f19-generalisation": "f19.generalisation",
    "f19-census": "f19.census",
    "f19-relu-fits": "f19.relu_rates",
    "p21-definite": "p21.definite",
    "p21-region": "p21.region",
    "p21-narrow": "p21.narrow",
    "z22-stages": "z22.stages",
    "z22-dimensions": "z22.dimensions",
    "k19-gap": "k19.gap",
    "k19-refutation": "k19.refutation",
}
"""Names on the command line, in the order they are run, and the files they are in."""

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
    found: Experiment = import_module(f"semiflat.papers.{_FILES[name]}").EXPERIMENT
    return found
