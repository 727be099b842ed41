"""PAC-Bayes bounds: inequalities against exact probabilities, KL and draws against dense references."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import dblquad
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import semiflat as sf
from reference import Reference
from semiflat.bounds import catoni, kl_inverse, maurer, mcallester
from semiflat.bounds.blocks import GaussianBlock, PosteriorScale, spread_kl
from semiflat.bounds.box import BoxSurplus
from semiflat.bounds.family import family_at
from semiflat.bounds.inequalities import CATONI_GRID, log_xi
from semiflat.bounds.monte_carlo import bounded_risks, draw_risks, estimate
from semiflat.bounds.posterior import Posterior, assemble, normals
from semiflat.bounds.printed import printed_smooth_kl
from semiflat.bounds.surplus import SmoothSurplus

DELTA = 0.05
INEQUALITIES = {"McAllester": mcallester, "Maurer": maurer, "Catoni": catoni}


# -- inequalities -------------------------------------------------------------------------------------


def exact_kl_inverse(risk: float, budget: float) -> mpmath.mpf:
    with mpmath.workdps(80):  # 190 halvings of a gap of 2⁻⁵³ stay above its rounding
        q, c = mpmath.mpf(risk), mpmath.mpf(budget)
        low, high = q, mpmath.mpf(1)
        for _ in range(190):
            p = (low + high) / 2
            head = q * mpmath.log(q / p) if q else mpmath.mpf(0)
            tail = (1 - q) * mpmath.log((1 - q) / (1 - p)) if q < 1 else mpmath.mpf(0)
            low, high = (low, p) if head + tail > c else (p, high)
        return high


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 40) | st.floats(0, 1e-6))
def test_kl_inverse_is_never_below_the_exact_one_and_near_it(risk: float, budget: float):
    exact = exact_kl_inverse(risk, budget)
    found = kl_inverse(risk, budget)
    assert found >= exact - mpmath.mpf(10) ** -45  # what the reference's own bisection leaves
    assert found <= 1
    # And no higher than a budget larger by rounding, and the spacing of numbers near 1, make it.
    loose = exact_kl_inverse(risk, budget * (1 + 1e-13) + 1e-13)
    assert found <= loose + mpmath.mpf("2.3e-16")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20, 60])
def test_maurer_xi_is_its_sum_in_exact_fractions(n: int):
    exact = sum(
        math.comb(n, k) * Fraction(k, n) ** k * Fraction(n - k, n) ** (n - k) for k in range(n + 1)
    )
    assert math.log(exact) <= log_xi(n) + 1e-15
    assert math.isclose(math.exp(log_xi(n)), exact, rel_tol=1e-11)


def test_maurer_xi_is_between_root_n_and_two_root_n():
    for n in (1, 10, 1000, 100_000):
        assert math.log(n) / 2 <= log_xi(n) <= math.log(2) + math.log(n) / 2
    # Near √(πn/2), as the sum's terms are near the binomial's at its middle.
    assert math.isclose(math.exp(log_xi(100_000)), math.sqrt(math.pi * 100_000 / 2), rel_tol=5e-3)


def failure(bound, n: int, p: float) -> float:
    """Exact probability that the bound is below p, for one network of true risk p fixed in advance."""
    k = np.arange(n + 1)
    broken = np.array([bound(int(each) / n) < p for each in k])
    return float(stats.binom.pmf(k, n, p)[broken].sum())


@pytest.mark.parametrize("name", INEQUALITIES)
@pytest.mark.parametrize("n", [2, 9, 60, 400])
@pytest.mark.parametrize("delta", [0.05, 0.5])
def test_every_inequality_fails_with_probability_at_most_delta_at_kl_0(name, n, delta):
    inequality = INEQUALITIES[name]
    for p in (0.01, 0.1, 0.3, 0.5, 0.9, 1.0):
        assert failure(lambda r: inequality(r, 0.0, n, delta), n, p) <= delta


@pytest.mark.parametrize("m", [1, 20, 200])
def test_chernoff_hoeffding_upper_value_fails_with_probability_at_most_delta(m: int):
    def upper(r: float) -> float:
        draws = torch.zeros(m, dtype=torch.float64)
        draws[: round(r * m)] = 1
        return estimate(draws, 0.1).upper

    failures = [failure(upper, m, p) for p in (0.02, 0.3, 0.7, 0.95)]
    assert max(failures) <= 0.1
    assert max(failures) > 0.01, "it is no looser than it has to be"


def printed_13(risk: float, kl: float, n: int, delta: float) -> float:
    """F19 eq. (13), the root of a negative number read as 0."""
    return risk + 2 * math.sqrt(max(0.0, 2 * (kl + math.log(2 * delta / n)) / (n - 1)))


def test_f19_eq_13_is_not_a_bound_and_eq_39_is():
    n = 100
    # One network: the bound is its risk on the data, which is below the true one half of the time.
    failing = failure(lambda r: printed_13(r, 0.0, n, DELTA), n, 0.3)
    assert failing > 0.4
    assert failure(lambda r: mcallester(r, 0.0, n, DELTA), n, 0.3) < 1e-6
    # n/2δ networks of risk ½ and the best of them on the data: KL = ln(n/2δ), and the root is 0.
    count = round(n / (2 * DELTA))
    generator = np.random.default_rng(0)
    best = generator.binomial(n, 0.5, size=(300, count)).min(1) / n
    kl = math.log(count)
    assert np.mean([printed_13(r, kl, n, DELTA) < 0.5 for r in best]) == 1.0
    assert np.mean([mcallester(r, kl, n, DELTA) < 0.5 for r in best]) == 0.0


@pytest.mark.parametrize("name", INEQUALITIES)
def test_every_inequality_holds_for_gibbs_posteriors_on_thresholds(name: str):
    """x uniform on [0, 1], y = [x > ½] flipped with probability 0.1: every risk is known exactly."""
    thresholds = np.linspace(0, 1, 41)
    risks = 0.1 + 0.8 * np.abs(thresholds - 0.5)
    generator, n, failures = np.random.default_rng(1), 40, 0
    for _ in range(300):
        x = generator.random(n)
        y = (x > 0.5) ^ (generator.random(n) < 0.1)
        empirical = ((x[None] > thresholds[:, None]) != y[None]).mean(1)
        for strength in (1.0, 10.0, 1000.0):
            weights = np.exp(-strength * (empirical - empirical.min()))
            weights /= weights.sum()
            positive = weights > 0
            kl = float((weights[positive] * np.log(weights[positive] * len(thresholds))).sum())
            bound = INEQUALITIES[name](float(weights @ empirical), max(0.0, kl), n, DELTA)
            failures += bound < weights @ risks
            assert bound >= weights @ empirical
    assert failures <= DELTA * 900


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 1000), st.integers(2, 5000), st.floats(1e-6, 0.5))
def test_mcallester_below_1_is_never_lower_than_maurer(risk, kl, n, delta):
    assert (
        maurer(risk, kl, n, delta) <= mcallester(risk, kl, n, delta)
        or mcallester(risk, kl, n, delta) >= 1
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(0, 1), st.floats(0, 300), st.integers(1, 5000), st.floats(1e-6, 0.5))
def test_catoni_is_its_formula_and_never_below_it(risk, kl, n, delta):
    with mpmath.workdps(40):
        paid = (kl + mpmath.log(len(CATONI_GRID) / mpmath.mpf(delta))) / n
        exact = min(
            (1 - mpmath.exp(-rate * mpmath.mpf(risk) - paid)) / (1 - mpmath.exp(-mpmath.mpf(rate)))
            for rate in CATONI_GRID
        )
        found = catoni(risk, kl, n, delta)
        assert exact <= found <= exact * (1 + mpmath.mpf("1e-12"))


# -- Gaussians ----------------------------------------------------------------------------------------


def random_psd(size: int, rank: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, rank, generator=generator, dtype=torch.float64)
    return root @ root.mT


def dense_kl(mean: Tensor, covariance: Tensor, prior_mean: Tensor, sigma: float) -> float:
    prior = MultivariateNormal(prior_mean, sigma**2 * torch.eye(len(mean)).double())
    return float(kl_divergence(MultivariateNormal(mean, (covariance + covariance.mT) / 2), prior))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 6), st.integers(0, 6), st.integers(0, 10**6), st.floats(0.1, 4), st.floats(0.05, 2)
)  # fmt: skip
def test_gaussian_kl_is_that_of_torch_distributions(size, rank, seed, sigma, tau):
    H = random_psd(size, min(rank, size), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    mean, centre = torch.randn(2, size, generator=generator, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(H)
    eye = torch.eye(size).double()
    cases = {"stationary": torch.linalg.inv(H / tau**2 + eye / sigma**2)}
    if values[0] > 1e-3:
        cases["inverse_hessian"] = tau**2 * torch.linalg.inv(H)
    for covariance, dense in cases.items():
        block = GaussianBlock("network", mean, centre, values.clamp(min=0), vectors, covariance)
        exact = dense_kl(mean, dense, centre, sigma)
        assert math.isclose(
            block.kl(PosteriorScale(sigma, tau)).total, exact, rel_tol=1e-7, abs_tol=1e-8
        )


def test_gaussian_kl_keeps_its_digits_near_the_prior():
    for size in (1e-9, 1e-5, 1e-3, 0.9e-3, 0.5):
        with mpmath.workdps(40):
            exact = (mpmath.expm1(mpmath.mpf(-size)) + mpmath.mpf(size)) / 2
        assert math.isclose(
            spread_kl(torch.tensor([-size], dtype=torch.float64)), exact, rel_tol=1e-9
        )


def test_stationary_covariance_is_the_stationary_point_of_f19_eq_40():
    """½ tr(HΣ)/τ² + KL is least there: its derivative by Σ is 0, and any step from it costs."""
    H, sigma, tau = random_psd(4, 4, 3), 1.3, 0.4
    eye, zero = torch.eye(4).double(), torch.zeros(4).double()
    prior = MultivariateNormal(zero, sigma**2 * eye)

    def cost(covariance: Tensor) -> Tensor:
        bend = torch.trace(H @ covariance) / (2 * tau**2)
        return bend + kl_divergence(MultivariateNormal(zero, covariance), prior)

    best = torch.linalg.inv(H / tau**2 + eye / sigma**2)
    slope = torch.func.grad(cost)(best)
    assert (slope + slope.mT).abs().max() < 1e-10
    f19 = tau**2 * torch.linalg.inv(H)
    assert cost(best) < cost(f19)


def random_problem(activation: str = "tanh", loss: str = "squared", hidden=(2,), outputs: int = 1):
    """A problem at zero risk for the squared loss: targets are the network's own outputs."""
    generator = torch.Generator().manual_seed(5)
    X = torch.rand(30, 2, generator=generator, dtype=torch.float64) - 0.5
    net = sf.MLP([2, *hidden, outputs], activation)
    params = net.random_params(4, scale=2.0)
    y = net.forward(params, X)
    if loss == "logistic":
        y = (y > y.median()).double()
    return sf.Point(sf.Problem(net, X, y, loss), params)


