"""Limiting networks: derivatives, the finite networks near them, and the runs that lead to them."""

import pytest
import torch

import semiflat as sf
from semiflat.curvature.acceleration import bending
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import output_jacobian
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.limits import Form, Limit, LimitMLP, LimitProblem, recognise
from semiflat.limits.network import SATURATED

U, G, T, L, S = Form.UNIT, Form.GATE, Form.TAIL, Form.LINEAR, Form.STEP
FUNCTIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
    "sin": torch.sin,
}


def by_hand(net, forms, offsets, inputs, vector, function):
    """The limiting network unit by unit, the gates by forward differentiation."""
    params, h = net.unflatten(vector), inputs
    for layer in range(net.depth):
        z = h @ params[f"{2 * layer}.weight"].T + params[f"{2 * layer}.bias"]
        if layer == net.depth - 1:
            break
        z, columns = z + offsets[layer].T, []
        for unit, form in enumerate(forms[layer]):
            if form is T:
                columns.append(z[:, unit].exp())
            elif form is L:
                columns.append(z[:, unit])
            elif form is G:
                base = z[:, max(k for k in range(unit) if forms[layer][k] is U)]
                columns.append(torch.func.jvp(function, (base,), (z[:, unit],))[1])
            else:
                columns.append(function(z[:, unit]))
        h = torch.stack(columns, -1)
    return z


