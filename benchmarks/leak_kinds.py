"""Look-aheads as users make them: a column of real bars for each, by kind. `leak_power.py` and tests read the list.

Every builder takes a frame (open, high, low, close, volume and r, the log return, by UTC time) and returns a number a
row that no honest program could have had at that row's close. `into` is the Layer 2 column that it goes into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import signal
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import diags, identity
from scipy.sparse.linalg import spsolve

from himari_rl.schema import Bars, FloatArray, Layer2

Column = Callable[[pd.DataFrame], Any]
SHIFTED, CENTRED, FILLED, CALENDAR, REPAINTING, POINT_IN_TIME, FITTED = (
    "shifted or reversed time",
    "centred and two-sided",
    "filled from the future",
    "calendar",
    "repainting",
    "point in time",
    "fitted on the whole file",
)


@dataclass(frozen=True)
class LeakKind:
    """One look-ahead."""

    kind: str
    name: str
    column: Column
    into: str = "signal_confidence"


def frame_of(bars: Bars) -> pd.DataFrame:
    """The bars as the builders read them."""
    prices = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")}
    frame = pd.DataFrame(prices, index=pd.to_datetime(bars.timestamp, unit="ms", utc=True))
    return frame.assign(r=np.log(frame.close).diff().fillna(0.0))


def with_column(bars: Bars, values: Any, into: str = "signal_confidence") -> Bars:
    """The bars with a column as Layer 2's, scaled into the range of that field; the other fields are constant."""
    x = pd.Series(np.asarray(values, float)).replace([np.inf, -np.inf], np.nan)
    rank = ((x.rank() - 0.5) / x.count()).fillna(0.5).to_numpy()
    flat = np.zeros(len(bars))
    said = Layer2(action=flat.astype(int), confidence=flat, tier=flat.astype(int) + 4, cascade_risk=flat, supplied=True)
    if into == "signal_action":
        return replace(bars, signals=replace(said, action=np.sign(x.fillna(0.0).to_numpy()).astype(np.int64)))
    if into == "signal_tier":
        return replace(bars, signals=replace(said, tier=4 - np.minimum((4 * rank).astype(np.int64), 3)))
    field = {"signal_confidence": "confidence", "cascade_risk": "cascade_risk"}[into]
    return replace(bars, signals=replace(said, **{field: rank}))


def leak_kinds() -> list[LeakKind]:
    """All of them, in the order of the kinds."""
    return [
        *_shifted(),
        *_centred(),
        *_filled(),
        *_calendar(),
        *_repainting(),
        *_point_in_time(),
        *_fitted(),
    ]


def _shifted() -> Iterator[LeakKind]:
    for bars in (1, 3, 5, 12, 20, 48, 72, 168):
        yield LeakKind(SHIFTED, f"6-bar momentum shifted by -{bars}", lambda f, k=bars: f.r.rolling(6).sum().shift(-k))
    yield LeakKind(SHIFTED, "chikou: the close 26 bars ahead", lambda f: f.close.shift(-26) / f.close)
    for bars in (1, 4, 24):
        yield LeakKind(SHIFTED, f"pct_change(-{bars})", lambda f, k=bars: -f.close.pct_change(-k))
    yield LeakKind(SHIFTED, "np.gradient of the close", lambda f: np.gradient(np.log(f.close)))
    yield LeakKind(SHIFTED, "np.gradient of a mean", lambda f: np.gradient(np.log(f.close).rolling(12).mean()))
    yield LeakKind(SHIFTED, "mean over reversed rows", lambda f: f.r[::-1].rolling(24).mean()[::-1])
    yield LeakKind(SHIFTED, "EWM over reversed rows", lambda f: f.r[::-1].ewm(span=24).mean()[::-1])
    yield LeakKind(SHIFTED, "cummax over reversed rows", lambda f: f.high[::-1].cummax()[::-1] / f.close)
    yield LeakKind(SHIFTED, "next high", lambda f: f.high.shift(-1) / f.close)
    yield LeakKind(SHIFTED, "next low", lambda f: f.low.shift(-1) / f.close)
    yield LeakKind(SHIFTED, "sign of the next return", lambda f: f.r.shift(-1), "signal_action")
    yield LeakKind(SHIFTED, "price beside the last row's", lambda f: f.close.iloc[-1] / f.close)
    yield LeakKind(SHIFTED, "RSI shifted by -3", lambda f: _rsi(f.close, 14).shift(-3))


