"""Verdicts at critical points, against an independent dense Hessian and against theorems."""

import math

import pytest
import torch

import semiflat as sf
from semiflat.evidence import Evidence
from semiflat.symmetries.flatness import flatness
from semiflat.verdicts.lanczos import lowest_ritz

Kind = sf.Kind


def eigenvalues(point: sf.Point) -> torch.Tensor:
    """Of the Hessian by torch.func, through the exported module: no code shared with the library's."""
    module = point.problem.net.to_module(point.params)
    names = list(point.params)
    sizes = [point.params[name].numel() for name in names]

    def risk(vector: torch.Tensor) -> torch.Tensor:
        parts = vector.split(sizes)
        params = {n: p.reshape(point.params[n].shape) for n, p in zip(names, parts, strict=True)}
        out = torch.func.functional_call(module, params, (point.problem.X,))
        return (out - point.problem.y).square().sum(-1).mean() / 2

    at = torch.cat([point.params[name].reshape(-1) for name in names])
    return torch.linalg.eigvalsh(torch.func.hessian(risk)(at))


def taught(
    width: int, activation: str = "gelu", inputs: int = 1, outputs: int = 1, seed: int = 2
) -> sf.Problem:
    """What four tanh units and noise make: a narrow network has finite minima, with residuals."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn((40, inputs), generator=generator).double()
    teacher = sf.MLP([inputs, 4, 2], "tanh")
    y = teacher.forward(teacher.random_params(seed, scale=1.5), X)[:, :outputs]
    noise = torch.randn((40, outputs), generator=generator).double()
    return sf.Problem(sf.MLP([inputs, width, outputs], activation), X, y + 0.1 * noise)


@pytest.fixture(scope="module")
def narrow_points() -> list[sf.CriticalPoint]:
    points = []
    for inputs, seed in ((1, 2), (2, 0), (2, 2)):
        for activation in ("tanh", "gelu"):
            for width in (1, 2):
                problem = taught(width, activation, inputs, seed=seed)
                found = sf.find_critical_points(problem, starts=8, seed=1, max_iterations=200)
                points += found[:3]
    assert len(points) >= 15
    return points


def test_a_strict_minimum_has_only_positive_eigenvalues(narrow_points):
    for point in narrow_points:
        verdict = sf.judge(point)
        assert verdict.kind is Kind.STRICT_MINIMUM
        assert verdict.certainty is sf.Certainty.MEASURED
        dense = eigenvalues(point)
        assert verdict.inertia == (len(dense), 0, 0)
        assert (dense > 0).all()
        assert verdict.margin.ratio > 10
        assert math.isclose(verdict.margin.eigenvalue, float(dense[0]), rel_tol=1e-3)


@pytest.mark.parametrize("weights", [[0.3, 0.7], [-0.5, 1.5], [2, -2, 1], ["1/3", "1/3", "1/3"]])
def test_F19_Thm_11_one_output_replication(narrow_points, weights):
    """F19 Thm 11 / P21 Thms 5, 6: G's definiteness and the signs of λ decide, in both directions."""
    seen = set()
    for point in narrow_points:
        for unit in range(point.problem.net.hidden[0]):
            wide = sf.Replicate(0, unit, weights)(point)
            verdict = sf.judge(wide)
            g = torch.linalg.eigvalsh(sf.unit_blocks(point, 0, unit).G)
            if min(abs(g)) < 1e-7:
                continue
            positive = sum(w > 0 for w in sf.Replicate(0, unit, weights).weights)
            negative = len(weights) - positive
            minimum = (negative == 0 and g[0] > 0) or (positive == 1 and g[-1] < 0)
            assert verdict.kind is (Kind.MINIMUM if minimum else Kind.STRICT_SADDLE), verdict.reason
            assert verdict.flat_directions.dimension >= len(weights) - 1
            dense = eigenvalues(wide.materialize())
            floor = 1e-11 * float(dense.abs().max())
            counted = (int((dense > floor).sum()), int((dense < -floor).sum()))
            assert counted == (verdict.inertia.positive, verdict.inertia.negative)
            if minimum:
                assert verdict.flat_directions.zeros_unexplained == 0
                assert verdict.inertia.zero == len(weights) - 1
            seen.add(verdict.kind)
    assert seen