@pytest.mark.parametrize("activation", sorted(FUNCTIONS))
@pytest.mark.parametrize(
    ("widths", "forms"),
    [
        ([2, 4, 1], ([[U, G, T, L]], [[U, U, G, G]], [[U, U, U, U]])),
        (
            [2, 4, 5, 3, 2],
            (
                [[U, G, S, L], [U, U, G, T, S], [U, G, L]],
                [[U, G, G, S], [U, G, U, G, L], [T, T, U]],
                [[U, U, U, U], [U, G, G, G, U], [U, G, G]],
            ),
        ),
        ([3, 2, 2, 2, 1], ([[U, G]] * 3, [[U, U]] * 3, [[L, T]] * 3)),
        # wide enough that symmetric blocks are summed by halves
        ([16, 17, 2], ([[U, G, T, L] * 4 + [U]], [[U] * 17], [[U, G, G] * 5 + [L, S]])),
    ],
)
def test_every_derivative_against_automatic_differentiation(activation, widths, forms):
    generator = torch.Generator().manual_seed(1)
    net = sf.MLP(widths, activation)
    problems = [
        sf.Problem(
            net,
            torch.randn((9, widths[0]), generator=generator),
            torch.randn((9, widths[-1]), generator=generator),
        )
        for _ in range(3)
    ]
    size = SATURATED if activation in ("sigmoid", "tanh") else 1.0
    offsets = []
    for layer, width in enumerate(net.hidden):
        sides = torch.randint(0, 2, (3, width, 9), generator=generator) * 2.0 - 1
        steps = torch.tensor([[[form is S] for form in each[layer]] for each in forms])
        offsets.append(size * sides * steps.double())
    batch = LimitProblem(problems, [LimitMLP(net, each) for each in forms], offsets)
    vectors, ways = 0.5 * torch.randn((2, 3, net.parameter_count), generator=generator).double()
    params = net.unflatten(vectors)
    bent = bending(batch, params, net.unflatten(ways))
    risk, gradient, hessian = risk_gradient_hessian(batch, params)
    jacobian = output_jacobian(batch, params)
    far_risk, far_gradient, gauss_newton = risk_gradient_gauss_newton(batch, params)
    for k, problem in enumerate(problems):

        def outputs(vector, k=k, problem=problem):
            at = [offset[k] for offset in offsets]
            return by_hand(net, forms[k], at, problem.X, vector, FUNCTIONS[activation])

        def dense(vector, problem=problem, outputs=outputs):
            return (outputs(vector) - problem.y).square().sum(-1).mean() / 2

        slopes = torch.func.jacrev(outputs)(vectors[k])
        curved = torch.func.jacrev(torch.func.jacrev(dense))(vectors[k])
        torch.testing.assert_close(risk[k], dense(vectors[k]), rtol=1e-12, atol=0)
        scale = float(curved.abs().max())
        down = torch.func.grad(dense)(vectors[k])
        torch.testing.assert_close(gradient[k], down, rtol=1e-11, atol=1e-13 * scale)
        torch.testing.assert_close(hessian[k], curved, rtol=1e-11, atol=1e-13 * scale)
        torch.testing.assert_close(jacobian[k], slopes, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(far_risk[k], risk[k], rtol=1e-12, atol=0)
        torch.testing.assert_close(far_gradient[k], down, rtol=1e-11, atol=1e-13 * scale)
        squares = torch.einsum("nmp,nmq->pq", slopes, slopes) / 9
        torch.testing.assert_close(gauss_newton[k], squares, rtol=1e-11, atol=1e-12 * scale)

        def slope(vector, k=k, outputs=outputs):
            return torch.func.jvp(outputs, (vector,), (ways[k],))[1]

        twice = torch.func.jvp(slope, (vectors[k],), (ways[k],))[1]
        pulled = torch.einsum("nmp,nm->p", slopes, twice) / 9
        torch.testing.assert_close(bent[k], pulled, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softplus"])
def test_finite_networks_tend_to_the_limit(activation):
    generator = torch.Generator().manual_seed(0)
    net = sf.MLP([2, 4, 5, 3, 2], activation)
    problem = sf.Problem(
        net, torch.randn((30, 2), generator=generator), torch.randn((30, 2), generator=generator)
    )
    step = S if activation != "softplus" else U
    forms = [[U, G, step, L], [U, G, U, T, L], [U, G, L]]
    params = net.random_params(1)
    far = {key: torch.zeros_like(tensor) for key, tensor in params.items()}
    if step is S:
        far["0.weight"][2] = params["0.weight"][2]
        far["0.bias"][2] = params["0.bias"][2]
    limit = Limit(problem, LimitMLP(net, forms), params, far)
    gaps = [abs(limit.approach(scale).loss - limit.loss) for scale in (1e2, 1e3, 1e4)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 1e-4
    for rate in limit.rates:
        expected = {G: 2.0, T: 1.0, L: 1.0}[rate.form]
        assert rate.order == pytest.approx(expected, abs=0.15)


def with_a_minimum_at_infinity() -> tuple[sf.Problem, torch.Tensor]:
    """Data on which a gate, its parameters known, is a minimum at infinity of two tanh units.

    Two units at distance s make of the gate ``f + s² q`` to leading order. The targets lie at
    ``f − κ q⊥``, q⊥ being q without the tangents at the gate: the gate is critical, and going back to
    a finite s raises the loss by ``κ s² ‖q⊥‖²/N``.
    """
    generator = torch.Generator().manual_seed(3)
    X = torch.randn((80, 2), generator=generator).double()
    net = sf.MLP([2, 2, 1], "tanh")
    vector = torch.tensor([1.0, -0.6, 0.7, 1.5, 0.3, -0.2, 0.8, 1.1, 0.1]).double()
    offsets = [torch.zeros((2, 80)).double()]

    def outputs(at):
        return by_hand(net, [[U, G]], offsets, X, at, torch.tanh)[:, 0]

    def pair(s):
        w, b = vector[:2], vector[2:4]
        bias, gate_bias, c, a = vector[4], vector[5], vector[6], vector[7]
        z, g = X @ w + bias, X @ b + gate_bias
        one, two = torch.tanh(z + s * g / 2), torch.tanh(z - s * g / 2)
        return c * (one + two) / 2 + a * (one - two) / s + vector[8]

    step = 1e-2
    leading = (pair(torch.tensor(step).double()) - outputs(vector)) / step**2
    tangents = torch.func.jacrev(outputs)(vector)
    basis = torch.linalg.svd(tangents, full_matrices=False)
    known = basis.U[:, 1e-10 * basis.S[0] < basis.S]
    beyond = leading - known @ (known.T @ leading)
    y = outputs(vector) - 0.3 * beyond / beyond.square().mean().sqrt()
    return sf.Problem(net, X, y), vector


def test_a_run_into_a_channel_ends_at_the_critical_point_at_infinity():
    problem, vector = with_a_minimum_at_infinity()
    known = Limit(problem, LimitMLP(problem.net, [[U, G]]), problem.net.unflatten(vector))
    assert known.loss == pytest.approx(0.045, rel=1e-9)
    assert known.gradient_norm < 1e-14
    assert known.inertia == (8, 1, 0)  # the gate's row against its outgoing weight
    assert known.kind == "MINIMUM"
    result = sf.run_search(problem, starts=1, start=known.approach(20.0).params)
    (run,) = result.runs
    assert run.status is sf.Status.CHANNEL
    assert "merge" in run.record.evidence
    assert run.limit.gradient_norm <= 1e-12
    assert run.limit.loss == pytest.approx(known.loss, rel=1e-12)
    assert run.limit.loss <= run.loss
    gaps = [run.limit.approach(scale).loss - run.limit.loss for scale in (10, 100, 1000)]
    assert gaps[0] > 50 * gaps[1] > 2500 * gaps[2] > 0


def test_random_starts_end_there_too():
    problem = with_a_minimum_at_infinity()[0]
    result = sf.run_search(problem, starts=24, seed=0)
    assert sum(result.counts.values()) == 24
    limits = [run.limit for run in result.runs if run.status is sf.Status.CHANNEL]
    losses = [limit.loss for limit in limits]
    assert any(loss == pytest.approx(0.045, rel=1e-9) for loss in losses), result.counts
    assert all(limit.gradient_norm <= 1e-10 for limit in limits)


@pytest.mark.parametrize("sign", [1, -1])
def test_merging_units_are_recognised_modulo_reflection(sign):
    """In two layers at once, one pair of them turned round."""
    generator = torch.Generator().manual_seed(5)
    net = sf.MLP([2, 3, 4, 1], "sigmoid")
    problem = sf.Problem(
        net, torch.randn((50, 2), generator=generator), torch.randn((50, 1), generator=generator)
    )
    limit = Limit(problem, LimitMLP(net, [[U, G, U], [U, G, U, U]]), net.random_params(2, scale=2))
    near = limit.approach(200.0)
    point = sf.Reflect(0, 1)(sf.Reflect(1, 0)(near)) if sign < 0 else near
    guess = recognise(problem, point.params)
    assert guess is not None
    assert guess.net.forms == limit.net.forms
    again = Limit(problem, guess.net, guess.params)
    assert again.loss == pytest.approx(limit.loss, rel=1e-4)


@pytest.mark.parametrize("turn", [[], [0], [1, 2]])
def test_three_units_that_only_cancel_together_make_two_gates(turn):
    """Γ of rank 2, with two units above; some of the three turned round."""
    generator = torch.Generator().manual_seed(7)
    net = sf.MLP([3, 4, 2], "tanh")
    problem = sf.Problem(
        net, torch.randn((60, 3), generator=generator), torch.randn((60, 2), generator=generator)
    )
    params = net.random_params(5, scale=2)
    limit = Limit(problem, LimitMLP(net, [[U, G, G, U]]), params)
    assert limit.net.gauge == 4
    gaps = [abs(limit.approach(scale).loss - limit.loss) for scale in (1e2, 1e3, 1e4)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    near = limit.approach(300.0)
    for unit in turn:
        near = sf.Reflect(0, unit)(near)
    guess = recognise(problem, sf.Permute(0, [3, 1, 0, 2])(near).params)
    assert guess is not None
    assert guess.net.forms == ((U, G, G, U),)
    again = Limit(problem, guess.net, guess.params)
    # The function, though its gates may be other ones of the same span.
    f, g = (each.net.forward(each.params, problem.X) for each in (limit, again))
    assert float((f - g).abs().max()) < 0.02 * float(f.abs().max())


def test_a_channel_runs_beside_a_line_of_strict_saddles():
    """log-Rosenbrock, the line higher than the channel and critical all along it."""
    generator = torch.Generator().manual_seed(0)
    X = torch.rand((200, 2), generator=generator).double() * 4 - 2
    y = torch.log(1 + (1 - X[:, 0]) ** 2 + 100 * (X[:, 1] - X[:, 0] ** 2) ** 2)
    problem = sf.Problem(sf.MLP([2, 4, 1], "tanh"), X, y)
    runs = sf.run_search(problem, starts=8, seed=0).runs
    channels = [run for run in runs if run.status is sf.Status.CHANNEL]
    assert channels
    lines = [line for run in channels for line in sf.saddle_lines(run)]
    assert lines
    for line in lines:
        assert line.narrow.net.widths == (2, 3, 1)
        assert line.height > 0
    critical = [line for line in lines if line.gradient_norm < 1e-12 and not line.narrow.net.gauge]
    assert critical
    for share in (0.5, -3.0, 40.0):
        wide = critical[0].at(share)
        assert wide.problem.net.widths == problem.net.widths
        assert wide.loss == pytest.approx(critical[0].loss, rel=1e-12)
        assert sf.judge(wide).kind is sf.Kind.STRICT_SADDLE
    other = sf.CriticalPoint(
        problem,
        problem.net.random_params(0),
        sf.run_search(problem, 1, max_iterations=1).runs[0].record,
    )
    with pytest.raises(sf.InputError, match="has no limit"):
        sf.saddle_lines(other)


def test_forms_that_make_no_sense_are_refused():
    net = sf.MLP([1, 2, 1])
    with pytest.raises(sf.InputError, match="one for each hidden unit"):
        LimitMLP(net, [[U]])
    with pytest.raises(sf.InputError, match="put its base there"):
        LimitMLP(net, [[G, U]])


def test_saturated_runs_end_at_steps_with_samples_on_their_edges():
    """Where tanh on diabetes stops at 1e-14 with weights of hundreds and a singular Hessian."""
    dataset = sf.load_data("diabetes")
    net = sf.MLP([10, 2, 1], "tanh")
    problem = sf.Problem(net, dataset.X, dataset.y)
    result = sf.run_search(problem, starts=8, seed=0)
    steps = [
        run
        for run in result.runs
        if run.status is sf.Status.SATURATED and (U, S) in run.limit.net.forms
    ]
    assert len(steps) >= 5
    for run in steps:
        limit = run.limit
        edge = limit.offsets[0][1] == 0
        assert 0 < int(edge.sum()) < net.fan_in(0)
        assert limit.gradient_norm <= 1e-12
        # Only what the samples on the edge see holds the step's incoming weights.
        assert limit.inertia[1:] == (net.fan_in(0) - int(edge.sum()), 0)
        near = limit.approach(5.0)
        assert near.loss == pytest.approx(limit.loss, rel=1e-9)
        outputs = torch.tanh(net.fed(near.params, problem.X, 0) @ net.layer(near.params, 0).T)
        assert bool((outputs[~edge, 1].abs() > 1 - 1e-6).all())
        assert bool((outputs[edge, 1].abs() < 1 - 1e-6).all())


def test_a_step_is_a_minimum_only_if_it_would_let_go_of_no_sample():
    problem = sf.Problem(
        sf.MLP([1, 1, 1], "tanh"), [[-2.0], [-1.0], [1.0], [2.0]], [-1.0, -1.2, 1.2, 1.0]
    )
    far = {key: torch.zeros(shape).double() for key, shape in problem.net.shapes.items()}
    far["0.weight"] += 1.0
    params = {key: torch.zeros_like(tensor) for key, tensor in far.items()}
    params["2.weight"] += 1.1
    limit = Limit(problem, LimitMLP(problem.net, [[S]]), params, far)
    assert limit.gradient_norm < 1e-15
    # The outer samples are overshot: a unit that let go of them first would do better.
    assert limit.kind == "UNDECIDED"
