"""The encoder: bars and an account become the state a policy sees. See contract.py for the numbers, live.py for one bar
at a time.

Market numbers are computed once for a whole history; account numbers are plain arithmetic that runs unchanged on numpy
arrays and torch tensors, so training, backtest, server and runner observe through the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from himari_rl.errors import DataError
from himari_rl.features import contract
from himari_rl.features.contract import ACCOUNT_COLUMNS, FEATURES, MARKET_COLUMNS, WIDTH, Feature
from himari_rl.features.indicators import bar_returns, momentum, panel_correlations, volatility
from himari_rl.features.signals import signals_of
from himari_rl.schema import HOLD, Bars, BoolArray, FloatArray, History, IntArray

__all__ = [
    "ACCOUNT_COLUMNS",
    "FEATURES",
    "MARKET_COLUMNS",
    "StateEncoder",
    "account_columns",
    "herfindahl",
    "write_account",
]

_POSITION_SIZE, _UNREALISED_PNL, _WIN_RATE = (
    contract.ASSET_FEATURES[column] for column in (contract.POSITION_SIZE, contract.UNREALISED_PNL, contract.WIN_RATE)
)
Array = Any  # numpy.ndarray or torch.Tensor: the same operators and methods


def scaled(raw: Array, feature: Feature) -> Array:
    """`raw` in the feature's full scale, clipped to its range."""
    return (raw / feature.full_scale).clip(feature.lower, feature.upper)


def clipped(raw: float, feature: Feature) -> float:
    """`scaled` of one plain number, in a tenth of the time."""
    _, lower, upper, full_scale, _, _ = feature
    value = raw / full_scale
    return lower if value < lower else upper if value > upper else value


def account_columns(
    marked_exposure: Array, marked_pnl: Array, win_rate: Array, max_position_pct: float
) -> tuple[Array, Array, Array, Array]:
    """Position size, side, unrealised P&L and win rate: the numbers at ACCOUNT_COLUMNS, elementwise.

    Args:
        marked_exposure: (..., A) signed exposure at the last close, fraction of equity.
        marked_pnl: (..., A) unrealised P&L at the last close, fraction of equity.
        win_rate: (..., A) share of the last ten closed trades that won.
        max_position_pct: the base position, fraction of equity; twice it is size 1.
    """
    table = contract.ASSET_FEATURES
    one = marked_exposure * 0 + 1  # keeps dtype and device, which a comparison would lose
    return (
        scaled(abs(marked_exposure) / max_position_pct, table[contract.POSITION_SIZE]),
        one * (marked_exposure > 0) - one * (marked_exposure < 0),
        scaled(marked_pnl, table[contract.UNREALISED_PNL]),
        scaled(win_rate, table[contract.WIN_RATE]),
    )


def herfindahl(exposure: Array) -> Array:
    """Concentration (...) of exposures (..., A): sum of squared shares of gross |w|; 1 is one asset only, 0 is flat."""
    size = abs(exposure)
    gross = size.sum(-1)[..., None]
    share = size / (gross + (gross == 0))
    return (share * share).sum(-1)


def write_account(
    state: Array, marked_exposure: Array, marked_pnl: Array, win_rate: Array, max_position_pct: float
) -> None:
    """Writes the account's numbers into `state` (..., state_dim) in place; the other arguments are (..., A)."""
    assets = marked_exposure.shape[-1]
    columns = account_columns(marked_exposure, marked_pnl, win_rate, max_position_pct)
    for column, values in zip(ACCOUNT_COLUMNS, columns, strict=True):
        state[..., column : WIDTH * assets : WIDTH] = values
    if assets > 1:
        state[..., contract.state_dim(assets) - 1] = herfindahl(marked_exposure)


def account_numbers(
    exposure: float, unrealised_pnl: float, win_rate: float, max_position_pct: float
) -> tuple[float, float, float, float]:
    """`account_columns` of one asset at one moment, as plain numbers."""
    return (
        clipped(abs(exposure) / max_position_pct, _POSITION_SIZE),
        float((exposure > 0.0) - (exposure < 0.0)),
        clipped(unrealised_pnl, _UNREALISED_PNL),
        clipped(win_rate, _WIN_RATE),
    )


def concentration(exposures: Sequence[float]) -> float:
    """`herfindahl` at one moment, from plain numbers."""
    sizes = [abs(exposure) for exposure in exposures]
    gross = sum(sizes) or 1.0
    return sum([(size / gross) ** 2 for size in sizes])


def signal_columns(
    rows: FloatArray, action: IntArray, confidence: FloatArray, tier: IntArray, risk: FloatArray
) -> None:
    """Writes Layer 2's nine numbers into `rows` (T, 16) of zeros in place; the other arguments are (T,).

    Raises:
        DataError: a number outside its range, which would land in another feature's column.
    """
    limits = (
        ("action", action, -1, 1),
        ("confidence", confidence, 0, 1),
        ("tier", tier, 1, 4),
        ("cascade_risk", risk, 0, 1),
    )
    for name, values, low, high in limits:
        wrong = ~((values >= low) & (values <= high))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise DataError(
                f"signal {name} at row {first} is {values[first]}",
                f"{low} to {high}",
                "mend the Layer 2 column, or drop it",
            )
    table = contract.ASSET_FEATURES
    every = np.arange(rows.shape[0])
    rows[:, contract.CONFIDENCE] = scaled(confidence, table[contract.CONFIDENCE])
    rows[every, contract.ACTION.start + 1 + action] = 1.0
    rows[every, contract.TIER.start - 1 + tier] = 1.0
    rows[:, contract.CASCADE_RISK] = scaled(risk, table[contract.CASCADE_RISK])


