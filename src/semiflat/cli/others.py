"""Commands of other packages, found by the entry points these are installed with."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import NoReturn

import typer

from semiflat.errors import InputError

GROUP = "semiflat.commands"


def add_others(app: typer.Typer) -> None:
    """Add the commands of all packages that have some; `reproduce` is there without its own, too."""
    missing = True
    for entry in entry_points(group=GROUP):
        missing &= entry.name != "reproduce"
        try:
            app.command(entry.name)(entry.load())
        except Exception as error:  # whatever another package does, the other commands stay
            why = f"its package cannot be imported ({type(error).__name__}: {error})"
            _say_why(app, entry.name, "Cannot be run.", f"{why}; install it again, or remove it")
    if missing:
        _say_why(
            app,
            "reproduce",
            "Rerun published experiments. A package of its own, which is not installed.",
            "the published experiments are a package of their own, which is not installed; in a clone "
            "of semiflat's repository: pip install -e experiments",
        )


def _say_why(app: typer.Typer, name: str, help_: str, why: str) -> None:
    """A command that takes whatever it is given and says why it cannot be run."""
    anything = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(name, help=help_, context_settings=anything)
    def command() -> NoReturn:
        raise InputError(f"semiflat {name}: {why}")
