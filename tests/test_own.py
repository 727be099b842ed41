"""What a user defines goes everywhere: an activation, a loss, an embedding and a search method."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf

ATAN = sf.Activation.define("own_atan", torch.atan, reflection=0.0)


class PseudoHuber(sf.Loss):
    """``Σ_k √(1 + r_k²) − 1``, written as anybody would."""

    name = "own_pseudo_huber"

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        return y.reshape(samples, outputs)

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return ((1 + (f - y).square()).sqrt() - 1).sum(-1)

    def derivatives(self, f: Tensor, y: Tensor) -> Any:
        root = (1 + (f - y).square()).sqrt()
        return self.value(f, y), (f - y) / root, torch.diag_embed(root**-3)


class Doubled(sf.Embedding):
    """Every unit of a layer in two equal copies."""

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def extend(self, widening: Any) -> Any:
        for unit in range(widening.wide.hidden[self.layer]):
            widening = sf.Replicate(self.layer, unit, [0.5, 0.5]).extend(widening)
        return widening

    def to_json(self) -> list[dict[str, Any]]:
        return [{"type": "Doubled", "layer": self.layer}]


class Newton(sf.Method):
    """Newton's step for ‖∇R‖², damped by its scale: a method of four lines."""

    exact = True

    def local(self, problem: sf.Problem, theta: Tensor) -> tuple[Tensor, ...]:
        net = problem.net
        hessians = [sf.hessian(sf.Point(problem, net.unflatten(row))) for row in theta]
        return (torch.stack(hessians),)

    def step(
        self, problem: sf.Problem, theta: Tensor, gradient: Tensor, local: Any, scale: Tensor
    ) -> sf.Step:
        values, vectors = torch.linalg.eigh(local[0])
        along = (vectors.mT @ gradient[..., None])[..., 0]
        moves = -along / (values.abs() + 1 / scale.clamp(min=1e-12))
        promised = -(along * moves + values * moves.square() / 2).sum(-1)
        move = (vectors @ moves[..., None])[..., 0]
        return sf.Step(move, promised, torch.linalg.vector_norm(move, dim=-1))


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    X = 2 * torch.rand(40, 2, generator=g, dtype=torch.float64) - 1
    noise = 0.3 * torch.randn(40, generator=g, dtype=torch.float64)
    return X, torch.sin(3 * X[:, 0]) * X[:, 1] + 0.3 * X[:, 0] + noise


PROBLEMS = {
    "activation": lambda: sf.Problem(sf.MLP([2, 2, 1], "own_atan"), *data()),
    "loss": lambda: sf.Problem(sf.MLP([2, 2, 1], "tanh"), *data(), "own_pseudo_huber"),
    "both": lambda: sf.Problem(sf.MLP([2, 2, 1], ATAN), *data(), PseudoHuber()),
}


def all_the_way(
    problem: sf.Problem, folder: Path, embedding: sf.Embedding, starts: int = 8, **search: Any
) -> None:
    """find → judge → embed → reduce → escape → save → load, each held against plain autograd."""
    point = sf.find_critical_point(problem, starts, **search)
    assert point.status is sf.Status.CONVERGED, point

    def risk(vector: Tensor, of: sf.Point = point) -> Tensor:
        net = of.problem.net
        f = net.forward(net.unflatten(vector), problem.X)
        return problem.loss.value(f, problem.y).mean()

    at = problem.net.flatten(point.params)
    assert float(torch.func.grad(risk)(at).abs().max()) < 1e-11
    verdict = sf.judge(point)
    assert verdict.kind is sf.Kind.STRICT_MINIMUM, verdict.reason
    assert float(torch.linalg.eigvalsh(torch.func.hessian(risk)(at)).min()) > 0
    wide = embedding(point)
    found = sf.judge(wide)
    net = wide.problem.net
    values = torch.linalg.eigvalsh(
        torch.func.hessian(lambda v: risk(v, wide))(net.flatten(wide.params))
    )
    size = 1e-11 * float(values.abs().max())
    assert found.inertia is not None
    assert found.inertia.positive == int((values > size).sum())
    assert found.inertia.negative == int((values < -size).sum())
    small = sf.reduce(wide)
    assert small.widths == problem.net.hidden
    left = sf.escape(point)
    assert left.found, left.reason
    assert left.curvature == pytest.approx(left.measured_curvature, rel=1e-3)
    sf.save_point(wide, folder / "wide.safetensors")
    again = sf.load_point(folder / "wide.safetensors").point(problem.X, problem.y)
    assert again.problem.net == net
    assert again.problem.loss.name == problem.loss.name
    assert again.loss == wide.loss
    assert sf.judge(again).kind is found.kind


@pytest.mark.parametrize("name", PROBLEMS)
def test_an_activation_and_a_loss_of_one_s_own_go_all_the_way(name: str, tmp_path: Path) -> None:
    all_the_way(PROBLEMS[name](), tmp_path, sf.Replicate(0, 1, [0.3, 0.7]) >> sf.NullUnits(0, [0]))


