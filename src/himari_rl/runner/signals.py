"""One line of Layer 2's stream: which strategy, which symbol, which bar, what is said; or why it is none.

    {"strategy": "trend", "symbol": "BTC-USDT",
     "bar": {"timestamp": 1767225600000, "open": 87000.0, "close": 87650.5},
     "signal": {"action": "BUY", "confidence": 0.82, "tier": "T2", "cascade_risk": 0.05}}

A policy that reads own features finds them by name in `features`, beside bar and signal: {"basis": 0.4}; one that is
missing, or that nobody here reads, refuses the line.

A bar may have `volume` (0: its open fills nothing) and `funding_rate`; with portfolio.account=given there is an
`account` of exposure, unrealised_pnl, win_rate and equity_usd. For a policy of several symbols a line may hold all of
them at once, {"strategy": ..., "assets": {"BTC-USDT": {"bar": ..., "signal": ...}, ...}}, or one each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from himari_rl.client.answers import strict_json
from himari_rl.errors import StateError
from himari_rl.features.contract import LARGEST_OWN
from himari_rl.features.live import Signal
from himari_rl.policy.arrival import ArrivalError, milliseconds, share
from himari_rl.schema import ACTIONS

STRATEGY = "default"
EVERY = "*"
"""Whom a halt by hand is for, where it is for all."""
TIERS = ("T1", "T2", "T3", "T4")
FEATURE, FEATURES = "feature", "features"
"""Why a line is refused, and where in it own features stand."""
SLACK_ULP = 4  # an adjusted price is a product: its last bits are noise
MOST_SHOWN = 500
"""Characters of a line that is no signal which go into the journal."""


class SignalError(StateError):
    """A line that is no signal.

    Args:
        reason: in one word: shape, symbol, missing, repeated, feature.
    """

    def __init__(self, reason: str, found: str, expected: str = "", cure: str = "") -> None:
        super().__init__(found, expected, cure)
        self.reason = reason

    def __reduce__(self) -> tuple[type[SignalError], tuple[str, str, str, str]]:  # type: ignore[override]
        return type(self), (self.reason, self.found, self.expected, self.cure)


class Said(NamedTuple):
    """One symbol's part of a line, checked."""

    strategy: str
    symbol: str
    timestamp: int  # ms UTC, bar OPEN
    open: float | None
    close: float
    tradable: bool
    funding: float
    signal: Signal
    account: tuple[float, float, float, float] | None  # exposure, unrealised P&L, win rate, equity in USD
    features: Mapping[str, float]  # own features at the close, by name
    given: Mapping[str, Any]  # as it came

    @property
    def named(self) -> dict[str, Any]:
        """Its features as a journal keeps them: nothing where there are none."""
        return {FEATURES: dict(self.features)} if self.features else {}


def parse(line: str | bytes) -> list[Said]:
    """The signals of a line, one of each symbol.

    Raises:
        SignalError, ArrivalError: it is none; says which field and why.
    """
    try:
        said = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise SignalError("shape", f"the line is no JSON: {error}", "one JSON object a line") from error
    if not isinstance(said, dict):
        raise SignalError("shape", f"the line is a {type(said).__name__}", "a JSON object")
    strategy = said.pop("strategy", STRATEGY)
    if not _is_name(strategy) or strategy == EVERY:
        expected = f"a name of 1 to 100 printable characters, not {EVERY}, which is all of them"
        raise SignalError("shape", f"strategy is {strategy!r:.200}", expected)
    if "assets" in said:
        assets = said.pop("assets")
        if said or not isinstance(assets, dict) or not assets:
            raise SignalError("shape", f"beside assets there is {', '.join(said) or 'nothing'}", "symbols in assets")
        return [_asset(strategy, symbol, part) for symbol, part in assets.items()]
    return [_asset(strategy, said.pop("symbol", None), said)]


