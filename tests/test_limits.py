"""Limiting networks: derivatives, the finite networks near them, and the runs that lead to them."""

import pytest
import torch

import semiflat as sf
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import output_jacobian
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.limits import Form, Limit, LimitMLP, LimitProblem, recognise
from semiflat.limits.network import FAR

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
            return z
        z, columns = z + offsets[layer].T, []
        for unit, form in enumerate(forms[layer]):
            if form is T:
                columns.append(z[:, unit].exp())
            elif form is L:
                columns.append(z[:, unit])
            elif form is G:
                base = z[:, unit - 1]
                columns.append(torch.func.jvp(function, (base,), (z[:, unit],))[1])
            else:
                columns.append(function(z[:, unit]))
        h = torch.stack(columns, -1)


@pytest.mark.parametrize("activation", sorted(FUNCTIONS))
@pytest.mark.parametrize(
    ("widths", "forms"),
    [
        ([2, 4, 1], [[U, G, T, L]]),
        ([2, 4, 5, 3, 2], [[U, G, S, L], [U, U, G, T, S], [U, G, L]]),
        ([3, 2, 2, 2, 1], [[U, G]] * 3),
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
    limit = LimitMLP(net, forms)
    size = FAR if activation in ("sigmoid", "tanh") else 1.0
    sides = [torch.randint(0, 2, (3, len(row), 9), generator=generator) * 2.0 - 1 for row in forms]
    offsets = [
        size * side * torch.tensor([[form is S] for form in row]).double()
        for side, row in zip(sides, forms, strict=True)
    ]
    batch = LimitProblem(problems, limit, offsets)
    vectors = 0.5 * torch.randn((3, net.parameter_count), generator=generator).double()
    params = limit.unflatten(vectors)
    risk, gradient, hessian = risk_gradient_hessian(batch, params)
    jacobian = output_jacobian(batch, params)
    far_risk, far_gradient, gauss_newton = risk_gradient_gauss_newton(batch, params)
    for k, problem in enumerate(problems):

        def outputs(vector, k=k, problem=problem):
            at = [offset[k] for offset in offsets]
            return by_hand(net, forms, at, problem.X, vector, FUNCTIONS[activation])

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
    if step is S:
        params["0.weight"][2] *= 100
        params["0.bias"][2] *= 100
    limit = Limit(problem, LimitMLP(net, forms), params)
    gaps = [abs(limit.approach(scale).loss - limit.loss) for scale in (1e2, 1e3, 1e4)]
    assert gaps[0] > 5 * gaps[1] > 25 * gaps[2]
    assert gaps[2] < 1e-4
    for rate in limit.rates:
        expected = {G: 2.0, T: 1.0, L: 1.0}[rate.form]
        assert rate.order == pytest.approx(expected, abs=0.15)


def gated(noise: float) -> sf.Problem:
    """Data from one gated unit and noise: the best two units of this kind are at infinity."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn((80, 2), generator=generator).double()
    z = X @ torch.tensor([1.0, -0.6]).double() + 0.3
    y = torch.tanh(z) + (X @ torch.tensor([0.7, 1.5]).double()) / torch.cosh(z) ** 2
    errors = torch.randn(80, generator=generator).double()
    return sf.Problem(sf.MLP([2, 2, 1], "tanh"), X, y + noise * errors)


def test_a_run_into_a_channel_ends_at_the_critical_point_at_infinity():
    problem = gated(0.05)
    result = sf.run_search(problem, starts=16, seed=0)
    channels = [run for run in result.runs if run.status is sf.Status.CHANNEL]
    assert channels, {str(key): value for key, value in result.counts.items()}
    best = min(channels, key=lambda run: run.limit.loss)
    assert best.limit.gradient_norm <= 1e-10
    assert best.limit.loss <= best.loss
    assert best.limit.net.forms == ((U, G),)
    assert "merge" in best.record.evidence
    gaps = [best.limit.approach(scale).loss - best.limit.loss for scale in (10, 100, 1000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert best.limit.kind == "MINIMUM"
    assert best.limit.inertia == (8, 1, 0)  # the gate's row against its outgoing weight
    # An independent witness: no finite network found by many more starts lies below it.
    assert best.limit.loss <= min(run.loss for run in result.runs) * (1 + 1e-12)


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


def test_forms_that_make_no_sense_are_refused():
    net = sf.MLP([1, 2, 1])
    with pytest.raises(sf.InputError, match="one for each hidden unit"):
        LimitMLP(net, [[U]])
    with pytest.raises(sf.InputError, match="put its base there"):
        LimitMLP(net, [[G, U]])
