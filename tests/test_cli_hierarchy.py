"""The commands of hierarchies, as somebody would type them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import semiflat as sf
from helpers import refused_command, run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("data") / "bent.csv"
    rows = [f"{k / 10},{abs(k / 10) - k / 10}" for k in range(-20, 21)]
    file.write_text("\n".join(["x,y", *rows]))
    return file


@pytest.fixture(scope="module")
def nested(table, tmp_path_factory: pytest.TempPathFactory):
    from semiflat.cli.app import _run

    out = tmp_path_factory.mktemp("nested")
    command = ["hierarchy", "--data", table, "--widths", "1..2", "--starts", "8", "--raw"]
    assert _run([str(part) for part in [*command, "--processes", "1", "--out", out]]) == 0
    return out


def test_a_hierarchy_is_kept_drawn_and_told(capsys, table, nested):
    command = [
        "hierarchy",
        "--data",
        table,
        "--widths",
        "1..2",
        "--starts",
        "8",
        "--raw",
        "--processes",
        "1",
    ]
    code, out, _ = run(capsys, *command, "--out", nested, "--json")
    told = json.loads(out)
    assert code == 0
    assert {row["name"] for row in told["rows"]} == {
        file.stem for file in (nested / "points").glob("*.safetensors")
    }
    assert told["least_width"]["hidden"] in ([1], [2])
    assert (nested / "hierarchy.png").read_bytes()[:4] == b"\x89PNG"
    assert (nested / "hierarchy.html").stat().st_size < 3e6
    code, out, _ = run(capsys, *command, "--out", nested)
    assert "width 1: " in out
    assert "minima below the widest level stay minima at every wider one" in out
    judge = out.splitlines()[-1].removeprefix("next: semiflat ").split()
    code, out, _ = run(capsys, *judge)
    assert (code, "strict minimum" in out) == (0, True)


def test_stages_of_a_run_whose_checkpoints_are_files(capsys, nested, tmp_path):
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    log = sf.StageLogger(folder=tmp_path / "checkpoints")
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(300):
        log(net, step)
        optimiser.zero_grad()
        (net(x) - x.abs() + x).square().mean().backward()
        optimiser.step()
    figure = tmp_path / "stages.png"
    command = ["stages", tmp_path / "checkpoints", "--hierarchy", nested, "--figure", figure]
    code, out, _ = run(capsys, *command)
    assert code in (0, 1)
    assert out.startswith(f"Stages(checkpoints={len(log)}, ")
    assert figure.read_bytes()[:4] == b"\x89PNG"
    err = refused_command(capsys, "stages", tmp_path, "--hierarchy", tmp_path)
    assert "there is no hierarchy in" in err


@pytest.mark.parametrize(
    ("widths", "text"),
    [
        ("3..1", "--widths '3..1' are no widths; write 1..4"),
        ("a", "--widths 'a' are no widths"),
        ("2,1", "widths must grow from level to level"),
        ("0..2", "--widths '0..2' are no widths"),
    ],
)
def test_widths_that_make_no_levels_are_one_line(capsys, table, tmp_path, widths, text):
    err = refused_command(
        capsys, "hierarchy", "--data", table, "--widths", widths, "--out", tmp_path / "out"
    )
    assert text in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["--tolerance", -1], "--tolerance must be positive"),
        (["--certify", "nan"], "--certify must be positive"),
        (["--processes", 1, "--dask", "tcp://h:1"], "processes=1 is for this machine alone"),
        (["--starts", 0], "starts must be a whole number of at least 1"),
    ],
)
def test_what_makes_no_sense_is_one_line_before_anything_is_made(
    capsys, table, tmp_path, given, text
):
    out = tmp_path / "out"
    err = refused_command(capsys, "hierarchy", "--data", table, "--out", out, *given)
    assert text in err
    assert not out.exists()


def test_a_file_in_the_way_stays(capsys, table, tmp_path):
    (tmp_path / "hierarchy.png").write_text("mine")
    err = refused_command(capsys, "hierarchy", "--data", table, "--widths", "1", "--out", tmp_path)
    assert "hierarchy.png" in err
    assert (tmp_path / "hierarchy.png").read_text() == "mine"
