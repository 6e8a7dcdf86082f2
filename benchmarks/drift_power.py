"""Drift on real bars: days with an alarm in years after the training's, and how often a changed volatility is named.

    python benchmarks/drift_power.py --data BTC-USDT_1h.parquet ETH-USDT_1h.parquet SOL-USDT_1h.parquet --years 3

A reference is fitted on the hours of the years before each calendar year (policy/drift.py, market features), and the
year's bars are held against it every second bar: a day counts once, whichever feature and measure alarms. Then every
move of the log price from some bar on is made so many times its size, at every 437th bar, and the next 100 bars are
looked at, every tenth: named is one of the features that measure size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from himari_rl.data.sources import load_bars
from himari_rl.features.contract import FEATURES, MARKET_COLUMNS
from himari_rl.features.encoder import StateEncoder
from himari_rl.features.signals import with_signals
from himari_rl.policy.drift import WINDOW, DriftSpec, _Reference, fit_drift
from himari_rl.policy.drift_size import BESIDE_WEEK, SUPERSEDED, SizeScores
from himari_rl.schema import Bars, BoolArray, FloatArray, IntArray

NAMES = [FEATURES[column] for column in MARKET_COLUMNS]
SIZED = np.array([name in SUPERSEDED for name in NAMES])
WARM, STEP, LEAST = 240, 437, 10_000  # bars; LEAST of training where it is to be three years
FACTORS = (3.0, 1 / 3, 5.0, 0.2)


def table(bars: Bars) -> FloatArray:
    """The market features (T, F)."""
    return StateEncoder((bars.symbol,)).market_rows(with_signals(bars))[:, list(MARKET_COLUMNS)].astype(np.float64)


def scaled(bars: Bars, factor: float, start: int) -> Bars:
    """Every move of the log price is so much larger from `start` on."""
    by = np.where(np.arange(len(bars)) >= start, factor, 1.0)
    last = np.concatenate([bars.open[:1], bars.close[:-1]])
    close = bars.open[0] * np.exp(np.cumsum(by * np.log(bars.close / last)))
    before = np.concatenate([bars.open[:1], close[:-1]])
    opened, high, low = (before * (x / last) ** by for x in (bars.open, bars.high, bars.low))
    return replace(bars, open=opened, high=high, low=low, close=close)


def alarms(spec: DriftSpec, values: FloatArray, times: IntArray, ends: IntArray) -> BoolArray:
    """(M, F) whether a feature alarms at the bars `ends`, by any measure but a run."""
    features = [spec.features[name] for name in NAMES]
    reference = _Reference(np.array([feature.quantiles for feature in features]))
    limits = [np.array([getattr(feature, f"{name}_limit") for feature in features]) for name in ("psi", "distance")]
    scores, two = SizeScores([feature.size for feature in features], WINDOW), ends - 2 * WINDOW + 1
    found: BoolArray = scores.step(values)[two] > np.where(SIZED, BESIDE_WEEK, 1.0)
    found |= scores.size(values)[ends - WINDOW + 1] > 1.0
    for part in np.array_split(np.arange(len(ends)), max(1, len(ends) // 60)):
        windows = values[(ends[part] - WINDOW + 1)[:, None] + np.arange(WINDOW)]
        for measure, limit in zip(reference.strayed(windows), limits, strict=True):
            found[part] |= measure > limit
    for f, feature in enumerate(features):
        if feature.week is not None:
            for score in feature.week.scores(values[:, f], times, WINDOW):
                found[:, f] |= score[two] > 1.0
    return found


def of_year(bars: Bars, rows: FloatArray, year: int, years: int) -> tuple[float, dict[float, list[bool]]] | None:
    """Per cent of days with an alarm, and by factor what was named; None where there is too little before it."""
    of = bars.timestamp.astype("datetime64[ms]").astype("datetime64[Y]").astype(int) + 1970
    before, here = (of < year) & (of >= year - years), np.flatnonzero(of == year)
    before[:WARM] = False
    if before.sum() < (LEAST if years > 1 else LEAST // 3):
        return None
    spec = fit_drift({name: rows[before, f] for f, name in enumerate(NAMES)}, times=bars.timestamp[before])
    assert spec is not None
    whole = slice(max(here[0] - 2 * WINDOW, 0), here[-1] + 1)
    ends = np.arange(2 * WINDOW, whole.stop - whole.start, 2)
    alarmed = ends[alarms(spec, rows[whole], bars.timestamp[whole], ends).any(axis=1)]
    named: dict[float, list[bool]] = {factor: [] for factor in FACTORS}
    for start in range(here[0] + 300, here[-1] - WINDOW, STEP):
        around = bars[start - 2 * WINDOW - WARM : start + WINDOW]
        for factor, found in named.items():
            values = table(scaled(around, factor, 2 * WINDOW + WARM))[WARM:]
            ends = np.arange(2 * WINDOW + 9, 3 * WINDOW, 10)
            found.append(bool(alarms(spec, values, around.timestamp[WARM:], ends)[:, SIZED].any()))
    return 100.0 * len(set((alarmed // 24).tolist())) / 365.0, named


def main(words: Sequence[str]) -> None:
    """Prints a line for each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--years", type=int, default=3, help="of training")
    given = parser.parse_args(words)
    for place in given.data:
        symbol = Path(place).name.partition("_")[0]
        bars = replace(load_bars(place), symbol=symbol)
        rows = table(bars)
        cells = {year: of_year(bars, rows, year, given.years) for year in range(2019, 2025)}
        found = {year: cell for year, cell in cells.items() if cell is not None}
        days = [cell[0] for cell in found.values()]
        shares = {f: 100 * np.mean([hit for cell in found.values() for hit in cell[1][f]]) for f in FACTORS}
        told = ", ".join(f"x{factor:.2g} {share:.0f} %" for factor, share in shares.items())
        above = ", ".join(str(year) for year, cell in found.items() if cell[0] > 1.0) or "none"
        print(
            f"{symbol}, {given.years} years of training, {len(found)} years: days with an alarm {np.mean(days):.2f} % "
            f"(largest {max(days):.2f}; above 1 %: {above}); named within {WINDOW} bars: {told}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
