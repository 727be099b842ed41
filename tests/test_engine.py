"""The compiled engine against torch, which defines what it is to compute; skipped where it is not installed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

import semiflat as sf
from semiflat.curvature import engine
from semiflat.curvature.acceleration import bending
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.limits import LimitMLP, LimitProblem
from semiflat.losses import ResidualLoss, Squared
from semiflat.search.methods import TrustRegion
from semiflat.search.record import Finished
from semiflat.search.store import FILE

native = pytest.importorskip("semiflat_native")
SMOOTH = ("tanh", "sigmoid", "softplus", "gelu", "silu", "sin")
KINKED = ("relu", "leaky_relu", "identity")
LOSSES = tuple(native.LOSSES)


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    """Whatever engine the other tests are run in."""
    monkeypatch.delenv("SEMIFLAT_ENGINE", raising=False)


def targets(loss: str, samples: int, outputs: int, rng: np.random.Generator) -> Tensor:
    """Targets that a loss takes."""
    match loss:
        case "logistic":
            return torch.from_numpy(rng.uniform(0, 1, (samples, outputs)))
        case "hinge2" | "hinge3":
            return torch.from_numpy(rng.choice([-1.0, 1.0], (samples, outputs)))
        case "cross_entropy" if rng.integers(2):
            return torch.from_numpy(rng.dirichlet(np.ones(outputs), samples))
        case "cross_entropy":
            return torch.from_numpy(rng.integers(0, outputs, samples))
    return torch.from_numpy(rng.standard_normal((samples, outputs)))


def random_problem(seed: int, widest: int = 12) -> sf.Problem:
    """A problem of any shape, activations, loss, weights and decay."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 6))
    widths = rng.integers(1, widest + 1, depth + 1).tolist()
    activations = [str(name) for name in rng.choice([*SMOOTH, *KINKED], depth - 1)]
    loss = LOSSES[seed % len(LOSSES)]
    widths[-1] += loss == "cross_entropy"
    samples = int(rng.integers(1, 600))
    bias = [bool(each) for each in rng.integers(0, 2, depth)]
    net = sf.MLP(widths, activations if depth > 1 else "tanh", bias)
    return sf.Problem(
        net,
        torch.from_numpy(rng.standard_normal((samples, widths[0]))),
        targets(loss, samples, widths[-1], rng),
        loss,
        weight_decay={"weight": 0.1, "bias": 0.01} if seed % 4 == 0 else 0.0,
        sample_weight=rng.uniform(0, 2, samples) if seed % 3 == 0 else None,
    )


def random_limits(seed: int, count: int = 3) -> LimitProblem:
    """As many limiting networks of one shape, with units of all forms, each on its own data."""
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(2, 5))
    widths = rng.integers(1, 7, depth + 1).tolist()
    net = sf.MLP(widths, [str(name) for name in rng.choice(SMOOTH[:2], depth - 1)])
    forms: list[list[list[str]]] = []
    for _ in range(count):
        rows: list[list[str]] = []
        for width in net.hidden:
            row: list[str] = []
            for _ in range(width):
                gate = ["gate"] * 4 if row and row[-1] in ("unit", "gate") else []
                row.append(str(rng.choice(["unit", "unit", "tail", "linear", "step", *gate])))
            rows.append(row)
        forms.append(rows)
    samples = int(rng.integers(3, 300))
    problems = [
        sf.Problem(
            net,
            0.3 * rng.standard_normal((samples, widths[0])),
            rng.standard_normal((samples, widths[-1])),
        )
        for _ in range(count)
    ]
    offsets = [
        torch.tensor(
            np.stack(
                [
                    [rng.choice([-1e4, 1e4], samples) if form == "step" else np.zeros(samples)
                     for form in rows[layer]]
                    for rows in forms
                ]
            )
        )
        for layer in range(depth - 1)
    ]  # fmt: skip
    return LimitProblem(problems, [LimitMLP(net, rows) for rows in forms], offsets)


