"""Prefix invariance: does a feature know the future?

A causal feature at row t is a function of rows <= t. So it must not change when the history ends at t, nor when every
later row is replaced by noise. Both are tried at random rows; a leak of any size, even one bar, changes a number.
What this cannot see is a column that was computed with the future before it reached us: that is the data audit's task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from himari_rl.errors import ConfigError, LookAheadError
from himari_rl.schema import Bars, FloatArray, Layer2

FeatureFn = Callable[[Bars], FloatArray]


def noise_after(bars: Bars, row: int, rng: np.random.Generator) -> Bars:
    """The same bars up to and including `row`; after it every price, volume, signal, rate and extra column is noise.

    The noise bars are well formed (low <= open, close <= high; the same clock), so no feature can refuse them.
    """
    later = slice(row + 1, None)
    count = len(bars) - row - 1

    def changed(column: FloatArray, values: FloatArray) -> FloatArray:
        out = np.array(column, dtype=np.float64)
        out[later] = values
        return out

    close = bars.close[row] * np.exp(rng.normal(0.0, 0.05, count).cumsum())
    start = close * np.exp(rng.normal(0.0, 0.02, count))
    top = np.maximum(start, close) * np.exp(rng.exponential(0.02, count))
    bottom = np.minimum(start, close) * np.exp(-rng.exponential(0.02, count))
    said = bars.signals
    if said is not None:
        action, tier = said.action.copy(), said.tier.copy()
        action[later], tier[later] = rng.integers(-1, 2, count), rng.integers(1, 5, count)
        said = Layer2(
            action=action,
            confidence=changed(said.confidence, rng.random(count)),
            tier=tier,
            cascade_risk=changed(said.cascade_risk, rng.random(count)),
            supplied=said.supplied,
        )
    rate = bars.funding_rate
    return replace(
        bars,
        open=changed(bars.open, start),
        high=changed(bars.high, top),
        low=changed(bars.low, bottom),
        close=changed(bars.close, close),
        volume=changed(bars.volume, rng.exponential(1.0, count)),
        signals=said,
        funding_rate=None if rate is None else changed(rate, rng.normal(0.0, 1e-3, count)),
        extra={name: changed(column, rng.normal(0.0, 1.0, count)) for name, column in bars.extra.items()},
    )


def check_prefix_invariance(
    feature_fn: FeatureFn,
    bars: Bars,
    rng: np.random.Generator,
    *,
    names: Sequence[str] | None = None,
    cuts: int = 12,
    atol: float = 1e-9,
) -> None:
    """Refuses a feature function whose past changes with the future.

    Args:
        feature_fn: Bars of T rows to (T,) or (T, F) numbers; row t claims to be known at the close of bar t.
        names: the F names for the message; default "column 0", "column 1", ...
        cuts: how many random rows to cut at (the last possible one is always among them).
        atol: a change up to this is rounding.

    Raises:
        LookAheadError: names the feature, the row and both values.
        ConfigError: too few bars to cut, or not one row of features per bar.
    """
    if len(bars) < 2:
        raise ConfigError(f"prefix invariance was asked of {len(bars)} bars", "two at least", "give it more bars")
    whole = _table(feature_fn, bars)
    rows = {len(bars) - 2, *(int(row) for row in rng.integers(0, len(bars) - 1, max(0, cuts - 1)))}
    for row in sorted(rows):
        head = slice(None, row + 1)
        _compare(whole[head], _table(feature_fn, bars[head]), row, "are cut off", names, atol)
        noisy = _table(feature_fn, noise_after(bars, row, rng))[head]
        _compare(whole[head], noisy, row, "are replaced by noise", names, atol)


def _table(feature_fn: FeatureFn, bars: Bars) -> FloatArray:
    values = np.asarray(feature_fn(bars), dtype=np.float64)
    if values.shape[:1] != (len(bars),):
        raise ConfigError(
            f"the feature function returned shape {values.shape} for {len(bars)} bars",
            "one row per bar",
            "fill rows without a value instead of dropping them",
        )
    return values.reshape(len(bars), -1)


def _compare(
    expected: FloatArray, found: FloatArray, cut: int, what: str, names: Sequence[str] | None, atol: float
) -> None:
    same = np.isclose(found, expected, rtol=1e-9, atol=atol, equal_nan=True)
    if same.all():
        return
    row, column = (int(index) for index in np.argwhere(~same)[0])
    name = names[column] if names is not None else f"column {column}"
    raise LookAheadError(
        f"{name} at row {row} was {expected[row, column]:.6g} and becomes {found[row, column]:.6g} "
        f"when the rows after {cut} {what}",
        "a value that later rows cannot change",
        "compute it from rows up to its own only (no negative shift, centred window or whole-sample statistic)",
    )
