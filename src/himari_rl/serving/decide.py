"""POST /v1/decide: raw bars, signals and account in; the encoder of the training makes the state here.

    arrive     what the request says of each asset, checked against the policy's bars and ledger (policy/arrival.py)
    begin      a stream from the request's history, whose windows are full: a volatility of zero for want of bars would
               lift the limits
    encode     the state after the bars, and the stream that has them; the one before stays as it was

A stream is the closes that the encoder's windows reach (features/window.py): a few KB, whatever the history. It belongs
to one client and its session_id; a request without one is answered from its own history, and nothing is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from himari_rl.features.contract import (
    ACCOUNT_COLUMNS,
    ACTION,
    CASCADE_RISK,
    CONFIDENCE,
    LARGEST_OWN,
    TIER,
    VOLATILITY,
    WIDTH,
    own_columns,
    state_dim,
)
from himari_rl.features.encoder import account_numbers, concentration
from himari_rl.features.window import CloseWindow
from himari_rl.policy.arrival import MAX_PRICE_RATIO, ArrivalRules, Place, missing_bars
from himari_rl.schema import ACTIONS, SECOND_MS
from himari_rl.serving.errors import FieldError
from himari_rl.serving.messages import TIERS
from himari_rl.serving.reader import SentAsset, SentDecide
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Slot

_SIZE, _SIDE, _PNL, _WINS = ACCOUNT_COLUMNS
_ACTION = ACTION.start + 1  # of HOLD, which is 0
_TIERS = dict(zip(TIERS, range(TIER.start, TIER.stop), strict=True))
LATE_INTERVALS = 2
"""The answer gives the age of a bar that closed longer ago."""


class Arrived(NamedTuple):
    """A request whose own numbers are in order; assets, places and closes in the policy's order."""

    assets: Sequence[SentAsset]
    places: Sequence[Place]  # where in the request each of them is
    timestamp: int  # of all the bars, ms UTC, bar OPEN
    closes: Sequence[float]
    exposures: Sequence[float]
    anew: bool  # whether it brings a history, with which its stream begins
    note: dict[str, Any]  # what the answer must say


class Stream(NamedTuple):
    """The bars of one session so far. A later one is another value: the one before is as it was."""

    window: CloseWindow
    decided: bool = False  # whether the newest bars were decided; else they are the history's
    holes: int = 0  # bars missing within the history, said with the first decision

    def check(self, arrived: Arrived, rules: ArrivalRules) -> dict[str, Any]:
        """Refuses bars that cannot follow; what the answer must say of those that can.

        Raises:
            ArrivalError: they are older than the last ones, or a close cannot follow the one before.
        """
        now, last = arrived.timestamp, self.window.timestamp
        if now < last:
            rules.check_order(now, last, (*arrived.places[0], "bar", "timestamp"))
        for place, close, earlier in zip(arrived.places, arrived.closes, self.window.last(now), strict=True):
            if not earlier / MAX_PRICE_RATIO <= close <= earlier * MAX_PRICE_RATIO:
                rules.check_close(close, earlier, (*place, "bar", "close"))
        if self.decided and now == last:
            return {"repeated": True} if arrived.closes == self.window.last() else {"corrected": True}
        since = last if self.window.complete else min(self.window.last_times())
        missing = (now - since) // rules.interval_ms - 1
        missing += 0 if self.decided else self.holes
        return {"gap": {"rule": "one_return", "missing_bars": missing}} if missing else {}

    def then(self, arrived: Arrived) -> Stream:
        """One moment later; the same moment again takes the place of the last one."""
        return tuple.__new__(Stream, (self.window.then(arrived.timestamp, arrived.closes), True, 0))


def arrive(request: SentDecide, slot: Slot, settings: ServeSettings, now_ms: float) -> Arrived:
    """What the request says of each asset, checked without any stream.

    Raises:
        FieldError: an asset is missing or unknown, or the bars are of different times.
        ArrivalError: a bar is off the grid, not closed or stale; an exposure is beyond the ledger's.
    """
    assets, places, first = _given(request, slot)
    timestamp = assets[0]["bar"]["timestamp"]
    rules, max_age_ms = slot.arrival, (settings.max_bar_age_s or inf) * SECOND_MS
    closes, accounts, anew = [], [], False
    for asset in assets:
        if asset["bar"]["timestamp"] != timestamp:
            times = sorted({asset["bar"]["timestamp"] for asset in assets})
            raise FieldError("assets", f"the bars are of times {times}", "one time", "send the bars of one close")
        closes.append(asset["bar"]["close"])
        accounts.append(asset["account"])
        anew = anew or asset.get("history") is not None
    place = (*first, "bar", "timestamp")
    rules.check_grid(timestamp, place)
    age = rules.check_clock(timestamp, now_ms, max_age_ms, settings.open_bars, place)
    for account, where in zip(accounts, places, strict=True):
        rules.check_account(account["exposure"], account["unrealised_pnl"], (*where, "account"))
    exposures = [account["exposure"] for account in accounts]
    rules.check_gross(exposures)
    note = {"bar_age_s": round(age / SECOND_MS, 1)} if age > LATE_INTERVALS * slot.interval_ms else {}
    return tuple.__new__(Arrived, (assets, places, timestamp, closes, exposures, anew, note))


