"""Facts about losses and activations are asked for by what they are, never by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import semiflat
from semiflat.activations import ACTIVATIONS
from semiflat.losses import LOSSES

SOURCE = Path(semiflat.__file__).parent
OWN = ("activations.py", "losses", "certificates/checker", "certificates/in_balls.py")
"""Where names are given: the definitions, the checker's own table, and who asks whether a name is in it."""
OTHERS = ("foreign.py", "errors.py")
"""Where names are other people's: scikit-learn's, and what users say instead of ours."""
NAMES = {*ACTIVATIONS, *LOSSES}
FILES = [
    path
    for path in sorted(SOURCE.rglob("*.py"))
    if not path.relative_to(SOURCE).as_posix().startswith(OWN + OTHERS)
]


def compared(tree: ast.AST) -> list[ast.expr]:
    """What a file compares, matches or looks up: both sides of comparisons, cases, keys of literals."""
    found: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            found += [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            found.append(node.value)
        elif isinstance(node, ast.Dict):
            found += [key for key in node.keys if key is not None]
    return found


def asked_by_name(source: str) -> list[str]:
    """The comparisons with a loss's or an activation's name in a file's text."""
    found = []
    for side in compared(ast.parse(source)):
        for node in ast.walk(side):
            literal = isinstance(node, ast.Constant) and node.value in NAMES
            attribute = (
                isinstance(node, ast.Attribute)
                and node.attr == "name"
                and ast.unparse(node.value).split(".")[-1].split("[")[0]
                in ("loss", "activation", "activations")
            )
            if isinstance(node, ast.expr) and (literal or attribute):
                found.append(f"line {node.lineno}: {ast.unparse(side)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_fact_is_asked_by_name(path: Path) -> None:
    assert asked_by_name(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        'if problem.loss.name == "squared": pass',
        "if net.activations[0].name in KNOWN: pass",
        'x = name in ("relu", "other")',
        'SUP = {"tanh": 1.0}',
        'match name:\n    case "gelu": pass',
    ],
)
def test_it_would_be_seen(source: str) -> None:
    assert asked_by_name(source)
