"""The house: data flows one way, and importing the library stays light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import semiflat

SOURCE = Path(__file__).parents[1] / "src" / "semiflat"

DRAWING = Path(__file__).parents[1] / "docs" / "design.md"


def drawn() -> list[set[str]]:
    """The rooms of each floor of the drawing in docs/design.md, from the ground up.

    A room imports only from floors below its own; rooms on one floor do not know each other. So embeddings
    (algebra) and curvature (differentiation) stay independent, and finding (search) cannot see proving
    (certificates) nor judging (verdicts).
    """
    picture = DRAWING.read_text().split("src/semiflat/\n")[1].split("\n\n")[0]
    floors: list[set[str]] = [set()]
    for line in picture.splitlines():
        if line.startswith("  ─"):
            floors.append(set())
        elif line[2] != " ":  # what is further in is a room's own, or goes on from the line above
            floors[-1].add(line.split()[0].rstrip("/").removesuffix(".py"))
    return floors


FLOORS = drawn()
KNOWN = set().union(*FLOORS)


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
        parts = [[*name.split("."), "__init__"] for name in names]
        # What is no room is a public name, and taken from the package itself.
        rooms |= {p[1] if p[1] in KNOWN else "__init__" for p in parts if p[0] == "semiflat"}
    return rooms


def run(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True
    ).stdout


def test_every_room_has_a_floor():
    rooms = {room(path) for path in SOURCE.rglob("*.py")}
    assert rooms == KNOWN


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.name))
def test_imports_only_from_floors_below(path: Path):
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert level[other] < level[own], f"{path.name} ({own}) must not import {other}"


def test_proving_does_not_rest_on_finding_nor_judging_on_it():
    for path in (SOURCE / "certificates").rglob("*.py"):
        assert not imported_rooms(path) & {"search", "limits", "verdicts", "reduction"}, path
    for path in (SOURCE / "verdicts").rglob("*.py"):
        assert "search" not in imported_rooms(path), path


def test_the_checker_imports_nothing_but_itself_the_standard_library_and_flint():
    for path in (SOURCE / "certificates" / "checker").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                top = name.split(".")[0]
                own = name.startswith("semiflat.certificates.checker.") or name == "semiflat.errors"
                assert own or top == "flint" or top in sys.stdlib_module_names, (path, name)


def test_the_report_computes_nothing():
    for path in (SOURCE / "report").rglob("*.py"):
        assert imported_rooms(path) <= {
            "report",
            "errors",
            "files",
            "outputs",
            "plots",
            "records",
            "_version",
        }, path


def test_importing_every_public_name_stays_light():
    code = (
        "import sys; from semiflat import *; print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'sklearn', 'matplotlib', 'typer', 'rich', 'jinja2', 'pandas', 'hypothesis', 'PIL', "
        "'joblib', 'distributed', 'dask', 'sqlalchemy', 'psycopg', 'lightning', "
        "'pytorch_lightning'}))"
    )
    assert run("-c", code).strip() == "[]"


@pytest.mark.parametrize(
    "code",
    [
        "import semiflat",
        "import semiflat.jobs",
        "import semiflat.records.study",
        "import semiflat.report",
        "from semiflat import InputError",
        "from semiflat.cli.app import _run; _run(['--version'])",
        "from semiflat.cli.app import _run; _run(['--help'])",
        "from semiflat.cli.app import _run; _run(['widen', '--help'])",
        "from semiflat.cli.app import _run; _run(['unknown'])",
        "from semiflat.cli.app import _run; _run(['verify', 'none.json'])",
    ],
)
def test_what_does_not_compute_imports_nothing_that_does(code: str):
    shown = "; import sys; print(sorted({'torch', 'numpy', 'scipy'} & sys.modules.keys()))"
    assert run("-c", code + shown).splitlines()[-1] == "[]"


def test_the_public_names_are_listed_once():
    body = ast.parse((SOURCE / "__init__.pyi").read_text()).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(body) - 2, "a docstring, imports and that there is __all__"
    names = [alias.name for node in imports for alias in node.names]
    assert names == semiflat.__all__
    assert len(names) == len(set(names))
    assert all(alias.asname == alias.name for node in imports for alias in node.names)


def test_no_public_name_is_a_room():
    # Importing the room would put it where the name belongs.
    assert not KNOWN & set(semiflat.__all__)


def test_public_names_are_found_as_in_any_module():
    assert set(semiflat.__all__) <= set(dir(semiflat))
    starred: dict[str, object] = {}
    exec("from semiflat import *", starred)
    assert starred.keys() - {"__builtins__"} == set(semiflat.__all__)
    assert semiflat.MLP is importlib.import_module("semiflat.networks").MLP
    assert "MLP" in vars(semiflat), "it is asked for once"
    with pytest.raises(AttributeError, match="module 'semiflat' has no attribute 'MPL'"):
        _ = semiflat.MPL  # type: ignore[attr-defined]
