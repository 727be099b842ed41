"""Benchmarks keep their figures in one form, and a worse figure is found."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECORDED = sorted(BENCHMARKS.glob("results/*.json"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Imports a benchmark as it is when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_record_says_its_machine_and_makes_its_page(file: Path, load) -> None:
    cases = load("common").read(file)
    assert all(
        {"cpu", "date", "torch_threads"} <= case["machine"].keys() for case in cases.values()
    )
    page = load("search_figures" if file.stem == "search" else file.stem).page
    assert page(cases) == file.with_suffix(".md").read_text(encoding="utf-8")


def test_every_record_is_compared() -> None:
    assert {file.stem for file in RECORDED} == {
        "carry",
        "certificates",
        "engine",
        "growth",
        "hessian",
        "induced",
        "judge_module",
        "large",
        "mass_branches",
        "module_peers",
        "paths",
        "search",
        "startup",
        "store",
        "unit_curvature",
        "where_to_grow",
    }
    # compare.py has each measured again into a file of its own.
    scripts = [BENCHMARKS / f"{file.stem}.py" for file in RECORDED]
    scripts = [file if file.exists() else file.with_suffix("") / "run.py" for file in scripts]
    assert all('"--out"' in script.read_text(encoding="utf-8") for script in scripts)


def test_a_figure_that_is_worse_is_found_and_one_that_is_better_is_not(load, capsys) -> None:
    compare = load("compare")
    recorded = {
        "a": {"seconds": [1.0, 2.0, 3.0], "certified": 4, "gap": 1.0, "check": {"peak": 10}}
    }
    assert compare.compared(recorded, recorded, 1.5) == []
    better = {"a": {"seconds": [1.0], "certified": 8, "gap": 9.0, "check": {"peak": 5}}}
    assert compare.compared(recorded, better, 1.5) == []
    worse = {"a": {"seconds": [4.0], "certified": 2, "gap": 1.0, "check": {"peak": 14}}}
    assert compare.compared(recorded, worse, 1.5) == [
        "a: seconds is worse by 2.00",
        "a: certified is worse by 2.00",
    ]
    assert "! seconds" in capsys.readouterr().out
    assert compare.compared(recorded, {}, 1.5) == ["a: not measured"]
    gone = {"a": {"seconds": [1.0], "certified": 0}}
    assert compare.compared(recorded, gone, 1.5) == ["a: certified is worse by inf"]


def test_a_record_keeps_what_is_not_measured_again(load, tmp_path: Path) -> None:
    common, file = load("common"), tmp_path / "x.json"
    common.Record(file, lambda cases: " ".join(cases), ["b", "a"]).keep(
        "a", {"seconds": float("inf")}
    )
    common.Record(file, lambda cases: " ".join(cases), ["b", "a"]).keep("b", {"seconds": 1.0})
    assert json.loads(file.read_text())["cases"]["a"]["seconds"] is None
    assert file.with_suffix(".md").read_text() == "b a"


@pytest.fixture
def start(load):
    """A small trained model in float64 that is to be grown, and the parts of the benchmark."""
    tasks, run, wide = (load(f"growth.{name}") for name in ("tasks", "run", "wide"))
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(60, 4, generator=draw, dtype=torch.float64)
    y = torch.stack([X.prod(1), X.square().sum(1)], 1)

    def model(width: int, convolution: bool = False) -> torch.nn.Module:
        if convolution:
            layers = [
                torch.nn.Unflatten(1, (1, 2, 2)),
                torch.nn.Conv2d(1, width, 3, padding=1, bias=False),
                torch.nn.BatchNorm2d(width),
                torch.nn.SiLU(),
                torch.nn.Conv2d(width, 2, 3, padding=1),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
            ]
        else:
            layers = [torch.nn.Linear(4, width), torch.nn.GELU(), torch.nn.Linear(width, 2)]
        return torch.nn.Sequential(*layers).double()

    def start(convolution: bool = False):
        task = tasks.Task(
            lambda: tasks.Split(X[:40], y[:40], X[40:], y[40:]),
            lambda width: model(width, convolution),
            torch.nn.functional.mse_loss,
            3,
            2,
            {"1": ("1", "4")} if convolution else {"0": ("0", "2")},
            before=5,
            after=1,
            batch=10,
            layer="convolution" if convolution else "linear",
        )
        return run.started(task, 0), wide

    return start


@pytest.mark.parametrize("convolution", [False, True])
def test_ways_of_growing_add_what_is_asked_and_none_raises_the_loss(
    load, start, convolution
) -> None:
    here, _ = start(convolution)
    before = load("growth.run").losses(here.task, here.model, here.data)[0]
    methods = load("growth.methods")
    for name, method in methods.METHODS.items():
        if not methods.fits(here.task, name):
            continue
        model, optimizer = method(here)
        after = load("growth.run").losses(here.task, model, here.data)[0]
        same = name in ("no growth", "null units", "Net2Net", "GradMax")
        assert after == pytest.approx(before, rel=1e-9) if same else after <= before * 1.01, name
        more = 0 if name == "no growth" else 2
        assert model[1 if convolution else 0].weight.shape[0] == 3 + more, name
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert own == {id(p) for p in model.parameters()}, name


@pytest.mark.parametrize("convolution", [False, True])
def test_the_mixed_derivative_is_how_what_reads_a_new_unit_moves_what_makes_it(
    start, convolution
) -> None:
    here, parts = start(convolution)
    wide = parts.Wide(here, {next(iter(here.task.groups)): 1})
    name, place = next(iter(wide.added)), 3
    seen = wide.seen(name)
    mixed = seen.mixed(seen.slope)
    wide.clear(name)
    out = torch.randn(1, mixed.shape[1], generator=torch.Generator().manual_seed(1)).double()
    wide.put(name, [place], torch.zeros(1, mixed.shape[0], dtype=torch.float64), "writes", "adds")
    wide.put(name, [place], out, "reads")
    loss = wide.task.loss(wide.model(here.X), here.y)
    keys = [key for key, _ in wide.lines(name, "writes", "adds")]
    slopes = torch.autograd.grad(loss, [wide.tensors[key] for key in keys])
    found = torch.cat([slope[place].flatten() for slope in slopes])
    slope = 0.5 * ((1 + wide.model[2].eps) ** -0.5 if convolution else 1.0)
    assert torch.allclose(found, slope * (mixed @ out[0]), rtol=1e-9, atol=1e-12)


def test_the_best_step_leaves_no_slope_that_its_layer_could_follow(load, start) -> None:
    here, parts = start()
    wide = parts.Wide(here, {"0": 1})
    h, slope = wide.seen("0").h, wide.seen("0").slope
    left = load("growth.methods").best_step(wide, "0")
    heard = [0, 1, 2, 4]
    assert (h[:, heard].T @ left).abs().max() < 1e-4 * (h.T @ slope).abs().max()


def test_a_model_is_grown_with_the_batch_statistics_of_all_data(start) -> None:
    here, _ = start(convolution=True)
    made = here.model[:2](here.data.X)
    norm = here.model[2]
    assert torch.allclose(norm.running_mean, made.mean((0, 2, 3)))
    assert torch.allclose(norm.running_var, made.transpose(0, 1).flatten(1).var(1))
    assert norm.momentum == 0.1


def test_units_that_are_refused_are_there_all_the_same(load, start) -> None:
    here, parts = start()
    with torch.no_grad():
        done = replace(here.data, y=here.model(here.data.X))
    there = parts.Start(here.task, here.model, here.optimizer, done, 0)
    model, optimizer = load("growth.methods").semiflat(there)
    assert model[0].weight.shape[0] == 3 + 2
    assert torch.allclose(model(done.X), done.y)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {
        id(p) for p in model.parameters()
    }


def test_predictions_go_on_where_they_were_and_tell_each_group(load, start, monkeypatch) -> None:
    here, _ = start()
    common, run = load("common"), load("growth.run")
    predictions = load("growth.predictions")
    monkeypatch.setattr(predictions, "TASKS", {"small": here.task})
    monkeypatch.setattr(predictions, "STATES", {"some epochs": 0.2})
    record = common.Record(None, load("growth").page)
    predictions.predictions(record, ["small"], 2, run.started, run.losses)
    once = dict(record.cases)
    predictions.predictions(record, ["small"], 2, run.started, run.losses)
    assert record.cases == once, "nothing is done again"
    predictions.predictions(record, ["small"], 3, run.started, run.losses)
    for name, case in record.cases.items():
        assert [each["number"] for each in case["growths"]] == [0, 1, 2]
        assert case["growths"][:2] == once[name]["growths"]
        assert any(each["one_step"] for each in case["growths"])
        for each in case["growths"]:
            if each["one_step"]:
                assert each["one_step"] == pytest.approx(each["predicted"], rel=1e-6)
    found = load("growth.summary").by_group(record.cases)
    (growths,) = (case["growths"] for case in record.cases.values())
    mean = sum(each["predicted"] / each["loss"] for each in growths) / 3
    assert found["small", "some epochs", "0"]["predicted"] == pytest.approx(mean)


def test_records_made_apart_are_put_together(load, tmp_path: Path, monkeypatch) -> None:
    common, run = load("common"), load("growth.run")
    cases = common.read(BENCHMARKS / "results" / "growth.json")
    names = sorted(cases)
    for k in (0, 1):
        part = common.Record(tmp_path / f"{k}.json", run.page)
        for name in names[k::2]:
            part.keep(name, cases[name])
    files = [str(tmp_path / f"{k}.json") for k in (0, 1)]
    out = tmp_path / "all.json"
    monkeypatch.setattr(sys, "argv", ["growth", "--merge", *files, "--out", str(out)])
    run.main()
    assert common.read(out) == cases
    assert list(common.read(out)) == list(cases), "in the order of one run"
