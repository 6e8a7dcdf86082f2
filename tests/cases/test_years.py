"""A year is elapsed calendar time: sessions, closed days and outages earn nothing and count as time."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from helpers.data import bars_at, shared
from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.data.panel import panel_of
from himari_rl.data.sources import load_bars
from himari_rl.data.splits import train_test
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import BASE, LAGGED, Backtest, backtest, stage
from himari_rl.evaluation.baselines import HOLD_ALL, ONE, VOLATILITY_TARGET, ewma_volatility
from himari_rl.evaluation.verdict import judge
from himari_rl.schema import DAY_MS, HOUR_MS, MINUTE_MS, Bars
from himari_rl.storage import read_bytes

MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
DAILY_TIMES = [MONDAY + timedelta(days=d) for d in range(1400) if (MONDAY + timedelta(days=d)).weekday() < 5]


def session_times(weeks: int, first: int, hours: int, days: int = 5) -> list[datetime]:
    """Bars of a market that opens at an hour of each weekday, for so many hours."""
    found = [MONDAY + timedelta(days=d, hours=first + h) for d in range(7 * weeks) for h in range(hours)]
    return [time for time in found if time.weekday() < days]


def on_clock(times: list[datetime], interval_ms: int, seed: int = 0, drift: float = 2e-4) -> Bars:
    """A random walk whose bars open at these times."""
    stamps = np.array([int(time.timestamp()) * 1000 for time in times], np.int64)
    made = bars_from(walk(len(times), seed, drift=drift), interval_ms=interval_ms)
    return replace(made, timestamp=stamps)


MARKETS = {
    "New York's hours": (session_times(60, 14, 7), HOUR_MS),
    "a lunch break": ([t for t in session_times(60, 1, 7) if t.hour != 4], HOUR_MS),
    "half-hours of six days": (session_times(40, 8, 10, days=6), HOUR_MS),
    "stocks by day": (DAILY_TIMES, DAY_MS),
    "an exchange that was down for six weeks": (
        [t for t in (MONDAY + timedelta(hours=h) for h in range(9000)) if not 600 < (t - MONDAY).days * 24 < 1608],
        HOUR_MS,
    ),
    "minutes of a thin market": (
        [MONDAY + timedelta(minutes=m) for m in range(40_000) if (m * 7919) % 13 < 2],
        MINUTE_MS,
    ),
}


def played(bars: Bars, first: int) -> Backtest:
    costs = ledger(interval_ms=bars.interval_ms, commission_rate=0.0, slippage_bps=0.0)
    halves = Rule(lambda states, step: np.full(len(states), 0.5))
    return backtest(
        {"policy": halves}, stage(bars, costs, first), costs, variants=(BASE, LAGGED), rng=np.random.default_rng(0)
    )


def by_hand(bars: Bars, first: int) -> float:
    """Log-growth a year of who buys at the open after bar `first` and sells at the last open."""
    years = (int(bars.timestamp[-1]) - int(bars.timestamp[first + 1])) / (365 * 24 * 3600 * 1000)
    return math.log(bars.open[-1] / bars.open[first + 1]) / years


@pytest.mark.parametrize("market", MARKETS)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_buy_and_hold_grows_by_what_prices_and_the_calendar_say(market: str, share: float) -> None:
    times, interval = MARKETS[market]
    bars = on_clock(times, interval)
    first = int(share * len(bars))
    found = played(bars, first)
    run = found.run(HOLD_ALL)
    assert metrics.growth(run.log_growth, found.bars_per_year) == pytest.approx(by_hand(bars, first), rel=1e-9)


@pytest.mark.parametrize("market", ["New York's hours", "stocks by day"])
def test_the_verdict_counts_the_same_years_everywhere(market: str) -> None:
    """Growth, utility, volatility, Sharpe and their intervals, against totals over elapsed years."""
    times, interval = MARKETS[market]
    bars = on_clock(times, interval)
    first = len(bars) // 2
    found = played(bars, first)
    said = judge(found, np.random.default_rng(0), replications=60)
    years = (int(bars.timestamp[-1]) - int(bars.timestamp[first + 1])) / 365 / 86_400_000
    mine, one = found.run("policy"), found.run(ONE)
    summary = next(s for s in said.summaries if s.strategy == "policy" and s.variant == "x1")
    g, r = mine.log_growth, mine.portfolio_return
    assert summary.growth == pytest.approx(g.sum() / years)
    assert summary.utility == pytest.approx((g - 6.7 / 2 * r**2).sum() / years)
    assert summary.volatility == pytest.approx(math.sqrt(g.var(ddof=1) * len(g) / years))
    assert summary.sharpe == pytest.approx(summary.growth / summary.volatility)
    assert said.own.sharpe.estimate == pytest.approx(summary.sharpe)
    assert said.growth.estimate == pytest.approx((g - one.log_growth).sum() / years)
    assert said.bars_per_year == pytest.approx(len(g) / years)
    wrong = 365 * 86_400_000 / interval
    assert wrong / said.bars_per_year > 1.35  # what the interval alone would make of a year


def test_the_number_of_observations_of_psr_and_dsr_is_that_of_the_bars() -> None:
    """The same returns on another calendar are as many observations: only figures per year differ."""
    times, interval = MARKETS["New York's hours"]
    session = on_clock(times, interval)
    steady = replace(session, timestamp=session.timestamp[0] + HOUR_MS * np.arange(len(session)))
    said = [judge(played(bars, 500), np.random.default_rng(0), replications=60) for bars in (session, steady)]
    assert said[0].bars_per_year < 0.25 * said[1].bars_per_year
    ratio = said[0].bars_per_year / said[1].bars_per_year
    assert said[0].sharpe.estimate == pytest.approx(said[1].sharpe.estimate * math.sqrt(ratio))
    assert said[0].probabilistic_sharpe == pytest.approx(said[1].probabilistic_sharpe, abs=1e-12)
    assert said[0].deflated_sharpe == pytest.approx(said[1].deflated_sharpe, abs=1e-12)


def test_hours_without_gaps_have_the_year_they_always_had() -> None:
    bars = synthetic_bars(3000, 1)
    assert bars.bars_per_year == 8760.0
    assert bars[100:700].bars_per_year == 8760.0
    assert panel_of([bars, replace(bars, symbol="OTHER")])[10:90].bars_per_year == 8760.0
    found = played(bars_from(walk(1200, 5)), 300)
    assert found.bars_per_year == 8760.0
    assert found.per_year(slice(100, 200)) == 8760.0


def test_a_fold_has_its_own_year() -> None:
    """A part of the decisions counts from its first fill to the first fill of the part behind it."""
    bars = on_clock(*MARKETS["stocks by day"])
    found = played(bars, 100)
    for part in (slice(0, 200), slice(200, 431), slice(431, len(found))):
        ends = [*found.fill_time.tolist(), int(bars.timestamp[-1])]
        start, stop, _ = part.indices(len(found))
        years = (ends[stop] - ends[start]) / 365 / 86_400_000
        assert found.per_year(part) * years == pytest.approx(stop - start)


def test_the_volatility_target_knows_only_the_calendar_of_its_past() -> None:
    """Whatever comes later, and how often the market opens then, moves no earlier estimate."""
    times, interval = MARKETS["New York's hours"]
    bars = on_clock(times, interval)
    t = 700
    future = replace(bars, timestamp=np.where(np.arange(len(bars)) > t, bars.timestamp + 90 * DAY_MS, bars.timestamp))
    assert (ewma_volatility(bars)[: t + 1] == ewma_volatility(future)[: t + 1]).all()
    assert ewma_volatility(bars)[t + 1] != ewma_volatility(future)[t + 1]


@pytest.mark.parametrize("market", ["New York's hours", "stocks by day"])
def test_the_volatility_target_holds_15_percent_of_a_calendar_year(market: str) -> None:
    times, interval = MARKETS[market]
    bars = on_clock(times, interval, drift=0.0)
    on = stage(bars, ledger(interval_ms=interval, commission_rate=0.0, slippage_bps=0.0), len(bars) // 3)
    true = 0.01 * math.sqrt(len(bars) / ((bars.timestamp[-1] - bars.timestamp[0]) / 365 / 86_400_000))
    assert np.median(on.volatility) == pytest.approx(true, rel=0.15)
    found = played(bars, len(bars) // 3)
    reached = metrics.volatility(found.run(VOLATILITY_TARGET).log_growth, found.bars_per_year)
    assert reached == pytest.approx(0.15, rel=0.12)


def test_a_bar_alone_has_a_year_too() -> None:
    assert bars_at([0]).bars_per_year == 8760.0


@pytest.mark.parametrize(("name", "too_high"), [("stock_hours_1h.csv.gz", 4.65), ("stock_daily.csv", 1.39)])
def test_the_cases_of_session_markets(name: str, too_high: float) -> None:
    """First and last price of the judged fifth, and the days between them."""
    path = shared(f"../cases/files/{name}")
    bars = load_bars(path)
    _, test = train_test(bars, 0.2, purge_bars=0)
    first = len(bars) - len(test)
    found = played(bars, first)
    growth = metrics.growth(found.run(HOLD_ALL).log_growth, found.bars_per_year)
    rows = read_rows(path)
    assert len(rows) == len(bars)
    (start, bought), (end, sold) = rows[first + 1], rows[-1]
    truth = math.log(sold / bought) / ((end - start).total_seconds() / 86_400 / 365)
    assert growth == pytest.approx(truth, rel=0.01)
    assert (365 * DAY_MS / bars.interval_ms) / found.bars_per_year == pytest.approx(too_high, rel=0.1)


def read_rows(path: Path) -> list[tuple[datetime, float]]:
    """Times and opens, without the reader under test."""
    import gzip

    data = read_bytes(path)
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    lines = [line.split(",") for line in text.splitlines()[1:]]
    return [(datetime.fromisoformat(line[0]).replace(tzinfo=UTC), float(line[1])) for line in lines]


def test_real_hours_have_nearly_the_year_they_had() -> None:
    """Recorded crypto hours lack a few rows: figures a year move by that share and no more."""
    bars = load_bars(shared("binance-spot/BTC-USDT_1h.parquet"))
    coverage = len(bars) / ((int(bars.timestamp[-1]) - int(bars.timestamp[0])) / bars.interval_ms + 1)
    assert bars.bars_per_year == pytest.approx(8760.0 * coverage, rel=1e-12)
    assert coverage > 0.99