def own_value(value: Array) -> Array:
    """A column of the data as a state holds it: the number itself, within +-LARGEST_OWN."""
    return value.clip(-contract.LARGEST_OWN, contract.LARGEST_OWN)


def unheard() -> FloatArray:
    """(16,) the row of an asset before its first bar: HOLD, T4, everything else 0."""
    row = np.zeros((1, WIDTH))
    none = np.zeros(1)
    signal_columns(row, np.array([HOLD]), none, np.array([4]), none)
    first: FloatArray = row[0]
    return first


def align(panel: Sequence[Bars]) -> tuple[IntArray, list[IntArray], list[BoolArray]]:
    """One clock for several assets.

    Returns:
        clock (T,): every bar-open time that any asset has; per asset its last row at or before each time (-1 before
        its first bar), and whether it has a bar at exactly that time.
    """
    clock = reduce(np.union1d, [bars.timestamp for bars in panel])
    rows = [np.searchsorted(bars.timestamp, clock, side="right").astype(np.int64) - 1 for bars in panel]
    present = [
        (row >= 0) & (bars.timestamp[np.maximum(row, 0)] == clock) for row, bars in zip(rows, panel, strict=True)
    ]
    return clock, rows, present


@dataclass(frozen=True)
class StateEncoder:
    """Sixteen numbers per asset; for several assets also their correlations and the concentration of exposure.

    Example:
        >>> encoder = StateEncoder(("BTC-USD", "ETH-USD", "SOL-USD"))
        >>> encoder.state_dim, encoder.names[13], encoder.names[48], encoder.names[-1]
        (52, 'BTC-USD.volatility', 'correlation.BTC-USD.ETH-USD', 'herfindahl')

    Raises:
        ConfigError: no symbols, or the same one twice.
    """

    symbols: tuple[str, ...] = ("asset",)
    own: tuple[str, ...] = ()  # columns of the data that stand after everything else, asset by asset

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
        contract.state_features(self.symbols, self.own)

    @classmethod
    def of(cls, history: History) -> StateEncoder:
        """What these bars are observed with: their symbols, and their own features."""
        return cls(history.symbols, history.features)

    @property
    def state_dim(self) -> int:
        """16 for one asset, 52 for three."""
        return contract.state_dim(len(self.symbols), len(self.own))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each number of the state, in order."""
        return tuple(feature.name for feature in contract.state_features(self.symbols, self.own))

    @property
    def schema_hash(self) -> str:
        """Changes when any name, order, range, scaling or window does; stands in every bundle."""
        return contract.schema_hash(self.symbols, self.own)

    def market_rows(self, bars: Bars) -> FloatArray:
        """(T, 16 or more) market numbers of one asset at the close of each bar; the account columns are 0.

        Layer 2's numbers are the data's where it has them, else those of `signals.signals_of`.
        Row t is a function of bars[: t + 1].
        """
        rows = np.zeros((len(bars), WIDTH + len(self.own)))
        for column, name in enumerate(self.own, start=WIDTH):
            if name not in bars.extra:
                raise DataError(f"{bars.source} has no column {name}", "the policy's own features", "add it")
            rows[:, column] = own_value(bars.extra[name])
        said = signals_of(bars)
        signal_columns(rows, said.action, said.confidence, said.tier, said.cascade_risk)
        for column in (contract.MOMENTUM_1H, contract.MOMENTUM_4H):
            feature = contract.ASSET_FEATURES[column]
            moved = momentum(bars.timestamp, bars.close, feature.window, bars.interval_ms)
            rows[:, column] = scaled(moved, feature)
        feature = contract.ASSET_FEATURES[contract.VOLATILITY]
        rows[:, contract.VOLATILITY] = scaled(volatility(bars.close, feature.window), feature)
        return rows

    def panel_rows(self, panel: Sequence[Bars]) -> tuple[IntArray, FloatArray]:
        """The market numbers of all assets on one clock, the union of their bar times.

        An asset without a bar at some time keeps its last row (HOLD, T4 and zeros before its first), own features
        with it, and that time gives no return to its correlations. Account columns and the Herfindahl index are 0.

        Returns:
            clock (T,) bar-open times in ms, rows (T, state_dim).

        Raises:
            DataError: not one Bars per symbol, or different intervals.
        """
        intervals = {bars.interval_ms for bars in panel}
        if len(panel) != len(self.symbols) or len(intervals) != 1:
            raise DataError(
                f"the panel has {len(panel)} assets with bars of {sorted(intervals)} ms",
                f"{len(self.symbols)} assets ({', '.join(self.symbols)}) with bars of one interval",
                "load one file or folder per symbol, all of the same interval",
            )
        clock, latest, present = align(panel)
        state = np.zeros((clock.shape[0], self.state_dim))
        returns = np.full((clock.shape[0], len(panel)), np.nan)
        ends = contract.own_columns(len(panel), len(self.own))
        for asset, bars in enumerate(panel):
            row, here = latest[asset], present[asset]
            known = row >= 0
            block = state[:, asset * WIDTH : (asset + 1) * WIDTH]
            block[~known] = unheard()
            rows = self.market_rows(bars)[row[known]]
            block[known], state[known, ends[asset]] = rows[:, :WIDTH], rows[:, WIDTH:]
            whole = np.flatnonzero(here[1:] & here[:-1]) + 1
            returns[whole, asset] = bar_returns(bars.close)[row[whole]]
        if len(panel) > 1:
            pairs = slice(WIDTH * len(panel), contract.state_dim(len(panel)) - 1)
            state[:, pairs] = panel_correlations(returns, contract.CORRELATION.window)
        return clock, state