def _centred() -> Iterator[LeakKind]:
    for bars in (5, 11, 21, 49, 97):
        yield LeakKind(
            CENTRED,
            f"rolling({bars}, center=True)",
            lambda f, k=bars: f.r.rolling(k, center=True, min_periods=1).mean(),
        )
    for bars in (11, 49):
        yield LeakKind(
            CENTRED, f"centred median {bars}", lambda f, k=bars: _less(f, f.close.rolling(k, center=True).median())
        )
    for bars, order in ((11, 2), (51, 3)):
        yield LeakKind(
            CENTRED,
            f"Savitzky-Golay {bars}",
            lambda f, k=bars, d=order: signal.savgol_filter(np.log(f.close), k, d, deriv=1),
        )
    for sigma in (3, 12):
        yield LeakKind(CENTRED, f"Gauss {sigma}", lambda f, s=sigma: _less(f, gaussian_filter1d(f.close, s)))
    for cut in (0.2, 0.05):
        yield LeakKind(
            CENTRED, f"filtfilt {cut}", lambda f, w=cut: _less(f, signal.filtfilt(*signal.butter(3, w), f.close))
        )
    for bars in (24, 168):
        yield LeakKind(
            CENTRED, f"FFT low pass {bars}", lambda f, k=bars: _less(f, np.exp(_low_pass(np.log(f.close), k)))
        )
    yield LeakKind(CENTRED, "Hilbert phase", lambda f: np.angle(signal.hilbert(_detrended(f, 48))))
    yield LeakKind(CENTRED, "Hilbert of returns", lambda f: np.imag(signal.hilbert(f.r)))
    for gain in (0.3, 0.05):
        yield LeakKind(
            CENTRED, f"Kalman smoother {gain}", lambda f, g=gain: _less(f, np.exp(_smoother(np.log(f.close), g)))
        )
    yield LeakKind(
        CENTRED, "Hodrick-Prescott cycle", lambda f: np.log(f.close) - _hodrick_prescott(np.log(f.close), 1e5)
    )
    yield LeakKind(CENTRED, "Hodrick-Prescott slope", lambda f: np.gradient(_hodrick_prescott(np.log(f.close), 1600.0)))
    yield LeakKind(CENTRED, "smoothed HMM", lambda f: _smoothed_hmm(f.r.to_numpy()))


def _filled() -> Iterator[LeakKind]:
    for bars in (5, 24):
        yield LeakKind(FILLED, f"bfill {bars}", lambda f, k=bars: _kept(f.r.rolling(k).sum(), k).bfill())
    for bars in (7, 24, 168):
        yield LeakKind(
            FILLED, f"interpolate {bars}", lambda f, k=bars: _less(f, _kept(f.close, k).interpolate("linear"))
        )
    yield LeakKind(FILLED, "nearest 12", lambda f: _less(f, _kept(f.close, 12).interpolate("nearest").ffill()))
    yield LeakKind(FILLED, "asof forward 8", lambda f: _kept(f.r.ewm(span=8).mean(), 8).bfill())
    yield LeakKind(FILLED, "cubic 24", lambda f: _less(f, _cubic(f.close, 24)))
    yield LeakKind(FILLED, "interpolated momentum 24", lambda f: _kept(f.r.rolling(24).sum(), 24).interpolate())


def _candle(f: pd.DataFrame, rule: str, offset: str = "0h") -> pd.DataFrame:
    """Each row's candle, whole, merged without a shift."""
    by = [f.index.year, f.index.month] if rule == "month" else (f.index - pd.Timedelta(offset)).floor(rule)
    if rule == "7D":  # pandas floors to Thursdays, the epoch's day
        by = (f.index - pd.Timedelta("4D") - pd.Timedelta(offset)).floor("7D")
    groups = f.assign(pv=f.close * f.volume).groupby(by)
    out = groups[["close"]].transform("last").assign(open=groups.open.transform("first"))
    out["high"], out["low"] = groups.high.transform("max"), groups.low.transform("min")
    out["mean"], out["vwap"] = (
        groups.close.transform("mean"),
        groups.pv.transform("sum") / groups.volume.transform("sum"),
    )
    return out


