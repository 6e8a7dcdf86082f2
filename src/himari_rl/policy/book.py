"""A book: what a live account needs of its bars, from one close to the next. Client, runner and replay share it.

    seen = book.close(moment)            bars, signals and account become the state that a policy is asked with
    sized = book.order(multipliers)      multipliers become exposures under the limits, USD and units

Bars are held against policy/arrival.py before anything is computed of them; a bar that is refused leaves the book as it
was. The encoder is features/live.py, the money policy/paper.py, the limits policy/risk.py: nothing is computed here
that training and backtest compute elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from himari_rl.features.contract import VOLATILITY, VOLATILITY_SCALE, WIDTH
from himari_rl.features.encoder import write_account
from himari_rl.features.live import Bar, LivePanel, Signal
from himari_rl.policy.arrival import HISTORY_BARS, ArrivalError, ArrivalRules, missing_bars
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.paper import ClosedBars, Order, PaperAccount, Position
from himari_rl.policy.risk import limited_exposure, multiplier_cap
from himari_rl.schema import DAY_MS, HOLD, BoolArray, FloatArray, direction

QUIET = Signal(HOLD, 0.0, 4, 0.0)
"""Of bars before the first decision: only the newest bar's signal is in a state."""


class GivenAccount(NamedTuple):
    """An account as the signal tells it; leaves (A,)."""

    exposure: FloatArray
    unrealised_pnl: FloatArray
    win_rate: FloatArray
    equity_usd: float


class Observed(NamedTuple):
    """What a decision is made on; leaves (A,)."""

    timestamp: int
    state: FloatArray  # (F,)
    close: FloatArray
    position: Position
    equity_usd: float
    volatility: FloatArray  # standard deviation of the last 20 bar returns
    base: FloatArray  # direction * max_position_pct
    cap: FloatArray  # regime cap on the multiplier
    missing: int  # bars between the one before and this one
    warm: bool  # the windows of the encoder are full
    day_ends: bool  # the next open is of another UTC day
    stopped: bool  # the ledger's daily loss stop holds at the next open


class Sized(NamedTuple):
    """What a multiplier comes to; leaves (A,)."""

    exposure: FloatArray  # after the limits, signed, fraction of equity
    base_usd: FloatArray
    size_usd: FloatArray
    units: FloatArray
    limits: tuple[str, ...]  # which of them shrank it: regime_cap, gross_cap, daily_loss_stop