def reference_of(point: sf.Point, activation: str) -> Reference:
    return Reference(
        activation, point.params, point.problem.X, point.problem.y, point.problem.loss.name
    )


def surplus_places(net: sf.MLP, layer: int, old: int) -> tuple[Tensor, Tensor, Tensor]:
    """Flat places of the narrow parameters, the surplus v (unit by unit) and the surplus w."""
    numbers = net.unflatten(torch.arange(net.parameter_count))
    w, b = f"{2 * layer}.weight", f"{2 * layer}.bias"
    rows = torch.cat([numbers[w][old:], numbers[b][old:, None]], 1).flatten()
    columns = numbers[f"{2 * layer + 2}.weight"][:, old:].mT.flatten()
    narrow = torch.tensor(
        sorted(set(range(net.parameter_count)) - {*rows.tolist(), *columns.tolist()})
    )
    return narrow, columns, rows


SHAPES = {
    "shallow": ((2,), 1, 0),
    "two outputs": ((2,), 2, 0),
    "deep": ((2, 3), 2, 0),
    "above": ((3, 2), 1, 1),
}
"""Hidden widths, outputs, and the layer with the surplus units."""


def zero_risk_wide(shape: str, count: int, seed: int = 0, activation: str = "tanh"):
    hidden, outputs, layer = SHAPES[shape]
    point = random_problem(activation, hidden=hidden, outputs=outputs)
    above = point.problem.net.widths[layer + 2]
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(count, above, generator=generator, dtype=torch.float64)
    return sf.InactiveUnits(layer, count, outgoing=v)(point), layer