def test_both_kinds_occur_among_replications(narrow_points):
    kinds = {
        sf.judge(sf.Replicate(0, unit, weights)(point)).kind
        for point in narrow_points
        for unit in range(point.problem.net.hidden[0])
        for weights in ([0.5, 0.5], [-1, 2])
    }
    assert kinds == {Kind.MINIMUM, Kind.STRICT_SADDLE}


def test_plain_and_embedded_verdicts_agree(narrow_points):
    """The wide network's own Hessian, without knowing where it came from, says the same."""
    compared = 0
    for point in narrow_points[:6]:
        for embedding in (
            sf.Replicate(0, 0, [0.4, 0.6]),
            sf.Replicate(0, 0, [-0.5, 1.5]),
            sf.NullUnits(0, [0.3]),
            sf.Replicate(0, 0, [0.5, 0.5]) >> sf.NullUnits(0, [0.3]),
        ):
            wide = embedding(point)
            law, dense = sf.judge(wide), sf.judge(wide.materialize())
            assert law.kind is dense.kind, (law.reason, dense.reason)
            assert law.inertia == dense.inertia
            assert law.flat_directions.zeros_explained == dense.flat_directions.zeros_explained
            assert (law.method, dense.method) == ("inertia law", "dense Hessian")
            compared += 1
    assert compared == 24


def test_the_loss_never_falls_near_what_is_called_a_minimum(narrow_points):
    """The direct check of MINIMUM: random steps in the wide network, down to rounding."""
    checked = 0
    generator = torch.Generator().manual_seed(0)
    for point in narrow_points:
        for unit in range(point.problem.net.hidden[0]):
            for weights in ([0.5, 0.5], [-1, 2]):
                wide = sf.Replicate(0, unit, weights)(point)
                if sf.judge(wide).kind is not Kind.MINIMUM:
                    continue
                net = wide.problem.net
                steps = torch.randn((500, net.parameter_count), generator=generator).double()
                steps = 1e-3 * steps / steps.norm(dim=1, keepdim=True)
                near = wide.problem.risk(net.unflatten(net.flatten(wide.params) + steps))
                assert near.min() >= wide.loss - 1e-14
                checked += 1
    assert checked >= 3


def test_the_descent_direction_of_a_strict_saddle_leads_down(narrow_points):
    checked = 0
    for point in narrow_points:
        for embedding in (
            sf.Replicate(0, 0, [0.5, 0.5]),
            sf.Replicate(0, 0, [-1, 2]),
            sf.Replicate(0, 0, [2, 0, -1]),
            sf.NullUnits(0, [0.3, -1]),
        ):
            wide = embedding(point)
            verdict = sf.judge(wide)
            if verdict.kind is not Kind.STRICT_SADDLE:
                assert verdict.descent_direction is None
                assert verdict.curvature is None
                continue
            net = wide.problem.net
            d = net.flatten(verdict.descent_direction)
            assert math.isclose(float(d.norm()), 1, rel_tol=1e-9)
            measured = float(d @ sf.hessian(wide) @ d)
            assert verdict.curvature < 0
            assert math.isclose(measured, verdict.curvature, rel_tol=1e-6, abs_tol=1e-13)
            if verdict.curvature > -1e-7:
                continue
            at = net.flatten(wide.params)
            t = torch.logspace(-4, 0, 30, dtype=torch.float64)[:, None]
            both = [wide.problem.risk(net.unflatten(at + s * t * d)).min() for s in (1, -1)]
            assert max(both) < wide.loss
            checked += 1
    assert checked >= 8


def test_F19_Thm_5_two_outputs_make_strict_saddles():
    """F19 Thm 5 (i), with F ≠ 0 alone: with two outputs every replication is a strict saddle."""
    points = sf.find_critical_points(taught(1, "tanh", outputs=2), starts=12, seed=0)
    assert points
    for point in points:
        assert float(sf.unit_blocks(point, 0, 0).F.norm()) > 1e-3
        for weights in ([0.5, 0.5], [-1, 2], [0, 1]):
            assert sf.judge(sf.Replicate(0, 0, weights)(point)).kind is Kind.STRICT_SADDLE


def test_a_zero_share_is_never_called_a_minimum_on_smooth_networks(narrow_points):
    """At the edge of a non-attracting region third derivatives decide (theory §3)."""
    for point in narrow_points:
        kind = sf.judge(sf.Replicate(0, 0, [0, 1])(point)).kind
        assert kind in (Kind.UNDECIDED, Kind.STRICT_SADDLE)


