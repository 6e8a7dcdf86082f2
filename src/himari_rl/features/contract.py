"""The public contract of an observation: which number stands where, in which unit and range.

Sixteen numbers per asset, in this order, are what Layer 2 clients send and what every bundle was trained on.
The encoder computes from this table and `schema_hash` is taken over it, so a bundle made for another table
is refused on load. With A > 1 assets the state is A blocks of sixteen, the A (A-1) / 2 pairwise return
correlations, and the Herfindahl index of exposure: 16, 34, 52, ... numbers for 1, 2, 3, ... assets. After all of that
stand own features, asset by asset: K of them make a state of 16 + K, 34 + 2 K, 52 + 3 K, ... numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from himari_rl.errors import ConfigError
from himari_rl.schema import HOUR_MS


class Feature(NamedTuple):
    """One number of the observation: raw quantity / full_scale, clipped to [lower, upper]."""

    name: str
    lower: float
    upper: float
    full_scale: float = 1.0
    """The raw quantity that becomes 1.0."""
    window: int = 0
    """How far back it looks, in `window_unit`."""
    window_unit: str = ""


ASSET_FEATURES: tuple[Feature, ...] = (
    Feature("signal_confidence", 0.0, 1.0),
    Feature("action_sell", 0.0, 1.0),
    Feature("action_hold", 0.0, 1.0),
    Feature("action_buy", 0.0, 1.0),
    Feature("tier_1", 0.0, 1.0),
    Feature("tier_2", 0.0, 1.0),
    Feature("tier_3", 0.0, 1.0),
    Feature("tier_4", 0.0, 1.0),
    Feature("position_size", 0.0, 1.0, full_scale=2.0),  # in units of max_position_pct of equity
    Feature("position_side", -1.0, 1.0),
    Feature("unrealised_pnl", -1.0, 1.0, full_scale=0.5),  # fraction of equity
    Feature("momentum_1h", -1.0, 1.0, full_scale=0.10, window=HOUR_MS, window_unit="ms"),
    Feature("momentum_4h", -1.0, 1.0, full_scale=0.20, window=4 * HOUR_MS, window_unit="ms"),
    Feature("volatility", 0.0, 1.0, full_scale=0.10, window=20, window_unit="bars"),
    Feature("win_rate", 0.0, 1.0, window=10, window_unit="trades"),
    Feature("cascade_risk", 0.0, 1.0),
)
MOST_OWN, LARGEST_OWN = 8, 1e9
"""Own features: columns of the data, as they are, after everything else; a normaliser scales them."""
CORRELATION = Feature("correlation", -1.0, 1.0, window=168, window_unit="bars")
HERFINDAHL = Feature("herfindahl", 0.0, 1.0)

FEATURES = tuple(feature.name for feature in ASSET_FEATURES)
WIDTH = len(FEATURES)
(
    CONFIDENCE,
    POSITION_SIZE,
    POSITION_SIDE,
    UNREALISED_PNL,
    MOMENTUM_1H,
    MOMENTUM_4H,
    VOLATILITY,
    WIN_RATE,
    CASCADE_RISK,
) = (
    0,
    *range(8, 16),
)
ACTION = slice(1, 4)
ACTION_SELL, ACTION_HOLD, ACTION_BUY = range(ACTION.start, ACTION.stop)
TIER = slice(4, 8)  # T1, T2, T3, T4
VOLATILITY_SCALE = ASSET_FEATURES[VOLATILITY].full_scale
ACCOUNT_COLUMNS = (POSITION_SIZE, POSITION_SIDE, UNREALISED_PNL, WIN_RATE)
MARKET_COLUMNS = tuple(column for column in range(WIDTH) if column not in ACCOUNT_COLUMNS)


def state_dim(assets: int, own: int = 0) -> int:
    """Length of the state: 16 for one asset, 16 A + A (A-1) / 2 + 1 for A > 1, and after them each asset's `own`."""
    return (WIDTH if assets == 1 else WIDTH * assets + assets * (assets - 1) // 2 + 1) + own * assets


def account_mask(columns: int, assets: int) -> tuple[bool, ...]:
    """Which of a state's `columns` are an asset's account: in its block of 16, never among the correlations behind."""
    return tuple(i < WIDTH * assets and i % WIDTH in ACCOUNT_COLUMNS for i in range(columns))


def own_columns(assets: int, own: int) -> tuple[slice, ...]:
    """Where each asset's own features stand: the first one's, then the second one's, ... at the end of the state."""
    first = state_dim(assets)
    return tuple(slice(first + own * asset, first + own * (asset + 1)) for asset in range(assets))


def state_features(symbols: Sequence[str], own: Sequence[str] = ()) -> tuple[Feature, ...]:
    """Every number of the state, in order.

    One asset keeps the sixteen plain names whatever its symbol, so any single-asset bundle serves any symbol;
    more assets give "BTC-USD.momentum_1h", "correlation.BTC-USD.ETH-USD", "herfindahl" and, for own features,
    "BTC-USD.basis".

    Raises:
        ConfigError: no symbols, or the same symbol twice; too many own features, one twice, or of a name that is taken.
    """
    if len(own) > MOST_OWN or set(own) & set(FEATURES) or len(set(own)) < len(own) or not all(own):
        raise ConfigError(f"own features {', '.join(own)}", f"at most {MOST_OWN}, each once, with names of their own")
    if not symbols or len(set(symbols)) != len(symbols) or not all(symbols):
        raise ConfigError(
            f"symbols are {list(symbols)}", "one or more different, non-empty symbols", "name each asset once"
        )
    if len(symbols) == 1:
        return (*ASSET_FEATURES, *(Feature(name, -LARGEST_OWN, LARGEST_OWN) for name in own))
    blocks = [feature._replace(name=f"{symbol}.{feature.name}") for symbol in symbols for feature in ASSET_FEATURES]
    pairs = [CORRELATION._replace(name=f"{CORRELATION.name}.{a}.{b}") for a, b in combinations(symbols, 2)]
    ends = [Feature(f"{symbol}.{name}", -LARGEST_OWN, LARGEST_OWN) for symbol in symbols for name in own]
    return (*blocks, *pairs, HERFINDAHL, *ends)


def schema_hash(symbols: Sequence[str], own: Sequence[str] = ()) -> str:
    """Twelve hex digits of a sha256 over names, order, ranges, scalings and windows of the state."""
    text = json.dumps([list(feature) for feature in state_features(symbols, own)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