def _asset(strategy: str, symbol: Any, part: Any) -> Said:
    if not _is_name(symbol):
        raise SignalError("symbol", f"symbol is {symbol!r:.200}", "a name of 1 to 100 printable characters")
    known = {"bar": (True, dict), "signal": (True, dict), "account": (False, dict), FEATURES: (False, dict)}
    part = _fields(part, known, symbol)
    numbers = {"volume": (False, float), "funding_rate": (False, float), "high": (False, float), "low": (False, float)}
    bar = _fields(
        part["bar"], {"timestamp": (True, int), "open": (False, float), "close": (True, float)} | numbers, "bar"
    )
    says = {"action": (True, str), "confidence": (True, float), "tier": (True, str), "cascade_risk": (True, float)}
    signal = _fields(part["signal"], says, "signal")
    if signal["action"] not in ACTIONS:
        raise SignalError("shape", f"action is {signal['action']!r}", f"one of {', '.join(ACTIONS)}")
    if signal["tier"] not in TIERS:
        raise SignalError("shape", f"tier is {signal['tier']!r}", f"one of {', '.join(TIERS)}")
    opened, close = bar.get("open"), _price("close", bar["close"])
    _check_within(bar)
    account = None
    if part.get("account") is not None:
        names = ("exposure", "unrealised_pnl", "win_rate", "equity_usd")
        held = _fields(part["account"], dict.fromkeys(names, (True, float)), "account")
        won = share(held["win_rate"], ("account", "win_rate"))
        if not (0.0 < held["equity_usd"] < math.inf):
            raise SignalError("exposure", f"equity_usd is {held['equity_usd']!r}", "a positive number")
        account = (float(held["exposure"]), float(held["unrealised_pnl"]), won, float(held["equity_usd"]))
    return Said(
        strategy=strategy,
        symbol=symbol,
        timestamp=milliseconds(bar["timestamp"], ("bar", "timestamp")),
        open=None if opened is None else _price("open", opened),
        close=close,
        tradable=bar.get("volume") is None or bar["volume"] > 0.0,
        funding=float(bar.get("funding_rate") or 0.0),
        signal=Signal(
            ACTIONS[signal["action"]],
            share(signal["confidence"], ("signal", "confidence")),
            int(signal["tier"][1]),
            share(signal["cascade_risk"], ("signal", "cascade_risk")),
        ),
        account=account,
        features={} if part.get(FEATURES) is None else _own(part[FEATURES]),
        given=part,
    )


def _own(said: dict[str, Any]) -> dict[str, float]:
    """Own features by name, each a number that a state can hold."""
    names = dict.fromkeys(said, (True, float))
    for name, value in _fields(said, names, FEATURES).items():
        if not _is_name(name) or not abs(value) <= LARGEST_OWN:
            found = f"{FEATURES}.{name!r:.40} is {value!r:.40}"
            raise SignalError(FEATURE, found, f"a name, and a number within {LARGEST_OWN:g}", "scale it as in training")
    return {name: float(value) for name, value in said.items()}


def own_numbers(
    features: Mapping[str, float], wanted: Sequence[str], symbol: str, allowed: Sequence[str] | None = None
) -> tuple[float, ...]:
    """What a policy reads of the features that came with a signal, in its order; nothing is guessed.

    Args:
        allowed: names that may be there besides, as other policies read them; None: any.

    Raises:
        SignalError: one is missing, or one that nobody reads.
    """
    for name in wanted:
        if name not in features:
            expected = ", ".join(wanted)
            raise SignalError(FEATURE, f"{symbol} lacks the feature {name}", expected, f"send features.{name}")
    for name in features:
        if allowed is not None and name not in wanted and name not in allowed:
            expected = ", ".join(dict.fromkeys((*wanted, *allowed))) or "none"
            found = f"{symbol} has the feature {name}, which no policy reads"
            raise SignalError(FEATURE, found, expected, "leave it out")
    return tuple(features[name] for name in wanted)


def _is_name(value: Any) -> bool:
    """A text that every database takes: no control character, no half of a pair of surrogates."""
    return isinstance(value, str) and 1 <= len(value) <= 100 and value.isprintable()


def _fields(part: Any, known: Mapping[str, tuple[bool, type]], where: str) -> dict[str, Any]:
    """The fields of an object: all that must be there, none that is unknown, numbers that are finite."""
    if not isinstance(part, dict):
        raise SignalError("shape", f"{where} is {part!r:.40}", "an object")
    if unknown := sorted(set(part) - set(known)):
        raise SignalError("shape", f"{where} has {', '.join(unknown)}", f"of {', '.join(known)}", "leave it out")
    for name, (needed, kind) in known.items():
        value = part.get(name)
        if value is None:
            if needed:
                raise SignalError("shape", f"{where} has no {name}", f"{', '.join(known)}", f"send {where}.{name}")
            continue
        if kind is float and (isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300):
            raise SignalError("shape", f"{where}.{name} is {value!r:.40}", "a finite number")
        if kind in (dict, str) and not isinstance(value, kind):
            raise SignalError("shape", f"{where}.{name} is {value!r:.40}", f"a {kind.__name__}")
    return part


def _price(name: str, value: float) -> float:
    if not value > 0.0:
        raise ArrivalError("close", ("bar", name), f"{name} is {value!r}", "a positive number", "skip the bar")
    return float(value)


def _check_within(bar: Mapping[str, Any]) -> None:
    """Refuses a bar that contradicts itself.

    Raises:
        SignalError: its low is above another of its prices, its high below one, or its volume below 0.
    """
    prices = [(name, bar[name]) for name in ("open", "close", "high", "low") if bar.get(name) is not None]
    for edge, sign in (("low", -1.0), ("high", 1.0)):
        if bar.get(edge) is None:
            continue
        _price(edge, bar[edge])
        for name, value in prices:
            if sign * (value - bar[edge]) > SLACK_ULP * math.ulp(bar[edge]):
                raise SignalError(
                    "shape", f"{edge} is {bar[edge]!r} and {name} {value!r}", "low <= open, close <= high"
                )
    if bar.get("volume") is not None and bar["volume"] < 0.0:
        raise SignalError("shape", f"bar.volume is {bar['volume']!r}", "0 or more")