def dense_blocks(wide: sf.EmbeddedPoint, layer: int, activation: str = "tanh"):
    H = reference_of(wide, activation).hessian()
    places = surplus_places(wide.problem.net, layer, wide.source.problem.net.hidden[layer])
    return H, places


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("shape", SHAPES)
def test_f19_eq_42_S_is_the_dense_block_at_zero_risk(shape, activation):
    wide, layer = zero_risk_wide(shape, count=3, activation=activation)
    H, (narrow, v, w) = dense_blocks(wide, layer, activation)
    surplus = family_at(wide, "stationary", None, 2.0).family.surplus
    assert isinstance(surplus, SmoothSurplus)
    fan = len(surplus.incoming)
    basis = np.kron(surplus._basis[0].numpy(), np.eye(fan))
    S = torch.from_numpy(basis @ surplus._core.numpy() @ basis.T)
    assert (S - H[w[:, None], w]).abs().max() < 1e-12 * max(1, float(H.abs().max()))
    # The blocks of v are 0 (F19 eq. 42), and the narrow block is the narrow Hessian.
    assert H[v[:, None], v].abs().max() < 1e-13
    assert H[v[:, None], w].abs().max() < 1e-12
    own = reference_of(wide.source, activation).hessian()
    assert (H[narrow[:, None], narrow] - own).abs().max() < 1e-12


def test_f19_s_posterior_is_no_block_of_the_hessian_where_outgoing_weights_are_not_0():
    """F19 multiplies N(τ²H⁻¹) × N(τ²S⁻¹); the Hessian couples the two blocks unless v = 0."""
    wide, layer = zero_risk_wide("shallow", count=1)
    H, (narrow, _, w) = dense_blocks(wide, layer)
    assert H[narrow[:, None], w].abs().max() > 0.1
    still = sf.InactiveUnits(0, 1)(wide.source)
    H, (narrow, _, w) = dense_blocks(still, 0)
    assert H[narrow[:, None], w].abs().max() < 1e-14


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_f19_S_has_rank_at_most_M_times_D_so_its_inverse_seldom_exists(shape, count):
    wide, layer = zero_risk_wide(shape, count)
    H, (_, _, w) = dense_blocks(wide, layer)
    values = torch.linalg.eigvalsh(H[w[:, None], w])
    fan = wide.problem.net.fan_in(layer)
    above = wide.problem.net.widths[layer + 2]
    rank = int((values > 1e-12 * values[-1]).sum())
    surplus = family_at(wide, "stationary", None, 2.0).family.surplus
    assert surplus.rank == rank <= above * fan
    if count > above:
        with pytest.raises(
            sf.InputError, match=r"τ²S⁻¹ does not exist: S of .* has rank|H⁻¹ needs"
        ):
            family_at(wide, "inverse_hessian", None, 2.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_smooth_surplus_kl_and_draws_are_those_of_the_dense_mean_hessian(shape, count):
    """S̄ = E_v S(v) for v ~ N(V, σ²): S is quadratic in v, so second differences give it exactly."""
    scale = PosteriorScale(0.7, 0.3)
    wide, layer = zero_risk_wide(shape, count)
    H, (_, v, w) = dense_blocks(wide, layer)
    mean = S = H[w[:, None], w]
    vector = wide.problem.net.flatten(wide.params)
    for place in v.tolist():
        for sign in (1, -1):
            moved = vector.clone()
            moved[place] += sign
            net = wide.problem.net
            other = reference_of(sf.Point(wide.problem, net.unflatten(moved)), "tanh").hessian()
            mean = mean + scale.sigma**2 / 2 * (other[w[:, None], w] - S)
    eye = torch.eye(len(w)).double()
    covariance = torch.linalg.inv(mean / scale.tau**2 + eye / scale.sigma**2)
    surplus = family_at(wide, "stationary", None, 2.0).family.surplus
    outgoing, incoming = surplus.kl(scale)
    zero = torch.zeros(len(w)).double()
    assert math.isclose(incoming.total, dense_kl(zero, covariance, zero, scale.sigma), rel_tol=1e-9)
    V = vector[v]
    flat = dense_kl(V, scale.sigma**2 * torch.eye(len(v)).double(), 0 * V, scale.sigma)
    assert math.isclose(outgoing.total, flat, rel_tol=1e-9)
    # A draw is linear in its normals; its matrix L has LLᵀ = Σ.
    units = torch.eye(surplus.normals).double()
    rows, columns = surplus.place(units, scale)
    L = rows.flatten(1)
    assert (L.mT @ L - covariance).abs().max() < 1e-12
    L = (columns - surplus.outgoing).flatten(1)
    assert (L.mT @ L - scale.sigma**2 * torch.eye(len(v)).double()).abs().max() < 1e-12


def test_f19_s_flat_directions_of_v_are_flat_only_while_w_stays():
    """Q_sm draws v as from the prior and w at once. F19's E_Q L̂ ≈ L̂ + τ²d/2 has dim w·τ²/2 of them;

    v·σ'(w⁰)·(w − w⁰)·x̃ has 1 + σ²/V² times that, without end as σ ≫ 1. S̄ has it back.
    """
    V, tau, draws = 0.8, 1e-4, 20_000
    wide = sf.InactiveUnits(0, 1, outgoing=[V])(random_problem(hidden=(1,)))
    net, X, y = wide.problem.net, wide.problem.X, wide.problem.y
    (_, v, w), predicted = surplus_places(net, 0, 1), 3 * tau**2 / 2
    for sigma in (1.0, 4.0):
        risks = {}
        for covariance in ("inverse_hessian", "stationary"):
            family = family_at(wide, covariance, None, 2.0).family
            drawn = Posterior(family, PosteriorScale(sigma, tau)).sample(draws, seed=0)
            moved = net.flatten(wide.params).repeat(draws, 1)
            for places in (v, w):
                moved[:, places] = net.flatten(drawn)[:, places]
            f = net.forward(net.unflatten(moved), X)
            risks[covariance] = float((f - y).square().mean() / 2)
        factor = 1 + sigma**2 / V**2
        assert math.isclose(risks["inverse_hessian"] / predicted, factor, rel_tol=0.05)
        assert math.isclose(risks["stationary"] / predicted, 1, rel_tol=0.05)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(0.5, 300), st.integers(2, 5000), st.floats(0.001, 0.5))
