"""Commands of other packages: found where they are installed, and one clear line where they are not."""

import subprocess
import sys

import pytest
import typer

import semiflat as sf
from semiflat.cli import others
from semiflat.cli.others import add_others

ALONE = """
import importlib.metadata, sys
importlib.metadata.entry_points = lambda **group: []
from semiflat.cli.app import main
main(sys.argv[1:])
"""


class Entry:
    """An entry point: of a function, or of one that cannot be imported."""

    def __init__(self, name, function):
        self.name, self.function = name, function

    def load(self):
        if isinstance(self.function, Exception):
            raise self.function
        return self.function


def app_with(monkeypatch, *entries):
    monkeypatch.setattr(others, "entry_points", lambda group: list(entries))
    app = typer.Typer()
    add_others(app)
    app.callback()(lambda: None)
    return app


def alone(*arguments):
    """semiflat without any other package."""
    return subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["all"], ["k19-gap", "--quick", "--out", "x"]])
def test_without_the_experiments_reproduce_says_where_they_are(arguments):
    ended = alone("reproduce", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "not installed; in a clone of semiflat's repository: pip install -e experiments" in (
        ended.stderr
    )


def test_without_the_experiments_the_help_lists_reproduce():
    ended = alone("--help")
    assert ended.returncode == 0
    assert "reproduce" in ended.stdout


def test_another_package_adds_a_command(monkeypatch):
    def double(number: int):
        """Twice a number."""
        print(2 * number)
        raise typer.Exit(1)

    app = app_with(monkeypatch, Entry("double", double))
    assert app(["double", "3"], standalone_mode=False) == 1
    assert [command.name for command in app.registered_commands] == ["double", "reproduce"]


def test_a_package_that_cannot_be_imported_takes_no_other_command_with_it(monkeypatch):
    broken = ImportError("no module named numpy")
    app = app_with(monkeypatch, Entry("broken", broken), Entry("reproduce", lambda: print("ran")))
    with pytest.raises(sf.InputError, match=r"semiflat broken: .*ImportError: no module named"):
        app(["broken", "--anything", "3"], standalone_mode=False)
    app(["reproduce"], standalone_mode=False)
