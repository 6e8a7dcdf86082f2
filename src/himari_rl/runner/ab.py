"""The A/B test: champion against challenger on the runner's journal, bar by bar, on accounts alike in all else.

The market does not react to our size, so both policies can size every signal. `shadow` does that: the journal has what
the champion decided; the challenger is asked the same signals on an account of its own. It runs beside the runner, not
within it, so a challenger that is slow or broken delays no decision. `split` is for real money: the runner gives each
account (strategy and symbols) to one of the two, always the same one, and the comparison is between accounts; with the
champion's bundle at hand the other policy is put on paper there too, which needs far fewer bars.

    clock       a decision at the close of bar t is filled at the open of t + 1; growth is marked at closes, after costs
    outcome     of every bar, both accounts' multipliers and log growth, in a journal of its own: durable, once, chained
    fairness    where the runner had no answer (halted, timeout, ...) both accounts take what it took: a wire that broke
                is no policy's merit
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from himari_rl.config import as_dict
from himari_rl.errors import ConfigError
from himari_rl.features.live import Signal
from himari_rl.journal.entry import DECISION, HISTORY, OUTCOME, PLAN, Entry, Stored, entry_of
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.arrival import ArrivalRules
from himari_rl.policy.book import Book, closed_bars
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.paper import ClosedBars
from himari_rl.runner.config import AbConfig
from himari_rl.runner.desk import JOINED
from himari_rl.runner.policies import AsksPolicy
from himari_rl.runner.signals import FEATURES, own_numbers
from himari_rl.schema import ACTIONS

CHAMPION, CHALLENGER = ARMS = ("champion", "challenger")
GROUP = 500
"""Outcomes that are written with one fsync."""


def arm_of(strategy: str, symbols: Sequence[str], config: AbConfig) -> str:
    """Which policy sizes an account in a split: a matter of seed, strategy and symbols alone, so it never changes."""
    named = "\0".join([str(config.seed), strategy, *symbols])
    drawn = int.from_bytes(hashlib.sha256(named.encode()).digest()[:6]) / 2**48
    return CHALLENGER if drawn < config.share else CHAMPION


def require_comparable(champion: AsksPolicy, challenger: AsksPolicy) -> None:
    """Two policies that can size the same signals.

    Raises:
        ConfigError: other symbols, another interval, or another grid.
    """
    ours, theirs = ((p.symbols, p.interval_ms, p.phase_ms) for p in (champion, challenger))
    if ours != theirs:
        found = f"the challenger is for {', '.join(theirs[0])} on bars of {theirs[1]} ms from {theirs[2]} ms"
        expected = f"{', '.join(ours[0])} on bars of {ours[1]} ms from {ours[2]} ms, as the champion"
        raise ConfigError(found, expected, "train one on the champion's symbols and interval")


def require_champion(challenger: AsksPolicy, by_symbol: Mapping[str, AsksPolicy]) -> AsksPolicy:
    """The policy that a challenger stands beside.

    Raises:
        ConfigError: there is none, or the two cannot be compared.
    """
    champion = by_symbol.get(challenger.symbols[0])
    if champion is None:
        named = ", ".join(challenger.symbols)
        raise ConfigError(f"a challenger for {named} without a champion", "one for the same symbols")
    require_comparable(champion, challenger)
    return champion


@dataclass
class _Paper:
    """One policy's account."""

    book: Book
    policy: AsksPolicy | None = None  # None: the journal says what it decided
    memory: str | None = None
    state: list[float] | None = None
    log_equity: float = 0.0
    failures: int = 0

    def answered(self, state: list[float], missing: int, fallback: Sequence[float]) -> list[float]:
        """The policy's multipliers; the fallback where it has none."""
        assert self.policy is not None
        if missing and self.memory is not None:
            self.memory = None if self.state is None else self.policy.over_gap(self.state, self.memory, missing)
        answer = self.policy.ask(state, self.memory)
        if answer.multipliers is None:
            self.failures += 1
            return list(fallback)
        self.memory, self.state = answer.memory, state
        return list(answer.multipliers)