def _calendar() -> Iterator[LeakKind]:
    rules = {"4 h": ("4h", "0h"), "8 h": ("8h", "0h"), "daily": ("D", "0h"), "UTC+8 daily": ("D", "16h")}
    rules |= {"weekly": ("7D", "0h"), "monthly": ("month", "0h")}
    for name, (rule, offset) in rules.items():
        yield LeakKind(CALENDAR, f"{name} candle's return", lambda f, a=rule, b=offset: _body(_candle(f, a, b)))
    for name in ("4 h", "8 h", "daily", "weekly"):
        rule = rules[name][0]
        yield LeakKind(CALENDAR, f"{name} last", lambda f, a=rule: _candle(f, a).close / f.close)
    for name in ("daily", "weekly"):
        rule = rules[name][0]
        yield LeakKind(CALENDAR, f"{name} mid", lambda f, a=rule: _candle(f, a)[["high", "low"]].mean(axis=1) / f.close)
        yield LeakKind(CALENDAR, f"{name} mean", lambda f, a=rule: _candle(f, a)["mean"] / f.close)
        yield LeakKind(CALENDAR, f"{name} VWAP", lambda f, a=rule: _candle(f, a).vwap / f.close)
    yield LeakKind(CALENDAR, "daily VWAP slope", lambda f: _candle(f, "D").vwap / _candle(f, "D").open)
    yield LeakKind(CALENDAR, "place of the daily close", lambda f: _place(_candle(f, "D")))
    yield LeakKind(CALENDAR, "daily RSI", lambda f: _daily(f, lambda c: _rsi(c, 14)))
    yield LeakKind(CALENDAR, "daily MACD", lambda f: _daily(f, lambda c: c.ewm(span=12).mean() / c.ewm(span=26).mean()))
    yield LeakKind(CALENDAR, "daily candle as action", lambda f: _body(_candle(f, "D")), "signal_action")
    yield LeakKind(CALENDAR, "UTC+8 candle as action", lambda f: _body(_candle(f, "D", "16h")), "signal_action")
    yield LeakKind(CALENDAR, "daily return as tier", lambda f: _body(_candle(f, "D")), "signal_tier")
    yield LeakKind(CALENDAR, "daily range as risk", lambda f: _candle(f, "D").eval("high / low"), "cascade_risk")


def _repainting() -> Iterator[LeakKind]:
    for side in (2, 5, 12):
        yield LeakKind(REPAINTING, f"fractal {side}", lambda f, k=side: _fractal(f, k))
    yield LeakKind(REPAINTING, "swings 24 as action", lambda f: _fractal(f, 24), "signal_action")
    yield LeakKind(REPAINTING, "fractal 5, held", lambda f: _fractal(f, 5).replace(0.0, np.nan).ffill())
    for size in (0.01, 0.03):
        yield LeakKind(REPAINTING, f"peaks of prominence {size}", lambda f, p=size: _peaks(f, p))
    yield LeakKind(REPAINTING, "zigzag 3 % leg", lambda f: _peaks(f, 0.03).replace(0.0, np.nan).ffill())
    yield LeakKind(REPAINTING, "bars since the peak", lambda f: _since(_peaks(f, 0.02) != 0.0))


def _point_in_time() -> Iterator[LeakKind]:
    for bars in (1, 4, 24):
        yield LeakKind(POINT_IN_TIME, f"EWM stamped {bars} early", lambda f, k=bars: f.r.ewm(span=12).mean().shift(-k))
    for hours in (5, 8):
        yield LeakKind(POINT_IN_TIME, f"wrong zone, {hours} h", lambda f, k=hours: f.r.rolling(24).sum().shift(-k))
    for bars in (12, 24, 168):
        future = lambda f, k=bars: f.r.rolling(k).std().shift(-k)  # noqa: E731
        yield LeakKind(POINT_IN_TIME, f"future volatility {bars}", future, "cascade_risk")
    yield LeakKind(
        POINT_IN_TIME, "future volatility as tier", lambda f: f.r.rolling(24).std().shift(-24), "signal_tier"
    )
    yield LeakKind(POINT_IN_TIME, "size of a move 6 h ahead", lambda f: f.r.abs().shift(-6), "cascade_risk")
    yield LeakKind(POINT_IN_TIME, "size of the next move", lambda f: f.r.abs().shift(-1), "cascade_risk")
    yield LeakKind(
        POINT_IN_TIME, "future drawdown", lambda f: f.close / f.low[::-1].rolling(24).min()[::-1], "cascade_risk"
    )
    yield LeakKind(POINT_IN_TIME, "future high", lambda f: f.high[::-1].rolling(24).max()[::-1] / f.close)
    yield LeakKind(POINT_IN_TIME, "label of 12 bars", lambda f: f.r.rolling(12).sum().shift(-12), "signal_action")
    yield LeakKind(POINT_IN_TIME, "volume stamped early", lambda f: f.volume.shift(-1))
    yield LeakKind(POINT_IN_TIME, "signed volume stamped early", lambda f: (np.sign(f.r) * f.volume).shift(-1))
    yield LeakKind(
        POINT_IN_TIME, "the day's news index", lambda f: _body(_candle(f, "D")) + _noise(f, 0.02, daily=True)
    )
    yield LeakKind(
        POINT_IN_TIME, "forward return in noise", lambda f: f.r.rolling(24).sum().shift(-24) + _noise(f, 0.05)
    )