def test_f19_plugs_twice_its_kl_into_eq_39(kl, n, delta):
    """KL = ½{…}; §F.2.1 prints 2{…} + 2 ln(n/δ) under the root, and 2(KL + ln(n/δ)) is {…} + 2 ln(n/δ)."""
    braces = 2 * kl
    printed = 2 * math.sqrt((2 * braces + 2 * math.log(n / delta)) / (n - 1))
    right = 2 * math.sqrt((braces + 2 * math.log(n / delta)) / (n - 1))
    assert math.isclose(mcallester(0.0, kl, n, delta), right, rel_tol=1e-12)
    assert right < printed < math.sqrt(2) * right


def test_f19_smooth_kl_as_printed_is_off_by_its_two_slips():
    """Printed − exact = ½ [(EM − ED) ln(σ²/τ²) + EM + ED], held against torch.distributions."""
    point = random_problem(hidden=(1,))
    wide = sf.InactiveUnits(0, 1, outgoing=[0.8])(point)
    scale = PosteriorScale(3.0, 0.01)
    posterior = Posterior(family_at(wide, "inverse_hessian", None, 2.0).family, scale)
    H, (narrow, v, w) = dense_blocks(wide, 0)
    vector = wide.problem.net.flatten(wide.params)
    exact = 0.0
    for places, covariance in (
        (narrow, scale.tau**2 * torch.linalg.inv(H[narrow[:, None], narrow])),
        (v, scale.sigma**2 * torch.eye(len(v)).double()),
        (w, scale.tau**2 * torch.linalg.inv(H[w[:, None], w])),
    ):
        exact += dense_kl(vector[places], covariance, 0 * vector[places], scale.sigma)
    assert math.isclose(posterior.kl(), exact, rel_tol=1e-6)
    d1, dw = len(v), len(w)
    slip = ((d1 - dw) * math.log(scale.sigma**2 / scale.tau**2) + d1 + dw) / 2
    assert math.isclose(printed_smooth_kl(posterior) - posterior.kl(), slip, rel_tol=1e-9)
    assert slip < -9  # with D > M what is printed is too small: no bound can rest on it
    with pytest.raises(sf.InputError, match="F19 prints the KL of smooth"):
        printed_smooth_kl(Posterior(family_at(point, "stationary", None, 2.0).family, scale))


def test_kl_of_posterior_and_prior_draws_agree_by_monte_carlo():
    """E_Q ln(q/p) from draws of Q alone, with torch's densities of a dense Gaussian."""
    point = random_problem(hidden=(1,))
    scale = PosteriorScale(1.0, 0.2)
    posterior = Posterior(family_at(point, "stationary", None, 2.0).family, scale)
    net = point.problem.net
    drawn = net.flatten(posterior.sample(4000, seed=3))
    H = reference_of(point, "tanh").hessian()
    eye = torch.eye(len(H)).double()
    q = MultivariateNormal(net.flatten(point.params), precision_matrix=H / 0.04 + eye)
    p = MultivariateNormal(torch.zeros(len(H)).double(), eye)
    logs = q.log_prob(drawn) - p.log_prob(drawn)
    assert abs(float(logs.mean()) - posterior.kl()) < 4 * float(logs.std()) / math.sqrt(4000)
    prior = net.flatten(posterior.prior.sample(4000, seed=3))
    assert stats.kstest(prior.flatten().numpy(), "norm").pvalue > 1e-3


def test_prior_of_a_wide_network_is_normal_and_of_the_box_uniform():
    wide, _ = zero_risk_wide("two outputs", count=3)
    family = family_at(wide, "stationary", None, 2.0).family
    flat = wide.problem.net.flatten(
        Posterior(family, PosteriorScale(2.0, 0.1)).prior.sample(500, seed=1)
    )
    assert stats.kstest(flat.flatten().numpy() / 2, "norm").pvalue > 1e-3


# -- relu ---------------------------------------------------------------------------------------------


def relu_wide(count: int, hidden=(2,), layer: int = 0) -> sf.EmbeddedPoint:
    point = random_problem("relu", hidden=hidden)
    below = point.problem.net.widths[layer]
    v = [0.3] * point.problem.net.widths[layer + 2]
    return sf.InactiveUnits.in_box(layer, count, below, outgoing=v)(point)


def test_f19_prop_7_every_draw_of_the_box_keeps_the_function_on_the_data():
    wide = relu_wide(3)
    family = family_at(wide, "stationary", None, 2.0).family
    scale = PosteriorScale(5.0, 0.1)
    drawn = Posterior(family, scale).sample(200, seed=0)
    narrow, same = family.on_data(normals(200, family.normals, 0), scale)
    X = wide.problem.X
    z = X @ drawn["0.weight"].mT + drawn["0.bias"][:, None]
    assert (z[..., 2:] <= 0).all()
    outputs = wide.problem.net.forward(drawn, X)
    torch.testing.assert_close(outputs, narrow.forward(same, X), rtol=1e-14, atol=1e-14)


def test_box_surplus_draws_are_uniform_on_B_K():
    surplus = BoxSurplus(torch.zeros(1, 1).double(), inputs=3, size=2.0)
    rows, _ = surplus.place(normals(3000, surplus.normals, seed=2), PosteriorScale(1.0, 1.0))
    weights, bias = rows[:, 0, :3], rows[:, 0, 3]
    lengths = torch.linalg.vector_norm(weights, dim=1)
    assert stats.kstest(((lengths / 2) ** 3).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(((-bias - 2) / 4).numpy(), "uniform").pvalue > 1e-3
    # Each coordinate of a uniform direction in three dimensions is uniform itself.
    for k in range(3):
        cosine = (weights[:, k] / lengths + 1) / 2
        assert stats.kstest(cosine.numpy(), "uniform").pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([lengths, bias]))[0, 1])) < 0.08


