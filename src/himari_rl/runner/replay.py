"""Replay parity: the live log through the offline encoder, the bundle and the offline ledger; live equals backtest.

Everything is computed again from what the journal says of bars, signals and multipliers, by the lines of training and
backtest: features in one pass over the whole history (features/encoder.py, where live they were made bar by bar), the
account by policy/account.py with every open known, the multipliers by the bundle's own runtime. What differs is listed
with its cause. A decision without the policy's answer has no multiplier to compare; it is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from himari_rl.client.answers import FEW_BARS
from himari_rl.errors import DataError
from himari_rl.features.contract import VOLATILITY, VOLATILITY_SCALE, WIDTH
from himari_rl.features.encoder import StateEncoder, write_account
from himari_rl.journal.entry import DECISION, HISTORY
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.account import MarketMove, flat_account, move, no_trades, track
from himari_rl.policy.clock import first_of_day
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import limited_exposure, multiplier_cap
from himari_rl.policy.runtime import Policy
from himari_rl.runner.desk import JOINED
from himari_rl.runner.drift import DriftWatch
from himari_rl.runner.policies import LocalPolicy
from himari_rl.runner.signals import FEATURES, own_numbers
from himari_rl.schema import ACTIONS, DAY_MS, Bars, FloatArray, Layer2, direction

FEATURE, MULTIPLIER, USD = 1e-6, 1e-5, 0.01
"""Differences above these are listed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One number that live was another than offline."""

    strategy: str
    symbol: str
    bar: int
    what: str  # a feature's name, multiplier or size_usd
    live: float
    offline: float
    cause: str


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One account's log, computed again."""

    strategy: str
    symbols: tuple[str, ...]
    decisions: int
    answered: int  # by the policy: the others are fallbacks, by cause in `fallbacks`
    fallbacks: Mapping[str, int]
    differences: tuple[Difference, ...]
    equity_usd: float  # offline, at the last close
    equity_gap: float  # largest |log(live equity / offline equity)|
    drift: Mapping[str, int]  # bars on which a feature, multiplier or confidence was not as in the bundle's training
    drift_days: int  # days with one of them


@dataclass
class _Log:
    """What the journal says of one account; leaves (T, A) after `arrays`."""

    start: dict[str, Any]
    rows: list[list[dict[str, Any]]]  # (D, A) decisions in the order of time
    times: list[int]


def replay(journal: DecisionJournal, policy: Policy) -> list[Replayed]:
    """Every account of the journal that is on the policy's symbols.

    Raises:
        DataError: there is none.
    """
    symbols, found = policy.manifest.symbols, []
    for strategy, log in _logs(journal, symbols, policy.manifest.version).items():
        found.append(_replayed(strategy, log, policy))
    if not found:
        raise DataError(
            f"{journal.place} has no decision on {', '.join(symbols)}", "a journal of this policy", "give its bundle"
        )
    return found


def _logs(journal: DecisionJournal, symbols: tuple[str, ...], version: str) -> dict[str, _Log]:
    logs: dict[str, _Log] = {}
    others: set[str] = set()
    parts: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in journal.entries(kinds=(DECISION, HISTORY)):
        entry = row.entry
        if entry.kind == HISTORY:
            # a runner whose first bars were all refused leaves a history that the next one replaces
            if entry.symbol == JOINED.join(symbols) and not (entry.strategy in logs and logs[entry.strategy].rows):
                logs[entry.strategy] = _Log(entry.said, [], [])
            continue
        said = entry.said
        if tuple(said["symbols"]) != symbols or entry.bar is None:
            continue
        if said.get("arm") and said["version"] not in ("", version):
            others.add(entry.strategy)  # in a split the other policy sizes this account
        here = parts.setdefault((entry.strategy, entry.bar), {})
        here[entry.symbol] = said
        if len(here) == len(symbols):
            logs[entry.strategy].rows.append([here[symbol] for symbol in symbols])
            logs[entry.strategy].times.append(entry.bar)
    return {strategy: log for strategy, log in logs.items() if log.rows and strategy not in others}


