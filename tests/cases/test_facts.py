"""Inputs that people really have: what the data says of itself, and what stops a run until somebody accepts it.

Each case is made here from generated bars with the truth known; beside it the recorded file of that kind, where the
shared folder has it. `himari data audit` and `himari train` are what people type.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.data import shared
from himari_rl.cli import main
from himari_rl.data.facts import facts
from himari_rl.data.panel import panel_of
from himari_rl.data.sources import load_bars
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.data.table import write_bars
from himari_rl.features.signals import with_signals
from himari_rl.schema import DAY_MS, HOUR_MS, Bars, FloatArray, Layer2

SMALL = ["--num-episodes", "2", "--seeds", "1", "--set", "agent.num_envs=20", "--set", "agent.hidden_dim=8"]
SMALL += ["--set", "agent.minibatch=500"]
ROWS = 880


def base(rows: int = ROWS, **changes: Any) -> Bars:
    return replace(synthetic_bars(rows, 7), symbol="BTC-USD", **changes)


def prices_times(bars: Bars, factor: FloatArray) -> Bars:
    return replace(bars, **{name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")})


def signals(rows: int, seed: int = 0, **changes: Any) -> Layer2:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "action": rng.choice([-1, 0, 1], rows),
        "confidence": rng.random(rows),
        "tier": rng.integers(1, 5, rows),
        "cascade_risk": rng.random(rows) / 10.0,
    }
    return Layer2(**(columns | changes), supplied=True)


def hour(bars: Bars) -> Any:
    return np.arange(len(bars))


def settled(bars: Bars, rate: float) -> FloatArray:
    return np.where(bars.timestamp % (8 * HOUR_MS) == 0, rate, 0.0)


def filled(bars: Bars, hours: int) -> FloatArray:
    """A rate that changes every `hours`, filled forward onto every bar."""
    period = bars.timestamp // (hours * HOUR_MS)
    rates = np.random.default_rng(3).normal(1e-4, 5e-5, int(np.ptp(period)) + 1)
    return np.asarray(rates[period - period[0]])


def audited(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = main(["data", "audit", str(path), "--json", *more])
    return code, json.loads(capsys.readouterr().out)["reports"][0]


def trained(path: Path, out: Path, *more: str) -> int:
    return main(["train", "base", "--data", str(path), "--out", str(out), *SMALL, *more])


def slipped(bars: Bars) -> Bars:
    return prices_times(bars, np.where((hour(bars) >= 400) & (hour(bars) < 403), 100.0, 1.0))


def crashed(bars: Bars) -> Bars:
    close = np.where(hour(bars) == 350, bars.close / 100.0, bars.close)
    return replace(bars, close=close, low=np.minimum(bars.low, close))


def session(bars: Bars) -> Bars:
    """Seven hours on five days a week, opening at :30."""
    shifted = replace(bars, timestamp=bars.timestamp + HOUR_MS // 2)
    day, of_day = shifted.timestamp // DAY_MS, shifted.timestamp % DAY_MS // HOUR_MS
    return picked(shifted, ((day + 3) % 7 < 5) & (of_day >= 14) & (of_day < 21))


def picked(bars: Bars, rows: Any) -> Bars:
    columns = {name: getattr(bars, name)[rows] for name in ("timestamp", "open", "high", "low", "close", "volume")}
    return replace(bars, **columns, signals=None if bars.signals is None else bars.signals[np.flatnonzero(rows)])


def constants(bars: Bars) -> Bars:
    """The predecessor's own: BUY, .75, T1, cascade 0 in every row."""
    rows, one = len(bars), np.ones(len(bars), np.int64)
    return replace(bars, signals=signals(rows, action=one, confidence=0.75 * one, tier=one, cascade_risk=0.0 * one))


def events(bars: Bars) -> Bars:
    """One row in seventy-seven, at random: 485 of 37,210 in the case."""
    return picked(replace(bars, signals=signals(len(bars))), np.random.default_rng(1).random(len(bars)) < 1.0 / 77.0)