class Book:
    """One account on the symbols of one policy.

    Args:
        equity_usd: what the paper account starts with.
        paper: False where every signal tells the account.
        warm_bars: earlier bars from which the windows count as full.
        own: the policy's own features, which the bars of every decision have.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        rules: ArrivalRules,
        ledger: LedgerConfig,
        *,
        equity_usd: float = 10_000.0,
        paper: bool = True,
        warm_bars: int = HISTORY_BARS,
        own: tuple[str, ...] = (),
    ) -> None:
        self.symbols, self.rules, self.ledger = tuple(symbols), rules, ledger
        self.paper = PaperAccount(ledger, len(self.symbols)) if paper else None
        self._start_usd, self._warm_bars = equity_usd, warm_bars
        self.own, self._none = own, ((0.0,) * len(own),) * len(self.symbols)
        self._panel = LivePanel(self.symbols, rules.interval_ms, reference=False, own=own)
        self._sides = np.zeros(len(self.symbols))
        self._closes: FloatArray | None = None
        self._bars = 0
        self._day_start = 0.0  # log equity of a given account at the start of its day
        self._day_stopped = False  # its daily loss stop has been reached today
        self.last: int | None = None
        """Opening time of the newest bar."""
        self._seen: Observed | None = None

    def check(self, bars: ClosedBars) -> int:
        """How many bars are missing before these.

        Raises:
            ArrivalError: they are off the grid, not newer than the last ones, or their closes cannot follow.
        """
        self.rules.check_grid(bars.timestamp, ("bar", "timestamp"))
        for opened, close, rate in zip(bars.open.tolist(), bars.close.tolist(), bars.funding.tolist(), strict=True):
            self.rules.check_fill(opened, close, rate)
        if self.last is None or self._closes is None:
            return 0
        self.rules.check_order(bars.timestamp, self.last, ("bar", "timestamp"))
        if bars.timestamp == self.last:
            found = f"the bar of {bars.timestamp} came again"
            raise ArrivalError("order", ("bar", "timestamp"), found, "each bar once", "send the next one")
        for close, before in zip(bars.close.tolist(), self._closes.tolist(), strict=True):
            self.rules.check_close(close, before, ("bar", "close"))
        return missing_bars((self.last, bars.timestamp), self.rules.interval_ms)

    def begin(self, bars: ClosedBars, signals: Sequence[Signal | None] | None = None) -> None:
        """Takes a bar of before the first decision: it fills the windows, and its signal, if any, gives a direction.

        Raises:
            ArrivalError: as `check`.
        """
        self.check(bars)
        said = [QUIET if each is None else each for each in signals or [None] * len(self.symbols)]
        self._turn(said)
        self._update(bars._replace(own=bars.own or self._none), said)

    def close(self, bars: ClosedBars, signals: Sequence[Signal], given: GivenAccount | None = None) -> Observed:
        """The bars of one close, their signals and, where there is no paper account, the account.

        Raises:
            ArrivalError: the bars or the account cannot be; the book is as it was.
            DataError: own features are missing, too many or not finite.
        """
        missing = self.check(bars)
        if given is not None:
            self._check_given(given)
        elif self.paper is None:
            raise ArrivalError("exposure", ("account",), "the signal has no account", "one", "or keep it on paper")
        warm = self._bars >= self._warm_bars
        state = self._update(bars, signals)
        self._turn(signals)
        if self.paper is not None:
            position = self.paper.close(bars)
            equity_usd = self._start_usd * float(np.exp(position.log_equity))
        else:
            assert given is not None
            position, equity_usd = self._told(given, bars.timestamp), given.equity_usd
        pct = self.ledger.max_position_pct
        write_account(state, position.exposure, position.unrealised_pnl, position.win_rate, pct)
        blocks = state[: WIDTH * len(self.symbols)].reshape(len(self.symbols), WIDTH)
        volatility = blocks[:, VOLATILITY] * VOLATILITY_SCALE
        risk = np.array([signal.cascade_risk for signal in signals])
        next_day = (bars.timestamp + self.rules.interval_ms) // DAY_MS != bars.timestamp // DAY_MS
        self._seen = Observed(
            timestamp=bars.timestamp,
            state=state,
            close=bars.close,
            position=position,
            equity_usd=equity_usd,
            volatility=volatility,
            base=self._sides * pct,
            cap=multiplier_cap(volatility, risk, self.ledger.limits),
            missing=missing,
            warm=warm,
            day_ends=next_day,
            stopped=position.stopped and not next_day,
        )
        return self._seen

    def order(self, multipliers: Sequence[float]) -> Sized:
        """Sizes the newest close with `multipliers` (A,), and leaves the order to the paper account, if there is one.

        The ledger fills it at the next bar's open, for good where that bar trades and its day is the one expected.
        """
        seen = self._seen
        assert seen is not None, "close a bar first"
        wanted = np.array(multipliers, np.float64)
        limits = self.ledger.limits
        allowed = limited_exposure(wanted, seen.cap, seen.base, np.bool_(seen.stopped), limits.max_leverage)
        capped = np.minimum(wanted, seen.cap) * seen.base
        bound = {
            "regime_cap": bool((wanted > seen.cap).any()),
            "gross_cap": float(np.abs(capped).sum()) > limits.max_leverage,
            "daily_loss_stop": seen.stopped,
        }
        if self.paper is not None:
            self.paper.order(Order(wanted, seen.base, seen.cap))
        return Sized(
            exposure=allowed,
            base_usd=seen.base * seen.equity_usd,
            size_usd=allowed * seen.equity_usd,
            units=allowed * seen.equity_usd / seen.close,
            limits=tuple(name for name, binds in bound.items() if binds),
        )

    def snapshot(self) -> dict[str, Any]:
        """What a restart needs besides the bars before, as JSON types."""
        return {
            "last": self.last,
            "sides": self._sides.tolist(),
            "day_start": self._day_start,
            "day_stopped": self._day_stopped,
            "paper": None if self.paper is None else self.paper.snapshot(),
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Takes a `snapshot`, after the bars up to it were given to `begin`."""
        self._sides = np.array(kept["sides"])
        self._day_start, self._day_stopped = kept["day_start"], kept["day_stopped"]
        if self.paper is not None and kept["paper"] is not None:
            self.paper.restore(kept["paper"])

    def _update(self, bars: ClosedBars, signals: Sequence[Signal]) -> FloatArray:
        own = bars.own or ((),) * len(self.symbols)
        closed = {
            symbol: (Bar(bars.timestamp, float(close), numbers), signal)
            for symbol, close, numbers, signal in zip(self.symbols, bars.close, own, signals, strict=True)
        }
        state = self._panel.update(closed)
        self.last, self._closes, self._bars = bars.timestamp, bars.close, self._bars + 1
        return state

    def _turn(self, signals: Sequence[Signal]) -> None:
        """BUY and SELL give a direction; HOLD keeps the last one, as `schema.direction` does over a history."""
        for asset, signal in enumerate(signals):
            if signal.action != HOLD:
                self._sides[asset] = direction(np.array([signal.action]), self.ledger.allow_short)[0]

    def _check_given(self, given: GivenAccount) -> None:
        for exposure, pnl in zip(given.exposure.tolist(), given.unrealised_pnl.tolist(), strict=True):
            self.rules.check_account(exposure, pnl)
        self.rules.check_gross(given.exposure.tolist())

    def _told(self, given: GivenAccount, timestamp: int) -> Position:
        """A given account as a position; its day begins with the last close of the day before."""
        log_equity = float(np.log(given.equity_usd / self._start_usd))
        stop = self.ledger.limits.daily_loss_stop
        if stop < 1.0 and log_equity - self._day_start <= float(np.log1p(-stop)):
            self._day_stopped = True
        position = Position(*given[:3], log_equity, self._day_start, self._day_stopped)
        if (timestamp + self.rules.interval_ms) // DAY_MS != timestamp // DAY_MS:
            self._day_start, self._day_stopped = log_equity, False
        return position


def closed_bars(
    timestamp: int,
    opens: Sequence[float],
    closes: Sequence[float],
    tradable: Sequence[bool] | None = None,
    funding: Sequence[float] | None = None,
    own: Sequence[Sequence[float]] = (),
) -> ClosedBars:
    """The bars of one time from plain numbers, one of each symbol."""
    count = len(closes)
    trades: BoolArray = np.ones(count, bool) if tradable is None else np.array(tradable, bool)
    paid = np.zeros(count) if funding is None else np.array(funding, np.float64)
    numbers = tuple(tuple(map(float, each)) for each in own)
    return ClosedBars(timestamp, np.array(opens, np.float64), np.array(closes, np.float64), trades, paid, numbers)