def test_f19_surplus_relu_units_cost_nothing_and_surplus_tanh_units_do():
    scale = PosteriorScale(1.0, 0.05)

    def kl(wide: sf.Point) -> float:
        return Posterior(family_at(wide, "stationary", None, 2.0).family, scale).kl()

    relu, tanh = random_problem("relu"), random_problem("tanh")
    for count in (1, 10, 200):
        assert kl(sf.InactiveUnits.in_box(0, count, 2)(relu)) == kl(relu)
        added = kl(sf.InactiveUnits(0, count)(tanh)) - kl(tanh)
        one = kl(sf.InactiveUnits(0, 1)(tanh)) - kl(tanh)
        assert math.isclose(added, count * one, rel_tol=1e-9)
        assert one > 1


def box_against_normal(K: float, sigma: float) -> float:
    """KL(Unif(B_K) ‖ N(0, σ²I)) of one unit with two inputs, by quadrature over ‖w‖ and the bias."""
    volume = math.pi * K**2 * 2 * K

    def log_normal(r, b):
        return -(r**2 + b**2) / (2 * sigma**2) - 1.5 * math.log(2 * math.pi * sigma**2)

    def integrand(r, b):
        return 2 * math.pi * r * (-math.log(volume) - log_normal(r, b)) / volume

    return dblquad(integrand, K, 3 * K, 0, K)[0]


def test_f19_s_advantage_of_relu_lies_in_its_prior():
    """With the prior of tanh, N(0, σ²I), a ReLU unit on B_K costs too; with w held to w⁰, tanh is free."""
    # The best σ² is E‖w, b‖²/3 = 58K²/36, and the KL there is the same for every K.
    for K in (1.0, 2.0, 5.0):
        found = box_against_normal(K, K * math.sqrt(58 / 36))
        assert found == pytest.approx(3.134, abs=1e-3)
        assert found < min(box_against_normal(K, K * c) for c in (1.2, 1.3))
    # A Gaussian prior N(w⁰, ε²I) on surplus tanh rows, and Q = P there: no KL, and no loss.
    wide, _ = zero_risk_wide("shallow", count=3)
    rows = 1e-9 * normals(500, 9, seed=0).reshape(500, 3, 3)
    columns = 5.0 * normals(500, 3, seed=0, stream=1).reshape(500, 3, 1)
    narrow = {key: t.expand(500, *t.shape) for key, t in wide.source.params.items()}
    f = wide.problem.net.forward(
        assemble(wide.source.problem.net, narrow, rows, columns, 0), wide.problem.X
    )
    assert (f - wide.problem.y).abs().max() < 1e-6


def test_box_of_a_higher_layer_is_drawn_and_evaluated_in_full():
    point = random_problem("relu", hidden=(2, 2))
    params = {key: 0.1 * tensor for key, tensor in point.params.items()}
    small = sf.Point(point.problem, params)
    wide = sf.InactiveUnits.in_box(1, 2, 2)(small)
    family = family_at(wide, "stationary", None, 2.0).family
    assert not family.silent
    shapes = {
        key: tuple(t.shape[1:])
        for key, t in Posterior(family, PosteriorScale(1.0, 1.0)).sample(2).items()
    }
    assert shapes == wide.problem.net.shapes


# -- losses -------------------------------------------------------------------------------------------


def test_zero_one_counts_what_a_loop_counts():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    f1, f3 = (torch.randn(4, 50, k, generator=generator, dtype=torch.float64) for k in (1, 3))
    classes = torch.randint(0, 3, (50,), generator=generator)
    bits = torch.randint(0, 2, (50,), generator=generator).double()
    onehot = torch.eye(3).double()[classes]
    cases = [
        (f1, bits, "logistic", lambda f, y: (f[0] > 0) != (y[0] == 1)),
        (f1, 2 * bits - 1, "squared", lambda f, y: (f[0] > 0) != (y[0] > 0)),
        (f3, classes, "cross_entropy", lambda f, y: f.index(max(f)) != y),
        (f3, onehot, "squared", lambda f, y: f.index(max(f)) != y.index(1.0)),
        (f3, onehot, "logistic", lambda f, y: any((a > 0) != (b == 1) for a, b in zip(f, y, strict=True))),
    ]  # fmt: skip
    for f, y, loss, wrong in cases:
        problem = sf.Problem(sf.MLP([2, f.shape[-1]]), X, y, loss)
        found = sf.ZeroOne().value(problem, f)
        slow = [
            [float(wrong(row.tolist(), target.tolist())) for row, target in zip(out, problem.y, strict=True)]
            for out in f
        ]  # fmt: skip
        assert found.tolist() == slow
        assert 0 < found.mean() < 1


def test_ties_and_outputs_that_are_not_numbers_cost_1():
    problem = sf.Problem(sf.MLP([1, 2]), [[0.0], [1.0], [2.0]], [0, 0, 1], "cross_entropy")
    f = torch.tensor([[1.0, 1.0], [float("nan"), 0.0], [0.0, float("inf")]]).double()
    assert sf.ZeroOne().value(problem, f).tolist() == [1, 1, 1]
    single = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    f = torch.tensor([[0.0], [float("nan")]]).double()
    assert sf.Clipped(0.5).value(single, f).tolist() == [0, 1]
    assert sf.ZeroOne().value(
        sf.Problem(sf.MLP([1, 1]), [[0.0]], [1.0], "logistic"), torch.zeros(1, 1)
    ).tolist() == [1]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.1, 10))
def test_clipped_is_the_least_of_loss_and_at_over_at(f, y, at):
    problem = sf.Problem(sf.MLP([1, 1]), [[0.0]], [y])
    found = float(sf.Clipped(at).value(problem, torch.tensor([[f]], dtype=torch.float64))[0])
    assert math.isclose(found, min((f - y) ** 2 / 2, at) / at, rel_tol=1e-12, abs_tol=1e-300)