class Twin:
    """Both policies' paper accounts on one strategy's bars.

    Args:
        start: what the journal says of the account's beginning.
        arm: the policy that the journal's multipliers are of.
        other: the other one, to be asked; None where there is none at hand.
    """

    def __init__(self, strategy: str, start: Mapping[str, Any], arm: str, asked: AsksPolicy, other: bool) -> None:
        self.strategy, self.symbols, self.arm = strategy, asked.symbols, arm
        self.last: int | None = None
        self._papers: dict[str, _Paper] = {}
        for name in ARMS:
            if name == arm or other:
                policy = None if name == arm else asked
                self._papers[name] = _Paper(_book(asked, start, policy.own if policy else ()), policy)

    def take(self, bar: int, rows: Sequence[Mapping[str, Any]]) -> Entry:
        """Both accounts over a bar; `rows` are the journal's decisions, one of each symbol."""
        journalled, cause = [float(row["multiplier"]) for row in rows], str(rows[-1]["cause"])
        multipliers, growth, equity = {}, {}, {}
        for name, paper in self._papers.items():
            seen = paper.book.close(*_closed(bar, rows, paper.book))
            if paper.policy is None or cause:
                multipliers[name] = journalled
            else:
                multipliers[name] = paper.answered(seen.state.tolist(), seen.missing, [1.0] * len(rows))
            paper.book.order(multipliers[name])
            growth[name] = seen.position.log_equity - paper.log_equity
            paper.log_equity = equity[name] = seen.position.log_equity
        self.last = bar
        body = {"arm": self.arm, "cause": cause, "version": rows[-1]["version"]}
        body |= {"multipliers": multipliers, "growth": growth, "log_equity": equity}
        return entry_of(OUTCOME, body, strategy=self.strategy, symbol=JOINED.join(self.symbols), bar=bar)


class SizesOne:
    """The account of multiplier 1.0: every signal as Layer 2 says.

    Args:
        policy: whose symbols and interval the bars are of.
        start: what the journal says of the account's beginning.
    """

    def __init__(self, policy: AsksPolicy, start: Mapping[str, Any]) -> None:
        self._book, self._symbols = _book(policy, start), policy.symbols
        self._parts: dict[str, Mapping[str, Any]] = {}

    def take(self, bar: int, symbol: str, said: Mapping[str, Any]) -> float | None:
        """Equity in USD at the close of a bar, once all symbols of it are there."""
        self._parts[symbol] = said
        if len(self._parts) < len(self._symbols):
            return None
        rows, self._parts = [self._parts[each] for each in self._symbols], {}
        seen = self._book.close(*_closed(bar, rows, self._book))
        self._book.order([1.0] * len(rows))
        return seen.equity_usd


def _book(policy: AsksPolicy, start: Mapping[str, Any], own: tuple[str, ...] = ()) -> Book:
    ledger = LedgerSpec.model_validate(start["ledger"], strict=False).config
    rules = ArrivalRules.for_ledger(ledger, policy.interval_ms, policy.phase_ms, len(policy.symbols))
    book = Book(policy.symbols, rules, ledger, equity_usd=float(start["equity_usd"]), own=own)
    for timestamp, *closes in start["bars"]:
        book.begin(closed_bars(timestamp, closes, closes))
    book.restore({"sides": start["sides"], "day_start": 0.0, "day_stopped": False, "paper": None})
    return book


def _closed(bar: int, rows: Sequence[Mapping[str, Any]], book: Book) -> tuple[ClosedBars, list[Signal]]:
    """Bars and signals of one close, from the journal's decisions, for a book.

    Raises:
        SignalError: a decision lacks a feature that the book's policy reads.
    """
    named = zip(book.symbols, rows, strict=True)
    bars = closed_bars(
        bar,
        [row["close"] if row["open"] is None else row["open"] for row in rows],
        [row["close"] for row in rows],
        [row["bar"]["tradable"] for row in rows],
        [row["bar"]["funding"] for row in rows],
        [own_numbers(row.get(FEATURES) or {}, book.own, symbol) for symbol, row in named],
    )
    return bars, [_signal(row["signal"]) for row in rows]


def _signal(said: Mapping[str, Any]) -> Signal:
    risk = float(said["cascade_risk"])
    return Signal(ACTIONS[said["action"]], float(said["confidence"]), int(said["tier"][1]), risk)


