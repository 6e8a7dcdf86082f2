"""The live account is the backtest's, bar by bar; a restart changes nothing; a bar that cannot be is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import SYMBOLS, make_bundle
from himari_rl.data.panel import panel_of
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.evaluation.backtest import Run, backtest, stage
from himari_rl.features.live import Signal
from himari_rl.features.signals import with_signals
from himari_rl.policy.arrival import ArrivalError, ArrivalRules
from himari_rl.policy.book import Book, GivenAccount, closed_bars
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.paper import ClosedBars
from himari_rl.policy.protocol import OneByOne
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.schema import HOUR_MS, Bars

WARM = 200


def market(symbol: str, seed: int, rows: int) -> Bars:
    bars = replace(with_signals(synthetic_bars(rows, seed)), symbol=symbol)
    rng = np.random.default_rng(seed)
    return replace(bars, volume=bars.volume * (rng.uniform(size=rows) > 0.02), funding_rate=rng.normal(0, 1e-4, rows))


def at(bars: Sequence[Bars], row: int) -> tuple[ClosedBars, list[Signal]]:
    """What closes at a row."""
    said = [bar.signals for bar in bars]
    closed = closed_bars(
        int(bars[0].timestamp[row]),
        [float(bar.open[row]) for bar in bars],
        [float(bar.close[row]) for bar in bars],
        [bool(bar.volume[row] > 0) for bar in bars],
        [float(bar.funding_rate[row]) for bar in bars if bar.funding_rate is not None],
    )
    signals = [
        Signal(int(each.action[row]), float(each.confidence[row]), int(each.tier[row]), float(each.cascade_risk[row]))
        for each in said
        if each is not None
    ]
    return closed, signals


def offline(policy: Policy, bars: Sequence[Bars], start: int) -> Run:
    history = bars[0] if len(bars) == 1 else panel_of(bars)
    ledger = policy.manifest.ledger
    on = stage(history, ledger, start)
    return backtest({"policy": OneByOne(policy)}, on, ledger, rng=np.random.default_rng(0)).run("policy")


def live(policy: Policy, bars: Sequence[Bars], start: int, restart_at: int | None = None) -> tuple[list[float], Book]:
    """Log equity at every close after the first decision."""
    manifest = policy.manifest
    book = Book(manifest.symbols, ArrivalRules.of(manifest), manifest.ledger.config)
    memory, equity = None, []
    for row in range(len(bars[0]) - 1):
        closed, signals = at(bars, row)
        if row < start:
            book.begin(closed, signals)
            continue
        if row == restart_at:
            kept = json.loads(json.dumps(book.snapshot()))
            book = Book(manifest.symbols, ArrivalRules.of(manifest), manifest.ledger.config)
            for past in range(row):  # all of them: sums in the same blocks, so the same last bits
                book.begin(*at(bars, past))
            book.restore(kept)
        seen = book.close(closed, signals)
        if row > start:
            equity.append(seen.position.log_equity)
        answer = policy.step(seen.state.tolist(), memory)
        memory = answer.memory if policy.memory_size else None
        book.order(answer.multipliers)
    return equity, book


@pytest.mark.parametrize(("kind", "rows"), [("base", 2_000), ("lstm", 700), ("multi", 1_000)])
def test_the_live_account_is_the_backtest_s(tmp_path: Path, kind: str, rows: int) -> None:
    """Through funding, bars without volume, the daily stop, regime caps and the gross limit."""
    policy = load_policy(make_bundle(tmp_path, kind, hidden=(16,)))
    bars = [market(symbol, seed, rows) for seed, symbol in enumerate(SYMBOLS[kind])]
    expected = offline(policy, bars, WARM)
    equity, _ = live(policy, bars, WARM)
    assert expected.traded.sum() > 1.0
    np.testing.assert_allclose(equity, expected.marked_log_equity[: len(equity)], rtol=0, atol=1e-12)
    assert len(equity) == len(expected.marked_log_equity)


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    policy = load_policy(make_bundle(tmp_path, "base", hidden=(16,)))
    bars = [market("BTC-USDT", 3, 600)]
    without, _ = live(policy, bars, WARM)
    assert live(policy, bars, WARM, restart_at=401)[0] == without


def test_a_decision_is_sized_under_the_limits() -> None:
    """By hand: 10,000 USD, base 0.5, BUY at 100 after a calm history: multiplier 1.5 is 7,500 USD, 75 units."""
    book = Book(("A",), ArrivalRules.for_ledger(LedgerConfig(), HOUR_MS, 0, 1), LedgerConfig(), warm_bars=2)
    for hour in range(2):
        book.begin(closed_bars(hour * HOUR_MS, [100.0], [100.0]))
    seen = book.close(closed_bars(2 * HOUR_MS, [100.0], [100.0]), [Signal(1, 0.5, 1, 0.0)])
    assert seen.warm
    sized = book.order([1.5])
    assert (sized.base_usd[0], sized.size_usd[0], sized.units[0], sized.limits) == (5_000.0, 7_500.0, 75.0, ())
    book.close(closed_bars(3 * HOUR_MS, [100.0], [100.0]), [Signal(1, 0.5, 1, 0.7)])  # CRISIS: at most 1.0
    sized = book.order([1.5])
    cost = 0.75 * LedgerConfig().cost_rate
    assert sized.limits == ("regime_cap",)
    assert sized.size_usd[0] == pytest.approx(0.5 * 10_000 * (1 - cost), rel=1e-12)


def test_hold_keeps_the_direction_and_sell_stands_aside_without_shorts() -> None:
    book = Book(("A",), ArrivalRules.for_ledger(LedgerConfig(), HOUR_MS, 0, 1), LedgerConfig())
    bases = []
    for hour, action in enumerate((0, 1, 0, -1, 0)):
        bases.append(book.close(closed_bars(hour * HOUR_MS, [9.0], [9.0]), [Signal(action, 0.5, 1, 0.0)]).base[0])
        book.order([1.0])
    assert bases == [0.0, 0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("bars", "reason"),
    [
        (closed_bars(3 * HOUR_MS, [9.0], [9.0]), "order"),
        (closed_bars(2 * HOUR_MS, [9.0], [9.0]), "order"),
        (closed_bars(4 * HOUR_MS + 1, [9.0], [9.0]), "off_grid"),
        (closed_bars(4 * HOUR_MS, [9.0], [900.0]), "close"),
        (closed_bars(4 * HOUR_MS, [9.0], [float("nan")]), "close"),
    ],
)
def test_a_bar_that_cannot_be_is_refused_and_changes_nothing(bars: ClosedBars, reason: str) -> None:
    book = Book(("A",), ArrivalRules.for_ledger(LedgerConfig(), HOUR_MS, 0, 1), LedgerConfig())
    for hour in range(4):
        book.close(closed_bars(hour * HOUR_MS, [9.0], [9.0]), [Signal(1, 0.5, 1, 0.0)])
        book.order([1.0])
    before = book.snapshot()
    with pytest.raises(ArrivalError) as refused:
        book.close(bars, [Signal(1, 0.5, 1, 0.0)])
    assert refused.value.reason == reason
    assert book.snapshot() == before
    assert book.close(closed_bars(6 * HOUR_MS, [9.0], [9.0]), [Signal(1, 0.5, 1, 0.0)]).missing == 2


def test_a_given_account_is_checked_and_stops_for_the_day() -> None:
    """2 % of the day's 10,000 USD are lost at 9,790: nothing may be held until midnight."""
    rules = ArrivalRules.for_ledger(LedgerConfig(), HOUR_MS, 0, 1)
    book = Book(("A",), rules, LedgerConfig(), paper=False)
    none = np.zeros(1)
    sizes = []
    for hour, equity in enumerate((10_000.0, 9_790.0, *[9_900.0] * 22, 9_900.0)):
        given = GivenAccount(none, none, none + 0.5, equity)
        book.close(closed_bars(hour * HOUR_MS, [9.0], [9.0]), [Signal(1, 0.5, 1, 0.0)], given)
        sizes.append(float(book.order([1.0]).size_usd[0]))
    assert sizes == [5_000.0, *[0.0] * 22, 4_950.0, 4_950.0]
    with pytest.raises(ArrivalError, match="beyond the ledger's largest"):
        book.close(
            closed_bars(30 * HOUR_MS, [9.0], [9.0]), [Signal(1, 0.5, 1, 0.0)], GivenAccount(none + 9, none, none, 1.0)
        )
    with pytest.raises(ArrivalError, match="no account"):
        book.close(closed_bars(30 * HOUR_MS, [9.0], [9.0]), [Signal(1, 0.5, 1, 0.0)])