def _fitted() -> Iterator[LeakKind]:
    yield LeakKind(FITTED, "z-score of the price", lambda f: (f.close - f.close.mean()) / f.close.std())
    yield LeakKind(FITTED, "rank of the momentum", lambda f: f.r.rolling(24).sum().rank())
    yield LeakKind(FITTED, "min-max of the volume", lambda f: (f.volume - f.volume.min()) / np.ptp(f.volume))
    for degree in (1, 5, 20):
        yield LeakKind(FITTED, f"detrended, degree {degree}", lambda f, d=degree: _polynomial(np.log(f.close), d))
    yield LeakKind(
        FITTED, "target encoding, hour of week", lambda f: _encoded(f, f.index.dayofweek * 24 + f.index.hour)
    )
    yield LeakKind(
        FITTED, "target encoding, day of year", lambda f: _encoded(f, f.index.year * 400 + f.index.dayofyear)
    )
    yield LeakKind(FITTED, "target encoding, day in noise", lambda f: _encoded(f, f.index.floor("12h")))
    yield LeakKind(
        FITTED, "target encoding, bins", lambda f: _encoded(f, pd.qcut(f.r.rolling(24).sum(), 50, labels=False))
    )
    for depth in (3, 12):
        yield LeakKind(FITTED, f"forest in sample, depth {depth}", lambda f, d=depth: _forest(f, d))
    yield LeakKind(FITTED, "nearest neighbours in sample", lambda f: _neighbours(f))
    yield LeakKind(FITTED, "least squares in sample", lambda f: _least_squares(f))
    yield LeakKind(FITTED, "best of 200 noises", lambda f: _best_noise(f, 200))
    yield LeakKind(
        FITTED, "principal component", lambda f: _features(f) @ np.linalg.svd(_features(f), full_matrices=False)[2][0]
    )


def _less(f: pd.DataFrame, smooth: Any) -> Any:
    """How far a smooth price stands above the close: what comes, if the smooth one knows it."""
    return np.asarray(smooth) / f.close.to_numpy() - 1.0


def _kept(x: pd.Series, every: int) -> pd.Series:
    return x.where(np.arange(len(x)) % every == 0)


def _body(candle: pd.DataFrame) -> pd.Series:
    return candle.close / candle.open - 1.0


def _place(candle: pd.DataFrame) -> pd.Series:
    return (candle.close - candle.low) / (candle.high - candle.low)


def _daily(f: pd.DataFrame, indicator: Callable[[pd.Series], pd.Series]) -> FloatArray:
    """An indicator of daily closes, each value given to the hours of its own day."""
    return indicator(f.close.resample("D").last()).reindex(f.index.floor("D")).to_numpy()


def _rsi(close: pd.Series, bars: int) -> pd.Series:
    move = close.diff()
    up, down = move.clip(lower=0.0).ewm(alpha=1 / bars).mean(), (-move).clip(lower=0.0).ewm(alpha=1 / bars).mean()
    return 100.0 * up / (up + down)


def _noise(f: pd.DataFrame, size: float, daily: bool = False) -> Any:
    values = np.random.default_rng(17).normal(0.0, size, len(f))
    return pd.Series(values, f.index).groupby(f.index.floor("D")).transform("first") if daily else values