def test_an_embedding_of_one_s_own_goes_all_the_way(tmp_path: Path) -> None:
    all_the_way(PROBLEMS["both"](), tmp_path, Doubled(0))


def test_a_method_of_one_s_own_goes_all_the_way(tmp_path: Path) -> None:
    all_the_way(PROBLEMS["both"](), tmp_path, Doubled(0), 2, method=Newton(), max_iterations=400)


def test_exact_fits_of_a_loss_of_one_s_own_converge_and_are_minima() -> None:
    X = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    y = torch.tensor([0.0, 0.5, 0.2], dtype=torch.float64)
    for loss in ("squared", "own_pseudo_huber"):
        problem = sf.Problem(sf.MLP([1, 3, 1], "tanh"), X, y, loss)
        result = sf.run_search(problem, starts=8, processes=1)
        assert result.counts[sf.Status.CONVERGED] == 8
        for run in result.runs:
            assert run.loss < 1e-15
            assert sf.judge(run).kind is sf.Kind.MINIMUM


def test_proofs_and_paths_say_what_they_would_need(tmp_path: Path) -> None:
    point = sf.find_critical_point(PROBLEMS["loss"](), starts=2)
    reason = sf.certify(point).reason
    assert "loss 'own_pseudo_huber' cannot be evaluated in balls" in reason
    assert "needs its function and two derivatives in semiflat.certificates.checker.balls" in reason
    own = sf.Point(PROBLEMS["activation"](), point.params)
    assert "activation 'own_atan' cannot be evaluated in balls" in sf.certify(own).reason
    with pytest.raises(sf.InputError, match="P21 Thm 3 is about the squared loss"):
        sf.path_to_zero_loss(point)
    wide = sf.Problem(sf.MLP([2, 40, 1], ATAN), *data())
    with pytest.raises(sf.InputError, match=re.escape("own_atan")):
        sf.path_to_zero_loss(sf.Point(wide, wide.net.random_params(0)))


def test_a_search_in_processes_takes_them_along(tmp_path: Path) -> None:
    problem = PROBLEMS["both"]()
    alone = sf.run_search(problem, starts=66, processes=1, max_iterations=8, method=Newton())
    spread = sf.run_search(problem, starts=66, processes=2, max_iterations=8, method=Newton())
    assert [run.loss for run in alone.runs] == [run.loss for run in spread.runs]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sf.Activation.define("tanh", torch.sin), "has an activation 'tanh' already"),
        (
            lambda: sf.Activation.define("x", torch.sin, odd=True),
            "unknown attribute of an activation",
        ),
        (lambda: sf.Activation.define("", torch.sin), "is a word to write into files"),
        (lambda: sf.Activation.define("y", lambda z: z.sum()), "is not elementwise"),
        (lambda: sf.run_search(PROBLEMS["both"](), 1, method="newton"), "unknown method 'newton'"),
        (lambda: sf.run_search(PROBLEMS["both"](), 1, method=3), "method must be a name or a"),
        (
            lambda: sf.run_search(PROBLEMS["both"](), 1, method=Newton(), out="never"),
            "Newton is a method of your own, and a folder cannot tell",
        ),
    ],
)
def test_what_is_wrong_is_refused(call: Any, message: str) -> None:
    with pytest.raises(sf.InputError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "method", ["trust_region", "levenberg_marquardt", "signed_newton", "gradient_system"]
)
def test_methods_have_names(method: str) -> None:
    problem = sf.Problem(sf.MLP([2, 1, 1], "tanh"), *data())
    start = problem.net.random_params(0)
    run = sf.run_search(problem, start=start, method=method, max_iterations=300).runs[0]
    assert run.gradient_norm < 1e-2 * float(sf.Point(problem, start).gradient_norm)