def test_million_wide_verdicts_do_not_build_the_network(narrow_points):
    point = narrow_points[0]
    wide = sf.Replicate.uniform(0, 0, 10**6)(point)
    verdict = sf.judge(wide)
    small = sf.judge(sf.Replicate.uniform(0, 0, 10)(point))
    assert verdict.kind is small.kind
    assert "_params" not in wide.__dict__
    assert sum(verdict.inertia) == wide.problem.net.parameter_count
    per_copy = [(b - a) / (10**6 - 10) for a, b in zip(small.inertia, verdict.inertia, strict=True)]
    assert all(n == int(n) for n in per_copy)


def test_not_critical_points_get_their_inertia_and_the_way_down():
    problem = taught(2)
    point = sf.Point(problem, problem.net.random_params(3))
    verdict = sf.judge(point)
    assert verdict.kind is Kind.NOT_CRITICAL
    assert sum(verdict.inertia) == problem.net.parameter_count
    d = problem.net.flatten(verdict.descent_direction)
    assert float(d @ sf.gradient(point)) < 0
    embedded = sf.judge(sf.Replicate(0, 1, [0.5, 0.5])(point))
    assert embedded.kind is Kind.NOT_CRITICAL
    wide = sf.Replicate(0, 1, [0.5, 0.5])(point)
    down = wide.problem.net.flatten(embedded.descent_direction)
    assert float(down @ sf.gradient(wide)) < 0


def test_a_verdict_is_neither_true_nor_false(narrow_points):
    with pytest.raises(TypeError, match="compare its kind"):
        bool(sf.judge(narrow_points[0]))


def test_a_sloppy_minimum_is_not_critical(narrow_points):
    """Moved by 1e-5, the gradient is what today's scripts stop at; that is no critical point."""
    point = narrow_points[0]
    moved = {key: tensor + 1e-5 for key, tensor in point.params.items()}
    assert sf.judge(sf.Point(point.problem, moved)).kind is Kind.NOT_CRITICAL


# -- flat directions, family by family ------------------------------------------------------------


def families(point: sf.Point) -> dict[str, int]:
    return {f.name: f.dimension for f in flatness(Evidence(point, 1e-10)).families}


def check_all_flat(point: sf.Point) -> None:
    """Every joint tangent has zero curvature to first order of the move: f moves by O(t²) only."""
    flat = flatness(Evidence(point, 1e-10))
    net, problem = point.problem.net, point.problem
    at = net.flatten(point.params)
    for family in flat.families:
        for tangent in family.tangents:
            t = 1e-6 * tangent / tangent.norm()
            change = problem.risk(net.unflatten(at + t)) - problem.risk(net.unflatten(at - t))
            assert abs(float(change)) <= 1e-12, family.name


X2 = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.9], [-1.1, -0.4], [0.2, 0.8], [1.0, -0.6]])


def test_flat_families_are_found_and_are_flat():
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(6, generator=generator).double()
    inputs = torch.cat([X2, torch.ones(6, 1), X2[:, :1] * 2], dim=1).double()
    net = sf.MLP([4, 3, 1], "relu")
    params = net.random_params(0)
    params["0.bias"][:] = torch.tensor([1.0, -50.0, 0.7])  # the second is dead on the data
    params["2.weight"][0, 2] = 0.0
    point = sf.Point(sf.Problem(net, inputs, y), params)
    found = families(point)
    assert found["constant inputs"] == 3
    assert found["collinear inputs"] == 3
    assert found["dead units"] == 5 + 1
    assert found["zero outgoing weights"] == 5
    assert "positive scaling" in found
    check_all_flat(point)


def test_duplicate_and_null_units_are_found_in_a_plain_point():
    y = torch.tensor([0.3, -1.0, 0.4, 0.9, -0.2, 0.6]).double()
    problem = sf.Problem(sf.MLP([2, 2, 1], "sigmoid"), X2, y)
    point = sf.Point(problem, problem.net.random_params(0))
    wide = (sf.Replicate(0, 1, [0.2, 0.8]) >> sf.NullUnits(0, [0.7]))(point).materialize()
    found = families(wide)
    assert found["duplicate units"] == 1
    assert found["constant units nobody listens to"] == 1
    assert found["zero outgoing weights"] == 3
    check_all_flat(wide)


def test_the_shift_that_softmax_ignores_is_found():
    net = sf.MLP([2, 3, 3], "tanh")
    point = sf.Point(sf.Problem(net, X2, [0, 1, 2, 0, 1, 2], "cross_entropy"), net.random_params(0))
    assert families(point)["softmax shift"] == 4
    check_all_flat(point)