def _given(request: SentDecide, slot: Slot) -> tuple[Sequence[SentAsset], Sequence[Place], Place]:
    """Each asset of the request and where it stands there, in the policy's order; and where the first one sent does."""
    assets = request.get("assets")
    if assets is not None:
        _check_symbols(assets, slot, "assets")
        return [assets[s] for s in slot.symbols], [("assets", s) for s in slot.symbols], ("assets", next(iter(assets)))
    bar, signal, account = request.get("bar"), request.get("signal"), request.get("account")
    if bar is None or signal is None or account is None:
        raise FieldError("bar", "the request lacks bar, signal or account", "all three", "or send `assets`")
    own: SentAsset = {"bar": bar, "signal": signal, "account": account, "history": request.get("history")}
    own["features"] = request.get("features")
    if (symbol := request.get("symbol") or slot.symbols[0]) != slot.symbols[0] or len(slot.symbols) > 1:
        _check_symbols({symbol: own}, slot, "symbol")
    return (own,), ((),), ()


def _check_symbols(given: Mapping[str, SentAsset], slot: Slot, field: str) -> None:
    """Refuses a request about anything but the policy's symbols."""
    if given.keys() != set(slot.symbols):
        raise FieldError(
            field,
            f"the request is about {', '.join(sorted(given)) or 'nothing'}",
            f"exactly {', '.join(slot.symbols)}, which this policy was trained for",
            "name every symbol of the policy as /ready spells it",
        )


def _own_features(state: list[float], arrived: Arrived, slot: Slot) -> None:
    """Writes the policy's own features into its state, which they end.

    Raises:
        FieldError: one is missing, or the policy has none of that name.
    """
    ends = own_columns(len(slot.symbols), len(slot.own))
    for symbol, asset, place, end in zip(slot.symbols, arrived.assets, arrived.places, ends, strict=True):
        given, field = asset.get("features") or {}, ".".join(map(str, (*place, "features")))
        of = f" of {symbol}" if len(slot.symbols) > 1 else ""
        for column, name in enumerate(slot.own, start=end.start):
            if name not in given:
                lacks = f"the request lacks the feature {name}{of}"
                raise FieldError(field, lacks, ", ".join(slot.own), "send it by name")
            if not abs(given[name]) <= LARGEST_OWN:
                most = f"at most {LARGEST_OWN:g}"
                raise FieldError(field, f"{name}{of} is {given[name]:g}", most, "scale it as in training")
            state[column] = float(given[name])
        if unknown := sorted(set(given) - set(slot.own)):
            known = ", ".join(slot.own) or "none"
            raise FieldError(field, f"{slot.version} has no feature {unknown[0]}", known, "leave it out")


def begin(arrived: Arrived, slot: Slot, who: str) -> Stream:
    """A new stream from the request's history.

    Args:
        who: whose it is, for the message.

    Raises:
        ArrivalError: the history is too short, of other bars, or not before the bar.
    """
    history = []
    for asset, place in zip(arrived.assets, arrived.places, strict=True):
        rows = asset.get("history") or ()
        history.append(slot.arrival.history(rows, arrived.timestamp, who, (*place, "history")))
    holes = max(missing_bars(times, slot.interval_ms) for times, _ in history)
    return Stream(CloseWindow.of(history), holes=holes)


def encode(stream: Stream, arrived: Arrived, slot: Slot) -> tuple[Stream, list[float], dict[str, Any]]:
    """The stream after these bars, the state (F,) that the policy sees, and what the answer must say.

    It is a state as features/validation.py wants it: each number was checked when it arrived, or is clipped here.

    Raises:
        ArrivalError: the bars cannot follow those of the stream.
    """
    note = arrived.note | stream.check(arrived, slot.arrival)
    later = stream.then(arrived)
    state = later.window.numbers(slot.dim, slot.interval_ms)
    volatilities = state[VOLATILITY : WIDTH * len(slot.symbols) : WIDTH]
    if 0.0 in volatilities:
        note["flat"] = [s for s, volatility in zip(slot.symbols, volatilities, strict=True) if volatility == 0.0]
    unit, own, start = slot.unit, bool(slot.own), 0
    for asset in arrived.assets:
        signal, held = asset["signal"], asset["account"]
        size, side, pnl, wins = account_numbers(held["exposure"], held["unrealised_pnl"], held["win_rate"], unit)
        state[start + _SIZE], state[start + _SIDE], state[start + _PNL], state[start + _WINS] = size, side, pnl, wins
        state[start + CONFIDENCE], state[start + CASCADE_RISK] = signal["confidence"], signal["cascade_risk"]
        state[start + _ACTION + ACTIONS[signal["action"]]] = 1.0
        state[start + _TIERS[signal["tier"]]] = 1.0
        own = own or bool(asset.get("features"))
        start += WIDTH
    if own:
        _own_features(state, arrived, slot)
    if len(slot.symbols) > 1:
        state[state_dim(len(slot.symbols)) - 1] = concentration(arrived.exposures)
    return later, state, note
