"""The verdict in each case that it knows, and the look-ahead test with its negative control."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from rich.console import Console

from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.evaluation import verdict as verdicts
from himari_rl.evaluation.backtest import Backtest, backtest, stage
from himari_rl.evaluation.control import NAMES, Control, Judgement
from himari_rl.evaluation.display import render
from himari_rl.evaluation.statements import Conduct, Found, sentence
from himari_rl.evaluation.statistics import Interval, moments, probabilistic_sharpe
from himari_rl.evaluation.verdict import Verdict, judge, lag_profile
from himari_rl.schema import BUY, SELL, Bars

ROWS = 5000
PHI = np.vectorize(NormalDist().cdf)


def opens_from(log_returns: np.ndarray) -> np.ndarray:
    """Opens such that the decision at bar t earns exp(log_returns[t]) - 1 from open[t + 1] to open[t + 2]."""
    return 100.0 * np.exp(np.concatenate(([0.0, 0.0], np.cumsum(log_returns))))[: len(log_returns)]


def persistent_edge(seed: int = 0) -> Bars:
    """A drift that a slow AR(1) sets, shown as confidence before the bars it describes."""
    rng = np.random.default_rng(seed)
    z = np.zeros(ROWS)
    for t in range(1, ROWS):
        z[t] = 0.97 * z[t - 1] + math.sqrt(1 - 0.97**2) * rng.normal()
    sigma = 0.01
    returns = 0.0013 * z - sigma**2 / 2 + sigma * rng.normal(size=ROWS)
    return bars_from(opens_from(returns), confidence=PHI(z))


def look_ahead(rho: float = 1.0, seed: int = 1) -> Bars:
    """A driftless market whose confidence column knows the return that the decision is about to earn."""
    rng = np.random.default_rng(seed)
    shocks = rng.normal(size=ROWS)
    shown = rho * shocks + math.sqrt(1 - rho**2) * rng.normal(size=ROWS)
    return bars_from(opens_from(0.01 * shocks - 0.00005), confidence=PHI(shown))


def follow_confidence(states: np.ndarray, step: int) -> np.ndarray:
    return 2.0 * (states[:, 0] > 0.5)


def judged(bars: Bars, rule: Rule, **options: float) -> tuple[Backtest, Verdict]:
    spec = ledger()
    result = backtest({"policy": rule}, stage(bars, spec), spec, rng=np.random.default_rng(0))
    return result, judge(result, np.random.default_rng(0), replications=300, **options)


def no_drift(seed: int = 2) -> Bars:
    return bars_from(walk(ROWS, seed, sigma=0.01))


WOBBLE = Rule(lambda states, step: 1.0 + 0.2 * math.sin(step / 200.0))
CONFIDENT = Rule(follow_confidence)


@pytest.fixture(scope="module")
def wobbling() -> tuple[Backtest, Verdict]:
    return judged(no_drift(), WOBBLE)


@pytest.fixture(scope="module")
def honest() -> tuple[Backtest, Verdict]:
    return judged(persistent_edge(), CONFIDENT)


def test_an_honest_persistent_edge_is_better_and_survives_the_lag(honest: tuple[Backtest, Verdict]) -> None:
    _, found = honest
    assert found.answer == "better"
    assert found.sentence.startswith("Better than multiplier 1.0, ")
    assert found.sure >= 0.975
    assert found.utility.lower > 0.0
    assert not found.lag.suspected
    assert 0.5 * found.lag.sharpe < found.lag.lagged_sharpe <= found.lag.sharpe
    assert found.years_needed < ROWS / 8760


@pytest.mark.parametrize("rho", [1.0, 0.15])
def test_a_policy_that_knows_the_next_bar_is_suspected_even_where_costs_eat_its_profit(rho: float) -> None:
    result, found = judged(look_ahead(rho), CONFIDENT)
    assert found.answer == "look_ahead"
    assert "Suspected look-ahead" in found.sentence
    assert abs(found.lag.lagged_sharpe) < 3.0 < found.lag.sharpe
    profitable = result.run("policy").log_growth.sum() > 0.0
    assert profitable == (rho == 1.0)  # profit is no test of a leak


def test_a_layer_2_column_that_knows_the_next_bar_is_suspected_although_the_policy_adds_nothing() -> None:
    bars = look_ahead()
    assert bars.signals is not None
    action = np.where(bars.signals.confidence > 0.5, BUY, SELL)
    _, found = judged(replace(bars, signals=replace(bars.signals, action=action)), WOBBLE)
    assert found.answer == "look_ahead"


@pytest.mark.parametrize(("kept", "suspected"), [(0.7, False), (0.4, True), (0.0, True)])
def test_an_edge_that_keeps_most_of_itself_for_a_bar_is_not_suspected(
    kept: float, suspected: bool, wobbling: tuple[Backtest, Verdict]
) -> None:
    """However sure the loss is: what fades slowly was no knowledge of one bar."""
    run = wobbling[0].run("policy")
    rng = np.random.default_rng(0)
    now, later = (replace(run, portfolio_return=rng.normal(mean, 0.002, ROWS - 2)) for mean in (0.001, 0.001 * kept))
    found = verdicts.lag_test(now, later, 8760.0, rng, 100)
    assert found.z > 3.0
    assert found.suspected == suspected


def test_an_edge_without_knowledge_is_not_suspected_however_often_it_is_tried() -> None:
    """Twenty noises: z above 3 comes once in 740."""
    coin = Rule(lambda states, step: 2.0 * (np.random.default_rng(step).uniform() > 0.5))
    spec = ledger()
    for seed in range(20):
        result = backtest({"policy": coin}, stage(bars_from(walk(400, seed)), spec), spec, rng=np.random.default_rng(0))
        pair = result.run("policy"), result.run("policy", "lag")
        assert not verdicts.lag_test(*pair, 8760.0, np.random.default_rng(0), 100).suspected


def rising() -> Bars:
    return bars_from(walk(ROWS, 2, sigma=0.01, drift=0.001))


def test_no_edge_says_keep_one_where_one_earned_something() -> None:
    _, found = judged(rising(), WOBBLE)
    assert found.answer == "no_edge"
    assert found.sentence.startswith("No edge found, keep 1.0: the difference to it cannot be told from zero.")
    assert found.utility.lower < 0.0 < found.utility.upper
    assert found.one is not None
    assert found.one.utility.estimate > 0.0


def test_no_edge_says_that_cash_was_better_where_one_lost(wobbling: tuple[Backtest, Verdict]) -> None:
    result, found = wobbling
    run = result.run("multiplier 1.0")
    assert (run.log_growth - 3.35 * run.portfolio_return**2).sum() < 0.0
    assert found.answer == "no_edge"
    assert found.sentence.startswith("No edge found, cash was better: the difference to 1.0 cannot be told from zero.")


@pytest.mark.parametrize(("bars", "advice"), [(rising(), "keep 1.0"), (no_drift(), "cash was better")])
def test_paying_costs_for_noise_is_worse_than_one(bars: Bars, advice: str) -> None:
    coin = Rule(lambda states, step: 2.0 * (step % 2))
    _, found = judged(bars, coin)
    assert found.answer == "worse"
    assert found.sentence.startswith(f"Worse than multiplier 1.0, 99.9 % sure: {advice}.")
    assert math.isinf(found.years_needed)


def test_standing_aside_is_no_edge_and_is_called_that() -> None:
    _, found = judged(no_drift(), Rule(lambda states, step: 0.01))
    assert found.answer == "no_edge"
    assert "stands aside (mean exposure 0.5 % of equity)" in found.sentence


@pytest.mark.parametrize("level", [2.0, 1.3, 1.0])
def test_a_constant_policy_has_collapsed_even_where_the_market_pays_it(level: float) -> None:
    rising = bars_from(walk(1500, 3, sigma=0.005, drift=0.0005))
    _, found = judged(rising, Rule(lambda states, step: level))
    assert found.answer == "collapsed"
    assert f"answers {level:.2f} to every state" in found.sentence
    assert found.saturation == float(level == 2.0)


def test_the_number_of_trials_can_take_a_verdict_away(honest: tuple[Backtest, Verdict]) -> None:
    result, once = honest
    often = judge(result, np.random.default_rng(0), replications=300, trials=1_000_000)
    assert (once.answer, often.answer) == ("better", "no_edge")
    assert "once 1000000 trials were counted" in often.sentence
    assert often.deflated_sharpe < 0.95 <= once.deflated_sharpe


def said(answer: str, growth: Interval, utility: Interval, own: Interval) -> str:
    """The sentence of a policy that decides and holds something."""
    conduct = Conduct(
        own_growth=own,
        sharpe=1.0,
        lagged_sharpe=1.0,
        lag_z=0.0,
        gross=0.3,
        aside=False,
        spread=0.3,
        level=1.0,
        trials=1,
    )
    return sentence(Found(answer=answer, utility=utility, growth=growth), conduct)


def test_safer_but_slower_is_not_called_better() -> None:
    up, down = (
        Interval(estimate=s * 0.02, lower=s * 0.02 - 0.01, upper=s * 0.02 + 0.01, confidence=0.95, positive=0.5 + s / 2,
                 standard_error=0.005)
        for s in (1, -1)
    )  # fmt: skip
    lag = verdicts.LagTest(sharpe=1.0, lagged_sharpe=1.0, z=0.0, suspected=False)
    answer = verdicts._answer(down, up, up, 0.99, lag, 0.3, 0.3, 0.95)
    assert answer == "no_edge"
    assert "safer but slower" in said(answer, down, up, up)
    assert verdicts._answer(down, replace(up, lower=-0.01), up, 0.6, lag, 0.3, 0.3, 0.95) == "worse"


def test_growth_that_risk_may_have_bought_is_not_called_better() -> None:
    growth = Interval(estimate=0.05, lower=0.01, upper=0.1, confidence=0.95, positive=0.98, standard_error=0.02)
    utility = replace(growth, lower=-0.01, positive=0.8)
    lag = verdicts.LagTest(sharpe=1.0, lagged_sharpe=1.0, z=0.0, suspected=False)
    assert verdicts._answer(growth, utility, growth, 0.8, lag, 0.3, 0.3, 0.95) == "no_edge"
    assert "grows faster, but counting its risk" in said("no_edge", growth, utility, growth)


def test_to_lose_less_than_one_is_no_edge() -> None:
    up = Interval(estimate=0.05, lower=0.01, upper=0.1, confidence=0.95, positive=0.98, standard_error=0.02)
    lag = verdicts.LagTest(sharpe=1.0, lagged_sharpe=1.0, z=0.0, suspected=False)
    for own, expected in ((-0.1, "no_edge"), (0.1, "better")):
        alone = replace(up, estimate=own)
        answer = verdicts._answer(up, up, alone, 0.99, lag, 0.3, 0.3, 0.95)
        assert answer == expected
        told = said(answer, up, up, alone)
        assert ("it lost, and cash did not: own growth -10.0 % a year" in told) == (own < 0.0)


def test_differences_are_those_of_the_two_runs_in_the_units_of_a_year(honest: tuple[Backtest, Verdict]) -> None:
    result, found = honest
    mine, one = result.run("policy"), result.run("multiplier 1.0")
    assert found.growth.estimate == pytest.approx(8760 * (mine.log_growth.mean() - one.log_growth.mean()))
    useful = [r.log_growth - 6.7 / 2 * r.portfolio_return**2 for r in (mine, one)]
    assert found.utility.estimate == pytest.approx(8760 * (useful[0] - useful[1]).mean())
    ratios = [r.log_growth.mean() / r.log_growth.std(ddof=1) * math.sqrt(8760) for r in (mine, one)]
    assert found.sharpe.estimate == pytest.approx(ratios[0] - ratios[1])
    difference = moments(useful[0] - useful[1])
    assert found.deflated_sharpe == pytest.approx(probabilistic_sharpe(difference))  # one trial
    depth = {row.strategy: row.max_drawdown for row in found.summaries if row.variant == "x1"}
    assert found.drawdown.estimate == pytest.approx(depth["policy"] - depth["multiplier 1.0"])
    assert found.sharpe.lower < found.sharpe.estimate < found.sharpe.upper


def test_a_verdict_is_json_and_a_seed_repeats_it(wobbling: tuple[Backtest, Verdict]) -> None:
    _, found = wobbling
    _, again = judged(no_drift(), WOBBLE)
    assert found == again
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["answer"] == "no_edge"
    assert document["years_needed"] is None or document["years_needed"] > 0
    assert len(document["summaries"]) == 6 * 4
    assert (document["start"], document["decisions"]) == ("2024-01-01T01:00Z", ROWS - 2)


def test_the_terminal_shows_every_strategy_whole_in_eighty_columns(wobbling: tuple[Backtest, Verdict]) -> None:
    result, found = wobbling
    console = Console(file=io.StringIO(), width=80)
    render(found, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for strategy in result.strategies:
        assert strategy in text
    assert "…" not in text
    assert "No edge found, cash was better" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_printed_verdict_is_a_page_of_eighty_columns(honest: tuple[Backtest, Verdict]) -> None:
    _, found = honest
    page = str(found)
    assert all(len(line) <= 80 for line in page.splitlines())
    assert " ".join(found.sentence.split()) in " ".join(page.split())
    utility, own = found.utility, found.own.sharpe
    row = f"utility %/y {100 * utility.estimate:+.1f} {100 * utility.lower:+.1f} to {100 * utility.upper:+.1f}"
    assert row in " ".join(page.split("policy minus multiplier 1.0, paired")[1].split())
    row = f"Sharpe ratio a year {own.estimate:+.2f} {own.lower:+.2f} to {own.upper:+.2f}"
    assert row in " ".join(page.split("policy minus")[0].split())
    assert all(f"  {name}: utility %/y" in page for name in found.paired)
    assert "none given" in page
    failed = {"name": "planted", "passed": False, "sentence": "The planted edge was NOT found. " * 8}
    with_controls = found.summary([failed])
    assert "FAILED planted" in with_controls
    assert "none given" not in with_controls
    assert all(len(line) <= 80 for line in with_controls.splitlines())
    assert repr(found) == f"Verdict({found.answer} on BTC-USDT, {found.decisions:,} decisions)"


def test_a_printed_backtest_is_a_table_of_its_strategies(honest: tuple[Backtest, Verdict]) -> None:
    result, found = honest
    page = str(result).splitlines()
    assert all(len(line) <= 80 for line in page)
    assert page[0] == f"BTC-USDT: {len(result):,} decisions, {found.start} to {found.end}"
    head = next(i for i, line in enumerate(page) if line.startswith("strategy"))
    assert page[head].split() == ["strategy", "growth", "Sharpe", "volatility", "drawdown", "turnover", "cost"]
    shown = {
        name: line.removeprefix(name).split()
        for name in result.strategies
        for line in page[head:]
        if line.startswith(name + " ")
    }
    assert set(shown) == set(result.strategies)
    run = result.run("multiplier 1.0")
    mean, deviation, year = run.log_growth.mean(), run.log_growth.std(ddof=1), 8760.0
    assert float(shown["multiplier 1.0"][0]) == pytest.approx(100 * mean * year, abs=0.051)
    assert float(shown["multiplier 1.0"][1]) == pytest.approx(mean / deviation * math.sqrt(year), abs=0.0051)
    assert float(shown["multiplier 1.0"][2]) == pytest.approx(100 * deviation * math.sqrt(year), abs=0.051)
    assert float(shown["multiplier 1.0"][4]) == pytest.approx(100 * run.traded.mean(), abs=0.0051)
    assert float(shown["multiplier 1.0"][5]) == pytest.approx(100 * run.cost.sum(), abs=0.051)
    assert repr(result).startswith("Backtest(BTC-USDT: ")
    assert len(repr(result)) < 160


def test_a_printed_judgement_shows_its_controls(honest: tuple[Backtest, Verdict]) -> None:
    _, found = honest
    controls = tuple(Control(name=n, passed=n != "lag", sentence=f"{n} was asked.", numbers={}) for n in NAMES)
    judgement = Judgement(
        verdict=found, own_deflated_sharpe=0.9, controls=controls, detectable=0.051, seeds={}, training_gain=0.1
    )
    page = str(judgement)
    assert page.startswith(found.summary().split("\n\nControls")[0])
    assert "ok     costs" in page
    assert "FAILED lag" in page
    assert "5.1 % a year (power 95 %)" in page
    assert all(len(line) <= 80 for line in page.splitlines())
    assert "failed: ['lag']" in repr(judgement)


def test_the_lag_profile_is_the_share_of_the_return_that_late_decisions_keep() -> None:
    rng = np.random.default_rng(3)
    days = np.repeat(rng.standard_normal(500), 24)[:, None]  # known for the day, and nothing after it
    profile = lag_profile(days, 0.001 * days)
    assert profile["bars"] == [1, 2, 4, 8, 24, 48, 168]
    own = days - days.mean()
    for i, lag in enumerate((1, 2, 4, 8, 24, 48, 168)):  # by the definition
        kept = sum(float(days[t - lag, 0] * days[t, 0]) for t in range(lag, len(days))) / (len(days) - lag)
        assert profile["retained"][i] == pytest.approx(kept / float(np.mean(days**2)))
        alike = sum(float(own[t - lag, 0] * own[t, 0]) for t in range(lag, len(days))) / (len(days) - lag)
        assert profile["autocorrelation"][i] == pytest.approx(alike / float(np.mean(own**2)))
    assert profile["retained"][0] == pytest.approx(23 / 24, abs=0.02)  # one bar in 24 is of another day
    assert profile["retained"][4] == pytest.approx(0.0, abs=0.15)


def test_the_lag_profile_of_nothing_and_of_a_short_span_is_no_error() -> None:
    assert lag_profile(np.zeros((100, 2)), np.ones((100, 2)))["retained"] == [0.0] * 5
    assert lag_profile(np.ones((100, 1)), np.ones((100, 1)))["autocorrelation"] == [0.0] * 5
