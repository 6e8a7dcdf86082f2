"""A DataFrame is a file without a path: the same bars come out, and the same mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers.data import START, bars_at
from himari_rl import Bars, load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.errors import DataError
from himari_rl.features.signals import with_signals
from himari_rl.schema import HOUR_MS, Layer2


def frame_of(rows: int = 4, **changes: object) -> pd.DataFrame:
    """Hourly rows 10, 12, 9, 11, 5 with the times in the index."""
    index = pd.date_range("2024-01-01", periods=rows, freq="h")
    values = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0}
    return pd.DataFrame(values | changes, index=index)


def rich_bars() -> Bars:
    rng, rows = np.random.default_rng(0), 300
    said = Layer2(
        action=rng.integers(-1, 2, rows),
        confidence=rng.random(rows),
        tier=rng.integers(1, 5, rows),
        cascade_risk=rng.random(rows),
        supplied=True,
    )
    extra = {"open_interest": rng.random(rows), "with_holes": np.where(rng.random(rows) < 0.1, np.nan, 1.0)}
    bars = synthetic_bars(rows, 1, outages=2)
    return replace(bars, signals=said, funding_rate=rng.normal(0.0, 1e-4, rows), extra=extra)


def same(one: Bars, other: Bars) -> bool:
    plain = [(b.symbol, b.interval_ms, b.synthetic, b.signals_supplied, b.fingerprint) for b in (one, other)]
    return plain[0] == plain[1]


@pytest.mark.parametrize("name", ["BTC-SYNTHETIC_1h.csv", "BTC-SYNTHETIC_1h.csv.gz"])
def test_a_csv_read_by_pandas_is_the_csv_read_by_us(tmp_path: Path, name: str) -> None:
    write_bars(rich_bars(), tmp_path / name)
    frame = pd.read_csv(tmp_path / name, engine="python")  # an older pandas' quick parser misses the last bit
    assert same(Bars.from_frame(frame, "BTC-SYNTHETIC"), load_bars(tmp_path / name))


@pytest.mark.parametrize("bars", [rich_bars(), bars_at([0, 1, 3])], ids=["everything", "the least"])
def test_to_frame_and_back_are_the_same_bars(bars: Bars) -> None:
    frame = bars.to_frame()
    assert same(Bars.from_frame(frame, bars.symbol), bars)
    assert str(frame.index.tz) == "UTC"
    frame.iloc[1, 4] += 1.0  # the negative control: one volume
    assert not same(Bars.from_frame(frame, bars.symbol), bars)


def test_our_own_signal_never_comes_back_as_the_datas() -> None:
    bars = with_signals(bars_at(list(range(60))))
    assert bars.signals is not None
    assert Bars.from_frame(bars.to_frame()).signals is None


@pytest.mark.parametrize(
    "times",
    [
        pd.date_range("2024-01-01", periods=4, freq="h"),
        pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC"),
        pd.date_range("2024-01-01 09:00", periods=4, freq="h", tz="Asia/Tokyo"),
        START + HOUR_MS * np.arange(4),
        [f"2024-01-01 0{hour}:00" for hour in range(4)],
    ],
    ids=["naive is UTC", "UTC", "Tokyo", "epoch in ms", "text"],
)
def test_every_form_of_the_same_times_is_the_same(times: object) -> None:
    columns = {name.title(): column for name, column in frame_of().items()}
    frame = pd.DataFrame({"Timestamp": times} | {name: column.to_numpy() for name, column in columns.items()})
    found = [Bars.from_frame(frame)]
    if isinstance(times, pd.DatetimeIndex):
        found.append(Bars.from_frame(frame.drop(columns="Timestamp").set_index(times)))
    for bars in found:
        assert (bars.timestamp == START + HOUR_MS * np.arange(4)).all()
        assert (bars.symbol, bars.interval_ms, bars.close.tolist()) == ("asset", HOUR_MS, [11.0] * 4)


def test_words_of_layer_2_and_a_symbol_column_are_read_as_in_a_file() -> None:
    frame = frame_of(symbol="ETH/USD", signal_confidence=0.5, cascade_risk=0.0)
    frame["signal_action"], frame["signal_tier"] = ["BUY", "strong_sell", "HOLD", 1], pd.Categorical(["T1"] * 4)
    bars = Bars.from_frame(frame, "BTC-USD")
    assert bars.symbol == "ETH-USD"
    assert bars.signals is not None
    assert (bars.signals.action.tolist(), bars.signals.tier.tolist()) == ([1, -1, 0, 1], [1] * 4)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ([1, 2], r"^frame is a list; expected a pandas DataFrame"),
        (frame_of()["close"], r"^frame is a Series"),
        (frame_of().reset_index(drop=True), r"no column timestamp"),
        (frame_of().drop(columns="volume"), r"no column volume \(it has: timestamp, open"),
        (frame_of()[::-1], r"frame row 2 \(2024-01-01T02:00Z\): is earlier"),
        (frame_of(high=[12.0, 12.0, 8.0, 12.0]), r"frame row 3 \(2024-01-01T02:00Z\): high 8 is below low 9"),
        (frame_of(close=[11.0, None, 11.0, 11.0]), r"frame row 2 .*: close is nan"),
        (frame_of(close=[11.0, "?", 11.0, 11.0]), r"frame row 2 .*: close is '\?'"),
        (frame_of(signal_action=[1, 1, 1, 1]), r"has signal_action but not signal_confidence"),
        (frame_of(timestamp=1), r"a DatetimeIndex and a column timestamp"),
        (frame_of(CLOSE=11.0), r"has the column close twice"),
        (frame_of().rename(columns={"open": ("open", "BTC")}), r"a column named \('open', 'BTC'\)"),
        (frame_of(rows=0), r"no rows"),
        (frame_of(rows=1), r"an interval cannot be told"),
        (frame_of(symbol=["A", "A", "B", "B"]), r"mixes 2 symbols"),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_what_was_found(wrong: object, found: str) -> None:
    with pytest.raises(DataError, match=found):
        Bars.from_frame(wrong)  # type: ignore[arg-type]


def test_another_interval_and_the_callers_name_of_the_frame_are_told() -> None:
    with pytest.raises(DataError, match=r"^mine holds 1h bars; expected 4h bars"):
        Bars.from_frame(frame_of(), interval="4h", source="mine")