def _low_pass(x: pd.Series, period: int) -> FloatArray:
    trend = np.linspace(x.iloc[0], x.iloc[-1], len(x))
    spectrum = np.fft.rfft(x - trend)
    spectrum[len(x) // period :] = 0.0
    return np.fft.irfft(spectrum, len(x)) + trend


def _detrended(f: pd.DataFrame, bars: int) -> pd.Series:
    logs = np.log(f.close)
    return (logs - logs.ewm(span=bars).mean()).fillna(0.0)


def _smoother(x: pd.Series, gain: float) -> FloatArray:
    """Rauch-Tung-Striebel smoother of a local level in steady state: an EWM forwards, and one of that backwards."""
    return x.ewm(alpha=gain, adjust=False).mean()[::-1].ewm(alpha=gain, adjust=False).mean()[::-1].to_numpy()


def _hodrick_prescott(x: pd.Series, strength: float) -> FloatArray:
    n = len(x)
    second = diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
    return spsolve((identity(n) + strength * second.T @ second).tocsc(), x.to_numpy())


def _smoothed_hmm(r: FloatArray) -> FloatArray:
    """Chance of the rising one of two states (means +-.1 sd, a day long), given all rows: forward, then backward."""
    z = r / r.std()
    likely = np.exp(-0.5 * (z[:, None] - np.array([-0.1, 0.1])) ** 2)
    move = np.array([[0.96, 0.04], [0.04, 0.96]])
    forward, backward = np.full((len(z), 2), 0.5), np.full((len(z), 2), 0.5)
    for t in range(1, len(z)):
        forward[t] = likely[t] * (forward[t - 1] @ move)
        forward[t] /= forward[t].sum()
    for t in range(len(z) - 2, -1, -1):
        backward[t] = move @ (likely[t + 1] * backward[t + 1])
        backward[t] /= backward[t].sum()
    both = forward * backward
    return both[:, 1] / both.sum(axis=1)


def _cubic(close: pd.Series, every: int) -> FloatArray:
    at = np.arange(0, len(close), every)
    return CubicSpline(at, close.to_numpy()[at])(np.arange(len(close)))


def _fractal(f: pd.DataFrame, side: int) -> pd.Series:
    """+1 at a low that is the lowest of `side` bars on both sides, -1 at such a high."""
    low, high = (part.rolling(2 * side + 1, center=True) for part in (f.low, f.high))
    return (f.low == low.min()).astype(float) - (f.high == high.max()).astype(float)


def _peaks(f: pd.DataFrame, prominence: float) -> pd.Series:
    logs, out = np.log(f.close).to_numpy(), np.zeros(len(f))
    out[signal.find_peaks(-logs, prominence=prominence)[0]] = 1.0
    out[signal.find_peaks(logs, prominence=prominence)[0]] = -1.0
    return pd.Series(out, f.index)


def _since(mark: pd.Series) -> FloatArray:
    row = np.arange(len(mark))
    return row - np.maximum.accumulate(np.where(mark, row, 0))


def _target(f: pd.DataFrame) -> pd.Series:
    return f.r.shift(-1).fillna(0.0)


def _encoded(f: pd.DataFrame, key: Any) -> FloatArray:
    return _target(f).groupby(np.asarray(key)).transform("mean").to_numpy()


def _polynomial(x: pd.Series, degree: int) -> FloatArray:
    at = np.linspace(-1.0, 1.0, len(x))
    return x.to_numpy() - np.polynomial.Chebyshev.fit(at, x, degree)(at)


def _features(f: pd.DataFrame) -> FloatArray:
    columns = [f.r.rolling(k).sum() for k in (1, 2, 4, 8, 24, 72, 168)] + [f.r.rolling(k).std() for k in (8, 24, 168)]
    columns += [np.log(f.volume + 1.0), f.high / f.low]
    table = pd.concat(columns, axis=1).fillna(0.0).to_numpy()
    return (table - table.mean(axis=0)) / table.std(axis=0)


def _forest(f: pd.DataFrame, depth: int) -> FloatArray:
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(n_estimators=10, max_depth=depth, random_state=0)
    return forest.fit(_features(f), _target(f)).predict(_features(f))


def _neighbours(f: pd.DataFrame) -> FloatArray:
    from sklearn.neighbors import KNeighborsRegressor

    return KNeighborsRegressor(20).fit(_features(f), _target(f)).predict(_features(f))


def _least_squares(f: pd.DataFrame) -> FloatArray:
    return _features(f) @ np.linalg.lstsq(_features(f), _target(f).to_numpy(), rcond=None)[0]


def _best_noise(f: pd.DataFrame, tried: int) -> FloatArray:
    noises = np.random.default_rng(5).normal(size=(tried, len(f)))
    return noises[np.argmax(noises @ _target(f).to_numpy())]