@dataclass
class Experiment:
    """Follows a runner's journal and writes the outcomes of both policies into a journal of its own.

    Whatever was decided is computed again from the journal's beginning, so a restart needs nothing else; outcomes that
    are there are not written again.

    Args:
        live: the runner's journal; only read, but for the halt of a split that does harm (verdict.py).
        kept: the experiment's journal.
        challenger: on the runner's symbols and interval.
        champion: for a split, to put the champion on paper where the challenger sizes; None: accounts alone compare.
    """

    live: DecisionJournal
    kept: DecisionJournal
    challenger: AsksPolicy
    champion: AsksPolicy | None = None
    config: AbConfig = field(default_factory=AbConfig)
    _seen: int = 0
    _starts: dict[str, dict[str, Any]] = field(default_factory=dict)
    _twins: dict[str, Twin] = field(default_factory=dict)
    _parts: dict[tuple[str, int], dict[str, dict[str, Any]]] = field(default_factory=dict)
    _written: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.champion is not None:
            require_comparable(self.champion, self.challenger)
        self._begin()

    def _begin(self) -> None:
        """The plan, once: an experiment that goes on must be the one that was begun."""
        terms = {
            "ab": as_dict(self.config),
            "challenger": version_of(self.challenger),
            "champion": "" if self.champion is None else version_of(self.champion),
            "symbols": list(self.challenger.symbols),
            "interval_ms": self.challenger.interval_ms,
            "journal": self.live.place,
        }
        plan = plan_of(self.kept)
        if plan is None:
            self.kept.append([entry_of(PLAN, terms)])
        elif other := [name for name in terms if name != "journal" and plan.get(name) != terms[name]]:
            raise ConfigError(
                f"the experiment in {self.kept.place} was begun with another {', '.join(other)}",
                "the same: what is changed on the way is another experiment",
                "use the same settings and bundle, or a new --out",
            )
        for row in self.kept.entries(kinds=[OUTCOME]):
            assert row.entry.bar is not None
            self._written[row.entry.strategy] = max(row.entry.bar, self._written.get(row.entry.strategy, row.entry.bar))

    def catch_up(self) -> int:
        """Takes every decision since the last look; how many outcomes were written."""
        made: list[Entry] = []
        count = 0
        for row in self.live.entries(self._seen, (DECISION, HISTORY)):
            self._seen = row.number
            outcome = self._taken(row)
            if outcome is not None and (outcome.bar or 0) > self._written.get(outcome.strategy, -1):
                made.append(outcome)
                if len(made) >= GROUP:
                    count += self._write(made)
        return count + self._write(made)

    def _write(self, made: list[Entry]) -> int:
        count = len(self.kept.append(made))
        made.clear()
        return count

    def _taken(self, row: Stored) -> Entry | None:
        """The outcome of a decision, once all symbols of its bar are there."""
        entry, said, symbols = row.entry, row.entry.said, self.challenger.symbols
        if entry.kind == HISTORY:
            if entry.symbol == JOINED.join(symbols):
                self._starts[entry.strategy] = said
            return None
        if tuple(said["symbols"]) != symbols or entry.bar is None or entry.strategy not in self._starts:
            return None
        here = self._parts.setdefault((entry.strategy, entry.bar), {})
        here[entry.symbol] = said
        if len(here) < len(symbols):
            return None
        rows = [here[symbol] for symbol in symbols]
        del self._parts[entry.strategy, entry.bar]
        twin = self._twins.get(entry.strategy)
        if twin is None or twin.arm != said.get("arm", CHAMPION):
            twin = self._twins[entry.strategy] = self._twin(entry.strategy, said.get("arm", CHAMPION))
        return twin.take(entry.bar, rows)

    def _twin(self, strategy: str, arm: str) -> Twin:
        if strategy in self._twins:
            found = f"{strategy} went over to the {arm}: its account is neither policy's"
            raise ConfigError(found, "one seed and share from the beginning", "compare in a new journal")
        if arm == CHALLENGER and self.champion is None:
            return Twin(strategy, self._starts[strategy], arm, self.challenger, False)
        asked = self.challenger if arm == CHAMPION else self.champion
        assert asked is not None
        # in a split without the champion's bundle nothing is asked: accounts alone compare
        return Twin(strategy, self._starts[strategy], arm, asked, self.config.mode == "shadow" or bool(self.champion))


def version_of(policy: AsksPolicy) -> str:
    """What a policy answers as; a server's is known from its answers alone."""
    return str(getattr(policy, "version", ""))


def plan_of(journal: DecisionJournal) -> dict[str, Any] | None:
    """What an experiment compares; None before it was begun."""
    for row in journal.entries(kinds=[PLAN]):
        return row.entry.said
    return None


def outcomes(journal: DecisionJournal) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Bar, account and body of every outcome, in the order they were written."""
    for row in journal.entries(kinds=[OUTCOME]):
        assert row.entry.bar is not None
        yield row.entry.bar, f"{row.entry.strategy}\0{row.entry.symbol}", row.entry.said


def growths(journal: DecisionJournal) -> Growths:
    """Every outcome of an experiment as arrays."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    arms: dict[str, str] = {}
    causes: dict[str, int] = {}
    for bar, account, said in outcomes(journal):
        arms[account] = said["arm"]
        if said["cause"]:
            causes[said["cause"]] = causes.get(said["cause"], 0) + 1
        for arm, value in said["growth"].items():
            found.setdefault((account, arm), {})[bar] = value
    times = np.array(sorted({bar for each in found.values() for bar in each}), np.int64)
    accounts = tuple(sorted(arms))
    grown = np.full((len(ARMS), len(times), len(accounts)), np.nan)
    place = {bar: t for t, bar in enumerate(times.tolist())}
    for (account, arm), each in found.items():
        rows = [place[bar] for bar in each]
        grown[ARMS.index(arm), rows, accounts.index(account)] = list(each.values())
    return Growths(times=times, accounts=accounts, arms=tuple(arms[a] for a in accounts), growth=grown, causes=causes)


@dataclass(frozen=True, kw_only=True)
class Growths:
    """Log growth of both policies on every account; NaN where there is none."""

    times: np.ndarray  # (T,) ms UTC, bar OPEN
    accounts: tuple[str, ...]
    arms: tuple[str, ...]  # whose money each account is
    growth: np.ndarray  # (2, T, K) champion and challenger
    causes: Mapping[str, int]  # bars that neither policy sized
