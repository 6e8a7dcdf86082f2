"""What a live bar and account must be: units, grid, clock, history, closes and exposures, each refused by name."""

from __future__ import annotations

import math
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.bundle import make_manifest
from himari_rl.features.live import Bar
from himari_rl.policy.arrival import (
    END_MS,
    FIRST_MS,
    HISTORY_BARS,
    MAX_PRICE_RATIO,
    ArrivalError,
    ArrivalRules,
    drifted,
    interval_text,
    milliseconds,
    missing_bars,
    share,
)
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import DAY_MS, HOUR_MS, MINUTE_MS

NOON = 1_767_268_800_000  # 2026-01-01T12:00Z
RULES = ArrivalRules.of(make_manifest())
WEEK = 7 * DAY_MS


def refused(check: Any, *arguments: Any, **named: Any) -> ArrivalError:
    with pytest.raises(ArrivalError) as caught:
        check(*arguments, **named)
    assert caught.value.cure
    return caught.value


# ---- units


@given(st.integers(FIRST_MS, END_MS - 1))
def test_milliseconds_are_taken_as_they_are_and_every_other_unit_is_named(time_ms: int) -> None:
    assert milliseconds(time_ms) == time_ms
    for unit, value in (
        ("seconds", time_ms // 1000),
        ("microseconds", time_ms * 1000),
        ("nanoseconds", time_ms * 10**6),
    ):
        error = refused(milliseconds, value)
        assert f"is in {unit}," in error.found
        assert error.reason == "time_unit"
    assert "is in seconds," in refused(milliseconds, time_ms / 1000).found


def test_the_years_are_2000_to_2100() -> None:
    assert datetime(2000, 1, 1, tzinfo=UTC).timestamp() * 1000 == FIRST_MS
    assert datetime(2101, 1, 1, tzinfo=UTC).timestamp() * 1000 == END_MS
    for value in (FIRST_MS - 1, END_MS, 0, -NOON, 10**400, -(10**400)):
        refused(milliseconds, value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (str(NOON), "is the text"),
        ("2026-01-01T12:00:00Z", "is the text"),
        (float(NOON), "with a fraction"),
        (NOON + 0.5, "with a fraction"),
        (True, "is True"),
        (None, "is None"),
        ([NOON], "is ["),
        (math.nan, "is nan"),
        (math.inf, "is inf"),
    ],
)
def test_what_is_no_time_is_refused(value: object, said: str) -> None:
    assert said in refused(milliseconds, value).found


@given(st.floats(0.0, 1.0))
def test_a_share_is_taken_and_per_cent_is_named(value: float) -> None:
    assert share(value, ("confidence",)) == value
    if 100.0 * value > 1.0:
        assert "divide per cent by 100" in refused(share, 100.0 * value, ("confidence",)).cure


@pytest.mark.parametrize("value", [-0.1, 101, math.nan, math.inf, "0.5", True, None, 10**400])
def test_what_is_no_share_is_refused(value: object) -> None:
    assert refused(share, value, ("signal", "confidence")).found.startswith("confidence is")


# ---- grid and clock


def test_the_grid_is_that_of_the_training_bars() -> None:
    RULES.check_grid(NOON, ())
    for late in (1, MINUTE_MS, HOUR_MS - 1):
        error = refused(RULES.check_grid, NOON + late, ("bar", "timestamp"))
        assert str(NOON) in error.cure
        assert (error.reason, error.place) == ("off_grid", ("bar", "timestamp"))
    data = make_manifest().training_data
    half_past = data.model_copy(update={"start": "2020-01-01T00:30:00Z"})
    shifted = ArrivalRules.of(make_manifest(training_data=half_past))
    shifted.check_grid(NOON + 30 * MINUTE_MS, ())
    refused(shifted.check_grid, NOON, ())
    unknown = ArrivalRules.of(make_manifest(training_data=data.model_copy(update={"start": "long ago"})))
    unknown.check_grid(NOON + 1, ())


