"""LEAKS.md: look-aheads as users make them are caught by name in real and made bars, and honest columns are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from helpers import ROOT
from helpers.data import shared
from himari_rl.data.leaks import examine
from himari_rl.data.sources import load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.schema import Bars


@pytest.fixture(scope="module")
def kinds() -> Iterator[Any]:
    """benchmarks/ is no package; its two lists are loaded from there."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import honest_columns
    import leak_kinds

    yield leak_kinds, honest_columns
    sys.path.remove(str(ROOT / "benchmarks"))


NAMED = {  # a column, and the test that must name it
    "daily candle's return": "calendar",
    "UTC+8 daily candle's return": "calendar",
    "weekly candle's return": "calendar",
    "daily VWAP": "calendar",
    "daily RSI": "calendar",
    "daily candle as action": "calendar",
    "interpolate 24": "calendar",
    "rolling(49, center=True)": "news share",
    "filtfilt 0.05": "news share",
    "Kalman smoother 0.3": "news share",
    "Kalman smoother 0.05": "news share",
    "interpolate 7": "news share",
    "6-bar momentum shifted by -48": "news spike",
    "EWM stamped 24 early": "news spike",
    "next high": "bins",
    "future volatility 24": "volatility spike",
    "pct_change(-1)": "sudden stop",
}


def real(symbol: str, start: str) -> Bars:
    bars = load_bars(shared(f"binance-spot/{symbol}_1h.parquet"))
    first = int(np.searchsorted(bars.timestamp, np.datetime64(start, "ms").astype(np.int64)))
    return bars[first : first + 17_544]


def alarms(kinds: Any, bars: Bars, name: str) -> set[str]:
    leak = next(one for one in kinds[0].leak_kinds() if one.name == name)
    column = leak.column(kinds[0].frame_of(bars))
    reports = examine(kinds[0].with_column(bars, column, leak.into))
    return {alarm.test for report in reports for alarm in report.alarms if alarm.named}


@pytest.mark.parametrize("name", NAMED)
def test_a_users_look_ahead_in_bitcoin_is_caught_by_name(kinds: Any, name: str) -> None:
    assert NAMED[name] in alarms(kinds, real("BTC-USDT", "2023-04-01"), name)


@pytest.mark.parametrize("name", ["daily candle's return", "daily VWAP", "Kalman smoother 0.3", "interpolate 24"])
def test_a_users_look_ahead_in_made_bars_is_caught_by_name(kinds: Any, name: str) -> None:
    assert alarms(kinds, synthetic_bars(17_544, 4), name)


def test_the_list_of_leaks_and_of_honest_columns_is_long_enough(kinds: Any) -> None:
    leaks, honest = kinds[0].leak_kinds(), kinds[1].honest_columns()
    assert len({leak.name for leak in leaks}) >= 60
    assert len({column.name for column in honest}) >= 200


@pytest.mark.parametrize("part", range(4))
def test_honest_columns_of_made_bars_raise_no_alarm(kinds: Any, part: int) -> None:
    bars = synthetic_bars(6000, 20 + part)
    for column in kinds[1].honest_columns()[part::16]:
        with np.errstate(all="ignore"):
            made, values = column.make(bars)
        reports = examine(kinds[0].with_column(made, values, column.into))
        assert [report.message for report in reports if report.alarms] == [], column.name


def test_the_alarm_says_the_cause_and_the_cure(kinds: Any) -> None:
    bars = synthetic_bars(17_544, 4)
    candle = kinds[0]._body(kinds[0]._candle(kinds[0].frame_of(bars), "D"))
    (report,) = [r for r in examine(kinds[0].with_column(bars, candle)) if r.suspected]
    assert report.column == "signal_confidence"
    assert "changes at 00:00 UTC and knows the rest of the daily candle" in report.message
    assert "shift the daily candle by one" in report.message