def test_linear_networks_are_minima_with_their_mixing_explained():
    """A deep linear network at its least squares solution: flat along the mixing of its units."""
    generator = torch.Generator().manual_seed(2)
    X = torch.randn((20, 2), generator=generator).double()
    y = X @ torch.tensor([[1.0, -2.0], [0.5, 0.3]]).double() + torch.randn(
        (20, 2), generator=generator
    )
    problem = sf.Problem(sf.MLP([2, 2, 2], "identity"), X, y)
    points = sf.find_critical_points(problem, starts=6, seed=0)
    assert points
    verdict = sf.judge(points[0])
    assert verdict.kind is Kind.MINIMUM
    assert verdict.inertia == (6, 6, 0)
    assert verdict.flat_directions.zeros_unexplained == 0


def test_relu_replication_at_a_one_output_minimum_is_flat_not_a_saddle():
    """M = 1 and F = 0: V·W = const is a manifold, and its tangent space is the whole kernel."""
    x = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 2, 1], "relu"), x, torch.sin(1.3 * x) + 0.3 * x**2)
    points = [
        p
        for p in sf.find_critical_points(problem, starts=30, seed=0)
        if sf.judge(p).kind is Kind.MINIMUM
    ]
    assert points
    wide = sf.Replicate(0, 0, [0.5, 0.5])(points[0])
    verdict = sf.judge(wide)
    assert verdict.kind is Kind.MINIMUM, verdict.reason
    net = wide.problem.net
    steps = torch.randn((400, net.parameter_count), generator=torch.Generator().manual_seed(0))
    steps = 1e-4 * steps.double()
    near = wide.problem.risk(net.unflatten(net.flatten(wide.params) + steps))
    assert near.min() >= wide.loss - 1e-14


def test_a_kink_is_undecided_not_judged():
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), [[0.0], [1.0]], [0.0, 1.0])
    params = {
        "0.weight": torch.ones(1, 1),
        "0.bias": torch.zeros(1),
        "2.weight": torch.ones(1, 1),
        "2.bias": torch.zeros(1),
    }
    twice = sf.Problem(problem.net, [[0.0], [1.0], [1.0]], [0.0, 0.5, 1.5])
    verdict = sf.judge(sf.Point(twice, params))
    assert verdict.kind is Kind.UNDECIDED
    assert "not differentiable" in verdict.reason
    smooth = {**params, "0.bias": torch.ones(1), "2.bias": -torch.ones(1)}
    null = sf.judge(sf.NullUnits(0, [0])(sf.Point(problem, smooth)))
    assert null.kind is Kind.UNDECIDED
    assert "kink" in null.reason


def test_exact_fits_are_minima_of_a_manifold():
    """More parameters than samples, every sample fitted: minimum, flat along the other fits."""
    X = torch.tensor([[-1.0], [0.2], [1.3]]).double()
    net = sf.MLP([1, 3, 1], "tanh")
    params = net.random_params(0, scale=2.0)
    problem = sf.Problem(net, X, net.forward(params, X))
    verdict = sf.judge(sf.Point(problem, params))
    assert verdict.kind is Kind.MINIMUM
    assert verdict.inertia == (3, 7, 0)
    assert verdict.flat_directions.zeros_unexplained == 0
    wide = sf.judge(
        (sf.Replicate(0, 0, [2, -1]) >> sf.NullUnits(0, [0.2]))(sf.Point(problem, params))
    )
    assert wide.kind is Kind.MINIMUM
    assert wide.inertia.negative == 0


def test_a_degenerate_minimum_without_a_known_reason_is_undecided():
    """f = v·w³-like flatness: R grows with the fourth power, which second derivatives cannot see."""
    net = sf.MLP([1, 1, 1], lambda z: z**3, bias=False)
    problem = sf.Problem(net, [[1.0]], [0.0])
    point = sf.Point(problem, {"0.weight": torch.zeros(1, 1), "2.weight": torch.ones(1, 1)})
    assert sf.judge(point).kind in (Kind.UNDECIDED, Kind.MINIMUM)
    shifted = sf.Problem(net, [[1.0], [1.0]], [1.0, -1.0])
    verdict = sf.judge(sf.Point(shifted, point.params))
    assert verdict.kind is Kind.UNDECIDED
    assert verdict.flat_directions.zeros_unexplained > 0


