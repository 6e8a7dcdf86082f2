"""The one-liners against scalar twins and closed forms; none knows a later row; the best is chosen on training rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from helpers.evaluation import Rule, bars_from, ledger, walk
from helpers.multi import random_panel
from himari_rl.data.panel import Panel
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import BASE, LAGGED, Play, backtest, backtests, stage
from himari_rl.evaluation.baselines import VOLATILITY_TARGET
from himari_rl.evaluation.one_liners import (
    BANDED,
    BANDED_WHOLE,
    BEST,
    WHOLE,
    OneLiners,
    candidates,
    mean_correlation,
    on_training_rows,
    one_liners,
    portfolio_risk,
    with_best,
)
from himari_rl.evaluation.verdict import judge
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import BUY, HOLD, SELL, Bars

RNG = np.random.default_rng(0)


def sided(rows: int, seed: int) -> Bars:
    """A walk whose side changes every forty bars or so: BUY, SELL and HOLD."""
    bars = bars_from(walk(rows, seed, sigma=0.012))
    assert bars.signals is not None
    side = np.repeat(np.random.default_rng(seed).choice([BUY, SELL, HOLD], rows // 40 + 1), 40)[:rows]
    return replace(bars, signals=replace(bars.signals, action=side))


@pytest.mark.parametrize("allow_short", [False, True])
def test_the_banded_rule_is_the_scalar_ledger_with_a_band(allow_short: bool) -> None:
    """Ten lines of floats: hold the position while it is within a quarter of the target, else trade to the edge."""
    bars, spec = sided(900, 3), ledger(allow_short=allow_short)
    assert bars.signals is not None
    on = stage(bars, spec)
    [result] = backtests([Play(policies=one_liners(bars, on, 0), on=on, variants=(BASE,))], spec, RNG)
    run, held, side = result.run(BANDED), 0.0, 0
    for t in range(len(result)):
        said = int(bars.signals.action[t])
        side = side if said == 0 else 1 if said > 0 else -1
        base = 0.5 * (side if allow_short else max(side, 0))
        volatility = float(on.volatility[t, 0])
        target = min(0.15 / volatility / 0.5, 2.0) if volatility > 0.0 else 0.0
        asked = held / 0.5 * (side if said == 0 or held == 0.0 else 1 if said > 0 else -1)
        asked = min(max(asked, np.float32(0.75 * target)), np.float32(1.25 * target), 2.0)
        exposure = min(max(float(asked) * base, -1.0), 1.0)
        cost = 0.0015 * abs(exposure - held)
        move = bars.open[t + 2] / bars.open[t + 1] - 1.0
        growth = 1.0 + exposure * move - cost
        assert run.exposure[t, 0] == pytest.approx(exposure, rel=1e-6, abs=1e-9)
        assert run.log_growth[t] == pytest.approx(math.log(growth), rel=1e-6, abs=1e-9)
        held = exposure * (1.0 + move) / growth
    assert run.traded.sum() < result.run(VOLATILITY_TARGET).traded.sum()


def test_within_the_band_nothing_is_traded_and_outside_it_to_the_nearer_edge() -> None:
    """Steps of known size: the target is known from the volatility that the stage shows."""
    bars = bars_from(walk(2_000, 5, sigma=0.02))
    on = stage(bars, ledger())
    run = backtest(one_liners(bars, on, 0), on, ledger(), variants=(BASE,), rng=RNG).run(BANDED)
    target = np.where(on.volatility > 0, 0.15 / np.where(on.volatility > 0, on.volatility, 1.0), 0.0)[:, 0]
    size = run.exposure[:, 0]
    assert (size <= 1.25 * target + 1e-6).all()
    assert (size >= 0.75 * target - 1e-6).all()
    moved = np.flatnonzero(run.traded > 1e-9)
    at_edge = np.minimum(abs(size / np.maximum(target, 1e-9) - 1.25), abs(size / np.maximum(target, 1e-9) - 0.75))
    assert at_edge[moved].max() < 1e-5
    assert 0 < len(moved) < 0.2 * len(size)


def test_the_risk_of_a_portfolio_is_that_of_the_textbook() -> None:
    rho = np.array([1.0, 0.0, 0.5, -0.5])
    for assets in (2, 3, 7):
        variance = np.array([np.ones(assets) @ (np.full((assets,) * 2, r) + (1 - r) * np.eye(assets)) @ np.ones(assets)
                             for r in rho])  # fmt: skip
        assert portfolio_risk(rho, assets) == pytest.approx(np.sqrt(np.maximum(variance, 1.0)))
    assert portfolio_risk(np.array([0.3]), 1) == 1.0


def test_the_mean_correlation_is_the_weighted_one_of_the_returns_so_far() -> None:
    rng = np.random.default_rng(1)
    returns = rng.normal(0.0, 0.01, (1_500, 3)) @ np.array([[1.0, 0.5, 0.2], [0.0, 1.0, 0.3], [0.0, 0.0, 1.0]])
    closes = 50.0 * np.exp(np.concatenate([np.zeros((1, 3)), returns]).cumsum(axis=0))
    found = mean_correlation(closes)
    for t in (1, 2, 511, 512, 513, 1_400):
        weight = 0.5 ** (np.arange(t)[::-1] / 720)
        pairs = []
        for i, j in ((0, 1), (0, 2), (1, 2)):
            product, *squares = (
                float((weight * returns[:t, a] * returns[:t, b]).sum()) for a, b in ((i, j), (i, i), (j, j))
            )
            pairs.append(product / math.sqrt(squares[0] * squares[1]))
        assert found[t] == pytest.approx(sum(pairs) / 3, rel=1e-9)
    assert found[0] == 0.0
    assert mean_correlation(np.repeat(closes[:, :1], 2, axis=1))[1:] == pytest.approx(1.0)
    still = closes.copy()
    still[:, 2] = 7.0  # never moves: its two pairs count 0
    assert mean_correlation(still)[1_000] == pytest.approx(mean_correlation(closes[:, :2])[1_000] / 3)


def test_the_whole_portfolio_has_15_per_cent_of_volatility() -> None:
    """Constant volatilities and correlation, every asset always bought, no costs and no limits."""
    names = ("A-USD", "B-USD", "C-USD")
    panel = synthetic_panel(names, 9_000, seed=5, annual_volatility=(0.8, 1.0, 1.2), correlation=0.4)
    bought = bars_from(np.full(9_000, 1.0)).signals
    panel = replace(panel, bars=tuple(replace(bars, signals=bought) for bars in panel.bars))
    spec = ledger(commission_rate=0.0, slippage_bps=0.0)
    on = stage(panel, spec, 2_000)
    result = backtest(one_liners(panel, on, 2_000), on, spec, variants=(BASE,), rng=RNG)
    found = {n: metrics.volatility(result.run(n).log_growth, result.bars_per_year) for n in (WHOLE, BANDED_WHOLE)}
    assert found[WHOLE] == pytest.approx(0.15, rel=0.1)
    assert found[BANDED_WHOLE] == pytest.approx(0.15, rel=0.15)
    each = result.run(VOLATILITY_TARGET).exposure.mean() / result.run(WHOLE).exposure.mean()
    assert each == pytest.approx(math.sqrt(3 * (1 + 2 * 0.4)), rel=0.15)


# nothing later is known ----------------------------------------------------------------------------------------------


def other_future(history: Bars | Panel, cut: int, seed: int) -> Bars | Panel:
    """The same rows up to and with `cut`; every price after it is another one."""
    if isinstance(history, Panel):
        end = int(history.timestamp[cut])
        parts = [other_future(b, int(np.searchsorted(b.timestamp, end, side="right")) - 1, seed) for b in history.bars]
        return replace(history, bars=tuple(parts))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    factor = np.ones(len(history))
    factor[cut + 1 :] = np.exp(rng.normal(0.0, 0.3, len(history) - cut - 1))
    return replace(history, **{name: getattr(history, name) * factor for name in ("open", "high", "low", "close")})


@settings(max_examples=12, deadline=None)
@given(cut=some.integers(250, 690), seed=some.integers(0, 5), assets=some.sampled_from([1, 3]))
def test_another_future_changes_no_band_up_to_now(cut: int, seed: int, assets: int) -> None:
    history = sided(700, seed) if assets == 1 else random_panel(3, 700, seed)
    start, spec = 120, ledger(RiskLimits())
    cut = min(cut, len(history) - 3)
    edges = []
    for bars in (history, other_future(history, cut, seed)):
        on = stage(bars, spec, start)
        made = one_liners(bars, on, start)
        edges.append({name: np.stack([rule.low, rule.high])[:, : cut + 1 - start] for name, rule in made.items()})  # type: ignore[attr-defined]
    assert set(edges[0]) == set(candidates(assets)) - {VOLATILITY_TARGET}
    for name, before in edges[0].items():
        assert (before == edges[1][name]).all(), name
        assert before.shape[1] > 0


def test_the_property_test_notices_a_rule_that_knows_the_next_row() -> None:
    """Its negative control: the target of the row after this one does change."""
    bars = sided(700, 1)
    edges = []
    for each in (bars, other_future(bars, 400, 1)):
        on = stage(each, ledger())
        late = on._replace(volatility=np.roll(on.volatility, -1, axis=0))
        edges.append(one_liners(each, late, 0)[BANDED].low[:401])  # type: ignore[attr-defined]
    assert not (edges[0] == edges[1]).all()


@pytest.mark.parametrize("assets", [1, 3])
def test_the_choice_knows_the_training_rows_and_no_judged_one(assets: int) -> None:
    history = sided(900, 2) if assets == 1 else random_panel(3, 900, 2, gaps=0.0)
    folds = [(slice(0, 400), 0), (slice(100, 500), 100), (slice(0, 600), 200)]
    found = on_training_rows(history, ledger(), folds)
    same = on_training_rows(other_future(history, 599, 7), ledger(), folds)
    assert (found.useful == same.useful).all()
    assert found.chosen == same.chosen
    for changed in (500, 300):  # from here on other rows: a fold sees a change exactly where it was trained on them
        other = on_training_rows(other_future(history, changed, 7), ledger(), folds)
        moved = (found.utility != other.utility).any(axis=1)
        assert moved.tolist() == [train.stop - 1 > changed for train, _ in folds]


def test_the_utility_that_chooses_is_the_mean_on_the_folds_own_rows() -> None:
    bars, spec = sided(800, 4), ledger()
    found = on_training_rows(bars, spec, [(slice(50, 350), 0), (slice(200, 640), 150)], risk_aversion=3.0)
    on = stage(bars[:640], spec, 50)
    result = backtest(one_liners(bars[:640], on, 50), on, spec, variants=(BASE,), rng=RNG)
    for k, name in enumerate((BANDED, VOLATILITY_TARGET)):
        run = result.run(name)
        useful = run.log_growth - 1.5 * run.portfolio_return**2
        assert found.utility[0, k] == pytest.approx(
            useful[:298].mean(), rel=1e-4
        )  # the last decision earns two bars on
        assert found.utility[1, k] == pytest.approx(useful[150:588].mean(), rel=1e-4)


# the best of them ----------------------------------------------------------------------------------------------------


def known(useful: list[list[float]], rows: list[list[int]]) -> OneLiners:
    return OneLiners(names=("a", "b"), useful=np.array(useful, np.float32).reshape(-1, 2), rows=np.array(rows))


def test_each_fold_has_its_own_best_and_the_first_where_nothing_is_known() -> None:
    found = known([[0, 1], [0, 1], [5, 0], [5, 0]], [[0, 2, 0], [0, 4, 3], [2, 2, 5], [9, 12, 6]])
    assert found.chosen == ("b", "a", "a", "a")
    assert found.utility[:2].tolist() == [[0.0, 1.0], [2.5, 0.5]]
    assert found.in_words() == "b in 1 of 4 folds, a in 3 of 4 folds"
    assert known([], [[0, 2, 0]]).chosen == ("a",)
    assert known([[0, 1]], [[0, 1, 0]]).in_words() == "b"


def test_the_best_one_liner_is_on_each_folds_rows_the_account_of_its_rule() -> None:
    bars, spec = sided(900, 6), ledger()
    on = stage(bars, spec, 300)
    result = backtest({"policy": Rule(lambda s, i: 1.0)} | one_liners(bars, on, 300), on, spec, rng=RNG)
    rows = np.array([[0, 1, 0], [1, 2, 200], [0, 1, 450]])
    names = (BANDED, VOLATILITY_TARGET)
    chosen = OneLiners(names=names, useful=np.array([[0, 1], [1, 0]], np.float32), rows=rows)
    made = with_best(result, chosen)
    assert made.strategies == (*result.strategies, BEST)
    for variant in result.variants:
        best, (banded, target) = made.run(BEST, variant.name), (made.run(n, variant.name) for n in names)
        for name in ("log_growth", "exposure", "cost", "traded", "portfolio_return", "multiplier"):
            spliced = np.concatenate([
                getattr(target, name)[:200], getattr(banded, name)[200:450], getattr(target, name)[450:],
            ])  # fmt: skip
            assert (getattr(best, name) == spliced).all()
        steps = np.diff(best.marked_log_equity, prepend=0.0)
        assert steps[200:450] == pytest.approx(np.diff(banded.marked_log_equity)[199:449])
        assert steps[450:] == pytest.approx(np.diff(target.marked_log_equity)[449:])


def test_a_verdict_compares_with_the_best_one_liner_in_closed_form() -> None:
    bars, spec = sided(1_500, 8), ledger()
    on = stage(bars, spec, 400)
    policies = {"policy": Rule(lambda s, i: 1.0 + 0.3 * math.sin(i / 50))} | one_liners(bars, on, 400)
    result = backtest(policies, on, spec, variants=(BASE, LAGGED), rng=RNG)
    rivals = on_training_rows(bars, spec, [(slice(0, 390), 0)])
    found = judge(with_best(result, rivals), RNG, replications=300, one_liner=rivals.in_words())
    assert list(found.paired)[:2] == ["cash", BEST]
    mine, theirs = result.run("policy"), result.run(rivals.chosen[0])
    useful = [run.log_growth - 3.35 * run.portfolio_return**2 for run in (mine, theirs)]
    assert found.paired[BEST].utility.estimate == pytest.approx(8760 * (useful[0] - useful[1]).mean())
    ratios = [run.log_growth.mean() / run.log_growth.std(ddof=1) * math.sqrt(8760) for run in (mine, theirs)]
    assert found.paired[BEST].sharpe.estimate == pytest.approx(ratios[0] - ratios[1])
    assert found.one is not None
    one = result.run("multiplier 1.0")
    assert found.one.utility.estimate == pytest.approx(8760 * (one.log_growth - 3.35 * one.portfolio_return**2).mean())
    assert found.one.growth.estimate == pytest.approx(8760 * one.log_growth.mean())
    assert [s.question.split(" (")[0] for s in found.statements] == [
        "better than 1.0", "better than the one-liner", "better than cash", "1.0 against cash",
    ]  # fmt: skip
    assert rivals.in_words() in found.statements[1].question
