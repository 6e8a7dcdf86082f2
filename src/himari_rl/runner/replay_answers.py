"""Replay of a server's journal: every answer asked again, and what /v1/decide encoded through the offline encoder.

A server knows no account, so there is no equity and no size to compare:

    multiplier   of every answer: the journalled requests, in order, to the same steps that serve them, with this bundle
    features     of /v1/decide alone, whose requests carry bars: in one pass over each stream (features/encoder.py),
                 where live they were made bar by bar

What cannot be computed again is counted by its name: a state of POST /predict has no bars, another policy answered, a
memory is older than the journal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from himari_rl.errors import HimariError
from himari_rl.features.contract import state_features
from himari_rl.features.encoder import StateEncoder, write_account
from himari_rl.journal.entry import ANSWER
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.runtime import Policy
from himari_rl.runner.replay import FEATURE, MULTIPLIER, Difference
from himari_rl.runner.signals import FEATURES, own_numbers
from himari_rl.schema import ACTIONS, Bars, FloatArray, Layer2
from himari_rl.serving.answered import assets_of
from himari_rl.serving.messages import DecideRequest
from himari_rl.serving.service import Service
from himari_rl.serving.settings import ServeSettings

NO_BARS = "states of POST /predict or /v1/batch have no bars: multipliers alone are compared"
OTHER_POLICY = "another policy answered"
OLDER_MEMORY = "the memory is older than this journal"
QUIET = {"action": "HOLD", "confidence": 0.0, "tier": "T4", "cascade_risk": 0.0}
_MANY = 10**9
_Name = tuple[str, str, str]  # who, client and session
DECIDE = "/v1/decide"


@dataclass(frozen=True, kw_only=True)
class ReplayedAnswers:
    """What a server answered one session or client, computed again."""

    strategy: str
    symbols: tuple[str, ...]
    answers: int
    compared: int  # multipliers
    encoded: int  # whose features were compared too
    differences: tuple[Difference, ...]
    left_out: Mapping[str, int]  # what could not be computed again, by name


@dataclass
class _Stream:
    """The bars of one session since its last history, and what was decided on them."""

    bars: list[dict[int, tuple[float, Mapping[str, Any]]]]  # of each symbol, by opening time: close and signal
    decided: dict[int, tuple[list[float], list[Mapping[str, Any]]]] = field(default_factory=dict)
    """By opening time: the journalled state, and what the request said of each symbol."""


@dataclass
class _Found:
    answers: int = 0
    compared: int = 0
    encoded: int = 0
    differences: list[Difference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


class _Again:
    """A server's steps on journalled requests. Its own key signs memories, so texts are translated."""

    def __init__(self, policy: Policy) -> None:
        settings = ServeSettings(max_sessions=_MANY, max_sessions_each=_MANY, session_ttl_s=float(_MANY))
        self._service = Service(policy, settings)
        self._service.load()
        self._texts: dict[str, str] = {}
        self._restarts: Counter[tuple[str, str]] = Counter()
        self._interval_ms = policy.manifest.ledger.interval_ms

    def ask(self, said: Mapping[str, Any], at: str, bar: int | None) -> dict[str, Any] | str:
        """The answer, or why there is none."""
        request, told = dict(said["request"]), said["answer"]
        closed = 0.0 if bar is None else (bar + self._interval_ms) / 1e3
        now = max(datetime.fromisoformat(at).timestamp(), closed)
        self._service.clock = lambda: now
        who = (said["client"], str(request.get("session_id") or ""))
        if who[1] and _began(told):
            self._restarts[who] += 1  # the server had lost the session, or another policy had it
        client = f"{who[0]}#{self._restarts[who]}"
        if (memory := request.get("memory")) is not None:
            if memory not in self._texts:
                return OLDER_MEMORY
            request["memory"] = self._texts[memory]
        try:
            if said["path"] == DECIDE:
                answer = self._service.decide(DecideRequest.model_validate(request), client)
            else:
                answer = self._service.predict({k: v for k, v in request.items() if v is not None}, client)
        except HimariError as error:
            return f"refused now: {error.found}"
        if (text := told.get("memory")) is not None:
            self._texts[text] = answer["memory"]
        return answer


def _began(told: Mapping[str, Any]) -> bool:
    """Whether a session's memory began there, and not because bars were missing or its first bar came again."""
    gap = told.get("gap") or {}
    by_rule = gap.get("rule") == "reset" and "missing_bars" in gap
    return bool(told.get("memory_started")) and not by_rule and not told.get("repeated")


def replay_answers(journal: DecisionJournal, policy: Policy) -> list[ReplayedAnswers]:
    """Every session or client that a server answered for this policy's symbols; none where there is none."""
    manifest = policy.manifest
    symbols, again = manifest.symbols, _Again(policy)
    found: dict[str, _Found] = {}
    streams: dict[_Name, _Stream] = {}
    for strategy, bar, at, rows in _decisions(journal, symbols):
        said, own = rows[-1], found.setdefault(strategy, _Found())
        own.answers += 1
        answer = again.ask(said, at, bar)
        if said["version"] != manifest.version:
            own.left_out[OTHER_POLICY] += 1
        elif isinstance(answer, str):
            own.left_out[answer] += 1
        else:
            own.compared += 1
            own.differences += _multipliers(strategy, bar, rows, answer)
        if said["path"] != DECIDE:
            own.left_out[NO_BARS] += 1
        else:
            stream = _grown(streams, own, strategy, said, policy)
            if said["version"] == manifest.version:
                assert bar is not None
                stream.decided[bar] = (said["state"], _assets(said, symbols))
    for (strategy, _, _), stream in streams.items():
        _compare(found[strategy], strategy, stream, policy)
    return [
        ReplayedAnswers(
            strategy=strategy,
            symbols=symbols,
            answers=own.answers,
            compared=own.compared,
            encoded=own.encoded,
            differences=tuple(own.differences),
            left_out=dict(own.left_out),
        )
        for strategy, own in found.items()
    ]