def test_trivial_values():
    three = sf.Problem(sf.MLP([1, 3]), [[0.0]] * 6, [0, 0, 0, 1, 1, 2], "cross_entropy")
    assert sf.ZeroOne().trivial(three)[0] == 0.5
    even = sf.Problem(sf.MLP([1, 1]), [[0.0]] * 2, [0.0, 1.0], "logistic")
    assert sf.ZeroOne().trivial(even) == (0.5, "guessing")
    real = sf.Problem(sf.MLP([1, 1]), [[0.0]] * 2, [0.0, 2.0])
    assert sf.Clipped(1.0).trivial(real)[0] == 0.5  # the mean, 1, has loss ½ on both
    assert sf.Clipped(0.25).trivial(real)[0] == 0.5  # 0, which is right on one of the two
    few = torch.zeros(400)
    few[::20] = 100
    mostly = sf.Problem(sf.MLP([1, 1]), torch.zeros((400, 1)), few)
    assert sf.Clipped(1.0).trivial(mostly)[0] == pytest.approx(0.05)
    own = sf.Problem(sf.MLP([1, 1]), torch.zeros((400, 1)), few, lambda f, y: (f - y).abs().sum())
    assert sf.Clipped(1.0).trivial(own)[0] == pytest.approx(0.05)


@given(st.integers(0, 999), st.floats(0.05, 5), st.integers(1, 2))
@settings(max_examples=30, deadline=None)
def test_no_constant_of_a_fine_grid_is_better_than_the_trivial_one(seed, at, outputs):
    y = torch.randn((30, outputs), generator=torch.Generator().manual_seed(seed)).double() ** 3
    problem = sf.Problem(sf.MLP([1, outputs]), torch.zeros((30, 1)), y)
    grid = [
        torch.linspace(float(column.min()), float(column.max()), 200 // outputs**2)
        for column in y.T
    ]
    constants = torch.cartesian_prod(*grid).reshape(-1, outputs).double()
    losses = sf.Clipped(at).value(problem, constants[:, None].expand(-1, 30, -1)).mean(1)
    assert sf.Clipped(at).trivial(problem)[0] <= float(losses.min()) + 1e-3


# -- the whole ----------------------------------------------------------------------------------------


def noisy_line(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two inputs in the unit disk; the class is the side of a line, flipped with probability 0.05."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    X = X / torch.linalg.vector_norm(X, dim=1, keepdim=True)
    X = X * torch.rand(n, 1, generator=generator, dtype=torch.float64).sqrt()
    flip = torch.rand(n, generator=generator) < 0.05
    return X, ((X[:, 0] + 0.3 > X[:, 1]) ^ flip).double()


@pytest.fixture(scope="module")
def trained() -> dict[str, sf.Point]:
    X, y = noisy_line(1000, 0)
    found: dict[str, sf.Point] = {}
    for activation in ("tanh", "relu"):
        problem = sf.Problem(sf.MLP([2, 2, 1], activation), X, y, "logistic", weight_decay=1e-3)
        found[activation] = sf.find_critical_point(problem, starts=6, seed=1)
    return found


def test_bound_is_made_of_its_parts_at_its_price(trained):
    bound = sf.pac_bayes_bound(trained["tanh"], delta=0.1, draws=500)
    assert math.isclose(sum(bound.shares.values()), 0.1)
    price = bound.shares["sample"] / bound.sigmas
    upper = kl_inverse(bound.empirical.mean, math.log(1 / bound.shares["monte carlo"]) / 500)
    assert bound.empirical.upper == upper
    assert bound.kl == sum(part.total for part in bound.parts) == bound.posterior.kl()
    for name, inequality in INEQUALITIES.items():
        assert bound.bounds[name] == inequality(upper, bound.kl, 1000, price)
    halves = {n: INEQUALITIES[n](upper, bound.kl, 1000, price / 2) for n in ("Maurer", "Catoni")}
    assert bound.value == min(halves.values()) == halves[bound.best]
    assert min(bound.bounds.values()) < bound.value < bound.trivial
    # The draws that are counted are those of the posterior itself.
    family, scale = bound.posterior.family, bound.posterior.scale
    drawn = draw_risks(trained["tanh"].problem, family, scale, sf.ZeroOne(), 500, seed=0, stream=3)
    assert math.isclose(float(drawn.mean()), bound.empirical.mean, rel_tol=1e-12)
    f = trained["tanh"].problem.net.forward(trained["tanh"].params, trained["tanh"].problem.X)[:, 0]
    wrong = (f > 0).double() != trained["tanh"].problem.y[:, 0]
    assert bound.point_risk == float(wrong.double().mean())


def test_bound_says_what_it_says(trained):
    bound = sf.pac_bayes_bound(trained["tanh"], draws=300)
    assert not bound.vacuous
    assert str(bound).startswith(
        "non-vacuous: the true zero-one loss of the stochastic network is at most"
    )
    record = json.loads(json.dumps(bound.to_json()))
    assert record["value"] == bound.value
    assert record["vacuous"] is False
    assert [part["name"] for part in record["parts"]] == ["network"]
    assert bound.value == sf.pac_bayes_bound(trained["tanh"], draws=300).value
    with pytest.raises(TypeError, match="neither true nor false"):
        bool(bound)


def test_a_bound_on_noise_is_vacuous():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 2, (60,), generator=generator).double()
    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), X, y, "logistic", weight_decay=1e-3)
    bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=4, seed=0), draws=200)
    assert bound.vacuous
    assert "it says nothing" in bound.reason


def test_bound_grows_with_surplus_tanh_units_and_not_with_relu_units(trained):
    def value(activation: str, count: int) -> float:
        point = trained[activation]
        if count and activation == "relu":
            return sf.pac_bayes_bound(sf.InactiveUnits.in_box(0, count, 2)(point), draws=200).value
        return sf.pac_bayes_bound(
            sf.InactiveUnits(0, count)(point) if count else point, draws=200
        ).value

    relu = [value("relu", count) for count in (0, 4, 64)]
    assert relu[0] == relu[1] == relu[2]
    tanh = [value("tanh", count) for count in (0, 4, 64)]
    assert tanh[0] + 0.005 < tanh[1] < tanh[2] - 0.02


