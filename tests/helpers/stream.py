"""Bars as Layer 2's stream of signals, and a runner on them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.features.signals import with_signals
from himari_rl.journal.store import DecisionJournal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import HaltConfig, RunConfig
from himari_rl.runner.policies import AsksPolicy, LocalPolicy
from himari_rl.runner.step import Runner
from himari_rl.schema import Bars

INF = float("inf")
NO_HALTS = HaltConfig(daily_loss=INF, drawdown=INF, volatility=INF, stale_bars=INF)
REPLAYED = RunConfig(clock="bar")
WORDS = ("SELL", "HOLD", "BUY")


def market(symbol: str, seed: int, rows: int) -> Bars:
    """Artificial bars with a signal, some of them without volume, with funding."""
    bars = replace(with_signals(synthetic_bars(rows, seed)), symbol=symbol)
    rng = np.random.default_rng(seed)
    return replace(bars, volume=bars.volume * (rng.uniform(size=rows) > 0.02), funding_rate=rng.normal(0, 1e-4, rows))


def said(bars: Bars, row: int, strategy: str = "trend", **changes: Any) -> dict[str, Any]:
    """The signal of one closed bar; `changes` replace parts of it."""
    each = bars.signals
    assert each is not None
    bar = {name: float(getattr(bars, name)[row]) for name in ("open", "close", "volume")}
    if bars.funding_rate is not None:
        bar["funding_rate"] = float(bars.funding_rate[row])
    signal = {
        "action": WORDS[each.action[row] + 1],
        "confidence": float(each.confidence[row]),
        "tier": f"T{each.tier[row]}",
        "cascade_risk": float(each.cascade_risk[row]),
    }
    whole = {"strategy": strategy, "symbol": bars.symbol, "bar": {"timestamp": int(bars.timestamp[row])} | bar}
    return whole | {"signal": signal} | changes


def lines(every: Sequence[Bars], rows: range) -> list[str]:
    """The stream of several symbols, close by close."""
    return [json.dumps(said(bars, row)) for row in rows for bars in every]


def runner_of(
    journal: DecisionJournal,
    *policies: AsksPolicy | Path,
    run: RunConfig = REPLAYED,
    halt: HaltConfig = NO_HALTS,
    **more: Any,
) -> Runner:
    """A runner on policies, or on bundles in this process."""
    asked = [LocalPolicy(load_policy(each)) if isinstance(each, Path) else each for each in policies]
    return Runner(asked, journal, run, halt=halt, **more)


def changed(place: Path, number: int, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits one entry of a journal as somebody would who may write the file; `replay` does not look at the chain."""
    with closing(sqlite3.connect(place)) as connection:
        [(body,)] = connection.execute("SELECT body FROM entries WHERE number = ?", (number,))
        document = json.loads(body)
        edit(document)
        connection.execute("UPDATE entries SET body = ? WHERE number = ?", (json.dumps(document), number))
        connection.commit()