REFUSED: dict[str, tuple[Callable[[], Bars], str, tuple[str, ...]]] = {
    "redenomination": (
        lambda: prices_times(base(), np.where(np.arange(ROWS) >= 400, 1e-3, 1.0)),
        "price-breaks",
        ("2020-01-17T16:00Z", "stays"),  # hour 400
    ),
    "ten to one": (
        lambda: prices_times(base(), np.where(np.arange(ROWS) >= 400, 10.0, 1.0)),
        "price-breaks",
        ("2020-01-17T16:00Z", "stays"),
    ),
    "decimal slip": (lambda: slipped(base()), "price-breaks", ("2020-01-17T16:00Z", "2020-01-17T19:00Z", "comes back")),
    "flash crash": (lambda: crashed(base()), "price-breaks", ("2020-01-15T14:00Z", "comes back")),
    "funding in per cent": (
        lambda: base(funding_rate=settled(base(), 0.01)),
        "funding-unit",
        ("1095.0% a year", "per cent", "3.0 settlements a day"),  # .01 x 3 x 365
    ),
    "the 8 h rate on every hour": (
        lambda: base(funding_rate=np.full(ROWS, 1e-4)),
        "funding-repeated",
        ("24.0 settlements a day", "87.6% a year"),
    ),
    "changing 8 h rates on every hour": (
        lambda: base(funding_rate=filled(base(), 8)),
        "funding-repeated",
        ("a rate of 8 h", "24.0 settlements a day"),
    ),
    "4 h rates on every hour": (lambda: base(funding_rate=filled(base(), 4)), "funding-repeated", ("a rate of 4 h",)),
    "constant signals": (
        lambda: constants(base()),
        "constant-columns",
        ("signal_action is 1", "signal_confidence is 0.75", "signal_tier is 1"),
    ),
    "a constant confidence": (
        lambda: base(signals=signals(ROWS, confidence=np.full(ROWS, 0.8))),
        "constant-columns",
        ("signal_confidence is 0.8",),
    ),
    "event-based rows": (
        lambda: events(base(37_210)),
        "low-coverage",
        ("coverage 1.3 %", "himari data join BARS SIGNALS"),
    ),
    "stock hours": (lambda: session(base(4_350)), "low-coverage", ("coverage 20.",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_finding_stops_the_audit_and_the_training_and_names_itself_and_its_cure(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, name, words = REFUSED[case]
    path = tmp_path / "BTC-USD_1h.csv"
    write_bars(make(), path)
    code, report = audited(path, capsys)
    assert (code, report["usable"], report["refused"]) == (1, True, [name])
    assert trained(path, tmp_path / "run") == 2
    line = capsys.readouterr().err
    assert f"--accept {name}" in line
    assert [word for word in words if word not in line] == []
    assert not (tmp_path / "run").exists()
    assert audited(path, capsys, "--accept", name)[0] == 0


def test_what_is_accepted_trains_and_is_recorded_with_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    write_bars(constants(base()), path)
    assert trained(path, tmp_path / "run", "--accept", "constant-columns") == 0
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["accepted"] == ["constant-columns"]
    assert "constant-columns" in [fact["name"] for fact in record["facts"]]
    manifest = json.loads((tmp_path / "run" / "bundle" / "manifest.json").read_text())
    assert manifest["config"]["run"]["accepted"] == ["constant-columns"]
    assert main(["evaluate", str(tmp_path / "run" / "bundle"), "--data", str(path)]) == 2  # told for each run
    assert "--accept constant-columns" in capsys.readouterr().err


def test_an_accepted_name_that_no_finding_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    write_bars(base(), path)
    for command in (["data", "audit", str(path)], ["train", "base", "--data", str(path), "--out", str(tmp_path / "r")]):
        assert main([*command, "--accept", "low-covrage"]) == 2
        assert "no finding is called 'low-covrage'" in capsys.readouterr().err


def hourly_venue(bars: Bars) -> Bars:
    """A rate each hour that often repeats the floor of 0.00125 %, as some venues settle, and changes at any hour."""
    rng = np.random.default_rng(5)
    return replace(bars, funding_rate=np.where(rng.random(len(bars)) < 0.7, 1.25e-5, rng.normal(1e-5, 1e-5, len(bars))))


HONEST: dict[str, Callable[[], Bars]] = {
    "base": base,
    "funding at settlements": lambda: base(funding_rate=settled(base(), 1e-4)),
    "funding of a venue that settles each hour": lambda: hourly_venue(base()),
    "own signals": lambda: base(signals=signals(ROWS)),
    "signals without a cascade model": lambda: base(signals=signals(ROWS, cascade_risk=np.zeros(ROWS))),
    "a storm": lambda: prices_times(base(), np.where(np.arange(ROWS) >= 400, 0.6, 1.0)),  # -40 % in an hour
    "prices of a hundred-thousandth": lambda: prices_times(base(), np.full(ROWS, 1e-9)),
    "a wick": lambda: base(low=np.where(np.arange(ROWS) == 841, base().low / 100.0, base().low)),
    "days": lambda: synthetic_bars(ROWS, 3, interval_ms=DAY_MS),
    "minutes": lambda: synthetic_bars(ROWS, 3, interval_ms=HOUR_MS // 60),
}


@pytest.mark.parametrize("case", HONEST)
def test_honest_data_is_refused_nothing(case: str) -> None:
    assert [fact.sentence for fact in facts(with_signals(HONEST[case]())) if fact.level == "refusal"] == []


def sentences(history: Any) -> str:
    return "\n".join(fact.sentence for fact in facts(with_signals(history)))


def test_an_extra_column_is_named_as_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    write_bars(base(extra={"my_feature": np.random.default_rng(0).random(ROWS)}), path)
    assert main(["data", "audit", str(path)]) == 0
    assert "not used: my_feature" in " ".join(capsys.readouterr().out.split())
    assert trained(path, tmp_path / "run") == 0
    assert "not used: my_feature" in " ".join(capsys.readouterr().err.split())


def test_a_stock_day_is_said_and_goes_on_and_a_session_says_where_its_bars_open() -> None:
    days = synthetic_bars(1_260, 3, interval_ms=DAY_MS)
    week = facts(with_signals(picked(days, (days.timestamp // DAY_MS + 3) % 7 < 5)))
    assert [(f.level, "coverage 71." in f.sentence) for f in week if f.name == "low-coverage"] == [("warning", True)]
    assert "bars open 30m after the full interval" in sentences(session(base(2_000)))
    assert "after the full interval" not in sentences(base())


def test_a_flash_crash_and_a_wick_count_as_outliers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = {}
    for name, bars in (("calm", base()), ("crash", crashed(base())), ("wick", HONEST["a wick"]())):
        path = tmp_path / f"{name}_1h.csv"
        write_bars(bars, path)
        counted[name] = audited(path, capsys)[1]["outliers"]
    assert counted["crash"] >= counted["calm"] + 2
    assert counted["wick"] == counted["calm"] + 1


def test_signals_that_take_no_direction_say_that_nothing_was_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    write_bars(base(2_000, signals=signals(2_000, action=np.zeros(2_000, np.int64))), path)
    accept = ["--accept", "constant-columns"]
    assert trained(path, tmp_path / "run", *accept) == 0
    assert "HOLD in every row: no position to size or to judge" in " ".join(capsys.readouterr().err.split())
    assert main(["evaluate", str(tmp_path / "run" / "bundle"), "--data", str(path), *accept, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"]["sentence"].startswith("Nothing was judged")
    assert document["accepted"] == ["constant-columns"]


def test_a_panel_says_its_common_span_the_days_lost_and_to_whom() -> None:
    bars = synthetic_panel(("BTC-USD", "ETH-USD", "SOL-USD"), 5_000, 0).each
    late = bars[2][140 * 24 :]
    said = sentences(panel_of([bars[0], bars[1], late]))
    assert "common span 2020-05-20T00:00Z" in said  # 140 days after 2020-01-01
    assert "SOL-USD begins 2020-05-20T00:00Z: not used of BTC-USD 140.0 days, ETH-USD 140.0 days" in said
    assert "the same for every symbol" in sentences(panel_of(bars))


@pytest.mark.parametrize(("hours", "words"), [(2, "2 bar(s) (2h) ahead of"), (-5, "5 bar(s) (5h) behind")])
def test_a_symbol_whose_times_are_off_is_named(hours: int, words: str) -> None:
    btc, eth = synthetic_panel(("BTC-USD", "ETH-USD"), 3_000, 0, correlation=0.7).each
    shifted = replace(eth, timestamp=eth.timestamp + hours * HOUR_MS)
    assert f"ETH-USD's times look {words} BTC-USD's" in sentences(panel_of([btc, shifted]))


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_symbols_on_one_clock_are_not_accused(correlation: float) -> None:
    for seed in range(5):
        assert "times look" not in sentences(synthetic_panel(("A-USD", "B-USD"), 1_000, seed, correlation=correlation))


def test_a_panel_with_signals_for_one_symbol_says_whose_are_used() -> None:
    btc, eth = synthetic_panel(("BTC-USD", "ETH-USD"), 1_000, 0).each
    said = sentences(panel_of([replace(btc, signals=signals(1_000)), eth]))
    assert "BTC-USD with own Layer 2 columns, ETH-USD without" in said
    assert "BTC-USD: own Layer 2 columns: " in said
    assert "ETH-USD: no Layer 2 columns: the causal reference signal" in said


RECORDED = {
    "redenomination.csv.gz": ["price-breaks"],
    "decimal_slip.csv": ["price-breaks"],
    "flash_crash.csv": ["price-breaks"],
    "flash_wick_test.csv": [],
    "funding_ok.csv.gz": [],
    "funding_every_hour_ffill.csv.gz": ["funding-repeated"],
    "funding_percent.csv.gz": ["funding-unit"],
    "stock_hours_1h.csv.gz": ["low-coverage"],
    "stock_daily.csv": [],
    "base_1h.csv": [],
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_files_of_these_kinds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = audited(shared(f"../cases/files/{name}"), capsys)
    assert (code, report["refused"]) == (int(bool(RECORDED[name])), RECORDED[name])


@pytest.mark.parametrize(
    "name", ["funding_nan.csv.gz", "funding_pct_text.csv.gz", "l2_long_short.csv.gz"]
)  # held: refused with the cure or the words
def test_recorded_files_that_stay_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = audited(shared(f"../cases/files/{name}"), capsys)
    assert (code, report["usable"]) == (1, False)
    allowed = "SELL, HOLD, BUY" if name.startswith("l2") else "a fraction such as 0.0001"
    assert allowed in report["problems"][0]


@pytest.mark.parametrize("folder", ["binance-spot", "binance-perp", "coinbase"])
def test_the_shared_exchange_data_is_refused_nothing(folder: str) -> None:
    for path in sorted(shared(folder).glob("*.parquet")):
        found = facts(with_signals(load_bars(path)))
        assert [fact.sentence for fact in found if fact.level == "refusal"] == []