def _replayed(strategy: str, log: _Log, policy: Policy) -> Replayed:
    symbols = policy.manifest.symbols
    ledger = LedgerSpec.model_validate(log.start["ledger"], strict=False).config
    bars, first = _bars(log, symbols, policy.manifest.ledger.interval_ms, policy.manifest.own_features)
    encoder = StateEncoder(symbols, policy.manifest.own_features)
    market = encoder.market_rows(bars[0]) if len(bars) == 1 else encoder.panel_rows(bars)[1]
    account = _Offline(ledger, bars, market, first)
    local, names = LocalPolicy(policy), encoder.names
    differences: list[Difference] = []
    fallbacks: dict[str, int] = {}
    memory: str | None = None
    state: list[float] | None = None
    gap = 0.0
    watch = None if local.drift is None else DriftWatch(local.drift, symbols, local.own)
    drift: Counter[str] = Counter()
    days: set[int] = set()
    for t, rows in enumerate(log.rows):
        last = rows[-1]
        given = [row["account"] for row in rows] if rows[0]["account"] is not None else None
        seen, equity = account.observe(t, float(log.start["equity_usd"]), given)
        if watch is not None and last["cause"] != FEW_BARS:
            names_now = {each.feature for each in watch.met(seen, log.times[t])}
            drift.update(names_now)
            days |= {log.times[t] // DAY_MS} if names_now else set()
        listed = _lister(differences, strategy, log.times[t])
        gap = max(gap, abs(float(np.log(last["equity_usd"] / equity))))
        told = last.get("state")
        why = _why_features(given is not None)
        for name, live, offline in zip(names, told or [], seen.tolist(), strict=False):
            if abs(live - offline) > FEATURE:
                cause = why.get(name.rpartition(".")[2], "bars or signals are not those that were encoded")
                listed("", name, live, offline, cause)
        memory = _memory_before(last, memory, state, local)
        if last["cause"]:
            fallbacks[last["cause"]] = fallbacks.get(last["cause"], 0) + 1
        else:
            answer = local.ask(seen.tolist(), memory)
            memory, state = answer.memory, seen.tolist()
            if watch is not None and answer.multipliers is not None:
                watch.answered(answer.multipliers, answer.confidence)
            for row, symbol, offline in zip(rows, symbols, answer.multipliers or (), strict=False):
                live = row["multiplier"] if row.get("wanted") is None else row["wanted"]
                if abs(live - offline) > MULTIPLIER or abs(row["multiplier"] - live) > MULTIPLIER:
                    cause = _why_multiplier(row, policy, differences, log.times[t])
                    listed(symbol, "multiplier", live, offline, cause)
        multipliers = np.array([row["multiplier"] for row in rows])
        sizes = account.size(t, multipliers) * equity
        for row, symbol, offline in zip(rows, symbols, sizes.tolist(), strict=True):
            if abs(row["size_usd"] - offline) > USD:
                cause = "equity differs" if abs(row["equity_usd"] - equity) > USD else "limits or direction differ"
                listed(symbol, "size_usd", row["size_usd"], offline, cause)
        account.move(t, multipliers)
    return Replayed(
        strategy=strategy,
        symbols=symbols,
        decisions=len(log.rows),
        answered=len(log.rows) - sum(fallbacks.values()),
        fallbacks=fallbacks,
        differences=tuple(differences),
        equity_usd=equity,
        equity_gap=gap,
        drift=dict(drift.most_common()),
        drift_days=len(days),
    )


def _lister(differences: list[Difference], strategy: str, bar: int) -> Callable[[str, str, float, float, str], None]:
    """Adds a difference of one bar: symbol, what, live, offline, cause."""

    def add(symbol: str, what: str, live: float, offline: float, cause: str) -> None:
        differences.append(
            Difference(strategy=strategy, symbol=symbol, bar=bar, what=what, live=live, offline=offline, cause=cause)
        )

    return add


def _memory_before(
    last: dict[str, Any], memory: str | None, state: list[float] | None, local: LocalPolicy
) -> str | None:
    """The memory that a decision begins with, by what the journal says of gaps and beginnings."""
    gap = last["gap"]
    if gap is not None and memory is not None:
        kept = gap["memory_kept"] and state is not None
        memory = local.over_gap(state or [], memory, gap["missing_bars"]) if kept else None
    return None if last["memory_started"] else memory


def _why_features(given: bool) -> dict[str, str]:
    told = "the account is the one that the signal told" if given else "the account on paper is another"
    return dict.fromkeys(("position_size", "position_side", "unrealised_pnl", "win_rate", "herfindahl"), told)


def _why_multiplier(row: dict[str, Any], policy: Policy, before: Sequence[Difference], bar: int) -> str:
    if row["version"] != policy.manifest.version:
        return f"{row['version']} answered, this is {policy.manifest.version}"
    if row.get("wanted") is not None and row["multiplier"] != row["wanted"]:
        return "the multiplier is not what the policy answered"
    if any(each.bar == bar for each in before):
        return "the features of this bar differ"
    return "the same policy answered otherwise to the same state: its memory, or its weights"


class _Offline:
    """The account with every open known: what backtest and training move."""

    def __init__(self, ledger: LedgerConfig, bars: Sequence[Bars], market: FloatArray, first: int) -> None:
        self._ledger, self._market, self._first = ledger, market, first
        opens, closes = (np.stack([getattr(b, n) for b in bars], 1) for n in ("open", "close"))
        funding = np.stack([b.funding_rate for b in bars if b.funding_rate is not None], 1)
        tradable = np.stack([b.tradable for b in bars], 1)
        after = np.concatenate([opens[2:], closes[-1:]])  # the newest fill has no next open yet: only its marks count
        self._moves = MarketMove(
            tradable=tradable[1:],
            to_close=closes[1:] / opens[1:] - 1.0,
            to_open=after / opens[1:] - 1.0,
            funding=np.concatenate([funding[2:], np.zeros_like(funding[:1])]),
            new_day=first_of_day(bars[0].timestamp // DAY_MS)[1:],
        )
        self._times, self._interval = bars[0].timestamp, bars[0].interval_ms
        sides = [direction(b.signals.action, ledger.allow_short) for b in bars if b.signals is not None]
        self._base = np.stack(sides, 1) * ledger.max_position_pct
        blocks = market[:, : WIDTH * len(bars)].reshape(len(market), len(bars), WIDTH)
        risk = np.stack([b.signals.cascade_risk for b in bars if b.signals is not None], 1)
        self._cap = multiplier_cap(blocks[..., VOLATILITY] * VOLATILITY_SCALE, risk, ledger.limits)
        self._account, self._trades = flat_account(np.zeros(len(bars))), no_trades(np.zeros(len(bars)))
        self._day_equity: float | None = None
        self._stopped = False

    def observe(
        self, t: int, start_usd: float, given: Sequence[Mapping[str, float]] | None
    ) -> tuple[FloatArray, float]:
        """State (F,) and equity at the close of decision t."""
        state = self._market[self._first + t].copy()
        pct = self._ledger.max_position_pct
        if given is None:
            held, trades = self._account.marked, self._trades
            write_account(state, held, trades.marked_pnl, trades.win_rate, pct)
            self._stopped = bool(self._account.stopped)
            return state, start_usd * float(np.exp(self._account.marked_log_equity))
        exposure, pnl, won = (np.array([g[n] for g in given]) for n in ("exposure", "unrealised_pnl", "win_rate"))
        write_account(state, exposure, pnl, won, pct)
        return state, self._told(t, start_usd, float(given[0]["equity_usd"]))

    def _told(self, t: int, start_usd: float, equity: float) -> float:
        """A given equity against the daily loss stop: the day begins with the close before its first open."""
        base = start_usd if self._day_equity is None else self._day_equity
        stop = self._ledger.limits.daily_loss_stop
        if stop < 1.0 and np.log(equity / base) <= np.log1p(-stop):
            self._stopped = True
        if self._day_ends(t):
            self._day_equity = equity
        return equity

    def size(self, t: int, multipliers: FloatArray) -> FloatArray:
        """Exposure (A,) that the limits leave."""
        now, limits = self._first + t, self._ledger.limits
        ends = self._day_ends(t)
        stopped = np.bool_(self._stopped and not ends)
        found: FloatArray = limited_exposure(multipliers, self._cap[now], self._base[now], stopped, limits.max_leverage)
        return found

    def _day_ends(self, t: int) -> bool:
        opened = int(self._times[self._first + t])
        return bool((opened + self._interval) // DAY_MS != opened // DAY_MS)

    def move(self, t: int, multipliers: FloatArray) -> None:
        """Fills decision t at the next open, where there is one."""
        now = self._first + t
        if self._day_ends(t):
            self._stopped = False
        if now >= len(self._times) - 1:
            return
        met = MarketMove(*(leaf[now] for leaf in self._moves))
        rate, before = self._ledger.costs, self._account.held
        self._account, moved = move(
            self._account, multipliers, self._base[now], self._cap[now], met, rate, self._ledger.limits
        )
        self._trades = track(self._trades, before, moved, met, rate)


def _bars(log: _Log, symbols: tuple[str, ...], interval_ms: int, own: tuple[str, ...]) -> tuple[list[Bars], int]:
    """The journal's bars of each symbol, history first; and at which of them the decisions begin.

    Raises:
        SignalError: a decision of the journal lacks a feature that the policy reads.
    """
    history = log.start["bars"]
    times = np.array([row[0] for row in history] + log.times, np.int64)
    made = []
    for asset, symbol in enumerate(symbols):
        rows = [each[asset] for each in log.rows]
        said = [row["signal"] for row in rows]
        seen = [own_numbers(row.get(FEATURES) or {}, own, symbol) for row in rows]
        past = [row[1 + asset] for row in history]
        quiet = [0] * len(past)
        if past:  # the direction at the end of the history
            quiet[-1] = int(np.sign(log.start["sides"][asset]))
        closes = np.array(past + [row["close"] for row in rows], np.float64)
        opens = np.array(past + [row["close"] if row["open"] is None else row["open"] for row in rows], np.float64)
        signals = Layer2(
            action=np.array(quiet + [ACTIONS[s["action"]] for s in said], np.int64),
            confidence=np.array([0.0] * len(past) + [float(s["confidence"]) for s in said]),
            tier=np.array([4] * len(past) + [int(s["tier"][1]) for s in said], np.int64),
            cascade_risk=np.array([0.0] * len(past) + [float(s["cascade_risk"]) for s in said]),
            supplied=True,
        )
        made.append(
            Bars(
                symbol=symbol,
                timestamp=times,
                open=opens,
                high=np.maximum(opens, closes),
                low=np.minimum(opens, closes),
                close=closes,
                volume=np.array([1.0] * len(past) + [float(row["bar"]["tradable"]) for row in rows]),
                interval_ms=interval_ms,
                source="journal",
                signals=signals,
                funding_rate=np.array([0.0] * len(past) + [row["bar"]["funding"] for row in rows]),
                extra={n: np.array([0.0] * len(past) + [row[k] for row in seen]) for k, n in enumerate(own)},
                features=own,
            )
        )
    return made, len(history)
