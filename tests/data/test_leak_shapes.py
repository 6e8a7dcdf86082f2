"""The statistics behind each alarm: against slow twins from their definitions, and how they behave under noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from himari_rl.data.leaks import examine, normal_scores
from himari_rl.data.leaks.bins import bin_test, f_statistic, quantile_bins
from himari_rl.data.leaks.calendar import (
    CandleClock,
    candle_statistics,
    candle_test,
    hourly,
    phases_of,
    strongest_candle,
)
from himari_rl.data.leaks.news import SHARE, held, innovations, lag_t, movement_of, news_of, share_limit
from himari_rl.data.leaks.report import MIN_BARS_SHAPES
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.schema import DAY_MS, HOUR_MS, BoolArray, FloatArray, IntArray

HOURS = 24 * 400


def white(seed: int, rows: int = HOURS) -> FloatArray:
    return np.random.default_rng(seed).standard_normal(rows)


def everywhere(rows: int) -> BoolArray:
    return np.ones(rows, bool)


def daily(values: FloatArray) -> FloatArray:
    """A number a day, held for its 24 hours."""
    return np.repeat(values, 24)


def clock_of(y: FloatArray, *, start_ms: int = 0, hours: IntArray | None = None) -> CandleClock:
    hours = np.arange(len(y) + 2) if hours is None else hours
    clock = CandleClock.of(start_ms + HOUR_MS * hours, HOUR_MS, y)
    assert clock is not None
    return clock


def z_by_definition(x: FloatArray, have: BoolArray, clock: CandleClock, bars: int, phase: int) -> float:
    """Pair by pair: j bars apart, in one candle or not, weighted by the other kind's share."""
    size = clock.size
    candle = (np.arange(size) - phase) // bars
    share = np.zeros(bars)
    for j in range(1, bars):
        pairs = [b for b in range(j, size) if have[b - j] and clock.y_known[b]]
        share[j] = sum(candle[b] != candle[b - j] for b in pairs) / max(len(pairs), 1)
    products = []
    for b in range(bars - 1, size):
        s = 0.0
        for j in range(1, bars):
            s += x[b - j] * (share[j] if candle[b] == candle[b - j] else share[j] - 1.0)
        products.append(clock.y[b] * s)
    return float(np.sum(products) / np.sqrt(np.sum(np.square(products))))


@pytest.mark.parametrize("gaps", [False, True])
def test_z_is_the_sum_over_pairs_in_one_candle_less_those_in_two(gaps: bool) -> None:
    rows, bars = 240, 8
    rng = np.random.default_rng(1)
    hours = np.arange(rows + 2)
    if gaps:  # an exchange that opens for ten hours a day
        hours = hours[hours % 24 < 10]
    y, x = rng.standard_normal(len(hours) - 2), rng.standard_normal(len(hours) - 2)
    clock = clock_of(y, hours=hours)
    on_grid, have = clock.spread(x, everywhere(len(x)))
    phases = np.arange(bars)
    z, r, count = candle_statistics(on_grid, have, clock, bars, phases)
    for phase in phases.tolist():
        expected = z_by_definition(on_grid, have, clock, bars, phase)
        # whole candles give the shares, all pairs the definition's: as good as equal where no bar is missing
        assert abs(z[phase]) == pytest.approx(abs(expected), abs=0.25 if gaps else 0.1)
        firsts = [p for p in range(phase, clock.size - bars + 1, bars) if have[p]]
        rest = [clock.y[p + 1 : p + bars].sum() for p in firsts]
        assert r[phase] == pytest.approx(np.corrcoef(on_grid[firsts], rest)[0, 1])
        assert count[phase] == len(firsts)


