"""POST /v1/decide: raw bars, signals and account in; the encoder of the training makes the state here.

One stream of bars for each session: a live encoder, constant time a bar. A stream begins with enough history for
every window of the state to be full, because a volatility of zero for want of bars would lift the limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from himari_rl.errors import DataError
from himari_rl.features import contract
from himari_rl.features.encoder import write_account
from himari_rl.features.live import Bar, LivePanel, Signal
from himari_rl.schema import ACTIONS, FloatArray
from himari_rl.serving.errors import FieldError
from himari_rl.serving.messages import AssetNow, DecideRequest
from himari_rl.serving.slot import Slot

NEEDED = contract.ASSET_FEATURES[contract.VOLATILITY].window + 1
"""Bars before an encoder's windows are full: 20 returns need 21 closes; the newest of them is the request's own."""


class Moment(NamedTuple):
    """The bars of one time, as a request gave them."""

    timestamp: int
    closed: Mapping[str, tuple[Bar, Signal]]


class Stream:
    """The bars of one session so far."""

    def __init__(self, slot: Slot) -> None:
        self.digest = slot.digest
        self._panel = LivePanel(slot.symbols, slot.interval_ms)
        self._last: Moment | None = None
        self._market: FloatArray | None = None

    @property
    def timestamp(self) -> int:
        """Of the last bar; before the first, less than any."""
        return -1 if self._last is None else self._last.timestamp

    def update(self, now: Moment) -> FloatArray:
        """(state_dim,) market numbers at the close of `now`; the same again when it is sent twice.

        Raises:
            DataError: the bars are older than the last ones, or no bars.
        """
        if self._market is None or now != self._last:
            self._market = self._panel.update(now.closed)
            self._last = now
        return self._market.copy()

    def replay(self, history: Mapping[str, list[Bar]]) -> None:
        """Feeds the past: all symbols' bars of one time together, in the order of time."""
        by_time: dict[int, dict[str, tuple[Bar, None]]] = {}
        for symbol, bars in history.items():
            for bar in bars:
                by_time.setdefault(bar.timestamp, {})[symbol] = (bar, None)
        for timestamp in sorted(by_time):
            self._panel.update(by_time[timestamp])


def assets_of(request: DecideRequest, slot: Slot) -> dict[str, AssetNow]:
    """What the request says of each asset, in the policy's order.

    Raises:
        FieldError: an asset is missing or unknown, or the bars are of different times.
    """
    given = request.assets
    if given is None:
        if request.bar is None or request.signal is None or request.account is None:
            raise FieldError("bar", "the request lacks bar, signal or account", "all three", "or send `assets`")
        own = AssetNow(bar=request.bar, signal=request.signal, account=request.account, history=request.history)
        given = {request.symbol or slot.symbols[0]: own}
    if set(given) != set(slot.symbols):
        raise FieldError(
            "symbol" if request.assets is None else "assets",
            f"the request is about {', '.join(sorted(given)) or 'nothing'}",
            f"exactly {', '.join(slot.symbols)}, which this policy was trained for",
            "name every symbol of the policy as /ready spells it",
        )
    times = {asset.bar.timestamp for asset in given.values()}
    if len(times) != 1:
        raise FieldError("assets", f"the bars are of times {sorted(times)}", "one time", "send the bars of one close")
    return {symbol: given[symbol] for symbol in slot.symbols}


def begin(assets: Mapping[str, AssetNow], slot: Slot) -> Stream:
    """A new stream from the request's history.

    Raises:
        FieldError: the history is too short, or not before the bar.
    """
    stream = Stream(slot)
    history: dict[str, list[Bar]] = {}
    for symbol, asset in assets.items():
        bars = [Bar(timestamp, close) for timestamp, close in asset.history or ()]
        if len(bars) < NEEDED - 1:
            raise FieldError(
                "history",
                f"this session is new here and has {len(bars)} earlier bars of {symbol}",
                f"at least {NEEDED - 1}",
                "send `history`, the [timestamp, close] of the bars before this one, with a session's first request",
            )
        if max(bar.timestamp for bar in bars) >= asset.bar.timestamp:
            raise FieldError("history", "history reaches the bar itself", "earlier bars", "leave the newest bar out")
        history[symbol] = bars
    try:
        stream.replay(history)
    except DataError as error:
        raise FieldError("history", error.found, error.expected, error.cure) from error
    return stream


def encode(stream: Stream, assets: Mapping[str, AssetNow], slot: Slot) -> list[float]:
    """The state (F,) that the policy sees: the market after these bars, and the account.

    Raises:
        FieldError: the stream cannot take these bars.
    """
    closed = {
        symbol: (
            Bar(asset.bar.timestamp, asset.bar.close),
            Signal(
                ACTIONS[asset.signal.action],
                asset.signal.confidence,
                int(asset.signal.tier[1]),
                asset.signal.cascade_risk,
            ),
        )
        for symbol, asset in assets.items()
    }
    try:
        state = stream.update(Moment(next(iter(assets.values())).bar.timestamp, closed))
    except DataError as error:
        raise FieldError("bar", error.found, error.expected, error.cure) from error
    accounts = [asset.account for asset in assets.values()]
    write_account(
        state,
        np.array([account.exposure for account in accounts]),
        np.array([account.unrealised_pnl for account in accounts]),
        np.array([account.win_rate for account in accounts]),
        slot.policy.manifest.ledger.max_position_pct,
    )
    values: list[float] = state.tolist()
    return values