def _decisions(
    journal: DecisionJournal, symbols: tuple[str, ...]
) -> Iterator[tuple[str, int | None, str, list[Mapping[str, Any]]]]:
    """Strategy, bar, time and the bodies of each decision's symbols, in the policy's order."""
    parts: list[Mapping[str, Any]] = []
    for row in journal.entries(kinds=[ANSWER]):
        said = row.entry.said
        if tuple(said["symbols"]) == symbols:
            parts.append(said)
            if len(parts) == len(symbols):
                yield row.entry.strategy, row.entry.bar, row.entry.at, parts
                parts = []


def _multipliers(
    strategy: str, bar: int | None, rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]
) -> Iterator[Difference]:
    symbols = rows[-1]["symbols"]
    again = answer.get("position_multipliers") or {symbols[0]: answer["position_multiplier"]}
    for symbol, row in zip(symbols, rows, strict=True):
        live, offline = row["multiplier"], again[symbol]
        if abs(live - offline) > MULTIPLIER:
            cause = "the same policy answered otherwise to the same request: its memory, or its weights"
            yield _difference(strategy, symbol, bar, "multiplier", live, offline, cause)


def _assets(said: Mapping[str, Any], symbols: tuple[str, ...]) -> list[Mapping[str, Any]]:
    found = assets_of(said["request"], symbols)
    return [found[symbol] for symbol in symbols]


def _grown(
    streams: dict[_Name, _Stream], own: _Found, strategy: str, said: Mapping[str, Any], policy: Policy
) -> _Stream:
    """The stream with this decision's bars. A history begins it anew; a bar that came again takes its place."""
    name = (strategy, said["client"], str(said["request"].get("session_id") or ""))
    assets = _assets(said, policy.manifest.symbols)
    stream, time = streams.get(name), assets[0]["bar"]["timestamp"]
    if stream is None or any(asset.get("history") for asset in assets):
        if stream is not None:
            _compare(own, strategy, stream, policy)
        past = [asset.get("history") or () for asset in assets]
        stream = streams[name] = _Stream([{t: (close, QUIET) for t, close in each} for each in past])
    elif time in stream.decided:
        _compare(own, strategy, stream, policy)
        stream.decided = {}
    for bars, asset in zip(stream.bars, assets, strict=True):
        bars[time] = (asset["bar"]["close"], asset["signal"])
    return stream


def _compare(own: _Found, strategy: str, stream: _Stream, policy: Policy) -> None:
    """What was journalled of a stream's states against the offline encoder, and the policy's own features as sent.

    Raises:
        SignalError: a request of the journal lacks one of them.
    """
    if not stream.decided:
        return
    manifest = policy.manifest
    symbols, own_names = manifest.symbols, manifest.own_features
    names = [feature.name for feature in state_features(symbols, own_names)]
    encoder = StateEncoder(symbols)
    panel = [
        _bars(symbol, bars, manifest.ledger.interval_ms) for symbol, bars in zip(symbols, stream.bars, strict=True)
    ]
    if len(panel) == 1:
        times, rows = panel[0].timestamp, encoder.market_rows(panel[0])
    else:
        times, rows = encoder.panel_rows(panel)
    for time, (told, assets) in stream.decided.items():
        named = [own_numbers(a.get(FEATURES) or {}, own_names, s) for s, a in zip(symbols, assets, strict=True)]
        state = np.append(rows[np.searchsorted(times, time)], np.array(named, np.float64).ravel())
        held = [np.array([asset["account"][n] for asset in assets]) for n in ("exposure", "unrealised_pnl", "win_rate")]
        write_account(state, held[0], held[1], held[2], manifest.ledger.max_position_pct)
        own.encoded += 1
        for name, live, offline in zip(names, told, state.tolist(), strict=False):
            if abs(live - offline) > FEATURE:
                cause = "bars, signal or account are not those that were encoded"
                own.differences.append(_difference(strategy, "", time, name, live, offline, cause))


def _bars(symbol: str, by_time: Mapping[int, tuple[float, Mapping[str, Any]]], interval_ms: int) -> Bars:
    times = sorted(by_time)
    close: FloatArray = np.array([by_time[t][0] for t in times], np.float64)
    signals = [by_time[t][1] for t in times]
    return Bars(
        symbol=symbol,
        timestamp=np.array(times, np.int64),
        open=close,
        high=close,
        low=close,
        close=close,
        volume=np.ones(len(times)),
        interval_ms=interval_ms,
        source="journal",
        signals=Layer2(
            action=np.array([ACTIONS[s["action"]] for s in signals], np.int64),
            confidence=np.array([float(s["confidence"]) for s in signals]),
            tier=np.array([int(s["tier"][1]) for s in signals], np.int64),
            cascade_risk=np.array([float(s["cascade_risk"]) for s in signals]),
            supplied=True,
        ),
    )


def _difference(
    strategy: str, symbol: str, bar: int | None, what: str, live: float, offline: float, cause: str
) -> Difference:
    return Difference(
        strategy=strategy, symbol=symbol, bar=bar or 0, what=what, live=live, offline=offline, cause=cause
    )
