"""The house: data flows one way, and importing the library stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "semiflat"

# Floor by floor, from the ground up. A room imports only from floors below its own; rooms on one
# floor do not know each other. So embeddings (algebra) and curvature (differentiation) stay
# independent, and finding (search) cannot see judging (verdicts).
FLOORS: list[set[str]] = [
    {"_version", "errors"},
    {"activations", "losses", "files", "data_files", "threads", "memory"},
    {"networks", "data"},
    {"problem"},
    {"embeddings", "curvature"},
    {"points"},
    {"evidence", "checkpoints"},
    {"limits"},
    {"symmetries"},
    {"reduction"},
    {"search", "verdicts"},
    {"study"},
    {"report"},
    {"cli"},
    {"__main__", "__init__"},
]


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("semiflat.")}
    return rooms


def test_every_room_has_a_floor():
    rooms = {room(path) for path in SOURCE.rglob("*.py")}
    assert rooms == set().union(*FLOORS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_only_from_floors_below(path: Path):
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    own = room(path)
    for other in imported_rooms(path) - {own}:
        if other in level:  # a public name taken from the package itself is not a room
            assert level[other] < level[own], f"{path.name} ({own}) must not import {other}"


def test_the_report_computes_nothing():
    for path in (SOURCE / "report").rglob("*.py"):
        assert imported_rooms(path) <= {"report", "errors", "files", "_version"}, path


def test_importing_stays_light():
    code = (
        "import sys, semiflat; print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'sklearn', 'matplotlib', 'typer', 'rich', 'jinja2', 'pandas', 'hypothesis', 'PIL', "
        "'joblib', 'distributed', 'dask'}))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


def test_every_public_name_exists_and_is_documented():
    import semiflat

    for name in semiflat.__all__:
        assert (getattr(semiflat, name).__doc__ or "").strip(), name
