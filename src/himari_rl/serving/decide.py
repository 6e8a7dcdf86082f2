"""POST /v1/decide: raw bars, signals and account in; the encoder of the training makes the state here.

    arrive     what the request says of each asset, checked against the policy's bars and ledger (policy/arrival.py)
    begin      a stream from the request's history, whose windows are full: a volatility of zero for want of bars would
               lift the limits
    encode     the state after the bars, and the stream that has them; the one before stays as it was

A stream is the closes that the encoder's windows reach (features/window.py): a few KB, whatever the history. It belongs
to one client and its session_id; a request without one is answered from its own history, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from himari_rl.features.contract import ACCOUNT_COLUMNS, ACTION, CASCADE_RISK, CONFIDENCE, TIER, VOLATILITY, WIDTH
from himari_rl.features.encoder import account_numbers, herfindahl
from himari_rl.features.window import CloseWindow
from himari_rl.policy.arrival import ArrivalRules, Place, missing_bars
from himari_rl.schema import ACTIONS, SECOND_MS
from himari_rl.serving.errors import FieldError
from himari_rl.serving.messages import AssetNow, DecideRequest
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Slot

LATE_INTERVALS = 2
"""The answer gives the age of a bar that closed longer ago."""


class Moment(NamedTuple):
    """The closes of one time, as a request gave them."""

    timestamp: int  # ms UTC, bar OPEN
    closes: Mapping[str, float]  # by symbol, in the policy's order


class Arrived(NamedTuple):
    """A request whose own numbers are in order."""

    assets: Mapping[str, AssetNow]  # in the policy's order
    places: Mapping[str, Place]  # where in the request each of them is
    now: Moment
    note: dict[str, Any]  # what the answer must say


class Stream(NamedTuple):
    """The bars of one session so far. A later one is another value: the one before is as it was."""

    window: CloseWindow
    decided: bool = False  # whether the newest bars were decided; else they are the history's
    holes: int = 0  # bars missing within the history, said with the first decision

    def check(self, now: Moment, places: Mapping[str, Place], rules: ArrivalRules) -> dict[str, Any]:
        """Refuses bars that cannot follow; what the answer must say of those that can.

        Raises:
            ArrivalError: they are older than the last ones, or a close cannot follow the one before.
        """
        last = self.window.timestamp
        rules.check_order(now.timestamp, last, (*places[next(iter(now.closes))], "bar", "timestamp"))
        for (symbol, close), earlier in zip(now.closes.items(), self.window.last(now.timestamp), strict=True):
            rules.check_close(close, earlier, (*places[symbol], "bar", "close"))
        if self.decided and now.timestamp == last:
            return {"repeated": True} if list(now.closes.values()) == self.window.last() else {"corrected": True}
        missing = max((now.timestamp - time) // rules.interval_ms - 1 for time in self.window.last_times())
        missing += 0 if self.decided else self.holes
        return {"gap": {"rule": "one_return", "missing_bars": missing}} if missing else {}

    def then(self, now: Moment) -> Stream:
        """One moment later; the same moment again takes the place of the last one."""
        return Stream(self.window.then(now.timestamp, tuple(now.closes.values())), True)


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
    for symbol in slot.symbols:
        account = given[symbol].account
        rules.check_account(account.exposure, account.unrealised_pnl, (*places[symbol], "account"))
    rules.check_gross([asset.account.exposure for asset in given.values()])
    note = {"bar_age_s": round(age / SECOND_MS, 1)} if age > LATE_INTERVALS * slot.interval_ms else {}
    assets = {symbol: given[symbol] for symbol in slot.symbols}
    closes = {symbol: asset.bar.close for symbol, asset in assets.items()}
    return Arrived(assets, places, Moment(timestamp, closes), note)


def _given(request: DecideRequest, slot: Slot) -> tuple[Mapping[str, AssetNow], Mapping[str, Place]]:
    """Each asset of the request and where it stands there."""
    given = request.assets
    if given is None:
        if request.bar is None or request.signal is None or request.account is None:
            raise FieldError("bar", "the request lacks bar, signal or account", "all three", "or send `assets`")
        own = AssetNow.model_construct(  # its parts have been checked: a history once is enough
            bar=request.bar, signal=request.signal, account=request.account, history=request.history
        )
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
    history = []
    for symbol, asset in arrived.assets.items():
        place = (*arrived.places[symbol], "history")
        history.append(slot.arrival.history(asset.history or (), arrived.now.timestamp, who, place))
    holes = max(missing_bars(times, slot.interval_ms) for times, _ in history)
    return Stream(CloseWindow.of(history), holes=holes)


def encode(stream: Stream, arrived: Arrived, slot: Slot) -> tuple[Stream, list[float], dict[str, Any]]:
    """The stream after these bars, the state (F,) that the policy sees, and what the answer must say.

    Raises:
        ArrivalError: the bars cannot follow those of the stream.
    """
    note = arrived.note | stream.check(arrived.now, arrived.places, slot.arrival)
    later = stream.then(arrived.now)
    state = later.window.numbers(slot.dim, slot.interval_ms)
    still = [symbol for i, symbol in enumerate(slot.symbols) if state[i * WIDTH + VOLATILITY] == 0.0]
    if still:
        note["flat"] = still
    unit, assets = slot.policy.manifest.ledger.max_position_pct, arrived.assets.values()
    for start, asset in zip(range(0, slot.dim, WIDTH), assets, strict=False):
        signal, held = asset.signal, asset.account
        numbers = account_numbers(held.exposure, held.unrealised_pnl, held.win_rate, unit)
        for column, value in zip(ACCOUNT_COLUMNS, numbers, strict=True):
            state[start + column] = value
        state[start + CONFIDENCE] = signal.confidence
        state[start + CASCADE_RISK] = signal.cascade_risk
        state[start + ACTION.start + 1 + ACTIONS[signal.action]] = 1.0
        state[start + TIER.start - 1 + int(signal.tier[1])] = 1.0
    if len(slot.symbols) > 1:
        state[-1] = float(herfindahl(np.array([asset.account.exposure for asset in assets])))
    return later, state, note
