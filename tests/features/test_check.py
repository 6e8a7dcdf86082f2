"""The prefix test of a user's feature code: leaking functions are caught, honest ones are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, signal

from himari_rl import cli
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import ConfigError
from himari_rl.features.check import FeatureReport, check_features
from himari_rl.schema import Bars, FloatArray

ROWS = 1200
BARS = synthetic_bars(ROWS, 3)


def daily_candle(f: pd.DataFrame) -> Any:
    return f.close.groupby(f.index.floor("D")).transform("last")


def resampled(f: pd.DataFrame) -> Any:
    return f.close.resample("4h").last().reindex(f.index, method="ffill")


def kalman(f: pd.DataFrame) -> Any:
    return f.close.ewm(alpha=0.2).mean()[::-1].ewm(alpha=0.2).mean()[::-1]


def peaks(f: pd.DataFrame) -> FloatArray:
    out = np.zeros(len(f))
    out[signal.find_peaks(f.close, prominence=30.0)[0]] = 1.0
    return out


def target_encoded(f: pd.DataFrame) -> Any:
    return f.close.pct_change().shift(-1).groupby(f.index.hour).transform("mean")


def regression(f: pd.DataFrame) -> FloatArray:
    row = np.arange(len(f))
    return f.close - np.polyval(np.polyfit(row, f.close, 1), row)


LEAKING: dict[str, tuple[Callable[[pd.DataFrame], Any], int | None]] = {  # and the bars it looks ahead, where exact
    "shift": (lambda f: f.close.shift(-1), 1),
    "shift 5": (lambda f: f.close.shift(-5) / f.close, 5),
    "diff": (lambda f: f.close.diff(-3), 3),
    "gradient": (lambda f: np.gradient(f.close), 1),
    "centred mean": (lambda f: f.close.rolling(21, center=True).mean(), 10),
    "median filter": (lambda f: ndimage.median_filter(f.close, 11), None),
    "Savitzky-Golay": (lambda f: signal.savgol_filter(f.close, 21, 2), None),
    "filtfilt": (lambda f: signal.filtfilt(*signal.butter(2, 0.1), f.close), None),
    "bfill": (lambda f: f.close.where(np.arange(len(f)) % 7 == 0).bfill(), None),
    "interpolate": (lambda f: f.close.where(np.arange(len(f)) % 7 == 0).interpolate(), None),
    "daily candle": (daily_candle, None),
    "resampled": (resampled, None),
    "smoother": (kalman, None),
    "peaks": (peaks, None),
    "z-score": (lambda f: (f.close - f.close.mean()) / f.close.std(), -1),
    "rank": (lambda f: f.close.rank(pct=True), -1),
    "target encoding": (target_encoded, -1),
    "detrended": (regression, -1),
}

HONEST: dict[str, Callable[[pd.DataFrame], Any]] = {
    "momentum": lambda f: f.close.pct_change(24),
    "EWM": lambda f: f.close.ewm(span=24).mean(),
    "rolling": lambda f: f.close.rolling(48).std(),
    "expanding z-score": lambda f: (f.close - f.close.expanding().mean()) / f.close.expanding().std(),
    "cumulative": lambda f: (f.close * f.volume).cumsum() / f.volume.cumsum(),
    "daily candle, shifted": lambda f: f.close.resample("D").last().shift(1).reindex(f.index, method="ffill"),
    "FFT convolution": lambda f: signal.fftconvolve(f.close, np.ones(24) / 24)[: len(f)],
    "float32": lambda f: f.close.astype("float32").ewm(span=50).mean().astype("float32"),
    "rows dropped": lambda f: f.close.rolling(24).mean().dropna(),
    "clock": lambda f: f.index.hour,
    "words": lambda f: np.where(f.close > f.open, "up", "down"),
}


def only(function: Callable[..., Any], bars: Bars = BARS) -> FeatureReport:
    (report,) = check_features(function, bars)
    return report


@pytest.mark.parametrize("name", LEAKING)
def test_a_leaking_function_is_caught_with_how_far_it_looks(name: str) -> None:
    function, ahead = LEAKING[name]
    report = only(function)
    assert report.leaks
    assert "looks ahead" in report.message
    if ahead is not None:
        assert report.bars_ahead == ahead


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_function_is_not_accused(name: str) -> None:
    report = only(HONEST[name])
    assert not report.leaks
    assert report.message.endswith("later bars change nothing")


def test_the_row_and_both_values_are_those_of_the_definition() -> None:
    report = only(lambda f: f.close.shift(-1).fillna(-1.0))
    assert report.row == report.cut - 1  # the last row that was left has no next close
    assert (report.value, report.value_cut) == (BARS.close[report.cut], -1.0)


def test_of_many_columns_the_leaking_ones_are_named_and_come_first() -> None:
    def both(f: pd.DataFrame) -> pd.DataFrame:
        f["mean"] = f.close.rolling(5).mean()  # a function may write into its frame: it has one of its own
        f["next"] = f.close.shift(-1)
        return f[["mean", "next"]]

    assert [(r.column, r.leaks) for r in check_features(both, BARS)] == [("next", True), ("mean", False)]


def test_a_function_of_bars_and_arrays_of_columns_work_alike() -> None:
    def table(bars: Bars) -> FloatArray:
        return np.column_stack([bars.close, np.r_[bars.close[1:], 0.0]])

    assert {r.column: r.leaks for r in check_features(table, BARS)} == {"column 0": False, "column 1": True}
    assert {r.column for r in check_features(lambda f: {"a": f.close, "b": f.open}, BARS)} == {"a", "b"}


def test_a_random_or_stateful_function_is_said_to_be_one() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="deterministic"):
        check_features(lambda f: f.close + rng.normal(size=len(f)), BARS)


def test_what_cannot_be_tested_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match="one row per bar"):
        check_features(lambda f: f.close.to_numpy()[1:], BARS)
    with pytest.raises(ConfigError, match="raised KeyError"):
        check_features(lambda f: f["no such column"], BARS)
    with pytest.raises(ConfigError, match="50 at least"):
        check_features(lambda f: f.close, BARS[:49])


def test_progress_counts_the_calls() -> None:
    seen: list[tuple[int, int]] = []
    check_features(lambda f: f.close, BARS, cuts=4, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1]


def test_the_command_answers_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(
        "def honest(f):\n    return f.close.diff()\n\ndef leaking(f):\n    return f.close.diff(-1)\n"
    )
    assert cli.main(["features", "check", f"{tmp_path}/mine.py:honest"]) == 0
    assert "later bars change nothing" in capsys.readouterr().out
    assert cli.main(["features", "check", f"{tmp_path}/mine.py:leaking", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is False
    assert document["columns"][0]["bars_ahead"] == 1
    for wrong in ("nowhere.py:x", f"{tmp_path}/mine.py:nothing", "mine", "no_such_module_:f"):
        assert cli.main(["features", "check", wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