def orthogonal_residual(columns: torch.Tensor, size: float) -> torch.Tensor:
    """A vector of residuals that none of the columns sees."""
    draw = torch.randn((len(columns), 1), generator=torch.Generator().manual_seed(3)).double()
    basis = torch.linalg.qr(columns).Q
    draw = draw - basis @ (basis.mT @ draw)
    draw = draw - basis @ (basis.mT @ draw)
    return size * draw


def test_constant_loss_along_the_kernel_is_not_enough_for_a_minimum():
    """y² + yx² in a network: an unheard unit whose motion gives its outgoing weight a slope.

    The loss is constant along its incoming weights and positive semidefinite, and yet falls, with
    the fourth power of the distance: a manifold of constant loss need not consist of critical points.
    """
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    net = sf.MLP([1, 2, 1], "tanh")
    params = {
        "0.weight": torch.tensor([[1.3], [0.7]]).double(),
        "0.bias": torch.tensor([0.2, -0.6]).double(),
        "2.weight": torch.tensor([[1.5, 0.0]]).double(),
        "2.bias": torch.tensor([0.1]).double(),
    }
    h = torch.tanh(x @ params["0.weight"].mT + params["0.bias"])
    slopes = 1 - h**2
    ones = torch.ones_like(x)
    columns = torch.cat([h, ones, slopes, slopes * x], dim=1)
    problem = sf.Problem(net, x, net.forward(params, x) - orthogonal_residual(columns, 0.1))
    verdict = sf.judge(sf.Point(problem, params))
    assert verdict.gradient_norm < 1e-14
    assert verdict.inertia == (5, 2, 0)
    assert verdict.kind is Kind.UNDECIDED
    assert "not critical" in verdict.reason
    # and the loss does fall: move the unheard unit, refit the outgoing weights
    moved = {**params, "0.weight": params["0.weight"] + torch.tensor([[0.0], [0.1]]).double()}
    features = torch.cat([torch.tanh(x @ moved["0.weight"].mT + moved["0.bias"]), ones], dim=1)
    fit = torch.linalg.lstsq(features, problem.y).solution
    moved["2.weight"], moved["2.bias"] = fit[:2].mT, fit[2]
    assert float(problem.risk(moved)) < float(problem.risk(params)) - 1e-11


def coupled_residual(net: sf.MLP, params: dict, x: torch.Tensor, size: float) -> torch.Tensor:
    """Residuals (N, 2) for a 1-1-1-2 tanh network: critical, F = 0 in layer 1, both G positive,

    and Σ δ σ₁' σ₀' x̃ not zero, though its product with the outgoing weights is. The smallest vector
    that meets these linear conditions.
    """
    ones = torch.ones_like(x)
    h0 = torch.tanh(x @ params["0.weight"].mT + params["0.bias"])
    h1 = torch.tanh(h0 @ params["2.weight"].mT + params["2.bias"])
    s0, s1 = 1 - h0**2, 1 - h1**2
    v = params["4.weight"][:, 0]
    across = torch.stack([-v[1], v[0]])
    low, high = torch.cat([x, ones], 1), torch.cat([h0, ones], 1)
    conditions: list[tuple[torch.Tensor, float]] = []
    for axis in torch.eye(2).double():
        columns = torch.cat([ones, h1, s1 * high], 1).mT
        conditions += [(column[:, None] * axis, 0.0) for column in columns]
    conditions += [(column[:, None] * v, 0.0) for column in (s1 * s0 * low).mT]
    for inputs, bend in ((high, -2 * h1 * s1), (low, -2 * h0 * s0 * s1 * params["2.weight"])):
        for i in range(2):
            for j in range(i + 1):
                row = (bend[:, 0] * inputs[:, i] * inputs[:, j])[:, None] * v
                conditions.append((row, 0.3 * len(x) if i == j else 0.0))
    conditions.append((s1 * s0 * x * across, float(len(x))))
    matrix = torch.stack([row.flatten() for row, _ in conditions])
    wanted = torch.tensor([value for _, value in conditions], dtype=torch.float64)
    solution = torch.linalg.pinv(matrix) @ wanted
    solution = solution - torch.linalg.pinv(matrix) @ (matrix @ solution - wanted)
    return size * solution.reshape(len(x), 2)


