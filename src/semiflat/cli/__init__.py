"""The command line, and what commands of other packages share with it.

A package adds a command by an entry point of the group ``semiflat.commands``: its name, and a function
that typer can make a command of. Such functions raise ``InputError`` for bad input, print by :func:`say`,
show what takes long by :func:`stages`, and end with ``typer.Exit(NO)`` where the answer is "no".
"""

from semiflat.cli.options import NO, Force, Json, say
from semiflat.cli.progress import stages

__all__ = ["NO", "Force", "Json", "say", "stages"]