def derivatives(problem: sf.Problem, params: dict[str, Tensor], along: dict[str, Tensor]) -> Any:
    """Everything that both compute, but for the product with the Hessian."""
    return (
        *risk_gradient(problem, params),
        *risk_gradient_hessian(problem, params),
        risk_gradient_gauss_newton(problem, params)[2],
        bending(problem, params, along),
    )


def largest_error(problem: sf.Problem, count: int, seed: int, scale: float = 1.0) -> float:
    """The engine's largest error in parts of each derivative's size, each network by itself."""
    net = problem.net
    params = net.random_params(seed, (count,), scale)
    along = net.random_params(seed + 1, (count,))
    with engine.using("torch"):
        expected = derivatives(problem, params, along)
    with engine.using("native"):
        found = derivatives(problem, params, along)
        product = engine.on_engine(problem, params, "product", along)
    assert product is not None
    expected += ((expected[4] @ net.flatten(along)[..., None])[..., 0],)
    worst = 0.0
    for one, other in zip(expected, (*found, *product), strict=True):
        for mine, true in zip(other, one, strict=True):
            worst = max(
                worst, float((mine - true).abs().max() / true.abs().max().clamp(min=1e-300))
            )
    return worst


@pytest.mark.parametrize("seed", range(48))
def test_derivatives_are_those_of_torch(seed):
    assert largest_error(random_problem(seed), 2, seed) < 1e-13


@pytest.mark.parametrize("seed", range(16))
def test_derivatives_of_limiting_networks_are_those_of_torch(seed):
    assert largest_error(random_limits(seed), 3, seed) < 1e-12


@pytest.mark.slow
def test_derivatives_of_a_thousand_wide_networks_are_those_of_torch():
    problems = [random_problem(seed, 40) for seed in range(1000, 2500)]
    taken = [each for each in problems if each.net.parameter_count <= engine.LARGEST]
    assert len(taken) > 1000
    errors = [largest_error(problem, 1, seed) for seed, problem in enumerate(taken)]
    assert max(errors) < 1e-12
    assert sum(error > 1e-13 for error in errors) < 0.01 * len(errors)


def with_kernel(monkeypatch: pytest.MonkeyPatch, **chosen: str) -> None:
    """Have the engine made with a kernel or library by name."""
    made = native.Networks.made
    networks = SimpleNamespace(made=lambda **how: made(**how, **chosen))
    names = {name: getattr(native, name) for name in native.__all__} | {"Networks": networks}
    monkeypatch.setattr(engine, "_installed", lambda: SimpleNamespace(**names))


@pytest.mark.parametrize("kernel", native.kernels())
@pytest.mark.parametrize("math", ["libm", ""])
def test_every_kernel_of_this_machine_is_right(monkeypatch, kernel, math):
    with_kernel(monkeypatch, kernel=kernel, math=math)
    problem = random_problem(0)
    with engine.using("native"):
        assert kernel in engine.engine_of(problem)
    assert max(largest_error(random_problem(seed), 1, seed) for seed in range(12)) < 1e-13


def curve(activation: str = "tanh", samples: int = 40) -> sf.Problem:
    x = torch.linspace(-1, 1, samples, dtype=torch.float64)[:, None]
    return sf.Problem(sf.MLP([1, 2, 1], activation), x, torch.sin(3 * x) + x.square())


def runs(problem: Any, starts: int, **how: Any) -> dict[int, Finished]:
    ended: list[Finished] = []
    sf.run_search(problem, starts, progress=ended.extend, **how)
    return {run.start: run for run in ended}


def same(one: Finished, other: Finished) -> bool:
    limits = [each.limit for each in (one, other)]
    if (limits[0] is None) != (limits[1] is None):
        return False
    if limits[0] and limits[1] and not torch.equal(limits[0].vector, limits[1].vector):
        return False
    plain = [(r.status, r.evidence, r.iterations, r.loss, r.gradient_norm) for r in (one, other)]
    return torch.equal(one.vector, other.vector) and plain[0] == plain[1]


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_run_depends_on_its_start_alone(activation):
    problem = curve(activation)
    together = runs(problem, 70, processes=2)  # in several processes
    by_threads = runs(problem, 12, processes=2)
    alone = runs(problem, 3, processes=1)
    assert all(same(together[k], by_threads[k]) for k in by_threads)
    assert all(same(together[k], alone[k]) for k in alone)
    assert all(run.engine.startswith("native") for run in together.values())


