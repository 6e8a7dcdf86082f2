"""The runner's step: a line of Layer 2 in, one journalled decision out, or a refusal by name.

    parse      what is no signal is refused (signals.py)
    desk       which account it belongs to; restored from the journal where it is new here
    close      the bar against arrival rules and clock, the encoder, the account
    halts      rules and hand (halt.py)
    ask        the policy, within its deadline; without an answer the fallback, with the cause
    order      policy/risk.py; USD and units
    journal    durable; only then is it told

Lines that came together are written with one fsync. Nothing here sleeps, and nothing is told that is not on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter, time
from typing import Any

import numpy as np

from himari_rl.client.answers import DISABLED, FEW_BARS, HALTED, PolicyAnswer
from himari_rl.errors import ConfigError
from himari_rl.journal.entry import DECISION, REJECTION, Entry, entry_of
from himari_rl.journal.store import DecisionJournal
from himari_rl.monitoring.runner import RunnerCounts
from himari_rl.policy.arrival import ArrivalError
from himari_rl.policy.book import GivenAccount, Observed, Sized
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.runner.ab import CHALLENGER, arm_of, require_champion
from himari_rl.runner.config import AbConfig, HaltConfig, PortfolioConfig, RunConfig
from himari_rl.runner.desk import JOINED, Desk
from himari_rl.runner.halt import Switch
from himari_rl.runner.policies import FALLBACK, AsksPolicy
from himari_rl.runner.signals import MOST_SHOWN, Said, SignalError, parse
from himari_rl.schema import SECOND_MS, Bars

Decision = dict[str, Any]
MISSING, REPEATED, SYMBOL = "missing", "repeated", "symbol"
MOST_REASONS = 3  # features that drift; metrics have all


class Runner:
    """Every strategy's desks, on the policies given. One thread at a time calls `handle`.

    Args:
        policies: each symbol belongs to one of them.
        risk: limits that are to be others than the policy's ledger has, by their name in RiskLimits.
        histories: closed bars of before the first decision, by symbol.
        challengers: policies that size their share of the accounts, each beside one of `policies`, as `ab` says.
        clock: seconds since 1970.

    Raises:
        ConfigError: a symbol of two policies, or limits that no ledger can use.
    """

    def __init__(
        self,
        policies: Sequence[AsksPolicy],
        journal: DecisionJournal,
        run: RunConfig | None = None,
        portfolio: PortfolioConfig | None = None,
        halt: HaltConfig | None = None,
        risk: Mapping[str, float] = {},
        histories: Mapping[str, Bars] = {},
        clock: Callable[[], float] = time,
        challengers: Sequence[AsksPolicy] = (),
        ab: AbConfig | None = None,
    ) -> None:
        self.config, self.portfolio = run or RunConfig(), portfolio or PortfolioConfig()
        self.journal, self._histories, self._clock = journal, histories, clock
        self.switch = Switch(journal, halt or HaltConfig())
        self.switch.refresh()
        self.counts = RunnerCounts()
        self._by_symbol: dict[str, AsksPolicy] = {}
        self._ledgers: dict[str, LedgerConfig] = {}
        for policy in policies:
            for symbol in policy.symbols:
                if symbol in self._by_symbol:
                    raise ConfigError(f"two policies are for {symbol}", "one for each symbol", "leave one out")
                self._by_symbol[symbol] = policy
            self._ledgers[policy.symbols[0]] = ledger_of(policy.ledger, self.portfolio, risk)
        self.ab = ab or AbConfig()
        self._challengers: dict[str, AsksPolicy] = {}
        for challenger in challengers:
            champion = require_champion(challenger, self._by_symbol)
            self._challengers[champion.symbols[0]] = challenger
        self._desks: dict[tuple[str, str], Desk] = {}
        self._entries: list[Entry] = []
        self._told: list[Decision] = []

    def handle(self, lines: Sequence[str | bytes]) -> list[Decision]:
        """What becomes of lines that came together: each decided or refused, all on the disk when this returns.

        Raises:
            StorageError: the journal took nothing; the runner must not go on.
        """
        self.switch.refresh()
        for line in lines:
            if line.strip():
                self._line(line)
        return self._written()

    def idle(self) -> list[Decision]:
        """For moments without a line: a feed that died halts its desks."""
        self.switch.refresh()
        self._stale_feeds()
        return self._written()

    def finish(self) -> list[Decision]:
        """Refuses what waits for symbols that did not come."""
        for desk in self._desks.values():
            self._incomplete(desk)
        return self._written()

    def _written(self) -> list[Decision]:
        entries, told = self._entries, self._told
        self._entries, self._told = [], []
        of_entry = {id(document.pop("entry")): document for document in told}
        for written, entry in zip(self.journal.append(entries), entries, strict=True):
            document = of_entry.get(id(entry))
            if document is None:
                continue
            document["number"] = written.number
            if written.earlier is not None:  # another runner on this journal was first: what it said stands
                document.update(_standing(written.earlier))
                self._desks.pop((document["strategy"], document.pop("desk")), None)
            else:
                document.pop("desk", None)
        self.switch.refresh()
        return told

    def _line(self, line: str | bytes) -> None:
        started = perf_counter()
        try:
            parts = parse(line)
        except (SignalError, ArrivalError) as error:
            shown = (line.decode(errors="replace") if isinstance(line, bytes) else line)[:MOST_SHOWN]
            self._refuse(error.reason, error, given=shown)
            return
        for part in parts:
            try:
                desk = self._desk(part)
                if desk.book.last is not None and part.timestamp <= desk.book.last:
                    self._seen_before(desk, part)
                elif len(desk.symbols) == 1:
                    self._decide(desk, [part], started)
                else:
                    self._join(desk, part, started)
            except (SignalError, ArrivalError) as error:
                self._refuse(error.reason, error, part)
        if self.config.clock == "wall":
            self._stale_feeds()

    def _desk(self, part: Said) -> Desk:
        policy = self._by_symbol.get(part.symbol)
        if policy is None:
            known = ", ".join(self._by_symbol)
            raise SignalError(SYMBOL, f"no policy here is for {part.symbol}", known, "spell it as the policy does")
        key = (part.strategy, JOINED.join(policy.symbols))
        if (desk := self._desks.get(key)) is None:
            ledger = self._ledgers[policy.symbols[0]]
            challenger, arm = self._challengers.get(policy.symbols[0]), ""
            if challenger is not None:
                arm = arm_of(part.strategy, policy.symbols, self.ab)
                policy = challenger if arm == CHALLENGER else policy
            also = (*(name for each in self.policies for name in each.own), *self.config.features)
            desk = Desk(part.strategy, policy, ledger, self.portfolio, self.config.warm_bars, arm, also)
            if not desk.restore(self.journal):
                self._entries.append(desk.begin(self._histories, part.timestamp))
            self._desks[key] = desk
        return desk

    def _seen_before(self, desk: Desk, part: Said) -> None:
        """A bar that was decided is never decided again; who sends it again is told what stands."""
        stands = self.journal.decided(desk.strategy, part.symbol, part.timestamp)
        if stands is None and part.timestamp != desk.book.last:
            desk.book.rules.check_grid(part.timestamp, ("bar", "timestamp"))
            raise SignalError("order", f"the bar of {part.timestamp} came after that of {desk.book.last}", "in order")
        error = SignalError(REPEATED, f"the bar of {part.timestamp} came again", "each bar once")
        self._refuse(REPEATED, error, part, stands=None if stands is None else stands.entry)

    def _join(self, desk: Desk, part: Said, started: float) -> None:
        """Collects the symbols of one close; the last one brings the decision of all."""
        if desk.waiting:
            timestamp = next(iter(desk.waiting.values())).timestamp
            if part.timestamp < timestamp:
                raise SignalError("order", f"the bar of {part.timestamp} came after that of {timestamp}", "in order")
            if part.timestamp > timestamp:
                self._incomplete(desk)
            elif part.symbol in desk.waiting:
                raise SignalError(REPEATED, f"{part.symbol} came again at {timestamp}", "each bar once")
        desk.waiting[part.symbol] = part
        if len(desk.waiting) == len(desk.symbols):
            parts = [desk.waiting[symbol] for symbol in desk.symbols]
            desk.waiting = {}
            try:
                self._decide(desk, parts, started)
            except (SignalError, ArrivalError) as error:
                for each in parts:
                    self._refuse(error.reason, error, each)

    def _incomplete(self, desk: Desk) -> None:
        lacking = ", ".join(symbol for symbol in desk.symbols if symbol not in desk.waiting)
        for part in desk.waiting.values():
            error = SignalError(MISSING, f"{lacking} did not come at {part.timestamp}", f"all of {desk.name}")
            self._refuse(MISSING, error, part)
        desk.waiting = {}

    def _decide(self, desk: Desk, parts: list[Said], started: float) -> None:
        timestamp, place = parts[0].timestamp, ("bar", "timestamp")
        if self.config.clock == "wall":
            most = SECOND_MS * self.config.max_bar_age_s or float(desk.policy.interval_ms)
            desk.book.rules.check_grid(timestamp, place)
            desk.book.rules.check_clock(timestamp, SECOND_MS * self._clock(), most, False, place)
        if desk.book.paper is not None and any(part.open is None for part in parts):
            raise SignalError("shape", "the bar has no open", "bar.open", "a paper account is filled at opens")
        last, signals = desk.book.last, [part.signal for part in parts]
        seen = desk.book.close(desk.closed(parts), signals, _given(parts, desk))
        gap = self._gap(desk, seen, last) if seen.missing else None
        strayed = desk.drift.met(seen.state, timestamp) if desk.drift is not None and seen.warm else ()
        judged = self.switch.judge(desk.strategy, desk.name, seen, desk.watch, strayed)
        if judged:
            self._entries += judged
            self._flush_halts()
        before = desk.memory
        answer, multipliers, halts = self._asked(desk, seen)
        sized = desk.book.order(multipliers)
        reasons = [
            *(f"drift: {each}" for each in strayed[:MOST_REASONS]),
            *(f"halted: {h.cause}: {h.why}" for h in halts),
            *sized.limits,
            *answer.notes,
        ]
        said: Decision = {
            "source": FALLBACK if answer.cause else desk.policy.source,
            "cause": answer.cause,
            "detail": answer.detail,
            "version": answer.version,
            "confidence": answer.confidence,
            "equity_usd": seen.equity_usd,
            "reasons": reasons,
            "latency_ms": answer.latency_ms,
        } | ({"arm": desk.arm} if desk.arm else {})
        desk.state = seen.state.tolist() if desk.memory is not None else None
        for asset, part in enumerate(parts):
            last_of_desk = asset == len(parts) - 1
            own = said | _numbers(sized, multipliers, answer, asset) | {"total_ms": 1e3 * (perf_counter() - started)}
            kept = {"memory_started": before is None, "gap": gap, "symbols": list(desk.symbols)}
            if last_of_desk:
                kept["desk"] = desk.snapshot()
                if self.config.log_rl_predictions:
                    kept["state"] = seen.state.tolist()
            self._decision(desk, part, own, kept)
        self.counts.decided(said["source"], answer.cause, answer.latency_ms, len(parts))

    def _asked(self, desk: Desk, seen: Observed) -> tuple[PolicyAnswer, list[float], list[Any]]:
        """The answer, the multipliers to go on with, and what is halted."""
        count = len(desk.symbols)
        halts = self.switch.halted(desk.strategy, desk.name)
        cause = HALTED if halts else "" if self.config.enable_rl else DISABLED
        if not seen.warm and not cause:
            cause = FEW_BARS
        if cause:
            # a halted policy is not asked, and its memory stays: it goes on from the last bar that it decided
            multiplier = self.switch.config.multiplier if halts else self.config.fallback_multiplier
            return PolicyAnswer(None, cause), [multiplier] * count, halts
        answer = desk.policy.ask(seen.state.tolist(), desk.memory)
        if answer.multipliers is not None:
            desk.memory = answer.memory
            if desk.drift is not None:
                desk.drift.answered(answer.multipliers, answer.confidence)
            return answer, list(answer.multipliers), halts
        if answer.cause == "4xx":
            desk.memory = None  # signed by a server that is no more: an episode starts anew
        multiplier = self.config.fallback_multiplier if self.config.fallback_on_timeout else 0.0
        return answer, [multiplier] * count, halts

    def _gap(self, desk: Desk, seen: Observed, last: int | None) -> dict[str, Any]:
        """Bars did not come: that is said, and a memory goes over the gap as its policy's rule says."""
        assert last is not None
        interval = desk.policy.interval_ms
        first, final = last + interval, seen.timestamp - interval
        body = {"reason": MISSING, "why": f"{seen.missing} bars did not come", "first": first, "last": final}
        self._entries.append(entry_of(REJECTION, body, strategy=desk.strategy, symbol=desk.name, bar=final))
        self.counts.rejected(MISSING)
        if desk.memory is not None:
            state = desk.state
            desk.memory = None if state is None else desk.policy.over_gap(state, desk.memory, seen.missing)
        return {"missing_bars": seen.missing, "memory_kept": desk.memory is not None}

    def _decision(self, desk: Desk, part: Said, own: Decision, kept: Decision) -> None:
        given = dict(part.given["bar"]) | {"tradable": part.tradable, "funding": part.funding}
        journalled = own | {"open": part.open, "close": part.close, "bar": given, "signal": part.given["signal"]}
        journalled |= {"account": part.given.get("account"), **part.named} | kept
        entry = entry_of(DECISION, journalled, strategy=part.strategy, symbol=part.symbol, bar=part.timestamp)
        self._entries.append(entry)
        told = {"strategy": part.strategy, "symbol": part.symbol, "bar": part.timestamp} | own
        if not self.config.log_rl_predictions:
            del told["wanted"]
        self._told.append(told | {"entry": entry, "desk": desk.name})

    def _refuse(
        self,
        reason: str,
        error: SignalError | ArrivalError,
        part: Said | None = None,
        *,
        given: str = "",
        stands: Entry | None = None,
    ) -> None:
        strategy, symbol, bar = (part.strategy, part.symbol, part.timestamp) if part else ("", "", None)
        body = {"reason": reason, "why": str(error), "given": part.given if part else given}
        entry = entry_of(REJECTION, body, strategy=strategy, symbol=symbol, bar=bar)
        self._entries.append(entry)
        self.counts.rejected(reason)
        policy = self._by_symbol.get(symbol)
        halted = self.switch.halted(strategy, JOINED.join(policy.symbols) if policy else "")
        multiplier = self.switch.config.multiplier if halted else self.config.fallback_multiplier
        told: Decision = {"strategy": strategy, "symbol": symbol, "bar": bar, "rejected": reason, "why": str(error)}
        told |= {"multiplier": multiplier, "source": FALLBACK, "cause": reason, "entry": entry}
        self._told.append(told | ({} if stands is None else {"stands": _standing(stands)}))

    def policy_of(self, name: str) -> AsksPolicy | None:
        """The policy of a desk's symbols, joined as in the journal."""
        policy = self._by_symbol.get(name.partition(JOINED)[0])
        return policy if policy is not None and JOINED.join(policy.symbols) == name else None

    @property
    def policies(self) -> list[AsksPolicy]:
        """Every policy that answers."""
        return [*dict.fromkeys(self._by_symbol.values()), *self._challengers.values()]

    @property
    def drifts(self) -> list[tuple[str, str, str, str, float, float]]:
        """Strategy, symbols, name, measure, value and limit of all that is watched for drift."""
        watched = [(desk, desk.drift) for desk in list(self._desks.values()) if desk.drift is not None]
        return [(desk.strategy, desk.name, *each) for desk, drift in watched for each in drift.numbers()]

    def _flush_halts(self) -> None:
        """A halt holds from this very decision on, so it is on the disk before that decision is made."""
        entries, self._entries = self._entries, []
        kinds = [entry for entry in entries if entry.kind in ("halt", "resume")]
        self._entries = [entry for entry in entries if entry not in kinds]
        self.journal.append(kinds)
        self.switch.refresh()

    def _stale_feeds(self) -> None:
        if self.config.clock != "wall":
            return
        for desk in self._desks.values():
            age = desk.age_intervals(SECOND_MS * self._clock())
            if made := self.switch.stale(desk.strategy, desk.name, age, desk.watch):
                self._entries += made
                self._flush_halts()