def overfitted(seed: int, inputs: int = 12, n: int = 30) -> tuple[sf.Point, sf.Problem]:
    """A network that fits its sample too well, and the same network on 4000 fresh ones."""

    def draw(count: int, stream: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1000 * seed + stream)
        X = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
        flip = torch.rand(count, generator=generator) < 0.2
        return X, ((X[:, 0] + X[:, 1] > 0) ^ flip).double()

    net = sf.MLP([inputs, 1, 1], "tanh")
    problem = sf.Problem(net, *draw(n, 1), "logistic", weight_decay=1e-2)
    return sf.find_critical_point(problem, starts=1, seed=seed), sf.Problem(
        net, *draw(4000, 2), "logistic"
    )


def test_the_bound_fails_on_at_most_delta_of_the_samples_and_a_prior_made_from_them_on_more():
    """F19: "P does not depend on the training sample". 24 samples of 30, true risks from 4000."""
    trials, delta, grid = 24, 0.3, [2.0**k for k in range(-5, 2)]
    honest = forged = 0
    for seed in range(trials):
        point, fresh = overfitted(seed)

        def fails(point: sf.Point, fresh: sf.Problem, prior_mean=None) -> bool:
            bound = sf.pac_bayes_bound(
                point, delta=delta, prior_mean=prior_mean, sigmas=grid, taus=grid, draws=300
            )
            drawn = bound.posterior.sample(40, seed=77)
            true = bounded_risks(fresh, fresh.net, drawn, sf.ZeroOne())
            return bound.value < float(true.mean())

        honest += fails(point, fresh)
        forged += fails(point, fresh, point.params)
    assert honest <= delta * trials
    assert forged > delta * trials


def test_delta_is_split_over_the_draws_and_over_every_sigma(trained):
    """δ = δ_draws + Σ over the grid of δ_σ, halved for the lower of two bounds; τ is free."""
    grid, few, many = [0.5, 1.0, 2.0, 4.0], [0.05], [0.05, 1e-40]
    bound = sf.pac_bayes_bound(trained["tanh"], sigmas=grid, taus=few, draws=100)
    each = bound.shares["sample"] / 4
    at = (bound.empirical.upper, bound.kl, 1000)
    assert bound.value == min(maurer(*at, each / 2), catoni(*at, each / 2))
    assert math.isclose(bound.shares["monte carlo"] + 4 * (each / 2 + each / 2), 0.05)
    assert bound.empirical.delta == bound.shares["monte carlo"]
    # Twice the same σ is one σ, and a τ that is not taken costs nothing.
    again = sf.pac_bayes_bound(trained["tanh"], sigmas=grid + grid, taus=many, draws=100)
    assert (again.sigmas, again.value) == (4, bound.value)


def test_catoni_s_lambda_is_chosen_from_a_grid_that_is_paid_for():
    """Minimising over λ at price δ/G each is a union bound; at the whole δ it would be lower."""
    whole = min(
        math.expm1(-rate * 0.1 - (20 + math.log(1 / DELTA)) / 1000) / math.expm1(-rate)
        for rate in CATONI_GRID
    )
    assert catoni(0.1, 20.0, 1000, DELTA) > whole
    single = catoni(0.1, 20.0, 1000, DELTA * len(CATONI_GRID))  # undoes the payment
    assert math.isclose(single, whole, rel_tol=1e-12)


def test_the_record_holds_no_number_that_json_has_not():
    """One sample has no McAllester bound, and a σ of 1e-40 a KL near 1e80: finite, or None."""
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[1.0]], [2.0])
    point = sf.Point(problem, {key: t + 1e150 for key, t in problem.net.random_params(0).items()})
    for sigmas in ([1.0], [1e-50]):
        bound = sf.pac_bayes_bound(
            point, sf.Clipped(1.0), sigmas=sigmas, taus=[1e-50, 1e50], draws=5
        )
        record = json.loads(json.dumps(bound.to_json(), allow_nan=False))
        assert bound.vacuous
        assert record["bounds"]["McAllester"] is None
    assert record["kl"] is None
    assert math.isinf(bound.kl)


def test_the_record_says_what_the_bound_rests_on(trained):
    plain = sf.pac_bayes_bound(trained["tanh"], draws=20)
    assert "widths 2-2-1 were fixed before the data were seen" in plain.assumes[1]
    relu = sf.InactiveUnits.in_box(0, 3, 2)(trained["relu"])
    bound = sf.pac_bayes_bound(relu, sf.Clipped(0.7), prior_mean=relu.source.params, draws=20)
    text = " | ".join(bound.assumes)
    assert "of which 2 + 3 in hidden layer 0, and K = 2 were fixed before" in text
    assert "clipped, at 0.7" in text
    assert "the prior mean was not made from these data" in text
    assert bound.to_json()["assumes"] == list(bound.assumes)


def test_draws_do_not_depend_on_how_they_are_cut_into_chunks(trained):
    bound = sf.pac_bayes_bound(trained["tanh"], draws=50)
    few = bound.posterior.sample(3, seed=9)
    many = bound.posterior.sample(40, seed=9)
    for key, tensor in few.items():
        assert torch.allclose(tensor, many[key][:3], rtol=1e-12)
    net, X = trained["tanh"].problem.net, trained["tanh"].problem.X
    risks = bounded_risks(trained["tanh"].problem, net, many, sf.Clipped(1.0))
    f = net.forward(many, X)
    y = trained["tanh"].problem.y
    slow = torch.nn.functional.binary_cross_entropy_with_logits(f, y.expand_as(f), reduction="none")
    assert torch.allclose(risks, slow[..., 0].clamp(max=1).mean(-1))


def test_prior_mean_at_the_point_leaves_the_spread_alone(trained):
    point = trained["tanh"]
    bound = sf.pac_bayes_bound(point, prior_mean=point.params, draws=100)
    assert bound.parts[0].mean == 0
    assert bound.parts[0].spread > 0