def test_threads_of_blas_change_nothing():
    x = torch.linspace(-2, 2, 60, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 6, 6, 1]), x, torch.sin(3 * x), weight_decay=1e-3)
    found = []
    for count in (1, 2):
        with threadpool_limits(count, user_api="blas"):
            found.append(runs(problem, 2, max_iterations=100))
    assert all(torch.equal(found[0][k].vector, found[1][k].vector) for k in range(2))


def test_a_run_depends_on_its_own_data_alone():
    problems = [curve(samples=30) for _ in range(3)]
    for k, problem in enumerate(problems):
        problem.y.add_(0.1 * k)
    together = runs(problems, 2)
    assert all(same(together[k], runs(problems[0], 2)[k]) for k in range(2))


def test_both_engines_find_the_same():
    problem = curve("gelu")
    results = [sf.run_search(problem, 24, engine=name) for name in ("torch", "native")]
    losses = [[point.loss for point in result] for result in results]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert results[0].frequencies == results[1].frequencies
    assert {run.record.engine for run in results[0].runs} == {"torch"}
    # Runs that creep to infinity for a thousand steps end one step or the other beyond a threshold.
    statuses = [[run.status for run in result.runs] for result in results]
    assert sum(one != other for one, other in zip(*statuses, strict=True)) <= 2


def test_what_is_stored_is_read_start_by_start(tmp_path):
    problem = curve()
    first = runs(problem, 5, out=tmp_path)
    result = sf.run_search(problem, 8, out=tmp_path)
    assert result.stored == 5
    assert torch.equal(problem.net.flatten(result.runs[0].params), first[0].vector)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-9])  # a torn last line is one run's
    assert sf.run_search(problem, 8, out=tmp_path).stored == 7
    assert sf.run_search(problem, 3, out=tmp_path).stored == 3


def test_what_the_engine_does_not_know_runs_in_torch():
    problem = sf.Problem(sf.MLP([1, 1, 1], torch.atan), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    assert {run.engine for run in runs(problem, 2).values()} == {"torch"}
    with pytest.raises(
        sf.InputError, match="does not know activation <callable atan>; leave engine"
    ):
        sf.run_search(problem, 2, engine="native")
    with pytest.raises(sf.InputError, match="engine"):
        sf.run_search(problem, 2, engine="fast")  # type: ignore[arg-type]
    deep = sf.MLP([1] * 20, "tanh")
    with engine.using("auto"):
        assert engine.engine_of(sf.Problem(deep, [[0.0], [1.0]], [0.0, 1.0])) == "torch"


def test_the_environment_says_who_computes(monkeypatch):
    monkeypatch.setenv("SEMIFLAT_ENGINE", "torch")
    assert {run.engine for run in runs(curve(), 2).values()} == {"torch"}
    assert {run.engine for run in runs(curve(), 2, engine="native").values()} != {"torch"}
    monkeypatch.setenv("SEMIFLAT_ENGINE", "")
    assert {run.engine for run in runs(curve(), 2).values()} != {"torch"}
    monkeypatch.setenv("SEMIFLAT_ENGINE", "fastest")
    with pytest.raises(sf.InputError, match="variable SEMIFLAT_ENGINE is 'fastest'"):
        runs(curve(), 2)


def test_an_empty_batch_has_empty_derivatives():
    problem = curve()
    none = sf.PointBatch(problem, problem.net.random_params(0, batch=(0,)))
    assert sf.hessian(none).shape == (0, 7, 7)


def test_a_subclass_of_a_known_loss_or_method_is_not_that_one():
    class Doubled(Squared):
        name = "doubled_squared"

        def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return r.square(), 2 * r, 2 * torch.ones_like(r)

        value = ResidualLoss.value
        first = ResidualLoss.first
        derivatives = ResidualLoss.derivatives

    problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5], Doubled())
    assert engine.engine_of(problem) == "torch"

    class Shorter(TrustRegion):
        pass

    assert Shorter.compiled is None


