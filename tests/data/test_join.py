"""`himari data join`: a signal counts from the close of the bar in which it came, and ages out exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data import START, bars_at, csv_file, row
from himari_rl.cli import main
from himari_rl.data.facts import facts
from himari_rl.data.join import JoinedSignals, join_signals
from himari_rl.data.sources import load_bars
from himari_rl.data.table import Table, write_bars
from himari_rl.errors import ConfigError, DataError
from himari_rl.schema import HOUR_MS, Bars

MINUTE = 60_000
SILENT = (0, 0.0)  # HOLD at confidence 0


def events(*came: tuple[int, int], **columns: list[float]) -> Table:
    """Signals (minutes after START, action)."""
    action = np.array([float(action) for _, action in came])
    more = {name: np.array(values) for name, values in columns.items()}
    times = START + MINUTE * np.array([minute for minute, _ in came], np.int64)
    return Table(source="signals.csv", symbol="x", timestamp=times, columns={"signal_action": action} | more)


def actions(joined: JoinedSignals) -> list[int]:
    assert joined.bars.signals is not None
    return joined.bars.signals.action.tolist()


def twin(bars: Bars, came: list[int], action: list[int], max_age: int) -> list[tuple[int, float]]:
    """The definition, bar by bar: of the signals that came before the close, the last one, unless it is too old."""
    said = []
    for opened in bars.timestamp.tolist():
        close = opened + bars.interval_ms
        known = [i for i, s in enumerate(came) if s >= bars.timestamp[0] and s < close]
        held = bool(known) and close - came[known[-1]] <= max_age
        said.append((action[known[-1]], 0.5) if held else SILENT)
    return said


streams = st.lists(st.tuples(st.integers(-200, 1_500), st.sampled_from([-1, 0, 1])), max_size=12).map(sorted)
hours = st.lists(st.integers(0, 20), min_size=2, max_size=15, unique=True).map(sorted)


@given(stream=streams, opened=hours, age=st.integers(60, 400))
def test_it_is_the_ten_line_twin_and_every_signal_is_accounted_for(
    stream: list[tuple[int, int]], opened: list[int], age: int
) -> None:
    bars = bars_at(opened)
    joined = join_signals(bars, events(*stream), age * MINUTE)
    came = [START + MINUTE * minute for minute, _ in stream]
    said = joined.bars.signals
    assert said is not None
    told = list(zip(said.action.tolist(), said.confidence.tolist(), strict=True))
    assert told == twin(bars, came, [action for _, action in stream], age * MINUTE)
    parts = (joined.used, joined.before, joined.after, joined.replaced, joined.outdated)
    assert sum(parts) == joined.signals == len(stream)
    assert min(parts) >= 0


@given(stream=streams, opened=hours, cut=st.integers(0, 14))
def test_no_signal_changes_a_bar_that_closed_before_it_came(
    stream: list[tuple[int, int]], opened: list[int], cut: int
) -> None:
    bars = bars_at(opened)
    row = min(cut, len(bars) - 1)
    close = (int(bars.timestamp[row]) + HOUR_MS - START) // MINUTE
    before = [event for event in stream if event[0] < close]
    other = [*before, *((minute, -action) for minute, action in stream if minute >= close)]
    one, two, three = (actions(join_signals(bars, events(*each)))[: row + 1] for each in (stream, before, other))
    assert one == two == three


def test_a_signal_that_came_within_a_bar_is_known_at_its_close_and_held_for_its_age() -> None:
    joined = join_signals(bars_at(list(range(8))), events((90, 1)), 4 * HOUR_MS)  # 01:30: closes at 2, 3, 4, 5 o'clock
    assert actions(joined) == [0, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(("age_minutes", "bars_held"), [(239, 3), (240, 4), (241, 4)])
def test_it_ages_out_exactly(age_minutes: int, bars_held: int) -> None:
    """Stamped at the open of 01:00, it is 60, 120, 180 and 240 minutes old at the closes that follow."""
    joined = join_signals(bars_at(list(range(8))), events((60, 1)), age_minutes * MINUTE)
    assert actions(joined) == [0, *[1] * bars_held, *[0] * (7 - bars_held)]


def test_a_signal_stamped_at_an_open_belongs_to_the_bar_that_begins_there() -> None:
    """Signals stamped like the bars are joined row by row: nothing moves, and nothing is known an hour too soon."""
    stamped = [(60 * hour, (-1) ** hour) for hour in range(6)]
    assert actions(join_signals(bars_at(list(range(6))), events(*stamped))) == [1, -1, 1, -1, 1, -1]


def test_the_last_of_several_in_one_bar_counts_also_where_they_have_one_time() -> None:
    joined = join_signals(bars_at([0, 1]), events((10, 1), (50, -1), (70, 1), (70, -1)))
    assert (actions(joined), joined.used, joined.replaced) == ([-1, -1], 2, 2)


def test_signals_outside_the_bars_are_counted_and_not_used() -> None:
    joined = join_signals(bars_at([0, 1]), events((-5, 1), (120, 1), (500, -1)))
    assert (actions(joined), joined.used, joined.before, joined.after) == ([0, 0], 0, 1, 2)


def test_a_signal_in_a_gap_counts_at_the_first_close_after_it_unless_it_is_too_old_by_then() -> None:
    bars = bars_at([0, 1, 5, 6])
    assert actions(join_signals(bars, events((170, 1)), 4 * HOUR_MS)) == [0, 0, 1, 0]  # 02:50, 190 minutes at 06:00
    late = join_signals(bars, events((125, -1)), 3 * HOUR_MS)
    assert (actions(late), late.outdated) == ([0, 0, 0, 0], 1)


def test_what_the_signals_have_is_kept_and_what_they_lack_gets_stated_defaults() -> None:
    joined = join_signals(bars_at([0, 1]), events((10, 1), signal_confidence=[0.9]), 2 * HOUR_MS)
    said = joined.bars.signals
    assert said is not None
    assert (said.confidence.tolist(), said.tier.tolist(), said.cascade_risk.tolist()) == ([0.9, 0.9], [4, 4], [0, 0])
    assert joined.defaults == {"signal_tier": 4.0, "cascade_risk": 0.0}


def test_directions_alone_train_without_being_told() -> None:
    """The defaults are constants, and read as what they are: not said."""
    bars = bars_at(list(range(200)))
    stamped = [(60 * hour, 1 if hour % 7 else -1) for hour in range(200)]
    found = facts(join_signals(bars, events(*stamped)).bars)
    assert [fact.name for fact in found if fact.level == "refusal"] == []
    assert "constant-defaults" in [fact.name for fact in found]


def test_what_makes_no_signals_is_refused() -> None:
    bars = bars_at([0, 1, 2])
    with pytest.raises(DataError, match="no column signal_action"):
        join_signals(bars, Table(source="s", symbol="x", timestamp=bars.timestamp, columns={"side": np.ones(3)}))
    with pytest.raises(DataError, match="earlier than the row before"):
        join_signals(bars, events((70, 1), (10, 1)))
    with pytest.raises(DataError, match="expected SELL, HOLD, BUY"):
        join_signals(bars, events((70, 3)))
    with pytest.raises(DataError, match="has Layer 2 columns already"):
        join_signals(join_signals(bars, events((10, 1))).bars, events((10, 1)))
    with pytest.raises(ConfigError, match="an age of one bar at least"):
        join_signals(bars, events((10, 1)), 59 * MINUTE)


def test_the_command_reads_two_files_writes_one_and_says_what_became_of_the_signals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = csv_file(tmp_path, *(row(hour, f"10,12,9,{10 + hour % 3},5") for hour in range(24)))
    words = ["2024-01-01T02:30:00Z,BUY", "2024-01-01T09:59:59Z,STRONG_SELL", "2024-01-03T00:00:00Z,BUY"]
    signals = csv_file(tmp_path, *words, name="signals.csv", header="timestamp,signal_action")
    assert main(["data", "join", str(bars), str(signals), "--max-age", "3h"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in ("2 of 3 signals are used, on 6 of 24 bars", "1 came after the last bar", "signal_confidence 0.5"):
        assert part in said
    joined = load_bars(tmp_path / "BTC-USD_1h_signals.parquet")
    assert joined.signals is not None
    assert joined.signals.action.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, -1, -1, -1, *[0] * 12]
    assert main(["data", "join", str(bars), str(signals), "--out", str(tmp_path / "j_1h.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held"] == 8  # four bars each by default
    assert main(["data", "join", str(bars), str(signals), "--out", str(bars)]) == 2


def test_long_and_short_are_refused_with_the_words_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bars(bars_at([0, 1, 2]), tmp_path / "BTC-USD_1h.csv")
    signals = csv_file(tmp_path, "2024-01-01T00:30:00Z,LONG", name="signals.csv", header="timestamp,signal_action")
    assert main(["data", "join", str(tmp_path / "BTC-USD_1h.csv"), str(signals)]) == 2
    assert "'LONG'; expected SELL, HOLD, BUY" in capsys.readouterr().err


def test_rows_of_events_without_prices_are_led_to_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signals = csv_file(tmp_path, "2024-01-01T00:30:00Z,BUY", name="signals.csv", header="timestamp,signal_action")
    assert main(["data", "audit", str(signals)]) == 1
    assert "himari data join BARS SIGNALS" in " ".join(capsys.readouterr().err.split())