@pytest.mark.parametrize("start_hour", [0, 7])
def test_a_daily_candle_without_a_shift_is_found_with_the_hour_at_which_it_starts(start_hour: int) -> None:
    y = white(2)
    total = y.reshape(-1, 24).sum(axis=1)
    # y[t] is earned by deciding at t: the return of bar t + 1; so the candle of bars 1..24 is a day from 01:00 on
    found = candle_test(normal_scores(daily(total)), everywhere(HOURS), clock_of(y, start_ms=start_hour * HOUR_MS))
    assert found.alarm
    assert (found.bars, found.candle) == (24, "daily")
    clear = np.r_[0.0, daily(total)][:HOURS]  # the column as of bar t: its own day's, from the day's first bar on
    found = candle_test(normal_scores(clear), everywhere(HOURS), clock_of(y, start_ms=start_hour * HOUR_MS))
    assert found.starts == f"{start_hour + 1:02d}:00 UTC"
    shifted = np.r_[np.zeros(24), clear][:HOURS]  # the cure, followed
    assert not candle_test(normal_scores(shifted), everywhere(HOURS), clock_of(y)).alarm


def test_a_value_interpolated_to_the_next_midnight_is_found_in_its_changes() -> None:
    y = white(4)
    price = np.cumsum(np.r_[0.0, y])[:HOURS]  # at row t: what was earned before it
    knots = np.arange(0, HOURS, 24)
    line = np.interp(np.arange(HOURS), knots, price[knots])
    clock = clock_of(y)
    assert not candle_test(normal_scores(line), everywhere(HOURS), clock).alarm  # the level hides it
    found = strongest_candle(line, everywhere(HOURS), clock)
    assert found.alarm
    assert found.of_changes
    held_back = np.r_[np.zeros(24), line][:HOURS]
    assert not strongest_candle(held_back, everywhere(HOURS), clock).alarm


def test_an_honest_predictor_of_any_memory_is_no_candle() -> None:
    for seed, phi in enumerate((0.0, 0.8, 0.97, 0.995)):
        x = np.zeros(HOURS)
        for t, shock in enumerate(white(seed).tolist()):
            x[t] = phi * x[t - 1] + np.sqrt(1.0 - phi**2) * shock
        y = 0.1 * x + white(seed + 50)
        assert not strongest_candle(x, everywhere(HOURS), clock_of(y)).alarm


