"""Layer 3 as Layer 2 calls it: the account's bookkeeping, the question within its deadline, and 1.0 where it fails."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple

from himari_rl.client.answers import FEW_BARS
from himari_rl.client.caller import PolicyCaller
from himari_rl.client.config import ClientConfig
from himari_rl.errors import ConfigError, StateError
from himari_rl.features.live import Signal
from himari_rl.policy.arrival import ArrivalRules
from himari_rl.policy.book import Book, GivenAccount, closed_bars
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import HOUR_MS

FALLBACK = 1.0


class ClosedBar(NamedTuple):
    """One bar of one symbol, once it has closed."""

    timestamp: int  # ms UTC, bar OPEN
    open: float
    close: float
    tradable: bool = True  # False: a bar without volume, at whose open nothing can be filled
    funding: float = 0.0  # rate settled at its open
    features: Mapping[str, float] = {}  # the policy's own features at the close, by name


class Sizing(NamedTuple):
    """One decision; leaves by symbol."""

    multipliers: Mapping[str, float]  # what the policy said, or exactly 1.0
    size_usd: Mapping[str, float]  # signed, after the limits
    units: Mapping[str, float]
    cause: str  # why it is a fallback; empty where the policy answered
    detail: str
    version: str
    confidence: float | None
    latency_ms: float
    limits: tuple[str, ...]  # that shrank it

    @property
    def multiplier(self) -> float:
        """Of the only symbol, or of the first."""
        return next(iter(self.multipliers.values()))


class Layer3:
    """One account, sized by one policy server. Nothing but a bar that cannot be raises: see `decide`.

    Args:
        symbols: the policy's, in its order.
        features: own features that the policy reads, in its order; every bar of `decide` then has them by name.
        ledger: fees and limits; the account on paper is kept with them.
        equity_usd: what the account starts with.
        paper: False where the account comes with every call.
    """

    def __init__(
        self,
        url: str,
        symbols: Sequence[str],
        *,
        interval_ms: int = HOUR_MS,
        features: Sequence[str] = (),
        ledger: LedgerConfig | None = None,
        equity_usd: float = 10_000.0,
        paper: bool = True,
        config: ClientConfig | None = None,
    ) -> None:
        ledger = ledger or LedgerConfig()
        rules = ArrivalRules.for_ledger(ledger, interval_ms, 0, len(symbols))
        self.book = Book(symbols, rules, ledger, equity_usd=equity_usd, paper=paper, own=tuple(features))
        self.caller = PolicyCaller(url, symbols, interval_ms, config)
        self.trouble = self.caller.connect()
        """Why the server cannot be used yet; empty where it can."""
        read = json.loads(self.caller.ready.get("features", json.dumps(list(features))))
        if read != list(features):
            self.caller.close()
            raise ConfigError(
                f"features {', '.join(features) or 'none'}",
                f"{', '.join(read) or 'none'}, which the policy behind {url} reads",
                f"Layer3(..., features={read})",
            )
        self._memory: str | None = None

    def __enter__(self) -> Layer3:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.caller.close()

    def begin(self, history: Iterable[ClosedBar | Mapping[str, ClosedBar]]) -> None:
        """Fills the encoder's windows with closed bars of before; 20 at least, else decisions fall back.

        Raises:
            ArrivalError: a bar cannot be.
        """
        for bar in history:
            self.book.begin(closed_bars(*self._columns(bar)))

    def decide(
        self,
        bar: ClosedBar | Mapping[str, ClosedBar],
        signal: Signal | Mapping[str, Signal],
        account: GivenAccount | None = None,
    ) -> Sizing:
        """Sizes the signal of a bar that has closed; within the deadline, whatever the server does.

        Args:
            bar, signal: of the only symbol, or of each by its name.
            account: where there is none on paper.

        Raises:
            ArrivalError: the bar is none that can follow (off the grid, repeated, another unit): decide nothing on it.
            StateError: a feature that the policy reads is missing, or it reads none of that name.
        """
        book = self.book
        signals = [signal] if isinstance(signal, Signal) else [signal[symbol] for symbol in book.symbols]
        seen = book.close(closed_bars(*self._columns(bar), self._own(bar)), signals, account)
        cause, detail, version, confidence, latency_ms = FEW_BARS, "call begin() with earlier bars first", "", None, 0.0
        multipliers: Sequence[float] = [FALLBACK] * len(book.symbols)
        if seen.missing:
            self._memory = None  # of bars that were not seen: an episode starts anew
        if seen.warm:
            answer = self.caller.ask(seen.state.tolist(), self._memory)
            cause, detail, latency_ms = answer.cause, answer.detail, answer.latency_ms
            if answer.multipliers is not None:
                multipliers, self._memory = answer.multipliers, answer.memory
                version, confidence = answer.version, answer.confidence
        sized = book.order(multipliers)
        return Sizing(
            multipliers=dict(zip(book.symbols, multipliers, strict=True)),
            size_usd=dict(zip(book.symbols, sized.size_usd.tolist(), strict=True)),
            units=dict(zip(book.symbols, sized.units.tolist(), strict=True)),
            cause=cause,
            detail=detail,
            version=version,
            confidence=confidence,
            latency_ms=latency_ms,
            limits=sized.limits,
        )

    def _own(self, bar: ClosedBar | Mapping[str, ClosedBar]) -> list[list[float]]:
        """Every symbol's features in the policy's order."""
        own, found = self.book.own, []
        for symbol in self.book.symbols:
            given = (bar if isinstance(bar, ClosedBar) else bar[symbol]).features
            if set(given) != set(own):
                wrong = [f"lacks {name}" for name in own if name not in given]
                wrong += [f"has {name}" for name in given if name not in own]
                raise StateError(f"the bar of {symbol} {wrong[0]}", f"features {', '.join(own) or 'none'}")
            found.append([given[name] for name in own])
        return found

    def _columns(
        self, bar: ClosedBar | Mapping[str, ClosedBar]
    ) -> tuple[int, list[float], list[float], list[bool], list[float]]:
        bars = [bar] if isinstance(bar, ClosedBar) else [bar[symbol] for symbol in self.book.symbols]
        opens, closes, tradable, funding = zip(*(each[1:5] for each in bars), strict=True)
        return bars[0].timestamp, list(opens), list(closes), list(tradable), list(funding)
