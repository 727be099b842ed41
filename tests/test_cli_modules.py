"""`semiflat units`, and `widen` of a module, as somebody would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from helpers import refused_command, run

NETS = """
import torch
from torch import nn

def make(channels=4, width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(),
        nn.Linear(36 * channels, width), nn.GELU(), nn.Linear(width, 10))

def words():
    return nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

def recurrent():
    return nn.GRU(64, 4)

def batches():
    return [(torch.randint(0, 11, (3, 5)), torch.zeros(3, 5, 2))]

def number():
    return 3
"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    (own_folder / "mynets.py").write_text(NETS)
    return own_folder


ASKED = ("--model", "mynets:make", "--data", "digits", "--shape", "1x8x8")


def made(**sizes: int) -> nn.Module:
    """What ``mynets.make`` makes."""
    space: dict[str, object] = {}
    exec(NETS, space)
    module = space["make"](**sizes)  # type: ignore[operator]
    assert isinstance(module, nn.Module)
    return module.eval()


def test_the_groups_of_a_module_are_told(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, "units", *ASKED)
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:3]] == [
        ["0", "channel", "4"],
        ["4", "linear", "unit"],
    ]
    assert "it is an output of the model" in out
    code, out, _ = run(capsys, "units", *ASKED, "--json")
    assert [row["size"] for row in json.loads(out)["rows"]] == [4, 16, 10]
    code, out, _ = run(capsys, "units", "--model", "mynets:words", "--data", "mynets:batches")
    assert (code, "embedding" in out) == (0, True)


def test_where_nothing_can_be_changed_the_answer_is_no(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code, out, _ = run(capsys, "units", "--model", "mynets:recurrent", "--data", "digits", "--raw")
    assert (code, "no rule is known for 'gru'" in out) == (1, True)


def test_a_widened_module_computes_the_same(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    model = made()
    save_file(model.state_dict(), folder / "net.safetensors")
    command = ("widen", *ASKED, "--weights", "net.safetensors", "--out", "wide.safetensors")
    code, out, _ = run(capsys, *command, "--group", "4", "--units", 2, "--copies", "3:0.25,0.75")
    assert code == 0
    assert "make the module with 4.out_features = 19, 6.in_features = 19" in out
    wide = made(width=19)
    load_model(wide, folder / "wide.safetensors")
    images = torch.randn(5, 1, 8, 8)
    assert torch.allclose(wide(images), model(images), atol=1e-5)
    assert torch.equal(load_file("wide.safetensors")["4.weight"][:16], model[4].weight)  # type: ignore[index]
    code, out, _ = run(capsys, *command, "--group", "0", "--copies", "1:2", "--json")
    assert json.loads(out)["size"] == 5


def test_units_that_make_no_difference_are_left_out(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    code, out, _ = run(capsys, "shrink", *ASKED)
    assert (code, "of their size" in out) == (1, True)
    model = made()
    with torch.no_grad():
        model[6].weight[:, 3] = 0  # type: ignore[index]
    save_file(model.state_dict(), folder / "net.safetensors")
    command = ("shrink", *ASKED, "--weights", "net.safetensors", "--group", "4")
    code, out, _ = run(capsys, *command, "--out", "small.safetensors")
    assert code == 0
    assert "4 unit 3: for any input, nothing reads it" in out
    small = made(width=15)
    load_model(small, folder / "small.safetensors")
    images = torch.randn(5, 1, 8, 8)
    assert torch.allclose(small(images), model(images), atol=1e-5)
    code, out, _ = run(capsys, *command, "--json")
    assert json.loads(out)["widths"] == {"4": 15}
    (folder / "mine.safetensors").write_text("mine")
    assert "in the way" in refused_command(capsys, *command, "--out", "mine.safetensors")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("units", "--model", "mynets:number", "--data", "digits"), "makes a int"),
        (("units", "--model", "mynets:none", "--data", "digits"), "there is no none in "),
        (
            ("units", "--model", "mynets:make", "--data", "digits"),
            "the model fails on the example",
        ),
        (("units", "--model", "mynets:make", "--data", "mynets:number"), "a list of pairs"),
        (("units", *ASKED[:-1], "1x8x9"), "--shape 1x8x9 has 72 numbers"),
        (("units", *ASKED[:-1], "8by8"), "write 1x8x8"),
        (("units", *ASKED, "--weights", "no.safetensors"), "there is no file"),
        (("widen", *ASKED, "--out", "w.safetensors"), "--model needs --data and --group"),
        (
            ("widen", *ASKED, "--group", "4", "--out", "w.safetensors"),
            "nothing is to be added",
        ),
        (
            ("widen", *ASKED, "--group", "5", "--units", 1, "--out", "w.safetensors"),
            "there is no group of units '5'",
        ),
        (
            ("widen", *ASKED, "--group", "4", "--copies", "3;2", "--out", "w.safetensors"),
            "UNIT:SHARE,SHARE",
        ),
        (
            ("widen", *ASKED, "--group", "4", "--copies", "0:0.3,0.8", "--out", "w.safetensors"),
            "add up to 1.1",
        ),
        (("widen", "--out", "w.safetensors"), "give a .safetensors file of a point and steps, or"),
        (("widen", "p.safetensors", "--out", "w.safetensors"), "say what to add"),
        (
            ("widen", "p.safetensors", "null:0:0.4", "--units", 2, "--out", "w.safetensors"),
            "go with --model",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, given: tuple[object, ...], why: str
) -> None:
    assert why in refused_command(capsys, *given)
    assert not (folder / "w.safetensors").exists()


def test_growing_says_what_was_predicted_and_what_came(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    asked = ("--units", "1", "--group", "4", "--out", "wide.safetensors")
    code, out, _ = run(capsys, "grow", *ASKED, *asked, "--json")
    assert code == 0
    found = json.loads(out)
    (row,) = found["rows"]
    assert row["group"] == "4"
    assert row["after"] < row["before"]
    assert found["attributes"] == {"4.out_features": 17, "6.in_features": 17}
    wide = made(width=17)
    load_model(wide, "wide.safetensors")
    Path("foreign.safetensors").write_bytes(b"mine")
    refused_command(capsys, "grow", *ASKED, "--out", "foreign.safetensors")
    assert Path("foreign.safetensors").read_bytes() == b"mine"


def test_a_loss_that_is_not_known_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    line = refused_command(capsys, "grow", *ASKED, "--loss", "hinge")
    assert "hinge" in line
    assert "cross_entropy" in line