def test_hours_of_an_exchange_do_not_make_a_candle_of_an_honest_predictor() -> None:
    """Rows of one session are all in the same day: without counted pairs that alone would look like a candle."""
    hours = np.arange(24 * 1500)
    hours = hours[(hours % 24 < 8) & (hours // 24 % 7 < 5)]
    rows = len(hours) - 2
    x = np.zeros(rows)
    for t, shock in enumerate(white(9, rows).tolist()):
        x[t] = 0.9 * x[t - 1] + np.sqrt(0.19) * shock
    found = strongest_candle(x, everywhere(rows), clock_of(0.12 * x + white(10, rows), hours=hours))
    assert not found.alarm


def test_long_candles_of_minutes_are_looked_for_in_hours() -> None:
    y = white(1, 3000)
    clock = CandleClock.of(17 * 60_000 + 60_000 * np.arange(3002), 60_000, y)
    assert clock is not None
    phases = phases_of(60, clock)
    assert len(phases) == 12
    assert all((clock.first_ms + p * 60_000) % (HOUR_MS // 12) == 0 for p in phases.tolist())
    x, have = clock.spread(y, everywhere(3000))
    whole, said, there = hourly(x, have, clock)
    assert (whole.first_ms, whole.size) == (0, 51)  # from 00:17 to 50:18
    assert there.all()
    assert said[0] == y[42]  # 00:59
    assert whole.y[0] == pytest.approx(y[:42].sum())  # earned in the bars 00:18 to 00:59, each by the row before


def test_a_daily_candle_in_minutes_is_found_with_its_hour() -> None:
    rows = 1440 * 60
    y = white(14, rows)
    total = np.repeat(y.reshape(-1, 1440).sum(axis=1), 1440)
    clock = CandleClock.of(60_000 * np.arange(rows + 2), 60_000, y)
    assert clock is not None
    found = candle_test(normal_scores(np.r_[0.0, total][:rows]), everywhere(rows), clock)
    assert (found.alarm, found.candle, found.starts) == (True, "daily", "00:00 UTC")
    assert not candle_test(normal_scores(np.r_[np.zeros(1441), total][:rows]), everywhere(rows), clock).alarm


def test_t_of_each_lag_is_the_plain_correlation_and_white_s_variance() -> None:
    e, y = white(1, 400), white(2, 400)
    t, null = lag_t(e, y, 5)
    for k in range(5):
        products = [e[i] * y[i + k] for i in range(400 - k)]
        scale = np.sqrt(np.mean(e**2) * np.mean(y**2))
        assert t[k] == pytest.approx(sum(products) / scale / np.sqrt(400 - k))
        assert null[k] == pytest.approx(np.sum(np.square(products)) / scale**2 / (400 - k))


def test_innovations_are_those_of_a_least_squares_autoregression() -> None:
    x = np.zeros(3000)
    shocks = white(3, 3000)
    for t in range(2, 3000):
        x[t] = 1.6 * x[t - 1] - 0.65 * x[t - 2] + shocks[t]
    e = innovations(x)
    lagged = np.column_stack([x[48 - k : 3000 - k] for k in range(1, 49)])
    expected = x[48:] - lagged @ np.linalg.lstsq(lagged, x[48:], rcond=None)[0]
    assert e[48:] == pytest.approx(expected, abs=1e-6)
    assert np.corrcoef(e[48:], shocks[48:])[0, 1] > 0.98


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.15])
def test_the_news_of_an_honest_predictor_explain_the_square_of_its_correlation(rho: float) -> None:
    rows, found = 20_000, []
    for seed in range(4):
        x = np.zeros(rows)
        for t, shock in enumerate(white(seed, rows).tolist()):
            x[t] = 0.95 * x[t - 1] + np.sqrt(1.0 - 0.95**2) * shock
        y = rho * x + np.sqrt(1.0 - rho**2) * white(seed + 20, rows)
        news = news_of(normal_scores(x), everywhere(rows), y, np.abs(y) - np.abs(y).mean())
        assert (news.share_alarm, news.spike_alarm, news.volatility_alarm) == (False, False, False)
        found.append(news.share)
    assert np.mean(found) == pytest.approx(rho**2, abs=0.003)


def test_a_centred_mean_has_news_of_everything_and_a_spike_where_its_window_ends() -> None:
    y = white(5, 20_000)
    centred = np.convolve(y, np.ones(21) / 21, mode="same")  # knows y[t - 10 .. t + 10]
    news = news_of(normal_scores(centred), everywhere(20_000), y, np.abs(y))
    assert news.share_alarm
    assert news.share > 0.5
    assert news.spike_alarm
    assert news.spike_bars == 11  # y[t + 10] is the return of the bar 11 bars ahead


def test_size_of_moves_known_early_is_a_volatility_spike_and_the_hour_of_the_week_is_none() -> None:
    hour = np.arange(20_000) % 168
    y = white(6, 20_000) * (1.0 + (hour % 24 == 14))
    movement = movement_of(y, hour)
    known = everywhere(20_000)
    early = news_of(normal_scores(np.r_[np.abs(y)[6:], np.zeros(6)]), known, y, movement)
    assert early.volatility_alarm
    assert early.volatility_bars == 7
    assert not news_of(normal_scores((hour % 24 == 14).astype(float)), known, y, movement).volatility_alarm


def test_the_limit_of_the_share_is_the_threshold_on_two_years_and_higher_on_less() -> None:
    assert share_limit(40_000) == SHARE
    assert share_limit(17_544) == pytest.approx(SHARE, abs=0.0015)
    assert share_limit(1000) > 2.0 * SHARE


def test_bins_and_f_are_those_of_the_definition() -> None:
    x, y = white(7, 2000), white(8, 2000) + 0.0
    group = quantile_bins(x)
    assert np.bincount(group).tolist() == [100] * 20
    f, means = f_statistic(group, y)
    parts = [y[group == g] for g in range(20)]
    between = sum(100 * (p.mean() - y.mean()) ** 2 for p in parts) / 19
    within = sum(((p - p.mean()) ** 2).sum() for p in parts) / (2000 - 20)
    assert f == pytest.approx(between / within)
    assert means == pytest.approx([p.mean() - y.mean() for p in parts])
    assert len(np.unique(quantile_bins(np.sign(x)))) == 2


def test_marks_of_highs_and_lows_are_caught_in_bins_and_confirmed_ones_are_not() -> None:
    y = white(9, 20_000)
    rare = np.where(np.abs(y) > 2.0, y, 0.0)  # marked at the bar before a large move
    assert bin_test(rare, everywhere(20_000), y).alarm
    assert not bin_test(np.r_[0.0, rare[:-1]], everywhere(20_000), y).alarm


def test_noise_of_any_memory_raises_no_alarm_on_any_length() -> None:
    accused = 0
    for seed, rows in enumerate((300, 600, 1000, 3000, 9000)):
        bars = synthetic_bars(rows, seed)
        columns = {}
        for k, phi in enumerate((0.0, 0.5, 0.9, 0.99, 1.0)):
            path = [0.0]
            for shock in white(100 * seed + k, rows - 1).tolist():
                path.append(phi * path[-1] + shock)
            columns[f"AR({phi})"] = np.array(path)
        columns |= {
            "price": bars.close,
            "steps": np.round(columns["AR(0.99)"]),
            "rare": (columns["AR(0.0)"] > 2.5) * 1.0,
        }
        accused += sum(bool(r.alarms) for r in examine(replace(bars, extra=columns)))
    assert accused == 0


def test_too_few_bars_for_shapes_are_said() -> None:
    bars = synthetic_bars(MIN_BARS_SHAPES - 10, 1)
    (report,) = examine(replace(bars, extra={"mood": white(1, len(bars))}))
    assert report.news is None
    assert "too few" in report.message


def test_the_last_known_value_is_held() -> None:
    known = np.array([False, True, False, True, False])
    assert held(np.array([9.0, 1.0, 9.0, 2.0, 9.0]), known).tolist() == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_size_alone_is_implausible_and_no_named_leak() -> None:
    rows = 12_000
    x = np.zeros(rows)
    for t, shock in enumerate(white(31, rows).tolist()):
        x[t] = 0.9 * x[t - 1] + np.sqrt(0.19) * shock
    y = 0.19 * x + np.sqrt(1.0 - 0.19**2) * white(32, rows)
    price = 100.0 * np.exp(np.cumsum(0.005 * np.r_[0.0, y]))  # row t earns from open t + 1 to open t + 2
    bars = synthetic_bars(rows, 0)
    opened = np.r_[price[0], price[:-1]][:rows]
    close = price[:rows]
    bars = replace(bars, open=opened, close=close, high=np.maximum(opened, close), low=np.minimum(opened, close))
    (report,) = examine(replace(bars, extra={"x": x}))
    assert [alarm.named for alarm in report.alarms] == [False]
    assert report.implausible
    assert not report.suspected
    assert "too good" in report.message


def test_a_week_is_named_by_its_day() -> None:
    rows = 24 * 7 * 150
    y = white(12, rows)
    monday = 4 * DAY_MS  # 1970-01-05
    total = np.repeat(y.reshape(-1, 168).sum(axis=1), 168)
    column = np.r_[0.0, total][:rows]
    found = candle_test(normal_scores(column), everywhere(rows), clock_of(y, start_ms=monday - HOUR_MS))
    assert found.alarm
    assert found.starts == "Monday 00:00 UTC"