def test_copies_in_two_layers_are_minima_only_if_their_moves_stay_critical():
    """Two outputs and F = 0 by construction: moves of the copies in adjacent layers couple.

    Each layer's flat set alone consists of critical points; together they do not, and the loss falls.
    """
    x = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
    net = sf.MLP([1, 1, 1, 2], "tanh")
    both = sf.Replicate(0, 0, [0.5, 0.5]) >> sf.Replicate(1, 0, [0.5, 0.5])
    coupled = 0
    for seed in range(20):
        params = net.random_params(seed, scale=1.5)
        residual = coupled_residual(net, params, x, 1e-5)
        point = sf.Point(sf.Problem(net, x, net.forward(params, x) - residual), params)
        if sf.judge(point).kind is not Kind.STRICT_MINIMUM:
            continue
        for wide in (both(point), both(point).materialize()):
            verdict = sf.judge(wide)
            assert verdict.inertia.negative == 0
            assert verdict.kind is Kind.UNDECIDED
            coupled += "not critical" in verdict.reason
    assert coupled >= 4


def test_a_large_risk_does_not_excuse_a_large_gradient():
    X = torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None].repeat(2, 1)
    y = X[:, 0] + torch.tensor([1e6] * 10 + [-1e6] * 10).double()
    problem = sf.Problem(sf.MLP([1, 1]), X, y)
    params = {"0.weight": torch.ones(1, 1), "0.bias": torch.tensor([20.0])}
    assert sf.judge(sf.Point(problem, params)).kind is Kind.NOT_CRITICAL
    params["0.bias"][:] = 0
    assert sf.judge(sf.Point(problem, params)).kind is Kind.STRICT_MINIMUM


def test_tiny_targets_are_not_fitted_by_zero():
    problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.3], [1.0], [-0.7]], [1e-14, -2e-14, 1e-14])
    params = problem.net.random_params(0)
    params["2.weight"][:] = 0
    params["2.bias"][:] = 0
    verdict = sf.judge(sf.Point(problem, params))
    assert "cannot be lower" not in verdict.reason


# -- large points ---------------------------------------------------------------------------------


def test_large_points_are_judged_by_lanczos_as_far_as_it_goes(narrow_points):
    point = next(
        p for p in narrow_points if sf.judge(sf.NullUnits(0, [0.3])(p)).kind is Kind.STRICT_SADDLE
    )
    saddle = sf.NullUnits(0, [0.3])(point).materialize()
    verdict = sf.judge(saddle, dense_limit=3)
    assert verdict.kind is Kind.STRICT_SADDLE
    assert verdict.method == "Lanczos"
    assert verdict.inertia is None
    d = saddle.problem.net.flatten(verdict.descent_direction)
    assert float(d @ sf.hessian(saddle) @ d) < 0
    minimum = sf.judge(sf.Point(point.problem, point.params), dense_limit=3)
    assert minimum.kind is Kind.UNDECIDED
    assert "GiB" in minimum.reason
    rough = sf.Point(point.problem, point.problem.net.random_params(0))
    assert sf.judge(rough, dense_limit=3).kind is Kind.NOT_CRITICAL


def test_lanczos_finds_the_lowest_eigenvalue():
    problem = taught(6)
    point = sf.Point(problem, problem.net.random_params(0))
    low = lowest_ritz(sf.hessian_operator(point).product, problem.net.parameter_count)
    exact = float(torch.linalg.eigvalsh(sf.hessian(point))[0])
    assert abs(low.value - exact) <= low.residual + 1e-10
    assert abs(low.value - exact) <= 2e-3 * abs(exact)


def test_judge_refuses_what_is_no_single_point():
    problem = taught(2)
    with pytest.raises(sf.InputError, match="takes a Point"):
        sf.judge(problem)
    with pytest.raises(sf.InputError, match="judge takes one point; this is a PointBatch"):
        sf.judge(sf.PointBatch(problem, problem.net.random_params(0, (3,))))


@pytest.mark.parametrize("middle", [0.0, 40.0])
def test_inputs_far_from_0_are_told_of_where_nothing_is_decided(middle):
    X = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] + middle
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, torch.sin(3 * X))
    params = {
        "0.weight": torch.full((1, 1), 0.1).double(),
        "0.bias": torch.full((1,), 30.0).double(),
        "2.weight": torch.zeros(1, 1).double(),
        "2.bias": problem.y.mean(0),
    }
    verdict = sf.judge(sf.Point(problem, params))
    assert verdict.kind is Kind.UNDECIDED, verdict
    assert ("standardise them" in verdict.reason) is (middle > 0)