def ledger_of(own: LedgerConfig, portfolio: PortfolioConfig, risk: Mapping[str, float]) -> LedgerConfig:
    """A policy's ledger with what the owner of the money set otherwise.

    Raises:
        ConfigError: a number that no ledger can use.
    """
    names = ("max_position_pct", "commission_rate", "slippage_bps", "allow_short")
    changed = {name: getattr(portfolio, name) for name in names if getattr(portfolio, name) is not None}
    return replace(own, **changed, limits=replace(own.limits, **risk))


def _given(parts: Sequence[Said], desk: Desk) -> GivenAccount | None:
    if desk.book.paper is not None:
        if any(part.account is not None for part in parts):
            raise SignalError("exposure", "the signal tells an account", "none: it is kept on paper", "leave it out")
        return None
    accounts = [part.account for part in parts if part.account is not None]
    if len(accounts) != len(parts):
        raise SignalError("exposure", "the signal has no account", "account", "send it, or keep it on paper")
    exposure, pnl, won, equity = (np.array(column) for column in zip(*accounts, strict=True))
    if len(set(equity.tolist())) != 1:
        raise SignalError("exposure", f"equity_usd is {equity.tolist()}", "one for all symbols")
    return GivenAccount(exposure, pnl, won, float(equity[0]))


def _numbers(sized: Sized, multipliers: Sequence[float], answer: PolicyAnswer, asset: int) -> Decision:
    return {
        "multiplier": float(multipliers[asset]),
        "wanted": None if answer.multipliers is None else answer.multipliers[asset],
        "base_usd": float(sized.base_usd[asset]),
        "size_usd": float(sized.size_usd[asset]),
        "units": float(sized.units[asset]),
        "exposure": float(sized.exposure[asset]),
    }


def _standing(entry: Entry) -> Decision:
    """A decision that stands, as it was told."""
    names = ("multiplier", "source", "cause", "version", "base_usd", "size_usd", "units", "exposure", "equity_usd")
    said = entry.said
    return {name: said[name] for name in names} | {"repeated": True}