def test_an_engine_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(engine, "_installed", lambda: SimpleNamespace(__version__="0.0.1"))
    with pytest.warns(UserWarning, match=r"version 0\.0\.1, and this is semiflat"):
        assert engine.engine_of(curve()) == "torch"
    with pytest.raises(sf.InputError, match=r"version 0\.0\.1"):
        sf.run_search(curve(), 2, engine="native")


def test_versions_are_one():
    assert native.__version__ == sf.__version__


def test_without_the_engine_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(engine, "_installed", lambda: None)
    assert engine.engine_of(curve()) == "torch"
    with pytest.raises(
        sf.InputError, match=r"no compiled engine is installed; pip install \./native"
    ):
        sf.run_search(curve(), 2, engine="native")


GIVEN: dict[str, Any] = {
    "widths": [1, 2, 1],
    "biased": [True, True],
    "activations": [(0, 0.0, 0.0)],
    "loss": 0,
    "networks": 1,
    "X": np.zeros((1, 4, 1)),
    "y": np.zeros((1, 4, 1)),
    "share": np.full((1, 4), 0.25),
    "decays": None,
    "forms": None,
    "base": None,
    "offsets": None,
}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"X": np.zeros((1, 0, 1)), "y": np.zeros((1, 0, 1)), "share": np.zeros((1, 0))}, "samples"),
        ({"X": np.full((1, 4, 1), np.nan)}, "X is not finite"),
        ({"y": np.full((1, 4, 1), np.inf)}, "y is not finite"),
        ({"X": np.zeros((1, 4, 2))}, "X has 2 along axis 2, expected 1"),
        ({"X": np.zeros((2, 4, 1)), "y": np.zeros((2, 4, 1)), "share": np.zeros((2, 4))}, "2 sets"),
        ({"widths": [1, 0, 1]}, "widths from 1"),
        ({"widths": [1, 2**15, 1]}, "widths from 1"),
        ({"widths": [1] * 30}, "linear layers"),
        ({"activations": [(9, 0.0, 0.0)]}, "no activation"),
        ({"loss": 9}, "no loss"),
        ({"decays": np.zeros(3)}, "decays has 3"),
        ({"kernel": "fast"}, "no kernel 'fast'"),
        ({"math": "mine"}, "no library 'mine'"),
        ({"forms": np.zeros((1, 2), np.int32)}, "base and offsets"),
        (
            {
                "forms": np.array([[1, 0]], np.int32),
                "base": np.zeros((1, 2), np.int32),
                "offsets": np.zeros((1, 2, 4)),
            },
            "no form",
        ),
    ],
)  # fmt: skip
def test_the_engine_refuses_what_it_cannot_hold(wrong, says):
    with pytest.raises(ValueError, match=says):
        native.Networks.made(**(GIVEN | wrong))


def test_the_engine_refuses_arrays_that_do_not_fit():
    networks = native.Networks.made(**GIVEN)
    with pytest.raises(ValueError, match="theta has 6 along axis 1, expected 7"):
        networks.evaluate(0, np.zeros((1, 6)), np.zeros(1), np.zeros((1, 7)), None)
    with pytest.raises(ValueError, match="matrix is needed"):
        networks.evaluate(1, np.zeros((1, 7)), np.zeros(1), np.zeros((1, 7)), None)
    with pytest.raises(ValueError, match="BENDING or PRODUCT"):
        networks.along(1, np.zeros((1, 7)), np.zeros((1, 7)), np.zeros((1, 7)))


def test_ctrl_c_stops_the_threads_and_keeps_what_is_done():
    script = """
        import os, signal, threading, time
        import torch, semiflat as sf
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        x = torch.linspace(-3, 3, 4000, dtype=torch.float64)[:, None]
        sf.run_search(sf.Problem(sf.MLP([1, 1]), x, x), 1, engine="native")  # all is imported
        problem = sf.Problem(sf.MLP([1, 12, 12, 1]), x, torch.sin(5 * x))
        sent = time.monotonic() + 1.0
        threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        result = sf.run_search(problem, 8, processes=2, engine="native", tolerance=1e-30)
        print(result.interrupted, time.monotonic() - sent < 5)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr
