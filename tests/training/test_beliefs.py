"""Beliefs: every number from its definition, a scalar twin, a closed form or a peer."""

import math

import numpy as np
import pytest

from helpers.envs import random_bars
from helpers.multi import random_panel
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.features import contract
from himari_rl.policy import beliefs as policy_beliefs
from himari_rl.policy.beliefs import anchor, believed_input, moments, moving_average, slow_volatility
from himari_rl.policy.evidence import PLACES, RawColumns, bent_forms, seen
from himari_rl.training import beliefs
from himari_rl.training.beliefs import (
    Prior,
    Rows,
    active_rows,
    believed_path,
    fit_beliefs,
    fit_evidence,
    fit_scores,
    future_variance,
    prior_drift,
    thinned,
)
from himari_rl.training.preparation import told_of

YEAR = 8760.0


def market(n: int, seed: int, *, two_valued: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(n, 16) market rows of random but sensible numbers, and (n,) returns that nobody can know."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((n, contract.WIDTH))
    rows[:, contract.CONFIDENCE] = rng.integers(0, 2, n) if two_valued else rng.uniform(0.0, 1.0, n)
    rows[:, contract.ACTION_BUY] = 1.0
    rows[np.arange(n), contract.TIER.start + rng.integers(0, 4, n)] = 1.0
    volatility = 0.006 * np.exp(0.3 * rng.standard_normal(n))
    rows[:, contract.VOLATILITY] = volatility / contract.VOLATILITY_SCALE
    rows[:, contract.MOMENTUM_1H] = 0.05 * rng.standard_normal(n)
    rows[:, contract.MOMENTUM_4H] = 0.05 * rng.standard_normal(n)
    rows[:, contract.CASCADE_RISK] = rng.uniform(0.0, 1.0, n)
    return rows, 0.006 * rng.standard_normal(n)


def rows_of(rows: np.ndarray, earned: np.ndarray, side: np.ndarray | None = None) -> Rows:
    slow = slow_volatility(rows[:, contract.VOLATILITY] * contract.VOLATILITY_SCALE)
    along = np.ones(len(rows)) if side is None else side
    return Rows(
        seen=seen(rows, slow, side),
        side=along,
        earned=earned,
        slow=slow,
        wanted=0.5 * anchor(slow, 0.5, YEAR),
        day=np.arange(len(rows)) // 24,
    )


def test_the_moving_average_is_the_recursion_however_long() -> None:
    values = np.random.default_rng(0).exponential(1.0, (5000, 2))
    keep, mean, twin = 0.5 ** (1.0 / 168), values[0], []
    for value in values:
        mean = keep * mean + (1.0 - keep) * value
        twin.append(mean)
    np.testing.assert_allclose(moving_average(values, 168), twin, rtol=1e-10)
    halves = np.concatenate(
        [moving_average(values[:777], 168), moving_average(values[777:], 168, moving_average(values[:777], 168)[-1])]
    )
    np.testing.assert_allclose(halves, twin, rtol=1e-10)


def test_a_shock_is_half_forgotten_after_its_half_life() -> None:
    volatility = np.full(400, 0.01)
    volatility[0] = 0.02
    slow = slow_volatility(volatility)
    assert slow[0] == pytest.approx(0.02)
    assert slow[168] ** 2 - 0.01**2 == pytest.approx(0.5 * (0.02**2 - 0.01**2), rel=1e-9)


def test_before_the_first_known_volatility_there_is_none_and_the_anchor_is_one() -> None:
    slow = slow_volatility(np.array([0.0, 0.0, 0.01, 0.0]))
    assert slow[:2].tolist() == [0.0, 0.0]
    assert slow[2] == pytest.approx(0.01)
    assert 0.0 < slow[3] < 0.01
    assert anchor(slow, 0.5, YEAR)[:2].tolist() == [1.0, 1.0]


def test_the_anchor_holds_fifteen_per_cent_a_year() -> None:
    slow = np.array([0.004, 0.01, 0.03])
    held = 0.5 * anchor(slow, 0.5, YEAR) * slow * math.sqrt(YEAR)
    np.testing.assert_allclose(held, 0.15)
    assert anchor(np.array([1e-5]), 0.5, YEAR).tolist() == [2.0]


@pytest.mark.parametrize("rho", [0.0, 0.4, 1.0])
def test_a_portfolio_of_anchors_holds_fifteen_per_cent_together(rho: float) -> None:
    slow = np.tile([0.006, 0.009, 0.02], (4, 1))
    weight = 0.5 * anchor(slow, 0.5, YEAR, np.full(4, rho)) * slow
    covariance = np.full((3, 3), rho) + (1.0 - rho) * np.eye(3)
    np.testing.assert_allclose(np.sqrt(np.einsum("ti,ij,tj->t", weight, covariance, weight) * YEAR), 0.15)


def test_the_future_variance_is_the_mean_of_the_next_bars() -> None:
    returns = np.random.default_rng(1).standard_normal((50, 3))
    one, several = future_variance(returns[:, 0]), future_variance(returns)
    for t in (0, 7, 38, 45, 49):
        ahead = returns[t : t + 12]
        assert one[t] == pytest.approx(np.mean(ahead[:, 0] ** 2))
        np.testing.assert_allclose(several[t], ahead.T @ ahead / len(ahead), rtol=1e-9, atol=1e-12)


def test_under_the_prior_drift_the_anchor_is_the_best_position() -> None:
    prior = Prior(trust=1.0)
    variance, base, multiple = np.array([4e-5]), np.array([-0.5]), np.array([0.7])
    drift = np.sign(base) * prior_drift(prior, variance, base, multiple)
    tried = np.linspace(-1.0, 1.0, 20_001)
    utility = tried * drift - prior.aversion / 2.0 * variance * tried**2
    assert tried[utility.argmax()] == pytest.approx(-0.35, abs=1e-4)


def test_under_the_prior_drift_the_anchor_is_the_best_portfolio() -> None:
    prior = Prior(trust=1.0)
    covariance = np.array([[4e-5, 2e-5], [2e-5, 9e-5]])
    base, multiple = np.array([[0.5, -0.5]]), np.array([[0.7, 0.4]])
    drift = np.sign(base) * prior_drift(prior, covariance[None], base, multiple)
    best = np.linalg.solve(prior.aversion * covariance, drift[0])
    np.testing.assert_allclose(best, (base * multiple)[0])


def test_scores_are_standard_normal_whatever_the_column_looked_like() -> None:
    rows, _ = market(20_000, 2)
    raw = rows_of(rows, np.zeros(len(rows))).seen
    linear = fit_scores([raw]).linear(raw)
    np.testing.assert_allclose(linear.mean(axis=0), 0.0, atol=0.02)
    np.testing.assert_allclose(linear.std(axis=0)[linear.std(axis=0) > 0], 1.0, atol=0.05)
    assert np.abs(linear[:, :6]).max() < 3.0  # nothing beyond the outermost knot


def test_a_column_of_two_values_is_standardised_and_one_that_is_constant_is_not_there() -> None:
    rows, earned = market(5000, 3, two_valued=True)
    rows[:, contract.CASCADE_RISK] = 0.25
    part = rows_of(rows, earned)
    scores = fit_scores([part.seen])
    linear = scores.linear(part.seen)
    assert scores.knots[0] == ()
    assert len(np.unique(linear[:, 0])) == 2
    assert linear[:, 0].std() == pytest.approx(1.0)
    assert np.ptp(linear[:, 1]) == 0.0
    fit = fit_evidence([part], Prior())
    assert 3 not in [direction.column for direction in fit.directions]


def test_fifty_seven_bent_columns_each_with_its_name() -> None:
    rows, _ = market(500, 4)
    raw = rows_of(rows, np.zeros(500)).seen
    scores = fit_scores([raw])
    bent = scores.bent(scores.linear(raw))
    assert bent.shape[1] == len({form.name for form in bent_forms()}) == 57
    z = scores.linear(raw)
    assert [column.tolist() for column in bent.T] == [form.column(z).tolist() for form in bent_forms()]
    named = dict(zip((form.name for form in bent_forms()), bent.T, strict=True))
    np.testing.assert_array_equal(named["confidence above its border"], z[:, 0] > 1.625)
    np.testing.assert_array_equal(named["cascade_risk below its border"], z[:, 1] < -1.625)
    np.testing.assert_array_equal(named["hinge of log s at -0.842"], np.maximum(-0.842 - z[:, 5], 0.0))
    np.testing.assert_array_equal(named["(confidence) x (log s)"], z[:, 0] * z[:, 5])


def test_a_step_with_a_told_border_rises_where_the_border_may_lie() -> None:
    rows, _ = market(500, 4)
    raw = rows_of(rows, np.zeros(500)).seen
    levels = tuple(np.linspace(0.0, 1.0, len(PLACES)).tolist())
    scores = fit_scores([raw]).model_copy(update={"borders": ((), levels)})  # of cascade_risk, upper side
    z, bent = scores.linear(raw), scores.bent(scores.linear(raw))
    np.testing.assert_array_equal(bent[:, 0], z[:, 0] > 1.625)
    np.testing.assert_allclose(bent[:, 1], np.clip((z[:, 1] - PLACES[0]) / (PLACES[-1] - PLACES[0]), 0.0, 1.0))
    assert bent_forms()[1].column(z, levels).tolist() == bent[:, 1].tolist()


@pytest.mark.parametrize("border", [1.1, 1.5, 1.9])
def test_the_evidence_finds_where_an_edge_begins(border: float) -> None:
    """Wherever it lies: with steps at 1.625 alone each of these is believed with single bars beside it."""
    rows, earned = market(20_000, 31)
    z = fit_scores([rows_of(rows, earned).seen]).linear(rows_of(rows, earned).seen)[:, 0]
    part = rows_of(rows, earned + 0.006 * 0.4 * (z > border))
    fit = fit_evidence([part], Prior())
    at = next(j for j, form in enumerate(bent_forms()) if form.name == "confidence above its border")
    assert len(fit.evidence.coefficients) - len(bent_forms()) + at in [d.column for d in fit.directions]
    levels = fit.evidence.scores.borders[at]
    median = float(np.interp(0.5, levels, PLACES))
    assert abs(median - border) < 0.05
    told = [j for j, each in enumerate(fit.evidence.scores.borders) if each]
    assert told == [at]  # of the others nothing has to be known


def weighted(part: Rows, fit: beliefs.Fit, prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Columns and target of the regression, each row counted by the variance that its state tells."""
    scores = fit.evidence.scores.linear(part.seen)
    root = np.exp(0.5 * (fit.evidence.variance[0] + scores @ np.array(fit.evidence.variance[1:])))
    left = part.side * part.earned - prior.trust * prior.aversion * part.earned**2 * part.wanted
    x = fit.evidence.design(part.seen) / root[:, None]
    return x, np.clip(left / part.slow / root, -8.0, 8.0) / fit.evidence.deviation


def test_every_direction_is_shrunk_as_the_formula_says() -> None:
    rows, earned = market(6000, 6)
    earned = earned + 0.001 * (rows[:, contract.CONFIDENCE] - 0.5)
    part = rows_of(rows, earned)
    prior = Prior()
    fit = fit_evidence([part], prior)
    x, y = weighted(part, fit, prior)
    column = [direction.column for direction in fit.directions]
    assert column[0] == 0
    assert 2 in column  # the confidence
    q, r = np.linalg.qr(x[:, column])
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    for j, direction in enumerate(fit.directions):
        assert direction.estimate == pytest.approx(float(q[:, j] @ y), abs=1e-9)
        left = y - q[:, : j + 1] @ (q[:, : j + 1].T @ y)
        score = np.bincount(part.day, q[:, j] * left)
        assert direction.error == pytest.approx(math.sqrt(score @ score))
        if j == 0:
            one = direction.error * fit.evidence.deviation * math.sqrt(YEAR / len(y))
            assert direction.kept == pytest.approx(1.155**2 / (1.155**2 + one**2))
            assert fit.evidence.doubt == pytest.approx(1.0 - direction.kept)
        else:
            assert direction.kept == pytest.approx(1.0 - (4.0 if direction.column < 13 else 10.0) / direction.t**2)
            assert direction.days >= 20.0
    shrunk = np.array([direction.kept * direction.estimate for direction in fit.directions])
    np.testing.assert_allclose(r @ np.array(fit.evidence.coefficients)[column], shrunk, atol=1e-9)
    believed = fit.evidence.design(part.seen)[:, column] @ np.linalg.solve(r, shrunk) * fit.evidence.deviation
    np.testing.assert_allclose(fit.evidence.drift(part.seen), believed, atol=1e-9)


def test_noise_is_hardly_believed_and_a_planted_drift_is() -> None:
    false, explained = [], []
    for seed in range(12):
        rows, earned = market(8000, 100 + seed)
        fit = fit_evidence([rows_of(rows, earned)], Prior())
        false.append(sum(direction.kept > 0.0 for direction in fit.directions if direction.column >= 12))
        planted = 0.1 * 0.006 * (rows[:, contract.CONFIDENCE] - 0.5) / math.sqrt(1.0 / 12.0)
        part = rows_of(rows, earned + planted)
        found = fit_evidence([part], Prior()).evidence.drift(part.seen)
        explained.append(np.corrcoef(found, planted)[0, 1])
    assert np.mean(false) < 1.0  # of 57: |t| > 3.2 by chance is one in 700
    assert np.median(explained) > 0.9


def test_an_edge_in_a_tail_is_believed_there_and_nowhere_else() -> None:
    """R1's lesson: a line fitted before the step, and believed by another share, is a drift where there is none."""
    rows, earned = market(17_500, 7)
    score = rows[:, contract.CONFIDENCE]
    part = rows_of(rows, earned + 0.5 * 0.006 * (score > 0.95))
    drift = fit_evidence([part], Prior()).evidence.drift(part.seen)
    below, middle = drift[(score > 0.8) & (score < 0.93)].mean(), drift[score < 0.5].mean()
    assert abs(below - middle) < 0.02  # of a planted 0.5


def test_an_edge_in_a_tail_is_found_by_the_bent_columns_alone() -> None:
    rows, earned = market(17_500, 7)
    rare = rows[:, contract.CONFIDENCE] > 0.95
    part = rows_of(rows, earned + 0.3 * 0.006 * rare)
    drift = fit_evidence([part], Prior()).evidence.drift(part.seen)
    assert drift[rare].mean() - drift[~rare].mean() > 0.15  # of a planted 0.3
    flat = fit_evidence([rows_of(rows, earned)], Prior()).evidence.drift(part.seen)
    assert flat[rare].mean() - flat[~rare].mean() < 0.15  # the negative control


def test_a_one_sided_rule_keeps_its_sign() -> None:
    """What earns more than the prior adds to it, what earns less takes from it."""
    for sign in (1.0, -1.0):
        rows, earned = market(8000, 8)
        part = rows_of(rows, earned + sign * 0.001)
        fit = fit_evidence([part], Prior())
        assert np.sign(fit.directions[0].estimate) == sign


def test_the_evidence_of_several_assets_is_pooled_and_their_common_days_count_once() -> None:
    rows, earned = market(4000, 9)
    one = fit_evidence([rows_of(rows, earned)], Prior())
    twice = fit_evidence([rows_of(rows, earned), rows_of(rows, earned)], Prior())
    np.testing.assert_allclose(twice.evidence.coefficients, one.evidence.coefficients, atol=1e-4)
    for before, after in zip(one.directions, twice.directions, strict=True):
        assert after.t == pytest.approx(before.t, abs=0.05)  # no second witness; knots move a little


def storms(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Market rows and returns of calm and wild weeks, which feature 14 shows at once, and the volatility."""
    rng = np.random.default_rng(seed)
    rows, _ = market(n, seed)
    volatility = np.where((np.arange(n) // 336) % 2, 0.012, 0.004)
    rows[:, contract.VOLATILITY] = volatility / contract.VOLATILITY_SCALE
    return rows, volatility * rng.standard_normal(n), volatility


def test_the_variance_that_the_state_tells_is_the_true_one() -> None:
    rows, earned, volatility = storms(35_000, 14)
    part = rows_of(rows, earned)
    fit = fit_evidence([part], Prior())
    told = part.slow**2 * fit.evidence.design(part.seen)[:, 0]
    for wild in (0.004, 0.012):
        assert told[volatility == wild].mean() == pytest.approx(wild**2, rel=0.15)
    flat, still = market(20_000, 15)
    quiet = rows_of(flat, still)
    assert quiet.slow.std() / quiet.slow.mean() < 0.2
    assert fit_evidence([quiet], Prior()).evidence.design(quiet.seen)[:, 0].std() < 0.2  # nothing is told


def test_a_prior_that_is_worthless_is_doubted_alike_in_calm_and_in_wild_weeks() -> None:
    """Without its own shape the constant's evidence took the prior away in calm weeks only (L0)."""
    rows, earned, volatility = storms(35_000, 16)
    prior = Prior()
    part = rows_of(rows, earned)
    evidence = fit_evidence([part], prior).evidence
    left = 1.0 + evidence.drift(part.seen) / (prior.drift * evidence.design(part.seen)[:, 0])  # of the prior's drift
    calm, wild = (float(left[volatility == v].mean()) for v in (0.004, 0.012))
    assert calm == pytest.approx(wild, abs=0.25)
    assert max(calm, wild) < 0.8


def test_what_comes_later_changes_no_belief_about_now() -> None:
    rows, earned = market(3000, 10)
    earned = earned + 0.002 * (rows[:, contract.CONFIDENCE] - 0.5)
    evidence = fit_evidence([rows_of(rows, earned)], Prior()).evidence
    other = rows.copy()
    other[2000:] = market(1000, 11)[0]
    before, after = (evidence.drift(rows_of(r, earned).seen) for r in (rows, other))
    np.testing.assert_array_equal(before[:2000], after[:2000])
    assert not np.array_equal(before[2000:], after[2000:])


def test_momenta_count_along_the_side_where_shorts_are_allowed() -> None:
    rows, _ = market(100, 12)
    slow = np.full(100, 0.01)
    up, down = seen(rows, slow, np.ones(100)), seen(rows, slow, -np.ones(100))
    np.testing.assert_array_equal(up.continuous[:, 2:4], -down.continuous[:, 2:4])
    np.testing.assert_array_equal(up.continuous[:, [0, 1, 4, 5]], down.continuous[:, [0, 1, 4, 5]])
    assert isinstance(down, RawColumns)
    assert down.side is not None


def test_the_believed_input_is_one_where_nothing_is_known_and_bounded() -> None:
    assert believed_input(np.array([0.0, 0.02, 9.0, -9.0]), 0.02).tolist() == [1.0, 2.0, 8.0, -4.0]


def test_the_doubt_holds_where_the_prior_speaks() -> None:
    prior = Prior()
    rows, earned = market(4000, 13)
    evidence = fit_evidence([rows_of(rows, earned)], prior).evidence
    factor = beliefs.doubt_factor(prior, evidence, np.array([0.0, prior.drift, 1e6, -prior.drift]))
    assert factor[0] == pytest.approx(1.0 + 0.5 * evidence.doubt)
    assert factor[1] == pytest.approx(1.0 + 0.25 * evidence.doubt)
    assert factor[2] == pytest.approx(1.0, abs=1e-6)
    assert factor[3] == factor[0]  # evidence against the prior is no reason to trust it more
    assert 0.0 < evidence.doubt < 1.0


def test_constants_are_those_of_the_paper_recipe() -> None:
    prior = Prior()
    assert prior.sharpe_a_year == pytest.approx(1.155)
    assert prior.drift == pytest.approx(1.5 * 1.155 / math.sqrt(8760.0))
    assert policy_beliefs.SLOW_HALF_LIFE == 168


def test_a_long_history_is_believed_in_parts_and_a_part_of_it_is_evidence(monkeypatch) -> None:
    """Drifts do not depend on how many bars are made at once; too many rows are thinned evenly, days and all."""
    bars = random_bars(400, 5)
    told = told_of(bars, TradingEnvConfig())
    prior = Prior()
    found = fit_beliefs([told], TradingEnvConfig(), prior)
    moment = moments(told.rows, 1, shorts=False)
    whole = found.drift(told.rows, moment, 0)
    monkeypatch.setattr("himari_rl.policy.beliefs._PART", 37)
    np.testing.assert_allclose(found.drift(told.rows, moment, 0), whole, rtol=1e-12, atol=1e-15)
    parts = active_rows(told, TradingEnvConfig(), prior)
    (few,) = thinned(parts, 100)
    step = -(-len(parts[0].day) // 100)
    np.testing.assert_array_equal(few.day, parts[0].day[::step])
    np.testing.assert_array_equal(few.seen.continuous, parts[0].seen.continuous[::step])
    assert thinned(parts, 10_000) == parts


def test_covariances_made_in_parts_are_those_of_the_whole(monkeypatch) -> None:
    panel = random_panel(3, 200, 1)
    told, prior = told_of(panel, TradingEnvConfig()), Prior()
    found = fit_beliefs([told], TradingEnvConfig(), prior)
    whole = believed_path(told.rows, told.path, found, TradingEnvConfig(), prior)
    monkeypatch.setattr(beliefs, "PART", 17)
    parts = believed_path(told.rows, told.path, found, TradingEnvConfig(), prior)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rows", [0, 1, 34])
@pytest.mark.parametrize("shorts", [False, True])
def test_too_few_rows_are_no_evidence_and_no_error(rows: int, shorts: bool) -> None:
    """Fewer rows than the seventy columns, or none: nothing but the constant may be believed, and it is doubted."""
    market_rows, earned = market(max(rows, 1), 0)
    side = np.ones(len(earned)) if shorts else None
    part = rows_of(market_rows, earned, side)
    if not rows:
        part = Rows(seen(market_rows[:0], np.ones(0), None if side is None else side[:0]), *(np.zeros(0),) * 5)
    found = fit_evidence([part], Prior()).evidence
    assert not any(found.coefficients[1:])
    one = seen(market_rows[:1], np.full(1, 0.006), None if side is None else side[:1])
    assert np.isfinite(found.drift(one)).all()
    assert found.doubt > 0.9 or rows == 34
