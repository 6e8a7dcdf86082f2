"""POST /v1/decide: raw bars, signals and account in; the encoder of the training makes the state here.

    arrive     what the request says of each asset, checked against the policy's bars and ledger (policy/arrival.py)
    begin      a stream from the request's history, whose windows are full: a volatility of zero for want of bars would
               lift the limits
    encode     the state after the bars; `Stream.take_back` leaves the stream as it was where the request is refused

A stream is a live encoder, constant time a bar. It belongs to one client and its session_id; a request without one is
answered from its own history, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from himari_rl.errors import DataError
from himari_rl.features.contract import VOLATILITY, WIDTH
from himari_rl.features.encoder import write_account
from himari_rl.features.live import Bar, LivePanel, Signal
from himari_rl.policy.arrival import ArrivalRules, Place, missing_bars
from himari_rl.schema import ACTIONS, HOLD, SECOND_MS, FloatArray
from himari_rl.serving.errors import FieldError
from himari_rl.serving.messages import AssetNow, DecideRequest
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Slot

LATE_INTERVALS = 2
"""The answer gives the age of a bar that closed longer ago."""
_QUIET = Signal(HOLD, 0.0, 4, 0.0)  # of earlier bars: only the present one's signal is in the state


class Moment(NamedTuple):
    """The bars of one time, as a request gave them."""

    timestamp: int
    closed: Mapping[str, tuple[Bar, Signal]]


class Arrived(NamedTuple):
    """A request whose own numbers are in order."""

    assets: Mapping[str, AssetNow]  # in the policy's order
    places: Mapping[str, Place]  # where in the request each of them is
    now: Moment
    note: dict[str, Any]  # what the answer must say


class Stream:
    """The bars of one session so far: those of its history, then the moments that were decided."""

    def __init__(self, slot: Slot, history: Mapping[str, list[Bar]]) -> None:
        self._panel = LivePanel(slot.symbols, slot.interval_ms, reference=False)
        self._holes = max(missing_bars([bar.timestamp for bar in bars], slot.interval_ms) for bars in history.values())
        self._closes: Mapping[str, Bar] = {
            symbol: bars[-1] for symbol, bars in history.items()
        }  # before the last moment
        self._last: Moment | None = None
        self._market: FloatArray = np.zeros(slot.dim)
        self._earlier: tuple[Mapping[str, Bar], Moment | None, FloatArray] = (self._closes, self._last, self._market)
        by_time: dict[int, dict[str, tuple[Bar, Signal]]] = {}
        for symbol, bars in history.items():
            for bar in bars:
                by_time.setdefault(bar.timestamp, {})[symbol] = (bar, _QUIET)
        for timestamp in sorted(by_time):
            self._panel.update(by_time[timestamp])

    @property
    def timestamp(self) -> int:
        """Of the last bars, ms UTC."""
        return max(bar.timestamp for bar in self._closes.values()) if self._last is None else self._last.timestamp

    def check(self, arrived: Arrived, rules: ArrivalRules) -> dict[str, Any]:
        """Refuses bars that cannot follow; what the answer must say of those that can.

        Raises:
            ArrivalError: they are older than the last ones, or a close cannot follow the one before.
        """
        now, last = arrived.now, self._last
        corrects = last is not None and now.timestamp == last.timestamp
        before = self._closes if last is None or corrects else {s: bar for s, (bar, _) in last.closed.items()}
        for symbol, (bar, _) in now.closed.items():
            place = (*arrived.places[symbol], "bar")
            rules.check_order(bar.timestamp, self.timestamp, (*place, "timestamp"))
            rules.check_close(bar.close, before[symbol].close, (*place, "close"))
        if last is not None and corrects:
            closes = [(bar, last.closed[symbol][0]) for symbol, (bar, _) in now.closed.items()]
            return {"repeated": True} if all(a == b for a, b in closes) else {"corrected": True}
        missing = max(missing_bars((bar.timestamp, now.timestamp), rules.interval_ms) for bar in before.values())
        missing += self._holes if last is None else 0
        return {"gap": {"rule": "one_return", "missing_bars": missing}} if missing else {}

    def update(self, now: Moment) -> FloatArray:
        """(state_dim,) market numbers at the close of `now`; the last moment again replaces it.

        Raises:
            DataError: no bars that can follow; the stream is as it was.
        """
        closes, last, market = self._earlier = (self._closes, self._last, self._market)
        if now != last:
            if last is not None and now.timestamp == last.timestamp:
                self._panel.undo()
            elif last is not None:
                closes = {symbol: bar for symbol, (bar, _) in last.closed.items()}
            try:
                market = self._panel.update(now.closed)
            except DataError:
                if last is not None and now.timestamp == last.timestamp:
                    self._panel.update(last.closed)
                raise
            self._closes, self._last, self._market = closes, now, market
        return market.copy()

    def take_back(self) -> None:
        """As if the last `update` had not been; only once after it."""
        now, (self._closes, self._last, self._market) = self._last, self._earlier
        if now is not None and now != self._last:
            self._panel.undo()
            if self._last is not None and self._last.timestamp == now.timestamp:
                self._panel.update(self._last.closed)


def arrive(request: DecideRequest, slot: Slot, settings: ServeSettings, now_ms: float) -> Arrived:
    """What the request says of each asset, checked without any stream.

    Raises:
        FieldError: an asset is missing or unknown, or the bars are of different times.
        ArrivalError: a bar is off the grid, not closed or stale; an exposure is beyond the ledger's.
    """
    given, places = _given(request, slot)
    times = {asset.bar.timestamp for asset in given.values()}
    if len(times) != 1:
        raise FieldError("assets", f"the bars are of times {sorted(times)}", "one time", "send the bars of one close")
    rules, max_age_ms = slot.arrival, (settings.max_bar_age_s or np.inf) * SECOND_MS
    (timestamp,) = times
    place = (*next(iter(places.values())), "bar", "timestamp")
    rules.check_grid(timestamp, place)
    age = rules.check_clock(timestamp, now_ms, max_age_ms, settings.open_bars, place)
    closed = {}
    for symbol in slot.symbols:
        asset, signal = given[symbol], given[symbol].signal
        account = asset.account
        rules.check_account(account.exposure, account.unrealised_pnl, (*places[symbol], "account"))
        said = Signal(ACTIONS[signal.action], signal.confidence, int(signal.tier[1]), signal.cascade_risk)
        closed[symbol] = (Bar(timestamp, asset.bar.close), said)
    rules.check_gross([asset.account.exposure for asset in given.values()])
    note = {"bar_age_s": round(age / SECOND_MS, 1)} if age > LATE_INTERVALS * slot.interval_ms else {}
    assets = {symbol: given[symbol] for symbol in slot.symbols}
    return Arrived(assets, places, Moment(timestamp, closed), note)


def _given(request: DecideRequest, slot: Slot) -> tuple[Mapping[str, AssetNow], Mapping[str, Place]]:
    """Each asset of the request and where it stands there."""
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
    places = {symbol: () if request.assets is None else ("assets", symbol) for symbol in given}
    return given, places


def begin(arrived: Arrived, slot: Slot, who: str) -> Stream:
    """A new stream from the request's history.

    Args:
        who: whose it is, for the message.

    Raises:
        ArrivalError: the history is too short, of other bars, or not before the bar.
    """
    history = {}
    for symbol, asset in arrived.assets.items():
        place = (*arrived.places[symbol], "history")
        bars = slot.arrival.history(asset.history or (), arrived.now.closed[symbol][0], who, place)
        history[symbol] = bars
    return Stream(slot, history)


def encode(stream: Stream, arrived: Arrived, slot: Slot) -> tuple[list[float], dict[str, Any]]:
    """The state (F,) that the policy sees, the market after these bars and the account; and what the answer must say.

    Raises:
        ArrivalError: the bars cannot follow those of the stream, which is as it was.
    """
    note = arrived.note | stream.check(arrived, slot.arrival)
    try:
        state = stream.update(arrived.now)
    except DataError as error:  # nothing that passed the checks should come here
        raise FieldError("bar", error.found, error.expected, error.cure) from error
    still = [symbol for i, symbol in enumerate(slot.symbols) if state[i * WIDTH + VOLATILITY] == 0.0]
    if still:
        note["flat"] = still
    accounts = [asset.account for asset in arrived.assets.values()]
    write_account(
        state,
        np.array([account.exposure for account in accounts]),
        np.array([account.unrealised_pnl for account in accounts]),
        np.array([account.win_rate for account in accounts]),
        slot.policy.manifest.ledger.max_position_pct,
    )
    values: list[float] = state.tolist()
    return values, note