def test_other_embedded_points_are_taken_as_the_wide_points_they_are(trained):
    wide = sf.Replicate(0, 0, [0.5, 0.5])(trained["relu"])
    bound = sf.pac_bayes_bound(wide, draws=100)
    assert [part.dimension for part in bound.parts] == [wide.problem.net.parameter_count]


# -- what is refused ----------------------------------------------------------------------------------


def test_a_saddle_is_refused():
    point = random_problem("tanh", hidden=(1,))
    problem = sf.Problem(
        point.problem.net, point.problem.X, point.problem.y + 0.5 * point.problem.X[:, :1]
    )
    saddles = [
        each
        for each in sf.find_critical_points(
            problem, starts=4, seed=0, kind="any", max_iterations=100
        )
        if sf.judge(each).kind is sf.Kind.STRICT_SADDLE
    ]
    assert saddles, "the case needs one"
    with pytest.raises(
        sf.InputError, match="the point is a saddle: the Hessian has an eigenvalue -"
    ):
        sf.pac_bayes_bound(saddles[0], sf.Clipped(1.0))


def test_off_critical_points_negative_curvature_is_taken_by_its_size_and_said():
    point = random_problem("tanh", hidden=(2,))
    moved = sf.Point(point.problem, point.problem.net.random_params(3))
    values = torch.linalg.eigvalsh(reference_of(moved, "tanh").hessian())
    assert values[0] < -1e-6
    shape = family_at(moved, "stationary", None, 2.0)
    assert "are taken by their size" in shape.remark
    assert torch.allclose(shape.family.block.values, values.abs(), atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": None}, r"needs a loss between 0 and 1, and loss 'squared' has no .*Clipped\(at\)"),
        ({"loss": "zero_one"}, r"loss must be ZeroOne\(\) or Clipped\(at\), not 'zero_one'"),
        ({"loss": sf.ZeroOne()}, "ZeroOne needs classes, and loss 'squared' has targets that are none"),
        ({"delta": 0}, "delta is 0; expected a probability between 0 and 1"),
        ({"delta": 1.5}, "delta is 1.5; expected a probability"),
        ({"covariance": "stationery"}, "unknown covariance 'stationery'; did you mean 'stationary'"),
        ({"sigmas": []}, r"sigmas must be one or more finite numbers above 0, from .*, not \[\]"),
        ({"sigmas": [1e-60]}, r"sigmas must be .* from 1e-50 to 1e\+50, not \[1e-60\]"),
        ({"taus": [0.1, -1]}, "taus must be one or more finite numbers above 0"),
        ({"draws": 0}, "draws must be a whole number of at least 1, not 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, not -1"),
        ({"prior_mean": 0.0}, "prior_mean must be a dict of parameters, each a tensor, not 0.0"),
        ({"prior_mean": {}}, "parameters do not fit widths"),
    ],
)  # fmt: skip
def test_bad_arguments_get_one_clear_line(arguments, message):
    point = random_problem()
    with pytest.raises(sf.InputError, match=message) as caught:
        sf.pac_bayes_bound(point, **({"loss": sf.Clipped(1.0)} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("at", [0, -1.0, math.inf, math.nan, "1", True])
def test_clipped_at_must_be_a_finite_number_above_0(at):
    with pytest.raises(
        sf.InputError, match=r"Clipped is given at=.*; expected a finite number above 0"
    ):
        sf.Clipped(at)


def test_inverse_hessian_needs_a_positive_definite_one():
    relu = random_problem("relu")  # rescaling its units changes nothing: the Hessian is singular
    with pytest.raises(sf.InputError, match=r"not clearly above its noise floor .*'stationary'"):
        sf.pac_bayes_bound(relu, sf.Clipped(1.0), covariance="inverse_hessian")


def test_boxes_and_inputs_that_do_not_fit_are_refused():
    point = random_problem("relu")
    loss = sf.Clipped(1.0)
    shallow = sf.InactiveUnits(0, 2)(point)  # bias −1
    with pytest.raises(sf.InputError, match=r"box B_K of K = 2 .* a value from 0.3333 to 1"):
        sf.pac_bayes_bound(shallow, loss)
    assert sf.pac_bayes_bound(shallow, loss, box=0.5, draws=10).value <= 1
    with pytest.raises(sf.InputError, match="box is -1; expected K, a finite number above 0"):
        sf.pac_bayes_bound(shallow, loss, box=-1)
    mixed = sf.InactiveUnits(0, incoming=[[0.0, 0.0, -1.0], [0.0, 0.0, -9.0]])(point)
    with pytest.raises(sf.InputError, match="no box holds all of them"):
        sf.pac_bayes_bound(mixed, loss)
    problem = sf.Problem(point.problem.net, 3 * point.problem.X, point.problem.y)
    far = sf.InactiveUnits.in_box(0, 1, 2, size=2.0, radius=3.0)(sf.Point(problem, point.params))
    with pytest.raises(
        sf.InputError, match=r"inactive where ‖x‖ ≤ 1, and sample \d+ has [12]\.\d+; rescale"
    ):
        sf.pac_bayes_bound(far, loss)


def test_batches_and_what_is_no_point_are_refused():
    point = random_problem()
    batch = sf.PointBatch(point.problem, point.problem.net.random_params(0, batch=(2,)))
    with pytest.raises(sf.InputError, match="takes one point; this is a PointBatch"):
        sf.pac_bayes_bound(batch, sf.Clipped(1.0))
    with pytest.raises(sf.InputError, match="takes a Point, not dict"):
        sf.pac_bayes_bound({}, sf.Clipped(1.0))


def test_inequalities_refuse_what_is_no_risk_or_probability():
    for arguments, message in (
        ((1.5, 0.0, 10, 0.1), "the empirical risk is 1.5"),
        ((0.5, -1.0, 10, 0.1), "is -1.0; expected a number from 0 up"),
        ((0.5, 0.0, 0, 0.1), "the number of samples is 0"),
        ((0.5, 0.0, 10, 0.0), "delta is 0.0"),
    ):
        for inequality in INEQUALITIES.values():
            with pytest.raises(sf.InputError, match=message):
                inequality(*arguments)