def test_weeks_begin_where_the_training_began_them() -> None:
    """1970 began on a Thursday, exchanges' weeks begin on Monday: the phase is not 0."""
    manifest = make_manifest()
    data = manifest.training_data.model_copy(update={"start": "2020-01-06T00:00:00Z", "interval_ms": WEEK})
    ledger = manifest.ledger.model_copy(update={"interval_ms": WEEK})
    rules = ArrivalRules.of(make_manifest(training_data=data, ledger=ledger))
    monday = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1000)
    rules.check_grid(monday, ())
    refused(rules.check_grid, monday + 3 * DAY_MS, ())


def clock(timestamp: int, age_ms: float = math.inf, open_bars: bool = False) -> float:
    return RULES.check_clock(timestamp, NOON, age_ms, open_bars, ("bar", "timestamp"))


def test_a_bar_is_closed_and_not_stale_by_the_clock_of_whoever_receives_it() -> None:
    assert clock(NOON - HOUR_MS) == 0.0
    assert clock(NOON - 5 * HOUR_MS) == 4 * HOUR_MS
    assert clock(NOON - HOUR_MS + 10_000) == -10_000  # clocks differ
    assert refused(clock, NOON).reason == "unclosed"
    assert refused(clock, NOON - HOUR_MS + 11_000).reason == "unclosed"
    assert clock(NOON, open_bars=True) == -HOUR_MS
    assert refused(clock, NOON + HOUR_MS, open_bars=True).reason == "unclosed"  # not even open
    assert clock(NOON - 3 * HOUR_MS, 2 * HOUR_MS) == 2 * HOUR_MS
    stale = refused(clock, NOON - 4 * HOUR_MS, 2 * HOUR_MS)
    assert stale.reason == "stale"
    assert "closed 3 h ago" in stale.found


@pytest.mark.parametrize(
    ("interval_ms", "text"),
    [(HOUR_MS, "1 h"), (DAY_MS, "1 d"), (90_000, "90 s"), (15 * MINUTE_MS, "15 min"), (1, "1 ms")],
)
def test_an_interval_is_written_in_its_largest_whole_unit(interval_ms: int, text: str) -> None:
    assert interval_text(interval_ms) == text


# ---- the account


def test_the_largest_exposure_is_the_ledgers_and_what_one_bar_makes_of_it() -> None:
    """By hand: a long 1.0 stays 1.0; a short 1.0 after +20 % is 1.2 / 0.8; 2.0 after -20 % is 1.6 / 0.6; 1 % more."""
    spot, short = LedgerConfig(), LedgerConfig(allow_short=True)
    assert drifted(1.0, spot) == pytest.approx(1.01)
    assert drifted(1.0, short) == pytest.approx(1.01 * 1.2 / 0.8)
    assert drifted(2.0, LedgerConfig(limits=RiskLimits(max_leverage=2.0))) == pytest.approx(1.01 * 1.6 / 0.6)
    assert drifted(0.4, spot) == pytest.approx(1.01 * 0.4 * 1.2 / 1.08)


@pytest.mark.parametrize("exposure", [25, -25, 50.0, 1.2, -1.5, 1e308, 100])
def test_an_exposure_beyond_the_ledger_is_per_cent(exposure: float) -> None:
    error = refused(RULES.check_account, exposure, 0.0)
    assert f"exposure {exposure:.10g} is beyond the ledger's largest 1.0" in str(error)
    assert "a fraction of equity" in str(error)
    assert (error.reason, error.place) == ("exposure", ("account", "exposure"))


