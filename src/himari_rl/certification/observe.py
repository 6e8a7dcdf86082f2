"""A simulated market through the sixteen-number contract, and as bars.

The visible variable is shown as signal_confidence = Phi(x), M4's regime as cascade_risk; the rest is constant, and the
learner masks, so that the bounds are exact (momentum over a day alone would hand M3 to a memoryless net).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from himari_rl.certification.law import KnownMarket, Paths
from himari_rl.errors import DataError
from himari_rl.features.contract import CASCADE_RISK, CONFIDENCE, POSITION_SIDE, POSITION_SIZE, WIDTH, state_dim
from himari_rl.features.encoder import signal_columns
from himari_rl.schema import BUY, HOUR_MS, Bars, BoolArray, FloatArray, Layer2

TIER_1 = 1
MAX_LOG_PRICE = 600.0  # beyond it a price leaves the range of a double
FIRST_PRICE = 100.0


def market_rows(market: KnownMarket, x: FloatArray) -> FloatArray:
    """(..., F) observation rows for visible variables x (..., A); account columns are 0."""
    assets = x.shape[-1]
    said = _signals(market, x.ravel())
    blocks = np.zeros((x.size, WIDTH))
    signal_columns(blocks, said.action, said.confidence, said.tier, said.cascade_risk)
    rows = np.zeros((*x.shape[:-1], state_dim(assets)))
    rows[..., : WIDTH * assets] = blocks.reshape(*x.shape[:-1], WIDTH * assets)
    return rows


def _signals(market: KnownMarket, x: FloatArray) -> Layer2:
    """What Layer 2 says where the visible variables are x (T,)."""
    regime = market.shows == "cascade_risk"
    return Layer2(
        action=np.full(len(x), BUY),
        confidence=np.full(len(x), 0.5) if regime else np.asarray(ndtr(x)),
        tier=np.full(len(x), TIER_1),
        cascade_risk=x if regime else np.zeros(len(x)),
        supplied=True,
    )


def state_rows(market: KnownMarket, paths: Paths, row: int) -> FloatArray:
    """(P, F) what every path shows at one row."""
    return market_rows(market, paths.x[:, row])


def visible(market: KnownMarket) -> BoolArray:
    """(F,) which features a learner may read: the market's own variable, and the held position unless it is hidden."""
    one = np.zeros(WIDTH, bool)
    one[CASCADE_RISK if market.shows == "cascade_risk" else CONFIDENCE] = True
    if market.account_visible:
        one[[POSITION_SIZE, POSITION_SIDE]] = True
    seen = np.zeros(state_dim(market.assets_count), bool)
    seen[: WIDTH * market.assets_count] = np.tile(one, market.assets_count)
    return seen


def to_bars(market: KnownMarket, paths: Paths, path: int = 0, source: str = "") -> list[Bars]:
    """One path as hourly bars, one Bars per asset: open[t+2] / open[t+1] - 1 is the return that row t's decision earns.

    T decisions need T + 2 bars; the last two rows repeat the last visible value.

    Raises:
        DataError: the price would leave the range of a double; use shorter paths.
    """
    found = []
    for a in range(paths.returns.shape[2]):
        log_price = np.concatenate([[0.0, 0.0], np.cumsum(np.log1p(paths.returns[path, :, a]))])
        if np.abs(log_price).max() > MAX_LOG_PRICE:
            raise DataError(
                f"log-price {np.abs(log_price).max():.0f}", f"within {MAX_LOG_PRICE:.0f}", "use shorter paths"
            )
        opens = FIRST_PRICE * np.exp(log_price)
        closes = np.concatenate([opens[1:], opens[-1:]])
        x = np.concatenate([paths.x[path, :, a], np.repeat(paths.x[path, -1:, a], 2)])
        count = len(opens)
        found.append(
            Bars(
                symbol=f"{market.name}-{a}" if paths.returns.shape[2] > 1 else market.name,
                timestamp=np.arange(count, dtype=np.int64) * HOUR_MS,
                open=opens,
                high=np.maximum(opens, closes),
                low=np.minimum(opens, closes),
                close=closes,
                volume=np.ones(count),
                interval_ms=HOUR_MS,
                source=source or f"known-optimum market {market.name}",
                synthetic=True,
                signals=_signals(market, x),
            )
        )
    return found