def residual_loss(rho: Any, name: str | None = "own_wrong") -> sf.Loss:
    body = {"rho": lambda self, r: rho(r)} | ({} if name is None else {"name": name})
    made: sf.Loss = type("Wrong", (sf.ResidualLoss,), body)()
    return made


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            residual_loss(lambda r: r**2),
            "rho gives a tensor of shape (3, 1); expected are 3 tensors of shapes (3, 1), (3, 1), (3, 1)",
        ),
        (
            residual_loss(lambda r: (r**2 / 2, r, torch.ones(()))),
            "rho gives 3 results (a tensor of shape (3, 1), a tensor of shape (3, 1), a tensor of shape ())",
        ),
        (
            residual_loss(lambda r: (r**2 / 2, r, r * 0 + 1), None),
            "loss Wrong has the name None; give",
        ),
        (residual_loss(lambda r: 1 / 0), "rho failed with ZeroDivisionError: division by zero"),
        (residual_loss(lambda r: (r**4 / 4, r**2, 3 * r**2)), "its ρ' is "),
        (residual_loss(lambda r: (r**4 / 4, 1.0001 * r**3, 3 * r**2)), "its ρ' is "),
        (residual_loss(lambda r: (r**4 / 4, r**3, 2 * r**2)), "its ρ'' is "),
        (
            residual_loss(lambda r: (r.detach() ** 2 / 2, r, 0 * r + 1)),
            "its value, differentiated by torch, gives 0; correct",
        ),
        (
            residual_loss(lambda r: (torch.from_numpy(r.numpy() ** 2), r, r)),
            "value, differentiated by torch, failed with RuntimeError",
        ),
        (
            residual_loss(lambda r: (torch.rand(()) * r**2, r, r)),
            "must give the same result for the same input",
        ),
        (
            lambda f, y: ((f - y) ** 2).sum() * torch.rand(()),
            "must give the same result for the same input",
        ),
        (lambda f, y: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda f, y: (f - y) ** 2 if f > 0 else 0 * f, "failed on one sample's output"),
    ],
)
def test_a_loss_that_is_none_is_refused_when_a_problem_is_made(loss: Any, message: str) -> None:
    with pytest.raises(sf.InputError, match=re.escape(message)):
        sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, -1.0], loss)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6, 1e12])
def test_true_derivatives_are_taken_whatever_the_units_of_the_targets(
    dtype: torch.dtype, size: float
) -> None:
    y = [size, -2 * size, 0.5]
    for loss in (
        PseudoHuber(),
        residual_loss(lambda r: (r**4 / 4, r**3, 3 * r**2)),
        residual_loss(lambda r: (torch.cosh(r) - 1, torch.sinh(r), torch.cosh(r))),
    ):
        net = sf.MLP([1, 2, 1])
        assert sf.Problem(net, [[0.0], [1.0], [2.0]], y, loss, dtype=dtype).loss is loss
    with torch.inference_mode():
        sf.Problem(net, [[0.0], [1.0], [2.0]], y, PseudoHuber(), dtype=dtype)


@pytest.mark.parametrize(
    "name", ["squared", "cross_entropy", "logistic", "log_cosh", "hinge2", "hinge3"]
)
def test_the_library_s_losses_would_pass_as_somebody_s(name: str) -> None:
    y = [0, 1, 1] if name == "cross_entropy" else [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    net, X = sf.MLP([1, 2]), [[0.0], [1.0], [2.0]]
    kind: Any = type(sf.Problem(net, X, y, name).loss)
    somebody_s = type("Somebodys", (kind,), {"name": f"own_{name}", "__module__": "own"})()
    assert sf.Problem(net, X, y, somebody_s).loss is somebody_s


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda g: g, "a Tensor; expected is a semiflat.Step of real tensors: move (2, 9)"),
        (lambda g: None, "a NoneType; expected"),
        (lambda g: sf.Step(g[0], g[:, 0], g[:, 0]), "a Step whose move is shape (9,)"),
        (lambda g: sf.Step(g, 1.0, g[:, 0]), "a Step whose promised is 1.0"),  # type: ignore[arg-type]
        (lambda g: sf.Step(g, g[:, 0], g), "a Step whose length is shape (2, 9)"),
        (lambda g: sf.Step(g, g[:, 0], g[:, 0], g[0]), "a Step whose gradient is shape (9,)"),
    ],
)
def test_a_step_that_is_none_is_refused_by_the_method_s_name(made: Any, message: str) -> None:
    class Lame(sf.Method):
        def step(
            self, problem: sf.Problem, theta: Tensor, gradient: Tensor, local: Any, scale: Tensor
        ) -> sf.Step:
            found: sf.Step = made(gradient)
            return found

    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), *data())
    with pytest.raises(sf.InputError, match=re.escape(f"Lame.step gave {message}")):
        sf.run_search(problem, 2, method=Lame())


class Scaled(sf.ResidualLoss):
    """A loss that is made with an argument: its name alone does not stand for it."""

    name = "scaled_square"

    def __init__(self, by: float) -> None:
        self.by = by

    def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.by * r**2 / 2, self.by * r, self.by * torch.ones_like(r)


def test_a_loss_made_with_arguments_is_not_known_by_its_name(tmp_path: Path) -> None:
    net = sf.MLP([1, 2, 1], "tanh")
    problem = sf.Problem(net, [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0], Scaled(3.0))
    assert not problem.loss.known
    point = sf.find_critical_point(problem, seed=0)
    assert sf.judge(point).kind in sf.Kind
    with pytest.raises(sf.InputError, match="scaled_square"):
        sf.save_point(point, tmp_path / "p.safetensors")
    assert sf.certify(point).status == "invalid_input"
    with pytest.raises(
        sf.InputError, match=re.escape("made with arguments; give one of it: Scaled(...)")
    ):
        sf.Problem(net, [[0.0]], [0.0], "scaled_square")