@given(st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
def test_a_position_of_the_ledger_is_taken_with_any_profit_that_it_can_have_made(exposure: float, moved: float) -> None:
    """A long position of w made w (1 - entry / price) of equity: less than w, and more than -1."""
    RULES.check_account(exposure, exposure * moved)


def test_a_profit_beyond_the_position_is_another_unit() -> None:
    for exposure, pnl in ((0.25, 2.0), (0.25, 0.8), (-0.25, -0.8), (0.0, -5.0)):
        assert refused(RULES.check_account, exposure, pnl).reason == "pnl"
    RULES.check_account(0.25, -0.8)  # a fall to a quarter of the entry
    RULES.check_account(-0.25, 0.8)


def test_several_positions_together_are_within_the_leverage() -> None:
    rules = ArrivalRules.of(make_manifest("multi"))
    rules.check_gross([0.4, 0.3, 0.3])
    assert refused(rules.check_gross, [0.9, 0.9, 0.9]).reason == "exposure"


# ---- closes and history


@given(st.floats(1e-12, 1e12), st.floats(1 / MAX_PRICE_RATIO, MAX_PRICE_RATIO))
def test_a_close_within_the_factor_is_taken_and_beyond_it_refused(before: float, ratio: float) -> None:
    RULES.check_close(min(max(before * ratio, before / MAX_PRICE_RATIO), before * MAX_PRICE_RATIO), before, ())
    for absurd in (before * 10.1, before / 10.1, 1e308, 5e-324, 0.0, -before, math.inf, math.nan):
        assert refused(RULES.check_close, absurd, before, ()).reason == "close"


def rows(count: int = HISTORY_BARS, step: int = HOUR_MS, end: int = NOON) -> list[tuple[int, float]]:
    """`count` bars before `end`."""
    return [(end - step * k, 100.0 + k % 7) for k in range(count, 0, -1)]


def history(given: list[tuple[int, float]], rules: ArrivalRules = RULES) -> list[Bar]:
    times, closes = rules.history(given, NOON, "this session is new here and", ("history",))
    return list(map(Bar, times, closes))


@given(st.randoms(), st.integers(0, 5))
def test_a_history_in_any_order_with_rows_twice_is_the_same_history(random: Any, twice: int) -> None:
    given_rows = rows()
    shuffled = given_rows + given_rows[:twice]
    random.shuffle(shuffled)
    assert history(shuffled) == [Bar(*row) for row in given_rows]


@pytest.mark.parametrize(
    ("given_rows", "reason", "said"),
    [
        ([], "few_bars", "0 distinct bars, 20 needed"),
        (rows(19), "few_bars", "19 distinct bars, 20 needed"),
        ([rows()[-1]] * 20, "few_bars", "1 distinct bar, 20 needed"),
        ([(NOON - HOUR_MS, 100.0 + k) for k in range(20)], "few_bars", "1 distinct bar, 20 needed"),
        ([*rows(), (NOON - HOUR_MS, 99.0)], "order", "twice"),
        ([*rows(), (NOON, 99.0)], "order", "reaches the bar itself"),
        ([*rows(), (NOON + HOUR_MS, 99.0)], "order", "reaches the bar itself"),
        (rows(step=MINUTE_MS), "interval", "history is 60 s apart"),
        (rows(step=15 * MINUTE_MS), "interval", "history is 900 s apart"),
        (rows(step=4 * HOUR_MS), "interval", "history is 4 h apart"),
        (rows(step=DAY_MS), "interval", "history is 1 d apart"),
        (rows(step=90 * MINUTE_MS), "interval", "history is 90 min apart"),
        (rows(end=NOON - 30 * MINUTE_MS), "off_grid", "30 min after the opening"),
        ([*rows()[:10], (NOON - 10 * HOUR_MS, 1e308), *rows()[11:]], "close", "within a factor of 10"),
        ([*rows()[:10], (NOON - 10 * HOUR_MS, 1e-300), *rows()[11:]], "close", "within a factor of 10"),
    ],
)
def test_a_history_that_cannot_fill_the_windows_is_refused(given_rows: Any, reason: str, said: str) -> None:
    error = refused(history, given_rows)
    assert (error.reason, error.place) == (reason, ("history",))
    assert said in str(error)


def test_missing_bars_are_a_gap_and_not_another_interval() -> None:
    with_holes = [row for i, row in enumerate(rows(40)) if i % 4 or i < 3]
    assert len(history(with_holes)) == len(with_holes)
    assert missing_bars([row[0] for row in with_holes], HOUR_MS) == 40 - len(with_holes)
    assert missing_bars([NOON, NOON + HOUR_MS], HOUR_MS) == 0


def test_an_error_travels_between_processes() -> None:
    error = refused(milliseconds, 1)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.place) == (str(error), error.reason, error.place)
